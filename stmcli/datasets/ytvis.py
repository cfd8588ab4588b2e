"""One JSON file in the format of the YouTube-VIS benchmark."""

import json
from array import array
from collections.abc import Iterator

from stmcli.datasets.rle import JsonWriter
from stmcli.datasets.spool import object_pieces
from stmcli.masks import Labels
from stmcli.video import Frame

ABSENT = -1
LISTS = {"segmentations": "segmentation", "bboxes": "bbox", "areas": "area"}  # of a track: of a frame


class YtvisWriter(JsonWriter):
    """Write the clip as a video, and every object as an annotation: a mask, box and area, or null, per frame.

    The id of an annotation is the object's own. A picture has the name of its folder and file; that of a
    video's frame is `<clip>/<frame>.jpg`.
    """

    file = "ytvis.json"

    def _begin(self) -> None:
        super()._begin()
        self._tracks: dict[int, array[int]] = {}  # object id -> where the mask of every frame is in the spool

    def _add(self, frame: Frame, labels: Labels, ids: tuple[int, ...]) -> None:
        picture = self._pictures.file(frame.index)
        folder = picture.parent.name if picture else self._info.name
        self._names.append(f"{folder}/{picture.name if picture else self._frame_name(frame.index) + '.jpg'}")
        for number, mask in self._encode(labels, ids):
            track = self._tracks.setdefault(number, array("q"))
            self._pad(track, len(self._names) - 1)
            track.append(self._spool.put(mask))

    def _pad(self, track: "array[int]", length: int) -> None:
        track.extend([ABSENT] * (length - len(track)))

    def _finish(self) -> None:
        size = {"width": self._info.width, "height": self._info.height, "length": len(self._names)}
        numbers = sorted(self._tracks)
        categories = [self._categories[number] for number in numbers]  # before _about(), which lists what is used
        about = {**self._about(), "videos": [{"id": 1, **size, "file_names": self._names}]}
        self._save(object_pieces(about, {"annotations": map(self._annotation, numbers, categories)}))

    def _annotation(self, number: int, category: int) -> Iterator[str]:
        """Yield the text of the annotation of one object."""
        track = self._tracks[number]
        self._pad(track, len(self._names))
        head = {
            "id": number,
            "video_id": 1,
            "category_id": category,
            "iscrowd": 0,
            "width": self._info.width,
            "height": self._info.height,
            "length": len(track),
        }
        return object_pieces(head, {name: self._values(track, key) for name, key in LISTS.items()})

    def _values(self, track: "array[int]", key: str) -> Iterator[list[str]]:
        for place in track:
            yield [json.dumps(None if place == ABSENT else self._spool.get(place)[key])]
