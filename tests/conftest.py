"""Make tiny clips and pictures for the tests."""

import os
import signal
from collections.abc import Callable, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from PIL import Image

ENCODERS = {
    ".mp4": ("libx264", "yuv420p", {"preset": "ultrafast", "crf": "10"}),
    ".mov": ("libx264", "yuv420p", {"preset": "ultrafast", "crf": "10"}),
    ".mkv": ("libx264", "yuv420p", {"preset": "ultrafast", "crf": "10"}),
    ".ts": ("libx264", "yuv420p", {"preset": "ultrafast", "crf": "10"}),
    ".avi": ("mpeg4", "yuv420p", {"qscale": "2"}),
    ".webm": ("libvpx-vp9", "yuv420p", {"deadline": "realtime", "cpu-used": "8"}),
    ".y4m": ("wrapped_avframe", "yuv420p", {}),
    ".gif": ("gif", "rgb8", {}),
    ".apng": ("apng", "rgb24", {}),
    ".ivf": ("libvpx-vp9", "yuv420p", {"deadline": "realtime", "cpu-used": "8"}),
    ".flv": ("flv", "yuv420p", {"qscale": "2"}),
    ".mxf": ("mpeg2video", "yuv422p", {"qscale": "2"}),
    ".wmv": ("wmv2", "yuv420p", {"qscale": "2"}),
    ".mpg": ("mpeg2video", "yuv420p", {"qscale": "2"}),
    ".nut": ("mpeg4", "yuv420p", {"qscale": "2"}),
    ".rm": ("rv20", "yuv420p", {"qscale": "2"}),
    ".dv": ("dvvideo", "yuv411p", {}),
}


def picture(index: int, width: int = 64, height: int = 48) -> np.ndarray:
    """Return a smooth (H, W, 3) picture whose red corner block is upper left and whose grey tells `index`."""
    rgb = np.full((height, width, 3), 60 + 6 * (index % 20), dtype=np.uint8)
    rgb[: height // 4, : width // 4] = (220, 30, 30)
    return rgb


def write_clip(
    path: Path,
    *,
    frames: int = 10,
    width: int = 64,
    height: int = 48,
    rate: Fraction = Fraction(25),
    ticks: Sequence[int] | None = None,
    time_base: Fraction | None = None,
    rotation: int = 0,
    matrix: Sequence[int] | None = None,
    timecode: str | None = None,
    audio: str | None = None,
    codec: str | None = None,
    pix_fmt: str | None = None,
    options: dict[str, str] | None = None,
    movflags: str | None = None,
    gop: int = 12,
    aspect: Fraction | None = None,
) -> Path:
    """Write a clip of picture(0), picture(1), ... at `ticks` of `time_base` (constant rate by default)."""
    name, default_format, default_options = ENCODERS[path.suffix]
    with av.open(str(path), "w", options={"movflags": movflags} if movflags else {}) as out:
        stream = out.add_stream(codec or name, rate=rate, options=dict(options or default_options))
        stream.width, stream.height, stream.pix_fmt = width, height, pix_fmt or default_format
        stream.codec_context.gop_size = gop
        base = time_base or 1 / rate
        stream.codec_context.time_base = base
        if aspect:
            stream.codec_context.sample_aspect_ratio = aspect
        if rotation:
            stream.set_display_rotation(rotation)
        if matrix:
            stream.set_display_matrix(matrix)
        if timecode:
            out.metadata["timecode"] = timecode
        sound = add_sound(out, audio) if audio else None
        for index in range(frames):
            frame = av.VideoFrame.from_ndarray(picture(index, width, height), "rgb24")
            frame.pts, frame.time_base = ticks[index] if ticks else index, base
            out.mux(stream.encode(frame))
        out.mux(stream.encode(None))
        if sound:
            write_sound(out, sound, seconds=float(frames / rate))
    return path


def decode(path: Path) -> list[av.VideoFrame]:
    """Return the pictures of a film as they are stored; libvpx alone finds the alpha of VP9."""
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        if stream.codec_context.name != "vp9":
            return list(container.decode(stream))
        decoder = av.CodecContext.create("libvpx-vp9", "r")
        packets = [packet if packet.size else None for packet in container.demux(stream)]
        return [frame for packet in packets for frame in decoder.decode(packet)]


def stored_planes(frame: av.VideoFrame) -> list[np.ndarray]:
    """Return the planes of a planar frame, (H, W) or smaller, without the padding of their rows."""
    deep = frame.format.components[0].bits > 8
    planes = []
    for plane in frame.planes:
        rows = np.frombuffer(plane, np.uint16 if deep else np.uint8).reshape(plane.height, -1)
        planes.append(rows[:, : plane.width].copy())
    return planes


def stored_alpha(frame: av.VideoFrame) -> np.ndarray:
    """Return the alpha of a frame, (H, W) 0..255, unrounded, read from its bytes without any converter."""
    name = frame.format.name
    if name.startswith("yuva"):
        return stored_planes(frame)[3] * (255 / (2 ** frame.format.components[3].bits - 1))
    rows = np.frombuffer(frame.planes[0], np.uint8).reshape(frame.height, -1)[:, : 4 * frame.width]
    return rows.reshape(frame.height, frame.width, 4)[..., name.index("a")].astype(float)


def add_sound(out, codec: str):
    stream = out.add_stream(codec, rate=48000)
    stream.layout = "mono"
    return stream


def write_sound(out, stream, *, seconds: float) -> None:
    count = int(48000 * seconds)
    wave = (np.sin(np.arange(count) * 0.05) * 8000).astype(np.int16)
    for start in range(0, count, 1024):
        frame = av.AudioFrame.from_ndarray(wave[None, start : start + 1024], format="s16", layout="mono")
        frame.sample_rate, frame.pts, frame.time_base = 48000, start, Fraction(1, 48000)
        out.mux(stream.encode(frame))
    out.mux(stream.encode(None))


def write_sound_file(path: Path, *, cover: Path | None = None) -> Path:
    """Write half a second of sound without moving pictures, perhaps with cover art."""
    with av.open(str(path), "w") as out:
        stream = add_sound(out, "aac")
        art = None
        if cover is not None:
            source = av.open(str(cover))
            art = out.add_stream_from_template(source.streams.video[0])
            art.disposition = av.stream.Disposition.attached_pic
            packet = next(p for p in source.demux(video=0) if p.size)
            packet.stream = art
        write_sound(out, stream, seconds=0.5)
        if art is not None:
            out.mux(packet)
            source.close()
    return path


def hear_interrupts() -> None:
    """Undo that a shell has its background jobs ignore Ctrl-C, and a test's processes with them."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@pytest.fixture
def make_clip(tmp_path: Path) -> Callable[..., Path]:
    """Return a function that writes a tiny clip called `name` into the test's folder."""

    def make(name: str = "clip.mp4", **settings) -> Path:
        return write_clip(tmp_path / name, **settings)

    return make


@pytest.fixture
def make_folder(tmp_path: Path) -> Callable[..., Path]:
    """Return a function that writes a folder of PNG frames with the given names."""

    def make(names: Sequence[str], *, name: str = "frames", width: int = 64, height: int = 48) -> Path:
        folder = tmp_path / name
        folder.mkdir(exist_ok=True)
        for index, file in enumerate(names):
            Image.fromarray(picture(index, width, height)).save(folder / file)
        return folder

    return make


@pytest.fixture(scope="session")
def tiny_weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a weights file of a tiny random network."""
    import torch

    from stmcli.model import STM, Dims
    from stmcli.options import Fit
    from stmcli.weights import Card, save

    torch.manual_seed(0)
    dims = Dims(trunk="resnet18", key=8, value=16, decoder=8)
    path = tmp_path_factory.mktemp("weights") / "tiny.safetensors"
    save(path, STM(dims), Card(dims, "free", fit=Fit(size=48)))
    return path


@pytest.fixture
def cuda() -> Any:
    """Return the CUDA device; without one the test is skipped, or fails where STM_REQUIRE_CUDA=1 asks for it."""
    import torch

    if torch.cuda.is_available():
        return torch.device("cuda")
    if os.environ.get("STM_REQUIRE_CUDA") == "1":
        pytest.fail("no CUDA device")
    pytest.skip("no CUDA device")


@pytest.fixture
def make_mask(tmp_path: Path) -> Callable[..., Path]:
    """Return a function that writes a palette mask: the red block of picture(), cut into as many ids as given."""
    from stmcli.masks import write_labels

    def make(name: str = "mask.png", *, ids: Sequence[int] = (1,), width: int = 64, height: int = 48) -> Path:
        labels = np.zeros((height, width), np.uint16)
        labels[: height // 4, : width // 4] = np.array(ids)[np.arange(width // 4) * len(ids) // (width // 4)]
        write_labels(tmp_path / name, labels)
        return tmp_path / name

    return make


@pytest.fixture
def stm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """Return a function that runs `stm` in this process, in the test's folder, with an empty weights cache."""
    from typer.testing import CliRunner

    from stmcli.cli.app import app

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    return lambda *words: CliRunner().invoke(app, [str(word) for word in words])


@pytest.fixture
def segment(stm: Callable[..., Any], tiny_weights: Path) -> Callable[..., Any]:
    """Return a function that runs `stm segment` with the tiny network on the CPU."""
    return lambda *words: stm("segment", *words, "-w", tiny_weights, "--device", "cpu", "--precision", "fp32")


@pytest.fixture
def scene(tmp_path: Path, make_clip: Callable[..., Path], make_mask: Callable[..., Path]) -> Any:
    """Return a good clip and mask in the test's folder, for a fault to spoil."""
    from faults import Scene

    return Scene(tmp_path, make_clip, make_mask)
