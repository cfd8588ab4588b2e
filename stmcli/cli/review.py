"""stm review: look through a result, and paint corrections."""

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from stmcli.cli.app import app, give, say
from stmcli.errors import Terminated


@app.command()
def review(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="The output folder of stm segment.")],
    video: Annotated[Path | None, typer.Option(help="Where the clip is now.", show_default="where it was then")] = None,
    port: Annotated[int, typer.Option(min=0, max=65535, help="0: any that is free.")] = 0,
    browser: Annotated[bool, typer.Option("--browser/--no-browser", help="Open a browser, if there is one.")] = True,
) -> None:
    """Look through a result in the browser, and paint corrections.

    On this machine only. Ctrl-C ends it.
    """
    serve(folder, video=video, port=port, browser=browser)


def serve(folder: Path, *, video: Path | None = None, port: int = 0, browser: bool = True) -> None:
    """Serve a result until Ctrl-C, then say how to use the corrections."""
    from stmcli.review import Review, ReviewServer

    review = Review(folder, video=video)
    for doubt in review.doubts:
        say(f"note: {doubt}")
    with ReviewServer(review, port=port) as server:
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
        command = server.review.command()
    say(f"To run the clip again with the corrections there are now: {command}" if command else "No corrections.")
    if isinstance(ended, Terminated):
        raise ended


def _has_display() -> bool:
    """Tell whether a browser would open in a window, and not in this terminal."""
    return sys.platform != "linux" or any(os.environ.get(name) for name in ("DISPLAY", "WAYLAND_DISPLAY"))
