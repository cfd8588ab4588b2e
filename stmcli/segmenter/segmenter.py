"""One frame in, one prediction out: the network, its memory, and the way from pixels to tensors and back."""

from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from stmcli.masks import object_ids
from stmcli.memory import Gate, MemoryBank
from stmcli.model import STM, Segmentation
from stmcli.options import Fit, MemoryOptions
from stmcli.segmenter.anchors import Anchors
from stmcli.segmenter.confidence import Gauge
from stmcli.segmenter.cuts import CutDetector
from stmcli.segmenter.focus import Focus
from stmcli.segmenter.follower import State
from stmcli.segmenter.geometry import TIMES, Geometry, list_views, seen_as
from stmcli.segmenter.guard import Guard
from stmcli.segmenter.prediction import Prediction, by_id
from stmcli.segmenter.presence import Presence
from stmcli.segmenter.strays import Strays
from stmcli.transfer import upload

TINY = 1e-7
PENDING = ("pending_frame", "pending_masks", "pending_confidence")


class Found(NamedTuple):
    """What the network finds in a frame."""

    prob: Tensor  # (1, N+1, h, w) at working size
    masks: Tensor  # (1, N, H, W), padded: no object there
    query: Tensor  # (1, Ck, H/16, W/16)
    confidence: Tensor  # (N,)
    looks: Tensor  # (1, N, Ck), of the objects


class Segmenter:
    """Follow the objects of one clip, frame by frame.

    The first step takes the labels that the user gave; every later one a frame, and labels where the user gave some:
    objects enter there, or are corrected. What a frame leaves in memory is computed when the next frame comes, so
    the last frame of a clip costs no memory encoder.
    """

    def __init__(
        self,
        model: STM,
        *,
        memory: MemoryOptions | None = None,
        fit: Fit | None = None,
        zoom: float = 1.0,
    ) -> None:
        self.model = model
        self.guard = Guard(model)
        self.fit = fit or Fit()
        self.zoom = zoom  # of the size inside the network
        self.expected: tuple[int, ...] = ()  # ids that enter some time: every prediction has a channel for them
        self._weight = next(model.parameters())  # tells device and precision
        self._options = memory or MemoryOptions()
        self.reset()

    def reset(self) -> None:
        """Forget the clip."""
        self.guard.recorder.forget()
        self.bank = MemoryBank(self._options)
        self.gate = Gate(self.fit.gate)
        self.object_ids: tuple[int, ...] = ()  # in the order in which they entered
        self._geometry: Geometry | None = None
        self._focus: Focus | None = None
        self.anchors = Anchors(self.fit.anchor)
        self._left: dict[int, dict[str, Any]] = {}  # where other scenes were looked at last, by their numbers
        self._pending: tuple[Tensor, Tensor, Tensor] | None = None  # frame, masks, confidence; to be remembered
        self._age = 0
        self.gauge = Gauge()
        self.presence = Presence(self.fit.gate)
        self.strays = Strays(self.fit.gate)
        self.cuts = CutDetector()

    @torch.inference_mode()
    def step(
        self,
        rgb: np.ndarray,
        labels: np.ndarray | None = None,
        *,
        whole: bool = False,
        uploaded: Tensor | None = None,
    ) -> Prediction:
        """Segment the next frame: rgb (H, W, 3) uint8, for the first one also labels (H, W).

        Labels are the truth about the ids in them. The network segments the other known objects, where no given id
        is; they are absent when the labels show the `whole` frame. `uploaded` is the frame where it is on the device
        already. Raises ValueError when the first frame
        comes without labels, or a frame or the labels have another size.
        """
        if labels is not None and labels.shape != rgb.shape[:2]:
            raise ValueError(f"the labels are {labels.shape} but the frame is {rgb.shape[:2]}")
        scene, cut = self.cuts.scene, self.cuts.is_cut(rgb)
        if self._geometry is None and labels is not None:
            self._fit(rgb.shape[:2])
        if self._geometry is None or rgb.shape[:2] != self._geometry.source:
            raise ValueError("the first frame needs labels, and all frames have its size")
        new = False
        if self.cuts.scene != scene:
            self._pending = None  # what the frame before shows says nothing about another scene
            self.presence.turn()
            self.strays.turn()
            new = not self._turn(scene)
        self._remember()
        pixels = upload(rgb, self._weight.device) if uploaded is None else uploaded  # before the wait for where to look
        prediction = self._follow(pixels, new) if labels is None else self._take(pixels, labels, whole, new)
        self._aimed.saw(prediction.prob)
        return replace(prediction, cut=cut)

    def notes(self) -> list[str]:
        """Return what is to be said of how it was computed."""
        return self.guard.notes()

    def revise(self, prediction: Prediction) -> None:
        """Remember another prediction of the latest frame than its own; masks that were given stay as they are."""
        if self._pending is None or prediction.measured is None:
            return
        masks, measured = (
            by_id(self.object_ids, prediction.object_ids, found) for found in (prediction.prob[1:], prediction.measured)
        )
        self._pending = self._pending[0], self._fitted.enter(masks[None]), measured

    @torch.inference_mode()
    def state(self) -> State:
        """Return what it takes to go on from here, as copies."""
        tensors, bank = self.bank.state()
        pending = dict(zip(PENDING, self._pending or (), strict=False))
        facts = {
            "source": self._fitted.source,
            "object_ids": self.object_ids,
            "age": self._age,
            "bank": bank,
            "cuts": self.cuts.state(),
            "focus": self._aimed.state(),
            "looks": self.anchors.state(),
            "left": [[scene, aimed] for scene, aimed in self._left.items()],
            "strides": {name: tensor.stride() for name, tensor in pending.items()},  # they decide how sums are rounded
        }
        others = {**pending, **self.gate.state(), **self.gauge.state(), **self.presence.state(), **self.strays.state()}
        return State({**tensors, **{name: _packed(tensor) for name, tensor in others.items()}}, facts)

    @torch.inference_mode()
    def restore(self, state: State) -> None:
        """Go on from a state of a Segmenter with the same network and options."""
        facts, device = state.facts, self._weight.device
        tensors = {name: tensor.to(device) for name, tensor in state.tensors.items()}
        self._fit(tuple(facts["source"]))
        self._aimed.restore(facts["focus"])
        self._geometry = self._fitted.through(self._aimed.window)
        self.anchors.restore(facts["looks"], self._fitted)
        self._left = dict(facts["left"])
        self.object_ids, self._age = tuple(facts["object_ids"]), facts["age"]
        self.bank.restore(tensors, facts["bank"])
        self.gate.restore(tensors)
        self.gauge.restore(tensors)
        self.presence.restore(tensors)
        self.strays.restore(tensors)
        self.cuts.restore(facts["cuts"])
        pending = [
            torch.empty_strided(tensors[name].shape, facts["strides"][name], dtype=tensors[name].dtype, device=device)
            for name in facts["strides"]
        ]
        for name, tensor in zip(facts["strides"], pending, strict=True):
            tensor.copy_(tensors[name])
        self._pending = (pending[0], pending[1], pending[2]) if pending else None

    def _fit(self, source: tuple[int, int]) -> None:
        """Choose the working size of a clip, and look at the whole of its frames."""
        self._geometry = Geometry.fit(*source, self.fit.size, zoom=self.zoom)
        self._focus = Focus(source, times=self.fit.focus, size=min(self._geometry.inner))

    def _turn(self, before: int) -> bool:
        """Go to another scene; tell whether it is one that was left, where all is as if it had not been."""
        self._left[before] = self._aimed.state()
        known = self._left.pop(self.cuts.scene, None)
        if known:
            self._aimed.restore(known)
        self._left = {scene: aimed for scene, aimed in self._left.items() if scene in self.cuts.left}
        return known is not None

    def _follow(self, pixels: Tensor, new: bool) -> Prediction:
        """Segment a frame by what is in memory."""
        frame = self._look(pixels, None, new)
        found = self._segment(frame, new)
        self._age += 1
        self._pending = frame, found.masks, found.confidence
        self.gauge.learn(found.looks)
        prob = self._fitted.leave(found.prob)[0]
        return Prediction(prob, self.object_ids, found.confidence).arranged(self.expected)

    def _take(self, pixels: Tensor, labels: np.ndarray, whole: bool, new: bool) -> Prediction:
        """Take what is given of a frame, segment the rest of it, and keep it in memory for good.

        The rest is looked for as if nothing were given: where that is far off, the known objects would at once be seen
        much smaller than they are remembered.
        """
        given = {*object_ids(labels), *(self.object_ids if whole else ())}
        known = [place for place, number in enumerate((0, *self.object_ids)) if place and number not in given]
        others = None
        if known:
            found = self._segment(self._look(pixels, None, new), new)
            others = self._fitted.leave(found.prob)  # (1, N+1, H, W)
        self._age += 1 if self.object_ids else 0
        entered = tuple(sorted(given - {*self.object_ids}))
        self.object_ids += entered
        if entered:
            self.guard.recorder.forget()  # nothing keeps its shape
        prob = self._truth(labels)
        if others is not None:
            places = [0, *known]
            share = others[0, places] / others[0, places].sum(0).clamp(min=TINY)
            prob[places] = share * prob[0]  # what the given ids leave free
            prob[0] = (1 - prob[1:].sum(0)).clamp(min=0)  # also where the network saw nothing but given ids
        frame = self._look(pixels, labels, new)
        masks = self._fitted.enter(prob[None, 1:]).to(frame.dtype)  # (1, N, H, W)
        slot = self.bank.pin(*self.gate.trust(*self.guard.memorize(frame, masks)))
        if slot is not None:
            self.anchors.add(slot, self._fitted, self.cuts.scene)
        views = list_views(self.fit.augment, TIMES)[1:] if entered else []
        for zoom, mirrored in views if self.bank.has_room(len(views)) else ():
            view = (seen_as(x, zoom, mirrored=mirrored) for x in (frame, masks))
            self.bank.pin(*self.guard.memorize(*view))
        unknown = [place - 1 for place in known]
        self.gauge.begin(len(self.object_ids), others=unknown)
        self.presence.begin(prob[1:].sum((1, 2)), others=unknown)
        self.strays.begin(masks, self._fitted)
        self._pending = None
        answer = Prediction(prob, self.object_ids).arranged(self.expected)
        return replace(answer, given=tuple(sorted(given)) if known else answer.object_ids)

    def _truth(self, labels: np.ndarray) -> Tensor:
        """(H, W) -> (N+1, H, W) of zeros and ones; void is background."""
        ids = torch.tensor((0, *self.object_ids)).view(-1, 1, 1)
        truth = (torch.from_numpy(labels.astype(np.int64)) == ids).to(self._weight.device, torch.float32)
        truth[0] = 1 - truth[1:].sum(0)
        return truth

    def _segment(self, frame: Tensor, new: bool) -> Found:
        """Segment a frame; where a new scene begins only given frames are read."""
        whole = self.guard.recorder.active  # so that one graph serves the whole clip
        read = self.bank.read(given_only=new, whole=whole)
        slots, device = self.bank.read_slots(given_only=new, whole=whole), self._weight.device
        anchors = self.anchors.among(slots, self._fitted, self.cuts.scene, device)
        looks = self.gauge.looks(read[0].shape[1], read[0].shape[3], device)
        fit, find = self.fit, self.guard.segment
        found: Found = find(frame, read, looks, top_k=fit.top_k, reach=fit.reach, anchors=anchors, then=self._finish)
        self.bank.weigh(found.query)
        return self._seen(found)

    def _seen(self, found: Found) -> Found:
        """Return what was found without what stands in for objects that are hidden, and what is far from them."""
        if looked := self.presence.look(found.masks, found.confidence, self._fitted.area):
            found = self._shown(found, looked[0])._replace(confidence=looked[1])
        near = self.strays.look(found.masks, self._fitted, self.presence.lost)
        return found if near is None else self._shown(found, near)

    def _shown(self, found: Found, where: Tensor) -> Found:
        """Return what was found of the objects `where` they are to be shown, zeros and ones (1, N, H, W)."""
        objects = found.prob[:, 1:] * self._fitted.crop(where)
        prob = torch.cat([1 - objects.sum(1, keepdim=True), objects], dim=1)
        return found._replace(prob=prob, masks=found.masks * where)

    def _finish(self, segmentation: Segmentation, looks: Tensor) -> Found:
        prob, query = torch.softmax(self._fitted.crop(segmentation.logits), dim=1), segmentation.query
        masks = F.pad(prob[:, 1:], self._fitted.pad)
        return Found(prob, masks, query, *self.gauge.measure(masks, query, looks))

    def _remember(self) -> None:
        """Put the frame before into memory, if the policy wants to read it."""
        if self._pending is None or not self.bank.wants(age=self._age, renew=self.fit.renew):
            return
        frame, masks, confidence = self._pending
        memory = self.guard.memorize(frame, masks.to(frame.dtype))
        self.bank.write(*self.gate.admit(*memory, confidence), age=self._age)

    def _look(self, pixels: Tensor, labels: np.ndarray | None, new: bool) -> Tensor:
        """Aim at the known objects and at those in the labels (H, W), and return what is seen there of a frame.

        (H, W, 3) uint8 -> (1, 3, H, W) in [0, 1] at padded working size. A network in integers of 8 bits sees no more
        than 8 bits, in which resizing takes a fifth of the time.
        """
        self._geometry = self._fitted.through(self._aimed.aim(labels, cut=new))
        frame = pixels.permute(2, 0, 1)[None]
        inside = self._fitted.enter(frame).float() / 255 if self.model.integers else self._fitted.enter(frame / 255)
        return inside.to(self._weight.dtype, memory_format=torch.channels_last)

    @property
    def _fitted(self) -> Geometry:
        assert self._geometry is not None
        return self._geometry

    @property
    def _aimed(self) -> Focus:
        assert self._focus is not None
        return self._focus


def _packed(tensor: Tensor) -> Tensor:
    """Return a copy without gaps, row by row."""
    return tensor.clone(memory_format=torch.contiguous_format)
