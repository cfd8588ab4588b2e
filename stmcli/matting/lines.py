"""Lines between the colours outside and inside of an object, near every place of its contour."""

from typing import NamedTuple

import torch
from torch import Tensor

from stmcli.matting.cells import TINY, moments, spread
from stmcli.options import MattingOptions

FEW = 0.02  # a window needs this share of pixels of either kind before its colours count


class ColourLines(NamedTuple):
    """The line from the colours outside to those inside, for every cell: alpha = slope . colour + offset."""

    slope: Tensor  # (3, h, w)
    offset: Tensor  # (h, w)
    weight: Tensor  # (h, w) how much the line is worth beside a prior of full doubt, 0..1

    @property
    def table(self) -> Tensor:
        """All of it as one: (5, h, w)."""
        return torch.cat([self.slope, self.offset[None], self.weight[None]])


def mix(lines: Tensor, pixels: Tensor, prior: Tensor, doubt: Tensor) -> Tensor:
    """Weigh the lines of pixels (B, 5, H, W) against a prior with variance doubt, both (B, H, W): not clamped.

    Takes pixels (B, 3, H, W) in [0, 1]. Slope and offset of the lines are already multiplied by the weight.
    """
    slopes, (offset, weight) = lines[:, :3].unbind(1), lines[:, 3:].unbind(1)
    share = (1 - weight) / doubt
    found = torch.addcmul(offset, share, prior)
    for slope, plane in zip(slopes, pixels.unbind(1), strict=True):
        found.addcmul_(slope, plane)
    return found / (weight + share)


def colour_lines(pixels: Tensor, p: Tensor, radius: float, options: MattingOptions) -> ColourLines:
    """Fit a line to the colours around every cell: pixels (3, h, w), p (h, w), radius in cells.

    Colours count as inside by p squared and as outside by (1 - p) squared, both fading out over the radius.
    The direction is that of a linear discriminant; the squared distance of the means in units of the noise,
    against `options.prior`, is what a line is worth.
    """
    inside, outside = p.square(), (1 - p).square()
    sums = torch.cat([moments(pixels, inside), moments(pixels, outside), (inside + outside) * _products(pixels)])
    sums = spread(sums, radius)  # (14, h, w)
    count_in, count_out = sums[0].clamp(min=TINY), sums[4].clamp(min=TINY)
    mean_in, mean_out = sums[1:4] / count_in, sums[5:8] / count_out
    within = sums[8:] - count_in * _products(mean_in) - count_out * _products(mean_out)
    way = mean_in - mean_out
    least = torch.minimum(sums[0], sums[4])
    slope = solve(within / (count_in + count_out), way, options.noise**2) * (least / (least + FEW))
    worth = (slope * way).sum(0)
    norm = worth.clamp(min=0) + options.prior
    return ColourLines(slope / norm, -(slope * mean_out).sum(0) / norm, worth.clamp(min=0) / norm)


def solve(matrix: Tensor, vector: Tensor, ridge: float) -> Tensor:
    """Solve (matrix + ridge I) x = vector for every cell: matrix (6, h, w) upper triangle, vector (3, h, w)."""
    rr, rg, rb, gg, gb, bb = matrix
    rr, gg, bb = rr + ridge, gg + ridge, bb + ridge
    x, y, z = vector
    a, b, c = gg * bb - gb * gb, rb * gb - rg * bb, rg * gb - rb * gg
    d, e, f = rr * bb - rb * rb, rb * rg - rr * gb, rr * gg - rg * rg
    return torch.stack([a * x + b * y + c * z, b * x + d * y + e * z, c * x + e * y + f * z]) / (
        rr * a + rg * b + rb * c
    )


def _products(colour: Tensor) -> Tensor:
    """(3, h, w) -> (6, h, w): the upper triangle of the outer product."""
    r, g, b = colour
    return torch.stack([r * r, r * g, r * b, g * g, g * b, b * b])
