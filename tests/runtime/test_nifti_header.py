"""NIfTI headers with a wrong field: read where the rest of the file is certain, else refused."""

from __future__ import annotations

import gzip
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

from tlp_runtime.errors import GeometryError, InputError, InputMissing, InputUnreadable
from tlp_runtime.geometry.volume import Volume
from tlp_runtime.io.nifti import nifti_bytes, parse_volume, read_volume, write_volume

DATA = np.arange(5 * 6 * 7, dtype=np.int16).reshape(5, 6, 7)
AFFINE = np.diag([-3.0, -3.0, 6.0, 1.0])
AFFINE[:3, 3] = [10, 20, -5]
EVERY_KIND = [(kind, order) for kind in (nib.Nifti1Image, nib.Nifti2Image) for order in "<>"]
FIRST = {nib.Nifti1Image: 352, nib.Nifti2Image: 544}


def content_of(
    kind: Any = nib.Nifti1Image, order: str = "<", *, sform: int = 1, qform: int = 1
) -> bytearray:
    """A sound file: int16 voxels of 3 x 3 x 6 mm."""
    image = kind(DATA, None, kind.header_class(endianness=order))
    image.set_data_dtype(np.int16)
    image.set_sform(AFFINE, sform)
    image.set_qform(AFFINE, qform)
    image.header.set_xyzt_units("mm")
    return bytearray(image.to_bytes())


def change(
    content: bytearray, kind: Any = nib.Nifti1Image, order: str = "<", **fields: Any
) -> bytearray:
    """Change fields of a header in place, whatever sense they make."""
    header = np.ndarray((), kind.header_class.template_dtype.newbyteorder(order), content)
    for name, value in fields.items():
        if isinstance(value, dict):  # some entries of the field
            for index, entry in value.items():
                header[name][index] = entry
        else:
            header[name] = value
    return content


def read_by_all_ways(content: bytes | bytearray, folder: Path) -> list[Volume]:
    """A file's volume as .nii, as .nii.gz and as an upload; or the error, the same by each."""
    plain, packed = folder / "a.nii", folder / "a.nii.gz"
    plain.write_bytes(content)
    packed.write_bytes(gzip.compress(bytes(content)))
    found: list[Volume | InputError] = []
    ways: tuple[Callable[[], Volume], ...] = (
        lambda: read_volume(plain),
        lambda: read_volume(packed),
        lambda: parse_volume(bytes(content), "upload", limit=1 << 20),
    )
    for read in ways:
        try:
            found.append(read())
        except InputError as error:
            found.append(error)
    errors = [one for one in found if isinstance(one, InputError)]
    if errors:
        assert len(errors) == len(found)
        assert len({str(one).partition(": ")[2] for one in errors}) == 1
        raise errors[0]
    return [one for one in found if isinstance(one, Volume)]


def require_right(volume: Volume, *codes: str) -> str:
    """The voxels and their place are those of the sound file; the texts of the warnings."""
    np.testing.assert_array_equal(volume.data, DATA)
    np.testing.assert_array_equal(volume.affine, AFFINE)
    assert tuple(one.code.name for one in volume.warnings) == codes
    return " ".join(one.text for one in volume.warnings)


@pytest.mark.parametrize(("kind", "order"), EVERY_KIND)
@pytest.mark.parametrize(("sform", "qform"), [(1, 1), (4, 0), (0, 5)])
def test_a_sound_header_has_no_warning(
    tmp_path: Path, kind: Any, order: str, sform: int, qform: int
) -> None:
    for volume in read_by_all_ways(content_of(kind, order, sform=sform, qform=qform), tmp_path):
        require_right(volume)


@pytest.mark.documents(
    "File",
    "`vox_offset` 0, not a number, or within the header",
    "read with a warning where the file's length leaves one place for the voxels, else exit 3",
)
@pytest.mark.parametrize(
    ("kind", "order", "offset"),
    [(*kind, offset) for kind in EVERY_KIND for offset in (0, 1, 347, 348, 351, -352)]
    + [(nib.Nifti1Image, order, offset) for order in "<>" for offset in (np.nan, np.inf, 352.5)],
)
@pytest.mark.parametrize("after", ["the header", "four more bytes", "an extension"])
def test_a_wrong_vox_offset_is_made_up_for_by_the_length_of_the_file(
    tmp_path: Path, kind: Any, order: str, offset: float, after: str
) -> None:
    content = change(content_of(kind, order), kind, order, vox_offset=offset)
    first = FIRST[kind]
    if after == "the header":
        del content[first - 4 : first]
    if after == "an extension":
        size = np.array([32, 6], f"{order}i4").tobytes()
        content[first - 4 : first] = b"\1\0\0\0" + size + bytes(24)
    for volume in read_by_all_ways(content, tmp_path):
        text = require_right(volume, "header-repaired")
        assert f"vox_offset is {offset:g}, expected {first} or more" in text
    for more in (content + b"\0", content[:-1], content + bytes(16)):
        with pytest.raises(InputUnreadable, match=r"vox_offset is .* leaves open where"):
            read_by_all_ways(more, tmp_path)


@pytest.mark.documents(
    "File",
    "an sform and a qform, one of them broken (quaternion, `pixdim`, `qfac`, rows of 0, NaN)",
    "the other places the voxels, with a warning",
)
@pytest.mark.parametrize(("kind", "order"), EVERY_KIND)
@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"quatern_b": 0.8, "quatern_d": 0.8}, "b² \\+ c² \\+ d² = 1.28, expected at most 1"),
        ({"quatern_c": np.nan}, "b² \\+ c² \\+ d² = nan"),
        ({"quatern_d": 1.00001}, "b² \\+ c² \\+ d² = 1.00002"),
        ({"pixdim": {1: 0, 2: 0, 3: 0}}, "pixdim is 0 x 0 x 0, expected voxel sizes above 0"),
        ({"pixdim": {3: -6}}, "pixdim is 3 x 3 x -6"),
        ({"pixdim": {2: np.inf}}, "pixdim is 3 x inf x 6"),
        ({"pixdim": {0: 2}}, "qfac. is 2, expected 1 or -1"),
        ({"pixdim": {0: np.nan}}, "qfac. is nan"),
        ({"qoffset_y": np.nan}, "its offset is not finite"),
    ],
)
def test_a_broken_qform_is_left_out_with_a_warning_or_refused_where_it_is_alone(
    tmp_path: Path, kind: Any, order: str, fields: dict[str, Any], said: str
) -> None:
    content = change(content_of(kind, order), kind, order, **fields)
    for volume in read_by_all_ways(content, tmp_path):
        text = require_right(volume, "form-broken")
        assert "its qform is broken" in text
        assert "the sform is used" in text
        out = tmp_path / "out.nii"
        write_volume(volume, out, description="", overwrite=True)
        assert [one.code.name for one in read_volume(out).warnings] in (["form-broken"], [])
        np.testing.assert_array_equal(read_volume(out).affine, AFFINE)
        np.testing.assert_array_equal(nib.load(out).header.get_zooms(), [3, 3, 6])
    alone = change(content_of(kind, order, sform=0), kind, order, **fields)
    with pytest.raises(GeometryError, match=f"{said}.*the place of its voxels is unknown"):
        read_by_all_ways(alone, tmp_path)


@pytest.mark.parametrize(("kind", "order"), EVERY_KIND)
@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ({"srow_x": 0, "srow_y": 0, "srow_z": 0}, "its rows do not span three dimensions"),
        ({"srow_z": {3: np.nan}}, "it holds values that are not finite"),
    ],
)
def test_a_broken_sform_is_left_out_with_a_warning_or_refused_where_it_is_alone(
    tmp_path: Path, kind: Any, order: str, rows: dict[str, Any], said: str
) -> None:
    for volume in read_by_all_ways(change(content_of(kind, order), kind, order, **rows), tmp_path):
        assert f"its sform is broken ({said}); the qform is used" in require_right(
            volume, "form-broken"
        )
    alone = change(content_of(kind, order, qform=0), kind, order, **rows)
    with pytest.raises(GeometryError, match=f"{said}.*the place of its voxels is unknown"):
        read_by_all_ways(alone, tmp_path)


@pytest.mark.documents(
    "File",
    "a quaternion that exceeds 1 by rounding, up to 5e-6",
    "used; repeated to the bit",
)
@pytest.mark.parametrize(("kind", "order"), EVERY_KIND)
@pytest.mark.parametrize("d", [1 + 2.4e-7, 1 + 1e-6, 1 + 2e-6])
@pytest.mark.parametrize("sform", [0, 1])
def test_a_quaternion_that_exceeds_one_by_rounding_is_used(
    tmp_path: Path, kind: Any, order: str, d: float, sform: int
) -> None:
    content = change(content_of(kind, order, sform=sform), kind, order, quatern_d=d)
    for volume in read_by_all_ways(content, tmp_path):
        require_right(volume)
        written = nifti_bytes(volume, description="", packed=False)
        header = kind.header_class
        back = header(written[: header.sizeof_hdr], check=False)
        assert back["quatern_d"] == header.template_dtype["quatern_d"].type(d)


@pytest.mark.documents(
    "File",
    "`pixdim` 0 or negative: an sform alone; a qform alone",
    "a warning, the sform has the voxel sizes; exit 3, they are unknown",
)
def test_sizes_of_zero_are_those_of_an_sform_and_unknown_without_one(tmp_path: Path) -> None:
    content = change(content_of(qform=0), pixdim={1: 0, 2: -3, 3: 0})
    for volume in read_by_all_ways(content, tmp_path):
        assert "pixdim is 0 x -3 x 0" in require_right(volume, "header-repaired")
        assert volume.header is not None
        np.testing.assert_array_equal(volume.header["pixdim"][1:4], [3, 3, 6])
    with pytest.raises(GeometryError, match=r"pixdim is 0 x 0 x 0.*unknown"):
        read_by_all_ways(change(content_of(sform=0), pixdim={1: 0, 2: 0, 3: 0}), tmp_path)


def test_a_qfac_of_zero_stands_for_one(tmp_path: Path) -> None:
    content = content_of(sform=0)
    turned = bool(np.frombuffer(content, "<f4", 1, 76)[0] < 0)
    for volume in read_by_all_ways(change(content, pixdim={0: 0}), tmp_path):
        assert not volume.warnings
        assert (volume.affine[2, 2] == AFFINE[2, 2]) is not turned


@pytest.mark.parametrize("code", [-1, 6, 256])
def test_a_form_with_a_code_that_means_nothing_must_agree_with_the_other(
    tmp_path: Path, code: int
) -> None:
    for form in ("sform_code", "qform_code"):
        changed: dict[str, Any] = {form: code}
        for volume in read_by_all_ways(change(content_of(), **changed), tmp_path):
            text = require_right(volume, "form-broken")
            assert f"{form} is {code}, expected 0 to 5" in text
        alone: dict[str, Any] = {"sform_code" if form[0] == "q" else "qform_code": 0}
        for fields in ({"qoffset_x": 12}, alone):
            with pytest.raises(GeometryError, match=f"{form} is {code}, expected 0 to 5"):
                read_by_all_ways(change(content_of(), **changed, **fields), tmp_path)


@pytest.mark.parametrize(("code", "unit"), [(1, "metres"), (3, "micrometres"), (11, "micro")])
def test_lengths_in_another_unit_are_refused(tmp_path: Path, code: int, unit: str) -> None:
    with pytest.raises(GeometryError, match=f"lengths in {unit}"):
        read_by_all_ways(change(content_of(), xyzt_units=code), tmp_path)


@pytest.mark.parametrize("code", [4, 5, 7, 15, 255])
def test_a_unit_that_names_no_length_is_refused(tmp_path: Path, code: int) -> None:
    with pytest.raises(GeometryError, match=f"xyzt_units is {code} .* names no unit of length"):
        read_by_all_ways(change(content_of(), xyzt_units=code), tmp_path)


@pytest.mark.documents(
    "File",
    "no unit of length",
    "read as mm; a warning where a voxel is below 0.05 or above 20 mm",
)
@pytest.mark.parametrize("units", [0, 2, 8, 56, 66])
@pytest.mark.parametrize(
    ("spacing", "warned"), [(1, False), (0.05, False), (20, False), (0.001, True), (1000, True)]
)
def test_voxel_sizes_that_no_brain_scan_has_are_warned_of(
    tmp_path: Path, units: int, spacing: float, warned: bool
) -> None:
    image = nib.Nifti1Image(DATA, np.diag([-spacing, -spacing, spacing, 1]))
    for volume in read_by_all_ways(change(bytearray(image.to_bytes()), xyzt_units=units), tmp_path):
        codes = [one.code.name for one in volume.warnings]
        assert codes == ["spacing-implausible"] * warned


@pytest.mark.documents(
    "File",
    "`sizeof_hdr`, `bitpix` or a header extension that is wrong, `scl_slope` not a number",
    "read with a warning where the voxels fill the file exactly, else exit 3",
)
@pytest.mark.parametrize(("kind", "order"), EVERY_KIND)
@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"sizeof_hdr": 0}, "sizeof_hdr is 0, expected"),
        ({"bitpix": 8}, "bitpix is 8, expected 16 for its datatype int16"),
        ({"bitpix": 0}, "bitpix is 0, expected 16"),
    ],
)
def test_a_wrong_field_is_made_up_for_where_the_voxels_fill_the_file(
    tmp_path: Path, kind: Any, order: str, fields: dict[str, Any], said: str
) -> None:
    content = change(content_of(kind, order), kind, order, **fields)
    for volume in read_by_all_ways(content, tmp_path):
        assert said in require_right(volume, "header-repaired")
        write_volume(volume, tmp_path / "out.nii", description="", overwrite=True)
        require_right(read_volume(tmp_path / "out.nii"))
    with pytest.raises(InputUnreadable, match=said):
        read_by_all_ways(content + b"\0", tmp_path)


@pytest.mark.parametrize("size", [-8, 0, 8, 24, 48, 2**31 - 1])
def test_an_extension_of_a_wrong_size_is_left_out_where_the_voxels_are_certain(
    tmp_path: Path, size: int
) -> None:
    content = change(content_of(), vox_offset=384)
    content[348:352] = b"\1\0\0\0" + np.array([size, 6], "<i4").tobytes() + bytes(24)
    for volume in read_by_all_ways(content, tmp_path):
        text = require_right(volume, "header-repaired")
        assert f"a header extension of {size} bytes does not fit" in text
    with pytest.raises(InputUnreadable, match=f"a header extension of {size} bytes"):
        read_by_all_ways(content + bytes(16), tmp_path)


def test_extensions_that_end_before_the_voxels_have_no_warning(tmp_path: Path) -> None:
    image = nib.Nifti1Image(DATA, AFFINE)
    for text in (b"one", b"two " * 20):
        image.header.extensions.append(nib.nifti1.Nifti1Extension("comment", text))
    for volume in read_by_all_ways(image.to_bytes(), tmp_path):
        require_right(volume)


@pytest.mark.parametrize("slope", [np.nan, np.inf, -np.inf])
def test_a_slope_that_is_no_number_is_left_out_with_a_warning(tmp_path: Path, slope: float) -> None:
    for volume in read_by_all_ways(change(content_of(), scl_slope=slope), tmp_path):
        assert f"scl_slope is {slope}" in require_right(volume, "header-repaired")
    for volume in read_by_all_ways(change(content_of(), scl_slope=0, scl_inter=np.nan), tmp_path):
        require_right(volume)  # by the standard, 0 stands for none
    with pytest.raises(InputUnreadable, match="scl_inter is nan while scl_slope is 2"):
        read_by_all_ways(change(content_of(), scl_slope=2, scl_inter=np.nan), tmp_path)


@pytest.mark.documents(
    "File",
    "`dim`, `datatype` or magic that is wrong; bytes of a slice or more behind the voxels",
    "exit 3, naming the field",
)
@pytest.mark.parametrize(("kind", "order"), EVERY_KIND)
@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"dim": {0: 0}}, r"dim\[0\] is 0, expected"),
        ({"dim": {0: 8}}, r"dim\[0\] is 8, expected"),
        ({"dim": {0: -3}}, r"dim\[0\] is -3, expected"),
        ({"dim": {2: -6}}, "dim is 5 x -6 x 7, expected lengths of at least 1"),
        ({"dim": {3: 0}}, "dim is 5 x 6 x 0"),
        ({"dim": {3: 8}}, "is damaged or cut short: its header gives 5 x 6 x 8 voxels"),
        (
            {"dim": {3: 6}},
            "holds 60 bytes more than the 5 x 6 x 6 voxels of 2 bytes",
        ),
        ({"dim": {0: 4, 4: 3}}, "5 x 6 x 7 x 3 voxels"),
        ({"datatype": 77}, "datatype is 77, which is not one"),
        ({"datatype": 1}, "datatype is 1, which is not one"),
        ({"datatype": 2, "bitpix": 8}, "holds 210 bytes more"),
        ({"datatype": 2}, "bitpix is 16, expected 8 for its datatype uint8"),
        ({"datatype": 16, "bitpix": 32}, "voxels of 4 bytes"),
        ({"vox_offset": 1000}, "from byte 1000 on, which end at byte 1420; the file has"),
        ({"sizeof_hdr": 0, "dim": {0: 0}}, r"dim\[0\] is 0"),
    ],
)
def test_a_header_that_leaves_the_voxels_open_is_refused_naming_the_field(
    tmp_path: Path, kind: Any, order: str, fields: dict[str, Any], said: str
) -> None:
    with pytest.raises(InputUnreadable, match=said):
        read_by_all_ways(change(content_of(kind, order), kind, order, **fields), tmp_path)


def test_fewer_bytes_than_a_slice_behind_the_voxels_are_left_out_with_a_warning(
    tmp_path: Path,
) -> None:
    for volume in read_by_all_ways(content_of() + b"\n", tmp_path):
        assert "1 bytes behind its voxels were not read" in require_right(volume, "header-repaired")


@pytest.mark.parametrize(
    ("kind", "magic", "said"),
    [
        (nib.Nifti1Image, b"ni1", "its magic is that of a header whose voxels lie in another file"),
        (nib.Nifti2Image, b"ni2", "its magic is that of a header whose voxels lie in another file"),
        (nib.Nifti1Image, b"", "Analyze 7.5 image or has lost its magic"),
        (nib.Nifti1Image, b"n+3", "does not begin as one"),
    ],
)
def test_another_magic_is_refused(tmp_path: Path, kind: Any, magic: bytes, said: str) -> None:
    with pytest.raises(InputUnreadable, match=said):
        read_by_all_ways(change(content_of(kind), kind, magic=magic), tmp_path)


def test_a_file_shorter_than_a_header_is_refused(tmp_path: Path) -> None:
    for kind, length in ((nib.Nifti1Image, 348), (nib.Nifti2Image, 100)):
        content = content_of(kind)
        with pytest.raises(InputUnreadable, match="cut short"):
            read_by_all_ways(content[:length], tmp_path)
    with pytest.raises(InputUnreadable, match="is not a NIfTI image"):
        read_by_all_ways(content_of()[:100], tmp_path)


def test_a_nifti_2_file_that_was_transferred_as_text_is_refused(tmp_path: Path) -> None:
    kind = nib.Nifti2Image
    for volume in read_by_all_ways(change(content_of(kind), kind, eol_check=0), tmp_path):
        assert "the line ends after its magic are 0" in require_right(volume, "header-repaired")
        write_volume(volume, tmp_path / "out.nii", description="", overwrite=True)
        require_right(read_volume(tmp_path / "out.nii"))
    content = change(content_of(kind), kind, eol_check=[10, 26, 10, 0])
    with pytest.raises(InputUnreadable, match="line ends after its magic were changed"):
        read_by_all_ways(content, tmp_path)


@pytest.mark.parametrize("ending", ["", ".gz"])
@pytest.mark.parametrize("kind", [nib.Nifti1Pair, nib.Nifti2Pair])
def test_a_pair_of_files_is_an_image_and_its_output_a_single_file(
    tmp_path: Path, ending: str, kind: Any
) -> None:
    nib.save(kind(DATA, AFFINE), tmp_path / f"a.hdr{ending}")
    for name in (f"a.hdr{ending}", f"a.img{ending}"):
        volume = read_volume(tmp_path / name)
        require_right(volume)
        write_volume(volume, tmp_path / "out.nii", description="", overwrite=True)
        require_right(read_volume(tmp_path / "out.nii"))
    (tmp_path / f"a.hdr{ending}").rename(tmp_path / f"b.hdr{ending}")
    for name in (f"a.img{ending}", f"b.hdr{ending}"):
        with pytest.raises(InputMissing, match="half of a pair, but"):
            read_volume(tmp_path / name)


def test_the_voxels_of_a_pair_must_fit_its_header(tmp_path: Path) -> None:
    nib.save(nib.Nifti1Pair(DATA, AFFINE), tmp_path / "A.HDR")
    whole = (tmp_path / "A.IMG").read_bytes()
    require_right(read_volume(tmp_path / "A.HDR"))
    (tmp_path / "A.IMG").write_bytes(whole[:-1])
    with pytest.raises(InputUnreadable, match="cut short"):
        read_volume(tmp_path / "A.HDR")
    (tmp_path / "A.IMG").write_bytes(whole * 2)
    with pytest.raises(InputUnreadable, match="holds 420 bytes more"):
        read_volume(tmp_path / "A.IMG")


def test_nibabel_says_nothing_about_a_header(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    for fields in ({"pixdim": {1: 0}}, {"vox_offset": 0}, {"sizeof_hdr": 1}, {"bitpix": 7}):
        read_by_all_ways(change(content_of(), **fields), tmp_path)
    printed = capfd.readouterr()
    assert printed.out + printed.err == ""
