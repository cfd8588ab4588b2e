"""`stm segment` killed again and again, at random moments and just before and after files get their names.

python -m soak.kills KIND SEED KILLS [SECONDS]    in a new folder; prints what was found as one JSON object
"""

import hashlib
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import numpy as np
import psutil
from conftest import picture, write_clip

from soak.inputs import write_tiny
from stmcli.cli.app import app
from stmcli.masks import write_labels
from stmcli.segmenter import checkpoint

FRAMES = 24
EVERY = 5  # frames between two checkpoints
KINDS = {
    "forward": (),
    "both": ("--direction", "both"),
    "datasets": ("-e", "cutout", "-e", "davis", "-e", "ytvis", "-e", "overlay"),
}


@dataclass(frozen=True)
class Found:
    """What a loop of kills has found; `wrong` says how results differed."""

    kind: str
    seed: int
    kills: int
    runs: int  # that came to their end
    kept: int  # of these, how many went on from where an earlier one was killed
    files: int  # compared
    wrong: tuple[str, ...]


@dataclass(frozen=True)
class Death:
    """When a process dies: after some time, or at the n-th file that gets its name, just before or after that."""

    seconds: float | None = None
    rename: int | None = None
    before: bool = False


def hashes(folder: Path, pattern: str = "masks/*.png") -> dict[str, str]:
    """Return the hash of every file of a result that matches, by its place there."""
    files = (path for path in folder.glob(pattern) if path.is_file())
    return {str(file.relative_to(folder)): hashlib.sha256(file.read_bytes()).hexdigest() for file in files}


def live(work: Callable[[], object], death: Death | None = None) -> int:
    """Do something in a process of its own, which may have to die; return its exit code, -9 when it was killed."""
    if not (child := os.fork()):
        try:
            if death and death.rename:
                _die_at(death.rename, before=death.before)
            work()
            os._exit(0)
        except SystemExit as end:
            os._exit(int(end.code or 0))
        finally:
            os._exit(99)
    if death and death.seconds is not None:
        _kill_after(child, death.seconds)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def _kill_after(child: int, seconds: float) -> None:
    process, until = psutil.Process(child), time.monotonic() + seconds
    while process.status() != psutil.STATUS_ZOMBIE:
        if time.monotonic() >= until:
            os.kill(child, signal.SIGKILL)
            return
        time.sleep(0.002)


def _die_at(number: int, *, before: bool) -> None:
    plain, calls = os.replace, 0

    def replace(old: object, new: object) -> None:
        nonlocal calls
        calls += 1
        if calls == number and before:
            os.kill(os.getpid(), signal.SIGKILL)
        plain(old, new)  # type: ignore[arg-type]
        if calls == number:
            os.kill(os.getpid(), signal.SIGKILL)

    os.replace = replace  # type: ignore[assignment]


def segment(words: Sequence[str]) -> None:
    """Run `stm segment`, with checkpoints close to each other."""
    checkpoint.EVERY = EVERY
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 1)
    app(["segment", *words])


def loop(kind: str, folder: Path, *, seed: int, kills: int, seconds: float = 1e9) -> Found:
    """Kill runs and run them again until so many were killed or the time is over; compare every result."""
    words, moments = _prepare(kind, folder), random.Random(seed)
    began = time.monotonic()
    code = live(partial(segment, (*words, "-o", str(folder / "whole"))))
    length = time.monotonic() - began
    wrong, killed, runs, whole = (
        [f"the first run ended with {code}"] * bool(code),
        0,
        0,
        hashes(folder / "whole", "**/*"),
    )
    kept = 0
    while not wrong:
        last = killed >= kills or time.monotonic() - began > seconds
        code = live(partial(segment, (*words, "-o", str(folder / "out"))), None if last else _draw(moments, length))
        killed += code == -signal.SIGKILL
        if code == 0:
            runs += 1
            wrong += _differences(folder, whole)
            kept += "kept_until" in json.loads((folder / "out/report.json").read_text())
            shutil.rmtree(folder / "out")
        elif code != -signal.SIGKILL:
            wrong.append(f"a run ended with {code} after {killed} kills")
        if last:
            break
    return Found(kind, seed, killed, runs, kept, runs * (len(whole) - 2), tuple(wrong))


def _draw(moments: random.Random, length: float) -> Death:
    if moments.random() < 0.5:
        return Death(seconds=moments.uniform(0, length))
    return Death(rename=moments.randint(1, 2 * FRAMES), before=moments.random() < 0.5)


def _differences(folder: Path, whole: dict[str, str]) -> list[str]:
    """Return which files of a result are not those of a run that nobody killed; reports tell how long it took."""
    found = hashes(folder / "out", "**/*")
    reports = {"report.json", "report.html"}
    wrong = sorted(name for name in {*found, *whole} - reports if found.get(name) != whole.get(name))
    frames = [json.loads((folder / name / "report.json").read_text())["frames"] for name in ("out", "whole")]
    return wrong + ["report.json"] * (frames[0] != frames[1])


def _prepare(kind: str, folder: Path) -> list[str]:
    """Write a clip, its masks and weights; return the command line without the output."""
    weights = write_tiny(folder / "tiny.safetensors")
    write_clip(folder / "clip.mp4", frames=FRAMES, audio="aac")
    for name, top in (("first", 2), ("last", 26)):
        labels = np.zeros(picture(0).shape[:2], np.uint8)
        labels[top : top + 18, 8:40] = 1
        labels[30:44, 44:60] = 2
        write_labels(folder / f"{name}.png", labels)
    masks = ["-m", str(folder / "first.png"), "-m", f"{FRAMES - 3}:{folder / 'last.png'}"]
    network = ["-w", str(weights), "--device", "cpu", "--precision", "fp32", "-q"]
    return [str(folder / "clip.mp4"), *masks, *network, *KINDS[kind]]


def main(kind: str, seed: str, kills: str, seconds: str = "1e9") -> None:
    with tempfile.TemporaryDirectory(prefix="stm-kills-") as folder:
        found = loop(kind, Path(folder), seed=int(seed), kills=int(kills), seconds=float(seconds))
    print(json.dumps(asdict(found)))


if __name__ == "__main__":
    main(*sys.argv[1:])
