"""A process of a tiny run: ``python -m tests.train.training_process RUN DATA JSON-OF-CHANGES``.

Lightning starts this program again for every further process.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from tests.assets import split_of, tiny_config
from tests.train.runs import LONG
from tlp_train.launchers import is_first_process
from tlp_train.processes import join_run
from tlp_train.runs import Run
from tlp_train.trainer import fit


def main() -> None:
    """Make the run in the first process, join it in the others, train it."""
    folder, data = Path(sys.argv[1]), Path(sys.argv[2])
    config = tiny_config(
        spec=LONG["spec"], epochs=2, slices_per_epoch=12, discriminator_norm="none",
        **json.loads(sys.argv[3]),
    )  # fmt: skip
    if is_first_process():
        run = Run.create(folder, config, data, split_of(data))
    else:
        run = join_run(folder)
    fit(run, folder.parent / "cache", progress=False)


if __name__ == "__main__":
    main()
