"""One frame in, one prediction out: the network, its memory, and the way from pixels to tensors and back."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from stmcli.confidence import Gauge
from stmcli.cuts import CutDetector
from stmcli.masks import object_ids
from stmcli.memory import Gate, MemoryBank
from stmcli.model import STM
from stmcli.model.stm import STRIDE
from stmcli.options import MemoryOptions
from stmcli.video import Frame


@dataclass(frozen=True)
class Prediction:
    """What the network says about one frame, at the size of the source."""

    prob: Tensor  # (N+1, H, W) on the model's device, background first, sums to 1
    object_ids: tuple[int, ...]  # channel i+1 is object_ids[i]
    measured: Tensor | None = None  # (N,) confidence in each object, 0..1; None: a mask that was given or stored
    cut: bool = False  # whether a new scene begins here

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
        ids = np.array((0, *self.object_ids), dtype=np.uint8 if max(self.object_ids) < 256 else np.uint16)
        return ids[self.prob.max(0).indices.to(torch.int16).cpu().numpy()]  # many times faster than argmax


@dataclass(frozen=True)
class Geometry:
    """How a source frame fits into the network: shrunk to a working size, then padded to the stride."""

    source: tuple[int, int]  # H, W
    inner: tuple[int, int]
    pad: tuple[int, int, int, int]  # left, right, top, bottom

    @classmethod
    def fit(cls, height: int, width: int, size: int, *, zoom: float = 1.0) -> "Geometry":
        """Shrink so that the shorter side is `size` (0 = as it is, never enlarged), zoom; pad equally on both sides."""
        scale = zoom * (min(1.0, size / min(height, width)) if size else 1.0)
        inner = (max(1, round(height * scale)), max(1, round(width * scale)))
        rows, columns = (-side % STRIDE for side in inner)
        return cls((height, width), inner, (columns // 2, columns - columns // 2, rows // 2, rows - rows // 2))

    def enter(self, x: Tensor) -> Tensor:
        """(B, C, H, W) at source size -> padded working size."""
        if self.inner != self.source:
            x = F.interpolate(x, size=self.inner, mode="bilinear", antialias=True, align_corners=False)
        return F.pad(x, self.pad)

    def crop(self, x: Tensor) -> Tensor:
        """(B, C, h, w) at padded working size -> working size."""
        left, _, top, _ = self.pad
        height, width = self.inner
        return x[:, :, top : top + height, left : left + width]

    def leave(self, x: Tensor) -> Tensor:
        """(B, C, h, w) at working size -> source size."""
        if self.inner == self.source:
            return x
        return F.interpolate(x, size=self.source, mode="bilinear", align_corners=False)


class Follower(Protocol):
    """What follows the objects of one clip, frame by frame."""

    @property
    def model(self) -> STM:
        """The network."""

    def step(self, rgb: np.ndarray, labels: np.ndarray | None = None) -> Prediction:
        """Segment the next frame: rgb (H, W, 3) uint8, for the first one also labels (H, W)."""


class Segmenter:
    """Follow the objects of one clip, frame by frame.

    The first step takes the labels that the user gave; every later one only a frame. What a frame leaves in memory
    is computed when the next frame comes, so the last frame of a clip costs no memory encoder.
    """

    def __init__(
        self,
        model: STM,
        *,
        memory: MemoryOptions | None = None,
        size: int = 0,
        top_k: int = 0,
        reach: float = 0.0,
        zoom: float = 1.0,
    ) -> None:
        self.model = model
        self.size = size  # shorter side inside the network, px; 0 = the source's
        self.zoom = zoom  # of that size
        self.top_k = top_k  # memory cells that a cell reads; 0 = all
        self.reach = reach  # how far from its own place a cell reads, in cells; 0 = anywhere
        self.bank = MemoryBank(memory or MemoryOptions())
        self.gate = Gate(self.bank.options.gate)
        self.object_ids: tuple[int, ...] = ()
        self._weight = next(model.parameters())  # tells device and precision
        self._geometry: Geometry | None = None
        self._pending: tuple[Tensor, Tensor, Tensor] | None = None  # frame, masks, confidence; to be remembered
        self._age = 0
        self.gauge = Gauge()
        self.cuts = CutDetector()

    @torch.inference_mode()
    def step(self, rgb: np.ndarray, labels: np.ndarray | None = None) -> Prediction:
        """Segment the next frame: rgb (H, W, 3) uint8, for the first one also labels (H, W).

        Raises ValueError when the first frame comes without labels, or a frame or the labels have another size.
        """
        if labels is not None and labels.shape != rgb.shape[:2]:
            raise ValueError(f"the labels are {labels.shape} but the frame is {rgb.shape[:2]}")
        cut = self.cuts.is_cut(rgb)
        if labels is not None:
            return self._begin(rgb, labels)
        if self._geometry is None or rgb.shape[:2] != self._geometry.source:
            raise ValueError("the first frame needs labels, and all frames have its size")
        if cut:
            self._pending = None  # what the frame before shows says nothing about another scene
        self._remember()
        frame = self._upload(rgb)
        read = self.bank.read(given_only=cut)
        logits, query = self.model.segment(frame, *read, top_k=self.top_k, reach=self.reach)
        prob = torch.softmax(self._geometry.crop(logits), dim=1)  # (1, N+1, h, w)
        self._age += 1
        masks = F.pad(prob[:, 1:], self._geometry.pad)  # no object in the padding
        measured = self.gauge.measure(masks, query)
        self._pending = frame, masks, measured
        return Prediction(self._geometry.leave(prob)[0], self.object_ids, measured, cut)

    def revise(self, prediction: Prediction) -> None:
        """Remember another prediction of the latest frame than its own; labels that were given stay as they are."""
        if self._pending is None or self._geometry is None or prediction.measured is None:
            return
        places = [1 + prediction.object_ids.index(number) for number in self.object_ids]
        masks = self._geometry.enter(prediction.prob[None, places])
        self._pending = self._pending[0], masks, prediction.measured

    def _begin(self, rgb: np.ndarray, labels: np.ndarray) -> Prediction:
        self.object_ids = object_ids(labels)
        self.gauge.begin()
        self._geometry = Geometry.fit(rgb.shape[0], rgb.shape[1], self.size, zoom=self.zoom)
        ids = torch.tensor((0, *self.object_ids)).view(-1, 1, 1)
        truth = (torch.from_numpy(labels.astype(np.int64)) == ids).to(self._weight.device, torch.float32)
        truth[0] = 1 - truth[1:].sum(0)  # void is background
        masks = self._geometry.enter(truth[None, 1:])  # (1, N, H, W)
        self.bank.pin(*self.gate.trust(*self.model.memorize(self._upload(rgb), masks.to(self._weight.dtype))))
        return Prediction(truth, self.object_ids)

    def _remember(self) -> None:
        """Put the frame before into memory, if the policy wants to read it."""
        if self._pending is None or not self.bank.wants(age=self._age):
            return
        frame, masks, confidence = self._pending
        memory = self.model.memorize(frame, masks.to(frame.dtype))
        self.bank.write(*self.gate.admit(*memory, confidence), age=self._age)

    def _upload(self, rgb: np.ndarray) -> Tensor:
        """(H, W, 3) uint8 -> (1, 3, H, W) in [0, 1] on the model's device, padded; the only upload of a frame."""
        assert self._geometry is not None
        pixels = torch.from_numpy(np.require(rgb, requirements=("C", "W"))).to(self._weight.device)
        frame = pixels.permute(2, 0, 1)[None].float() / 255
        return self._geometry.enter(frame).to(self._weight.dtype, memory_format=torch.channels_last)


def propagate(segmenter: Follower, frames: Iterable[Frame], labels: np.ndarray) -> Iterator[tuple[Frame, Prediction]]:
    """Carry the labels (H, W) of the first frame through all frames; yields each frame with its prediction.

    A frame that could not be decoded repeats the prediction before it and is not remembered.
    """
    prediction: Prediction | None = None
    for frame in frames:
        if prediction is None:
            prediction = segmenter.step(frame.rgb, labels)
        elif not frame.corrupt:
            prediction = segmenter.step(frame.rgb)
        yield frame, prediction
