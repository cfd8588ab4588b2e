"""Find frames by number or by time."""

import math
import re
from fractions import Fraction
from pathlib import Path

from stmcli.errors import UsageError
from stmcli.video.folder import RATE
from stmcli.video.source import open_source

Position = int | Fraction  # a frame number, or seconds since its first frame
FASTEST = 1000  # frames a second
ROUNDED = Fraction(1, 150)  # how far 23.97 and 23.98 are from 24000/1001
_RATE = re.compile(r"[0-9]{1,6}(\.[0-9]{0,12})?|[0-9]{1,9}/0*[1-9][0-9]{0,6}")
_NUMBER = re.compile(r"[0-9]{1,18}")
_SECONDS = re.compile(r"([0-9]{1,18}(?:\.[0-9]{0,18})?|\.[0-9]{1,18})s")
_CLOCK = re.compile(r"(?:([0-9]{1,9}):)?([0-9]{1,9}):([0-9]{2}(?:\.[0-9]{0,18})?)")


def parse_position(text: str) -> Position:
    """Return a frame number (``250``) as int, a time (``10s``, ``1:30``, ``00:01:30.500``) as seconds.

    Raises UsageError for anything else.
    """
    text = text.strip()
    if _NUMBER.fullmatch(text):
        return int(text)
    if match := _SECONDS.fullmatch(text):
        return Fraction(match.group(1))
    if match := _CLOCK.fullmatch(text):
        hours, minutes, seconds = int(match.group(1) or 0), int(match.group(2)), Fraction(match.group(3))
        if seconds < 60 and (match.group(1) is None or minutes < 60):
            return 3600 * hours + 60 * minutes + seconds
    hint = "Write a frame number like 250, or a time like 10s, 1:30 or 00:01:30.500."
    raise UsageError(f"{text or 'nothing'} is neither a frame number nor a time", hint=hint)


def parse_rate(text: str) -> Fraction:
    """Return frames a second: ``25``, ``30000/1001``, and ``23.976`` and the like as what they stand for.

    Raises UsageError for anything else.
    """
    known = _RATE.fullmatch(text.strip())
    rate = Fraction(known[0]).limit_denominator(10**6) if known else Fraction(0)
    if not 0 < rate <= FASTEST:
        raise UsageError(
            f"{text or 'nothing'} is no rate", hint="Write frames a second, like 25, 23.976 or 30000/1001."
        )
    broadcast = Fraction(math.ceil(rate) * 1000, 1001)
    return broadcast if abs(rate - broadcast) < ROUNDED and rate.denominator != 1 else rate


def first_frame_from(
    path: str | Path, position: Position, *, first_number: int | None = None, rate: Fraction = RATE
) -> int:
    """Return the number of the first frame at `position` or later; a number is returned as it is.

    Times count from the first frame of the clip, numbers and `rate` as in `open_source`. Raises UsageError when there
    is no such frame.
    """
    if isinstance(position, int):
        return position
    times = _times(path, first_number, rate)
    found = next((number for number, time in times.items() if time >= position), None)
    if found is None:
        last = max(times.values())
        cause = f"has no frame at {_seconds(position)} or later"
        raise UsageError(cause, path=path, hint=f"Its last frame is at {_seconds(last)}.")
    return found


def last_frame_until(
    path: str | Path, position: Position, *, first_number: int | None = None, rate: Fraction = RATE
) -> int:
    """Return the number of the last frame at `position` or earlier; a number is returned as it is."""
    if isinstance(position, int):
        return position
    return max(number for number, time in _times(path, first_number, rate).items() if time <= position)


def _times(path: str | Path, first_number: int | None, rate: Fraction) -> dict[int, Fraction]:
    with open_source(path, first_number=first_number, on_corrupt="skip", rate=rate) as source:
        times = source.times()
    first = min(times.values())
    return {number: time - first for number, time in times.items()}


def _seconds(time: Fraction) -> str:
    return f"{float(time):.3f} s"
