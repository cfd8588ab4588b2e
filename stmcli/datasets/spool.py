"""JSON that is too long for the memory: kept on disk until it can be written, and written bit by bit."""

import json
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any


class Spool:
    """Keep JSON values in a file without a name, which vanishes with the process."""

    def __init__(self, folder: Path) -> None:
        self._file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115  # closed by close()

    def put(self, value: Any) -> int:
        """Store a value and return where it is."""
        place = self._file.seek(0, 2)
        self._file.write(json.dumps(value).encode("ascii") + b"\n")
        return place

    def get(self, place: int) -> Any:
        """Return the value that is at `place`."""
        self._file.seek(place)
        return json.loads(self._file.readline())

    def close(self) -> None:
        """Give the disk space back."""
        with suppress(OSError):  # a full disk
            self._file.close()


def object_pieces(head: Mapping[str, Any], lists: Mapping[str, Iterable[Iterable[str]]]) -> Iterator[str]:
    """Yield the text of a JSON object: what is in `head`, then a list under every name in `lists`.

    An element of a list is the pieces of its text.
    """
    yield json.dumps(head)[:-1]
    for name, elements in lists.items():
        yield f", {json.dumps(name)}: ["
        for place, pieces in enumerate(elements):
            yield ",\n" if place else "\n"
            yield from pieces
        yield "]"
    yield "}"
