"""ModelSpec: valid once constructed, and strict about what it reads."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tlp_runtime.errors import SpecError
from tlp_runtime.spec.model import CropSpec, ModelSpec, NetworkSpec, PromptSpec
from tlp_runtime.warnings import SPEC_NEWER, WarningLog


def _data(**changes: Any) -> dict[str, Any]:
    data: dict[str, Any] = json.loads(ModelSpec(inputs=("t1", "t2")).to_json())
    data.update(changes)
    return data


def test_json_gives_back_an_equal_spec() -> None:
    spec = ModelSpec(
        inputs=("t2",), network=NetworkSpec(name="unet", options={"width": 8}, multiple=32)
    )
    assert ModelSpec.from_json(spec.to_json()) == spec


def test_another_major_is_refused() -> None:
    with pytest.raises(SpecError, match=r"schema 3\.0.*reads up to 2\.x"):
        ModelSpec.from_dict(_data(schema={"major": 3, "minor": 0}))


def test_unknown_keys_of_this_minor_are_refused_by_name() -> None:
    data = _data(colour="red")
    data["network"]["depth"] = 3
    with pytest.raises(SpecError, match=r"colour, network\.depth"):
        ModelSpec.from_dict(data)


def test_a_newer_minor_s_extra_keys_are_listed_in_a_warning() -> None:
    data = _data(schema={"major": 2, "minor": 9}, colour="red")
    heard = WarningLog()
    assert ModelSpec.from_dict(data, warn=heard.add) == ModelSpec(inputs=("t1", "t2"))
    (warning,) = heard
    assert warning.code is SPEC_NEWER
    assert warning.numbers == {"keys": "colour"}


def test_missing_keys_are_refused_by_name() -> None:
    data = _data()
    del data["crop"]["rows"]
    with pytest.raises(SpecError, match=r"crop\.rows"):
        ModelSpec.from_dict(data)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("inputs",), "t1"),
        (("inputs",), ["flair"]),
        (("network", "name"), ""),
        (("network", "options"), [2, 4]),
        (("network", "multiple"), 0),
        (("network", "prompt"), 1),
        (("crop", "rows"), [34, 226, 1]),
        (("intensity", "rule"), "percentile"),
        (("network",), None),
    ],
)
def test_values_of_another_kind_are_refused(path: tuple[str, ...], value: Any) -> None:
    data = _data()
    place = data
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    with pytest.raises(SpecError):
        ModelSpec.from_dict(data)


def test_what_is_not_json_is_refused() -> None:
    with pytest.raises(SpecError, match="not JSON"):
        ModelSpec.from_json("{")


def test_the_crop_must_divide_by_the_downsamplings() -> None:
    with pytest.raises(SpecError, match="not divisible by 4"):
        ModelSpec(inputs=("t1",), crop=CropSpec(rows=(0, 190)))


OLD_NETWORK = {
    "dim": 8, "levels": 3, "blocks": [1, 2, 2, 2], "heads": [2, 4, 8, 8], "refinement_blocks": 2,
    "ffn_expansion": 2.0, "ffn": "conv", "local_fusion": True, "global_fusion": True,
}  # fmt: skip


def _first_schema(minor: int, **network: Any) -> dict[str, Any]:
    """A specification as versions up to 0.1 wrote it."""
    data = _data(schema={"major": 1, "minor": minor}, network={**OLD_NETWORK, **network})
    if minor < 3:
        del data["prompt"]["background_labels"], data["prompt"]["scheme"]
    if minor < 2:
        del data["brightness"], data["intensity"]["percentiles"]
    if minor < 1:
        del data["sizes"]
    return data


@pytest.mark.parametrize("minor", [0, 1, 2, 3])
def test_every_specification_of_schema_1_is_converted(minor: int) -> None:
    spec = ModelSpec.from_dict(_first_schema(minor))
    assert (spec.network.name, spec.network.multiple, spec.network.prompt) == ("tlp", 8, True)
    assert spec.network.options == {**OLD_NETWORK, "blocks": (1, 2, 2, 2), "heads": (2, 4, 8, 8)}
    assert ModelSpec.from_json(spec.to_json()) == spec


@pytest.mark.parametrize(
    ("change", "found"),
    [
        ({"levels": 4}, "levels is 4"),
        ({"levels": "2"}, "levels is '2'"),
        ({"levels": True}, "levels is True"),
        ({"colour": "red"}, r"network\.colour"),
    ],
)
def test_schema_1_is_read_as_strictly_as_before(change: dict[str, Any], found: str) -> None:
    with pytest.raises(SpecError, match=found):
        ModelSpec.from_dict(_first_schema(3, **change))


def test_schema_1_without_an_option_is_refused_by_its_name() -> None:
    data = _first_schema(3)
    del data["network"]["ffn"]
    with pytest.raises(SpecError, match=r"missing keys network\.ffn"):
        ModelSpec.from_dict(data)


def test_a_model_without_prompt_has_no_such_tensor() -> None:
    spec = ModelSpec(inputs=("t1", "t2"), network=NetworkSpec(prompt=False))
    assert spec.tensor_names == ("t1", "t2")


def test_equal_specifications_have_equal_hashes() -> None:
    lists = NetworkSpec(options={"blocks": [1, 2], "a": 1})
    tuples = NetworkSpec(options={"a": 1, "blocks": (1, 2)})
    assert lists == tuples
    assert hash(lists) == hash(tuples)


def test_prompt_labels_may_not_overlap() -> None:
    with pytest.raises(SpecError, match="overlap"):
        PromptSpec(tumour_labels=(1, 2), oedema_labels=(2,))
