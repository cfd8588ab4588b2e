"""Turn predictions into files: every writer has write(frame, prediction), close() and abort()."""

from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt

from stmcli.errors import WriteError
from stmcli.masks import write_labels
from stmcli.render import matte, overlay
from stmcli.video import ALPHA_CODECS, H264, Codec, Frame, SourceInfo, VideoWriter


class Prediction(Protocol):
    """Hold the answer for one frame, at the source's size."""

    def labels(self) -> npt.NDArray[np.integer]:
        """Return (H, W) object ids, 0 is background."""

    def alpha(self) -> npt.NDArray[np.float32]:
        """Return (H, W) how much of each pixel belongs to any object, 0..1."""


class Writer(Protocol):
    """Take predictions in the order of their frames."""

    path: Path

    @property
    def notes(self) -> list[str]:
        """Return what was done differently than asked."""

    def write(self, frame: Frame, prediction: Prediction) -> None:
        """Append one frame."""

    def close(self) -> None:
        """Finish the file and give it its name."""

    def abort(self) -> None:
        """Remove what is unfinished."""


class MaskWriter:
    """Write one palette PNG per frame into `path`, 16-bit grey when an id is above 255.

    `frame_name` gives the stem of the file for a frame number. Masks are whole files at any moment, so
    abort() keeps them.
    """

    def __init__(self, folder: Path, frame_name: Callable[[int], str]) -> None:
        self.path = folder
        self.notes: list[str] = []
        self._frame_name = frame_name
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise WriteError(f"cannot be created ({error.strerror})", path=folder) from error

    def write(self, frame: Frame, prediction: Prediction) -> None:
        """Write the mask of one frame."""
        write_labels(self.path / f"{self._frame_name(frame.index)}.png", prediction.labels())

    def close(self) -> None:
        """Do nothing: every mask is finished when it is written."""

    def abort(self) -> None:
        """Do nothing: the masks written so far are good."""


class _Film:
    """Write one film of the clip described by `info`, beside its sound if `audio`."""

    def __init__(self, video: VideoWriter) -> None:
        self.path = video.path
        self._video = video

    @property
    def notes(self) -> list[str]:
        """Return what was done differently than asked."""
        return self._video.notes

    def close(self) -> None:
        """Finish the file and give it its name."""
        self._video.close()

    def abort(self) -> None:
        """Remove what is unfinished."""
        self._video.abort()


class OverlayWriter(_Film):
    """Write the clip with its objects tinted and outlined, as H.264 that every player shows."""

    def __init__(
        self, path: Path, info: SourceInfo, *, audio: bool = True, opacity: float = 0.5, contour: bool = True
    ) -> None:
        super().__init__(open_film(path, info, codec=H264, audio=audio))
        self._opacity, self._contour = opacity, contour

    def write(self, frame: Frame, prediction: Prediction) -> None:
        """Append one frame."""
        drawn = overlay(frame.rgb, prediction.labels(), opacity=self._opacity, contour=self._contour)
        self._video.write(drawn, frame.time)


class AlphaWriter(_Film):
    """Write the clip with its objects opaque and the rest transparent, as ProRes 4444, straight alpha."""

    def __init__(self, path: Path, info: SourceInfo, *, audio: bool = True) -> None:
        super().__init__(open_film(path, info, codec=ALPHA_CODECS["prores4444"], audio=audio))

    def write(self, frame: Frame, prediction: Prediction) -> None:
        """Append one frame: the source's colours and the prediction's alpha."""
        alpha = matte(prediction.alpha())[:, :, :1]  # (H, W, 1)
        self._video.write(np.concatenate((frame.rgb, alpha), axis=2), frame.time)


class MatteWriter(_Film):
    """Write the alpha of the clip as a grey film, white is object."""

    def __init__(self, path: Path, info: SourceInfo, *, audio: bool = False) -> None:
        super().__init__(open_film(path, info, codec=H264, audio=audio))

    def write(self, frame: Frame, prediction: Prediction) -> None:
        """Append one frame."""
        self._video.write(matte(prediction.alpha()), frame.time)


def open_film(path: Path, info: SourceInfo, *, codec: Codec, audio: bool) -> VideoWriter:
    """Open a film with the size, times, pixel shape and sound of the clip described by `info`."""
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
    )
