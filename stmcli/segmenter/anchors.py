"""How much more given frames count than others: where a frame shows what one of them showed, it is as was given."""

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import torch
from torch import Tensor

from stmcli.model import Anchor
from stmcli.segmenter.focus import Box
from stmcli.segmenter.geometry import Geometry


class Look(NamedTuple):
    """From where a given frame was seen."""

    geometry: Geometry
    scene: int


class Anchors:
    """Know from where the given frames in memory were seen, by their slots."""

    def __init__(self, times: float) -> None:
        self.times = times  # as much as a frame that was not given
        self._looks: dict[int, Look] = {}

    def add(self, slot: int, geometry: Geometry, scene: int) -> None:
        """Take note of a given frame, which may take the place of another one."""
        self._looks[slot] = Look(geometry, scene)

    def among(self, slots: Sequence[int], here: Geometry, scene: int, device: torch.device) -> list[Anchor]:
        """Return how much more the given frames of this scene among these slots count in a frame that is seen so."""
        if self.times <= 1:
            return []
        looks = [(place, self._looks[slot]) for place, slot in enumerate(slots) if slot in self._looks]
        near = [(place, look.geometry) for place, look in looks if look.scene == scene]
        return [Anchor(place, *_bonus(self.times, here, there, device)) for place, there in near]

    def state(self) -> list[Any]:
        """Return what `restore` needs to go on, for JSON."""
        return [[slot, look.geometry.window, look.scene] for slot, look in self._looks.items()]

    def restore(self, state: list[Any], like: Geometry) -> None:
        """Take over what `state` returned; `like`: any geometry of the clip."""
        self._looks = {slot: Look(like.through(Box(*box)), scene) for slot, box, scene in state}


@lru_cache(maxsize=16)  # a window stays for many frames
def _bonus(times: float, here: Geometry, there: Geometry, device: torch.device) -> tuple[Tensor, Tensor]:
    """Return by what cells match better that show the same place, where that counts so many times as much."""
    rows, columns = here.nearness(there, device=device)
    return math.log(times) * rows, columns
