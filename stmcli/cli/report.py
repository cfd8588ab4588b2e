"""stm report: the page of a result, once more."""

from pathlib import Path
from typing import Annotated

import typer

from stmcli.cli.app import QuietOption, app, give, say


@app.command()
def report(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="The output folder of stm segment.")],
    video: Annotated[Path | None, typer.Option(help="Where the clip is now.", show_default="where it was then")] = None,
    quiet: QuietOption = False,
) -> None:
    """Write the page of a result again.

    report.html, to look the masks through, with the doubtful frames first.
    """
    from stmcli.cli.progress import show_progress
    from stmcli.page import remake_page

    with show_progress(folder.name, quiet=quiet) as show:
        path, doubts = remake_page(folder, video=video, listener=show.listener)
    for doubt in doubts if not quiet else ():
        say(f"note: {doubt}")
    give(path)
