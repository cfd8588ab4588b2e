"""Segment one clip: source -> segmenter -> writers; run.py has the loop over its frames."""

import shutil
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from stmcli.device import PRECISION, pick_device
from stmcli.errors import Interrupted, StmError, UsageError, counted
from stmcli.evaluate import NONE_AT_FIRST, Clip, first_shown, list_sequences
from stmcli.given import followed_from
from stmcli.job import Job, Opened, corrected, done_before, lost, open_job, run_facts
from stmcli.kinds import open_writers, opened_writers
from stmcli.listeners import Listener, unheard
from stmcli.masks import MASKS
from stmcli.model import STM
from stmcli.options import ExportOptions, MemoryOptions, NetworkOptions, SegmentOptions
from stmcli.outputs import MaskWriter, Writer
from stmcli.page import Pictures, remake_page, write_page
from stmcli.peak import Peak
from stmcli.report import Report, cut_note, read_report
from stmcli.results import (
    PAGE,
    REPORT,
    STATE,
    is_writable,
    lock,
    output_names,
    refuse_corrupt,
    source_files,
)
from stmcli.room import telling_room
from stmcli.run import Run
from stmcli.segmenter.adapt import adapt
from stmcli.segmenter.ensemble import make_follower
from stmcli.segmenter.guard import NEED_LESS, device_explained
from stmcli.signals import stop_behind
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


def segment_video(job: Job, *, load: Callable[[], STM] | None = None, listener: Listener = Listener()) -> Result:
    """Segment a clip and write masks, films and a report; give `load` to take a network that is loaded already.

    Raises StmError; what was in the output folder before is only replaced when the job allows it, and when there is
    something to replace it with.
    """
    # What is finished can lie in a folder that nobody may write
    with open_job(job) as opened, lock(job.output) if is_writable(job.output) else nullcontext():
        done = done_before(opened)
        return _run(opened, load, listener) if done is None else _done_before(opened, done, listener)


def _done_before(opened: Opened, done: dict[str, Any], listener: Listener) -> Result:
    """Return a result that is there already, with its page, and with no more beside it than the job wants."""
    job, notes = opened.job, [*done["notes"], *corrected(done, opened.given)]
    if not job.segment.keep_memory:
        shutil.rmtree(job.output / STATE, ignore_errors=True)
    elif job.keeps_memory and not (job.output / STATE).exists():
        notes.append("its memory was not kept: --no-resume segments it again, and keeps it")
    if job.segment.page and not (job.output / PAGE).exists():
        remake_page(job.output, video=job.video, listener=listener)
    files = tuple(job.output / name for name in done["outputs"])
    return Result(job.output, files, done["frames_written"], 0.0, done_before=True, notes=tuple(notes))


def _run(opened: Opened, load: Callable[[], STM] | None, listener: Listener) -> Result:
    job, source = opened.job, opened.source
    before, names = output_names(job.output), job.names(opened.ids)
    may_be_there = [MASKS, *dict.fromkeys((*before, *names))]  # for a run after this one is killed
    notes = [*opened.notes, *lost(before, names)]
    report = Report(job.output / REPORT, run_facts(opened) | {"outputs": may_be_there}, notes)
    pictures = [Pictures(source.count)] if job.segment.page else []
    with _writing(opened, report) as writers:  # a missing encoder must not cost loading the network
        model = load() if load else load_model(job.network)
        report.facts["device"] = f"{model.device.type}, {_numbers(model)}"
        peak = Peak(model.device)
        run = Run(opened, report, before, listener)
        listener.start(run.count, report.facts["device"])
        run.find_kept()
        with device_explained(model.device, NEED_LESS):
            follower = make_follower(_adapted(model, opened, listener), job.network, job.memory)
            run.follow(follower, [*writers, *pictures])
        for writer in writers:
            writer.close()
    report.notes += dict.fromkeys([*source.warnings, *(note for writer in writers for note in writer.notes)])
    report.notes += [*cut_note(report.cuts), *follower.notes()]
    result = Result(
        job.output, tuple(writer.path for writer in writers), report.count, report.seconds, notes=tuple(report.notes)
    )
    facts = _outcome(source, report, result.seconds, peak) | {
        "outputs": [_name(job, writer) for writer in writers],
        "checked": {_name(job, writer): dict(writer.facts) for writer in writers},
        "seconds_waited": run.waiting.seconds(),
    }
    report.save("ok" if source.is_whole else "partial", **facts)
    for chosen in pictures:
        write_page(job.output / PAGE, read_report(report.path), chosen)
    run.finish()
    refuse_corrupt(source, job.video, job.output, result)
    return result


def _numbers(model: STM) -> str:
    """Return the kind of number that a network computes with."""
    return "int8" if model.integers else PRECISION[next(model.parameters()).dtype]


def _adapted(model: STM, opened: Opened, listener: Listener) -> STM:
    """Return the network, trained on the frame from which the clip is followed where `--adapt` asks for it."""
    job = opened.job
    if not job.network.adapt:
        return model
    first = followed_from(opened.given, job.segment.direction)
    frame = read_frame(job.video, first.frame, first_number=job.segment.first_number)
    return adapt(model, frame.rgb, first.labels(), job.network, on_step=listener.adapt)


@contextmanager
def _writing(opened: Opened, report: Report) -> Iterator[list[Writer]]:
    """Open the writers; on any error leave no unfinished film, and a report if anything was begun."""
    out, frames = opened.job.output, opened.source.count
    try:
        with (
            opened_writers(_writers(opened)) as writers,
            telling_room(out, lambda: report.count / (frames or report.count or 1)),
        ):
            yield writers
    except BaseException as error:
        stop = stop_behind(error)
        with suppress(StmError):  # a full disk: the first error says it
            report.fail("interrupted" if stop else "failed", str(stop or error))
        if stop:
            raise Interrupted(f"stopped after {report.count} frames", path=out, by=stop) from None
        raise


def _writers(opened: Opened) -> Iterator[Writer]:
    job, source = opened.job, opened.source
    yield MaskWriter(job.output / MASKS, source.frame_name)
    bits, on_cuda = job.segment.soft_bits, pick_device(job.network.device).type == "cuda"
    yield from open_writers(job.outputs(opened.ids), job.output, source, job.export, soft_bits=bits, on_cuda=on_cuda)


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
    listener: Listener = Listener(),
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
    listener.start(sum(len(source_files(clip.frames)) for clip in clips), f"{counted(len(clips), 'clip')}")
    each = replace(listener, start=unheard)
    loaded = model or load_model(network)
    options = SegmentOptions(overwrite=overwrite, corrections=False, page=False)
    export = ExportOptions(kinds=("none",), refine=refine)
    for clip in clips:
        mask = clip.annotations if protocol == "ytvos" else first_mask(clip)
        job = Job(clip.frames, (mask,), output / clip.name, options, network, memory, export)
        segment_video(job, load=lambda: loaded, listener=each)
    return output


def first_mask(clip: Clip) -> str | Path:
    """Return the word of `--mask` for the first ground truth with an object, which may be that of a later frame."""
    mask = first_shown(clip.annotations)
    first = source_files(clip.frames)[0].stem
    late = mask.stem.isdecimal() and first.isdecimal() and int(mask.stem) > int(first)
    return f"{int(mask.stem)}:{mask}" if late else mask


def _outcome(source: Source, report: Report, seconds: float, peak: Peak) -> dict[str, Any]:
    on_device = {} if (taken := peak.device()) is None else {"peak_device_bytes": taken}
    return {
        "frames_decoded": report.decoded,
        "frames_written": report.count,
        "frames_corrupt": list(source.corrupt_frames),
        "missing_from": source.missing_from,
        "seconds": round(seconds, 3),
        "frames_per_second": round(report.count / seconds, 3),
        "peak_host_bytes": peak.host(),
        **on_device,
    }
