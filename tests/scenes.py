"""Frames with exactly known alpha and foreground, and what the network would say about them.

`python tests/scenes.py` prints how far the network's own and the refined alpha are from the truth.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F

HEIGHT, WIDTH, FINE = 270, 480, 4
WORKING = 192  # shorter side inside the network, px: the ratio of 336 to 472
FRAMES = 3
SCALE = np.array([1, 1000, 1000, 1])  # of SAD, MSE, MSE in the band, gradient


class Scene(NamedTuple):
    rgb: np.ndarray  # (H, W, 3) uint8
    alpha: np.ndarray  # (N, H, W) float32, exact
    colours: np.ndarray  # (H, W, 3) float32, 0..255: the objects without what is behind them
    prob: torch.Tensor  # (N+1, H, W)


def grid() -> tuple[np.ndarray, np.ndarray]:
    """Return x and y of every sample, FINE x FINE to a pixel, in pixels from the middle of the frame."""
    y, x = (np.arange(size * FINE, dtype=np.float32) / FINE - size / 2 for size in (HEIGHT, WIDTH))
    return np.broadcast_arrays(x[None], y[:, None])


def coverage(inside: np.ndarray) -> np.ndarray:
    return inside.reshape(HEIGHT, FINE, WIDTH, FINE).mean((1, 3), dtype=np.float32)


def blob(t: float) -> np.ndarray:
    """Cover a curved shape with a crisp edge."""
    x, y = grid()
    angle = np.arctan2(y, x - 4 * t)
    return coverage(np.hypot(x - 4 * t, y) < 70 + 12 * np.sin(3 * angle + t) + 5 * np.sin(8 * angle - t))


def strands(t: float) -> np.ndarray:
    """Cover a ball with seven curved strands that taper from ten pixels to three."""
    x, y = grid()
    radius, angle = np.hypot(x - 3 * t, y), np.arctan2(y, x - 3 * t)
    phase = (angle + 0.006 * radius + 0.1 * t) * 3.5 / np.pi
    half = np.clip(5 - (radius - 50) / 17, 1.5, 5)
    strand = abs(phase - np.round(phase)) * np.pi / 3.5 * radius < half
    return coverage((radius < 50) | (strand & (radius < 110)))


def moving(t: float) -> np.ndarray:
    """Cover a fast shape: the mean of where it is while the shutter is open, twelve pixels long."""
    x, y = grid()
    steps = [np.hypot((x - 4 * t - dx) / 1.4, y - dx / 3) < 62 for dx in np.linspace(-6, 6, 17)]
    return coverage(np.mean(steps, axis=0, dtype=np.float32))


SCENES = {"blob": blob, "strands": strands, "moving": moving}


def texture(seed: int, *, low: tuple[int, ...], high: tuple[int, ...]) -> np.ndarray:
    """Return smooth noise of several sizes between two colours, and a little of it in any: (H, W, 3), 0..255."""
    generator = torch.Generator().manual_seed(seed)
    total = torch.zeros(1, 4, HEIGHT, WIDTH)
    for cells, weight in ((4, 1.0), (12, 0.6), (45, 0.4)):
        noise = torch.rand(1, 4, cells, cells * 16 // 9, generator=generator) - 0.5
        total += weight * F.interpolate(noise, size=(HEIGHT, WIDTH), mode="bicubic", align_corners=False)
    mix, own = total[0, :1].permute(1, 2, 0).numpy() + 0.5, total[0, 1:].permute(1, 2, 0).numpy()
    return np.clip(np.array(low) + mix * np.subtract(high, low) + 30 * own, 0, 255).astype(np.float32)


def network(alpha: np.ndarray, seed: int = 0, *, slope: float = 5.0, wobble: float = 0.8) -> torch.Tensor:
    """Return (N+1, H, W) probabilities as the network makes them of objects (N, H, W).

    It sees the frame at its working size, answers for every fourth pixel with logits of limited slope, a little
    off where the contour is, and enlarges that bilinearly, first the logits, then the probabilities.
    """
    mask = torch.from_numpy((alpha > 0.5).astype(np.float32))[None]
    h, w = (round(side * WORKING / HEIGHT / 4) for side in alpha.shape[1:])
    seen = F.interpolate(mask, size=(h, w), mode="bilinear", antialias=True)
    seen = (seen + F.avg_pool2d(seen, 3, 1, 1, count_include_pad=False)) / 2
    noise = torch.randn(1, len(alpha), h // 3, w // 3, generator=torch.Generator().manual_seed(seed))
    logits = slope * (2 * seen - 1) + wobble * F.interpolate(noise, size=(h, w), mode="bicubic")
    p = torch.sigmoid(F.interpolate(logits, scale_factor=4, mode="bilinear"))
    prob = torch.cat([(1 - p).prod(1, keepdim=True), p], 1).clamp(1e-7, 1 - 1e-7)  # soft aggregation, as in the paper
    odds = prob / (1 - prob)
    prob = odds / odds.sum(1, keepdim=True)
    return F.interpolate(prob, size=alpha.shape[1:], mode="bilinear")[0]


def scene(name: str, frame: int) -> Scene:
    """Lay a textured object over a textured background, with the noise of a camera."""
    alpha = SCENES[name](float(frame))
    colours = texture(1, low=(150, 60, 20), high=(250, 170, 90))
    behind = np.roll(texture(2, low=(20, 50, 60), high=(130, 160, 190)), frame, axis=1)
    noise = np.random.default_rng(frame).normal(0, 1.5, behind.shape)
    rgb = alpha[..., None] * colours + (1 - alpha[..., None]) * behind + noise
    return Scene(np.clip(rgb + 0.5, 0, 255).astype(np.uint8), alpha[None], colours, network(alpha[None], frame))


def rows() -> Iterator[str]:
    """Yield a Markdown table: errors of raw and refined alpha, mean over the frames of every scene."""
    from alphas import alpha_errors

    from stmcli.matting.alpha import refine

    yield "| scene | SAD | refined | MSE x 1000 | refined | in the band | refined | gradient | refined |"
    yield "|---|---|---|---|---|---|---|---|---|"
    for name in SCENES:
        scenes = [scene(name, frame) for frame in range(FRAMES)]
        raw = np.mean([alpha_errors(s.alpha[0], s.prob[1].numpy()) for s in scenes], axis=0)
        fine = np.mean([alpha_errors(s.alpha[0], refine(s.rgb, s.prob)[0].numpy()) for s in scenes], axis=0)
        yield (
            f"| {name} | "
            + " | ".join(f"{a:.3g} | {b:.3g}" for a, b in zip(raw * SCALE, fine * SCALE, strict=True))
            + " |"
        )


if __name__ == "__main__":
    print(*rows(), sep="\n")
