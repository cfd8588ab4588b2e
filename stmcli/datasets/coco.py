"""One JSON file in the format of COCO's instances."""

import json
from array import array
from collections.abc import Iterator

from stmcli.datasets.rle import JsonWriter
from stmcli.datasets.spool import object_pieces
from stmcli.masks import Labels
from stmcli.video import Frame


class CocoWriter(JsonWriter):
    """Write every frame as an image, and every object in it as an annotation in compressed run lengths.

    `track_id`, also among the `attributes` that annotation tools read, is the object's own id in all frames.
    A picture has the name of its file; that of a video's frame is `<frame>.jpg`.
    """

    file = "coco.json"

    def _begin(self) -> None:
        super()._begin()
        self._places = array("q")  # of the annotations in the spool

    def _add(self, frame: Frame, labels: Labels, ids: tuple[int, ...]) -> None:
        picture = self._pictures.file(frame.index)
        self._names.append(picture.name if picture else f"{self._frame_name(frame.index)}.jpg")
        for number, mask in self._encode(labels, ids):
            annotation = {
                "id": len(self._places) + 1,
                "image_id": len(self._names),
                "category_id": self._categories[number],
                "iscrowd": 0,
                **mask,
                "track_id": number,
                "attributes": {"track_id": number},
            }
            self._places.append(self._spool.put(annotation))

    def _finish(self) -> None:
        annotations = ([json.dumps(self._spool.get(place))] for place in self._places)
        self._save(object_pieces(self._about(), {"images": self._images(), "annotations": annotations}))

    def _images(self) -> Iterator[list[str]]:
        size = {"width": self._info.width, "height": self._info.height}
        for number, name in enumerate(self._names, 1):
            yield [json.dumps({"id": number, "file_name": name, **size})]
