"""What a model means: the one description that training, export and inference share.

A :class:`ModelSpec` travels in the checkpoint, in the ONNX metadata and in the bundle. Nothing
about a model is ever guessed from its tensors.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, ClassVar, Literal, get_args

from tlp_runtime.errors import SpecError, UsageError
from tlp_runtime.options import OptionGroup, option
from tlp_runtime.spec.reader import Contract, build, read_schema
from tlp_runtime.warnings import SPEC_NEWER, Warn

SCHEMA_MAJOR = 2
SCHEMA_MINOR = 0

MODALITIES = ("t1", "t2")
PROMPT_NAME = "prompt"
OUTPUT_NAME = "t1ce"

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
class NetworkSpec:
    """Which network a model is, with its own options. Valid once constructed.

    The runtime runs graphs and need not know the network: names and options are checked where it
    is built, by the registry of :mod:`tlp_train.networks`.

    Parameters
    ----------
    name
        Its name in the registry.
    options
        Its own options, all of them: numbers, texts, truth values and lists of these.
    multiple
        Height and width of its slices are multiples of it.
    prompt
        Whether it takes a prompt.
    """

    name: str = "tlp"
    options: Mapping[str, Any] = field(default_factory=dict)
    multiple: int = 4
    prompt: bool = True

    def __post_init__(self) -> None:
        _require(bool(self.name), "network has no name")
        _require(self.multiple > 0, f"network multiple is {self.multiple}, expected at least 1")
        object.__setattr__(self, "options", {k: _as_tuple(v) for k, v in self.options.items()})

    def __hash__(self) -> int:
        return hash((self.name, tuple(sorted(self.options.items())), self.multiple, self.prompt))

    def __str__(self) -> str:
        """The name, and the options in brackets."""
        told = [f"{k} {v}" for k, v in self.options.items()] + ["no prompt"] * (not self.prompt)
        return f"{self.name} ({', '.join(told)})" if told else self.name


def _as_tuple(value: Any) -> Any:
    return tuple(map(_as_tuple, value)) if isinstance(value, list | tuple) else value


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

    Multiples of the network's ``multiple`` from ``smallest`` to ``largest``, both included. Time
    and memory of an attention over positions grow with the square of height times width.
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
        _require(
            not self.brightness or tuple(b.modality for b in self.brightness) == self.inputs,
            f"brightness is of {[b.modality for b in self.brightness]}, the inputs are "
            f"{list(self.inputs)}",
        )
        step = self.network.multiple
        _require(
            self.crop.height % step == 0 and self.crop.width % step == 0,
            f"crop {self.crop.height} x {self.crop.width} is not divisible by {step}, which "
            f"the network {self.network.name} needs",
        )
        if self.sizes is not None:
            crop = (self.crop.height, self.crop.width)
            _require(
                all(side % step == 0 for side in (*self.sizes.smallest, *self.sizes.largest)),
                f"sizes from {self.sizes.smallest} to {self.sizes.largest} are not multiples of "
                f"{step}, which the network {self.network.name} needs",
            )
            _require(self.takes(*crop), f"the crop {crop} is not among the sizes {self.sizes}")

    def takes(self, height: int, width: int) -> bool:
        """Whether the network takes slices of that size."""
        if self.sizes is None:
            return (height, width) == (self.crop.height, self.crop.width)
        step = self.network.multiple
        return all(
            low <= side <= high and side % step == 0
            for low, side, high in zip(
                self.sizes.smallest, (height, width), self.sizes.largest, strict=True
            )
        )

    @property
    def tensor_names(self) -> tuple[str, ...]:
        """Names of the network's inputs, in order; the output is :data:`OUTPUT_NAME`."""
        return (*self.inputs, PROMPT_NAME) if self.network.prompt else self.inputs

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
        major, minor = read_schema({"schema": schema}, _CONTRACT)
        if major == 1:
            body, minor = _converted(body, minor), 0
        elif major != SCHEMA_MAJOR:
            raise SpecError(
                f"model spec: schema {major}.{minor}, this version reads up to {SCHEMA_MAJOR}.x.",
                fix="Install a matching tlp-mri, or export the model again.",
            )
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


_TLP_OPTIONS = (
    "dim", "levels", "blocks", "heads", "refinement_blocks", "ffn_expansion", "ffn",
    "local_fusion", "global_fusion",
)  # fmt: skip
"""What ``network`` held in schema 1, which knew one network."""


def _converted(body: Mapping[str, Any], minor: int) -> dict[str, Any]:
    """A specification of schema 1 as one of schema 2."""
    new = dict(body)
    if minor < 1:
        new.setdefault("sizes", None)
    if minor < 2:
        new.setdefault("brightness", ())
        if isinstance(new.get("intensity"), Mapping):
            new["intensity"] = {"percentiles": None, **new["intensity"]}
    if minor < 3 and isinstance(new.get("prompt"), Mapping):
        new["prompt"] = {"background_labels": (), "scheme": "", **new["prompt"]}
    network = new.get("network")
    if isinstance(network, Mapping):
        missing = [f"network.{name}" for name in _TLP_OPTIONS if name not in network]
        if missing:
            _CONTRACT.refuse(f"missing keys {', '.join(missing)}")
        levels = network["levels"]
        whole = type(levels) is int and levels in (1, 2, 3)
        _require(whole, f"levels is {levels!r}, expected 1, 2 or 3")
        new["network"] = {
            "name": "tlp",
            "options": {name: network[name] for name in _TLP_OPTIONS},
            "multiple": 2**levels,
            "prompt": True,
            **{name: value for name, value in network.items() if name not in _TLP_OPTIONS},
        }
    return new
