"""SynDiff (arXiv 2207.08208): adversarial diffusion in four steps, given the inputs."""
