"""The colours of what is cut out, without what shines through at its edge."""

import numpy as np
import torch
from torch import Tensor

from stmcli.matting.cells import CELLS, TINY, find_window, grow, grown_at, shrink, shrink_moments, spread
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
    rgb, part = upload(rgb, alpha.device)[window], alpha[window]
    step = max(1, round(radius * 2 / CELLS))
    layers = _smooth_layers(_as_planes(rgb), part, radius / step, step)
    colours = _as_bytes(grow(layers[:3], step, part.shape)).permute(1, 2, 0)
    pure, mixed = part == 1, ((part > 0) & (part < 1)).nonzero(as_tuple=True)
    colours[pure] = rgb[pure]
    colours[mixed] = _as_bytes(_corrected(rgb[mixed].T / 255, part[mixed], grown_at(layers, step, *mixed))).T
    around = [(span.start, size - span.stop) for span, size in zip(window, alpha.shape, strict=True)]
    return np.pad(colours.cpu().numpy(), (*around, (0, 0)), mode="edge")


def _smooth_layers(pixels: Tensor, alpha: Tensor, radius: float, step: int) -> Tensor:
    """Average the colours of either layer within the radius, in cells of `step` pixels: (6, h, w), the front first."""
    pure, rest = (share.square().square().square() for share in (alpha, 1 - alpha))  # mixed pixels tell little
    cells = torch.cat([shrink_moments(pixels, pure, step), shrink_moments(pixels, rest, step)])  # (8, h, w)
    near = spread(cells, max(2.0, radius))
    return torch.cat([_settle(near[i : i + 4], _fill(cells[i : i + 4])) for i in (0, 4)])


def _corrected(pixels: Tensor, part: Tensor, layers: Tensor) -> Tensor:
    """Return the front (3, N) of pixels (3, N), of which it is a part (N,): both layers (6, N) move to explain them."""
    front, back = layers.split(3)
    error = pixels - part * front - (1 - part) * back
    return front + error * (part / (part.square() + (1 - part).square()))


def _as_bytes(colours: Tensor) -> Tensor:
    return colours.mul(255).round_().clamp_(0, 255).to(torch.uint8)


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
