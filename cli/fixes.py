"""Fixes in the words of the command line: flags, pip lines, verbs."""

from __future__ import annotations

import shlex

from tlp_runtime.errors import (
    Advice,
    ChooseAnother,
    Fix,
    Install,
    RunTask,
    SetOption,
    TLPError,
    joined,
)
from tlp_runtime.warnings import TLPWarning

FLAGS = {
    "allow_origins": "--allow-origin",
    "allowed_hosts": "--allowed-host",
    "max_upload_mib": "--max-upload",
    "max_volume_mib": "--max-volume",
    "memory_mib": "--memory",
    "series": "--t1-series (or --t2-series)",
    "timeout_s": "--timeout",
}
"""Flags of library options that are called otherwise here."""

NEGATIVE = {"build": "--no-build"}
"""Switches that are on unless such a flag is given."""


def flag(option: str) -> str:
    """The flag of a library option."""
    return FLAGS.get(option, f"--{option.replace('_', '-')}")


def worded(fix: Fix) -> str:
    """A fix as a sentence for somebody at a command line."""
    match fix:
        case Advice(text):
            return text
        case Install(purpose=purpose) if purpose:
            return f"{purpose[0].upper()}{purpose[1:]}: {line(fix)}"
        case Install(remove=remove, again=again):
            verb = "Run" if remove else "Install it again with" if again else "Install it with"
            return f"{verb}: {line(fix)}"
        case SetOption(option, _, purpose) if option in NEGATIVE:
            return _sentence(f"Leave out {NEGATIVE[option]}", purpose)
        case SetOption(option, value, purpose) if " " in value:
            return _sentence(f"Set {flag(option)} to {value}", purpose)
        case SetOption(purpose=purpose):
            return _sentence(f"Use {line(fix)}", purpose)
        case ChooseAnother(option, _, purpose):
            return _sentence(f"Choose another {flag(option)}", purpose)
        case RunTask(purpose=purpose):
            return _sentence(f"Run {line(fix)}", purpose)


def line(fix: Fix) -> str:
    """A fix as what is typed; the sentence where nothing can be typed."""
    match fix:
        case Install(requirements, remove, again):
            first = f"pip uninstall -y {' '.join(remove)}, then " if remove else ""
            force = "--force-reinstall " if again else ""
            quoted = " ".join(f"'{name}'" if _special(name) else name for name in requirements)
            return f"{first}pip install {force}{quoted}"
        case SetOption(option, value) if option not in NEGATIVE:
            return f"{flag(option)} {value}".rstrip()
        case RunTask(task, options, program=program, arguments=arguments):
            given = [word for name, value in options for word in (flag(name), value) if word]
            return shlex.join([program, *task.split(), *arguments, *given])
        case _:
            return worded(fix)


def message_of(error: TLPError) -> str:
    """An error's problem and its fixes, several of them each on a line of its own."""
    between = " " if len(error.fixes) < 2 else "\n  "
    return joined(error.problem, map(worded, error.fixes), between)


def warning_text(warning: TLPWarning) -> str:
    """A warning and its fixes."""
    return joined(warning.text, map(worded, warning.fixes))


def _special(name: str) -> bool:
    """Whether a shell would read more than the name."""
    return bool(set(name) & set("[]<>=!~ "))


def _sentence(text: str, purpose: str) -> str:
    return f"{text} {purpose}".rstrip() + "."
