"""The lean runtime: a volume in, its synthetic T1ce out. Never imports torch or onnx."""

from tlp_runtime.prepare import Prepared
from tlp_runtime.synthesis import Synthesis
from tlp_runtime.synthesize import Synthesizer
from tlp_runtime.volume import Volume

__all__ = ["Prepared", "Synthesis", "Synthesizer", "Volume"]
