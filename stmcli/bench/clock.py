"""Time steps on any device without making them wait for the clock."""

import time
from collections.abc import Callable
from itertools import pairwise

import torch


class Clock:
    """Take the time between marks: by the wall on a CPU, by the device's own events on CUDA.

    On CUDA a mark only joins the queue, and `seconds` waits for all of them: the steps follow each other as they
    do in a clip.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._walls: list[float] = []
        self._events: list[torch.cuda.Event] = []
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        self.mark()

    def mark(self) -> None:
        """Take the time here."""
        if self._device.type == "cuda":
            event = torch.cuda.Event(enable_timing=True)
            event.record(torch.cuda.current_stream(self._device))
            self._events.append(event)
        else:
            self._walls.append(time.perf_counter())

    def seconds(self) -> list[float]:
        """Return the seconds between each mark and the next; the first mark is the beginning."""
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
            return [before.elapsed_time(after) / 1000 for before, after in pairwise(self._events)]
        return [after - before for before, after in pairwise(self._walls)]


def time_round(step: Callable[[], object], *, count: int, device: torch.device) -> list[float]:
    """Return the seconds of each of `count` steps; one more comes first that is not counted."""
    step()
    clock = Clock(device)
    for _ in range(count):
        step()
        clock.mark()
    return clock.seconds()
