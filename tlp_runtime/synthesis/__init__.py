"""One case: from its request to its synthesis."""
