"""The scores of objects, clips and categories, and the forms in which they are handed on."""

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from stmcli.evaluate.ytvos import TRAINING_CATEGORIES
from stmcli.metrics import Values, statistics

COLUMNS = ("J_mean", "J_recall", "J_decay", "F_mean", "F_recall", "F_decay", "J&F_mean")
SPLIT = ("J_seen", "F_seen", "J_unseen", "F_unseen")


@dataclass(frozen=True)
class ObjectScores:
    """J and F of one object in every scored frame, (T,) in [0, 1]."""

    j: Values
    f: Values
    frames: tuple[str, ...] = ()  # their names
    category: str = ""

    def as_json(self) -> dict[str, Any]:
        """Return means, recalls, decays and the values per frame."""
        measures = {"J": self.j, "F": self.f}
        per_frame = {f"{letter}_per_frame": values.tolist() for letter, values in measures.items()}
        return {name: value for name, value in self.row().items() if name != "J&F_mean"} | per_frame

    def row(self) -> dict[str, float]:
        """Return one number for each of COLUMNS."""
        measures = {"J": self.j, "F": self.f}
        row = {
            f"{letter}_{name}": value
            for letter, values in measures.items()
            for name, value in statistics(values)._asdict().items()
        }
        return row | {"J&F_mean": (row["J_mean"] + row["F_mean"]) / 2}


@dataclass(frozen=True)
class Scores:
    """The scores of a set of clips: clip name -> object id -> scores. Every object counts the same."""

    sequences: Mapping[str, Mapping[int, ObjectScores]]
    seen: frozenset[str] = TRAINING_CATEGORIES  # categories that training has seen
    notes: tuple[str, ...] = field(default=(), compare=False)

    @property
    def j_mean(self) -> float:
        """Mean region similarity over all objects."""
        return float(np.mean([scores.j.mean() for scores in self._objects()]))

    @property
    def f_mean(self) -> float:
        """Mean contour accuracy over all objects."""
        return float(np.mean([scores.f.mean() for scores in self._objects()]))

    def as_json(self) -> dict[str, Any]:
        """Return the object that `stm evaluate --json` prints, fractions from 0 to 1."""
        sequences = {
            clip: {str(number): scores.as_json() for number, scores in objects.items()}
            for clip, objects in self.sequences.items()
        }
        j, f = self.j_mean, self.f_mean
        return {"J&F_mean": (j + f) / 2, "J_mean": j, "F_mean": f, **self.split(), "sequences": sequences}

    def split(self) -> dict[str, float | None]:
        """Return J and F of seen and of unseen categories and their mean, Overall; nothing without categories.

        A mean that has no object, and then Overall, is None. Source: the paper's Table 1.
        """
        objects = [one for one in self._objects() if one.category]
        if not objects:
            return {}
        seen = [one for one in objects if one.category in self.seen]
        unseen = [one for one in objects if one.category not in self.seen]
        means = [_mean(group, letter) for group in (seen, unseen) for letter in "JF"]
        known = [mean for mean in means if mean is not None]
        overall = float(np.mean(known)) if len(known) == len(SPLIT) else None
        return {**dict(zip(SPLIT, means, strict=True)), "Overall": overall}

    def rows(self) -> list[tuple[str, int, dict[str, float]]]:
        """Return clip, object id and the numbers of every object."""
        return [(clip, i, one.row()) for clip, objects in self.sequences.items() for i, one in objects.items()]

    def mean_row(self) -> dict[str, float]:
        """Return the mean over all objects of each of COLUMNS."""
        rows = [one.row() for one in self._objects()]
        return {name: float(np.mean([row[name] for row in rows])) for name in COLUMNS}

    def as_csv(self) -> str:
        """Return a line for each object, one of the means, and those of seen and unseen categories, from 0 to 1."""
        lines = [
            (clip, number, self.sequences[clip][number].category, *(row[name] for name in COLUMNS))
            for clip, number, row in self.rows()
        ]
        mean = ("mean", "", "", *self.mean_row().values())
        return to_csv(("sequence", "object", "category", *COLUMNS), [*lines, mean, *self._split_lines()])

    def _split_lines(self) -> list[tuple[object, ...]]:
        """Return J and F of seen and of unseen categories, and their mean, as lines of the table."""
        split = self.split()
        if not split:
            return []
        known = {kind: {"J_mean": split[f"J_{kind}"], "F_mean": split[f"F_{kind}"]} for kind in ("seen", "unseen")}
        return [
            (name, "", "", *(numbers.get(column) for column in COLUMNS))
            for name, numbers in {**known, "Overall": {"J&F_mean": split["Overall"]}}.items()
        ]

    def _objects(self) -> list[ObjectScores]:
        return [scores for objects in self.sequences.values() for scores in objects.values()]


def to_csv(header: Sequence[str], lines: Iterable[Sequence[object]]) -> str:
    """Return a table as CSV."""
    content = io.StringIO()
    writer = csv.writer(content, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(lines)
    return content.getvalue()


def _mean(objects: Sequence[ObjectScores], letter: str) -> float | None:
    values = [one.j.mean() if letter == "J" else one.f.mean() for one in objects]
    return float(np.mean(values)) if values else None
