"""Read the image files of film and rendering: OpenEXR, DPX and Targa.

OpenEXR: Kainz et al., "Technical Introduction to OpenEXR", file layout; DPX: SMPTE ST 268-1.
"""

import io
import os
import struct
from functools import lru_cache
from pathlib import Path
from typing import BinaryIO

import av
import numpy as np
import numpy.typing as npt
from av.video.codeccontext import VideoCodecContext
from av.video.frame import VideoFrame

from stmcli.errors import VideoError
from stmcli.images import MAX_PIXELS
from stmcli.video.color import Color, color_of
from stmcli.video.frame import RGB
from stmcli.video.rgb import RgbConverter

PLATES = {".exr": "exr", ".dpx": "dpx", ".tga": "targa"}  # by suffix: the decoder
_HEAD = 2**10  # bytes that tell the size of a DPX or a Targa
_DPX_ORDERS = {b"SDPX": ">", b"XPDS": "<"}
_HALVES = 2**16
_EXR_CUT = "the file was cut short, or its rendering was stopped"
BROKEN = (av.FFmpegError, ValueError, LookupError, struct.error)


def is_plate(path: Path) -> bool:
    """Return whether a file is of one of these kinds, by its name."""
    return path.suffix.lower() in PLATES


def plate_size(path: Path) -> tuple[int, int]:
    """Return width and height from the header alone. Raises OSError, one of BROKEN, or VideoError."""
    with path.open("rb") as file:
        if path.suffix.lower() == ".exr":
            left, top, right, bottom = _exr_window(file)
            if (left, top) != (0, 0):  # FFmpeg's decoder would put it elsewhere
                cause = f"its display window begins at {left},{top}"
                raise VideoError(cause, path=path, hint="Export it with one that begins at 0,0.")
            width, height = right + 1, bottom + 1
        else:
            head = file.read(_HEAD)
            dpx = path.suffix.lower() == ".dpx"
            layout, place = (f"{_DPX_ORDERS[head[:4]]}2I", 772) if dpx else ("<2H", 12)
            width, height = struct.unpack_from(layout, head, place)
    if min(width, height) < 1:
        raise ValueError("it has no size")
    return width, height


def plate_color(path: Path) -> Color:
    """Return the samples of a plate. Raises VideoError when it cannot be decoded."""
    return color_of(_decode(path))


def read_plate(path: Path) -> RGB:
    """Return a plate as (H, W, 3) uint8 RGB; floating-point samples are linear light, shown as sRGB.

    Raises VideoError when it cannot be decoded or is not whole.
    """
    picture = _decode(path)
    if "f16" in picture.format.name or "f32" in picture.format.name:
        return _shown()[_halves(picture)]
    return RgbConverter().convert(picture)


def _decode(path: Path) -> VideoFrame:
    try:
        data = path.read_bytes()
        if path.suffix.lower() == ".exr" and not _is_whole_exr(data):
            raise VideoError(_EXR_CUT, path=path, hint="Copy or render it again.")
        context = av.CodecContext.create(PLATES[path.suffix.lower()], "r")
        assert isinstance(context, VideoCodecContext), context
        context.thread_count, context.options = 1, {"max_pixels": str(MAX_PIXELS)}
        pictures = [*context.decode(av.Packet(data)), *context.decode(None)]
        if not pictures or (pictures[0].width, pictures[0].height) != plate_size(path):
            raise ValueError("it holds no picture of its size")
    except (OSError, *BROKEN) as error:
        cause = f"not an image that can be read ({getattr(error, 'strerror', None) or error})"
        raise VideoError(cause, path=path, hint="Export it again.") from error
    return pictures[0]


def _exr_window(file: BinaryIO) -> tuple[int, int, int, int]:
    """Read the headers of an OpenEXR file, of all its parts; return the first display window, both ends inclusive."""
    magic, version = struct.unpack("<2I", file.read(8))
    if magic != 20000630:
        raise ValueError("no OpenEXR header")
    window = None
    while name := _exr_name(file):  # one part, or another one
        while name:  # its attributes: name, type, size, value
            _exr_name(file)
            (size,) = struct.unpack("<I", file.read(4))
            if window is None and name == b"displayWindow":
                window = struct.unpack("<4i", file.read(16))
            else:
                file.seek(size, os.SEEK_CUR)
            name = _exr_name(file)
        if not version & 0x1000:  # a single part has no second zero
            break
    if window is None:
        raise ValueError("no display window")
    return window


def _exr_name(file: BinaryIO) -> bytes:
    """Read a name, which ends with a zero; at most 255 bytes."""
    name = b""
    while (letter := file.read(1)) != b"\0":
        if not letter or len(name) > 255:
            raise ValueError("its header is cut")
        name += letter
    return name


def _is_whole_exr(data: bytes) -> bool:
    """Return whether all chunks that the offset tables of an OpenEXR file name lie in it.

    The tables end where the first chunk begins; those of a rendering that was stopped hold zeros. FFmpeg's decoder
    leaves black what is missing, and says nothing.
    """
    file = io.BytesIO(data)
    _exr_window(file)
    place = file.tell()
    first = last = 0
    while not first or place < first:
        (offset,) = struct.unpack_from("<Q", data, place)
        if not place < offset < len(data):
            return False
        first, last = min(first or offset, offset), max(last, offset)
        place += 8
    (version,) = struct.unpack_from("<I", data, 4)
    lines_alone = not version & 0x1A00  # no tiles, no deep data, one part: a chunk is y, bytes, and so many bytes
    return not lines_alone or last + 8 + struct.unpack_from("<I", data, last + 4)[0] <= len(data)


def _halves(picture: VideoFrame) -> npt.NDArray[np.uint16]:
    """Return the bits of floating-point samples in half precision, (H, W, 3): finer than 8 bits at every brightness."""
    kind = np.float16 if "f16" in picture.format.name else np.float32
    planes = []
    for plane in picture.planes:
        lines = np.frombuffer(plane, kind).reshape(plane.height, -1)  # type: ignore[call-overload]
        with np.errstate(over="ignore"):
            planes.append(lines[:, : picture.width].astype(np.float16).view(np.uint16))
    order = (0, 0, 0) if len(planes) < 3 else (2, 0, 1)  # FFmpeg's planes are green, blue, red
    return np.stack([planes[place] for place in order], axis=2)


@lru_cache(maxsize=1)
def _shown() -> npt.NDArray[np.uint8]:
    """Return the 8-bit sRGB level (IEC 61966-2-1) of every half of linear light."""
    light = np.arange(_HALVES, dtype=np.uint16).view(np.float16).astype(np.float64)
    light = np.clip(np.nan_to_num(light, nan=0, posinf=1, neginf=0), 0, 1)
    shown = np.where(light <= 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055)
    return np.rint(255 * shown).astype(np.uint8)
