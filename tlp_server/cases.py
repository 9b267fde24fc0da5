"""What a session is opened with: scans that were read, checked and prepared."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tlp_runtime.geometry.volume import Volume
from tlp_runtime.interactive.case import mask_of
from tlp_runtime.remarks import Remarks
from tlp_runtime.spec.model import ModelSpec
from tlp_runtime.synthesis.prepare import Prepared, prepare

Images = Mapping[str, Volume]
Read = Callable[[], tuple[Images, Volume | None]]
"""Gives the modalities of a case and, if it has one, its prompt."""


@dataclass(frozen=True)
class Case:
    """A case before anything is drawn; several sessions may share it.

    Parameters
    ----------
    name
        What it is called on the page.
    images
        The modalities as they were read.
    prepared
        The same as the network takes them.
    mask
        What the interactive case's mask begins with; None: nothing.
    warnings
        What was said about the scan meanwhile: for its reader, not for the log.
    """

    name: str
    images: Images
    prepared: Prepared
    mask: NDArray[np.uint8] | None
    warnings: tuple[str, ...]


def read_case(name: str, read: Read, spec: ModelSpec, meaning: Sequence[str] = ()) -> Case:
    """Read and prepare a case.

    Parameters
    ----------
    meaning
        What its prompt's labels mean, if not as in BraTS: ``tumour=1,4``, ``oedema=2``.

    Raises
    ------
    TLPError
        The case cannot be used: unreadable, of another geometry, labels without a meaning.
    """
    warnings: list[str] = []
    with contextlib.closing(Remarks()) as remarks, remarks.of(warnings):
        images, labels = read()
        prepared = prepare(images, spec)
        mask = None if labels is None else mask_of(labels, prepared.reference, spec, meaning)
    return Case(name, images, prepared, mask, tuple(warnings))
