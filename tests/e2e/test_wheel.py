"""What a wheel carries."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def test_a_wheel_carries_the_page_and_its_notices(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir"]
    environment = {**os.environ, "TLP_PAGE": "required"}
    subprocess.run([*command, tmp_path, ROOT], check=True, env=environment)
    (wheel,) = tmp_path.glob("tlp_mri-*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        page = archive.read("tlp_server/page/index.html").decode()
        notices = archive.read("tlp_server/page/niivue-license.txt").decode()
    assert {"tlp_server/api.py", "tlp_runtime/interactive/case.py", "tlp_cli/view.py"} <= names
    assert "BSD" in notices or "Redistribution" in notices
    assert "tlp_server/page/licenses.md" in names
    for address in page.split('src="')[1:] + page.split('href="')[1:]:
        name = address.split('"')[0]
        assert name.startswith("./"), name  # nothing from elsewhere
        assert f"tlp_server/page/{name[2:]}" in names
    assert not [name for name in names if name.startswith(("web", "tests", "benchmarks"))]
