"""One clip of a batch as a worker sees it: what to do, what is said on the way, and how it ended."""

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from stmcli.errors import DeviceError, Interrupted, PartialError, StmError
from stmcli.given import mask_in
from stmcli.job import Job
from stmcli.listeners import Listener
from stmcli.model import STM
from stmcli.pipeline import Result, segment_video
from stmcli.registry import found_from
from stmcli.signals import stop_behind


@dataclass(frozen=True)
class Task:
    """A clip to segment; `name` tells it from the others of a batch."""

    name: str
    job: Job

    def anywhere(self) -> "Task":
        """Return the task with whole paths, for a worker that does not run in this folder."""
        job, here = self.job, Path.cwd()
        masks = tuple(mask_in(here, word) for word in job.masks)
        network = replace(job.network, weights=found_from(here, job.network.weights))
        job = replace(job, video=here / job.video, masks=masks, output=here / job.output, network=network)
        return replace(self, job=job)


@dataclass(frozen=True)
class Advanced:
    """So many frames of a clip are done, of `total`; None where only decoding tells how many there are."""

    name: str
    done: int
    total: int | None
    device: str


@dataclass(frozen=True)
class Outcome:
    """How a clip ended: `status` is ok, partial or failed; `lost` when its worker died or is of no more use."""

    name: str
    status: str
    error: str = ""
    kind: str = ""  # the class of the error
    frames: int = 0
    seconds: float = 0.0
    size: int = 0  # bytes in the output folder
    done_before: bool = False
    lost: bool = False
    notes: tuple[str, ...] = ()


Hear = Callable[[Advanced], None]


def do(task: Task, load: Callable[[], STM], hear: Hear) -> Outcome:
    """Segment a clip and say how it ended, whatever happens to it; only an interruption is raised."""
    now = Advanced(task.name, 0, None, "")

    def start(total: int | None, device: str) -> None:
        nonlocal now
        now = replace(now, total=total, device=device)
        hear(now)

    def advance(_: int) -> None:
        nonlocal now
        now = replace(now, done=now.done + 1)
        hear(now)

    try:
        result = segment_video(task.job, load=load, listener=Listener(start, advance))
    except Interrupted:
        raise
    except PartialError as error:
        if isinstance(error.result, Result):
            return _outcome(task, error.result, "partial", error)
        return failure(task, error)
    except DeviceError as error:
        return replace(failure(task, error), lost=True)
    except Exception as error:  # the border: no clip may take others with it
        if stop := stop_behind(error):
            raise stop from None
        return failure(task, error)
    return _outcome(task, result, "ok")


def failure(task: Task, error: Exception) -> Outcome:
    """Return the outcome of a clip that an error has ended."""
    text = str(error) if isinstance(error, StmError) else f"{task.job.video}: {type(error).__name__}: {error}"
    return Outcome(task.name, "failed", " ".join(text.split()), type(error).__name__)


def loss(task: Task, cause: str) -> Outcome:
    """Return the outcome of a clip whose worker died."""
    error = StmError(cause, path=task.job.video, hint="Look at the memory it needs.")
    return Outcome(task.name, "failed", str(error), "WorkerDied", lost=True)


def _outcome(task: Task, result: Result, status: str, error: Exception | None = None) -> Outcome:
    return Outcome(
        task.name,
        status,
        error=str(error or ""),
        kind=type(error).__name__ if error else "",
        frames=result.frames,
        seconds=round(result.seconds, 3),
        size=_size(result.output),
        done_before=result.done_before,
        notes=result.notes,
    )


def _size(folder: Path) -> int:
    size = 0
    for file in folder.rglob("*"):
        with suppress(FileNotFoundError):  # a review that saves a correction meanwhile renames files
            size += file.stat().st_size if file.is_file() else 0
    return size
