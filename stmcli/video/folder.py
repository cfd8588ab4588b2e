"""Read a folder or a numbered sequence of still images as a clip."""

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from fractions import Fraction
from itertools import pairwise, takewhile
from pathlib import Path

from stmcli.errors import UsageError, VideoError
from stmcli.files import LONGEST_NAME, nearest_name
from stmcli.options import FPS
from stmcli.video.color import oddities
from stmcli.video.frame import (
    RGB,
    Frame,
    OnCorrupt,
    Source,
    SourceInfo,
    check_range,
    no_such_frame,
    number_name,
)
from stmcli.video.image import SUFFIXES, read_image, samples_of, shown_size

RATE = Fraction(FPS)
_PATTERN = re.compile(r"%(?:0(\d+))?d|(#+)")
_LAST_NUMBER = re.compile(r"(\d+)(?=\D*$)")
_NUMBER = re.compile(r"[^0-9]*([0-9]{1,18})")  # of a name from its end


class FrameFolder(Source):
    """Iterate over still images as frames, numbered by the last number in their names.

    Names without numbers are counted from 0. A constant step between the numbers is accepted; a gap among the chosen
    frames is treated as frames that cannot be decoded, and images of different sizes are an error. `first_number` moves
    all numbers, so that the first has that one. Times follow `rate`.
    """

    def __init__(
        self,
        path: Path,
        *,
        first_number: int | None = None,
        start: int | None = None,
        end: int | None = None,
        on_corrupt: OnCorrupt = "fail",
        rate: Fraction = RATE,
    ) -> None:
        check_range(path, start, end, first=first_number)
        self._files = numbered(path, list_frames(path), first=first_number)
        self._numbers = _whole_range(path, self._files)
        self._stems = _stems(self._files, self._numbers, renumbered=first_number is not None)
        self._by_name = {name: number for number, name in self._stems.items()}
        width, height = _common_size(list(self._files.values()))
        first, last = self._numbers[0], self._numbers[-1]
        chosen = [n for n in self._numbers if (start is None or n >= start) and (end is None or n <= end)]
        if not chosen or (start is not None and start not in self._numbers):
            raise no_such_frame(path, start or end or 0, first=first, last=last, count=len(self._numbers))
        if on_corrupt == "fail":
            _refuse_gap(path, self._files, chosen)
        self._chosen = chosen
        sample = next((self._files[number] for number in chosen if number in self._files), self._files[first])
        color = samples_of(sample)
        info = SourceInfo(
            path=path,
            name=path.name if path.is_dir() else _pattern_name(path),
            width=width,
            height=height,
            frames=len(self._numbers),
            rate=rate,
            time_base=1 / rate,
            is_video=False,
            container="folder" if path.is_dir() else "sequence",
            codec=sample.suffix.lower().lstrip("."),
            color=color,
            duration=len(self._numbers) / rate,
            first_number=first,
            start=start,
            end=end,
            warnings=(*_odd_names(self._files.values()), *_gaps(self._files, chosen), *oddities(color)),
        )
        super().__init__(info, on_corrupt=on_corrupt)

    @property
    def count(self) -> int:
        """Return how many frames an iteration yields."""
        return len(self._chosen)

    def times(self) -> dict[int, Fraction]:
        """Return the time of every frame of the folder by its number, in order; those that are missing take theirs.

        Where the first of them is the end, as `on_corrupt` says, no more are told.
        """
        readable = takewhile(lambda n: n in self._files or n < self._chosen[0], self._numbers)
        return {number: self._time(number) for number in (readable if self.on_corrupt == "stop" else self._numbers)}

    def frame_name(self, index: int) -> str:
        """Return the stem of the image that is frame `index`; with its new number in it if it was given one."""
        return self._stems[index]

    def number_of(self, name: str) -> int | None:
        """Return the frame of that name, None when there is none."""
        return self._by_name.get(name)

    def close(self) -> None:
        """Do nothing: no file stays open between two frames."""

    def __iter__(self) -> Iterator[Frame]:
        self.corrupt_frames.clear()
        self._remarks.clear()
        rgb: RGB | None = None
        for number in self._chosen:
            try:
                rgb = self._read(number)
            except VideoError:
                rgb = self._before(number) if rgb is None else rgb
                if self.on_corrupt == "fail" or rgb is None:
                    raise
                self.corrupt_frames.append(number)
            corrupt = number in self.corrupt_frames
            if corrupt and self.on_corrupt == "stop":
                fault = "cannot be decoded" if number in self._files else "is missing"
                self._remarks["stop"] = f"stopped at frame {number}, which {fault}"
                return
            yield Frame(number, self._time(number), rgb, corrupt=corrupt)

    def _time(self, number: int) -> Fraction:
        return self._numbers.index(number) / self.info.rate

    def _read(self, number: int) -> RGB:
        if number not in self._files:
            raise VideoError(f"frame {number} is missing", path=self.info.path, hint="Start later.")
        return read_image(self._files[number])

    def _before(self, number: int) -> RGB | None:
        """Return the last picture before a frame that can be read, None if there is none."""
        for earlier in reversed(range(self._numbers[0], number, self._numbers.step)):
            with suppress(VideoError):
                return self._read(earlier)
        return None


def is_pattern(path: Path) -> bool:
    """Return whether `path` is a sequence such as ``shot.%04d.png`` and not a file of that very name."""
    return _PATTERN.search(path.name) is not None and not path.exists()


def list_frames(path: Path) -> list[Path]:
    """Return the images of a folder or of a pattern in natural order; raise UsageError without any."""
    if path.is_dir():
        files = [f for f in path.iterdir() if f.suffix.lower() in SUFFIXES and not f.name.startswith(".")]
        cause, hint = "no frames in this folder", f"Images end in {', '.join(sorted(SUFFIXES))}."
    else:
        if not path.parent.is_dir():
            raise UsageError("no such folder", path=path.parent, hint=nearest_name(path.parent))
        name = _pattern_regex(path.name)
        files = [f for f in path.parent.iterdir() if name.fullmatch(f.name)]
        cause, hint = "no file matches this pattern", nearest_name(path)
    if not files:
        raise UsageError(cause, path=path, hint=hint)
    return sorted(files, key=lambda file: natural_key(file.name))


def natural_key(name: str) -> tuple[tuple[int, int, str], ...]:
    """Return a sort key that puts ``frame2`` before ``frame10``."""
    parts = re.split(r"(\d+)", name)
    return tuple((0, int(p), p) if p.isdigit() and p.isascii() else (1, 0, p.casefold()) for p in parts)


def last_number(stem: str) -> int | None:
    """Return the last number in the name of a frame, None without one."""
    number = _NUMBER.match(stem[::-1])
    return int(number[1][::-1]) if number else None


def numbered(path: Path, files: list[Path], *, first: int | None = None) -> dict[int, Path]:
    """Return the frame number of each file, in order; raise VideoError when two have the same.

    Numbers are those in the names, moved so that they begin with `first` if it is given.
    """
    found = _numbers(path, files)
    shift = 0 if first is None else first - next(iter(found))
    return {number + shift: file for number, file in found.items()}


def _numbers(path: Path, files: list[Path]) -> dict[int, Path]:
    if not _hold_numbers(files):
        for file, following in pairwise(sorted(files, key=lambda file: file.stem)):
            if file.stem == following.stem:  # so would their masks be
                cause = f"{file.name} and {following.name} have the same name"
                raise VideoError(cause, path=path, hint="Rename or remove one.")
        return dict(enumerate(files))
    pairs = sorted((int(_LAST_NUMBER.findall(file.stem)[0]), file) for file in files)
    for (number, file), (other, following) in pairwise(pairs):
        if number == other:
            cause = f"{file.name} and {following.name} are the same frame"
            raise VideoError(cause, path=path, hint="Remove one.")
    return dict(pairs)


def _whole_range(path: Path, files: Mapping[int, Path]) -> range:
    """Return all numbers from the first to the last, in the step that is usual between two.

    Raises VideoError when files are out of step, and when more are missing than there are.
    """
    numbers = list(files)
    steps = [after - before for before, after in pairwise(numbers)]
    usual = max(steps, key=lambda step: (steps.count(step), -step), default=1)
    whole = range(numbers[0], numbers[-1] + 1, usual)
    if odd := next((number for number in numbers if number not in whole), None):
        cause = f"{files[odd].name} is out of step: most numbers are {usual} apart"
        raise VideoError(cause, path=path, hint="Remove or rename what does not belong there.")
    if len(whole) > 2 * len(numbers):
        _refuse_gap(path, files, whole)
    return whole


def _gaps(files: Mapping[int, Path], numbers: Sequence[int]) -> list[str]:
    """Say how many of the frames have no file, if any."""
    missing = [number for number in numbers if number not in files]
    more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
    return [f"frame {missing[0]}{more} of {len(numbers)} missing"] if missing else []


def _refuse_gap(path: Path, files: Mapping[int, Path], numbers: Sequence[int]) -> None:
    """Raise VideoError when there is no file for one of the numbers."""
    missing = next((number for number in numbers if number not in files), None)
    if missing is None:
        return
    before = max((number for number in files if number < missing), default=None)
    place = "" if before is None else f" after {files[before].name}"
    hint = "Render or copy what is missing there, take a part without it, or go on with --on-corrupt stop or skip."
    raise VideoError(f"frame {missing} is missing{place}", path=path, hint=hint)


def _common_size(files: list[Path]) -> tuple[int, int]:
    first = shown_size(files[0])
    for file in files[1:]:
        if (size := shown_size(file)) != first:
            cause = f"is {size[0]}x{size[1]} but {files[0].name} is {first[0]}x{first[1]}"
            raise VideoError(cause, path=file, hint="All frames must have one size.")
    return first


def _hold_numbers(files: Iterable[Path]) -> bool:
    """Return whether names differ in their last number and in nothing else."""
    names = [file.stem for file in files]
    return all(map(_LAST_NUMBER.search, names)) and len({_LAST_NUMBER.sub("", name) for name in names}) == 1


def _odd_names(files: Iterable[Path]) -> tuple[str, ...]:
    """Say which names keep the numbers of the others from counting, when it is but a few."""
    names = [file.stem for file in files]
    bases = Counter(_LAST_NUMBER.sub("", name) if _LAST_NUMBER.search(name) else None for name in names)
    usual, count = bases.most_common(1)[0]
    odd = [name for name in names if not _LAST_NUMBER.search(name) or _LAST_NUMBER.sub("", name) != usual]
    if usual is None or not odd or count < 0.5 * len(names):
        return ()
    listed = ", ".join(odd[:3]) + ", ..." * (len(odd) > 3)
    return (f"not numbered like the other frames: {listed}; so all are counted from 0, in the order of their names",)


def _stems(files: Mapping[int, Path], numbers: Sequence[int], *, renumbered: bool) -> dict[int, str]:
    """Return the name of each frame, also of those that are missing; new numbers are as wide as the old, or wider."""
    if renumbered and not _hold_numbers(files.values()):
        return {number: number_name(number) for number in numbers}
    first = files[numbers[0]]
    own = {} if renumbered else {number: file.stem for number, file in files.items()}
    return {number: own.get(number) or _renamed(files.get(number, first).stem, number) for number in numbers}


def _renamed(stem: str, number: int) -> str:
    return _LAST_NUMBER.sub(lambda own: f"{number:0{len(own[0])}d}", stem)


def _pattern_regex(name: str) -> re.Pattern[str]:
    place = _PATTERN.search(name)
    assert place is not None, name
    digits = int(place.group(1) or 1) if place.group(2) is None else len(place.group(2))
    digits = min(digits, LONGEST_NAME + 1)  # more than any name has
    before, after = re.escape(name[: place.start()]), re.escape(name[place.end() :])
    return re.compile(f"{before}\\d{{{digits},}}{after}")


def _pattern_name(path: Path) -> str:
    return _PATTERN.sub("", path.stem).strip("._- ") or path.parent.name
