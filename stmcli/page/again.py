"""Make the page of a result again, from its report, its masks and its clip."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stmcli.errors import UsageError
from stmcli.masks import Labels, read_values
from stmcli.page.clip import write_page
from stmcli.page.pictures import Pictures
from stmcli.report import read_report
from stmcli.results import MASKS, PAGE, REPORT
from stmcli.video import Source, open_source


@dataclass(frozen=True)
class Reported:
    """What is stored of one frame."""

    mask: Path
    sure: tuple[float, ...]

    def labels(self) -> Labels:
        """Return (H, W) object ids."""
        return read_values(self.mask)

    def confidence(self) -> tuple[float, ...]:
        """Return what the report says."""
        return self.sure


def remake_page(
    folder: Path,
    *,
    video: Path | None = None,
    on_start: Callable[[int | None, str], None],
    on_frame: Callable[[int], None],
) -> Path:
    """Write `report.html` into the folder of a result, and return its path; `video` is where the clip is now.

    Raises UsageError when there is no report, or a mask or the clip is missing, VideoError, WriteError.
    """
    report = result_report(folder)
    frames = {frame["frame"]: frame for frame in report["frames"]}
    pictures = Pictures(len(frames))
    with open_clip(report, video) as source:
        on_start(len(frames), "from masks")
        for frame in source:
            if frame.index in frames:
                pictures.write(frame, _reported(folder, source, frames[frame.index]))
                on_frame(frame.index)
    write_page(folder / PAGE, report, pictures)
    return folder / PAGE


def result_report(folder: Path) -> dict[str, Any]:
    """Return the report of a result with frames. Raises UsageError when there is none."""
    report = read_report(folder / REPORT)
    if not report and (folder / REPORT).is_file():
        raise UsageError("damaged, or no report of stm", path=folder / REPORT, hint="Segment the clip again.")
    if not report.get("frames"):
        raise UsageError("holds no result of stm segment", path=folder, hint=f"It must hold {REPORT} and {MASKS}/.")
    return report


def open_clip(report: Mapping[str, Any], video: Path | None) -> Source:
    """Open the frames that a report is about. Raises UsageError, VideoError."""
    numbers = [frame["frame"] for frame in report["frames"]]
    path = video or Path(report.get("source", {}).get("path", ""))
    if video is None and not path.exists() and "%" not in path.name and "#" not in path.name:
        raise UsageError("the clip is not there any more", path=path, hint="Say with --video where it is now.")
    return open_source(path, start=min(numbers), end=max(numbers), on_corrupt="skip")


def _reported(folder: Path, source: Source, facts: Mapping[str, Any]) -> Reported:
    mask = folder / MASKS / f"{source.frame_name(facts['frame'])}.png"
    return Reported(mask, tuple(one["confidence"] for one in facts["objects"].values()))
