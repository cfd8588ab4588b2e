"""Read one still image as a frame: its size, its samples, its pixels."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from stmcli.errors import VideoError
from stmcli.images import FORMATS, MAX_PIXELS, ORIENTATION, SIDEWAYS
from stmcli.video.color import Color
from stmcli.video.faults import check_file
from stmcli.video.frame import RGB
from stmcli.video.plate import BROKEN, PLATES, is_plate, plate_color, plate_size, read_plate

SUFFIXES = {".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp", ".ppm", ".pgm", *PLATES}
_FORMATS = (*FORMATS, "PPM")  # whatever the names say: Pillow would have PostScript drawn by another program
_BROKEN = (OSError, SyntaxError, EOFError, *BROKEN)


def read_image(path: Path) -> RGB:
    """Return an image upright as (H, W, 3) uint8 RGB; raise VideoError when it cannot be decoded."""
    if is_plate(path):
        return read_plate(path)
    try:
        with Image.open(path, formats=_FORMATS) as image:
            upright = image if _ignores_exif(image) else ImageOps.exif_transpose(image)
            if upright.mode.startswith("I"):  # 16 bits of grey
                grey = (np.asarray(upright, dtype=np.int64) >> 8).astype(np.uint8)
                return np.repeat(grey[:, :, None], 3, axis=2)
            return np.array(upright.convert("RGB"), dtype=np.uint8)
    except _BROKEN as error:
        cause = f"not an image that can be read ({error})"
        raise VideoError(cause, path=path, hint="Export it again.") from error


def shown_size(path: Path) -> tuple[int, int]:
    """Return width and height as shown, from the header alone; raise VideoError for what is no image or too large."""
    check_file(path)
    try:
        width, height = plate_size(path) if is_plate(path) else _pillow_size(path)
    except Image.DecompressionBombError:
        width = height = MAX_PIXELS
    except _BROKEN as error:
        cause = "empty file (0 bytes)" if path.stat().st_size == 0 else "not an image that can be read"
        raise VideoError(cause, path=path, hint="Export it again.") from error
    if width * height > MAX_PIXELS:
        cause = f"more than {MAX_PIXELS // 2**20} megapixels"
        raise VideoError(cause, path=path, hint="Scale it down first.")
    return width, height


def samples_of(path: Path) -> Color:
    """Return the samples of an image; raise VideoError when they cannot be read."""
    if is_plate(path):
        return plate_color(path)
    with Image.open(path, formats=_FORMATS) as image:
        alpha = image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info
        packed = [tile.args if isinstance(tile.args, str) else tile.args[0] for tile in image.tile if tile.args]
        deep = any("16" in str(layout) for layout in (image.mode, *packed))
        return Color(pixel_format=image.mode, bits=16 if deep else 8, alpha=alpha)


@contextmanager
def _quiet_about_size() -> Iterator[None]:
    """Keep Pillow from warning about large pictures, which are refused here."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        yield


def _pillow_size(path: Path) -> tuple[int, int]:
    with _quiet_about_size(), Image.open(path, formats=_FORMATS) as image:
        if image.mode == "F" or (image.mode == "I" and image.format == "TIFF"):
            cause = "pixels of 32 bits, which may mean anything"
            raise VideoError(cause, path=path, hint="Export it with 8 or 16 bits, or as OpenEXR.")
        turned = not _ignores_exif(image) and image.getexif().get(ORIENTATION) in SIDEWAYS
        return image.size[::-1] if turned else image.size


def _ignores_exif(image: Image.Image) -> bool:
    """Return whether the turn in the metadata is left alone: viewers do so in PNG, and asking decodes it."""
    return image.format == "PNG"
