"""Alpha at the size of the source, and the colours of what is cut out, from the network's blurry probabilities.

Near a contour the colours of what is inside and of what is outside are taken to be two Gaussians with means of
their own and a common covariance. Where a colour lies between the two means tells alpha; the probability is
the prior, strong away from the contour and weak on it. This is closed form for every pixel: a local linear
discriminant, in the cost class of the guided filter (He, Sun and Tang 2013), which regresses on the blurry
probabilities themselves and so lets texture through.
"""

from functools import reduce
from typing import Any

import torch
from torch import Tensor

from stmcli.matting import tiles
from stmcli.matting.cells import CELLS, TINY, find_window, shrink, shrink_pixels, spread
from stmcli.matting.gaps import close_gaps
from stmcli.matting.lines import ColourLines, colour_lines, mix
from stmcli.options import MattingOptions
from stmcli.transfer import upload
from stmcli.video.frame import RGB

SURE = 0.04  # a probability this close to 0 or 1 is 0 or 1
FAR = 0.02  # a mean this close to 0 or 1 is far from any contour
ALIKE = 15 / 255  # colour difference of neighbours that belong together, standard deviation
TILE = 24  # pixels, the side of what is fitted or not as a whole, about
AT_ONCE = {"cpu": 1 << 17, "cuda": 1 << 22}  # pixels worked on at once: they fit a cache, or keep a GPU busy


@torch.inference_mode()
def refine(rgb: RGB | Tensor, prob: Tensor, *, options: MattingOptions = MattingOptions()) -> Tensor:
    """Make alpha follow the edges of the frame.

    Takes rgb (H, W, 3) uint8 and prob (N+1, H, W), background first; returns (N, H, W) float32 in [0, 1] on the
    device of prob. All objects together are refined as one; each then gets its part of that in proportion to what
    it is when refined alone, so that alphas sum to at most 1 and no seam opens where two objects touch. Alpha is
    exactly 0 or 1 where the probabilities are sure all around.
    """
    rgb, objects = upload(rgb, prob.device), close_gaps(prob.float(), options)
    if len(objects) == 1:
        return _refine_one(rgb, objects[0], options)[None]
    union = _refine_one(rgb, objects.sum(0), options)
    parts = torch.stack([_refine_one(rgb, p, options) for p in objects])
    parts = parts + TINY * objects  # what no object claims alone goes to the likeliest
    return union * (parts / parts.sum(0).clamp(min=TINY**2)).clamp(max=1)  # (N, H, W)


def _refine_one(rgb: Tensor, p: Tensor, options: MattingOptions) -> Tensor:
    """rgb (H, W, 3), p (H, W) -> alpha (H, W); only what is near a contour is computed, and p changes there."""
    side = min(p.shape)
    radius, band = options.radius * side, max(2.0, options.band * side)
    alpha = torch.zeros_like(p)
    window = find_window(p, above=SURE + FAR * (1 - 2 * SURE), margin=round(radius + band))
    if window is None:
        return alpha
    rgb, p = rgb[window], p[window].sub_(SURE).div_(1 - 2 * SURE).clamp_(0, 1)  # what is between is spread
    step = max(1, round(radius / CELLS))
    cells = shrink(p[None], step)
    near = spread(cells, band / step)
    lines = colour_lines(shrink_pixels(rgb, step), cells[0], radius / step, options)
    alpha[window] = _follow(rgb, p, near, lines, step)
    return alpha


def _follow(rgb: Tensor, p: Tensor, near: Tensor, lines: ColourLines, step: int) -> Tensor:
    """Return alpha (H, W): sure, but for tiles in which something is not."""
    few = max(1, round(TILE / step))
    side = few * step
    cells = tiles.cut(torch.cat([near, lines.table]).movedim(0, 2), few).movedim(4, 2)
    least, most = cells[:, :, 0].flatten(2).aminmax(dim=2)
    busy = ((most > FAR) & (least < 1 - FAR)).nonzero()  # (T, 2)
    colours, prior = tiles.cut(rgb, side), tiles.cut(p, side)
    alpha = (prior[:, :, 1:-1, 1:-1] > 0.5).float()
    for some in busy.split(max(1, AT_ONCE[p.device.type] // side**2)):
        at = some.unbind(1)
        alpha[at] = _mixed(
            colours[at].permute(0, 3, 1, 2).contiguous() / 255, prior[at], tiles.enlarge(cells[at], step)
        )
    return tiles.join(alpha, p.shape)


def _mixed(colours: Tensor, prior: Tensor, table: Tensor) -> Tensor:
    """Return alpha of tiles (T, h - 2, w - 2): colours (T, 3, h, w), prior (T, h, w), near and lines (T, 6, h, w)."""
    near = table[:, 0]
    unsure = (near > FAR) & (near < 1 - FAR)
    doubt = 4 * near * (1 - near)  # variance of the prior: largest on the contour
    found = mix(table[:, 1:], colours, prior, doubt).clamp(0, 1)
    found = torch.where(unsure, found, (prior > 0.5).float())
    inner = slice(1, -1)
    return torch.where(unsure[:, inner, inner], _calm(colours, found), found[:, inner, inner])


def _calm(colours: Tensor, alpha: Tensor) -> Tensor:
    """Average alpha over those of the eight neighbours that are of one colour.

    Takes alpha (T, h, w) and colours (T, 3, h, w); returns (T, h - 2, w - 2).
    """
    total, weights = alpha.clone(), torch.ones_like(alpha)
    planes = colours.unbind(1)
    for down, right in ((0, 1), (1, -1), (1, 0), (1, 1)):  # of two neighbours each weighs for the other as much
        one, other = _shifted(down, right), _shifted(-down, -right)
        apart = reduce(torch.add, ((plane[one] - plane[other]).square_() for plane in planes))
        weight = apart.mul_(-0.5 / ALIKE**2).exp_()
        for here, there in ((one, other), (other, one)):
            total[here].addcmul_(weight, alpha[there])
            weights[here] += weight
    return (total / weights)[:, 1:-1, 1:-1]


def _shifted(down: int, right: int) -> tuple[Any, ...]:
    """Return what picks those pixels of (..., h, w) that have a neighbour so far away."""
    return (..., *(slice(max(0, -by), -by if by > 0 else None) for by in (down, right)))
