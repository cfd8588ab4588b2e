"""What every engine can do, and which one the options ask for."""

import os
from dataclasses import replace
from typing import Protocol

import torch

from stmcli.device import pick_device
from stmcli.engines.cluster import Cluster
from stmcli.engines.here import Here
from stmcli.engines.processes import Processes, shared_cores
from stmcli.engines.task import Hear, Outcome, Task
from stmcli.footprint import free_bytes, needs
from stmcli.options import BatchOptions, MemoryOptions, NetworkOptions
from stmcli.weights import suited

LARGE = (2160, 3840)  # H, W of frames for which a worker on a CPU has memory, whatever the clips have
BESIDE = 3_000_000_000  # bytes that a worker takes for them beside its network: soft alpha, the libraries


class Engine(Protocol):
    """Workers that each load the network once and do one clip at a time."""

    def free(self) -> bool:
        """Tell whether a worker waits for a task."""

    def busy(self) -> bool:
        """Tell whether a task is at work."""

    def submit(self, task: Task) -> None:
        """Hand a task to a worker that waits for one."""

    def wait(self) -> list[Outcome]:
        """Wait until something happens, and return the tasks that have ended, also those whose worker died."""

    def close(self, *, now: bool = False) -> None:
        """End the workers; `now`: whatever they do, though what they have finished stays."""


def settled(options: BatchOptions, network: NetworkOptions, memory: MemoryOptions, clips: int) -> BatchOptions:
    """Return the options with as many clips at a time as is fastest for so many clips, where that was not said.

    On a CPU that is one for every core, as far as memory goes: what a clip does beside its network, and the time in
    which threads of one network wait for each other, go to other clips. Raises StmError.
    """
    said = options.jobs or options.gpus or options.engine != "processes" or "OMP_NUM_THREADS" in os.environ
    if said or pick_device(network.device).type != "cpu":
        return options
    most, free = shared_cores() // (options.threads or 1), free_bytes(torch.device("cpu"))
    if free is not None:
        needed = needs(LARGE, 1, network, memory)
        most = min(most, free // (BESIDE + needed(suited(network).size, memory.max_slots)))
    return replace(options, jobs=max(1, min(clips, most)))


def open_engine(options: BatchOptions, network: NetworkOptions, hear: Hear) -> Engine:
    """Return the engine that the options ask for. Raises UsageError."""
    if options.engine == "here":
        return Here(network, hear)
    if options.engine == "ray":
        return Cluster(options, network)
    return Processes(options, network, hear)
