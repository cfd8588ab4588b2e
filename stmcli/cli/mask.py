"""stm mask: paint one, what is in a mask file, and how to make a clean one of it."""

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from stmcli.cli.app import FirstNumberOption, FpsOption, JsonOption, OverwriteOption, app, give, rate_of, say
from stmcli.cli.frame import AtOption, SourceArgument, frame_number
from stmcli.cli.painting import BrowserOption, PortOption, show
from stmcli.errors import MaskError, UsageError
from stmcli.options import FPS, MaskOptions

if TYPE_CHECKING:
    from stmcli.maskcheck import MaskFacts

LARGEST = 254  # id that is told from void in 8 bits
TURNS = (0, 90, 180, 270)
MASK = MaskOptions()

mask_app = typer.Typer(no_args_is_help=True, help="Paint a mask, look at mask files, and clean them.")
app.add_typer(mask_app, name="mask")

MaskArgument = Annotated[Path, typer.Argument(metavar="FILE", help="A mask: PNG, or another still image.")]
VideoOption = Annotated[Path | None, typer.Option(help="The clip that the mask is for.", show_default=False)]


@mask_app.command("paint")
def paint(
    video: SourceArgument,
    at: AtOption = None,
    first_number: FirstNumberOption = None,
    fps: FpsOption = FPS,
    output: Annotated[
        Path, typer.Option("--output", "-o", help="The mask, a PNG; one that is there is gone on with.")
    ] = Path("mask.png"),
    port: PortOption = 0,
    browser: BrowserOption = True,
) -> None:
    """Paint the mask of a frame in the browser.

    On this machine only. Ctrl-C ends it.
    """
    from stmcli.maskpaint import NewMask
    from stmcli.report import OWN_RATE
    from stmcli.results import check_picture, require_png, require_writable

    require_png(output)
    number = frame_number(video, at, first_number=first_number, fps=fps)
    words = [] if first_number is None else ["--first-number", str(first_number)]
    rate = rate_of("--fps", fps)
    words += [] if rate == FPS else ["--fps", rate]
    painting = NewMask(video, output, number=number, first_number=first_number, words=words)
    check_picture(output, video, overwrite=True)
    require_writable(output.parent)
    if video.is_file() and rate != FPS:
        say(f"note: {OWN_RATE}")
    show(painting, port=port, browser=browser, then="To follow it through the clip", nothing="No mask.")


@mask_app.command("check")
def check(mask: MaskArgument, video: VideoOption = None, as_json: JsonOption = False) -> None:
    """Say what is in a mask.

    Ends with 0 when it can be used as it is, with 2 when not.
    """
    from stmcli.maskcheck import check_mask

    facts = check_mask(mask, video=video)
    if as_json:
        give(json.dumps(facts.as_json()))
    else:
        _show(facts)
    if facts.problems:
        cause, hint = facts.problems[0]
        raise MaskError(cause, path=mask, hint=hint)


@mask_app.command("fix")
def fix(
    mask: MaskArgument,
    output: Annotated[Path, typer.Option("--output", "-o", help="The clean mask, a PNG.")],
    video: VideoOption = None,
    rotate: Annotated[int, typer.Option(help="Turn it counter-clockwise: 90, 180, 270.", show_default="no")] = 0,
    speck: Annotated[
        int, typer.Option(min=0, help="Remove parts of an object of fewer pixels.", show_default="none")
    ] = MASK.speck,
    ids: Annotated[
        list[str] | None,
        typer.Option("--id", metavar="RRGGBB=ID", help="The id of a colour; repeatable.", show_default="DAVIS palette"),
    ] = None,
    overwrite: OverwriteOption = False,
) -> None:
    """Write a clean mask in the DAVIS palette.

    No soft edges, the clip's size, ids as they are.
    """
    from stmcli.maskfix import fix_mask
    from stmcli.masks import write_labels
    from stmcli.results import check_picture, require_png

    if rotate not in TURNS:
        raise UsageError(f"--rotate {rotate}: unknown", hint="Use 90, 180 or 270.")
    require_png(output)
    fixed = fix_mask(mask, video=video, turn=rotate, speck=speck, ids=dict(map(_id_of, ids or ())))
    check_picture(output, *(path for path in (mask, video) if path), overwrite=overwrite)
    write_labels(output, fixed.labels)
    for change in fixed.changes or ("the ids were clean already",):
        say(change)
    give(output)


def _id_of(text: str) -> tuple[int, int]:
    """Return the colour and the id in `RRGGBB=ID`."""
    found = re.fullmatch(r"#?([0-9a-fA-F]{6})=(\d{1,3})", text.strip())
    if not found or not 0 <= int(found[2]) <= LARGEST:
        raise UsageError(
            f"--id {text}: not a colour and its id", hint=f"Write it like ff0000=1; ids are 0 to {LARGEST}."
        )
    return int(found[1], 16), int(found[2])


def _show(facts: "MaskFacts") -> None:
    give(f"mode: {facts.mode}")
    give(f"size: {facts.width}x{facts.height}" + (f"; the clip: {facts.clip}" if facts.clip else ""))
    give(f"two-valued: {'yes' if facts.two_valued else 'no'}")
    give(f"void: {facts.void} pixels")
    give(f"soft edges: {facts.ghosts} pixels of {facts.ghost_values} values")
    for note in facts.notes:
        give(f"note: {note}")
    for cause, hint in facts.problems[1:]:
        give(f"problem: {cause}. {hint}")
    give(facts.reading)
    from rich.table import Table

    from stmcli.cli.console import results

    table = Table("id", "pixels", "colour", "parts", "specks", box=None, header_style="bold")
    for one in facts.objects:
        table.add_row(str(one.id), str(one.area), one.color, str(one.parts), str(one.specks))
    if facts.objects:
        results.print(table)
