"""How commands show frames in a browser, and wait until a person has painted on them."""

import os
import sys
from typing import TYPE_CHECKING, Annotated

import typer

from stmcli.cli.app import give, say
from stmcli.errors import Terminated

if TYPE_CHECKING:
    from stmcli.painting import Painting

PortOption = Annotated[int, typer.Option(min=0, max=65535, help="0: any that is free.")]
BrowserOption = Annotated[bool, typer.Option("--browser/--no-browser", help="Open a browser, if there is one.")]


def show(painting: "Painting", *, port: int, browser: bool, then: str, nothing: str) -> None:
    """Serve what is painted on until Ctrl-C; say what it is for and the command for that, or that there is nothing."""
    from stmcli.painting import PaintServer

    with PaintServer(painting, port=port) as server:
        give(server.url)
        sys.stdout.flush()
        say("Look through it there; Ctrl-C ends it.")
        if browser and _has_display():
            import webbrowser

            webbrowser.open(server.url)
        ended: KeyboardInterrupt | None = None
        try:
            server.serve_forever()
        except KeyboardInterrupt as stop:
            ended = stop
        command = painting.command()
    say(f"{then}: {command}" if command else nothing)
    if isinstance(ended, Terminated):
        raise ended


def _has_display() -> bool:
    """Tell whether a browser would open in a window, and not in this terminal."""
    return sys.platform != "linux" or any(os.environ.get(name) for name in ("DISPLAY", "WAYLAND_DISPLAY"))
