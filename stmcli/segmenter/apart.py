"""Follow every object of a clip by itself, in a window of its own, and share out the pixels that several claim."""

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from stmcli.masks import object_ids
from stmcli.model import STM
from stmcli.segmenter.follower import State
from stmcli.segmenter.prediction import Prediction
from stmcli.segmenter.segmenter import TINY, Segmenter
from stmcli.transfer import upload


class Apart:
    """Follow the objects of one clip, each by a segmenter that knows of no other; they remember what they agree on.

    A small object is seen as large as it would be alone, wherever the others are, and one that enters late has all of
    a memory.
    """

    def __init__(self, model: STM, make: Callable[[], Segmenter]) -> None:
        self.model = model
        self.expected: tuple[int, ...] = ()  # ids that enter some time: every prediction has a channel for them
        self._make = make
        self._each: dict[int, Segmenter] = {}  # by id

    @property
    def object_ids(self) -> tuple[int, ...]:
        """The ids that have entered, in that order."""
        return tuple(self._each)

    @property
    def segmenters(self) -> tuple[Segmenter, ...]:
        """Those of the objects that have entered, in that order."""
        return tuple(self._each.values())

    @torch.inference_mode()
    def step(self, rgb: np.ndarray, labels: np.ndarray | None = None, *, whole: bool = False) -> Prediction:
        """Segment the next frame, as `Segmenter.step` does."""
        given = {} if labels is None else self._parts(labels, whole)
        if not self._each:
            raise ValueError("the first frame needs labels")
        pixels = upload(rgb, self.model.device)
        seen = [one.step(rgb, given.get(key), whole=whole, uploaded=pixels) for key, one in self._each.items()]
        prediction = self._answer(seen, [*given])
        if len(seen) > 1:
            self.revise(prediction)
        return replace(prediction, measured=None) if any(found.measured is None for found in seen) else prediction

    def revise(self, prediction: Prediction) -> None:
        """Remember another prediction of the latest frame than its own; masks that were given stay as they are."""
        for segmenter in self._each.values():
            segmenter.revise(prediction)

    def state(self) -> State:
        """Return what it takes to go on from here, as copies."""
        return State.joined({number: segmenter.state() for number, segmenter in self._each.items()})

    def restore(self, state: State) -> None:
        """Go on from a state of an Apart with the same network and options."""
        self.reset()
        for number, one in state.parted().items():
            self._each[number] = self._make()
            self._each[number].restore(one)

    def notes(self) -> list[str]:
        """Return what is to be said of how it was computed."""
        return [*dict.fromkeys(note for segmenter in self._each.values() for note in segmenter.notes())]

    def reset(self) -> None:
        """Forget the clip."""
        self._each = {}

    def _parts(self, labels: np.ndarray, whole: bool) -> dict[int, np.ndarray]:
        """Return what labels (H, W) say about objects, by id; new ones are followed from now on."""
        told = object_ids(labels)
        self._each |= {number: self._make() for number in told if number not in self._each}
        return {number: labels * (labels == number) for number in (self.object_ids if whole else told)}

    def _answer(self, seen: Sequence[Prediction], given: Sequence[int]) -> Prediction:
        """Put together what is said of each object, sorted by id, with empty channels for those that are to come."""
        known, prob = self.object_ids, seen[0].prob
        sure = torch.cat([prob.new_ones(1) if found.measured is None else found.measured for found in seen])
        if len(seen) > 1:
            prob = shared([found.prob[1] for found in seen], [known.index(number) for number in given])
            sure = sure * (prob[1:].amax((1, 2)) > 0.5)  # others may have taken all that it claimed
        answer = replace(seen[0], prob=prob, object_ids=known, measured=sure).arranged(self.expected)
        return replace(answer, given=self._told(answer.object_ids, given))

    def _told(self, ids: tuple[int, ...], given: Sequence[int]) -> tuple[int, ...]:
        """Return the objects of a frame that come out as they were given: all, where all that are there were."""
        return ids if {*given} == {*self._each} else tuple(given)


def shared(own: Sequence[Tensor], given: Sequence[int]) -> Tensor:
    """Share out a frame among N objects, (H, W) probabilities of each by itself: (N+1, H, W), background first.

    What several claim is divided by their odds, once those at the places `given`, which are the truth, have theirs.
    """
    taken = sum((own[place] for place in given), torch.zeros_like(own[0]))
    free = 1 - taken
    odds = [p / (1 - p).clamp(min=TINY) for p in own]  # of the truth: nothing is free where it is not 0
    prob = torch.stack([torch.ones_like(free), *odds])
    prob *= free / prob.sum(0)
    for place in given:
        prob[1 + place] = own[place]
    return prob
