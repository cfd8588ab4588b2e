"""Work in threads with short queues between them, where an error on one side is raised on the other."""

import queue
import threading
import time
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, Generic, TypeVar

DEPTH = 4  # items that wait between two threads
TICK = 0.1  # seconds until one who waits looks again by itself
SOON = 5.0  # seconds until a thread that was started has begun, at most
Item = TypeVar("Item")


class Turns:
    """Let the one who hands out work and the threads that do it compute in turn, where all want the same cores.

    The threads begin nothing while it is the one's turn. When it gives the turn to them, it waits until each has done
    what it can. Without `needed`, and after `end`, all go on beside each other.
    """

    def __init__(self, *, needed: bool = True) -> None:
        self._changed = threading.Condition()
        self._is_theirs, self._is_over = False, not needed
        self._at_rest: list[Callable[[], bool]] = []

    def add(self, is_at_rest: Callable[[], bool]) -> Callable[[], None]:
        """Take in a thread, by what tells whether there is nothing that it can do; return what waits for its turn."""
        self._at_rest.append(is_at_rest)

        def wait() -> None:
            with self._changed:
                while not (self._is_over or (self._is_theirs and not is_at_rest())):
                    self._changed.wait(TICK)  # a signal may have kept the one from telling

        return wait

    def give(self) -> None:
        """Let the threads do what they can, and wait for it."""
        with self._changed:
            if self._is_over:
                return
            self._is_theirs = True
            self._changed.notify_all()
            try:
                self._changed.wait_for(lambda: all(is_at_rest() for is_at_rest in self._at_rest))
            finally:
                self._is_theirs = False

    def tell(self) -> None:
        """Have all look again at whose turn it is, and who is at rest."""
        with self._changed:
            self._changed.notify_all()

    def end(self) -> None:
        """Let all go on beside each other from now on."""
        self._is_over = True
        self.tell()


def ahead(items: Iterable[Item], turns: Turns | None = None) -> Generator[Item, None, None]:
    """Iterate in a thread of its own, a few items ahead of the one who asks, or in turn with it.

    Close the generator (`contextlib.closing`) before what it reads from: only then has its thread ended.
    """
    ready: queue.Queue[Any] = queue.Queue(DEPTH)
    end = object()
    turns, stop, ended = turns or Turns(needed=False), threading.Event(), threading.Event()
    wait = turns.add(lambda: ready.full() or ended.is_set())

    def offer(item: object, error: BaseException | None = None) -> None:
        while not stop.is_set():
            try:
                ready.put((item, error), timeout=TICK)
                return turns.tell()
            except queue.Full:
                continue

    def fill() -> None:
        try:
            item, source = None, iter(items)
            while item is not end and not stop.is_set():
                wait()
                offer(item := next(source, end))
        except BaseException as error:
            offer(end, error)
        finally:
            ended.set()
            turns.tell()

    def finish() -> None:
        turns.end()
        thread.end()

    thread = _Thread(fill, "decode")
    try:
        thread.start()
        while True:
            if ready.empty():
                turns.give()
            item, error = ready.get()
            if error is not None:
                raise error
            if item is end:
                return
            yield item
    finally:
        stop.set()
        try:
            finish()
        finally:  # a signal that comes meanwhile must wait: what the thread reads from is closed next
            finish()


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

    What was put is done whatever happens here afterwards, beside other work or in turn with it.
    """

    def __init__(self, work: Callable[[Item], None], turns: Turns | None = None) -> None:
        self._work, self._turns = work, turns or Turns(needed=False)
        self._waiting: queue.Queue[tuple[Item] | None] = queue.Queue(DEPTH)
        self._error: BaseException | None = None
        self._thread = _Thread(self._run, "write")
        self._wait = self._turns.add(lambda: not self._waiting.unfinished_tasks)

    def __enter__(self) -> "Behind[Item]":
        self._thread.start()
        return self

    def put(self, item: Item) -> None:
        """Hand over an item; waits while several are waiting already."""
        self._raise()
        self._waiting.put((item,))
        if self._waiting.full():
            self._turns.give()

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            self._end()
        except BaseException:  # a signal: it must wait, for what the thread writes to is closed next
            self._end()
            raise
        if kind is None:
            self._raise()

    def _end(self) -> None:
        self._turns.end()
        self._waiting.put(None)
        self._thread.end()

    def _run(self) -> None:
        while (item := self._waiting.get()) is not None:
            if self._error is None:  # else keep taking, so that nobody waits for room
                self._wait()
                try:
                    self._work(item[0])
                except BaseException as error:
                    self._error = error
            self._waiting.task_done()
            self._turns.tell()

    def _raise(self) -> None:
        if self._error is not None:
            raise self._error


class _Thread(threading.Thread):
    """A thread that can be waited for again after a signal."""

    def __init__(self, work: Callable[[], None], name: str) -> None:
        super().__init__(name=name, daemon=True)
        self._work = work
        self._begun, self._over = threading.Event(), threading.Event()

    def run(self) -> None:
        """Do the work."""
        self._begun.set()
        try:
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
