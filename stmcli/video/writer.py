"""Encode frames at their exact times, beside the sound of their source."""

import contextlib
import errno
import os
from collections.abc import Iterator, Mapping
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import Self

import av
import numpy as np
from av.container import OutputContainer
from av.video.frame import VideoFrame
from av.video.reformatter import ColorPrimaries, ColorRange, Colorspace, ColorTrc
from av.video.stream import VideoStream

from stmcli.errors import VideoError, WriteError
from stmcli.video.audio import AudioTrack, has_sound
from stmcli.video.frame import RGB
from stmcli.video.probe import open_container

_MOV_SUFFIXES = {".mp4", ".mov", ".m4v"}
_FINE_CLOCK = 1000  # ticks a second, at least
_BT709 = 1  # the number of BT.709 in all three colour tags


class VideoWriter:
    """Write RGB (or RGBA) frames to a video file that appears under its name only when it is whole.

    `size` is (width, height) of the frames, `time_base` the source's: times are kept exactly where the
    container can (MP4, MOV). The encoder is open when this returns, so that it fails before any work.
    The first frame gets the time `start` (None: its own), and the sound of `audio_from` moves along;
    `trim_audio` ends the sound with the last frame. `notes` says what was done differently than asked.
    Every method raises WriteError for a full disk or an encoder that refuses.
    """

    def __init__(
        self,
        path: Path,
        *,
        size: tuple[int, int],
        rate: Fraction,
        time_base: Fraction,
        codec: str = "libx264",
        pix_fmt: str = "yuv420p",
        options: Mapping[str, str] | None = None,
        audio_from: Path | None = None,
        start: Fraction | None = None,
        trim_audio: bool = False,
        aspect: Fraction = Fraction(1),
    ) -> None:
        self.path = path
        self.frames = 0
        self.notes: list[str] = []
        self._part = path.with_name(f"{path.stem}.part{path.suffix}")
        self._size, self._rate, self._base = size, rate, time_base
        self._codec, self._pix_fmt, self._options = codec, pix_fmt, dict(options or {})
        self._start, self._trim_audio, self._aspect = start, trim_audio, aspect
        self._origin: Fraction | None = None
        self._last = Fraction(0)
        self._ticks: int | None = None
        self._container: OutputContainer | None = None
        self._audio: AudioTrack | None = None
        self._pad = self._padding()
        self._stream = self._open(audio_from)

    def write(self, picture: RGB, time: Fraction) -> None:
        """Append one frame, (H, W, 3) or (H, W, 4) uint8, shown at `time` seconds of the source."""
        if picture.shape[1::-1] != self._size:
            raise ValueError(f"{self.path} takes frames of {self._size}, not {picture.shape[1::-1]}")
        if self._origin is None:
            self._origin = Fraction(0) if self._start is None else time - self._start
        self._last = time
        try:
            self._mux(self._picture(picture, time))
        except (av.FFmpegError, OSError) as error:
            self.abort()
            raise self._refusal(error) from error
        self.frames += 1

    def close(self) -> None:
        """Finish the file, check that every frame is in it, and give it its name."""
        if self._container is None:
            return
        try:
            self._mux(None)
            self._finish_audio()
            self._container.close()
            self._container = None
            self._verify()
            os.replace(self._part, self.path)
        except (av.FFmpegError, OSError) as error:
            self.abort()
            raise self._refusal(error) from error
        except WriteError:
            self.abort()
            raise

    def abort(self) -> None:
        """Give up: remove the unfinished file and leave what was there before."""
        container, self._container = self._container, None
        if container is not None:
            with contextlib.suppress(av.FFmpegError, OSError, ValueError):
                container.close()
        self._close_audio()
        self._part.unlink(missing_ok=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            self.close()
        else:
            self.abort()

    def _padding(self) -> tuple[int, int]:
        """Return how many columns and rows 4:2:0 or 4:2:2 lacks to take an odd size."""
        width, height = self._size
        half_wide, half_high = "420" in self._pix_fmt or "422" in self._pix_fmt, "420" in self._pix_fmt
        pad = (width % 2 if half_wide else 0, height % 2 if half_high else 0)
        if any(pad):
            self.notes.append(
                f"{self.path.name} is {width + pad[0]}x{height + pad[1]}: {self._codec} takes no odd size, "
                "so the last column or row is repeated"
            )
        return pad

    def _open(self, audio_from: Path | None) -> VideoStream:
        """Open the file and its encoders; encode the sound again where the container refuses a copy."""
        if audio_from is None or not has_sound(audio_from):
            return self._try_open(None, encode=False)
        try:
            return self._try_open(audio_from, encode=False)
        except WriteError:
            stream = self._try_open(audio_from, encode=True)
        assert self._audio is not None
        self.notes.append(f"the sound of {self.path.name} was encoded again as {self._audio.codec}")
        return stream

    def _try_open(self, audio_from: Path | None, *, encode: bool) -> VideoStream:
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._container = out = av.open(str(self._part.absolute()), "w", options=self._muxer_options())
            stream = self._add_video(out)
            if audio_from is not None:
                self._audio = AudioTrack(audio_from, out, suffix=self.path.suffix.lower(), encode=encode)
            out.start_encoding()
        except (av.FFmpegError, OSError, ValueError) as error:
            self.abort()
            raise self._refusal(error) from error
        return stream

    def _muxer_options(self) -> dict[str, str]:
        """Return options that let MP4 and MOV start at any tick: their own clock counts milliseconds."""
        if self.path.suffix.lower() not in _MOV_SUFFIXES:
            return {}
        factor = -(-_FINE_CLOCK // self._base.denominator)
        return {"movie_timescale": str(self._base.denominator * factor)}

    def _add_video(self, out: OutputContainer) -> VideoStream:
        stream = out.add_stream(self._codec, rate=self._rate, options=dict(self._options))
        assert isinstance(stream, VideoStream), stream
        width, height = self._size
        stream.width, stream.height = width + self._pad[0], height + self._pad[1]
        stream.pix_fmt = self._pix_fmt
        context = stream.codec_context
        context.time_base = stream.time_base = self._base
        if self._aspect != 1:
            context.sample_aspect_ratio = self._aspect
        if "yuv" in self._pix_fmt:
            context.color_primaries = context.color_trc = context.colorspace = _BT709
            context.color_range = ColorRange.MPEG
        return stream

    def _picture(self, picture: RGB, time: Fraction) -> VideoFrame:
        if any(self._pad):
            columns, rows = self._pad
            picture = np.pad(picture, ((0, rows), (0, columns), (0, 0)), mode="edge")
        layout = "rgba" if picture.shape[2] == 4 else "rgb24"
        frame = _convert(VideoFrame.from_ndarray(np.ascontiguousarray(picture), layout), self._pix_fmt)
        ticks = round((time - (self._origin or 0)) / self._base)
        self._ticks = ticks if self._ticks is None else max(ticks, self._ticks + 1)
        frame.pts, frame.time_base = self._ticks, self._base
        frame.duration = max(1, round(1 / (self._rate * self._base)))
        return frame

    def _mux(self, frame: VideoFrame | None) -> None:
        """Encode `frame` (None: what is still in the encoder), each packet after the sound before it."""
        assert self._container is not None, "write() after close()"
        for packet in self._stream.encode(frame):
            if packet.dts is not None:
                self._advance_audio(packet.dts * packet.time_base + (self._origin or 0))
            with self._damaged_sound_forgiven():
                self._container.mux(packet)

    def _advance_audio(self, until: Fraction | None) -> None:
        if self._audio is not None:
            with self._damaged_sound_forgiven():
                self._audio.advance(until, origin=self._origin or Fraction(0))

    def _finish_audio(self) -> None:
        self._advance_audio(self._last + 1 / self._rate if self._trim_audio else None)
        if self._audio is None:
            return
        with self._damaged_sound_forgiven():
            self._audio.finish()
        if self._audio is not None and self._audio.broken:
            self._note_broken_sound(self._audio.broken)
        self._close_audio()

    @contextlib.contextmanager
    def _damaged_sound_forgiven(self) -> Iterator[None]:
        """End the sound where the muxer refuses a packet of it; close() checks that no picture was lost.

        The muxer sorts packets in a queue, so that a bad one may be refused when a picture is written.
        """
        try:
            yield
        except (av.error.InvalidDataError, av.error.ArgumentError) as error:
            if self._audio is None:
                raise
            self._note_broken_sound(str(error.strerror))
            self._close_audio()

    def _note_broken_sound(self, reason: str) -> None:
        self.notes.append(f"the sound of {self.path.name} is not whole: {reason}")

    def _close_audio(self) -> None:
        audio, self._audio = self._audio, None
        if audio is not None:
            audio.close()

    def _verify(self) -> None:
        if not self.frames:
            raise WriteError("0 frames were given to it", path=self.path)
        try:
            with open_container(self._part) as container:
                found = sum(packet.size > 0 for packet in container.demux(container.streams.video[0]))
        except VideoError as error:
            cause = f"the finished file cannot be read ({error.cause})"
            raise WriteError(cause, path=self.path, hint="Run it again.") from error
        if found != self.frames:
            cause = f"{found} of {self.frames} frames are in the finished file"
            raise WriteError(cause, path=self.path, hint="Run it again.")

    def _refusal(self, error: Exception) -> WriteError:
        if getattr(error, "errno", None) == errno.ENOSPC:
            return WriteError("the disk is full", path=self.path, hint="Free some space and run it again.")
        reason = getattr(error, "strerror", None) or str(error)
        if isinstance(error, av.codec.codec.UnknownCodecError):
            cause = f"there is no encoder {self._codec} here"
            return WriteError(cause, path=self.path, hint="`stm doctor` lists what there is.")
        return WriteError(f"cannot be written with {self._codec} ({reason})", path=self.path)


def _convert(frame: VideoFrame, pix_fmt: str) -> VideoFrame:
    """Return a full-range RGB frame in `pix_fmt`; YUV becomes BT.709, limited range, and is tagged so."""
    if "yuv" not in pix_fmt:
        return frame.reformat(format=pix_fmt)
    frame = frame.reformat(
        format=pix_fmt,
        dst_colorspace=Colorspace.ITU709,
        src_color_range=ColorRange.JPEG,
        dst_color_range=ColorRange.MPEG,
    )
    frame.colorspace, frame.color_range = _BT709, ColorRange.MPEG
    frame.color_primaries, frame.color_trc = ColorPrimaries.BT709, ColorTrc.BT709
    return frame
