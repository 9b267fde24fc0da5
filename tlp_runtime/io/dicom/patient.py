"""Whether DICOM images that are used together are of one patient and study."""

from __future__ import annotations

from collections.abc import Mapping

from tlp_runtime.io.dicom.series import DicomSeries
from tlp_runtime.io.dicom.values import text
from tlp_runtime.warnings import PATIENTS_DIFFER, STUDIES_DIFFER, TLPWarning

_IDENTITY = ("PatientID", "IssuerOfPatientID", "PatientBirthDate")


def patient_doubts(series: Mapping[str, DicomSeries]) -> tuple[TLPWarning, ...]:
    """What speaks against images being of one patient and one study.

    An attribute that an image lacks says nothing. Warnings name attributes, not their values,
    which are personal.

    Parameters
    ----------
    series
        By modality; of a series, every image counts.
    """
    whose = " and ".join(series) if len(series) > 1 else f"images of {next(iter(series), '')}"
    found = []
    by_id = all(_values(one, "PatientID") for one in series.values())
    identity = _IDENTITY if by_id else (*_IDENTITY, "PatientName")
    differing = [keyword for keyword in identity if _differ(series, keyword)]
    if differing:
        found.append(
            PATIENTS_DIFFER.warning(
                f"{whose} differ in {' and '.join(differing)}: they seem to be of different "
                "patients.",
                fix="Give images of one patient.",
                attributes=", ".join(differing),
            )
        )
    if _differ(series, "StudyInstanceUID"):
        found.append(
            STUDIES_DIFFER.warning(
                f"{whose} are from different studies: the patient may have changed in between.",
                fix="Give images of one study.",
            )
        )
    return tuple(found)


def _differ(series: Mapping[str, DicomSeries], keyword: str) -> bool:
    return len(set().union(*(_values(one, keyword) for one in series.values()))) > 1


def _values(series: DicomSeries, keyword: str) -> set[str]:
    """The values of an attribute in the images of a series, in one spelling."""
    found = {text(header, keyword).casefold().rstrip("^= ") for header in series.headers}
    return found - {""}
