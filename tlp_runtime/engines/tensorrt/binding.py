"""The bindings: which are installed, loading one, its log and its errors."""

from __future__ import annotations

import importlib
import importlib.util
import re
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from tlp_runtime.engines.tensorrt.flavours import (
    FLAVOURS,
    Enterprise,
    FlavourAdapter,
    FlavourName,
    Rtx,
)
from tlp_runtime.errors import DependencyMissing, EngineError, Install, MemoryExhausted

_MODULES: Mapping[FlavourName, str] = {"trt": "tensorrt", "trt-rtx": "tensorrt_rtx"}
_DISTRIBUTIONS: Mapping[FlavourName, tuple[str, ...]] = {
    "trt": ("tensorrt", "tensorrt-cu13", "tensorrt-cu12"),
    "trt-rtx": ("tensorrt-rtx-cu13", "tensorrt-rtx", "tensorrt_rtx"),
}
_SUPPORTED: Mapping[FlavourName, tuple[tuple[int, int], tuple[int, int]]] = {
    "trt": ((10, 16), (12, 0)),
    "trt-rtx": ((1, 7), (2, 0)),
}
"""The first supported version, and the first that is not."""


def installed() -> dict[FlavourName, str]:
    """The flavours whose bindings can be imported, and their versions."""
    found: dict[FlavourName, str] = {}
    for flavour in FLAVOURS:
        if importlib.util.find_spec(_MODULES[flavour]) is None:
            continue
        for distribution in _DISTRIBUTIONS[flavour]:
            try:
                found[flavour] = version(distribution)
                break
            except PackageNotFoundError:
                continue
        else:
            found[flavour] = "unknown"
    return found


def load(flavour: FlavourName) -> TensorRT:
    """Import a flavour.

    Raises
    ------
    DependencyMissing
        It is not installed, or not completely.
    EngineError
        It is of a version that this adapter was not written for.
    """
    name = _MODULES[flavour]
    if importlib.util.find_spec(name) is None:
        raise DependencyMissing(
            f"{_product(flavour)} is not installed", fix=Install((f"tlp-mri[{flavour}]",))
        )
    try:
        module = importlib.import_module(name)
        _ = module.__version__
    except Exception as error:  # stubs without their libraries, libraries that do not load
        raise DependencyMissing(
            f"{_product(flavour)} is installed but cannot be imported ({error})",
            fix=Install((f"tlp-mri[{flavour}]",), again=True),
        ) from error
    return TensorRT(flavour, module)


class TensorRT:
    """One flavour of TensorRT.

    Parameters
    ----------
    module
        The bindings, or a stand-in for them in tests.

    Attributes
    ----------
    trt
        The bindings.
    adapter
        What this flavour does differently.
    log
        The logger, whose ``lines`` are TensorRT's words since they were last cleared.
    """

    def __init__(self, flavour: FlavourName, module: Any) -> None:
        self.flavour = flavour
        self.version = str(module.__version__)
        self.trt = module
        self.adapter: FlavourAdapter = Rtx(module) if flavour == "trt-rtx" else Enterprise(module)
        numbers = tuple(int(part) for part in re.findall(r"\d+", self.version)[:2])
        first, last = _SUPPORTED[flavour]
        if not first <= numbers < last:
            raise EngineError(
                f"{self.product} {self.version} is installed; this version of the toolkit knows "
                f"{'.'.join(map(str, first))} to before {'.'.join(map(str, last))}",
                fix=Install((f"tlp-mri[{flavour}]",)),
            )
        self.log = _log(module)

    @property
    def product(self) -> str:
        """The flavour's name for people."""
        return _product(self.flavour)

    def error(self, what: str, reason: str = "") -> EngineError | MemoryExhausted:
        """An error with the last words of TensorRT's log in it."""
        # The last error is mostly an echo of those before it.
        errors = [line for line in self.log.lines if "ERROR" in line.split(" ", 1)[0]]
        said = reason or (errors[0].split(" ", 1)[1] if errors else "it gave no reason")
        said = " ".join(said.split())
        if re.search(r"out ?of ?memory|cudaError 2\b|OutOfMemory", said, re.IGNORECASE):
            return MemoryExhausted(f"{what}: {said}")
        return EngineError(f"{what}: {said}")


def _product(flavour: FlavourName) -> str:
    return "TensorRT-RTX" if flavour == "trt-rtx" else "TensorRT"


_LOGS: dict[int, Any] = {}


def _log(trt: Any) -> Any:
    """The one logger of the process's bindings: it keeps TensorRT's words instead of printing."""

    class Log(trt.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.lines: list[str] = []

        def log(self, severity: Any, message: str) -> None:
            self.lines.append(f"{severity.name} {message}")

    known = _LOGS.get(id(trt))
    if known is None:
        known = _LOGS[id(trt)] = Log()
    return known
