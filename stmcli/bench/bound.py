"""What this machine can do at most: the operations a second of a matrix product and of a convolution alone."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn

from stmcli.bench.clock import Clock
from stmcli.device import pick_dtype
from stmcli.model.layers import channels_last
from stmcli.model.quantized import QuantizedConv, quantize

SECONDS = 0.4  # for each of the shapes
CALLS = 4  # between two looks at the clock
SIDE = {"cpu": 2048, "cuda": 8192}  # of the matrices
HEIGHT = 32  # of a map with so many pixels as a matrix has rows
MAPS = ((256, 120, 216), (256, 60, 108), (512, 30, 54))  # channels, h, w: decoder and heads at 854x480


@dataclass(frozen=True)
class Bound:
    """Operations a second, the best of several tries; a multiplication with its addition is two."""

    device: str
    precision: str
    product: float  # of square matrices
    convolution: float  # 3x3, the best of several shapes

    def best(self, other: "Bound") -> "Bound":
        """Return the better of two measurements of the same machine."""
        product, convolution = max(self.product, other.product), max(self.convolution, other.convolution)
        return Bound(self.device, self.precision, product, convolution)


@torch.inference_mode()
def measure_bound(device: torch.device, precision: str) -> Bound:
    """Measure a device with int8, fp32, bf16 or fp16; takes one to two seconds. In int8 a product is a convolution."""
    dtype, side = pick_dtype(precision, device), SIDE[device.type]
    best = max(_convolve(device, precision, *shape) for shape in MAPS)
    if precision == "int8":
        return Bound(str(device), precision, _convolve(device, precision, side, HEIGHT, side // HEIGHT, kernel=1), best)
    a, b = (torch.randn(side, side, device=device, dtype=dtype) for _ in range(2))
    return Bound(str(device), precision, _rate(lambda: a @ b, device, operations=2 * side**3), best)


def _convolve(device: torch.device, precision: str, channels: int, h: int, w: int, *, kernel: int = 3) -> float:
    operations = 2 * kernel**2 * channels**2 * h * w
    with torch.device(device):
        convolution = nn.Conv2d(channels, channels, kernel, padding=kernel // 2, bias=False)
        x = channels_last(torch.rand(1, channels, h, w))
    if precision == "int8":
        quantized, whole = QuantizedConv(convolution, largest=1.0), quantize(x, 1 / 255)
        return _rate(lambda: quantized(whole), device, operations=operations)
    dtype = pick_dtype(precision, device)
    convolution, x = convolution.to(dtype).to(memory_format=torch.channels_last), x.to(dtype)
    return _rate(lambda: convolution(x), device, operations=operations)


def _rate(call: Callable[[], object], device: torch.device, *, operations: int) -> float:
    """Return the operations a second of the fastest call; the first is not counted."""
    call()
    seconds: list[float] = []
    while sum(seconds) < SECONDS:
        clock = Clock(device)
        for _ in range(CALLS):
            call()
            clock.mark()
        seconds += clock.seconds()
    return operations / min(seconds)
