"""Masks as the run lengths that COCO and its kin store, by pycocotools."""

from collections.abc import Iterator
from typing import Any

import numpy as np

from stmcli.annotations import load_codec
from stmcli.datasets.spool import Spool
from stmcli.datasets.writer import DatasetWriter
from stmcli.files import whole
from stmcli.masks import Labels


class JsonWriter(DatasetWriter):
    """Write one JSON file; masks wait for it on disk as run lengths."""

    def _begin(self) -> None:
        self._codec = load_codec(self.path)
        self._names: list[str] = []  # of the pictures, in order
        self._spool = Spool(self.path.parent)

    def _encode(self, labels: Labels, ids: tuple[int, ...]) -> Iterator[tuple[int, dict[str, Any]]]:
        """Yield each object's id with its segmentation, area in pixels and bbox (x, y, width, height)."""
        columns = np.asfortranarray(labels)  # the order of the runs
        for number in ids:
            runs = self._codec.encode((columns == number).view(np.uint8))
            segmentation = {"size": list(labels.shape), "counts": runs["counts"].decode("ascii")}
            box = [int(value) for value in self._codec.toBbox(runs)]
            yield number, {"segmentation": segmentation, "area": int(self._codec.area(runs)), "bbox": box}

    def _about(self) -> dict[str, Any]:
        """Return the beginning of the file; without a date, so that the same job gives the same file."""
        names = self._categories.numbered().items()
        return {
            "info": {"description": f"masks of {self._info.path.name}, made with stm", "version": "1.0"},
            "licenses": [],
            "categories": [{"id": number, "name": name, "supercategory": "object"} for number, name in names],
        }

    def _save(self, pieces: Iterator[str]) -> None:
        self.notes += self._categories.notes()
        with whole(self.path) as part, part.open("wb") as file:
            for piece in pieces:
                file.write(piece.encode("ascii"))

    def _discard(self) -> None:
        self._spool.close()
