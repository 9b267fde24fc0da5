"""Checkpoint to a verified model bundle."""

from __future__ import annotations

import json
import logging
import platform
import warnings
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import onnx
import torch
from torch import nn

from tlp_export.fold import Cost, FoldLine, cost, fold, savings
from tlp_export.graph import example_inputs, export_module
from tlp_export.precision import DTYPES, to_precision
from tlp_export.quantize import LayerCost, quantize
from tlp_export.slices import Tensors, calibration_slices
from tlp_export.verify import BOUNDS, Bounds, Parity, agreement, check_parity
from tlp_runtime.engines.onnx import SPEC_KEY
from tlp_runtime.errors import ModelError, ParityError, UsageError
from tlp_runtime.files.atomic import atomic_folder, write_text
from tlp_runtime.files.hashes import sha256
from tlp_runtime.models.bundle import (
    FILES,
    MANIFEST,
    MANIFEST_MAJOR,
    MODEL_CARD,
    ONNX,
    PARITY,
    SPEC,
    Bundle,
    Precision,
)
from tlp_runtime.models.choice import models, models_folder
from tlp_runtime.models.contents import foreign_in_bundle
from tlp_runtime.models.registered import Registration
from tlp_runtime.spec.model import OUTPUT_NAME, ModelSpec, SizeSpec
from tlp_train.checkpoint import Checkpoint
from tlp_train.network import Generator

OPSET = 20
BF16_OPSET = 22
"""The first in which a convolution may be bfloat16."""

SMALLEST_SIDE = 64
"""Of the slices that a graph with dynamic height and width takes."""


@dataclass(frozen=True, kw_only=True)
class ExportOptions:
    """How a checkpoint becomes a graph. Valid once constructed.

    Parameters
    ----------
    fold
        Apply the exact foldings; off, the graph is the network as published, for comparison.
    largest
        (height, width) up to which the graph takes slices of any size; None takes the crop's.
    calibration
        Single slices that int8 takes its ranges from; None takes phantom slices.
    min_psnr_db
        An int8 export below it is refused; None takes 45 dB.
    exclude
        Layers, by the beginnings of their names, that int8 leaves in float32.
    """

    precision: Precision = "fp32"
    fold: bool = True
    largest: tuple[int, int] | None = None
    calibration: Sequence[Tensors] | None = None
    min_psnr_db: float | None = None
    exclude: Sequence[str] = ()

    def __post_init__(self) -> None:
        if not self.fold and self.precision != "fp32":
            raise UsageError(
                f"--no-fold with --precision {self.precision}: the graph as published has sums "
                "that overflow in half precision, and nothing to quantise after; give one of them."
            )
        only_int8 = (self.exclude, self.calibration is not None, self.min_psnr_db is not None)
        if self.precision != "int8" and any(only_int8):
            raise UsageError("--calibration, --min-psnr and --exclude belong to --precision int8.")

    @property
    def bounds(self) -> Bounds:
        """What the graph must keep."""
        if self.min_psnr_db is not None:
            return {"psnr_db": self.min_psnr_db}
        return BOUNDS[self.precision]


@dataclass(frozen=True)
class GraphReport:
    """What became of the network on its way into the graph.

    Parameters
    ----------
    before, after
        Of the network as published and as exported.
    nodes
        In the ONNX graph.
    folds
        Each pass.
    layers
        What int8 costs, layer by layer, the costliest first; empty for other precisions.
    excluded
        The layers that stayed in float32 as asked.
    """

    before: Cost
    after: Cost
    nodes: int
    folds: tuple[FoldLine, ...]
    layers: tuple[LayerCost, ...]
    excluded: tuple[str, ...]


@dataclass(frozen=True)
class Exported:
    """A bundle, the name it was registered under, its parity and how it was made."""

    registration: Registration
    bundle: Bundle
    parity: Parity
    report: GraphReport

    @property
    def name(self) -> str:
        """The name it was registered under."""
        return self.registration.name


def export_bundle(
    checkpoint: Checkpoint,
    out: Path | None = None,
    options: ExportOptions | None = None,
    *,
    overwrite: bool = False,
    on_stage: Callable[[str], None] = lambda stage: None,
) -> Exported:
    """Fold, trace, verify, write and register a bundle.

    Parameters
    ----------
    out
        The bundle's folder; None takes one in the local store, named after inputs, preset,
        checkpoint and options, and replaces an earlier export of the same.
    on_stage
        Told what begins.

    Raises
    ------
    ParityError
        The graph's values or types are not what they must be; nothing is written or registered.
    OutputError
        ``out`` exists and may not be replaced, holds files of others, or cannot be written.
    """
    options = options or ExportOptions()
    spec = checkpoint.spec
    if options.largest is not None:
        smallest = tuple(min(SMALLEST_SIDE, side) for side in (spec.crop.height, spec.crop.width))
        spec = replace(spec, sizes=SizeSpec(smallest=smallest, largest=options.largest))  # type: ignore[arg-type]
    generator = checkpoint.generator(spec)
    folder = out or models_folder() / _bundle_name(checkpoint, options)
    replace_ours = overwrite or out is None
    with atomic_folder(folder, overwrite=replace_ours, foreign=foreign_in_bundle) as temporary:
        deployed, layers = _deployed(generator, options, on_stage)
        on_stage("tracing")
        graph = export_module(deployed, DTYPES[options.precision])
        nodes = write_onnx(graph, spec, temporary / ONNX)
        on_stage("verifying")
        try:
            parity = check_parity(
                generator, temporary / ONNX, options.precision, bounds=options.bounds
            )
            parity.require()
        except ParityError as error:
            raise ParityError(f"{error} Nothing was registered.{_advice(layers)}") from error
        folds = savings(spec) if options.fold else ()
        before = cost(spec)
        after = folds[-1].after if folds else before
        report = GraphReport(before, after, nodes, folds, tuple(layers), tuple(options.exclude))
        write_text(temporary / SPEC, spec.to_json())
        write_text(temporary / PARITY, json.dumps(parity.to_dict(), indent=2) + "\n")
        write_text(temporary / MODEL_CARD, _model_card(checkpoint, options, parity))
        manifest = _manifest(checkpoint, options, parity, report, temporary)
        write_text(temporary / MANIFEST, json.dumps(manifest, indent=2) + "\n")
    registration = models().register(folder)
    return Exported(registration, Bundle.open(folder), parity, report)


def _deployed(
    generator: Generator, options: ExportOptions, on_stage: Callable[[str], None]
) -> tuple[Generator, list[LayerCost]]:
    """The network in the form to be traced, and what its int8 layers cost."""
    if not options.fold:
        return generator, []
    on_stage("folding")
    folded = fold(generator)
    if options.precision != "int8":
        return to_precision(folded, options.precision), []
    on_stage("calibrating")
    slices = options.calibration
    quantized, layers = quantize(
        folded,
        calibration_slices(generator.spec) if slices is None else slices,
        exclude=options.exclude,
        on_layer=lambda name: on_stage(f"ranking {name}"),
    )
    return quantized, layers


def _advice(layers: Sequence[LayerCost]) -> str:
    """What to do about an int8 export that was refused; nothing for other precisions."""
    if not layers:
        return ""
    worst = ", ".join(f"{layer.name} ({layer.psnr_db:.1f} dB alone)" for layer in layers[:5])
    return (
        f" The costliest layers: {worst}. Leave some in float32 with --exclude NAME, or lower "
        "--min-psnr."
    )


def write_onnx(graph: nn.Module, spec: ModelSpec, path: Path) -> int:
    """Trace ``graph`` into one ONNX file, specification inside; returns its number of nodes.

    The batch axis is dynamic; height and width are where ``spec.sizes`` says so.

    Raises
    ------
    ModelError
        The file does not pass ``onnx.checker``.
    """
    axes: dict[int, Any] = {0: torch.export.Dim("batch")}
    if spec.sizes is not None:
        step = 2**spec.network.levels
        for axis, name in ((2, "height"), (3, "width")):
            low, high = spec.sizes.smallest[axis - 2], spec.sizes.largest[axis - 2]
            steps = torch.export.Dim(f"{name}_steps", min=low // step, max=high // step)
            axes[axis] = step * steps
    half = {parameter.dtype for parameter in graph.parameters()}
    opset = BF16_OPSET if torch.bfloat16 in half else OPSET
    inputs = example_inputs(spec)
    for name in ("torch.onnx", "onnxscript", "onnx_ir"):
        logging.getLogger(name).setLevel(logging.ERROR)
    with warnings.catch_warnings(), torch.no_grad():
        # The exporter warns of its own internals; the graph is checked by value below.
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            graph,
            inputs,
            dynamo=True,
            opset_version=opset,
            input_names=list(spec.tensor_names),
            output_names=[OUTPUT_NAME],
            dynamic_shapes=tuple(axes for _ in inputs),
            external_data=False,
            optimize=True,
            verbose=False,
        )
        if program is None:
            raise ModelError("torch.onnx.export returned nothing; check the torch version.")
        program.save(str(path), external_data=False)
    model = onnx.load(path)
    _fix_shapes(model.graph)
    entry = model.metadata_props.add()
    entry.key, entry.value = SPEC_KEY, spec.to_json()
    try:
        onnx.checker.check_model(model, full_check=True)
    except onnx.checker.ValidationError as error:
        raise ModelError(f"the exported graph is no valid ONNX: {error}") from error
    onnx.save(model, path)
    return len(model.graph.node)


def _fix_shapes(graph: onnx.GraphProto) -> None:
    """Write shapes that only the batch varies into the reshapes, instead of reading them at run.

    ONNX Runtime reads shapes on the CPU, which a graph that is to stay on a GPU, and be captured
    there, should not need. Graphs of dynamic height and width keep theirs.
    """
    known = {
        value.name: [axis.dim_value or -1 for axis in value.type.tensor_type.shape.dim]
        for value in graph.value_info
    }
    read = {node.output[0]: node for node in graph.node if node.op_type == "Shape"}
    for node in graph.node:
        source = read.get(node.input[1]) if node.op_type == "Reshape" else None
        shape = known.get(source.input[0]) if source is not None else None
        if source is None or shape is None or shape.count(-1) != 1:
            continue
        name = f"{source.output[0]}_fixed"
        if name not in {tensor.name for tensor in graph.initializer}:
            graph.initializer.append(
                onnx.helper.make_tensor(name, onnx.TensorProto.INT64, [len(shape)], shape)
            )
        node.input[1] = name
    used = {name for node in graph.node for name in node.input}
    for node in read.values():
        if node.output[0] not in used:
            graph.node.remove(node)


def _bundle_name(checkpoint: Checkpoint, options: ExportOptions) -> str:
    inputs = "-".join(checkpoint.spec.inputs)
    variant = "" if options.fold else "-unfolded"
    if options.largest is not None:
        variant += f"-{options.largest[0]}x{options.largest[1]}"
    return f"{inputs}-{_origin(checkpoint)}-{checkpoint.sha256[:8]}-{options.precision}{variant}"


def _origin(checkpoint: Checkpoint) -> str:
    return "imported" if checkpoint.config is None else checkpoint.config.preset


def _manifest(
    checkpoint: Checkpoint,
    options: ExportOptions,
    parity: Parity,
    report: GraphReport,
    folder: Path,
) -> dict[str, Any]:
    run = checkpoint.path.resolve().parent
    return {
        "schema": {"major": MANIFEST_MAJOR, "minor": 0},
        "precision": options.precision,
        "files": {name: sha256(folder / name) for name in FILES},
        "parity": {"bounds": parity.bounds, "passed": parity.passed},
        "graph": asdict(report),
        "provenance": {
            "checkpoint": {
                "file": checkpoint.path.name,
                "sha256": checkpoint.sha256,
                "epoch": checkpoint.epoch,
            },
            "imported": checkpoint.imported,
            "run": run.name,
            "training_data": _training_data(checkpoint),
            "created": datetime.now().astimezone().isoformat(timespec="seconds"),
            "opset": BF16_OPSET if options.precision == "bf16" else OPSET,
            "versions": {name: version(name) for name in ("tlp-mri", "torch", "onnx", "onnxscript")}
            | {"python": platform.python_version()},
        },
    }


def _training_data(checkpoint: Checkpoint) -> str:
    if checkpoint.imported is not None:
        return f"not known: imported from {checkpoint.imported['file']}"
    if _origin(checkpoint) == "demo":
        return "demo preset: a small network for demonstration; it is no model for patients"
    return "as recorded in the run folder"


def _model_card(checkpoint: Checkpoint, options: ExportOptions, parity: Parity) -> str:
    spec, config = checkpoint.spec, checkpoint.config
    training, prompts = "not known: imported weights", "not known"
    if config is not None:
        training = (
            f"{config.preset}, {checkpoint.epoch} of {config.epochs} epochs, seed {config.seed}"
        )
        prompts = "fuzzy (Algorithm 1)" if config.fpg else "exact segmentation"
    inputs = " and ".join(name.upper() for name in spec.inputs)
    net = spec.network
    shape = f"(B, 1, {spec.crop.height}, {spec.crop.width})"
    return f"""# TLP model: {inputs} to synthetic T1ce

Synthesizes a contrast-enhanced T1 image from {inputs} and an optional region prompt
(arXiv 2503.01265). **Research use only: the image is synthetic, not acquired, and not for
diagnosis.**

| | |
|---|---|
| inputs | {", ".join(spec.tensor_names)}, each {shape} float32 |
| output | {OUTPUT_NAME}, {shape} float32 in [-1, 1] |
| network | dim {net.dim}, {net.levels} downsamplings, blocks {net.blocks}, FFN {net.ffn} |
| training | {training} |
| training data | {_training_data(checkpoint)} |
| prompts in training | {prompts} |
| checkpoint | SHA-256 {checkpoint.sha256} |
| precision | {options.precision}; {agreement(parity)} |

Volumes must be skull-stripped, 1 mm isotropic and hold the crop (rows {spec.crop.rows}, columns
{spec.crop.columns} in {spec.crop.orientation} order); intensities are scaled by the rule
`{spec.intensity.rule}`.
"""
