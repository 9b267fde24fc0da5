"""One case under a pen: what was drawn is run again, nothing else."""
