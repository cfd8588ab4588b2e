"""Masks in the annotation files of COCO and YouTube-VIS: which are of a frame, and what they show."""

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from operator import index
from pathlib import Path, PurePosixPath
from types import ModuleType
from typing import Any

import numpy as np
import numpy.typing as npt

from stmcli.errors import MaskError, UsageError, counted, listed
from stmcli.images import check_file, check_size
from stmcli.masks import VOID, Labels, Warn
from stmcli.video import Source
from stmcli.video.numbering import last_number

MAX_BYTES = 2**28  # parsed, it takes several times as much memory
LARGEST_ID = 65535
FARTHEST = 2**16  # coordinate of a polygon; drawing takes memory for every pixel on its way

Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Annotations:
    """What an annotation file holds, as it is in the file."""

    path: Path
    content: dict[str, Any]


@dataclass(frozen=True)
class Shape:
    """What is annotated of one object in a frame: `id` is that of its track if it has one, else the annotation's."""

    id: int
    annotation: int
    crowd: bool
    segmentation: Any


def is_annotations(path: Path) -> bool:
    """Tell whether a file is one of annotations by its name."""
    return path.suffix.lower() == ".json"


def load_codec(path: Path) -> ModuleType:
    """Return what draws and compresses masks as COCO does; raise UsageError that says how `path` can be used."""
    try:
        from pycocotools import mask
    except ImportError as error:
        raise UsageError("needs pycocotools", path=path, hint="pip install 'stmcli[coco]'") from error
    return mask


def load_annotations(path: Path) -> Annotations:
    """Read a whole file, if it is not too large. Raises MaskError, and UsageError without pycocotools."""
    check_file(path)
    load_codec(path)
    size = path.stat().st_size
    if size > MAX_BYTES:
        cause = f"{size / 2**20:.0f} MiB of annotations, more than {MAX_BYTES / 2**20:.0f}"
        raise MaskError(cause, path=path, hint="Keep only those of this clip")
    try:
        content = json.loads(path.read_bytes())
    except OSError as error:
        raise MaskError(error.strerror or str(error), path=path, hint="Copy the file again") from error
    except (ValueError, RecursionError) as error:
        raise MaskError("not a JSON file that can be read", path=path, hint="Export it again") from error
    return Annotations(path, content)


def read_annotated(file: Annotations, source: Source, frame: int, *, chosen: int | None = None, warn: Warn) -> Labels:
    """Return the labels of all objects in a frame, (H, W), or of the one that is `chosen` by its id.

    The ids are those of tracks, else of annotations. Where objects overlap, the smaller one is in front. Raises
    MaskError for what does not have the clip's size, is not in the format, or has ids that labels cannot hold.
    """
    with _translated_errors(file.path):
        size = (source.info.width, source.info.height)
        shapes = _shapes(file, source, frame, warn)
        if chosen is None:
            named = _name_all(_without_crowds(shapes, file.path, frame, warn), file.path, frame)
        else:
            named = _name_one(shapes, chosen, file.path, frame, warn)
        masks = {number: _draw(shape, file.path, source.info.path.name, size) for number, shape in named.items()}
    return _paint(masks, size, file.path, warn)


# -- which annotations are of a frame --------------------------------------------------------------------------------


def _shapes(file: Annotations, source: Source, frame: int, warn: Warn) -> list[Shape]:
    """Return what is annotated in the image, or frame of a video, that is the given frame of the source."""
    entries = file.content["annotations"]
    if file.content.get("videos") and not file.content.get("images"):
        video, place = _find_in_videos(file, source, frame)
        tracks = [one for one in entries if one["video_id"] == video["id"] and one["segmentations"][place] is not None]
        return [_shape(one, index(one["id"]), one["segmentations"][place]) for one in tracks]
    image = _find_image(file, source, frame, warn)
    return [_shape(one, _track(one), one["segmentation"]) for one in entries if one["image_id"] == image["id"]]


def _shape(entry: dict[str, Any], number: int, segmentation: Any) -> Shape:
    return Shape(number, index(entry["id"]), bool(entry.get("iscrowd", 0)), segmentation)


def _track(entry: dict[str, Any]) -> int:
    """Return the id of the track of an annotation, as stm and CVAT write it, else the annotation's own."""
    attributes = entry.get("attributes") or {}
    return index(entry.get("track_id", attributes.get("track_id", entry["id"])))


def _find_image(file: Annotations, source: Source, frame: int, warn: Warn) -> dict[str, Any]:
    images: list[dict[str, Any]] = file.content["images"]
    names = [image["file_name"] for image in images]
    found = _places(names, source, frame)
    if not found and len(images) == 1:
        warn(f"{file.path}: its only image, {names[0]}, is taken for frame {frame}")
        found = [0]
    if len(found) != 1:
        raise _not_one(found, names, source, frame, file.path)
    _require_size(images[found[0]], source, file.path)
    return images[found[0]]


def _find_in_videos(file: Annotations, source: Source, frame: int) -> tuple[dict[str, Any], int]:
    """Return the video that the clip is, and the place of a frame in it."""
    videos: list[dict[str, Any]] = file.content["videos"]
    own = [video for video in videos if any(_is_of(name, source) for name in video["file_names"])] or videos
    if len(own) != 1:
        folders = [str(PurePosixPath(video["file_names"][0]).parent) for video in videos]
        cause = f"none of its {len(videos)} videos is {source.info.name}, or several are"
        raise MaskError(cause, path=file.path, hint=f"Its videos: {_some(folders)}")
    names = own[0]["file_names"]
    found = _places(names, source, frame)
    if len(found) != 1:
        raise _not_one(found, names, source, frame, file.path)
    _require_size(own[0], source, file.path)
    return own[0], found[0]


def _places(names: Sequence[str], source: Source, frame: int) -> list[int]:
    """Return the places of the names that are the frame's, by its whole name, else by its number.

    Those in a folder with the clip's name come before all others.
    """
    own = [place for place, name in enumerate(names) if _is_of(name, source)] or range(len(names))
    stems = {place: PurePosixPath(names[place]).stem for place in own}
    by_name = [place for place, stem in stems.items() if stem == source.frame_name(frame)]
    return by_name or [place for place, stem in stems.items() if last_number(stem) == frame]


def _is_of(name: str, source: Source) -> bool:
    return PurePosixPath(name).parent.name in (source.info.name, source.info.path.parent.name)


def _require_size(entry: dict[str, Any], source: Source, path: Path) -> None:
    info = source.info
    check_size(path, (entry["width"], entry["height"]), (info.width, info.height), info.path.name)


def _not_one(found: Sequence[int], names: Sequence[str], source: Source, frame: int, path: Path) -> MaskError:
    if found:
        hint = f"Keep one of: {_some([names[place] for place in found])}"
        return MaskError(f"{len(found)} images may be frame {frame}", path=path, hint=hint)
    cause = f"no image of frame {frame}, {source.frame_name(frame)}"
    return MaskError(cause, path=path, hint=f"Its images: {_some(names)}")


def _some(words: Sequence[object]) -> str:
    return listed(words, 10) or "none"


# -- which of them, under which ids ----------------------------------------------------------------------------------


def _without_crowds(shapes: list[Shape], path: Path, frame: int, warn: Warn) -> list[Shape]:
    single = [shape for shape in shapes if not shape.crowd]
    if crowds := len(shapes) - len(single):
        warn(f"{path}: {counted(crowds, 'crowd annotation')} of frame {frame} left out")
    if not single:
        raise MaskError(f"no object in frame {frame}", path=path, hint="Give it for a frame that has one, FRAME:PATH.")
    return single


def _name_all(shapes: list[Shape], path: Path, frame: int) -> dict[int, Shape]:
    """Return the shapes by their ids."""
    for shape in shapes:
        same = [other for other in shapes if other.id == shape.id]
        if len(same) > 1:
            raise _clash(same, path, frame)
        if not _fits(shape.id):
            cause = f"id {shape.id} in frame {frame} does not fit: masks hold 1 to {LARGEST_ID} without {VOID}"
            raise MaskError(cause, path=path, hint=f"Name one object, as in {path.name}#{shape.id}; it becomes 1.")
    return {shape.id: shape for shape in shapes}


def _name_one(shapes: list[Shape], chosen: int, path: Path, frame: int, warn: Warn) -> dict[int, Shape]:
    """Return the shape of an object, else annotation, of that id; as object 1 when its id does not fit."""
    same = [shape for shape in shapes if shape.id == chosen] or [one for one in shapes if one.annotation == chosen]
    if not same:
        there = _some(sorted({shape.id for shape in shapes if not shape.crowd}))
        raise MaskError(f"no object {chosen} in frame {frame}", path=path, hint=f"The ids there are: {there}")
    if len(same) > 1:
        raise _clash(same, path, frame)
    (shape,) = same
    if shape.crowd:
        raise MaskError(f"annotation {chosen} is a crowd, not one object", path=path, hint="Name another one.")
    if not _fits(shape.id):
        warn(f"{path}: object {shape.id} becomes object 1: masks hold 1 to {LARGEST_ID} without {VOID}")
    return {shape.id if _fits(shape.id) else 1: shape}


def _fits(number: int) -> bool:
    return 0 < number <= LARGEST_ID and number != VOID


def _clash(same: list[Shape], path: Path, frame: int) -> MaskError:
    cause = f"{len(same)} annotations of object {same[0].id} in frame {frame}"
    names = _some([f"{path.name}#{shape.annotation}" for shape in same])
    return MaskError(cause, path=path, hint=f"Name one by its own id: {names}")


# -- what they show --------------------------------------------------------------------------------------------------


def _draw(shape: Shape, path: Path, clip: str, size: tuple[int, int]) -> Mask:
    """Return the mask of an object, (H, W)."""
    codec = load_codec(path)
    stored, (width, height) = shape.segmentation, size
    if isinstance(stored, list):
        runs = codec.merge(codec.frPyObjects([_polygon(points, shape, path) for points in stored], height, width))
    else:
        rows, columns = stored["size"]
        check_size(path, (columns, rows), size, clip)
        counts = stored["counts"]
        lengths = _lengths(counts) if isinstance(counts, str) else [index(length) for length in counts]
        if sum(lengths) != width * height or min(lengths) < 0:  # pycocotools leaves what they do not reach undefined
            raise MaskError(f"damaged run lengths of object {shape.id}", path=path, hint="Export it again")
        runs = codec.frPyObjects({"size": [height, width], "counts": lengths}, height, width)
    return np.asarray(codec.decode(runs), bool)


def _lengths(counts: str) -> list[int]:
    """Return the run lengths in COCO's text: 5 bits a letter, from the fourth on as difference to the last but one."""
    lengths: list[int] = []
    value = shift = 0
    for letter in counts.encode():
        bits = letter - ord("0")
        value |= (bits & 31) << shift
        shift += 5
        if not bits & 32:
            value -= (bits & 16) >> 4 << shift  # the sign
            lengths.append(value + (lengths[-2] if len(lengths) > 2 else 0))
            value = shift = 0
    return lengths


def _polygon(points: list[float], shape: Shape, path: Path) -> list[float]:
    """Return x, y, x, y, ... of three points or more that can be drawn."""
    values = np.asarray(points, float)
    if values.ndim != 1 or len(values) < 6 or len(values) % 2 or not (np.abs(values) <= FARTHEST).all():
        raise MaskError(f"damaged polygon of object {shape.id}", path=path, hint="Export it again")
    found: list[float] = values.tolist()
    return found


def _paint(masks: dict[int, Mask], size: tuple[int, int], path: Path, warn: Warn) -> Labels:
    """Return labels (H, W); the smaller objects are in front."""
    areas = {number: int(np.count_nonzero(mask)) for number, mask in masks.items()}
    labels = np.zeros(size[::-1], np.uint8 if max(masks) <= 255 else np.int32)
    for number in sorted(masks, key=lambda number: -areas[number]):
        labels[masks[number]] = number
    if hidden := sum(areas.values()) - int(np.count_nonzero(labels)):
        warn(f"{path}: {hidden} pixels are of several objects; the smaller one has them")
    return labels


@contextmanager
def _translated_errors(path: Path) -> Iterator[None]:
    """Turn what a file in another format leads to into one line."""
    hint = "It must be in the format of COCO or YouTube-VIS"
    try:
        yield
    except KeyError as error:
        raise MaskError(f"lacks the key {error.args[0]}", path=path, hint=hint) from error
    except (TypeError, ValueError, IndexError, AttributeError, OverflowError) as error:
        raise MaskError("annotations that cannot be read", path=path, hint=hint) from error
