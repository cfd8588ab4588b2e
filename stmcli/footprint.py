"""How much memory of the device a clip will take, known before the network is loaded."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch

from stmcli.device import memory_dtype, pick_device, pick_dtype
from stmcli.errors import UsageError, counted
from stmcli.machine import free_memory
from stmcli.model import Dims
from stmcli.model.stm import STRIDE
from stmcli.options import MemoryOptions, NetworkOptions
from stmcli.registry import find
from stmcli.segmenter.ensemble import is_apart, views_of
from stmcli.segmenter.geometry import Geometry
from stmcli.weights import card_of, pick_precision, suited

SIZES = (1080, 720, 480, 336, 240)  # to be proposed, px
BASE = 100_000_000  # bytes, however small the frames are
MAPS = 8  # of the largest kind that are held at once, in the encoder and the decoder
PLANES = 4  # of each object at the size of the source, in fp32
GIGA = 1e9


@dataclass(frozen=True)
class Footprint:
    """Bytes on the device, beside the weights."""

    memory: int  # keys and values of all slots
    network: int  # what the network takes for a frame while it computes, about
    planes: int  # and what comes out of it, at the size of the source


def slot_bytes(dims: Dims, cells: int, *, width: int) -> int:
    """Return what a slot takes for one object: keys and values of so many cells, `width` bytes each number."""
    return cells * (dims.key + dims.value) * width


def footprint(
    dims: Dims, geometry: Geometry, objects: int, slots: int, *, width: int, kept: int, at_once: int = 0
) -> Footprint:
    """Estimate what it takes to follow `objects` with a memory of `slots`, all or so many of them `at_once`.

    Numbers are `width` bytes wide, and in memory `kept`.
    """
    left, right, top, bottom = geometry.pad
    height, across = geometry.inner[0] + top + bottom, geometry.inner[1] + left + right
    stem = 64 * (height // 2) * (across // 2)
    decoder = dims.decoder * (height // 4) * (across // 4)
    planes = PLANES * 4 * (objects + 1) * geometry.source[0] * geometry.source[1]
    cells = (height // STRIDE) * (across // STRIDE)
    memory = slots * objects * slot_bytes(dims, cells, width=kept)
    network = BASE + MAPS * width * (at_once or objects) * max(stem, decoder)
    return Footprint(memory, network, planes)


def check_room(source: tuple[int, int], objects: int, network: NetworkOptions, memory: MemoryOptions) -> None:
    """Raise UsageError when a device has too little free memory for frames of `source` (H, W), and say what fits."""
    device, needed = pick_device(network.device), needs(source, objects, network, memory)
    free = free_bytes(device)
    size, slots = suited(network).size, memory.max_slots
    if free is None or needed(size, slots) <= free:
        return
    fewer = _first(n for n in range(slots - 1, 1, -1) if needed(size, n) <= free)
    smaller = _first(n for n in SIZES if n < (size or min(source)) and needed(n, slots) <= free)
    ways = [f"--mem-max {fewer}"] * bool(fewer) + [f"--size {smaller}"] * bool(smaller)
    raise UsageError(
        f"{counted(objects, 'object')} at {source[1]}x{source[0]} need about"
        f" {needed(size, slots) / GIGA:.1f} GB of memory, and {free / GIGA:.1f} are free",
        path=str(device),
        hint=f"Use {' or '.join(ways)}." if ways else "Use a smaller --size and --mem-max.",
    )


def needs(
    source: tuple[int, int], objects: int, network: NetworkOptions, memory: MemoryOptions
) -> Callable[[int, int], int]:
    """Return what tells how many bytes of a device a `size` inside the network and a number of slots take."""
    device, weights, views = pick_device(network.device), find(network.weights), len(views_of(network))
    dims, precision = card_of(weights).dims, pick_precision(network)
    width, apart = pick_dtype(precision, device).itemsize, is_apart(network)
    kept = torch.bfloat16.itemsize if memory.half else memory_dtype(precision, device).itemsize

    def needed(size: int, slots: int) -> int:
        geometry, at_once = Geometry.fit(*source, size), 1 if apart else objects
        found = footprint(dims, geometry, objects, slots, width=width, kept=kept, at_once=at_once)
        graphs = objects // at_once if device.type == "cuda" else 0  # each works in memory of its own
        copied = found.memory  # where objects enter and it grows, and for the state that is saved now and then
        working = (1 + graphs) * found.network + found.planes
        return 2 * weights.stat().st_size + working + views * (found.memory + copied)

    return needed


def free_bytes(device: torch.device) -> int | None:
    """Return how much memory is free on a device; None where the system does not tell."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    return free_memory()


def _first(numbers: Iterable[int]) -> int:
    return next(iter(numbers), 0)
