"""One adapter over the TensorRT bindings: enterprise (10.16, 11.x) and TensorRT-RTX (1.7).

Every TensorRT name that the toolkit uses stands in this package. Variables that hold TensorRT
objects are annotated with their class, by which a test checks each name against the bindings'
lists; what the flavours do differently is in ``flavours``.
"""
