"""A verified bundle from a checkpoint: folded, traced, compared, written whole or not at all."""

from __future__ import annotations

import copy
import hashlib
import json
import platform
import shutil
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tlp_export.card import model_card, training_data
from tlp_export.fold import cost, fold, savings
from tlp_export.graph import export_module
from tlp_export.onnx_graph import opset_of, write_onnx
from tlp_export.options import BOUNDS, ExportOptions
from tlp_export.precision import DTYPES, to_precision
from tlp_export.quantize import quantize
from tlp_export.slices import PROOF_SLICE, Tensors, calibration_slices, proof_slice, run_module
from tlp_export.verify import Parity, check_parity
from tlp_runtime.errors import ParityError, SetOption
from tlp_runtime.files.atomic import atomic_folder, link_or_copy, require_folder, write_text
from tlp_runtime.files.hashes import sha256
from tlp_runtime.io.datasets import find_cases
from tlp_runtime.models.bundle import ENGINES, MANIFEST, Bundle
from tlp_runtime.models.contents import foreign_in_bundle
from tlp_runtime.models.manifest import (
    FILES,
    MODEL_CARD,
    ONNX,
    PARITY,
    PROOF,
    SPEC,
    CheckpointRecord,
    GraphReport,
    LayerCost,
    Manifest,
    Origin,
    ParityRecord,
    ProofRecord,
)
from tlp_runtime.models.measured import MEASURED, read_measured, with_measured
from tlp_runtime.models.proof import Proof
from tlp_runtime.models.registered import Registration, models, models_folder
from tlp_runtime.spec.model import ModelSpec, NetworkSpec, SizeSpec
from tlp_train.checkpoint import Checkpoint
from tlp_train.networks.base import SynthesisNetwork

SMALLEST_SIDE = 64
"""Of the slices that a graph with dynamic height and width takes."""

OnStage = Callable[[str], None]


@dataclass(frozen=True)
class Made:
    """A bundle that was made, how it was registered, its parity and how it was made."""

    registration: Registration
    bundle: Bundle
    parity: Parity
    report: GraphReport


def make_bundle(
    checkpoint: Checkpoint,
    options: ExportOptions,
    out: Path | None,
    *,
    overwrite: bool,
    on_stage: OnStage,
    on_name: Callable[[str], None] = lambda name: None,
) -> Made:
    """Fold, trace, verify, write and register a bundle.

    Engines and measurements of the bundle that is replaced are kept if its graph is the same.

    Parameters
    ----------
    out
        The bundle's folder; None takes one in the local store, named after inputs, preset,
        checkpoint and options, and replaces an earlier export of the same.
    on_stage
        Called with what begins.
    on_name
        Called with the folder's name before the graph is made.

    Raises
    ------
    ParityError
        The graph's values or types are not what they must be; nothing is written or registered.
    OutputError
        ``out`` exists and may not be replaced, holds files of others, or cannot be written.
    """
    if out is not None:  # before any work
        require_folder(out, overwrite=overwrite, foreign=foreign_in_bundle)
    spec = _exported_spec(checkpoint, options)
    generator = checkpoint.generator(spec)
    calibration = _calibration(spec, options, on_stage)
    folder = out or models_folder() / bundle_name(checkpoint, options, calibration)
    on_name(folder.name)
    replace_ours = overwrite or out is None
    with atomic_folder(folder, overwrite=replace_ours, foreign=foreign_in_bundle) as temporary:
        deployed, layers = _deployed(generator, options, calibration, on_stage)
        on_stage("tracing")
        graph = export_module(deployed, DTYPES[options.precision])
        nodes = write_onnx(graph, spec, temporary / ONNX)
        on_stage("verifying")
        try:
            parity = check_parity(
                generator,
                temporary / ONNX,
                options.precision,
                bounds=options.bounds,
                module=graph,
            )
            parity.require()
        except ParityError as error:
            raise _refused(error, layers) from error
        report = _report(spec, options, nodes, layers)
        write_text(temporary / SPEC, spec.to_json())
        write_text(temporary / PARITY, json.dumps(parity.to_dict(), indent=2) + "\n")
        _keep(folder, temporary)
        card = model_card(checkpoint, options, parity)
        write_text(temporary / MODEL_CARD, with_measured(card, read_measured(temporary)))
        _proof(generator).save(temporary / PROOF)
        manifest = _manifest(checkpoint, options, parity, report, temporary)
        write_text(temporary / MANIFEST, manifest.to_json())
    registration = models().register(folder)
    return Made(registration, Bundle.open(folder), parity, report)


def _exported_spec(checkpoint: Checkpoint, options: ExportOptions) -> ModelSpec:
    """The specification of the graph: the checkpoint's, with the sizes it is exported for."""
    spec = checkpoint.spec
    if options.largest is None:
        return spec
    height, width = (min(SMALLEST_SIDE, side) for side in (spec.crop.height, spec.crop.width))
    return replace(spec, sizes=SizeSpec(smallest=(height, width), largest=options.largest))


def _calibration(spec: ModelSpec, options: ExportOptions, on_stage: OnStage) -> list[Tensors]:
    """Single slices that int8 takes its ranges from; none for other precisions."""
    if options.precision != "int8":
        return []
    on_stage("reading calibration slices")
    cases = []
    if options.calibration is not None:
        cases = find_cases(
            options.calibration, (*spec.inputs, "seg"), segmentations=options.segmentations
        )
    return calibration_slices(spec, cases)


def _deployed(
    generator: SynthesisNetwork,
    options: ExportOptions,
    calibration: Sequence[Tensors],
    on_stage: OnStage,
) -> tuple[SynthesisNetwork, list[LayerCost]]:
    """The network in the form to be traced, and what its int8 layers cost."""
    if not options.fold:
        return generator, []
    on_stage("folding")
    folded = fold(generator)
    if options.precision != "int8":
        return to_precision(folded, options.precision), []
    on_stage("calibrating")
    return quantize(
        folded,
        calibration,
        exclude=options.exclude,
        on_layer=lambda name: on_stage(f"ranking {name}"),
    )


def _refused(error: ParityError, layers: Sequence[LayerCost]) -> ParityError:
    """The error of a graph that missed its bounds; for int8, with the layers to blame."""
    if not layers:
        return ParityError(f"{error.problem} Nothing was registered.", fix=error.fixes)
    worst = ", ".join(f"{layer.name} ({layer.psnr_db:.1f} dB alone)" for layer in layers[:5])
    return ParityError(
        f"{error.problem} Nothing was registered. The costliest layers: {worst}",
        fix=(
            SetOption("exclude", layers[0].name, "to leave that layer in float32"),
            SetOption("min_psnr_db", "a lower value", "to accept a lower PSNR"),
            *error.fixes,
        ),
    )


def _report(
    spec: ModelSpec, options: ExportOptions, nodes: int, layers: Sequence[LayerCost]
) -> GraphReport:
    folds = savings(spec) if options.fold else ()
    before = cost(spec)
    after = folds[-1].after if folds else before
    return GraphReport(before, after, nodes, folds, tuple(layers), options.exclude)


def _keep(replaced: Path, folder: Path) -> None:
    """Take over engines and measurements of the bundle that is about to be replaced.

    Those of another graph could not be used, and would not be true.
    """
    if not (replaced / ONNX).is_file() or sha256(replaced / ONNX) != sha256(folder / ONNX):
        return
    if (replaced / MEASURED).is_file():
        link_or_copy(replaced / MEASURED, folder / MEASURED)
    if (replaced / ENGINES).is_dir():
        shutil.copytree(
            replaced / ENGINES,
            folder / ENGINES,
            copy_function=link_or_copy,
            ignore=shutil.ignore_patterns(".*"),
        )


def bundle_name(
    checkpoint: Checkpoint, options: ExportOptions, calibration: Sequence[Tensors] = ()
) -> str:
    """The name of a bundle in the local store: two exports that differ have two names.

    Options that the name does not show (calibration, exclusions, the lowest PSNR, no training
    hashes) add a hash where they are not the defaults.
    """
    network = checkpoint.spec.network
    inputs = "-".join(checkpoint.spec.inputs)
    if network.name != NetworkSpec.name:
        inputs += f"-{network.name}"
    variant = "" if options.fold else "-unfolded"
    if options.largest is not None:
        variant += f"-{options.largest[0]}x{options.largest[1]}"
    hidden: dict[str, Any] = {}
    if options.calibration is not None:
        hidden["calibration"] = _digest(calibration)
    if options.exclude:
        hidden["exclude"] = sorted(options.exclude)
    if options.bounds != BOUNDS[options.precision]:
        hidden["bounds"] = dict(options.bounds)
    if not options.training_hashes:
        hidden["training_hashes"] = False
    if hidden:
        text = json.dumps(hidden, sort_keys=True)
        variant += f"-{hashlib.sha256(text.encode()).hexdigest()[:6]}"
    return f"{inputs}-{_origin(checkpoint)}-{checkpoint.sha256[:8]}-{options.precision}{variant}"


def _digest(slices: Sequence[Tensors]) -> str:
    """A hash of the voxels of slices, wherever their files lie."""
    content = hashlib.sha256()
    for tensors in slices:
        for name, array in sorted(tensors.items()):
            content.update(name.encode())
            content.update(array.tobytes())
    return content.hexdigest()


def _origin(checkpoint: Checkpoint) -> str:
    config = checkpoint.lineage.config
    return "imported" if config is None else config.preset


def _proof(generator: SynthesisNetwork) -> Proof:
    """The proof slice, with what the checkpoint gives for it in float64."""
    inputs = proof_slice(generator.spec)
    exact = run_module(copy.deepcopy(generator).double(), generator.spec, inputs, torch.float64)
    return Proof(inputs, exact.astype(np.float32))


def _manifest(
    checkpoint: Checkpoint,
    options: ExportOptions,
    parity: Parity,
    report: GraphReport,
    folder: Path,
) -> Manifest:
    proof = next(check for check in parity.checks if check.inputs == PROOF_SLICE)
    lineage = checkpoint.lineage
    return Manifest(
        graph_dtype=options.precision,
        compute_precision=options.precision,
        files={
            name: sha256(folder / name)
            for name in (*FILES, PROOF, MEASURED)
            if name != MEASURED or (folder / name).is_file()
        },
        parity=ParityRecord(bounds=parity.bounds, passed=parity.passed),
        graph=report,
        provenance=Origin(
            checkpoint=CheckpointRecord(
                file=checkpoint.path.name, sha256=checkpoint.sha256, epoch=checkpoint.epoch
            ),
            imported=None if lineage.imported is None else asdict(lineage.imported),
            ancestors=tuple(
                CheckpointRecord(file=one.file, sha256=one.sha256, epoch=one.epoch)
                for one in lineage.ancestors
            ),
            differs=lineage.differs,
            run=checkpoint.path.resolve().parent.name,
            training_data=training_data(checkpoint),
            created=datetime.now().astimezone().isoformat(timespec="seconds"),
            opset=opset_of(options.precision),
            versions={name: version(name) for name in ("tlp-mri", "torch", "onnx", "onnxscript")}
            | {"python": platform.python_version()},
        ),
        proof=ProofRecord(
            torch_fp32_max_abs=proof.torch_fp32_max_abs, torch_fp32_rms=proof.torch_fp32_rms
        ),
        training_voxels=lineage.training_voxels if options.training_hashes else (),
        learnt_factor=lineage.learnt_factor,
    )
