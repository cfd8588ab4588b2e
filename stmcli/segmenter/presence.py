"""Objects that are hidden, in whose stead the network finds what is somewhat like them."""

from collections.abc import Collection, Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from stmcli.model.stm import STRIDE

# On the eight validation clips, where no object is hidden, no mask of such a size is doubted so (as shipped).
SMALL, LARGE = 0.1, 2.0  # times the size that was trusted last
# What a mask of a lost object needs, times what others need: one of a likely size less, and an odd one much more.
LIKELY, ODD = 0.8, 1.5
DOUBT = 0.06  # of the probability around a cell, what the network may be undecided about
AROUND = 5  # cells, the side of the square


class Presence:
    """Tell objects that are hidden from those that are hard to see, frame by frame, on the device without waiting.

    An object is lost when its mask is doubted and much smaller or larger than the last one that was trusted, when a
    given mask shows nothing of it, and at a cut; until a mask is trusted again. While it is lost only those parts of
    its mask are shown of which the network is certain, and nothing is trusted.
    """

    def __init__(self, least: float) -> None:
        self.least = least  # confidence from which on a mask is trusted, 0..1; 0: nothing is ever lost
        # (N,) pixels of the last masks that were trusted, nan where that is not known; and (N,) whether it is lost
        self._known: tuple[Tensor, Tensor] | None = None

    def begin(self, sizes: Tensor, *, others: Collection[int] = ()) -> None:
        """Start again from given masks of so many pixels, (N,); of `others`, by their places, they say nothing."""
        known = sizes.clone(), sizes == 0
        for new, before in zip(known, self._known or (), strict=False):
            for place in others:
                new[place] = before[place]
        self._known = known

    @property
    def lost(self) -> Tensor | None:
        """Tell which objects are lost, (N,); None before any is known."""
        return self._known[1] if self._known else None

    def turn(self) -> None:
        """Go to another scene, where objects may have any size."""
        if self._known:
            sizes, lost = self._known
            self._known = torch.full_like(sizes, torch.nan), torch.ones_like(lost)

    def state(self) -> dict[str, Tensor]:
        """Return what `restore` needs to go on."""
        return dict(zip(("sizes", "lost"), self._known or (), strict=False))

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Take over what `state` returned."""
        self._known = (tensors["sizes"], tensors["lost"]) if "lost" in tensors else None

    def look(self, masks: Tensor, confidence: Tensor, area: float) -> tuple[Tensor, Tensor] | None:
        """Return where masks (1, N, H, W) are to be shown, zeros and ones of that shape, and the confidence in that.

        Takes the confidence in each mask, (N,), and the pixels of the source that one of theirs stands for. None:
        everywhere, and the confidence stays what it is.
        """
        if not self.least or not self._known:
            return None
        trusted, lost = self._known
        sizes = area * (masks[0] > 0.5).sum((1, 2))
        odd = (sizes < SMALL * trusted) | (sizes > LARGE * trusted)
        need = torch.where(lost, torch.where(odd, ODD, LIKELY), 1.0)
        lost = (lost | odd) & (confidence < self.least * need)
        self._known = torch.where(~lost & (confidence >= self.least), sizes, trusted), lost
        if masks.device.type == "cpu" and not lost.any():  # a GPU would have to be waited for
            return None
        shown = F.interpolate((certain(masks.float()) | ~lost.view(1, -1, 1, 1)).to(masks.dtype), scale_factor=STRIDE)
        seen = ((masks * shown)[0] > 0.5).any(2).any(1)
        return shown, torch.where(lost, self.least * confidence * seen, confidence)


def certain(masks: Tensor) -> Tensor:
    """Tell for each cell of masks (1, N, H, W) whether the network is certain of what it sees around: (1, N, h, w)."""
    undecided, seen = (
        F.avg_pool2d(F.avg_pool2d(x, STRIDE), AROUND, 1, AROUND // 2) for x in (masks * (1 - masks), masks)
    )
    return undecided < DOUBT * seen
