"""What a batch would do, how long that takes, and the room it needs; nothing is written."""

import shutil
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from stmcli.batch import Batch, Record, check_batch
from stmcli.engines import share_cores
from stmcli.errors import StmError
from stmcli.files import nearest_existing
from stmcli.job import plan
from stmcli.journal import JOURNAL, Journal
from stmcli.masks import MASKS, SOFT
from stmcli.pairing import Pair

# Bytes for a pixel of a frame, by what an output is called: rough, for files of nobody's earlier batch.
BYTES = {
    MASKS: 0.03,
    SOFT: 0.15,
    "overlay": 0.15,
    "matte": 0.05,
    "green": 0.15,
    "alpha": 0.8,
    "mattes": 0.1,
    "cutout": 1.0,
    "davis": 0.4,  # frames as JPEG, as in mots
    "mots": 0.4,
    "ytvis": 0.01,
    "coco": 0.01,
    "report": 0.01,
}


@dataclass(frozen=True)
class Forecast:
    """What is known of a batch before it begins; None: unknown."""

    clips: tuple[Record, ...]  # each with its status: to do, done or failed
    frames: int  # to do, of the clips that say how many they have
    seconds: float | None
    bytes_needed: int
    bytes_free: int

    def count(self, status: str) -> int:
        """Return how many clips have a status."""
        return sum(clip["status"] == status for clip in self.clips)

    def as_json(self) -> dict[str, Any]:
        """Return what `stm batch --dry-run --json` prints."""
        return asdict(self)


def forecast(batch: Batch, chosen: Sequence[Pair]) -> Forecast:
    """Look at every chosen clip as far as that goes without the network. Raises StmError for what concerns all.

    Time and room follow the clips that are done already, below the same folder.
    """
    check_batch(batch)
    clips = tuple(_planned(batch, chosen))
    left = [clip for clip in clips if clip["status"] == "to do"]
    frames = sum(clip["frames"] or 0 for clip in left)
    done = [one for one in Journal(batch.out / JOURNAL).latest().values() if one["status"] == "ok" and one["frames"]]
    timed = [one for one in done if not one["done_before"]]
    seconds = sum(one["seconds"] / _at_once(batch, one, len(left)) for one in timed)
    frames_timed = sum(one["frames"] for one in timed)
    room = sum(one["bytes"] for one in done) / max(1, sum(one["frames"] for one in done))
    return Forecast(
        clips=clips,
        frames=frames,
        seconds=round(frames * seconds / frames_timed, 1) if timed else None,
        bytes_needed=int(frames * room if done else sum(clip["bytes"] for clip in left)),
        bytes_free=shutil.disk_usage(nearest_existing(batch.out)).free,
    )


def _at_once(batch: Batch, done: Record, left: int) -> int:
    """Return how many clips pass in the time that a clip took which is done.

    On a CPU, whose cores are divided, as many as then, however many are done at a time now.
    """
    if share_cores(batch.options, batch.network):
        return done.get("workers", 1)
    return min(batch.options.workers, max(1, left))


def _planned(batch: Batch, chosen: Sequence[Pair]) -> Iterator[Record]:
    for pair in chosen:
        clip: Record = {"clip": pair.output, "video": str(pair.video), "frames": None, "bytes": 0, "error": pair.error}
        try:
            facts = None if pair.error else plan(batch.job(pair))
        except StmError as error:
            facts, clip["error"] = None, str(error)
        if facts is None:
            yield clip | {"status": "failed"}
        else:
            status = "done" if facts["done_before"] else "to do"
            yield clip | {"status": status, "frames": facts["frames"], "bytes": _bytes(facts)}


def _bytes(facts: Record) -> int:
    width, height = map(int, facts["size"].split("x"))
    kinds = [SOFT if Path(path).parent.name == SOFT else _stem(path) for path in facts["outputs"]]
    return int((facts["frames"] or 0) * width * height * sum(BYTES[kind] for kind in kinds))


def _stem(path: str) -> str:
    return Path(path).stem.split("-")[0]
