"""Find the start timecode of a film, and move it along with a later start."""

import re
from fractions import Fraction

from av.container import InputContainer
from av.video.stream import VideoStream

_TIMECODE = re.compile(r"(\d\d):(\d\d):(\d\d)([:;.])(\d\d)")
_DROPPED_PER_SECOND = Fraction(2, 30)  # numbers left out at each minute but the tenth, per frame of a second


def find_timecode(container: InputContainer, stream: VideoStream) -> str | None:
    """Return the start timecode that a file declares for its pictures, such as ``01:00:00:00``."""
    held = (stream.metadata, container.metadata, *(data.metadata for data in container.streams.data))
    tags = [tag for metadata in held for tag in metadata.items()]
    return next((value for name, value in tags if name.lower() == "timecode" and value), None)


def advance_timecode(timecode: str, frames: int, *, rate: Fraction) -> str | None:
    """Return the timecode `frames` frames after `timecode`, None when it is none at that rate.

    A ``;`` or ``.`` before the frames means drop-frame: minutes begin at frame 2 (4 at 60 frames a second),
    except every tenth. After 24 hours it begins again.
    """
    match = _TIMECODE.fullmatch(timecode)
    fps = round(rate)
    if match is None or int(match[5]) >= fps:
        return None
    hours, minutes, seconds, number = (int(match[group]) for group in (1, 2, 3, 5))
    dropped = 0 if match[4] == ":" else round(fps * _DROPPED_PER_SECOND)
    minute = 60 * hours + minutes
    count = (60 * minute + seconds) * fps + number - dropped * (minute - minute // 10) + frames
    return _spell(count, fps, dropped, match[4])


def _spell(count: int, fps: int, dropped: int, mark: str) -> str:
    """Return the timecode of the `count`-th frame since midnight."""
    short, ten = 60 * fps - dropped, 600 * fps - 9 * dropped
    tens, rest = divmod(count % (144 * ten), ten)
    shorts = max(0, rest - dropped) // short  # minutes of these ten that began with numbers left out
    number = tens * 600 * fps + rest + dropped * shorts
    seconds, frame = divmod(number, fps)
    return f"{seconds // 3600:02}:{seconds // 60 % 60:02}:{seconds % 60:02}{mark}{frame:02}"
