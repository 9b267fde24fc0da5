"""HTTP: the interactive viewer, its API, and the Open Inference Protocol."""
