"""Draw labels over frames, with numpy only."""

from functools import cache

import numpy as np
import numpy.typing as npt

from stmcli.options import ExportOptions

RGB = npt.NDArray[np.uint8]
Labels = npt.NDArray[np.integer]
Mask = npt.NDArray[np.bool_]

_LINES_PER_PIXEL = 240  # frame height for each pixel of contour thickness
_BAND = 32  # rows drawn at a time, so that a band stays in the processor's cache


@cache
def palette() -> RGB:
    """Return the DAVIS and PASCAL VOC palette, (256, 3) uint8; read-only.

    Bit 3k + c of the index is bit 7 - k of channel c.
    """
    index = np.arange(256)[:, None]  # (256, 1)
    colors = np.zeros((256, 3), dtype=np.uint8)
    for k in range(8):
        bits = index >> (3 * k + np.arange(3)) & 1  # (256, 3)
        colors |= (bits << (7 - k)).astype(np.uint8)
    colors.setflags(write=False)
    return colors


@cache
def vivid() -> RGB:
    """Return the palette with every colour as bright as its hue allows: the dark DAVIS colours are lost on film."""
    colors = palette().astype(np.float32)
    brightest = np.maximum(colors.max(axis=1, keepdims=True), 1)
    bright = np.rint(colors * 255 / brightest).astype(np.uint8)
    bright.setflags(write=False)
    return bright


def palette_index(ids: Labels | int) -> npt.NDArray[np.uint8]:
    """Return ids as palette entries; those above 255 start again at 1, never at the background."""
    ids = np.asarray(ids)
    wrapped = ids if ids.dtype == np.uint8 else np.where(ids > 0, (ids - 1) % 255 + 1, 0)
    return wrapped.astype(np.uint8, copy=False)


def overlay(
    rgb: RGB, labels: Labels, *, opacity: float = ExportOptions.opacity, contour: bool = ExportOptions.contour
) -> RGB:
    """Return (H, W, 3) uint8: `rgb` with every object tinted in the bright form of its palette colour.

    `labels` is (H, W) ids, 0 is background and stays untouched; ids above 255 repeat the palette from 1.
    `opacity` 0..1 is the share of the colour inside; the contour, inside the object, is the full colour
    and one pixel thick for every 240 lines.
    """
    drawn = rgb.copy()
    thickness = max(1, round(rgb.shape[0] / _LINES_PER_PIXEL))
    box = _bounding_box(labels != 0, margin=thickness)
    if box is None:
        return drawn
    ids = _narrow(labels[box])  # (h, w)
    edge = outline(ids, thickness) if contour else np.zeros(ids.shape, dtype=bool)
    for top in range(0, len(ids), _BAND):
        rows = slice(top, top + _BAND)
        _draw(drawn[box][rows], ids[rows], edge[rows], opacity)
    return drawn


def levels(alpha: npt.NDArray[np.float32]) -> npt.NDArray[np.uint8]:
    """Return (H, W) uint8 of `alpha`, (H, W) 0..1."""
    return np.rint(np.clip(alpha, 0, 1) * 255).astype(np.uint8)


def matte(alpha: npt.NDArray[np.float32]) -> RGB:
    """Return (H, W, 3) uint8 grey of `alpha`, (H, W) 0..1."""
    return np.repeat(levels(alpha)[:, :, None], 3, axis=2)


def over(rgb: RGB, alpha: npt.NDArray[np.float32], colour: tuple[int, int, int]) -> RGB:
    """Return (H, W, 3) uint8: `rgb` in front of one colour, `alpha` (H, W) 0..1 says how much of it is there."""
    share = np.clip(alpha, 0, 1)[:, :, None]
    behind = np.array(colour, dtype=np.float32)
    return np.rint(behind + (rgb - behind) * share).astype(np.uint8)


def outline(ids: Labels, thickness: int) -> Mask:
    """Return (h, w): the object pixels at most `thickness` away, along a row or column, from another id."""
    edge = np.zeros(ids.shape, dtype=bool)
    for step in range(1, thickness + 1):
        rows = ids[step:] != ids[:-step]
        edge[step:] |= rows
        edge[:-step] |= rows
        columns = ids[:, step:] != ids[:, :-step]
        edge[:, step:] |= columns
        edge[:, :-step] |= columns
    edge &= ids != 0
    return edge


def _bounding_box(mask: Mask, *, margin: int) -> tuple[slice, slice] | None:
    """Return the rows and columns that hold objects, `margin` wider within the frame; None without any."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if not rows.size:
        return None
    first, last = (rows[0], columns[0]), (rows[-1], columns[-1])
    top, left = (max(0, int(line) - margin) for line in first)
    bottom, right = (int(line) + 1 + margin for line in last)
    return slice(top, bottom), slice(left, right)


def _narrow(ids: Labels) -> Labels:
    """Return ids as uint8 where they fit: the rest of the work is then many times faster."""
    return ids.astype(np.uint8, copy=False) if ids.dtype == np.uint8 or ids.max() <= 255 else ids


def _draw(part: RGB, ids: Labels, edge: Mask, opacity: float) -> None:
    """Tint the objects of a band in place, and outline them."""
    inside = np.flatnonzero(ids.any(axis=0))
    if not inside.size:
        return
    columns = np.s_[:, inside[0] : inside[-1] + 1]
    part, ids, edge = part[columns], ids[columns], edge[columns]
    color = np.take(vivid(), palette_index(ids), axis=0)  # (h, w, 3)
    np.copyto(part, _blend(part, color, opacity), where=_three_channels(ids != 0))
    np.copyto(part, color, where=_three_channels(edge))


def _blend(rgb: RGB, color: RGB, opacity: float) -> RGB:
    """Return `rgb` mixed with `color` in fixed point, 8 bits of fraction."""
    share = round(min(max(opacity, 0.0), 1.0) * 256)
    mixed = rgb.astype(np.uint16) * np.uint16(256 - share)
    mixed += color * np.uint16(share)
    mixed += 127  # never over 65535: both shares sum to 256
    mixed >>= 8
    return mixed.astype(np.uint8)


def _three_channels(mask: Mask) -> Mask:
    """Return (h, w, 3) of (h, w): numpy copies under a full mask many times faster than by broadcasting."""
    return np.repeat(mask, 3, axis=1).reshape(*mask.shape, 3)
