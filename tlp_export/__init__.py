"""Checkpoint to ONNX bundle to TensorRT engine, each proven equal. Needs torch and onnx."""
