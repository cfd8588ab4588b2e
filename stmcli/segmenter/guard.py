"""A network that survives what a device cannot do: too little memory, and numbers that half precision cannot hold."""

import copy
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, TypeVar

import torch
from torch import Tensor

from stmcli.errors import DeviceError, StmError
from stmcli.model import STM, Anchor, Segmentation
from stmcli.segmenter.recorder import Recorder

Found = TypeVar("Found")
NOT_FINITE = "its numbers are not finite"
NEED_LESS = "Use a smaller --size or --mem-max."
LEAST_CHUNK = 64  # query cells read at once: fewer save next to nothing


def _itself(found: Segmentation) -> Segmentation:
    return found


@contextmanager
def device_explained(device: torch.device, hint: str) -> Iterator[None]:
    """Raise StmError where the memory of a device is too little, with a hint at what needs less.

    Raises DeviceError where the device itself fails.
    """
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise StmError("too little memory", path=str(device), hint=hint) from error
    except torch.AcceleratorError as error:
        reason = str(error).strip().partition("\n")[0]
        raise DeviceError(
            f"the device failed ({reason})", path=str(device), hint="Run the same command again."
        ) from error


class Guard:
    """Run a network; where memory is short in smaller pieces, and where a number is not finite again in fp32.

    Neither changes the result, but for rounding. On CUDA only fp16 is looked after: to look takes waiting for the
    device, and bf16 holds whatever fp32 holds.
    """

    def __init__(self, model: STM) -> None:
        self.model = model
        model.at_once = model.chunk = 0  # whole again, whatever a clip before this one has needed
        weight = next(model.parameters())
        self.recorder = Recorder(weight.device)
        self.again = 0  # how often something was computed again in fp32
        self.saving = False  # whether memory was short
        self._half = weight.dtype != torch.float32
        self._looks = not weight.is_cuda or weight.dtype == torch.float16
        self._full: STM | None = None
        self._device = str(weight.device)

    def memorize(self, frame: Tensor, masks: Tensor) -> tuple[Tensor, Tensor]:
        """Do what `STM.memorize` does. Raises StmError."""
        key, value = self._sparing(
            masks.shape[1], lambda: self.recorder.call(self.model.memorize, frame, masks, about="memorize")
        )
        if self._trusts(key, value):
            return key, value
        full = self._in_full()
        again = self._sparing(masks.shape[1], lambda: full.memorize(frame.float(), masks.float()))
        self._demand(*again)
        most = torch.finfo(key.dtype).max
        return again[0].clamp(-most, most).to(key.dtype), again[1].clamp(-most, most).to(value.dtype)

    def segment(
        self,
        frame: Tensor,
        memory: tuple[Tensor, Tensor, Tensor | None],
        *given: Tensor,
        top_k: int,
        reach: float,
        anchors: Sequence[Anchor] = (),
        then: Callable[..., Any] = _itself,
    ) -> Any:
        """Return `then(segmentation, *given)`, a tuple of tensors, of what `STM.segment` returns. Raises StmError.

        Memory is keys, values and what is valid.
        """
        keys, values, valid = memory
        count, own = keys.shape[1], len(given)
        known = [] if valid is None else [valid]
        sides = [side for anchor in anchors for side in anchor[1:]]

        def segment(frame: Tensor, *others: Tensor) -> Any:
            rest = others[own + len(known) :]
            placed = [Anchor(a.slot, *both) for a, *both in zip(anchors, rest[::2], rest[1::2], strict=True)]
            valid = others[own] if known else None
            found = self.model.segment(frame, keys, values, valid, top_k=top_k, reach=reach, anchors=placed)
            return then(found, *others[:own])

        about = "segment", top_k, reach, tuple(anchor.slot for anchor in anchors)
        call = partial(self.recorder.call, segment, frame, *given, *known, *sides, kept=(keys, values), about=about)
        found = self._sparing(count, call)
        if self._trusts(*found):
            return found
        full, in_full = self._in_full(), (frame.float(), keys.float(), values.float(), valid)
        again = self._sparing(count, lambda: full.segment(*in_full, top_k=top_k, reach=reach, anchors=anchors))
        self._demand(again.logits)
        return then(again._replace(query=again.query.to(frame.dtype)), *given)

    def notes(self) -> list[str]:
        """Return what is to be said of a run."""
        short = "the device's memory was short: it computed in smaller pieces"
        again = f"half precision could not hold every number: computed again in fp32, {self.again} times"
        return [short] * self.saving + [again] * bool(self.again)

    def _trusts(self, *found: Tensor) -> bool:
        return not self._looks or _are_finite(found)

    def _demand(self, *found: Tensor) -> None:
        """Raise StmError when numbers are not finite in fp32 either."""
        if not _are_finite(found):
            raise StmError(NOT_FINITE, path="the network", hint="Use other weights.")

    def _in_full(self) -> STM:
        if not self._half:
            raise StmError(NOT_FINITE, path="the network", hint="Use other weights.")
        self.again += 1
        if self._full is None:
            self._full = copy.deepcopy(self.model).float()
        self._full.at_once, self._full.chunk = (
            self.model.at_once,
            self.model.chunk,
        )  # which others may have made smaller
        return self._full

    def _sparing(self, objects: int, compute: Callable[[], Found]) -> Found:
        """Compute; while the device has too little memory, again in smaller pieces. Raises StmError."""
        while True:
            try:
                return compute()
            except torch.OutOfMemoryError:
                pass  # outside of this block, so that what the error holds is freed
            self._save_memory(objects)

    def _save_memory(self, objects: int) -> None:
        """Make the pieces smaller. Raises StmError when they are as small as they can be."""
        self.recorder.stop()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        at_once, chunk = self.model.at_once or objects, self.model.chunk or 4 * LEAST_CHUNK
        if at_once == 1 and chunk <= LEAST_CHUNK:
            raise StmError("too little memory", path=self._device, hint=NEED_LESS)
        self.saving = True
        for network in (self.model, self._full) if self._full else (self.model,):
            network.at_once, network.chunk = max(1, at_once // 2), chunk if at_once > 1 else chunk // 2


def _are_finite(found: Sequence[Tensor]) -> bool:
    """Tell whether all numbers are finite, in one pass over them: a sum with others in it is not."""
    return all(math.isfinite(x.sum(dtype=torch.float32).item()) for x in found)
