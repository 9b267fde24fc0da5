"""Which bundle is used: by path, by name, or the default for the inputs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from tlp_runtime.errors import (
    ChooseAnother,
    ModelError,
    ModelMismatch,
    ModelMissing,
    RunTask,
    SetOption,
)
from tlp_runtime.models.bundle import MANIFEST, Bundle
from tlp_runtime.models.defaults import key
from tlp_runtime.models.registered import inputs_of, models, models_folder

__all__ = ["default_name", "find_bundle", "models", "models_folder", "set_default"]


def default_name(inputs: Sequence[str] | None = None) -> str | None:
    """The name of the default model for ``inputs``, usable or not; None where there is none.

    Parameters
    ----------
    inputs
        None: the one that was chosen last, else that for the inputs of the first bundle.

    Raises
    ------
    ModelDamaged
        The record of defaults cannot be read.
    """
    found = _default(inputs)
    return None if found is None else found[0]


def set_default(name: str | None) -> None:
    """Make the registered ``name`` the default for its inputs, or forget every default."""
    if name is None:
        models().clear_defaults()
    else:
        models().set_default(name)


def find_bundle(model: str | None, inputs: Sequence[str] | None) -> tuple[Bundle, str]:
    """Open the bundle to use and say why it was chosen.

    Parameters
    ----------
    model
        A bundle's folder or a registered name; None takes the default for ``inputs``: the one that
        was set, else the first that was registered.
    inputs
        The modalities given; None accepts any.

    Raises
    ------
    ModelMissing
        Nothing of that name, nothing registered, or the default is gone.
    ModelDamaged
        The bundle is damaged, or its register entry.
    ModelMismatch
        The named model is for other inputs, or no registered one is for these.
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
    found = _default(inputs)
    if found is None:
        raise _nothing_fits(inputs)
    name, why = found
    return _open_default(name, inputs), why


def _default(inputs: Sequence[str] | None) -> tuple[str, str] | None:
    """Name of the default and why it is that."""
    store = models()
    defaults = store.defaults()
    if inputs is None and defaults.chosen is not None:
        return defaults.chosen, "the default"
    if inputs is None:
        inputs = next(filter(None, (inputs_of(entry.path) for entry in store)), ())
    if key(inputs) in defaults.names:
        return defaults.names[key(inputs)], "the default"
    if defaults.unplaced and defaults.chosen is not None:
        return defaults.chosen, "the default"
    fitting = store.fitting(inputs) if inputs else []
    return (fitting[0].name, "the first that fits") if fitting else None


def _open_default(name: str, inputs: Sequence[str] | None) -> Bundle:
    """Open the default; where it cannot be used, that is an error, and no other one is taken."""
    store = models()
    what = f"the default model{f' for {_join(inputs)}' if inputs else ''}, {name},"
    others = [
        entry.name
        for entry in (store.fitting(inputs) if inputs else store)
        if entry.name != name and inputs_of(entry.path)
    ]
    another = RunTask(
        "models default", arguments=(others[0] if others else "NAME",), purpose="to set another"
    )
    if name not in {entry.name for entry in store} | store.damaged.keys():
        raise ModelMissing(f"{what} is not registered any more", fix=another)
    try:
        entry = store.find(name)
        if not (entry.path / MANIFEST).is_file():
            raise ModelMissing(f"there is no bundle in {entry.path} any more")
        bundle = Bundle.open(entry.path)
    except ModelError as error:
        raise type(error)(
            f"{what} cannot be used: {error.problem}", fix=(*error.fixes, another)
        ) from error
    if inputs is not None and not _fits(bundle, inputs):
        raise ModelMismatch(f"{what} takes {_join(bundle.spec.inputs)} now", fix=another)
    return bundle


def _nothing_fits(inputs: Sequence[str] | None) -> ModelError:
    seen = [
        f"{entry.name} ({_join(takes)})" for entry in models() if (takes := inputs_of(entry.path))
    ]
    if not seen:
        return ModelMissing(
            "no model is registered",
            fix=(
                RunTask("train", purpose="to train one"),
                RunTask("export", purpose="to make a bundle of it"),
                RunTask("models add", arguments=("PATH",), purpose="to add a bundle"),
                SetOption("model", "a bundle's folder", "to use that one"),
            ),
        )
    return ModelMismatch(
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
    store = models()
    entries = {entry.name: entry for entry in store}
    if model in entries:
        return entries[model].path
    if model in (damaged := store.damaged):
        raise damaged[model]
    raise ModelMissing(
        f"{model}: is neither a bundle folder nor a registered model; registered are: "
        f"{', '.join(entries) or 'none'}."
    )


def _fits(bundle: Bundle, inputs: Sequence[str]) -> bool:
    return set(bundle.spec.inputs) == set(inputs)


def _join(names: Sequence[str]) -> str:
    return " and ".join(name.upper() for name in names)
