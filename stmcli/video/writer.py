"""Encode frames at their exact times, beside the sound of their source."""

import contextlib
import os
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import Self

import av
import numpy as np
from av.container import OutputContainer
from av.video.frame import VideoFrame
from av.video.reformatter import ColorRange
from av.video.stream import VideoStream

from stmcli.errors import WriteError
from stmcli.files import NO_ROOM, no_room
from stmcli.video.audio import AudioTrack, count_sounds
from stmcli.video.codecs import Codec
from stmcli.video.film import FilmFacts, check_film
from stmcli.video.frame import RGB
from stmcli.video.log import silence
from stmcli.video.picture import BT709, encode_picture
from stmcli.video.probe import ticks

_MOV_SUFFIXES = {".mp4", ".mov", ".m4v"}
_FINE_CLOCK = 1000  # ticks a second, at least
_MILLISECONDS = {".mkv", ".webm"}  # what the clock of these counts


class VideoWriter:
    """Write RGB (or RGBA) frames to a video file that appears under its name only when it is whole.

    `size` is (width, height) of the frames, `time_base` the source's: times are kept exactly where the
    container can (MP4, MOV; others to the millisecond). The encoder is open when this returns, so that it
    fails before any work. The first frame gets the time `start` (None: its own) and the start `timecode`
    ("01:00:00:00"), and the sound of `audio_from` moves along; `trim_audio` ends the sound with the last
    frame. `notes` says what was done differently than asked, `facts` after close() what the finished file
    was found to hold. Every method raises WriteError for a full disk or an encoder that refuses.
    """

    def __init__(
        self,
        path: Path,
        *,
        codec: Codec,
        size: tuple[int, int],
        rate: Fraction,
        time_base: Fraction,
        audio_from: Path | None = None,
        start: Fraction | None = None,
        trim_audio: bool = False,
        aspect: Fraction = Fraction(1),
        timecode: str | None = None,
    ) -> None:
        self.path, self.codec = path, codec
        self.frames = 0
        self.notes: list[str] = []
        self.facts: FilmFacts | None = None
        self._part = path.with_name(f"{path.stem}.part{path.suffix}")
        self._size, self._rate = size, rate
        self._base = Fraction(1, 1000) if path.suffix.lower() in _MILLISECONDS else time_base
        self._start, self._trim_audio, self._aspect, self._timecode = start, trim_audio, aspect, timecode
        self._origin: Fraction | None = None
        self._last = Fraction(0)
        self._ticks: tuple[int, int] | None = None  # of the first frame and of the latest
        self._container: OutputContainer | None = None
        self._audio: AudioTrack | None = None
        self._pad = (size[0] % 2, size[1] % 2) if codec.even else (0, 0)
        self._stream = self._open(codec, audio_from)
        self._note_padding()

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
            refusal = self._refusal(error)
            self.abort()
            raise refusal from error
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
            self.facts = self._check()
            os.replace(self._part, self.path)
        except (av.FFmpegError, OSError) as error:
            refusal = self._refusal(error)
            self.abort()
            raise refusal from error
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

    def _note_padding(self) -> None:
        if any(self._pad):
            width, height = self._padded_size
            self.notes.append(
                f"{self.path.name} is {width}x{height}: {self.codec.encoder} takes no odd size, "
                "so the last column or row is repeated"
            )

    @property
    def _padded_size(self) -> tuple[int, int]:
        return self._size[0] + self._pad[0], self._size[1] + self._pad[1]

    def _open(self, codec: Codec, audio_from: Path | None) -> VideoStream:
        """Open the file and its encoders, with the fallback where the encoder is missing or refuses."""
        try:
            return self._open_with_sound(codec, audio_from)
        except WriteError as error:
            if codec.fallback is None:
                raise
            stream = self._open(codec.fallback, audio_from)
            self.notes.append(f"{self.path.name} is encoded with {self.codec.encoder}: {error.cause}")
            return stream

    def _open_with_sound(self, codec: Codec, audio_from: Path | None) -> VideoStream:
        """Open with a copy of the sound, else with the sound encoded again, else without any."""
        sounds = count_sounds(audio_from) if audio_from else 0
        if not sounds:
            return self._try_open(codec, None, encode=False)
        if sounds > 1:
            self.notes.append(f"{self.path.name} has the first of {sounds} sound tracks")
        for encode in (False, True):
            with contextlib.suppress(WriteError):
                stream = self._try_open(codec, audio_from, encode=encode)
                if self._audio is not None and self._audio.codec is not None:
                    self.notes.append(f"the sound of {self.path.name} was encoded again as {self._audio.codec}")
                return stream
        stream = self._try_open(codec, None, encode=False)
        self.notes.append(f"{self.path.name} has no sound: it can neither be copied nor encoded again")
        return stream

    def _try_open(self, codec: Codec, audio_from: Path | None, *, encode: bool) -> VideoStream:
        self.codec = codec
        silence()
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
        """Return options that keep the first picture where it is.

        The clock of MP4 and MOV counts milliseconds unless told otherwise. MKV and WebM would move all to
        make room for what the sound of most MP4 files needs before its beginning, 21 ms of AAC.
        """
        suffix = self.path.suffix.lower()
        if suffix in _MILLISECONDS:
            return {"avoid_negative_ts": "disabled"}
        if suffix not in _MOV_SUFFIXES:
            return {}
        factor = -(-_FINE_CLOCK // self._base.denominator)
        return {"movie_timescale": str(self._base.denominator * factor)}

    def _add_video(self, out: OutputContainer) -> VideoStream:
        stream = out.add_stream(self.codec.encoder, rate=self._rate, options=dict(self.codec.options))
        assert isinstance(stream, VideoStream), stream
        stream.width, stream.height = self._padded_size
        stream.pix_fmt = self.codec.pix_fmt
        stream.thread_type = "AUTO"  # frames side by side: PyAV asks for slices, which costs quality or does nothing
        context = stream.codec_context
        context.time_base = stream.time_base = self._base
        if self._aspect != 1:
            context.sample_aspect_ratio = self._aspect
        if self.codec.is_yuv:
            context.color_primaries = context.color_trc = context.colorspace = BT709
            context.color_range = ColorRange.MPEG
        if self._timecode is not None:
            stream.metadata["timecode"] = self._timecode
        return stream

    def _picture(self, picture: RGB, time: Fraction) -> VideoFrame:
        if any(self._pad):
            columns, rows = self._pad
            picture = np.pad(picture, ((0, rows), (0, columns), (0, 0)), mode="edge")
        frame = encode_picture(picture, self.codec.pix_fmt)
        pts = round((time - (self._origin or 0)) / self._base)
        first, pts = (pts, pts) if self._ticks is None else (self._ticks[0], max(pts, self._ticks[1] + 1))
        self._ticks = first, pts
        frame.pts, frame.time_base = pts, self._base
        frame.duration = ticks(self._rate, self._base)
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

    def _check(self) -> FilmFacts:
        if self._ticks is None:
            raise WriteError("0 frames were given to it", path=self.path)
        span = (self._ticks[1] - self._ticks[0]) * self._base
        alpha = self.codec.has_alpha
        facts = check_film(self._part, frames=self.frames, span=span, alpha=alpha, final=self.path)
        if self._timecode != facts.timecode:
            self.notes.append(f"{self.path.name} cannot hold the timecode {self._timecode}")
        if self._aspect != facts.aspect:  # MKV and WebM: PyAV does not hand it to them
            shape = f"{self._aspect.numerator}:{self._aspect.denominator}"
            self.notes.append(f"{self.path.name} does not say that its pixels are {shape}")
        return facts

    def _refusal(self, error: Exception) -> WriteError:
        if (number := getattr(error, "errno", None)) in NO_ROOM:
            return no_room(self.path, number, size=self._part.stat().st_size if self._part.exists() else 0)
        reason = getattr(error, "strerror", None) or str(error)
        if isinstance(error, av.codec.codec.UnknownCodecError):
            cause = f"there is no encoder {self.codec.encoder} here"
            return WriteError(cause, path=self.path, hint="`stm doctor` lists what there is.")
        return WriteError(f"cannot be written with {self.codec.encoder} ({reason})", path=self.path)
