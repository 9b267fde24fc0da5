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
    spec = ModelSpec(inputs=("t2",), network=NetworkSpec.with_levels(3, dim=16, ffn="gdfn"))
    assert ModelSpec.from_json(spec.to_json()) == spec


def test_another_major_is_refused() -> None:
    with pytest.raises(SpecError, match=r"schema 2\.0.*reads 1\.x"):
        ModelSpec.from_dict(_data(schema={"major": 2, "minor": 0}))


def test_unknown_keys_of_this_minor_are_refused_by_name() -> None:
    data = _data(colour="red")
    data["network"]["depth"] = 3
    with pytest.raises(SpecError, match=r"colour, network\.depth"):
        ModelSpec.from_dict(data)


def test_a_newer_minor_s_extra_keys_are_listed_in_a_warning() -> None:
    data = _data(schema={"major": 1, "minor": 9}, colour="red")
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
        (("network", "dim"), "48"),
        (("network", "dim"), True),
        (("network", "heads"), [2, 4]),
        (("network", "ffn"), "mlp"),
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


def test_fusion_options_need_two_inputs() -> None:
    with pytest.raises(SpecError, match="need two inputs"):
        ModelSpec(inputs=("t1",), network=NetworkSpec(global_fusion=False))


def test_the_crop_must_divide_by_the_downsamplings() -> None:
    with pytest.raises(SpecError, match="not divisible by 4"):
        ModelSpec(inputs=("t1",), crop=CropSpec(rows=(0, 190)))


def test_group_norm_needs_channels_in_sixteens() -> None:
    with pytest.raises(SpecError, match="multiple of 16"):
        NetworkSpec(dim=12, levels=1, blocks=(1, 2), heads=(2, 4))


def test_levels_drop_or_repeat_the_lowest_published_scale() -> None:
    assert NetworkSpec.with_levels(1).blocks == (1, 2)
    assert NetworkSpec.with_levels(2) == NetworkSpec()
    assert NetworkSpec.with_levels(3).heads == (2, 4, 8, 8)


def test_prompt_labels_may_not_overlap() -> None:
    with pytest.raises(SpecError, match="overlap"):
        PromptSpec(tumour_labels=(1, 2), oedema_labels=(2,))
