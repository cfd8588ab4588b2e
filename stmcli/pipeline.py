"""Segment one clip: source -> segmenter -> writers, each in its own thread, with short queues between them."""

import hashlib
import json
import os
import resource
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from stmcli import __version__
from stmcli.errors import Interrupted, StmError
from stmcli.evaluate import Sequence as Clip
from stmcli.evaluate import list_sequences, mask_files
from stmcli.given import GivenMask, first_number, list_mask_files, read_given
from stmcli.kinds import Output, open_writers, opened, outputs, soft_outputs
from stmcli.masks import Labels, read_values
from stmcli.matting import Matted
from stmcli.model import STM
from stmcli.options import SOFT_EXPORTS, ExportOptions, MattingOptions, MemoryOptions, NetworkOptions, SegmentOptions
from stmcli.outputs import MaskWriter, Writer
from stmcli.report import Report, source_facts
from stmcli.results import (
    MASKS,
    REPORT,
    check_folder,
    clear,
    earlier_result,
    lock,
    output_names,
    refuse_corrupt,
    source_files,
)
from stmcli.segmenter import Prediction, Segmenter, propagate
from stmcli.threads import Behind, InTurn, Waiting, ahead
from stmcli.video import Frame, Source, open_source
from stmcli.weights import card_of, find, load_model, pick_device, sha256, suited

HASHED = 2**20  # bytes at either end of a source that its fingerprint looks at


def _unheard(*_: object) -> None:
    """Listen to nothing."""


@dataclass(frozen=True)
class Job:
    """One clip to segment, and where the result goes; the masks are the words of `--mask`, paths or FRAME:PATH."""

    video: Path
    masks: tuple[str | Path, ...]
    output: Path
    segment: SegmentOptions = SegmentOptions()
    network: NetworkOptions = NetworkOptions()
    memory: MemoryOptions = MemoryOptions()
    export: ExportOptions = ExportOptions()

    def fingerprint(self) -> str:
        """Identify the result: source, mask, weights, and the options that change it."""
        unlike: dict[str, Any] = {"overwrite": False, "resume": True}
        unlike["on_corrupt"] = SegmentOptions.on_corrupt  # a result with corrupt frames never counts as finished
        parts = {
            "version": __version__,
            "source": _identity(self.video),
            "masks": [(str(file.frame), _identity(file.path)) for file in list_mask_files(self.masks)],
            "weights": sha256(find(self.network.weights)),
            "segment": asdict(replace(self.segment, **unlike)),
            "network": asdict(replace(self.network, weights="")),
            "memory": asdict(self.memory),
            "export": asdict(self.export),
        }
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()

    def outputs(self, ids: Sequence[int]) -> list[Output]:
        """Return what to write beside the masks for the objects `ids`. Raises UsageError."""
        wanted = outputs(self.export, ids)
        soft = self.segment.keep_soft or any(output.kind in SOFT_EXPORTS for output in wanted)
        return [*(soft_outputs(ids) if soft else ()), *wanted]

    def names(self, ids: Sequence[int]) -> list[str]:
        """Return the names of what is written beside the masks."""
        return [output.name for output in self.outputs(ids)]


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
    whole = Path(os.path.abspath(video))  # `.` and `..` have names too
    return Path("stm_out") / (whole.name if whole.is_dir() else whole.stem)


def plan(job: Job) -> dict[str, Any]:
    """Check a job as far as that goes without the network, write nothing, and return what it would do.

    Raises the StmError that the job would raise.
    """
    with open_job(job) as (source, given, notes):
        done = _done_before(job)
        return {
            "source": str(job.video),
            "size": f"{source.info.width}x{source.info.height}",
            "frames": source.count,
            "masks": _mask_facts(given),
            "objects": list(given[0].ids),
            "weights": str(find(job.network.weights)),
            "device": str(pick_device(job.network.device)),
            "outputs": [str(job.output / name) for name in (MASKS, *job.names(given[0].ids), REPORT)],
            "done_before": done is not None,
            "notes": [*notes, *source.warnings],
        }


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
    with open_job(job) as (source, given, notes):
        with lock(job.output):
            done = _done_before(job)
            if done is None:
                return _run(job, source, given, notes, model, on_start, on_frame)
        files = tuple(job.output / name for name in done["outputs"])
        return Result(job.output, files, done["frames_written"], 0.0, done_before=True, notes=tuple(done["notes"]))


def _run(
    job: Job,
    source: Source,
    given: tuple[GivenMask, ...],
    notes: list[str],
    model: STM | None,
    on_start: Callable[[int | None, str], None],
    on_frame: Callable[[int], None],
) -> Result:
    started = time.monotonic()
    before = output_names(job.output)
    may_be_there = [MASKS, *dict.fromkeys((*before, *job.names(given[0].ids)))]  # for a run after this one is killed
    report = Report(job.output / REPORT, _facts(job, given, source) | {"outputs": may_be_there}, notes)
    waiting = Waiting()
    with _writing(job, source, given[0].ids, report) as writers:  # a missing encoder must not cost loading the network
        model = model or load_model(job.network)
        parameter = next(model.parameters())
        report.facts["device"] = f"{parameter.device.type}, {str(parameter.dtype).removeprefix('torch.')}"
        on_start(source.count, report.facts["device"])
        report.save("running")  # so that the same command may go on after a kill
        clear(job.output / name for name in (MASKS, *before))
        fit = suited(job.network)
        segmenter = Segmenter(model, memory=job.memory, size=fit.size or 0, top_k=fit.top_k or 0)
        _follow(segmenter, source, given[0].labels(), job, [*writers, report], waiting, on_frame)
        for writer in writers:
            writer.close()
    seconds = time.monotonic() - started
    report.notes += [*source.warnings, *(note for writer in writers for note in writer.notes)]
    files = tuple(writer.path for writer in writers)
    outcome = _outcome(source, report, seconds, parameter.device) | {
        "outputs": [_name(job, writer) for writer in writers],
        "checked": {_name(job, writer): dict(writer.facts) for writer in writers},
        "seconds_waited": waiting.seconds(),
    }
    report.save("ok" if not source.corrupt_frames else "partial", **outcome)
    result = Result(job.output, files, report.count, seconds, notes=tuple(report.notes))
    refuse_corrupt(source, job.video, job.output, result)
    return result


def _follow(
    segmenter: Segmenter,
    source: Source,
    labels: Labels,
    job: Job,
    writers: list[Writer | Report],
    waiting: Waiting,
    on_frame: Callable[[int], None],
) -> None:
    """Carry the labels through the clip; decoding and writing run in threads beside the network.

    But on a CPU the network has all cores, and every step of it waits for the slowest of them: there a few
    milliseconds of writing are over sooner between two frames than beside one. Soft alpha takes more than that.
    """
    soft = any(kind in SOFT_EXPORTS for kind in job.export.kinds)
    write_frames = Behind if soft or next(segmenter.model.parameters()).is_cuda else InTurn
    matting = MattingOptions(refine=job.export.refine)

    def write(pair: tuple[Frame, Prediction]) -> None:
        frame, prediction = pair
        matted = Matted(frame.rgb, prediction, options=matting)
        for writer in writers:
            writer.write(frame, matted)

    with closing(ahead(source)) as frames, write_frames(write) as behind:
        for pair in propagate(segmenter, waiting.on("decoding", frames), labels):
            with waiting.while_("writing"):
                behind.put(pair)
            on_frame(pair[0].index)


@contextmanager
def _writing(job: Job, source: Source, ids: Sequence[int], report: Report) -> Iterator[list[Writer]]:
    """Open the writers; on any error leave no unfinished film, and a report only if there are masks to keep."""
    try:
        with opened(_writers(job, source, ids)) as writers:
            yield writers
    except BaseException as error:
        stopped = isinstance(error, KeyboardInterrupt)
        with suppress(StmError):  # a full disk: the first error says it
            report.fail("interrupted" if stopped else "failed", str(error))
        if isinstance(error, KeyboardInterrupt):
            raise Interrupted(f"stopped after {report.count} frames", path=job.output, by=error) from None
        raise


def _writers(job: Job, source: Source, ids: Sequence[int]) -> Iterator[Writer]:
    yield MaskWriter(job.output / MASKS, source.frame_name)
    yield from open_writers(job.outputs(ids), job.output, source, job.export, soft_bits=job.segment.soft_bits)


def _name(job: Job, writer: Writer) -> str:
    """Return what an output is called inside the result's folder."""
    return str(writer.path.relative_to(job.output))


def segment_dataset(
    root: Path,
    output: Path,
    *,
    protocol: str,
    network: NetworkOptions,
    memory: MemoryOptions,
    overwrite: bool = False,
    model: STM | None = None,
    on_start: Callable[[int | None, str], None] = _unheard,
    on_frame: Callable[[int], None] = _unheard,
) -> Path:
    """Segment every clip of a DAVIS-style dataset from its first mask; masks go to `output/<clip>/masks`.

    Clips that are done already are not done again; give `model` to use one that is loaded. Raises StmError.
    """
    clips = list_sequences(root, protocol)
    on_start(sum(len(source_files(clip.frames)) for clip in clips), f"{len(clips)} clips")
    model = model or load_model(network)
    options, export = SegmentOptions(overwrite=overwrite), ExportOptions(kinds=("none",))
    for clip in clips:
        job = Job(clip.frames, (_first_mask(clip),), output / clip.name, options, network, memory, export)
        segment_video(job, model=model, on_frame=on_frame)
    return output


def _first_mask(clip: Clip) -> str | Path:
    """Return the word of `--mask` for the first ground truth with an object, which may be that of a later frame."""
    masks = mask_files(clip.annotations)
    mask = next((path for path in masks if read_values(path).any()), masks[0])
    first = source_files(clip.frames)[0].stem
    late = mask.stem.isdecimal() and first.isdecimal() and int(mask.stem) > int(first)
    return f"{int(mask.stem)}:{mask}" if late else mask


# -- before the network ----------------------------------------------------------------------------------------------


@contextmanager
def open_job(job: Job) -> Iterator[tuple[Source, tuple[GivenMask, ...], list[str]]]:
    """Open the source where the first mask is, with the masks, and what is odd about them; check the output folder.

    Raises the StmError that says what is wrong with any of them.
    """
    notes: list[str] = []
    options = job.segment
    source = _open_source(job, options.start)
    try:
        given = read_given(job.masks, source, objects=options.objects, warn=notes.append)
        check_folder(
            job.output, job.names(given[0].ids), job.video, *(file.path for file in list_mask_files(job.masks))
        )
        if options.start is None and given[0].frame > first_number(source):
            notes.append(f"the clip is followed from frame {given[0].frame}, the first with a mask")
            source.close()
            source = _open_source(job, given[0].frame)
        if len(given) > 1:
            frames = ", ".join(str(mask.frame) for mask in given[1:4]) + ", ..." * (len(given) > 4)
            notes.append(f"the masks of later frames ({frames}) were checked; they are not used yet")
        yield source, given, notes
    finally:
        source.close()


def _open_source(job: Job, start: int | None) -> Source:
    on_corrupt: Any = job.segment.on_corrupt
    return open_source(job.video, start=start, end=job.segment.end, on_corrupt=on_corrupt)


def _done_before(job: Job) -> dict[str, Any] | None:
    """Return the report of this very job when it is finished. Raises UsageError when another's would be lost."""
    wanted = job.segment
    return earlier_result(job.output, job.fingerprint(), overwrite=wanted.overwrite, resume=wanted.resume)


# -- facts -----------------------------------------------------------------------------------------------------------


def _identity(path: Path) -> list[Any]:
    """Tell a source from others without reading all of it."""
    if not path.is_file():  # the frames of a folder or a pattern
        return [[file.name, file.stat().st_size, file.stat().st_mtime_ns] for file in source_files(path)]
    with path.open("rb") as file:
        head = file.read(HASHED)
        file.seek(max(0, path.stat().st_size - HASHED))
        tail = file.read(HASHED)
    return [path.name, path.stat().st_size, hashlib.sha256(head + tail).hexdigest()]


def _facts(job: Job, given: tuple[GivenMask, ...], source: Source) -> dict[str, Any]:
    entry = find(job.network.weights)
    return {
        "stm": __version__,
        "torch": torch.__version__,
        "fingerprint": job.fingerprint(),
        "weights": {"path": str(entry), "sha256": sha256(entry), "licence": card_of(entry).licence},
        "source": source_facts(source.info),
        "masks": _mask_facts(given),
        "objects": list(given[0].ids),
        "options": {name: asdict(getattr(job, name)) for name in ("segment", "network", "memory", "export")},
    }


def _mask_facts(given: tuple[GivenMask, ...]) -> list[dict[str, Any]]:
    return [{"frame": mask.frame, "path": str(mask.path), "ids": list(mask.ids)} for mask in given]


def _outcome(source: Source, report: Report, seconds: float, device: torch.device) -> dict[str, Any]:
    peak = {"peak_host_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024}
    if device.type == "cuda":
        peak["peak_device_bytes"] = torch.cuda.max_memory_allocated(device)
    return {
        "frames_decoded": report.decoded,
        "frames_written": report.count,
        "frames_corrupt": list(source.corrupt_frames),
        "seconds": round(seconds, 3),
        "frames_per_second": round(report.count / seconds, 3),
        **peak,
    }
