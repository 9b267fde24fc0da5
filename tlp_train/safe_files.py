"""Files of ``torch.save``: written whole or not at all, read as tensors and plain values only."""

from __future__ import annotations

import io
import pickle
import pickletools
import warnings
import zipfile
from pathlib import Path
from typing import Any

import torch

from tlp_runtime.errors import (
    ModelDamaged,
    ModelMismatch,
    ModelMissing,
    UnsafeCheckpoint,
    first_line,
)
from tlp_runtime.files.atomic import atomic_file

_AGAIN = "Copy it again, or take another checkpoint."
_EXPECTED = "Expected a checkpoint of this toolkit, or a plain state dict."
_PICKLE = b"\x80"


def save_whole(path: Path, data: Any, *, overwrite: bool = True) -> None:
    """``torch.save`` to a temporary file next to ``path``, flushed, then renamed to it.

    Raises
    ------
    OutputError
        It cannot be written; what ``path`` held before is as it was.
    """
    with atomic_file(path, overwrite=overwrite) as temporary, _Target(temporary) as target:
        try:
            torch.save(data, target)
        except RuntimeError:
            # torch says of a full disk only where it happened in torch.
            if target.failure is not None:
                raise target.failure from None
            raise


class _Target(io.FileIO):
    """A file that remembers why it could not be written."""

    def __init__(self, path: Path) -> None:
        super().__init__(path, "wb")
        self.failure: OSError | None = None

    def write(self, content: Any) -> int:
        """Write all of it, or raise."""
        left = memoryview(content).cast("B")
        size = len(left)
        try:
            while left:
                left = left[super().write(left) :]
        except OSError as error:
            self.failure = error
            raise
        return size


def load_safely(path: Path) -> Any:
    """Read what ``torch.save`` wrote. Code inside a file is never executed.

    Raises
    ------
    ModelMissing
        No such file, or a folder.
    ModelDamaged
        It is empty, cut short, altered or no such file at all.
    UnsafeCheckpoint
        It holds objects other than tensors and plain values.
    ModelMismatch
        A program of TorchScript.
    """
    if path.is_dir():
        raise ModelMissing(f"{path}: is a folder, expected a checkpoint such as last.ckpt.")
    if not path.is_file():
        raise ModelMissing(f"{path}: no such checkpoint.")
    try:
        with path.open("rb") as handle:
            start = handle.read(1)
        archive = zipfile.is_zipfile(path)
        if archive:
            _require_whole(path)
    except OSError as error:
        raise ModelDamaged(f"{path}: cannot be read ({error.strerror}).", fix=_AGAIN) from error
    if not start:
        raise ModelDamaged(f"{path}: is empty.", fix=_AGAIN)
    try:
        with warnings.catch_warnings():
            # torch warns of odd pickles before it refuses them; the error below says it.
            warnings.simplefilter("ignore")
            return torch.load(path, map_location="cpu", weights_only=True)
    except MemoryError:
        raise
    except pickle.UnpicklingError as error:
        if archive or (start == _PICKLE and _is_pickle(path)):
            raise UnsafeCheckpoint(
                f"{path}: holds objects other than tensors and plain values and was not loaded, "
                f"since loading could run code. {_EXPECTED}"
            ) from error
        raise ModelDamaged(
            f"{path}: is not a checkpoint, or is damaged. {_EXPECTED}", fix=_AGAIN
        ) from error
    except Exception as error:  # whatever damaged bytes make of torch's reader
        raise ModelDamaged(
            f"{path}: is not a checkpoint, or is damaged ({first_line(error)[:200]})", fix=_AGAIN
        ) from error


def _is_pickle(path: Path) -> bool:
    """Whether the file begins with a whole pickle. It is looked through, not executed."""
    try:
        with path.open("rb") as handle:
            for _ in pickletools.genops(handle):
                pass
    except Exception:  # whatever damaged bytes make of the reader
        return False
    return True


def _require_whole(path: Path) -> None:
    """Raise where a file of the archive differs from its checksum, which torch does not look at."""
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
            altered = archive.testzip()
    except (zipfile.BadZipFile, NotImplementedError, RuntimeError, EOFError, ValueError) as error:
        raise ModelDamaged(f"{path}: is damaged ({first_line(error)})", fix=_AGAIN) from error
    if altered is not None:
        raise ModelDamaged(f"{path}: is damaged: {altered} is not what was written", fix=_AGAIN)
    if any(name.endswith("/constants.pkl") for name in names):
        raise ModelMismatch(f"{path}: is a program of TorchScript. {_EXPECTED}")
