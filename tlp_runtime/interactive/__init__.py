"""One interactive case: what was drawn is run again, nothing else."""
