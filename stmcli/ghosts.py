"""Soft edges in a picture of flat colours: find the codes that only lie between others, and resolve them.

A code is a number that stands for a colour or an id; `colours` turns codes (...) into points (..., 3).
"""

from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

import numpy as np
import numpy.typing as npt
from scipy import ndimage

Code = TypeVar("Code", bound=np.integer)
Codes = npt.NDArray[np.int32]
Mask = npt.NDArray[np.bool_]
Points = npt.NDArray[np.float32]
Colours = Callable[[Codes], Points]

EIGHT = np.ones((3, 3), dtype=bool)  # pixels that touch at a corner hang together
_AROUND = 3  # px on each side that are looked at
_CHUNK = 2**15  # pixels looked at together
_OFF_LINE = 40.0  # a blend made in linear light lies so far beside the straight line between two colours
_NONE = -1


def thin_codes(codes: npt.NDArray[Code]) -> npt.NDArray[Code]:
    """Return the codes of (H, W) that fill no block of 3x3 pixels anywhere, ascending."""
    return np.setdiff1d(codes, codes[_solid(codes)])


def find_ghosts(codes: Codes, colours: Colours, *, proper: Sequence[int] = ()) -> Mask:
    """Return which pixels of (H, W) are ghosts: thin, and between two flat codes, in place and in colour.

    Thin are the codes that fill no block of 3x3 anywhere, and of other codes the parts that fill none, such as the
    ring of id 1 that a soft resize leaves around id 2. `proper` codes are no ghosts whatever they look like.
    """
    groups = _thin_groups(codes, proper)  # (H, W), 0: not thin
    thin = groups != 0
    between = np.zeros(np.count_nonzero(thin), dtype=bool)
    for part, spots, near in _neighbourhoods(codes, thin):
        between[part] = _lies_between(codes[tuple(spots.T)], near, colours)
    members = np.bincount(groups[thin], minlength=groups.max() + 1)
    ghostly = 2 * np.bincount(groups[thin], between, len(members)) >= np.maximum(members, 1)
    return thin & ghostly[groups]


def settle(codes: Codes, wrong: Mask, colours: Colours) -> Codes:
    """Give each wrong pixel of (H, W) the code nearest in colour of those around it; of equal ones, the closest.

    Far from any right pixel it takes the closest. At least one pixel must be right.
    """
    settled = codes.copy()
    lost = np.zeros(codes.shape, dtype=bool)
    for _, spots, near in _neighbourhoods(codes, wrong):
        here = tuple(spots.T)
        distance = ((colours(near) - colours(codes[here])[:, None]) ** 2).sum(axis=2)  # (K, around)
        distance[near == _NONE] = np.inf
        best = distance.argmin(axis=1)[:, None]
        settled[here] = np.take_along_axis(near, best, axis=1)[:, 0]
        lost[here] = np.take_along_axis(near, best, axis=1)[:, 0] == _NONE
    if lost.any():
        closest = ndimage.distance_transform_edt(wrong, return_distances=False, return_indices=True)
        settled[lost] = codes[tuple(closest)][lost]
    return settled


def _solid(codes: npt.NDArray[Code]) -> Mask:
    """Return which pixels of (H, W) lie in a block of 3x3 equal ones; all of a picture that holds no block."""
    height, width = codes.shape
    if min(height, width) < 3:
        return np.ones(codes.shape, dtype=bool)
    centre = codes[1:-1, 1:-1]
    middle = np.zeros(codes.shape, dtype=bool)
    middle[1:-1, 1:-1] = True
    for top, left in np.ndindex(3, 3):
        middle[1:-1, 1:-1] &= codes[top : top + height - 2, left : left + width - 2] == centre
    return ndimage.binary_dilation(middle, EIGHT)


def _thin_groups(codes: Codes, proper: Sequence[int]) -> npt.NDArray[np.int32]:
    """Number the thin codes, and the thin parts of other codes that hang together: (H, W), 0 elsewhere."""
    solid = _solid(codes)
    thin = np.setdiff1d(np.setdiff1d(codes, codes[solid]), proper)
    spots = np.isin(codes, thin)
    groups = np.zeros(codes.shape, dtype=np.int32)
    groups[spots] = np.searchsorted(thin, codes[spots]) + 1
    count = len(thin)
    for code in np.setdiff1d(codes[~solid & ~spots], proper):
        numbered, found = ndimage.label(codes == code, EIGHT)
        loose = np.ones(found + 1, dtype=bool)
        loose[np.unique(numbered[solid])] = False
        part = loose[numbered] & (numbered > 0)
        groups[part] = numbered[part] + count
        count += found
    return groups


def _neighbourhoods(codes: Codes, wrong: Mask) -> Iterator[tuple[slice, npt.NDArray[np.intp], Codes]]:
    """Yield the wrong pixels in parts: which ones, where (K, 2), and the codes around (K, around), closest first."""
    side = 2 * _AROUND + 1
    padded = np.pad(np.where(wrong, _NONE, codes), _AROUND, constant_values=_NONE)
    windows = np.lib.stride_tricks.sliding_window_view(padded, (side, side))
    rows, columns = np.indices((side, side)) - _AROUND
    order = np.argsort((rows**2 + columns**2).ravel(), kind="stable")
    spots = np.argwhere(wrong)
    for start in range(0, len(spots), _CHUNK):
        part = slice(start, min(start + _CHUNK, len(spots)))
        near = windows[tuple(spots[part].T)].reshape(-1, side * side)
        yield part, spots[part], near[:, order]


def _lies_between(here: Codes, near: Codes, colours: Colours) -> Mask:
    """Tell which codes (K,) are blends of the two outermost ones around them, (K, around)."""
    high = near.max(axis=1)
    low = np.where(near == _NONE, high[:, None], near).min(axis=1)
    start = colours(low)
    way, step = colours(high) - start, colours(here) - start
    share = (way * step).sum(axis=1) / np.maximum((way**2).sum(axis=1), 1)
    off = np.linalg.norm(step - share[:, None] * way, axis=1)
    return (low != high) & (share > 0) & (share < 1) & (off < _OFF_LINE)
