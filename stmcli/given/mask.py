"""The mask that is given for one frame, and what several of them say together."""

import hashlib
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import dropwhile
from pathlib import Path

import numpy as np

from stmcli.masks import Labels, object_ids


@dataclass(frozen=True, repr=False)
class GivenMask:
    """Hold the checked mask of one frame, packed: there may be one for every frame of a clip.

    It is the truth about its own ids. Of other objects it says that they are absent when it is `whole`, else nothing.
    """

    frame: int
    path: Path
    ids: tuple[int, ...]
    shape: tuple[int, ...]
    dtype: np.dtype[np.integer]
    packed: bytes
    whole: bool = False

    @classmethod
    def pack(cls, frame: int, path: Path, labels: Labels) -> "GivenMask":
        """Keep labels (H, W) small."""
        packed = zlib.compress(labels.tobytes(), 1)
        return cls(frame, path, object_ids(labels), labels.shape, labels.dtype, packed)

    def digest(self) -> str:
        """Identify all that the mask says."""
        return self._digest

    def labels(self) -> Labels:
        """Return the labels, (H, W)."""
        return np.frombuffer(zlib.decompress(self.packed), self.dtype).reshape(self.shape)

    @cached_property
    def _digest(self) -> str:
        facts = repr((self.frame, self.ids, self.whole, self.shape, self.dtype.str)).encode()
        return hashlib.sha256(facts + self.labels().tobytes()).hexdigest()  # what packs them may pack otherwise later


def from_first(given: Sequence[GivenMask]) -> list[GivenMask]:
    """Leave out the masks before the first that shows an object."""
    return [*dropwhile(lambda mask: not mask.ids, given)]


def followed_from(given: Sequence[GivenMask], direction: str) -> GivenMask:
    """Return the mask that a clip is followed from."""
    start = start_of([(mask.frame, mask.ids) for mask in given], direction)
    return next(mask for mask in given if mask.frame == start)


def start_of(masks: Iterable[tuple[int, Sequence[int]]], direction: str) -> int | None:
    """Return the frame that a clip is followed from: of the first mask that shows an object, going backward the last.

    `masks` are the frame and the ids of each.
    """
    shown = (frame for frame, ids in masks if ids)
    return max(shown, default=None) if direction == "backward" else min(shown, default=None)


def ids_of(given: Sequence[GivenMask]) -> tuple[int, ...]:
    """Return the ids of all objects, ascending: those that enter late too."""
    return tuple(sorted({number for mask in given for number in mask.ids}))
