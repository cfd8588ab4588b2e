"""Segment one clip: source -> segmenter -> writers, each in its own thread, with short queues between them."""

import resource
import shutil
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from stmcli.adapt import adapt
from stmcli.device import pick_device
from stmcli.ensemble import make_follower
from stmcli.errors import Interrupted, StmError, UsageError
from stmcli.evaluate import NONE_AT_FIRST, Clip, first_shown, list_sequences
from stmcli.given import GivenMask, followed_from, ids_of
from stmcli.guard import NEED_LESS, device_explained
from stmcli.job import Job, corrected, done_before, lost, open_job, run_facts
from stmcli.kinds import open_writers, opened
from stmcli.listeners import unheard
from stmcli.masks import MASKS
from stmcli.model import STM
from stmcli.options import ExportOptions, MemoryOptions, NetworkOptions, SegmentOptions
from stmcli.outputs import MaskWriter, Writer
from stmcli.page import Pictures, remake_page, write_page
from stmcli.report import Report, cut_note, read_report
from stmcli.results import (
    PAGE,
    REPORT,
    STATE,
    clear,
    frame_names,
    lock,
    output_names,
    refuse_corrupt,
    source_files,
)
from stmcli.room import telling_room
from stmcli.run import Run
from stmcli.threads import Waiting
from stmcli.video import Source, read_frame
from stmcli.weights import load_model


@dataclass(frozen=True)
class Result:
    """What `segment_video` has done."""

    output: Path
    files: tuple[Path, ...]
    frames: int
    seconds: float
    done_before: bool = False
    notes: tuple[str, ...] = ()


def segment_video(
    job: Job,
    *,
    load: Callable[[], STM] | None = None,
    on_start: Callable[[int | None, str], None] = unheard,
    on_frame: Callable[[int], None] = unheard,
    on_adapt: Callable[[int, int], None] = unheard,
) -> Result:
    """Segment a clip and write masks, films and a report; give `load` to take a network that is loaded already.

    `on_start` hears the number of frames (None: unknown) and the device, `on_frame` the number of every frame
    that is done, `on_adapt` that of every step of `--adapt`, and of how many. Raises StmError; what was in the output
    folder before is only replaced when the job allows it.
    """
    with open_job(job) as (source, given, notes), lock(job.output):
        done = done_before(job, given, source)
        if done is None:
            return _run(job, source, given, notes, load, on_start, on_frame, on_adapt)
        return _done_before(job, done, given, on_start, on_frame)


def _done_before(
    job: Job,
    done: dict[str, Any],
    given: Sequence[GivenMask],
    on_start: Callable[[int | None, str], None],
    on_frame: Callable[[int], None],
) -> Result:
    """Return a result that is there already, with its page, and with no more beside it than the job wants."""
    notes = [*done["notes"], *corrected(done, given)]
    if not job.segment.keep_memory:
        shutil.rmtree(job.output / STATE, ignore_errors=True)
    elif not (job.output / STATE).exists():
        notes.append("its memory was not kept: --no-resume segments it again, and keeps it")
    if job.segment.page and not (job.output / PAGE).exists():
        remake_page(job.output, video=job.video, on_start=on_start, on_frame=on_frame)
    files = tuple(job.output / name for name in done["outputs"])
    return Result(job.output, files, done["frames_written"], 0.0, done_before=True, notes=tuple(notes))


def _run(
    job: Job,
    source: Source,
    given: tuple[GivenMask, ...],
    notes: list[str],
    load: Callable[[], STM] | None,
    on_start: Callable[[int | None, str], None],
    on_frame: Callable[[int], None],
    on_adapt: Callable[[int, int], None],
) -> Result:
    started = time.monotonic()
    before, is_frame, ids = output_names(job.output), frame_names(job.output, source), ids_of(given)
    names = job.names(ids)
    may_be_there = [MASKS, *dict.fromkeys((*before, *names))]  # for a run after this one is killed
    notes += lost(before, names)
    report = Report(job.output / REPORT, run_facts(job, given, source) | {"outputs": may_be_there}, notes)
    waiting = Waiting()
    unopened = _writers(job, source, ids)
    with _writing(
        job, unopened, report, source.count
    ) as writers:  # a missing encoder must not cost loading the network
        model = load() if load else load_model(job.network)
        parameter = next(model.parameters())
        numbers = "int8" if model.integers else str(parameter.dtype).removeprefix("torch.")
        report.facts["device"] = f"{parameter.device.type}, {numbers}"
        run = Run(job, source, given, report, waiting, on_frame)
        on_start(run.count, report.facts["device"])
        run.find_kept()
        report.save("running")  # so that the same command may go on after a kill
        clear((job.output / name for name in (MASKS, PAGE, *before)), is_frame, keep=run.kept_names())
        pictures = [Pictures(source.count)] if job.segment.page else []
        with device_explained(parameter.device, NEED_LESS):
            if job.network.adapt:
                model = _adapt(model, job, given, on_adapt)
            follower = make_follower(model, job.network, job.memory)
            run.follow(follower, [*writers, *pictures])
        for writer in writers:
            writer.close()
    seconds = time.monotonic() - started
    report.notes += dict.fromkeys([*source.warnings, *(note for writer in writers for note in writer.notes)])
    report.notes += [*cut_note(report.cuts), *follower.notes()]
    files = tuple(writer.path for writer in writers)
    outcome = _outcome(source, report, seconds, parameter.device) | {
        "outputs": [_name(job, writer) for writer in writers],
        "checked": {_name(job, writer): dict(writer.facts) for writer in writers},
        "seconds_waited": waiting.seconds(),
    }
    report.save("ok" if source.is_whole else "partial", **outcome)
    for chosen in pictures:
        write_page(job.output / PAGE, read_report(report.path), chosen)
    run.finish()
    result = Result(job.output, files, report.count, seconds, notes=tuple(report.notes))
    refuse_corrupt(source, job.video, job.output, result)
    return result


def _adapt(model: STM, job: Job, given: Sequence[GivenMask], on_adapt: Callable[[int, int], None]) -> STM:
    """Return the network trained on the frame from which the clip is followed."""
    first = followed_from(given, job.segment.direction)
    frame = read_frame(job.video, first.frame, first_number=job.segment.first_number)
    return adapt(model, frame.rgb, first.labels(), job.network, on_step=on_adapt)


@contextmanager
def _writing(job: Job, unopened: Iterator[Writer], report: Report, frames: int | None) -> Iterator[list[Writer]]:
    """Open the writers; on any error leave no unfinished film, and a report only if there are masks to keep."""
    try:
        with (
            opened(unopened) as writers,
            telling_room(job.output, lambda: report.count / (frames or report.count or 1)),
        ):
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
    bits, on_cuda = job.segment.soft_bits, pick_device(job.network.device).type == "cuda"
    yield from open_writers(job.outputs(ids), job.output, source, job.export, soft_bits=bits, on_cuda=on_cuda)


def _name(job: Job, writer: Writer) -> str:
    """Return what an output is called inside the result's folder."""
    return str(writer.path.relative_to(job.output))


def segment_dataset(
    root: Path,
    output: Path,
    *,
    protocol: str,
    only: Collection[str] = (),
    network: NetworkOptions,
    memory: MemoryOptions,
    refine: bool = ExportOptions.refine,
    overwrite: bool = False,
    model: STM | None = None,
    on_start: Callable[[int | None, str], None] = unheard,
    on_frame: Callable[[int], None] = unheard,
    on_adapt: Callable[[int, int], None] = unheard,
) -> Path:
    """Segment every clip of a DAVIS-style dataset, or `only` these, from its first mask, into `output/<clip>/masks`.

    By the protocol of YouTube-VOS every object is followed from its own first mask.
    Clips that are done already are not done again; give `model` to use one that is loaded. Raises StmError.
    """
    clips = list_sequences(root, protocol, only=only)
    for clip in clips if protocol == "davis2017" else ():
        if isinstance(first_mask(clip), str):
            hint = "Use --protocol folder, which scores every object."
            raise UsageError(NONE_AT_FIRST, path=clip.annotations, hint=hint)
    on_start(sum(len(source_files(clip.frames)) for clip in clips), f"{len(clips)} clips")
    loaded = model or load_model(network)
    options = SegmentOptions(overwrite=overwrite, corrections=False, page=False)
    export = ExportOptions(kinds=("none",), refine=refine)
    for clip in clips:
        mask = clip.annotations if protocol == "ytvos" else first_mask(clip)
        job = Job(clip.frames, (mask,), output / clip.name, options, network, memory, export)
        segment_video(job, load=lambda: loaded, on_frame=on_frame, on_adapt=on_adapt)
    return output


def first_mask(clip: Clip) -> str | Path:
    """Return the word of `--mask` for the first ground truth with an object, which may be that of a later frame."""
    mask = first_shown(clip.annotations)
    first = source_files(clip.frames)[0].stem
    late = mask.stem.isdecimal() and first.isdecimal() and int(mask.stem) > int(first)
    return f"{int(mask.stem)}:{mask}" if late else mask


def _outcome(source: Source, report: Report, seconds: float, device: torch.device) -> dict[str, Any]:
    peak = {"peak_host_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024}
    if device.type == "cuda":
        peak["peak_device_bytes"] = torch.cuda.max_memory_allocated(device)
    return {
        "frames_decoded": report.decoded,
        "frames_written": report.count,
        "frames_corrupt": list(source.corrupt_frames),
        "missing_from": source.missing_from,
        "seconds": round(seconds, 3),
        "frames_per_second": round(report.count / seconds, 3),
        **peak,
    }
