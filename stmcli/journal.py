"""What a batch keeps of its clips: `batch.jsonl`, a line for each that ended, and `summary.json`, the totals."""

import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

from stmcli.files import writing

JOURNAL, SUMMARY = "batch.jsonl", "summary.json"


class Journal:
    """A file of JSON lines that is only ever added to; the last line of a clip counts.

    Each line is written at once. A process that is killed, or a full disk, leaves at most one torn line, which is
    passed over.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def add(self, record: dict[str, Any]) -> None:
        """Add a line. Raises WriteError."""
        line = json.dumps(record).encode() + b"\n"
        with writing(self.path), self.path.open("ab+") as file:
            file.write(b"\n" + line if _is_torn(file) else line)

    def latest(self) -> "Latest":
        """Return the last line of every clip, by its name."""
        return Latest(self.path)


class Latest(Mapping[str, dict[str, Any]]):
    """The last line of every clip in a journal, read when it is asked for: of many clips only the places are kept."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._places = {record["clip"]: place for place, record in read_records(path)}

    def __getitem__(self, clip: str) -> dict[str, Any]:
        place = self._places[clip]
        with self._path.open("rb") as file:
            file.seek(place)
            return json.loads(file.readline())

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)


def read_records(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Read the lines of a journal that are whole, each with its place in bytes; none when there is no journal."""
    if not path.exists():
        return
    place = 0
    with path.open("rb") as file:
        for line in file:
            try:
                record = json.loads(line)
            except ValueError:  # torn
                record = None
            if isinstance(record, dict) and isinstance(record.get("clip"), str):
                yield place, record
            place += len(line)


def _is_torn(file: BinaryIO) -> bool:
    """Tell whether the last line was not written to its end."""
    if not file.seek(0, os.SEEK_END):
        return False
    file.seek(-1, os.SEEK_END)
    return file.read() != b"\n"
