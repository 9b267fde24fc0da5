"""Golden outputs of a model: keep them before a refactoring, compare them after it.

    python -m tests.golden keep golden.json --model BUNDLE --real ../shared/data/brats
    python -m tests.golden compare golden.json --model BUNDLE --real ../shared/data/brats

Every scenario is a command line as a user types it, so that the script outlives what it checks.
Kept of each: the exit code and, for every output file, what must not change: voxels to the bit,
affine and codes of NIfTI files; every DICOM attribute but UIDs, times and provenance; the JSON
records without times, versions and paths; the journal's keys and outcomes.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np

PHANTOM_SEED = 1000
VOLATILE = frozenset(
    ("seconds", "time", "command", "software", "output", "output_sha256", "schema", "warnings",
     "worker", "file", "GeneratedBy", "sha256", "message", "event_time")
)  # fmt: skip
"""Keys of the JSON records that may differ from run to run, or from version to version."""
DICOM_VOLATILE = frozenset(
    ("ContributingEquipmentSequence", "DerivationDescription", "SoftwareVersions")
)
SHARED = Path(__file__).resolve().parents[2] / "shared"


def scenarios(data: Path, cases: Path | None, real: Path | None) -> dict[str, list[str]]:
    """Name and arguments of each command; ``OUT`` stands for the scenario's own folder."""
    folders = sorted(path for path in data.iterdir() if path.is_dir())
    folder = folders[0]
    table = data / "cases.csv"
    rows = [f"{one.name},{one.name}/{one.name}_t1.nii.gz,note" for one in folders]
    table.write_text("\n".join(["case,t1,remark", *rows]) + "\n")
    t1, seg = (str(folder / f"{folder.name}_{kind}.nii.gz") for kind in ("t1", "seg"))
    out = ["--out", "OUT/synthesis.nii.gz"]
    found = {
        "plain": ["--t1", t1, *out],
        "prompted": ["--t1", t1, "--prompt", seg, *out, "--preview", "OUT/preview.png"],
        "shapes": [
            "--t1",
            t1,
            "--prompt-sphere",
            "-100,110,75,12",
            "--prompt-box",
            "oedema:-90,100,60,-70,120,80",
            *out,
        ],
        "int16": ["--t1", t1, "--prompt", seg, "--dtype", "int16", *out],
        "all-slices": ["--t1", t1, "--prompt", seg, "--all-slices", *out],
        "folder": ["--cases", str(data), "--out", "OUT"],
        "csv": ["--cases", str(table), "--out", "OUT"],
        "no-prompts": ["--cases", str(data), "--no-prompts", "--out", "OUT"],
    }
    if cases is not None:
        series, mask = str(cases / "00_series_good"), str(cases / "00_mask.nii.gz")
        dicom = ["--out-format", "dicom", "--out", "OUT/series"]
        bids = str(cases / "20_bids")
        found |= {
            "dicom": ["--t1", series, *dicom],
            "dicom-to-nifti": ["--t1", series, "--prompt", mask, "--resample", *out],
            "dicom-prompted": ["--t1", series, "--prompt", mask, "--resample", *dicom],
            "dicom-seg": ["--t1", series, "--prompt", str(cases / "08_seg_fractional_0_1.dcm"),
                          "--resample", *dicom],
            "interpolated": ["--t1", str(cases / "00_base.nii.gz"), "--prompt", mask, *out],
            "head": ["--t1", str(cases / "11_head_no_padding"), "--brain-mask",
                     str(cases / "11_brain_mask.nii.gz"), *out],
            "bids": ["--bids", bids, "--derivatives", "OUT/derivatives"],
            "bids-masks": ["--bids", bids, "--derivatives", "OUT/derivatives",
                           "--bids-masks", f"{bids}/derivatives/fmriprep"],
            "table": ["--cases", str(cases / "csv" / "trailing delim.csv"), "--out", "OUT"],
        }  # fmt: skip
        for path in sorted(cases.iterdir()):
            if path.name[:2].isdigit() and not path.name.startswith(("00", "20")):
                which = "--prompt" if "mask" in path.name or "seg" in path.name else "--t1"
                scan = ["--t1", str(cases / "00_base.nii.gz")] if which == "--prompt" else []
                found[f"case {path.name}"] = [*scan, which, str(path), *out]
    if real is not None:
        found["real"] = ["--cases", str(real), "--out", "OUT"]
    return found


def main() -> None:
    """Keep or compare."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("verb", choices=("keep", "compare"))
    parser.add_argument("file", type=Path, help="the golden outputs, JSON")
    parser.add_argument("--model", required=True, help="a T1 bundle's folder or registered name")
    parser.add_argument("--cases", type=Path, default=SHARED / "cases", help="small odd scans")
    parser.add_argument("--real", type=Path, help="real cases in BraTS layout")
    parser.add_argument("--only", help="run scenarios whose name contains this")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="tlp-golden-") as name:
        work = Path(name)
        data = work / "phantom"
        _tlp("phantom", "--out", str(data), "--cases", "2", "--seed", str(PHANTOM_SEED))
        wanted = {
            name: arguments
            for name, arguments in scenarios(
                data, options.cases if options.cases.is_dir() else None, options.real
            ).items()
            if options.only is None or options.only in name
        }
        found = {name: run(arguments, work, options.model) for name, arguments in wanted.items()}
    if options.verb == "keep":
        options.file.write_text(json.dumps(found, indent=1, sort_keys=True) + "\n")
        print(f"{len(found)} scenarios kept in {options.file}")
        return
    kept = json.loads(options.file.read_text())
    differences = [
        line
        for name in sorted(found)
        for line in compare(kept.get(name), json.loads(json.dumps(found[name])), name)
    ]
    print("\n".join(differences) or f"{len(found)} scenarios are equal")
    sys.exit(bool(differences))


def run(arguments: Sequence[str], work: Path, model: str) -> dict[str, Any]:
    """One scenario's exit code and outputs."""
    folder = work / "out"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    given = [part.replace("OUT", str(folder)) for part in arguments]
    code = _tlp("infer", "--model", model, "--engine", "ort-cpu", *given, check=False)
    files = {
        path.relative_to(folder).as_posix(): content(path)
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not path.name.startswith(".")
    }
    return {"exit code": code, "files": files}


def content(path: Path) -> Any:
    """What must not change of an output file."""
    for suffix, reader in _READERS.items():
        if path.name.endswith(suffix):
            return reader(path)
    return hashlib.sha256(path.read_bytes()).hexdigest()


def compare(kept: Any, found: Any, where: str) -> list[str]:
    """A line for every value that differs."""
    if isinstance(kept, Mapping) and isinstance(found, Mapping):
        return [
            line
            for key in sorted({*kept, *found})
            for line in compare(kept.get(key), found.get(key), f"{where} / {key}")
        ]
    return [] if kept == found else [f"{where}: {_short(found)}, was {_short(kept)}"]


def _nifti(path: Path) -> dict[str, Any]:
    image = nib.load(path)
    data = np.ascontiguousarray(np.asanyarray(image.dataobj))
    header = image.header
    return {
        "voxels": hashlib.sha256(data.tobytes()).hexdigest(),
        "stored as": str(header.get_data_dtype()),
        "shape": list(data.shape),
        "affine": image.affine.tolist(),
        "codes": [int(header["sform_code"]), int(header["qform_code"])],
        "qform": _qform(header),
        "description": header["descrip"].item().decode(),
    }


def _qform(header: nib.Nifti1Header) -> Any:
    try:
        return header.get_qform().tolist()
    except ValueError as error:  # the source's quaternion is rounded, and repeated as it is
        return str(error)


def _dicom(path: Path) -> dict[str, Any]:
    import pydicom

    found = {}
    for element in pydicom.dcmread(path):
        name = element.keyword or str(element.tag)
        if element.VR in ("UI", "DA", "TM", "DT") or name in DICOM_VOLATILE:
            continue
        if element.VR == "SQ":
            found[name] = f"{len(element.value)} items"
        elif element.VR in ("OW", "OB"):
            found[name] = hashlib.sha256(element.value).hexdigest()
        else:
            found[name] = str(element.value)
    return found


def _json(path: Path) -> Any:
    return _steady(json.loads(path.read_text(encoding="utf-8")))


def _journal(path: Path) -> dict[str, Any]:
    entries = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    return {
        f"{entry['event']} {entry.get('case', '')}": _steady(entry)
        for entry in entries
        if entry["event"] != "end"
    }


def _picture(path: Path) -> str:
    from PIL import Image

    return hashlib.sha256(np.asarray(Image.open(path)).tobytes()).hexdigest()


def _steady(value: Any) -> Any:
    """Without what differs from run to run."""
    if isinstance(value, dict):
        return {key: _steady(item) for key, item in value.items() if key not in VOLATILE}
    if isinstance(value, list):
        return [_steady(item) for item in value]
    return value


_READERS: Mapping[str, Callable[[Path], Any]] = {
    ".nii.gz": _nifti,
    ".dcm": _dicom,
    ".json": _json,
    ".jsonl": _journal,
    ".png": _picture,
}


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 80 else f"{text[:77]}…"


def _tlp(*arguments: str, check: bool = True) -> int:
    script = Path(sys.executable).with_name("tlp")
    done = subprocess.run(
        [os.fspath(script), *arguments], check=False, capture_output=True, text=True
    )
    if check and done.returncode:
        sys.exit(done.stderr)
    return done.returncode


if __name__ == "__main__":
    main()
