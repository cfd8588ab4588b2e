"""Name the colour of a picture: its tags, and what is assumed where they are missing."""

from dataclasses import dataclass

from av.video.frame import VideoFrame
from av.video.reformatter import ColorRange

HD_LINES = 720
_PRIMARIES = {
    1: "BT.709",
    4: "BT.470M",
    5: "BT.601 (625 lines)",
    6: "BT.601 (525 lines)",
    7: "SMPTE 240M",
    9: "BT.2020",
    11: "DCI-P3",
    12: "Display P3",
}
_TRANSFERS = {
    1: "BT.709",
    4: "gamma 2.2",
    5: "gamma 2.8",
    6: "BT.601",
    7: "SMPTE 240M",
    8: "linear",
    13: "sRGB",
    14: "BT.2020",
    15: "BT.2020",
    16: "PQ",
    18: "HLG",
}
_MATRICES = {
    0: "RGB",
    1: "BT.709",
    4: "FCC",
    5: "BT.601",
    6: "BT.601",
    7: "SMPTE 240M",
    8: "YCgCo",
    9: "BT.2020",
    10: "BT.2020 constant luminance",
}
_CONVERTED = {0, 1, 4, 5, 6, 7, 9}  # matrices that the conversion to RGB knows
_UNTAGGED = (0, 2)  # the numbers of "unspecified"; 0 is also the matrix of RGB
_HDR_CURVES = ("PQ", "HLG")
_WIDE = ("BT.2020", "DCI-P3", "Display P3")  # primaries


@dataclass(frozen=True)
class Color:
    """Describe the samples of a picture; a tag that the source does not carry is None.

    `bits` is the depth of one sample. `matrix_used` and `range_used` are what the conversion to RGB goes
    by: the tags, or what is assumed in their place. `alpha` tells of transparency of its own.
    """

    pixel_format: str = "rgb24"
    bits: int = 8
    primaries: str | None = None
    transfer: str | None = None
    matrix: str | None = None
    range: str | None = None
    matrix_used: str = "RGB"
    range_used: str = "full"
    alpha: bool = False

    @property
    def hdr(self) -> bool:
        """Return whether the curve is one of high dynamic range (PQ, HLG)."""
        return self.transfer in _HDR_CURVES


def color_of(picture: VideoFrame) -> Color:
    """Return the colour of a decoded picture."""
    rgb = is_rgb(picture)
    matrix = None if picture.colorspace in _UNTAGGED[not rgb :] else _name(_MATRICES, picture.colorspace)
    tagged = {ColorRange.MPEG: "limited", ColorRange.JPEG: "full"}.get(ColorRange(picture.color_range))
    return Color(
        pixel_format=picture.format.name,
        bits=bits_of(picture),
        primaries=_tag(_PRIMARIES, picture.color_primaries),
        transfer=_tag(_TRANSFERS, picture.color_trc),
        matrix=matrix,
        range=tagged,
        matrix_used="RGB" if rgb else _MATRICES[matrix_of(picture)],
        range_used="full" if is_full_range(picture) else "limited",
        alpha=any(component.is_alpha for component in picture.format.components),
    )


def oddities(color: Color) -> list[str]:
    """Return what samples lose on the way to opaque 8-bit RGB."""
    odd = []
    if color.hdr:
        odd.append("HDR is processed as if it were SDR")
    elif color.transfer == "linear":
        odd.append("linear light is processed as 8-bit sRGB, and what is brighter than white as white")
    elif color.bits > 8:
        odd.append("processed with 8 bits per colour")
    if color.primaries in _WIDE and not color.hdr:
        odd.append(f"its primaries, {color.primaries}, are taken as BT.709, in which its colours are paler")
    if color.matrix not in (None, color.matrix_used):
        odd.append(f"its colour matrix, {color.matrix}, is taken as {color.matrix_used}")
    if color.alpha:
        odd.append("its own transparency is not used")
    return odd


def matrix_of(picture: VideoFrame) -> int:
    """Return the number of the matrix that a YUV picture is converted by: its tag's, or by its lines.

    Untagged pictures of 720 lines or more are BT.709, smaller ones BT.601.
    """
    if picture.colorspace in _CONVERTED - {0}:
        return picture.colorspace
    return 1 if picture.height >= HD_LINES else 6


def is_rgb(picture: VideoFrame) -> bool:
    """Return whether the samples are red, green and blue, or numbers of a palette of such."""
    kind = picture.format
    return kind.is_rgb or kind.has_palette or kind.name.startswith("mono")


def bits_of(picture: VideoFrame) -> int:
    """Return how many bits a sample of the deepest component has."""
    return max((component.bits for component in picture.format.components), default=8)


def is_grey(picture: VideoFrame) -> bool:
    """Return whether the picture has no colour at all."""
    return picture.format.name.startswith("gray")


def is_full_range(picture: VideoFrame) -> bool:
    """Return whether black is 0 and not 16; untagged RGB and grey are full range, untagged YUV is not."""
    if is_rgb(picture) or picture.format.name.startswith("yuvj"):
        return True
    if picture.color_range == ColorRange.UNSPECIFIED:
        return is_grey(picture)
    return picture.color_range == ColorRange.JPEG


def _tag(names: dict[int, str], number: int) -> str | None:
    return None if number in _UNTAGGED else _name(names, number)


def _name(names: dict[int, str], number: int) -> str:
    return names.get(number, f"number {number}")
