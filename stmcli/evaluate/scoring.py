"""Score predicted masks frame by frame, by the rules of each benchmark."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from stmcli.errors import UsageError, counted, listed
from stmcli.evaluate.layout import (
    annotation_folders,
    by_frame,
    frame_key,
    mask_files,
    no_mask_for,
    predicted_folders,
    unlisted_note,
)
from stmcli.evaluate.scores import ObjectScores, Scores
from stmcli.evaluate.ytvos import META, NOT_PUBLIC, TRAINING_CATEGORIES, Wanted, read_meta
from stmcli.listeners import unheard
from stmcli.masks import VOID, Convention, Labels, check_fits, is_binary, object_ids, read_stored, read_values
from stmcli.metrics import Mask, boundary_f, jaccard
from stmcli.threads import ahead

BOTH_EMPTY = (1.0, 1.0)
NONE_AT_FIRST = "no object in the first frame, and davis2017 scores those that are there"
DENSE = ("davis2016", "davis2017")  # benchmarks with ground truth for every frame

FrameScores = Mapping[int, tuple[float, float]]  # object id -> (J, F); an absent object is not listed


@dataclass
class Truth:
    """The ground truth of one clip: its files, and how to read them."""

    folder: Path
    protocol: str
    files: list[Path] = field(init=False)

    def __post_init__(self) -> None:
        self.files = mask_files(self.folder)
        self._convention = Convention()
        with closing(ahead(read_stored(path, warn=unheard) for path in self.files)) as masks:
            for values, grey in masks:
                self._convention.learn(values, grey)
        self._height, self._width = read_values(self.files[0]).shape if self.files else (0, 0)

    @property
    def is_one(self) -> bool:
        """Tell whether it shows one object without an id."""
        return self._convention.is_one

    def read(self, path: Path) -> Labels:
        """Return the ids (H, W) of a frame, merged when the protocol says so. Raises MaskError."""
        values, grey = read_stored(path, warn=unheard)
        check_fits(values, path, self._width, self._height, str(self.files[0]))
        return _as_asked(self._convention.labels(values, grey, path=path, warn=unheard), self.protocol)

    def __iter__(self) -> Iterator[tuple[Path, Labels]]:
        for path in self.files:
            yield path, self.read(path)


def first_shown(folder: Path) -> Path:
    """Return the first mask of a clip's ground truth that shows an object, else the first. Raises MaskError."""
    first = next((path for path in mask_files(folder) if read_values(path).any()), None)
    if first and not is_binary(read_values(first)):
        return first  # it has ids: no other mask need be read
    truth = Truth(folder, "folder")
    return next((path for path, labels in truth if object_ids(labels)), truth.files[0])


def evaluate_folder(
    predictions: Path,
    truth: Path,
    *,
    protocol: str,
    only: Collection[str] = (),
    seen: frozenset[str] = TRAINING_CATEGORIES,
) -> Scores:
    """Score the masks under one folder against the ground truth under another.

    `predictions` holds `<clip>/*.png` or `<clip>/masks/*.png`, `truth` too, or is a DAVIS root. Protocols:
    `davis2016` merges the objects, `davis2017` scores the objects of the first frame, `folder` every object;
    these leave out the first and last frame. `ytvos` scores an object from the frame after its first one to
    the end, or what `meta.json` lists; `seen` are the categories that training has seen. Void pixels of the
    ground truth count for nothing. `only` names the clips that are wanted, where it is not all.

    Raises UsageError, MaskError.
    """
    annotations = annotation_folders(truth, protocol, only=only)
    found = predicted_folders(predictions, annotations)
    meta = read_meta(truth) if protocol == "ytvos" else {}
    notes = [] if only else unlisted_note(truth, protocol)
    sequences = {}
    for name, folder in annotations.items():
        sequences[name] = _score_clip(found[name], Truth(folder, protocol), meta.get(name), notes)
    scores = Scores(sequences, seen)
    split = scores.split()
    for kind, others in (("J_unseen", "seen"), ("J_seen", "not seen")):
        if split and split[kind] is None:
            notes.append(f"all objects are of categories that training has {others}")
    return replace(scores, notes=tuple(notes))


def read_prediction(path: Path, labels: Labels, truth_path: Path, truth: Truth) -> Labels:
    """Return the predicted ids (H, W) of a frame, 0 where the ground truth, `labels`, is void. Raises MaskError.

    Where the truth shows one object without an id, whatever id a prediction has alone is that object.
    """
    values = read_values(path)
    check_fits(values, path, labels.shape[1], labels.shape[0], str(truth_path))
    alone = is_binary(values) or (truth.is_one and len(object_ids(values)) == 1)
    predicted = _as_asked((values > 0).astype(np.uint8) if alone else values, truth.protocol)
    void = labels == VOID
    return np.where(void, 0, predicted) if void.any() else predicted


def _score_clip(
    prediction: Path, truth: Truth, wanted: Mapping[int, Wanted] | None, notes: list[str]
) -> dict[int, ObjectScores]:
    _check_files(truth)
    predicted = by_frame(mask_files(prediction))
    entered: dict[int, int] = {}  # object id -> its first frame
    found: set[int] = set()
    frames: list[FrameScores] = []
    missing: list[str] = []
    asked = _frames_of(wanted)
    with closing(ahead(truth)) as pairs:
        for path, labels in pairs:
            index = len(frames)
            is_scored = _is_scored(index, truth, entered) and (asked is None or path.stem in asked)
            entered |= {number: index for number in object_ids(labels) if number not in entered}
            other = predicted.get(frame_key(path.stem)) if is_scored else None
            missing += [path.stem] if is_scored and other is None and entered else []
            frames.append({} if other is None else _score_frame(labels, path, other, truth, found))
    if missing:
        raise no_mask_for(missing, prediction)
    objects = _collect(frames, truth, _scored_frames(truth, entered, wanted), wanted or {})
    if not objects:
        raise _nothing_to_score(truth, entered)
    if missed := sorted(objects.keys() - found):
        notes.append(f"{prediction}: {_named(missed)} in no scored mask, counted as missed")
    if more := sorted(found - entered.keys()):
        notes.append(f"{prediction}: {_named(more)} not in the ground truth, not counted")
    return objects


def _named(ids: Sequence[int]) -> str:
    return f"object{'s' * (len(ids) > 1)} {listed(ids, 6)}"


def _check_files(truth: Truth) -> None:
    count, least = len(truth.files), 2 if truth.protocol == "ytvos" else 3
    if count < least:
        left_out = "the given one is" if least == 2 else "the first and last are"
        cause = f"{counted(count, 'frame')} of ground truth, and {left_out} not scored"
        raise UsageError(cause, path=truth.folder, hint=f"At least {least} are needed")
    stems = [path.stem for path in truth.files]
    if truth.protocol in DENSE and all(stem.isdecimal() for stem in stems):
        numbers = [int(stem) for stem in stems]
        lacking = sorted({*range(numbers[0], numbers[-1] + 1)} - {*numbers})
        if lacking:
            names = [str(number).zfill(len(stems[0])) for number in lacking]
            cause = f"no ground truth for frame {listed(names, 1)}"
            raise UsageError(cause, path=truth.folder, hint="Complete it, or use --protocol folder")


def _frames_of(wanted: Mapping[int, Wanted] | None) -> set[str] | None:
    """Return the frames that `meta.json` wants scored; None: it does not say."""
    if wanted is None or not all(one.frames for one in wanted.values()):
        return None
    return {frame for one in wanted.values() for frame in one.frames[1:]}


def _is_scored(index: int, truth: Truth, entered: Mapping[int, int]) -> bool:
    return bool(entered) if truth.protocol == "ytvos" else 0 < index < len(truth.files) - 1


def _scored_frames(
    truth: Truth, entered: Mapping[int, int], wanted: Mapping[int, Wanted] | None
) -> dict[int, list[int]]:
    """Return the scored frames of every object that the protocol asks for."""
    last = len(truth.files)
    if truth.protocol != "ytvos":
        latest = 0 if truth.protocol == "davis2017" else last - 2  # the last frame is not scored
        asked = [number for number, first in entered.items() if first <= latest]
        return {number: [*range(1, last - 1)] for number in asked}
    if wanted is None:
        return {number: [*range(first + 1, last)] for number, first in entered.items()}
    places = {path.stem: index for index, path in enumerate(truth.files)}
    return {number: _listed_frames(truth, number, one, entered, places) for number, one in wanted.items()}


def _listed_frames(
    truth: Truth, number: int, one: Wanted, entered: Mapping[int, int], places: Mapping[str, int]
) -> list[int]:
    if number not in entered:
        cause = f"no object {number}, which {META} asks for"
        raise UsageError(cause, path=truth.folder, hint="Complete the dataset")
    if not one.frames:
        return [*range(entered[number] + 1, len(places))]
    missing = [frame for frame in one.frames if frame not in places]
    if missing:
        cause = f"no ground truth for frame {listed(missing, 1)}, which {META} asks for"
        raise UsageError(cause, path=truth.folder, hint=NOT_PUBLIC)
    return [places[frame] for frame in one.frames[1:]]


def _collect(
    frames: list[FrameScores], truth: Truth, scored: Mapping[int, list[int]], wanted: Mapping[int, Wanted]
) -> dict[int, ObjectScores]:
    objects = {}
    for number, places in sorted(scored.items()):
        values = np.array([frames[index].get(number, BOTH_EMPTY) for index in places])  # (T, 2)
        names = tuple(truth.files[index].stem for index in places)
        if places:
            category = wanted[number].category if number in wanted else ""
            objects[number] = ObjectScores(values[:, 0], values[:, 1], names, category)
    return objects


def _nothing_to_score(truth: Truth, entered: Mapping[int, int]) -> UsageError:
    if not entered:
        return UsageError("no object in the ground truth", path=truth.folder, hint="Object ids are 1 to 254")
    if truth.protocol == "davis2017":
        return UsageError(NONE_AT_FIRST, path=truth.folder, hint="Use --protocol folder, which scores every object")
    return UsageError("no object in a frame that is scored", path=truth.folder, hint="Leave this clip out")


def _score_frame(labels: Labels, path: Path, other: Path, truth: Truth, found: set[int]) -> FrameScores:
    """Score every object of a frame against its truth, `labels`, and note which ones are predicted."""
    predicted = read_prediction(other, labels, path, truth)
    there = object_ids(predicted)
    found.update(there)
    return {number: _score_object(labels == number, predicted == number) for number in {*object_ids(labels), *there}}


def _score_object(truth: Mask, prediction: Mask) -> tuple[float, float]:
    return float(jaccard(truth, prediction)), float(boundary_f(truth, prediction))


def _as_asked(labels: Labels, protocol: str) -> Labels:
    """Return ids, merged when the protocol says so; void stays."""
    return _merge(labels) if protocol == "davis2016" else labels


def _merge(labels: Labels) -> Labels:
    merged = (labels > 0).astype(np.uint8)
    merged[labels == VOID] = VOID
    return merged
