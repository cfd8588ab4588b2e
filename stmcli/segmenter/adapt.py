"""Train a copy of the decoder on the one frame whose mask is given, moved and relit, before a clip is followed.

What the methods of online learning do (Caelles et al., CVPR 2017), for the part of the network that knows nothing of
the clip: what was read from memory enters it, and that the encoders leave as they are.
"""

import copy
from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from stmcli.listeners import unheard
from stmcli.masks import VOID, object_ids
from stmcli.model import STM
from stmcli.options import NetworkOptions
from stmcli.segmenter.geometry import Geometry
from stmcli.weights import compiled, suited

RATE = 1e-4
SEED = 0
MOTION = (0.15, 0.15, 0.15, 0.12, 0.06)  # standard deviations: x, y in half-frames, rotation, log zoom, shear
LIGHT = 0.1  # standard deviation of gain (log) and, a third of it, of offset


def adapt(
    model: STM,
    rgb: np.ndarray,
    labels: np.ndarray,
    network: NetworkOptions,
    *,
    on_step: Callable[[int, int], None] = unheard,
) -> STM:
    """Return a copy of the network whose decoder was trained `network.adapt` steps on one frame.

    It is rgb (H, W, 3) with its labels (H, W). The memory is the frame as it is; the query is the frame moved and
    relit. Computed in fp32, returned in the precision of `model`, which is not changed. `on_step` hears the number of
    every step, and of how many.
    """
    fit = suited(network)
    weight = next(model.parameters())
    pupil = copy.deepcopy(model).float().eval().requires_grad_(False)
    pupil.decoder.requires_grad_(True)
    frame, truth = _enter(rgb, labels, size=fit.size, device=weight.device)
    with torch.no_grad():
        memory = pupil.memorize(frame, truth[:, 1:-1])
    optimizer = torch.optim.AdamW(pupil.decoder.parameters(), lr=RATE, weight_decay=0.0)
    generator = torch.Generator().manual_seed(SEED)
    for step in range(network.adapt):
        query, target = vary(frame, truth, generator)
        logits = pupil.segment(query, *memory, top_k=fit.top_k, reach=fit.reach).logits
        optimizer.zero_grad()
        loss(logits, target).backward()
        optimizer.step()
        on_step(step + 1, network.adapt)
    ready = pupil.requires_grad_(False).to(weight.dtype).to(memory_format=torch.channels_last)
    return compiled(ready) if network.compile else ready


def vary(frame: Tensor, truth: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Move and relight a frame (1, 3, H, W), and move its truth (1, C, H, W) with it, mirrored beyond the edges."""
    x, y, angle, zoom, shear = (torch.randn(5, generator=generator) * torch.tensor(MOTION)).tolist()
    gain, offset = (LIGHT * torch.randn(2, 1, 3, 1, 1, generator=generator)).to(frame.device)
    aspect = frame.shape[3] / frame.shape[2]
    cos, sin = np.cos(angle) * np.exp(zoom), np.sin(angle) * np.exp(zoom)
    rows = [[cos, (cos * shear - sin) / aspect, x], [sin * aspect, sin * shear + cos, y]]
    theta = torch.tensor([rows], device=frame.device, dtype=frame.dtype)
    grid = F.affine_grid(theta, list(frame.shape), align_corners=False)
    both = F.grid_sample(torch.cat([frame, truth], dim=1), grid, padding_mode="reflection", align_corners=False)
    return (both[:, :3] * gain.exp() + offset / 3).clamp(0, 1), both[:, 3:]


def loss(logits: Tensor, truth: Tensor) -> Tensor:
    """Cross-entropy of logits (1, N+1, H, W) against truth (1, N+2, H, W), whose last channel is void: no matter."""
    target, void = truth.argmax(1), truth.shape[1] - 1
    return F.cross_entropy(logits, target, ignore_index=void, reduction="sum") / target.numel()


def _enter(rgb: np.ndarray, labels: np.ndarray, *, size: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Bring a frame and its labels to the padded working size: (1, 3, H, W), and (1, N+2, H, W), void last."""
    geometry = Geometry.fit(rgb.shape[0], rgb.shape[1], size)
    frame = torch.from_numpy(rgb.transpose(2, 0, 1)[None].astype(np.float32) / 255).to(device)
    planes = [labels == number for number in (*object_ids(labels), VOID)]
    planes.insert(0, ~np.any(planes, axis=0))
    truth = torch.from_numpy(np.stack(planes)[None].astype(np.float32)).to(device)
    return geometry.enter(frame).contiguous(memory_format=torch.channels_last), geometry.enter(truth)
