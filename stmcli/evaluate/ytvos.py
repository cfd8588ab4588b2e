"""What YouTube-VOS asks for: the objects and frames that `meta.json` lists, and which categories are seen."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stmcli.errors import UsageError
from stmcli.layout import ANNOTATIONS

META = "meta.json"
NOT_PUBLIC = "Where the truth is not public, --submission writes the masks for the evaluation server"
# The 65 categories of the training set of YouTube-VOS. A category that is not among them is unseen, by definition.
_TRAINING = """
airplane ape bear bike bird boat bucket bus camel cat cow crocodile deer dog dolphin duck eagle earless_seal elephant
fish fox frisbee frog giant_panda giraffe hand hat hedgehog horse knife leopard lion lizard monkey motorbike mouse
others owl paddle parachute parrot penguin person plant rabbit raccoon sedan shark sheep sign skateboard snail snake
snowboard squirrel surfboard tennis_racket tiger toilet train truck turtle umbrella whale zebra
"""
TRAINING_CATEGORIES = frozenset(_TRAINING.split())


@dataclass(frozen=True)
class Wanted:
    """What is asked for of one object."""

    category: str  # empty: not named
    frames: tuple[str, ...]  # in order, the first is the given one; none: from its first frame to the end


def frame_order(name: str) -> tuple[int, str]:
    """Return a key that sorts names of frames by their numbers, with or without zeros in front."""
    return (int(name) if name.isascii() and name.isdecimal() else -1), name


def meta_file(root: Path) -> Path:
    """Return where `meta.json` is: in the dataset's root, which may be given by its folder `Annotations`."""
    return (root.parent if root.name == ANNOTATIONS else root) / META


def read_meta(root: Path) -> dict[str, dict[int, Wanted]]:
    """Return what `meta.json` asks for, by clip and object id; nothing when there is no such file.

    Raises UsageError.
    """
    path = meta_file(root)
    return _parse(path) if path.is_file() else {}


def read_seen(path: Path | None) -> frozenset[str]:
    """Return the categories that training has seen: of a training set's `meta.json`, or a list in a text file.

    Without a file those of YouTube-VOS. Raises UsageError.
    """
    if path is None:
        return TRAINING_CATEGORIES
    if not path.is_file():
        raise UsageError("no such file", path=path, hint="Give the training set's meta.json, or a list of categories")
    if path.suffix == ".json":
        names = {one.category for objects in _parse(path).values() for one in objects.values()} - {""}
    else:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
        names = {line.strip().replace(" ", "_") for line in lines} - {""}
    if not names:
        raise UsageError("names no category", path=path, hint="One in each line, or the training set's meta.json")
    return frozenset(names)


def _parse(path: Path) -> dict[str, dict[int, Wanted]]:
    try:
        clips = json.loads(path.read_text(encoding="utf-8"))["videos"]
        return {clip: {int(i): _wanted(one) for i, one in item["objects"].items()} for clip, item in clips.items()}
    except (OSError, ValueError, RecursionError, TypeError, KeyError, AttributeError):
        cause = "is not of the form {videos: {id: {objects: {id: {category, frames}}}}}"
        raise UsageError(cause, path=path, hint="Take it from the dataset") from None


def _wanted(one: dict[str, Any]) -> Wanted:
    frames = one.get("frames", [])
    if not isinstance(frames, list):
        raise TypeError
    return Wanted(
        str(one.get("category", "")).strip().replace(" ", "_"), tuple(sorted(map(str, frames), key=frame_order))
    )
