"""Several views of one clip, followed side by side: mirrored, at other sizes. Each remembers what they agree on."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch

from stmcli.model import STM
from stmcli.options import MemoryOptions, NetworkOptions
from stmcli.segmenter.apart import Apart
from stmcli.segmenter.follower import Follower, State
from stmcli.segmenter.geometry import list_views
from stmcli.segmenter.prediction import Prediction
from stmcli.segmenter.segmenter import Segmenter
from stmcli.weights import suited

ZOOMS = (0.85, 1.15)  # of the working size, by `scale`, beside that size itself


@dataclass(frozen=True)
class View:
    """A segmenter that sees every frame as it is, or mirrored."""

    segmenter: Segmenter | Apart
    mirrored: bool = False

    def step(self, rgb: np.ndarray, labels: np.ndarray | None = None, *, whole: bool = False) -> Prediction:
        """Segment the next frame as `Segmenter.step` does, and turn the prediction back."""
        if self.mirrored:
            rgb, labels = rgb[:, ::-1], None if labels is None else labels[:, ::-1]
        prediction = self.segmenter.step(rgb, labels, whole=whole)
        return self._turned(prediction)

    def revise(self, prediction: Prediction) -> None:
        """Remember this prediction of the latest frame, not the view's own."""
        self.segmenter.revise(self._turned(prediction))

    def _turned(self, prediction: Prediction) -> Prediction:
        return replace(prediction, prob=prediction.prob.flip(-1)) if self.mirrored else prediction


class Ensemble:
    """Follow the objects of one clip in several views; their mean probability is what each of them remembers."""

    def __init__(self, views: Sequence[View]) -> None:
        self.views = tuple(views)

    @property
    def model(self) -> STM:
        """The network, the same for all views."""
        return self.views[0].segmenter.model

    @property
    def object_ids(self) -> tuple[int, ...]:
        """The ids that have entered, in that order."""
        return self.views[0].segmenter.object_ids

    @property
    def expected(self) -> tuple[int, ...]:
        """The ids that enter some time."""
        return self.views[0].segmenter.expected

    @expected.setter
    def expected(self, ids: tuple[int, ...]) -> None:
        for view in self.views:
            view.segmenter.expected = ids

    @torch.inference_mode()
    def step(self, rgb: np.ndarray, labels: np.ndarray | None = None, *, whole: bool = False) -> Prediction:
        """Segment the next frame in all views, as `Segmenter.step` does."""
        seen = [view.step(rgb, labels, whole=whole) for view in self.views]
        prob = torch.stack([prediction.prob for prediction in seen]).mean(0)
        measured = [prediction.measured for prediction in seen if prediction.measured is not None]
        prediction = replace(seen[0], prob=prob, measured=torch.stack(measured).mean(0) if measured else None)
        for view in self.views:
            view.revise(prediction)
        return prediction

    def state(self) -> State:
        """Return what it takes to go on from here, as copies."""
        return State.joined({place: view.segmenter.state() for place, view in enumerate(self.views)})

    def restore(self, state: State) -> None:
        """Go on from a state of an Ensemble with the same network and options."""
        for view, one in zip(self.views, state.parted().values(), strict=True):
            view.segmenter.restore(one)

    def notes(self) -> list[str]:
        """Return what is to be said of how it was computed."""
        return [*dict.fromkeys(note for view in self.views for note in view.segmenter.notes())]

    def reset(self) -> None:
        """Forget the clip."""
        for view in self.views:
            view.segmenter.reset()


def views_of(network: NetworkOptions) -> list[tuple[float, bool]]:
    """Return the views that are averaged, as `list_views` names them."""
    return list_views(network.tta, ZOOMS)


def is_apart(network: NetworkOptions) -> bool:
    """Tell whether every object is followed by itself: where it has a window, unless they are to be together."""
    return bool(suited(network).focus) and not network.together


def make_follower(model: STM, network: NetworkOptions, memory: MemoryOptions | None = None) -> Follower:
    """Return what follows a clip as the options say: a Segmenter, several of them Apart, or an Ensemble of either."""
    fit = suited(network)

    def one(zoom: float) -> Segmenter | Apart:
        make = partial(Segmenter, model, memory=memory, fit=fit, zoom=zoom)
        return Apart(model, make) if is_apart(network) else make()

    views = [View(one(zoom), mirrored) for zoom, mirrored in views_of(network)]
    return Ensemble(views) if len(views) > 1 else views[0].segmenter
