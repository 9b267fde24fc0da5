"""What may be wrong, as data: a code, a text, its numbers.

A warning is made where the doubt arises and travels with the record it is about: the volume that
was read, the prepared case, the synthesis, its provenance, the journal, the HTTP API. Nothing in
this package prints it or searches its text.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from tlp_runtime.errors import Fix, GivenFixes, InputDoubtful, as_fixes, fix_to_dict, joined

Kind = Literal["input", "operational"]


@dataclass(frozen=True)
class WarningCode:
    """A warning that this package knows.

    Parameters
    ----------
    name
        Part of the public contract and never reused.
    kind
        ``input``: about the scan, so that the result may be wrong; ``operational``: about the
        run, the result is the same.
    meaning
        One line for tables.
    """

    name: str
    kind: Kind
    meaning: str

    def warning(self, text: str, *, fix: GivenFixes = (), **numbers: float | str) -> TLPWarning:
        """A warning with this code."""
        return TLPWarning(self, text, numbers, as_fixes(fix))


@dataclass(frozen=True)
class TLPWarning:
    """One warning.

    Parameters
    ----------
    code
        Its registered code.
    text
        What was found and what was expected, as a sentence.
    numbers
        The same as values by name, units in the names.
    fixes
        What to do if the doubt is justified.
    """

    code: WarningCode
    text: str
    numbers: Mapping[str, float | str] = field(default_factory=dict)
    fixes: tuple[Fix, ...] = ()

    @property
    def kind(self) -> Kind:
        """Whether it is about the scan or about the run."""
        return self.code.kind

    def __str__(self) -> str:
        return joined(self.text, map(str, self.fixes))

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "code": self.code.name,
            "kind": self.kind,
            "text": self.text,
            "numbers": dict(self.numbers),
            "fixes": [fix_to_dict(fix) for fix in self.fixes],
        }


Warn = Callable[[TLPWarning], None]
"""Takes a warning the moment it arises."""


class WarningLog:
    """Warnings in the order in which they arose.

    Parameters
    ----------
    listener
        Called with each warning the moment it is added.
    """

    def __init__(self, listener: Warn | None = None) -> None:
        self._warnings: list[TLPWarning] = []
        self._listener = listener

    def add(self, warning: TLPWarning) -> None:
        """Keep a warning, and pass it to the listener."""
        self._warnings.append(warning)
        if self._listener is not None:
            self._listener(warning)

    def __iter__(self) -> Iterator[TLPWarning]:
        return iter(tuple(self._warnings))

    def __len__(self) -> int:
        return len(self._warnings)


CODES: dict[str, WarningCode] = {}
"""Every code by its name."""


def register(name: str, kind: Kind, meaning: str) -> WarningCode:
    """Make a code known.

    Raises
    ------
    ValueError
        The name is taken.
    """
    if name in CODES:
        raise ValueError(f"the warning code {name} is registered already")
    CODES[name] = WarningCode(name, kind, meaning)
    return CODES[name]


def require_no_doubt(warnings: Iterable[TLPWarning]) -> None:
    """Raise if any of the warnings is about the scan.

    Raises
    ------
    InputDoubtful
        With every such warning, and their fixes.
    """
    doubts = [warning for warning in warnings if warning.kind == "input"]
    if doubts:
        texts = "\n".join(f"  {doubt.text} ({doubt.code.name})" for doubt in doubts)
        raise InputDoubtful(
            f"the scan raises {len(doubts)} warning(s), which are errors here:\n{texts}",
            fix=tuple(dict.fromkeys(fix for doubt in doubts for fix in doubt.fixes)),
        )


BRAIN_TOO_LARGE = register("brain-too-large", "input", "More tissue than a bare brain has: skull?")
SKULL = register("skull", "input", "A head with its skull.")
BRAIN_TOO_SMALL = register("brain-too-small", "input", "Less tissue than a whole brain has.")
OTHER_CONTRAST = register("other-contrast", "input", "Voxel values of another MR contrast.")
UNLIKE_TRAINING = register("unlike-training", "input", "Brightness unlike the training volumes'.")
BACKGROUND_SHIFTED = register("background-shifted", "input", "A background other than 0.")
LARGER_THAN_CROP = register("larger-than-crop", "input", "A brain larger than the model's crop.")
FORMS_DIFFER = register("forms-differ", "input", "NIfTI sform and qform disagree.")
SERIES_INCOMPLETE = register("series-incomplete", "input", "Files or slices of a series left out.")
INSTANCES_SKIPPED = register("instances-skipped", "input", "Gaps in a series' instance numbers.")
NO_FRAME_OF_REFERENCE = register(
    "no-frame-of-reference", "input", "A DICOM file that names no frame of reference."
)
FRAMES_DIFFER = register("frames-differ", "input", "Images of different frames of reference.")
EMPTY_PROMPT = register("empty-prompt", "input", "A prompt that marks nothing in the brain.")
PROMPT_CHANGED = register(
    "prompt-changed", "input", "A prompt of another volume on the scan than in its file."
)
FAINT_SEGMENTATION = register(
    "faint-segmentation", "input", "A fractional segmentation that nowhere reaches a half."
)
SIDECAR_UNREADABLE = register("sidecar-unreadable", "input", "A JSON sidecar that is not JSON.")
NOT_ALIGNED = register("not-aligned", "input", "T1 and T2 of two places, or of two heads.")
PATIENTS_DIFFER = register("patients-differ", "input", "DICOM images of different patients.")
STUDIES_DIFFER = register("studies-differ", "input", "DICOM images of different studies.")
FORM_BROKEN = register("form-broken", "input", "A broken NIfTI sform or qform, left out.")
HEADER_REPAIRED = register(
    "header-repaired", "input", "A wrong NIfTI field, made up for by others."
)
SPACING_IMPLAUSIBLE = register("spacing-implausible", "input", "Voxel sizes no brain scan has.")
CONTRAST_AGENT = register("contrast-agent", "input", "The scan names a contrast agent.")

ATTRIBUTES_DROPPED = register("attributes-dropped", "operational", "Invalid DICOM attributes.")
BATCH_HALVED = register("batch-halved", "operational", "Device memory ran out; smaller batches.")
ENGINE_BUILT = register("engine-built", "operational", "No stored engine fitted; one was built.")
ENGINE_UNPROVEN = register("engine-unproven", "operational", "A bundle without a proof slice.")
PRECISION_SLOW = register(
    "precision-slow", "operational", "A precision that the processor does not compute in."
)
BUILD_AWAITED = register("build-awaited", "operational", "Another process builds the same engine.")
CACHE_NOT_KEPT = register("cache-not-kept", "operational", "A cache could not be written.")
NO_CUDA_GRAPHS = register("no-cuda-graphs", "operational", "CUDA graphs fail; runs are slower.")
LAYERS_UNKNOWN = register("layers-unknown", "operational", "TensorRT does not report layer types.")
SPEC_NEWER = register("spec-newer", "operational", "A specification of a newer minor version.")
MANIFEST_NEWER = register("manifest-newer", "operational", "A bundle of a newer minor version.")
COLUMNS_UNUSED = register("columns-unused", "operational", "Columns of a table that are not used.")
SEEN_IN_TRAINING = register(
    "seen-in-training", "input", "Cases of an evaluation that the model was trained or chosen on."
)
BRAIN_MASK_MISSING = register("brain-mask-missing", "operational", "Scans without a brain mask.")
PROMPT_MISSING = register("prompt-missing", "operational", "Scans of a dataset without a prompt.")
JOURNAL_CUT = register("journal-cut", "operational", "The last line of a journal was cut short.")
ENGINE_LOST = register("engine-lost", "operational", "An engine failed; the others go on.")
WORKER_LOST = register("worker-lost", "operational", "A cluster worker died or was given up.")
