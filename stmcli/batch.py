"""Segment many clips: a bad one neither stops nor hides, and the same command again does what is missing."""

import json
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from stmcli import __version__
from stmcli.device import pick_device
from stmcli.engines import Engine, Hear, Outcome, Task, open_engine, settled
from stmcli.errors import Interrupted, PartialError, StmError, Terminated, UsageError, counted, listed
from stmcli.files import whole
from stmcli.job import Job
from stmcli.journal import JOURNAL, SUMMARY, Journal
from stmcli.kinds import outputs
from stmcli.listeners import unheard
from stmcli.options import GROUPS, BatchOptions, ExportOptions, MemoryOptions, NetworkOptions, SegmentOptions
from stmcli.page import write_batch_page
from stmcli.pairing import Pair
from stmcli.results import lock
from stmcli.weights import suited

Record = dict[str, Any]  # how a clip ended: a line of the journal
NAMED = 5  # failed clips that an error names


@dataclass(frozen=True)
class Batch:
    """Clips to segment in the same way, below one folder."""

    pairs: Sequence[Pair]
    out: Path
    segment: SegmentOptions = SegmentOptions()
    network: NetworkOptions = NetworkOptions()
    memory: MemoryOptions = MemoryOptions()
    export: ExportOptions = ExportOptions()
    options: BatchOptions = BatchOptions()

    def job(self, pair: Pair) -> Job:
        """Return the job on one of the clips."""
        return Job(pair.video, pair.masks, self.out / pair.output, self.segment, self.network, self.memory, self.export)


def choose(pairs: Sequence[Pair], out: Path, *, only_failed: bool = False, limit: int | None = None) -> Sequence[Pair]:
    """Return the clips to do: all, those that failed before, or the first few. Raises UsageError."""
    if only_failed:
        before = Journal(out / JOURNAL).latest()
        if not before:
            raise UsageError("no earlier batch here", path=out, hint="Run without --only-failed first.")
        pairs = [pair for pair in pairs if before.get(pair.output, {}).get("status") in ("failed", "partial")]
    return pairs[:limit]


def check_batch(batch: Batch) -> None:
    """Find before the first clip what would make all of them fail. Raises StmError."""
    suited(batch.network)
    if batch.options.engine != "ray":  # whose machines have other devices than this one
        pick_device(batch.network.device)
    for gpu in batch.options.gpus:
        pick_device(f"cuda:{gpu}")
    outputs(batch.export, (1,))


def run_batch(
    batch: Batch,
    *,
    chosen: Sequence[Pair] | None = None,
    hear: Hear = unheard,
    on_end: Callable[[Record], None] = unheard,
) -> Record:
    """Segment the clips, or the chosen ones of them, and return the totals, which are in `summary.json` too.

    `hear` is told how far a clip is, `on_end` how it ended. Raises PartialError when some clips failed or are only
    there in part, StmError when all failed, Interrupted; the totals are written then too.
    """
    check_batch(batch)
    chosen = batch.pairs if chosen is None else chosen
    with lock(batch.out):
        batch = replace(batch, options=settled(batch.options, batch.network, batch.memory, _left(batch, chosen)))
        run = _Run(batch, chosen, on_end)
        began = time.monotonic()
        engine = open_engine(batch.options, batch.network, hear)
        try:
            run.through(engine)
        except (KeyboardInterrupt, Interrupted) as stop:
            engine.close(now=True)
            run.summarise("interrupted", time.monotonic() - began)
            cause = f"stopped after {sum(run.ended.values())} of {counted(run.wanted, 'clip')}"
            raise Interrupted(cause, path=batch.out, by=_signal_of(stop)) from None
        except StmError:
            engine.close(now=True)
            run.summarise("failed", time.monotonic() - began)
            raise
        except BaseException:
            engine.close(now=True)
            raise
        engine.close()
        summary = run.summarise(run.status(), time.monotonic() - began)
    run.raise_failures()
    return summary


def _left(batch: Batch, chosen: Sequence[Pair]) -> int:
    """Return how many clips there are to do, as far as the journal knows."""
    known = {} if batch.segment.overwrite else Journal(batch.out / JOURNAL).latest()
    return sum(not pair.error and known.get(pair.output, {}).get("status") != "ok" for pair in chosen)


@dataclass
class _Clip:
    """A clip and how it has gone in this pass, try by try."""

    pair: Pair
    listed: bool  # as ok, in the journal
    tried: list[Outcome] = field(default_factory=list)


class _Run:
    """One pass over the clips: which are left, which have to be tried again, and how the others ended."""

    def __init__(self, batch: Batch, chosen: Sequence[Pair], on_end: Callable[[Record], None]) -> None:
        self._batch, self._on_end = batch, on_end
        self._journal = Journal(batch.out / JOURNAL)
        ok = {clip for clip, record in self._journal.latest().items() if record["status"] == "ok"}
        self._queue = deque(_Clip(pair, pair.output in ok) for pair in chosen)
        self._at_work: dict[str, _Clip] = {}
        self._failed: list[Path] = []
        self._began = datetime.now(UTC)
        self.wanted = len(chosen)
        self.ended: Counter[str] = Counter()  # by status

    def through(self, engine: Engine) -> None:
        """Do all clips that are left."""
        while self._queue or engine.busy():
            while self._queue and engine.free():
                self._begin(self._queue.popleft(), engine)
            if self._queue or engine.busy():
                for outcome in engine.wait():
                    self._take(outcome)

    def _begin(self, clip: _Clip, engine: Engine) -> None:
        pair = clip.pair
        if self._batch.options.fail_fast and self._failed:  # nothing is begun any more, and no second try
            if clip.tried:
                self._end(clip)
        elif pair.error:
            clip.tried.append(Outcome(pair.output, "failed", pair.error, "UsageError"))
            self._end(clip)
        else:
            self._at_work[pair.output] = clip
            engine.submit(Task(pair.output, self._batch.job(pair)))

    def _take(self, outcome: Outcome) -> None:
        """Let a clip end, or try it again: once when its worker died, as often as was asked when it failed."""
        clip = self._at_work.pop(outcome.name)
        clip.tried.append(outcome)
        again = outcome.status == "failed" and len(clip.tried) <= self._batch.options.retries
        if again or (outcome.lost and sum(one.lost for one in clip.tried) == 1):
            self._queue.append(clip)
        else:
            self._end(clip)

    def _end(self, clip: _Clip) -> None:
        *before, outcome = clip.tried
        notes = (*outcome.notes, *(f"tried again after: {one.error}" for one in before[-1:]))
        record = _record(self._batch.out, clip.pair, replace(outcome, notes=notes), len(clip.tried))
        record["workers"] = self._batch.options.workers
        if not (outcome.done_before and clip.listed):
            self._journal.add(record)
        self.ended[outcome.status] += 1
        self._failed += [clip.pair.video] if outcome.status == "failed" else []
        self._on_end(record)

    def status(self) -> str:
        """Return ok, partial or failed, of this pass."""
        if self.ended["ok"] == self.wanted:
            return "ok"
        return "partial" if self.ended["ok"] + self.ended["partial"] else "failed"

    def raise_failures(self) -> None:
        """Raise the error that this pass ends with, if any."""
        if self.status() == "ok":
            return
        failed, partial = self.ended["failed"], self.ended["partial"]
        left = self.wanted - sum(self.ended.values())
        counts = ((failed, "failed"), (partial, "done in part"), (left, "not begun"))
        clips = f"{counted(self.wanted, 'clip')}"
        cause = f"of {clips} " + ", ".join(f"{count} {what}" for count, what in counts if count)
        if self._failed:
            cause += f": {listed(self._failed, NAMED)}"
        error = PartialError if self.status() == "partial" else StmError
        hint = f"{SUMMARY} says why; once that is mended, the same command does what is missing."
        raise error(cause, path=self._batch.out, hint=hint)

    def summarise(self, status: str, seconds: float) -> Record:
        """Write the totals over all clips, also those of earlier passes, and return them. Raises WriteError."""
        latest = self._journal.latest()
        batch, counts, sums = self._batch, Counter[str](), Counter[str]()

        def clips() -> Iterator[Record]:
            for pair in batch.pairs:  # the folder may have been moved since a clip was done
                yield (latest.get(pair.output) or _pending(batch.out, pair)) | {"output": str(batch.out / pair.output)}

        for clip in clips():
            counts[clip["status"]] += 1
            for name in ("frames", "seconds", "bytes"):
                sums[name] += clip[name]
        summary = {
            "stm": __version__,
            "status": status,
            "began": self._began.isoformat(timespec="seconds"),
            "seconds": round(seconds, 3),
            "clips": len(batch.pairs),
            **{name: counts[name] for name in ("ok", "partial", "failed", "pending")},
            "frames": sums["frames"],
            "clip_seconds": round(sums["seconds"], 3),
            "bytes": sums["bytes"],
            "this_run": {"clips": self.wanted, **self.ended},
            "options": {name: asdict(getattr(batch, name)) for name in GROUPS} | {"batch": asdict(batch.options)},
        }
        _write_summary(batch.out / SUMMARY, summary, clips())
        write_batch_page(batch.out)
        return summary


def _record(out: Path, pair: Pair, outcome: Outcome, tries: int) -> Record:
    return {
        "clip": pair.output,
        "video": str(pair.video),
        "masks": [str(mask) for mask in pair.masks],
        "output": str(out / pair.output),
        "status": outcome.status,
        "error": outcome.error,
        "kind": outcome.kind,
        "frames": outcome.frames,
        "seconds": outcome.seconds,
        "bytes": outcome.size,
        "done_before": outcome.done_before,
        "tries": tries,
        "notes": list(outcome.notes),
        "ended": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def _pending(out: Path, pair: Pair) -> Record:
    return _record(out, pair, Outcome(pair.output, "pending"), 0) | {"ended": None}


def _write_summary(path: Path, summary: Record, clips: Iterable[Record]) -> None:
    """Write the totals, and a line for each clip. Raises WriteError."""
    head = json.dumps(summary, indent=1).removesuffix("\n}")
    with whole(path) as part, part.open("w", encoding="ascii") as file:
        file.write(f'{head},\n "results": [')
        for number, clip in enumerate(clips):
            file.write("," * (number > 0) + "\n  " + json.dumps(clip))
        file.write("\n ]\n}\n")


def _signal_of(stop: BaseException) -> KeyboardInterrupt:
    ended = isinstance(stop, Terminated) or getattr(stop, "exit_code", 0) == 143
    return Terminated() if ended else KeyboardInterrupt()
