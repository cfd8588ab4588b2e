"""Films of a clip: the times, the sound and the shape of the source, with other pictures."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import asdict
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from stmcli.masks import VOID
from stmcli.options import ExportOptions
from stmcli.outputs.writer import Prediction, SoftPrediction
from stmcli.render import RGB, levels, matte, over, overlay
from stmcli.video import ALPHA_CODECS, H264, Codec, Frame, SourceInfo, VideoWriter, advance_timecode


class Film(ABC):
    """Write one film of the clip described by `info`, beside its sound if `audio`."""

    def __init__(self, path: Path, info: SourceInfo, codec: Codec = H264, *, audio: bool = True) -> None:
        self.path = path
        self._video = open_film(path, info, codec, audio=audio)

    @property
    def notes(self) -> list[str]:
        """Return what was done differently than asked."""
        return self._video.notes

    @property
    def facts(self) -> Mapping[str, Any]:
        """Return what was found in the finished film."""
        facts = self._video.facts
        if facts is None:
            return {}
        return {"encoder": self._video.codec.encoder, **{name: _plain(value) for name, value in asdict(facts).items()}}

    def write(self, frame: Frame, prediction: SoftPrediction) -> None:
        """Append one frame."""
        self._video.write(self._draw(frame, prediction), frame.time)

    def keep(self, frame: Frame, prediction: SoftPrediction) -> None:
        """Append a frame that an earlier run has done: a film cannot go on in the middle."""
        self.write(frame, prediction)

    def close(self) -> None:
        """Finish the file, check it, and give it its name."""
        self._video.close()

    def abort(self) -> None:
        """Remove what is unfinished."""
        self._video.abort()

    @abstractmethod
    def _draw(self, frame: Frame, prediction: SoftPrediction, /) -> RGB: ...


class OverlayWriter(Film):
    """Write the clip with its objects tinted and outlined, as H.264 that every player shows."""

    def __init__(
        self,
        path: Path,
        info: SourceInfo,
        codec: Codec = H264,
        *,
        audio: bool = True,
        opacity: float = ExportOptions.opacity,
        contour: bool = ExportOptions.contour,
    ) -> None:
        super().__init__(path, info, codec, audio=audio)
        self._opacity, self._contour = opacity, contour

    def write(self, frame: Frame, prediction: Prediction) -> None:
        """Append one frame."""
        super().write(frame, prediction)  # type: ignore[arg-type]  # hard masks are enough

    def _draw(self, frame: Frame, prediction: Prediction) -> RGB:
        labels = prediction.labels()
        ids = np.where(labels == VOID, 0, labels)  # which masks of other programs may hold
        return overlay(frame.rgb, ids, opacity=self._opacity, contour=self._contour)


class AlphaWriter(Film):
    """Write the clip with its objects opaque and the rest transparent: all objects, or the one given.

    Straight: the objects' own colours beside alpha. Premultiplied: colours times alpha.
    """

    def __init__(
        self,
        path: Path,
        info: SourceInfo,
        codec: Codec = ALPHA_CODECS[ExportOptions.alpha_codec],
        *,
        object_id: int | None = None,
        premultiplied: bool = False,
        audio: bool = True,
    ) -> None:
        super().__init__(path, info, codec, audio=audio)
        self._object, self._premultiplied = object_id, premultiplied

    def _draw(self, _: Frame, prediction: SoftPrediction) -> RGB:
        alpha = prediction.alpha(self._object)
        rgb = prediction.foreground(self._object)
        if self._premultiplied:
            rgb = over(rgb, alpha, (0, 0, 0))
        return np.dstack((rgb, levels(alpha)))  # (H, W, 4)


class MatteWriter(Film):
    """Write alpha as a grey film without sound, white is object."""

    def __init__(
        self,
        path: Path,
        info: SourceInfo,
        codec: Codec = H264,
        *,
        object_id: int | None = None,
    ) -> None:
        super().__init__(path, info, codec, audio=False)
        self._object = object_id

    def _draw(self, _: Frame, prediction: SoftPrediction) -> RGB:
        return matte(prediction.alpha(self._object))


class GreenWriter(Film):
    """Write the objects in front of one colour, RRGGBB."""

    def __init__(
        self,
        path: Path,
        info: SourceInfo,
        codec: Codec = H264,
        *,
        colour: str,
        object_id: int | None = None,
        audio: bool = True,
    ) -> None:
        super().__init__(path, info, codec, audio=audio)
        self._object = object_id
        red, green, blue = bytes.fromhex(colour)
        self._colour = red, green, blue

    def _draw(self, _: Frame, prediction: SoftPrediction) -> RGB:
        return over(prediction.foreground(self._object), prediction.alpha(self._object), self._colour)


def _timecode(info: SourceInfo) -> str | None:
    """Return the timecode of the first chosen frame."""
    later = info.first_chosen - info.first_number
    if info.timecode is None or not later:
        return info.timecode
    return advance_timecode(info.timecode, later, rate=info.rate)


def _plain(value: Any) -> Any:
    """Return a fact as JSON takes it."""
    return round(float(value), 6) if isinstance(value, Fraction) else value


def open_film(path: Path, info: SourceInfo, codec: Codec, *, audio: bool) -> VideoWriter:
    """Open a film with the size, times, pixel shape, timecode and sound of the clip described by `info`."""
    return VideoWriter(
        path,
        codec=codec,
        size=(info.width, info.height),
        rate=info.rate,
        time_base=info.time_base,
        audio_from=info.path if audio and info.audio else None,
        start=Fraction(info.start_time - info.shift),
        trim_audio=info.end is not None,
        aspect=info.aspect,
        timecode=_timecode(info),
    )
