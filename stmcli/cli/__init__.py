"""The command line: parse, call one job, show what it says. The jobs themselves print nothing."""

import sys

from stmcli.cli.app import app, set_up_warnings


def run() -> None:
    """Do what the words of the command line say, and end."""
    set_up_warnings()
    if sys.stdout is not None and hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(errors="surrogateescape" if sys.stdout.encoding == "utf-8" else "backslashreplace")
    app()
