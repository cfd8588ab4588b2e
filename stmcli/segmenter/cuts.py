"""Scene cuts: where the colours of a clip change all at once, and much more than from frame to frame before."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

RGB = npt.NDArray[np.uint8]
Levels = npt.NDArray[np.float64]

SAMPLES = 64  # pixels looked at along the shorter side
FINE, COARSE = 256, 16  # bins of each colour channel
LEAST = 0.12  # change that may be a cut; 0.08 at most within the validation clips, 0.15 at least between them
FAR = 0.2  # of all levels: pixels count in full that move so far, and less where they only cross the edge of a bin
TIMES = 3.0  # how many times the level so far
MEMORY = 0.8  # of the running level
SCENES = 8  # that were left, and are known when they come back


class CutDetector:
    """Tell, frame by frame, whether another scene begins, and which one it is: one that comes back keeps its number."""

    def __init__(self) -> None:
        self.scene = 0  # number of the scene of the latest frame
        self.left: dict[int, Levels] = {}  # what other scenes showed last, by their numbers, the latest last
        self._scenes = 1  # how many there were
        self._before: Levels | None = None
        self._level = 0.0  # what the colours change by from frame to frame

    def state(self) -> dict[str, Any]:
        """Return what `restore` needs to go on, as JSON can hold it."""
        before = None if self._before is None else self._before.tolist()
        left = [[number, levels.tolist()] for number, levels in self.left.items()]
        return {"before": before, "level": self._level, "scene": self.scene, "scenes": self._scenes, "left": left}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Take over what `state` returned."""
        self._before = None if state["before"] is None else np.array(state["before"])
        self._level, self.scene, self._scenes = state["level"], state["scene"], state["scenes"]
        self.left = {number: np.array(levels) for number, levels in state["left"]}

    def is_cut(self, rgb: RGB) -> bool:
        """Tell whether rgb (H, W, 3) shows another scene than the frame before; never for the first."""
        levels = _levels(rgb)
        before, self._before = self._before, levels
        if before is None:
            return False
        change = _change(before, levels)
        cut = change > max(LEAST, TIMES * self._level)
        self._level = change / TIMES if cut else max(change, MEMORY * self._level)  # what flickers is no cut twice
        if change > LEAST:
            self._turn(before, levels, most=min(LEAST, change / TIMES), cut=cut)
        return cut

    def _turn(self, before: Levels, levels: Levels, *, most: float, cut: bool) -> None:
        """Go to the scene that was left and differs by `most` from these levels, or after a cut to a new one."""
        apart = {number: _change(last, levels) for number, last in self.left.items()}
        back = [number for number in apart if apart[number] < most]
        if not back and not cut:
            return
        self.left[self.scene] = before
        self.scene = min(back, key=apart.__getitem__, default=self._scenes)
        self._scenes += not back
        self.left.pop(self.scene, None)
        for number in [*self.left][:-SCENES]:
            del self.left[number]


def _change(before: Levels, levels: Levels) -> float:
    """Return by how much two histograms (3, FINE) differ: 0..1."""
    moved = levels - before
    change = float(np.abs(moved.reshape(3, COARSE, -1).sum(2)).sum() / 6)  # each of 3 channels by at most 2
    shift = float(np.abs(np.cumsum(moved, axis=1)).sum() / (3 * (FINE - 1)))
    return min(change, shift / FAR)


def _levels(rgb: RGB) -> Levels:
    """Return the histogram of each channel, (3, FINE), each sums to 1."""
    step = max(1, min(rgb.shape[:2]) // SAMPLES)
    few = rgb[::step, ::step]
    counts = [np.bincount(few[..., channel].ravel(), minlength=FINE) for channel in range(3)]
    return np.stack(counts) / few[..., 0].size
