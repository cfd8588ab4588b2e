"""stm weights: what networks there are, where, and whether they are whole."""

import json
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from stmcli.cli.app import NETWORK, OverwriteOption, app, give, say
from stmcli.errors import UsageError

weights_app = typer.Typer(no_args_is_help=True, help="The bundled network and imported checkpoints.")
app.add_typer(weights_app, name="weights")


@weights_app.command("list")
def list_weights(
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON list.")] = False,
) -> None:
    """List the weights that can be named, with their licences."""
    from rich.table import Table

    from stmcli.cli.console import results
    from stmcli.registry import registered

    entries = registered().values()
    if as_json:
        rows = [
            {
                **vars(entry),
                "path": str(entry.path),
                "suits": {name: value for name, value in entry.suits.items() if name != "ranges"},
            }
            for entry in entries
        ]
        give(json.dumps(rows))
        return
    table = Table("name", "licence", "origin", box=None, header_style="bold")
    for entry in entries:
        table.add_row(entry.name, entry.licence, entry.origin)
    results.print(table)


@weights_app.command("path")
def weights_path(name: Annotated[str, typer.Argument()] = NETWORK.weights) -> None:
    """Print the file of a name."""
    from stmcli.registry import find

    give(find(name))


@weights_app.command("verify")
def verify_weights(name: Annotated[str | None, typer.Argument(show_default="all")] = None) -> None:
    """Compare files with the sha256 they were registered with."""
    from stmcli.registry import find, registered, verify

    entries = registered()
    if name is not None and name not in entries:
        raise UsageError("is not registered", path=find(name), hint="See stm weights list.")
    for entry in [entries[name]] if name else entries.values():
        verify(entry)
        give(f"{entry.name}: ok {entry.sha256}")


@weights_app.command("import")
def import_weights(
    source: Annotated[Path, typer.Argument(help="The published STM_weights.pth, or a file that stm train wrote.")],
    name: Annotated[str | None, typer.Option(help="How to call them.", show_default="the file's name")] = None,
    stills: Annotated[
        list[Path] | None,
        typer.Option(help="A folder or tar with images/ and masks/, on which int8 is set up; repeatable."),
    ] = None,
    overwrite: OverwriteOption = False,
) -> None:
    """Convert a checkpoint to safetensors in the user's cache."""
    from stmcli.ranges import ranges_in_stills
    from stmcli.weights import import_file

    measure = partial(ranges_in_stills, paths=stills) if stills else None
    entry = import_file(source, name=name, overwrite=overwrite, measure=measure)
    say(f"{entry.name}: {entry.licence}")
    give(entry.path)
