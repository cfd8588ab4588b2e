"""How much room on the disk the rest of a run needs, told when there is none left."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from stmcli.errors import NoRoomError


@contextmanager
def telling_room(folder: Path, done: Callable[[], float]) -> Iterator[None]:
    """Say in a NoRoomError how much is needed to end a run, by what it took in its `folder` until then.

    `done` is the share of its frames that are done, 0: unknown. What is unfinished has to be written again.
    """
    try:
        yield
    except NoRoomError as error:
        share = done()
        if not share:
            raise
        kept, unfinished = _taken(folder)
        needed = (kept + unfinished + error.size) / share - kept
        size = max(error.size, round(needed))
        path = error.path or folder
        raise NoRoomError(error.reason, path=path, hint=error.hint, size=size, free=error.free) from error


def _taken(folder: Path) -> tuple[int, int]:
    """Return the bytes of the files in a folder: of those that stay when a run ends now, and of the others."""
    sizes = {path: path.stat().st_size for path in folder.rglob("*") if path.is_file()}
    unfinished = [size for path, size in sizes.items() if ".part" in str(path.relative_to(folder))]
    return sum(sizes.values()) - sum(unfinished), sum(unfinished)
