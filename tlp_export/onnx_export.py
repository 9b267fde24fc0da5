"""Checkpoint to a verified model bundle."""

from __future__ import annotations

import json
import logging
import platform
import warnings
from dataclasses import dataclass
from datetime import datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import onnx
import torch
from torch import nn

from tlp_export.graph import example_inputs, export_module
from tlp_export.verify import Parity, check_parity
from tlp_runtime.bundle import (
    FILES,
    MANIFEST,
    MANIFEST_MAJOR,
    MODEL_CARD,
    ONNX,
    PARITY,
    SPEC,
    Bundle,
    sha256,
)
from tlp_runtime.engines.onnx import SPEC_KEY
from tlp_runtime.errors import ModelError
from tlp_runtime.io.atomic import atomic_folder, write_text
from tlp_runtime.models import models, models_folder
from tlp_runtime.spec import OUTPUT_NAME, ModelSpec
from tlp_train.checkpoint import Checkpoint

OPSET = 20


@dataclass(frozen=True)
class Exported:
    """A bundle, the name it was registered under, and the parity it was accepted with."""

    name: str
    bundle: Bundle
    parity: Parity


def export_bundle(
    checkpoint: Checkpoint, out: Path | None = None, *, overwrite: bool = False
) -> Exported:
    """Export at fp32, verify, write and register a bundle.

    Parameters
    ----------
    out
        The bundle's folder; None takes one in the local store, named after inputs, preset and
        checkpoint, and replaces an earlier export of the same checkpoint.

    Raises
    ------
    ParityError
        The graph's values differ from the checkpoint's; nothing is written or registered.
    OutputError
        ``out`` exists, or cannot be written.
    """
    folder = out or models_folder() / _bundle_name(checkpoint)
    generator = checkpoint.generator()
    with atomic_folder(folder, overwrite=overwrite or out is None) as temporary:
        graph = export_module(generator)
        write_onnx(graph, checkpoint.spec, temporary / ONNX)
        parity = check_parity(generator, temporary / ONNX)
        write_text(temporary / SPEC, checkpoint.spec.to_json())
        write_text(temporary / PARITY, json.dumps(parity.to_dict(), indent=2) + "\n")
        write_text(temporary / MODEL_CARD, _model_card(checkpoint, parity))
        manifest = _manifest(checkpoint, parity, temporary)
        write_text(temporary / MANIFEST, json.dumps(manifest, indent=2) + "\n")
    name = models().add(folder.name, folder)
    return Exported(name, Bundle.open(folder), parity)


def write_onnx(graph: nn.Module, spec: ModelSpec, path: Path) -> None:
    """Trace ``graph`` into one ONNX file, batch axis dynamic, specification inside.

    Raises
    ------
    ModelError
        The file does not pass ``onnx.checker``.
    """
    batch = torch.export.Dim("batch")
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
            opset_version=OPSET,
            input_names=list(spec.tensor_names),
            output_names=[OUTPUT_NAME],
            dynamic_shapes=tuple({0: batch} for _ in inputs),
            external_data=False,
            optimize=True,
            verbose=False,
        )
        if program is None:
            raise ModelError("torch.onnx.export returned nothing; check the torch version.")
        program.save(str(path), external_data=False)
    model = onnx.load(path)
    entry = model.metadata_props.add()
    entry.key, entry.value = SPEC_KEY, spec.to_json()
    try:
        onnx.checker.check_model(model, full_check=True)
    except onnx.checker.ValidationError as error:
        raise ModelError(f"the exported graph is no valid ONNX: {error}") from error
    onnx.save(model, path)


def _bundle_name(checkpoint: Checkpoint) -> str:
    inputs = "-".join(checkpoint.spec.inputs)
    return f"{inputs}-{_origin(checkpoint)}-{checkpoint.sha256[:8]}-fp32"


def _origin(checkpoint: Checkpoint) -> str:
    return "imported" if checkpoint.config is None else checkpoint.config.preset


def _manifest(checkpoint: Checkpoint, parity: Parity, folder: Path) -> dict[str, Any]:
    run = checkpoint.path.resolve().parent
    return {
        "schema": {"major": MANIFEST_MAJOR, "minor": 0},
        "precision": "fp32",
        "files": {name: sha256(folder / name) for name in FILES},
        "parity": {"bounds": parity.bounds, "passed": parity.passed},
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
            "opset": OPSET,
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


def _model_card(checkpoint: Checkpoint, parity: Parity) -> str:
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
| precision | fp32; largest difference from the checkpoint {parity.max_abs:.1e} |

Volumes must be skull-stripped, 1 mm isotropic and hold the crop (rows {spec.crop.rows}, columns
{spec.crop.columns} in {spec.crop.orientation} order); intensities are scaled by the rule
`{spec.intensity.rule}`.
"""
