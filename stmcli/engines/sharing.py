"""How the workers of a batch share this machine: how many there are, and how many threads each of them has."""

import os
from dataclasses import replace

import torch

from stmcli.device import pick_device
from stmcli.footprint import free_bytes, needs
from stmcli.machine import usable_cores
from stmcli.options import BatchOptions, MemoryOptions, NetworkOptions
from stmcli.weights import suited

LARGE = (2160, 3840)  # H, W of frames for which a worker on a CPU has memory, whatever the clips have
BESIDE = 3_000_000_000  # bytes that a worker takes for them beside its network: soft alpha, the libraries


def share_cores(options: BatchOptions, network: NetworkOptions) -> bool:
    """Tell whether the networks of a batch compute on the cores of this machine. Raises UsageError."""
    return not options.gpus and options.engine != "ray" and pick_device(network.device).type == "cpu"


def settled(options: BatchOptions, network: NetworkOptions, memory: MemoryOptions, clips: int) -> BatchOptions:
    """Return the options with as many clips at a time as is fastest for so many clips, where that was not said.

    Where networks share the cores that is one for every core, as far as memory goes: what a clip does beside its
    network, and the time in which threads of one network wait for each other, go to other clips. Raises StmError.
    """
    if options.jobs or options.engine == "here" or _threads_are_set() or not share_cores(options, network):
        return options
    most, free = shared_cores() // (options.threads or 1), free_bytes(torch.device("cpu"))
    if free is not None:
        needed = needs(LARGE, 1, network, memory)
        most = min(most, free // (BESIDE + needed(suited(network).size, memory.max_slots)))
    return replace(options, jobs=max(1, min(clips, most)))


def threads_each(options: BatchOptions) -> int | None:
    """Return how many threads each worker's network has; None: what torch takes by itself."""
    if options.threads or options.workers == 1 or _threads_are_set():
        return options.threads
    return max(1, shared_cores() // options.workers)


def shared_cores() -> int:
    """Return how many cores there are for the networks of all workers; torch counts none twice."""
    return min(usable_cores(), torch.get_num_threads())


def _threads_are_set() -> bool:
    """Tell whether the user has divided the cores."""
    return "OMP_NUM_THREADS" in os.environ
