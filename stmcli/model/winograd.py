"""3x3 convolutions in 4 multiplications where 9 are usual, for CPUs, whose libraries do not have it.

F(2x2, 3x3) of Lavin and Gray, "Fast Algorithms for Convolutional Neural Networks", CVPR 2016: tiles of 4x4 pixels,
two pixels apart, are transformed, multiplied by transformed weights, and transformed back into 2x2 pixels.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stmcli.model.products import USUAL, Products

WIDE = 256  # channels, in and out, from which it is faster: the transforms cost by them, the products by their square
STRIP = 4 << 20  # numbers of transformed tiles at once, which then are still in a cache
KERNEL = ((1.0, 0.0, 0.0), (0.5, 0.5, 0.5), (0.5, -0.5, 0.5), (0.0, 0.0, 1.0))


def pays(convolution: nn.Conv2d) -> bool:
    """Tell whether a convolution is one that `Winograd` does faster."""
    plain = convolution.kernel_size == (3, 3) and convolution.padding == (1, 1) and convolution.groups == 1
    dense = convolution.stride == (1, 1) and convolution.dilation == (1, 1)
    return plain and dense and min(convolution.in_channels, convolution.out_channels) >= WIDE


class Winograd(nn.Module):
    """A convolution that `pays`, up to rounding; `products` multiplies its matrices. It knows no gradients."""

    def __init__(self, convolution: nn.Conv2d, products: Products = USUAL) -> None:
        super().__init__()
        self.products = products
        kernel = convolution.weight.new_tensor(KERNEL)
        weight = torch.einsum("ax,by,oixy->abio", kernel, kernel, convolution.weight.detach()).flatten(0, 1)
        self.weight = nn.Parameter(weight.contiguous(), requires_grad=False)  # (16, C, D)
        self.bias = convolution.bias

    def spared(self, y: Tensor) -> int:
        """Return how many multiply-accumulates more the convolution would have taken to make y (B, D, H, W)."""
        batch, _, height, width = y.shape
        tiles = -(-height // 2) * -(-width // 2)
        return batch * (9 * height * width - 16 * tiles) * self.weight[0].numel()

    def forward(self, x: Tensor) -> Tensor:
        """Convolve x: (B, C, H, W) -> (B, D, H, W)."""
        batch, _, height, width = x.shape
        tall, wide = -(-height // 2), -(-width // 2)  # tiles
        rows = F.pad(x, (1, 2 * wide + 1 - width, 1, 2 * tall + 1 - height)).permute(0, 2, 3, 1)
        y = x.new_empty(batch, 2 * tall, 2 * wide, self.weight.shape[2])
        strip = max(1, STRIP // (16 * wide * max(self.weight.shape[1:])))
        for source, target in zip(rows, y, strict=True):
            for tile in range(0, tall, strip):
                last = min(tile + strip, tall)
                self._strip(source[2 * tile : 2 * last + 2], target[2 * tile : 2 * last])
        return y[:, :height, :width].permute(0, 3, 1, 2)

    def _strip(self, source: Tensor, target: Tensor) -> None:
        """Convolve (2n+2, 2m+2, C) into `target` (2n, 2m, D)."""
        n, m = target.shape[0] // 2, target.shape[1] // 2
        half = _spread(source, source.new_empty(4, n, *source.shape[1:]))
        tiles = source.new_empty(4, 4, n, m, source.shape[2])
        _spread(half.movedim(2, 0), tiles.permute(1, 3, 0, 2, 4))
        products = self.products.each(tiles.view(16, n * m, -1), self.weight)  # (n*m, D) each
        if self.bias is not None:
            products[5].add_(self.bias)  # of row and column 1: enters all four pixels
        half = source.new_empty(2, 4, n, m, target.shape[2])
        for column in range(4):
            _gather(products[column::4], half[:, column].flatten(1, 2))
        _gather(half.movedim(1, 0), target.view(n, 2, m, 2, -1).permute(3, 1, 0, 2, 4))


def _spread(x: Tensor, out: Tensor) -> Tensor:
    """Transform tiles of four rows, two apart: x (2n+2, ...) -> out (4, n, ...)."""
    a, b, c, d = (x[first : first + 2 * out.shape[1] : 2] for first in range(4))
    torch.sub(a, c, out=out[0])
    torch.add(b, c, out=out[1])
    torch.sub(c, b, out=out[2])
    torch.sub(b, d, out=out[3])
    return out


def _gather(x: Sequence[Tensor] | Tensor, out: Tensor) -> None:
    """Transform back into two rows of each tile: x (4, ...) -> out (2, ...)."""
    torch.add(x[1], x[2], out=out[0]).add_(x[0])
    torch.sub(x[1], x[2], out=out[1]).sub_(x[3])
