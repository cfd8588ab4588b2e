"""Stills with object masks: read from folders and tars, held on the training device."""

import tarfile
import warnings
import zlib
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeAlias

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from stmcli.errors import TrainingError, counted
from stmcli.files import require_file
from stmcli.images import open_image
from stmcli.machine import usable_cores
from stmcli.masks import JPEG, has_soft_edges, is_binary, samples, soft_edges

CANVAS = 256  # side of the square that a layer is cut from, px, unless the crop is larger
MASK_MODES = ("1", "L", "P")
IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp")
UNREADABLE = (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError)  # what Pillow raises
BROKEN_TAR = (tarfile.TarError, OSError, EOFError, zlib.error, KeyError)  # KeyError: a link to what is not there


Pair: TypeAlias = tuple[str, bytes, bytes]  # stem, image file, mask file


@dataclass(frozen=True)
class Still:
    """An image with the objects in it."""

    group: str  # the collection it is from; objects of one group resemble each other
    pixels: Tensor  # (4, H, W) uint8: RGB and object ids, on the training device; the shorter side is the canvas
    boxes: dict[int, tuple[int, int, int, int]]  # id -> top, left, bottom, right


def load_stills(
    paths: Sequence[Path], *, device: torch.device | str = "cpu", canvas: int = CANVAS, most: int | None = None
) -> list[Still]:
    """Read stills from folders or tars that hold `images/` and `masks/` (palette or id PNGs of the same stem).

    `canvas` is their shorter side, px; of each path are read `most`, evenly spread, or all. Raises UsageError when a
    path does not exist, TrainingError when nothing usable is in it; warns of images and masks that lack the
    other, and of masks without an object.
    """
    for path in paths:  # before any is read, which takes long
        require_file(path, hint="Give folders or tars with images/ and masks/", folders=True)
    stills = []
    with ThreadPoolExecutor(usable_cores(), "stills") as threads:
        for path in paths:
            read = threads.map(lambda pair, path=path: _still(path, *pair, canvas=canvas), _spread(_pairs(path), most))
            every = [still and replace(still, pixels=still.pixels.to(device)) for still in read]
            found = [still for still in every if still is not None]
            if not found:
                hint = "It needs images/ and masks/ with files of one name"
                raise TrainingError("no stills with objects in it", path=path, hint=hint)
            if blank := len(every) - len(found):
                warnings.warn(f"{path}: {counted(blank, 'mask')} without an object: left out", stacklevel=2)
            stills += found
    return stills


def _pairs(path: Path) -> Iterator[Pair]:
    """Yield the files of one stem, in `images` and `masks` of one folder."""
    images: dict[tuple[Path, str], bytes] = {}
    masks: dict[tuple[Path, str], bytes] = {}
    for name, content in _members(path):
        (images if name.parent.name == "images" else masks)[name.parent.parent, name.stem] = content
    lone = [(len(images.keys() - masks.keys()), "image", "mask"), (len(masks.keys() - images.keys()), "mask", "image")]
    if left := [f"{counted(count, one)} without {other} of the same name" for count, one, other in lone if count]:
        warnings.warn(f"{path}: {', '.join(left)}: left out", stacklevel=2)
    for key in sorted(images.keys() & masks.keys()):
        yield key[1], images[key], masks[key]


def _spread(pairs: Iterator[Pair], most: int | None) -> Iterable[Pair]:
    """Return at most so many of them, first to last."""
    every = list(pairs)
    return every if most is None else every[:: -(-len(every) // most) or 1]


def _members(path: Path) -> Iterator[tuple[Path, bytes]]:
    """Read the images and masks of a folder or tar, and nothing else, which may be large."""
    if path.is_dir():
        for file in sorted(path.rglob("*.*")):
            if _is_wanted(file) and file.is_file():
                yield file, _content(file)
        return
    try:
        with tarfile.open(path) as tar:
            for member in tar:
                if _is_wanted(Path(member.name)) and (content := tar.extractfile(member)):
                    yield Path(member.name), content.read()
    except BROKEN_TAR as error:
        cause = str(error).split(":", 1)[0]  # and then what each way of packing has found
        raise TrainingError(f"not a tar that can be read ({cause})", path=path, hint="Copy it again") from None


def _is_wanted(name: Path) -> bool:
    return name.parent.name in ("images", "masks") and name.suffix.lower() in IMAGE_SUFFIXES and name.name[0] != "."


def _content(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise TrainingError(f"cannot be read ({error.strerror})", path=file, hint="Replace or remove it") from None


def _still(path: Path, stem: str, image: bytes, mask: bytes, *, canvas: int) -> Still | None:
    try:
        ids = open_image(mask)
        ids.load()
        rgb = open_image(image).convert("RGB")
    except UNREADABLE as error:
        raise TrainingError(f"{stem} cannot be read ({error})", path=path, hint="Replace or remove it") from None
    if fault := mask_fault(ids):
        hint = "Save masks as palette or 8-bit grey PNG, without soft edges"
        raise TrainingError(f"the mask of {stem} {fault}", path=path, hint=hint)
    if not _alike(rgb.size, ids.size):
        cause = f"{stem} is {rgb.width}x{rgb.height} but its mask {ids.width}x{ids.height}, which is another shape"
        raise TrainingError(cause, path=path, hint="Replace or remove it")
    scale = canvas / min(ids.size)
    size = (max(canvas, round(ids.width * scale)), max(canvas, round(ids.height * scale)))
    values = samples(ids)
    values = (values > 0).astype(np.uint8) if is_binary(values) else values
    labels = np.asarray(Image.fromarray(values).resize(size, Image.Resampling.NEAREST))
    boxes = {i: _box(labels == i) for i in np.flatnonzero(np.bincount(labels.ravel())).tolist() if i not in (0, 255)}
    if not boxes:
        return None
    pixels = np.empty((4, *labels.shape), np.uint8)
    pixels[:3] = np.asarray(rgb.resize(size, Image.Resampling.BILINEAR)).transpose(2, 0, 1)
    pixels[3] = labels
    return Still(stem.rstrip("0123456789-_"), torch.from_numpy(pixels), boxes)


def mask_fault(mask: Image.Image) -> str:
    """Say why the values that a mask stores are no ids; empty: they are."""
    if mask.format == "JPEG":
        return f"is {JPEG}"
    if mask.mode not in MASK_MODES:
        return f"is of colour mode {mask.mode}"
    return f"has {soft_edges(mask)}" if has_soft_edges(mask) else ""


def _alike(one: tuple[int, int], other: tuple[int, int]) -> bool:
    """Tell whether two sizes are of one shape, as far as sides of whole pixels can be."""
    return abs(one[0] * other[1] - one[1] * other[0]) <= max(sum(one), sum(other))


def _box(mask: np.ndarray) -> tuple[int, int, int, int]:
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    return int(rows[0]), int(columns[0]), int(rows[-1]) + 1, int(columns[-1]) + 1
