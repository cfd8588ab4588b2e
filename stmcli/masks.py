"""Mask files and label arrays: every way a mask is stored, and the checks before it is used."""

import io
import warnings
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from stmcli.errors import MaskError, UsageError
from stmcli.files import write_whole
from stmcli.ghosts import thin_codes
from stmcli.images import check_size, load_image
from stmcli.render import palette

Labels = npt.NDArray[np.integer[Any]]
Warn = Callable[[str], object]

MASKS, SOFT = "masks", "soft"  # their folder in that of a result, and that of stored probabilities
VOID = 255
ONE_OBJECT = (255, 65535)  # alone, in 8 and in 16 bits
GREY_MODES = ("L",)
WIDE_MODES = ("I", "I;16", "I;16B", "I;16L", "I;16N")
ALPHA_MODES = ("RGBA", "RGBa", "LA", "La", "PA")
OPAQUE_MODES = {"RGBA": "RGB", "LA": "L", "PA": "P"}  # what is left when the alpha says nothing
PACKED_GREY = {"L;2": 85, "L;4": 17}  # what Pillow multiplies 2-bit and 4-bit samples by
INVERTED_NOTE = "takes most of the frame and of its edge: is it inverted?"
INVERTED = 0.75  # share of a frame and of its edge that an object seldom takes
WHITE = 0xFFFFFF
JPEG = "a JPEG, which does not keep object ids"
MANY_GREYS = 16  # a grey mask with so many values between 0 and 255 has soft edges when white or thin lines prevail


def mask_folder(folder: Path) -> Path:
    """Return the folder that masks are in: `masks` in that of a result, or the folder itself."""
    return folder / MASKS if (folder / MASKS).is_dir() else folder


@dataclass
class Convention:
    """How the values of masks that belong together are meant: learn from all of them, then turn each into ids.

    255 (65535 in 16 bits) alone is one object unless another mask has it beside ids: 255 is void then, 65535 an id. One
    grey value alone is one object unless the grey masks hold several.
    """

    beside: bool = False  # whether one of these two stands beside ids
    seen: set[int] = field(default_factory=set)
    greys: set[int] = field(default_factory=set)

    def learn(self, values: Labels, grey: bool) -> None:
        """Take note of what a mask stores, (H, W), and whether it is 8-bit grey."""
        there = _stored(values)
        self.beside |= len(there) > 1 and not {*ONE_OBJECT}.isdisjoint(there)
        self.seen.update(there)
        if grey:
            self.greys.update(there)

    @property
    def is_one(self) -> bool:
        """Tell whether all masks show one object without an id."""
        return len(self.seen) == 1 and (self.seen == self.greys or not self.seen.isdisjoint(ONE_OBJECT))

    def labels(self, values: Labels, grey: bool, *, path: Path, warn: Warn) -> Labels:
        """Return the ids of a mask, (H, W); grey that may be meant otherwise is warned about."""
        there = _stored(values)
        one_grey = grey and len(there) == 1 and len(self.greys) == 1
        if not one_grey and (self.beside or not is_binary(values)):
            if grey and VOID in there:
                warn(f"{path}: white (255) beside other grey values is read as void, no object; palette PNG has ids")
            return values
        if there[0] not in (1, *ONE_OBJECT):
            warn(f"{path}: grey values 0 and {there[0]} are read as one object, id 1; palette PNG keeps ids")
        return (values > 0).astype(np.uint8)


def read_labels(path: Path, *, size: tuple[int, int] | None = None, warn: Warn = warnings.warn) -> Labels:
    """Read the mask in a file as object ids.

    Returns (H, W) uint8, or int32 when an id is above 255; 0 is background and 255 beside other ids
    is void. Two-valued grey, 1-bit and alpha are one object, id 1. `size` is (width, height) and is
    checked before the pixels are read. Raises MaskError for a file that is missing, damaged, of
    another size, of unknown colours, or without an object.
    """
    values, grey = read_stored(path, size=size, warn=warn)
    convention = Convention()
    convention.learn(values, grey)
    labels = convention.labels(values, grey, path=path, warn=warn)
    if not object_ids(labels):
        raise MaskError("no object in this mask", path=path, hint="Paint each object with its own id")
    return labels


def is_inverted(labels: Labels) -> bool:
    """Tell whether a mask of one object looks as if object and background had been swapped."""
    inside = labels > 0
    edge = np.concatenate((inside[0], inside[-1], inside[:, 0], inside[:, -1]))
    return bool(inside.mean() > INVERTED < edge.mean())


def read_values(path: Path, *, size: tuple[int, int] | None = None, warn: Warn = warnings.warn) -> Labels:
    """Read what a mask file stores, whether or not there is an object in it.

    For folders of masks, where one frame cannot tell two-valued masks from ids: returns (H, W) like
    `read_labels`, with 255 left as it is and grey {0, 3} meaning id 3. Raises MaskError.
    """
    return read_stored(path, size=size, warn=warn)[0]


def read_stored(path: Path, *, size: tuple[int, int] | None = None, warn: Warn = warnings.warn) -> tuple[Labels, bool]:
    """Return what `read_values` does, and whether it is 8-bit grey, for a `Convention`. Raises MaskError."""
    image = without_idle_alpha(load_image(path, size=size))
    if image.format == "JPEG":
        return _threshold_jpeg(image, path, warn), False
    if image.mode in ALPHA_MODES:
        return (np.array(image.getchannel("A")) > 127).astype(np.uint8), False
    if image.mode == "RGB":
        return ids_of_colours(colour_codes(np.array(image)), path), False
    if image.mode in WIDE_MODES:
        return _from_wide(image, path), False
    if image.mode not in ("1", "P", *GREY_MODES):
        raise MaskError(f"colour mode {image.mode} cannot be read", path=path, hint="Save it as palette PNG")
    if has_soft_edges(image):
        cause = soft_edges(image)
        hint = "Save the mask without anti-aliasing, or use stm mask fix"
        raise MaskError(cause, path=path, hint=hint)
    return samples(image), image.mode in GREY_MODES


def _stored(values: Labels) -> list[int]:
    """Return the values in (H, W) but 0, ascending."""
    counts = np.bincount(values.ravel()) if values.dtype == np.uint8 else None  # sorting takes many times as long
    found = np.unique(values) if counts is None else np.flatnonzero(counts)
    return [int(value) for value in found if value]


def object_ids(labels: Labels) -> tuple[int, ...]:
    """Return the ids of the objects in (H, W) labels, ascending, without background and void."""
    flat = labels.ravel()
    begun = np.concatenate((flat[:1], flat[1:][flat[1:] != flat[:-1]]))  # sorting every pixel takes 20 times as long
    return tuple(int(value) for value in np.unique(begun) if value not in (0, VOID))


def is_binary(values: Labels) -> bool:
    """Tell whether 255 (65535 in 16 bits) is the only value beside 0: then it is an object, not void."""
    most = values.max(initial=0)
    return most in ONE_OBJECT and not np.any((values > 0) & (values < most))


def select_objects(labels: Labels, ids: Sequence[int], *, path: Path | None = None) -> Labels:
    """Keep the given objects of (H, W) labels and turn the others into background; ids stay as they are.

    Raises UsageError for an id that is not in the mask.
    """
    known = object_ids(labels)
    unknown = [str(number) for number in ids if number not in known]
    if unknown:
        there = ", ".join(map(str, known)) or "none"
        raise UsageError(f"no object {', '.join(unknown)} in this mask", path=path, hint=f"The ids there are: {there}")
    return np.where(np.isin(labels, [*ids, VOID]), labels, 0).astype(labels.dtype)


def check_fits(labels: Labels, path: Path, width: int, height: int, video_name: str) -> None:
    """Raise MaskError unless (H, W) labels have the size of the clip."""
    check_size(path, (labels.shape[1], labels.shape[0]), (width, height), video_name)


def write_labels(path: Path, labels: Labels) -> None:
    """Write (H, W) labels in 0..65535 as PNG: 8-bit in the DAVIS palette, 16-bit grey for ids above 255.

    The file appears under its name only when complete. Raises WriteError.
    """
    write_whole(path, encode_labels(labels))


def write_grey(path: Path, values: npt.NDArray[np.unsignedinteger[Any]]) -> None:
    """Write (H, W) uint8 or uint16 as grey PNG; the file appears only when complete. Raises WriteError."""
    content = io.BytesIO()
    Image.fromarray(values).save(content, "PNG", compress_level=1)
    write_whole(path, content.getvalue())


def read_grey(path: Path, *, size: tuple[int, int]) -> npt.NDArray[np.float32]:
    """Read what `write_grey` wrote: (H, W) float32 in 0..1. `size` is (width, height). Raises MaskError."""
    values = np.array(load_image(path, size=size))
    if values.dtype not in (np.uint8, np.uint16, np.int32):
        raise MaskError("not a grey PNG of 8 or 16 bits", path=path, hint="Segment the clip again with --keep-soft")
    return (values / (255 if values.dtype == np.uint8 else 65535)).astype(np.float32)


def encode_labels(labels: Labels) -> bytes:
    """Return the PNG file of (H, W) labels in 0..65535 that `write_labels` writes."""
    if labels.ndim != 2 or labels.size == 0 or labels.min() < 0 or labels.max() > 65535:
        raise ValueError(f"labels must be (H, W) ids in 0..65535, not {labels.shape} {labels.dtype}")
    wide = labels.max() > 255
    image = Image.fromarray(np.ascontiguousarray(labels, dtype=np.uint16 if wide else np.uint8))
    if not wide:
        image.putpalette(palette().tobytes())
    content = io.BytesIO()
    image.save(content, "PNG", compress_level=1, compress_type=zlib.Z_RLE)  # fastest, and smallest for masks
    return content.getvalue()


def write_picture(path: Path, rgb: npt.NDArray[np.uint8]) -> None:
    """Write (H, W, 3) uint8 RGB as PNG; the file appears only when complete. Raises WriteError."""
    content = io.BytesIO()
    Image.fromarray(rgb).save(content, "PNG")
    write_whole(path, content.getvalue())


def samples(image: Image.Image) -> Labels:
    """Return the samples of a 1-bit, palette or grey picture as they are in the file, (H, W) uint8."""
    values = np.array(image, dtype=np.uint8)
    return values // PACKED_GREY.get(image.info.get("packing", ""), 1) if image.mode in GREY_MODES else values


def without_idle_alpha(image: Image.Image) -> Image.Image:
    """Return a picture without its alpha when that is opaque everywhere: the object is in the other channels then."""
    if image.mode not in OPAQUE_MODES or image.getextrema()[-1][0] < 255:  # type: ignore[index]
        return image
    return image.convert(OPAQUE_MODES[image.mode])


def has_soft_edges(image: Image.Image) -> bool:
    """Tell whether a grey picture is black and white with many greys between, not a picture of ids."""
    if image.mode not in GREY_MODES:
        return False
    counts = np.array(image.histogram())
    between = np.flatnonzero(counts[1:255]) + 1
    if len(between) < MANY_GREYS or not counts[255]:
        return False
    thin = np.intersect1d(between, thin_codes(samples(image)))
    return bool(counts[255] > counts[between].sum() or 2 * len(thin) > len(between))


def soft_edges(image: Image.Image) -> str:
    """Say of a picture with soft edges what is wrong with it."""
    return f"soft edges: {np.count_nonzero(image.histogram()[1:255])} grey values beside black and white"


def ids_of_colours(codes: npt.NDArray[np.int32], path: Path) -> Labels:
    """Return the ids of colours of the DAVIS palette, (H, W) 0xRRGGBB; black and white alone stay 0 and 255.

    Raises MaskError that names the first other colour.
    """
    if np.isin(codes, (0, WHITE)).all():
        return np.where(codes == WHITE, 255, 0).astype(np.uint8)
    known = colour_codes(palette())  # (256,)
    order = np.argsort(known)
    nearest = np.minimum(np.searchsorted(known, codes, sorter=order), len(known) - 1)
    ids = order[nearest]
    unknown = np.argwhere(known[ids] != codes)
    if len(unknown):
        y, x = (int(value) for value in unknown[0])
        raise MaskError(
            f"colour #{codes[y, x]:06x} at x={x}, y={y} is not in the DAVIS palette",
            path=path,
            hint="Save the mask as palette PNG, without soft edges, or use stm mask fix with --id RRGGBB=ID",
        )
    return ids.astype(np.uint8)


def colour_codes(rgb: npt.NDArray[np.uint8]) -> npt.NDArray[np.int32]:
    """Pack (..., 3) colours into 0xRRGGBB."""
    wide = rgb.astype(np.int32)
    return wide[..., 0] * 65536 + wide[..., 1] * 256 + wide[..., 2]


def _from_wide(image: Image.Image, path: Path) -> Labels:
    values = np.array(image).astype(np.int32)
    if values.min() < 0 or values.max() > 65535:
        raise MaskError("ids outside 0..65535", path=path, hint="Save the mask as 16-bit PNG")
    return values if values.max() > 255 else values.astype(np.uint8)


def _threshold_jpeg(image: Image.Image, path: Path, warn: Warn) -> Labels:
    grey = np.array(image.convert("L"))
    binary = (np.minimum(grey, 255 - grey) < 48) & (np.ptp(np.array(image.convert("RGB")), axis=2) < 48)
    if binary.mean() < 0.97:
        raise MaskError(JPEG, path=path, hint="Save the mask as PNG")
    warn(f"{path}: a JPEG, read as black and white; save masks as PNG")
    return (grey > 127).astype(np.uint8)
