"""The table of docs/geometry.md, made from the tests that prove its rows.

``python -m tests.cases_table`` writes it; a test fails when the page is not what this makes.
"""

from __future__ import annotations

import importlib
import re
from pathlib import Path

PAGE = Path(__file__).resolve().parents[1] / "docs" / "geometry.md"
BEGIN, END = "<!-- table: made by python -m tests.cases_table -->", "<!-- end of table -->"
MODULES = (
    "tests.runtime.test_geometry",
    "tests.runtime.test_any_grid",
    "tests.runtime.test_several_grids",
    "tests.runtime.test_two_scans",
    "tests.runtime.test_large_brains",
    "tests.runtime.test_voxel_types",
    "tests.runtime.test_files",
    "tests.runtime.test_nifti_header",
    "tests.runtime.test_contrast",
    "tests.runtime.test_checks",
    "tests.runtime.test_shapes",
    "tests.runtime.test_region",
    "tests.runtime.test_dicom_series",
    "tests.runtime.test_dicom_whole",
    "tests.runtime.test_dicom_derived",
    "tests.runtime.test_dicom_attributes",
    "tests.runtime.test_dicom_patient",
    "tests.runtime.test_dicom_seg",
    "tests.runtime.test_bids",
    "tests.runtime.test_cohort_cases",
    "tests.cli.test_infer",
    "tests.cli.test_infer_formats",
    "tests.e2e.test_any_scan",
)
GROUPS = ("Grid", "Large brain", "File", "Prompt", "DICOM", "BIDS")


def table() -> str:
    """Markdown: a row for each ``documents`` mark, with the test that carries it."""
    rows: dict[str, list[str]] = {group: [] for group in GROUPS}
    for name in MODULES:
        module = importlib.import_module(name)
        for test, function in vars(module).items():
            if not test.startswith("test_"):
                continue
            for mark in reversed(getattr(function, "pytestmark", [])):
                if mark.name == "documents":
                    group, case, outcome = mark.args
                    file = Path(*name.split(".")).with_suffix(".py").as_posix()
                    rows[group].append(f"| {case} | {outcome} | [{_short(test)}](../{file}) |")
    parts = []
    for group, lines in rows.items():
        parts += [f"**{group}**", "", "| what comes | what happens | proven by |", "|---|---|---|"]
        parts += [*lines, ""]
    return "\n".join(parts)


def page_with(table_text: str, page: str) -> str:
    """The page with its table replaced."""
    pattern = re.compile(re.escape(BEGIN) + ".*" + re.escape(END), re.DOTALL)
    return pattern.sub(lambda _: f"{BEGIN}\n\n{table_text}\n{END}", page)


def _short(test: str) -> str:
    return test.removeprefix("test_").replace("_", " ")


if __name__ == "__main__":
    PAGE.write_text(page_with(table(), PAGE.read_text(encoding="utf-8")), encoding="utf-8")
