"""An option is declared in a dataclass; command line, help, environment and API follow from it."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import pytest
import typer
from tlp_cli import fixes
from tlp_cli.help import Verb
from tlp_cli.main import app as tlp
from tlp_cli.options import Pick, given_flags, verb
from typer.testing import CliRunner

from tlp_runtime.engines.choice import EngineChoice
from tlp_runtime.errors import UsageError
from tlp_runtime.options import Form, OptionGroup, by_key, option, options_of
from tlp_server.settings import Settings


@dataclass(frozen=True, kw_only=True)
class Part(OptionGroup):
    """A part of a request.

    Parameters
    ----------
    marks
        Marks, in one of two forms.
    """

    TITLE: ClassVar[str] = "Marks"

    marks: tuple[float, ...] = option(
        (),
        forms=[
            Form(
                name="square",
                parse=lambda text: float(text) ** 2,
                repeated=True,
                help="Its square.",
            ),
            Form(name="half", parse=lambda text: float(text) / 2, repeated=True),
        ],
    )


@dataclass(frozen=True, kw_only=True)
class Group(OptionGroup):
    """Options of a verb.

    Parameters
    ----------
    count
        How many,
        over two lines, [in brackets].
    kind
        Which ``kind``.
    images
        Images by modality.
    spare
        Not an option.
    """

    TITLE: ClassVar[str] = "Things"
    ENVIRONMENT: ClassVar[bool] = True

    count: int = option(3, minimum=1, maximum=9)
    kind: Literal["one", "two"] = option("one")
    names: tuple[str, ...] = option((), name="name")
    folder: Path | None = option(None)
    strict: bool = option(False)
    build: bool = option(True)
    images: dict[str, Path] = option(factory=dict, forms=by_key(("a", "b"), "{}", Path, "{} image"))
    part: Part = field(default_factory=Part)
    spare: int = 0


@dataclass(frozen=True, kw_only=True)
class Longer(Group):
    """The same and one more.

    Parameters
    ----------
    patience
        How long to wait.
    """

    patience: float = option(1.5, minimum=0)


def run(
    group: Any, *words: str, env: dict[str, str] | None = None
) -> tuple[int, Any, list[str], str]:
    """Exit code, what the verb got, which flags count as given, and the output."""
    got: list[Any] = []
    given: list[str] = []
    app = typer.Typer(rich_markup_mode=None)

    def command(context: typer.Context, *, found: Any) -> None:
        got.append(found)
        given.extend(given_flags(context, "count", "a", "build", "square"))

    command.__annotations__ |= {"found": group, "context": typer.Context}
    command.__signature__ = None  # type: ignore[attr-defined]
    del command.__signature__  # type: ignore[attr-defined]
    app.command(cls=Verb)(verb(command))
    result = CliRunner().invoke(app, words, env={"COLUMNS": "200", **(env or {})})
    return result.exit_code, got[0] if got else result.exception, given, result.output


def test_an_option_added_to_a_dataclass_is_in_the_command_line_the_help_and_the_environment() -> (
    None
):
    assert Longer().patience == 1.5
    with pytest.raises(UsageError, match="patience is -1, expected at least 0"):
        Longer(patience=-1)
    assert run(Longer, "--patience", "4")[1] == Longer(patience=4)
    assert run(Longer, env={"TLP_PATIENCE": "2.5"})[1] == Longer(patience=2.5)
    assert run(Longer, "--patience", "4", env={"TLP_PATIENCE": "2.5"})[1].patience == 4
    assert run(Longer, "--patience", "-1")[0] == 2
    code, _, _, text = run(Longer, "--help")
    assert code == 0
    for expected in ("--patience", "How long to wait.", "TLP_PATIENCE", "1.5", "Things"):
        assert expected in text
    assert "--patience" not in run(Group, "--help")[3]


def test_every_kind_of_option_becomes_its_value() -> None:
    assert run(Group)[1] == Group()
    words = ["--count", "9", "--kind", "two", "--name", "x", "--name", "y", "--folder", "f"]
    words += ["--strict", "--no-build", "--b", "image.nii", "--half", "3", "--square", "2"]
    code, got, given, _ = run(Group, *words, "--square", "4")
    assert code == 0
    assert got == Group(
        count=9, kind="two", names=("x", "y"), folder=Path("f"), strict=True, build=False,
        images={"b": Path("image.nii")}, part=Part(marks=(4, 16, 1.5)),
    )  # fmt: skip
    assert given == ["--count", "--build", "--square"]


@pytest.mark.parametrize("words", [["--count", "10"], ["--kind", "three"], ["--spare", "1"]])
def test_values_that_are_not_declared_are_refused(words: list[str]) -> None:
    assert run(Group, *words)[0] == 2


def test_help_is_the_docstring_s_and_is_shown_as_it_is() -> None:
    text = run(Group, "--help")[3]
    for expected in (
        "How many, over two lines, [in brackets].", "Which kind.", "A image", "Its square.",
        "Marks", "--build", "--no-build", "<one|two>",
    ):  # fmt: skip
        assert expected in text
    assert "--no-strict" not in text


def test_a_verb_takes_a_part_of_a_group_with_defaults_of_its_own() -> None:
    picked = Annotated[Group, Pick(only=("count",), defaults={"kind": "two", "count": 5})]
    assert run(picked)[1] == Group(count=5, kind="two")
    assert run(picked, "--count", "6")[1] == Group(count=6, kind="two")
    assert run(picked, "--kind", "one")[0] == 2
    without = Annotated[Group, Pick(without=("count",))]
    assert run(without, "--count", "6")[0] == 2


def test_a_verb_may_ask_for_what_was_given_alone() -> None:
    changes = Annotated[dict[str, Any], Group, Pick(changes=True)]
    assert run(changes)[1] == {}
    assert run(changes, "--no-build", "--count", "3")[1] == {"build": False, "count": 3}
    assert run(changes, "--square", "3")[1] == {"part": Part(marks=(9.0,))}


def test_every_option_of_every_group_has_a_help_text() -> None:
    lacking = [
        f"{group.__name__}.{one.name}"
        for group in fixes.GROUPS
        for one in options_of(group)
        for form in one.forms
        if len(form.help or one.help) < 10
    ]
    assert lacking == []


def test_server_and_engine_take_every_option_from_the_environment() -> None:
    commands = typer.main.get_command(tlp).commands  # type: ignore[attr-defined]
    for name, groups in (("serve", (Settings, EngineChoice)), ("infer", (EngineChoice,))):
        by_name = {parameter.name: parameter for parameter in commands[name].params}
        for group in groups:
            for one in options_of(group):
                public = one.forms[0].name
                assert by_name[public].envvar == f"TLP_{public.upper()}"
        assert by_name["model"].envvar == "TLP_MODEL"


def test_the_default_batch_stands_in_one_place() -> None:
    commands = typer.main.get_command(tlp).commands  # type: ignore[attr-defined]
    found = {
        name: parameter.default
        for name, command in commands.items()
        for parameter in getattr(command, "params", ())
        if parameter.name == "batch" and parameter.envvar
    }
    assert set(found) >= {"infer", "view", "serve", "bench", "evaluate", "augment"}
    assert set(found.values()) == {EngineChoice.batch}


def test_a_token_comes_from_a_file(tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text("0123456789abcdef0123\n", encoding="utf-8")
    settings = Settings(host="0.0.0.0", token_file=file)
    assert settings.token == "0123456789abcdef0123"
    with pytest.raises(UsageError, match="choose one of them"):
        Settings(token_file=file, token="auto")
    file.write_text("short", encoding="utf-8")
    with pytest.raises(UsageError, match="16 characters"):
        Settings(token_file=file)
