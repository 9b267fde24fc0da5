"""TLP (arXiv 2503.01265): its options, its parts and its generator."""
