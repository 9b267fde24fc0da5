"""Training on BraTS or the phantom, and the evaluation harness. Needs torch."""
