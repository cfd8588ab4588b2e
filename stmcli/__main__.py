"""Start `stm`, and hear signals before anything that takes time is imported."""

import gc
import os
import signal
import sys
from types import FrameType

from stmcli.errors import Terminated, exit_code_of

WAITING = {"OMP_WAIT_POLICY", "GOMP_SPINCOUNT"}  # say how a thread waits for the others of a network
SPINS = "10000"  # before it sleeps; usual are 300,000: milliseconds in which it keeps a core from whom it waits for


def main() -> None:
    """Run `stm`."""
    if not WAITING & os.environ.keys():
        os.environ["GOMP_SPINCOUNT"] = SPINS  # where another program works too, it takes a tenth of the time
    try:
        for number in (signal.SIGINT, signal.SIGTERM):
            if signal.getsignal(number) is not signal.SIG_IGN:  # as nohup and a shell's background jobs have it
                signal.signal(number, _stop)
        gc.disable()
        from stmcli.cli import run

        gc.freeze()  # all that was imported stays: not to be looked through for garbage, not even at the end
        gc.enable()
        run()
    except KeyboardInterrupt as stop:  # not yet in a command, which has more to say
        print("error: interrupted", file=sys.stderr)
        sys.exit(exit_code_of(stop))


def _stop(number: int, _frame: FrameType | None) -> None:
    for either in (signal.SIGINT, signal.SIGTERM):
        signal.signal(either, signal.SIG_DFL)  # twice means now
    raise Terminated if number == signal.SIGTERM else KeyboardInterrupt


if __name__ == "__main__":
    main()
