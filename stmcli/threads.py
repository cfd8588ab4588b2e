"""Work in threads with a few items on their way between them, where an error on one side is raised on the other.

A signal may come between any two steps of the main thread, also when it has just taken a lock that is written in
Python, as those of `threading.Condition` and `queue.Queue` are: whoever needs it next would wait for ever. So none is
shared here; what a `SimpleQueue`, a `deque` and a plain lock do is one step.
"""

import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import contextmanager
from queue import SimpleQueue
from typing import Any, Generic, TypeVar

DEPTH = 4  # items on their way between two threads
SOON = 5.0  # seconds until a thread that was started has begun, at most
Item = TypeVar("Item")
_END = object()


class Turns:
    """Let the one who hands out work and the threads that do it compute in turn, where all want the same cores.

    The threads begin nothing while it is the one's turn. When it gives the turn to them, it waits until each has done
    what it can. Without `needed` all work beside each other.
    """

    def __init__(self, *, needed: bool = True) -> None:
        self.needed = needed
        self._threads: list[tuple[Callable[[], None], Callable[[], None]]] = []

    def add(self, begin: Callable[[], None], wait: Callable[[], None]) -> None:
        """Take in a thread, by what has it do what it can and what waits until that is done."""
        self._threads.append((begin, wait))

    def give(self) -> None:
        """Let the threads do what they can, beside each other, and wait for it."""
        for begin, _ in self._threads:
            begin()
        for _, wait in self._threads:
            wait()


def ahead(items: Iterable[Item], turns: Turns | None = None) -> Generator[Item, None, None]:
    """Iterate in a thread of its own, a few items ahead of the one who asks, or in turn with it.

    Close the generator (`contextlib.closing`) before what it reads from: only then has its thread ended.
    """
    reader = _Reader(items, turns or Turns(needed=False))
    try:
        reader.start()
        yield from reader.items()
    finally:
        try:
            reader.end()
        except BaseException:  # a signal: it must wait, for what the thread reads from is closed next
            reader.end()
            raise


class _Reader(Generic[Item]):
    """Read in a thread what was asked for."""

    def __init__(self, items: Iterable[Item], turns: Turns) -> None:
        self._items, self._turns = items, turns
        self._asked: SimpleQueue[None] = SimpleQueue()  # an entry for each item
        self._read: SimpleQueue[tuple[Any, BaseException | None]] = SimpleQueue()  # an item, and what ended it all
        self._taken: deque[tuple[Any, BaseException | None]] = deque()
        self._due = 0  # items that were asked for and not taken
        self._is_over = False
        self._thread = _Thread(self._run, "decode")
        turns.add(self._begin, self._wait)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def items(self) -> Iterator[Item]:
        """Yield all items, or raise what ended them."""
        while True:
            if not self._taken and self._turns.needed:
                self._turns.give()
            elif not self._taken:
                self._begin()
                self._wait(DEPTH - 1)
            item, error = self._taken.popleft()
            if error is not None:
                try:
                    raise error
                finally:  # it knows this frame: all that its traceback holds would live on until it is looked for
                    del error
            if item is _END:
                return
            yield item

    def end(self) -> None:
        """Wait for the end of the thread, which reads no other item, and let go of what it read from."""
        self._is_over = True
        self._asked.put(None)
        self._thread.end()
        self._items = ()
        self._taken.clear()

    def _begin(self) -> None:
        more = 0 if self._is_over else DEPTH - len(self._taken) - self._due
        self._due += more
        for _ in range(more):
            self._asked.put(None)

    def _wait(self, most: int = 0) -> None:
        """Take what was read, until only so many items are due."""
        while self._due > most and not self._is_over:
            self._taken.append(self._read.get())
            self._due -= 1
            self._is_over = self._taken[-1][0] is _END

    def _run(self) -> None:
        try:
            source = iter(self._items)
            while self._is_asked():
                self._read.put((next(source, _END), None))
        except BaseException as error:
            self._read.put((_END, error))

    def _is_asked(self) -> bool:
        self._asked.get()
        return not self._is_over


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
        self._items: deque[Item] = deque()  # that wait
        self._asked: SimpleQueue[bool] = SimpleQueue()  # True: one item is to be done; False: all, and no other
        self._done: SimpleQueue[None] = SimpleQueue()  # an entry for each item
        self._due = 0  # items that are to be done and are not known to be
        self._error: BaseException | None = None
        self._has_failed = False
        self._thread = _Thread(self._run, "write")
        self._turns.add(self._begin, self._wait)

    def __enter__(self) -> "Behind[Item]":
        try:
            self._thread.start()
        except BaseException:  # a signal: the thread may have begun, or will
            self._end()
            raise
        return self

    def put(self, item: Item) -> None:
        """Hand over an item; waits while several are waiting already."""
        self._raise()
        self._items.append(item)
        if not self._turns.needed:
            self._due += 1
            self._asked.put(True)
            self._wait(DEPTH)
        elif len(self._items) == DEPTH:
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
        self._asked.put(False)
        self._thread.end()

    def _begin(self) -> None:
        self._due = len(self._items)
        for _ in range(self._due):
            self._asked.put(True)

    def _wait(self, most: int = 0) -> None:
        """Wait until only so many items are due."""
        while self._due > most:
            self._done.get()
            self._due -= 1

    def _run(self) -> None:
        while self._asked.get():
            self._do(self._items.popleft())
            self._done.put(None)
        while self._items:
            self._do(self._items.popleft())

    def _do(self, item: Item) -> None:
        if self._has_failed:  # what is put is taken all the same, so that nobody waits for room
            return
        try:
            self._work(item)
        except BaseException as error:
            self._error, self._has_failed = error, True

    def _raise(self) -> None:
        error, self._error = self._error, None
        if error is not None:
            try:
                raise error
            finally:
                del error


class _Thread(threading.Thread):
    """A thread that can be waited for again after a signal."""

    def __init__(self, work: Callable[[], None], name: str) -> None:
        super().__init__(name=name, daemon=True)
        self._work = work
        self._has_begun, self._at_work = False, threading.Lock()

    def run(self) -> None:
        """Do the work."""
        with self._at_work:
            self._has_begun = True
            self._work()

    def end(self) -> None:
        """Wait for the end of it; join alone takes a thread for ended once a signal has come.

        A signal may also have come while it was being started: then it begins soon, or never.
        """
        until = time.monotonic() + SOON
        while not self._has_begun and time.monotonic() < until:
            time.sleep(0.001)
        if self._has_begun:
            with self._at_work:
                pass
            self.join()
