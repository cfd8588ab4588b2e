"""What `report.json` says about a run: what came in, what was done, what came out."""

import json
import os
import re
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from stmcli.errors import listed
from stmcli.files import write_whole
from stmcli.lines import Lines
from stmcli.options import FPS, GROUPS
from stmcli.video import Frame, SourceInfo

NOWHERE = 1.0  # the confidence of a frame that shows no object

OWN_RATE = "--fps does nothing: a video has its own rate"
_FRACTION = re.compile(r"[1-9][0-9]{0,8}(/[1-9][0-9]{0,8})?")


class Prediction(Protocol):
    """Hold the answer for one frame."""

    @property
    def object_ids(self) -> tuple[int, ...]:
        """Return the id of each object."""

    def labels(self) -> npt.NDArray[np.integer]:
        """Return (H, W) object ids, 0 is background."""

    def confidence(self) -> tuple[float, ...]:
        """Return how far the mask of each object is to be trusted, 0..1."""

    @property
    def cut(self) -> bool:
        """Tell whether a new scene begins here."""


@dataclass
class Report:
    """Collect the facts of one run; a writer like the others, but its file is written last."""

    path: Path
    facts: dict[str, Any]
    notes: list[str] = field(default_factory=list)
    _frames: Lines = field(default_factory=Lines)  # JSON
    _saved: bool = False
    cuts: list[int] = field(default_factory=list)  # frames that begin a new scene
    kept: int = 0  # frames of an earlier run that have come up again
    decoded: int = 0  # of the noted frames; for the others the mask before is repeated
    _began: float = field(default_factory=time.monotonic)
    _before: float = 0.0  # seconds that an earlier run has taken for what is kept

    @property
    def count(self) -> int:
        """How many frames are noted."""
        return len(self._frames)

    @property
    def seconds(self) -> float:
        """How long all of it has taken, with what an earlier run has done of it."""
        return self._before + time.monotonic() - self._began

    def write(self, frame: Frame, prediction: Prediction) -> None:
        """Note where each object is: area in pixels, box (left, top, width, height), confidence."""
        self.decoded += not frame.corrupt
        labels = prediction.labels()
        objects = {}
        for number, sure in zip(prediction.object_ids, prediction.confidence(), strict=True):
            objects[str(number)] = {**_extent(labels == number), "confidence": round(sure, 4)}
        facts = {"frame": frame.index, "time": float(frame.time), "objects": objects}
        if prediction.cut and not frame.corrupt:  # a corrupt frame repeats the prediction before it
            facts["cut"] = True
            self.cuts.append(frame.index)
        self._frames.append(json.dumps(facts))

    @property
    def lines(self) -> Sequence[str]:
        """Return what is noted of every frame, as JSON."""
        return self._frames

    def go_on(self, lines: Iterable[str], ids: Iterable[int], *, seconds: float) -> None:
        """Take over what an earlier run has noted of the frames that are kept, for which it took so long.

        The objects are now those with `ids`.
        """
        self._before = seconds
        names, absent = [str(number) for number in ids], {**_extent(np.zeros((0, 0), np.bool_)), "confidence": 0.0}
        for frame in map(json.loads, lines):
            objects = {name: frame["objects"].get(name, absent) for name in names}
            self._frames.append(json.dumps({**frame, "objects": objects}))
            self.cuts += [frame["frame"]] if frame.get("cut") else []

    def keep(self, frame: Frame) -> None:
        """Count a frame that is noted already."""
        self.decoded += not frame.corrupt
        self.kept += 1

    def save(self, status: str, **facts: Any) -> None:
        """Write the file, one line for each frame. Raises WriteError."""
        content = {"status": status, **self.facts, **facts, "notes": self.notes}
        _write(self.path, content, self._frames)
        self._saved = True

    def fail(self, status: str, error: str) -> None:
        """Write why the run ended, also in its first frame, whose files it vouches for. Raises WriteError."""
        if self._saved:  # and not another's report is there
            self.save(status, error=error, frames_written=self.count)


def cut_note(cuts: Sequence[int]) -> list[str]:
    """Return what to say about scene cuts: nothing when there are none."""
    where = f"frame{'s' * (len(cuts) > 1)} {listed(cuts, 10)}"
    return [f"a new scene begins at {where}: look at the masks there"] if cuts else []


def read_report(path: Path) -> dict[str, Any]:
    """Return the content of a report, empty when there is none or it is damaged; what it lacks may be missing."""
    try:
        content = json.loads(path.read_text()) if path.is_file() else {}
    except (OSError, ValueError, RecursionError):
        return {}
    known = isinstance(content, dict) and all(
        _fits(content[name], form) for name, form in FORM.items() if name in content
    )
    return content if known else {}


def worst_of(sure: Mapping[Any, float], is_shown: Callable[[Any], Any]) -> float:
    """Return the confidence of a frame: the lowest of the objects that it shows, NOWHERE without any.

    `sure` is that of each object; whether it is shown, that is, has a pixel, is asked of no more than need be.
    """
    return next((sure[one] for one in sorted(sure, key=sure.__getitem__) if is_shown(one)), NOWHERE)


def worst_in(facts: Mapping[str, Any]) -> float:
    """Return the confidence of a frame that a report tells of."""
    objects = facts["objects"]
    return worst_of({number: one["confidence"] for number, one in objects.items()}, lambda one: objects[one]["area"])


def first_number_of(report: Mapping[str, Any]) -> int | None:
    """Return what the run was told to call the clip's first frame; None: nothing, or there is no report."""
    try:
        number = report["options"]["segment"]["first_number"]
    except (KeyError, TypeError):  # no report, or somebody else's
        return None
    return number if isinstance(number, int) else None


def fps_of(report: Mapping[str, Any]) -> str:
    """Return how many frames of an image sequence the run took to be in a second."""
    fps = report.get("options", {}).get("segment", {}).get("fps")
    return fps if isinstance(fps, str) and _FRACTION.fullmatch(fps) else FPS


UNFINISHED = ("running", "interrupted", "failed")  # statuses


def is_finished(report: Mapping[str, Any]) -> bool:
    """Tell whether a report says that all was done, and has all that the report of a finished run has."""
    return report.get("status") == "ok" and _fits(report, WHOLE)


def shows(facts: Mapping[str, Any], labels: npt.NDArray[np.integer]) -> bool:
    """Tell whether a mask (H, W) has the areas and boxes that a report tells of its frame."""
    known = {int(number): one for number, one in facts["objects"].items()}
    others = np.setdiff1d(labels, (0, *known))
    return not others.size and all(_extent(labels == n).items() <= one.items() for n, one in known.items())


def add_exports(path: Path, checked: Mapping[str, Mapping[str, Any]]) -> None:
    """Note in a finished report what was made of its masks later, and what is in it. Raises WriteError."""
    content = read_report(path)
    if not content:  # damaged: what is left of it stays as it is
        return
    frames, was = [json.dumps(frame) for frame in content.pop("frames", [])], path.stat()
    _write(path, content | {"exported": {**content.get("exported", {}), **checked}}, frames)
    os.utime(path, ns=(was.st_atime_ns, was.st_mtime_ns))  # so that masks that were edited are newer


def source_facts(info: SourceInfo) -> dict[str, Any]:
    """Describe a source for a report."""
    return {
        "path": str(info.path),
        "width": info.width,
        "height": info.height,
        "rate": str(info.rate),
        "frames_declared": info.frames,
        "rotation": info.rotation,
        "flip": info.flip,
        "aspect": str(info.aspect),
        "timecode": info.timecode,
        "colour": asdict(info.color),
        "audio": info.audio,
        "codec": info.codec,
    }


def _write(path: Path, content: Mapping[str, Any], frames: Iterable[str]) -> None:
    """Write a report, one line for each frame. Raises WriteError."""
    head = json.dumps(content, indent=1).removesuffix("\n}")
    lines = ",\n  ".join(frames)
    write_whole(path, f'{head},\n "frames": [\n  {lines}\n ]\n}}\n'.encode())


# -- what a report looks like ----------------------------------------------------------------------------------------


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _is_path(value: Any) -> bool:
    try:
        return isinstance(value, str) and b"\0" not in os.fsencode(value)
    except UnicodeError:  # half a letter
        return False


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**63


def _is_share(value: Any) -> bool:
    return isinstance(value, (int, float)) and 0 <= value <= 1


def _by_number(value: Any, form: Any) -> bool:
    """Tell whether a value holds something of each frame or object, under its number."""
    return isinstance(value, dict) and all(k.isascii() and k.isdecimal() and _fits(v, form) for k, v in value.items())


def _are_objects(value: Any) -> bool:
    return _by_number(value, {"area": _is_count, "confidence": _is_share})


def _are_digests(value: Any) -> bool:
    return _by_number(value, _is_text)


def _is_identity(value: Any) -> bool:
    return isinstance(value, dict) and all(isinstance(value.get(name, {}), dict) for name in GROUPS)


def _are_exports(value: Any) -> bool:
    return isinstance(value, dict) and all(map(_is_path, value))


def _are_options(value: Any) -> bool:
    """Tell whether a value holds groups of options; those that are lists hold them as command lines have them."""
    if not (isinstance(value, dict) and all(isinstance(group, dict) for group in value.values())):
        return False
    lists = {"kinds": _is_text, "categories": _is_pair, "objects": _is_count}
    return all(_fits(group.get(name, []), [form]) for group in value.values() for name, form in lists.items())


def _is_pair(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 2


# Of each entry that others rely on: a check, [one form] of all in a list, or {key: form} of what must be there.
FORM: Mapping[str, Any] = {
    **{"status": _is_text, "fingerprint": _is_text, "device": _is_text},
    **{"frames_written": _is_count, "peak_host_bytes": _is_count},
    "given": _are_digests,
    "identity": _is_identity,
    "outputs": [_is_path],
    "exported": _are_exports,
    "notes": [_is_text],
    "mask_words": [_is_text],
    "masks": [{"frame": _is_count, "path": _is_path, "ids": [_is_count]}],
    "objects": [_is_count],
    "source": {"path": _is_path},
    "weights": {"path": _is_path},
    "options": _are_options,
    "frames": [{"frame": _is_count, "objects": _are_objects}],
}


# What else the report of a finished run has.
WHOLE: Mapping[str, Any] = {
    **{
        name: FORM[name]
        for name in ("outputs", "notes", "objects", "device", "frames_written", "peak_host_bytes", "frames")
    },
    "source": {"width": _is_count, "height": _is_count, "codec": _is_text},
    "weights": {"licence": _is_text, "sha256": _is_text},
}


def _fits(value: Any, form: Any) -> bool:
    if isinstance(form, list):
        return isinstance(value, list) and all(_fits(one, form[0]) for one in value)
    if isinstance(form, dict):
        return isinstance(value, dict) and all(name in value and _fits(value[name], one) for name, one in form.items())
    check: Callable[[Any], bool] = form
    return check(value)


def _extent(mask: npt.NDArray[np.bool_]) -> dict[str, Any]:
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    if not rows.size:
        return {"area": 0, "box": None}
    box = [columns[0], rows[0], columns[-1] - columns[0] + 1, rows[-1] - rows[0] + 1]
    return {"area": int(np.count_nonzero(mask)), "box": [int(side) for side in box]}
