"""stm bench."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from stmcli.cli.app import JsonOption, QuietOption, app, give, results, say
from stmcli.cli.exports import EXPORT, kinds_of
from stmcli.cli.groups import Network, grouped
from stmcli.options import EXPORTS, ExportOptions


@app.command()
@grouped
def bench(
    video: Annotated[Path, typer.Argument(help="A video file, a folder of frames, or a pattern.")],
    mask: Annotated[Path, typer.Option("--mask", "-m", help="The mask of the first frame.")],
    export: Annotated[
        list[str] | None,
        typer.Option("--export", "-e", help=f"{', '.join(EXPORTS)}; repeatable.", show_default=", ".join(EXPORT.kinds)),
    ] = None,
    frames: Annotated[int, typer.Option(min=2, help="How many frames, from the first.")] = 60,
    rounds: Annotated[int, typer.Option(min=1, help="How often; the median counts, a first round does not.")] = 3,
    *,
    network: Network,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Measure the whole command beside each of its parts alone: decoding, the network, every output."""
    exports = ExportOptions(kinds=kinds_of("--export", export))
    from stmcli.bench import bench_command
    from stmcli.job import Job

    job = Job(video, (mask,), Path("bench"), network=network.options(), export=exports)
    timing = bench_command(
        job, frames=frames, rounds=rounds, on_round=lambda n: None if quiet else say(f"round {n} of {rounds}")
    )
    if as_json:
        ratios = {"against_sum": timing.against_sum, "against_longest": timing.against_longest}
        give(json.dumps(asdict(timing) | ratios))
        return
    table = Table("part", "ms a frame", "frames/s", box=None, header_style="bold")
    for name, seconds in (*timing.parts.items(), ("the whole command", timing.whole)):
        rate = f"{timing.frames / seconds:.1f}"
        table.add_row(name, f"{1000 * seconds / timing.frames:.1f}", rate)
    results.print(table)
    give(
        f"{timing.frames} frames on {timing.device}: {timing.against_sum:.2f} times the sum of the parts, "
        f"{timing.against_longest:.2f} times the longest"
    )
