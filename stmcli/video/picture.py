"""Turn RGB and RGBA arrays into frames that an encoder takes, converted and tagged."""

import numpy as np
import numpy.typing as npt
from av.video.frame import VideoFrame
from av.video.reformatter import ColorPrimaries, ColorRange, Colorspace, ColorTrc

from stmcli.video.frame import RGB

BT709 = 1  # the number of BT.709 in all three colour tags

# Threads of the converter share the rows of a frame and write whole vectors: at the end of its last row one
# may write over the eight pixels at the start of the next, another's, unless the width is a multiple of 16.
_ONE_THREAD = 1


def encode_picture(picture: RGB, pix_fmt: str) -> VideoFrame:
    """Return a (H, W, 3) or (H, W, 4) uint8 picture as a frame in `pix_fmt`.

    YUV becomes BT.709, limited range, and is tagged so; alpha is always full range.
    """
    layout = "rgba" if picture.shape[2] == 4 else "rgb24"
    picture = np.ascontiguousarray(picture)
    if pix_fmt == layout:
        return VideoFrame.from_ndarray(picture, layout)
    frame = VideoFrame.from_numpy_buffer(picture, layout)  # read once, for what is a copy
    if not pix_fmt.startswith("yuv"):
        return frame.reformat(format=pix_fmt, threads=_ONE_THREAD)
    frame = frame.reformat(
        format=pix_fmt,
        dst_colorspace=Colorspace.ITU709,
        src_color_range=ColorRange.JPEG,
        dst_color_range=ColorRange.MPEG,
        threads=_ONE_THREAD,
    )
    frame.colorspace, frame.color_range = BT709, ColorRange.MPEG
    frame.color_primaries, frame.color_trc = ColorPrimaries.BT709, ColorTrc.BT709
    if pix_fmt.startswith("yuva") and layout == "rgba":
        _set_alpha(frame, picture[:, :, 3])
    return frame


def _set_alpha(frame: VideoFrame, alpha: npt.NDArray[np.uint8]) -> None:
    """Put (H, W) alpha into a YUVA frame: the converter's own is up to a level off."""
    top = 2 ** frame.format.components[3].bits - 1
    kind = np.uint16 if top > 255 else np.uint8
    plane = frame.planes[3]
    rows = np.frombuffer(memoryview(plane), kind).reshape(plane.height, -1)
    rows[:, : frame.width] = np.rint(np.arange(256) * (top / 255)).astype(kind)[alpha]
