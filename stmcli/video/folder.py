"""Read a folder or a numbered sequence of still images as a clip."""

import re
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from fractions import Fraction
from itertools import pairwise
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from stmcli.errors import UsageError, VideoError
from stmcli.files import LONGEST_NAME, nearest_name
from stmcli.images import FORMATS, MAX_PIXELS
from stmcli.video.color import Color
from stmcli.video.faults import check_file
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

RATE = Fraction(24)  # a folder says nothing about time
_FORMATS = (*FORMATS, "PPM")  # whatever the names say: Pillow would have PostScript drawn by another program
_SUFFIXES = {".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp", ".ppm", ".pgm"}
_PATTERN = re.compile(r"%(?:0(\d+))?d|(#+)")
_LAST_NUMBER = re.compile(r"(\d+)(?=\D*$)")
_NUMBER = re.compile(r"[^0-9]*([0-9]{1,18})")  # of a name from its end


class FrameFolder(Source):
    """Iterate over still images as frames, numbered by the last number in their names.

    Names without numbers are counted from 0. A constant step between the numbers is accepted, a gap is
    an error, and so are images of different sizes. `first_number` moves all numbers, so that the first
    has that one. Times follow `rate`.
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
        self._stems = _stems(self._files, renumbered=first_number is not None)
        self._by_name = {name: number for number, name in self._stems.items()}
        width, height = _common_size(list(self._files.values()))
        first, *_, last = (*self._files, *self._files)
        chosen = [n for n in self._files if (start is None or n >= start) and (end is None or n <= end)]
        if not chosen or (start is not None and start not in self._files):
            raise no_such_frame(path, start or end or 0, first=first, last=last, count=len(self._files))
        self._chosen = chosen
        sample = next(iter(self._files.values()))
        info = SourceInfo(
            path=path,
            name=path.name if path.is_dir() else _pattern_name(path),
            width=width,
            height=height,
            frames=len(self._files),
            rate=rate,
            time_base=1 / rate,
            is_video=False,
            container="folder" if path.is_dir() else "sequence",
            codec=sample.suffix.lower().lstrip("."),
            color=_color(sample),
            duration=len(self._files) / rate,
            first_number=first,
            start=start,
            end=end,
            warnings=_odd_names(self._files.values()),
        )
        super().__init__(info, on_corrupt=on_corrupt)

    @property
    def count(self) -> int:
        """Return how many frames an iteration yields."""
        return len(self._chosen)

    def times(self) -> dict[int, Fraction]:
        """Return the time of every frame of the folder by its number, in order."""
        return {number: place / self.info.rate for place, number in enumerate(self._files)}

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
        times = self.times()
        rgb: RGB | None = None
        for number in self._chosen:
            try:
                rgb = read_image(self._files[number])
            except VideoError:
                if self.on_corrupt == "fail" or rgb is None:
                    raise
                self.corrupt_frames.append(number)
            corrupt = number in self.corrupt_frames
            if corrupt and self.on_corrupt == "stop":
                self._remarks["stop"] = f"stopped at frame {number}, which cannot be decoded"
                return
            yield Frame(number, times[number], rgb, corrupt=corrupt)


def is_pattern(path: Path) -> bool:
    """Return whether `path` is a sequence such as ``shot.%04d.png`` and not a file of that very name."""
    return _PATTERN.search(path.name) is not None and not path.exists()


def list_frames(path: Path) -> list[Path]:
    """Return the images of a folder or of a pattern in natural order; raise UsageError without any."""
    if path.is_dir():
        files = [f for f in path.iterdir() if f.suffix.lower() in _SUFFIXES and not f.name.startswith(".")]
        cause, hint = "no frames in this folder", f"Images end in {', '.join(sorted(_SUFFIXES))}."
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
    """Return the frame number of each file, in order; raise VideoError for gaps and duplicates.

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
    steps = [after[0] - before[0] for before, after in pairwise(pairs)]
    usual = max(filter(None, steps), key=lambda step: (steps.count(step), -step), default=1)
    for step, ((number, file), (_, following)) in zip(steps, pairwise(pairs), strict=True):
        if step == 0:
            cause = f"{file.name} and {following.name} are the same frame"
            raise VideoError(cause, path=path, hint="Remove one.")
        if step != usual:
            cause = f"frame {number + min(step, usual)} is missing after {file.name}"
            raise VideoError(cause, path=path, hint="Render or copy what is missing there.")
    return dict(pairs)


def read_image(path: Path) -> RGB:
    """Return an image upright as (H, W, 3) uint8 RGB; raise VideoError when it cannot be decoded."""
    try:
        with Image.open(path, formats=_FORMATS) as image:
            upright = image if _ignores_exif(image) else ImageOps.exif_transpose(image)
            if upright.mode.startswith("I"):  # 16 bits of grey
                grey = (np.asarray(upright, dtype=np.int64) >> 8).astype(np.uint8)
                return np.repeat(grey[:, :, None], 3, axis=2)
            return np.array(upright.convert("RGB"), dtype=np.uint8)
    except (OSError, ValueError, SyntaxError, EOFError) as error:
        cause = f"not an image that can be read ({error})"
        raise VideoError(cause, path=path, hint="Export it again.") from error


@contextmanager
def _quiet_about_size() -> Iterator[None]:
    """Keep Pillow from warning about large pictures, which are refused here."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        yield


def _size(path: Path) -> tuple[int, int]:
    """Return width and height as shown, from the header alone."""
    check_file(path)
    try:
        with _quiet_about_size(), Image.open(path, formats=_FORMATS) as image:
            if image.mode == "F" or (image.mode == "I" and image.format == "TIFF"):
                cause = "pixels of 32 bits, which may mean anything"
                raise VideoError(cause, path=path, hint="Export it with 8 or 16 bits.")
            width, height = image.size
            turned = not _ignores_exif(image) and image.getexif().get(0x0112, 1) >= 5
    except Image.DecompressionBombError:
        width = height = MAX_PIXELS
        turned = False
    except (OSError, ValueError, SyntaxError, EOFError) as error:
        cause = "empty file (0 bytes)" if path.stat().st_size == 0 else "not an image that can be read"
        raise VideoError(cause, path=path, hint="Export it again.") from error
    if width * height > MAX_PIXELS:
        cause = f"more than {MAX_PIXELS // 2**20} megapixels"
        raise VideoError(cause, path=path, hint="Scale it down first.")
    return (height, width) if turned else (width, height)


def _color(path: Path) -> Color:
    """Return the samples of an image, from its header alone."""
    with Image.open(path, formats=_FORMATS) as image:
        packed = [tile.args if isinstance(tile.args, str) else tile.args[0] for tile in image.tile if tile.args]
        deep = any("16" in str(layout) for layout in (image.mode, *packed))
        return Color(pixel_format=image.mode, bits=16 if deep else 8)


def _ignores_exif(image: Image.Image) -> bool:
    """Return whether the turn in the metadata is left alone: viewers do so in PNG, and asking decodes it."""
    return image.format == "PNG"


def _common_size(files: list[Path]) -> tuple[int, int]:
    first = _size(files[0])
    for file in files[1:]:
        if (size := _size(file)) != first:
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


def _stems(files: Mapping[int, Path], *, renumbered: bool) -> dict[int, str]:
    """Return the name of each frame; new numbers take the place of those in the names, as wide or wider."""
    if not renumbered:
        return {number: file.stem for number, file in files.items()}
    if not _hold_numbers(files.values()):
        return {number: number_name(number) for number in files}
    return {number: _renamed(file.stem, number) for number, file in files.items()}


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
