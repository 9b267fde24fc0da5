"""Everything that can go wrong, in one tree; and what to do about it, as data.

An error is a problem (what was found, what was expected) and fixes. A fix is data: the command
line, the HTTP API and the viewer's page each word it for their own users, so no message of this
package names a command-line option. ``exit_code`` is the process exit status of the command line;
it is part of the public contract and never reused.

::

    TLPError
    +-- UsageError            2  options that cannot be combined
    +-- InputError            3  the images given
    |   +-- InputMissing
    |   +-- InputUnreadable
    |   |   +-- InputTooLarge
    |   +-- GeometryError
    |   +-- ContentError
    |   |   +-- NotLabels
    |   |   +-- UnknownLabels
    |   +-- InputDoubtful        a warning that was made an error
    +-- ModelError            4  bundles, checkpoints, runs, specifications
    |   +-- ModelMissing
    |   +-- ModelDamaged
    |   +-- ModelMismatch
    |   +-- UnsafeCheckpoint
    |   +-- SpecError
    |   +-- TrainingDiverged
    +-- DeviceError           5  devices, engines, libraries
    |   +-- DeviceUnavailable
    |   +-- EngineError
    |   +-- DependencyMissing
    |   +-- DependencyConflict
    +-- MemoryExhausted       6
    +-- ParityError           7  an exported graph that differs from its checkpoint
    +-- CasesFailed           8  some cases of a batch; the others are done
    +-- OutputError           9
    |   +-- NoSpace
    +-- RequestError             what a server refuses; never leaves it
        +-- SessionGone
        +-- SessionsFull
        +-- Forbidden
        |   +-- ForeignOrigin
        +-- UnknownHost
        +-- TokenNeeded
        +-- RequestTooLarge
        +-- RequestTooSlow
        +-- OutOfStep
        +-- Unfinished
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class Advice:
    """What to do, as a sentence that holds wherever it is read."""

    text: str

    def __str__(self) -> str:
        return self.text


@dataclass(frozen=True)
class Install:
    """Install packages with pip.

    Parameters
    ----------
    requirements
        As pip takes them, such as ``tlp-mri[gpu]``.
    remove
        Packages to uninstall first.
    again
        The packages are installed but broken.
    purpose
        When this is the fix, such as ``for NVIDIA GPUs``; empty where it is the only one.
    """

    requirements: tuple[str, ...]
    remove: tuple[str, ...] = ()
    again: bool = False
    purpose: str = ""

    def __str__(self) -> str:
        first = f"Uninstall {' and '.join(self.remove)}, then install" if self.remove else "Install"
        again = " again" if self.again else ""
        return f"{first} {' and '.join(self.requirements)}{again}{_after(self.purpose)}."


@dataclass(frozen=True)
class SetOption:
    """Set an option of the call.

    Parameters
    ----------
    option
        Its name in the library, such as ``brain_mask``.
    value
        What to set it to; empty for a switch, or where the user knows.
    purpose
        What that does, such as ``to replace it``.
    """

    option: str
    value: str = ""
    purpose: str = ""

    def __str__(self) -> str:
        value = f" to {self.value}" if self.value else ""
        return f"Set {self.option}{value}{_after(self.purpose)}."


@dataclass(frozen=True)
class ChooseAnother:
    """Choose another value for an option.

    Parameters
    ----------
    option
        Its name in the library, such as ``out``.
    what
        What it is, such as ``output folder``.
    purpose
        What to look for in the other one.
    """

    option: str
    what: str
    purpose: str = ""

    def __str__(self) -> str:
        return f"Choose another {self.what}{_after(self.purpose)}."


@dataclass(frozen=True)
class RunTask:
    """Run a task of the toolkit, or of another program.

    Parameters
    ----------
    task
        Such as ``export``, or ``models default``.
    options
        (name, value) of each option; an empty value for a switch.
    purpose
        What that does.
    program
        Whose task it is.
    arguments
        What it is applied to, such as a model's name.
    """

    task: str
    options: tuple[tuple[str, str], ...] = ()
    purpose: str = ""
    program: str = "tlp"
    arguments: tuple[str, ...] = ()

    def __str__(self) -> str:
        named = [f"{name} {value}".strip() for name, value in self.options]
        given = ", ".join((*self.arguments, *named))
        of = f" of {self.program}" if self.program != "tlp" else ""
        options = f" with {given}" if given else ""
        return f"Run the task {self.task}{of}{options}{_after(self.purpose)}."


Fix = Advice | Install | SetOption | ChooseAnother | RunTask

GivenFixes = Fix | str | Iterable[Fix | str]
"""How fixes are passed: one or several, a sentence standing for :class:`Advice`."""

_KINDS = {
    Advice: "advice",
    Install: "install",
    SetOption: "set-option",
    ChooseAnother: "choose-another",
    RunTask: "run-task",
}


def fix_to_dict(fix: Fix) -> dict[str, Any]:
    """Plain values: ``kind`` and the fix's own fields."""
    return {"kind": _KINDS[type(fix)], **asdict(fix)}


def as_fixes(given: GivenFixes) -> tuple[Fix, ...]:
    """Fixes as they are kept."""
    several = (given,) if isinstance(given, str | Fix) else tuple(given)
    return tuple(Advice(one) if isinstance(one, str) else one for one in several)


def joined(problem: str, sentences: Iterable[str], between: str = " ") -> str:
    """A problem and worded fixes as one message; ``between`` stands before each fix."""
    said = [sentence for sentence in sentences if sentence]
    if not said:
        return problem
    if "\n" in problem:  # it ends in a list
        return "\n".join([problem, between.join(said).strip()])
    stop = "" if problem.endswith((".", "?", "!", "…", ":")) else "."
    return between.join([f"{problem}{stop}", *said])


def first_line(error: Exception) -> str:
    """The first line of another library's error, or its type where it has no text."""
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


class TLPError(Exception):
    """Base of every error that its user can fix.

    Parameters
    ----------
    problem
        What was found and what was expected.
    fix
        What to do: one fix or several.

    Attributes
    ----------
    fixes
        The fixes as a tuple.
    """

    exit_code = 1

    def __init__(self, problem: str, *, fix: GivenFixes = ()) -> None:
        super().__init__(problem)
        self.problem = problem
        self.fixes = as_fixes(fix)

    def __str__(self) -> str:
        return joined(self.problem, map(str, self.fixes))


class UsageError(TLPError):
    """Options that are wrong in themselves or cannot be combined."""

    exit_code = 2


class InputError(TLPError):
    """An input image, prompt or data set cannot be used."""

    exit_code = 3


class InputMissing(InputError):
    """A file or folder that was named does not exist."""


class InputUnreadable(InputError):
    """A file exists but is damaged or of another format."""


class InputTooLarge(InputUnreadable):
    """A file is, or unpacks to, more than what was allowed."""


class GeometryError(InputError):
    """Shape, spacing, orientation or place is not what is needed."""


class ContentError(InputError):
    """The geometry is right, the voxel values are not."""


class UnknownLabels(ContentError):
    """A label map whose numbers have no known meaning."""


class NotLabels(ContentError):
    """An image in the place of a label map."""


class InputDoubtful(InputError):
    """A case with a warning about its scan, where such warnings are errors."""


class ModelError(TLPError):
    """A model cannot be used."""

    exit_code = 4


class ModelMissing(ModelError):
    """No model, run or checkpoint where one was looked for."""


class ModelDamaged(ModelError):
    """Files of a model are missing, altered or unreadable."""


class ModelMismatch(ModelError):
    """A sound model, but for other inputs or another purpose."""


class UnsafeCheckpoint(ModelError):
    """A checkpoint that holds more than tensors and plain values; it was not executed."""


class SpecError(ModelError):
    """A model specification that is malformed or of an unknown schema."""


class TrainingDiverged(ModelError):
    """A loss or a weight of a training is not finite; nothing of that was saved."""


class DeviceError(TLPError):
    """The device, an engine or a library it needs cannot be used."""

    exit_code = 5


class DeviceUnavailable(DeviceError):
    """A device was asked for that is not there."""


class EngineError(DeviceError):
    """An engine failed to load or to run."""


class DependencyMissing(DeviceError):
    """An optional library is not installed."""


class DependencyConflict(DeviceError):
    """Libraries are installed that overwrite each other, or that lack files of their own."""


class MemoryExhausted(TLPError):
    """The host or device ran out of memory."""

    exit_code = 6


class ParityError(TLPError):
    """An exported model's values differ from its reference by more than the bound."""

    exit_code = 7


class CasesFailed(TLPError):
    """Some cases of a batch failed; the others are done."""

    exit_code = 8


class OutputError(TLPError):
    """An output cannot be written, or exists and may not be replaced."""

    exit_code = 9


class NoSpace(OutputError):
    """The disk is full or read-only, so that nothing more can be written at all."""


class RequestError(TLPError):
    """A request that a server refuses for what it is, not for the case in it."""


class SessionGone(RequestError):
    """No session of that name: it ended, was idle for too long, or the server was restarted."""


class SessionsFull(RequestError):
    """There is no room for another session now."""


class Forbidden(RequestError):
    """A file or page that clients may not reach."""


class ForeignOrigin(Forbidden):
    """A request from another site's page."""


class UnknownHost(RequestError):
    """A request that addresses the server by a name that is not its own."""


class TokenNeeded(RequestError):
    """A request without the server's token, or with a wrong one."""


class RequestTooLarge(RequestError):
    """A request with a larger body than the server takes."""


class RequestTooSlow(RequestError):
    """A request whose body did not arrive in time."""


class OutOfStep(RequestError):
    """A stroke that does not follow the last one.

    Parameters
    ----------
    revision
        The revision of the mask that the server holds.
    """

    def __init__(self, problem: str, *, revision: int = 0, fix: GivenFixes = ()) -> None:
        super().__init__(problem, fix=fix)
        self.revision = revision


class Unfinished(RequestError):
    """A synthesis with slices still to be run, which must not be saved yet."""


def _after(purpose: str) -> str:
    return f" {purpose}" if purpose else ""
