"""Carry the sound of one file into another, unchanged where the container takes its codec."""

from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import av
from av.audio.frame import AudioFrame
from av.audio.stream import AudioStream
from av.container import OutputContainer
from av.packet import Packet

from stmcli.video.probe import list_audio, open_container, pick_audio

_ENCODERS = {".webm": "libopus"}
_RATE = 48000  # what every encoder takes


def count_sounds(path: Path) -> int:
    """Return how many sound tracks of a media file can be read."""
    with open_container(path) as container:
        return len(list_audio(container))


class AudioTrack:
    """Feed the first audio stream of `source` into `out`, up to a moment at a time.

    With `encode` the sound is decoded and encoded again (AAC, Opus in WebM). Sound that cannot be read
    ends the track; `broken` then says why.
    """

    def __init__(self, source: Path, out: OutputContainer, *, suffix: str, encode: bool) -> None:
        self.broken: str | None = None
        self.codec = _ENCODERS.get(suffix, "aac") if encode else None
        self._out = out
        self._container = open_container(source)
        source_stream = pick_audio(self._container)
        assert source_stream is not None, f"{source} has no sound"
        self._source = source_stream
        self._base = source_stream.time_base or Fraction(1, source_stream.rate)
        self._stream = self._add_stream()
        self._waiting: Packet[AudioStream] | None = None
        self._packets: Iterator[Packet[AudioStream]] = self._container.demux(self._source)

    def _add_stream(self) -> AudioStream:
        if self.codec is None:
            return self._out.add_stream_from_template(self._source)
        rates = av.Codec(self.codec, "w").audio_rates or []
        stream = self._out.add_stream(self.codec, rate=self._source.rate if self._source.rate in rates else _RATE)
        assert isinstance(stream, AudioStream), stream
        stream.layout = self._source.layout.name
        return stream

    def advance(self, until: Fraction | None, *, origin: Fraction) -> None:
        """Mux what sounds before `until` (None: all the rest), in the source's clock, less `origin`."""
        while (packet := self._peek()) is not None:
            time = (packet.pts or 0) * self._base
            if until is not None and time >= until:
                return
            self._waiting = None
            offset = round(origin / self._base)  # of a clock that may be known to the microsecond only
            if not origin or (packet.pts or 0) >= offset:
                self._mux(packet, offset)

    def finish(self) -> None:
        """Write what the encoder still holds."""
        if self.codec is not None:
            self._out.mux(self._stream.encode(None))

    def close(self) -> None:
        """Close the source."""
        self._container.close()

    def _peek(self) -> "Packet[AudioStream] | None":
        try:
            while self._waiting is None:
                packet = next(self._packets)
                self._waiting = packet if packet.pts is not None else None
        except StopIteration:
            return None
        except av.FFmpegError as error:
            self.broken = str(error)
            return None
        return self._waiting

    def _mux(self, packet: "Packet[AudioStream]", offset: int) -> None:
        if self.codec is not None:
            for frame in self._decode(packet):
                if frame.pts is not None:
                    frame.pts -= offset
                self._out.mux(self._stream.encode(frame))
            return
        packet.pts = (packet.pts or 0) - offset
        packet.dts = packet.pts if packet.dts is None else packet.dts - offset
        packet.stream = self._stream
        self._out.mux(packet)

    def _decode(self, packet: "Packet[AudioStream]") -> list[AudioFrame]:
        try:
            return packet.decode()
        except av.FFmpegError as error:
            self.broken = str(error)
            return []
