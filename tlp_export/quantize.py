"""int8 for the 3x3 convolutions: explicit quantisation in the module, calibrated on slices.

All symmetric, since TensorRT knows no zero point: weights with one scale an output channel, what
a convolution reads and returns with one scale a tensor, chosen for the least squared error on the
calibration slices. ONNX Runtime runs a convolution in int8 only if its output is quantised too.
Why the 3x3 convolutions alone: docs/adr/0008.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

# Registers the operators that the ONNX exporter knows as QuantizeLinear and DequantizeLinear.
from torch.ao.quantization.fx import _decomposed  # noqa: F401

from tlp_export.slices import Tensors, psnr_db, run_module
from tlp_runtime.errors import ChooseAnother, SetOption, UsageError
from tlp_runtime.models.manifest import LayerCost
from tlp_train.networks.base import SynthesisNetwork
from tlp_train.networks.tlp.options import TLPOptions

LEVELS = 127
"""Either side of zero."""

_MOST_INPUTS = 3
_FUSIONS = "bottleneck.fusions."
_SAMPLE = 20_000
_SHARES = np.linspace(1.0, 0.3, 36)


@dataclass
class Range:
    """The largest magnitude that passed through one place, and a sample of the values."""

    largest: float = 0.0
    samples: list[NDArray[np.float32]] = field(default_factory=list)

    def see(self, values: Tensor, rng: np.random.Generator) -> None:
        """Take in one tensor."""
        flat = values.detach().flatten().numpy()
        self.largest = max(self.largest, float(np.abs(flat).max()))
        self.samples.append(rng.choice(flat, min(len(flat), _SAMPLE)))

    def scale(self) -> float:
        """Of the least squared error, among those that clip what is beyond a share of the range."""
        sample = np.concatenate(self.samples)
        scales = np.maximum(self.largest * _SHARES / LEVELS, 1e-8)

        def error(scale: float) -> float:
            levels = np.clip(np.rint(sample / scale), -LEVELS, LEVELS)
            return float(np.square(levels * scale - sample).mean(dtype=np.float64))

        return float(min(scales, key=error))


class QuantizedConv2d(nn.Module):
    """A convolution between two quantisers, with int8 weights.

    Parameters
    ----------
    source, result
        Scales of what it reads and of what it returns.
    """

    def __init__(self, conv: nn.Conv2d, source: float, result: float) -> None:
        super().__init__()
        weight = conv.weight.detach()
        scale = (weight.abs().amax(dim=(1, 2, 3)) / LEVELS).clamp_min(1e-12)
        levels = (weight / scale[:, None, None, None]).round().clamp(-LEVELS, LEVELS)
        self.weight = nn.Buffer(levels.to(torch.int8))
        self.scale = nn.Buffer(scale)
        self.zero = nn.Buffer(torch.zeros_like(scale, dtype=torch.int8))
        self.bias = conv.bias
        self.padding: Any = conv.padding
        self.source, self.result = source, result

    def forward(self, x: Tensor) -> Tensor:
        weight = torch.ops.quantized_decomposed.dequantize_per_channel(
            self.weight, self.scale, self.zero, 0, -LEVELS, LEVELS, torch.int8
        )
        image = F.conv2d(_rounded(x, self.source), weight, self.bias, padding=self.padding)
        return _rounded(image, self.result)


def _rounded(x: Tensor, scale: float) -> Tensor:
    """Quantise to int8 and back."""
    ops = torch.ops.quantized_decomposed
    levels = ops.quantize_per_tensor(x, scale, 0, -LEVELS - 1, LEVELS, torch.int8)
    return ops.dequantize_per_tensor(levels, scale, 0, -LEVELS - 1, LEVELS, torch.int8)  # type: ignore[no-any-return]


def candidates(generator: SynthesisNetwork) -> dict[str, nn.Conv2d]:
    """The full 3x3 convolutions by name, but for the first and the last of the network.

    Those two have two and one channels on one side: nothing to gain, and every error shows. The
    local fusion at the lowest scale is left out too, a thirtieth of the work: OpenVINO loses 12 dB
    if what global fusion gives it is quantised (docs/adr/0008).
    """
    if generator.spec.network.name != TLPOptions.NAME:
        return {name: conv for name, conv in _full_3x3(generator) if _in_the_middle(conv)}
    fusions = [name for name, _ in generator.named_modules() if name.startswith(_FUSIONS)]
    lowest = max((name.split(".")[2] for name in fusions), default="")
    return {
        name: module
        for name, module in _full_3x3(generator)
        if not name.endswith((".stem", "decoder.output"))
        and not name.startswith(f"{_FUSIONS}{lowest}.")
    }


def _full_3x3(generator: SynthesisNetwork) -> Iterator[tuple[str, nn.Conv2d]]:
    """The 3x3 convolutions over all channels that keep height and width, or lose a border."""
    for name, module in generator.named_modules():
        if (
            isinstance(module, nn.Conv2d)
            and module.kernel_size == (3, 3)
            and module.stride == (1, 1)
            and module.groups == 1
        ):
            yield name, module


def _in_the_middle(conv: nn.Conv2d) -> bool:
    """Whether it is neither over images nor gives one."""
    return conv.in_channels > _MOST_INPUTS and conv.out_channels > 1


def quantize(
    generator: SynthesisNetwork,
    calibration: Sequence[Tensors],
    *,
    exclude: Collection[str] = (),
    on_layer: Callable[[str], None] = lambda name: None,
) -> tuple[SynthesisNetwork, list[LayerCost]]:
    """A copy of a folded float32 generator with int8 convolutions, and what each costs.

    Parameters
    ----------
    calibration
        Batches of the network's inputs by name, (B, 1, H, W); the first is run once a layer to
        rank them.
    exclude
        Names, or beginnings of names, of layers to leave in float32.

    Returns
    -------
    The quantised generator, and its int8 layers with the costliest first.

    Raises
    ------
    UsageError
        ``exclude`` matches no layer, or leaves none.
    """
    every = candidates(generator)
    if not every:
        raise UsageError(
            f"precision int8: {generator.spec.network.name} has none of the layers that it is for, "
            "3x3 convolutions of stride 1",
            fix=SetOption("precision", "fp32"),
        )
    for name in exclude:
        if not any(layer.startswith(name) for layer in every):
            raise UsageError(
                f"exclude {name}: no such layer. There are {', '.join(every)}",
                fix=ChooseAnother("exclude", "layer"),
            )
    layers = {k: v for k, v in every.items() if not k.startswith(tuple(exclude))}
    if not layers:
        raise UsageError(
            f"exclude {', '.join(exclude)}: leaves nothing to quantise",
            fix=SetOption("precision", "fp32", "to keep every layer in float32"),
        )
    ranges = _observe(generator, layers, calibration)
    replacements = {
        name: QuantizedConv2d(conv, *(seen.scale() for seen in ranges[name]))
        for name, conv in layers.items()
    }
    costs = _rank(generator, layers, replacements, calibration[0], on_layer)
    quantized = copy.deepcopy(generator)
    for name, replacement in replacements.items():
        quantized.set_submodule(name, replacement)
    return quantized, costs


def _observe(
    generator: SynthesisNetwork, layers: Mapping[str, nn.Conv2d], batches: Sequence[Tensors]
) -> dict[str, tuple[Range, Range]]:
    rng = np.random.default_rng(0)
    ranges = {name: (Range(), Range()) for name in layers}

    def watch(name: str) -> Callable[[nn.Module, Any, Tensor], None]:
        def hook(module: nn.Module, given: Any, returned: Tensor) -> None:
            ranges[name][0].see(given[0], rng)
            ranges[name][1].see(returned, rng)

        return hook

    handles = [layer.register_forward_hook(watch(name)) for name, layer in layers.items()]
    try:
        for batch in batches:
            run_module(generator, generator.spec, batch)
    finally:
        for handle in handles:
            handle.remove()
    return ranges


def _rank(
    generator: SynthesisNetwork,
    layers: Mapping[str, nn.Conv2d],
    replacements: Mapping[str, nn.Module],
    batch: Tensors,
    on_layer: Callable[[str], None],
) -> list[LayerCost]:
    gflop: dict[str, float] = {}

    def measure(name: str) -> Callable[[nn.Module, Any, Tensor], None]:
        def hook(module: nn.Module, given: Any, returned: Tensor) -> None:
            gflop[name] = 2e-9 * layers[name].weight[0].numel() * returned[0].numel()

        return hook

    handles = [conv.register_forward_hook(measure(name)) for name, conv in layers.items()]
    exact = run_module(generator, generator.spec, batch)
    for handle in handles:
        handle.remove()
    costs = []
    for name, conv in layers.items():
        on_layer(name)
        generator.set_submodule(name, replacements[name])
        image = run_module(generator, generator.spec, batch)
        generator.set_submodule(name, conv)
        error = float(np.square(image - exact).mean())
        costs.append(LayerCost(name, psnr_db(error), gflop[name]))
    return sorted(costs, key=lambda cost: cost.psnr_db)
