"""``proof.npz``: a synthetic slice with its expected output, by which a bundle proves itself.

Plain arrays in a ZIP file without compression or times: the same slice, the same bytes.
"""

from __future__ import annotations

import io
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tlp_runtime.errors import ModelDamaged
from tlp_runtime.spec.model import OUTPUT_NAME, ModelSpec

_INPUT = "input."
_OUTPUT = "output."
_EPOCH = (1980, 1, 1, 0, 0, 0)


@dataclass(frozen=True)
class Proof:
    """A slice of the phantom with its prompt.

    Parameters
    ----------
    inputs
        The network's inputs by name, (1, 1, H, W) float32.
    expected
        The output that the checkpoint gives in float64, (1, 1, H, W) float32.
    """

    inputs: Mapping[str, NDArray[np.float32]]
    expected: NDArray[np.float32]

    def save(self, path: Path) -> None:
        """Write the file."""
        arrays = {f"{_INPUT}{name}": array for name, array in self.inputs.items()}
        arrays[f"{_OUTPUT}{OUTPUT_NAME}"] = self.expected
        with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
            for name, array in arrays.items():
                content = io.BytesIO()
                np.save(content, np.ascontiguousarray(array, "<f4"), allow_pickle=False)
                entry = zipfile.ZipInfo(f"{name}.npy", _EPOCH)
                entry.create_system = 3  # the same on every platform
                archive.writestr(entry, content.getvalue())


def read_proof(path: Path, spec: ModelSpec) -> Proof:
    """Read a proof slice for a model.

    Raises
    ------
    ModelDamaged
        It cannot be read, or holds other arrays than the model has.
    """
    try:
        with np.load(path, allow_pickle=False) as data:
            arrays = {name: data[name] for name in data.files}
    except (OSError, ValueError, zipfile.BadZipFile) as error:
        raise ModelDamaged(
            f"{path}: cannot be read ({error}).", fix="Copy or export the bundle again."
        ) from error
    shape = (1, 1, spec.crop.height, spec.crop.width)
    expected = {f"{_INPUT}{name}" for name in spec.tensor_names} | {f"{_OUTPUT}{OUTPUT_NAME}"}
    found = {name: (array.shape, array.dtype.str) for name, array in arrays.items()}
    if found != dict.fromkeys(expected, (shape, "<f4")):
        raise ModelDamaged(
            f"{path}: holds {found}, expected {', '.join(sorted(expected))}, each {shape} float32.",
            fix="Export the model again.",
        )
    inputs = {name: arrays[f"{_INPUT}{name}"] for name in spec.tensor_names}
    return Proof(inputs, arrays[f"{_OUTPUT}{OUTPUT_NAME}"])
