"""Every folding leaves the function as it is, and saves what it says."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor

from tests.fakes.engine import TINY_NETWORK
from tests.networks import changed, tlp, tlp_spec
from tlp_export.fold import FOLDS, Fold, cost, fold, savings
from tlp_runtime.spec.model import CropSpec, ModelSpec, NetworkSpec, SizeSpec
from tlp_train.networks.base import SynthesisNetwork
from tlp_train.networks.tlp.generator import Generator

CROP = CropSpec(rows=(0, 32), columns=(0, 24))
NETWORK = changed(TINY_NETWORK, dim=8)


def generator(inputs: tuple[str, ...] = ("t1", "t2"), network: NetworkSpec = NETWORK) -> Generator:
    """A network whose norms and temperatures are random too, and whose tanh does not saturate."""
    torch.manual_seed(0)
    made = Generator(ModelSpec(inputs=inputs, network=network, crop=CROP)).eval()
    with torch.no_grad():
        for name, parameter in made.named_parameters():
            if "norm" in name or "temperature" in name or name.endswith("bias"):
                parameter.add_(torch.randn_like(parameter) * 0.3)
        made.decoder.output.weight.mul_(2)
    return made


def tensors(spec: ModelSpec, dtype: torch.dtype = torch.float64) -> list[Tensor]:
    return [torch.rand(2, 1, 32, 24, dtype=dtype) * 2 - 1 for _ in spec.tensor_names]


def run(module: SynthesisNetwork, inputs: list[Tensor]) -> Tensor:
    with torch.no_grad():
        return module(*inputs)  # type: ignore[no-any-return]


@pytest.mark.parametrize("one", FOLDS, ids=lambda one: one.name)
def test_a_folding_by_itself_changes_nothing(one: Fold) -> None:
    """In float64, against the same network with only the passes before it."""
    before = FOLDS[: FOLDS.index(one)]
    made = generator().double()
    without, with_it = fold(made, before), fold(made, (*before, one))
    inputs = tensors(without.spec)
    expected = run(without, inputs)
    assert 0.1 < expected.std() < 0.9
    assert (run(with_it, inputs) - expected).abs().max() < 1e-10


@pytest.mark.parametrize(
    ("inputs", "network"),
    [
        (("t1", "t2"), NETWORK),
        (("t2",), NETWORK),
        (("t1", "t2"), changed(NETWORK, ffn="gdfn")),
        (("t1", "t2"), changed(NETWORK, local_fusion=False)),
        (("t1", "t2"), changed(NETWORK, global_fusion=False)),
        (("t1",), tlp(levels=1, dim=8)),
        (("t1",), tlp(levels=3, dim=8)),
    ],
    ids=["dual", "T2", "gdfn", "no LF", "no GF", "1 level", "3 levels"],
)
def test_every_network_can_be_folded(inputs: tuple[str, ...], network: NetworkSpec) -> None:
    made = generator(inputs, network)
    folded = fold(made)
    given = tensors(made.spec, torch.float32)
    exact = run(copy.deepcopy(made).double(), [tensor.double() for tensor in given])
    assert (run(folded, given) - exact).abs().max() < 1e-5


def test_the_original_is_left_as_it_was() -> None:
    made = generator()
    state = copy.deepcopy(made.state_dict())
    fold(made)
    for name, value in made.state_dict().items():
        assert torch.equal(value, state[name])


def test_a_wrong_folding_would_be_seen() -> None:
    """The comparison above fails for a pass that loses the LayerNorm's shift."""

    def spoil(folded: SynthesisNetwork) -> None:
        for name, parameter in folded.named_parameters():
            if name.endswith("pointwise.bias"):
                torch.nn.init.zeros_(parameter)

    wrong = (*FOLDS[:5], Fold("wrong", "", spoil))
    inputs = tensors(generator().spec)
    spoilt = fold(generator().double(), wrong)
    assert (run(spoilt, inputs) - run(generator().double(), inputs)).abs().max() > 1e-3


@pytest.mark.parametrize(
    ("inputs", "published", "at_most"), [(("t1", "t2"), 195.3, 121), (("t1",), 144.0, 84)]
)
def test_the_paper_s_network_costs_half(
    inputs: tuple[str, ...], published: float, at_most: float
) -> None:
    spec = tlp_spec(*inputs)
    assert cost(spec).gflop == pytest.approx(published, abs=0.05)
    lines = savings(spec)
    assert [line.name for line in lines] == [one.name for one in FOLDS]
    assert lines[0].before == cost(spec)
    assert lines[-1].after.gflop < at_most
    for line in lines:
        assert line.after.gflop <= line.before.gflop


def test_q_and_k_stay_in_range_at_the_largest_size() -> None:
    """Sums of squares over all pixels are at most the mean square at the published scale."""
    spec = ModelSpec(
        inputs=("t1",),
        network=NETWORK,
        crop=CROP,
        sizes=SizeSpec(smallest=(8, 8), largest=(256, 256)),
    )
    made = Generator(spec)
    original = made.state_dict()["decoder.lowest.0.attention.qkv_depthwise.weight"].clone()
    scaled = fold(made, FOLDS[:4]).state_dict()[
        "decoder.lowest.0.attention.convolutions.depthwise.weight"
    ]
    q_and_k = 2 * len(scaled) // 3
    assert torch.equal(scaled[:q_and_k] * 256, original[:q_and_k])
    assert torch.equal(scaled[q_and_k:], original[q_and_k:])
