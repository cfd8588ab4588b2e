"""Files that appear under their name only when they are complete, and names of files that are not there."""

import difflib
import errno
import os
import re
import shutil
import stat
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from stmcli.errors import NoRoomError, UsageError, WriteError

_FREE = "Free some, then run the same command again to go on."
NO_ROOM = {  # what to say, and what to do
    errno.ENOSPC: ("the disk is full", _FREE),
    errno.EDQUOT: ("the quota is used up", _FREE),
    errno.EFBIG: ("no file may be so large here", "Raise that limit (ulimit -f), or choose another disk."),
}
_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:/")

NO_DATE = (1980, 1, 1, 0, 0, 0)  # of what is in a zip, so that the same content makes the same file
LONGEST_NAME, LONGEST_PATH = 255, 4096  # bytes


def write_whole(path: Path, content: bytes) -> None:
    """Write a file under a temporary name in the same folder, then rename it.

    What was there before is untouched until then. Raises WriteError.
    """
    with whole(path, size=len(content)) as part:
        part.write_bytes(content)


@contextmanager
def whole(path: Path, *, size: int = 0) -> Iterator[Path]:
    """Give the temporary name to write to; the file gets its own when the block ends without an error.

    `size` is how many bytes it will have, 0: unknown. Raises WriteError.
    """
    part = part_of(path)
    try:
        with writing(path, size=size):
            yield part
            os.replace(part, path)
    finally:
        with suppress(OSError):
            part.unlink()


def part_of(path: Path) -> Path:
    """Return the name that a file or folder has while it is unfinished."""
    return path.with_name(f".{path.name}.part")


@contextmanager
def writing(path: Path, *, size: int = 0) -> Iterator[None]:
    """Turn what the system says in the block into a WriteError that names `path`."""
    try:
        yield
    except OSError as error:
        if error.errno in NO_ROOM:
            raise no_room(path, error.errno, size=size) from error
        cause = f"cannot be written ({error.strerror or error})"
        hint = "Choose another output folder, or put this right and run the same command again."
        raise WriteError(cause, path=path, hint=hint) from error


def no_room(path: Path, number: int, *, size: int) -> NoRoomError:
    """Return what to say when the system ended the writing of a file of `size` bytes with the error `number`."""
    free = shutil.disk_usage(nearest_existing(path.parent)).free
    cause, hint = NO_ROOM[number]
    return NoRoomError(cause, path=path, hint=hint, size=size, free=free)


def nearest_existing(path: Path) -> Path:
    """Return the path, or the innermost folder above it that is there."""
    return next(place for place in (path, *path.absolute().parents) if place.exists())


def can_be(path: Path | str) -> bool:
    """Tell whether a file can have such a path: no zero byte, no half letter, nothing longer than systems allow."""
    try:
        whole = os.fsencode(path)
    except UnicodeError:
        return False
    return b"\0" not in whole and len(whole) < LONGEST_PATH and all(len(n) <= LONGEST_NAME for n in whole.split(b"/"))


def natural_key(name: str) -> tuple[tuple[int, int, str], ...]:
    """Return a sort key that puts ``frame2`` before ``frame10``."""
    parts = re.split(r"(\d+)", name)
    return tuple((0, int(p), p) if p.isdigit() and p.isascii() else (1, 0, p.casefold()) for p in parts)


def nearest_name(path: Path) -> str:
    """Return a hint that names the neighbour whose name is most like `path`, or what else to do."""
    try:
        names = [entry.name for entry in path.parent.iterdir()]
    except OSError:
        return f"The folder {path.parent} does not exist either."
    if path.is_symlink():
        return f"It is a link to {os.readlink(path)}, which does not exist."
    return nearest_of(path.name, names)


def nearest_of(name: str, names: Iterable[str]) -> str:
    """Return a hint that says which of the names is most like one that is not among them, or what else to do."""
    close = difflib.get_close_matches(name, [*names], n=1)
    return f"Did you mean {close[0]}?" if close else "Check the name."


def require_file(path: str | Path, *, hint: str, folders: bool = False) -> None:
    """Raise UsageError unless `path` is a regular file, or a folder where those are taken; `hint` says what to give.

    Anything else is never opened: a pipe has perhaps nobody at its other end, and a device no end.
    """
    kinds = "file or folder" if folders else "file"
    try:
        mode = Path(path).stat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        raise UsageError(f"no such {kinds}", path=path, hint=nearest_name(Path(path).absolute())) from None
    except (OSError, ValueError) as error:
        raise UsageError(f"cannot be opened ({error})", path=path, hint=hint) from error
    if not (stat.S_ISREG(mode) or (folders and stat.S_ISDIR(mode))):
        raise UsageError("not a regular file", path=path, hint=hint)


def refuse_url(path: str | Path) -> None:
    """Raise UsageError when `path` is a URL and not a file of that very name."""
    if _URL.match(str(path)) and not Path(path).exists():
        cause = "is a URL, and nothing is opened over the network"
        url = re.sub(":/+", "://", str(path), count=1)  # a Path keeps one slash of two
        raise UsageError(cause, path=url, hint="Download it first.")
