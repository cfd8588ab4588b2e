"""Make exports of masks that are there already, without the network."""

import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from fractions import Fraction
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stmcli.earlier import edited
from stmcli.errors import PartialError, UsageError, listed
from stmcli.files import nearest_name
from stmcli.identity import another_clip
from stmcli.kinds import Output, idle, open_writers, opened_writers, outputs
from stmcli.listeners import Listener
from stmcli.masks import MASKS, SOFT, mask_folder
from stmcli.options import SOFT_EXPORTS, SOFT_STILLS, ExportOptions, MattingOptions
from stmcli.report import OWN_RATE, UNFINISHED, add_exports, first_number_of, fps_of, read_report
from stmcli.results import REPORT, check_outputs, clear, lock, refuse_corrupt, require_writable
from stmcli.saved import SavedMasks, SavedPrediction
from stmcli.threads import Behind, ahead
from stmcli.video import Frame, Source, list_frames, numbered, open_source

if TYPE_CHECKING:
    from stmcli.matting import Matted


FROM_HARD = "made of hard masks: no probabilities are stored beside them (stm segment --keep-soft)"


@dataclass(frozen=True)
class ExportJob:
    """Masks of a clip, the clip, and what is to be made of them."""

    masks: Path  # a folder of <frame>.png, or the folder of a result
    video: Path
    output: Path | None = None  # None: beside the masks
    export: ExportOptions = field(default_factory=ExportOptions)
    on_corrupt: str = "fail"
    overwrite: bool = False
    first_number: int | None = None  # None: as the run that made the masks was told, else the source's own
    fps: str | None = None  # of an image sequence; None: as the run that made the masks was told

    @property
    def mask_folder(self) -> Path:
        """Return the folder that the masks themselves are in."""
        found = mask_folder(self.masks)
        return found if found.name not in ("", "..") else Path(os.path.abspath(found))  # `.` has a name too

    @cached_property
    def run(self) -> dict[str, Any]:
        """The report of the run that made the masks; empty for masks of another origin."""
        return read_report(self.mask_folder.parent / REPORT) if self.mask_folder.name == MASKS else {}

    @property
    def folder(self) -> Path:
        """Return where the outputs go."""
        return self.output or (self.masks if mask_folder(self.masks) != self.masks else self.mask_folder.parent)


@dataclass(frozen=True)
class Exported:
    """What `export_masks` has made."""

    files: tuple[Path, ...]
    frames: int
    notes: tuple[str, ...]
    facts: Mapping[str, Mapping[str, object]]


def export_masks(job: ExportJob, *, listener: Listener = Listener()) -> Exported:
    """Make exports of masks and stored probabilities, without the network.

    Soft kinds are made of what `keep_soft` has stored beside the masks, else of the masks. Raises StmError; what is
    there already is replaced only when the job allows it.
    """
    files = _mask_files(job)
    with _open(replace(job, on_corrupt="skip")) as whole:  # its numbers alone
        _check_clip(job, whole)
        masks = _numbered_masks(job, files, whole)
        end = _end(masks, whole)
    with _open(job, min(masks), end) as source:
        _require_all(masks, source)
        known = job.run.get("objects", ())
        saved = SavedMasks(masks, source, _soft_folders(job), edited=_edited(job, source), known=known)
        wanted = outputs(job.export, saved.object_ids)
        _check(job, wanted)
        predict = _predictions(saved, wanted, job.export)
        listener.start(source.count, "from masks")
        with lock(job.folder):
            return _write(job, source, saved, wanted, predict, listener.frame)


def _open(job: ExportJob, start: int | None = None, end: int | None = None) -> Source:
    on_corrupt: Any = job.on_corrupt
    first, rate = _first_number(job), Fraction(job.fps or fps_of(job.run))
    return open_source(job.video, first_number=first, start=start, end=end, on_corrupt=on_corrupt, rate=rate)


def _mask_files(job: ExportJob) -> list[Path]:
    """Return all masks. Raises UsageError without any."""
    folder = job.mask_folder
    if not folder.is_dir():
        if folder.exists():
            raise UsageError("not a folder of masks", path=folder, hint="Give the folder that holds <frame>.png.")
        raise UsageError("no such folder of masks", path=folder, hint=nearest_name(folder.absolute()))
    return [file for file in list_frames(folder) if file.suffix.lower() == ".png"]


def _numbered_masks(job: ExportJob, files: list[Path], source: Source) -> dict[int, Path]:
    """Return the mask of each frame: of that name, or else by the numbers in the names."""
    named = {source.number_of(file.stem): file for file in files}
    known = {number: file for number, file in named.items() if number is not None}
    return known if len(known) == len(files) else numbered(job.mask_folder, files)


def _check_clip(job: ExportJob, source: Source) -> None:
    """Raise UsageError for another clip than that of the result."""
    was, frames = job.run.get("source", {}).get("frames_declared"), source.info.frames
    if None not in (was, frames) and was != frames:
        cause = f"has {frames} frames, but the clip of the result had {was}"
        raise UsageError(cause, path=job.video, hint="Give the clip that the masks are of.")


def _refuse_unfinished(job: ExportJob, result: Exported) -> None:
    """Raise PartialError with the `result` when the run that made the masks has not come to its end."""
    if job.run.get("status") in UNFINISHED:
        cause = f"the run that made these masks was stopped; {result.frames} frames were exported"
        error = PartialError(cause, path=job.mask_folder, hint="Finish it by its own command, then export again.")
        error.result = result
        raise error


def _end(masks: Mapping[int, Path], source: Source) -> int | None:
    """Return the last frame to read; None when the masks go to the end, so that sound may last longer than pictures."""
    last, count = max(masks), source.info.frames
    return None if count is not None and last == source.info.first_number + count - 1 else last


def _require_all(masks: Mapping[int, Path], source: Source) -> None:
    """Raise UsageError when a frame between the first mask and the last has none."""
    whole = range(min(masks), max(masks) + 1)
    frames = whole if source.info.is_video else [number for number in source.times() if number in whole]
    if (lost := next((number for number in frames if number not in masks), None)) is not None:
        folder = next(iter(masks.values())).parent
        raise UsageError(f"no mask of frame {lost}", path=folder, hint="Complete the masks, or segment the clip again.")


def _first_number(job: ExportJob) -> int | None:
    """Return the number of the clip's first frame; None: its own."""
    return first_number_of(job.run) if job.first_number is None else job.first_number


def _soft_folders(job: ExportJob) -> dict[int, Path]:
    """Return the folder of stored probabilities of each object."""
    folder = job.mask_folder.parent / SOFT
    return {int(path.name): path for path in sorted(folder.glob("*")) if path.is_dir() and path.name.isdecimal()}


def _check(job: ExportJob, wanted: Sequence[Output]) -> None:
    """Raise UsageError when nothing is asked for, or something that is there would be lost."""
    if not wanted:
        raise UsageError("nothing to export", hint="Say what with --to.")
    require_writable(job.folder)
    paths = [job.folder / output.name for output in wanted]
    check_outputs(paths, job.video, job.mask_folder)
    for path in paths:
        if path.exists() and not job.overwrite:
            raise UsageError("exists already", path=path, hint="Replace it with -y, or choose another --output.")


def _write(
    job: ExportJob,
    source: Source,
    saved: SavedMasks,
    wanted: Sequence[Output],
    predict: Callable[[Frame], "SavedPrediction | Matted"],
    on_frame: Callable[[int], None],
) -> Exported:
    count = 0
    with opened_writers(open_writers(wanted, job.folder, source, job.export, soft_bits=8)) as writers:
        before = (job.folder / output.name for output in wanted if output.kind in SOFT_STILLS)
        clear(before, lambda name: source.number_of(name) is not None)

        def write(frame: Frame) -> None:
            prediction = predict(frame)
            for writer in writers:
                writer.write(frame, prediction)

        with closing(ahead(source)) as frames, Behind(write) as behind:
            for frame in frames:
                if frame.index not in saved:  # the file holds more frames than it says
                    break
                behind.put(frame)
                on_frame(frame.index)
                count += 1
        if source.is_whole:
            saved.check_count(count)
        for writer in writers:
            writer.close()
    facts = {writer.path.name: dict(writer.facts) for writer in writers}
    if job.folder.resolve() / MASKS == job.mask_folder.resolve() and (job.folder / REPORT).exists():
        add_exports(job.folder / REPORT, facts)
    notes = [
        *source.warnings,
        *_doubts(job, source, saved, wanted),
        *(note for writer in writers for note in writer.notes),
    ]
    result = Exported(tuple(writer.path for writer in writers), count, tuple(dict.fromkeys(notes)), facts)
    refuse_corrupt(source, job.video, job.folder, result)
    _refuse_unfinished(job, result)
    return result


def _edited(job: ExportJob, source: Source) -> list[int]:
    """Return the frames whose masks were edited since they were made."""
    return edited(job.mask_folder.parent, source, job.run) if job.run else []


def _doubts(job: ExportJob, source: Source, saved: SavedMasks, wanted: Sequence[Output]) -> list[str]:
    """Say what a person may not have meant."""
    found = another_clip(job.run, source.info.path) + [OWN_RATE] * bool(job.fps and source.info.is_video)
    found += idle(job.export)
    if any(output.kind in SOFT_EXPORTS for output in wanted):
        if not saved.is_soft:
            found.append(FROM_HARD)
        elif saved.edited:
            found.append(f"made of the masks that were edited, where they were: frame {listed(saved.edited, 10)}")
    return found


def _predictions(
    saved: SavedMasks, wanted: Sequence[Output], options: ExportOptions
) -> "Callable[[Frame], SavedPrediction | Matted]":
    """Return what gives the prediction of a frame, as soft as the outputs need it."""
    softly = any(output.kind in SOFT_EXPORTS for output in wanted)
    return _soft_predictions(saved, options) if softly else partial(_hard_prediction, saved)


def _hard_prediction(saved: SavedMasks, frame: Frame) -> SavedPrediction:
    return SavedPrediction(saved.object_ids, saved.labels(frame.index))


def _soft_predictions(saved: SavedMasks, options: ExportOptions) -> "Callable[[Frame], Matted]":
    """Return what gives the soft prediction of a frame; only this needs torch, which takes seconds to import."""
    import torch

    from stmcli.matting import Matted

    matting = MattingOptions(refine=options.refine)

    def predict(frame: Frame) -> Matted:
        prob = torch.from_numpy(saved.soft(frame.index))
        return Matted(frame.rgb, SavedPrediction(saved.object_ids, saved.labels(frame.index), prob), options=matting)

    return predict
