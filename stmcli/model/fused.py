"""The network in the form in which inference is fastest: the same function, up to rounding, in fewer operations.

Weights files, training and the published network know nothing of it: `fused` makes it of a network that is ready.
"""

import copy
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from stmcli.model.layers import Encoder, Features, KeyValue, ResidualBlock, channels_last
from stmcli.model.products import USUAL, Products
from stmcli.model.stm import STM
from stmcli.model.winograd import Winograd, pays


def fused(model: STM, *, lanes: int = 1, winograd: bool = False, products: Products = USUAL) -> STM:
    """Return a copy for inference: batch norms are part of convolutions, and convolutions of one input are one.

    It sums in another order than the published network, so that saturated pixels may differ. Frame and masks are
    filled up to a multiple of `lanes` channels; with `winograd` the wide convolutions multiply less. Matrices of those,
    and of memory reads, are multiplied by `products`.
    """
    fast = copy.deepcopy(model).eval().requires_grad_(False)
    for side in ("query", "memory"):
        fast.add_module(f"{side}_encoder", FusedEncoder(getattr(fast, f"{side}_encoder"), lanes))
        fast.add_module(f"{side}_head", FusedKeyValue(getattr(fast, f"{side}_head")))
    for module in fast.modules():
        for name, part in module.named_children():
            if isinstance(part, ResidualBlock):
                setattr(module, name, FusedResidual(part))
    if winograd:
        _spare(fast, products)
    fast.products = products
    fast.published = False
    return fast


def _spare(model: nn.Module, products: Products) -> None:
    """Put a `Winograd` in the place of every convolution that gains by it."""
    for module in model.modules():
        for name, part in module.named_children():
            if isinstance(part, nn.Conv2d) and pays(part):
                setattr(module, name, Winograd(part, products))


class FusedEncoder(nn.Module):
    """An `Encoder` whose stems, normalisation and batch norms are one convolution."""

    def __init__(self, encoder: Encoder, lanes: int) -> None:
        super().__init__()
        self.stem = FusedStem(encoder, lanes)
        self.layer1, self.layer2, self.layer3 = map(_fused_layer, (encoder.layer1, encoder.layer2, encoder.layer3))

    def forward(self, frame: Tensor, *planes: Tensor) -> Features:
        """Encode `frame` (B, 3, H, W) in [0, 1]; each plane is (B, N, H, W) and makes the batch B*N."""
        f4 = self.layer1(self.stem(frame, *planes))
        f8 = self.layer2(f4)
        return Features(self.layer3(f8), f8, f4)


class FusedStem(nn.Module):
    """What comes before the layers of a `FusedEncoder`."""

    mean: Tensor

    def __init__(self, encoder: Encoder, lanes: int) -> None:
        super().__init__()
        stem = _like(encoder.conv1, encoder.conv1.weight / encoder.std, None)
        self.image = fuse_conv_bn_eval(stem, encoder.bn1)
        planes = [plane.weight for plane in encoder.planes if isinstance(plane, nn.Conv2d)]
        self.planes = _like(stem, torch.cat(planes, dim=1) * _scale(encoder.bn1), None) if planes else None
        self.empty = -(3 + len(planes)) % lanes
        self.alone = beside(self.image, self.planes, self.empty) if self.planes else None  # for one object, all in one
        self.maxpool = encoder.maxpool
        self.register_buffer("mean", encoder.mean)

    def forward(self, frame: Tensor, *planes: Tensor) -> Tensor:
        """(B, 3, H, W) in [0, 1], (B, N, H, W) each -> (B*N, C, H/4, W/4)."""
        pooled: Tensor = self.maxpool(torch.relu_(self._convolved(centred(frame, self.mean), planes)))
        return pooled

    def _convolved(self, frame: Tensor, planes: tuple[Tensor, ...]) -> Tensor:
        """(B, 3, H, W), (B, N, H, W) each -> (B*N, C, H/2, W/2)."""
        if self.planes is None or self.alone is None:
            return self.image(frame)
        if planes[0].shape[1] == 1:
            empty = [torch.zeros_like(frame[:, :1])] * self.empty
            return self.alone(channels_last(torch.cat([frame, *planes, *empty], dim=1)))
        x = self.planes(channels_last(torch.stack(planes, dim=2).flatten(0, 1)))  # (B*N, C, H/2, W/2)
        objects = x.unflatten(0, planes[0].shape[:2])
        return objects.add_(self.image(frame).unsqueeze(1)).flatten(0, 1)


class FusedBlock(nn.Module):
    """A block of a ResNet whose batch norms are part of its convolutions."""

    def __init__(self, block: nn.Module) -> None:
        super().__init__()
        places = [place for place in (1, 2, 3) if hasattr(block, f"conv{place}")]
        pairs = [(getattr(block, f"conv{place}"), getattr(block, f"bn{place}")) for place in places]
        *first, self.last = (fuse_conv_bn_eval(*pair) for pair in pairs)
        self.first = nn.ModuleList(first)
        self.downsample = fuse_conv_bn_eval(*block.downsample) if isinstance(block.downsample, nn.Sequential) else None

    def forward(self, x: Tensor) -> Tensor:
        """Return what the block returns: (B, C, h, w) -> (B, D, h, w) or half as high and wide."""
        y = x
        for convolution in self.first:
            y = _relu_of(cast(nn.Conv2d, convolution), y)
        return _relu_of(self.last, y, x if self.downsample is None else self.downsample(x))


class FusedResidual(nn.Module):
    """A `ResidualBlock` in fewer operations."""

    def __init__(self, block: ResidualBlock) -> None:
        super().__init__()
        self.conv1, self.conv2 = block.conv1, block.conv2

    def forward(self, x: Tensor) -> Tensor:
        """Return `x` plus its residual, same shape."""
        return self.conv2(_relu_of(self.conv1, torch.relu(x))).add_(x)


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


def centred(frame: Tensor, mean: Tensor) -> Tensor:
    """Subtract mean (1, 3, 1, 1) from frame (B, 3, H, W): row by row, as three channels are too few to go by them."""
    width = frame.shape[3]
    rows = frame.permute(0, 2, 3, 1).flatten(2) - mean.flatten().repeat(width)  # (B, H, W*3)
    return rows.unflatten(2, (width, 3)).permute(0, 3, 1, 2)


def _scale(norm: nn.BatchNorm2d) -> Tensor:
    """Return by what a batch norm multiplies: (C, 1, 1, 1), for the weights of the convolution before it."""
    assert norm.running_var is not None
    return (norm.weight / torch.sqrt(norm.running_var + norm.eps)).view(-1, 1, 1, 1)


def beside(image: nn.Conv2d, planes: nn.Conv2d, empty: int = 0) -> nn.Conv2d:
    """Return the convolution of both inputs one after the other, whose result is the sum of both results.

    So many channels come behind them that do not count.
    """
    nothing = image.weight.new_zeros(image.out_channels, empty, *image.kernel_size)
    return _like(image, torch.cat([image.weight, planes.weight, nothing], dim=1), image.bias)


def _fused_layer(layer: nn.Sequential) -> nn.Sequential:
    return nn.Sequential(*map(FusedBlock, layer))


def _relu_of(convolution: nn.Conv2d, x: Tensor, plus: Tensor | None = None) -> Tensor:
    """Return `relu(convolution(x) + plus)`; in half precision on CUDA in one kernel, not in three or four.

    In fp32 that kernel takes many times as long as the others together, once there are several objects.
    """
    fuses = x.is_cuda and torch.version.cuda and x.dtype != torch.float32  # not on ROCm, which calls itself CUDA
    if not fuses or torch.compiler.is_compiling():
        y = convolution(x)
        return torch.relu_(y if plus is None else y.add_(plus))
    weight, bias = convolution.weight, convolution.bias
    how: Any = convolution.stride, convolution.padding, convolution.dilation, convolution.groups
    if plus is None:
        return torch.cudnn_convolution_relu(x, weight, bias, *how)
    return torch.cudnn_convolution_add_relu(x, weight, plus, 1.0, bias, *how)


def _like(other: nn.Conv2d, weight: Tensor, bias: Tensor | None) -> nn.Conv2d:
    """Return a convolution with these weights (C, D, k, k), and the kernel, stride and padding of another."""
    convolution = copy.deepcopy(other)
    convolution.out_channels, convolution.in_channels = weight.shape[:2]
    convolution.weight = nn.Parameter(weight, requires_grad=False)
    convolution.bias = None if bias is None else nn.Parameter(bias, requires_grad=False)
    return convolution
