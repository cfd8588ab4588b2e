"""Which clips a batch has, which mask belongs to each, and the folder that each one's result goes to."""

import glob
import os
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import count
from pathlib import Path, PurePosixPath

from stmcli.errors import StmError, UsageError
from stmcli.evaluate import Clip
from stmcli.evaluate.layout import annotation_folders, image_folder
from stmcli.files import natural_key, nearest_name
from stmcli.journal import JOURNAL, SUMMARY
from stmcli.layout import ANNOTATIONS, IMAGES
from stmcli.masks import MASKS
from stmcli.pipeline import first_mask
from stmcli.results import INDEX, LOCK, REPORT
from stmcli.video import list_frames
from stmcli.video.folder import is_pattern

SUFFIXES = (
    *(".3g2", ".3gp", ".apng", ".asf", ".avi", ".dv", ".flv", ".gif", ".h264", ".hevc", ".ivf", ".m2ts", ".m2v"),
    *(".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".mts", ".mxf", ".nut", ".ogv", ".qt", ".rm", ".ts", ".vob"),
    *(".webm", ".wmv", ".y4m"),
)
RESERVED = (JOURNAL, SUMMARY, INDEX, LOCK)  # what a batch itself writes into the output root


@dataclass(frozen=True)
class Pair:
    """A clip and its masks; `name` is its place below what was given, `output` that of its result below the root."""

    name: str
    video: Path
    masks: tuple[str | Path, ...] = ()
    output: str = ""
    error: str = ""  # why it cannot be segmented

    @property
    def key(self) -> str:
        """Return the name without the suffix of a file: what the mask and the result are called."""
        place = PurePosixPath(self.name)
        plain = self.video.is_dir() or place.stem.strip(".") == ""
        return self.name if plain else str(place.with_name(place.stem))


def pair_clips(clips: Sequence[str], masks: Path | None, out: Path) -> list[Pair]:
    """List the clips of folders, files and globs, each with its mask in `masks` and its folder below `out`.

    Datasets in the DAVIS or YouTube-VOS layout bring their own masks when `masks` is None. A clip without a mask, or
    with two, has an `error`. Raises UsageError when there is no clip, or no such file.
    """
    if masks is not None and not masks.is_dir():
        cause = "not a folder" if masks.exists() else "no such folder"
        raise UsageError(cause, path=masks, hint="Give the folder of the masks with --masks.")
    apart = {folder.resolve() for folder in (out, masks) if folder is not None}
    paths = [path for word in clips for path in _expand(word, apart)]
    datasets = [path for path in paths if masks is None and _is_dataset(path)]
    plain = [image_folder(path) if _is_dataset(path) else path for path in paths if path not in datasets]
    pairs = [pair for root in datasets for pair in _of_dataset(root)]
    found = _named(plain, apart, out, masks)
    if masks is None and found:
        raise UsageError("no masks given", hint="Give the folder of the masks with --masks.")
    if masks is not None:
        pairs += _with_masks(found, masks)
    if not pairs:
        raise UsageError("no clips", path=clips[0], hint="Give folders of clips, files or globs.")
    return name_outputs(pairs)


def name_outputs(pairs: Sequence[Pair]) -> list[Pair]:
    """Give every pair without an `output` one of its own, also where case and accents make no difference.

    Clips that would share a folder, or have one inside another's, keep their suffix. An `output` stays as it is unless
    it is not apart from another's.
    """
    names = [pair.output or pair.key for pair in pairs]
    times, above = Counter(names), above_all(names)
    places = _Places(RESERVED)
    given = {number: places.take(pair.output) for number, pair in enumerate(pairs) if pair.output}
    named = []
    for number, (pair, name) in enumerate(zip(pairs, names, strict=True)):
        if number not in given:
            given[number] = places.take(pair.name if times[name] > 1 or name in above else name)
        named.append(replace(pair, output=given[number]))
    return named


# -- clips -----------------------------------------------------------------------------------------------------------


def _expand(word: str, apart: set[Path]) -> list[Path]:
    """Return what a word of the command line names: itself, or what matches it. Raises UsageError."""
    if os.path.lexists(word) or is_pattern(Path(word)):
        return [Path(word)]
    found = sorted(glob.glob(word, recursive=True), key=_natural)
    if not found:
        matches = "nothing matches" if glob.has_magic(word) else "no such file or folder"
        raise UsageError(matches, path=word, hint=nearest_name(Path(word).absolute()))
    return [path for path in map(Path, found) if _is_video(path) or (path.is_dir() and path.resolve() not in apart)]


def _is_dataset(root: Path) -> bool:
    return (root / IMAGES).is_dir() and (root / ANNOTATIONS).is_dir()


def _of_dataset(root: Path) -> Iterator[Pair]:
    """Yield every clip of a dataset that has frames or masks, each from its first mask with an object."""
    images, masks = image_folder(root), annotation_folders(root, "folder")
    names = {*masks, *(folder.name for folder in images.glob("[!.]*") if folder.is_dir())}
    for name in sorted(names, key=_natural):
        frames = images / name
        try:
            if not frames.is_dir():
                raise UsageError("no such folder of frames", path=frames, hint=f"Complete {root}.")
            if name not in masks:
                raise UsageError(f"no mask for it in {root / ANNOTATIONS}", path=frames, hint="Add one for a frame.")
            yield Pair(name, frames, (first_mask(Clip(name, frames, masks[name])),))
        except StmError as error:
            yield Pair(name, frames, error=str(error))


def _named(paths: Iterable[Path], apart: set[Path], out: Path, masks: Path | None) -> list[Pair]:
    """Find the clips, and name each by its place below the innermost folder that holds all that was given."""
    clips: dict[str, Path] = {}  # by absolute path: what was given twice is done once
    homes: list[str] = []
    for path in paths:
        if path.is_dir() and path.resolve() == out.resolve():
            raise UsageError("is where the results would go", path=path, hint="Choose another --output.")
        found = _clips_in(path, apart | {path.resolve()}, masks) if path.is_dir() else [path]
        whole = os.path.abspath(path)
        homes.append(os.path.dirname(whole) if found == [path] else whole)
        clips |= {os.path.abspath(clip): clip for clip in found}
    home = os.path.commonpath(homes) if homes else ""
    return [Pair(Path(os.path.relpath(whole, home)).as_posix(), clip) for whole, clip in clips.items()]


def _clips_in(folder: Path, skipped: set[Path], masks: Path | None) -> list[Path]:
    """List the videos and folders of frames below a folder; or the folder itself, when it holds nothing but frames."""
    try:
        inside = [path for path in sorted(folder.iterdir(), key=_natural) if path.name[0] != "."]
    except OSError:  # a clip that fails and says why
        return [folder]
    videos = {path for path in inside if _is_video(path) and not path.is_dir()}
    beside = masks is not None and folder.resolve().is_relative_to(masks.resolve())
    of_masks = {video.stem for video in videos} if beside else set()
    found: list[Path] = []
    for path in inside:
        if path in videos:
            found.append(path)
        elif path.is_dir() and path.name not in of_masks and not _is_result(path) and path.resolve() not in skipped:
            found += _clips_in(path, skipped | {path.resolve()}, masks)  # a link to a folder above ends here
    return found or ([folder] if _has_frames(folder) else [])


def _is_result(folder: Path) -> bool:
    """Tell whether an earlier job has written here: its films and masks are no clips."""
    return (folder / REPORT).is_file() and (folder / MASKS).is_dir()


def _is_video(path: Path) -> bool:
    return path.suffix.lower() in SUFFIXES


def _has_frames(folder: Path) -> bool:
    try:
        return bool(list_frames(folder))
    except UsageError:
        return False


def _natural(path: str | Path) -> tuple[object, ...]:
    return natural_key(str(path)), str(path)


# -- masks -----------------------------------------------------------------------------------------------------------


def _with_masks(pairs: Sequence[Pair], masks: Path) -> Iterator[Pair]:
    keys = {pair.key for pair in pairs}
    above = above_all(keys)
    for pair in pairs:
        places = [pair.key, *({PurePosixPath(pair.key).name} - keys)]  # another clip's own mask is not for this one
        found = [path for place in places for path in _masks_at(masks, place, folder=place not in above)]
        yield replace(pair, masks=tuple(found[:1]), error=_choice_error(pair, found, masks))


def _masks_at(masks: Path, place: str, *, folder: bool) -> list[Path]:
    file, inside = masks / f"{place}.png", masks / place
    there = [file] if os.path.lexists(file) else []
    return there + ([inside] if folder and any(inside.glob("*.png")) else [])


def _choice_error(pair: Pair, found: list[Path], masks: Path) -> str:
    if len(found) == 1:
        return ""
    if found:
        cause, hint = f"two masks for it, {found[0]} and {found[1]}", "Remove one, or say which in a --manifest."
    else:
        name = PurePosixPath(pair.key).name
        places = dict.fromkeys((f"{pair.key}.png", f"{name}.png"))
        cause, hint = f"no mask for it in {masks}", f"Call it {' or '.join(places)}, or make a folder {name}."
    return str(UsageError(cause, path=pair.video, hint=hint))


# -- outputs ---------------------------------------------------------------------------------------------------------


class _Places:
    """Folders of results, none of which is another or lies in it."""

    def __init__(self, reserved: Iterable[str]) -> None:
        self._taken = {_folded(name) for name in reserved}
        self._above: set[str] = set()
        self._tries: Counter[tuple[str, str]] = Counter()  # of a name before, so that equal ones are not tried again

    def take(self, name: str) -> str:
        """Return the name of a folder that is free, and take it: with a number at what is in the way, if need be."""
        inside = next(
            (str(folder) for folder in PurePosixPath(name).parents if _folded(str(folder)) in self._taken), ""
        )
        stem, rest = (inside, name[len(inside) :]) if inside else (name, "")
        for number in count(max(1, self._tries[stem, rest])):
            free = name if number == 1 else f"{stem}~{number}{rest}"
            if self._is_free(_folded(free)):
                break
        self._tries[stem, rest] = number
        self._taken.add(_folded(free))
        self._above |= above_all([_folded(free)])
        return free

    def _is_free(self, name: str) -> bool:
        return name not in self._taken and name not in self._above and not above_all([name]) & self._taken


def above_all(names: Iterable[str]) -> set[str]:
    """Return every folder that one of the names lies in."""
    return {str(folder) for name in names for folder in PurePosixPath(name).parents} - {"."}


def _folded(name: str) -> str:
    """Return what names have in common that are one file on some systems."""
    return unicodedata.normalize("NFC", name).casefold()
