"""Gaps between the parts of a mask that the network doubts: most of them belong to the object."""

import torch
import torch.nn.functional as F
from torch import Tensor

from stmcli.matting.cells import find_window, grow
from stmcli.options import MattingOptions

CELLS = 8  # from the middle of the square that closes a mask to its edge, about
TAKEN = 0.75  # of what an object and the background have of a pixel, that the object has in a gap


def close_gaps(prob: Tensor, options: MattingOptions) -> Tensor:
    """Take what lies between the parts of an object and may well be it for a part of it.

    Takes prob (N+1, H, W), background first; returns a copy for the objects, (N, H, W). Gaps are what the closing of
    a mask by a square adds to it (Serra 1982), opened by a cell, so that blurry edges stay as they are. Of its pixels
    those are taken from the background that are likely by `options.least`, never those of another object.
    """
    objects = prob[1:].clone()
    for number, p in enumerate(objects):
        window = find_window(p, above=0.5, margin=0) if options.closing else None
        if window is not None:
            _close(objects[:, *window], number, options)
    return objects


def _close(objects: Tensor, number: int, options: MattingOptions) -> None:
    """Close the gaps of one of the objects (N, h, w) in place, which are cut to its mask."""
    p = objects[number]
    radius = options.closing * (p.shape[0] * p.shape[1]) ** 0.5
    step = max(1, min(round(radius / CELLS), *p.shape))
    mask = (p[None, step // 2 :: step, step // 2 :: step] > 0.5).float()  # the middle of every cell
    gaps = opened(closed(mask, round(radius / step)) - mask)
    cells = find_window(gaps[0], above=0.5, margin=1)
    if cells is None:
        return
    rows, columns = (slice(side.start * step, side.stop * step) for side in cells)
    p, background = p[rows, columns], 1 - objects[:, rows, columns].sum(0)
    gap = grow(gaps[:, *cells], step, p.shape)[0] > 0.5
    p, background = p[: len(gap), : gap.shape[1]], background[: len(gap), : gap.shape[1]]
    taken = gap & (p > options.least) & (p < background)
    p.copy_(torch.where(taken, TAKEN * (p + background), p))


def closed(mask: Tensor, radius: int) -> Tensor:
    """Return the closing of a mask (1, h, w) of zeros and ones by a square; outside of the picture there is nothing."""
    wide = _most(F.pad(mask, (radius,) * 4), radius)
    return 1 - _most(1 - wide, radius)[:, radius : radius + mask.shape[1], radius : radius + mask.shape[2]]


def opened(mask: Tensor) -> Tensor:
    """Return the opening of a mask (1, h, w) of zeros and ones by a square of 3x3; what is outside does not count."""
    return _most(1 - _most(1 - mask, 1), 1)


def _most(x: Tensor, radius: int) -> Tensor:
    """Return the largest value of (1, h, w) in a square around each place; what is outside does not count."""
    side = 2 * radius + 1
    return F.max_pool2d(F.max_pool2d(x, (side, 1), 1, (radius, 0)), (1, side), 1, (0, radius))
