"""Files that are damaged or odd in one certain way."""

from collections.abc import Callable, Sequence
from fractions import Fraction
from pathlib import Path

import av
from conftest import picture
from PIL import Image

MakeClip = Callable[..., Path]


def cut(path: Path, share: float = 0.5) -> Path:
    """Keep only the first part of a file."""
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    return path


def flipped_clip(make_clip: MakeClip) -> Path:
    """Return a clip whose twelfth of 24 packets, all of them key frames, is overwritten."""
    path = make_clip(frames=24, gop=1)
    with av.open(str(path)) as container:
        entry = list(container.streams.video[0].index_entries)[11]
    with path.open("r+b") as file:
        file.seek(entry.pos)
        file.write(b"\xff" * entry.size)
    return path


def two_sizes(make_clip: MakeClip) -> Path:
    """Return a stream of six frames of 64x48 and six of 96x64."""
    parts = [make_clip("a.ts", frames=6), make_clip("b.ts", frames=6, width=96, height=64)]
    path = parts[0].with_name("both.ts")
    path.write_bytes(b"".join(part.read_bytes() for part in parts))
    return path


def huge_clip(make_clip: MakeClip) -> Path:
    """Return a clip that says of itself that it is 60000x60000."""
    path = make_clip("huge.avi", frames=2, codec="rawvideo", pix_fmt="yuv420p", options={})
    content = path.read_bytes()
    size = (64).to_bytes(4, "little") + (48).to_bytes(4, "little")
    assert content.count(size)
    path.write_bytes(content.replace(size, (60000).to_bytes(4, "little") * 2))
    return path


def no_frames(make_clip: MakeClip, path: Path) -> Path:
    """Write a video stream without a frame."""
    with av.open(str(make_clip())) as inp, av.open(str(path), "w") as out:
        out.add_stream_from_template(inp.streams.video[0])
        out.start_encoding()
    return path


def hidden_frames(make_clip: MakeClip, path: Path, *, frames: int, hidden: int) -> Path:
    """Write a clip of some frames, the first of which an edit list hides: they lie before zero."""
    source = make_clip("whole.mp4", frames=frames, gop=frames)
    with av.open(str(source)) as inp, av.open(str(path), "w") as out:
        stream = out.add_stream_from_template(inp.streams.video[0])
        for packet in inp.demux(video=0):
            if packet.dts is None:
                continue
            offset = round(hidden / 25 / packet.time_base)
            packet.pts, packet.dts, packet.stream = packet.pts - offset, packet.dts - offset, stream
            out.mux(packet)
    return path


def stamped_clip(path: Path, ticks: Sequence[int]) -> Path:
    """Write frames with these times, ms, in an MKV: it stores each time as it is given."""
    with av.open(str(path), "w") as out:
        stream = out.add_stream("mjpeg", rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuvj420p"
        packets = []
        for index in range(len(ticks)):
            frame = av.VideoFrame.from_ndarray(picture(index), "rgb24")
            frame.pts = index
            packets += stream.encode(frame)
        packets += stream.encode(None)
        for place, (packet, tick) in enumerate(zip(packets, ticks, strict=True)):
            packet.time_base = Fraction(1, 1000)
            packet.pts, packet.dts = tick, place  # only the decoding times must increase
            out.mux(packet)
    return path


def bomb(path: Path) -> None:
    """Write a PNG of 10 kB that takes 200 MB as RGB."""
    Image.new("1", (8200, 8200), 1).save(path)
    assert path.stat().st_size < 30_000
