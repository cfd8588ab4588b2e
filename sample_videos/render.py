"""Render the three sample clips, their first masks and, with --truth, the mask of every frame.

    python sample_videos/render.py [--out DIR] [--truth] [balloon koi rover]

Everything is computed from seeded noise by the modules beside this one: no photographs, no assets.
"""

import argparse
import time
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from av.video.reformatter import ColorPrimaries, ColorRange, Colorspace, ColorTrc
from balloon import balloon
from canvas import FPS, HEIGHT, WIDTH, Array
from koi import koi
from PIL import Image
from rover import rover

CLIPS = {"balloon": (balloon, 64), "koi": (koi, 60), "rover": (rover, 60)}
AUDIO_RATE = 48000


def frames(name: str) -> Iterator[tuple[Array, Array]]:
    """Yield rgb (H, W, 3) and labels (H, W), both uint8, of every frame of a clip."""
    scene, count = CLIPS[name]
    draw = scene()
    for index in range(count):
        yield draw(index).develop(index)


def write_mask(path: Path, labels: Array) -> None:
    """Write a palette PNG with the VOC colours: the bits of the id, spread over red, green and blue."""
    ids, palette = np.arange(256), np.zeros((256, 3), np.uint8)
    for bit in range(8):
        for channel in range(3):
            palette[:, channel] |= ((ids >> (3 * bit + channel) & 1) << (7 - bit)).astype(np.uint8)
    image = Image.fromarray(labels)
    image.putpalette(palette.tobytes())
    image.save(path, optimize=True)


def engine(seconds: float) -> Array:
    """Return (1, n) int16: an electric hum that rises as the rover comes near, and the crunch of sand."""
    t = np.arange(int(seconds * AUDIO_RATE)) / AUDIO_RATE
    phase = 2 * np.pi * (62 * t + 4 * t * t + 0.35 * np.sin(2 * np.pi * 1.3 * t))
    hum = sum(np.sin(k * phase + k * k) / k**1.2 for k in (1, 2, 3, 4, 6, 9)) * (1 + 0.2 * np.sin(phase / 6))
    whine = 0.12 * np.sin(14.3 * phase) + 0.06 * np.sin(23.1 * phase)
    hiss = np.convolve(np.random.default_rng(50).normal(0, 1, len(t)), np.hanning(24) / 12, "same")
    sound = (hum + whine + 0.5 * hiss * (1 + 0.6 * np.sin(phase / 9))) * np.interp(t, [0, 0.08, seconds], [0, 0.35, 1])
    return np.round(sound / abs(sound).max() * 15000).astype(np.int16)[None]


def write_clip(name: str, folder: Path, *, truth: bool) -> None:
    """Render one clip and encode it, with the mask of its first frame beside it."""
    with av.open(str(folder / f"{name}.mp4"), "w", options={"movflags": "+faststart"}) as file:
        video = file.add_stream("libx264", rate=FPS, options={"crf": "20", "preset": "veryslow", "threads": "1"})
        video.width, video.height, video.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        codec = video.codec_context
        codec.colorspace, codec.color_range = Colorspace.ITU709, ColorRange.MPEG
        codec.color_primaries, codec.color_trc = ColorPrimaries.BT709, ColorTrc.BT709
        audio = file.add_stream("aac", rate=AUDIO_RATE, layout="mono") if name == "rover" else None
        for index, (rgb, labels) in enumerate(frames(name)):
            frame = av.VideoFrame.from_ndarray(rgb, format="rgb24")
            file.mux(video.encode(to_bt709(frame)))
            if index == 0:
                write_mask(folder / f"{name}.png", labels)
            if truth:
                (folder / name).mkdir(exist_ok=True)
                write_mask(folder / name / f"{index:05d}.png", labels)
        file.mux(video.encode(None))
        if audio is not None:
            sound = av.AudioFrame.from_ndarray(engine(CLIPS[name][1] / FPS), format="s16", layout="mono")
            sound.sample_rate, sound.time_base, sound.pts = AUDIO_RATE, Fraction(1, AUDIO_RATE), 0
            file.mux(audio.encode(sound))
            file.mux(audio.encode(None))


def to_bt709(frame: av.VideoFrame) -> av.VideoFrame:
    return frame.reformat(
        format="yuv420p",
        dst_colorspace=Colorspace.ITU709,
        dst_color_range=ColorRange.MPEG,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description="Render the sample clips.")
    parser.add_argument("clips", nargs="*", metavar="CLIP", help="balloon, koi, rover (default: all)")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent)
    parser.add_argument("--truth", action="store_true", help="also write OUT/CLIP/00000.png ...")
    options = parser.parse_args()
    if unknown := set(options.clips) - set(CLIPS):
        parser.error(f"no such clip: {', '.join(sorted(unknown))}; choose from {', '.join(CLIPS)}")
    options.out.mkdir(parents=True, exist_ok=True)
    for name in options.clips or CLIPS:
        start = time.perf_counter()
        write_clip(name, options.out, truth=options.truth)
        print(f"{name}: {time.perf_counter() - start:.0f} s")


if __name__ == "__main__":
    main()
