"""Open a video file safely and find out what it holds, before it is decoded."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from fractions import Fraction
from itertools import dropwhile
from pathlib import Path

import av
from av.audio.stream import AudioStream
from av.codec.hwaccel import HWAccel
from av.container import InputContainer
from av.stream import Disposition
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from stmcli.errors import VideoError
from stmcli.images import MAX_PIXELS
from stmcli.video.color import color_of, oddities
from stmcli.video.ends import end_doubt, end_loss, is_cut_mkv
from stmcli.video.faults import explain
from stmcli.video.frame import OnCorrupt, SourceInfo
from stmcli.video.log import silence
from stmcli.video.orientation import orientation_of
from stmcli.video.timecode import find_timecode

# Formats that hold their own pictures: none of these can point at another file or host.
_FORMATS = (
    "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpegts,mpeg,mpegvideo,flv,asf,ogg,mxf,gif,apng,ivf,obu,"
    "h264,hevc,m4v,yuv4mpegpipe,nut,dv,rm,wav,mp3,flac,aac"
)
_OPEN_OPTIONS = {
    "format_whitelist": _FORMATS,
    "protocol_whitelist": "file",
    "max_pixels": str(MAX_PIXELS),
}
_CONTAINERS = {"matroska": "mkv", "mpegts": "ts", "mov": "mp4"}
_LATE_CLOCK = {"mpegts", "mpeg"}
_BARE = {"h264", "hevc", "m4v", "mpegvideo", "obu"}  # packets of a codec and nothing else
_STOP_HINT = "Copy it again, or take what is there with --on-corrupt stop."
_SLACK = Fraction(1, 10)  # seconds, at least, that a container may declare beyond its last packet
_CLOCK = Fraction(5, 1000)  # seconds: a packet's time and length, each rounded to whole milliseconds


def open_container(path: Path, *, hardware: HWAccel | None = None) -> InputContainer:
    """Open a media file without touching any other file or host; raise VideoError or UsageError.

    `hardware` decodes what it can of it.
    """
    silence()  # and a whole path, since what stands before a colon would be a protocol
    try:
        return av.open(
            str(path.absolute()), "r", options=dict(_OPEN_OPTIONS), metadata_errors="replace", hwaccel=hardware
        )
    except (av.FFmpegError, OSError) as error:
        raise explain(path, error) from error


def pick_video(container: InputContainer, path: Path) -> VideoStream:
    """Return the moving pictures of a container, never its cover art."""
    moving = [s for s in container.streams.video if not s.disposition & Disposition.attached_pic]
    if moving and moving[0].codec_context is None:
        raise VideoError("there is no decoder for its video stream", path=path, hint="Convert it to H.264.")
    if moving:
        return moving[0]
    held = {"only cover art": container.streams.video, "only audio": container.streams.audio}
    what = next((name for name, streams in held.items() if streams), "0 frames")
    raise VideoError(f"no video stream ({what} in it)", path=path, hint="Give a file with moving pictures.")


def pick_audio(container: InputContainer) -> AudioStream | None:
    """Return the first sound of a container that can be read, None without any."""
    return next(iter(list_audio(container)), None)


def list_audio(container: InputContainer) -> list[AudioStream]:
    """Return the sounds of a container that can be read."""
    return [s for s in container.streams.audio if s.codec_context is not None]


@dataclass(frozen=True)
class Sound:
    """Describe the sound of a clip; `rate` is samples per second."""

    codec: str
    channels: int
    rate: int


def sound_of(path: Path) -> Sound | None:
    """Return the sound of a media file, None without any that can be read."""
    with open_container(path) as container:
        stream = pick_audio(container)
        if stream is None:
            return None
        return Sound(stream.codec_context.name, stream.codec_context.channels, stream.rate)


def declared_frames(path: Path) -> int | None:
    """Return how many frames the header of a file names, shown or not; None if it names none."""
    with open_container(path) as container:
        return pick_video(container, path).frames or None


def probe(path: Path, *, on_corrupt: OnCorrupt = "fail") -> SourceInfo:
    """Return what `path` holds after decoding one frame of it.

    A file that was cut short is an error with `on_corrupt="fail"` and a warning otherwise.
    """
    with open_container(path) as container:
        stream = pick_video(container, path)
        _check_area(stream, path)
        picture = _key_picture(container, stream) or _first_picture(path)
        loss = _loss(container, stream, path)
        if loss and on_corrupt == "fail":
            raise VideoError(loss, path=path, hint=_STOP_HINT)
        if picture is None:
            cause = "0 frames can be decoded" if stream.width else "its pictures have no or an absurd size"
            raise VideoError(cause, path=path, hint="Copy or record it again.")
        ending = loss or end_doubt(path, container.format.name)
        warnings = (*([ending] if ending else []), *_oddities(stream, picture))
        info = replace(_describe(container, stream, picture, path, warnings), cut_short=bool(loss))
        return replace(info, frames=None) if loss and container.format.name == "gif" else info  # counted, not declared


def frame_times(path: Path) -> tuple[Fraction, ...]:
    """Return the presentation time of every frame that will decode, in order, decoding nothing.

    Follows edit lists, and leaves out what a transport stream cut in its middle cannot show. Frames of a bare stream,
    which holds no times, are as far apart as its rate says.
    """
    with open_container(path) as container:
        stream = pick_video(container, path)
        base = stream.time_base or Fraction(1)
        try:
            stamps = sorted(_shown(container, stream))
        except av.FFmpegError as error:
            raise explain(path, error) from error
        if not stamps and container.format.name in _BARE:
            step = ticks(_rate(stream), base)
            stamps = [place * step for place in range(_count(path))]
    return tuple(stamp * base for stamp in stamps)


def ticks(rate: Fraction, base: Fraction) -> int:
    """Return how many ticks of a time base, in seconds, a frame lasts at `rate` frames a second."""
    return max(1, round(1 / (rate * base)))


def _count(path: Path) -> int:
    """Return how many packets there are from the first key frame on."""
    with open_container(path) as container:
        packets = (packet for packet in container.demux(pick_video(container, path)) if packet.size)
        return sum(1 for _ in dropwhile(lambda packet: not packet.is_keyframe, packets))


def _shown(container: InputContainer, stream: VideoStream) -> Iterator[int]:
    """Yield the timestamp of each packet that is shown and can be decoded: none before the first key frame."""
    first: int | None = None
    late = container.format.name in _LATE_CLOCK  # broadcasts mark packets that may well decode
    for packet in container.demux(stream):
        if packet.pts is None or not packet.size or (packet.is_corrupt and not late):  # cut off by the file's end
            continue
        if first is None and packet.is_keyframe:
            first = packet.pts
        if first is not None and not packet.is_discard and (packet.is_keyframe or packet.pts >= first):
            yield packet.pts


def _check_area(stream: VideoStream, path: Path) -> None:
    if stream.width * stream.height > MAX_PIXELS:
        cause = f"{stream.width}x{stream.height} is more than {MAX_PIXELS // 2**20} megapixels"
        raise VideoError(cause, path=path, hint="Scale it down first.")
    stream.codec_context.options = {"max_pixels": str(MAX_PIXELS)}


def _key_picture(container: InputContainer, stream: VideoStream) -> VideoFrame | None:
    """Return the picture of the first packet where that is the first to be shown: what follows need not be decoded."""
    try:
        packet = next(container.demux(stream))
        pictures = [*packet.decode(), *stream.codec_context.decode(None)]
    except (av.FFmpegError, StopIteration):
        return None
    first = stream.start_time is not None and [picture.pts for picture in pictures] == [stream.start_time]
    return pictures[0] if first else None


def _first_picture(path: Path) -> VideoFrame | None:
    """Return the first picture that the decoder gives."""
    with open_container(path) as container:
        stream = pick_video(container, path)
        _check_area(stream, path)
        packets = container.demux(stream)
        while True:
            try:
                packet = next(packets, None)
                if packet is None:
                    return None
                if pictures := packet.decode():
                    return pictures[0]
            except av.FFmpegError:
                continue


def _describe(
    container: InputContainer, stream: VideoStream, picture: VideoFrame, path: Path, warnings: tuple[str, ...]
) -> SourceInfo:
    base = stream.time_base or Fraction(1, 25)
    rotation, flip = upright = orientation_of(picture)
    turned = upright.swaps_sides
    aspect = stream.sample_aspect_ratio or Fraction(1)
    late = container.format.name in _LATE_CLOCK and container.start_time is not None
    audio = pick_audio(container)
    return SourceInfo(
        path=path,
        name=path.stem,
        width=picture.height if turned else picture.width,
        height=picture.width if turned else picture.height,
        frames=_declared(stream),
        rate=_rate(stream),
        time_base=base,
        is_video=True,
        rotation=rotation,
        flip=flip,
        container=_container_name(container, path),
        audio=audio.codec_context.name if audio else None,
        codec=stream.codec_context.name,
        color=color_of(picture),
        interlaced=picture.interlaced_frame,
        aspect=1 / aspect if turned else aspect,
        start_time=(picture.pts or 0) * base,
        shift=Fraction(container.start_time, av.time_base) if late else Fraction(0),
        duration=Fraction(container.duration, av.time_base) if container.duration else None,
        timecode=find_timecode(container, stream),
        warnings=warnings,
    )


def _container_name(container: InputContainer, path: Path) -> str:
    """Return the usual suffix of a container, by what it says about itself before its name."""
    names, suffix = container.format.name.split(","), path.suffix.lower().lstrip(".")
    if container.metadata.get("major_brand", "").strip() == "qt":
        return "mov"
    found = "mp4" if "mp4" in names and suffix == "mov" else next((n for n in names if n == suffix), names[0])
    return _CONTAINERS.get(found, found)


def _rate(stream: VideoStream) -> Fraction:
    rate = stream.average_rate or stream.guessed_rate or stream.base_rate
    return rate if rate and 0 < rate <= 1000 else Fraction(25)


def _declared(stream: VideoStream) -> int | None:
    """Return how many frames the file says a player shows, None if it does not say."""
    if not stream.frames:
        return None
    if len(stream.index_entries) < stream.frames:
        return stream.frames
    return sum(not entry.is_discard for entry in stream.index_entries)


def _oddities(stream: VideoStream, picture: VideoFrame) -> list[str]:
    """Return what this clip loses or keeps on the way to square, progressive, opaque 8-bit frames."""
    odd = oddities(color_of(picture))
    if picture.interlaced_frame:
        odd.append("interlaced frames are processed as they are, and films of them say that they are progressive")
    if stream.sample_aspect_ratio not in (None, 0, 1):
        odd.append("pixels are not square; masks have the size of the stored frames")
    return odd


def _loss(container: InputContainer, stream: VideoStream, path: Path) -> str | None:
    """Return what is missing from a file that was cut short, found without decoding it."""
    size = path.stat().st_size
    kind = container.format.name
    if kind.startswith("mov"):
        return _indexed_loss(stream, size) or end_loss(path, "fragments")
    if kind.startswith("matroska"):
        slack = _CLOCK if is_cut_mkv(path) else max(_SLACK, 2 / _rate(stream))
        return end_loss(path, kind) or _timed_loss(container, slack=slack)
    return end_loss(path, kind)


def _indexed_loss(stream: VideoStream, size: int) -> str | None:
    shown = [entry.pos + entry.size for entry in stream.index_entries if not entry.is_discard]
    readable = sum(end <= size for end in shown)
    if readable == len(shown):
        return None
    return f"the file was cut short: {readable} of {len(shown)} frames can be read"


def _timed_loss(container: InputContainer, *, slack: Fraction) -> str | None:
    if not container.duration or container.duration < 0:
        return None
    declared = Fraction(container.duration, av.time_base)
    last = Fraction(0)
    try:
        container.seek(container.duration, backward=True)
        for packet in container.demux():
            if packet.pts is not None and packet.time_base and not packet.is_corrupt:
                last = max(last, (packet.pts + (packet.duration or 0)) * packet.time_base)
    except av.FFmpegError:
        pass
    if last + slack >= declared:
        return None
    return f"the file was cut short: it ends at {float(last):.2f} s of {float(declared):.2f} s"
