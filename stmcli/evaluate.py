"""Predicted masks against ground truth: J, F and J&F of every object of every clip."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from stmcli.errors import UsageError
from stmcli.masks import VOID, Labels, check_fits, is_binary, object_ids, read_values
from stmcli.metrics import Mask, Values, boundary_f, jaccard, statistics
from stmcli.options import PROTOCOLS

RESOLUTIONS = ("480p", "Full-Resolution")
CLIP_LISTS = {"davis2016": "2016", "davis2017": "2017"}
BOTH_EMPTY = (1.0, 1.0)

FrameScores = Mapping[int, tuple[float, float]]  # object id -> (J, F); an absent object is not listed


@dataclass(frozen=True)
class Sequence:
    """Where the frames and the ground truth of one clip of a dataset are."""

    name: str
    frames: Path
    annotations: Path


@dataclass(frozen=True)
class ObjectScores:
    """J and F of one object in every scored frame, (T,) in [0, 1]."""

    j: Values
    f: Values

    def as_json(self) -> dict[str, Any]:
        """Return means, recalls, decays and the values per frame."""
        measures = {"J": self.j, "F": self.f}
        summary = {
            f"{letter}_{name}": value
            for letter, values in measures.items()
            for name, value in statistics(values)._asdict().items()
        }
        return summary | {f"{letter}_per_frame": values.tolist() for letter, values in measures.items()}


@dataclass(frozen=True)
class Scores:
    """The scores of a set of clips: clip name -> object id -> scores. Every object counts the same."""

    sequences: Mapping[str, Mapping[int, ObjectScores]]

    @property
    def j_mean(self) -> float:
        """Mean region similarity over all objects."""
        return float(np.mean([scores.j.mean() for scores in self._objects()]))

    @property
    def f_mean(self) -> float:
        """Mean contour accuracy over all objects."""
        return float(np.mean([scores.f.mean() for scores in self._objects()]))

    def as_json(self) -> dict[str, Any]:
        """Return the object that `stm evaluate --json` prints, fractions from 0 to 1."""
        sequences = {
            clip: {str(number): scores.as_json() for number, scores in objects.items()}
            for clip, objects in self.sequences.items()
        }
        j, f = self.j_mean, self.f_mean
        return {"J&F_mean": (j + f) / 2, "J_mean": j, "F_mean": f, "sequences": sequences}

    def _objects(self) -> list[ObjectScores]:
        return [scores for objects in self.sequences.values() for scores in objects.values()]


def evaluate_folder(predictions: Path, truth: Path, *, protocol: str) -> Scores:
    """Score the masks under one folder against the ground truth under another.

    `predictions` holds `<clip>/*.png` or `<clip>/masks/*.png`, `truth` too, or is a DAVIS root. Protocols:
    `davis2016` merges the objects, `davis2017` scores the objects of the first frame, `folder` every object;
    these leave out the first and last frame. `ytvos` scores an object from the frame after its first one to
    the end. Void pixels of the ground truth count for nothing. Raises UsageError, MaskError.
    """
    _require_folder(predictions)
    annotations = _annotation_folders(truth, protocol)
    found = {name: _mask_folder(predictions / name) for name in annotations}
    missing = [name for name, folder in found.items() if not folder.is_dir()]
    if missing:
        cause = f"no masks for {_first_of(missing, 'clip')}"
        raise UsageError(cause, path=predictions, hint="It must hold <clip>/*.png or <clip>/masks/*.png")
    return Scores({name: _score_clip(found[name], annotations[name], protocol) for name in annotations})


def list_sequences(dataset_root: Path, protocol: str) -> list[Sequence]:
    """List the clips of a dataset in the DAVIS or YouTube-VOS layout, with their frames and ground truth.

    Raises UsageError when the frames or the ground truth of a listed clip are missing.
    """
    images = dataset_root / "JPEGImages" / _resolution(dataset_root)
    clips = [
        Sequence(name, images / name, annotations)
        for name, annotations in _annotation_folders(dataset_root, protocol).items()
    ]
    missing = [clip.name for clip in clips if not clip.frames.is_dir()]
    if missing:
        raise UsageError(f"no frames for {_first_of(missing, 'clip')}", path=images, hint="Give the dataset's root")
    return clips


def _annotation_folders(root: Path, protocol: str) -> dict[str, Path]:
    if protocol not in PROTOCOLS:
        raise UsageError(f"no protocol {protocol!r}", hint=f"The protocols are {', '.join(PROTOCOLS)}")
    _require_folder(root)
    base = root / "Annotations" / _resolution(root) if (root / "Annotations").is_dir() else root
    names = _listed_clips(root, protocol) or sorted(
        folder.name for folder in base.iterdir() if folder.is_dir() and _mask_files(_mask_folder(folder))
    )
    if not names:
        raise UsageError("no ground truth here", path=root, hint="It must hold <clip>/*.png")
    folders = {name: _mask_folder(base / name) for name in names}
    missing = [name for name, folder in folders.items() if not folder.is_dir()]
    if missing:
        raise UsageError(f"no ground truth for {_first_of(missing, 'clip')}", path=base, hint="Complete the dataset")
    return folders


def _resolution(root: Path) -> str:
    return next((name for name in RESOLUTIONS if (root / "Annotations" / name).is_dir()), "")


def _listed_clips(root: Path, protocol: str) -> list[str]:
    path = root / "ImageSets" / CLIP_LISTS.get(protocol, "") / "val.txt"
    if protocol not in CLIP_LISTS or not path.is_file():
        return []
    names = path.read_text(encoding="utf-8", errors="replace").split()
    outside = [name for name in names if name == ".." or Path(name).name != name]
    if outside:
        raise UsageError(f"{outside[0]!r} is not the name of a clip", path=path, hint="One name in each line")
    return names


def _require_folder(path: Path) -> None:
    if not path.is_dir():
        cause = "not a folder" if path.exists() else "no such folder"
        raise UsageError(cause, path=path, hint="Give a folder of clips")


def _mask_folder(clip: Path) -> Path:
    return clip / "masks" if (clip / "masks").is_dir() else clip


def _mask_files(folder: Path) -> list[Path]:
    return sorted((path for path in folder.glob("*.png") if path.name[0] != "."), key=_natural_order)


def _natural_order(path: Path) -> list[tuple[int, str]]:
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"(\d+)", path.stem)]


def _score_clip(prediction: Path, truth: Path, protocol: str) -> dict[int, ObjectScores]:
    files = _mask_files(truth)
    if len(files) < 3:
        cause = f"{len(files)} frames of ground truth, and the first and last are not scored"
        raise UsageError(cause, path=truth, hint="At least 3 are needed")
    stop = len(files) if protocol == "ytvos" else len(files) - 1
    predicted = _match(prediction, files[1:stop])
    seen: dict[int, int] = {}  # object id -> its first frame
    frames: list[FrameScores] = []
    for path, labels in zip(files, _read_truth(files), strict=True):
        wanted = _merge(labels) if protocol == "davis2016" else labels
        for number in object_ids(wanted):
            seen.setdefault(number, len(frames))
        frames.append(_score_frame(wanted, path, predicted[path], protocol) if path in predicted else {})
    objects = _collect(frames[:stop], _first_scored(seen, protocol))
    if not objects:
        raise UsageError("no object in the ground truth", path=truth, hint="Object ids are 1 to 254")
    return objects


def _first_scored(seen: Mapping[int, int], protocol: str) -> dict[int, int]:
    """Return the first scored frame of every object that the protocol asks for."""
    if protocol == "ytvos":
        return {number: first + 1 for number, first in seen.items()}
    return {number: 1 for number, first in seen.items() if protocol != "davis2017" or first == 0}


def _collect(frames: list[FrameScores], first_scored: Mapping[int, int]) -> dict[int, ObjectScores]:
    objects = {}
    for number, first in sorted(first_scored.items()):
        values = np.array([scores.get(number, BOTH_EMPTY) for scores in frames[first:]])  # (T, 2)
        if len(values):
            objects[number] = ObjectScores(values[:, 0], values[:, 1])
    return objects


def _score_frame(truth: Labels, path: Path, predicted: Path, protocol: str) -> FrameScores:
    values = read_values(predicted)
    check_fits(values, predicted, truth.shape[1], truth.shape[0], str(path))
    labels = _as_ids(values, binary=is_binary(values))
    if protocol == "davis2016":
        labels = _merge(labels)
    labels = np.where(truth == VOID, 0, labels)
    numbers = {*object_ids(truth), *object_ids(labels)}
    return {number: _score_object(truth == number, labels == number) for number in numbers}


def _score_object(truth: Mask, prediction: Mask) -> tuple[float, float]:
    return float(jaccard(truth, prediction)), float(boundary_f(truth, prediction))


def _match(prediction: Path, truths: list[Path]) -> dict[Path, Path]:
    """Find the predicted file of every frame; `7.png` and `00007.png` are the same frame."""
    by_name = {path.stem.lstrip("0"): path for path in _mask_files(prediction)}
    missing = [path.stem for path in truths if path.stem.lstrip("0") not in by_name]
    if missing:
        cause = f"no mask for {_first_of(missing, 'frame')}"
        raise UsageError(cause, path=prediction, hint="Segment the whole clip")
    return {path: by_name[path.stem.lstrip("0")] for path in truths}


def _first_of(names: list[str], kind: str) -> str:
    return f"{kind} {names[0]}" + (f" and {len(names) - 1} more" if len(names) > 1 else "")


def _read_truth(files: list[Path]) -> Iterator[Labels]:
    """Yield the ids (H, W) of every frame of the ground truth of a clip."""
    first = next((values for values in map(read_values, files) if values.any()), None)
    binary = first is not None and is_binary(first)  # else 255 is void
    height, width = read_values(files[0]).shape
    for path in files:
        values = read_values(path)
        check_fits(values, path, width, height, str(files[0]))
        yield _as_ids(values, binary=binary)


def _as_ids(values: Labels, *, binary: bool) -> Labels:
    return (values > 0).astype(np.uint8) if binary else values


def _merge(labels: Labels) -> Labels:
    return np.where(labels == VOID, VOID, labels > 0).astype(np.uint8)
