"""A network of the paper's size, trained briefly on the phantom: weights that are not random.

    python -m benchmarks.full_size_model --out full-size.ckpt

How much half precision and int8 cost depends on the weights, and training the paper's network
takes GPUs. This trains it on a quarter of the published crop (the network fits any size) for some
hundred steps, about ten minutes on two CPU cores, and writes a checkpoint with the published
crop. It is no model of anything but its arithmetic.
"""

from __future__ import annotations

import argparse
import tempfile
from dataclasses import replace
from pathlib import Path

from tlp_runtime.spec.model import CropSpec
from tlp_train.checkpoint import Lineage, load_checkpoint, write_checkpoint
from tlp_train.config import preset
from tlp_train.phantom import write_cohort
from tlp_train.runs import Run
from tlp_train.split import Split
from tlp_train.trainer import fit

QUARTER = CropSpec(rows=(82, 178), columns=(80, 160))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--inputs", default="t1,t2")
    parser.add_argument("--slices", type=int, default=400)
    options = parser.parse_args()
    inputs = tuple(options.inputs.split(","))
    config = preset(
        "paper",
        inputs,
        epochs=1,
        batch_size=1,
        slices_per_epoch=options.slices,
        tumour_share=0.5,
        validation_slices=4,
        discriminator_channels=8,
    )
    published = config.spec
    config = replace(config, spec=replace(published, crop=QUARTER))
    with tempfile.TemporaryDirectory(prefix="tlp-full-size-") as folder:
        data = Path(folder) / "phantom"
        names = [path.name for path in write_cohort(data, cases=6, seed=3)]
        split = Split(tuple(names[:-2]), (names[-2],), (names[-1],))
        run = fit(Run.create(Path(folder) / "run", config, data, split), Path(folder) / "cache")
        trained = load_checkpoint(run.last)
        lineage = Lineage(config=replace(config, spec=published))
        write_checkpoint(options.out, published, trained.generator_state, lineage)
    print(f"made {options.out}")


if __name__ == "__main__":
    main()
