"""A picture in cells of so many pixels each: what they hold on average, and what is around them."""

import math
from functools import reduce

import torch
import torch.nn.functional as F
from torch import Tensor

CELLS = 7  # cells from the middle of a window to its edge; larger windows have larger cells
TINY = 1e-9

Window = tuple[slice, slice]  # rows and columns


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


def shrink_moments(pixels: Tensor, weight: Tensor, step: int) -> Tensor:
    """Average a weight (H, W) and weighted pixels (3, H, W) over cells as `shrink` does: (4, h, w).

    Each row is added as it is multiplied, in half the time.
    """
    short = -len(weight) % step
    pixels, weight = (F.pad(x[None], (0, 0, 0, short), mode="replicate")[0] for x in (pixels, weight[None]))
    height = weight.shape[1] // step
    sums = pixels.new_zeros(4, height, pixels.shape[2])
    for row in range(step):
        sums[:1] += weight[:, row::step]
        sums[1:].addcmul_(pixels[:, row::step], weight[:, row::step])
    return _shrink_rows(sums, step)


def _shrink_rows(sums: Tensor, step: int) -> Tensor:
    """Average sums of `step` rows (C, h, W) over as many columns: (C, h, w)."""
    x = F.pad(sums, (0, -sums.shape[2] % step), mode="replicate")
    return reduce(torch.add, [x[:, :, i::step] for i in range(step)]) / step**2


def grown_at(x: Tensor, step: int, rows: Tensor, columns: Tensor) -> Tensor:
    """Return what `grow` makes of (C, h, w) at N pixels: (C, N)."""
    sides = ((1 + 2 * at) / (step * size) - 1 for at, size in ((columns, x.shape[2]), (rows, x.shape[1])))
    grid = torch.stack([*sides], dim=1)[None, None].to(x.dtype)  # (1, 1, N, 2)
    return F.grid_sample(x[None], grid, padding_mode="border", align_corners=False)[0, :, 0]


def grow(x: Tensor, step: int, size: torch.Size) -> Tensor:
    """Undo `shrink`, bilinearly: (C, h, w) -> (C, *size)."""
    x = x[None].contiguous(memory_format=torch.channels_last)  # half the time on a CPU
    rows = F.interpolate(x, scale_factor=step, mode="bilinear", align_corners=False)[0]
    return rows[:, : size[0], : size[1]]


def moments(pixels: Tensor, weight: Tensor) -> Tensor:
    """(3, h, w) and (h, w) -> weight and weighted colours (4, h, w)."""
    return torch.cat([weight[None], weight * pixels])
