"""The simplest engine: one clip after the other, in this process."""

from functools import cache

from stmcli.engines.task import Hear, Outcome, Task, do
from stmcli.errors import StmError
from stmcli.options import NetworkOptions
from stmcli.weights import load_model


class Here:
    """Work in this process; a clip that kills it takes the batch with it."""

    def __init__(self, network: NetworkOptions, hear: Hear) -> None:
        self._load = cache(lambda: load_model(network))
        self._hear = hear
        self._task: Task | None = None
        self._dead = ""  # why nothing can be done any more

    def free(self) -> bool:
        """Tell whether a task can be taken. Raises StmError when none can be any more."""
        if self._dead:
            raise StmError(self._dead)
        return self._task is None

    def busy(self) -> bool:
        """Tell whether a task is at work."""
        return self._task is not None

    def submit(self, task: Task) -> None:
        """Take a task."""
        self._task = task

    def wait(self) -> list[Outcome]:
        """Do the task."""
        assert self._task is not None
        task, self._task = self._task, None
        outcome = do(task, self._load, self._hear)
        self._dead = outcome.error if outcome.lost else ""
        return [outcome]

    def close(self, *, now: bool = False) -> None:
        """Do nothing: no process is left behind."""
