"""Read a folder or a numbered sequence of still images as a clip."""

import re
from collections.abc import Iterator, Sequence
from contextlib import suppress
from fractions import Fraction
from itertools import takewhile
from pathlib import Path

from stmcli.errors import UsageError, VideoError, listed
from stmcli.files import LONGEST_NAME, natural_key, nearest_name
from stmcli.options import FPS
from stmcli.video.color import Color, oddities
from stmcli.video.frame import (
    RGB,
    Frame,
    OnCorrupt,
    Source,
    SourceInfo,
    check_range,
    no_such_frame,
)
from stmcli.video.image import SUFFIXES, read_image, samples_of, shown_size
from stmcli.video.numbering import gaps, numbered, odd_names, refuse_gap, stems, whole_range
from stmcli.video.plate import is_plate

RATE = Fraction(FPS)
_PATTERN = re.compile(r"%(?:0(\d+))?d|(#+)")


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
        self._numbers = whole_range(path, self._files)
        self._stems = stems(self._files, self._numbers, renumbered=first_number is not None)
        self._by_name = {name: number for number, name in self._stems.items()}
        sizes = _sizes(list(self._files.values()), on_corrupt)
        width, height = next(iter(sizes.values()))
        first, last = self._numbers[0], self._numbers[-1]
        chosen = [n for n in self._numbers if (start is None or n >= start) and (end is None or n <= end)]
        if not chosen or (start is not None and start not in self._numbers):
            raise no_such_frame(path, start or end or 0, first=first, last=last, count=len(self._numbers))
        if on_corrupt == "fail" or (on_corrupt == "stop" and chosen[0] not in self._files):
            refuse_gap(path, self._files, chosen)
        self._chosen = chosen
        there = [file for number in chosen if (file := self._files.get(number)) in sizes]
        sample, color = _sample(there or list(sizes)[:1], on_corrupt)
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
            warnings=(
                *_left_out(path, sample),
                *odd_names(self._files.values()),
                *gaps(self._files, chosen),
                *oddities(color),
            ),
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


def would_be_frame(image: Path, source: Path) -> bool:
    """Tell whether an image that is written there would be a frame of a folder or of a pattern."""
    if source.is_dir():
        return image.suffix.lower() in SUFFIXES and image.parent.samefile(source)
    if not is_pattern(source) or not source.parent.is_dir():
        return False
    return image.parent.samefile(source.parent) and bool(_pattern_regex(source.name).fullmatch(image.name))


def list_frames(path: Path) -> list[Path]:
    """Return the images of a folder or of a pattern in natural order; raise UsageError without any."""
    if path.is_dir():
        files = _images(path)
        files = [f for f in files if not is_plate(f)] or files  # passes of a rendering may lie beside its frames
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


def _images(folder: Path) -> list[Path]:
    return [f for f in folder.iterdir() if f.suffix.lower() in SUFFIXES and not f.name.startswith(".")]


def _left_out(path: Path, taken: Path) -> list[str]:
    """Say which files of a folder are no frames beside those that are taken."""
    others = [file.name for file in _images(path) if is_plate(file)] if path.is_dir() and not is_plate(taken) else []
    return [f"left out beside the other images: {listed(sorted(others), 3)}"] if others else []


def _sample(files: Sequence[Path], on_corrupt: OnCorrupt) -> tuple[Path, Color]:
    """Return the first file that can be read, and its samples. Raises VideoError."""
    for place, file in enumerate(files, 1):
        try:
            return file, samples_of(file)
        except VideoError:
            if on_corrupt == "fail" or place == len(files):
                raise
    raise AssertionError("no files")


def _sizes(files: list[Path], on_corrupt: OnCorrupt) -> dict[Path, tuple[int, int]]:
    """Return the size, the same of all, of the files that tell theirs; one at least. Raises VideoError."""
    sizes: dict[Path, tuple[int, int]] = {}
    for file in files:
        try:
            sizes[file] = shown_size(file)
        except VideoError:
            if on_corrupt == "fail" or (file == files[-1] and not sizes):
                raise
    (example, first), *others = sizes.items()
    for file, size in others:
        if size != first:
            cause = f"is {size[0]}x{size[1]} but {example.name} is {first[0]}x{first[1]}"
            raise VideoError(cause, path=file, hint="All frames must have one size.")
    return sizes


def _pattern_regex(name: str) -> re.Pattern[str]:
    place = _PATTERN.search(name)
    assert place is not None, name
    digits = int(place.group(1) or 1) if place.group(2) is None else len(place.group(2))
    digits = min(digits, LONGEST_NAME + 1)  # more than any name has
    before, after = re.escape(name[: place.start()]), re.escape(name[place.end() :])
    return re.compile(f"{before}\\d{{{digits},}}{after}")


def _pattern_name(path: Path) -> str:
    return _PATTERN.sub("", path.stem).strip("._- ") or path.parent.name
