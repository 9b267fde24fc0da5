"""A session's images as NIfTI: to be shown, and to be kept."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

import numpy as np

from tlp_runtime.errors import ModelMismatch
from tlp_runtime.geometry.volume import Volume
from tlp_runtime.interactive.case import InteractiveCase
from tlp_runtime.io.nifti import nifti_bytes
from tlp_runtime.synthesis.evidence import DESCRIPTION as EVIDENCE
from tlp_runtime.synthesis.provenance import DESCRIPTION, describe
from tlp_runtime.synthesis.request import Prompt

ImageName = Literal["t1", "t2", "prompt", "synthesis", "plain"]
FileName = Literal["prompt", "synthesis", "plain", "evidence"]


def image_bytes(case: InteractiveCase, name: ImageName) -> bytes:
    """An image as it is shown: axes in RAS order, sform and qform alike.

    Raises :class:`ModelMismatch` for one that the case does not have.
    """
    if name == "plain" or name == "synthesis":
        volume = Volume(case.shown(name), case.grid.affine, name=name)
    elif name == "prompt":
        volume = Volume(case.mask, case.grid.affine, name=name)
    elif name in case.images:
        volume = case.images[name]
    else:
        raise ModelMismatch(f"the case has no {name}.")
    return nifti_bytes(_viewable(volume), description=_said(name))


def file_bytes(case: InteractiveCase, name: FileName) -> bytes:
    """An image to keep: on the scan's own grid, and how it was made in its header.

    Raises :class:`Unfinished` for a synthesis that is not up to date.
    """
    if name == "prompt":
        return nifti_bytes(case.drawn(), description=_said(name))
    prepared = case.prepared
    if name == "evidence":
        volume, drawn = case.evidence().change, case.drawn()
    else:
        volume, drawn = case.finished(name)
    engine = case.queue.engine
    takes_prompt = engine.spec.network.prompt
    prompted = name != "plain" and takes_prompt and bool(drawn.data.any())
    asked = replace(prepared.request, prompt=Prompt(drawn)) if prompted else prepared.request
    warnings = (*prepared.warnings, *case.queue.warnings)
    record = describe(asked, prepared.placement, engine, warnings)
    description = EVIDENCE if name == "evidence" else _said(name)
    return nifti_bytes(volume, description=description, comment=record.in_short())


def _viewable(volume: Volume) -> Volume:
    """Voxels of a kind that viewers take, first axis fastest."""
    data = volume.data
    if data.dtype not in (np.uint8, np.int16, np.float32):
        data = data.astype(np.float32)
    return replace(volume, data=np.asfortranarray(data))


def _said(name: ImageName) -> str:
    """The header's description."""
    return {"prompt": "prompt for a synthesis", "t1": "T1", "t2": "T2"}.get(name, DESCRIPTION)
