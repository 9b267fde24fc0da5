"""What a model means: the one description that training, export and inference share.

A :class:`ModelSpec` travels in the checkpoint, in the ONNX metadata and in the bundle. Nothing
about a model is ever guessed from its tensors.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, ClassVar, Literal, Self, get_args

from tlp_runtime.errors import SpecError, UsageError
from tlp_runtime.options import OptionGroup, option
from tlp_runtime.spec.reader import Contract, build, read_schema
from tlp_runtime.warnings import SPEC_NEWER, Warn

SCHEMA_MAJOR = 1
SCHEMA_MINOR = 3

MODALITIES = ("t1", "t2")
PROMPT_NAME = "prompt"
OUTPUT_NAME = "t1ce"

FeedForward = Literal["conv", "gdfn"]
IntensityRule = Literal["minmax-crop", "percentile-crop"]


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise SpecError(f"model spec: {message}")


def _two_numbers(text: str) -> tuple[float, float]:
    try:
        low, high = (float(part) for part in text.split(","))
    except ValueError as error:
        raise UsageError(f"percentiles {text!r}: expected two numbers such as 0,99.5.") from error
    return low, high


@dataclass(frozen=True, kw_only=True)
class NetworkSpec(OptionGroup):
    """Shape of the generator (arXiv 2503.01265 and its published implementation).

    Parameters
    ----------
    dim
        Channels at full resolution; scale ``s`` has ``dim * 2**s``.
    levels
        Number of downsamplings (Table III of the paper); the network has one scale more.
    blocks, heads
        Transformer blocks and attention heads per scale, finest first; each ``levels + 1`` long.
    refinement_blocks
        Blocks after the decoder, at full resolution and ``2 * dim`` channels.
    ffn_expansion
        Hidden channels of the feed-forward part, relative to its input.
    ffn
        Feed-forward part. conv: 1x1, full 3x3, GELU, 1x1 (as published in code); gdfn: Restormer's
        gated depthwise form (as the paper's text points to).
    local_fusion
        Local fusion of two inputs at every scale (Table II of the paper).
    global_fusion
        Global fusion of two inputs at the lowest scale (Table II of the paper).
    """

    TITLE: ClassVar[str] = "Network"

    dim: int = 48
    levels: int = option(2, minimum=1, maximum=3)
    blocks: tuple[int, ...] = (1, 2, 2)
    heads: tuple[int, ...] = (2, 4, 8)
    refinement_blocks: int = 2
    ffn_expansion: float = 2.0
    ffn: FeedForward = option("conv")
    local_fusion: bool = option(True)
    global_fusion: bool = option(True)

    def __post_init__(self) -> None:
        _require(self.levels in (1, 2, 3), f"levels is {self.levels}, expected 1, 2 or 3")
        scales = self.levels + 1
        for name in ("blocks", "heads"):
            values = getattr(self, name)
            _require(
                len(values) == scales and all(v > 0 for v in values),
                f"{name} is {values}, expected {scales} positive numbers for {self.levels} levels",
            )
        _require(self.dim > 0, f"dim is {self.dim}, expected a positive number")
        for scale, heads in enumerate(self.heads):
            channels = self.channels(scale)
            _require(
                channels % heads == 0,
                f"{channels} channels at scale {scale} do not divide into {heads} heads",
            )
        _require(
            self.channels(self.levels) % 16 == 0,
            f"{self.channels(self.levels)} channels at the lowest scale, expected a multiple of 16 "
            "(GroupNorm of the spatial attentions)",
        )
        _require(self.refinement_blocks >= 0, "refinement_blocks is negative")
        _require(self.ffn_expansion > 0, "ffn_expansion is not positive")
        _require(self.ffn in get_args(FeedForward), f"ffn is {self.ffn!r}, expected conv or gdfn")

    @classmethod
    def with_levels(cls, levels: int, **options: Any) -> Self:
        """The published blocks and heads for ``levels`` downsamplings.

        The paper is silent on them for 1 and 3: with one level the lowest published scale is
        dropped, with three it is repeated.
        """
        blocks, heads = (1, 2, 2), (2, 4, 8)
        repeat = max(0, levels - 2)
        return cls(
            levels=levels,
            blocks=blocks[: levels + 1] + blocks[-1:] * repeat,
            heads=heads[: levels + 1] + heads[-1:] * repeat,
            **options,
        )

    def channels(self, scale: int) -> int:
        """Channels at ``scale`` (0 is full resolution)."""
        return int(self.dim * 2**scale)


@dataclass(frozen=True, kw_only=True)
class CropSpec:
    """The model's grid and the part of it the network sees.

    Volumes are brought to ``orientation``; arrays are then (z, y, x) slices. ``rows`` and
    ``columns`` are half-open index ranges in y and x; ``slices`` is the range of z that training
    and the published metrics use (inference runs every slice that holds brain).
    """

    orientation: str = "LPS"
    spacing_mm: tuple[float, float, float] = (1.0, 1.0, 1.0)
    rows: tuple[int, int] = (34, 226)
    columns: tuple[int, int] = (40, 200)
    slices: tuple[int, int] = (27, 127)

    def __post_init__(self) -> None:
        axes = [pair for pair in ("LR", "AP", "IS") if any(c in pair for c in self.orientation)]
        _require(
            len(self.orientation) == 3 and len(axes) == 3,
            f"orientation is {self.orientation!r}, expected three axis codes such as LPS",
        )
        _require(all(s > 0 for s in self.spacing_mm), f"spacing_mm is {self.spacing_mm}")
        for name in ("rows", "columns", "slices"):
            start, stop = getattr(self, name)
            _require(0 <= start < stop, f"{name} is [{start}, {stop}), expected 0 <= start < stop")

    @property
    def height(self) -> int:
        """Rows the network sees."""
        return self.rows[1] - self.rows[0]

    @property
    def width(self) -> int:
        """Columns the network sees."""
        return self.columns[1] - self.columns[0]


@dataclass(frozen=True, kw_only=True)
class IntensitySpec(OptionGroup):
    """How voxel values become network input: linearly to ``range``, in float64, then float32.

    ``minmax-crop`` (the published rule): from the minimum and maximum over every slice of the
    in-plane crop. ``percentile-crop``: from those two ``percentiles`` of the crop's voxels that
    are not 0, values beyond them clipped, so that no single bright vessel sets the whole image's
    level.

    Parameters
    ----------
    percentiles
        Scale between two percentiles of the brain, such as 0,99.5, so that one bright vessel moves
        nothing; by default between minimum and maximum, as published.
    """

    TITLE: ClassVar[str] = "Data"

    rule: IntensityRule = "minmax-crop"
    range: tuple[float, float] = (-1.0, 1.0)
    percentiles: tuple[float, float] | None = option(
        None, name="intensity_percentiles", metavar="LOW,HIGH", parse=_two_numbers
    )

    def __post_init__(self) -> None:
        _require(
            self.rule in get_args(IntensityRule),
            f"intensity rule is {self.rule!r}, this version knows "
            f"{' and '.join(get_args(IntensityRule))}",
        )
        _require(self.range[0] < self.range[1], f"intensity range is {self.range}")
        if self.rule == "percentile-crop":
            low, high = self.percentiles or (0.0, 0.0)
            _require(
                0 <= low < high <= 100,
                f"intensity percentiles are {self.percentiles}, expected 0 <= low < high <= 100",
            )
        else:
            _require(
                self.percentiles is None,
                f"intensity rule {self.rule} has no percentiles, got {self.percentiles}",
            )


@dataclass(frozen=True, kw_only=True)
class BrightnessSpec:
    """What the brains a model was trained on look like, to tell when a scan does not.

    Parameters
    ----------
    modality
        The input.
    percentiles
        Percentiles of the scaled brain voxels of one volume.
    mean, spread
        Mean and standard deviation of each percentile over the training volumes.
    """

    modality: str
    percentiles: tuple[float, ...]
    mean: tuple[float, ...]
    spread: tuple[float, ...]

    def __post_init__(self) -> None:
        _require(
            0 < len(self.percentiles) == len(self.mean) == len(self.spread),
            f"brightness of {self.modality}: {len(self.percentiles)} percentiles, {len(self.mean)} "
            f"means, {len(self.spread)} spreads, expected as many of each",
        )


@dataclass(frozen=True, kw_only=True)
class PromptSpec:
    """How a label map becomes the prompt; 0 is always background and no prompt is all zeros.

    Parameters
    ----------
    background_labels
        Labels besides 0 that mark nothing.
    scheme
        The published scheme whose labels these are, or ``given``; empty where nobody said it.
    """

    tumour_value: float = 1.0
    oedema_value: float = 0.5
    tumour_labels: tuple[int, ...] = (1, 3, 4)
    oedema_labels: tuple[int, ...] = (2,)
    background_labels: tuple[int, ...] = ()
    scheme: str = ""

    def __post_init__(self) -> None:
        labels = self.tumour_labels + self.oedema_labels + self.background_labels
        _require(
            len(set(labels)) == len(labels) and 0 not in labels,
            f"prompt labels tumour={self.tumour_labels} oedema={self.oedema_labels} "
            f"background={self.background_labels} overlap or claim 0",
        )

    @property
    def drawn_labels(self) -> tuple[int, int]:
        """What tumour and oedema are in the maps that are written here.

        The model's first labels; of a class that it has none of, a number that means nothing to it.
        """
        known = {*self.tumour_labels, *self.oedema_labels, *self.background_labels}
        free = (number for number in itertools.count(1) if number not in known)
        tumour = self.tumour_labels[0] if self.tumour_labels else next(free)
        return tumour, self.oedema_labels[0] if self.oedema_labels else next(free)


@dataclass(frozen=True, kw_only=True)
class SizeSpec:
    """Slices of other sizes than the crop's, (height, width), that an exported network takes.

    Multiples of ``2 ** levels`` from ``smallest`` to ``largest``, both included. Time and memory
    of the attention over positions grow with the square of height times width.
    """

    smallest: tuple[int, int]
    largest: tuple[int, int]

    def __post_init__(self) -> None:
        _require(
            all(0 < a <= b for a, b in zip(self.smallest, self.largest, strict=True)),
            f"sizes from {self.smallest} to {self.largest}, expected smallest <= largest",
        )


@dataclass(frozen=True, kw_only=True)
class ModelSpec:
    """All that one model means. Valid once constructed.

    Parameters
    ----------
    inputs
        Modalities in branch order: ``("t1",)``, ``("t2",)`` or ``("t1", "t2")``.
    sizes
        The sizes of a network that was exported for several; None takes the crop's alone.
    brightness
        Brightness of the training volumes, one per input; empty where it is not known.
    """

    inputs: tuple[str, ...]
    network: NetworkSpec = field(default_factory=NetworkSpec)
    crop: CropSpec = field(default_factory=CropSpec)
    intensity: IntensitySpec = field(default_factory=IntensitySpec)
    prompt: PromptSpec = field(default_factory=PromptSpec)
    sizes: SizeSpec | None = None
    brightness: tuple[BrightnessSpec, ...] = ()

    def __post_init__(self) -> None:
        _require(
            self.inputs in (("t1",), ("t2",), ("t1", "t2")),
            f"inputs are {self.inputs}, expected t1, t2 or t1,t2",
        )
        if len(self.inputs) == 1:
            _require(
                self.network.local_fusion and self.network.global_fusion,
                "local_fusion=False and global_fusion=False need two inputs; "
                f"this model has {self.inputs[0]} alone",
            )
        _require(
            not self.brightness or tuple(b.modality for b in self.brightness) == self.inputs,
            f"brightness is of {[b.modality for b in self.brightness]}, the inputs are "
            f"{list(self.inputs)}",
        )
        step = 2**self.network.levels
        _require(
            self.crop.height % step == 0 and self.crop.width % step == 0,
            f"crop {self.crop.height} x {self.crop.width} is not divisible by {step}, which "
            f"{self.network.levels} levels need",
        )
        if self.sizes is not None:
            crop = (self.crop.height, self.crop.width)
            _require(
                all(side % step == 0 for side in (*self.sizes.smallest, *self.sizes.largest)),
                f"sizes from {self.sizes.smallest} to {self.sizes.largest} are not multiples of "
                f"{step}, which {self.network.levels} levels need",
            )
            _require(self.takes(*crop), f"the crop {crop} is not among the sizes {self.sizes}")

    def takes(self, height: int, width: int) -> bool:
        """Whether the network takes slices of that size."""
        if self.sizes is None:
            return (height, width) == (self.crop.height, self.crop.width)
        step = 2**self.network.levels
        return all(
            low <= side <= high and side % step == 0
            for low, side, high in zip(
                self.sizes.smallest, (height, width), self.sizes.largest, strict=True
            )
        )

    @property
    def tensor_names(self) -> tuple[str, ...]:
        """Names of the network's inputs, in order; the output is :data:`OUTPUT_NAME`."""
        return (*self.inputs, PROMPT_NAME)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, with the schema version, ready for JSON."""
        return {"schema": {"major": SCHEMA_MAJOR, "minor": SCHEMA_MINOR}, **asdict(self)}

    def to_json(self) -> str:
        """The canonical text: sorted keys, two spaces, a final newline."""
        return json.dumps(self.to_dict(), indent=2, sort_keys=True) + "\n"

    @classmethod
    def from_dict(cls, data: Mapping[str, Any], *, warn: Warn | None = None) -> ModelSpec:
        """Read what :meth:`to_dict` wrote, here or in another version.

        Parameters
        ----------
        warn
            Called when keys of a newer minor version are ignored.

        Raises
        ------
        SpecError
            Another schema major, unknown keys of this minor or an older one, missing keys, or
            values that make no model.
        """
        if not isinstance(data, Mapping):
            raise SpecError(f"model spec: expected a JSON object, got {type(data).__name__}")
        body = dict(data)
        schema = body.pop("schema", None)
        minor = _minor({"schema": schema})
        if minor < 1:
            body.setdefault("sizes", None)
        if minor < 2:
            body.setdefault("brightness", ())
            if isinstance(body.get("intensity"), Mapping):
                body["intensity"] = {"percentiles": None, **body["intensity"]}
        if minor < 3 and isinstance(body.get("prompt"), Mapping):
            body["prompt"] = {"background_labels": (), "scheme": "", **body["prompt"]}
        extra: list[str] = []
        spec = build(cls, body, _CONTRACT, extra)
        if extra and minor <= SCHEMA_MINOR:
            raise SpecError(
                f"model spec: unknown keys {', '.join(sorted(extra))}; schema "
                f"{SCHEMA_MAJOR}.{SCHEMA_MINOR} does not have them.",
                fix="Export the model again.",
            )
        if extra and warn is not None:
            keys = ", ".join(sorted(extra))
            warn(
                SPEC_NEWER.warning(
                    f"the model specification comes from a newer version; ignored: {keys}",
                    keys=keys,
                )
            )
        return spec

    @classmethod
    def from_json(cls, text: str, *, warn: Warn | None = None) -> ModelSpec:
        """Read what :meth:`to_json` wrote. Raises :class:`SpecError`."""
        try:
            data = json.loads(text)
        except ValueError as error:
            raise SpecError(f"model spec: not JSON ({error})") from error
        return cls.from_dict(data, warn=warn)


_CONTRACT = Contract(what="model spec", error=SpecError)


def _minor(data: Mapping[str, Any]) -> int:
    """The minor version of a specification; another major is refused."""
    major, minor = read_schema(data, _CONTRACT)
    if major != SCHEMA_MAJOR:
        raise SpecError(
            f"model spec: schema {major}.{minor}, this version reads {SCHEMA_MAJOR}.x.",
            fix="Install a matching tlp-mri, or export the model again.",
        )
    return minor
