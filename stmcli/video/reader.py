"""Decode a video file into upright RGB frames with their exact times."""

import bisect
from collections.abc import Iterator
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import av
from av.container import InputContainer
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from stmcli.errors import UsageError, VideoError
from stmcli.images import MAX_PIXELS
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
from stmcli.video.hardware import Decoder, card_for
from stmcli.video.orientation import orientation_of
from stmcli.video.probe import frame_times, open_container, pick_video, probe, ticks
from stmcli.video.rgb import RgbConverter

_REORDERED = {"h264", "hevc"}  # their pictures come out in another order than AVI numbers them
_SUMMED = {"png", "apng"}  # their pictures hold checksums, which are looked at only where one asks for it


class VideoReader(Source):
    """Iterate over the frames of a video file.

    `start` and `end` are frame numbers counted from `first_number`, `end` inclusive. What cannot be decoded raises
    VideoError with `on_corrupt="fail"`, ends the iteration with "stop" and is replaced by the last good
    picture with "skip". With `decoder="nvdec"` the graphics card decodes, where it can; a warning says where not.
    """

    def __init__(
        self,
        path: Path,
        *,
        first_number: int | None = None,
        start: int | None = None,
        end: int | None = None,
        on_corrupt: OnCorrupt = "fail",
        decoder: Decoder = "software",
    ) -> None:
        check_range(path, start, end, first=first_number)
        info = replace(probe(path, on_corrupt=on_corrupt), first_number=first_number or 0, start=start, end=end)
        super().__init__(info, on_corrupt=on_corrupt)
        self._container: InputContainer | None = None
        self._decoder: Decoder = decoder
        self._untimed = info.container == "avi" and info.codec in _REORDERED  # the file holds no such times
        for number in (start, end):
            if number is not None and number < info.first_number:
                raise self._no_frame(number, info.frames)
        if start is not None and info.frames is not None and start >= info.first_number + info.frames:
            raise self._no_frame(start, info.frames)

    @property
    def count(self) -> int | None:
        """Return how many frames an iteration is expected to yield, None if that is unknown."""
        if self.info.frames is None:
            return None
        last = self.info.first_number + self.info.frames - 1
        return (last if self.info.end is None else min(self.info.end, last)) + 1 - self.info.first_chosen

    def times(self) -> dict[int, Fraction]:
        """Return the time of every frame of the file by its number, in order, decoding nothing."""
        return dict(enumerate(frame_times(self.info.path), self.info.first_number))

    def frame_name(self, index: int) -> str:
        """Return the stem of the mask file of frame `index`: its number in five digits."""
        return number_name(index)

    def number_of(self, name: str) -> int | None:
        """Return the number that `name` is, None when it is none."""
        return int(name) if name.isascii() and name.isdecimal() and name == number_name(int(name)) else None

    def close(self) -> None:
        """Close the file if an iteration left it open."""
        if self._container is not None:
            self._container.close()
            self._container = None

    def __iter__(self) -> Iterator[Frame]:
        self.close()
        self.corrupt_frames.clear()
        self.missing_from = None
        self._remarks.clear()
        card, why_not = card_for(self.info.path) if self._decoder == "nvdec" else (None, "")
        if why_not:
            self._remarks["decoder"] = f"decoded in software: {why_not}"
        self._container = container = open_container(self.info.path, hardware=card)
        stream = pick_video(container, self.info.path)
        stream.thread_type = "AUTO" if card is None else "SLICE"  # a card gains nothing by several frames at once
        strict = {"err_detect": "crccheck+explode"} if self.info.codec in _SUMMED else {}
        stream.codec_context.options = {"max_pixels": str(MAX_PIXELS), **strict}
        try:
            yield from self._frames(container, stream)
        finally:
            self.close()

    def _frames(self, container: InputContainer, stream: VideoStream) -> Iterator[Frame]:
        first, start, end = self.info.first_number, self.info.first_chosen, self.info.end
        clock, converter = _Clock(self.info), RgbConverter()
        rgb: RGB | None = None
        before: VideoFrame | None = None  # the last picture before `start`
        index = first - 1
        for index, (picture, pts) in enumerate(self._pictures(container, stream), first):
            time = clock.tick(pts)
            if clock.moved:
                self._remarks["time"] = f"{clock.moved} duplicate or backward timestamps were moved forward"
            if index < start:
                before = picture or before
                continue
            picture = picture or (before if rgb is None else None)
            if picture is not None:
                self._check_size(picture, index)
                rgb = converter.convert(picture)
            if rgb is None:
                raise VideoError(f"frame {index} cannot be decoded", path=self.info.path, hint="Start later.")
            yield Frame(index, time, rgb, corrupt=index in self.corrupt_frames)
            if index == end:
                return
        self._check_end(index)

    def _pictures(
        self, container: InputContainer, stream: VideoStream
    ) -> Iterator[tuple[VideoFrame | None, int | None]]:
        """Yield each picture with its timestamp, None in the place of one that is lost."""
        waiting: list[int] = []  # timestamps of packets whose picture has not come out yet
        sent: dict[int | None, int] = {}  # the number of the packet that each of them came in
        intra = True  # whether pictures come in the order of their packets, as each is a key frame
        damaged, index = False, self.info.first_number
        for number, (packet, is_key, pictures) in enumerate(_decoded(container, stream)):
            if packet is not None:
                bisect.insort(waiting, packet)
                sent[packet], intra = number, intra and is_key
            if pictures is None:
                if (packet is None or self._untimed) and self._stops_at(index):  # no time will tell which one is lost
                    return
                damaged = True
            for picture in pictures or ():
                if self._untimed:
                    picture.pts = waiting[0] if waiting else None
                came = sent.pop(picture.pts, -1)
                for pts in _take(waiting, picture.pts):
                    unseen = sent.pop(pts, number) < came and intra and index > self.info.first_number
                    if not (damaged or unseen):
                        continue
                    if self._stops_at(index):
                        return
                    self.corrupt_frames.append(index)
                    yield None, pts
                    index += 1
                if picture.is_corrupt and self._stops_at(index):
                    return
                if picture.is_corrupt:
                    self.corrupt_frames.append(index)
                yield picture, picture.pts
                index += 1
        for pts in waiting if damaged else ():
            if self._stops_at(index):
                return
            self.corrupt_frames.append(index)
            yield None, pts
            index += 1
        if damaged and self.on_corrupt == "fail":  # an error of the decoder, though a picture came of every packet
            self._stops_at(index)

    def _no_frame(self, number: int, count: int | None) -> UsageError:
        first = self.info.first_number
        last = None if count is None else first + count - 1
        return no_such_frame(self.info.path, number, first=first, last=last, count=count)

    def _stops_at(self, index: int) -> bool:
        """Return whether the iteration ends at the damaged frame `index`; raise when damage is an error."""
        if self.on_corrupt == "fail":
            on_card = self._decoder == "nvdec" and "decoder" not in self._remarks
            hint = "Decode it in software, or go" if on_card else "Copy it again, or go"
            hint += " on with --on-corrupt stop or skip."
            raise VideoError(f"frame {index} cannot be decoded", path=self.info.path, hint=hint)
        if self.on_corrupt == "stop":
            self.corrupt_frames.append(index)
            self._remarks["stop"] = f"stopped at frame {index}, which cannot be decoded"
        return self.on_corrupt == "stop"

    def _check_size(self, picture: VideoFrame, index: int) -> None:
        size = (picture.width, picture.height)
        if orientation_of(picture).swaps_sides:
            size = size[::-1]
        if size != (self.info.width, self.info.height):
            first = f"{self.info.width}x{self.info.height}"
            cause = f"frame {index} is {size[0]}x{size[1]} but the first is {first}"
            raise VideoError(cause, path=self.info.path, hint="Convert the clip to one size.")

    def _check_end(self, last: int) -> None:
        start, count = self.info.first_chosen, last + 1 - self.info.first_number
        if not count:
            raise VideoError("0 frames can be decoded", path=self.info.path, hint="Copy or record it again.")
        if start > last:
            raise self._no_frame(start, count)
        if self.info.cut_short and (self.info.frames is None or count < self.info.frames):
            self.missing_from = last + 1
            self._remarks["missing"] = f"the clip is missing from frame {last + 1} on"
        if early := self.info.ends_early(last):
            self._remarks["end"] = early
        elif self.info.frames is not None and count != self.info.frames and self.is_whole:
            self._remarks["count"] = f"declares {self.info.frames} frames and has {count}"


class _Clock:
    """Turn timestamps into strictly increasing times, in whole ticks of the stream's time base."""

    def __init__(self, info: SourceInfo) -> None:
        self.moved = 0
        self._base = info.time_base
        self._step = ticks(info.rate, info.time_base)
        self._last: int | None = None

    def tick(self, pts: int | None) -> Fraction:
        if self._last is None:
            self._last = pts or 0
        elif pts is None:
            self._last += self._step
        elif pts > self._last:
            self._last = pts
        else:
            self._last += 1
            self.moved += 1
        return self._last * self._base


def _decoded(
    container: InputContainer, stream: VideoStream
) -> Iterator[tuple[int | None, bool, list[VideoFrame] | None]]:
    """Yield the timestamp of each packet, whether it is a key frame, and what came out, None upon an error."""
    packets = container.demux(stream)
    while True:
        try:
            packet = next(packets)
        except StopIteration:
            return
        except av.FFmpegError:
            yield None, False, None
            return
        pts = None if packet.is_discard else packet.pts
        try:
            yield pts, packet.is_keyframe, packet.decode()
        except av.FFmpegError:
            yield pts, packet.is_keyframe, None


def _take(waiting: list[int], pts: int | None) -> list[int]:
    """Remove the timestamps up to `pts` from `waiting`, and return those before it."""
    if pts is None:
        return []
    before = waiting[: bisect.bisect_left(waiting, pts)]
    del waiting[: bisect.bisect_right(waiting, pts)]
    return before
