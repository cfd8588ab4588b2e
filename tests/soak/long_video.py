"""Memory and pace over a long clip.

python -m soak.long_video FRAMES [KIND ...]    prints what was measured as one JSON object
"""

import gc
import json
import sys
import tempfile
import time
import tracemalloc
from dataclasses import asdict, dataclass
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

from soak.inputs import write_tiny
from stmcli.job import Job
from stmcli.masks import write_labels
from stmcli.options import ExportOptions, NetworkOptions, SegmentOptions
from stmcli.pipeline import segment_video

HEIGHT, WIDTH = 180, 320
SETTLED = 500  # frames after which memory must not grow any more
ALLOWED = 10 * HEIGHT * WIDTH * 3  # bytes: ten frames
EVERY = 100  # frames between two looks at the memory


@dataclass(frozen=True)
class Found:
    """What was measured: bytes in use by the process or by Python at some frames, seconds since the beginning."""

    frames: int
    memory: str
    curve: tuple[tuple[int, int], ...]  # frame, bytes
    clock: tuple[tuple[int, float], ...]  # frame, seconds

    @property
    def growth(self) -> int:
        """Return by how many bytes the last tenth of the clip takes more than the first frames after it has settled."""
        after = [size for frame, size in self.curve if frame >= SETTLED]
        part = max(1, len(after) // 10)
        return int(np.median(after[-part:]) - np.median(after[:part]))

    def pace(self, first: int, last: int) -> float:
        """Return the seconds that a frame takes from one frame to another."""
        times = [(frame, second) for frame, second in self.clock if first <= frame <= last]
        return (times[-1][1] - times[0][1]) / (times[-1][0] - times[0][0])


def write_long_clip(path: Path, frames: int) -> None:
    """Write a clip of noise with a block that moves over it."""
    ground = np.random.default_rng(0).integers(60, 120, (HEIGHT, WIDTH, 3), np.uint8)
    with av.open(str(path), "w") as out:
        stream = out.add_stream("libx264", rate=Fraction(25), options={"preset": "ultrafast", "crf": "30"})
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        for index in range(frames):
            rgb = ground.copy()
            left = index % (WIDTH - 60)
            rgb[60:110, left : left + 60] = (220, 40, 40)
            out.mux(stream.encode(av.VideoFrame.from_ndarray(rgb, "rgb24")))
        out.mux(stream.encode(None))


def resident() -> int:
    """Return the bytes that the process has in memory and that are of no file: those may come and go."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("RssAnon"))


def measure(frames: int, *, memory: str = "process", kinds: tuple[str, ...] = ("none",)) -> Found:
    """Segment a long clip and look at the memory that the process takes, or that `python` has handed out."""
    curve: list[tuple[int, int]] = []
    clock: list[tuple[int, float]] = []

    def look(index: int) -> None:
        if index % EVERY == 0:
            gc.collect()
            size = tracemalloc.get_traced_memory()[0] if memory == "python" else resident()
            curve.append((index, size))
            clock.append((index, time.monotonic()))

    with tempfile.TemporaryDirectory(prefix="stm-long-") as name:
        folder = Path(name)
        write_long_clip(folder / "clip.mp4", frames)
        labels = np.zeros((HEIGHT, WIDTH), np.uint8)
        labels[60:110, :60] = 1
        write_labels(folder / "mask.png", labels)
        network = NetworkOptions(str(write_tiny(folder / "tiny.safetensors")), "cpu", "fp32")
        job = Job(folder / "clip.mp4", (folder / "mask.png",), folder / "out", SegmentOptions(), network)
        if memory == "python":
            tracemalloc.start()
        segment_video(Job(**{**vars(job), "export": ExportOptions(kinds=kinds)}), on_frame=look)
    return Found(frames, memory, tuple(curve), tuple((index, seconds - clock[0][1]) for index, seconds in clock))


def main(frames: str, memory: str = "process", *kinds: str) -> None:
    found = measure(int(frames), memory=memory, kinds=kinds or ("none",))
    print(json.dumps({**asdict(found), "growth": found.growth}))


if __name__ == "__main__":
    main(*sys.argv[1:])
