"""Builds the viewer's page into the package's data; everything else is in pyproject.toml."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

ROOT = Path(__file__).resolve().parent
SOURCES = ROOT / "web"
BUILT = ROOT / "tlp_server" / "page" / "index.html"


def page_is_stale() -> bool:
    """Whether the page is missing, or older than what it is made of."""
    if not BUILT.is_file():
        return True
    files = (
        file
        for file in SOURCES.rglob("*")
        if file.is_file() and "node_modules" not in file.relative_to(SOURCES).parts
    )
    return any(file.stat().st_mtime > BUILT.stat().st_mtime for file in files)


def build_page() -> None:
    """Run npm. Without it the page is left out, unless TLP_PAGE=required (make wheel)."""
    if not (SOURCES / "package.json").is_file() or not page_is_stale():
        return
    try:
        npm = shutil.which("npm")
        if npm is None:
            raise FileNotFoundError("npm is not installed")
        for arguments in (["ci"], ["run", "build"]):
            subprocess.run([npm, *arguments], cwd=SOURCES, check=True)
    except (OSError, subprocess.CalledProcessError) as error:
        if os.environ.get("TLP_PAGE") == "required":
            raise
        sys.stderr.write(f"warning: the viewer's page is not built ({error}); see make page\n")


class BuildPy(build_py):
    """With the page."""

    def run(self) -> None:
        build_page()
        super().run()


setup(cmdclass={"build_py": BuildPy})
