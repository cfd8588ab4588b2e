"""Several processes of this machine, each with a network of its own; paths travel between them, not pixels."""

import os
import queue
import signal
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from functools import cache
from multiprocessing import connection, get_context
from typing import Any

import torch

from stmcli.engines.sharing import threads_each
from stmcli.engines.task import Advanced, Hear, Outcome, Task, do, loss
from stmcli.errors import Interrupted, StmError
from stmcli.options import BatchOptions, NetworkOptions
from stmcli.signals import listen
from stmcli.weights import load_model

SAY_EVERY = 0.2  # seconds between two words of a worker about its frames
PATIENCE = 10.0  # seconds that a worker has to stop before it is killed
_SPAWN = get_context("spawn")


class Processes:
    """Workers in processes: one that dies is noticed, and another takes its place."""

    def __init__(self, options: BatchOptions, network: NetworkOptions, hear: Hear) -> None:
        self._hear = hear
        threads = threads_each(options)
        self._workers = [_Worker(own, threads) for own in networks(options, network)]

    def free(self) -> bool:
        """Tell whether a worker waits for a task."""
        return any(worker.task is None for worker in self._workers)

    def busy(self) -> bool:
        """Tell whether a task is at work."""
        return any(worker.task for worker in self._workers)

    def submit(self, task: Task) -> None:
        """Hand a task to a worker that waits for one."""
        next(worker for worker in self._workers if worker.task is None).start(task)

    def wait(self) -> list[Outcome]:
        """Wait until something happens, and return the tasks that have ended, also those whose worker died."""
        atwork = [worker for worker in self._workers if worker.task]
        ready = connection.wait([worker.pipe for worker in atwork])
        return [end for worker in atwork if worker.pipe in ready for end in worker.listen(self._hear)]

    def close(self, *, now: bool = False) -> None:
        """End the workers; `now`: whatever they do."""
        try:
            for worker in self._workers:
                worker.ask_to_end(now=now)
            until = time.monotonic() + PATIENCE
            for worker in self._workers:
                worker.join(until - time.monotonic())
        finally:
            for worker in self._workers:
                worker.kill()


def networks(options: BatchOptions, network: NetworkOptions) -> list[NetworkOptions]:
    """Return the network of each worker: on a GPU of its own where GPUs are named."""
    return [replace(network, device=f"cuda:{gpu}") for gpu in options.gpus] or [network] * options.workers


class _Worker:
    """One process, seen from outside; it is started with its first task, and again after it died."""

    def __init__(self, network: NetworkOptions, threads: int | None) -> None:
        self._settings = network, threads
        self._process: Any = None
        self.pipe: Any = None
        self.task: Task | None = None

    def start(self, task: Task) -> None:
        """Begin a task, in a fresh process where there is none. Raises StmError when none can be started."""
        self.task = task
        if self._process is None or not self._process.is_alive():
            self.kill()
            try:
                self.pipe, theirs = _SPAWN.Pipe()
                process = _SPAWN.Process(target=_serve, args=(theirs, *self._settings), daemon=True)
                process.start()
            except OSError as error:
                cause = f"no worker can be started ({error.strerror})"
                raise StmError(cause, hint="Do fewer clips at a time with --jobs.") from error
            self._process = process
            theirs.close()
        with suppress(OSError):  # it has just died: listen() says so
            self.pipe.send(task)

    def listen(self, hear: Hear) -> list[Outcome]:
        """Take what the worker has said; a closed pipe is a worker that died."""
        task = self.task
        assert task is not None
        try:
            while self.pipe.poll():
                said: Advanced | Outcome = self.pipe.recv()
                if isinstance(said, Outcome):
                    self.task = None
                    if said.lost:
                        self.kill()
                    return [said]
                hear(said)
        except (EOFError, OSError):
            self.task = None
            self._process.join()
            return [loss(task, _how_it_died(self._process.exitcode))]
        return []

    def ask_to_end(self, *, now: bool) -> None:
        """Tell the process to end when it has nothing to do, or now."""
        if self._process is None:
            return
        if now:
            self._process.terminate()
        else:
            with suppress(OSError):
                self.pipe.send(None)

    def join(self, seconds: float) -> None:
        """Wait for the process to end, but no longer than that."""
        if self._process is not None:
            self._process.join(max(0.0, seconds))

    def kill(self) -> None:
        """Make sure that nothing of the process is left."""
        if self._process is not None:
            self._process.kill()
            self._process.join()
            self._process.close()
            self.pipe.close()
        self._process = None


def _how_it_died(code: int) -> str:
    if code >= 0:
        return f"its worker ended with code {code}"
    name = signal.Signals(-code).name
    return f"its worker was killed by {name}" + " (out of memory?)" * (name == "SIGKILL")


# -- inside the worker -----------------------------------------------------------------------------------------------


def _serve(pipe: Any, network: NetworkOptions, threads: int | None) -> None:
    """Do tasks until there are no more, or whoever gives them is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group: the one who gives tasks decides
    listen()
    if threads:
        torch.set_num_threads(threads)
    tasks: queue.Queue[Task | None] = queue.Queue()
    threading.Thread(target=_receive, args=(pipe, tasks), daemon=True).start()
    load = cache(lambda: load_model(network))
    with suppress(Interrupted, KeyboardInterrupt):
        while task := tasks.get():
            pipe.send(do(task, load, _now_and_then(pipe.send)))


def _receive(pipe: Any, tasks: "queue.Queue[Task | None]") -> None:
    try:
        while True:
            tasks.put(pipe.recv())
    except (EOFError, OSError):
        os._exit(1)  # nobody is left to work for: what is unfinished can be resumed


def _now_and_then(send: Callable[[Advanced], None]) -> Hear:
    said = 0.0

    def hear(event: Advanced) -> None:
        nonlocal said
        if event.done == 0 or time.monotonic() - said >= SAY_EVERY:
            said = time.monotonic()
            send(event)

    return hear
