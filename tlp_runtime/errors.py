"""Everything that can go wrong, in one tree.

A message says what was got, what was expected and what to do. ``exit_code`` is the process
exit status of the command line; it is part of the public contract and never reused.

::

    TLPError
    +-- UsageError            2  options that cannot go together
    +-- InputError            3  the images given
    |   +-- InputMissing
    |   +-- InputUnreadable
    |   |   +-- InputTooLarge
    |   +-- GeometryError
    |   +-- ContentError
    |       +-- UnknownLabels
    +-- ModelError            4  bundles, checkpoints, runs, specs
    |   +-- ModelMissing
    |   +-- ModelDamaged
    |   +-- ModelMismatch
    |   +-- UnsafeCheckpoint
    |   +-- SpecError
    +-- DeviceError           5  devices, engines, libraries
    |   +-- DeviceUnavailable
    |   +-- EngineError
    |   +-- DependencyMissing
    |   +-- DependencyConflict
    +-- MemoryExhausted       6
    +-- ParityError           7  an exported graph that differs from its checkpoint
    +-- CasesFailed           8  some cases of a batch; the others are done
    +-- OutputError           9
        +-- NoSpace
"""

from __future__ import annotations


def first_line(error: Exception) -> str:
    """What another library's error says, in short: its first line, else its kind."""
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


class TLPError(Exception):
    """Base of every error that is the user's to mend, not ours."""

    exit_code = 1


class UsageError(TLPError):
    """Options that are wrong in themselves or cannot go together."""

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
    """A label map whose numbers mean nothing until somebody says what."""


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
    """Libraries are installed that overwrite each other."""


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
