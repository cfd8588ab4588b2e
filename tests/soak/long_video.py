"""Memory and pace over a long clip.

python -m soak.long_video FRAMES [trace] [KIND ...]    prints what was measured as one JSON object
"""

import gc
import json
import sys
import tempfile
import time
import tracemalloc
from dataclasses import asdict, dataclass, replace
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

from soak.inputs import write_tiny
from stmcli.job import Job
from stmcli.listeners import Listener
from stmcli.masks import write_labels
from stmcli.options import ExportOptions, NetworkOptions, SegmentOptions
from stmcli.page.pictures import WORST
from stmcli.pipeline import segment_video

HEIGHT, WIDTH = 180, 320
SETTLED = 500  # frames after which memory must not grow any more
ALLOWED = 10 * HEIGHT * WIDTH * 3 + WORST * HEIGHT * WIDTH * 4  # bytes: ten frames, and what the page is drawn from
ENCODED = 60 * HEIGHT * WIDTH * 3 // 2  # bytes: what x264 may hold by and by, which looks 40 frames ahead in threads
EVERY = 64  # frames between two looks at the memory
AT_REST = 0.1  # seconds until no frame is on its way to the network or to a file any more


@dataclass(frozen=True)
class Look:
    """What was seen after a frame: bytes of the process and of Python's objects, seconds from the start."""

    frame: int
    process: int
    python: int
    seconds: float


@dataclass(frozen=True)
class Found:
    """What was measured over a clip."""

    frames: int
    looks: tuple[Look, ...]

    def growth(self, memory: str) -> int:
        """Return by how many bytes the last tenth of the clip takes more than the first tenth after it has settled."""
        after = [getattr(look, memory) for look in self.looks if look.frame >= min(SETTLED, self.frames // 2)]
        part = max(1, len(after) // 10)
        return int(np.median(after[-part:]) - np.median(after[:part]))

    def pace(self, first: int, last: int) -> float:
        """Return the seconds that a frame takes from one frame to another."""
        seen = [look for look in self.looks if first <= look.frame <= last]
        return (seen[-1].seconds - seen[0].seconds) / max(1, seen[-1].frame - seen[0].frame)

    @classmethod
    def parse(cls, text: str) -> "Found":
        """Return what `main` has printed."""
        content = json.loads(text)
        return cls(content["frames"], tuple(Look(**look) for look in content["looks"]))


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


def measure(frames: int, *, trace: bool = False, page: bool = True, kinds: tuple[str, ...] = ("none",)) -> Found:
    """Segment a long clip and look at the memory; that of Python is only known with `trace`, which is slow."""
    looks: list[Look] = []
    began = time.monotonic()

    def look(index: int) -> None:
        if index % EVERY == 0:
            time.sleep(AT_REST)
            gc.collect()
            python = tracemalloc.get_traced_memory()[0] if trace else 0
            looks.append(Look(index, resident(), python, time.monotonic() - began))

    with tempfile.TemporaryDirectory(prefix="stm-long-") as name:
        job = replace(_job(Path(name), frames), segment=SegmentOptions(page=page), export=ExportOptions(kinds=kinds))
        gc.collect()
        gc.freeze()  # what is there already costs nothing then
        if trace:
            tracemalloc.start()
        segment_video(job, listener=Listener(frame=look))
        tracemalloc.stop()
        gc.unfreeze()
    return Found(frames, tuple(looks))


def _job(folder: Path, frames: int) -> Job:
    write_long_clip(folder / "clip.mp4", frames)
    labels = np.zeros((HEIGHT, WIDTH), np.uint8)
    labels[60:110, :60] = 1
    write_labels(folder / "mask.png", labels)
    network = NetworkOptions(str(write_tiny(folder / "tiny.safetensors")), "cpu", "fp32")
    return Job(folder / "clip.mp4", (folder / "mask.png",), folder / "out", network=network)


def main(frames: str, *kinds: str) -> None:
    exports = tuple(kind for kind in kinds if kind != "trace")
    found = measure(int(frames), trace="trace" in kinds, kinds=exports or ("none",))
    print(json.dumps(asdict(found)))


if __name__ == "__main__":
    main(*sys.argv[1:])
