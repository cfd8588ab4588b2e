"""Hear the signals that end a run, hold them back, and know one behind an error that a library made of it."""

import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from stmcli.errors import Interrupted, PartialError, Terminated, WriteError

STOPS = (signal.SIGINT, signal.SIGTERM)
_heard: list[KeyboardInterrupt] = []
_OWN_WORDS = (Interrupted, PartialError, WriteError)  # say how far the run is, or what is lost


def listen() -> None:
    """Have Ctrl-C and SIGTERM raise KeyboardInterrupt or Terminated, once; a second one ends the process at once."""
    sys.unraisablehook = _unraisable
    for number in STOPS:
        if signal.getsignal(number) is not signal.SIG_IGN:  # as nohup and a shell's background jobs have it
            signal.signal(number, _stop)


@contextmanager
def held_back() -> Iterator[None]:
    """Let the signals that end a run wait until the block is over."""
    waiting: list[int] = []
    here = threading.current_thread() is threading.main_thread()  # no other hears any
    handlers = {number: signal.getsignal(number) for number in STOPS if here}
    ours = {number: handler for number, handler in handlers.items() if callable(handler)}
    try:
        for number in ours:
            signal.signal(number, lambda number, _: waiting.append(number))
        yield
    finally:
        for number, handler in ours.items():
            signal.signal(number, handler)
    if waiting:
        signal.raise_signal(waiting[0])


def raise_lost() -> None:
    """Raise the signal that was heard where nothing can be raised, as in a callback of a library, which drops it."""
    if _heard:
        raise _heard[0]


def stop_behind(error: BaseException) -> KeyboardInterrupt | None:
    """Return the signal that ended what raised `error`, None when none did or the error has more to say.

    What is raised by a signal can come out as another error: torch and safetensors make a ValueError of all that is
    raised while they look at a tensor.
    """
    if isinstance(error, KeyboardInterrupt):
        return error
    return _heard[0] if _heard and not isinstance(error, _OWN_WORDS) else None


def _unraisable(lost: "sys.UnraisableHookArgs") -> None:
    """Say nothing of a signal that `raise_lost` will raise again."""
    if not any(lost.exc_value is signal for signal in _heard):
        sys.__unraisablehook__(lost)


def _stop(number: int, _frame: FrameType | None) -> None:
    for either in STOPS:
        signal.signal(either, signal.SIG_DFL)  # twice means now
    _heard.append(Terminated() if number == signal.SIGTERM else KeyboardInterrupt())
    raise _heard[0]
