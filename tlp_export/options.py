"""How a checkpoint becomes a graph: plain values, for which neither torch nor onnx is needed."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

from tlp_runtime.errors import SetOption, UsageError
from tlp_runtime.models.manifest import Precision
from tlp_runtime.options import OptionGroup, option

Target = Literal["onnx", "trt", "trt-rtx"]
"""What is made of a checkpoint: the graph alone, or an engine too."""

Bounds = Mapping[str, float]

BOUNDS: Mapping[Precision, Bounds] = {
    "fp32": {"max_abs": 2e-4, "rms": 2e-5, "torch_fp32_factor": 2.0},
    "fp16": {"psnr_db": 60.0},
    "bf16": {"psnr_db": 45.0},
    "int8": {"psnr_db": 45.0},
}
"""What each precision must keep, on the network's [-1, 1] scale.

fp32: the largest and the root-mean-square difference, a fortieth of an 8-bit grey level. Layer
normalisation of flat background magnifies fp32 rounding, by how much depends on the weights:
PyTorch's own fp32 was measured up to 5e-4 from its float64, ONNX Runtime's up to 3e-4 on the same
slices. So where PyTorch's own fp32 is far from float64, the graph may be ``torch_fp32_factor``
times as far, and no further. The others: PSNR over each set of slices, peak to peak 2.
"""


def _height_and_width(text: str) -> tuple[int, int]:
    sides = re.fullmatch(r"(\d+)x(\d+)", text)
    if sides is None:
        raise UsageError(f"size {text!r}: expected HxW such as 240x240.")
    return int(sides[1]), int(sides[2])


@dataclass(frozen=True, kw_only=True)
class ExportOptions(OptionGroup):
    """How a checkpoint becomes a graph. Valid once constructed.

    Parameters
    ----------
    precision
        Precision of the convolutions; sums stay in float32, and so do inputs and output.
    fold
        Fold the graph to fewer operations, exactly; otherwise it is the network as published, for
        comparison.
    largest
        Take slices of any size up to height x width; by default of the crop's size only.
    calibration
        Cases that int8 takes its ranges from, as training takes them; by default the phantom.
    segmentations
        Folder of the segmentations of these cases, where they do not lie with the images.
    min_psnr_db
        Refuse an int8 graph whose PSNR to the checkpoint is lower, in dB; by default 45.
    exclude
        Layer, or the beginning of its name, that int8 leaves in float32; several may be given.
    training_hashes
        Keep hashes of the training cases' voxels in the bundle, by which an evaluation on them is
        recognised; nothing of an image can be told from them, but who has one can find it.
    """

    TITLE: ClassVar[str] = "Graph"

    precision: Precision = option("fp32")
    fold: bool = option(True)
    largest: tuple[int, int] | None = option(
        None, name="max_size", metavar="HxW", parse=_height_and_width
    )
    calibration: Path | None = option(None, metavar="DIR|CSV")
    segmentations: Path | None = option(None, metavar="DIR")
    min_psnr_db: float | None = option(None, name="min_psnr", metavar="DB")
    exclude: tuple[str, ...] = option((), metavar="NAME")
    training_hashes: bool = option(True)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.fold and self.precision != "fp32":
            raise UsageError(
                f"precision {self.precision} needs the folded graph: the graph as published has "
                "sums that overflow in half precision, and nothing to quantise after",
                fix=(SetOption("fold"), SetOption("precision", "fp32")),
            )
        only_int8 = {
            "calibration": self.calibration is not None,
            "segmentations": self.segmentations is not None,
            "min_psnr_db": self.min_psnr_db is not None,
            "exclude": bool(self.exclude),
        }
        given = [name for name, there in only_int8.items() if there]
        if self.precision != "int8" and given:
            raise UsageError(
                f"{' and '.join(given)}: only for int8, but the precision is {self.precision}",
                fix=SetOption("precision", "int8"),
            )

    @property
    def bounds(self) -> Bounds:
        """What the graph must keep."""
        if self.min_psnr_db is not None:
            return {"psnr_db": self.min_psnr_db}
        return BOUNDS[self.precision]
