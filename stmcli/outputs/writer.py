"""What a writer is, and what it takes."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from stmcli.video import Frame

Alpha = npt.NDArray[np.float32]


class Prediction(Protocol):
    """Hold the answer for one frame, at the source's size."""

    @property
    def object_ids(self) -> tuple[int, ...]:
        """Return the id of each object."""

    def labels(self) -> npt.NDArray[np.integer]:
        """Return (H, W) object ids, 0 is background."""


class SoftPrediction(Prediction, Protocol):
    """Hold an answer that also says how much of a pixel belongs to an object."""

    def soft(self, object_id: int) -> Alpha:
        """Return (H, W) the network's own probability of an object, 0..1."""

    def alpha(self, object_id: int | None = None) -> Alpha:
        """Return (H, W) how much of each pixel belongs to an object, or to any (None), 0..1."""

    def foreground(self, object_id: int | None = None) -> npt.NDArray[np.uint8]:
        """Return (H, W, 3) the colours of an object, or of all (None), without what is behind its edge."""


class Writer(Protocol):
    """Take predictions in the order of their frames."""

    path: Path

    @property
    def notes(self) -> list[str]:
        """Return what was done differently than asked."""

    @property
    def facts(self) -> Mapping[str, Any]:
        """Return what is in the finished output: of a film, what was found when it was opened again."""

    def write(self, frame: Frame, prediction: Any) -> None:
        """Append one frame and its Prediction or SoftPrediction."""

    def keep(self, frame: Frame, prediction: Any) -> None:
        """Take a frame that an earlier run has done, with its stored Prediction: images of it are there already."""

    def close(self) -> None:
        """Finish the output, check it, and give it its name: a film is opened again, of images each is to be there."""

    def abort(self) -> None:
        """Remove what is unfinished."""
