"""The lean runtime: a volume in, its synthetic T1ce out. Never imports torch or onnx."""

from tlp_runtime.geometry.volume import Volume
from tlp_runtime.synthesis.prepare import PreparedCase
from tlp_runtime.synthesis.request import Request
from tlp_runtime.synthesis.result import Synthesis
from tlp_runtime.synthesis.synthesizer import Synthesizer

__all__ = ["PreparedCase", "Request", "Synthesis", "Synthesizer", "Volume"]
