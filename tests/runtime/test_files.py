"""NIfTI in and out, and outputs that are whole or absent."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from tests.support import public_folder, read_only
from tlp_runtime.errors import GeometryError, InputMissing, InputUnreadable, OutputError
from tlp_runtime.files.atomic import (
    atomic_file,
    atomic_folder,
    entries,
    require_folder,
    require_writable,
    write_text,
)
from tlp_runtime.geometry.volume import Volume
from tlp_runtime.io.nifti import read_volume, stem, write_volume

AFFINE = np.array([[-1, 0, 0, 10], [0, -1, 0, 20], [0, 0, 1, -5], [0, 0, 0, 1.0]])


def _write(path: Path, data: np.ndarray, affine: np.ndarray = AFFINE) -> Path:
    nib.save(nib.Nifti1Image(data, affine), path)
    return path


@pytest.mark.documents(
    "File",
    "NIfTI-1 and NIfTI-2; sform alone, qform alone, both",
    "repeated to the bit; the sform places the voxels, else the qform",
)
@pytest.mark.parametrize("kind", [nib.Nifti1Image, nib.Nifti2Image])
@pytest.mark.parametrize(("sform", "qform"), [(1, 1), (4, 0), (0, 2), (2, 3)])
def test_an_output_repeats_the_spatial_header_to_the_bit(
    tmp_path: Path, kind: type, sform: int, qform: int
) -> None:
    angle = np.deg2rad(13)
    oblique = AFFINE.copy()
    oblique[:2, :2] = [[-np.cos(angle), np.sin(angle)], [-np.sin(angle), -np.cos(angle)]]
    image = kind(np.arange(24, dtype=np.int16).reshape(2, 3, 4), AFFINE)
    image.header.set_sform(AFFINE, code=sform)
    image.header.set_qform(oblique, code=qform)  # the two may disagree; both must survive
    image.header.set_xyzt_units("mm", "sec")
    image.header["descrip"] = b"acquired"
    nib.save(image, tmp_path / "in.nii.gz")
    volume = read_volume(tmp_path / "in.nii.gz")
    made = Volume(volume.data.astype(np.float32) / 7, volume.affine, volume.header)
    write_volume(made, tmp_path / "out.nii.gz", description="SYNTHETIC")

    before, after = nib.load(tmp_path / "in.nii.gz"), nib.load(tmp_path / "out.nii.gz")
    for field in ("pixdim", "sform_code", "qform_code", "srow_x", "srow_y", "srow_z",
                  "quatern_b", "quatern_c", "quatern_d", "qoffset_x", "xyzt_units"):  # fmt: skip
        assert (before.header[field] == after.header[field]).all(), field
    np.testing.assert_array_equal(before.affine, after.affine)
    assert after.get_data_dtype() == np.float32
    np.testing.assert_array_equal(np.asanyarray(after.dataobj), made.data)
    assert bytes(after.header["descrip"]).startswith(b"SYNTHETIC")
    assert type(after) is kind


@pytest.mark.documents("File", "scl_slope, scl_inter", "applied")
def test_scaling_in_the_header_is_applied(tmp_path: Path) -> None:
    image = nib.Nifti1Image(np.full((2, 2, 2), 3, np.int16), AFFINE)
    image.header.set_slope_inter(2, 1)
    path = tmp_path / "scaled.nii"
    nib.save(image, path)
    raw = bytearray(path.read_bytes())
    raw[352:] = np.full(8, 3, np.int16).tobytes()
    path.write_bytes(raw)
    assert (read_volume(path).data == 7).all()


@pytest.mark.documents(
    "File",
    "sform and qform that disagree, axes running the same way",
    "a warning with the distance above 0.5 mm; both are repeated",
)
def test_forms_that_disagree_are_warned_of_with_the_distance(tmp_path: Path) -> None:
    for shift, warned in ((0.3, False), (3.0, True)):
        image = nib.Nifti1Image(np.ones((5, 5, 5), np.int16), AFFINE)
        image.header.set_sform(AFFINE, 1)
        image.header.set_qform(AFFINE + np.eye(4)[[0]].T * [0, 0, 0, shift], 1)
        nib.save(image, tmp_path / "a.nii.gz")
        volume = read_volume(tmp_path / "a.nii.gz")
        np.testing.assert_array_equal(volume.affine, AFFINE)
        texts = " ".join(warning.text for warning in volume.warnings)
        assert ("sform and qform place its corners up to 3.00 mm apart" in texts) is warned


def test_missing_and_folder(tmp_path: Path) -> None:
    with pytest.raises(InputMissing, match="does not exist"):
        read_volume(tmp_path / "no.nii.gz")
    with pytest.raises(InputMissing, match="is a folder"):
        read_volume(tmp_path)


def test_what_is_no_nifti_is_refused(tmp_path: Path) -> None:
    (tmp_path / "text.nii.gz").write_text("hello")
    (tmp_path / "text.nii").write_text("hello " * 200)
    for name in ("text.nii.gz", "text.nii"):
        with pytest.raises(InputUnreadable):
            read_volume(tmp_path / name)


def test_another_format_of_nibabel_s_is_refused(tmp_path: Path) -> None:
    nib.save(nib.MGHImage(np.zeros((2, 2, 2), np.float32), AFFINE), tmp_path / "a.mgz")
    with pytest.raises(InputUnreadable, match="MGHImage"):
        read_volume(tmp_path / "a.mgz")


def test_a_header_that_makes_no_sense_is_refused(tmp_path: Path) -> None:
    path = _write(tmp_path / "a.nii", np.ones((3, 3, 3), np.int16))
    raw = bytearray(path.read_bytes())
    raw[112:120] = np.array([2, np.nan], np.float32).tobytes()  # scl_slope, scl_inter
    path.write_bytes(raw)
    with pytest.raises(InputUnreadable, match="scl_inter is nan"):
        read_volume(path)


@pytest.mark.documents("File", "cut short, at any place", "exit 3")
@pytest.mark.parametrize("share", [0.1, 0.5, 0.9, 0.999])
def test_a_truncated_gzip_is_refused_wherever_it_ends(tmp_path: Path, share: float) -> None:
    path = _write(
        tmp_path / "a.nii.gz", np.random.default_rng(0).integers(0, 999, (20, 20, 20), np.int16)
    )
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * share)])
    with pytest.raises(InputUnreadable, match="damaged or cut short"):
        read_volume(path)


def test_a_truncated_plain_file_is_refused(tmp_path: Path) -> None:
    path = _write(tmp_path / "a.nii", np.ones((9, 9, 9), np.int16))
    path.write_bytes(path.read_bytes()[:-5])
    with pytest.raises(InputUnreadable, match="damaged or cut short"):
        read_volume(path)


@pytest.mark.documents("File", "2-D, 4-D, several volumes", "exit 3")
@pytest.mark.parametrize("shape", [(4, 4), (4, 4, 4, 3), (4, 4, 4, 1, 2)])
def test_only_three_dimensions_are_read(tmp_path: Path, shape: tuple[int, ...]) -> None:
    path = _write(tmp_path / "a.nii.gz", np.ones(shape, np.int16))
    with pytest.raises(GeometryError, match="expected one 3-D volume"):
        read_volume(path)


def test_the_stem_is_the_name_without_nifti_endings() -> None:
    assert stem(Path("a/b.c.nii.gz")) == "b.c"
    assert stem(Path("X.NII")) == "X"


def test_an_existing_file_is_kept_unless_told(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    write_text(path, "old")
    with pytest.raises(OutputError, match="exists already"):
        write_text(path, "new", overwrite=False)
    assert path.read_text() == "old"
    write_text(path, "new", overwrite=True)
    assert path.read_text() == "new"


def test_a_failed_write_leaves_nothing_and_keeps_the_old(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    write_text(path, "old")
    with pytest.raises(RuntimeError), atomic_file(path, overwrite=True) as temporary:
        temporary.write_text("half")
        raise RuntimeError
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["a.txt"]


def test_a_missing_or_unwritable_folder_is_refused_beforehand(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="does not exist"):
        require_writable(tmp_path / "no" / "a.txt", overwrite=False)
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="not a folder"):
        require_writable(tmp_path / "file" / "a.txt", overwrite=False)
    with pytest.raises(OutputError, match="cannot be written"):
        require_writable(Path("/proc/a.txt"), overwrite=False)


def test_outputs_must_be_named_as_nifti(tmp_path: Path) -> None:
    volume = Volume(np.zeros((2, 2, 2), np.float32), AFFINE)
    with pytest.raises(OutputError, match=r"\.nii\.gz or \.nii"):
        write_volume(volume, tmp_path / "a.png", description="")


def foreign(folder: Path) -> Iterator[Path]:
    """What of a folder is not ours; here, ours ends in .ours."""
    return (path for path in entries(folder) if path.suffix != ".ours")


def replace_folder(path: Path) -> None:
    with atomic_folder(path, overwrite=True, foreign=foreign) as temporary:
        (temporary / "new.ours").write_text("2")


def test_a_folder_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    target = tmp_path / "deep" / "bundle"
    with pytest.raises(RuntimeError), atomic_folder(target, foreign=foreign) as temporary:
        (temporary / "a.ours").write_text("1")
        raise RuntimeError
    assert not os.listdir(target.parent)
    with atomic_folder(target, foreign=foreign) as temporary:
        (temporary / "a.ours").write_text("1")
    with pytest.raises(OutputError, match="exists already"):
        require_folder(target, overwrite=False, foreign=foreign)
    replace_folder(target)
    assert os.listdir(target) == ["new.ours"]
    assert os.listdir(target.parent) == ["bundle"]


@pytest.mark.parametrize("overwrite", [True, False])
def test_an_empty_folder_may_be_used_and_keeps_its_permissions(
    tmp_path: Path, overwrite: bool
) -> None:
    target = tmp_path / "empty"
    target.mkdir()
    target.chmod(0o700)
    (target / ".DS_Store").write_text("")
    (tmp_path / "link").symlink_to(target)
    require_folder(target, overwrite=overwrite, foreign=foreign)
    link = tmp_path / "link"
    with atomic_folder(link, overwrite=overwrite, foreign=foreign) as temporary:
        (temporary / "new.ours").write_text("2")
    assert os.listdir(target) == ["new.ours"]
    assert target.stat().st_mode & 0o777 == 0o700
    assert sorted(os.listdir(tmp_path)) == ["empty", "link"]


@pytest.mark.parametrize("overwrite", [True, False])
def test_a_mount_point_is_refused_before_any_work(overwrite: bool) -> None:
    with pytest.raises(OutputError, match="proc: is a mount point, which cannot be replaced"):
        require_folder(Path("/proc"), overwrite=overwrite, foreign=foreign)


def test_a_folder_with_one_foreign_file_is_refused_by_name_and_stays(tmp_path: Path) -> None:
    target = tmp_path / "thesis"
    target.mkdir()
    (target / "a.ours").write_text("1")
    for number in range(5):
        (target / f"chapter{number}.txt").write_text("words")
    message = r"thesis: holds chapter0\.txt, chapter1\.txt, chapter2\.txt and 2 more, which this"
    with pytest.raises(OutputError, match=message) as raised:
        replace_folder(target)
    assert "Move what you want to keep elsewhere" in str(raised.value)
    assert len(os.listdir(target)) == 6
    assert os.listdir(tmp_path) == ["thesis"]


def test_a_foreign_file_that_came_while_the_new_folder_was_written_is_kept(tmp_path: Path) -> None:
    target = tmp_path / "bundle"
    replace_folder(target)
    with (
        pytest.raises(OutputError, match=r"holds late\.txt"),
        atomic_folder(target, overwrite=True, foreign=foreign),
    ):
        (target / "late.txt").write_text("words")
    assert sorted(os.listdir(target)) == ["late.txt", "new.ours"]
    with (
        pytest.raises(OutputError, match="exists already"),
        atomic_folder(tmp_path / "other", foreign=foreign),
    ):
        (tmp_path / "other").mkdir()
        (tmp_path / "other" / "a.ours").write_text("1")
    with atomic_folder(tmp_path / "third", foreign=foreign) as temporary:
        (temporary / "new.ours").write_text("2")
        (tmp_path / "third").mkdir()
    assert os.listdir(tmp_path / "third") == ["new.ours"]


def test_what_killed_processes_and_desktops_leave_is_no_obstacle(tmp_path: Path) -> None:
    target = tmp_path / "bundle"
    (target / ".tmp-123-0a1b2c3d-engine").mkdir(parents=True)
    for name in (".DS_Store", "Thumbs.db", "desktop.ini", "._new.ours"):
        (target / name).write_text("")
    replace_folder(target)
    assert os.listdir(target) == ["new.ours"]


@pytest.mark.parametrize("name", [".", "..", "../..", "inside/..", ""])
def test_the_current_folder_and_those_above_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    (tmp_path / "a" / "b" / "inside").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "a" / "b")
    expected = "(is|holds) the current folder and is not replaced"
    for overwrite in (True, False):
        with pytest.raises(OutputError, match=expected):
            require_folder(Path(name), overwrite=overwrite, foreign=foreign)
    (tmp_path / "link").symlink_to(tmp_path / "a")
    with pytest.raises(OutputError, match="holds the current folder"):
        replace_folder(tmp_path / "link")


def test_a_link_to_a_folder_stays_and_its_target_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "disk" / "real").mkdir(parents=True)
    link = tmp_path / "link"
    link.symlink_to(tmp_path / "disk" / "real")
    (link / "mine.txt").write_text("words")
    with pytest.raises(OutputError, match=r"holds mine\.txt"):
        replace_folder(link)
    (link / "mine.txt").unlink()
    replace_folder(link)
    assert link.is_symlink()
    assert os.listdir(tmp_path / "disk") == ["real"]
    assert os.listdir(tmp_path / "disk" / "real") == ["new.ours"]


def test_a_link_within_a_folder_is_removed_and_its_target_stays(tmp_path: Path) -> None:
    target, elsewhere = tmp_path / "bundle", tmp_path / "elsewhere"
    target.mkdir()
    elsewhere.mkdir()
    (elsewhere / "mine.txt").write_text("words")
    (target / "a.ours").symlink_to(elsewhere)
    replace_folder(target)
    assert (elsewhere / "mine.txt").read_text() == "words"


def test_links_to_nothing_and_files_are_no_folders(tmp_path: Path) -> None:
    (tmp_path / "dangling").symlink_to(tmp_path / "gone")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    for name in ("dangling", "loop"):
        with pytest.raises(OutputError, match=rf"{name}: is a link to .*which does not exist"):
            replace_folder(tmp_path / name)
        with pytest.raises(OutputError, match=rf"{name}: is a link to .*which does not exist"):
            write_text(tmp_path / name, "new")
    (tmp_path / "file").write_text("words")
    (tmp_path / "link").symlink_to(tmp_path / "file")
    for name in ("file", "link"):
        with pytest.raises(OutputError, match=f"{name}: is a file, expected a folder"):
            replace_folder(tmp_path / name)
    with pytest.raises(OutputError, match=r"file is a file, expected a folder"):
        replace_folder(tmp_path / "file" / "below" / "it")
    assert (tmp_path / "file").read_text() == "words"


def test_a_link_to_a_file_stays_and_its_target_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    real, link = tmp_path / "disk" / "real", tmp_path / "a.nii.gz"
    real.write_text("old")
    link.symlink_to(real)
    with pytest.raises(OutputError, match="exists already"):
        write_text(link, "new", overwrite=False)
    with atomic_file(link, overwrite=True) as temporary:
        assert temporary.name.endswith("a.nii.gz")  # by which writers choose a format
        temporary.write_text("new")
    assert link.is_symlink()
    assert real.read_text() == "new"
    assert os.listdir(tmp_path / "disk") == ["real"]


def test_folders_devices_and_long_names_are_no_files(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="is a folder, expected a file name"):
        write_text(tmp_path, "new", overwrite=False)
    os.mkfifo(tmp_path / "pipe")
    for path in (Path("/dev/null"), tmp_path / "pipe"):
        with pytest.raises(OutputError, match="is not a regular file and is not replaced"):
            write_text(path, "new")
    with pytest.raises(OutputError, match="cannot be written: File name too long"):
        write_text(tmp_path / ("n" * 300), "new")
    with pytest.raises(OutputError, match="cannot be written: File name too long"):
        replace_folder(tmp_path / ("n" * 300))


def test_a_folder_that_could_not_be_deleted_is_refused_before_anything_happens() -> None:
    with public_folder() as folder:
        target = folder / "bundle"
        replace_folder(target)
        with read_only(folder), pytest.raises(OutputError, match="it is read-only"):
            replace_folder(target)
        with read_only(folder), pytest.raises(OutputError, match="permission denied"):
            replace_folder(folder / "other")
        assert os.listdir(target) == ["new.ours"]
        assert os.listdir(folder) == ["bundle"]


@pytest.mark.documents(
    "File", "a link or pointer whose content was not fetched (git-annex, git-lfs)", "exit 3"
)
def test_a_file_that_was_not_fetched_says_so(tmp_path: Path) -> None:
    link = tmp_path / "a.nii.gz"
    link.symlink_to("../.git/annex/objects/aa/bb/SHA256E-s9--12.nii.gz")
    with pytest.raises(InputMissing, match=r"a\.nii\.gz: was not fetched.*git annex get"):
        read_volume(link)
    pointer = tmp_path / "b.nii.gz"
    for text in ("version https://git-lfs.github.com/spec/v1\n", "/annex/objects/SHA256E-s9--12\n"):
        pointer.write_text(text)
        with pytest.raises(InputUnreadable, match="is a pointer to a file that was not fetched"):
            read_volume(pointer)
