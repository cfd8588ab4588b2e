"""Pick the few frames of a clip that its page shows while they pass, and keep them small."""

import base64
import io
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
import numpy.typing as npt
from PIL import Image

from stmcli.masks import Labels
from stmcli.render import overlay
from stmcli.report import NOWHERE, worst_of
from stmcli.video import Frame

THUMBNAILS = 48  # at most, in the strip
RARELY = 4  # frames from one that is kept for the strip to the next, before there are many: a count may be wrong
THUMBNAIL = 192  # px along the longer side
WORST = 8  # frames shown large, at most
LARGE = 960  # px along the longer side
APART = 5  # frames between two of the worst, at least; of long clips a fiftieth
QUALITY = 72  # of the JPEGs


class Prediction(Protocol):
    """Hold the answer for one frame."""

    @property
    def object_ids(self) -> tuple[int, ...]:
        """Return the id of each object."""

    def labels(self) -> Labels:
        """Return (H, W) object ids, 0 is background."""

    def confidence(self) -> tuple[float, ...]:
        """Return how far the mask of each object is to be trusted, 0..1."""


@dataclass(frozen=True)
class Picture:
    """One frame with its objects tinted, as a JPEG."""

    frame: int
    confidence: float  # of the worst object that it shows
    width: int
    height: int
    uri: str  # data:


@dataclass(frozen=True)
class _Kept:
    """What a picture is drawn from later: most are replaced before the end, and drawing takes longer."""

    frame: int
    confidence: float
    rgb: npt.NDArray[np.uint8]  # (h, w, 3)
    labels: Labels  # (h, w)

    def small(self, longest: int) -> "_Kept":
        """Return it with no more than so many pixels along the longer side."""
        if max(self.rgb.shape) <= longest:
            return self
        skip = max(1, max(self.rgb.shape) // (2 * longest))  # two pixels in each direction are averaged: more is slower
        image = Image.fromarray(np.ascontiguousarray(self.rgb[::skip, ::skip]))
        image = image.reduce(max(1, max(image.size) // longest))
        image.thumbnail((longest, longest), Image.Resampling.BILINEAR)
        rows = np.arange(image.height) * self.labels.shape[0] // image.height
        columns = np.arange(image.width) * self.labels.shape[1] // image.width
        return replace(self, rgb=np.array(image), labels=self.labels[rows][:, columns])

    def draw(self) -> Picture:
        image, content = Image.fromarray(overlay(self.rgb, self.labels)), io.BytesIO()
        image.save(content, "JPEG", quality=QUALITY)
        uri = "data:image/jpeg;base64," + base64.b64encode(content.getvalue()).decode()
        return Picture(self.frame, self.confidence, image.width, image.height, uri)


class Pictures:
    """Collect a strip of the whole clip and its worst frames; takes frames like a writer, in bounded memory."""

    def __init__(self, count: int | None = None) -> None:
        self._apart = max(APART, (count or 0) // 50)
        self._strip: list[Picture] = []  # small, and one in two of them stays
        self._every, self._seen = max(1, min(RARELY, -(-(count or 0) // THUMBNAILS))), 0
        self._worst: list[_Kept] = []  # in the order of their frames

    def write(self, frame: Frame, prediction: Prediction) -> None:
        """Look at one frame."""
        sure = dict(zip(prediction.object_ids, prediction.confidence(), strict=True))
        self.look(frame, prediction.labels, worst_of(sure, lambda number: np.any(prediction.labels() == number)))

    def look(self, frame: Frame, labels: Callable[[], Labels], sure: float) -> None:
        """Look at one frame with the confidence `sure`; its labels (H, W) are asked for when it may be shown."""
        if self._seen % self._every == 0:
            self._strip.append(_Kept(frame.index, sure, frame.rgb, labels()).small(THUMBNAIL).draw())
            if len(self._strip) == 2 * THUMBNAILS:
                self._strip, self._every = self._strip[::2], 2 * self._every
        self._seen += 1
        if not frame.corrupt:
            self._judge(frame, labels, sure)

    def keep(self, frame: Frame, prediction: Prediction) -> None:
        """Look at one frame that an earlier run has done."""
        self.write(frame, prediction)

    def strip(self) -> list[Picture]:
        """Return frames from the first to the last, evenly apart."""
        step = -(-len(self._strip) // THUMBNAILS)
        return self._strip[:: step or 1]

    def worst(self) -> list[Picture]:
        """Return the frames of lowest confidence, the lowest first, no two of them near each other."""
        return [kept.small(LARGE).draw() for kept in sorted(self._worst, key=lambda kept: kept.confidence)]

    def _judge(self, frame: Frame, labels: Callable[[], Labels], sure: float) -> None:
        near = [kept for kept in self._worst if abs(frame.index - kept.frame) < self._apart]
        full = len(self._worst) == WORST and not near
        rivals = near or (self._worst if full else [])
        if sure == NOWHERE or (near and sure >= min(kept.confidence for kept in near)):
            return
        if full and sure >= max(kept.confidence for kept in rivals):
            return
        gone = near or ([max(rivals, key=lambda kept: kept.confidence)] if full else [])
        stay = [kept.small(LARGE) for kept in self._worst if all(kept is not other for other in gone)]
        latest = _Kept(frame.index, sure, frame.rgb, labels())  # of full size until another comes, often in its place
        self._worst = [*stay, latest]
