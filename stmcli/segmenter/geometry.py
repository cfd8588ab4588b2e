"""The way of a frame into the network and back: working size, and padding to the stride."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import product

import torch
import torch.nn.functional as F
from torch import Tensor

from stmcli.model.stm import STRIDE
from stmcli.segmenter.focus import Box

NEAR = 5.0  # cells, standard deviation
TIMES = (0.5, 0.7, 1.4, 2.0)  # how many times as large a given frame is memorized too


@dataclass(frozen=True)
class Geometry:
    """How a source frame fits into the network: its window scaled to a working size, then padded to the stride."""

    source: tuple[int, int]  # H, W
    inner: tuple[int, int]
    pad: tuple[int, int, int, int]  # left, right, top, bottom
    window: Box  # of the source; what is outside is background

    @classmethod
    def fit(cls, height: int, width: int, size: int, *, zoom: float = 1.0) -> "Geometry":
        """Shrink so that the shorter side is `size` (0 = as it is, never enlarged), zoom; pad equally on both sides."""
        scale = zoom * (min(1.0, size / min(height, width)) if size else 1.0)
        inner = (max(1, round(height * scale)), max(1, round(width * scale)))
        rows, columns = (-side % STRIDE for side in inner)
        pad = (columns // 2, columns - columns // 2, rows // 2, rows - rows // 2)
        return cls((height, width), inner, pad, Box(0, 0, height, width))

    @property
    def area(self) -> float:
        """Return how many pixels of the source one at working size stands for."""
        return self.window.height * self.window.width / (self.inner[0] * self.inner[1])

    def through(self, window: Box) -> "Geometry":
        """Look through another window, at the same working size."""
        return replace(self, window=window)

    def nearness(self, other: "Geometry", *, device: torch.device) -> tuple[Tensor, Tensor]:
        """Return how near each cell of another look at the frame lies to each of this one: rows (h, h), columns (w, w).

        `exp(-d^2 / (2 NEAR^2))` for cells that are d of this one's sides apart, in the source, in one direction.
        """
        here, there = self.centres(device), other.centres(device)
        sides = [STRIDE * seen / inner for seen, inner in zip(self.window[2:], self.inner, strict=True)]
        apart = [(b - a[:, None]) / side for a, b, side in zip(here, there, sides, strict=True)]
        rows, columns = (torch.exp(-d.square() / (2 * NEAR**2)) for d in apart)
        return rows, columns

    def centres(self, device: torch.device) -> list[Tensor]:
        """Return where the middles of the cells lie in the source, in pixels: y (h,), x (w,)."""
        left, right, top, bottom = self.pad
        axes = zip(self.window[:2], self.window[2:], self.inner, ((top, bottom), (left, right)), strict=True)
        return [
            start + (STRIDE * (torch.arange((inner + sum(pad)) // STRIDE, device=device) + 0.5) - pad[0]) * seen / inner
            for start, seen, inner, pad in axes
        ]

    def enter(self, x: Tensor) -> Tensor:
        """(B, C, H, W) at source size -> padded working size."""
        top, left, height, width = self.window
        x = x[:, :, top : top + height, left : left + width]
        if self.inner != (height, width):
            x = F.interpolate(x, size=self.inner, mode="bilinear", antialias=True, align_corners=False)
        return F.pad(x, self.pad)

    def crop(self, x: Tensor) -> Tensor:
        """(B, C, h, w) at padded working size -> working size."""
        left, _, top, _ = self.pad
        height, width = self.inner
        return x[:, :, top : top + height, left : left + width]

    def leave(self, prob: Tensor) -> Tensor:
        """Prob (B, N+1, h, w) at working size -> source size."""
        top, left, height, width = self.window
        if self.inner != (height, width):
            prob = F.interpolate(prob, size=(height, width), mode="bilinear", align_corners=False)
        if (height, width) == self.source:
            return prob
        frame = prob.new_zeros(*prob.shape[:2], *self.source)
        frame[:, 0] = 1
        frame[:, :, top : top + height, left : left + width] = prob
        return frame


def list_views(words: Sequence[str], zooms: Sequence[float]) -> list[tuple[float, bool]]:
    """Return the views that the words `flip` and `scale` name, the plain one first: zoom, and whether mirrored."""
    times = (1.0, *zooms) if "scale" in words else (1.0,)
    return [*product(times, (False, True) if "flip" in words else (False,))]


def seen_as(x: Tensor, zoom: float, *, mirrored: bool) -> Tensor:
    """Return (1, C, H, W) in another view, with what is beyond the edges mirrored: same shape."""
    resized = x if zoom == 1 else _resized(x, zoom)
    return resized.flip(3) if mirrored else resized


def _resized(x: Tensor, times: float) -> Tensor:
    """Resize (1, C, H, W) about its middle, with what is beyond the edges mirrored: same shape."""
    theta = torch.tensor([[[1 / times, 0, 0], [0, 1 / times, 0]]], device=x.device)
    grid = F.affine_grid(theta, list(x.shape), align_corners=False)
    resized = F.grid_sample(x.float(), grid, padding_mode="reflection", align_corners=False)
    return resized.to(x.dtype, memory_format=torch.channels_last)
