"""The page of one clip: what it looks like, how far each object can be trusted, and what to do where it cannot."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

from stmcli.errors import listed
from stmcli.files import write_whole
from stmcli.options import DOUBTFUL
from stmcli.page.advice import fix_command, frame_command, in_shell
from stmcli.page.charts import chart, thin
from stmcli.page.document import chip, command, document, grade, text
from stmcli.page.pictures import Picture, Pictures
from stmcli.report import worst_in

LEAST_SHOWN = 3  # of the worst frames, even when none is doubtful
CHARTS = 24  # objects with curves of their own, at most
LISTED = 12  # cuts or absences named, at most


@dataclass(frozen=True)
class Absence:
    """Where an object has no pixel, between frames that show it or up to the end."""

    first: int
    last: int
    back: bool  # whether it came back
    places: tuple[int, int]  # of `first` and `last` among the frames of the report


def write_page(path: Path, report: Mapping[str, Any], pictures: Pictures) -> None:
    """Write the page of a report and its pictures. Raises WriteError."""
    write_whole(path, page(report, pictures.strip(), pictures.worst(), path.parent))


def page(report: Mapping[str, Any], strip: Sequence[Picture], worst: Sequence[Picture], folder: Path) -> bytes:
    """Return the page of a report; `folder` is where the result is."""
    name = Path(str(report.get("source", {}).get("path", folder))).name
    shown = [one for place, one in enumerate(worst) if one.confidence < DOUBTFUL or place < LEAST_SHOWN]
    body = [*_head(name, report), *_strip(strip, report), *_worst(shown, report, folder), *_objects(report)]
    return document(f"{name} - stm", [*body, *_notes(report)])


def doubtful_share(report: Mapping[str, Any]) -> float:
    """Return the share of the frames in which an object that is there is doubtful."""
    frames = report.get("frames", [])
    return sum(worst_in(frame) < DOUBTFUL for frame in frames) / len(frames) if frames else 0.0


def mean_confidence(report: Mapping[str, Any]) -> float:
    """Return the mean over the frames of the confidence in the worst object that is there."""
    frames = report.get("frames", [])
    return sum(map(worst_in, frames)) / len(frames) if frames else 0.0


def absences(report: Mapping[str, Any], number: str) -> list[Absence]:
    """Return where an object is gone after it was there."""
    frames = report.get("frames", [])
    there = [bool(frame["objects"].get(number, {}).get("area")) for frame in frames]
    runs, place = [], 0
    for present, run in groupby(there):
        length = len(list(run))
        runs.append((present, place, place + length - 1))
        place += length
    return [
        Absence(frames[first]["frame"], frames[last]["frame"], last + 1 < len(frames), (first, last))
        for present, first, last in runs
        if not present and first > 0
    ]


def _head(name: str, report: Mapping[str, Any]) -> Iterator[str]:
    share, frames = doubtful_share(report), report.get("frames", [])
    ids = report.get("objects", [])
    source = report.get("source", {})
    verdict = "Nothing looks doubtful" if not share else f"{share:.0%} of the frames look doubtful"
    yield f"<header><h1>{text(name)}</h1><p class=lead>{verdict}.</p><dl>"
    facts = {
        "frames": len(frames),
        "size": f"{source.get('width')} x {source.get('height')}",
        "objects": len(ids),
        "mean confidence": f"{mean_confidence(report):.2f}",
        "scene cuts": len(cuts(report)),
        "status": report.get("status", "unknown"),
    }
    yield "".join(f"<div><dt>{term}</dt><dd>{text(value)}</dd></div>" for term, value in facts.items())
    yield "</dl></header>"


def cuts(report: Mapping[str, Any]) -> list[int]:
    """Return the frames that begin a new scene."""
    return [frame["frame"] for frame in report.get("frames", []) if frame.get("cut")]


def _strip(strip: Sequence[Picture], report: Mapping[str, Any]) -> Iterator[str]:
    if not strip:
        return
    numbers = cuts(report)
    yield "<section><h2>The clip</h2><div class=strip tabindex=0>"
    for before, one in zip([None, *strip], strip, strict=False):
        cut = before is not None and any(before.frame < number <= one.frame for number in numbers)
        mark = ' class="after-cut"' if cut else ""
        image = f'<img src="{one.uri}" width="{one.width}" height="{one.height}" alt="frame {one.frame}">'
        yield f"<figure{mark}>{image}<figcaption>{one.frame}{grade(one.confidence)}</figcaption></figure>"
    yield "</div></section>"


def _worst(worst: Sequence[Picture], report: Mapping[str, Any], folder: Path) -> Iterator[str]:
    if not worst:
        return
    yield "<section><h2>Look at these first</h2>"
    yield (
        f"<p>The frames with the lowest confidence, one of each stretch. Below {DOUBTFUL} a mask may well be "
        "wrong. To mend one, paint its objects over the frame, with their ids, and run the clip again:</p>"
    )
    by_number = {frame["frame"]: frame for frame in report.get("frames", [])}
    yield "<div class=worst>"
    for one in worst:
        objects = by_number.get(one.frame, {}).get("objects", {})
        sure = [(int(number), facts["confidence"]) for number, facts in objects.items() if facts["area"]]
        listed = "".join(f"<span>{chip(number)} {grade(value)}</span>" for number, value in sorted(sure)[:8])
        yield f'<article id="frame-{one.frame}"><img src="{one.uri}" width="{one.width}" height="{one.height}" '
        yield f'alt="frame {one.frame} with its masks"><div class=about><h3>Frame {one.frame}</h3><p>{listed}</p>'
        yield command(frame_command(report, one.frame, f"frame-{one.frame}.png"))
        yield command(fix_command(report, folder, f"{one.frame}:fixed-{one.frame}.png", frames=[one.frame]))
        yield "</div></article>"
    yield "</div>"
    yield f"<p>Or paint in the browser:</p>{command(review_command(folder))}</section>"


def review_command(folder: Path) -> str:
    """Return the command that opens a result to paint on."""
    return in_shell(["stm", "review", str(folder.absolute())])


def _objects(report: Mapping[str, Any]) -> Iterator[str]:
    frames = report.get("frames", [])
    if not frames:
        return
    last = max(1, len(frames) - 1)
    lines = [place / last for place, frame in enumerate(frames) if frame.get("cut")]
    numbers = cuts(report)
    yield "<section><h2>Frame by frame</h2>"
    if numbers:
        yield f"<p><i class=cut-key></i> A new scene begins at {listed(numbers, LISTED)}.</p>"
    ids = [str(number) for number in report.get("objects", [])]
    for number in ids[:CHARTS]:
        yield from _object(number, frames, absences(report, number), lines[:200], last)
    if len(ids) > CHARTS:
        yield f"<p>{len(ids) - CHARTS} more objects are in report.json.</p>"
    yield "</section>"


def _object(
    number: str, frames: Sequence[Mapping[str, Any]], gone: Sequence[Absence], lines: Sequence[float], last: int
) -> Iterator[str]:
    facts = [frame["objects"].get(number, {"area": 0, "confidence": 0.0}) for frame in frames]
    largest = max(1, *(one["area"] for one in facts))
    gaps = [(absence.places[0] / last, absence.places[1] / last) for absence in gone[:200]]
    sure = thin([one["confidence"] for one in facts], lowest=True)
    area = thin([one["area"] / largest for one in facts], lowest=False)
    name = f"of object {number}"
    yield f"<article class=object><h3>{chip(int(number))}</h3><h4>confidence</h4>"
    yield chart(sure, kind="confidence", title=f"confidence {name}", level=DOUBTFUL, lines=lines, gaps=gaps)
    yield f"<h4>area, up to {largest:,} pixels</h4>"
    yield chart(area, kind="area", title=f"area {name}", lines=lines, gaps=gaps)
    yield f"<p class=axis><span>{frames[0]['frame']}</span><span>{frames[-1]['frame']}</span></p>"
    if gone:
        yield f"<p>Not found in frames {listed([*map(_spoken, gone)], LISTED)}.</p>"
    yield "</article>"


def _spoken(absence: Absence) -> str:
    span = f"{absence.first}" if absence.first == absence.last else f"{absence.first} to {absence.last}"
    return f"{span} ({'came back' if absence.back else 'did not come back'})"


def _notes(report: Mapping[str, Any]) -> Iterator[str]:
    notes = [*([report["error"]] if report.get("error") else []), *report.get("notes", [])]
    if notes:
        yield f"<section><h2>Notes</h2><ul>{''.join(f'<li>{text(note)}' for note in notes)}</ul></section>"
    weights = report.get("weights", {})
    yield f"<footer>stm {text(report.get('stm', ''))} · {text(Path(str(weights.get('path', ''))).name)}, "
    yield f"{text(weights.get('licence', ''))} · {text(report.get('seconds', '-'))} s</footer>"
