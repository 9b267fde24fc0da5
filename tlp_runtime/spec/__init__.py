"""What a model means, and its reader."""
