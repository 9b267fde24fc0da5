"""Checkpoint to ONNX bundle to TensorRT engine, each proven equal.

Options can be imported without torch and onnx; :func:`export` needs them.
"""

from typing import TYPE_CHECKING, Any

from tlp_export.options import ExportOptions

if TYPE_CHECKING:
    from tlp_export.exporter import Exported, export

__all__ = ["ExportOptions", "Exported", "export"]


def __getattr__(name: str) -> Any:
    """Import what needs torch and onnx when it is first used."""
    if name in ("export", "Exported"):
        from tlp_export import exporter

        return getattr(exporter, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
