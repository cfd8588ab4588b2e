"""The command line: parse, call one job, show what it says. The jobs themselves print nothing."""

import errno
import io
import os
import sys
from stat import S_ISFIFO
from typing import TextIO

from stmcli.cli.app import app, set_up_warnings


class _Told(io.FileIO):
    """A pipe or terminal whose reader may leave, as `head` or a window that is closed: what it misses is no error."""

    def write(self, data, /):  # type: ignore[no-untyped-def]
        """Write bytes, and return how many."""
        try:
            return super().write(data)
        except OSError as error:
            if error.errno not in (errno.EPIPE, errno.EIO):
                raise
            return len(data)


def _outliving(stream: TextIO, unwritable: str) -> TextIO:
    """Return a stream that goes on when its reader leaves, and does as `unwritable` says with what is no UTF-8."""
    if not isinstance(stream, io.TextIOWrapper):  # there may be none
        return stream
    errors = unwritable if stream.encoding == "utf-8" else "backslashreplace"
    stream.reconfigure(errors=errors)
    try:
        number = stream.fileno()
        if not S_ISFIFO(os.fstat(number).st_mode) and not os.isatty(number):
            return stream
    except OSError:  # it is no file
        return stream
    told = io.BufferedWriter(_Told(number, "w", closefd=False))
    return io.TextIOWrapper(told, encoding=stream.encoding, errors=errors, line_buffering=stream.line_buffering)


def run() -> None:
    """Do what the words of the command line say, and end."""
    set_up_warnings()
    sys.stdout = _outliving(sys.stdout, "surrogateescape")
    sys.stderr = _outliving(sys.stderr, "backslashreplace")
    app()
