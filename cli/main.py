"""The `tlp` command line: verbs, the exit codes of errors, and what every verb shares."""

from __future__ import annotations

import logging
import shlex
import sys
from importlib.metadata import version as installed
from typing import Annotated

import typer

from tlp_runtime.errors import TLPError

from . import (
    augment,
    bench,
    build,
    compare,
    doctor,
    evaluate,
    export,
    import_weights,
    infer,
    models,
    phantom,
    serve,
    train,
    verify,
    view,
)
from .console import error_console
from .fixes import message_of

app = typer.Typer(
    name="tlp",
    help="Gadolinium-free contrast MRI: train, export, infer and bench the TLP network.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.callback()
def _main(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version and exit.", is_eager=True)
    ] = False,
) -> None:
    if version:
        print(f"tlp-mri {installed('tlp-mri')}")
        raise typer.Exit


app.command("phantom")(phantom.command)
app.command("train")(train.command)
app.command("import")(import_weights.command)
app.command("export")(export.command)
app.command("build")(build.command)
app.command("verify")(verify.command)
# Words without an option: `--prompt-labels tumour=1,4 oedema=2`.
app.command("infer", context_settings={"allow_extra_args": True})(infer.command)
app.command("view")(view.command)
app.command("serve")(serve.command)
app.command("augment")(augment.command)
app.command("bench")(bench.command)
app.command("evaluate")(evaluate.command)
app.command("compare")(compare.command)
app.command("doctor")(doctor.command)
app.add_typer(models.app, name="models")


def run() -> None:
    """Entry point of the scripts `tlp` and `tlp-mri`."""
    sys.exit(main(sys.argv[1:]))


def main(arguments: list[str]) -> int:
    """Run one command line and return its exit code; errors are one message, no traceback."""
    logging.captureWarnings(True)
    try:
        result = app(arguments, standalone_mode=False, obj=shlex.join(["tlp", *arguments]))
    except TLPError as error:
        error_console().print(f"[bold red]error:[/] {_escape(message_of(error))}", soft_wrap=True)
        return error.exit_code
    except typer.Exit as stop:
        return int(stop.exit_code)
    except (KeyboardInterrupt, typer.Abort):
        error_console().print("interrupted")
        return 130
    except MemoryError:
        error_console().print("[bold red]error:[/] out of memory. Give a smaller --batch.")
        return 6
    except Exception as error:
        if hasattr(error, "format_message") and hasattr(error, "exit_code"):  # click's own
            show = getattr(error, "show", None)
            if show is not None:
                show()
            return int(error.exit_code)
        raise
    return int(result or 0)


def _escape(text: str) -> str:
    return text.replace("[", r"\[")
