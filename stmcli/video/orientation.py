"""Turn and mirror stored pictures so that they are upright, as a player shows them."""

from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt
from av.sidedata.sidedata import SideData
from av.video.frame import VideoFrame

Flip = Literal["none", "horizontal", "vertical"]


class Orientation(NamedTuple):
    """Say how a stored picture becomes upright: mirrored by `flip` first, then turned.

    `rotation` is counter-clockwise degrees. A picture that is upside down and not mirrored is turned by 180.
    """

    rotation: int = 0
    flip: Flip = "none"

    @property
    def swaps_sides(self) -> bool:
        """Return whether width and height change places."""
        return self.rotation % 180 != 0

    def apply(self, stored: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
        """Return a stored picture (H, W, 3) upright, contiguous in memory."""
        if self.flip != "none":
            stored = stored[:, ::-1] if self.flip == "horizontal" else stored[::-1]
        return np.ascontiguousarray(np.rot90(stored, self.rotation // 90))


def orientation_of(picture: VideoFrame) -> Orientation:
    """Return how a decoded picture becomes upright, from its display matrix.

    The matrix takes a stored (x, y) to the shown (a x + c y, b x + d y); angles between the right ones are
    rounded to the nearest.
    """
    try:
        matrix = picture.side_data.get("DISPLAYMATRIX")
    except ValueError:  # PyAV has no name for other side data of this picture (Exif)
        return Orientation(picture.rotation % 360)
    if not isinstance(matrix, SideData):
        return Orientation()
    a, b, _, c, d = np.frombuffer(bytes(matrix), np.int32)[:5].astype(np.int64)
    if abs(a) >= abs(b):
        return _WITHIN_AXES[bool(a < 0), bool(d < 0)]
    return _ACROSS_AXES[bool(b < 0), bool(c < 0)]


_WITHIN_AXES = {
    (False, False): Orientation(),
    (True, True): Orientation(180),
    (True, False): Orientation(0, "horizontal"),
    (False, True): Orientation(0, "vertical"),
}
_ACROSS_AXES = {  # shown x = c y, shown y = b x
    (True, False): Orientation(90),
    (False, True): Orientation(270),
    (False, False): Orientation(90, "horizontal"),
    (True, True): Orientation(270, "horizontal"),
}
