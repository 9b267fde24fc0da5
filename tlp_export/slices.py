"""Slices that an export is calibrated on and checked with; what a module makes of them; PSNR."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from tlp_runtime.geometry.volume import Volume
from tlp_runtime.io.case_files import CaseFiles
from tlp_runtime.io.nifti import read_volume
from tlp_runtime.spec.model import PROMPT_NAME, ModelSpec
from tlp_runtime.synthesis.prepare import PreparedCase, prepare_published
from tlp_runtime.synthesis.published import on_published_grid
from tlp_runtime.synthesis.request import Prompt, Request
from tlp_train.phantom import PhantomCase, make_case

Tensors = Mapping[str, NDArray[np.float32]]
"""The network's inputs by name, (B, 1, H, W)."""

Labelled = tuple[str, Tensors]


def random_slices(spec: ModelSpec) -> Iterator[Labelled]:
    """Fresh random inputs, a batch of one and one of two."""
    rng = np.random.default_rng()
    levels = np.array([0, spec.prompt.oedema_value, spec.prompt.tumour_value], np.float32)
    for batch in (1, 2):
        shape = (batch, 1, spec.crop.height, spec.crop.width)
        tensors = {n: rng.uniform(-1, 1, shape).astype(np.float32) for n in spec.inputs}
        tensors[PROMPT_NAME] = rng.choice(levels, shape)
        yield f"random, batch {batch}", {name: tensors[name] for name in spec.tensor_names}


def phantom_slices(spec: ModelSpec, count: int, *, seed: int = 7) -> Tensors:
    """The ``count`` slices with most prompt of the first phantom case of ``seed`` with any."""
    case = _phantom_with_tumour(seed)
    volumes = {n: Volume(getattr(case, n), case.affine, name=n) for n in spec.inputs}
    request = Request(images=volumes, prompt=Prompt(Volume(case.seg, case.affine, name="seg")))
    return _chosen(prepare_published(request, _prompted(spec)), count, spec)


PROOF_SLICE = "proof slice"
"""What the proof slice of a bundle is called among the checks."""


def proof_slice(spec: ModelSpec) -> Tensors:
    """The phantom's slice with most prompt, by which a bundle proves itself without checkpoint."""
    return phantom_slices(spec, 1)


def real_slices(case: CaseFiles, spec: ModelSpec, count: int) -> Tensors:
    """``count`` slices of a real case: those with most prompt, else spread over the brain.

    Raises
    ------
    InputError
        A file of it cannot be read or used.
    """
    volumes = {name: read_volume(path) for name, path in case.files.items()}
    published = on_published_grid(volumes, spec, case.name)
    images = {name: published.volumes[name] for name in spec.inputs}
    request = Request(images=images, prompt=Prompt(published.volumes.get("seg")))
    return _chosen(prepare_published(request, _prompted(spec), published.own), count, spec)


def calibration_slices(
    spec: ModelSpec, cases: Sequence[CaseFiles] = (), *, count: int = 16
) -> list[Tensors]:
    """``count`` single slices over ``cases``, or over two phantom cases; every other unprompted."""
    if cases:
        sources = [real_slices(case, spec, -(-count // len(cases))) for case in cases]
    else:
        sources = [phantom_slices(spec, -(-count // 2), seed=seed) for seed in (7, 8)]
    singles = [
        {name: array[i : i + 1] for name, array in tensors.items()}
        for tensors in sources
        for i in range(len(tensors[spec.inputs[0]]))
    ][:count]
    return [single if i % 2 else unprompted(single) for i, single in enumerate(singles)]


def unprompted(tensors: Tensors) -> Tensors:
    """The same without a prompt."""
    return {k: np.zeros_like(v) if k == PROMPT_NAME else v for k, v in tensors.items()}


def psnr_db(mean_square_error: float) -> float:
    """PSNR on the network's [-1, 1] scale, peak to peak 2; infinite for equal images."""
    return float(10 * np.log10(4 / mean_square_error)) if mean_square_error else float("inf")


def run_module(
    module: nn.Module, spec: ModelSpec, tensors: Tensors, dtype: torch.dtype = torch.float32
) -> NDArray[Any]:
    """What a torch module makes of slices that are given to it as ``dtype``."""
    with torch.no_grad():
        image = module(*(torch.from_numpy(tensors[n]).to(dtype) for n in spec.tensor_names))
    return image.numpy()  # type: ignore[no-any-return]


@cache
def _phantom_with_tumour(seed: int) -> PhantomCase:
    cases = (make_case(seed, index) for index in itertools.count())
    return next(case for case in cases if case.seg.any())


def _prompted(spec: ModelSpec) -> ModelSpec:
    """The same with a prompt, by which slices are chosen even where the network takes none."""
    return replace(spec, network=replace(spec.network, prompt=True))


def _chosen(prepared: PreparedCase, count: int, spec: ModelSpec) -> Tensors:
    brain = np.flatnonzero(prepared.brain)
    area = (prepared.tensors[PROMPT_NAME][brain] > 0).sum(axis=(1, 2))
    if area.any():
        chosen = brain[np.argsort(-area, kind="stable")[:count]]
    else:
        chosen = brain[np.unique(np.linspace(0, len(brain) - 1, count).astype(int))]
    return {name: prepared.tensors[name][np.sort(chosen), None] for name in spec.tensor_names}
