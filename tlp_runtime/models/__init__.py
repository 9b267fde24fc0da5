"""Where a model lies, and which one is used."""
