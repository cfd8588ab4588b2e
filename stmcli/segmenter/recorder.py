"""CUDA graphs: what a function does on a GPU is recorded once, and then started as a whole.

A frame takes hundreds of kernels of a few microseconds each: to start them one by one takes the host longer than the
GPU needs for them.
"""

from collections import Counter
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass
from functools import cache
from typing import Any, TypeVar

import torch
from torch import Tensor

TRIALS = 2  # calls before the one that is recorded: they choose kernels and make what these need
MOST = 8  # recordings that are kept
Tensors = tuple[Tensor, ...]
Found = TypeVar("Found", bound=Tensors)
_recording: ContextVar[bool] = ContextVar("recording", default=True)


@dataclass(frozen=True)
class Recording:
    """A graph, the tensors that it reads and writes, and what it reads besides, which must not be freed."""

    graph: torch.cuda.CUDAGraph
    inputs: Tensors
    outputs: Any  # a tuple of tensors, of any kind
    kept: Tensors

    def replay(self, inputs: Sequence[Tensor]) -> Any:
        """Return what the function returns for these inputs; nobody waits for it."""
        for mine, given in zip(self.inputs, inputs, strict=True):
            mine.copy_(given)
        self.graph.replay()
        copies = (x.clone() for x in self.outputs)
        return type(self.outputs)(*copies) if hasattr(self.outputs, "_fields") else tuple(copies)


class Recorder:
    """Call functions of tensors; on CUDA replay the graphs of those that come again with tensors of the same kind.

    What cannot be recorded is called every time, which only takes longer.
    """

    def __init__(self, device: torch.device) -> None:
        self.active = device.type == "cuda"
        self._device = device
        self.forget()

    def forget(self) -> None:
        """Drop all recordings, and the memory that they work in."""
        self._calls: Counter[Hashable] = Counter()
        self._recordings: dict[Hashable, Recording] = {}
        self._pool = torch.cuda.graph_pool_handle() if self.active else None  # they run in turn, so they share one

    def stop(self) -> None:
        """Record nothing any more."""
        self.active = False
        self.forget()

    def call(
        self,
        function: Callable[..., Found],
        *inputs: Tensor,
        kept: Sequence[Tensor] = (),
        about: Hashable = None,
    ) -> Found:
        """Return `function(*inputs)`, a tuple of tensors.

        What else it depends on: `kept`, tensors whose numbers may change but not their place, and constants, of which
        `about` tells those of different calls apart.
        """
        if not (self.active and _recording.get()):
            return function(*inputs)
        key = about, *map(_kind, inputs), *((x.data_ptr(), _kind(x)) for x in kept)
        self._calls[key] += 1
        if key not in self._recordings and self._calls[key] > TRIALS:
            self._record(key, function, inputs, tuple(kept))
        recording = self._recordings.get(key)
        return recording.replay(inputs) if recording else function(*inputs)

    def _record(self, key: Hashable, function: Callable[..., Tensors], inputs: Tensors, kept: Tensors) -> None:
        """Record a call; where that fails, stop."""
        mine = tuple(x.clone() for x in inputs)
        graph, stream = torch.cuda.CUDAGraph(), _aside(self._device)
        torch.cuda.synchronize(self._device)
        with torch.cuda.device(self._device), torch.cuda.stream(stream):
            try:
                graph.capture_begin(pool=self._pool, capture_error_mode="thread_local")  # other threads go on
                outputs = function(*mine)
                graph.capture_end()
            except RuntimeError:
                with suppress(RuntimeError):
                    graph.capture_end()
                return self.stop()
        if len(self._recordings) == MOST:
            del self._recordings[next(iter(self._recordings))]
        self._recordings[key] = Recording(graph, mine, outputs, kept)


@cache
def _aside(device: torch.device) -> torch.cuda.Stream:
    """Return the stream on which everything is recorded.

    A block of memory is used again only on the stream that it was taken on. And torch has 32 streams, which it gives
    again and again: one for each recording would in the end be that of the uploads of another thread.
    """
    return torch.cuda.Stream(device)


@contextmanager
def unrecorded() -> Iterator[None]:
    """Call every function in the block as it is, so that what it does can be seen."""
    token = _recording.set(False)
    try:
        yield
    finally:
        _recording.reset(token)


def _kind(x: Tensor) -> Hashable:
    return x.shape, x.stride(), x.dtype
