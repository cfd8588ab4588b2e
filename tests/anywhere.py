"""Have a signal come at every step of the main thread while others read and write for it; used by test_threads.py.

`python tests/anywhere.py 0|1` (1: in turn) prints, as JSON, how many steps there are and what went wrong at which.
Python hears a signal when a function of C has returned, when one of its own begins, and when a loop turns back.
"""

import contextlib
import dis
import json
import queue
import sys
import threading
from contextlib import ExitStack, closing
from functools import cache

from stmcli import threads
from stmcli.threads import Behind, Turns, ahead

FILES = {module.__file__ for module in (threads, threading, queue, contextlib)}
HEARS = ("CALL", "RESUME", "JUMP_BACKWARD")
ITEMS = 7


@cache
def operations(code):
    """Return the names of the operations of a function, by their place."""
    return {one.offset: one.opname for one in dis.get_instructions(code)}


class Stop:
    """Raise KeyboardInterrupt at one of the steps at which Python hears a signal."""

    def __init__(self, at):
        self.at, self.count, self.where, self._before = at, 0, None, {}

    def trace(self, frame, event, _):
        """Take a step, as sys.settrace wants it."""
        if self.where or frame.f_code.co_filename not in FILES:
            return None
        frame.f_trace_opcodes, frame.f_trace_lines = True, False
        if event == "opcode":
            before = self._before.get(id(frame), "")
            self._before[id(frame)] = operations(frame.f_code).get(frame.f_lasti, "")
            self.count += before.startswith(HEARS)
            if self.count == self.at:
                self.where = f"{frame.f_code.co_filename}:{frame.f_lineno} {frame.f_code.co_name}"
                print(self.where, file=sys.stderr, flush=True)  # the last one, where it hangs
                raise KeyboardInterrupt
        return self.trace


def follow(turns, given, written):
    """Read, hand over and write all items."""
    with ExitStack() as stack:
        items = stack.enter_context(closing(ahead(iter(range(ITEMS)), turns)))
        behind = stack.enter_context(Behind(written.append, turns))
        for item in items:
            behind.put(item)
            given.append(item)


def stopped(at, *, in_turn):
    """Return where a run was stopped, None if it was not, and what went wrong."""
    stop, given, written = Stop(at), [], []
    sys.settrace(stop.trace)
    try:
        follow(Turns(needed=in_turn), given, written)
    except (KeyboardInterrupt, RuntimeError):  # of a condition that was left in the middle
        pass
    finally:
        sys.settrace(None)
    lost = given if "contextlib" not in (stop.where or "") else []  # its ExitStack leaves the rest of them undone
    return stop.where, written[: len(lost)] == lost and written == [*range(len(written))]


def main():
    """Stop at each step in turn, until there is none left."""
    threads.SOON = 0.1
    at, wrong = 0, []
    while True:
        at += 1
        where, right = stopped(at, in_turn=sys.argv[1] == "1")
        if where is None:
            print(json.dumps({"steps": at - 1, "wrong": wrong}))
            return
        wrong += [] if right else [where]


if __name__ == "__main__":
    main()
