"""Videos to train on: where their annotated frames are, in the DAVIS and the YouTube-VOS layout."""

import os
import tarfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from stmcli.clips.stills import IMAGE_SUFFIXES
from stmcli.errors import TrainingError, UsageError, listed
from stmcli.files import require_file
from stmcli.layout import ANNOTATIONS, IMAGES, LISTS, choose_resolution, is_validation, list_place, read_list

SHORTEST = 2  # annotated frames of a video
HINT = f"It needs {IMAGES}/ and {ANNOTATIONS}/, as DAVIS or YouTube-VOS has them"


@dataclass(frozen=True)
class File:
    """A file in a folder, or inside a tar."""

    path: Path
    offset: int = 0
    size: int = -1  # bytes; -1: to the end
    member: str = ""  # its name in the tar

    def __str__(self) -> str:
        return f"{self.path}: {self.member}" if self.member else str(self.path)

    def read(self) -> bytes:
        """Return what is in it. Raises OSError."""
        with self.path.open("rb") as file:
            file.seek(self.offset)
            return file.read(self.size)


@dataclass(frozen=True)
class Shot:
    """An annotated frame."""

    number: int  # in the video; frames between may be without annotation
    image: File
    mask: File


@dataclass(frozen=True)
class Video:
    """A clip of a dataset: its annotated frames in temporal order."""

    name: str
    shots: tuple[Shot, ...]


@dataclass(frozen=True)
class Videos:
    """A dataset, and how often it is drawn from beside others."""

    root: Path
    weight: float
    videos: tuple[Video, ...]


def parse_root(text: str) -> tuple[Path, float]:
    """Split ROOT[:WEIGHT]. Raises UsageError for a weight that is no positive number."""
    root, _, weight = text.rpartition(":")
    if not root or Path(text).exists() or not weight.replace(".", "", 1).isdecimal():
        return Path(text), 1.0
    if float(weight) <= 0:
        raise UsageError(f"--video {text}: the weight must be above 0", hint="Leave the dataset out")
    return Path(root), float(weight)


def load_videos(root: Path, weight: float = 1.0) -> Videos:
    """List the videos of a dataset, a folder or an uncompressed tar, that have `SHORTEST` annotated frames or more.

    Those of `ImageSets/<year>/train.txt` where there is such a list, else all; never those of any `val.txt` there.
    Raises UsageError when there is no such path, TrainingError when nothing in it can be trained on.
    """
    require_file(root, hint=HINT, folders=True)
    files = dict(_walk(root) if root.is_dir() else _members(root))
    base = _base(root, files)
    files = {name.removeprefix(base): file for name, file in files.items() if name.startswith(base)}
    clips = _chosen(root, _pairs(root, files), files)
    videos = tuple(Video(name, _shots(pairs)) for name, pairs in sorted(clips.items()) if len(pairs) >= SHORTEST)
    if not videos:
        raise TrainingError(f"no video with {SHORTEST} annotated frames to train on", path=root, hint=HINT)
    return Videos(root, weight, videos)


def _walk(root: Path) -> Iterator[tuple[str, File]]:
    for folder, _, names in os.walk(root, followlinks=True):
        for name in names:
            if name[0] != ".":
                path = Path(folder, name)
                yield path.relative_to(root).as_posix(), File(path)


def _members(root: Path) -> Iterator[tuple[str, File]]:
    try:
        with tarfile.open(root, "r:") as tar:
            for member in tar:
                if member.isreg() and PurePosixPath(member.name).name[0] != ".":
                    yield member.name.removeprefix("./"), File(root, member.offset_data, member.size, member.name)
    except (tarfile.TarError, OSError, EOFError) as error:
        hint = "Give a folder or an uncompressed tar"
        raise TrainingError(f"not a tar that can be read ({error})", path=root, hint=hint) from None


def _base(root: Path, files: dict[str, File]) -> str:
    """Return what stands before JPEGImages/: of several datasets under `root` the one called train."""
    bases = sorted({name[: f"/{name}".index(f"/{IMAGES}/")] for name in files if f"/{IMAGES}/" in f"/{name}"})
    if len(bases) > 1:
        bases = [base for base in bases if PurePosixPath(base).name == "train"] or bases
    if len(bases) != 1:
        cause = f"holds {len(bases)} datasets" if bases else f"no {IMAGES}/ in it"
        raise TrainingError(cause, path=root, hint=HINT)
    return bases[0]


def _pairs(root: Path, files: dict[str, File]) -> dict[str, list[tuple[str, File, File]]]:
    """Return by clip the stem, image and mask of each annotated frame, of one resolution."""
    folder = f"{ANNOTATIONS}/"
    masks = {name.removeprefix(folder).rpartition(".")[0]: name for name in files if name.startswith(folder)}
    clips: dict[str, dict[str, list[tuple[str, File, File]]]] = {}
    for name, file in files.items():
        path = PurePosixPath(name)
        if path.parts[0] != IMAGES or path.suffix.lower() not in IMAGE_SUFFIXES or len(path.parts) < 3:
            continue
        place = path.with_suffix("").relative_to(IMAGES)
        if (mask := masks.get(str(place))) is not None:
            resolution = "/".join(place.parts[:-2])
            clips.setdefault(resolution, {}).setdefault(place.parent.name, []).append((place.name, file, files[mask]))
    if not clips:
        raise TrainingError("no frame with an annotation of the same name", path=root, hint=HINT)
    return clips[choose_resolution(clips)]


def _chosen(
    root: Path, clips: dict[str, list[tuple[str, File, File]]], files: dict[str, File]
) -> dict[str, list[tuple[str, File, File]]]:
    """Return the clips of the list for training, or all, without those of any list for validation."""
    folders = [folder for several in LISTS.values() for folder in several]
    train = next((path for folder in folders if (path := list_place(folder, "train")) in files), None)
    named = {*read_list(files[train].read())} if train else set()
    lists = [path for path in sorted(files) if is_validation(path)]
    val = {name for path in lists for name in read_list(files[path].read())}
    wanted = (named or {*clips}) - val
    if not wanted:
        whose = f"{train} names" if named else "it holds"
        cause = f"all clips that {whose} are for validation, by {' and '.join(lists)}"
        raise TrainingError(cause, path=root, hint="Give a training set, or take what to train on out of that list")
    if missing := sorted(wanted - clips.keys()):
        cause = f"no annotated frames of clip {listed(missing, 1)}, which the list names"
        raise TrainingError(cause, path=root, hint="Complete the dataset, or shorten the list")
    return {name: clips[name] for name in wanted}


def _shots(pairs: Sequence[tuple[str, File, File]]) -> tuple[Shot, ...]:
    """Put frames in temporal order; names that are no numbers are counted."""
    numeric = all(stem.isdecimal() for stem, _, _ in pairs)
    ordered = sorted(pairs, key=lambda pair: (int(pair[0]) if numeric else 0, pair[0]))
    return tuple(Shot(int(stem) if numeric else i, image, mask) for i, (stem, image, mask) in enumerate(ordered))
