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
FAR = (
    0.2  # of all levels: pixels that move so far count in full, as where all of an even picture changes bins by a hair
)
TIMES = 3.0  # how many times the level so far
MEMORY = 0.8  # of the running level


class CutDetector:
    """Tell, frame by frame, whether a new scene begins."""

    def __init__(self) -> None:
        self._before: Levels | None = None
        self._level = 0.0  # what the colours change by from frame to frame

    def state(self) -> dict[str, Any]:
        """Return what `restore` needs to go on, as JSON can hold it."""
        return {"before": None if self._before is None else self._before.tolist(), "level": self._level}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Take over what `state` returned."""
        self._before = None if state["before"] is None else np.array(state["before"])
        self._level = state["level"]

    def is_cut(self, rgb: RGB) -> bool:
        """Tell whether rgb (H, W, 3) shows another scene than the frame before; never for the first."""
        levels = _levels(rgb)
        before, self._before = self._before, levels
        if before is None:
            return False
        moved = levels - before  # (3, FINE)
        change = float(np.abs(moved.reshape(3, COARSE, -1).sum(2)).sum() / 6)  # each of 3 channels by at most 2
        shift = float(np.abs(np.cumsum(moved, axis=1)).sum() / (3 * (FINE - 1)))
        change = min(change, shift / FAR)
        cut = change > max(LEAST, TIMES * self._level)
        self._level = change / TIMES if cut else max(change, MEMORY * self._level)  # what flickers is no cut twice
        return cut


def _levels(rgb: RGB) -> Levels:
    """Return the histogram of each channel, (3, FINE), each sums to 1."""
    step = max(1, min(rgb.shape[:2]) // SAMPLES)
    few = rgb[::step, ::step]
    counts = [np.bincount(few[..., channel].ravel(), minlength=FINE) for channel in range(3)]
    return np.stack(counts) / few[..., 0].size
