"""What every engine can do, and which one the options ask for."""

import os
from dataclasses import replace
from typing import Protocol

import torch

from stmcli.device import pick_device
from stmcli.engines.cluster import Cluster
from stmcli.engines.here import Here
from stmcli.engines.processes import Processes
from stmcli.engines.task import Hear, Outcome, Task
from stmcli.footprint import free_bytes
from stmcli.machine import usable_cores
from stmcli.options import BatchOptions, NetworkOptions

ROOM = 4_000_000_000  # bytes of memory for a worker on a CPU: enough for soft alpha of frames of 3840x2160


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


def settled(options: BatchOptions, network: NetworkOptions, clips: int) -> BatchOptions:
    """Return the options with as many clips at a time as is fastest for so many clips, where that was not said.

    On a CPU that is one for every core, as far as memory goes: what a clip does beside its network, and the time in
    which threads of one network wait for each other, go to other clips. Raises UsageError.
    """
    if options.jobs or options.gpus or options.engine != "processes":
        return options
    device = pick_device(network.device)
    return replace(options, jobs=min(clips, _room(options, device)) or 1) if device.type == "cpu" else options


def _room(options: BatchOptions, device: torch.device) -> int:
    """Return for how many workers there are cores and memory."""
    usual = torch.get_num_threads()  # which by itself counts no core twice
    alone = "OMP_NUM_THREADS" not in os.environ
    cores = min(usable_cores(), usual) if alone else usable_cores()
    most = cores // (options.threads or (1 if alone else usual))
    free = free_bytes(device)
    return most if free is None else min(most, free // ROOM)


def open_engine(options: BatchOptions, network: NetworkOptions, hear: Hear) -> Engine:
    """Return the engine that the options ask for. Raises UsageError."""
    if options.engine == "here":
        return Here(network, hear)
    if options.engine == "ray":
        return Cluster(options, network)
    return Processes(options, network, hear)
