"""Parts of a mask that appear far from where the object was: the network has found what is somewhat like it."""

from collections.abc import Mapping
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from stmcli.model.stm import STRIDE
from stmcli.segmenter.geometry import Geometry
from stmcli.segmenter.presence import certain

# Of such parts of doubtful masks on the eight validation clips 7 % of the pixels belonged to the object; of nearer ones
# 40 to 50 %. What comes out from behind something may be as far, but then the network is certain, or not much is seen.
FAR = 0.3  # of an object's size, which is the root of the most pixels that it had
VISIBLE = 0.5  # of the most pixels that it had, at least in the frame before
ATTACHED = 0.5  # of its pixels, at least, that are no such parts
STEPS, STEP = 8, 5  # how often, and in squares of how many cells, what is connected is followed


class Seen(NamedTuple):
    """Where the objects were in the frame before, and how much of them was seen."""

    shown: Tensor  # (N, h, w), cells with anything of them
    rows: Tensor  # (h,), middles of the cells in the source, pixels
    columns: Tensor  # (w,)
    size: Tensor  # (N,), pixels of the source
    most: Tensor  # (N,), the most that there ever were in this scene


class Strays:
    """Tell the parts of each object's mask that are strays, frame by frame, on the device without waiting.

    They are connected neither with anything near to where the object was in the frame before nor with anything of which
    the network is certain. An object that is lost, or of which little was seen, may come back anywhere.
    """

    def __init__(self, least: float) -> None:
        self.is_on = least > 0  # the confidence from which on masks are trusted; 0: all are
        self._seen: Seen | None = None

    def begin(self, masks: Tensor, geometry: Geometry) -> None:
        """Start again from masks (1, N, H, W) of which some are given, and more objects may have entered."""
        if self.is_on:
            self._learn(_shown(masks), masks, geometry)

    def turn(self) -> None:
        """Go to another scene, where objects may be anywhere."""
        self._seen = None

    def state(self) -> dict[str, Tensor]:
        """Return what `restore` needs to go on."""
        return self._seen._asdict() if self._seen else {}

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Take over what `state` returned."""
        self._seen = Seen(*(tensors[name] for name in Seen._fields)) if "shown" in tensors else None

    def look(self, masks: Tensor, geometry: Geometry, lost: Tensor | None) -> Tensor | None:
        """Return where masks (1, N, H, W) are to be shown, zeros and ones of that shape; None: everywhere.

        Of objects that are `lost`, (N,), all is shown.
        """
        if not self.is_on:
            return None
        there = _shown(masks)
        strays = None if self._seen is None else self._find(masks, there, geometry, self._seen, lost)
        if strays is None:
            self._learn(there, masks, geometry)
            return None
        shown = F.interpolate((~strays)[None].to(masks.dtype), scale_factor=STRIDE)
        self._learn(there & ~strays, masks * shown, geometry)
        return shown

    def _find(
        self, masks: Tensor, there: Tensor, geometry: Geometry, before: Seen, lost: Tensor | None
    ) -> Tensor | None:
        """Return the cells (N, h, w) that show strays, with what is blurred around them; None where there are none."""
        on_cpu = masks.device.type == "cpu"  # a GPU would have to be waited for
        far = _distance(before, geometry) > FAR * before.most.sqrt()[:, None, None]
        if on_cpu and not (there & far).any():
            return None
        kept = there & (~far | certain(masks.float())[0])
        for _ in range(STEPS):
            kept = there & _spread(kept, STEP)
        pixels = F.avg_pool2d(masks[0].float(), STRIDE)
        unsure = (pixels * kept).sum((1, 2)) < ATTACHED * (pixels * there).sum((1, 2))
        unsure = unsure | (before.size < VISIBLE * before.most)
        unsure = unsure if lost is None else unsure | lost
        strays = there & ~kept & ~unsure[:, None, None]
        return None if on_cpu and not strays.any() else _spread(strays, 3) & ~kept

    def _learn(self, shown: Tensor, masks: Tensor, geometry: Geometry) -> None:
        size = geometry.area * (masks[0] > 0.5).sum((1, 2))
        most = size.clone()
        if self._seen:
            known = self._seen.most
            most[: len(known)] = torch.maximum(most[: len(known)], known)
        rows, columns = geometry.centres(masks.device)
        self._seen = Seen(shown, rows, columns, size, most)


def _shown(masks: Tensor) -> Tensor:
    """Return the cells (N, h, w) of masks (1, N, H, W) in which anything of an object is shown."""
    objects, height, width = masks.shape[1:]
    rows = masks.reshape(objects, height // STRIDE, STRIDE, width).amax(2)  # a fifth of the time of max_pool2d
    return rows.reshape(objects, height // STRIDE, width // STRIDE, STRIDE).amax(3) > 0.5


def _spread(cells: Tensor, side: int) -> Tensor:
    """Return cells (N, h, w) with those around them, in a square of so many."""
    return F.max_pool2d(cells.float()[None], side, 1, side // 2)[0] > 0


def _distance(before: Seen, geometry: Geometry) -> Tensor:
    """Return how far each cell, (N, h, w), is from those that showed an object before, in pixels of the source."""
    here = geometry.centres(before.rows.device)
    down, across = ((a[:, None] - b).square() for a, b in zip(here, (before.rows, before.columns), strict=True))
    beside = (torch.where(before.shown, 0.0, torch.inf)[:, :, None] + across).amin(3)  # (N, h', w)
    return (beside[:, None] + down[:, :, None]).amin(2).sqrt()
