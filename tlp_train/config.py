"""Everything a training run was told, and the presets."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any, ClassVar, Literal

from tlp_runtime.errors import SetOption, SpecError, UsageError
from tlp_runtime.options import OptionGroup, option
from tlp_runtime.spec.model import IntensitySpec, ModelSpec
from tlp_runtime.spec.reader import Contract, build, read_schema
from tlp_train.decoys import Decoys
from tlp_train.fpg import FuzzyPrompt
from tlp_train.networks import registry

SCHEMA_MAJOR = 1
SCHEMA_MINOR = 2
_CONTRACT = Contract(what="training configuration", error=SpecError)

_ADDED: Mapping[int, Mapping[str, Any]] = {
    1: {"decoy_share": 0.0, "decoy_epoch": 0, "vary": False, "best": "psnr"},
    2: {
        "discriminator_learning_rate": None,
        "schedule": "linear",
        "final_learning_rate": 0.0,
        "ema": 0.0,
    },
}
"""What each minor of the schema added, as runs before it were trained."""

CHANGEABLE = ("data", "segmentations", "workers", "devices", "nodes", "accumulate", "epochs")
"""Options of a run that may change when it is resumed; all others stay what they were."""

_LEAST = {
    "discriminator_channels": 1,
    "learning_rate": 1e-12,
    "discriminator_learning_rate": 1e-12,
    "final_learning_rate": 0,
    "l1_weight": 0,
    "constant_epochs": 0,
    "validation_slices": 1,
}

TrainingPrecision = Literal["32-true", "bf16-mixed"]
DiscriminatorNorm = Literal["batch", "none"]
Best = Literal["psnr", "enhancement"]
Schedule = Literal["linear", "cosine"]

ROBUST = IntensitySpec(rule="percentile-crop", percentiles=(0.0, 99.5))
"""One bright voxel moves nothing."""


@dataclass(frozen=True, kw_only=True)
class TrainConfig(OptionGroup):
    """Options of a run. Valid once constructed.

    Parameters
    ----------
    preset
        The preset it started from, for the record.
    spec
        The model to be.
    epochs
        Epochs to train for.
    constant_epochs
        The learning rate is constant for so many epochs, then falls.
    learning_rate, discriminator_learning_rate
        Learning rates at the start; that of the discriminators is the generators' where it is None.
    schedule
        How the learning rate falls: along a line, or along half a cosine.
    final_learning_rate
        What it falls to after the last epoch.
    ema
        Decay of a running mean of the generator's weights, which is then what is validated, saved
        and exported as the generator; 0 takes the weights themselves.
    slices_per_epoch
        Slices drawn each epoch; by default every slice of every training case.
    tumour_share
        Share of an epoch that is drawn from slices with tumour; 0 draws them like all others.
    validation_slices
        Slices validated on after each epoch, evenly spread; None takes all.
    start
        ``"normal"``: convolutions from N(0, 0.02) as published, for ``dim`` 48; ``"default"``:
        PyTorch's, which keeps a small network's signal at scale.
    batch_size
        Slices per optimiser step on each device.
    accumulate
        Parts in which each batch is computed, one after the other, to save memory: the same step
        up to rounding and the discriminator's BatchNorm. The batch size is a multiple of it.
    devices
        GPUs (or CPU processes) on each machine.
    nodes
        Machines, under torchrun or SLURM.
    compile
        Compile both networks with torch.compile.
    channels_last
        Memory order of both networks; None takes it with ``bf16-mixed`` alone (measured on a CPU:
        faster with bf16, slower with fp32).
    discriminator_channels, discriminator_norm
        Channels of the discriminator's first layer; ``none`` leaves out BatchNorm, whose
        statistics depend on how a batch is shared out.
    fpg
        Train on fuzzy prompts (Algorithm 1); otherwise the exact segmentation is the prompt and is
        never dropped (Table IV of the paper).
    decoy_share
        Share of the samples whose prompt is laid where nothing enhances, so that the network learns
        to look.
    decoy_epoch
        First epoch with decoys, counted from 0: once prompts are learnt. It keeps its share of the
        run where ``epochs`` changes.
    vary
        Light augmentation: flips, gamma and bias fields.
    best
        What makes a checkpoint the best: ``psnr``, of whole slices without prompt; ``enhancement``,
        its error with drawn prompts and what a wrong prompt invents.
    precision
        Precision of the training, by Lightning's name.
    seed
        Seed of everything that is drawn at random.
    workers
        Processes that load data; by default one per core but one, at most 8, on a GPU and none on
        a CPU.
    """

    TITLE: ClassVar[str] = "Training"

    preset: str
    spec: ModelSpec
    epochs: int = option(minimum=1)
    constant_epochs: int
    batch_size: int = option(minimum=1)
    learning_rate: float = 1e-4
    discriminator_learning_rate: float | None = None
    schedule: Schedule = "linear"
    final_learning_rate: float = 0.0
    ema: float = 0.0
    betas: tuple[float, float] = (0.5, 0.999)
    l1_weight: float = 100.0
    slices_per_epoch: int | None = option(None, minimum=1)
    tumour_share: float = 0.0
    validation_slices: int | None = None
    start: Literal["normal", "default"] = "normal"
    discriminator_channels: int = 64
    discriminator_norm: DiscriminatorNorm = "batch"
    fpg: bool = option(True)
    fuzzy: FuzzyPrompt = field(default_factory=FuzzyPrompt)
    decoy_share: float = option(0.0, minimum=0, maximum=1)
    decoy_epoch: int = 0
    vary: bool = option(False)
    best: Best = option("psnr")
    precision: TrainingPrecision = option("32-true")
    seed: int = option(0, minimum=0)
    workers: int | None = option(None, minimum=0)
    accumulate: int = option(1, minimum=1)
    devices: int = option(1, minimum=1)
    nodes: int = option(1, minimum=1)
    compile: bool = option(False)
    channels_last: bool | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, least in _LEAST.items():
            value = getattr(self, name)
            if value is not None and not least <= value < math.inf:
                raise UsageError(f"{name} is {value}, expected at least {least:g}.")
        if not all(0 <= beta < 1 for beta in self.betas):
            raise UsageError(f"betas are {self.betas}, expected 0 to less than 1.")
        if not 0 <= self.ema < 1:
            raise UsageError(f"ema is {self.ema}, expected 0 to less than 1.")
        if self.final_learning_rate > min(self.rates):
            raise UsageError(
                f"final_learning_rate {self.final_learning_rate:g} is above the learning rate "
                f"{min(self.rates):g}."
            )
        if self.batch_size % self.accumulate:
            raise UsageError(
                f"a batch of {self.batch_size} cannot be computed in {self.accumulate} equal parts",
                fix=SetOption("accumulate", "a divisor of the batch size"),
            )
        for name in ("tumour_share", "decoy_share"):
            if not 0 <= getattr(self, name) <= 1:
                raise UsageError(f"{name} is {getattr(self, name)}, expected 0 to 1.")
        needs = [name for name, asked in self._needs_prompts() if asked]
        if needs and not self.spec.network.prompt:
            raise UsageError(
                f"{' and '.join(needs)}: only for a network that takes prompts",
                fix=SetOption("prompt"),
            )
        if self.slices_per_epoch is not None and self.slices_per_epoch < self.global_batch:
            raise UsageError(
                f"slices_per_epoch {self.slices_per_epoch} does not fill one batch of "
                f"{self.global_batch}."
            )

    def _needs_prompts(self) -> list[tuple[str, bool]]:
        return [
            ("decoys", self.decoy_share > 0),
            ("the best checkpoint by enhancement", self.best == "enhancement"),
        ]

    @property
    def global_batch(self) -> int:
        """Slices of an optimiser step on all devices together."""
        return self.batch_size * self.devices * self.nodes

    def with_epochs(self, epochs: int) -> TrainConfig:
        """For so many epochs; the rate falls and decoys begin at the same share of them."""
        longer = epochs / self.epochs
        return replace(
            self,
            epochs=epochs,
            constant_epochs=round(self.constant_epochs * longer),
            decoy_epoch=round(self.decoy_epoch * longer),
        )

    @property
    def decoys(self) -> Decoys | None:
        """The decoys of the training's samples; None where there are none."""
        if not self.decoy_share:
            return None
        return Decoys(share=self.decoy_share, epoch=self.decoy_epoch)

    @property
    def rates(self) -> tuple[float, float]:
        """Learning rates of the generators and of the discriminators at the start."""
        other = self.discriminator_learning_rate
        return self.learning_rate, self.learning_rate if other is None else other

    def rate_factor(self, epoch: int, rate: float | None = None) -> float:
        """Factor on the learning rate in ``epoch``, counted from 0.

        Parameters
        ----------
        rate
            Learning rate at the start; None is the generators'.
        """
        falling = self.epochs - self.constant_epochs
        late = max(0, epoch - self.constant_epochs)
        share = 1.0 - late / falling if falling > 0 else 1.0
        if self.schedule == "cosine":
            share = (1.0 - math.cos(math.pi * share)) / 2
        least = self.final_learning_rate / (self.learning_rate if rate is None else rate)
        return share + (1.0 - share) * least if least else share

    def to_dict(self) -> dict[str, Any]:
        """Plain values with the schema version, for the run's record and its checkpoints."""
        schema = {"major": SCHEMA_MAJOR, "minor": SCHEMA_MINOR}
        return {"schema": schema, **asdict(self), "spec": self.spec.to_dict()}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> TrainConfig:
        """Read what :meth:`to_dict` wrote.

        Raises
        ------
        SpecError
            Another schema major or a newer minor, missing or unknown keys, or values that make no
            run.
        """
        if not isinstance(data, Mapping):
            _CONTRACT.refuse(f"expected an object, got {type(data).__name__}")
        major, minor = read_schema(data, _CONTRACT)
        if (major, minor) > (SCHEMA_MAJOR, SCHEMA_MINOR) or major != SCHEMA_MAJOR:
            raise SpecError(
                f"training configuration: schema {major}.{minor}, this version reads "
                f"{SCHEMA_MAJOR}.{SCHEMA_MINOR}",
                fix="Install a matching tlp-mri.",
            )
        extra: list[str] = []
        body = {key: value for key, value in data.items() if key != "schema"}
        for added, values in _ADDED.items():
            if minor < added:
                body = {**values, **body}
        try:
            config = build(cls, body, _CONTRACT, extra)
        except UsageError as error:
            raise SpecError(f"training configuration: {error.problem}", fix=error.fixes) from error
        if extra:
            _CONTRACT.refuse(f"unknown keys {', '.join(sorted(extra))}, which its schema lacks")
        return config


def preset(
    name: str,
    inputs: tuple[str, ...],
    network: str = "tlp",
    *,
    network_options: Mapping[str, Any] | None = None,
    prompt: bool = True,
    **changes: Any,
) -> TrainConfig:
    """The named preset for ``inputs`` and a network, with fields replaced.

    ``lab``: the recipe for real data: the published network and schedule, with intensities that
    one bright voxel does not move, varied pairs, decoys, and the best checkpoint judged by
    enhancement. ``paper``: as published; for ``tlp``, section IV-C of the paper. ``demo``: a small
    network that learns the phantom in minutes on two CPU cores; it is not a model for patients.

    Raises
    ------
    SpecError
        No such network, or options that it does not have, or inputs that it does not take.
    """
    chosen = registry.network(network)
    own = asdict(chosen.options(**(chosen.demo if name == "demo" else {})))
    options = chosen.options.changed(own, network_options or {})
    intensity = IntensitySpec() if name == "paper" else ROBUST
    spec = ModelSpec(inputs=inputs, network=options.as_spec(prompt=prompt), intensity=intensity)
    options.require_on(spec)
    if name in ("paper", "lab"):
        config = TrainConfig(
            preset="paper",
            spec=spec,
            **{"epochs": 80, "constant_epochs": 40, "batch_size": 20, **chosen.recipe.published},
        )
        config = replace(config, preset=name, decoy_epoch=round(config.epochs / 3))
        if name == "lab":
            config = replace(config, decoy_share=0.25, vary=True, best="enhancement")
    elif name == "demo":
        config = TrainConfig(
            preset=name,
            spec=spec,
            epochs=10,
            constant_epochs=3,
            decoy_epoch=3,
            batch_size=1,
            learning_rate=1e-3,
            slices_per_epoch=100,
            tumour_share=0.5,
            validation_slices=12,
            start="default",
            discriminator_channels=8,
        )
        config = replace(config, **chosen.recipe.demo)
    else:
        raise UsageError(f"preset {name!r}: expected demo, lab or paper.")
    return replace(config, **changes)
