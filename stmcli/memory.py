"""The bounded memory of past frames: which ones are kept, never what is in them."""

import torch
from torch import Tensor

from stmcli.options import MemoryOptions


class MemoryBank:
    """Keep keys and values of past frames in one preallocated buffer.

    Attention does not care about the order of what it reads, so nothing is ever moved: given masks are pinned at
    the front, kept frames take the slots of the oldest ones in turn, and the previous frame has the slot behind
    the filled ones until it is kept or overwritten. With enough slots this is the published protocol (first,
    every N-th, previous) at every frame.
    """

    def __init__(self, options: MemoryOptions) -> None:
        if options.max_slots < 2:
            raise ValueError("the memory needs two slots, for the first and the previous frame")
        self.options = options
        self.pinned = 0  # slots at the front that are never overwritten
        self.kept = 0  # slots filled with kept frames, behind the pinned ones
        self.turn = 0  # which kept slot is the oldest
        self.previous = False  # whether the slot behind the kept ones holds the previous frame
        self._keys = torch.empty(0)
        self._values = torch.empty(0)

    def pin(self, key: Tensor, value: Tensor) -> None:
        """Keep a given frame for good: key (B, N, h*w, Ck), value (B, N, h*w, Cv)."""
        if not self.pinned:
            self._allocate(key, value)
        if self.kept or self.pinned + 1 == self.options.max_slots:
            raise ValueError("pin given frames first, and leave a slot free")
        self._put(self.pinned, key, value)
        self.pinned += 1
        self.previous = False

    def wants(self, *, age: int) -> bool:
        """Tell whether the frame `age` frames after the first one will be read at all."""
        return "previous" in self.options.policy or self._keeps(age)

    def write(self, key: Tensor, value: Tensor, *, age: int) -> None:
        """Remember the frame that was `age` frames after the first one; the policy decides for how long."""
        keep = self._keeps(age)
        room = self.options.max_slots - self.pinned - (1 if "previous" in self.options.policy else 0)
        if not keep or room < 1:
            self._put(min(self.pinned + self.kept, self.options.max_slots - 1), key, value)
            self.previous = True
            return
        if self.kept < room:
            self._put(self.pinned + self.kept, key, value)
            self.kept += 1
        else:
            self._put(self.pinned + self.turn, key, value)
            self.turn = (self.turn + 1) % room
        self.previous = False  # it is in memory already, as a kept frame

    def read(self, *, given_only: bool = False) -> tuple[Tensor, Tensor]:
        """Return views of all that is in memory, or of given frames only: keys (B, N, L, Ck), values (B, N, L, Cv)."""
        if given_only:
            last = self.pinned * self._cells
            return self._keys[:, :, :last], self._values[:, :, :last]
        first = self.pinned if self.options.policy == "previous" and (self.previous or self.kept) else 0
        last = (self.pinned + self.kept + self.previous) * self._cells
        return self._keys[:, :, first * self._cells : last], self._values[:, :, first * self._cells : last]

    @property
    def slots(self) -> int:
        """How many slots are filled."""
        return self.pinned + self.kept + self.previous

    def _keeps(self, age: int) -> bool:
        every = self.options.every
        return self.options.policy == "first+previous+every" and every > 0 and age % every == 0

    def _allocate(self, key: Tensor, value: Tensor) -> None:
        batch, objects, self._cells, _ = key.shape
        rows = self.options.max_slots * self._cells
        self._keys = key.new_empty(batch, objects, rows, key.shape[3])
        self._values = value.new_empty(batch, objects, rows, value.shape[3])

    def _put(self, slot: int, key: Tensor, value: Tensor) -> None:
        rows = slice(slot * self._cells, (slot + 1) * self._cells)
        self._keys[:, :, rows] = key
        self._values[:, :, rows] = value


class Gate:
    """Keep what a frame says of an object out of memory where it is doubtful: the last one trusted stands in.

    Each object is judged on its own, on the device, without waiting for it.
    """

    def __init__(self, least: float) -> None:
        self.least = least  # confidence, 0..1
        self._trusted: tuple[Tensor, Tensor] | None = None

    def trust(self, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """Take note of a frame that is right, and return it: key (1, N, h*w, Ck), value (1, N, h*w, Cv)."""
        self._trusted = key, value
        return key, value

    def admit(self, key: Tensor, value: Tensor, confidence: Tensor) -> tuple[Tensor, Tensor]:
        """Return what to remember of a frame, given the confidence in each object, (N,)."""
        if not self.least or self._trusted is None:
            return key, value
        sure = (confidence >= self.least).view(1, -1, 1, 1)
        return self.trust(torch.where(sure, key, self._trusted[0]), torch.where(sure, value, self._trusted[1]))
