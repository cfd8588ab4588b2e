"""Cut layers from stills: a square with all of what is in it, one object, or a region of any shape."""

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from stmcli.clips.batch import Chance
from stmcli.clips.stills import Still

CELLS = 5  # nodes per side of the noise that shapes a random region
REGION = (0.25, 0.75)  # side of the square that a random region is in, of the canvas


def square(chance: Chance, still: Still, chosen: int, *, objects: int, union: float) -> Tensor:
    """Cut a square around one object, with all of what surrounds it: (3+N, C, C) in [0, 1].

    The masks are those of the object, or of all at once, and of the still's next largest others.
    """
    canvas = min(still.pixels.shape[1:])
    top, left = (_start(chance, still, chosen, axis, canvas) for axis in (0, 1))
    part = still.pixels[:, top : top + canvas, left : left + canvas]
    ids, layer = part[3], part[:3].float().div_(255)
    if chance.choices.random() < union:
        masks = [(ids > 0) & (ids < 255)]
    else:
        others = sorted((i for i in still.boxes if i != chosen), key=lambda i: -_area(still.boxes[i]))
        masks = [ids == i for i in [chosen, *others][:objects]]
    empty = layer.new_zeros(objects - len(masks), *ids.shape)
    return torch.cat([layer, torch.stack(masks).float(), empty])


def cutout(still: Still, chosen: int) -> Tensor:
    """Cut one object and centre it: (4, C, C), the mask zero elsewhere."""
    top, left, bottom, right = still.boxes[chosen]
    part = still.pixels[:, top:bottom, left:right]
    return _centre(_layer(part, part[3] == chosen), min(still.pixels.shape[1:]))


def region(chance: Chance, still: Still) -> Tensor:
    """Cut a random region without holes of any size, whatever is there, and centre it: (4, C, C)."""
    canvas = min(still.pixels.shape[1:])
    side = int(canvas * chance.choices.uniform(*REGION))
    top, left = (int(chance.choices.integers(length - side + 1)) for length in still.pixels.shape[1:])
    noise = chance.choices.normal(size=(1, 1, CELLS, CELLS)).astype(np.float32)
    height = F.interpolate(torch.from_numpy(noise).to(chance.device), size=(side, side), mode="bicubic")[0, 0]
    line = torch.linspace(-1, 1, side, device=chance.device)
    hill = 1.2 - 2 * (line[:, None] ** 2 + line**2)  # high in the middle, low at the rim
    part = still.pixels[:, top : top + side, left : left + side]
    return _centre(_layer(part, hill + 0.6 * height > 0), canvas)


def _start(chance: Chance, still: Still, chosen: int, axis: int, canvas: int) -> int:
    room = still.pixels.shape[1 + axis] - canvas
    middle = (still.boxes[chosen][axis] + still.boxes[chosen][axis + 2]) // 2 - canvas // 2
    return int(np.clip(middle + chance.choices.integers(-canvas // 4, canvas // 4 + 1), 0, room))


def _area(box: tuple[int, int, int, int]) -> int:
    top, left, bottom, right = box
    return (bottom - top) * (right - left)


def _centre(part: Tensor, canvas: int) -> Tensor:
    if max(part.shape[1:]) > canvas:
        scale = canvas / max(part.shape[1:])
        size = [max(1, round(side * scale)) for side in part.shape[1:]]
        part = F.interpolate(part[None], size=size, mode="bilinear", antialias=True)[0]
    height, width = part.shape[1:]
    top, left = (canvas - height) // 2, (canvas - width) // 2
    return F.pad(part, (left, canvas - width - left, top, canvas - height - top))


def _layer(pixels: Tensor, mask: Tensor) -> Tensor:
    """(4, h, w) uint8 and a mask (h, w) -> (4, h, w) in [0, 1], the mask last."""
    layer = pixels.float().div_(255)
    layer[3] = mask
    return layer
