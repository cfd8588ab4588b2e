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
    tiles = _framed(picture, side).unfold(0, side + 2, side).unfold(1, side + 2, side)  # (rows, columns, ..., h, w)
    return tiles.movedim((-2, -1), (2, 3))


def _framed(picture: Tensor, side: int) -> Tensor:
    """Return a picture (H, W, ...) filled up to whole tiles and with a rim of 1, all of it a repeated border."""
    height, width = picture.shape[:2]
    framed = picture.new_empty(height + 2 + -height % side, width + 2 + -width % side, *picture.shape[2:])
    rows = framed[1 : height + 1]
    rows[:, 1 : width + 1] = picture
    rows[:, 0], rows[:, width + 1 :] = picture[:, 0], picture[:, -1:]
    framed[0], framed[height + 1 :] = rows[0], rows[-1:]
    return framed


def enlarge(cells: Tensor, step: int) -> Tensor:
    """Blend tiles of cells bilinearly to tiles of pixels: (T, C, n + 2, n + 2) -> (T, C, n step + 2, n step + 2)."""
    rows, columns = (_blend(side, step, like=cells) for side in cells.shape[2:])
    return rows @ (cells @ columns.T)  # on a CPU a tenth of the time that interpolating takes


def _blend(cells: int, step: int, *, like: Tensor) -> Tensor:
    """Return the share of every cell in every pixel between the first and the last: ((n - 2) step + 2, n)."""
    each = torch.eye(cells, device=like.device, dtype=like.dtype)[None]
    pixels = F.interpolate(each, scale_factor=step, mode="linear", align_corners=False)[0].T  # (n step, n)
    return pixels[step - 1 : 1 - step or None]
