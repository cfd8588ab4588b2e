"""What this machine can do at most: the operations a second of a matrix product and of a convolution alone."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from stmcli.bench.clock import Clock

SECONDS = 0.4  # for each of the shapes
CALLS = 4  # between two looks at the clock
SIDE = {"cpu": 2048, "cuda": 8192}  # of the matrices
MAPS = ((256, 120, 216), (256, 60, 108), (512, 30, 54))  # channels, h, w: decoder and heads at 854x480


@dataclass(frozen=True)
class Bound:
    """Floating-point operations a second, the best of several tries; a multiplication with its addition is two."""

    device: str
    precision: str
    product: float  # of square matrices
    convolution: float  # 3x3, the best of several shapes

    def best(self, other: "Bound") -> "Bound":
        """Return the better of two measurements of the same machine."""
        product, convolution = max(self.product, other.product), max(self.convolution, other.convolution)
        return Bound(self.device, self.precision, product, convolution)


@torch.inference_mode()
def measure_bound(device: torch.device, dtype: torch.dtype, precision: str) -> Bound:
    """Measure a device with numbers of a type; takes one to two seconds."""
    side = SIDE[device.type]
    a, b = (torch.randn(side, side, device=device, dtype=dtype) for _ in range(2))
    product = _rate(lambda: a @ b, device, operations=2 * side**3)
    return Bound(str(device), precision, product, max(_convolve(device, dtype, *shape) for shape in MAPS))


def _convolve(device: torch.device, dtype: torch.dtype, channels: int, h: int, w: int) -> float:
    layout = torch.channels_last
    x = torch.randn(1, channels, h, w, device=device, dtype=dtype).contiguous(memory_format=layout)
    weight = torch.randn(channels, channels, 3, 3, device=device, dtype=dtype).contiguous(memory_format=layout)
    return _rate(lambda: F.conv2d(x, weight, padding=1), device, operations=2 * 9 * channels**2 * h * w)


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
