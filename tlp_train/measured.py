"""An evaluation kept in the bundle of the model that was evaluated, for its card and users."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from datetime import datetime
from pathlib import Path

from tlp_runtime.errors import ModelMismatch, RunTask
from tlp_runtime.files.atomic import atomic_folder, link_or_copy, write_text
from tlp_runtime.files.hashes import sha256
from tlp_runtime.models.bundle import MANIFEST, Bundle
from tlp_runtime.models.contents import bundle_files, foreign_in_bundle
from tlp_runtime.models.manifest import MODEL_CARD
from tlp_runtime.models.measured import (
    MEASURED,
    MeasuredTable,
    Measurement,
    measured_json,
    read_measured,
    with_measured,
)
from tlp_train.evaluation import SYNTHESIS, Evaluation
from tlp_train.metrics import GROUPS
from tlp_train.tables import (
    group_head,
    group_rows,
    patient_head,
    patient_rows,
    patient_text,
    seen_text,
    weak_text,
)

SHOWN = GROUPS[:3]


def keep_evaluation(bundle: Bundle, evaluation: Evaluation) -> Bundle:
    """Put an evaluation into its model's bundle, in the place of an earlier one with that prompt.

    The bundle's folder is replaced as a whole: ``measured.json``, card and manifest are new, all
    else, engines included, is as it was.

    Raises
    ------
    OutputError
        The folder cannot be written, or holds files of others.
    ModelMismatch
        Another model took its place since ``bundle`` was opened.
    """
    path = bundle.path.resolve()
    now = Bundle.open(path)  # an evaluation takes long: others may have been kept meanwhile
    if now.onnx_sha256 != bundle.onnx_sha256:
        raise ModelMismatch(
            f"{path}: another model took its place while this one was evaluated",
            fix=RunTask("evaluate", purpose="again"),
        )
    made = measurement(evaluation)
    others = [one for one in read_measured(path) if one.prompt != made.prompt]
    kept = sorted([*others, made], key=lambda one: one.prompt)
    card = (path / MODEL_CARD).read_text(encoding="utf-8")
    truths = {case.voxels.truth for case in evaluation.cases.values()}
    written = (Path(MEASURED), Path(MODEL_CARD), Path(MANIFEST))
    with atomic_folder(path, overwrite=True, foreign=foreign_in_bundle) as temporary:
        for file in bundle_files(path):
            if file not in written:
                (temporary / file).parent.mkdir(parents=True, exist_ok=True)
                link_or_copy(path / file, temporary / file)
        write_text(temporary / MEASURED, measured_json(kept))
        write_text(temporary / MODEL_CARD, with_measured(card, kept))
        changed = {name: sha256(temporary / name) for name in (MEASURED, MODEL_CARD)}
        manifest, prefix = now.manifest, f"{made.prompt}."
        other = {k: v for k, v in manifest.metrics.items() if not k.startswith(prefix)}
        new = replace(
            manifest,
            files={**manifest.files, **changed},
            metrics={**other, **_metrics(evaluation)},
            truth_voxels=tuple(sorted(truths.union(manifest.truth_voxels))),
        )
        write_text(temporary / MANIFEST, new.to_json())
    return Bundle.open(path)


def measurement(evaluation: Evaluation) -> Measurement:
    """The tables of an evaluation, and what they do not show."""
    tables = [
        MeasuredTable(
            title=f"{group.title} (over {group.unit})",
            head=tuple(group_head(group)),
            rows=tuple(map(tuple, group_rows(evaluation, group))),
        )
        for group in SHOWN
    ]
    if any(found.sensitivity is not None for found in evaluation.patients.values()):
        tables.append(
            MeasuredTable(
                title=patient_text(),
                head=tuple(patient_head()),
                rows=tuple(map(tuple, patient_rows(evaluation))),
            )
        )
    return Measurement(
        prompt=evaluation.prompt,
        data=Path(evaluation.data).resolve().name,
        engine=evaluation.engine,
        created=datetime.now().astimezone().isoformat(timespec="seconds"),
        cases=len(evaluation.cases),
        tables=tuple(tables),
        limits=tuple(_limits(evaluation)),
    )


def _limits(evaluation: Evaluation) -> Iterable[str]:
    """What its figures do not show, a sentence each."""
    cases = len(evaluation.cases)
    yield (
        f"{cases} cases of one data set: other scanners, field strengths, protocols and diseases "
        "were not seen."
    )
    if evaluation.seen:
        yield f"{seen_text(evaluation)}."
    elif any(case.seen is None for case in evaluation.cases.values()):
        yield "Whether the model was trained on these cases is not known."
    if evaluation.prompt not in ("none", "mirrored"):
        yield "The prompts come from a segmentation that was drawn with the T1ce in sight."
    if evaluation.weak:
        yield f"{weak_text(evaluation)}."
    if not any(found.sensitivity is not None for found in evaluation.patients.values()):
        yield "Whether it would enhance in the right patients: too few cases with and without."
    yield "Whole-slice PSNR mostly measures the guess of one level; judge by the enhancement."


def _metrics(evaluation: Evaluation) -> dict[str, float]:
    """Means of the synthesis, as ``<prompt>.<metric>``."""
    return {
        f"{evaluation.prompt}.{key}": statistic.mean
        for key, statistic in evaluation.summary[SYNTHESIS].items()
        if statistic.mean is not None
    }
