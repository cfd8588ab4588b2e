"""The MOTS format as CVAT imports it: a zip of pictures and 16-bit masks."""

import io
import os
import zipfile
import zlib
from contextlib import suppress

import numpy as np
import numpy.typing as npt
from PIL import Image

from stmcli.datasets.categories import UNNAMED
from stmcli.datasets.writer import DatasetWriter
from stmcli.errors import UsageError
from stmcli.files import NO_DATE
from stmcli.masks import VOID, Labels
from stmcli.video import Frame

PER_CATEGORY = 1000
IGNORED_CATEGORY = 10
IGNORED = IGNORED_CATEGORY * PER_CATEGORY
IGNORED_NAME = "ignored"


class MotsWriter(DatasetWriter):
    """Write `train/images/<frame>.jpg`, `train/instances/<frame>.png` and `train/instances/labels.txt` into a zip.

    A pixel of a mask is 1000 x category + object id, 0 is background and 10000 what is to be ignored (void).
    The lines of labels.txt are the categories from 1.
    """

    file = "mots.zip"
    largest_id = PER_CATEGORY - 1

    def _begin(self) -> None:
        if len(self._categories) >= IGNORED_CATEGORY:
            cause = f"has room for {IGNORED_CATEGORY - 1} categories, {UNNAMED!r} included"
            raise UsageError(cause, path=self.path, hint="Name fewer, or leave this export out.")
        self._void = False
        self._zip = zipfile.ZipFile(self._part, "w")

    def _add(self, frame: Frame, labels: Labels, ids: tuple[int, ...]) -> None:
        name = self._frame_name(frame.index).encode("utf-8", "replace").decode()
        values = np.zeros(labels.shape, np.uint16)
        for number in ids:
            values[labels == number] = self._categories[number] * PER_CATEGORY + number
        void = labels == VOID
        values[void] = IGNORED
        self._void |= bool(void.any())
        self._store(f"images/{name}.jpg", self._pictures.jpeg(frame))
        self._store(f"instances/{name}.png", _png(values))

    def _finish(self) -> None:
        names = list(self._categories.numbered().values())
        self.notes += self._categories.notes()
        if self._void:
            names.append(IGNORED_NAME)
            self.notes.append(f"void is value {IGNORED} in {self.path.name}, and the label {IGNORED_NAME!r}")
        self._store("instances/labels.txt", "".join(f"{name}\n" for name in names).encode())
        self._zip.close()
        os.replace(self._part, self.path)

    def _store(self, name: str, content: bytes) -> None:
        self._zip.writestr(zipfile.ZipInfo(f"train/{name}", NO_DATE), content)

    def _discard(self) -> None:
        with suppress(OSError, ValueError):  # a full disk
            self._zip.close()
        with suppress(OSError):
            self._part.unlink()


def _png(values: npt.NDArray[np.uint16]) -> bytes:
    content = io.BytesIO()
    Image.fromarray(values).save(content, "PNG", compress_level=1, compress_type=zlib.Z_RLE)
    return content.getvalue()
