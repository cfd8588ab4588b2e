"""How datasets like DAVIS and YouTube-VOS are laid out: their folders, and the lists that name their clips."""

import re
from collections.abc import Collection
from pathlib import PurePosixPath

IMAGES, ANNOTATIONS = "JPEGImages", "Annotations"  # in both <clip>/<frame>, or <resolution>/<clip>/<frame>
RESOLUTIONS = ("480p", "Full-Resolution")  # preferred where there are several
LISTS = {"davis2017": ("2017",), "davis2016": ("2016", "480p")}  # the folder of lists: the first that is there
_VALIDATION = re.compile(r"ImageSets/([^/]+/)?val\.txt")


def list_place(folder: str, name: str) -> str:
    """Return where a list is in a dataset: `name` is `train` or `val`."""
    return f"ImageSets/{folder}/{name}.txt"


def is_validation(place: str) -> bool:
    """Tell whether a file of a dataset is a list of clips for validation, of whatever year."""
    return _VALIDATION.fullmatch(place) is not None


def read_list(content: bytes) -> list[str]:
    """Return the clips of a list, each once: a line names clips, or the images of one as in DAVIS-2016."""
    lines = [line.split() for line in content.decode(errors="replace").splitlines()]
    return [*dict.fromkeys(name for words in lines for name in _clips(words))]


def _clips(words: list[str]) -> list[str]:
    image = PurePosixPath(words[0] if words else "")
    return [image.parent.name] if image.suffix and len(image.parts) > 1 else words


def choose_resolution(found: Collection[str]) -> str:
    """Return which of several resolutions is taken; the empty name is that of clips without a folder for it."""
    return next((name for name in RESOLUTIONS if name in found), "") or min(found, default="")
