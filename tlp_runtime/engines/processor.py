"""The CPU: its name, and what it can compute in."""

from __future__ import annotations

import functools
import hashlib
import os
import platform
from pathlib import Path

_INFO = Path("/proc/cpuinfo")


@functools.cache
def processor() -> dict[str, str]:
    """The CPU's ``name``, and a hash of its ``features``, which decide what libraries run on it."""
    fields = _fields()
    name = fields.get("model name") or platform.processor() or platform.machine()
    features = fields.get("flags") or fields.get("Features") or platform.machine()
    return {"cpu": name, "features": hashlib.sha256(features.encode()).hexdigest()[:16]}


def cores() -> int:
    """CPUs that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _fields() -> dict[str, str]:
    """What Linux says of the first core; nothing on other systems."""
    try:
        first = _INFO.read_text(encoding="utf-8", errors="replace").split("\n\n")[0]
    except OSError:
        return {}
    pairs = (line.partition(":") for line in first.splitlines())
    return {name.strip(): value.strip() for name, _, value in pairs}
