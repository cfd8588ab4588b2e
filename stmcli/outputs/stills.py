"""Folders with one image for each frame."""

from abc import ABC, abstractmethod
from array import array
from collections.abc import Callable
from pathlib import Path

import numpy as np

from stmcli.errors import WriteError
from stmcli.masks import write_grey, write_labels
from stmcli.outputs.writer import Alpha, Prediction, SoftPrediction
from stmcli.video import Frame, write_rgba

FrameName = Callable[[int], str]


class _Stills(ABC):
    """Write one image for each frame into the folder `path`.

    `frame_name` gives the stem of the file for a frame number. Images are whole files at any moment, so
    abort() keeps them.
    """

    def __init__(self, folder: Path, frame_name: FrameName) -> None:
        self.path = folder
        self.notes: list[str] = []
        self.facts: dict[str, int] = {}
        self._frame_name = frame_name
        self._written = array("q")  # frame numbers
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise WriteError(f"cannot be created ({error.strerror})", path=folder) from error

    def write(self, frame: Frame, prediction: SoftPrediction) -> None:
        """Write the image of one frame."""
        self._write(self._file(frame.index), prediction)
        self._written.append(frame.index)

    def keep(self, frame: Frame, _: object) -> None:
        """Count the image of a frame that an earlier run has written."""
        self._written.append(frame.index)

    def close(self) -> None:
        """Check that every image is there."""
        for path in map(self._file, self._written):
            if not (path.is_file() and path.stat().st_size):
                raise WriteError("is not there any more", path=path, hint="Run it again.")
        self.facts = {"frames": len(self._written)}

    def abort(self) -> None:  # noqa: B027  (nothing to do is what it does)
        """Do nothing: the images written so far are good."""

    def _file(self, index: int) -> Path:
        return self.path / f"{self._frame_name(index)}.png"

    @abstractmethod
    def _write(self, path: Path, prediction: SoftPrediction) -> None: ...


class MaskWriter(_Stills):
    """Write palette PNGs of the objects' ids, 16-bit grey when an id is above 255."""

    def write(self, frame: Frame, prediction: Prediction) -> None:
        """Write the mask of one frame."""
        super().write(frame, prediction)  # type: ignore[arg-type]  # hard masks are enough

    def _write(self, path: Path, prediction: Prediction) -> None:
        write_labels(path, prediction.labels())


class SoftWriter(_Stills):
    """Write the network's probability of one object as grey PNGs of 8 or 16 bits, to make exports of later."""

    def __init__(self, folder: Path, frame_name: FrameName, *, object_id: int, bits: int) -> None:
        super().__init__(folder, frame_name)
        self._object, self._bits = object_id, bits

    def _write(self, path: Path, prediction: SoftPrediction) -> None:
        write_grey(path, _quantised(prediction.soft(self._object), self._bits))


class MattesWriter(_Stills):
    """Write grey PNGs of 8 or 16 bits: alpha, black outside the objects."""

    def __init__(self, folder: Path, frame_name: FrameName, *, object_id: int | None, bits: int) -> None:
        super().__init__(folder, frame_name)
        self._object, self._bits = object_id, bits

    def _write(self, path: Path, prediction: SoftPrediction) -> None:
        write_grey(path, _quantised(prediction.alpha(self._object), self._bits))


class CutoutWriter(_Stills):
    """Write RGBA PNGs of 8 or 16 bits a channel: the objects, everything else transparent."""

    def __init__(
        self, folder: Path, frame_name: FrameName, *, object_id: int | None, bits: int, premultiplied: bool
    ) -> None:
        super().__init__(folder, frame_name)
        self._object, self._bits, self._premultiplied = object_id, bits, premultiplied

    def _write(self, path: Path, prediction: SoftPrediction) -> None:
        alpha = prediction.alpha(self._object)[:, :, None]  # (H, W, 1)
        rgb = prediction.foreground(self._object).astype(np.float32) / 255
        rgba: Alpha = np.concatenate((rgb * alpha if self._premultiplied else rgb, alpha), axis=2)
        write_rgba(path, _quantised(rgba, self._bits))


def _quantised(x: Alpha, bits: int) -> np.ndarray:
    """Return values in 0..1 as whole numbers of 8 or 16 bits, same shape."""
    top = 2**bits - 1
    return np.rint(np.clip(x, 0, 1) * top).astype(np.uint8 if bits == 8 else np.uint16)
