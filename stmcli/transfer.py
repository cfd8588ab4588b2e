"""What goes to a GPU and comes back from it while neither side waits for the other."""

from functools import cache

import numpy as np
import torch
from torch import Tensor


def upload(array: np.ndarray | Tensor, device: torch.device) -> Tensor:
    """Return what lies on the host, or there already, on a device; to CUDA it comes while what was begun goes on."""
    host = array if isinstance(array, Tensor) else torch.from_numpy(_in_order(array))
    if device.type != "cuda" or host.is_cuda:
        return host.to(device)
    mine, beside = torch.cuda.current_stream(device), _beside(device)
    with torch.cuda.stream(beside):
        there = host.pin_memory().to(device, non_blocking=True)
    mine.wait_stream(beside)
    there.record_stream(mine)
    return there


def _in_order(array: np.ndarray) -> np.ndarray:
    """Return an array that torch takes: a side of one pixel is in order for numpy also where it was mirrored."""
    array = np.require(array, requirements=("C", "W"))
    return array.copy() if min(array.strides) < 0 else array


@cache
def _beside(device: torch.device) -> torch.cuda.Stream:
    return torch.cuda.Stream(device)


class Download:
    """A tensor on its way to the host."""

    def __init__(self, x: Tensor) -> None:
        self._event = torch.cuda.Event() if x.is_cuda else None
        self._host = torch.empty(x.shape, dtype=x.dtype, pin_memory=True) if x.is_cuda else x
        if self._event:
            self._host.copy_(x, non_blocking=True)
            self._event.record(torch.cuda.current_stream(x.device))

    def array(self) -> np.ndarray:
        """Wait until it is there, for nothing that was begun later, and return it."""
        if self._event:
            self._event.synchronize()
        return self._host.numpy()
