"""Send clips of every container through every codec that stm writes, and compare what comes back."""

from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from conftest import decode, picture, stored_alpha, write_clip

from stmcli.video import ALPHA_CODECS, H264, Codec, Frame, SourceInfo, VideoWriter, open_source

CODECS = {"h264": H264, **ALPHA_CODECS}
FRAMES = 4
TIMINGS = {"cfr": None, "vfr": [0, 40, 100, 120]}  # milliseconds
SIZES = {"even": (64, 48), "odd": (65, 47)}
SOUNDS = {".mp4": "aac", ".mov": "aac", ".mkv": "flac", ".webm": "libopus", ".avi": "pcm_s16le", ".ts": "aac"}
TURNS = {".mp4", ".mov", ".mkv", ".webm"}  # AVI and TS have no place for a rotation
REFUSED = {("flac", ".mov"), ("flac", ".webm"), ("opus", ".mov"), ("aac", ".webm"), ("pcm_s16le", ".webm")}
COLOUR_ERROR = {"h264": 5, "prores4444": 2, "png": 0, "qtrle": 0, "ffv1": 0, "vp9": 2}  # levels, in flat areas
ALPHA_ERROR = {"prores4444": 1, "png": 0, "qtrle": 0, "ffv1": 0, "vp9": 3}

CASES = [
    pytest.param(suffix, timing, rotation, parity, name, id=f"{suffix[1:]}-{timing}-{rotation}-{parity}-{name}")
    for suffix in SOUNDS
    for timing in TIMINGS
    for rotation in ((0, 90, 180, 270) if suffix in TURNS else (0,))
    for parity in SIZES
    for name in CODECS
]


@dataclass(frozen=True)
class Clip:
    """Hold a source and what the reader gave for it."""

    info: SourceInfo
    frames: list[Frame]
    sound: list[tuple[bytes, Fraction]]


@pytest.fixture(scope="module")
def clip(tmp_path_factory) -> Callable[..., Clip]:
    """Return a function that makes each source once."""
    folder, made = tmp_path_factory.mktemp("sources"), {}

    def make(suffix: str, timing: str, rotation: int, parity: str) -> Clip:
        path = folder / f"{timing}_{rotation}_{parity}{suffix}"
        if path not in made:
            with open_source(write_source(path, timing, rotation, parity)) as source:
                made[path] = Clip(source.info, list(source), packets(path))
        return made[path]

    return make


def write_source(path: Path, timing: str, rotation: int, parity: str) -> Path:
    width, height = SIZES[parity]
    takes_odd = path.suffix in (".avi", ".webm")
    return write_clip(
        path,
        frames=FRAMES,
        width=width,
        height=height,
        ticks=TIMINGS[timing],
        time_base=Fraction(1, 1000) if TIMINGS[timing] else None,
        rotation=rotation,
        audio=SOUNDS[path.suffix],
        pix_fmt="yuv420p" if parity == "even" or takes_odd else "yuv444p",
    )


def packets(path: Path) -> list[tuple[bytes, Fraction]]:
    """Return content and time of the sound packets, without the ADTS headers that only a stream of AAC needs."""
    with av.open(str(path)) as container:
        found = [(bytes(p), p.pts * p.time_base) for p in container.demux(audio=0) if p.size]
        header = 7 if container.format.name == "mpegts" else 0
    return [(content[header:], time) for content, time in found]


def soft_alpha(index: int, height: int, width: int) -> np.ndarray:
    """Return (H, W) uint8 alpha: a soft edge on the left, any value beside any other on the right."""
    rng = np.random.default_rng(index)
    ramp = np.linspace(-40, 295, width // 2).clip(0, 255)
    return np.hstack([np.tile(ramp, (height, 1)), rng.uniform(0, 255, (height, width - width // 2))]).astype(np.uint8)


def write_film(path: Path, source: Clip, codec: Codec) -> VideoWriter:
    info = source.info
    with VideoWriter(
        path,
        codec=codec,
        size=(info.width, info.height),
        rate=info.rate,
        time_base=info.time_base,
        audio_from=info.path,
        start=source.frames[0].time - info.shift,
    ) as writer:
        for frame in source.frames:
            alpha = soft_alpha(frame.index, *frame.rgb.shape[:2])[:, :, None]
            writer.write(np.dstack([frame.rgb, alpha]) if codec.has_alpha else frame.rgb, frame.time)
    return writer


def flat(rgb: np.ndarray, rotation: int) -> np.ndarray:
    """Return the grey part of a picture() that was shown turned, away from its red block; (h, w, 3)."""
    stored = np.rot90(rgb, -rotation // 90)
    return stored[stored.shape[0] // 4 + 8 :].astype(int)


@pytest.mark.parametrize(("suffix", "timing", "rotation", "parity", "name"), CASES)
def test_a_clip_comes_back_frame_by_frame(clip, tmp_path, suffix, timing, rotation, parity, name):
    source, codec = clip(suffix, timing, rotation, parity), CODECS[name]
    writer = write_film(tmp_path / f"film{codec.suffix}", source, codec)
    with open_source(writer.path) as film:
        frames, info = list(film), film.info
    check_source(source, SIZES[parity], rotation)
    check_times(source, frames, codec)
    check_size(source, info, writer, codec)
    check_colours(source, frames, rotation, name)
    check_sound(source, writer, codec)
    if codec.has_alpha:
        check_alpha(source, writer.path, ALPHA_ERROR[name])


def check_source(source, size, rotation):
    """See that the source was read upright: the red corner is where the rotation puts it."""
    assert len(source.frames) == FRAMES
    for frame in source.frames:
        upright = np.rot90(picture(frame.index, *size), rotation // 90)
        assert np.abs(frame.rgb.astype(int) - upright).mean() < 4
        corner = np.argwhere(upright[..., 0] == 220).mean(axis=0).astype(int)
        assert np.abs(frame.rgb[tuple(corner)] - (220.0, 30, 30)).max() < 12


def check_times(source, frames, codec):
    expected = [frame.time - source.info.shift for frame in source.frames]
    found = [frame.time for frame in frames]
    assert len(found) == FRAMES
    if codec.suffix in (".mp4", ".mov"):
        assert found == expected
    else:
        assert max(abs(a - b) for a, b in zip(found, expected, strict=True)) <= Fraction(1, 1000)


def check_size(source, info, writer, codec):
    width, height = source.info.width, source.info.height
    padded = (width + width % 2, height + height % 2) if codec.even else (width, height)
    assert (info.width, info.height, info.rotation) == (*padded, 0)
    assert any(f"is {info.width}x{info.height}" in note for note in writer.notes) == (padded != (width, height))


def check_colours(source, frames, rotation, name):
    height, width = source.frames[0].rgb.shape[:2]
    for before, after in zip(source.frames, frames, strict=True):
        rgb = after.rgb[:height, :width]
        assert np.abs(flat(rgb, rotation) - flat(before.rgb, rotation)).max() <= COLOUR_ERROR[name]
        assert np.abs(rgb.astype(int) - before.rgb).mean() <= COLOUR_ERROR[name]


def check_sound(source, writer, codec):
    copied = (source.info.audio, codec.suffix) not in REFUSED
    assert any("encoded again" in note for note in writer.notes) != copied
    assert writer.facts.audio == (source.info.audio if copied else {".webm": "opus"}.get(codec.suffix, "aac"))
    found = packets(writer.path)
    assert ([content for content, _ in found] == [content for content, _ in source.sound]) == copied
    if copied:
        late = [after - before + source.info.shift for (_, after), (_, before) in zip(found, source.sound, strict=True)]
        assert max(map(abs, late)) <= Fraction(1, 1000)
    assert source.sound


def check_alpha(source, path, tolerance):
    films = decode(path)
    assert len(films) == FRAMES
    for frame, film in zip(source.frames, films, strict=True):
        expected = soft_alpha(frame.index, *frame.rgb.shape[:2])
        assert np.abs(stored_alpha(film) - expected).max() <= tolerance
