"""How far the mask of an object is to be trusted, from what the network computes anyway.

Two signs go into one number: how undecided the network is about the object's pixels, and how far the object has
come to look different, to the network, from the object of the given mask.
"""

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from stmcli.model.stm import STRIDE

# Fitted to J of each frame on the eight validation clips by `python tests/calibration.py DAVIS`, on 2026-11-27.
BIAS, UNDECIDED, CHANGED = -2.69, -1.33, -0.30
TINY = 0.01  # keeps the logarithms of signs that are zero in bounds


class Gauge:
    """Measure the confidence in each object of a clip, frame by frame, on the device and without waiting for it."""

    def __init__(self) -> None:
        self._given: Tensor | None = None  # (1, N, Ck): what the objects looked like in the first frame after the mask

    def begin(self) -> None:
        """Start again from a given mask."""
        self._given = None

    def state(self) -> dict[str, Tensor]:
        """Return what `restore` needs to go on."""
        return {} if self._given is None else {"looks": self._given}

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Take over what `state` returned."""
        self._given = tensors.get("looks")

    def measure(self, masks: Tensor, query: Tensor) -> Tensor:
        """Return the confidence in each object, (N,) in 0..1: an estimate of J; 0 when it has no pixel.

        masks (1, N, H, W) are the probabilities of the objects, query (1, Ck, h, w) is the frame's key.
        """
        return _calibrated(*self.signs(masks, query)) * masks[0].gt(0.5).any(-1).any(-1)

    def signs(self, masks: Tensor, query: Tensor) -> tuple[Tensor, Tensor]:
        """Return how undecided each object is and how much it has changed, both (N,), 0 is best."""
        masks = masks.float()
        undecided = (masks * (1 - masks)).sum((0, 2, 3)) / masks.sum((0, 2, 3)).clamp_min(TINY)
        look = _look(masks, query.float())  # (1, N, Ck)
        if self._given is None:
            self._given = look
        return undecided, 1 - F.cosine_similarity(look, self._given, dim=2)[0]


def _calibrated(undecided: Tensor, changed: Tensor) -> Tensor:
    return torch.sigmoid(BIAS + UNDECIDED * torch.log(undecided + TINY) + CHANGED * torch.log(changed + TINY))


def _look(masks: Tensor, query: Tensor) -> Tensor:
    """Return the mean key of the cells of each object: (1, N, H, W), (1, Ck, h, w) -> (1, N, Ck)."""
    cells = F.avg_pool2d(masks.gt(0.5).float(), STRIDE).flatten(2)  # (1, N, h*w)
    return cells @ query.flatten(2).transpose(1, 2)  # the length of a sum does not matter to a cosine
