"""The toolkit's modules on a machine that lacks nibabel, MONAI and platformdirs.

`tlp_runtime` and `tlp_train.network` import them for what :mod:`gpu` has no use for: NIfTI files,
the discriminator, the user's data folder.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from importlib.machinery import ModuleSpec
from typing import Any

BARE = ("tlp_runtime", "tlp_train.network")


def bare_packages() -> tuple[str, ...]:
    """Make modules of the two packages importable without what the packages import themselves.

    A package that is imported already is left as it is. Returns what was stood in for, which
    belongs into the record of a run.
    """
    done = []
    for name in BARE:
        if name in sys.modules:
            continue
        spec = importlib.util.find_spec(name)
        if spec is None:
            raise ModuleNotFoundError(f"{name} is not on PYTHONPATH; add the toolkit's folder")
        package = importlib.util.module_from_spec(spec)  # found, with its path, and not run
        if name == "tlp_train.network":
            package.__dict__["__getattr__"] = _generator
        sys.modules[name] = package
        done.append(f"{name} without its __init__")
    if importlib.util.find_spec("platformdirs") is None:
        # TLP_HOME is set, so it is never asked.
        empty = importlib.util.module_from_spec(ModuleSpec("platformdirs", None))
        sys.modules["platformdirs"] = empty
        done.append("platformdirs, empty")
    return tuple(done)


def _generator(attribute: str) -> Any:
    """``from tlp_train.network import Generator``, and nothing else of it."""
    if attribute == "Generator":
        return importlib.import_module("tlp_train.network.generator").Generator
    raise AttributeError(f"tlp_train.network, bare, has no {attribute}")
