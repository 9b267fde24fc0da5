"""DICOM in and out: series, segmentations, derived series. Needs the extra ``dicom``."""

from __future__ import annotations

import importlib.util
from pathlib import Path

from tlp_runtime.errors import DependencyMissing, Install
from tlp_runtime.io.dicom.start import START, begins_as_dicom


def is_dicom(path: Path) -> bool:
    """Whether ``path`` is a folder, or a file that begins as DICOM files do."""
    if path.is_dir():
        return True
    try:
        with path.open("rb") as handle:
            return begins_as_dicom(handle.read(START))
    except OSError:
        return False


def require_dicom() -> None:
    """Raise :class:`DependencyMissing` unless pydicom and highdicom are installed."""
    missing = [name for name in ("pydicom", "highdicom") if importlib.util.find_spec(name) is None]
    if missing:
        raise DependencyMissing(
            f"reading DICOM needs {' and '.join(missing)}", fix=Install(("tlp-mri[dicom]",))
        )
