"""Look through a result, and paint corrections on its frames."""

import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from stmcli.errors import UsageError
from stmcli.files import writing
from stmcli.identity import another_clip
from stmcli.masks import MASKS, Labels, read_values, write_labels
from stmcli.page import fix_command, moved, open_clip, result_report
from stmcli.painting import Frames, facts_of
from stmcli.report import first_number_of, worst_in
from stmcli.results import CORRECTIONS, REPORT

ASIDE = ".old"  # behind the name of one that is none any more
WORDS = {
    "title": "stm review",
    "as_it_was": "as segmented",
    "saved": "with your correction",
    "save": "save correction",
    "forget": "remove correction",
    "then": "Run the clip again with the corrections that are in the folder of the result now:",
}


class Review:
    """One result: its frames, their pictures and masks, and the corrections that a person paints."""

    def __init__(self, folder: Path, *, video: Path | None = None) -> None:
        """Open the result in `folder`. Raises UsageError, VideoError."""
        self.folder = folder
        self.report = result_report(folder)
        self.corrections = folder / CORRECTIONS
        for inside in (self.corrections, folder / MASKS):
            if inside.resolve().parent != folder.resolve():
                raise UsageError("is a link out of the result", path=inside, hint="Remove the link.")
        with open_clip(self.report, video) as source:
            self.doubts = another_clip(self.report, source.info.path)
            self.report = moved(self.report, source)
            self.name, self.width, self.height = source.info.name, source.info.width, source.info.height
            self.frames = Frames(source.info.path, first_number=first_number_of(self.report))
            self._stems = {frame["frame"]: source.frame_name(frame["frame"]) for frame in self.report["frames"]}
        self.doubts += self._set_aside()
        self._saving = threading.Lock()  # requests come in threads of their own

    def __contains__(self, number: int) -> bool:
        return number in self._stems

    def facts(self) -> dict[str, Any]:
        """Return what the page needs to know."""
        ids = {int(number) for frame in self.report["frames"] for number in frame["objects"]}
        frames = [self._frame_facts(frame) for frame in self.report["frames"]]
        return facts_of(self, words=WORDS, name=self.name, objects=sorted(ids), frames=frames)

    def labels(self, number: int) -> Labels:
        """Return the mask of a frame, (H, W): the corrected one when there is one. Raises MaskError."""
        corrected = self._correction(number)
        path = corrected if corrected.is_file() else self.folder / MASKS / corrected.name
        return read_values(path, size=(self.width, self.height))

    def save(self, number: int, labels: Labels) -> Path:
        """Save the mask of a frame, (H, W), as a correction, and return its path. Raises WriteError."""
        with self._saving:
            with writing(self.corrections):
                self.corrections.mkdir(exist_ok=True)
            write_labels(self._correction(number), labels)
        return self._correction(number)

    def forget(self, number: int) -> None:
        """Remove the correction of a frame."""
        with self._saving:
            self._correction(number).unlink(missing_ok=True)

    def command(self) -> str:
        """Return the command that makes the result of the corrections there are; empty when it has nothing to do."""
        corrected = [number for number in self._stems if self._correction(number).is_file()]
        used = {mask["frame"] for mask in self.report["masks"] if self._is_own(Path(mask["path"]).parent)}
        removed = not used <= {*corrected}
        words = [word for word in self.report.get("mask_words", []) if not self._is_own(Path(word))]
        if not corrected and not (removed and words):
            return ""
        report = {**self.report, "mask_words": words} if "mask_words" in self.report else self.report
        mask = str(self.corrections.absolute()) if corrected else ""
        return fix_command(report, self.folder, mask, frames=corrected, fewer=removed)

    def _set_aside(self) -> list[str]:
        """Rename corrections in whose place the result has taken another mask since, and say so of each."""
        said = []
        for mask in self.report["masks"]:
            path = self._correction(mask["frame"]) if mask["frame"] in self else None
            if path is None or self._is_own(Path(mask["path"]).parent) or not path.is_file():
                continue
            if path.stat().st_mtime_ns <= (self.folder / REPORT).stat().st_mtime_ns:
                with writing(path):
                    path.rename(path.with_suffix(f".png{ASIDE}"))
                said.append(f"{path} is older than the mask of that frame that was used since: now {path.name}{ASIDE}")
        return said

    def _is_own(self, folder: Path) -> bool:
        return folder.resolve() == self.corrections.resolve()

    def _correction(self, number: int) -> Path:
        return self.corrections / f"{self._stems[number]}.png"

    def _frame_facts(self, frame: Mapping[str, Any]) -> dict[str, Any]:
        return {
            "frame": frame["frame"],
            "confidence": worst_in(frame),
            "cut": bool(frame.get("cut")),
            "corrected": self._correction(frame["frame"]).is_file(),
        }
