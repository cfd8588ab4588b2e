"""Start `stm`, and hear signals before anything that takes time is imported."""

import gc
import os
import sys

from stmcli.errors import exit_code_of
from stmcli.signals import listen, stop_behind

WAITING = {"OMP_WAIT_POLICY", "GOMP_SPINCOUNT"}  # say how a thread waits for the others of a network
SPINS = "10000"  # before it sleeps; usual are 300,000: milliseconds in which it keeps a core from whom it waits for


def main() -> None:
    """Run `stm`."""
    if not WAITING & os.environ.keys():
        os.environ["GOMP_SPINCOUNT"] = SPINS  # where another program works too, it takes a tenth of the time
    try:
        listen()
        gc.disable()
        from stmcli.cli import run

        gc.freeze()  # all that was imported stays: not to be looked through for garbage, not even at the end
        gc.enable()
        run()
    except (KeyboardInterrupt, Exception) as error:  # not yet in a command, which has more to say
        if (stop := stop_behind(error)) is None:
            raise
        print("error: interrupted", file=sys.stderr)
        sys.exit(exit_code_of(stop))


if __name__ == "__main__":
    main()
