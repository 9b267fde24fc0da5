"""Errors are a problem and fixes; each front end words the fixes in its own terms."""

from __future__ import annotations

import ast
import pickle
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
from tlp_cli import fixes
from tlp_cli.main import app

from tlp_runtime import errors
from tlp_runtime.errors import (
    Advice,
    ChooseAnother,
    DependencyMissing,
    GeometryError,
    Install,
    OutOfStep,
    OutputError,
    RunTask,
    SetOption,
    TLPError,
    fix_to_dict,
)
from tlp_server.failures import GIVEN, PARAMETERS, SERVER_OPTIONS
from tlp_server.failures import message_of as http_message
from tlp_server.failures import worded as http_worded

ROOT = Path(__file__).resolve().parents[2]
SOURCES = [
    path
    for package in ("tlp_runtime", "tlp_server", "tlp_train", "tlp_export")
    for path in (ROOT / package).rglob("*.py")
]
VERBS = {command.name or "" for command in app.registered_commands} | {
    group.name or "" for group in app.registered_groups
}


def docstrings(tree: ast.AST) -> set[int]:
    """Identities of the constants that are docstrings, of attributes too."""
    return {
        id(node.value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
    }


def literals(path: Path) -> Iterator[tuple[int, str]]:
    """Line and text of every string literal of a module that is not a docstring."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    documented = docstrings(tree)
    for node in ast.walk(tree):
        if (
            isinstance(node, ast.Constant)
            and isinstance(node.value, str)
            and id(node) not in documented
        ):
            yield node.lineno, node.value


def test_no_library_names_an_option_or_a_verb_of_the_command_line() -> None:
    verbs = "|".join(sorted(VERBS))
    forbidden = re.compile(rf"--[a-z]|\btlp ({verbs})\b")
    assert forbidden.search("Give --overwrite")
    assert forbidden.search("Make one with tlp export.")
    found = [
        f"{path.relative_to(ROOT)}:{number}: {text!r}"
        for path in SOURCES
        for number, text in literals(path)
        if forbidden.search(text)
    ]
    assert found == []


def calls(name: str) -> Iterator[tuple[Path, ast.Call]]:
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and getattr(node.func, "id", None) == name:
                yield path, node


def first_argument(call: ast.Call) -> str:
    assert isinstance(call.args[0], ast.Constant), ast.dump(call)
    return str(call.args[0].value)


def every_command() -> dict[str, Any]:
    """Verbs, and the commands below a verb such as ``models default``."""

    def below(command: Any, name: str) -> Iterator[tuple[str, Any]]:
        for word, one in getattr(command, "commands", {}).items():
            yield f"{name} {word}".strip(), one
            yield from below(one, f"{name} {word}".strip())

    return dict(below(typer.main.get_command(app), ""))


def every_flag() -> set[str]:
    return {
        flag
        for verb in every_command().values()
        for parameter in verb.params
        for flag in (*parameter.opts, *parameter.secondary_opts)
    }


def test_every_option_and_task_of_a_fix_exists_on_the_command_line() -> None:
    flags = every_flag()
    options = {
        first_argument(call)
        for name in ("SetOption", "ChooseAnother")
        for _, call in calls(name)
        if call.args
    }
    assert {"overwrite", "out", "batch", "engine", "labels", "memory_mib"} <= options
    for option in options:
        wanted = fixes.NEGATIVE.get(option, fixes.flag(option).split()[0])
        assert wanted in flags, option
    tasks = {
        first_argument(call)
        for _, call in calls("RunTask")
        if not any(keyword.arg == "program" for keyword in call.keywords)
    }
    assert tasks <= every_command().keys()
    assert {"export", "models default"} <= tasks


@pytest.mark.parametrize(
    ("fix", "plain", "command_line", "http"),
    [
        (Advice("Convert it."), "Convert it.", "Convert it.", "Convert it."),
        (
            Install(("tlp-mri[gpu]",)),
            "Install tlp-mri[gpu].",
            "Install it with: pip install 'tlp-mri[gpu]'",
            "",
        ),
        (
            Install(("tlp-mri[gpu]",), remove=("onnxruntime",)),
            "Uninstall onnxruntime, then install tlp-mri[gpu].",
            "Run: pip uninstall -y onnxruntime, then pip install 'tlp-mri[gpu]'",
            "",
        ),
        (
            Install(("tlp-mri[trt]",), again=True),
            "Install tlp-mri[trt] again.",
            "Install it again with: pip install --force-reinstall 'tlp-mri[trt]'",
            "",
        ),
        (
            Install(("isal",), purpose="for faster gzip"),
            "Install isal for faster gzip.",
            "For faster gzip: pip install isal",
            "",
        ),
        (
            SetOption("overwrite", purpose="to replace it"),
            "Set overwrite to replace it.",
            "Use --overwrite to replace it.",
            "",
        ),
        (
            SetOption("device", "cpu", "to run without a GPU"),
            "Set device to cpu to run without a GPU.",
            "Use --device cpu to run without a GPU.",
            "Whoever runs the server can set device to cpu to run without a GPU.",
        ),
        (
            SetOption("batch", "a smaller number"),
            "Set batch to a smaller number.",
            "Set --batch to a smaller number.",
            "Whoever runs the server can set batch to a smaller number.",
        ),
        (
            SetOption("labels", "tumour=7"),
            "Set labels to tumour=7.",
            "Use --labels tumour=7.",
            "Send the query parameter labels=tumour=7.",
        ),
        (
            SetOption("memory_mib", "more"),
            "Set memory_mib to more.",
            "Use --memory more.",
            "Whoever runs the server can set memory_mib to more.",
        ),
        (
            SetOption("build", purpose="to build it"),
            "Set build to build it.",
            "Leave out --no-build to build it.",
            "Whoever runs the server can set build to build it.",
        ),
        (
            ChooseAnother("out", "output folder"),
            "Choose another output folder.",
            "Choose another --out.",
            "",
        ),
        (ChooseAnother("t1", "T1"), "Choose another T1.", "Choose another --t1.",
         "Choose another T1."),
        (
            RunTask("export", (("engine", "trt"),), "to build it now"),
            "Run the task export with engine trt to build it now.",
            "Run tlp export --engine trt to build it now.",
            "",
        ),
        (
            RunTask("build", (("engine", "trt"),), arguments=("my model",)),
            "Run the task build with my model, engine trt.",
            "Run tlp build 'my model' --engine trt.",
            "",
        ),
        (
            RunTask("models default", arguments=("my model",), purpose="to set another"),
            "Run the task models default with my model to set another.",
            "Run tlp models default 'my model' to set another.",
            "",
        ),
        (
            RunTask("start", (("head", ""),), "on one machine", program="ray"),
            "Run the task start of ray with head on one machine.",
            "Run ray start --head on one machine.",
            "",
        ),
    ],
)  # fmt: skip
def test_a_fix_in_the_words_of_each_front_end(
    fix: errors.Fix, plain: str, command_line: str, http: str
) -> None:
    assert str(fix) == plain
    assert fixes.worded(fix) == command_line
    assert http_worded(fix) == http
    data = fix_to_dict(fix)
    assert isinstance(data["kind"], str)
    assert len(data) > 1


def test_an_error_is_its_problem_and_its_fixes() -> None:
    error = OutputError("a.nii: exists already", fix=SetOption("overwrite"))
    assert error.problem == "a.nii: exists already"
    assert error.fixes == (SetOption("overwrite"),)
    assert str(error) == "a.nii: exists already. Set overwrite."
    assert fixes.message_of(error) == "a.nii: exists already. Use --overwrite."
    assert http_message(error) == "a.nii: exists already", "no such option over HTTP"
    listed = GeometryError("a: several series:\n  1\n  2", fix="Choose one.")
    assert str(listed) == "a: several series:\n  1\n  2\nChoose one."
    assert (
        str(GeometryError("a: odd.", fix=("Do this.", "Or that."))) == "a: odd. Do this. Or that."
    )
    assert str(TLPError("only a problem")) == "only a problem"


def test_errors_survive_the_way_to_another_process() -> None:
    for error in (
        DependencyMissing("no x", fix=Install(("x",))),
        OutOfStep("at 3", revision=3, fix="Send 4."),
    ):
        back = pickle.loads(pickle.dumps(error))
        assert type(back) is type(error)
        assert (back.problem, back.fixes) == (error.problem, error.fixes)
        assert str(back) == str(error)
    assert pickle.loads(pickle.dumps(OutOfStep("at 3", revision=3))).revision == 3


def test_the_tree_at_the_top_of_the_module_is_the_tree() -> None:
    def classes(kind: type[TLPError]) -> Iterator[type[TLPError]]:
        yield kind
        for below in kind.__subclasses__():
            yield from classes(below)

    assert errors.__doc__ is not None
    drawn = set(re.findall(r"^[ |]+(?:\+-- )?([A-Z]\w+)", errors.__doc__, re.MULTILINE))
    found = {kind.__name__ for kind in classes(TLPError)}
    assert found == drawn
    assert {kind.__module__ for kind in classes(TLPError)} == {"tlp_runtime.errors"}


def test_what_http_clients_can_change_is_worded_for_them() -> None:
    for option in (*PARAMETERS, *SERVER_OPTIONS):
        assert http_worded(SetOption(option))
    for option in GIVEN:
        assert http_worded(ChooseAnother(option, "image"))
