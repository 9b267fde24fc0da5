"""`tlp import`: weights of the published implementation to a checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .console import Overwrite, Quiet, Verbose, begin, command_line, require
from .train import Inputs


def command(
    weights: Annotated[Path, typer.Argument(help="State dict of the published generator (.pth).")],
    inputs: Annotated[
        Inputs, typer.Option("--inputs", help="Modalities the weights were trained on.")
    ],
    out: Annotated[Path, typer.Option("--out", help="Checkpoint to write.")],
    overwrite: Overwrite = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Convert weights of the published implementation to a checkpoint for tlp export.

    Only tensors are loaded; every key must be known, present and of the right shape.

    Example: tlp import latest_net_G.pth --inputs t1,t2 --out published.ckpt
    """
    output = begin(quiet, verbose)
    require("export", "torch")
    from tlp_runtime.files.atomic import require_writable
    from tlp_train.checkpoint import load_checkpoint
    from tlp_train.published import import_weights

    require_writable(out, overwrite=overwrite)
    checkpoint = load_checkpoint(import_weights(weights, inputs.names, out, overwrite=overwrite))
    net = checkpoint.spec.network
    parameters = sum(tensor.numel() for tensor in checkpoint.generator_state.values())
    output.note(
        f"inputs {', '.join(checkpoint.spec.inputs)}; dim {net.dim}, {net.levels} downsamplings, "
        f"blocks {net.blocks}, heads {net.heads}, {net.refinement_blocks} refinement blocks, "
        f"{parameters / 1e6:.2f} M parameters"
    )
    output.done(str(out), command_line("tlp", "export", out))
