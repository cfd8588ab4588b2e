"""What is in the masks that are given for a clip: all are read and checked together."""

import warnings
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path

from stmcli.annotations import is_annotations, load_annotations, read_annotated
from stmcli.errors import MaskError, UsageError
from stmcli.given.frames import place
from stmcli.given.mask import GivenMask, from_first
from stmcli.given.words import MaskFile, list_mask_files
from stmcli.listeners import unheard
from stmcli.masks import INVERTED_NOTE, Convention, Warn, check_fits, is_inverted, read_stored, select_objects
from stmcli.video import Source


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
    files = place(list_mask_files(masks), source, warn)
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
