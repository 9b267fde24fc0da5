"""`tlp phantom`: a physics phantom in BraTS layout."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .console import Output, Quiet, Verbose, begin, command_line, require


def command(
    out: Annotated[Path, typer.Option("--out", help="Folder that receives one folder per case.")],
    cases: Annotated[int, typer.Option("--cases", min=1, help="How many cases.")] = 1,
    seed: Annotated[int, typer.Option("--seed", min=0, help="The same seed, the same cases.")] = 0,
    first: Annotated[int, typer.Option("--first", min=0, help="Index of the first case.")] = 0,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Make phantom cases: T1, T2, T1ce and seg of brains with gliomas, from MR physics.

    Example: tlp phantom --out phantom --cases 4 --seed 1
    """
    output = begin(quiet, verbose)
    require("train", "scipy")
    made = generate(output, out, cases=cases, seed=seed, first=first)
    t1 = made[0] / f"{made[0].name}_t1.nii.gz"
    region = t1.with_name(t1.name.replace("_t1.", "_seg."))
    output.note(f"a T1 and its region: {command_line(t1, region)}")
    output.done(
        f"{len(made)} phantom cases in {out}",
        command_line("tlp", "train", "--data", out, "--preset", "demo"),
    )


def generate(output: Output, out: Path, *, cases: int, seed: int, first: int = 0) -> list[Path]:
    """Write a cohort with a progress bar. Raises :class:`OutputError`."""
    from tlp_runtime.errors import OutputError
    from tlp_runtime.files.atomic import make_folder
    from tlp_train.phantom import write_cohort

    make_folder(out)
    try:
        with output.progress("phantom") as bar:
            task = bar.add_task("", total=cases)
            return write_cohort(
                out, cases=cases, seed=seed, first=first, on_case=lambda _: bar.advance(task)
            )
    except FileExistsError as error:
        raise OutputError(f"{error}. Or begin at another case with --first.") from error
    except OSError as error:
        raise OutputError(f"{out}: cannot be written: {error.strerror or error}.") from error
