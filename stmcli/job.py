"""What a job on one clip is, and all that can be known of it before the network is loaded."""

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import torch

from stmcli import __version__
from stmcli.device import check_compiler, pick_device
from stmcli.earlier import Kinship, earlier_result
from stmcli.errors import Faults, UsageError
from stmcli.footprint import check_room
from stmcli.given import (
    GivenMask,
    check_readable,
    followed_from,
    ids_of,
    list_mask_files,
    mask_in,
    read_given,
    start_of,
)
from stmcli.identity import clip_identity, differences, fingerprint
from stmcli.kinds import Output, idle, outputs, soft_outputs
from stmcli.masks import MASKS
from stmcli.memory import given_room, idle_memory
from stmcli.options import (
    DIRECTIONS,
    FPS,
    GROUPS,
    OUTPUT,
    SOFT_EXPORTS,
    SOFT_FILMS,
    ExportOptions,
    MemoryOptions,
    NetworkOptions,
    SegmentOptions,
)
from stmcli.registry import digest, find, found_from
from stmcli.report import OWN_RATE, source_facts
from stmcli.results import REPORT, check_folder, output_names, require_writable
from stmcli.video import Source, open_source
from stmcli.weights import card_of, suited


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

    @property
    def can_go_on(self) -> bool:
        """Tell whether an unfinished run can go on in the middle.

        A soft film needs the network's numbers of all frames, and a corrupt frame those of the frame before.
        """
        return not {*self.export.kinds}.intersection(SOFT_FILMS) and self.segment.on_corrupt != "skip"

    @property
    def keeps_memory(self) -> bool:
        """Tell whether what a later correction can go on from is kept: asked for, and of use."""
        return self.segment.keep_memory and self.segment.direction == "forward" and self.can_go_on

    @property
    def keeps_soft(self) -> bool:
        """Tell whether the network's probabilities are stored."""
        return self.segment.keep_soft or bool({*self.export.kinds}.intersection(SOFT_EXPORTS))

    def identity(self) -> dict[str, Any]:
        """Return all that the result depends on but the masks, as values that JSON knows."""
        unlike: dict[str, Any] = {"overwrite": False, "resume": True, "keep_memory": False, "page": True}
        unlike["on_corrupt"] = SegmentOptions.on_corrupt  # a result with corrupt frames never counts as finished
        if self.video.is_file():
            unlike["fps"] = FPS  # it has its own
        return {
            "version": __version__,
            "clip": clip_identity(self.video),
            "weights": digest(find(self.network.weights)),
            "segment": asdict(replace(self.segment, **unlike)),
            "network": asdict(self.network) | asdict(suited(self.network)) | {"weights": ""},
            "memory": asdict(self.memory),
            "export": asdict(self.export),
        }

    def outputs(self, ids: Sequence[int]) -> list[Output]:
        """Return what to write beside the masks for the objects `ids`. Raises UsageError."""
        wanted = outputs(self.export, ids)
        return [*(soft_outputs(ids) if self.keeps_soft else ()), *wanted]

    def names(self, ids: Sequence[int]) -> list[str]:
        """Return the names of what is written beside the masks."""
        return [output.name for output in self.outputs(ids)]


def lost(before: Sequence[str], now: Sequence[str]) -> list[str]:
    """Say which of the files that an earlier run or `stm export` made go, because this run does not make them again."""
    names = [name for name in dict.fromkeys(before) if name not in now]
    return (
        [f"removed what was made of the masks before: {', '.join(names)}; stm export makes it again"] if names else []
    )


def corrected(done: Mapping[str, Any], given: Sequence[GivenMask]) -> list[str]:
    """Say which masks a finished result was made with that the job has not."""
    more = [frame for frame in done.get("given", {}) if int(frame) not in {mask.frame for mask in given}]
    return [f"it was corrected by masks of frame {', '.join(more)} too; -y makes it without them"] if more else []


def default_output(video: Path) -> Path:
    """Return where the results of a clip go unless told otherwise."""
    whole = Path(os.path.abspath(video))  # `.` and `..` have names too
    return Path(OUTPUT) / (whole.name if os.path.isdir(whole) else whole.stem)


def plan(job: Job) -> dict[str, Any]:
    """Check a job as far as that goes without the network, write nothing, and return what it would do.

    Raises the StmError that the job would raise.
    """
    with open_job(job) as opened:
        source, given, names = opened.source, opened.given, job.names(opened.ids)
        done = done_before(opened)
        count = source.count if source.info.is_video else None
        short = None if count is None else source.info.ends_early(source.info.first_chosen + count - 1)
        return {
            "source": str(job.video),
            "size": f"{source.info.width}x{source.info.height}",
            "frames": source.count,
            "masks": _mask_facts(given),
            "objects": list(opened.ids),
            "weights": str(find(job.network.weights)),
            "device": str(pick_device(job.network.device)),
            "outputs": [str(job.output / name) for name in (MASKS, *names, REPORT)],
            "done_before": done is not None,
            "notes": [
                *opened.notes,
                *([short] if short else ()),
                *source.warnings,
                *(corrected(done, given) if done else lost(output_names(job.output), names)),
            ],
        }


# -- before the network ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Opened:
    """A job that can be done: its clip, open where it is followed from, the masks, and what is odd about them."""

    job: Job
    source: Source
    given: tuple[GivenMask, ...]
    notes: list[str]

    @property
    def ids(self) -> tuple[int, ...]:
        """Return the ids of all objects, ascending."""
        return ids_of(self.given)

    def digests(self) -> dict[str, str]:
        """Return what each mask is known by, by the number of its frame."""
        return {str(mask.frame): mask.digest() for mask in self.given}


@contextmanager
def open_job(job: Job) -> Iterator[Opened]:
    """Open the source where the first mask is, read the masks, and check the output folder.

    Raises the StmError that says what is wrong with them: ManyErrors for several things.
    """
    notes: list[str] = []
    options = job.segment
    source, given = _check(job, notes)
    try:
        first = source.info.first_chosen
        if options.direction == "forward" and options.start is None and given[0].frame > first:
            notes.append(f"the clip is followed from frame {given[0].frame}, the first with a mask")
            source.close()
            source = _open_source(job, given[0].frame, options.end)
        if options.direction == "backward" and (last := followed_from(given, options.direction).frame) != options.end:
            notes.append(f"the clip is followed back from frame {last}, the last with a mask")
            source.close()
            source = _open_source(job, options.start, last)
        if len(given) > (room := given_room(job.memory)) and job.memory.has_first:
            notes.append(f"{len(given)} masks are given; the memory holds the first and the latest {room} in all")
        if options.keep_memory and not job.keeps_memory:
            notes.append(
                "no memory is kept: a correction can only go on forward, without soft films and skipped frames"
            )
        if source.info.is_video and options.fps != FPS:
            notes.append(OWN_RATE)
        if options.soft_bits != SegmentOptions.soft_bits and not job.keeps_soft:
            notes.append("--soft-bits does nothing without --keep-soft: no probabilities are stored")
        notes += [*idle(job.export), *idle_memory(job.memory, job.network.renew)]
        yield Opened(job, source, given, notes)
    finally:
        source.close()


def _check(job: Job, notes: list[str]) -> tuple[Source, tuple[GivenMask, ...]]:
    """Return the source and the masks when nothing is wrong; raise all that is, so that it can be put right at once."""
    faults = Faults()
    faults.look(lambda: _check_direction(job.segment))
    faults.look(lambda: find(job.network.weights))
    faults.look(lambda: pick_device(job.network.device))
    faults.look(lambda: check_compiler(job.network))
    source = faults.look(lambda: _open_source(job, job.segment.start, job.segment.end))
    if source is None:
        faults.look(lambda: check_readable(job.masks))
        given = None
    else:
        given = faults.look(lambda: _read_masks(job, source, notes.append))
    names = faults.look(lambda: job.names(ids_of(given or ())))
    inputs = (job.video, *(file.path for file in list_mask_files(job.masks))) if given else ()
    faults.look(lambda: check_folder(job.output, names or (), *inputs))
    if source is not None and given and not faults.found:
        frame = source.info.height, source.info.width
        faults.look(lambda: check_room(frame, len(ids_of(given)), job.network, job.memory))
    if source is not None and faults.found:
        source.close()
    faults.settle()
    assert source is not None
    assert given is not None
    return source, given


def _read_masks(job: Job, source: Source, warn: Callable[[str], None]) -> tuple[GivenMask, ...]:
    options = job.segment
    return read_given(
        job.masks,
        source,
        objects=options.objects,
        corrections=options.corrections,
        direction=options.direction,
        warn=warn,
    )


def check(job: Job) -> None:
    """Raise what `open_job` finds wrong."""
    with open_job(job):
        pass


def _open_source(job: Job, start: int | None, end: int | None) -> Source:
    how: dict[str, Any] = {"on_corrupt": job.segment.on_corrupt, "decoder": job.segment.decoder}
    first, rate = job.segment.first_number, Fraction(job.segment.fps)
    return open_source(job.video, first_number=first, start=start, end=end, rate=rate, **how)


def _check_direction(options: SegmentOptions) -> None:
    if options.direction not in DIRECTIONS:
        raise UsageError(f"no direction {options.direction}", hint=f"Use {', '.join(DIRECTIONS)}.")
    if options.direction != "forward" and options.on_corrupt == "stop":
        raise UsageError("the way back through a clip needs its end", hint="Use --on-corrupt skip, or go forward.")


def done_before(opened: Opened) -> dict[str, Any] | None:
    """Return the report of this very job when it is finished.

    Raises UsageError when another's would be lost, or the folder cannot be written though there is something to do.

    A job that corrects a result, by masks after the first, is no other one; nor is one whose result was corrected.
    """
    job, given, masks = opened.job, opened.given, opened.digests()
    start = str(followed_from(given, job.segment.direction).frame)

    def compare(report: dict[str, Any]) -> Kinship:
        others = differences(report.get("identity", {}), job.identity())
        was = report.get("given", {})
        began = start_of([(mask["frame"], mask["ids"]) for mask in report.get("masks", [])], job.segment.direction)
        if (str(began), was.get(start)) != (start, masks[start]):
            others.append(f"the mask of frame {start}")
        return Kinship(
            tuple(others),
            more=tuple(frame for frame in was if frame not in masks),
            fewer=tuple(frame for frame, mask in masks.items() if was.get(frame) != mask),
        )

    wanted, frames = job.segment, [mask.frame for mask in given]
    done = earlier_result(
        job.output, opened.source, compare, given=frames, overwrite=wanted.overwrite, resume=wanted.resume
    )
    if done is None:
        require_writable(job.output)
    return done


# -- facts -----------------------------------------------------------------------------------------------------------


def run_facts(opened: Opened) -> dict[str, Any]:
    """Return what is known of a run before it begins, for its report."""
    job, given, source = opened.job, opened.given, opened.source
    entry, identity = find(job.network.weights), job.identity()
    masks, here = opened.digests(), Path.cwd()
    options = {name: asdict(getattr(job, name)) for name in GROUPS}
    options["network"]["weights"] = found_from(here, job.network.weights)
    return {
        "stm": __version__,
        "torch": torch.__version__,
        "fingerprint": fingerprint(identity, masks),
        "identity": identity,
        "given": masks,
        "weights": {"path": str(entry), "sha256": digest(entry), "licence": card_of(entry).licence},
        "source": source_facts(source.info),
        "masks": _mask_facts(given),
        "mask_words": [str(mask_in(here, word)) for word in job.masks],  # to be used anywhere
        "objects": list(opened.ids),
        "options": options,
    }


def _mask_facts(given: tuple[GivenMask, ...]) -> list[dict[str, Any]]:
    return [{"frame": mask.frame, "path": str(mask.path.absolute()), "ids": list(mask.ids)} for mask in given]
