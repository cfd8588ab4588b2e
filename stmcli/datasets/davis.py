"""The folder layout of the DAVIS 2017 benchmark."""

import os
import re
import shutil
from pathlib import Path

from stmcli.datasets.writer import DatasetWriter
from stmcli.errors import ELSEWHERE, UsageError
from stmcli.layout import ANNOTATIONS, IMAGES, RESOLUTIONS, list_place
from stmcli.masks import Labels, encode_labels
from stmcli.video import Frame

MIN_DIGITS = 5


class DavisWriter(DatasetWriter):
    """Write frames, masks and the list of clips where the official loaders look for them.

    Frames are JPEG (a source of JPEG files is copied as it is), masks are palette PNG with the ids as they are
    and 255 for void. Numbers go up from 00000 without gaps, because loaders count instead of listing: a note
    says which frame of the source is which. The size stays the source's, even though the layout says 480p.
    """

    file = "davis"
    largest_id = 254

    def _begin(self) -> None:
        self._old = self.path.with_name(f".{self.path.name}.old")
        self._digits = max(MIN_DIGITS, len(str((self._info.frames or 1) - 1)))
        self._discard()  # what a killed run left
        try:
            for folder in (self._frames, self._masks, self._list.parent):
                (self._part / folder).mkdir(parents=True)
        except OSError:
            self._discard()
            raise

    def _add(self, frame: Frame, labels: Labels, ids: tuple[int, ...]) -> None:  # noqa: ARG002
        name = f"{self._count:0{self._digits}d}"
        if frame.index != self._count and not self.notes:
            source = self._frame_name(frame.index)
            self.notes.append(f"{self.path.name} counts its frames from 00000: {name} is {source} of {self._info.name}")
        (self._part / self._frames / f"{name}.jpg").write_bytes(self._pictures.jpeg(frame))
        (self._part / self._masks / f"{name}.png").write_bytes(encode_labels(labels))

    def _finish(self) -> None:
        (self._part / self._list).write_text(f"{self._clip}\n", encoding="utf-8", errors="surrogateescape")
        if self.path.exists():
            os.replace(self.path, self._old)
        os.replace(self._part, self.path)

    def _discard(self) -> None:
        shutil.rmtree(self._part, ignore_errors=True)
        if self._old.exists() and not self.path.exists():  # stopped between two names
            os.replace(self._old, self.path)
        shutil.rmtree(self._old, ignore_errors=True)

    @property
    def _clip(self) -> str:
        return re.sub(r"\s+", "_", self._info.name)  # lists of clips are split at spaces

    @property
    def _frames(self) -> Path:
        return Path(IMAGES, RESOLUTIONS[0], self._clip)

    @property
    def _masks(self) -> Path:
        return Path(ANNOTATIONS, RESOLUTIONS[0], self._clip)

    @property
    def _list(self) -> Path:
        return Path(list_place("2017", "val"))

    def _check_path(self) -> None:
        """Raise UsageError unless the folder may be replaced: a whole dataset of somebody else must not be lost."""
        if self.path.is_symlink() or (self.path.exists() and not self.path.is_dir()):
            raise UsageError("is not a folder", path=self.path, hint=ELSEWHERE)
        if self.path.resolve() in self._info.path.resolve().parents:
            raise UsageError("holds the source of this job", path=self.path, hint=ELSEWHERE)
        ours = (self.path / self._frames, self.path / self._masks)
        for file in self.path.rglob("*"):
            folder = file.is_dir() and not file.is_symlink()
            if not folder and file.parent not in ours and file != self.path / self._list:
                cause = f"holds more than the clip {self._clip}, such as {file.relative_to(self.path)}"
                raise UsageError(cause, path=self.path, hint=ELSEWHERE)
