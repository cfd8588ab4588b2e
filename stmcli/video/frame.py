"""What a source yields and what is known about it before the first frame is read."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import Literal, Self

import numpy as np
import numpy.typing as npt

from stmcli.errors import UsageError
from stmcli.video.color import Color
from stmcli.video.orientation import Flip

RGB = npt.NDArray[np.uint8]
OnCorrupt = Literal["fail", "stop", "skip"]


@dataclass(frozen=True, eq=False, slots=True)
class Frame:
    """Hold one upright picture of a source.

    `index` is the frame's number in its source, `time` its exact presentation time in seconds, `rgb` is
    (H, W, 3) uint8. `corrupt` marks a picture the decoder could not restore: `rgb` then only stands in.
    """

    index: int
    time: Fraction
    rgb: RGB
    corrupt: bool = False


@dataclass(frozen=True)
class SourceInfo:
    """Describe a source as a player shows it.

    `width` and `height` are upright: after the stored picture was mirrored by `flip`, then turned by
    `rotation` (counter-clockwise degrees). `frames` is how many frames the whole source declares (None:
    unknown until read), `start_time` the time of its first frame, `first_number` the number of that frame,
    `duration` its length in seconds if declared. `start` and `end` are the frame numbers asked for. `shift`
    is where the container's own clock starts (only transport streams start late). `timecode` is that of the
    first frame, such as 01:00:00:00. `cut_short` tells that the file says so of itself.
    """

    path: Path
    name: str
    width: int
    height: int
    frames: int | None
    rate: Fraction
    time_base: Fraction
    is_video: bool
    rotation: int = 0
    flip: Flip = "none"
    container: str = ""
    audio: str | None = None
    codec: str = ""
    color: Color = field(default_factory=Color)
    interlaced: bool = False
    aspect: Fraction = Fraction(1)
    start_time: Fraction = Fraction(0)
    shift: Fraction = Fraction(0)
    duration: Fraction | None = None
    first_number: int = 0
    start: int | None = None
    end: int | None = None
    timecode: str | None = None
    cut_short: bool = False
    warnings: tuple[str, ...] = ()

    @property
    def first_chosen(self) -> int:
        """Return the number of the first frame asked for."""
        return self.first_number if self.start is None else self.start

    def ends_early(self, last: int) -> str | None:
        """Say so when the frame `last`, which is the clip's last, comes before the last one asked for."""
        asked = self.end
        return f"the clip ends at frame {last}, before frame {asked}" if asked is not None and last < asked else None


class Source(ABC):
    """Iterate over the frames of a clip, as often as asked, always from its first chosen frame.

    After or during an iteration `corrupt_frames` lists the frame numbers that could not be decoded,
    `missing_from` is the number of the first frame that a file which was cut short no longer holds (None: it holds
    all that were asked for), and `warnings` is what a person should know.
    """

    def __init__(self, info: SourceInfo, *, on_corrupt: OnCorrupt) -> None:
        self.info = info
        self.on_corrupt = on_corrupt
        self.corrupt_frames: list[int] = []
        self.missing_from: int | None = None
        self._remarks: dict[str, str] = {}

    @property
    def warnings(self) -> tuple[str, ...]:
        """Return what is odd about this source, as far as is known by now."""
        return (*self.info.warnings, *self._remarks.values())

    @property
    def is_whole(self) -> bool:
        """Tell whether all frames that were asked for were there and could be decoded, as far as is known by now."""
        return not self.corrupt_frames and self.missing_from is None

    @property
    @abstractmethod
    def count(self) -> int | None:
        """Return how many frames an iteration is expected to yield, None if that is unknown."""

    @abstractmethod
    def __iter__(self) -> Iterator[Frame]: ...

    @abstractmethod
    def times(self) -> Mapping[int, Fraction]:
        """Return the time of every frame of the whole source by its number, in order, decoding nothing."""

    @abstractmethod
    def frame_name(self, index: int) -> str:
        """Return the stem of the mask file that belongs to frame `index`."""

    @abstractmethod
    def number_of(self, name: str) -> int | None:
        """Return the frame whose mask file has the stem `name`; None where no frame's can have."""

    @abstractmethod
    def close(self) -> None:
        """Release the files that are open."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def check_range(path: Path, start: int | None, end: int | None, *, first: int | None = None) -> None:
    """Raise UsageError when `start` and `end` cannot be a range of the frame numbers from `first` on."""
    for number in (start, end, first):
        if number is not None and number < 0:
            raise UsageError(f"has no frame {number}", path=path, hint="Frame numbers are not negative.")
    if start is not None and end is not None and start > end:
        raise UsageError(f"starts at frame {start} after it ends at {end}", path=path, hint="Swap the two.")


def no_such_frame(path: Path, index: int, *, first: int, last: int | None, count: int | None) -> UsageError:
    """Return the error for a frame number that the source does not have; None: nobody has counted."""
    hint = f"It has {count} frame{'s' if count != 1 else ''}, numbered {first} to {last}."
    if count is None:
        hint = f"Its frames are numbered from {first}."
    return UsageError(f"has no frame {index}", path=path, hint=hint)


def number_name(index: int) -> str:
    """Return the stem of the files of a frame whose source names none: its number in five digits or more."""
    return f"{index:05d}"
