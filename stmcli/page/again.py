"""Make the page of a result again, from its report, its masks and its clip."""

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from stmcli.errors import UsageError
from stmcli.files import nearest_name
from stmcli.identity import another_clip, clip_identity
from stmcli.listeners import Listener
from stmcli.masks import MASKS, read_values
from stmcli.page.clip import write_page
from stmcli.page.pictures import Pictures
from stmcli.report import UNFINISHED, first_number_of, read_report, worst_in
from stmcli.results import CORRECTIONS, PAGE, REPORT
from stmcli.video import Source, open_source
from stmcli.video.folder import is_pattern


def remake_page(folder: Path, *, video: Path | None = None, listener: Listener = Listener()) -> tuple[Path, list[str]]:
    """Write `report.html` into the folder of a result; `video` is where the clip is now.

    Returns its path, and what a person may not have meant.

    Raises UsageError when there is no report, a mask or the clip is missing or it is another clip, VideoError,
    WriteError.
    """
    report = result_report(folder)
    frames = {frame["frame"]: frame for frame in report["frames"]}
    pictures = Pictures(len(frames))
    with open_clip(report, video) as source:
        report, doubts = moved(report, source), another_clip(report, source.info.path)
        listener.start(len(frames), "from masks")
        for frame in source:
            if facts := frames.pop(frame.index, None):
                mask = folder / MASKS / f"{source.frame_name(frame.index)}.png"
                pictures.look(frame, partial(read_values, mask), worst_in(facts))
                listener.frame(frame.index)
        if frames:
            raise _lacks(min(frames), source.info.path)
    write_page(folder / PAGE, report, pictures)
    return folder / PAGE, doubts


def result_report(folder: Path) -> dict[str, Any]:
    """Return the report of a result with frames. Raises UsageError when there is none."""
    if not folder.exists():
        raise UsageError("no such folder of a result", path=folder, hint=nearest_name(folder.absolute()))
    report = read_report(folder / REPORT)
    if not report and (folder / REPORT).is_file():
        raise UsageError("damaged, or no report of stm", path=folder / REPORT, hint="Segment the clip again.")
    if report.get("status") in UNFINISHED and not report.get("frames"):
        cause = f"is not finished ({report['status']})"
        raise UsageError(cause, path=folder, hint="Wait for it, or finish it by its own command.")
    if not report.get("frames"):
        raise UsageError("holds no result of stm segment", path=folder, hint=f"It must hold {REPORT} and {MASKS}/.")
    return _with_corrections(report, folder.absolute() / CORRECTIONS)


def _with_corrections(report: Mapping[str, Any], now: Path) -> dict[str, Any]:
    """Return a report that names its own corrections in their folder `now`, also where the result was moved since."""

    def was(folder: Path) -> bool:
        return folder.name == CORRECTIONS and not folder.exists() and now.is_dir()

    masks = [(mask, Path(mask["path"])) for mask in report.get("masks", [])]
    found = {**report, "masks": [{**one, "path": str(now / at.name)} if was(at.parent) else one for one, at in masks]}
    if words := report.get("mask_words"):
        found["mask_words"] = [str(now) if was(Path(word)) else word for word in words]
    return found


def open_clip(report: Mapping[str, Any], video: Path | None) -> Source:
    """Open the frames that a report is about. Raises UsageError, VideoError."""
    numbers = [frame["frame"] for frame in report["frames"]]
    facts = report.get("source", {})
    path = video or Path(facts.get("path", ""))
    if video is None and not path.exists() and not is_pattern(path):
        raise UsageError("the clip is not there any more", path=path, hint="Say with --video where it is now.")
    first = first_number_of(report)
    source = open_source(path, first_number=first, start=min(numbers), end=max(numbers), on_corrupt="skip")
    width, height = source.info.width, source.info.height
    was = facts.get("width", width), facts.get("height", height)
    if was != (width, height):
        source.close()
        cause = f"is {width}x{height}, but the clip of the result was {was[0]}x{was[1]}"
        raise UsageError(cause, path=path, hint="Say with --video where that clip is.")
    lost = [] if source.info.is_video else [number for number in numbers if number not in source.times()]
    if lost:
        source.close()
        raise _lacks(lost[0], path)
    return source


def _lacks(number: int, path: Path) -> UsageError:
    cause = f"has no frame {number}, which the result has"
    return UsageError(cause, path=path, hint="Say with --video where the clip of the result is.")


def moved(report: Mapping[str, Any], source: Source) -> dict[str, Any]:
    """Return a report that says where its clip is now, and whether the clip there, also a renamed one, is another."""
    path, clip = source.info.path, report.get("identity", {}).get("clip")
    another = bool(clip) and clip != clip_identity(path)
    return {**report, "source": {**report.get("source", {}), "path": str(path)}, "another_clip": another}
