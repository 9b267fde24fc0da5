"""Warnings are data: they travel with the case into every record of it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from tlp_cli.main import main

from tests.fakes.engine import FakeEngine
from tests.scans import SMALL, scan
from tests.servers import saved
from tests.support import TinyModel
from tlp_runtime import Request, Synthesizer
from tlp_runtime.errors import InputDoubtful, SetOption
from tlp_runtime.files.hashes import sha256
from tlp_runtime.synthesis.prepare import prepare
from tlp_runtime.warnings import (
    BACKGROUND_SHIFTED,
    BATCH_HALVED,
    BRAIN_TOO_LARGE,
    CODES,
    WarningLog,
    register,
    require_no_doubt,
)

DOCS = Path(__file__).resolve().parents[2] / "docs"


def test_every_code_is_documented_with_its_kind_and_meaning() -> None:
    page = (DOCS / "warnings.md").read_text(encoding="utf-8")
    rows = [f"| `{code.name}` | {code.kind} | {code.meaning} |" for code in CODES.values()]
    for row in rows:
        assert row in page
    assert page.count("| input |") + page.count("| operational |") == len(rows)


def test_a_name_is_registered_once() -> None:
    with pytest.raises(ValueError, match="registered already"):
        register("batch-halved", "operational", "Again.")


def test_a_warning_is_plain_values_for_json() -> None:
    warning = BRAIN_TOO_LARGE.warning("a: 3000 ml.", fix=SetOption("brain_mask"), volume_ml=3000.0)
    assert json.loads(json.dumps(warning.to_dict())) == {
        "code": "brain-too-large",
        "kind": "input",
        "text": "a: 3000 ml.",
        "numbers": {"volume_ml": 3000.0},
        "fixes": [{"kind": "set-option", "option": "brain_mask", "value": "", "purpose": ""}],
    }


def test_a_log_tells_its_listener_at_once() -> None:
    heard: list[str] = []
    log = WarningLog(lambda warning: heard.append(warning.text))
    log.add(BATCH_HALVED.warning("one"))
    assert heard == ["one"]
    log.add(BATCH_HALVED.warning("two"))
    assert [warning.text for warning in log] == heard == ["one", "two"]


def test_only_doubts_about_the_scan_are_errors() -> None:
    require_no_doubt([BATCH_HALVED.warning("smaller batches")])
    doubt = BRAIN_TOO_LARGE.warning("a: 3000 ml.", fix=SetOption("brain_mask"))
    with pytest.raises(InputDoubtful, match=r"a: 3000 ml\. \(brain-too-large\)") as error:
        require_no_doubt([BATCH_HALVED.warning("smaller batches"), doubt])
    assert error.value.exit_code == 3
    assert error.value.fixes == (SetOption("brain_mask"),)


def shifted() -> Request:
    """A scan that is doubtful in one known way."""
    t1 = scan()
    return Request(images={"t1": replace(t1, data=t1.data - 1000)})


def test_prepared_case_synthesis_and_record_carry_the_warnings(tmp_path: Path) -> None:
    heard = WarningLog()
    prepared = prepare(shifted(), SMALL, warn=heard.add)
    assert BACKGROUND_SHIFTED in [warning.code for warning in prepared.warnings]
    assert prepared.warnings == tuple(heard)
    with Synthesizer(FakeEngine(SMALL)) as synthesizer:
        result = synthesizer.synthesize(prepared)
    assert result.warnings == prepared.warnings
    record = result.save(tmp_path / "out.nii.gz")
    assert record["warnings"] == [warning.to_dict() for warning in prepared.warnings]
    assert json.loads((tmp_path / "out.json").read_text())["warnings"] == record["warnings"]


def test_a_strict_request_stops_before_the_engine_runs() -> None:
    engine = FakeEngine(SMALL)
    with Synthesizer(engine) as synthesizer, pytest.raises(InputDoubtful) as error:
        synthesizer.synthesize(synthesizer.prepare(replace(shifted(), strict=True)))
    assert "background-shifted" in str(error.value)
    assert engine.batches == []


def test_the_command_line_prints_warnings_and_quiet_silences_the_console_only(
    tiny: TinyModel, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    tiny.register()
    t1, out = saved(scan(), tmp_path / "t1.nii.gz"), tmp_path / "out.nii.gz"
    assert main(["infer", "--t1", str(t1), "--out", str(out)]) == 0
    assert "warning:" in capfd.readouterr().err
    spoken = json.loads((tmp_path / "out.json").read_text())["warnings"]
    assert "brain-too-small" in [warning["code"] for warning in spoken]
    assert main(["infer", "--t1", str(t1), "--out", str(out), "--overwrite", "--quiet"]) == 0
    assert capfd.readouterr().err == ""
    assert json.loads((tmp_path / "out.json").read_text())["warnings"] == spoken


def test_an_operational_warning_is_recorded_and_is_no_doubt(
    tiny: TinyModel, phantom_case: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    copy = tiny.copy(tmp_path)
    spec = json.loads((copy / "spec.json").read_text())
    spec["schema"]["minor"] += 1
    (copy / "spec.json").write_text(json.dumps(spec | {"colour": "red"}))
    manifest = json.loads((copy / "manifest.json").read_text())
    manifest["files"]["spec.json"] = sha256(copy / "spec.json")
    (copy / "manifest.json").write_text(json.dumps(manifest))
    t1, out = phantom_case / f"{phantom_case.name}_t1.nii.gz", tmp_path / "out.nii.gz"
    words = ["infer", "--model", str(copy), "--t1", str(t1), "--out", str(out), "--strict"]
    assert main(words) == 0
    assert "ignored: colour" in capfd.readouterr().err
    (warning,) = json.loads((tmp_path / "out.json").read_text())["warnings"]
    assert (warning["code"], warning["kind"]) == ("spec-newer", "operational")


def test_strict_is_exit_3_and_leaves_nothing(
    tiny: TinyModel, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    tiny.register()
    t1, out = saved(scan(), tmp_path / "t1.nii.gz"), tmp_path / "out.nii.gz"
    assert main(["infer", "--t1", str(t1), "--out", str(out), "--strict"]) == 3
    printed = capfd.readouterr().err
    assert "brain-too-small" in printed
    assert printed.count("not background") == 1, "printed once, in the error"
    assert not out.exists()
    assert not out.with_name("out.json").exists()


def test_a_volume_read_keeps_what_is_doubtful_about_its_file(tmp_path: Path) -> None:
    import nibabel as nib

    from tlp_runtime.io.nifti import read_volume

    image = nib.Nifti1Image(np.ones((4, 5, 6), np.float32), np.eye(4))
    moved = np.eye(4)
    moved[:3, 3] = 3
    image.set_sform(np.eye(4), 1)
    image.set_qform(moved, 1)
    nib.save(image, tmp_path / "a.nii.gz")
    (warning,) = read_volume(tmp_path / "a.nii.gz").warnings
    assert warning.code.name == "forms-differ"
    assert float(warning.numbers["distance_mm"]) == pytest.approx(3)
