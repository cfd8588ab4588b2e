"""The network with convolutions in integers of 8 bits: a CPU with units for them makes several times as many.

Affine quantization as in Jacob et al., CVPR 2018: weights have a scale for each channel, what enters a convolution has
one, which must be known before: the largest ever seen becomes the largest number of 8 bits, and what is larger counts
as that. From block to block of an encoder there are 8 bits too; the decoder's sums are in fp32, memory and reading it
as well, or in bf16 where a CPU multiplies that several times as fast.
"""

import copy
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_hook

from stmcli.model.fused import FusedBlock, FusedResidual, FusedStem, beside, centred
from stmcli.model.layers import channels_last
from stmcli.model.stm import STM

MOST, MOST_SIGNED, MIDDLE = 255, 127, 128
USUAL = 64  # height and width of a map, for which weights are laid out: for others it may take longer
LEAST = 1e-6  # what counts as the largest of an input or a channel that is nothing but zeros


@contextmanager
def largest_inputs(model: STM) -> Iterator[dict[str, float]]:
    """Note the largest magnitude that enters each convolution, by its name, while the block runs the network.

    On CUDA some stems are computed without them, and not noted.
    """
    names = {part: name for name, part in model.named_modules() if isinstance(part, nn.Conv2d)}
    found: dict[str, float] = {}

    def note(module: nn.Module, inputs: tuple[Tensor, ...], _: object) -> None:
        if (name := names.get(module)) is not None:  # type: ignore[call-overload]
            found[name] = max(found.get(name, 0.0), float(inputs[0].detach().abs().amax()))

    with register_module_forward_hook(note):
        yield found


def quantized(model: STM, ranges: Mapping[str, float], *, memory: torch.dtype = torch.float32) -> STM:
    """Put integers into a network on a CPU that `fused` made, and return it.

    `ranges` is what `largest_inputs` noted of the network as it was before; `memory` is the type of keys and values, in
    which they are read too. Raises KeyError for what `ranges` lacks, ValueError for what is no number.
    """
    for side in ("query", "memory"):
        encoder, head = getattr(model, f"{side}_encoder"), getattr(model, f"{side}_head")
        largest = ranges[f"{side}_head.key"]
        head.both = QuantizedConv(head.both, largest, leaves=memory)
        _quantize_encoder(encoder, f"{side}_encoder", ranges, largest)
    decoder: Any = model.decoder
    decoder.enter = QuantizedConv(decoder.enter, ranges["decoder.enter"], signed=True)
    decoder.enter_block = QuantizedResidual(decoder.enter_block, "decoder.enter_block", ranges)
    for name, next_layer in (("refine8", "layer3"), ("refine4", "layer2")):
        refine = getattr(decoder, name)
        refine.skip = QuantizedConv(refine.skip, ranges[f"query_encoder.{next_layer}.0.conv1"])  # reads the same
        for block in ("skip_block", "block"):
            setattr(refine, block, QuantizedResidual(getattr(refine, block), f"decoder.{name}.{block}", ranges))
    model.integers = True
    return model


def _quantize_encoder(encoder: Any, name: str, ranges: Mapping[str, float], largest: float) -> None:
    """Quantize a `FusedEncoder`; `largest` is of what comes out."""
    encoder.stem = QuantizedStem(encoder.stem, ranges[f"{name}.layer1.0.conv1"])
    layers = {f"{name}.layer{number}": getattr(encoder, f"layer{number}") for number in (1, 2, 3)}
    places = [(layer, place) for layer in layers for place in range(len(layers[layer]))]
    after = [ranges[f"{layer}.{place}.conv1"] for layer, place in places[1:]]
    for (layer, place), most in zip(places, [*after, largest], strict=True):
        layers[layer][place] = QuantizedBlock(layers[layer][place], f"{layer}.{place}", ranges, most)


class QuantizedConv(nn.Module):
    """A convolution in integers of numbers from 0 to `largest`, or with `signed` from -`largest` to it."""

    def __init__(
        self, convolution: nn.Conv2d, largest: float, *, signed: bool = False, leaves: torch.dtype = torch.float32
    ) -> None:
        super().__init__()
        self.leaves = leaves
        self.scale, self.zero = _step(largest, MOST_SIGNED if signed else MOST), MIDDLE if signed else 0
        weight = convolution.weight.detach().float()
        self.scales = weight.abs().amax((1, 2, 3)).clamp_min(LEAST) / MOST_SIGNED  # (D,)
        self.zeros = torch.zeros(len(weight), dtype=torch.int64)
        self.how = [*map(list, (convolution.stride, convolution.padding, convolution.dilation)), convolution.groups]
        whole = (weight / self.scales.view(-1, 1, 1, 1)).round().to(torch.int8)
        shape = [1, weight.shape[1], USUAL, USUAL]
        self.weight = torch.ops.onednn.qconv_prepack(whole, self.scales, self.scale, self.zero, *self.how, shape)
        self.bias = None if convolution.bias is None else convolution.bias.detach().float()
        self.taps = weight[0].numel()

    def macs(self, y: Tensor) -> int:
        """Return how many multiply-accumulates it took to make y (B, D, H, W)."""
        return self.taps * y.numel()

    def forward(
        self, x: Tensor, *, relu: bool = False, scale: float = 0.0, plus: Tensor | None = None, plus_scale: float = 1.0
    ) -> Tensor:
        """Convolve x (B, C, H, W), in uint8 of the scale that enters, or of floating point: (B, D, H, W).

        The result is in `leaves`, or with `scale` in uint8 of it. Before `relu` comes `plus` to it, of the same type,
        in uint8 of `plus_scale`.
        """
        x = x if x.dtype == torch.uint8 else quantize(x, self.scale, self.zero)
        result = (scale, 0, torch.uint8) if scale else (1.0, 0, self.leaves)
        given = (x, self.scale, self.zero, self.weight, self.scales, self.zeros)
        how, last = (self.bias, *self.how, *result), "relu" if relu else "none"
        if plus is None:
            return torch.ops.onednn.qconv2d_pointwise(*given, *how, last, [], "")
        added = (*given, plus, *how, plus_scale, 0, "sum", 1.0, last, [], "")
        return torch.ops.onednn.qconv2d_pointwise.binary(*added)


class QuantizedStem(nn.Module):
    """A `FusedStem` in integers; what comes out has numbers up to `largest`."""

    mean: Tensor

    def __init__(self, stem: FusedStem, largest: float) -> None:
        super().__init__()
        self.register_buffer("mean", stem.mean)
        self.most = float(torch.maximum(stem.mean, 1 - stem.mean).max())  # a frame is centred and not scaled
        self.leaves = _step(largest, MOST)
        both = stem.image if stem.planes is None else beside(stem.image, _divided(stem.planes, self.most))
        self.both = QuantizedConv(both, self.most, signed=True)

    def forward(self, frame: Tensor, *planes: Tensor) -> Tensor:
        """Return what the stem returns, in uint8: every object goes through all of it, as one alone does."""
        frame = centred(frame, self.mean)
        if planes:
            masks = torch.stack(planes, dim=2).flatten(0, 1) * self.most  # (B*N, 2, H, W), as large as frames are
            frame = torch.cat([frame.repeat_interleave(planes[0].shape[1], dim=0), masks], dim=1)
        return _pooled(self.both(channels_last(frame), relu=True, scale=self.leaves))


def _divided(convolution: nn.Conv2d, number: float) -> nn.Conv2d:
    """Return a convolution for an input that is so many times as large."""
    divided = copy.deepcopy(convolution)
    divided.weight.div_(number)
    return divided


def _pooled(x: Tensor) -> Tensor:
    """Return the largest of 3x3 around every second place, as `nn.MaxPool2d`, which takes no integers.

    (B, C, 2h, 2w) from 0 on -> (B, C, h, w).
    """
    rows = torch.maximum(x[:, :, ::2], x[:, :, 1::2])
    rows[:, :, 1:] = torch.maximum(rows[:, :, 1:], x[:, :, 1:-1:2])
    columns = torch.maximum(rows[..., ::2], rows[..., 1::2])
    columns[..., 1:] = torch.maximum(columns[..., 1:], rows[..., 1:-1:2])
    return columns


class QuantizedBlock(nn.Module):
    """A `FusedBlock` in integers; what comes out has numbers up to `largest`."""

    def __init__(self, block: FusedBlock, name: str, ranges: Mapping[str, float], largest: float) -> None:
        super().__init__()
        convolutions = enumerate((*block.first, block.last), 1)
        parts = [QuantizedConv(part, ranges[f"{name}.conv{place}"]) for place, part in convolutions]
        self.parts = nn.ModuleList(parts)
        self.enters, self.leaves = parts[0].scale, _step(largest, MOST)
        self.scales = [after.scale for _, after in pairwise(parts)]
        shortcut = block.downsample
        self.downsample = None if shortcut is None else QuantizedConv(shortcut, ranges[f"{name}.conv1"])

    def forward(self, x: Tensor) -> Tensor:
        """Return what the block returns, in uint8, of x in fp32 or in uint8 of the scale that enters.

        (B, C, h, w) -> (B, D, h, w) or half as high and wide.
        """
        x = x if x.dtype == torch.uint8 else quantize(x, self.enters)
        *first, last = self.parts
        y = x
        for part, scale in zip(first, self.scales, strict=True):
            y = part(y, relu=True, scale=scale)
        if self.downsample is None:
            return last(y, relu=True, scale=self.leaves, plus=x, plus_scale=self.enters)
        return quantize(last(y).add_(self.downsample(x)), self.leaves)  # which cuts off what is below zero


class QuantizedResidual(nn.Module):
    """A `FusedResidual` with convolutions in integers."""

    def __init__(self, block: FusedResidual, name: str, ranges: Mapping[str, float]) -> None:
        super().__init__()
        convolutions = {"conv1": block.conv1, "conv2": block.conv2}
        self.conv1, self.conv2 = (QuantizedConv(part, ranges[f"{name}.{key}"]) for key, part in convolutions.items())

    def forward(self, x: Tensor) -> Tensor:
        """Return `x` plus its residual, same shape, fp32."""
        y = self.conv1(x, relu=True, scale=self.conv2.scale)  # what is below zero counts as zero
        return self.conv2(y).add_(x)


def quantize(x: Tensor, scale: float, zero: int = 0) -> Tensor:
    """Round numbers to multiples of `scale` from `zero` on, in uint8 of the same shape; what is outside is cut."""
    x = x.float()  # bf16 cannot hold 255.5
    rounded = torch.add(x.new_tensor(zero + 0.5), x, alpha=1 / scale)
    return rounded.clamp_(0, MOST).to(torch.uint8)


def _step(largest: float, most: int) -> float:
    """Return the scale with which `most` stands for `largest`. Raises ValueError when that is no number."""
    if not math.isfinite(largest):
        raise ValueError(largest)
    return max(largest, LEAST) / most
