"""What a run saves now and then, so that it can go on in the middle of a clip: the memory of the network."""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zlib import crc32

from safetensors import SafetensorError, safe_open
from safetensors.torch import save as safetensors_bytes
from torch import Tensor, uint8

from stmcli.files import write_whole, writing
from stmcli.given import GivenMask
from stmcli.segmenter.follower import State

EVERY = 50  # frames between two checkpoints
CLOSE = 10  # frames that lie between them at least, also where a mask is given
MOST = 16  # checkpoints of a clip that are kept, evenly spread
LINES = "frames.jsonl"


@dataclass(frozen=True)
class Checkpoint:
    """What is known after one frame of a clip."""

    frame: int
    state: State
    lines: tuple[str, ...]  # of the report, one for each frame that is done
    seconds: float  # that the run has taken until then


class Checkpoints:
    """Save the state of a segmenter beside its results, and find the latest that still holds.

    A checkpoint holds for a run with the same `key`, and the same masks of the frames that `counts` for it. Only the
    latest one stays, or with `keep` so many that a later correction finds one shortly before it.
    """

    def __init__(self, folder: Path, key: Mapping[str, Any], given: Sequence[GivenMask], *, keep: bool = False) -> None:
        self._folder, self._key, self._given, self._keep = folder, json.dumps(key, sort_keys=True), given, keep
        self._before_given = {mask.frame - 1 for mask in given}
        self._saved = 0  # lines of the report on disk
        self._since = 0  # frames since the last checkpoint
        self._stale: list[Path] = []  # that do not hold for this run

    def due(self, frame: int) -> bool:
        """Count one frame more, and tell whether the state after it is to be saved."""
        self._since += 1
        wanted = self._since >= EVERY or (self._keep and self._since >= CLOSE and frame in self._before_given)
        self._since = 0 if wanted else self._since
        return wanted

    def save(self, frame: int, state: State, lines: Sequence[str], *, seconds: float = 0.0) -> None:
        """Save the state after a frame whose results are on disk, with all lines of the report. Raises WriteError."""
        path = self._folder / f"{len(lines):08d}.safetensors"
        new = "".join(f"{crc32(line.encode()):08x} {line}\n" for line in lines[self._saved :])
        with writing(path):
            self._folder.mkdir(parents=True, exist_ok=True)
            if self._saved:
                with (self._folder / LINES).open("a") as file:
                    file.write(new)
            else:  # in one piece: earlier checkpoints need the file too
                write_whole(self._folder / LINES, new.encode())
        self._saved = len(lines)
        facts = {
            "frame": frame,
            "lines": len(lines),
            "key": self._key,
            "masks": self._masks(frame),
            "seconds": seconds,
            "state": json.loads(json.dumps(state.facts)),  # as it will be read
        }
        facts["sha256"] = _digest(facts, state.tensors)
        write_whole(path, safetensors_bytes(state.tensors, {"facts": json.dumps(facts)}))
        self._thin()

    def latest(self, holds: Callable[[Checkpoint], bool]) -> Checkpoint | None:
        """Return the last checkpoint that holds for this run; `drop` removes those after it, which do not."""
        for path in reversed(self._files()):
            found = self._read(path)
            if found is not None and holds(found):
                return found
            self._stale.append(path)
        return None

    def drop(self) -> None:
        """Remove the checkpoints that did not hold, before anything of this run takes their place."""
        while self._stale:
            self._stale.pop().unlink(missing_ok=True)

    def _read(self, path: Path) -> Checkpoint | None:
        damage = (OSError, ValueError, KeyError, TypeError, SafetensorError)
        with suppress(*damage), safe_open(path, "pt") as file:
            facts = json.loads(file.metadata()["facts"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  (not a dict)
            whole = facts.pop("sha256") == _digest(facts, tensors)
            if whole and facts["key"] == self._key and facts["masks"] == self._masks(facts["frame"]):
                state, lines = State(tensors, facts["state"]), self._lines(facts["lines"])
                return Checkpoint(facts["frame"], state, lines, facts["seconds"])
        return None

    def _lines(self, count: int) -> tuple[str, ...]:
        """Return so many lines of the report. Raises OSError, ValueError when some are missing or damaged."""
        stored = (self._folder / LINES).read_text().splitlines()[:count]
        lines = tuple(line[9:] for line in stored)
        sums = [int(line[:8], 16) for line in stored]
        if len(lines) < count or sums != [crc32(line.encode()) for line in lines]:
            raise ValueError
        return lines

    def _masks(self, frame: int) -> dict[str, str]:
        """Identify the masks that the state after a frame depends on."""
        return {str(mask.frame): mask.digest() for mask in self._given if mask.frame <= frame}

    def _thin(self) -> None:
        """Remove what is too much: all but the latest, or those that lie closest to the one before."""
        files = self._files()
        for path in files[:-1] if not self._keep else ():
            path.unlink()
        while self._keep and len(files) > MOST:
            gaps = [int(b.stem) - int(a.stem) for a, b in zip([Path("0"), *files], files, strict=False)]
            files.pop(gaps.index(min(gaps[:-1]))).unlink()

    def _files(self) -> list[Path]:
        return sorted(self._folder.glob("*.safetensors"))


def _digest(facts: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> str:
    """Identify all of a checkpoint: a flipped bit in its numbers would otherwise pass for a memory."""
    whole = hashlib.sha256(json.dumps([facts, sorted(tensors)], sort_keys=True).encode())
    for name in sorted(tensors):
        whole.update(tensors[name].cpu().contiguous().reshape(-1).view(uint8).numpy().tobytes())
    return whole.hexdigest()
