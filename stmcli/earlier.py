"""The result that is in a folder already: whose it is, and whether it may be replaced."""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stmcli.errors import ELSEWHERE, MaskError, UsageError, listed
from stmcli.masks import MASKS, read_values
from stmcli.report import is_finished, read_report, shows
from stmcli.results import REPORT, is_empty
from stmcli.video import Source

REPLACE = "Choose another --output, or replace what is there with -y."
NAMED = 6  # options or frames that an error names


@dataclass(frozen=True)
class Kinship:
    """How the job of a result is related to another one."""

    others: tuple[str, ...] = ()  # what differs between them beside masks after the first
    more: tuple[str, ...] = ()  # frames whose masks the result was made with, and the other job has not
    fewer: tuple[str, ...] = ()  # frames of whose masks the other job alone has these


def earlier_result(
    out: Path,
    source: Source,
    compare: Callable[[dict[str, Any]], Kinship],
    *,
    given: Collection[int],
    overwrite: bool,
    resume: bool,
) -> dict[str, Any] | None:
    """Return the report of the finished result of this very job, None when there is something to do.

    `source` tells which masks are its own, `compare` from a report how its job is related to this one. A result that
    was corrected by more masks than the job has is finished too; one with fewer, or one that is not whole, is to be
    made anew, unless somebody has edited masks of it, but for those of `given` frames. Raises UsageError when what is
    there would be lost.
    """
    report = read_report(out / REPORT)
    if not report and any((out / MASKS).glob("*.png")):
        if (out / REPORT).exists():
            hint = f"Remove it and {out / MASKS}, or choose another --output."
            raise UsageError("damaged, so nobody knows whose masks are beside it", path=out / REPORT, hint=hint)
        raise UsageError("holds masks that stm did not write", path=out / MASKS, hint=ELSEWHERE)
    if overwrite or is_empty(out):
        return None
    if not report:
        raise UsageError("is not empty, and holds no result of stm", path=out, hint=REPLACE)
    kin = compare(report)
    if kin.others:
        hint = f"More exports of it are made by stm export. {REPLACE}" if {*kin.others} == {"--export"} else REPLACE
        verb = "differs" if len(kin.others) == 1 else "differ"
        raise UsageError(f"holds the result of another job ({listed(kin.others, NAMED)} {verb})", path=out, hint=hint)
    masks = sum(source.number_of(image.stem) is not None and _is_there(image) for image in (out / MASKS).glob("*.png"))
    whole = is_finished(report) and masks == report["frames_written"]
    if resume and whole and not kin.fewer and all(_is_there(out / name) for name in report["outputs"]):
        return report
    if kin.more:
        cause = f"holds a result that was corrected by masks of frame {listed(kin.more, NAMED)} too"
        raise UsageError(cause, path=out, hint="Give these as well, or replace what is there with -y.")
    refuse_edited([frame for frame in edited(out, source, report) if frame not in given], out)
    return None


def _is_there(path: Path) -> bool:
    """Tell whether there is a folder or a file with content: a machine that went down may have left some without."""
    return path.is_dir() or (path.is_file() and path.stat().st_size > 0)


def refuse_edited(frames: Sequence[int], out: Path) -> None:
    """Raise UsageError when there are frames whose masks would be replaced though they were edited."""
    if frames:
        cause = f"masks that are to be replaced were edited by hand, of frame {listed(frames, NAMED)}"
        word = f"--mask {frames[0]}:FILE"
        raise UsageError(cause, path=out / MASKS, hint=f"Copy them and give them by {word}, or replace them with -y.")


def edited(out: Path, source: Source, report: Mapping[str, Any]) -> list[int]:
    """Return the frames whose masks in a result have changed since its report and are not those that it tells of."""
    ended, found = (out / REPORT).stat().st_mtime_ns, list[int]()
    names = source.times().keys()
    for facts in report.get("frames", []):
        mask = out / MASKS / f"{source.frame_name(facts['frame'])}.png" if facts["frame"] in names else out
        if mask.is_file() and _changed(mask) > ended and not holds(mask, facts):
            found.append(facts["frame"])
    return found


def holds(mask: Path, facts: Mapping[str, Any]) -> bool:
    """Tell whether a mask is what a report tells of its frame; one that cannot be read is damaged, not edited."""
    try:
        return shows(facts, read_values(mask))
    except MaskError:
        return True


def _changed(path: Path) -> int:
    """Return when a file was last written, or put where it is: copies may keep the date of what they copy."""
    facts = path.stat()
    return max(facts.st_mtime_ns, facts.st_ctime_ns)
