"""Square tiles of a picture, so that only those are worked on in which there is something to do."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor


def join(tiles: Tensor, size: Sequence[int]) -> Tensor:
    """Put tiles (rows, columns, side, side) together: (H, W)."""
    rows, columns, side, _ = tiles.shape
    return tiles.transpose(1, 2).reshape(rows * side, columns * side)[: size[0], : size[1]]


def cut(picture: Tensor, side: int) -> Tensor:
    """Cut a picture (H, W, ...) into tiles with a rim of 1: (rows, columns, side + 2, side + 2, ...), a view of a copy.

    The border is repeated.
    """
    for axis in (0, 1):
        after = 1 + -picture.shape[axis] % side
        ends = picture.narrow(axis, 0, 1), picture.narrow(axis, -1, 1)
        picture = torch.cat([ends[0], picture, *[ends[1]] * after], dim=axis)
    tiles = picture.unfold(0, side + 2, side).unfold(1, side + 2, side)  # (rows, columns, ..., side + 2, side + 2)
    return tiles.movedim((-2, -1), (2, 3))


def enlarge(cells: Tensor, step: int) -> Tensor:
    """Blend tiles of cells bilinearly to tiles of pixels: (T, C, n + 2, n + 2) -> (T, C, n step + 2, n step + 2)."""
    large = F.interpolate(cells, scale_factor=step, mode="bilinear", align_corners=False)
    rim = step - 1
    return large[:, :, rim : large.shape[2] - rim, rim : large.shape[3] - rim]
