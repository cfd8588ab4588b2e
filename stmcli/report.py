"""What `report.json` says about a run: what came in, what was done, what came out."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from stmcli.files import write_whole
from stmcli.video import Frame, SourceInfo


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
    _frames: list[str] = field(default_factory=list)  # JSON: a tenth of the memory of what it says
    _saved: bool = False
    cuts: list[int] = field(default_factory=list)  # frames that begin a new scene
    kept: int = 0  # frames of an earlier run that have come up again
    decoded: int = 0  # of the noted frames; for the others the mask before is repeated

    @property
    def count(self) -> int:
        """How many frames are noted."""
        return len(self._frames)

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
    def lines(self) -> list[str]:
        """Return what is noted of every frame, as JSON."""
        return self._frames

    def go_on(self, lines: Iterable[str], ids: Iterable[int]) -> None:
        """Take over what an earlier run has noted of the frames that are kept; the objects are now those with `ids`."""
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
        """Write why the run ended, or remove the file when the run had not begun. Raises WriteError."""
        if self._frames:
            self.save(status, error=error, frames_written=self.count)
        elif self._saved:
            self.path.unlink(missing_ok=True)


def cut_note(cuts: Sequence[int]) -> list[str]:
    """Return what to say about scene cuts: nothing when there are none."""
    listed = ", ".join(map(str, cuts[:10])) + ", ..." * (len(cuts) > 10)
    return [f"a new scene begins at frame{'s' * (len(cuts) > 1)} {listed}: look at the masks there"] if cuts else []


def read_report(path: Path) -> dict[str, Any]:
    """Return the content of a report, empty when there is none or it cannot be read."""
    try:
        content = json.loads(path.read_text()) if path.is_file() else {}
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def add_exports(path: Path, checked: Mapping[str, Mapping[str, Any]]) -> None:
    """Note in a finished report what was made of its masks later, and what is in it. Raises WriteError."""
    content = read_report(path)
    frames = [json.dumps(frame) for frame in content.pop("frames", [])]
    _write(path, content | {"exported": {**content.get("exported", {}), **checked}}, frames)


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


def _extent(mask: npt.NDArray[np.bool_]) -> dict[str, Any]:
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    if not rows.size:
        return {"area": 0, "box": None}
    box = [columns[0], rows[0], columns[-1] - columns[0] + 1, rows[-1] - rows[0] + 1]
    return {"area": int(np.count_nonzero(mask)), "box": [int(side) for side in box]}
