"""The command line: parse, call one job, show what it says. The jobs themselves print nothing."""

import io
import os
import sys
from stat import S_ISFIFO

from stmcli.cli.app import app, set_up_warnings


class _Pipe(io.FileIO):
    """Where stdout goes, whose reader may leave, as `head` does: what it misses is no error."""

    def write(self, data, /):  # type: ignore[no-untyped-def]
        """Write bytes, and return how many."""
        try:
            return super().write(data)
        except BrokenPipeError:
            return len(data)


def _is_pipe(stream: io.TextIOWrapper) -> bool:
    try:
        return S_ISFIFO(os.fstat(stream.fileno()).st_mode)
    except OSError:  # it is no file
        return False


def run() -> None:
    """Do what the words of the command line say, and end."""
    set_up_warnings()
    if isinstance(sys.stdout, io.TextIOWrapper):
        errors = "surrogateescape" if sys.stdout.encoding == "utf-8" else "backslashreplace"
        sys.stdout.reconfigure(errors=errors)
        if _is_pipe(sys.stdout):
            pipe = io.BufferedWriter(_Pipe(sys.stdout.fileno(), "w", closefd=False))
            sys.stdout = io.TextIOWrapper(pipe, encoding=sys.stdout.encoding, errors=errors)
    app()
