"""What a session is opened with: scans that were read, checked and prepared."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tlp_runtime.geometry.volume import require_one_space
from tlp_runtime.interactive.case import mask_of
from tlp_runtime.spec.model import ModelSpec
from tlp_runtime.synthesis.prepare import (
    PreparedCase,
    prepare,
    require_modalities,
    require_prompt_taken,
)
from tlp_runtime.synthesis.request import Request, read

Read = Callable[[], Request]
"""Gives the request of a case: its images and, if it has one, its prompt."""


@dataclass(frozen=True)
class ViewerCase:
    """A case before anything is drawn; several sessions may share it.

    Parameters
    ----------
    name
        What it is called on the page.
    prepared
        The case without a prompt.
    mask
        What the interactive case's mask begins with; None: nothing.
    """

    name: str
    prepared: PreparedCase
    mask: NDArray[np.uint8] | None

    @property
    def voxels(self) -> int:
        """Voxels of its images together."""
        return self.prepared.reference.data.size * len(self.prepared.request.images)


def read_case(name: str, make: Read, spec: ModelSpec) -> ViewerCase:
    """Read and prepare a case.

    Raises
    ------
    TLPError
        The case cannot be used: unreadable, of another geometry, labels without a meaning.
    """
    request = make()
    require_modalities(request.images, spec)
    require_prompt_taken(request, spec)
    request = read(request)
    accepted = request.ignore_frame_of_reference
    scans = Request(
        images=request.images, read_s=request.read_s, ignore_frame_of_reference=accepted
    )
    prepared = prepare(scans, spec)
    labels, mask = request.volumes.get("prompt"), None
    if labels is not None:
        require_one_space(prepared.reference, labels, accepted=accepted)
        mask = mask_of(labels, prepared.reference, spec, request.prompt.labels)
    return ViewerCase(name, prepared, mask)
