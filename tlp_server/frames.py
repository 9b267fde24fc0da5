"""Slices on their way to a page: frames of a JSON header and voxels."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator, Sequence
from typing import Any, Literal

from tlp_runtime.interactive.case import InteractiveCase
from tlp_runtime.interactive.parts import Update

MEDIA_TYPE = "application/vnd.tlp.frames"
AT_ONCE = 16
"""Most slices per frame, so that a page can show the first while others come."""

State = Literal["running", "done", "superseded", "failed"]


def frames_of(
    case: InteractiveCase, update: Update, since: int, server_s: float
) -> Iterator[bytes]:
    """Everything that changed after ``since``, values shared by images where they are the same.

    The last frame alone carries the update's serial: a client that stops before it asks again from
    ``since`` and misses nothing.
    """
    parts = [
        (images, numbers[start : start + AT_ONCE])
        for images, numbers in update.groups
        for start in range(0, len(numbers), AT_ONCE)
    ]
    for number, (images, some) in enumerate(parts, start=1):
        payload = case.slices(images[0], some).astype("<f4", copy=False).tobytes()
        serial = update.serial if number == len(parts) else since
        header = _header(case, update, serial, server_s, "running", images, some)
        yield frame(header | {"bytes": len(payload)}, payload)


def last_frame(
    case: InteractiveCase,
    update: Update,
    since: int,
    server_s: float,
    state: State,
    error: str | None = None,
) -> bytes:
    """The end of a stream whose client has everything up to ``since``, and why it ends."""
    header = _header(case, update, since, server_s, state)
    return frame(header | {"bytes": 0, "error": error})


def frame(header: dict[str, Any], payload: bytes = b"") -> bytes:
    """Length of the header (uint32, little-endian), header, payload."""
    text = json.dumps(header).encode()
    return struct.pack("<I", len(text)) + text + payload


def _header(
    case: InteractiveCase,
    update: Update,
    serial: int,
    server_s: float,
    state: State,
    images: Sequence[str] = (),
    numbers: Sequence[int] = (),
) -> dict[str, Any]:
    return {
        "serial": serial,
        "revision": case.revision,
        "images": list(images),
        "slices": list(numbers),
        "left": update.left,
        "state": state,
        "error": None,
        "seconds": {**update.seconds, "server": server_s},
    }
