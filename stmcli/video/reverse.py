"""The frames of a clip from its end to its beginning, a few decoded at a time."""

from collections.abc import Iterator
from contextlib import suppress
from fractions import Fraction

import av

from stmcli.video.frame import Frame, Source
from stmcli.video.probe import open_container, pick_video
from stmcli.video.rgb import RgbConverter
from stmcli.video.source import open_source

CHUNK_BYTES = 2**28  # decoded at once
CHUNK_FRAMES = 64
EARLY = (0, 2, 10)  # seconds: in some containers a jump ends behind where it was to go


def frames_backward(source: Source, *, first: int, last: int) -> Iterator[Frame]:
    """Yield the frames `last` to `first` of a source, both inclusive, in that order.

    Every chunk of them is decoded from the key frame before it on; where a file cannot be entered there, from its
    beginning. Raises what iterating over the source would raise.
    """
    times = {number: time for number, time in source.times().items() if first <= number <= last}
    numbers = sorted(times, reverse=True)
    size = max(1, min(CHUNK_FRAMES, CHUNK_BYTES // (3 * source.info.width * source.info.height)))
    for place in range(0, len(numbers), size):
        chunk = numbers[place : place + size][::-1]
        yield from reversed(_sought(source, {n: times[n] for n in chunk}) or _decoded(source, chunk))


def _can_seek(source: Source) -> bool:
    """Tell whether the times in a file are those of its pictures: AVI numbers packets, whatever order they show in."""
    return source.info.is_video and source.info.container != "avi"


def _decoded(source: Source, chunk: list[int]) -> list[Frame]:
    info = source.info
    with open_source(
        info.path,
        first_number=info.first_number,
        start=chunk[0],
        end=chunk[-1],
        on_corrupt=source.on_corrupt,
        rate=info.rate,
    ) as part:
        return list(part)


def _sought(source: Source, times: dict[int, Fraction]) -> list[Frame] | None:
    """Return the frames with these times, entering the file close before them; None if any of them is not found."""
    if _can_seek(source):
        for early in EARLY:
            with suppress(av.FFmpegError):
                frames = _entered(source, {time: number for number, time in times.items()}, early)
                if [frame.index for frame in frames] == [*times]:
                    return frames
    return None


def _entered(source: Source, numbers: dict[Fraction, int], early: int) -> list[Frame]:
    """Return those of the frames, by time, that come out right when the file is entered so many seconds before them."""
    frames, converter, info = list[Frame](), RgbConverter(), source.info
    first, whole = min(numbers), False
    with open_container(info.path) as container:
        stream = pick_video(container, info.path)
        stream.thread_type = "AUTO"
        base = stream.time_base or Fraction(1)
        container.seek(int((first - early) / base), stream=stream)
        for picture in container.decode(stream):
            time = None if picture.pts is None else picture.pts * base
            whole = whole or (picture.key_frame and time is not None and time <= first)
            if picture.is_corrupt or time is None or (time >= first and not whole):
                break
            if time in numbers:
                frames.append(Frame(numbers[time], time, converter.convert(picture)))
                if frames[-1].rgb.shape[:2] != (info.height, info.width):
                    break
            if time >= max(numbers):
                return frames
    return []
