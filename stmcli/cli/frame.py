"""stm frame, for the mask that stm segment needs, and how a command is told a frame."""

from fractions import Fraction
from pathlib import Path
from typing import Annotated

import typer

from stmcli.cli.app import FirstNumberOption, FpsOption, OverwriteOption, app, give, rate_of, say
from stmcli.options import FPS

POSITION = "its number, or a time like 10s or 00:01:30.500"

SourceArgument = Annotated[Path, typer.Argument(help="A video file, a folder of frames, or a pattern.")]
AtOption = Annotated[
    str | None,
    typer.Option(help=f"Which frame: {POSITION}.", metavar="FRAME|TIME", show_default="the first"),
]


@app.command()
def frame(
    video: SourceArgument,
    at: AtOption = None,
    first_number: FirstNumberOption = None,
    fps: FpsOption = FPS,
    output: Annotated[Path, typer.Option("--output", "-o", help="A PNG.")] = Path("frame.png"),
    overwrite: OverwriteOption = False,
) -> None:
    """Write one frame, upright and at source size, to paint a mask on."""
    from stmcli.masks import write_picture
    from stmcli.report import OWN_RATE
    from stmcli.results import check_picture, require_png
    from stmcli.video import read_frame

    require_png(output)
    index = frame_number(video, at, first_number=first_number, fps=fps)
    picture = read_frame(video, index, first_number=first_number).rgb
    check_picture(output, video, overwrite=overwrite)
    write_picture(output, picture)
    if video.is_file() and rate_of("--fps", fps) != FPS:
        say(f"note: {OWN_RATE}")
    give(output)


def frame_number(
    video: Path, text: str | None, *, first_number: int | None, fps: str, last: bool = False
) -> int | None:
    """Return the number of the first frame at a position or later, or of the `last` one until there."""
    from stmcli.video import first_frame_from, last_frame_until, parse_position

    if text is None:
        return None
    find = last_frame_until if last else first_frame_from
    return find(video, parse_position(text), first_number=first_number, rate=Fraction(rate_of("--fps", fps)))
