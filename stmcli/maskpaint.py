"""Paint the mask of one frame of a clip, from nothing or from a mask that is there."""

import os
import re
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from stmcli.files import whole, writing
from stmcli.masks import Labels, object_ids, read_labels, read_values, write_labels
from stmcli.page import in_shell
from stmcli.painting import Frames, facts_of
from stmcli.video import open_source

WORDS = {
    "title": "stm mask paint",
    "as_it_was": "paint each object in its own colour, then save",
    "saved": "saved",
    "save": "save mask",
    "forget": "start again",
    "then": "Follow it through the clip:",
}


class NewMask:
    """The mask of one frame of a clip, in a file that may be there already."""

    def __init__(
        self,
        video: Path,
        path: Path,
        *,
        number: int | None = None,
        first_number: int | None = None,
        words: Sequence[str] = (),
    ) -> None:
        """Take frame `number`, the first by default, and the mask in `path` where there is one.

        `words` are what else a command about this clip needs. Raises UsageError, VideoError, and MaskError for one that
        is no mask of this clip.
        """
        self.path = path
        self._video, self._words = video, words
        with open_source(video, first_number=first_number, start=number, end=number, on_corrupt="skip") as source:
            info = source.info
            self.name, self.width, self.height = info.name, info.width, info.height
            self.number = info.first_chosen
            self._is_first = info.first_chosen == info.first_number
        self.frames = Frames(video, first_number=first_number)
        self.frames.picture(self.number)  # refuses a frame that is damaged
        self.labels(self.number)  # and what is no mask
        self._before = path.read_bytes() if path.exists() else None
        self._saving = threading.Lock()  # requests come in threads of their own

    def __contains__(self, number: int) -> bool:
        return number == self.number

    def facts(self) -> dict[str, Any]:
        """Return what the page needs to know."""
        objects = object_ids(self.labels(self.number)) or (1,)
        name = self.name if self._is_first else f"{self.name}, frame {self.number}"
        frame = {"frame": self.number, "confidence": 1, "cut": False, "corrected": False}
        return facts_of(self, words=WORDS, name=name, objects=objects, frames=[frame])

    def labels(self, number: int) -> Labels:  # noqa: ARG002
        """Return the mask as it is, (H, W). Raises MaskError."""
        size = self.width, self.height
        if not self.path.exists():
            return np.zeros(size[::-1], np.uint8)
        stored = read_values(self.path, size=size)
        return read_labels(self.path, size=size) if stored.any() else stored

    def save(self, number: int, labels: Labels) -> Path:  # noqa: ARG002
        """Write the mask, (H, W), and return its path. Raises WriteError."""
        with self._saving:
            write_labels(self.path, labels)
        return self.path

    def forget(self, number: int) -> None:  # noqa: ARG002
        """Leave the file as it was before. Raises WriteError."""
        with self._saving, writing(self.path):
            if self._before is None:
                self.path.unlink(missing_ok=True)
            else:
                with whole(self.path) as part:
                    part.write_bytes(self._before)

    def command(self) -> str:
        """Return the command that follows what is painted; empty while there is nothing."""
        if not object_ids(self.labels(self.number)):
            return ""
        mask = _word(self.path) if self._is_first else f"{self.number}:{_word(self.path)}"
        return in_shell(["stm", "segment", _word(self._video), "--mask", mask, *self._words])


def _word(path: Path) -> str:
    """Return a path as a word that is neither an option nor `FRAME:PATH`."""
    return os.path.join(".", path) if re.match("-|[0-9]+:", str(path)) else str(path)
