"""`tlp augment`: several syntheses of one scan under varied prompts."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tlp_runtime.engines.choice import EngineChoice
from tlp_runtime.errors import InputMissing, UsageError
from tlp_runtime.synthesis.request import Prompt, Request
from tlp_runtime.values.prompt import NO_LABELS, Labels

from .console import Overwrite, Quiet, Verbose, begin, write_json
from .model import ModelOption, choose_model, open_engine
from .options import Pick, verb

if TYPE_CHECKING:
    from tlp_runtime.geometry.volume import Volume
    from tlp_runtime.spec.model import ModelSpec

RECORD = "augment.json"


@verb
def command(
    *,
    asked: Annotated[Request, Pick(only=("t1", "t2", "prompt", "labels", "allow_empty_prompt"))],
    out: Annotated[Path, typer.Option("--out", help="Folder for syntheses and prompts.")],
    prompts: Annotated[
        Path | None, typer.Option("--prompts", help="Folder of prompts, NIfTI label maps.")
    ] = None,
    random: Annotated[
        int | None, typer.Option("--random", min=1, help="Number of prompts to make up.")
    ] = None,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Of --random.")] = 0,
    model: ModelOption = None,
    choice: EngineChoice,
    overwrite: Overwrite = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Synthesize one scan under many prompts, to train other models on.

    Each synthesis is written with its prompt; augment.json lists the pairs.

    Examples: tlp augment --t1 a.nii.gz --random 8 --out augmented
    · tlp augment --t1 a.nii.gz --prompts drawn --out augmented
    """
    output = begin(quiet, verbose)
    from tlp_runtime.files.atomic import make_folder, require_writable
    from tlp_runtime.io.nifti import read_volume, stem, write_volume
    from tlp_runtime.synthesis.prepare import prepare
    from tlp_runtime.synthesis.synthesizer import Synthesizer

    images = {name: Path(str(image)) for name, image in asked.images.items()}
    prompt, labels = asked.prompt.source, asked.prompt.labels
    if (prompts is None) == (random is None):
        raise UsageError("give either --prompts DIR or --random N.")
    if prompt is not None and random is None:
        raise UsageError("--prompt is what --random varies; give --random N too.")
    volumes = {name: read_volume(path) for name, path in images.items()}
    selected, bundle = choose_model(output, model, tuple(images), choice)
    spec = bundle.spec
    if prompts is not None:
        drawn = _drawn(prompts)
    else:
        assert random is not None
        reference = next(iter(volumes.values()))
        base = None if prompt is None else read_volume(Path(str(prompt)))
        drawn = _made(reference, base, labels, random, seed, spec)
        if base is not None:
            output.default("prompts", f"{random} variants of {prompt}", f"seed {seed}")
        else:
            output.default("prompts", f"{random} random lesions", f"seed {seed}")

    # Every prompt is checked, and every name, before the first synthesis.
    meaning = NO_LABELS if prompts is None else labels
    accepted = asked.prompt.allow_empty
    requests = [
        Request(images=volumes, prompt=Prompt(volume, meaning, allow_empty=accepted))
        for _, volume in drawn
    ]
    for number, request in enumerate(requests):
        prepare(request, spec, warn=None if number else output.warn)
    make_folder(out)
    name = stem(next(iter(images.values())))
    targets = [
        tuple(out / f"{name}_{number:03d}_{kind}.nii.gz" for kind in ("synth-t1ce", "prompt"))
        for number in range(1, len(drawn) + 1)
    ]
    for path in (out / RECORD, *(path for pair in targets for path in pair)):
        require_writable(path, overwrite=overwrite)

    record = []
    with (
        Synthesizer(
            open_engine(output, selected, bundle, choice), batch=choice.batch
        ) as synthesizer,
        output.progress("prompts") as bar,
    ):
        task = bar.add_task("", total=len(drawn))
        for (origin, volume), request, (image_path, prompt_path) in zip(
            drawn, requests, targets, strict=True
        ):
            result = synthesizer.run(request)
            write_volume(
                volume, prompt_path, description=f"TLP prompt: {origin}", overwrite=overwrite
            )
            result.save(image_path, overwrite=overwrite)
            record.append(
                {
                    "synthesis": image_path.name,
                    "prompt": prompt_path.name,
                    "origin": origin,
                    # The T1 or T2 shows what it always did, whatever was drawn on it.
                    "lesion_in_inputs": False,
                }
            )
            bar.advance(task)
    write_json(
        str(out / RECORD),
        {
            "inputs": {key: str(path) for key, path in images.items()},
            "model": bundle.name,
            "onnx_sha256": bundle.onnx_sha256,
            "engine": selected.name,
            "pairs": record,
        },
        overwrite=overwrite,
    )
    output.done(f"{len(record)} syntheses with their prompts in {out}", "tlp evaluate --help")


def _drawn(folder: Path) -> list[tuple[str, Volume]]:
    from tlp_runtime.files.atomic import entries
    from tlp_runtime.io.nifti import SUFFIXES, read_volume

    files = (
        [path for path in entries(folder) if path.name.lower().endswith(SUFFIXES)]
        if folder.is_dir()
        else []
    )
    if not files:
        raise InputMissing(f"{folder}: is not a folder with prompts, expected .nii or .nii.gz.")
    return [(path.name, read_volume(path)) for path in files]


def _made(
    reference: Volume,
    base: Volume | None,
    labels: Labels,
    count: int,
    seed: int,
    spec: ModelSpec,
) -> list[tuple[str, Volume]]:
    import numpy as np

    from tlp_runtime.geometry.crop import require_model_grid
    from tlp_runtime.geometry.volume import require_same_grid
    from tlp_runtime.values.prompt import with_labels
    from tlp_train.augmentation import fuzzy_variant, random_lesion

    require_model_grid(reference, spec.crop)
    made = []
    for number in range(1, count + 1):
        rng = np.random.default_rng((seed, number))
        origin = f"seed {seed} number {number}"
        if base is None:
            made.append((f"random lesion, {origin}", random_lesion(reference, spec, rng)))
        else:
            require_same_grid(reference, base)
            code = with_labels(spec.prompt, labels)
            made.append((f"variant, {origin}", fuzzy_variant(base, code, spec, rng)))
    return made
