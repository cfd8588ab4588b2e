"""stm export: overlay, alpha, dataset files from masks already made."""

import json
from pathlib import Path
from typing import Annotated

import typer

from stmcli.cli.app import (
    FPS_HELP,
    JsonOption,
    OverwriteOption,
    QuietOption,
    VerboseOption,
    app,
    give,
    one_of,
    part_of,
    rate_of,
    say,
)
from stmcli.cli.exports import LATER
from stmcli.cli.groups import Exports, grouped
from stmcli.errors import PartialError
from stmcli.options import FPS, ON_CORRUPT, SegmentOptions


@app.command()
@grouped
def export(
    masks: Annotated[Path, typer.Argument(help="A folder of <frame>.png, or the folder of a result.")],
    video: Annotated[Path, typer.Option(help="The clip that the masks belong to.")],
    to: Annotated[list[str], typer.Option(metavar="KIND", help=f"{', '.join(LATER)}; repeatable.")],
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="A folder.", show_default="beside the masks")
    ] = None,
    *,
    exports: Exports,
    first_number: Annotated[
        int | None,
        typer.Option(min=0, help="Number of the clip's first frame.", show_default="that of the run, or its own"),
    ] = None,
    fps: Annotated[
        str | None, typer.Option(metavar="RATE", help=FPS_HELP, show_default=f"that of the run, or {FPS}")
    ] = None,
    on_corrupt: Annotated[str, typer.Option(help=f"{', '.join(ON_CORRUPT)}.")] = SegmentOptions.on_corrupt,
    overwrite: OverwriteOption = False,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
    verbose: VerboseOption = 0,
) -> None:
    """Make other files of masks that are there, without the network.

    Overlay, alpha, cutouts, or files for datasets.
    """
    options = exports.options("--to", to, among=LATER)
    one_of("--on-corrupt", on_corrupt, ON_CORRUPT)
    rate = None if fps is None else rate_of("--fps", fps)
    from stmcli.cli.progress import show_progress
    from stmcli.export import Exported, ExportJob, export_masks

    job = ExportJob(masks, video, output, options, on_corrupt, overwrite, first_number, rate)
    with show_progress(video.name, quiet=quiet) as show:
        fault = None
        try:
            done = export_masks(job, listener=show.listener)
        except PartialError as error:
            fault, done = error, part_of(error, Exported)
    if not quiet:
        for note in done.notes:
            say(f"note: {note}")
    if as_json:
        facts = {name: dict(checked) for name, checked in done.facts.items()}
        give(json.dumps({"files": [str(path) for path in done.files], "frames": done.frames, "checked": facts}))
    else:
        give("\n".join(map(str, done.files)))
    if fault:
        raise fault
