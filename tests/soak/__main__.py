"""Run everything of the soak and print a table: python -m soak [PART ...].

STM_SOAK_MINUTES   for each part that may go on for as long as is wanted; 5
STM_SOAK_FRAMES    of the long clip; 20000
STM_SOAK_SEED      to repeat the kills and the spoilt files of another run; random, and printed
"""

import importlib.util
import json
import os
import queue
import secrets
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

from soak import fuzz, kills
from soak.long_video import ALLOWED, ENCODED, SETTLED, Found

HOME = Path(__file__).resolve().parent.parent
SECONDS = 60 * float(os.environ.get("STM_SOAK_MINUTES", "5"))
FRAMES = int(os.environ.get("STM_SOAK_FRAMES", "20000"))
SEED = int(os.environ.get("STM_SOAK_SEED") or secrets.randbelow(10**6))
TRIES = 200  # of one process
SILENCE = 300  # seconds without a word after which a trial hangs
ALONE = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join([str(HOME.parent), str(HOME)])}


@dataclass(frozen=True)
class Row:
    """What a part has done, what it has found wrong, and how long it took."""

    part: str
    figures: str
    wrong: tuple[str, ...] = ()
    skipped: bool = False


def spoil() -> Row:
    """Spoil files at random, in processes of their own so that one that crashes ends only itself."""
    until, number = time.monotonic() + SECONDS, 0
    ends: Counter[str] = Counter()
    wrong: list[str] = []
    while time.monotonic() < until:
        last = ""
        for words in _words_of("soak.trials", str(SEED + number), str(TRIES)):
            kind, *rest = words.split("\t")
            if kind == "try":
                last = " ".join(rest)
            elif kind == "end":
                ends[rest[0]] += 1
            elif kind in ("bad", "died", "hangs"):
                wrong.append(f"{kind} {' '.join(rest)} {last if kind != 'bad' else ''}")
            if time.monotonic() > until:
                break
        number += 1
    codes = ", ".join(f"{count} ended with {code}" for code, count in sorted(ends.items()))
    return Row("spoilt files", f"{sum(ends.values()) + len(wrong)} tried: {codes}", tuple(wrong))


def _words_of(module: str, *words: str) -> Iterator[str]:
    """Yield the lines that a process prints, and `died` or `hangs` when it ends in such a way."""
    process = subprocess.Popen(
        [sys.executable, "-m", module, *words],
        env=ALONE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    lines: queue.Queue[str | None] = queue.Queue()
    assert process.stdout is not None
    assert process.stderr is not None
    said: list[str] = []
    threading.Thread(target=lambda pipe=process.stdout: [*map(lines.put, pipe), lines.put(None)], daemon=True).start()
    threading.Thread(target=said.extend, args=(process.stderr,), daemon=True).start()
    try:
        while (line := lines.get(timeout=SILENCE)) is not None:
            yield line.rstrip("\n")
        if process.wait():
            yield f"died\twith {process.returncode}: {''.join(said[-3:])}"
    except queue.Empty:
        yield "hangs\t"
    finally:
        process.kill()
        process.wait()


def kill() -> Row:
    """Kill runs and run them again."""
    share = str(SECONDS / len(kills.KINDS))
    found = [json.loads(_run("soak.kills", kind, str(SEED), "1000000", share)) for kind in kills.KINDS]
    killed, runs, kept, files = (sum(one[name] for one in found) for name in ("kills", "runs", "kept", "files"))
    figures = f"{killed} kills survived, {runs} results compared ({kept} went on from a checkpoint), {files} files"
    return Row("kill -9", figures, tuple(f"{one['kind']}: {wrong}" for one in found for wrong in one["wrong"]))


def last_long() -> Row:
    """Look at the memory over a long clip."""
    whole = Found.parse(_run("soak.long_video", str(FRAMES)))
    part = str(max(FRAMES // 5, 2 * SETTLED))
    film = Found.parse(_run("soak.long_video", part, "overlay"))
    traced = Found.parse(_run("soak.long_video", part, "trace"))
    grown = {
        "the process": (whole.growth("process"), ALLOWED),
        "the process that makes a film too": (film.growth("process"), ALLOWED + ENCODED),
        "Python": (traced.growth("python"), ALLOWED),
    }
    places = [whole.looks[len(whole.looks) * tenth // 10] for tenth in range(10)]
    figures = [
        *(f"{who} grew by {size / 1e6:+.2f} MB after frame {SETTLED}" for who, (size, _) in grown.items()),
        f"{1000 * whole.pace(1000, 2000):.1f} ms a frame in the second thousand, "
        f"{1000 * whole.pace(FRAMES - 1000, FRAMES):.1f} in the last",
        f"MB at frame {', '.join(f'{look.frame}: {look.process / 1e6:.1f}' for look in places)}",
        f"{whole.frames} frames, {traced.frames} with a film and for Python's memory",
    ]
    wrong = [f"{who} grew by {size} bytes, more than {most}" for who, (size, most) in grown.items() if size >= most]
    return Row("long clip", "; ".join(figures), tuple(wrong))


def search() -> Row:
    """Let atheris look for what breaks the readers of small files."""
    if not importlib.util.find_spec("atheris"):
        return Row("fuzzing", "atheris is not installed: make fuzz", skipped=True)
    runs, wrong = [], []
    for target in fuzz.TARGETS:
        words = [sys.executable, "-m", "soak.fuzz", target, f"-max_total_time={SECONDS / len(fuzz.TARGETS):.0f}"]
        done = subprocess.run([*words, f"-seed={SEED + 1}"], env=ALONE, capture_output=True, text=True, check=False)
        runs.append(f"{fuzz.executions(done.stderr)} of {target}")
        wrong += [f"{target}: {done.stderr[-2000:]}"] * bool(done.returncode)
    return Row("fuzzing", f"{', '.join(runs)}", tuple(wrong))


def batch() -> Row:
    """Two hundred clips, five of them bad, workers and the batch killed."""
    words = [sys.executable, "-m", "pytest", "-q", "-m", "long", "tests/test_batch.py"]
    done = subprocess.run(words, cwd=HOME.parent, env=ALONE, capture_output=True, text=True, check=False)
    figures = "195 results like those of one-by-one runs, 5 named failures, exit code 3"
    if done.returncode:
        return Row("batch", "200 clips", (done.stdout[-3000:],))
    return Row("batch", figures)


def _run(module: str, *words: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", module, *words], env=ALONE, stdout=subprocess.PIPE, text=True, check=True
    )
    return done.stdout


PARTS: dict[str, Callable[[], Row]] = {"spoil": spoil, "kill": kill, "long": last_long, "fuzz": search, "batch": batch}


def main(names: list[str]) -> int:
    """Run the parts, print the table, and return how the process ends."""
    console = Console(width=120)
    console.print(f"seed {SEED}, {SECONDS / 60:g} minutes for a part", highlight=False)
    table = Table("part", "s", "figures", "wrong", box=None)
    failed = False
    for name in names or PARTS:
        began = time.monotonic()
        try:
            row = PARTS[name]()
        except subprocess.CalledProcessError as error:  # the other parts go on
            row = Row(name, "fell over", (str(error),))
        failed |= bool(row.wrong)
        for wrong in row.wrong:
            console.print(f"{row.part}: {wrong}", highlight=False, markup=False, soft_wrap=True)
        wrongs = "-" if row.skipped else str(len(row.wrong))
        table.add_row(row.part, f"{time.monotonic() - began:.0f}", row.figures, wrongs)
    console.print(table)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
