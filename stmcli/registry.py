"""Which weights there are by name: those that come with stm, and those in the user's cache.

A note beside each file holds its sha256 and its licence.
"""

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

from stmcli.errors import UsageError, WeightsError
from stmcli.files import nearest_name, refuse_url, require_file

BUNDLED = Path(__file__).resolve().parent / "bundled"


@dataclass(frozen=True)
class Entry:
    """One line of `stm weights list`."""

    name: str
    path: Path
    sha256: str
    licence: str
    origin: str
    suits: Mapping[str, Any] = field(default_factory=dict)  # of the card, found out after the file was written


def cache_folder() -> Path:
    """Return the user's folder for imported weights; it need not exist."""
    root = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(root) / "stm" / "weights"


def registered() -> dict[str, Entry]:
    """List the bundled and the imported weights by name; imported ones cannot hide bundled ones."""
    found = {}
    for folder in (cache_folder(), BUNDLED):
        for note in sorted(folder.glob("*.json")):
            path = note.with_suffix(".safetensors")
            try:
                facts = json.loads(note.read_text())
                known = facts["sha256"], facts["licence"], facts["origin"], dict(facts.get("suits", {}))
                found[note.stem] = Entry(note.stem, path, *known)
            except (OSError, ValueError, KeyError, TypeError, AttributeError):
                raise WeightsError("damaged note", path=note, hint="Remove it and import the weights again") from None
    return found


def find(name: str | Path) -> Path:
    """Return the file of a registered name or a path.

    Raises UsageError when there is neither.
    """
    entry = registered().get(str(name))
    path = entry.path if entry else Path(name)
    refuse_url(path)
    if not path.exists():
        near = f"{nearest_name(path)} " if path.suffix else ""
        names = ", ".join(sorted(registered())) or "none"
        raise UsageError("no such weights", path=path, hint=f"{near}Give a file or one of: {names}")
    require_file(path, hint="Give a weights file")
    return path


def found_from(folder: Path, name: str) -> str:
    """Return what names the same weights wherever one is: a name as it is, a path taken from `folder`."""
    return name if name in registered() else str(folder / name)


def sha256(path: Path) -> str:
    """Return the hash of a file in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def digest(path: Path) -> str:
    """Return the hash of a file; it is read once for as long as its size and its times stay what they are."""
    facts = path.stat()
    return _digest(path.absolute(), facts.st_dev, facts.st_ino, facts.st_size, facts.st_mtime_ns, facts.st_ctime_ns)


@lru_cache(maxsize=16)
def _digest(path: Path, *_: int) -> str:
    return sha256(path)


def verify(entry: Entry) -> None:
    """Raise WeightsError when a registered file is not the one that was registered."""
    if not entry.path.is_file():
        raise WeightsError("the file is gone", path=entry.path, hint="Import it again")
    if sha256(entry.path) != entry.sha256:
        raise WeightsError("sha256 mismatch, the file is damaged", path=entry.path, hint="Install or import it again")
