"""Actors on the machines of a Ray cluster, which see the same files under the same paths."""

import signal
from contextlib import suppress
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import torch

from stmcli.engines.task import Outcome, Task, do, loss
from stmcli.errors import StmError, UsageError
from stmcli.listeners import unheard
from stmcli.options import BatchOptions, NetworkOptions
from stmcli.registry import found_from
from stmcli.weights import load_model

STARTS = 5  # that fail one after the other, and then no more are tried
WAIT = 1.0  # seconds after which a wait ends, so that a signal is heard


class Cluster:
    """One actor for each job; one that dies, alone or with its machine, is replaced wherever there is room."""

    def __init__(self, options: BatchOptions, network: NetworkOptions) -> None:
        self._ray = ray = _import_ray()
        self._ours = not ray.is_initialized()
        if self._ours:
            _connect(ray, options.address)
        self._settings = replace(network, weights=found_from(Path.cwd(), network.weights)), options.threads
        enough = ray.cluster_resources().get("GPU", 0) >= options.workers
        gpus = 1 if network.device.startswith("cuda") or (network.device == "auto" and enough) else 0
        self._kind = ray.remote(_Actor).options(num_cpus=options.threads or 1, num_gpus=gpus)
        self._idle: list[Any] = []
        self._waking: dict[Any, Any] = {}  # actors that are not there yet, by the word that they are
        self._tasks: dict[Any, tuple[Any, Task]] = {}  # at work, by the outcome to come
        self._failed_starts = 0  # one after the other
        for _ in range(options.workers):
            self._wake()

    def free(self) -> bool:
        """Tell whether an actor waits for a task."""
        return bool(self._idle)

    def busy(self) -> bool:
        """Tell whether a task is at work."""
        return bool(self._tasks)

    def submit(self, task: Task) -> None:
        """Hand a task to an actor that waits for one."""
        actor = self._idle.pop()
        self._tasks[actor.do.remote(task.anywhere())] = actor, task

    def wait(self) -> list[Outcome]:
        """Wait until something happens, and return the tasks that have ended, also those whose actor died."""
        ready, _ = self._ray.wait([*self._tasks, *self._waking], num_returns=1, timeout=WAIT)
        return [outcome for word in ready for outcome in self._take(word)]

    def close(self, *, now: bool = False) -> None:
        """End the actors; `now`: whatever they do."""
        assert now or not self._tasks
        actors = [*self._idle, *self._waking.values(), *(actor for actor, _ in self._tasks.values())]
        for actor in actors if self._ray.is_initialized() else ():
            with suppress(self._ray.exceptions.RayError):
                self._ray.kill(actor)
        if self._ours:
            self._ray.shutdown()

    def _wake(self) -> None:
        actor = self._kind.remote(*self._settings)
        self._waking[actor.ready.remote()] = actor

    def _take(self, word: Any) -> list[Outcome]:
        """Take what an actor has said; when it died or is of no more use, wake another. Raises StmError."""
        actor, task = self._tasks.pop(word, (self._waking.pop(word, None), None))
        try:
            said = self._ray.get(word)
        except self._ray.exceptions.RayError as error:
            self._replace(actor, error, starting=task is None)
            return [loss(task, f"its worker died ({type(error).__name__})")] if task else []
        self._failed_starts = 0
        if task and said.lost:
            self._replace(actor, None, starting=False)
            return [said]
        self._idle.append(actor)
        return [said] if task else []

    def _replace(self, actor: Any, error: Exception | None, *, starting: bool) -> None:
        with suppress(self._ray.exceptions.RayError):
            self._ray.kill(actor)
        self._failed_starts += starting
        if self._failed_starts >= STARTS:
            cause = f"no worker can start in the cluster ({' '.join(str(error).split())[:200]})"
            raise StmError(cause, hint="Install the same stmcli on every machine.")
        self._wake()


class _Actor:
    """A worker on some machine of the cluster."""

    def __init__(self, network: NetworkOptions, threads: int | None) -> None:
        if threads:
            torch.set_num_threads(threads)
        self._load = cache(lambda: load_model(network))

    def ready(self) -> bool:
        """Say that this actor is there."""
        return True

    def do(self, task: Task) -> Outcome:
        """Segment a clip."""
        return do(task, self._load, unheard)


def _import_ray() -> Any:
    try:
        import ray
    except ImportError:
        raise UsageError("--engine ray needs Ray", hint="Install it: pip install 'stmcli[ray]'.") from None
    return ray


def _connect(ray: Any, address: str) -> None:
    """Join a cluster, or start one on this machine. Raises StmError."""
    ours = signal.getsignal(signal.SIGTERM)
    try:
        ray.init(address=address or None, log_to_driver=False, logging_level="ERROR")
    except (ConnectionError, RuntimeError, ValueError) as error:
        cause = f"--address {address}: no Ray cluster ({' '.join(str(error).split())[:200]})"
        raise StmError(cause, hint="Start one with: ray start --head.") from None
    finally:
        signal.signal(signal.SIGTERM, ours)  # Ray takes it over
