"""Mask files and label arrays: every way a mask is stored, and the checks before it is used."""

import difflib
import io
import struct
import warnings
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, UnidentifiedImageError

from stmcli.errors import MaskError, UsageError
from stmcli.files import write_whole
from stmcli.render import palette

Labels = npt.NDArray[np.integer[Any]]
Warn = Callable[[str], object]

VOID = 255
MAX_PIXELS = 2**26  # twice an 8K frame
FORMATS = ("PNG", "JPEG", "BMP", "GIF", "TIFF", "WEBP")
GREY_MODES = ("L",)
WIDE_MODES = ("I", "I;16", "I;16B", "I;16L", "I;16N")
ALPHA_MODES = ("RGBA", "RGBa", "LA", "La", "PA")
PACKED_GREY = {"L;2": 85, "L;4": 17}  # what Pillow multiplies 2-bit and 4-bit samples by
WHITE = 0xFFFFFF
MANY_GREYS = 16  # a grey mask with at least so many values between its 0 and 255 has soft edges


def read_labels(path: Path, *, size: tuple[int, int] | None = None, warn: Warn = warnings.warn) -> Labels:
    """Read the mask in a file as object ids.

    Returns (H, W) uint8, or int32 when an id is above 255; 0 is background and 255 beside other ids
    is void. Two-valued grey, 1-bit and alpha are one object, id 1. `size` is (width, height) and is
    checked before the pixels are read. Raises MaskError for a file that is missing, damaged, of
    another size, of unknown colours, or without an object.
    """
    labels, grey = _read(path, size, warn)
    labels = _merge_two_values(labels, grey, path, warn)
    if not object_ids(labels):
        raise MaskError("no object in this mask", path=path, hint="Paint each object with its own id")
    return labels


def read_values(path: Path, *, size: tuple[int, int] | None = None, warn: Warn = warnings.warn) -> Labels:
    """Read what a mask file stores, whether or not there is an object in it.

    For folders of masks, where one frame cannot tell two-valued masks from ids: returns (H, W) like
    `read_labels`, with 255 left as it is and grey {0, 3} meaning id 3. Raises MaskError.
    """
    return _read(path, size, warn)[0]


def object_ids(labels: Labels) -> tuple[int, ...]:
    """Return the ids of the objects in (H, W) labels, ascending, without background and void."""
    flat = labels.ravel()
    begun = np.concatenate((flat[:1], flat[1:][flat[1:] != flat[:-1]]))  # sorting every pixel takes 20 times as long
    return tuple(int(value) for value in np.unique(begun) if value not in (0, VOID))


def is_binary(values: Labels) -> bool:
    """Tell whether 255 (65535 in 16 bits) is the only value beside 0: then it is an object, not void."""
    return np.unique(values[values > 0]).tolist() in ([255], [65535])


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
    _check_size(path, (labels.shape[1], labels.shape[0]), (width, height), video_name)


def write_labels(path: Path, labels: Labels) -> None:
    """Write (H, W) labels in 0..65535 as PNG: 8-bit in the DAVIS palette, 16-bit grey for ids above 255.

    The file appears under its name only when complete. Raises WriteError.
    """
    write_whole(path, encode_labels(labels))


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


def _read(path: Path, size: tuple[int, int] | None, warn: Warn) -> tuple[Labels, bool]:
    """Return the stored values (H, W) and whether they are 8-bit grey."""
    image = _load(path, size)
    if image.format == "JPEG":
        return _threshold_jpeg(image, path, warn), False
    if image.mode in ALPHA_MODES:
        return _from_alpha(image, path), False
    if image.mode == "RGB":
        return _from_colours(image, path), False
    if image.mode in WIDE_MODES:
        return _from_wide(image, path), False
    if image.mode not in ("1", "P", *GREY_MODES):
        raise MaskError(f"colour mode {image.mode} cannot be read", path=path, hint="Save it as palette PNG")
    values = np.array(image, dtype=np.uint8)
    if image.mode in GREY_MODES:
        values //= PACKED_GREY.get(image.info.get("packing", ""), 1)
        _refuse_soft_edges(image, path)
    return values, image.mode in GREY_MODES


def _load(path: Path, size: tuple[int, int] | None) -> Image.Image:
    with _translated_errors(path):
        _check_file(path)
        with Image.open(path, formats=FORMATS) as image:
            if image.width * image.height > MAX_PIXELS:
                raise Image.DecompressionBombError
            if size is not None:
                _check_size(path, image.size, size, "the clip")
            if image.format == "PNG":
                image.verify()  # loading alone ignores checksums
        with Image.open(path, formats=FORMATS) as image:
            if image.format == "PNG":
                image.info["packing"] = str(image.tile[0][3])
            image.load()
            return image


def _check_file(path: Path) -> None:
    if not path.exists():
        raise MaskError("no such file", path=path, hint=_nearest_name(path))
    if path.is_dir():
        raise MaskError("a folder, not an image", path=path, hint="Give one mask file")
    if not path.is_file():
        raise MaskError("not a regular file", path=path, hint="Give an image file")
    if path.stat().st_size == 0:
        raise MaskError("empty file", path=path, hint="Save the mask again as PNG")


def _nearest_name(path: Path) -> str:
    try:
        names = [entry.name for entry in path.parent.iterdir()]
    except OSError:
        return "Check the path"
    close = difflib.get_close_matches(path.name, names, n=1)
    return f"Did you mean {path.with_name(close[0])}?" if close else "Check the path"


@contextmanager
def _translated_errors(path: Path) -> Iterator[None]:
    """Turn what Pillow raises into one line."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # odd but harmless metadata
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            yield
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        cause = f"absurd dimensions, more than {MAX_PIXELS // 2**20} million pixels"
        raise MaskError(cause, path=path, hint="Use a mask of the clip's size") from error
    except UnidentifiedImageError as error:
        raise MaskError("not an image that can be read", path=path, hint="Save the mask as PNG") from error
    except (
        *(OSError, SyntaxError, ValueError, EOFError, struct.error, zlib.error),
        *(IndexError, KeyError, TypeError, RuntimeError, OverflowError),
    ) as error:
        reason = error.strerror if isinstance(error, OSError) and error.errno else "damaged or truncated image"
        raise MaskError(str(reason), path=path, hint="Copy or save the mask again") from error


def _check_size(path: Path, found: tuple[int, int], wanted: tuple[int, int], video_name: str) -> None:
    if found == wanted:
        return
    cause = f"the mask is {found[0]}x{found[1]} but {video_name} is {wanted[0]}x{wanted[1]}"
    if found == wanted[::-1]:
        raise MaskError(f"{cause}; it looks rotated", path=path, hint="Rotate the mask by 90 degrees")
    raise MaskError(cause, path=path, hint="Resize the mask with nearest-neighbour")


def _from_alpha(image: Image.Image, path: Path) -> Labels:
    alpha = np.array(image.getchannel("A"))
    if alpha.min() == 255 and image.mode == "RGBA":  # the alpha says nothing: the object is in the colours
        return _from_colours(image.convert("RGB"), path)
    return (alpha > 127).astype(np.uint8)


def _from_colours(image: Image.Image, path: Path) -> Labels:
    """Map the colours of the DAVIS palette to their ids; black and white alone stay 0 and 255."""
    codes = _colour_codes(np.array(image))  # (H, W)
    if np.isin(codes, (0, WHITE)).all():
        return np.where(codes == WHITE, 255, 0).astype(np.uint8)
    known = _colour_codes(palette())  # (256,)
    order = np.argsort(known)
    nearest = np.minimum(np.searchsorted(known, codes, sorter=order), len(known) - 1)
    ids = order[nearest]
    unknown = np.argwhere(known[ids] != codes)
    if len(unknown):
        y, x = (int(value) for value in unknown[0])
        raise MaskError(
            f"colour #{codes[y, x]:06x} at x={x}, y={y} is not in the DAVIS palette",
            path=path,
            hint="Save the mask as palette PNG, without soft edges",
        )
    return ids.astype(np.uint8)


def _colour_codes(rgb: npt.NDArray[np.uint8]) -> npt.NDArray[np.int32]:
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
        raise MaskError("a JPEG, which does not keep object ids", path=path, hint="Save the mask as PNG")
    warn(f"{path}: a JPEG, read as black and white; save masks as PNG")
    return (grey > 127).astype(np.uint8)


def _refuse_soft_edges(image: Image.Image, path: Path) -> None:
    counts = np.array(image.histogram())
    between = counts[1:255]
    if np.count_nonzero(between) >= MANY_GREYS and counts[255] > between.sum():
        raise MaskError(
            f"soft edges: {np.count_nonzero(between)} grey values beside black and white",
            path=path,
            hint="Save the mask without anti-aliasing, or threshold it",
        )


def _merge_two_values(labels: Labels, grey: bool, path: Path, warn: Warn) -> Labels:
    """Turn {0, 255} of any kind, and two-valued grey, into one object with id 1."""
    values = np.unique(labels).tolist()
    two_grey = grey and len(values) == 2 and values[0] == 0
    if not two_grey and not is_binary(labels):
        return labels
    if values[-1] not in (1, 255, 65535):
        warn(f"{path}: grey values 0 and {values[-1]} are read as one object, id 1; palette PNG keeps ids")
    return (labels > 0).astype(np.uint8)
