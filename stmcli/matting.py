"""Alpha at the size of the source, and the colours of what is cut out, from the network's blurry probabilities.

Near a contour the colours of what is inside and of what is outside are taken to be two Gaussians with means of
their own and a common covariance. Where a colour lies between the two means tells alpha; the probability is
the prior, strong away from the contour and weak on it. This is closed form for every pixel: a local linear
discriminant, in the cost class of the guided filter (He, Sun and Tang 2013), which regresses on the blurry
probabilities themselves and so lets texture through.
"""

import math
from collections.abc import Callable
from contextlib import suppress
from functools import cached_property, reduce
from threading import RLock
from typing import Any, NamedTuple, Protocol, TypeVar

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from stmcli import tiles
from stmcli.options import MattingOptions
from stmcli.segmenter.prediction import Prediction, likeliest
from stmcli.transfer import upload

Rgb = npt.NDArray[np.uint8]
Alpha = npt.NDArray[np.float32]
Found = TypeVar("Found")
Window = tuple[slice, slice]  # rows and columns

SURE = 0.04  # a probability this close to 0 or 1 is 0 or 1
FAR = 0.02  # a mean this close to 0 or 1 is far from any contour
CELLS = 7  # cells from the middle of a window to its edge; larger windows have larger cells
FEW = 0.02  # a window needs this share of pixels of either kind before its colours count
ALIKE = 15 / 255  # colour difference of neighbours that belong together, standard deviation
RARE = 0.1  # weight below which colours come from farther away
TINY = 1e-9
TILE = 24  # pixels, the side of what is fitted or not as a whole, about
AT_ONCE = {"cpu": 1 << 17, "cuda": 1 << 22}  # pixels worked on at once: they fit a cache, or keep a GPU busy


class Segmented(Protocol):
    """Hold what the network said about one frame, at the source's size."""

    @property
    def prob(self) -> Tensor:
        """Return (N+1, H, W), background first, sums to 1."""

    @property
    def object_ids(self) -> tuple[int, ...]:
        """Return the ids; channel i+1 is object_ids[i]."""

    def labels(self) -> npt.NDArray[np.integer]:
        """Return (H, W) object ids, 0 is background."""


class Matted:
    """A frame's prediction with refined labels, alpha and foreground colours, each computed when first asked for.

    Without `options.refine` labels and alpha are the network's own, and the colours are the source's.
    """

    def __init__(self, rgb: Rgb, prediction: Segmented, *, options: MattingOptions = MattingOptions()) -> None:
        self.prob = prediction.prob  # (N+1, H, W)
        self.object_ids = prediction.object_ids
        self.cut = isinstance(prediction, Prediction) and prediction.cut
        self._rgb, self._prediction, self._options = rgb, prediction, options
        self._colours: dict[int | None, Rgb] = {}
        self._lock = RLock()  # writers in several threads share what is computed

    def labels(self) -> npt.NDArray[np.integer]:
        """Return the ids of every pixel, (H, W): of the largest alpha, or as they were given or stored."""
        with self._lock:
            return self._labels

    def confidence(self) -> tuple[float, ...]:
        """Return for each object how far its mask is to be trusted, 0..1; 0 when it has no pixel."""
        known = self._prediction
        return (known if isinstance(known, Prediction) else Prediction(self.prob, self.object_ids)).confidence()

    def soft(self, object_id: int) -> Alpha:
        """Return the network's own probability of one object, unrefined: (H, W) float32 in [0, 1]."""
        return self.prob[1 + self.object_ids.index(object_id)].float().cpu().numpy()

    def alpha(self, object_id: int | None = None) -> Alpha:
        """Return how much of every pixel belongs to one object, or to any: (H, W) float32 in [0, 1].

        Raises ValueError for an id that there is not.
        """
        return self._share(object_id).cpu().numpy()

    def foreground(self, object_id: int | None = None) -> Rgb:
        """Return the colours of one object, or of all, without what was behind them: (H, W, 3) uint8.

        Raises ValueError for an id that there is not.
        """
        if not self._options.refine:
            return self._rgb
        with self._lock:
            if object_id not in self._colours:
                self._colours[object_id] = self._spared(
                    lambda rgb: foreground(rgb, self._share(object_id).to(rgb.device), options=self._options)
                )
            return self._colours[object_id]

    def _share(self, object_id: int | None) -> Tensor:
        with self._lock:
            return self._union if object_id is None else self._alphas[self.object_ids.index(object_id)]

    @cached_property
    def _labels(self) -> npt.NDArray[np.integer]:
        found = self._prediction
        if not self._options.refine or not isinstance(found, Prediction) or {*found.given} >= {*found.object_ids}:
            return found.labels()
        fitted = likeliest(1 - self._union, self._alphas, self.object_ids)
        if not found.given:
            return fitted
        known = found.labels()
        return np.where(np.isin(known, found.given) | np.isin(fitted, found.given), known, fitted)

    @cached_property
    def _uploaded(self) -> Tensor:
        return upload(self._rgb, self.prob.device)

    def _spared(self, compute: Callable[[Tensor], Found]) -> Found:
        """Compute something of the frame on the device; on the CPU when that has too little memory."""
        with suppress(torch.OutOfMemoryError):
            return compute(self._uploaded)
        torch.cuda.empty_cache()
        return compute(upload(self._rgb, torch.device("cpu")))

    @cached_property
    def _alphas(self) -> Tensor:
        """(N, H, W)."""
        if not self._options.refine:
            return self.prob[1:].float()
        return self._spared(lambda rgb: refine(rgb, self.prob.to(rgb.device), options=self._options))

    @cached_property
    def _union(self) -> Tensor:
        """(H, W)."""
        return self._alphas.sum(0).clamp(0, 1) if len(self._alphas) != 1 else self._alphas[0]


@torch.inference_mode()
def refine(rgb: Rgb | Tensor, prob: Tensor, *, options: MattingOptions = MattingOptions()) -> Tensor:
    """Make alpha follow the edges of the frame.

    Takes rgb (H, W, 3) uint8 and prob (N+1, H, W), background first; returns (N, H, W) float32 in [0, 1] on the
    device of prob. All objects together are refined as one; each then gets its part of that in proportion to what
    it is when refined alone, so that alphas sum to at most 1 and no seam opens where two objects touch. Alpha is
    exactly 0 or 1 where the probabilities are sure all around.
    """
    rgb, prob = upload(rgb, prob.device), prob.float()
    union = _refine_one(rgb, _decided(1 - prob[0]), options)
    if len(prob) == 2:
        return union[None]
    alone = _decided(prob[1:].clone())
    parts = torch.stack([_refine_one(rgb, p, options) for p in alone])
    parts = parts + TINY * alone  # what no object claims alone goes to the likeliest
    return union * (parts / parts.sum(0).clamp(min=TINY**2)).clamp(max=1)  # (N, H, W)


def _decided(prob: Tensor) -> Tensor:
    """Take for 0 or 1 in place what is as good as that, and spread what is between."""
    return prob.sub_(SURE).div_(1 - 2 * SURE).clamp_(0, 1)


def _refine_one(rgb: Tensor, p: Tensor, options: MattingOptions) -> Tensor:
    """rgb (H, W, 3), p (H, W) -> alpha (H, W); only what is near a contour is computed."""
    side = min(p.shape)
    radius, band = options.radius * side, max(2.0, options.band * side)
    alpha = torch.zeros_like(p)
    window = find_window(p, above=FAR, margin=round(radius + band))
    if window is None:
        return alpha
    rgb, p = rgb[window], p[window]
    step = max(1, round(radius / CELLS))
    cells = shrink(p[None], step)
    near = spread(cells, band / step)
    lines = colour_lines(shrink_pixels(rgb, step), cells[0], radius / step, options)
    alpha[window] = _follow(rgb, p, near, lines, step)
    return alpha


def _follow(rgb: Tensor, p: Tensor, near: Tensor, lines: "ColourLines", step: int) -> Tensor:
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
    doubt = (4 * near * (1 - near)).clamp(min=TINY)  # variance of the prior: largest on the contour
    found = mix(table[:, 1:], colours, prior, doubt).clamp(0, 1)
    found = torch.where(unsure, found, (prior > 0.5).float())
    inner = slice(1, -1)
    return torch.where(unsure[:, inner, inner], _calm(colours, found), found[:, inner, inner])


def _as_planes(rgb: Tensor) -> Tensor:
    """(h, w, 3) uint8 -> (3, h, w) float in [0, 1]."""
    return rgb.permute(2, 0, 1).contiguous().float() / 255


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
    sums = torch.cat([_moments(pixels, inside), _moments(pixels, outside), (inside + outside) * _products(pixels)])
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


def _moments(pixels: Tensor, weight: Tensor) -> Tensor:
    """(3, h, w) and (h, w) -> weight and weighted colours (4, h, w)."""
    return torch.cat([weight[None], weight * pixels])


def _products(colour: Tensor) -> Tensor:
    """(3, h, w) -> (6, h, w): the upper triangle of the outer product."""
    r, g, b = colour
    return torch.stack([r * r, r * g, r * b, g * g, g * b, b * b])


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


# -- colours ---------------------------------------------------------------------------------------------------------


@torch.inference_mode()
def foreground(rgb: Rgb | Tensor, alpha: Tensor, *, options: MattingOptions = MattingOptions()) -> Rgb:
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
    cells = shrink(torch.cat([_moments(pixels, pure), _moments(pixels, rest)]), step)  # (8, h, w)
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


# -- windows ---------------------------------------------------------------------------------------------------------


def find_window(values: Tensor, *, above: float, margin: int) -> Window | None:
    """Return the rows and columns around the values (H, W) above a limit, with a margin; None when there are none."""
    ends = []
    for axis, size in ((1, values.shape[0]), (0, values.shape[1])):
        found, places = values.amax(axis) > above, torch.arange(size, device=values.device)
        ends += [torch.where(found, places, size).amin(), torch.where(found, places, -1).amax()]
    top, bottom, left, right = torch.stack(ends).tolist()  # the one wait for a device
    if bottom < 0:
        return None
    return (
        slice(max(0, top - margin), min(values.shape[0], bottom + 1 + margin)),
        slice(max(0, left - margin), min(values.shape[1], right + 1 + margin)),
    )


def spread(x: Tensor, radius: float) -> Tensor:
    """Average (C, h, w) over a window that fades out linearly to 0 at the radius; the border is repeated."""
    reach = math.ceil(radius) - 1
    tent = radius - torch.arange(-reach, reach + 1, device=x.device).abs()
    tent = (tent / tent.sum()).to(x.dtype).expand(len(x), 1, 1, -1)
    x = F.pad(x[None], (reach,) * 4, mode="replicate").contiguous(memory_format=torch.channels_last)  # faster on a CPU
    return F.conv2d(F.conv2d(x, tent, groups=x.shape[1]), tent.transpose(2, 3), groups=x.shape[1])[0].contiguous()


def shrink(x: Tensor, step: int) -> Tensor:
    """Average (C, H, W) over cells of step x step pixels; the last cells repeat the border."""
    x = F.pad(x[None], (0, 0, 0, -x.shape[1] % step), mode="replicate")[0]
    # Sums of slices: several times faster than avg_pool2d on a CPU.
    return _shrink_rows(reduce(torch.add, [x[:, i::step] for i in range(step)]), step)


def shrink_pixels(rgb: Tensor, step: int) -> Tensor:
    """Average (H, W, 3) uint8 over cells of step x step pixels: (3, h, w) in [0, 1], as `shrink` does.

    Adding the rows of a cell while they are small integers, side by side in memory, takes a quarter of the time.
    """
    rgb = torch.cat([rgb, rgb[-1:].expand(-len(rgb) % step, -1, -1)])
    wide = torch.int16 if step <= 128 else torch.int32
    rows = reduce(torch.add, [rgb[i::step] for i in range(1, step)], rgb[::step].to(wide))
    return _shrink_rows(rows.permute(2, 0, 1).contiguous() / 255, step)


def _shrink_rows(sums: Tensor, step: int) -> Tensor:
    """Average sums of `step` rows (C, h, W) over as many columns: (C, h, w)."""
    x = F.pad(sums, (0, -sums.shape[2] % step), mode="replicate")
    return reduce(torch.add, [x[:, :, i::step] for i in range(step)]) / step**2


def grow(x: Tensor, step: int, size: torch.Size) -> Tensor:
    """Undo `shrink`, bilinearly: (C, h, w) -> (C, *size)."""
    rows = F.interpolate(x[None], scale_factor=step, mode="bilinear", align_corners=False)[0]
    return rows[:, : size[0], : size[1]]
