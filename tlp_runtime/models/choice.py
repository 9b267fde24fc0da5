"""Which bundle is used: by path, by name, the default, or the newest that fits."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from tlp_runtime.errors import (
    ChooseAnother,
    ModelDamaged,
    ModelMismatch,
    ModelMissing,
    RunTask,
    SetOption,
)
from tlp_runtime.files.atomic import make_folder, write_text
from tlp_runtime.models.bundle import MANIFEST, Bundle
from tlp_runtime.models.store import Register, home


def models() -> Register:
    """The register of bundles."""
    return Register("models")


def models_folder() -> Path:
    """Where bundles exported without a folder of their own lie."""
    return home() / "models"


def default_name() -> str | None:
    """The name of the default model; None where none was set."""
    file = _default_file()
    if not file.is_file():
        return None
    try:
        return str(json.loads(file.read_text(encoding="utf-8"))["name"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ModelDamaged(
            f"{file}: cannot be read ({error!r}).",
            fix="Set the default again.",
        ) from error


def set_default(name: str | None) -> None:
    """Make the registered ``name`` the default, or none."""
    if name is None:
        _default_file().unlink(missing_ok=True)
        return
    models().find(name)
    make_folder(_default_file().parent)
    write_text(_default_file(), json.dumps({"name": name}) + "\n")


def find_bundle(model: str | None, inputs: Sequence[str] | None) -> tuple[Bundle, str]:
    """Open the bundle to use and say why it was chosen.

    Parameters
    ----------
    model
        A bundle's folder or a registered name; None takes the default if it fits ``inputs``, else
        the newest registered one that does.
    inputs
        The modalities given; None accepts any.

    Raises
    ------
    ModelMissing
        Nothing of that name, or nothing registered that fits.
    ModelMismatch
        The named model is for other inputs.
    """
    if model is not None:
        bundle = Bundle.open(_named(model))
        if inputs is not None and not _fits(bundle, inputs):
            raise ModelMismatch(
                f"model {bundle.name} takes {_join(bundle.spec.inputs)} (and a prompt), but "
                f"{_join(inputs)} was given",
                fix=("Give the inputs it takes.", ChooseAnother("model", "model")),
            )
        return bundle, "as asked"
    entries = list(models())
    default = default_name()
    ordered = [entry for entry in entries if entry.name == default]
    ordered += [entry for entry in reversed(entries) if entry.name != default]
    seen = []
    for entry in ordered:
        if not (entry.path / MANIFEST).is_file():
            continue  # its folder was moved or deleted by hand
        bundle = Bundle.open(entry.path)
        if inputs is None or _fits(bundle, inputs):
            return bundle, "the default" if entry.name == default else "the newest that fits"
        seen.append(f"{entry.name} ({_join(bundle.spec.inputs)})")
    if not seen:
        raise ModelMissing(
            "no model is registered",
            fix=(
                RunTask("train", purpose="to train one"),
                RunTask("export", purpose="to make a bundle of it"),
                SetOption("model", "a bundle's folder", "to use that one"),
            ),
        )
    raise ModelMismatch(
        f"no registered model takes {_join(inputs or ())}; there are: {', '.join(seen)}",
        fix=(
            "Give the inputs one of them takes.",
            SetOption("model", "a bundle's folder", "to use that one"),
        ),
    )


def _named(model: str) -> Path:
    path = Path(model)
    if path.is_dir():
        return path
    entries = {entry.name: entry for entry in models()}
    if model in entries:
        return entries[model].path
    raise ModelMissing(
        f"{model}: is neither a bundle folder nor a registered model; registered are: "
        f"{', '.join(entries) or 'none'}."
    )


def _fits(bundle: Bundle, inputs: Sequence[str]) -> bool:
    return set(bundle.spec.inputs) == set(inputs)


def _join(names: Sequence[str]) -> str:
    return " and ".join(name.upper() for name in names)


def _default_file() -> Path:
    return home() / "register" / "default-model.json"
