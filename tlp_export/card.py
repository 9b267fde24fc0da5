"""The model card: a bundle in words."""

from __future__ import annotations

from tlp_export.options import ExportOptions
from tlp_export.verify import Parity, agreement
from tlp_runtime.spec.model import OUTPUT_NAME
from tlp_train.checkpoint import Checkpoint, Lineage
from tlp_train.networks import registry


def training_data(checkpoint: Checkpoint) -> str:
    """What is known of the training data, as one phrase."""
    lineage = checkpoint.lineage
    if lineage.imported is not None:
        return f"not known: imported from {lineage.imported.file}"
    if lineage.config is not None and lineage.config.preset == "demo":
        return "demo preset: a small network for demonstration; it is no model for patients"
    return "as recorded in the run folder"


def _chain(lineage: Lineage) -> str:
    """Rows of what the training began with, and of how it went on; empty where there is nothing."""
    rows = []
    if lineage.ancestors:
        chain = [
            f"{one.file} ({f'{one.epoch} epochs' if one.imported is None else 'imported'}, "
            f"SHA-256 {one.sha256})"
            for one in lineage.ancestors
        ]
        rows.append(f"| fine-tuned from | {', then '.join(chain)} |\n")
    if lineage.differs:
        rows.append(
            "| resumed | may differ from a training without a stop: "
            f"{'; '.join(lineage.differs)} |\n"
        )
    return "".join(rows)


def model_card(checkpoint: Checkpoint, options: ExportOptions, parity: Parity) -> str:
    """``MODEL_CARD.md``."""
    spec, config = checkpoint.spec, checkpoint.lineage.config
    training, prompts = "not known: imported weights", "not known"
    if config is not None:
        training = (
            f"{config.preset}, {checkpoint.epoch} of {config.epochs} epochs, seed {config.seed}"
        )
        prompts = "fuzzy (Algorithm 1)" if config.fpg else "exact segmentation"
    if not spec.network.prompt:
        prompts = "none: the network takes none"
    inputs = " and ".join(name.upper() for name in spec.inputs)
    network = registry.network(spec.network.name)
    about = network.card
    shape = f"(B, 1, {spec.crop.height}, {spec.crop.width})"
    prompt = " and an optional region prompt" if spec.network.prompt else ", without prompts,"
    return f"""# {network.name} model: {inputs} to synthetic T1ce

{about.title} ({about.paper}), in TLP's toolkit. Synthesizes a contrast-enhanced T1 image from
{inputs}{prompt}. **Research use only: the image is synthetic, not acquired, and not for
diagnosis.**

| | |
|---|---|
| inputs | {", ".join(spec.tensor_names)}, each {shape} float32 |
| output | {OUTPUT_NAME}, {shape} float32 in [-1, 1] |
| network | {spec.network} |
| original code | licence: {about.licence} |
| differs from the original | {about.differs or "in nothing known"} |
| training | {training} |
{_chain(checkpoint.lineage)}| training data | {training_data(checkpoint)} |
| prompts in training | {prompts} |
| checkpoint | SHA-256 {checkpoint.sha256} |
| precision | {options.precision}; {agreement(parity)} |

Volumes must be skull-stripped. A scan with another grid than the model's (axial slices, 1 mm
isotropic) is interpolated to it and back; intensities are scaled by the rule
`{spec.intensity.rule}`.
"""
