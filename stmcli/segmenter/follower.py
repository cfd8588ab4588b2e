"""What follows the objects of a clip, and the loop that hands it every frame."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
from torch import Tensor

from stmcli.given import GivenMask
from stmcli.masks import object_ids
from stmcli.model import STM
from stmcli.segmenter.prediction import Prediction
from stmcli.video import Frame


class State(NamedTuple):
    """All that a follower knows between two frames."""

    tensors: dict[str, Tensor]  # in the network's precision
    facts: dict[str, Any]  # that JSON can hold

    @classmethod
    def joined(cls, states: Mapping[int, "State"]) -> "State":
        """Return the states of several followers as one; the tensors are named `<key>.<name>`."""
        tensors = {f"{key}.{name}": x for key, state in states.items() for name, x in state.tensors.items()}
        return cls(tensors, {"each": [[key, state.facts] for key, state in states.items()]})

    def parted(self) -> dict[int, "State"]:
        """Return the states that were joined, by their keys."""
        return {key: State(self._named(f"{key}."), facts) for key, facts in self.facts["each"]}

    def _named(self, prefix: str) -> dict[str, Tensor]:
        return {name.removeprefix(prefix): x for name, x in self.tensors.items() if name.startswith(prefix)}


class Follower(Protocol):
    """What follows the objects of one clip, frame by frame."""

    expected: tuple[int, ...]  # ids that enter some time: every prediction has a channel for them

    @property
    def model(self) -> STM:
        """The network."""

    @property
    def object_ids(self) -> tuple[int, ...]:
        """The ids that have entered, in that order."""

    def step(self, rgb: np.ndarray, labels: np.ndarray | None = None, *, whole: bool = False) -> Prediction:
        """Segment the next frame: rgb (H, W, 3) uint8, for the first one also labels (H, W)."""

    def state(self) -> State:
        """Return what it takes to go on from here, as copies."""

    def restore(self, state: State) -> None:
        """Go on from a state of a follower with the same network and options."""

    def reset(self) -> None:
        """Forget the clip."""

    def notes(self) -> list[str]:
        """Return what is to be said of how it was computed."""


def propagate(
    segmenter: Follower, frames: Iterable[Frame], labels: np.ndarray, *, later: Sequence[GivenMask] = ()
) -> Iterator[tuple[Frame, Prediction]]:
    """Carry the labels (H, W) of the first frame through all frames; yields each frame with its prediction.

    Masks of later frames bring objects in, or correct them; predictions have all ids from the first frame on. A frame
    that could not be decoded repeats the prediction before it and is not remembered. A segmenter that was restored
    goes on with the next frame.
    """
    prediction: Prediction | None = None
    masks = {mask.frame: mask for mask in later}
    segmenter.expected = tuple(sorted({*object_ids(labels), *(number for mask in later for number in mask.ids)}))
    for frame in frames:
        mask = masks.get(frame.index)
        if not segmenter.object_ids:
            prediction = segmenter.step(frame.rgb, labels)
        elif mask:
            prediction = segmenter.step(frame.rgb, mask.labels(), whole=mask.whole)
        elif prediction is None or not frame.corrupt:
            prediction = segmenter.step(frame.rgb)
        yield frame, prediction
