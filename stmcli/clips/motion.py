"""How a layer of a synthetic clip moves: a walk with inertia, and a bend that changes from frame to frame."""

import torch
import torch.nn.functional as F
from torch import Tensor

from stmcli.clips.batch import Chance
from stmcli.options import ClipOptions

BENDS = 5  # nodes per side of the random warp
NODES = 21  # nodes per side at which a path is computed; in between it is interpolated
JUMP = (0.25, 0.7)  # of a sudden zoom, log scale


def path(chance: Chance, options: ClipOptions, zoom: Tensor, jump: Tensor, *, calm: float) -> Tensor:
    """Draw where each output pixel of each frame comes from: (b, T*S, S, 2) in canvas coordinates, -1 to 1.

    `zoom` (b,) is how much of the canvas the crop shows, `jump` (b, T) what is added to its logarithm.
    """
    o = options
    size, frames = jump.shape
    scales = torch.tensor([o.translate, o.translate, o.rotate, o.zoom, o.shear], device=chance.device)
    pose = _walk(chance, size, frames) * (scales * calm)  # (b, T, 5): x, y, rotation, log zoom, shear
    place = (chance.uniform(size, 1, 2) * 2 - 1) * (0.75 if calm == 1 else 0.25)
    tilt = 0.2 * chance.normal(size, 1) if o.rotate else pose.new_zeros(size, 1)
    matrix = affine(zoom[:, None] * (pose[..., 3] + jump).exp(), pose[..., 2] + tilt, pose[..., 4])  # (b, T, 2, 2)
    flip = 1 - 2 * (chance.uniform(size, 1, 1) < 0.5).float()
    matrix = matrix * torch.stack([flip, torch.ones_like(flip)], -2)
    line = torch.linspace(-1, 1, NODES, device=chance.device)
    y, x = torch.meshgrid(line, line, indexing="ij")
    bend = _warp(chance, size, frames, o.warp)
    points = torch.stack([x, y], -1) + bend - (place + pose[..., :2])[:, :, None, None]
    nodes = torch.einsum("btij,btyxj->btiyx", matrix, points).flatten(0, 1)  # (b*T, 2, NODES, NODES)
    grid = F.interpolate(nodes, size=(o.crop, o.crop), mode="bilinear", align_corners=True)
    return grid.permute(0, 2, 3, 1).reshape(size, -1, o.crop, 2)


def draw_jumps(chance: Chance, size: int, frames: int, share: float) -> Tensor:
    """Draw sudden zooms for a share of clips, from one frame on: (B, T), to be added to the log zoom."""
    if not share:
        return torch.zeros(size, frames, device=chance.device)
    there = (chance.uniform(size, 1) < share).float()
    sign = 1 - 2 * (chance.uniform(size, 1) < 0.5).float()
    height = JUMP[0] + (JUMP[1] - JUMP[0]) * chance.uniform(size, 1)
    first = 1 + (chance.uniform(size, 1) * (frames - 1)).floor()
    return there * sign * height * (torch.arange(frames, device=chance.device) >= first)


def affine(zoom: Tensor, angle: Tensor, shear: Tensor) -> Tensor:
    """Build (..., 2, 2) matrices that rotate, shear and scale."""
    cos, sin = angle.cos() * zoom, angle.sin() * zoom
    rows = [torch.stack([cos, cos * shear - sin], -1), torch.stack([sin, sin * shear + cos], -1)]
    return torch.stack(rows, -2)


def _walk(chance: Chance, size: int, frames: int) -> Tensor:
    """A path with some inertia through T frames: (b, T, 5) in standard deviations, zero at the first frame."""
    pace = chance.uniform(size, 1, 1) * 1.5  # calm clips and wild ones
    step = 0.7 * chance.normal(size, 1, 5) + 0.7 * chance.normal(size, frames - 1, 5)
    return F.pad((pace * step).cumsum(1), (0, 0, 1, 0))


def _warp(chance: Chance, size: int, frames: int, strength: float) -> Tensor:
    """A smooth bend that changes from frame to frame: (b, T, NODES, NODES, 2) in half-crops."""
    coarse = chance.normal(size, frames, 2, BENDS, BENDS).cumsum(1)
    coarse = coarse * (strength * chance.uniform(size, 1, 1, 1, 1))
    fine = F.interpolate(coarse.flatten(0, 1), size=(NODES, NODES), mode="bicubic", align_corners=True)
    return fine.permute(0, 2, 3, 1).unflatten(0, (size, frames))
