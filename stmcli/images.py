"""Open a still image safely: whole, upright, of a sane size, and with errors in one line."""

import io
import struct
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from PIL import Image, ImageFile, ImageOps, UnidentifiedImageError

from stmcli.errors import MaskError
from stmcli.files import nearest_name, refuse_url

MAX_PIXELS = 2**26  # 8192 x 8192: twice an 8K frame
FORMATS = ("PNG", "JPEG", "BMP", "GIF", "TIFF", "WEBP")
ORIENTATION = 0x0112  # the EXIF tag
SIDEWAYS = (5, 6, 7, 8)  # orientations that swap the sides


def load_image(path: Path, *, size: tuple[int, int] | None = None) -> Image.Image:
    """Return the whole picture in a file, upright, and how its samples were packed as `info["packing"]`.

    `size` is (width, height) and is checked before the pixels are read. Raises MaskError.
    """
    with _translated_errors(path):
        check_file(path)
        with Image.open(path, formats=FORMATS) as image:
            _refuse_bomb(image)
            if image.format == "TIFF" and _lies(image):  # Pillow 13 scrambles these when they are not compressed
                raise MaskError("a TIFF that its metadata turns on its side", path=path, hint="Save the mask as PNG")
            if size is not None:
                check_size(path, image.size[::-1] if _lies(image) else image.size, size, "the clip")
            if image.format == "PNG":
                image.verify()  # loading alone ignores checksums
        with Image.open(path, formats=FORMATS) as image:
            _note_packing(image)
            image.load()
            return _upright(image)


def image_size(path: Path) -> tuple[int, int]:
    """Return the width and height of the picture in a file, upright, from its header alone. Raises MaskError."""
    with _translated_errors(path):
        check_file(path)
        with Image.open(path, formats=FORMATS) as image:
            _refuse_bomb(image)
            return image.size[::-1] if _lies(image) else image.size


def is_whole_png(path: Path) -> bool:
    """Tell whether a PNG is there with all of its bytes as they were written, by its checksums."""
    try:
        with Image.open(path, formats=("PNG",)) as image:
            image.verify()
    except (OSError, SyntaxError, ValueError, struct.error, Image.DecompressionBombError):
        return False
    return True


def open_image(content: bytes) -> ImageFile.ImageFile:
    """Open the picture in the content of a file, of a sane size, without decoding it. Raises what Pillow raises."""
    image = Image.open(io.BytesIO(content), formats=FORMATS)
    _refuse_bomb(image)
    _note_packing(image)
    return image


def _note_packing(image: ImageFile.ImageFile) -> None:
    """Keep as `info["packing"]` how the samples are packed, which is forgotten once they are decoded."""
    if image.tile:
        image.info["packing"] = str(image.tile[0][3])


def _refuse_bomb(image: Image.Image) -> None:
    """Raise DecompressionBombError for a picture of absurd size, before it is decoded."""
    if image.width * image.height > MAX_PIXELS:
        raise Image.DecompressionBombError(f"more than {MAX_PIXELS // 2**20} million pixels")


def check_size(path: Path, found: tuple[int, int], wanted: tuple[int, int], video_name: str) -> None:
    """Raise MaskError unless the size of a mask is that of its clip, both (width, height)."""
    if found == wanted:
        return
    cause = f"the mask is {found[0]}x{found[1]} but {video_name} is {wanted[0]}x{wanted[1]}"
    if found == wanted[::-1]:
        hint = "Rotate the mask by 90 degrees, or use stm mask fix"
        raise MaskError(f"{cause}; it looks rotated", path=path, hint=hint)
    raise MaskError(cause, path=path, hint="Resize the mask with nearest-neighbour, or use stm mask fix")


def _upright(image: Image.Image) -> Image.Image:
    """Turn a picture as its metadata asks; in PNG that is left alone, as viewers and the frames of a folder do."""
    if image.format == "PNG" or image.getexif().get(ORIENTATION, 1) == 1:
        return image
    turned = ImageOps.exif_transpose(image)
    turned.format = image.format
    return turned


def _lies(image: Image.Image) -> bool:
    return image.format != "PNG" and image.getexif().get(ORIENTATION) in SIDEWAYS


def check_file(path: Path) -> None:
    """Raise MaskError unless there is a regular file with something in it, UsageError for a URL."""
    refuse_url(path)
    if not path.exists():
        raise MaskError("no such file", path=path, hint=nearest_name(path))
    if path.is_dir():
        raise MaskError("a folder, not an image", path=path, hint="Give one mask file")
    if not path.is_file():
        raise MaskError("not a regular file", path=path, hint="Give a mask file")
    if path.stat().st_size == 0:
        raise MaskError("empty file", path=path, hint="Save the mask again")


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
