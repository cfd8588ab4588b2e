"""Segment one clip: source -> segmenter -> writers, each in its own thread, with short queues between them."""

import resource
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from stmcli.errors import Interrupted, StmError
from stmcli.evaluate import Sequence as Clip
from stmcli.evaluate import list_sequences, mask_files
from stmcli.given import GivenMask
from stmcli.job import Job, done_before, open_job, run_facts
from stmcli.kinds import open_writers, opened
from stmcli.listeners import unheard
from stmcli.masks import Labels, read_values
from stmcli.matting import Matted
from stmcli.model import STM
from stmcli.options import SOFT_EXPORTS, ExportOptions, MattingOptions, MemoryOptions, NetworkOptions, SegmentOptions
from stmcli.outputs import MaskWriter, Writer
from stmcli.report import Report
from stmcli.results import MASKS, REPORT, clear, lock, output_names, refuse_corrupt, source_files
from stmcli.segmenter import Prediction, Segmenter, propagate
from stmcli.threads import Behind, InTurn, Waiting, ahead
from stmcli.video import Frame, Source
from stmcli.weights import load_model, pick_device, suited


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
) -> Result:
    """Segment a clip and write masks, films and a report; give `load` to take a network that is loaded already.

    `on_start` hears the number of frames (None: unknown) and the device, `on_frame` the number of every frame
    that is done. Raises StmError; what was in the output folder before is only replaced when the job allows it.
    """
    with open_job(job) as (source, given, notes):
        with lock(job.output):
            done = done_before(job)
            if done is None:
                return _run(job, source, given, notes, load, on_start, on_frame)
        files = tuple(job.output / name for name in done["outputs"])
        return Result(job.output, files, done["frames_written"], 0.0, done_before=True, notes=tuple(done["notes"]))


def _run(
    job: Job,
    source: Source,
    given: tuple[GivenMask, ...],
    notes: list[str],
    load: Callable[[], STM] | None,
    on_start: Callable[[int | None, str], None],
    on_frame: Callable[[int], None],
) -> Result:
    started = time.monotonic()
    before = output_names(job.output)
    may_be_there = [MASKS, *dict.fromkeys((*before, *job.names(given[0].ids)))]  # for a run after this one is killed
    report = Report(job.output / REPORT, run_facts(job, given, source) | {"outputs": may_be_there}, notes)
    waiting = Waiting()
    unopened = _writers(job, source, given[0].ids)
    with _writing(job, unopened, report) as writers:  # a missing encoder must not cost loading the network
        model = load() if load else load_model(job.network)
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
def _writing(job: Job, unopened: Iterator[Writer], report: Report) -> Iterator[list[Writer]]:
    """Open the writers; on any error leave no unfinished film, and a report only if there are masks to keep."""
    try:
        with opened(unopened) as writers:
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
    network: NetworkOptions,
    memory: MemoryOptions,
    overwrite: bool = False,
    model: STM | None = None,
    on_start: Callable[[int | None, str], None] = unheard,
    on_frame: Callable[[int], None] = unheard,
) -> Path:
    """Segment every clip of a DAVIS-style dataset from its first mask; masks go to `output/<clip>/masks`.

    Clips that are done already are not done again; give `model` to use one that is loaded. Raises StmError.
    """
    clips = list_sequences(root, protocol)
    on_start(sum(len(source_files(clip.frames)) for clip in clips), f"{len(clips)} clips")
    loaded = model or load_model(network)
    options, export = SegmentOptions(overwrite=overwrite), ExportOptions(kinds=("none",))
    for clip in clips:
        job = Job(clip.frames, (first_mask(clip),), output / clip.name, options, network, memory, export)
        segment_video(job, load=lambda: loaded, on_frame=on_frame)
    return output


def first_mask(clip: Clip) -> str | Path:
    """Return the word of `--mask` for the first ground truth with an object, which may be that of a later frame."""
    masks = mask_files(clip.annotations)
    mask = next((path for path in masks if read_values(path).any()), masks[0])
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
        "seconds": round(seconds, 3),
        "frames_per_second": round(report.count / seconds, 3),
        **peak,
    }
