"""How far the mask of an object is to be trusted, from what the network computes anyway.

Two signs go into one number: how undecided the network is about the object's pixels, and how far the object has
come to look different, to the network, from the object of the given mask.
"""

from collections.abc import Collection, Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from stmcli.model.stm import STRIDE

# Fitted to J of each frame on the eight validation clips by `python tests/calibration.py DAVIS`, on 2026-11-27, where
# nothing was kept out of memory.
BIAS, UNDECIDED, CHANGED = -2.69, -1.33, -0.30
TINY = 0.01  # keeps the logarithms of signs that are zero in bounds


class Gauge:
    """Measure the confidence in each object of a clip, frame by frame, on the device and without waiting for it."""

    def __init__(self) -> None:
        self._looks: Tensor | None = None  # (1, N, Ck)

    def begin(self, objects: int = 0, *, others: Collection[int] = ()) -> None:
        """Start again from a given mask, now with so many objects; of `others`, by their places, it says nothing."""
        before, self._looks = self._looks, None
        if before is not None and others:
            unseen = torch.zeros_like(before[:, :1])
            rows = [before[:, place : place + 1] if place in others else unseen for place in range(objects)]
            self._looks = torch.cat(rows, dim=1)

    def state(self) -> dict[str, Tensor]:
        """Return what `restore` needs to go on."""
        return {} if self._looks is None else {"looks": self._looks}

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Take over what `state` returned."""
        self._looks = tensors.get("looks")

    def looks(self, objects: int, width: int, device: torch.device) -> Tensor:
        """Return what the objects looked like when first seen after the mask: (1, N, Ck), zeros before that."""
        if self._looks is None:
            self._looks = torch.zeros(1, objects, width, device=device)
        return self._looks

    def learn(self, looks: Tensor) -> None:
        """Take note of what `measure` returned."""
        self._looks = looks

    def measure(self, masks: Tensor, query: Tensor, looks: Tensor) -> tuple[Tensor, Tensor]:
        """Return the confidence in each object, (N,) in 0..1: an estimate of J, 0 when it has no pixel; and the looks.

        masks (1, N, H, W) are the probabilities of the objects, query (1, Ck, h, w) is the frame's key.
        """
        undecided, changed, looks = self.signs(masks, query, looks)
        return _calibrated(undecided, changed) * (masks[0].amax((1, 2)) > 0.5), looks

    def signs(self, masks: Tensor, query: Tensor, looks: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return how undecided each object is and how much it has changed, both (N,), 0 is best; and the looks."""
        masks = masks.float()
        undecided = (masks * (1 - masks)).sum((0, 2, 3)) / masks.sum((0, 2, 3)).clamp_min(TINY)
        look = _look(masks, query.float())  # (1, N, Ck)
        looks = torch.where(looks.any(2, keepdim=True), looks, look)  # each object's own first
        return undecided, 1 - F.cosine_similarity(look, looks, dim=2)[0], looks


def _calibrated(undecided: Tensor, changed: Tensor) -> Tensor:
    return torch.sigmoid(BIAS + UNDECIDED * torch.log(undecided + TINY) + CHANGED * torch.log(changed + TINY))


def _look(masks: Tensor, query: Tensor) -> Tensor:
    """Return the mean key of the cells of each object: (1, N, H, W), (1, Ck, h, w) -> (1, N, Ck)."""
    blocks = masks.gt(0.5).unflatten(3, (-1, STRIDE)).unflatten(2, (-1, STRIDE))  # (1, N, h, 16, w, 16)
    cells = blocks.sum((3, 5)).flatten(2).float() / STRIDE**2  # (1, N, h*w)
    return cells @ query.flatten(2).transpose(1, 2)  # the length of a sum does not matter to a cosine
