"""Where the voxels of a NIfTI file lie: its sform, else its qform, and what is wrong in them."""

from __future__ import annotations

import nibabel as nib
import numpy as np
from numpy.typing import NDArray

from tlp_runtime.errors import GeometryError
from tlp_runtime.geometry.grid import Grid, spacing_text
from tlp_runtime.warnings import FORM_BROKEN, FORMS_DIFFER, SPACING_IMPLAUSIBLE, TLPWarning

FORMS_TOLERANCE_MM = 0.5
QUATERNION_TOLERANCE = 5e-6
"""How much b² + c² + d² may exceed 1 by rounding of the file's numbers."""
PLAUSIBLE_SPACING_MM = (0.05, 20.0)
"""Voxel sizes of brain scans; others are lengths in another unit."""
_CODES = range(6)
_LENGTHS = {1: "metres", 3: "micrometres"}
"""Units that the header can name besides millimetres (2) and none (0)."""

Form = NDArray[np.float64] | str | None
"""An affine, why there is none, or None where the form is not set."""


def find_place(
    fields: nib.Nifti1Header, shape: tuple[int, ...], name: str, assumed: list[str]
) -> tuple[NDArray[np.float64], list[TLPWarning]]:
    """The affine of a volume, and what is doubtful about it.

    The sform places the voxels, where there is none the qform; one that is broken counts as none.

    Parameters
    ----------
    fields
        The header; voxel sizes and qfac that the other fields make up for are set right in it.
    assumed
        Receives what was taken in place of a wrong field.

    Raises
    ------
    GeometryError
        Not a 3-D image, an affine that places nothing, no affine at all, one in other units than
        millimetres, or an sform and a qform that disagree on which way the axes run.
    """
    _require_millimetres(fields, name)
    forms = {"sform": _sform(fields), "qform": _qform(fields)}
    whole = {form: affine for form, affine in forms.items() if isinstance(affine, np.ndarray)}
    broken = {form: problem for form, problem in forms.items() if isinstance(problem, str)}
    if not whole:
        raise _no_place(name, broken)
    used, affine = next(iter(whole.items()))
    while len(shape) > 3 and shape[-1] == 1:
        shape = shape[:-1]
    grids = {form: _grid(shape, placed, name) for form, placed in whole.items()}
    doubts = [
        FORM_BROKEN.warning(
            f"{name}: its {form} is broken ({problem}); the {used} is used.", form=form
        )
        for form, problem in broken.items()
    ]
    if len(grids) == 2:
        doubts += _require_agreement(grids["sform"], grids["qform"], name)
    doubts += _check_codes(fields, name, agree=len(grids) == 2 and not doubts)
    spacing = grids[used].spacing_mm
    least, most = PLAUSIBLE_SPACING_MM
    if min(spacing) < least or max(spacing) > most:
        doubts.append(
            SPACING_IMPLAUSIBLE.warning(
                f"{name}: its voxels are {spacing_text(spacing)} mm, expected {least:g} to "
                f"{most:g}; are its lengths in another unit?",
                smallest_mm=min(spacing),
                largest_mm=max(spacing),
            )
        )
    _set_sizes(fields, spacing, used, assumed, reported="qform" in broken)
    return affine, doubts


def _require_millimetres(fields: nib.Nifti1Header, name: str) -> None:
    code = int(fields["xyzt_units"]) & 7
    if code in _LENGTHS:
        raise GeometryError(
            f"{name}: its header gives lengths in {_LENGTHS[code]}, expected mm.",
            fix="Convert it first.",
        )
    if code not in (0, 2):
        raise GeometryError(
            f"{name}: xyzt_units is {int(fields['xyzt_units'])} in its NIfTI header, which names "
            "no unit of length.",
            fix=(
                "Check the voxel sizes, then set it to 2, for mm (nifti_tool -mod_hdr -mod_field "
                "xyzt_units 2)."
            ),
        )


def _sform(fields: nib.Nifti1Header) -> Form:
    if not int(fields["sform_code"]):
        return None
    affine: NDArray[np.float64] = fields.get_sform()
    if not np.isfinite(affine).all():
        return "it holds values that are not finite"
    if abs(np.linalg.det(affine[:3, :3])) < 1e-9:
        return "its rows do not span three dimensions"
    return affine


def _qform(fields: nib.Nifti1Header) -> Form:
    if not int(fields["qform_code"]):
        return None
    quaternion = np.array([fields[f"quatern_{axis}"] for axis in "bcd"], np.float64)
    square = float(quaternion @ quaternion)
    if not square <= 1 + QUATERNION_TOLERANCE:
        return f"its quaternion has b² + c² + d² = {square:.6g}, expected at most 1"
    sizes = np.array(fields["pixdim"][1:4], np.float64)
    if not ((sizes > 0) & np.isfinite(sizes)).all():
        return f"pixdim is {spacing_text(tuple(sizes))}, expected voxel sizes above 0 mm"
    qfac = float(fields["pixdim"][0])
    if qfac not in (-1, 0, 1):
        return f"pixdim[0] (qfac) is {qfac:g}, expected 1 or -1"
    if not np.isfinite([float(fields[f"qoffset_{axis}"]) for axis in "xyz"]).all():
        return "its offset is not finite"
    unit = fields.copy()
    unit["pixdim"][0] = qfac or 1  # 0 stands for 1, by the standard
    try:
        affine: NDArray[np.float64] = unit.get_qform()
    except ValueError:  # above 1 by more than nibabel allows
        for axis, value in zip("bcd", quaternion / np.sqrt(square), strict=True):
            unit[f"quatern_{axis}"] = value
        affine = unit.get_qform()
    return affine


def _no_place(name: str, broken: dict[str, str]) -> GeometryError:
    if broken:
        said = " and ".join(f"its {form} is broken ({why})" for form, why in broken.items())
        return GeometryError(
            f"{name}: {said}, so the place of its voxels is unknown.",
            fix="Convert it again from the original scan.",
        )
    return GeometryError(
        f"{name}: neither sform nor qform is set (both codes are 0), so left and right are "
        "unknown.",
        fix=(
            "Convert the scan again, or set the code once you have checked its orientation "
            "(nifti_tool -mod_hdr -mod_field sform_code 1, or fslorient)."
        ),
    )


def _grid(shape: tuple[int, ...], affine: NDArray[np.float64], name: str) -> Grid:
    try:
        return Grid(shape, affine)  # type: ignore[arg-type]
    except GeometryError as error:
        raise GeometryError(f"{name}: {error.problem}", fix=error.fixes) from None


def _require_agreement(sform: Grid, qform: Grid, name: str) -> list[TLPWarning]:
    if sform.orientation != qform.orientation:
        raise GeometryError(
            f"{name}: sform and qform disagree on which way the axes run ({sform.orientation} "
            f"against {qform.orientation}): programs would show left and right, or more, "
            "exchanged.",
            fix="Remove the wrong one (fslorient -copysform2qform or -copyqform2sform).",
        )
    apart = float(np.abs(sform.corners_ras - qform.corners_ras).max())
    if apart <= FORMS_TOLERANCE_MM:
        return []
    angle = sform.angle_to(qform)
    return [
        FORMS_DIFFER.warning(
            f"{name}: sform and qform place its corners up to {apart:.2f} mm apart (axes "
            f"turned by {angle:.2f} degrees); the sform is used.",
            distance_mm=round(apart, 3),
            angle_degrees=round(angle, 3),
        )
    ]


def _check_codes(fields: nib.Nifti1Header, name: str, *, agree: bool) -> list[TLPWarning]:
    """Refuse codes without a meaning, unless both forms place the voxels alike."""
    doubts = []
    for form in ("sform", "qform"):
        code = int(fields[f"{form}_code"])
        if code not in _CODES:
            problem = f"{form}_code is {code}, expected 0 to {_CODES[-1]}"
            if not agree:
                raise GeometryError(
                    f"{name}: {problem}, so it is unknown what its {form} places.",
                    fix="Convert it again from the original scan.",
                )
            doubts.append(
                FORM_BROKEN.warning(
                    f"{name}: {problem}; sform and qform agree and are used.", form=form
                )
            )
    return doubts


def _set_sizes(
    fields: nib.Nifti1Header,
    spacing: tuple[float, float, float],
    used: str,
    assumed: list[str],
    *,
    reported: bool,
) -> None:
    """Set qfac and voxel sizes that cannot be to what the affine says, as outputs repeat them."""
    pixdim = fields["pixdim"]
    if float(pixdim[0]) not in (-1, 1):
        pixdim[0] = 1
    sizes = np.array(pixdim[1:4], np.float64)
    if not ((sizes > 0) & np.isfinite(sizes)).all():
        if not reported:
            assumed.append(
                f"pixdim is {spacing_text(tuple(sizes))}, expected voxel sizes above 0 mm; those "
                f"of the {used}, {spacing_text(spacing)}, are used"
            )
        pixdim[1:4] = spacing
