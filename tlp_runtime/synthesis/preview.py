"""A picture of one slice: T1, the prompt's outline on it, and the synthesis."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from tlp_runtime.files.atomic import atomic_file
from tlp_runtime.spec.model import PROMPT_NAME, ModelSpec
from tlp_runtime.synthesis.result import Synthesis

ZOOM = 3
TUMOUR_COLOUR = (255, 80, 60)
OEDEMA_COLOUR = (70, 160, 255)


def render_preview(synthesis: Synthesis, spec: ModelSpec) -> Image.Image:
    """The axial slice with most prompt (without one, the one with most brain), side by side.

    Patient left is on the image's right (radiological convention), anterior is up.
    """
    tensors = synthesis.prepared.tensors
    image, prompt = tensors[spec.inputs[0]], tensors[PROMPT_NAME]
    weight = (prompt > 0).sum(axis=(1, 2)) if prompt.any() else (image > image.min()).sum((1, 2))
    z = int(weight.argmax())
    made = synthesis.slices[z]
    plain = _grey((image[z] + 1) / 2)
    outlined = plain.copy()
    for value, colour in (
        (spec.prompt.oedema_value, OEDEMA_COLOUR),
        (spec.prompt.tumour_value, TUMOUR_COLOUR),
    ):
        outlined[_edge(np.kron(prompt[z] == value, np.ones((ZOOM, ZOOM), np.bool_)))] = colour
    panels = (
        (f"{spec.inputs[0].upper()} (given)", plain),
        ("prompt" if prompt.any() else "no prompt", outlined),
        ("T1ce (synthetic)", _grey(made)),
    )
    height, width = plain.shape[:2]
    canvas = Image.new("RGB", (width * len(panels), height + 20), "black")
    draw = ImageDraw.Draw(canvas)
    for number, (title, pixels) in enumerate(panels):
        canvas.paste(Image.fromarray(pixels), (number * width, 20))
        draw.text((number * width + 6, 4), title, fill="white")
    draw.text((6, height + 2), f"axial slice {z}; not for diagnosis", fill="grey")
    return canvas


def write_preview(
    synthesis: Synthesis, spec: ModelSpec, path: Path, *, overwrite: bool = False
) -> None:
    """Write :func:`render_preview` as PNG, atomically. Raises :class:`OutputError`."""
    with atomic_file(path, overwrite=overwrite) as temporary:
        render_preview(synthesis, spec).save(temporary, format="PNG")


def _grey(slice_: NDArray[np.float32]) -> NDArray[np.uint8]:
    """[0, 1] to enlarged RGB, stretched to the slice's 99.5th percentile."""
    top = max(float(np.percentile(slice_, 99.5)), 1e-6)
    level = (np.clip(slice_ / top, 0, 1) * 255).astype(np.uint8)
    large = np.kron(level, np.ones((ZOOM, ZOOM), np.uint8))
    return np.repeat(large[..., None], 3, axis=2)


def _edge(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Pixels of the mask with a four-neighbour outside it."""
    padded = np.pad(mask, 1)
    inner = padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:]
    return mask & ~inner
