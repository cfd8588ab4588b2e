"""The words of `--mask`: which files they name, and for which frames."""

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from stmcli.errors import UsageError
from stmcli.files import natural_key
from stmcli.video import Position, parse_position

_CLOCK = r"(?:[0-9]+:[0-5])?[0-9]+:[0-5][0-9](?:\.[0-9]*)?"
_OF_FRAME = re.compile(rf"({_CLOCK}|[0-9]*\.?[0-9]+s|[0-9]+):(.+)", re.DOTALL)
_OF_OBJECT = re.compile(r"(.+\.json)#([0-9]{1,18})", re.DOTALL | re.IGNORECASE)


@dataclass(frozen=True)
class MaskFile:
    """Where a mask is, and the number or time of its frame; None: the first frame, or as the name says in a folder.

    `object` is the only one wanted of a file of annotations.
    """

    path: Path
    frame: Position | None = None
    in_folder: bool = False
    object: int | None = None

    @property
    def word(self) -> Path:
        """Return the path as it is given, with the object."""
        return self.path if self.object is None else self.path.with_name(f"{self.path.name}#{self.object}")


def list_mask_files(masks: Sequence[str | Path]) -> list[MaskFile]:
    """Say which files the words of `--mask` name: a path, `FRAME:PATH`, or a folder of `<frame>.png`.

    FRAME is a number or a time, like `10s` or `1:30`; `#ID` behind a file of annotations names one object. A word
    that is itself the path of a file is that file. Nothing is read. Raises UsageError for a folder without masks.
    """
    return [file for word in masks for file in _listed(str(word))]


def mask_in(folder: Path, word: str | Path) -> str | Path:
    """Return the word of `--mask` with its path taken from `folder`, as if it had been given there."""
    text = str(word)
    parts = _OF_FRAME.fullmatch(text)
    if parts and not os.path.exists(folder / text):  # which may be too long for a path
        return f"{parts[1]}:{folder / parts[2]}"
    return folder / text


def _listed(word: str) -> list[MaskFile]:
    parts = _OF_FRAME.fullmatch(word)
    if parts and not os.path.exists(word):
        return [_file(parts[2], parse_position(parts[1]))]
    folder = Path(word)
    if not os.path.isdir(word):
        return [_file(word)]
    names = (name for name in os.listdir(folder) if name.lower().endswith(".png") and name[0] != ".")
    files = [MaskFile(folder / name, in_folder=True) for name in sorted(names, key=natural_key)]
    if not files:
        raise UsageError("no masks in this folder", path=folder, hint="It must hold <frame>.png")
    return files


def _file(word: str, frame: Position | None = None) -> MaskFile:
    parts = _OF_OBJECT.fullmatch(word)
    if parts and not os.path.exists(word):
        return MaskFile(Path(parts[1]), frame, object=int(parts[2]))
    return MaskFile(Path(word), frame)
