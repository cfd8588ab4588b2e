"""Write still images with transparency, of 8 or 16 bits."""

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import numpy.typing as npt
from av.video.codeccontext import VideoCodecContext
from av.video.frame import VideoFrame

from stmcli.files import write_whole

RGBA = npt.NDArray[np.uint8] | npt.NDArray[np.uint16]

_LAYOUTS = {"uint8": "rgba", "uint16": "rgba64be"}
_FAST = {"pred": "sub", "compression_level": "1"}


def write_rgba(path: Path, rgba: RGBA) -> None:
    """Write a (H, W, 4) picture, straight alpha, as a PNG of 8 (uint8) or 16 (uint16) bits a channel.

    The file appears under its name only when it is whole. Raises WriteError.
    """
    write_whole(path, _encode(rgba, _LAYOUTS[rgba.dtype.name]))


def _encode(rgba: RGBA, layout: str) -> bytes:
    """Return the PNG: FFmpeg's encoder takes 16 bits and half of Pillow's time."""
    context = av.CodecContext.create("png", "w")
    assert isinstance(context, VideoCodecContext), context
    context.height, context.width = rgba.shape[:2]
    context.pix_fmt, context.time_base = layout, Fraction(1)
    context.thread_count, context.options = 1, dict(_FAST)
    frame = VideoFrame.from_ndarray(rgba if rgba.flags.c_contiguous else rgba.copy(), layout)
    return b"".join(bytes(packet) for packet in (*context.encode(frame), *context.encode(None)))
