"""The bounded memory of past frames: which ones are kept, never what is in them."""

from typing import Any

import torch
from torch import Tensor

from stmcli.options import MemoryOptions
from stmcli.transfer import upload

SAMPLED = 4  # how much each slot is read is told by one query cell in so many rows and columns
INERTIA = 0.9  # of what is known of a slot's use, a frame


def idle_memory(options: MemoryOptions, renew: int | None) -> list[str]:
    """Say which options are given although the policy of the memory makes no use of them."""
    given = {"--mem-every": options.every not in (0, MemoryOptions.every), "--mem-renew": renew not in (None, 1)}
    without = f"does nothing without --mem-policy {MemoryOptions.policy}"
    return [] if options.has_every else [f"{flag} {without}" for flag, is_given in given.items() if is_given]


def given_room(options: MemoryOptions) -> int:
    """Return how many given frames the memory holds at most: the first and the latest ones."""
    return options.max_slots - options.has_previous if options.has_first else 1


class MemoryBank:
    """Keep keys and values of past frames in one preallocated buffer.

    Attention does not care about the order of what it reads, so nothing is ever moved: given and kept frames fill
    the front, in the order in which they come, and then take the slot of the oldest kept one, or of the one that was
    read least (`keep`); the previous frame has the slot behind the filled ones until it is kept or overwritten. With
    enough slots this is the published protocol (first, every N-th, previous) at every frame. When more frames are given
    than there are slots, the first and the latest stay. An object that enters late reads only the slots that were
    filled since.
    """

    def __init__(self, options: MemoryOptions) -> None:
        if options.max_slots < 2:
            raise ValueError("the memory needs two slots, for the first and the previous frame")
        self.options = options
        self.pinned: list[int] = []  # slots of given frames, the latest last
        self.kept: list[int] = []  # slots of kept frames, the latest last
        self.previous = False  # whether the slot behind the filled ones holds the previous frame
        self.objects = [0] * options.max_slots  # how many objects each slot knows: the first so many
        self._room = options.max_slots - options.has_previous
        self._keys = torch.empty(0)
        self._values = torch.empty(0)
        self._use = torch.full((options.max_slots,), torch.nan)  # share of all reading, by slot; NaN = unknown yet

    def pin(self, key: Tensor, value: Tensor) -> int | None:
        """Keep a given frame: key (B, N, h*w, Ck), value (B, N, h*w, Cv); N may have grown.

        Returns the slot that it stays in, if it does. The frame before it must have been written.
        """
        self._allocate(key, value)
        most = given_room(self.options)
        self.previous = len(self.pinned) == most == 1 and self.options.has_first  # no room for a second one
        if self.previous:
            self._put(self.filled, key, value)
            return None
        slot = self._free_slot() if len(self.pinned) < most else self.pinned.pop(min(1, most - 1))
        self.pinned.append(slot)
        self._put(slot, key, value)
        return slot

    def has_room(self, count: int) -> bool:
        """Tell whether so many more given frames fit, and leave half of the memory to others."""
        return len(self.pinned) + count <= min(given_room(self.options), self.options.max_slots // 2)

    def wants(self, *, age: int, renew: int = 1) -> bool:
        """Tell whether the frame `age` frames after the first one is to be memorized.

        As the previous frame only every so many times, beside frames that are kept; by themselves policies are as
        published.
        """
        most = renew if self.options.has_every else 1
        return (self.options.has_previous and age % most == 0) or self._keeps(age)

    def write(self, key: Tensor, value: Tensor, *, age: int) -> None:
        """Remember the frame that was `age` frames after the first one; the policy decides for how long."""
        keep = self._keeps(age) and len(self.pinned) < self._room
        slot = self._free_slot() if keep else self.filled
        self.kept += [slot] * keep
        self.previous = not keep  # a kept frame is in memory already
        self._put(slot, key, value)

    def read(self, *, given_only: bool = False, whole: bool = False) -> tuple[Tensor, Tensor, Tensor | None]:
        """Return what is in memory, or given frames of it: keys (B, N, L, Ck), values (B, N, L, Cv), what is valid.

        Valid is (N, L), false where an object was not known yet; None: all of it is. Keys and values are views,
        but for given frames that do not lie at the front. With `whole` they are all of the buffer, whatever is in it,
        so that shapes and places stay the same, and valid is false for what is not to be read, too.
        """
        slots, counted = self.read_slots(whole=whole, given_only=given_only), self.read_slots(given_only=given_only)
        rows = self._rows(slots)
        known = [self.objects[slot] if slot in counted else 0 for slot in slots]
        return self._keys[:, :, rows], self._values[:, :, rows], self._valid(known)

    def read_slots(self, *, given_only: bool = False, whole: bool = False) -> list[int]:
        """Return the slots that are read, in the order of what is read.

        Of given frames alone only where one of them knows all objects: an object must have something to read.
        """
        if whole:
            return [*range(self.options.max_slots)]
        known = max(self.objects[slot] for slot in self.pinned)
        return self.pinned if given_only and known == self._keys.shape[1] else [*range(*self._span())]

    def weigh(self, query: Tensor) -> None:
        """Take note of how much each slot is read by a query key (1, Ck, h, w), if that decides what is kept."""
        if self.options.keep != "useful":
            return
        keys = self._keys[:, :, : self.slots * self._cells]
        some = query[:, :, ::SAMPLED, ::SAMPLED].flatten(2).transpose(1, 2).unsqueeze(1)  # (1, 1, P, Ck)
        match = (some.to(keys.dtype) / query.shape[1] ** 0.5) @ keys.transpose(2, 3)  # (1, N, P, L)
        if (valid := self._valid(self.objects[: self.slots])) is not None:
            match = match.masked_fill(~valid.unsqueeze(1), -torch.inf)
        share = torch.softmax(match.float(), dim=3).mean((0, 1, 2)).unflatten(0, (-1, self._cells)).sum(1)  # (slots,)
        known = self._use[: self.slots]
        share = torch.where(known.isnan(), share, INERTIA * known + (1 - INERTIA) * share)
        self._use = torch.cat([share, self._use[self.slots :]])

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Return what is in memory: tensors, and facts that JSON can hold."""
        rows = slice(self.slots * self._cells)
        stored = {"keys": self._keys, "values": self._values}
        tensors = {name: x[:, :, rows].clone(memory_format=torch.contiguous_format) for name, x in stored.items()}
        facts = {"pinned": [*self.pinned], "kept": [*self.kept], "previous": self.previous, "objects": [*self.objects]}
        return {**tensors, "use": self._use.clone()}, {**facts, "cells": self._cells}

    def restore(self, tensors: dict[str, Tensor], facts: dict[str, Any]) -> None:
        """Take over what `state` returned, of a memory with the same options."""
        self.pinned, self.kept, self.objects = [*facts["pinned"]], [*facts["kept"]], [*facts["objects"]]
        self.previous, self._cells = facts["previous"], facts["cells"]
        keys, values, self._use = tensors["keys"], tensors["values"], tensors["use"]
        self._keys, self._values = self._grown(torch.empty(0), keys), self._grown(torch.empty(0), values)
        rows = slice(keys.shape[2])
        self._keys[:, :, rows], self._values[:, :, rows] = keys, values

    @property
    def filled(self) -> int:
        """How many slots hold given and kept frames."""
        return len(self.pinned) + len(self.kept)

    @property
    def slots(self) -> int:
        """How many slots are filled."""
        return self.filled + self.previous

    def _span(self) -> tuple[int, int]:
        """Return the first slot that is read, and the one behind the last."""
        if self.previous and not self.options.has_first:
            return self.filled, self.slots
        return 0, self.slots

    def _rows(self, slots: list[int]) -> slice | Tensor:
        """Return the rows of slots: where these lie side by side a slice, which makes views."""
        if slots == [*range(slots[0], slots[-1] + 1)]:
            return slice(slots[0] * self._cells, (slots[-1] + 1) * self._cells)
        starts = torch.tensor(slots, device=self._keys.device)[:, None] * self._cells
        return (starts + torch.arange(self._cells, device=self._keys.device)).flatten()

    def _valid(self, known: list[int]) -> Tensor | None:
        objects = self._keys.shape[1]
        if min(known) == objects:
            return None
        order = torch.arange(objects)[:, None] < torch.tensor(known)  # (N, slots)
        return upload(order.repeat_interleave(self._cells, dim=1), self._keys.device)

    def _keeps(self, age: int) -> bool:
        every = self.options.every
        return self.options.has_every and every > 0 and age % every == 0

    def _free_slot(self) -> int:
        """Return the next slot, or that of a kept frame that goes: the oldest one, or the one that was read least."""
        if self.filled < self._room:
            return self.filled
        if self.options.keep == "recent":
            return self.kept.pop(0)
        return self.kept.pop(int(self._use[self.kept].nan_to_num(torch.inf).argmin()))

    def _allocate(self, key: Tensor, value: Tensor) -> None:
        """Make room for all objects, at the first given frame and where new ones enter."""
        if self._keys.ndim == key.ndim and self._keys.shape[1] == key.shape[1]:
            return
        self._cells, self._use = key.shape[2], self._use.to(key.device)
        self._keys = self._grown(self._keys, key)
        self._values = self._grown(self._values, value)

    def _grown(self, old: Tensor, sample: Tensor) -> Tensor:
        batch, objects, _, width = sample.shape
        dtype = torch.bfloat16 if self.options.half else sample.dtype
        new = sample.new_zeros(batch, objects, self.options.max_slots * self._cells, width, dtype=dtype)
        if old.ndim == new.ndim:
            new[:, : old.shape[1]] = old
        return new

    def _put(self, slot: int, key: Tensor, value: Tensor) -> None:
        rows = slice(slot * self._cells, (slot + 1) * self._cells)
        self._keys[:, :, rows] = key
        self._values[:, :, rows] = value
        self.objects[slot] = key.shape[1]
        self._use[slot] = torch.nan


class Gate:
    """Keep what a frame says of an object out of memory where it is doubtful: the last one trusted stands in.

    Each object is judged on its own, on the device, without waiting for it.
    """

    def __init__(self, least: float) -> None:
        self.least = least  # confidence, 0..1
        self._trusted: tuple[Tensor, Tensor] | None = None

    def state(self) -> dict[str, Tensor]:
        """Return the frame that was trusted last, empty where that does not matter."""
        names = ("trusted_keys", "trusted_values")
        return dict(zip(names, self._trusted, strict=True)) if self.least and self._trusted else {}

    def restore(self, tensors: dict[str, Tensor]) -> None:
        """Take over what `state` returned."""
        if "trusted_keys" in tensors:
            self._trusted = tensors["trusted_keys"], tensors["trusted_values"]

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
