"""Hear the signals that end a run, and know one behind an error that a library made of it."""

import signal
from types import FrameType

from stmcli.errors import Interrupted, PartialError, Terminated, WriteError

_heard: list[KeyboardInterrupt] = []
_OWN_WORDS = (Interrupted, PartialError, WriteError)  # say how far the run is, or what is lost


def listen() -> None:
    """Have Ctrl-C and SIGTERM raise KeyboardInterrupt or Terminated, once; a second one ends the process at once."""
    for number in (signal.SIGINT, signal.SIGTERM):
        if signal.getsignal(number) is not signal.SIG_IGN:  # as nohup and a shell's background jobs have it
            signal.signal(number, _stop)


def stop_behind(error: BaseException) -> KeyboardInterrupt | None:
    """Return the signal that ended what raised `error`, None when none did or the error has more to say.

    What is raised by a signal can come out as another error: torch and safetensors make a ValueError of all that is
    raised while they look at a tensor.
    """
    if isinstance(error, KeyboardInterrupt):
        return error
    return _heard[0] if _heard and not isinstance(error, _OWN_WORDS) else None


def _stop(number: int, _frame: FrameType | None) -> None:
    for either in (signal.SIGINT, signal.SIGTERM):
        signal.signal(either, signal.SIG_DFL)  # twice means now
    _heard.append(Terminated() if number == signal.SIGTERM else KeyboardInterrupt())
    raise _heard[0]
