"""The network in the form in which inference is fastest: the same function, up to rounding, in fewer operations.

Weights files, training and the published network know nothing of it: `fused` makes it of a network that is ready.
"""

import copy

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from stmcli.model.layers import Encoder, Features, KeyValue
from stmcli.model.stm import STM


def fused(model: STM) -> STM:
    """Return a copy for inference: batch norms are part of convolutions, and convolutions of one input are one.

    It sums in another order than the published network, so that saturated pixels may differ.
    """
    fast = copy.deepcopy(model).eval().requires_grad_(False)
    for side in ("query", "memory"):
        fast.add_module(f"{side}_encoder", FusedEncoder(getattr(fast, f"{side}_encoder")))
        fast.add_module(f"{side}_head", FusedKeyValue(getattr(fast, f"{side}_head")))
    fast.published = False
    return fast


class FusedEncoder(nn.Module):
    """An `Encoder` whose stems, normalisation and batch norms are one convolution."""

    mean: Tensor

    def __init__(self, encoder: Encoder) -> None:
        super().__init__()
        stem = _like(encoder.conv1, encoder.conv1.weight / encoder.std, None)
        self.image = fuse_conv_bn_eval(stem, encoder.bn1)
        planes = [plane.weight for plane in encoder.planes if isinstance(plane, nn.Conv2d)]
        self.planes = _like(stem, torch.cat(planes, dim=1) * _scale(encoder.bn1), None) if planes else None
        self.alone = _beside(self.image, self.planes) if self.planes else None  # for one object, all in one
        self.maxpool = encoder.maxpool
        self.layer1, self.layer2, self.layer3 = map(_without_norm, (encoder.layer1, encoder.layer2, encoder.layer3))
        self.register_buffer("mean", encoder.mean)

    def forward(self, frame: Tensor, *planes: Tensor) -> Features:
        """Encode `frame` (B, 3, H, W) in [0, 1]; each plane is (B, N, H, W) and makes the batch B*N."""
        x = torch.relu_(self._stem(frame - self.mean, planes))
        f4 = self.layer1(self.maxpool(x))
        f8 = self.layer2(f4)
        return Features(self.layer3(f8), f8, f4)

    def _stem(self, frame: Tensor, planes: tuple[Tensor, ...]) -> Tensor:
        """(B, 3, H, W), (B, N, H, W) each -> (B*N, C, H/2, W/2)."""
        if self.planes is None or self.alone is None:
            return self.image(frame)
        if planes[0].shape[1] == 1:
            return self.alone(_channels_last(torch.cat([frame, *planes], dim=1)))
        x = self.planes(_channels_last(torch.stack(planes, dim=2).flatten(0, 1)))  # (B*N, C, H/2, W/2)
        objects = x.unflatten(0, planes[0].shape[:2])
        return objects.add_(self.image(frame).unsqueeze(1)).flatten(0, 1)


class FusedKeyValue(nn.Module):
    """A `KeyValue` in one convolution."""

    def __init__(self, head: KeyValue) -> None:
        super().__init__()
        self.widths = (head.key.out_channels, head.value.out_channels)
        weight = torch.cat([head.key.weight, head.value.weight])
        self.both = _like(head.key, weight, torch.cat([x.bias for x in (head.key, head.value) if x.bias is not None]))

    def forward(self, f16: Tensor) -> tuple[Tensor, Tensor]:
        """Return the key and the value map of `f16` (B, C16, h, w), views of one tensor."""
        key, value = self.both(f16).split(self.widths, dim=1)
        return key, value


def _scale(norm: nn.BatchNorm2d) -> Tensor:
    """Return by what a batch norm multiplies: (C, 1, 1, 1), for the weights of the convolution before it."""
    assert norm.running_var is not None
    return (norm.weight / torch.sqrt(norm.running_var + norm.eps)).view(-1, 1, 1, 1)


def _beside(image: nn.Conv2d, planes: nn.Conv2d) -> nn.Conv2d:
    """Return the convolution of both inputs one after the other, whose result is the sum of both results."""
    return _like(image, torch.cat([image.weight, planes.weight], dim=1), image.bias)


def _without_norm(layer: nn.Sequential) -> nn.Sequential:
    """Fold every batch norm of a ResNet's layer into the convolution before it."""
    for block in layer:
        for place in (1, 2, 3):
            if convolution := getattr(block, f"conv{place}", None):
                norm = getattr(block, f"bn{place}")
                setattr(block, f"conv{place}", fuse_conv_bn_eval(convolution, norm))
                setattr(block, f"bn{place}", nn.Identity())
        if isinstance(block.downsample, nn.Sequential):
            block.downsample = fuse_conv_bn_eval(*block.downsample)
    return layer


def _like(other: nn.Conv2d, weight: Tensor, bias: Tensor | None) -> nn.Conv2d:
    """Return a convolution with these weights (C, D, k, k), and the kernel, stride and padding of another."""
    convolution = copy.deepcopy(other)
    convolution.out_channels, convolution.in_channels = weight.shape[:2]
    convolution.weight = nn.Parameter(weight, requires_grad=False)
    convolution.bias = None if bias is None else nn.Parameter(bias, requires_grad=False)
    return convolution


def _channels_last(x: Tensor) -> Tensor:
    return x.contiguous(memory_format=torch.channels_last)
