"""The default model for given inputs."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from tests.store import Place, default_file, entry, used
from tlp_runtime.errors import ModelDamaged, ModelMismatch, ModelMissing, RunTask
from tlp_runtime.models.bundle import Bundle
from tlp_runtime.models.choice import (
    default_name,
    find_bundle,
    models,
    models_folder,
    set_default,
)
from tlp_runtime.models.store import Register


def test_the_first_bundle_for_its_inputs_is_the_default_and_stays_it(
    place: Place, tiny_dual: Bundle
) -> None:
    first = models().register(place("z-first"))
    assert (first.name, first.inputs, first.is_default) == ("z-first", ("t1",), True)
    second = models().register(place("a-second"))
    assert (second.name, second.default, second.is_default) == ("a-second", "z-first", False)
    assert models().register(tiny_dual.path).is_default  # for other inputs
    assert find_bundle(None, ("t1",))[1] == "the default"
    assert used("t1") == used() == "z-first"
    assert used("t2", "t1") == tiny_dual.name
    models().register(models_folder() / "z-first")  # again: nothing changes
    set_default(None)
    assert find_bundle(None, ("t1",))[1] == "the first that fits"
    assert used("t1") == used() == "z-first"


def test_a_default_is_set_for_its_inputs_and_is_what_is_used_without_inputs(
    place: Place, tiny_dual: Bundle
) -> None:
    for name in ("a", "b"):
        models().register(place(name))
    models().register(tiny_dual.path)
    assert models().set_default("b").inputs == ("t1",)
    assert (used("t1"), used()) == ("b", "b")
    set_default(tiny_dual.name)
    assert (used("t1"), used("t1", "t2"), used()) == ("b", tiny_dual.name, tiny_dual.name)
    assert [default_name(inputs) for inputs in (("t1",), ("t2", "t1"), ("t2",), None)] == [
        "b", tiny_dual.name, None, tiny_dual.name,
    ]  # fmt: skip
    with pytest.raises(ModelMissing, match="nobody"):
        set_default("nobody")


def test_what_the_version_before_recorded_holds_for_its_inputs(
    tlp_home: Path, place: Place, tiny_dual: Bundle
) -> None:
    for name in ("a", "b"):
        Register("models").add(name, place(name))
    Register("models").add("dual", tiny_dual.path)
    assert (used("t1"), used("t1", "t2")) == ("a", tiny_dual.name), "the first that fits"
    default_file(tlp_home).write_text('{"name": "b"}')
    assert (used("t1"), used(), used("t1", "t2")) == ("b", "b", tiny_dual.name)
    assert models().register(place("c")).default == "b"
    set_default("dual")
    assert (used("t1"), used()) == ("b", tiny_dual.name)


def test_a_default_of_the_version_before_that_is_gone_is_an_error(
    tlp_home: Path, place: Place
) -> None:
    Register("models").add("a", place("a"))
    default_file(tlp_home).write_text('{"name": "b"}')
    for inputs in (("t1",), None):
        with pytest.raises(ModelMissing, match="b, is not registered any more"):
            find_bundle(None, inputs)
    assert models().register(place("c")).default == "b"
    set_default("a")
    assert (used("t1"), used()) == ("a", "a")


def test_a_default_that_is_gone_or_damaged_is_an_error_and_no_other_is_taken(
    tlp_home: Path, place: Place
) -> None:
    folder = place("a")
    models().register(folder)
    models().register(place("b"))
    another = RunTask("models default", arguments=("b",), purpose="to set another")

    def refused(kind: type[Exception], message: str) -> None:
        for inputs in (("t1",), None):
            with pytest.raises(kind, match=message) as raised:
                find_bundle(None, inputs)
            assert raised.value.fixes[-1] == another  # type: ignore[attr-defined]

    onnx = (folder / "generator.onnx").read_bytes()
    (folder / "generator.onnx").write_bytes(onnx[:-1])
    refused(ModelDamaged, r"the default model.*, a, cannot be used: .*generator\.onnx was altered")
    (folder / "generator.onnx").write_bytes(onnx)
    assert used("t1") == "a"
    kept = entry(tlp_home, "a").read_text()
    entry(tlp_home, "a").write_text("{")
    with pytest.raises(ModelDamaged, match="is not a register entry"):
        find_bundle(None, ("t1",))
    entry(tlp_home, "a").write_text(kept)
    folder.rename(tlp_home / "away")
    with pytest.raises(ModelMissing, match="there is no bundle in") as raised:
        find_bundle(None, ("t1",))
    assert raised.value.fixes == (another,)
    assert models().register(place("c")).default == "a"
    entry(tlp_home, "a").unlink()
    with pytest.raises(ModelMissing, match="for T1, a, is not registered any more"):
        find_bundle(None, ("t1",))


def test_a_default_whose_name_now_has_a_model_for_other_inputs_is_an_error(
    tlp_home: Path, place: Place, tiny_dual: Bundle
) -> None:
    models().register(place("a"))
    entry(tlp_home, "a").write_text(json.dumps({"path": str(tiny_dual.path), "order": 1}))
    with pytest.raises(ModelMismatch, match="for T1, a, takes T1 and T2 now"):
        find_bundle(None, ("t1",))


def test_removing_a_default_keeps_its_record_while_others_fit(place: Place) -> None:
    for name in ("a", "b"):
        models().register(place(name))
    removal = models().take_out("a")
    assert (removal.default_of, removal.others) == (("t1",), ("b",))
    with pytest.raises(ModelMissing, match="a, is not registered any more"):
        find_bundle(None, ("t1",))
    assert models().take_out("b").default_of == ()
    place("c")
    assert models().register(models_folder() / "c").default == "c", "no other was left"
    assert used("t1") == "c"


def test_the_next_bundle_becomes_the_default_when_nothing_else_is_registered(place: Place) -> None:
    models().register(place("a"))
    set_default("a")
    assert models().take_out("a").default_of == ()
    with pytest.raises(ModelMissing, match="no model is registered"):
        find_bundle(None, None)
    assert models().register(place("b")).is_default
    assert (used("t1"), used()) == ("b", "b")


def test_a_damaged_record_of_defaults_is_named_and_stops_no_registration(
    tlp_home: Path, place: Place
) -> None:
    models().register(place("a"))
    for text in ("{", "[]", '{"inputs": {}}', '{"name": null, "inputs": []}'):
        default_file(tlp_home).write_text(text)
        with pytest.raises(ModelDamaged, match=r"default-model\.json: cannot be read"):
            find_bundle(None, ("t1",))
        assert find_bundle("a", None)[1] == "as asked"
        assert models().register(models_folder() / "a").default is None
    models().register(place("b"))
    models().take_out("b")
    set_default(None)
    assert used("t1") == "a"


def test_a_bundle_whose_folder_is_gone_is_passed_over_where_no_default_is_recorded(
    place: Place,
) -> None:
    for name in ("gone", "a"):
        models().register(place(name))
    set_default(None)
    shutil.rmtree(models_folder() / "gone")
    assert used("t1") == used() == "a"
