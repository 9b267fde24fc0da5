"""Fixes in the words of the command line: flags, pip lines, verbs."""

from __future__ import annotations

import shlex

from tlp_export.options import ExportOptions
from tlp_runtime.bench import BenchOptions, SweepOptions
from tlp_runtime.cohort.options import CohortOptions
from tlp_runtime.engines.choice import EngineChoice
from tlp_runtime.engines.options import EngineOptions
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
from tlp_runtime.io.datasets import DataOptions
from tlp_runtime.options import OptionGroup, options_of
from tlp_runtime.spec.model import IntensitySpec
from tlp_runtime.synthesis.request import Prompt, Request
from tlp_runtime.synthesis.result import SaveOptions
from tlp_runtime.warnings import TLPWarning
from tlp_server.settings import Settings
from tlp_train.config import TrainConfig
from tlp_train.networks.registry import NetworkChoice
from tlp_train.networks.tlp.options import TLPOptions
from tlp_train.split import SplitOptions

from .options import flag as flag_of

GROUPS: tuple[type[OptionGroup], ...] = (
    Request, Prompt, EngineChoice, SaveOptions, CohortOptions, BenchOptions, SweepOptions,
    EngineOptions, ExportOptions, DataOptions, SplitOptions, TrainConfig,
    NetworkChoice, TLPOptions, IntensitySpec, Settings,
)  # fmt: skip
"""Every group of options that a verb has."""

_OPTIONS = {one.name: one for group in GROUPS for one in options_of(group)}

FLAGS = {
    name: " or ".join(flag_of(form.name) for form in one.forms) for name, one in _OPTIONS.items()
}
"""Flags of the library's options."""

NEGATIVE = {
    name: flag_of(f"no_{one.forms[0].name}")
    for name, one in _OPTIONS.items()
    if one.default is True
}
"""Switches that are on unless such a flag is given."""


def flag(option: str) -> str:
    """The flag of a library option."""
    return FLAGS.get(option, flag_of(option))


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
