"""The registered bundles: how they come into the store, which are defaults, how they go."""

from __future__ import annotations

import re
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from tlp_runtime.errors import (
    ModelDamaged,
    ModelError,
    OutputError,
    RunTask,
    SetOption,
    UsageError,
)
from tlp_runtime.files.atomic import atomic_folder, output_error, require_deletable, retire
from tlp_runtime.models.bundle import MANIFEST, Bundle
from tlp_runtime.models.contents import bundle_files, foreign_in_bundle
from tlp_runtime.models.defaults import Defaults, key
from tlp_runtime.models.manifest import SPEC
from tlp_runtime.models.store import Entry, Register, home
from tlp_runtime.spec.model import ModelSpec


@dataclass(frozen=True)
class Registration:
    """A registered bundle and the default for its inputs.

    Parameters
    ----------
    name
        The name it got.
    inputs
        The modalities it takes; empty if its specification cannot be read.
    default
        Name of the default model for these inputs; None if the record of defaults is damaged.
    """

    name: str
    inputs: tuple[str, ...]
    default: str | None

    @property
    def is_default(self) -> bool:
        """Whether it is what is used for its inputs."""
        return self.default == self.name


@dataclass(frozen=True)
class Removal:
    """A bundle that was removed from the register.

    Parameters
    ----------
    left
        Its folder, if that stays: it lies outside the store, or holds foreign files.
    foreign
        Those files.
    default_of
        The inputs whose default it was and still is by name; empty if it was none, or if no other
        bundle takes these inputs.
    others
        Names of the bundles that could be the default for these inputs.
    """

    name: str
    left: Path | None = None
    foreign: tuple[Path, ...] = ()
    default_of: tuple[str, ...] = ()
    others: tuple[str, ...] = ()


class Models(Register):
    """The register of bundles. The first bundle for given inputs becomes their default."""

    def __init__(self) -> None:
        super().__init__("models")

    def add(self, name: str, path: Path) -> str:
        """As :meth:`register`; returns the name it got."""
        return self.register(path, name).name

    def register(self, path: Path, name: str | None = None) -> Registration:
        """Register a bundle where it lies.

        A bundle registered again keeps its place in the order.

        Parameters
        ----------
        name
            None takes the folder's name. When another folder has the name, a number is added.

        Raises
        ------
        OutputError
            The register cannot be written.
        """
        name, path = name or path.name or path.resolve().name, path.resolve()
        with self.locked():
            return self._settled(self._add(name, path, newest=False), path)

    def copy_in(self, path: Path, name: str | None = None, *, link: bool = False) -> Registration:
        """Check a bundle, copy it with its engines into the store, and register it.

        Nothing is copied when the same bundle (an equal manifest) has the name already.

        Parameters
        ----------
        name
            None takes the folder's name.
        link
            Register the bundle where it lies instead.

        Raises
        ------
        UsageError
            ``name`` cannot be the name of a file.
        ModelError
            ``path`` is not a sound bundle.
        OutputError
            Another bundle has the name, or the store cannot be written.
        """
        bundle = Bundle.open(path.resolve())
        name = require_name(name or bundle.path.name)
        target = models_folder() / name
        with self.locked():
            if (taken := self._taken(name)) is not None:
                self._require_same(bundle, taken, name)
                return self._settled(name, taken)
            if link:
                target = bundle.path
            elif target.is_dir():  # not registered, or its entry was lost
                self._require_same(bundle, target, name)
            else:
                copy_bundle(bundle, target)
            place = target.resolve()
            return self._settled(self._add(name, place, newest=False), place)

    def take_out(self, name: str) -> Removal:
        """Remove a bundle from the register, and its folder if it lies in the store.

        A folder outside the store stays, and so does one with foreign files in it. A default
        keeps its record, so that no other model is used in its place without being asked for,
        unless no other bundle takes these inputs.

        Raises
        ------
        ModelMissing
            Nothing of that name is registered.
        OutputError
            The store cannot be written; nothing was removed. If only the folder's files cannot be
            deleted, the error names the folder.
        """
        with self.locked():
            try:
                before = self.defaults()
            except ModelDamaged:  # whoever asks for a default is told
                before = None
            if name in self.damaged:
                self._remove(name)
                return self._without_default(Removal(name), before)
            entry = self.find(name)
            folder = entry.path.resolve()
            inside = folder.parent == models_folder().resolve() and folder.is_dir()
            foreign = tuple(foreign_in_bundle(folder)) if inside else ()
            deleted = self._delete(entry, folder) if inside and not foreign else False
            if not deleted:
                self._remove(name)
            removal = Removal(name, None if deleted or not folder.is_dir() else folder, foreign)
            return self._without_default(removal, before)

    def defaults(self) -> Defaults:
        """The record of defaults. A chosen name of the version before holds for its inputs.

        Raises
        ------
        ModelDamaged
            It cannot be read.
        """
        defaults = Defaults.read()
        chosen = defaults.chosen
        if defaults.unplaced:
            for entry in self:
                if entry.name == chosen and (inputs := inputs_of(entry.path)):
                    return defaults.with_default(key(inputs), chosen, chosen=True)
        return defaults

    def fitting(self, inputs: Sequence[str]) -> list[Entry]:
        """Bundles that take exactly these inputs, oldest first; their files are not checked."""
        return [entry for entry in self if key(inputs_of(entry.path)) == key(inputs)]

    def set_default(self, name: str) -> Registration:
        """Make a registered bundle the default for its inputs.

        Raises
        ------
        ModelError
            Nothing of that name is registered, or it is not a sound bundle.
        OutputError
            The record cannot be written.
        """
        with self.locked():
            inputs = Bundle.open(self.find(name).path).spec.inputs
            self.defaults().with_default(key(inputs), name, chosen=True).write()
            return Registration(name, inputs, name)

    def clear_defaults(self) -> None:
        """Forget every default. Raises :class:`OutputError`."""
        with self.locked():
            Defaults.forget()

    def _settled(self, name: str, path: Path) -> Registration:
        """A registered bundle, after its inputs have a default."""
        inputs = inputs_of(path)
        try:
            return Registration(name, inputs, self._settle(name, inputs) if inputs else None)
        except ModelDamaged:  # of the record; whoever asks for a default is told
            return Registration(name, inputs, None)

    def _settle(self, name: str, inputs: tuple[str, ...]) -> str | None:
        """Record a default for inputs that have none; returns the default."""
        defaults = self.defaults()
        recorded = defaults.names.get(key(inputs))
        fitting = [entry.name for entry in self.fitting(inputs)]
        known = {*fitting, *self.damaged, *(entry.name for entry in self)}
        if recorded is None and defaults.unplaced:
            return defaults.chosen
        if recorded is None or (recorded not in known and fitting == [name]):
            recorded = fitting[0]
            defaults.without(key(inputs)).with_default(key(inputs), recorded).write()
        return recorded

    def _taken(self, name: str) -> Path | None:
        """The folder that is registered under ``name``."""
        if name in self.damaged:
            return None
        return next((entry.path for entry in self if entry.name == name), None)

    def _require_same(self, bundle: Bundle, folder: Path, name: str) -> None:
        try:
            same = (folder / MANIFEST).read_bytes() == (bundle.path / MANIFEST).read_bytes()
            if same:
                Bundle.open(folder)
                return
            problem = "by another bundle"
        except (OSError, ModelError) as error:
            reason = error.problem if isinstance(error, ModelError) else error.strerror
            problem = f"and what has it is damaged ({reason})"
        raise OutputError(
            f"the name {name} is taken {problem}: {folder}",
            fix=(
                SetOption("name", purpose="to add it under another name"),
                RunTask("models remove", arguments=(name,), purpose="to remove the other one"),
            ),
        )

    def _delete(self, entry: Entry, folder: Path) -> bool:
        """Remove an entry, then its folder, which nobody finds under its name meanwhile."""
        require_deletable(folder)
        try:
            retired = retire(folder)
        except OSError as error:
            raise OutputError(f"{folder}: cannot be removed: {error.strerror or error}.") from error
        try:
            self._remove(entry.name)
        except OutputError:
            retired.replace(folder)
            raise
        try:
            shutil.rmtree(retired)
        except OSError as error:
            raise OutputError(
                f"{entry.name} was removed, but what is left of its folder, {retired}, cannot be "
                f"deleted: {error.strerror or error}."
            ) from error
        return True

    def _without_default(self, removal: Removal, before: Defaults | None) -> Removal:
        """A removal, after the record of defaults was kept, or cleared where nothing else fits."""
        of = [] if before is None else [k for k, n in before.names.items() if n == removal.name]
        if before is None or not of:
            return removal
        after = before
        for given in of:
            others = tuple(entry.name for entry in self.fitting(given.split(",")))
            if others:
                removal = replace(removal, default_of=tuple(given.split(",")), others=others)
            else:
                after = after.without(given)
        after.write()
        return removal


def models() -> Models:
    """The register of bundles."""
    return Models()


def models_folder() -> Path:
    """Where bundles exported without a folder of their own lie."""
    return home() / "models"


def inputs_of(folder: Path) -> tuple[str, ...]:
    """The inputs of the bundle in ``folder``, unchecked; empty where that cannot be read."""
    try:
        if not (folder / MANIFEST).is_file():
            return ()
        text = (folder / SPEC).read_text(encoding="utf-8")
        return ModelSpec.from_json(text, warn=lambda _: None).inputs
    except (OSError, ValueError, ModelError):
        return ()


def require_name(name: str) -> str:
    """``name``, if it can be a bundle's. Raises :class:`UsageError`."""
    if re.fullmatch(r"[^/\\:\x00-\x1f\x7f]+", name) is None or name.startswith("."):
        raise UsageError(
            f"{name!r} cannot be a model's name: a name has no slash, colon or control character "
            "and does not begin with a dot",
            fix=SetOption("name", "another name"),
        )
    return name


def copy_bundle(bundle: Bundle, target: Path) -> None:
    """Copy a bundle with its engines to a new folder. Raises :class:`OutputError`."""
    with atomic_folder(target, foreign=foreign_in_bundle) as temporary:
        for file in bundle_files(bundle.path):
            place = temporary / file
            try:
                place.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(bundle.path / file, place)
            except OSError as error:
                raise output_error(target, error) from error
