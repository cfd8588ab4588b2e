"""Work in threads with short queues between them, where an error on one side is raised on the other."""

import os
import queue
import sys
import threading
import time
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, Generic, TypeVar

DEPTH = 4  # items that wait between two threads
SOON = 5.0  # seconds until a thread that was started has begun, at most
GIVE_WAY = 12  # of 19: a thread that gives way gets a fifteenth of a core that others want, and still goes on
Item = TypeVar("Item")


def ahead(items: Iterable[Item], *, gives_way: bool = False) -> Generator[Item, None, None]:
    """Iterate in a thread of its own, a few items ahead of the one who asks; it may give way to all others.

    Close the generator (`contextlib.closing`) before what it reads from: only then has its thread ended.
    """
    ready: queue.Queue[Any] = queue.Queue(DEPTH)
    end = object()
    stop = threading.Event()

    def offer(item: object, error: BaseException | None = None) -> None:
        while not stop.is_set():
            try:
                return ready.put((item, error), timeout=0.1)
            except queue.Full:
                continue

    def fill() -> None:
        try:
            for item in items:
                offer(item)
                if stop.is_set():
                    return
            offer(end)
        except BaseException as error:
            offer(end, error)

    thread = _Thread(fill, "decode", gives_way=gives_way)
    try:
        thread.start()
        while True:
            item, error = ready.get()
            if error is not None:
                raise error
            if item is end:
                return
            yield item
    finally:
        stop.set()
        try:
            thread.end()
        finally:  # a signal that comes meanwhile must wait: what the thread reads from is closed next
            thread.end()


class Waiting:
    """Add up how long one thread waits for others, by what it waits for."""

    def __init__(self) -> None:
        self._seconds: dict[str, float] = {}

    @contextmanager
    def while_(self, what: str) -> Iterator[None]:
        """Count the time that the block takes as waiting."""
        began = time.monotonic()
        try:
            yield
        finally:
            self._seconds[what] = self._seconds.get(what, 0.0) + time.monotonic() - began

    def on(self, what: str, items: Iterator[Item]) -> Iterator[Item]:
        """Iterate, counting the time until each item is there."""
        while True:
            with self.while_(what):
                item = next(items, None)
            if item is None:
                return
            yield item

    def seconds(self) -> dict[str, float]:
        """Return the seconds waited, by what for."""
        return {what: round(seconds, 3) for what, seconds in self._seconds.items()}


class Behind(Generic[Item]):
    """Do something with items in a thread of its own; an error there is raised here, at the next put or at the end.

    What was put is done whatever happens here afterwards. The thread may give way to all others.
    """

    def __init__(self, work: Callable[[Item], None], *, gives_way: bool = False) -> None:
        self._work = work
        self._waiting: queue.Queue[tuple[Item] | None] = queue.Queue(DEPTH)
        self._error: BaseException | None = None
        self._thread = _Thread(self._run, "write", gives_way=gives_way)

    def __enter__(self) -> "Behind[Item]":
        self._thread.start()
        return self

    def put(self, item: Item) -> None:
        """Hand over an item; waits while several are waiting already."""
        self._raise()
        self._waiting.put((item,))

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            self._end()
        except BaseException:  # a signal: it must wait, for what the thread writes to is closed next
            self._end()
            raise
        if kind is None:
            self._raise()

    def _end(self) -> None:
        self._waiting.put(None)
        self._thread.end()

    def _run(self) -> None:
        while (item := self._waiting.get()) is not None:
            if self._error is not None:
                continue  # keep taking, so that nobody waits for room
            try:
                self._work(item[0])
            except BaseException as error:
                self._error = error

    def _raise(self) -> None:
        if self._error is not None:
            raise self._error


class _Thread(threading.Thread):
    """A thread that may give way to all others, and that can be waited for again after a signal."""

    def __init__(self, work: Callable[[], None], name: str, *, gives_way: bool) -> None:
        super().__init__(name=name, daemon=True)
        self._work, self._gives_way = work, gives_way
        self._begun, self._over = threading.Event(), threading.Event()

    def run(self) -> None:
        """Do the work."""
        self._begun.set()
        try:
            if self._gives_way:
                _give_way()
            self._work()
        finally:
            self._over.set()

    def end(self) -> None:
        """Wait for the end of it; join alone takes a thread for ended once a signal has come.

        A signal may also have come while it was being started: then it begins soon, or never.
        """
        if self._begun.wait(SOON):
            self._over.wait()
            self.join()


def _give_way() -> None:
    """Let other threads go first where this one and those that it starts want the same cores."""
    if sys.platform == "linux":  # elsewhere it would hold for the whole process
        with suppress(OSError):  # a sandbox may forbid it
            os.nice(GIVE_WAY)
