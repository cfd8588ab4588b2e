"""stm evaluate."""

import json
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from stmcli.cli.app import (
    MEMORY,
    NETWORK,
    DeviceOption,
    EveryOption,
    JsonOption,
    MaxOption,
    OverwriteOption,
    PolicyOption,
    PrecisionOption,
    QuietOption,
    SizeOption,
    TopOption,
    WeightsOption,
    app,
    give,
    memory_options,
    network_options,
    one_of,
    results,
)
from stmcli.cli.progress import show_progress
from stmcli.errors import UsageError
from stmcli.options import PROTOCOLS


@app.command()
def evaluate(
    predictions: Annotated[
        Path | None, typer.Argument(metavar="[PRED]", help="<clip>/*.png or <clip>/masks/*.png.")
    ] = None,
    truth: Annotated[Path | None, typer.Option("--gt", help="<clip>/*.png, or a DAVIS root.")] = None,
    run: Annotated[Path | None, typer.Option(help="Segment this DAVIS root first, then score the result.")] = None,
    output: Annotated[Path, typer.Option("--output", "-o", help="Where --run puts its masks.")] = Path("stm_out"),
    protocol: Annotated[str, typer.Option(help=f"{', '.join(PROTOCOLS)}.")] = PROTOCOLS[0],
    weights: WeightsOption = NETWORK.weights,
    device: DeviceOption = NETWORK.device,
    precision: PrecisionOption = NETWORK.precision,
    size: SizeOption = NETWORK.size,
    top_k: TopOption = NETWORK.top_k,
    mem_every: EveryOption = MEMORY.every,
    mem_max: MaxOption = MEMORY.max_slots,
    mem_policy: PolicyOption = MEMORY.policy,
    overwrite: OverwriteOption = False,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Score masks against ground truth: region similarity J and contour accuracy F."""
    from stmcli.evaluate import evaluate_folder

    one_of("--protocol", protocol, PROTOCOLS)
    if (predictions is None) == (run is None) or (truth or run) is None:
        raise UsageError("nothing to score", hint="Give PRED and --gt, or --run DATASET.")
    if run is not None:
        network = network_options(weights, device, precision, size, top_k)
        memory = memory_options(mem_every, mem_max, mem_policy)
        from stmcli.pipeline import segment_dataset

        with show_progress(run.name, quiet=quiet) as show:
            predictions = segment_dataset(
                run,
                output,
                protocol=protocol,
                network=network,
                memory=memory,
                overwrite=overwrite,
                on_start=show.start,
                on_frame=lambda _: show.advance(),
            )
    scores = evaluate_folder(predictions, truth or run, protocol=protocol)  # type: ignore[arg-type]
    if as_json:
        give(json.dumps(scores.as_json()))
    else:
        results.print(_score_table(scores.as_json()))


def _score_table(scores: dict[str, Any]) -> Table:
    table = Table("clip", "object", "J", "F", box=None, header_style="bold")
    for clip, objects in scores["sequences"].items():
        for number, one in objects.items():
            table.add_row(clip, number, f"{100 * one['J_mean']:.1f}", f"{100 * one['F_mean']:.1f}")
    table.add_row("mean", "", f"{100 * scores['J_mean']:.1f}", f"{100 * scores['F_mean']:.1f}", style="bold")
    return table
