"""The libraries that make a graph and compute it, and the versions of them that are tested."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version

from tlp_runtime.errors import Fix, GivenFixes, Install, ParityError, as_fixes

TESTED = {
    "torch": ("2.13.0", "2.13.0"),
    "onnx": ("1.23.2", "1.23.2"),
    "onnxscript": ("0.7.2", "0.7.2"),
    "onnxruntime": ("1.32.0", "1.32.0"),
}
"""The oldest and the newest version that the tests ran with; the newest are the pinned ones."""

_PROVIDERS = {"onnxruntime": ("onnxruntime", "onnxruntime-gpu")}


def installed(library: str) -> str:
    """A library's version, without what a build adds to it; ``none`` where there is none."""
    for name in _PROVIDERS.get(library, (library,)):
        try:
            return version(name).split("+")[0]
        except PackageNotFoundError:
            continue
    return "none"


def untested() -> tuple[str, ...]:
    """The libraries whose installed version is none that the tests ran with."""
    return tuple(
        name
        for name, (oldest, newest) in TESTED.items()
        if not _key(oldest) <= _key(installed(name)) <= _key(newest)
    )


def versions_text() -> str:
    """A sentence: each installed version, and the tested range."""
    here = ", ".join(f"{name} {installed(name)}" for name in TESTED)
    tested = ", ".join(
        f"{name} {oldest}" if oldest == newest else f"{name} {oldest} to {newest}"
        for name, (oldest, newest) in TESTED.items()
    )
    return f"Computed with {here}; tested with {tested}."


def parity_error(problem: str, *, fix: GivenFixes = ()) -> ParityError:
    """The error of a graph that is not what it must be, with the versions that made it so."""
    return ParityError(f"{problem} {versions_text()}", fix=(*as_fixes(fix), *_tested_versions()))


def _tested_versions() -> tuple[Fix, ...]:
    """Installing what is tested, where something else is installed."""
    wanted = tuple(f"{name}=={TESTED[name][1]}" for name in untested())
    return (Install(wanted, purpose="as tested"),) if wanted else ()


def _key(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split(".")[:3] if part.isdecimal())
