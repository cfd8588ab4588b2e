"""The command line: parse, call one job, show what it says. The jobs themselves print nothing."""

import signal
import sys
from types import FrameType

from stmcli.cli import (  # noqa: F401  (each adds its commands to the app)
    batch,
    bench,
    doctor,
    evaluate,
    export,
    info,
    mask,
    report,
    review,
    segment,
    train,
    weights,
)
from stmcli.cli.app import app, set_up_warnings
from stmcli.errors import Terminated


def main() -> None:
    """Run `stm`."""
    for number in (signal.SIGINT, signal.SIGTERM):
        if signal.getsignal(number) is not signal.SIG_IGN:  # as nohup and a shell's background jobs have it
            signal.signal(number, _stop)
    set_up_warnings()
    if sys.stdout is not None and hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(errors="surrogateescape" if sys.stdout.encoding == "utf-8" else "backslashreplace")
    app()


def _stop(number: int, _frame: FrameType | None) -> None:
    for either in (signal.SIGINT, signal.SIGTERM):
        signal.signal(either, signal.SIG_DFL)  # twice means now
    raise Terminated if number == signal.SIGTERM else KeyboardInterrupt
