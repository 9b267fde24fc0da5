"""The physics phantom: layout, physics, what can and what cannot be seen without contrast."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from numpy.typing import NDArray

from tlp_train.phantom import PhantomCase, cohort, make_case, write_case, write_cohort
from tlp_train.phantom.case import Patient, draw_patient
from tlp_train.phantom.fields import double, ramp
from tlp_train.phantom.grid import on_brats_grid
from tlp_train.phantom.imaging import Scanner
from tlp_train.phantom.lesions import Lesion, LesionKind, LesionShape, draw_kinds
from tlp_train.phantom.signal import R1_PER_MMOL_S, SpinEcho, add_rician_noise, with_contrast
from tlp_train.phantom.tissue import TABLE_1T5, TABLE_3T, Relaxation

SEED = 1
INDEX = 0  # has an enhancing tumour and a mimic
MODALITIES = ("t1", "t2", "t1ce")
AFFINE = np.array([[-1, 0, 0, 0], [0, -1, 0, 239], [0, 0, 1, 0], [0, 0, 0, 1]])


@pytest.fixture(scope="module")
def case() -> PhantomCase:
    return make_case(SEED, INDEX)


@pytest.fixture(scope="module")
def patient() -> Patient:
    return draw_patient(SEED, INDEX)


@pytest.fixture(scope="module")
def folder(case: PhantomCase, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_case(case, tmp_path_factory.mktemp("cohort"))


def in_volume(values: NDArray[np.bool_]) -> NDArray[np.bool_]:
    return on_brats_grid(values.astype(np.uint8)) > 0


def one(patient: Patient, kind: LesionKind) -> tuple[Lesion, LesionShape]:
    return next(pair for pair in patient.lesions if pair[0].kind is kind)


def where(patient: Patient, shape: LesionShape, part: str) -> NDArray[np.bool_]:
    """Brain voxels, on the BraTS grid, that are almost wholly core or rim of a lesion."""
    box = np.zeros(patient.anatomy.mask.shape, bool)
    box[shape.window] = getattr(shape, part) > 0.95
    return in_volume(box & patient.anatomy.mask & (patient.vessels == 0))


def pure(patient: Patient, tissue: str) -> NDArray[np.bool_]:
    """Brain voxels, on the BraTS grid, of one healthy tissue, away from lesions and vessels."""
    box = (getattr(patient.anatomy, tissue) > 0.97) & patient.anatomy.mask
    box &= patient.vessels == 0
    for _, shape in patient.lesions:
        box[shape.window] = False
    return in_volume(box)


def test_written_files_are_those_of_brats_2021(folder: Path) -> None:
    assert folder.name == "BraTS2021_90000"
    names = sorted(path.name for path in folder.iterdir())
    assert names == sorted(f"BraTS2021_90000_{m}.nii.gz" for m in (*MODALITIES, "seg"))
    for modality in (*MODALITIES, "seg"):
        image = nib.load(folder / f"BraTS2021_90000_{modality}.nii.gz")
        assert isinstance(image, nib.Nifti1Image)
        assert image.shape == (240, 240, 155)
        assert image.get_data_dtype() == (np.uint8 if modality == "seg" else np.int16)
        assert np.array_equal(image.affine, AFFINE)
        assert (image.header["sform_code"], image.header["qform_code"]) == (1, 1)
        assert np.array_equal(image.header.get_qform(), AFFINE)
        assert image.header.get_xyzt_units()[0] == "mm"
        assert nib.aff2axcodes(image.affine) == ("L", "P", "S")
        assert bytes(image.header["descrip"]).rstrip(b"\0") == b"TLP physics phantom seed 1 case 0"


def test_files_hold_what_the_case_holds(case: PhantomCase, folder: Path) -> None:
    for modality in (*MODALITIES, "seg"):
        image = nib.load(folder / f"{case.name}_{modality}.nii.gz")
        assert isinstance(image, nib.Nifti1Image)
        assert np.array_equal(np.asanyarray(image.dataobj), getattr(case, modality))


def test_one_and_two_workers_write_the_same_bytes(folder: Path, tmp_path: Path) -> None:
    reported: list[str] = []
    paths = write_cohort(tmp_path, cases=2, seed=SEED, workers=2, on_case=reported.append)
    assert [path.name for path in paths] == reported == ["BraTS2021_90000", "BraTS2021_90001"]
    for path in folder.iterdir():
        assert path.read_bytes() == (paths[0] / path.name).read_bytes()
    first, second = (
        np.asanyarray(nib.load(path / f"{path.name}_t1.nii.gz").dataobj) for path in paths
    )
    assert not np.array_equal(first > 0, second > 0)
    assert sorted(path.name for path in tmp_path.iterdir()) == reported


def test_one_worker_writes_the_indices_asked_for(
    case: PhantomCase, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[int, int]] = []

    def remember(seed: int, index: int) -> PhantomCase:
        asked.append((seed, index))
        return case

    monkeypatch.setattr(cohort, "make_case", remember)
    write_cohort(tmp_path, cases=1, seed=5, first=7, workers=1)
    assert asked == [(5, 7)]


def test_existing_case_is_refused_and_left_alone(case: PhantomCase, tmp_path: Path) -> None:
    taken = tmp_path / case.name
    taken.mkdir()
    (taken / "mine.txt").write_text("keep")
    with pytest.raises(FileExistsError, match=case.name):
        write_case(case, tmp_path)
    with pytest.raises(FileExistsError, match=case.name):
        write_cohort(tmp_path, cases=1, seed=SEED)
    assert [path.name for path in tmp_path.rglob("*")] == [case.name, "mine.txt"]


def test_failed_write_leaves_nothing(
    case: PhantomCase, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written: list[Path] = []

    def fill_disk(path: Path, data: bytes) -> int:
        if written:
            raise OSError("no space left on device")
        written.append(path)
        with path.open("wb") as file:
            return file.write(data)

    monkeypatch.setattr(Path, "write_bytes", fill_disk)
    with pytest.raises(OSError, match="no space"):
        write_case(case, tmp_path)
    assert written
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("cases", "seed", "first", "workers"),
    [(0, 0, 0, 1), (1, -1, 0, 1), (1, 0, -1, 1), (2, 0, 9999, 1), (1, 0, 0, 0)],
)
def test_numbers_out_of_range_are_refused(
    tmp_path: Path, cases: int, seed: int, first: int, workers: int
) -> None:
    with pytest.raises(ValueError, match="got"):
        write_cohort(tmp_path, cases=cases, seed=seed, first=first, workers=workers)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("seed", "index"), [(-1, 0), (0, -1), (0, 10000)])
def test_case_out_of_range_is_refused(seed: int, index: int) -> None:
    with pytest.raises(ValueError, match="got"):
        make_case(seed, index)


def test_spin_echo_matches_numbers_computed_by_hand() -> None:
    echo = SpinEcho(tr_ms=600.0, te_ms=10.0)
    t1, t2, pd = (np.array([v], np.float32) for v in (800.0, 80.0, 0.7))
    # 0.7 * (1 - exp(-0.75)) * exp(-0.125) = 0.7 * 0.527633 * 0.882497
    assert echo.signal(t1, t2, pd)[0] == pytest.approx(0.325943, rel=1e-5)


def test_slow_blood_stays_for_the_echo_and_fast_blood_leaves() -> None:
    echo = SpinEcho(tr_ms=4500.0, te_ms=100.0)
    assert echo.stationary_fraction(0.0, 5.0) == 1.0
    assert echo.stationary_fraction(40.0, 5.0) == pytest.approx(0.6)
    assert echo.stationary_fraction(400.0, 5.0) == 0.0


def test_contrast_agent_shortens_t1_and_raises_the_t1_weighted_signal() -> None:
    # 1 / (1 / 1.5 s + 4.5 L/(mmol s) * 0.5 mmol/L) = 0.342857 s
    assert with_contrast(1500.0, R1_PER_MMOL_S, 0.5) == pytest.approx(342.857, rel=1e-5)
    assert with_contrast(1500.0, R1_PER_MMOL_S, 0.0) == 1500.0
    echo = SpinEcho(tr_ms=600.0, te_ms=10.0)
    t2, pd = np.array([140.0], np.float32), np.array([0.86], np.float32)
    before = echo.signal(np.array([1500.0], np.float32), t2, pd)
    after = echo.signal(np.array([342.857], np.float32), t2, pd)
    assert after[0] > 2.0 * before[0]


def test_rician_noise_has_the_rayleigh_mean_where_there_is_no_signal() -> None:
    noise = add_rician_noise(np.random.default_rng(0), np.zeros(200_000, np.float32), 2.0)
    assert noise.mean() == pytest.approx(2.0 * np.sqrt(np.pi / 2), rel=0.01)


@pytest.mark.parametrize("times", [(50.0, 80.0, 0.7), (800.0, 0.0, 0.7), (800.0, 80.0, 1.1)])
def test_impossible_relaxation_is_refused(times: tuple[float, float, float]) -> None:
    with pytest.raises(ValueError, match="got"):
        Relaxation(*times)


def test_impossible_echo_is_refused() -> None:
    with pytest.raises(ValueError, match="TE 700"):
        SpinEcho(tr_ms=600.0, te_ms=700.0)


@pytest.mark.parametrize("table", [TABLE_1T5, TABLE_3T])
def test_tissues_are_ordered_as_on_real_images(table: object) -> None:
    def signal(echo: SpinEcho, name: str) -> float:
        tissue = getattr(table, name)
        arrays = (np.array([v], np.float32) for v in (tissue.t1_ms, tissue.t2_ms, tissue.pd))
        return float(echo.signal(*arrays)[0])

    t1w, t2w = SpinEcho(600.0, 10.0), SpinEcho(4500.0, 100.0)
    assert signal(t1w, "white") > 1.1 * signal(t1w, "grey") > 2 * signal(t1w, "csf")
    assert 1.1 * signal(t2w, "white") < signal(t2w, "grey") < 0.7 * signal(t2w, "csf")


def test_doubling_keeps_straight_lines_away_from_the_ends() -> None:
    x, y, z = np.meshgrid(*(np.arange(n, dtype=np.float32) for n in (8, 9, 10)), indexing="ij")
    fine = double(x + 10 * y + 100 * z)
    assert fine.shape == (16, 18, 20)
    assert fine[6, 8, 9] == pytest.approx(3 + 40 + 450, rel=1e-5)


def test_ramp_is_the_part_of_a_voxel_inside() -> None:
    level = np.array([-2.0, -0.25, 0.0, 0.25, 2.0], np.float32)
    assert np.allclose(ramp(level), [0.0, 0.25, 0.5, 0.75, 1.0])


def test_images_are_zero_outside_one_brain_and_positive_inside(
    case: PhantomCase, patient: Patient
) -> None:
    brain = in_volume(patient.anatomy.mask)
    assert 1.2e6 < brain.sum() < 1.6e6
    for modality in MODALITIES:
        image = getattr(case, modality)
        assert np.array_equal(image != 0, brain)
        assert image.min() == 0
        assert 990 <= image.max() <= 4010
    x, y, _ = (np.flatnonzero(brain.any(axis=other)) for other in ((1, 2), (0, 2), (0, 1)))
    assert x.min() >= 43
    assert x.max() <= 196
    assert y.min() >= 37
    assert y.max() <= 222


def test_tissue_fractions_fill_every_brain_voxel(patient: Patient) -> None:
    names = ("csf", "grey", "white", "deep_grey", "choroid")
    parts = [getattr(patient.anatomy, name)[patient.anatomy.mask] for name in names]
    assert np.allclose(sum(parts), 1.0, atol=1e-4)
    assert all(part.min() >= -1e-5 for part in parts)
    assert 0.25 < parts[1].mean() < 0.55
    assert 0.3 < parts[2].mean() < 0.6


def test_contrast_between_tissues_is_reversed_from_t1_to_t2(
    case: PhantomCase, patient: Patient
) -> None:
    white, grey, csf = (pure(patient, tissue) for tissue in ("white", "grey", "csf"))
    t1 = [float(case.t1[region].mean()) for region in (white, grey, csf)]
    t2 = [float(case.t2[region].mean()) for region in (white, grey, csf)]
    assert t1[0] > 1.05 * t1[1] > 1.5 * t1[2]
    assert t2[2] > 1.5 * t2[1] > 1.5 * t2[0]


def test_white_matter_has_a_signal_to_noise_ratio_of_about_40(
    case: PhantomCase, patient: Patient
) -> None:
    white = pure(patient, "white")
    pairs = white[..., 1:] & white[..., :-1]
    for image in (case.t1, case.t2):
        step = np.diff(image.astype(np.float64), axis=2)[pairs]
        noise = step.std() / np.sqrt(2)
        assert 30 < image[white].mean() / noise < 50


def test_labels_mark_the_tumour_and_nothing_else(case: PhantomCase, patient: Patient) -> None:
    assert set(np.unique(case.seg)) == {0, 1, 2, 4}
    assert not np.any(case.seg[case.t1 == 0])
    _, tumour = one(patient, LesionKind.ENHANCING)
    _, mimic = one(patient, LesionKind.MIMIC)
    assert set(np.unique(case.seg[where(patient, tumour, "core")])) == {1}
    assert set(np.unique(case.seg[where(patient, tumour, "rim")])) == {4}
    for part in ("core", "rim"):
        marked = where(patient, mimic, part)
        assert marked.sum() > 100
        assert not np.any(case.seg[marked])


def test_the_enhancement_map_is_what_the_contrast_agent_adds(case: PhantomCase) -> None:
    rim, normal = case.seg == 4, (case.t1ce > 0) & (case.seg == 0)
    level = float(np.median(case.t1ce[normal]))
    assert np.median(case.enhancement[rim]) > 0.4 * level
    assert np.median(np.abs(case.enhancement[normal])) < 0.1 * level
    assert not case.enhancement[case.t1ce == 0].any()
    seen = case.t1ce - case.gain * case.t1
    tumour = np.isin(case.seg, (1, 4))
    assert np.corrcoef(seen[tumour], case.enhancement[tumour])[0, 1] > 0.9
    assert np.median((seen - case.enhancement)[tumour]) == pytest.approx(0, abs=0.1 * level)


def test_a_worse_scanner_shows_the_same_head(case: PhantomCase) -> None:
    worse = make_case(SEED, INDEX, Scanner(white_matter_snr=3, bias=0.2, same_coil=0))
    np.testing.assert_array_equal(worse.seg, case.seg)
    normal = (case.t1ce > 0) & (case.seg == 0)
    agree = [np.corrcoef(c.t1[normal], c.t1ce[normal])[0, 1] for c in (case, worse)]
    assert agree[0] > 0.7 > 0.5 > agree[1]
    tumour = np.isin(case.seg, (1, 4))
    assert np.corrcoef(case.enhancement[tumour], worse.enhancement[tumour])[0, 1] > 0.999


def test_only_the_tumour_rim_enhances(case: PhantomCase, patient: Patient) -> None:
    white = pure(patient, "white")
    usual = case.t1ce[white].mean() / case.t1[white].mean()

    def gain(region: NDArray[np.bool_]) -> float:
        return float(case.t1ce[region].mean() / case.t1[region].mean() / usual)

    _, tumour = one(patient, LesionKind.ENHANCING)
    _, mimic = one(patient, LesionKind.MIMIC)
    assert gain(where(patient, tumour, "rim")) > 1.8
    assert gain(where(patient, tumour, "core")) < 1.5
    assert gain(where(patient, mimic, "rim")) == pytest.approx(1.0, abs=0.1)
    assert gain(where(patient, mimic, "core")) == pytest.approx(1.0, abs=0.15)


def test_cohort_has_every_kind_and_cases_without_tumour() -> None:
    cohort_kinds = [draw_kinds(np.random.default_rng(number)) for number in range(2000)]
    assert {len(kinds) for kinds in cohort_kinds} == {0, 1, 2, 3}
    kinds = [kind for case_kinds in cohort_kinds for kind in case_kinds]
    mimics = kinds.count(LesionKind.MIMIC)
    enhancing = kinds.count(LesionKind.ENHANCING)
    assert 0.8 < mimics / enhancing < 1.3
    assert kinds.count(LesionKind.NON_ENHANCING) > 0.1 * enhancing
    unlabelled = [k for k in cohort_kinds if set(k) <= {LesionKind.MIMIC}]
    assert 0.08 < len(unlabelled) / len(cohort_kinds) < 0.16


def test_look_of_a_lesion_does_not_depend_on_its_kind(monkeypatch: pytest.MonkeyPatch) -> None:
    looks = []
    for kind in LesionKind:
        monkeypatch.setattr("tlp_train.phantom.lesions.draw_kinds", lambda rng, kind=kind: [kind])
        ((lesion, shape),) = draw_patient(SEED, INDEX).lesions
        assert lesion.kind is kind
        looks.append((lesion.centre_mm, lesion.radius_mm, lesion.tissues, shape))
    for centre, radius, tissues, shape in looks[1:]:
        assert (centre, radius, tissues) == looks[0][:3]
        assert np.array_equal(shape.rim, looks[0][3].rim)
        assert np.array_equal(shape.oedema, looks[0][3].oedema)
