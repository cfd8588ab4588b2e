"""Convert decoded pictures to upright RGB, right to within one level of what the standards say."""

from functools import lru_cache

import numpy as np
import numpy.typing as npt
from av.video.frame import VideoFrame
from av.video.plane import VideoPlane
from av.video.reformatter import ColorRange, Colorspace, Interpolation, VideoReformatter

from stmcli.video.color import bits_of, is_full_range, is_grey, is_rgb, matrix_of
from stmcli.video.frame import RGB
from stmcli.video.orientation import orientation_of

_SPACES = {
    1: Colorspace.ITU709,
    4: Colorspace.FCC,
    5: Colorspace.ITU601,
    6: Colorspace.ITU601,
    7: Colorspace.SMPTE240M,
    9: Colorspace.BT2020,
}
_DEPTHS = (8, 10, 12, 14, 16)  # bits of planar RGB that become arrays
# The default path to packed RGB is off by up to four levels; these flags to planar RGB, packed in a second
# step, are not and take a quarter of the time that they take to packed RGB at once.
_EXACT = Interpolation.BILINEAR | Interpolation.ACCURATE_RND | Interpolation.FULL_CHR_H_INT
# What hardware hands back has both chroma planes woven into one: the layout with the same samples apart.
_APART = {
    "nv12": "yuv420p",
    "nv16": "yuv422p",
    "p010le": "yuv420p10le",
    "p016le": "yuv420p16le",
    "p210le": "yuv422p10le",
    "p216le": "yuv422p16le",
}


class RgbConverter:
    """Convert the pictures of one clip; it keeps what swscale works out for the first."""

    def __init__(self) -> None:
        self._apart, self._planar, self._packed = VideoReformatter(), VideoReformatter(), VideoReformatter()
        self._even: VideoFrame | None = None

    def convert(self, picture: VideoFrame) -> RGB:
        """Return a picture upright as (H, W, 3) uint8 RGB, by its colour tags or what is assumed without."""
        stored = self._rgb(self._unwoven(picture))[: picture.height, : picture.width]
        return orientation_of(picture).apply(stored)

    def _unwoven(self, picture: VideoFrame) -> VideoFrame:
        layout = _APART.get(picture.format.name)
        if layout is None:
            return picture
        # threads that share its rows write over pixels of each other's where a side is odd, now and then
        return self._apart.reformat(picture, format=layout, threads=1)

    def _rgb(self, picture: VideoFrame) -> RGB:
        full = is_full_range(picture)
        bits = next((depth for depth in _DEPTHS if depth >= bits_of(picture)), _DEPTHS[-1])
        if is_grey(picture) and not full:  # swscale takes all grey as full range
            return _levels(bits, full=False)[self._to_planar(picture, bits).to_ndarray()]
        if bits > 8 and full:  # and it stretches 10 bits to 8 as if white were 1020, not 1023
            return _levels(bits, full=True)[self._to_planar(picture, bits).to_ndarray()]
        packed = self._packed.reformat(self._to_planar(picture, 8), format="rgb24")
        return packed.to_ndarray().astype(np.uint8, copy=False)

    def _made_even(self, picture: VideoFrame) -> VideoFrame:
        """Return a picture with one more column or row: swscale stretches chroma over odd sides."""
        size = (picture.width + picture.width % 2, picture.height + picture.height % 2)
        even = self._even
        if even is None or (even.width, even.height, even.format.name) != (*size, picture.format.name):
            # a first filling that is overwritten, for the tags and the chroma siting that it takes along
            even = self._even = VideoReformatter().reformat(picture, width=size[0], height=size[1])
        for old, new in zip(picture.planes, even.planes, strict=True):
            width = min(old.line_size, new.line_size)
            _lines(new)[: old.height, :width] = _lines(old)[:, :width]
        return even

    def _to_planar(self, picture: VideoFrame, bits: int) -> VideoFrame:
        layout = "gbrp" if bits == 8 else f"gbrp{bits}le"
        if is_rgb(picture):
            return self._planar.reformat(picture, format=layout, interpolation=_EXACT)
        return self._planar.reformat(
            self._made_even(picture) if _shares_edge_chroma(picture) else picture,
            format=layout,
            src_colorspace=_SPACES[matrix_of(picture)],
            src_color_range=ColorRange.JPEG if is_full_range(picture) else ColorRange.MPEG,
            dst_color_range=ColorRange.JPEG,
            interpolation=_EXACT,
        )


def _shares_edge_chroma(picture: VideoFrame) -> bool:
    """Return whether the last column or row has a chroma sample that stands for two."""
    if len(picture.planes) < 3:
        return False
    chroma = picture.planes[1]
    return 2 * chroma.width == picture.width + 1 or 2 * chroma.height == picture.height + 1


def _lines(plane: VideoPlane) -> npt.NDArray[np.uint8]:
    return np.frombuffer(plane, np.uint8).reshape(plane.height, plane.line_size)  # type: ignore[call-overload]


@lru_cache(maxsize=4)
def _levels(bits: int, *, full: bool) -> npt.NDArray[np.uint8]:
    """Return the 8-bit level of each sample of `bits` bits."""
    black, white = (0, 2**bits - 1) if full else (16 << bits - 8, 235 << bits - 8)
    return np.rint(np.clip((np.arange(2**bits) - black) / (white - black), 0, 1) * 255).astype(np.uint8)
