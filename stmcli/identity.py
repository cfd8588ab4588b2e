"""What makes a job this one and no other, and in what two of them differ."""

import hashlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from stmcli.flags import flag_of
from stmcli.options import GROUPS
from stmcli.results import source_files

WHOLE = 2**26  # bytes of a clip that are all looked at; of a larger one that many, in pieces spread over it
PIECE = 2**20


def clip_identity(video: Path) -> list[str]:
    """Tell a clip from others: what its results are called, and what is in it."""
    files = source_files(video)
    names = [Path(os.path.abspath(video)).name, *(file.name for file in files)]
    return [hashlib.sha256(repr(names).encode(errors="surrogateescape")).hexdigest(), content_of(files)]


def another_clip(report: Mapping[str, Any], video: Path) -> list[str]:
    """Say so when a clip is not the very one that the result of a report was made of."""
    clip = report.get("identity", {}).get("clip")
    other = clip and clip[1] != content_of(source_files(video))
    return [f"{video} is not the very file that was segmented"] if other else []


def fingerprint(identity: Mapping[str, Any], masks: Mapping[str, str]) -> str:
    """Return all that a result depends on, its masks too, as one word."""
    return hashlib.sha256(json.dumps([identity, masks], sort_keys=True).encode()).hexdigest()


def content_of(files: Sequence[Path]) -> str:
    """Tell what is in the files of a clip, whatever they are called.

    Of an image sequence above `WHOLE` bytes the dates count too: too little of each frame is looked at.
    """
    facts = [file.stat() for file in files]
    whole = sum(fact.st_size for fact in facts) <= WHOLE
    share = WHOLE // max(1, len(files))
    parts = hashlib.sha256()
    for file, fact in zip(files, facts, strict=True):
        parts.update(_sample(file, fact.st_size, fact.st_mtime_ns, fact.st_size if whole else share).encode())
        if not whole and len(files) > 1:
            parts.update(str(fact.st_mtime_ns).encode())
    return parts.hexdigest()


@lru_cache(maxsize=2**14)
def _sample(file: Path, size: int, _changed: int, most: int) -> str:
    """Return the digest of a file's size and of `most` of its bytes, spread over it."""
    found = hashlib.sha256(str(size).encode())
    with file.open("rb") as opened:
        for start, end in _pieces(size, most):
            opened.seek(start)
            found.update(opened.read(end - start))
    return found.hexdigest()


def _pieces(size: int, most: int) -> Iterator[tuple[int, int]]:
    """Yield where pieces of a file begin and end: all of it, or the beginning, the end, and some between."""
    if size <= most:
        yield from ((start, min(start + PIECE, size)) for start in range(0, size, PIECE))
        return
    piece = min(PIECE, max(1, most // 2))
    count = max(2, most // piece)
    yield from ((start, start + piece) for start in (place * (size - piece) // (count - 1) for place in range(count)))


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """Name what differs between the identities of two jobs, in the words of the command line."""
    if not old:
        return ["the stm that made it"]
    found = [name for name in ("clip", "weights") if old.get(name) != new.get(name)]
    for group in GROUPS:
        was, now = old.get(group, {}), new.get(group, {})
        names = (name for name in {**was, **now} if _plain(was.get(name)) != _plain(now.get(name)))
        found += [flag_of(group, name) for name in names]
    if old.get("version") != new.get("version"):
        found.append(f"stm {old.get('version', 'of before')}")
    return list(dict.fromkeys(found))


def _plain(value: Any) -> Any:
    """Return a value as JSON gives it back."""
    return [_plain(one) for one in value] if isinstance(value, (list, tuple)) else value
