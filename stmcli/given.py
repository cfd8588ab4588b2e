"""The masks that a person gives for a clip: which file belongs to which frame, all read and checked together."""

import hashlib
import os
import re
import warnings
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cache, cached_property
from itertools import dropwhile
from pathlib import Path

import numpy as np

from stmcli.annotations import is_annotations, load_annotations, read_annotated
from stmcli.errors import MaskError, UsageError, counted
from stmcli.files import natural_key
from stmcli.listeners import unheard
from stmcli.masks import (
    INVERTED_NOTE,
    Convention,
    Labels,
    Warn,
    check_fits,
    is_inverted,
    object_ids,
    read_stored,
    select_objects,
)
from stmcli.video import Position, Source, first_frame_from, frame_times, parse_position

_CLOCK = r"(?:[0-9]+:[0-5])?[0-9]+:[0-5][0-9](?:\.[0-9]*)?"
_OF_FRAME = re.compile(rf"({_CLOCK}|[0-9]*\.?[0-9]+s|[0-9]+):(.+)", re.DOTALL)
_OF_OBJECT = re.compile(r"(.+\.json)#([0-9]{1,18})", re.DOTALL | re.IGNORECASE)


@dataclass(frozen=True)
class MaskFile:
    """Where a mask is, and the number or time of its frame; None: the first frame, or as the name says in a folder.

    `object` is the only one wanted of a file of annotations.
    """

    path: Path
    frame: Position | None = None
    in_folder: bool = False
    object: int | None = None

    @property
    def word(self) -> Path:
        """Return the path as it is given, with the object."""
        return self.path if self.object is None else self.path.with_name(f"{self.path.name}#{self.object}")


@dataclass(frozen=True, repr=False)
class GivenMask:
    """Hold the checked mask of one frame, packed: there may be one for every frame of a clip.

    It is the truth about its own ids. Of other objects it says that they are absent when it is `whole`, else nothing.
    """

    frame: int
    path: Path
    ids: tuple[int, ...]
    shape: tuple[int, ...]
    dtype: np.dtype[np.integer]
    packed: bytes
    whole: bool = False

    @classmethod
    def pack(cls, frame: int, path: Path, labels: Labels) -> "GivenMask":
        """Keep labels (H, W) small."""
        packed = zlib.compress(np.ascontiguousarray(labels).tobytes(), 1)
        return cls(frame, path, object_ids(labels), labels.shape, labels.dtype, packed)

    def digest(self) -> str:
        """Identify all that the mask says."""
        return self._digest

    def labels(self) -> Labels:
        """Return the labels, (H, W)."""
        return np.frombuffer(zlib.decompress(self.packed), self.dtype).reshape(self.shape)

    @cached_property
    def _digest(self) -> str:
        facts = repr((self.frame, self.ids, self.whole, self.shape, self.dtype.str)).encode()
        return hashlib.sha256(facts + self.labels().tobytes()).hexdigest()  # what packs them may pack otherwise later


def list_mask_files(masks: Sequence[str | Path]) -> list[MaskFile]:
    """Say which files the words of `--mask` name: a path, `FRAME:PATH`, or a folder of `<frame>.png`.

    FRAME is a number or a time, like `10s` or `1:30`; `#ID` behind a file of annotations names one object. A word
    that is itself the path of a file is that file. Nothing is read. Raises UsageError for a folder without masks.
    """
    return [file for word in masks for file in _listed(str(word))]


def mask_in(folder: Path, word: str | Path) -> str | Path:
    """Return the word of `--mask` with its path taken from `folder`, as if it had been given there."""
    text = str(word)
    parts = _OF_FRAME.fullmatch(text)
    if parts and not os.path.exists(folder / text):  # which may be too long for a path
        return f"{parts[1]}:{folder / parts[2]}"
    return folder / text


def check_readable(masks: Sequence[str | Path]) -> None:
    """Raise MaskError when a mask cannot be read, whatever its clip is."""
    for file in list_mask_files(masks):
        load_annotations(file.path) if is_annotations(file.path) else read_stored(file.path, warn=unheard)


def read_given(
    masks: Sequence[str | Path],
    source: Source,
    *,
    objects: Sequence[int] = (),
    corrections: bool = True,
    direction: str = "forward",
    warn: Warn = warnings.warn,
) -> tuple[GivenMask, ...]:
    """Read and check all masks given for a clip, in the order of their frames; forward the first one has an object.

    Each must belong to a chosen frame of the source and have its size. `objects` keeps only these ids, and without
    `corrections` an id is only taken from the first mask that has it. In a folder, masks of frames that were not
    chosen are left out, and so are those that say nothing. Raises MaskError, and UsageError when two masks claim a
    frame or a chosen first frame has none.
    """
    files = _place(list_mask_files(masks), source, warn)
    chosen = _choose(_find_whole(_read(files, source, warn), files), objects)
    idle = [mask for mask in chosen if not mask.ids and not files[mask.frame].in_folder]
    if idle:
        warn(f"{len(idle)} of {len(chosen)} masks show none of the chosen objects")
    given = [mask for mask in (chosen if corrections else _firsts(chosen)) if mask.ids or mask.whole]
    if direction == "forward":
        given = from_first(given)
    if not any(mask.ids for mask in given):
        raise MaskError("no object in any of these masks", path=masks[0], hint="Paint each object with its own id")
    if direction == "forward":
        _require_first(given[0], source)
        _tell(given, warn)
    return tuple(given)


def from_first(given: Sequence[GivenMask]) -> list[GivenMask]:
    """Leave out the masks before the first that shows an object."""
    return [*dropwhile(lambda mask: not mask.ids, given)]


def followed_from(given: Sequence[GivenMask], direction: str) -> GivenMask:
    """Return the mask that a clip is followed from."""
    start = start_of([(mask.frame, mask.ids) for mask in given], direction)
    return next(mask for mask in given if mask.frame == start)


def start_of(masks: Iterable[tuple[int, Sequence[int]]], direction: str) -> int | None:
    """Return the frame that a clip is followed from: of the first mask that shows an object, going backward the last.

    `masks` are the frame and the ids of each.
    """
    shown = (frame for frame, ids in masks if ids)
    return max(shown, default=None) if direction == "backward" else min(shown, default=None)


def ids_of(given: Sequence[GivenMask]) -> tuple[int, ...]:
    """Return the ids of all objects, ascending: those that enter late too."""
    return tuple(sorted({number for mask in given for number in mask.ids}))


# -- which file belongs to which frame -------------------------------------------------------------------------------


def _listed(word: str) -> list[MaskFile]:
    parts = _OF_FRAME.fullmatch(word)
    if parts and not os.path.exists(word):
        return [_file(parts[2], parse_position(parts[1]))]
    folder = Path(word)
    if not os.path.isdir(word):
        return [_file(word)]
    names = (name for name in os.listdir(folder) if name.lower().endswith(".png") and name[0] != ".")
    files = [MaskFile(folder / name, in_folder=True) for name in sorted(names, key=natural_key)]
    if not files:
        raise UsageError("no masks in this folder", path=folder, hint="It must hold <frame>.png")
    return files


def _file(word: str, frame: Position | None = None) -> MaskFile:
    parts = _OF_OBJECT.fullmatch(word)
    if parts and not os.path.exists(word):
        return MaskFile(Path(parts[1]), frame, object=int(parts[2]))
    return MaskFile(Path(word), frame)


def _place(files: list[MaskFile], source: Source, warn: Warn) -> dict[int, MaskFile]:
    """Return the file of each frame that is in use, in the order of the frames."""
    if not files:
        raise UsageError("no mask given", hint="Give one with --mask.")
    whole, chosen = _numbers(source, files)
    placed: dict[int, MaskFile] = {}
    left_out, replaced = 0, 0
    for file in files:
        number = _frame_of(file, source, chosen)
        if file.in_folder and number in whole and number not in chosen:
            left_out += 1
            continue
        _require_chosen(file, number, source, whole, chosen)
        if number in placed and not _takes_place(file, placed[number]):
            cause = f"a second mask for frame {number}, beside {placed[number].path}"
            bare = None in (file.frame, placed[number].frame)
            hint = "A mask without FRAME: is that of the first frame." if bare else "Give one mask for each frame."
            raise UsageError(cause, path=file.path, hint=hint)
        replaced += number in placed
        placed[number] = file
    if replaced:
        warn(f"{counted(replaced, 'mask')} replaced by what was given later for the same frame")
    if left_out:
        warn(f"{counted(left_out, 'mask')} of frames that were not chosen left out")
    if not placed:
        raise UsageError("no mask of a chosen frame", path=files[0].path.parent, hint=_has_frames(chosen))
    return dict(sorted(placed.items()))


def _takes_place(file: MaskFile, before: MaskFile) -> bool:
    """Tell whether a mask that is given later replaces another of the same frame: folders may hold corrections."""
    return (file.in_folder or before.in_folder) and file.path.parent != before.path.parent


def _numbers(source: Source, files: list[MaskFile]) -> tuple[range, range]:
    """Return the numbers of all frames of a source, and of those that were chosen."""
    info = source.info
    if info.is_video:
        count = info.frames
        if count is None:  # only counting tells, and is only worth it for a mask of a later frame
            late = any(file.in_folder or file.frame for file in files)
            count = len(frame_times(info.path)) if late else info.first_chosen + 1 - info.first_number
        whole = range(info.first_number, info.first_number + count)
    else:
        numbers = list(source.times())
        step = numbers[1] - numbers[0] if len(numbers) > 1 else 1
        whole = range(numbers[0], numbers[-1] + 1, step)
    last = whole[-1] if info.end is None else min(info.end, whole[-1])
    return whole, range(info.first_chosen, last + 1, whole.step)


def _frame_of(file: MaskFile, source: Source, chosen: range) -> int:
    if not file.in_folder:
        if file.frame is None:
            return chosen[0]
        return first_frame_from(
            source.info.path, file.frame, first_number=source.info.first_number, rate=source.info.rate
        )
    stem = file.path.stem
    frame = source.number_of(stem)
    if frame is None and not (stem.isascii() and stem.isdecimal()):
        raise UsageError("is not named after a frame", path=file.path, hint="Name it <frame>.png")
    return int(stem) if frame is None else frame


def _require_chosen(file: MaskFile, number: int, source: Source, whole: range, chosen: range) -> None:
    if number not in whole:
        cause = f"is a mask of frame {number}, which {source.info.path.name} does not have"
        raise UsageError(cause, path=file.path, hint=_has_frames(whole))
    if number not in chosen:
        cause = f"is a mask of frame {number}, which was not chosen"
        raise UsageError(cause, path=file.path, hint=_has_frames(chosen))


def _has_frames(numbers: range) -> str:
    every = f" in steps of {numbers.step}" if numbers.step > 1 else ""
    return f"Its frame must be one of {numbers[0]} to {numbers[-1]}{every}."


# -- what is in them -------------------------------------------------------------------------------------------------


def _read(files: dict[int, MaskFile], source: Source, warn: Warn) -> list[GivenMask]:
    """Read the masks; what one of them cannot tell (ids, or one object?) all of them together do."""
    convention, stored = Convention(), []
    info = source.info
    load = cache(load_annotations)
    for number, file in files.items():
        grey = None  # of annotations, which hold ids
        if is_annotations(file.path):
            values = read_annotated(load(file.path), source, number, chosen=file.object, warn=warn)
        else:
            values, grey = read_stored(file.path, warn=warn)
            check_fits(values, file.path, info.width, info.height, info.path.name)
            convention.learn(values, grey)
        stored.append((GivenMask.pack(number, file.word, values), grey))
    masks, remarks = [], list[str]()
    for mask, grey in stored:
        labels = mask.labels()
        if grey is not None:
            labels = convention.labels(labels, grey, path=mask.path, warn=remarks.append)
        masks.append(GivenMask.pack(mask.frame, mask.path, labels))
        if not masks[-1].ids and not files[mask.frame].in_folder:
            raise MaskError("no object in this mask", path=mask.path, hint="Paint each object with its own id")
    for remark in remarks[:1]:
        warn(remark if len(remarks) == 1 else f"{remark} (and in {len(remarks) - 1} more)")
    return masks


def _find_whole(masks: list[GivenMask], files: dict[int, MaskFile]) -> list[GivenMask]:
    """Masks in a folder show whole frames, but for those with new objects and none that is known."""
    known: set[int] = set()
    found = []
    for mask in masks:
        only_new = known and mask.ids and not known.intersection(mask.ids)
        found.append(replace(mask, whole=files[mask.frame].in_folder and not only_new))
        known.update(mask.ids)
    return found


def _firsts(masks: list[GivenMask]) -> list[GivenMask]:
    """Keep of each object the first mask that shows it."""
    known: set[int] = set()
    firsts = []
    for mask in masks:
        firsts.append(replace(_only(mask, [number for number in mask.ids if number not in known]), whole=False))
        known.update(mask.ids)
    return firsts


def _only(mask: GivenMask, ids: Sequence[int]) -> GivenMask:
    """Keep some of the objects of a mask."""
    return replace(GivenMask.pack(mask.frame, mask.path, select_objects(mask.labels(), ids)), whole=mask.whole)


def _choose(masks: list[GivenMask], objects: Sequence[int]) -> list[GivenMask]:
    """Keep only some objects in all masks; each of them must be in one."""
    if not objects:
        return masks
    known = {number for mask in masks for number in mask.ids}
    if len(masks) == 1:
        select_objects(masks[0].labels(), objects, path=masks[0].path)
    elif unknown := [str(number) for number in objects if number not in known]:
        there = ", ".join(map(str, sorted(known)))
        raise UsageError(f"no object {', '.join(unknown)} in any mask", hint=f"The ids there are: {there}")
    return [_only(mask, [number for number in objects if number in mask.ids]) for mask in masks]


def _require_first(mask: GivenMask, source: Source) -> None:
    start = source.info.start
    if start is not None and mask.frame > start:
        cause = f"the first mask is of frame {mask.frame}, but the first frame is {start}"
        raise UsageError(cause, path=mask.path, hint=f"Give a mask of frame {start}, or --start {mask.frame}.")


def _tell(masks: list[GivenMask], warn: Warn) -> None:
    """Say what a person may not have meant, and which objects come only later."""
    if is_inverted(masks[0].labels()):
        warn(f"{masks[0].path} {INVERTED_NOTE}")
    known = {*masks[0].ids}
    for mask in masks[1:]:
        if new := [number for number in mask.ids if number not in known]:
            ids = ", ".join(map(str, new))
            warn(f"{mask.path}: object{'s' * (len(new) > 1)} {ids} enter{'s' * (len(new) == 1)} at frame {mask.frame}")
            known.update(new)
