"""`tlp import`: weights of the published implementation to a checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tlp_train.networks.registry import NetworkChoice

from .console import Overwrite, Quiet, Verbose, begin, command_line, require
from .options import Pick, verb
from .train import Inputs


@verb
def command(
    *,
    weights: Annotated[Path, typer.Argument(help="State dict of the published generator (.pth).")],
    inputs: Annotated[
        Inputs, typer.Option("--inputs", help="Modalities the weights were trained on.")
    ],
    choice: Annotated[NetworkChoice, Pick(only=("network",))],
    out: Annotated[Path, typer.Option("--out", help="Checkpoint to write.")],
    overwrite: Overwrite = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Convert weights of the published implementation to a checkpoint for tlp export.

    Only tensors are loaded; every key must be known, present and of the right shape.

    Examples: tlp import latest_net_G.pth --inputs t1,t2 --out published.ckpt
    · tlp import latest_net_G.pth --network resvit --inputs t1,t2 --out resvit.ckpt
    """
    output = begin(quiet, verbose)
    require("export", "torch")
    from tlp_runtime.files.atomic import require_writable
    from tlp_train.checkpoint import load_checkpoint
    from tlp_train.importing import import_weights

    require_writable(out, overwrite=overwrite)
    made = import_weights(weights, inputs.names, out, network=choice.network, overwrite=overwrite)
    checkpoint = load_checkpoint(made)
    parameters = sum(tensor.numel() for tensor in checkpoint.generator().parameters())
    output.note(
        f"inputs {', '.join(checkpoint.spec.inputs)}; {checkpoint.spec.network}; "
        f"{parameters / 1e6:.2f} M parameters"
    )
    output.done(str(out), command_line("tlp", "export", out))
