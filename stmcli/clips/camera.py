"""What light and a camera do to the frames of a clip: colour, blur, noise, the blocks of a JPEG."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from stmcli.clips.batch import Chance
from stmcli.options import ClipOptions

LINE = 9  # side of the kernel that blurs along a line, px
BLOCK = 8  # side of a JPEG's block, px
QUALITY = (15, 70)  # of a JPEG
# Quantisation of luminance and chrominance at quality 50 (ITU T.81, annex K), row by row.
_LUMA = """16 11 10 16 24 40 51 61 12 12 14 19 26 58 60 55 14 13 16 24 40 57 69 56 14 17 22 29 51 87 80 62
18 22 37 56 68 109 103 77 24 35 55 64 81 104 113 92 49 64 78 87 103 121 120 101 72 92 95 98 112 100 103 99"""
_CHROMA = "17 18 24 47" + 4 * " 99" + " 18 21 26 66" + 4 * " 99" + " 24 26 56 99" + 4 * " 99" + " 47 66" + 38 * " 99"
# RGB to luminance and chrominance (ITU T.871), without the offset of the chrominance.
_YCC = ((0.299, 0.587, 0.114), (-0.168736, -0.331264, 0.5), (0.5, -0.418688, -0.081312))


def relight(chance: Chance, shot: Tensor, *, light: float, flicker: float) -> Tensor:
    """Change gain, offset and saturation of (b, T, 3+, S, S), and a little per frame; in place."""
    if not light and not flicker:
        return shot
    size, frames = shot.shape[:2]
    layer, colour, frame = (size, 1, 1, 1, 1), (size, 1, 3, 1, 1), (size, frames, 1, 1, 1)
    gain = light * chance.normal(*layer) + 0.3 * light * chance.normal(*colour)
    gain = (gain + flicker * chance.normal(*frame)).exp()
    offset = 0.3 * light * chance.normal(*layer) + 0.3 * flicker * chance.normal(*frame)
    rgb = shot[:, :, :3]
    if light:
        grey = rgb.mean(2, keepdim=True)
        rgb.sub_(grey).mul_(0.3 + 1.2 * chance.uniform(*layer)).add_(grey)
    rgb.mul_(gain).add_(offset).clamp_(0, 1)
    return shot


def degrade(chance: Chance, frames: Tensor, options: ClipOptions) -> Tensor:
    """Blur some clips, add noise, save some as JPEG; in place: (B, T, 3, S, S)."""
    size = frames.shape[0]
    if options.motion_blur:
        _blur_along_lines(chance, frames, chance.uniform(size) < options.motion_blur)
    if options.blur:
        small = F.avg_pool2d(frames.flatten(0, 1), 2)
        soft = F.interpolate(small, size=frames.shape[-2:], mode="bilinear").view_as(frames)
        blurred = (chance.uniform(size, 1, 1, 1, 1) < options.blur).float()
        frames.lerp_(soft, blurred * chance.uniform(size, frames.shape[1], 1, 1, 1))
    if options.noise:
        noise = options.noise * chance.uniform(size, 1, 1, 1, 1) ** 2
        frames.add_(chance.normal(*frames.shape).mul_(noise)).clamp_(0, 1)
    if options.jpeg:
        chosen = (chance.uniform(size) < options.jpeg).nonzero()[:, 0]
        quality = QUALITY[0] + (QUALITY[1] - QUALITY[0]) * chance.uniform(size)[chosen]
        frames[chosen] = as_jpeg(frames[chosen], quality)
    return frames


def as_jpeg(frames: Tensor, quality: Tensor) -> Tensor:
    """Return (b, T, 3, S, S) in [0, 1] as a JPEG of (b,) quality, 1 to 100, leaves it; S a multiple of 8.

    Chrominance is kept at full size. Source: ITU T.81.
    """
    matrix, cosines = frames.new_tensor(_YCC), _cosines(frames)
    scale = torch.where(quality < 50, 50 / quality, 2 - quality / 50).view(-1, 1, 1, 1, 1, 1, 1)
    steps = (_tables(frames) * scale + 0.5).floor().clamp(1, 255)  # (b, 1, 3, 1, 1, 8, 8)
    x = torch.einsum("ij,btjyx->btiyx", matrix, frames * 255)
    x[:, :, 0] -= 128
    blocks = x.unflatten(4, (-1, BLOCK)).unflatten(3, (-1, BLOCK)).transpose(4, 5)  # (b, T, 3, S/8, S/8, 8, 8)
    numbers = (cosines @ blocks @ cosines.T / steps).round() * steps
    x = (cosines.T @ numbers @ cosines).transpose(4, 5).flatten(3, 4).flatten(4, 5)
    x[:, :, 0] += 128
    return (torch.einsum("ij,btjyx->btiyx", torch.linalg.inv(matrix), x) / 255).clamp(0, 1)


def _cosines(like: Tensor) -> Tensor:
    """The orthonormal cosine transform of a row of a block: (8, 8)."""
    n = torch.arange(BLOCK, device=like.device, dtype=like.dtype)
    waves = torch.cos(math.pi * (2 * n + 1) * n[:, None] / (2 * BLOCK)) * (2 / BLOCK) ** 0.5
    waves[0] /= 2**0.5
    return waves


def _tables(like: Tensor) -> Tensor:
    luma, chroma = ([float(word) for word in table.split()] for table in (_LUMA, _CHROMA))
    return like.new_tensor([luma, chroma, chroma]).view(1, 1, 3, 1, 1, BLOCK, BLOCK)


def _blur_along_lines(chance: Chance, frames: Tensor, chosen: Tensor) -> None:
    """Blur the chosen clips of (B, T, 3, S, S) along a line each, of a length that changes with the frame; in place."""
    angle = math.pi * chance.uniform(len(chosen), 1)
    length = 0.5 + LINE / 2 * chance.uniform(*frames.shape[:2])
    picked = chosen.nonzero()[:, 0]
    if not len(picked):
        return
    kernels = _lines(angle[picked].expand_as(length[picked]).flatten(), length[picked].flatten())  # (n, LINE, LINE)
    planes = frames[picked].flatten(0, 2)[None]  # (1, n*3, S, S)
    padded = F.pad(planes, (LINE // 2,) * 4, mode="replicate")
    blurred = F.conv2d(padded, kernels.repeat_interleave(3, 0)[:, None], groups=planes.shape[1])
    frames[picked] = blurred.view_as(frames[picked])


def _lines(angle: Tensor, half: Tensor) -> Tensor:
    """Kernels of a line through the middle, by angle and half length in px, both (n,): (n, LINE, LINE)."""
    place = torch.arange(LINE, device=angle.device) - LINE // 2
    y, x = torch.meshgrid(place, place, indexing="ij")
    cos, sin = angle.cos()[:, None, None], angle.sin()[:, None, None]
    beside = (1 - (x * sin - y * cos).abs()).clamp(0, 1)
    along = (half[:, None, None] + 0.5 - (x * cos + y * sin).abs()).clamp(0, 1)
    line = beside * along
    return line / line.sum((1, 2), keepdim=True)
