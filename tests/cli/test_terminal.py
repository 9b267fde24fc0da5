"""What a terminal, a pipe, another encoding or a full disk gets of the command line's output."""

from __future__ import annotations

import io
import os
import re
import shlex
import subprocess
import sys
import tomllib
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import typer
from tlp_cli import phantom
from tlp_cli.console import Output, command_line, print_error, table
from tlp_cli.main import app, main
from tlp_cli.streams import standard_streams

from tlp_runtime.warnings import ENGINE_BUILT

ROOT = Path(__file__).resolve().parents[2]
NAMES = (
    "t1-t2-paper-1a2b3c4d5e6f-fp16-calibrated-without-the-first-layer",
    "[bold]name[/] :smile: [/red] of a model",
    "/data/a study/and-a-folder-whose-name-is-longer-than-a-terminal-is-wide/seg.nii.gz",
)
VERBS = [one.name for one in app.registered_commands]


def long_table() -> Any:
    rows = [(name, "1234.5", f"{name} · {name}", "0.25 / 0.75") for name in NAMES]
    return table(
        ("name", "ms", "what", "rate"), rows, title=NAMES[1], caption=NAMES[2], left=("name",)
    )


def cells_of(printed: str) -> list[list[str]]:
    """The cells of a printed table of names, without the spaces at which they may be folded."""
    rows: list[list[str]] = []
    for line in re.sub(r"\x1b\[[\d;]*m", "", printed).splitlines():
        if not line.startswith("│"):
            continue
        parts = [part.replace(" ", "") for part in line.strip("│").split("│")]
        if (rows and not rows[-1][3].endswith("0.75")) or (rows and parts[3] == ""):
            rows[-1] = [a + b for a, b in zip(rows[-1], parts, strict=True)]
        else:
            rows.append(parts)
    return rows


EXPECTED = [
    [cell.replace(" ", "") for cell in (name, "1234.5", f"{name} · {name}", "0.25 / 0.75")]
    for name in NAMES
]


def test_cells_are_whole_at_60_columns(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "60")
    monkeypatch.setenv("TERM", "xterm")
    Output().table(long_table())
    printed = capsys.readouterr().out
    assert cells_of(printed) == EXPECTED
    assert "…" not in printed
    plain = re.sub(r"\x1b\[[\d;]*m", "", printed)
    assert max(map(len, plain.splitlines())) <= 60


@pytest.mark.parametrize("stream", ["out", "err"])
def test_a_pipe_gets_each_row_on_one_line(stream: str, capsys: pytest.CaptureFixture[str]) -> None:
    (Output().table if stream == "out" else Output().aside)(long_table())
    printed = getattr(capsys.readouterr(), stream).splitlines()
    assert printed[0] == NAMES[1]
    assert printed[-1] == NAMES[2]
    rows = [line for line in printed if line.startswith("│")]
    assert len(rows) == len(NAMES)
    for name, row in zip(NAMES, rows, strict=True):
        assert f"{name} · {name}" in row


def test_markup_in_names_is_shown_and_not_obeyed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    name = "[bold]a[/] [/red] :smile: [red]"
    output = Output()
    output.note(f"note {name}")
    output.warn(ENGINE_BUILT.warning(f"warned {name}"))
    output.done(f"done {name}", command_line("tlp", "export", name))
    output.table(name)
    print_error(f"failed {name}")
    printed = capsys.readouterr()
    assert printed.out == f"{name}\n"
    for said in ("note", "warning: warned", "made done", "error: failed"):
        assert f"{said} {name}" in printed.err
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "200")
    with output.progress("reading", named=True) as bar:
        bar.add_task(name, total=1)
    assert f"reading {name}" in re.sub(r"\x1b\[[\d;]*m", "", capsys.readouterr().err)


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp437", "utf-8"])
def test_any_encoding_prints_any_name(encoding: str, monkeypatch: pytest.MonkeyPatch) -> None:
    written = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(written, encoding))
    monkeypatch.setattr(sys, "stderr", io.TextIOWrapper(io.BytesIO(), encoding))
    name = os.fsdecode("scän-日本-".encode() + b"\xff\x1b[2J")
    with standard_streams():
        Output().table(table(("name", "n"), [(name, "1"), ("short", "2")], title=f"{name} ·"))
        Output().table(name)
        Output().note(name)
        sys.stdout.write(name + "\n")
        sys.stdout.flush()
    text = written.getvalue().decode(encoding)
    assert r"\udcff" in text
    assert "\x1b" not in text.rsplit("\n", 2)[0]
    shown = "日本" if encoding == "utf-8" else r"\u65e5\u672c"
    assert text.count(shown) == 4
    if encoding != "utf-8":  # escapes count: the edges of the table are aligned
        edges = {len(line) for line in text.splitlines() if line.startswith("|")}
        assert len(edges) == 1


@pytest.mark.parametrize("verb", VERBS)
def test_help_prints_in_ascii_and_is_not_cut(verb: str, monkeypatch: pytest.MonkeyPatch) -> None:
    written = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(written, "ascii"))
    monkeypatch.setenv("COLUMNS", "60")
    assert main([verb, "--help"]) == 0
    text = written.getvalue().decode("ascii")
    assert f"tlp {verb}" in text
    parameters = typer.main.get_command(app).commands[verb].params  # type: ignore[attr-defined]
    for parameter in parameters:
        for flag in (*parameter.opts, *parameter.secondary_opts):
            if flag.startswith("-"):
                assert re.search(rf"(?<!\S){flag}(?!\S)", text.replace(",", " ")), flag


def test_the_list_of_verbs_says_in_full_what_each_does(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "60")
    assert main(["--help"]) == 0
    text = "".join(capsys.readouterr().out.split())
    for command in typer.main.get_command(app).commands.values():  # type: ignore[attr-defined]
        assert "".join(command.help.split("\n")[0].split()) in text


def test_examples_are_shown_as_they_are_typed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["infer", "--help"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "  tlp infer --cases cases.csv --out syntheses" in lines
    assert "Examples:" in lines
    for title in ("Inputs", "Prompt", "Model and engine", "Output", "Many cases"):
        assert f"{title}:" in lines


def run_tlp(*arguments: str, **streams: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "tlp_cli", *arguments]
    return subprocess.run(command, text=True, timeout=120, check=False, **streams)  # type: ignore[call-overload,no-any-return]


@pytest.mark.parametrize("arguments", ["models list --json -", "infer --help", "--version"])
def test_a_full_standard_output_is_exit_9_with_one_sentence(arguments: str) -> None:
    with Path("/dev/full").open("w") as full:
        ended = run_tlp(*arguments.split(), stdout=full, stderr=subprocess.PIPE)
    assert ended.returncode == 9
    assert ended.stderr == ("error: standard output cannot be written: No space left on device.\n")


def test_a_closed_pipe_ends_quietly() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    try:
        ended = run_tlp("models", "list", stdout=writing, stderr=subprocess.PIPE)
    finally:
        os.close(writing)
    assert ended.returncode == 141
    assert ended.stderr == ""


def test_a_full_standard_error_changes_nothing() -> None:
    with Path("/dev/full").open("w") as full:
        ended = run_tlp("models", "list", stdout=subprocess.PIPE, stderr=full)
        assert ended.returncode == 0
        assert "precision" in ended.stdout
        assert run_tlp("infer", "--no-such", stdout=full, stderr=full).returncode == 2


def test_version_prints_and_exits_0(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"tlp-mri {version('tlp-mri')}\n"


def test_a_usage_error_names_the_nearest_option_and_the_help(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["infer", "--promt", "roi.nii.gz"]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    first, *rest = printed.err.splitlines()
    assert first.startswith("error: No such option: --promt")
    assert "--prompt" in first.removeprefix("error: No such option: --promt")
    assert rest == ["Usage: tlp infer [OPTIONS]", "help: tlp infer --help"]
    assert main(["[bold]no[/]"]) == 2
    assert "'[bold]no[/]'" in capsys.readouterr().err


def test_a_suggested_command_quotes_its_paths(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "it's a folder; [bold]"
    monkeypatch.setattr(phantom, "generate", lambda *_, **__: [out / "case"])
    assert main(["phantom", "--out", str(out)]) == 0
    *_, pair, _, following = capsys.readouterr().err.splitlines()
    assert shlex.split(following.removeprefix("next: ")) == [
        "tlp", "train", "--data", str(out), "--preset", "demo",
    ]  # fmt: skip
    t1 = out / "case" / "case_t1.nii.gz"
    words = shlex.split(pair.removeprefix("a T1 and its region: "))
    assert words == [str(t1), str(t1).replace("_t1.", "_seg.")]


def test_every_package_is_typed() -> None:
    setup = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"][
        "setuptools"
    ]
    for package, folder in setup["package-dir"].items():
        assert "py.typed" in setup["package-data"][package]
        assert (ROOT / folder / "py.typed").is_file()


OTHERS = """
import logging, sys, warnings
from tlp_cli.console import begin
begin(quiet=False, verbose=bool(sys.argv[1:]))
logging.captureWarnings(True)  # as main does
warnings.warn("a deprecation of some library")
import nibabel
for name in ("pydicom", "highdicom.seg", "nibabel.global"):
    logging.getLogger(name).error("what a reader repairs")
logging.getLogger("other").warning("a library's warning")
logging.getLogger("other").error("a library's error")
logging.getLogger("tlp_runtime.io").warning("a warning of ours")
"""


@pytest.mark.parametrize("verbose", [False, True])
def test_warnings_of_other_libraries_are_details(verbose: bool) -> None:
    command = [sys.executable, "-c", OTHERS, *(["verbose"] if verbose else [])]
    told = subprocess.run(command, capture_output=True, text=True, check=True).stderr
    ours = "error: a library's error\nwarning: a warning of ours\n"
    assert told.endswith(ours)
    assert "what a reader repairs" not in told
    for said in ("a deprecation of some library", "a library's warning"):
        assert (said in told) is verbose
    assert (told == ours) is not verbose
