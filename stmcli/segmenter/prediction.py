"""What comes out of the network for one frame."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True)
class Prediction:
    """What the network says about one frame, at the size of the source."""

    prob: Tensor  # (N+1, H, W) on the model's device, background first, sums to 1
    object_ids: tuple[int, ...]  # channel i+1 is object_ids[i]
    measured: Tensor | None = None  # (N,) confidence in each object, 0..1; None: a mask that was given or stored
    cut: bool = False  # whether a new scene begins here
    given: tuple[int, ...] = ()  # objects whose masks the user gave, which are to come out as they are

    def arranged(self, expected: Sequence[int]) -> "Prediction":
        """Return it with its channels in the order of their ids, and an empty one for each other id expected."""
        ids = tuple(sorted({*self.object_ids, *expected}))
        if ids == self.object_ids:
            return self
        prob = torch.cat([self.prob[:1], by_id(ids, self.object_ids, self.prob[1:])])
        measured = None if self.measured is None else by_id(ids, self.object_ids, self.measured)
        return replace(self, prob=prob, object_ids=ids, measured=measured)

    def labels(self) -> np.ndarray:
        """Return the most likely id of every pixel: (H, W) uint8, or uint16 when an id is above 255."""
        return self._labels

    def alpha(self) -> np.ndarray:
        """Return how much of every pixel belongs to any object: (H, W) float32 in [0, 1]."""
        return (1 - self.prob[0]).clamp(0, 1).float().cpu().numpy()

    def confidence(self) -> tuple[float, ...]:
        """Return for each object how far its mask is to be trusted, 0..1; 0 when it has no pixel.

        Where nothing was measured, it is the mean probability of the pixels that the object won.
        """
        if self.measured is not None:
            return tuple(self.measured.tolist())
        labels = self.labels()
        prob = self.prob.float().cpu().numpy()
        won = [prob[i + 1][labels == number] for i, number in enumerate(self.object_ids)]
        return tuple(float(p.mean()) if p.size else 0.0 for p in won)

    @cached_property
    def _labels(self) -> np.ndarray:
        return likeliest(self.prob[0], self.prob[1:], self.object_ids)


def likeliest(background: Tensor, objects: Tensor, object_ids: Sequence[int]) -> np.ndarray:
    """Return the most likely id of every pixel, from (H, W) and (N, H, W): (H, W) uint8 or uint16."""
    ids = np.array((0, *object_ids), dtype=np.uint8 if max(object_ids) < 256 else np.uint16)
    number = torch.uint8 if len(objects) < 256 else torch.int16
    best, places = objects.max(0) if len(objects) > 1 else (objects[0], None)  # many times faster than argmax
    won = (best > background).to(number)
    found = (won if places is None else won * (1 + places.to(number))).cpu().numpy()
    return found if ids.dtype == np.uint8 and np.array_equal(ids, np.arange(len(ids))) else ids[found]


def by_id(ids: Sequence[int], known: Sequence[int], found: Tensor) -> Tensor:
    """Return what was found of every id, in their order (N, ...), and zeros for those that are not known.

    Places in a list would go to the device as a tensor, for which the host waits.
    """
    nothing = torch.zeros_like(found[0])
    return torch.stack([found[known.index(number)] if number in known else nothing for number in ids])
