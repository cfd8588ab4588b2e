"""Convert decoded pictures to upright RGB, right to within one level of what the standards say."""

import numpy as np
import numpy.typing as npt
from av.video.frame import VideoFrame
from av.video.reformatter import ColorRange, Colorspace, Interpolation, VideoReformatter

from stmcli.video.color import HD_LINES, bits_of, is_full_range, is_grey
from stmcli.video.frame import RGB
from stmcli.video.orientation import orientation_of

_SPACES = {
    1: Colorspace.ITU709,
    4: Colorspace.FCC,
    5: Colorspace.ITU601,
    6: Colorspace.ITU601,
    7: Colorspace.SMPTE240M,
    9: Colorspace.BT2020,
    10: Colorspace.BT2020,
}
# The default path to packed RGB is off by up to four levels; these flags to planar RGB, packed in a second
# step, are not and take a quarter of the time that they take to packed RGB at once.
_EXACT = Interpolation.BILINEAR | Interpolation.ACCURATE_RND | Interpolation.FULL_CHR_H_INT


class RgbConverter:
    """Convert the pictures of one clip; it keeps what swscale works out for the first."""

    def __init__(self) -> None:
        self._planar, self._packed = VideoReformatter(), VideoReformatter()

    def convert(self, picture: VideoFrame) -> RGB:
        """Return a picture upright as (H, W, 3) uint8 RGB, by its colour tags.

        Untagged pictures of 720 lines or more are BT.709, smaller ones BT.601.
        """
        return orientation_of(picture).apply(self._rgb(picture))

    def _rgb(self, picture: VideoFrame) -> RGB:
        bits, full = bits_of(picture), is_full_range(picture)
        if is_grey(picture) and not full:  # swscale takes all grey as full range
            return _levels(bits, full=False)[self._to_planar(picture, f"gbrp{bits}le").to_ndarray()]
        if bits > 8 and full:  # and it stretches 10 bits to 8 as if white were 1020, not 1023
            return _levels(bits, full=True)[self._to_planar(picture, f"gbrp{bits}le").to_ndarray()]
        return self._packed.reformat(self._to_planar(picture, "gbrp"), format="rgb24").to_ndarray().astype(np.uint8)

    def _to_planar(self, picture: VideoFrame, layout: str) -> VideoFrame:
        layout = layout.replace("gbrp8le", "gbrp")
        if picture.format.is_rgb:
            return self._planar.reformat(picture, format=layout, interpolation=_EXACT)
        untagged = Colorspace.ITU709 if picture.height >= HD_LINES else Colorspace.ITU601
        return self._planar.reformat(
            picture,
            format=layout,
            src_colorspace=_SPACES.get(picture.colorspace, untagged),
            src_color_range=ColorRange.JPEG if is_full_range(picture) else ColorRange.MPEG,
            dst_color_range=ColorRange.JPEG,
            interpolation=_EXACT,
        )


def _levels(bits: int, *, full: bool) -> npt.NDArray[np.uint8]:
    """Return the 8-bit level of each sample of `bits` bits."""
    black, white = (0, 2**bits - 1) if full else (16 << bits - 8, 235 << bits - 8)
    return np.rint(np.clip((np.arange(2**bits) - black) / (white - black), 0, 1) * 255).astype(np.uint8)
