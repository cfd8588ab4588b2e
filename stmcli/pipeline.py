"""Segment one clip: source -> segmenter -> writers, each in its own thread, with short queues between them."""

import hashlib
import json
import os
import queue
import resource
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import torch

from stmcli import __version__
from stmcli.errors import Interrupted, LockedError, PartialError, UsageError
from stmcli.evaluate import list_sequences
from stmcli.masks import Labels, check_fits, object_ids, read_labels, select_objects
from stmcli.model import STM
from stmcli.options import MemoryOptions, NetworkOptions, SegmentOptions
from stmcli.outputs import AlphaWriter, MaskWriter, MatteWriter, OverlayWriter, Writer
from stmcli.report import Report, read_report, source_facts
from stmcli.segmenter import Prediction, Segmenter, propagate
from stmcli.video import Frame, Source, open_source
from stmcli.weights import find, load_model, sha256, working_size

DEPTH = 4  # frames that wait between two threads
LOCK = ".lock"
HASHED = 2**20  # bytes at either end of a source that its fingerprint looks at
FILMS: dict[str, tuple[str, Callable[..., Writer]]] = {
    "overlay": ("overlay.mp4", OverlayWriter),
    "alpha": ("alpha.mov", AlphaWriter),
    "matte": ("matte.mp4", MatteWriter),
}
Item = TypeVar("Item")


def _unheard(*_: object) -> None:
    """Listen to nothing."""


@dataclass(frozen=True)
class Job:
    """One clip to segment, and where the result goes."""

    video: Path
    mask: Path
    output: Path
    segment: SegmentOptions = SegmentOptions()
    network: NetworkOptions = NetworkOptions()
    memory: MemoryOptions = MemoryOptions()

    def fingerprint(self) -> str:
        """Identify the result: source, mask, weights, and the options that change it."""
        parts = {
            "version": __version__,
            "source": _identity(self.video),
            "mask": _identity(self.mask),
            "weights": sha256(find(self.network.weights)),
            "segment": asdict(replace(self.segment, overwrite=False)),
            "network": asdict(replace(self.network, weights="")),
            "memory": asdict(self.memory),
        }
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


@dataclass(frozen=True)
class Result:
    """What `segment_video` has done."""

    output: Path
    files: tuple[Path, ...]
    frames: int
    seconds: float
    done_before: bool = False
    notes: tuple[str, ...] = ()


def default_output(video: Path) -> Path:
    """Return where the results of a clip go unless told otherwise."""
    return Path("stm_out") / (video.name if video.is_dir() else video.stem)


def segment_video(
    job: Job,
    *,
    model: STM | None = None,
    on_start: Callable[[int | None, str], None] = _unheard,
    on_frame: Callable[[int], None] = _unheard,
) -> Result:
    """Segment a clip and write masks, films and a report; give `model` to use one that is loaded already.

    `on_start` hears the number of frames (None: unknown) and the device, `on_frame` the number of every frame
    that is done. Raises StmError; what was in the output folder before is only replaced when the job allows it.
    """
    with open_source(
        job.video,
        start=job.segment.start,
        end=job.segment.end,
        on_corrupt=job.segment.on_corrupt,  # type: ignore[arg-type]
    ) as source:
        labels = _given_labels(job, source)
        finished = _claim(job)
        if finished:
            return finished
        with _lock(job.output):
            _clear(job.output)
            return _run(job, source, labels, model, on_start, on_frame)


def _run(
    job: Job,
    source: Source,
    labels: Labels,
    model: STM | None,
    on_start: Callable[[int | None, str], None],
    on_frame: Callable[[int], None],
) -> Result:
    started = time.monotonic()
    writers = _open_writers(job, source)  # first: a missing encoder must not cost the loading of the network
    report = Report(job.output / "report.json", _facts(job, labels, source))
    report.save("running")  # so that the same command may go on after a kill
    done = 0
    try:
        model = model or load_model(job.network)
        parameter = next(model.parameters())
        on_start(source.count, f"{parameter.device.type}, {str(parameter.dtype).removeprefix('torch.')}")
        segmenter = Segmenter(model, memory=job.memory, size=working_size(job.network))
        with _Behind([*writers, report]) as behind:
            for frame, prediction in propagate(segmenter, _ahead(source), labels):
                behind.write(frame, prediction)
                on_frame(frame.index)
                done += 1
        for writer in writers:
            writer.close()
    except BaseException as error:
        for writer in writers:
            writer.abort()
        report.save("interrupted" if isinstance(error, KeyboardInterrupt) else "failed", error=str(error))
        if isinstance(error, KeyboardInterrupt):
            raise Interrupted(f"stopped after {done} frames", path=job.output, by=error) from None
        raise
    seconds = time.monotonic() - started
    report.notes += [*source.warnings, *(note for writer in writers for note in writer.notes)]
    files = tuple(writer.path for writer in writers)
    outcome = _outcome(source, done, seconds, parameter.device)
    report.save("ok" if not source.corrupt_frames else "partial", outputs=[f.name for f in files], **outcome)
    _refuse_corrupt(job, source)
    return Result(job.output, files, done, seconds, notes=tuple(report.notes))


def segment_dataset(
    root: Path,
    output: Path,
    *,
    protocol: str,
    network: NetworkOptions,
    memory: MemoryOptions,
    on_start: Callable[[int | None, str], None] = _unheard,
    on_frame: Callable[[int], None] = _unheard,
) -> Path:
    """Segment every clip of a DAVIS-style dataset from its first mask; masks go to `output/<clip>/masks`."""
    clips = list_sequences(root, protocol)
    on_start(sum(1 for clip in clips for _ in clip.frames.iterdir()), f"{len(clips)} clips")
    model = load_model(network)
    for clip in clips:
        mask = min(clip.annotations.glob("*.png"))
        options = SegmentOptions(exports=("none",), overwrite=True)
        segment_video(
            Job(clip.frames, mask, output / clip.name, options, network, memory),
            model=model,
            on_frame=on_frame,
        )
    return output


# -- before the network ----------------------------------------------------------------------------------------------


def _given_labels(job: Job, source: Source) -> Labels:
    """Read the mask of the first frame and keep the objects that are asked for: (H, W)."""
    labels = read_labels(job.mask)
    check_fits(labels, job.mask, source.info.width, source.info.height, source.info.path.name)
    if job.segment.objects:
        labels = select_objects(labels, job.segment.objects, path=job.mask)
    return labels


def _claim(job: Job) -> Result | None:
    """Make the output folder ours, or return the finished result that is in it."""
    out = job.output
    if out.exists() and not out.is_dir():
        raise UsageError("is a file, not a folder", path=out, hint="Choose another --output.")
    for name, _ in (FILMS[kind] for kind in job.segment.exports if kind in FILMS):
        if (out / name).exists() and (out / name).samefile(job.video):
            raise UsageError("is the source itself", path=out / name, hint="Choose another --output.")
    if job.segment.overwrite or not out.exists() or not any(path.name != LOCK for path in out.iterdir()):
        return None
    report = read_report(out / "report.json")
    if report.get("fingerprint") != job.fingerprint():
        raise UsageError(
            "holds the result of another job",
            path=out,
            hint="Choose another --output, or replace it with -y.",
        )
    masks = list((out / "masks").glob("*.png"))
    files = tuple(out / name for name in report.get("outputs", ()))
    if report["status"] != "ok" or len(masks) != report["frames_written"] or not all(f.exists() for f in files):
        return None
    return Result(out, files, len(masks), 0.0, done_before=True, notes=tuple(report["notes"]))


@contextmanager
def _lock(out: Path) -> Iterator[None]:
    """Keep a second run out of the folder; the lock of a dead process is taken over."""
    lock = out / LOCK
    try:
        out.mkdir(parents=True, exist_ok=True)
        while True:
            try:
                os.close(os.open(lock, os.O_CREAT | os.O_EXCL | os.O_WRONLY))
                break
            except FileExistsError:
                _break_dead(lock)
        lock.write_text(str(os.getpid()))
    except OSError as error:
        raise UsageError(f"cannot be written ({error.strerror})", path=out, hint="Choose another --output.") from None
    try:
        yield
    finally:
        lock.unlink(missing_ok=True)


def _break_dead(lock: Path) -> None:
    text = lock.read_text()
    try:
        os.kill(int(text), 0)
    except (ValueError, ProcessLookupError):
        lock.unlink(missing_ok=True)
    except PermissionError:
        pass
    else:
        raise LockedError(f"in use by process {text}", path=lock.parent, hint="Wait for it, or stop it.")


def _clear(out: Path) -> None:
    """Remove what an earlier run of ours left: masks, films, the report, and their temporaries."""
    names = ["report.json", *(name for name, _ in FILMS.values())]
    for path in [*(out / "masks").glob("*.png"), *out.rglob("*.part"), *out.glob("*.part.*")]:
        path.unlink(missing_ok=True)
    for name in names:
        (out / name).unlink(missing_ok=True)


def _open_writers(job: Job, source: Source) -> list[Writer]:
    writers: list[Writer] = [MaskWriter(job.output / "masks", source.frame_name)]
    try:
        for kind in job.segment.exports:
            if kind in FILMS:
                name, make = FILMS[kind]
                sound = {"audio": False} if job.segment.audio == "none" else {}
                writers.append(make(job.output / name, source.info, **sound))
    except BaseException:
        for writer in writers:
            writer.abort()
        raise
    return writers


# -- three threads ---------------------------------------------------------------------------------------------------


def _ahead(items: Iterable[Item]) -> Iterator[Item]:
    """Iterate in a thread of its own, a few items ahead of the one who asks."""
    ready: queue.Queue[Any] = queue.Queue(DEPTH)
    end = object()
    stop = threading.Event()

    def offer(item: object) -> None:
        while not stop.is_set():
            try:
                return ready.put(item, timeout=0.1)
            except queue.Full:
                continue

    def fill() -> None:
        try:
            for item in items:
                offer((item, None))
                if stop.is_set():
                    return
            offer((end, None))
        except BaseException as error:
            offer((end, error))

    thread = threading.Thread(target=fill, name="decode", daemon=True)
    thread.start()
    try:
        while True:
            item, error = ready.get()
            if error is not None:
                raise error
            if item is end:
                return
            yield item
    finally:
        stop.set()
        thread.join()


class _Behind:
    """Write in a thread of its own; an error there is raised here, at the next write or at the end."""

    def __init__(self, writers: Sequence[Any]) -> None:
        self._writers = writers
        self._waiting: queue.Queue[tuple[Frame, Prediction] | None] = queue.Queue(DEPTH)
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._work, name="write", daemon=True)

    def __enter__(self) -> "_Behind":
        self._thread.start()
        return self

    def write(self, frame: Frame, prediction: Prediction) -> None:
        """Hand a frame to the writers; waits while they are several frames behind."""
        self._raise()
        self._waiting.put((frame, prediction))

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None:
            self._error = self._error or KeyboardInterrupt()  # nothing more is to be written
        self._waiting.put(None)
        self._thread.join()
        if kind is None:
            self._raise()

    def _work(self) -> None:
        while (item := self._waiting.get()) is not None:
            if self._error is not None:
                continue  # keep taking, so that nobody waits for room
            try:
                for writer in self._writers:
                    writer.write(*item)
            except BaseException as error:
                self._error = error

    def _raise(self) -> None:
        if self._error is not None:
            raise self._error


# -- facts -----------------------------------------------------------------------------------------------------------


def _identity(path: Path) -> list[Any]:
    """Tell a source from others without reading all of it."""
    if not path.is_file():
        files = sorted((path if path.is_dir() else path.parent).iterdir())  # a folder or a pattern
        return [[p.name, p.stat().st_size, p.stat().st_mtime_ns] for p in files if p.is_file()]
    with path.open("rb") as file:
        head = file.read(HASHED)
        file.seek(max(0, path.stat().st_size - HASHED))
        tail = file.read(HASHED)
    return [path.name, path.stat().st_size, hashlib.sha256(head + tail).hexdigest()]


def _facts(job: Job, labels: Labels, source: Source) -> dict[str, Any]:
    entry = find(job.network.weights)
    return {
        "stm": __version__,
        "torch": torch.__version__,
        "fingerprint": job.fingerprint(),
        "weights": {"path": str(entry), "sha256": sha256(entry)},
        "source": source_facts(source.info),
        "mask": str(job.mask),
        "objects": [int(number) for number in object_ids(labels)],
        "options": {name: asdict(getattr(job, name)) for name in ("segment", "network", "memory")},
    }


def _outcome(source: Source, done: int, seconds: float, device: torch.device) -> dict[str, Any]:
    peak = {"peak_host_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024}
    if device.type == "cuda":
        peak["peak_device_bytes"] = torch.cuda.max_memory_allocated(device)
    return {
        "frames_written": done,
        "frames_corrupt": list(source.corrupt_frames),
        "seconds": round(seconds, 3),
        "frames_per_second": round(done / seconds, 3),
        **peak,
    }


def _refuse_corrupt(job: Job, source: Source) -> None:
    if source.corrupt_frames:
        listed = ", ".join(str(number) for number in source.corrupt_frames[:10])
        raise PartialError(
            f"{len(source.corrupt_frames)} frames could not be decoded ({listed})",
            path=job.video,
            hint=f"The rest is in {job.output}.",
        )
