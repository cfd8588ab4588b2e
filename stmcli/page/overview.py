"""The page of many clips, the worst first."""

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from stmcli.errors import counted
from stmcli.files import write_whole
from stmcli.journal import SUMMARY
from stmcli.page.clip import cuts, doubtful_share, mean_confidence
from stmcli.page.document import document, grade, text
from stmcli.report import read_report
from stmcli.results import INDEX, PAGE, REPORT


@dataclass(frozen=True)
class Line:
    """What the page says about one clip; the worst sort first."""

    done: bool
    confidence: float
    name: str
    doubtful: float
    frames: int
    cuts: int
    remark: str
    page: str  # relative, quoted; empty without one


def write_batch_page(root: Path) -> Path:
    """Write `index.html` into the folder of a batch, from its summary and the reports of its clips; return its path.

    Clips that failed come first, then those with the lowest confidence. Raises WriteError.
    """
    clips = _clips(root)
    lines = sorted((_line(root, name, facts) for name, facts in clips.items()), key=_order)
    path = root / INDEX
    write_whole(path, document(f"{root.absolute().name} - stm", _body(root, lines)))
    return path


def _order(line: Line) -> tuple[bool, float, str]:
    return line.done, line.confidence, line.name


def _clips(root: Path) -> dict[str, Mapping[str, Any]]:
    """Return what the summary says of each clip, by name; without a summary, the results that are there."""
    try:
        results = json.loads((root / SUMMARY).read_text())["results"]
        return {str(one["clip"]): one for one in results}
    except (OSError, ValueError, KeyError, TypeError):
        return {str(path.parent.relative_to(root)): {} for path in sorted(root.rglob(REPORT))}


def _line(root: Path, name: str, facts: Mapping[str, Any]) -> Line:
    folder = _folder(root, name, str(facts.get("output") or name))
    report = read_report(folder / REPORT) if folder else {}
    status = str(facts.get("status") or report.get("status") or "missing")
    done = status in ("ok", "partial") and bool(report.get("frames"))
    words = [facts.get("error") or report.get("error"), *(facts.get("notes") or report.get("notes", []))]
    remark = "; ".join(str(word) for word in words if word) or ("" if status == "ok" else status)
    page = folder / PAGE if folder else None
    link = "./" + quote(os.fsencode(os.path.relpath(page, root))) if page and page.is_file() else ""
    sure, share = mean_confidence(report), doubtful_share(report)
    return Line(done, sure, name, share, len(report.get("frames", [])), len(cuts(report)), remark, link)


def _folder(root: Path, name: str, output: str) -> Path | None:
    """Return the folder of a clip; it must be inside the batch's, which may have been moved since."""
    for folder in (Path(output), root / output, root / name):
        if folder.is_dir() and folder.resolve().is_relative_to(root.resolve()):
            return folder
    return None


def _body(root: Path, lines: Sequence[Line]) -> Iterator[str]:
    failed = sum(not line.done for line in lines)
    doubtful = sum(line.doubtful > 0 for line in lines)
    yield f"<header><h1>{text(root.absolute().name)}</h1><p class=lead>{counted(len(lines), 'clip')}, "
    yield f"{failed} not done, {doubtful} with doubtful frames; the worst first.</p></header><div class=scroll><table>"
    yield "<tr><th>clip<th>confidence<th>doubtful frames<th>frames<th>cuts<th>remarks"
    for line in lines:
        name = f'<a href="{line.page}">{text(line.name)}</a>' if line.page else text(line.name)
        sure = grade(line.confidence) if line.done else '<span class="poor">not done</span>'
        share = f"{line.doubtful:.0%}" if line.done else "-"
        yield f"<tr><td>{name}<td>{sure}<td>{share}<td>{line.frames}<td>{line.cuts}<td>{text(line.remark)}"
    yield "</table></div>"
