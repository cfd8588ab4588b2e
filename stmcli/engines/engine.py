"""What every engine can do, and which one the options ask for."""

from typing import Protocol

from stmcli.engines.cluster import Cluster
from stmcli.engines.here import Here
from stmcli.engines.processes import Processes
from stmcli.engines.task import Hear, Outcome, Task
from stmcli.options import BatchOptions, NetworkOptions


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


def open_engine(options: BatchOptions, network: NetworkOptions, hear: Hear) -> Engine:
    """Return the engine that the options ask for. Raises UsageError."""
    if options.engine == "here":
        return Here(network, hear)
    if options.engine == "ray":
        return Cluster(options, network)
    return Processes(options, network, hear)
