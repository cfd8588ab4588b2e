"""What is stored of the frames of a result, or of masks from anywhere: ids, and perhaps probabilities."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from stmcli.errors import UsageError
from stmcli.listeners import unheard
from stmcli.masks import ONE_OBJECT, Convention, Labels, check_fits, object_ids, read_grey, read_stored
from stmcli.video import Source


class SavedMasks:
    """Give back, frame by frame, what a run or a person has stored; `known` are the ids of a run's objects."""

    def __init__(
        self,
        masks: Mapping[int, Path],
        source: Source,
        soft: Mapping[int, Path],
        *,
        edited: Sequence[int] = (),
        known: Sequence[int] = (),
    ) -> None:
        self._masks, self._soft, self._name, self.edited = masks, soft, source.frame_name, edited
        self._folder = next(iter(masks.values())).parent
        self._size = source.info.width, source.info.height
        self._convention = Convention(beside=not {*ONE_OBJECT}.isdisjoint(known))
        stored = [self._learn(path, source.info.path.name) for path in masks.values()]
        found = {number for values, grey in stored for number in object_ids(self._meant(values, grey))}
        self.object_ids = tuple(sorted(found | set(soft)))
        if not self.object_ids:
            raise UsageError("no object in any of these masks", path=self._folder)

    def __contains__(self, index: int) -> bool:
        return index in self._masks

    @property
    def is_soft(self) -> bool:
        """Tell whether probabilities were stored; an object that somebody has painted in later has none."""
        return bool(self._soft)

    def check_count(self, frames: int) -> None:
        """Raise UsageError when the clip has fewer frames than there are masks."""
        if frames < len(self._masks):
            lost = self._masks[sorted(self._masks)[frames]]
            raise UsageError("there is no frame for this mask", path=lost, hint="Give the clip that the masks are of.")

    def labels(self, index: int) -> Labels:
        """Return the mask (H, W) of a frame."""
        return self._meant(*read_stored(self._masks[index], size=self._size, warn=unheard))

    def soft(self, index: int) -> np.ndarray:
        """Return (N+1, H, W) float32, background first: the stored probabilities, else 0 and 1 by the mask."""
        if not self.is_soft or index in self.edited:
            labels = self.labels(index)
            return np.stack([labels == number for number in (0, *self.object_ids)]).astype(np.float32)
        stem = self._name(index)
        stack = np.zeros((len(self.object_ids), *self._size[::-1]), np.float32)
        for place, number in enumerate(self.object_ids):
            if number in self._soft:
                stack[place] = read_grey(self._soft[number] / f"{stem}.png", size=self._size)
        return np.concatenate((np.clip(1 - stack.sum(0, keepdims=True), 0, 1), stack))

    def _learn(self, path: Path, video_name: str) -> tuple[Labels, bool]:
        """Check a mask, and return each value in it once, and whether it is 8-bit grey."""
        values, grey = read_stored(path)
        check_fits(values, path, *self._size, video_name)
        self._convention.learn(values, grey)
        return np.unique(values), grey

    def _meant(self, values: Labels, grey: bool) -> Labels:
        """Return the ids that values of a mask stand for, same shape."""
        return self._convention.labels(values, grey, path=self._folder, warn=unheard)


@dataclass(frozen=True)
class SavedPrediction:
    """What is stored of one frame."""

    object_ids: tuple[int, ...]
    saved: Labels
    prob: Any = None  # a tensor (N+1, H, W) where soft alpha is asked for
    sure: tuple[float, ...] = ()  # the confidence in each object, where it is known
    cut: bool = False  # whether a new scene begins here

    def labels(self) -> Labels:
        """Return (H, W) object ids."""
        return self.saved

    def confidence(self) -> tuple[float, ...]:
        """Return the confidence in each object, 0..1."""
        return self.sure
