"""stm review: look through a result, and paint corrections."""

from pathlib import Path
from typing import Annotated

import typer

from stmcli.cli.app import app, say
from stmcli.cli.painting import BrowserOption, PortOption, show


@app.command()
def review(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="The output folder of stm segment.")],
    video: Annotated[Path | None, typer.Option(help="Where the clip is now.", show_default="where it was then")] = None,
    port: PortOption = 0,
    browser: BrowserOption = True,
) -> None:
    """Look through a result in the browser, and paint corrections.

    On this machine only. Ctrl-C ends it.
    """
    serve(folder, video=video, port=port, browser=browser)


def serve(folder: Path, *, video: Path | None = None, port: int = 0, browser: bool = True) -> None:
    """Serve a result until Ctrl-C, then say how to use the corrections."""
    from stmcli.review import Review

    review = Review(folder, video=video)
    for doubt in review.doubts:
        say(f"note: {doubt}")
    then = "To run the clip again with the corrections there are now"
    show(review, port=port, browser=browser, then=then, nothing="No corrections.")
