"""The lean runtime: a volume in, its synthetic T1ce out. Never imports torch or onnx."""

from importlib.metadata import version

from tlp_runtime.engines.choice import EngineChoice
from tlp_runtime.errors import (
    CasesFailed,
    ContentError,
    DependencyConflict,
    DependencyMissing,
    DeviceError,
    DeviceUnavailable,
    EngineError,
    GeometryError,
    InputDoubtful,
    InputError,
    InputMissing,
    InputTooLarge,
    InputUnreadable,
    MemoryExhausted,
    ModelDamaged,
    ModelError,
    ModelMismatch,
    ModelMissing,
    NoSpace,
    NotLabels,
    OutputError,
    ParityError,
    SpecError,
    TLPError,
    TrainingDiverged,
    UnknownLabels,
    UnsafeCheckpoint,
    UsageError,
)
from tlp_runtime.geometry.volume import Volume
from tlp_runtime.models.bundle import Bundle
from tlp_runtime.synthesis.prepare import PreparedCase
from tlp_runtime.synthesis.request import Prompt, Request
from tlp_runtime.synthesis.result import Synthesis
from tlp_runtime.synthesis.synthesizer import Synthesizer
from tlp_runtime.values.shapes import Box, Sphere

__version__ = version("tlp-mri")

__all__ = [
    "Box",
    "Bundle",
    "CasesFailed",
    "ContentError",
    "DependencyConflict",
    "DependencyMissing",
    "DeviceError",
    "DeviceUnavailable",
    "EngineChoice",
    "EngineError",
    "GeometryError",
    "InputDoubtful",
    "InputError",
    "InputMissing",
    "InputTooLarge",
    "InputUnreadable",
    "MemoryExhausted",
    "ModelDamaged",
    "ModelError",
    "ModelMismatch",
    "ModelMissing",
    "NoSpace",
    "NotLabels",
    "OutputError",
    "ParityError",
    "PreparedCase",
    "Prompt",
    "Request",
    "SpecError",
    "Sphere",
    "Synthesis",
    "Synthesizer",
    "TLPError",
    "TrainingDiverged",
    "UnknownLabels",
    "UnsafeCheckpoint",
    "UsageError",
    "Volume",
    "__version__",
]
