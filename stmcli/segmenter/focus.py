"""Where in the frame the network looks: a window that goes with the objects, so that small ones are seen large."""

from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from stmcli.transfer import Download

KEEP = 0.7  # a window stays as it is while the objects would need at least this share of it
MARGIN = 0.15  # of a window's sides, that objects must stay away from
HOLD = 0.98  # of the objects' length in the frame before, that they are taken to have at least: they may be hidden
LOST = 0.995  # the same while fewer objects are seen than were: one may come back where it left
SEARCH = 1.25  # by what a window grows for each frame in which no object is seen
LARGEST = 2.0  # how many times the source's pixels may be enlarged


class Box(NamedTuple):
    """A rectangle of pixels."""

    top: int
    left: int
    height: int
    width: int

    def holds(self, other: "Box", *, margin: float) -> bool:
        """Tell whether another box lies inside, apart from the edge by a share of the sides."""
        y, x = margin * self.height, margin * self.width
        below, right = self.top + self.height - y, self.left + self.width - x
        inside = other.top >= self.top + y and other.top + other.height <= below
        return inside and other.left >= self.left + x and other.left + other.width <= right


class Focus:
    """Aim the window of every frame by where the objects were seen in the one before, and where they are given.

    The window has the frame's shape and is `times` as long as the objects together are, but never so small that
    pixels would be enlarged more than LARGEST times to make its shorter side `size`. It stays where it is while the
    objects fit, becomes smaller slowly, since what is not seen of them may only be hidden, more slowly still while
    fewer of them are seen than were, and grows to the whole frame while none is seen. With `times` 0 it is always the
    whole frame.
    """

    def __init__(self, source: tuple[int, int], *, times: float, size: int) -> None:
        self.source, self.times = source, times
        self.least = size / LARGEST / min(source)  # share of the frame's sides
        self.window = Box(0, 0, *source)
        self.length = 0.0  # share of the frame's sides that the objects take, or lately took
        self._seen: Box | None = None  # where the objects were in the frame before
        self._count, self._most = 0, 0  # how many were seen there, and how many ever
        self._coming: Download | None = None  # of the latest frame, the same as it comes

    def aim(self, labels: np.ndarray | None, *, cut: bool) -> Box:
        """Return the window of the next frame, whose labels (H, W) may be given, and which may begin a new scene."""
        if self.times:
            given = None if labels is None else box_of(labels > 0)
            if cut:
                self.window, self.length = Box(0, 0, *self.source), 0.0
            else:
                self.window = self._aimed(_joined(self._settled(), given))
        return self.window

    def saw(self, prob: Tensor) -> None:
        """Take note of what was seen of the objects in the latest frame: prob (N+1, H, W), background first."""
        if self.times:
            some = prob[1:].amax((1, 2)) > 0.5
            self._coming = Download(torch.cat([prob[0].amin(1) < 0.5, prob[0].amin(0) < 0.5, some]))

    def state(self) -> dict[str, Any]:
        """Return what JSON can hold of where it looks."""
        seen = self._settled()
        return {
            "window": self.window,
            "length": self.length,
            "seen": seen,
            "count": self._count,
            "most": self._most,
        }

    def restore(self, facts: dict[str, Any]) -> None:
        """Take over what `state` returned."""
        self.window = Box(*facts["window"])
        self.length = facts["length"]
        self._seen = Box(*facts["seen"]) if facts["seen"] else None
        self._count, self._most = facts["count"], facts["most"]
        self._coming = None

    def _settled(self) -> Box | None:
        """Return where the objects were in the frame before, which may take a wait for the device."""
        if self._coming:
            shown = self._coming.array()
            rows, columns, objects = np.split(shown, np.cumsum(self.source))
            self._seen, self._coming = _box(rows, columns), None
            self._count = int(objects.sum())
            self._most = max(self._most, self._count)
        return self._seen

    def _aimed(self, objects: Box | None) -> Box:
        height, width = self.source
        if objects is None:
            share = self.window.height / height * SEARCH
        else:
            hold = LOST if self._count < self._most else HOLD
            self.length = max(objects.height / height, objects.width / width, hold * self.length)
            share = self.times * self.length
        share = min(1.0, max(self.least, share))
        return self.window if self._fits(objects, share) else self._around(objects or self.window, share)

    def _fits(self, objects: Box | None, share: float) -> bool:
        size = self.window.height / self.source[0]
        if objects is None or not KEEP * size <= share <= size / KEEP:
            return False
        return size == 1 or self.window.holds(objects, margin=MARGIN)

    def _around(self, box: Box, share: float) -> Box:
        height, width = (max(1, round(share * side)) for side in self.source)
        top = box.top + (box.height - height) // 2
        left = box.left + (box.width - width) // 2
        return Box(min(max(0, top), self.source[0] - height), min(max(0, left), self.source[1] - width), height, width)


def box_of(seen: np.ndarray) -> Box | None:
    """Return the box that holds every true pixel of (H, W); None where there is none."""
    return _box(*(np.asarray(seen.any(axis)) for axis in (1, 0)))


def _box(shown: np.ndarray, across: np.ndarray) -> Box | None:
    """Return the box of what is shown in some rows (H,) and some columns (W,)."""
    rows, columns = np.flatnonzero(shown), np.flatnonzero(across)
    if not rows.size:
        return None
    top, left = int(rows[0]), int(columns[0])
    return Box(top, left, int(rows[-1]) - top + 1, int(columns[-1]) - left + 1)


def _joined(one: Box | None, other: Box | None) -> Box | None:
    """Return the box that holds both."""
    boxes = [box for box in (one, other) if box]
    if not boxes:
        return None
    top, left = min(box.top for box in boxes), min(box.left for box in boxes)
    bottom, right = max(box.top + box.height for box in boxes), max(box.left + box.width for box in boxes)
    return Box(top, left, bottom - top, right - left)
