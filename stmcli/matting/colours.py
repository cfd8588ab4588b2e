"""The colours of what is cut out, without what shines through at its edge."""

import numpy as np
import torch
from torch import Tensor

from stmcli.matting.cells import CELLS, TINY, find_window, grow, moments, shrink, spread
from stmcli.options import MattingOptions
from stmcli.transfer import upload
from stmcli.video.frame import RGB

RARE = 0.1  # weight below which colours come from farther away


@torch.inference_mode()
def foreground(rgb: RGB | Tensor, alpha: Tensor, *, options: MattingOptions = MattingOptions()) -> RGB:
    """Estimate the colours of what is cut out, free of the background that shines through at its edge.

    Takes rgb (H, W, 3) uint8 and alpha (H, W); returns (H, W, 3) uint8. Where alpha is 1 they are the source's;
    where it is 0 they go on smoothly from the nearest of the object; black when there is no object. As in the
    fast estimation of Forte (2021) both layers are smoothed and then corrected so that they explain the frame;
    here only pixels that belong almost wholly to a layer count for it, and each layer takes its share of the
    correction.
    """
    radius = options.colours * min(alpha.shape)
    window = find_window(alpha, above=0, margin=3 * round(radius))
    if window is None:
        return np.zeros((*alpha.shape, 3), np.uint8)
    pixels, part = _as_planes(upload(rgb, alpha.device)[window]), alpha[window]
    front, back = _smooth_layers(pixels, part, radius)
    error = pixels - part * front - (1 - part) * back
    front = front + error * (part / (part.square() + (1 - part).square()))
    colours = front.mul(255).round().clamp(0, 255).to(torch.uint8).permute(1, 2, 0).cpu().numpy()
    around = [(span.start, size - span.stop) for span, size in zip(window, alpha.shape, strict=True)]
    return np.pad(colours, (*around, (0, 0)), mode="edge")


def _smooth_layers(pixels: Tensor, alpha: Tensor, radius: float) -> tuple[Tensor, Tensor]:
    """Average the colours of either layer within the radius: (3, H, W) each."""
    step = max(1, round(radius * 2 / CELLS))
    pure, rest = (share.square().square().square() for share in (alpha, 1 - alpha))  # mixed pixels tell little
    cells = shrink(torch.cat([moments(pixels, pure), moments(pixels, rest)]), step)  # (8, h, w)
    near = spread(cells, max(2.0, radius / step))
    smooth = [_settle(near[i : i + 4], _fill(cells[i : i + 4])) for i in (0, 4)]
    front, back = grow(torch.cat(smooth), step, alpha.shape).split(3)
    return front, back


def _fill(sums: Tensor) -> Tensor:
    """Weights and weighted colours (4, h, w) -> colours (3, h, w) everywhere: gaps from ever coarser averages."""
    height, width = sums.shape[1:]
    if height == width == 1:
        return sums[1:] / (sums[0] + TINY)
    return _settle(sums, grow(_fill(shrink(sums, 2)), 2, sums.shape[1:]))


def _settle(sums: Tensor, other: Tensor) -> Tensor:
    """Divide weighted colours (4, h, w) by their weights; where those are next to nothing take others (3, h, w)."""
    return (sums[1:] + RARE * other) / (sums[0] + RARE)


def _as_planes(rgb: Tensor) -> Tensor:
    """(h, w, 3) uint8 -> (3, h, w) float in [0, 1]."""
    return rgb.permute(2, 0, 1).contiguous().float() / 255
