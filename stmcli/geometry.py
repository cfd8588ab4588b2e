"""The way of a frame into the network and back: working size, and padding to the stride."""

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor

from stmcli.model.stm import STRIDE


@dataclass(frozen=True)
class Geometry:
    """How a source frame fits into the network: shrunk to a working size, then padded to the stride."""

    source: tuple[int, int]  # H, W
    inner: tuple[int, int]
    pad: tuple[int, int, int, int]  # left, right, top, bottom

    @classmethod
    def fit(cls, height: int, width: int, size: int, *, zoom: float = 1.0) -> "Geometry":
        """Shrink so that the shorter side is `size` (0 = as it is, never enlarged), zoom; pad equally on both sides."""
        scale = zoom * (min(1.0, size / min(height, width)) if size else 1.0)
        inner = (max(1, round(height * scale)), max(1, round(width * scale)))
        rows, columns = (-side % STRIDE for side in inner)
        return cls((height, width), inner, (columns // 2, columns - columns // 2, rows // 2, rows - rows // 2))

    def enter(self, x: Tensor) -> Tensor:
        """(B, C, H, W) at source size -> padded working size."""
        if self.inner != self.source:
            x = F.interpolate(x, size=self.inner, mode="bilinear", antialias=True, align_corners=False)
        return F.pad(x, self.pad)

    def crop(self, x: Tensor) -> Tensor:
        """(B, C, h, w) at padded working size -> working size."""
        left, _, top, _ = self.pad
        height, width = self.inner
        return x[:, :, top : top + height, left : left + width]

    def leave(self, x: Tensor) -> Tensor:
        """(B, C, h, w) at working size -> source size."""
        if self.inner == self.source:
            return x
        return F.interpolate(x, size=self.source, mode="bilinear", align_corners=False)
