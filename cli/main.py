"""The `tlp` command line: verbs, the exit codes of errors, and what every verb shares."""

from __future__ import annotations

import logging
import sys
from importlib.metadata import version as installed
from typing import Annotated, Any

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
from .console import command_line, error_console, literal, print_error
from .fixes import message_of
from .help import MOST_COLUMNS, Verb, Verbs
from .streams import drop_unwritten, standard_streams

app = typer.Typer(
    name="tlp",
    help="Gadolinium-free contrast MRI: train, export, infer and bench the TLP network.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    cls=Verbs,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": MOST_COLUMNS},
)


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"tlp-mri {installed('tlp-mri')}")
        raise typer.Exit


@app.callback()
def _main(
    version: Annotated[
        bool,
        typer.Option(
            "--version",
            help="Print the version and exit.",
            is_eager=True,
            callback=_print_version,
        ),
    ] = False,
) -> None:
    pass


app.command("phantom", cls=Verb)(phantom.command)
app.command("train", cls=Verb)(train.command)
app.command("import", cls=Verb)(import_weights.command)
app.command("export", cls=Verb)(export.command)
app.command("build", cls=Verb)(build.command)
app.command("verify", cls=Verb)(verify.command)
# Words without an option: `--labels tumour=1,4 oedema=2`.
app.command("infer", cls=Verb, context_settings={"allow_extra_args": True})(infer.command)
app.command("view", cls=Verb)(view.command)
app.command("serve", cls=Verb)(serve.command)
app.command("augment", cls=Verb)(augment.command)
app.command("bench", cls=Verb)(bench.command)
app.command("evaluate", cls=Verb)(evaluate.command)
app.command("compare", cls=Verb)(compare.command)
app.command("doctor", cls=Verb)(doctor.command)
app.add_typer(models.app, name="models")


def run() -> None:
    """Entry point of the scripts `tlp` and `tlp-mri`, and of `python -m tlp_cli`."""
    code = main(sys.argv[1:])
    drop_unwritten()
    sys.exit(code)


def main(arguments: list[str]) -> int:
    """Run one command line and return its exit code; errors are one message, no traceback."""
    logging.captureWarnings(True)
    with standard_streams():
        try:
            command = command_line("tlp", *arguments)
            result = app(arguments, prog_name="tlp", standalone_mode=False, obj=command)
            print(end="", flush=True)
        except TLPError as error:
            print_error(message_of(error))
            return error.exit_code
        except typer.Exit as stop:
            return int(stop.exit_code)
        except (KeyboardInterrupt, typer.Abort):
            error_console().print("interrupted")
            return 130
        except MemoryError:
            print_error("out of memory. Give a smaller --batch.")
            return 6
        except Exception as error:
            if hasattr(error, "format_message") and hasattr(error, "exit_code"):  # click's own
                return _usage(error)
            raise
    return int(result or 0)


def _usage(error: Any) -> int:
    """Print an error of click: what is wrong, the usage, and where the help is."""
    context = getattr(error, "ctx", None)
    if type(error).__name__ == "NoArgsIsHelpError":
        error.show()
        return int(error.exit_code)
    print_error(error.format_message())
    if context is not None:
        usage = f"{context.get_usage()}\nhelp: {context.command_path} --help"
        error_console().print(literal(usage), soft_wrap=True)
    return int(error.exit_code)
