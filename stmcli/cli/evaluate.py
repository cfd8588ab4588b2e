"""stm evaluate."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from stmcli.cli.app import (
    MEMORY,
    JsonOption,
    OverwriteOption,
    QuietOption,
    ThreadsOption,
    app,
    give,
    one_of,
    say,
    use_threads,
)
from stmcli.cli.exports import RefineOption
from stmcli.cli.groups import Memory, grouped
from stmcli.cli.network import Network
from stmcli.errors import UsageError
from stmcli.files import write_whole
from stmcli.options import OUTPUT, PROTOCOLS, ExportOptions, MemoryOptions

if TYPE_CHECKING:
    from rich.table import Table

    from stmcli.evaluate import Scores
    from stmcli.policies import PolicyScores

HEADINGS = {
    **{"J_mean": "J", "J_recall": "recall", "J_decay": "decay"},
    **{"F_mean": "F", "F_recall": "recall", "F_decay": "decay", "J&F_mean": "J&F"},
}

NOT_DRAWN = (".jpg", ".jpeg", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".svg", ".pdf")  # what --plot does not write


@app.command()
@grouped
def evaluate(
    predictions: Annotated[
        Path | None, typer.Argument(metavar="[PRED]", help="<clip>/*.png or <clip>/masks/*.png.")
    ] = None,
    truth: Annotated[Path | None, typer.Option("--gt", help="<clip>/*.png, or a DAVIS or YouTube-VOS root.")] = None,
    run: Annotated[Path | None, typer.Option(help="Segment this dataset's root first, then score the result.")] = None,
    output: Annotated[Path, typer.Option("--output", "-o", help="Where --run puts its masks.")] = Path(OUTPUT),
    protocol: Annotated[str, typer.Option(help=f"{', '.join(PROTOCOLS)}.")] = PROTOCOLS[0],
    clip: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help="Only this clip; repeatable.", show_default="all")
    ] = None,
    policies: Annotated[
        bool,
        typer.Option("--policies", help="With --run: once with each memory policy, in one table (paper, Table 5)."),
    ] = False,
    csv: Annotated[Path | None, typer.Option(metavar="FILE", help="Write the table as CSV too.")] = None,
    plot: Annotated[
        Path | None,
        typer.Option(metavar="DIR|FILE.png", help="Draw J of every frame, and the worst frames of every clip."),
    ] = None,
    seen: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="ytvos: the categories that training has seen; its meta.json, or one in each line.",
            show_default="YouTube-VOS's 65",
        ),
    ] = None,
    submission: Annotated[
        Path | None, typer.Option(metavar="FILE.zip", help="ytvos: write the zip for the evaluation server.")
    ] = None,
    *,
    network: Network,
    threads: ThreadsOption = 0,
    memory: Memory,
    refine: RefineOption = ExportOptions.refine,
    overwrite: OverwriteOption = False,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Score masks against ground truth.

    By region similarity J and contour accuracy F.
    """
    from stmcli.cli.progress import show_progress
    from stmcli.evaluate import draw_sheets, evaluate_folder, read_seen, write_submission

    one_of("--protocol", protocol, PROTOCOLS)
    _check_inputs(predictions, run, truth)
    if protocol != "ytvos" and (seen or submission):
        raise UsageError("--seen and --submission are for YouTube-VOS", hint="Give --protocol ytvos.")
    if clip and submission:
        raise UsageError("--submission is of all clips", hint="Leave out --clip.")
    categories = read_seen(seen)
    _check_targets(csv, submission, plot=plot, overwrite=overwrite)
    chosen, kept = network.options(), memory.options()
    only = clip or ()
    what: dict[str, Any] = {"protocol": protocol, "only": only}
    how = {**what, "network": chosen, "memory": kept, "refine": refine, "overwrite": overwrite}
    given: Path = truth or run  # type: ignore[assignment]
    hidden = _why_hidden(given, only, submits=bool(submission), tells=bool(as_json or csv or plot), protocol=protocol)
    use_threads(threads)
    if policies:
        if run is None or plot or submission or kept.policy != MEMORY.policy:
            cause = "--policies segments with every policy and makes one table"
            raise UsageError(cause, hint="Give it with --run, and without --mem-policy, --plot and --submission.")
        with show_progress(run.name, quiet=quiet) as show:
            from stmcli.policies import compare_policies  # takes seconds

            table = [*compare_policies(run, output, truth=given, **how, seen=categories, listener=show.listener)]
        return _give_table(table, kept, csv=csv, as_json=as_json, quiet=quiet)
    if run is not None:
        with show_progress(run.name, quiet=quiet) as show:
            from stmcli.pipeline import segment_dataset  # takes seconds

            predictions = segment_dataset(run, output, **how, listener=show.listener)
    elif (network, threads, memory, refine, output) != (Network(), 0, Memory(), ExportOptions.refine, Path(OUTPUT)):
        tell(
            quiet,
            "note: without --run nothing is segmented, so --output and the options of network and memory do nothing",
        )
    scored: Path = predictions  # type: ignore[assignment]
    if submission:
        frames = write_submission(scored, given, submission)
        tell(quiet, f"{submission}: {frames} masks")
        if hidden:
            tell(quiet, f"note: not scored: {hidden}")
            return
    scores = evaluate_folder(scored, given, **what, seen=categories)
    if plot:
        for path in draw_sheets(scores, scored, given, protocol=protocol, target=plot):
            tell(quiet, str(path))
    _give_scores(scores, csv=csv, as_json=as_json, quiet=quiet)


def tell(quiet: bool, text: str) -> None:
    """Tell a person something, unless that is not wanted."""
    if not quiet:
        say(text)


def _check_inputs(predictions: Path | None, run: Path | None, truth: Path | None) -> None:
    """Refuse too much to score, or too little."""
    if predictions and run:
        raise UsageError("--run: makes masks to score, but PRED is given", hint="Leave out one of them.")
    if not run and not (predictions and truth):
        lacking = "--gt: missing" if predictions else "nothing to score"
        raise UsageError(lacking, hint="Give PRED and --gt, or --run DATASET.")


def _why_hidden(truth: Path, only: Sequence[str], *, submits: bool, tells: bool, protocol: str) -> str:
    """Return why a truth cannot be scored, nothing where it can; refuse what then cannot be done."""
    from stmcli.evaluate import NOT_PUBLIC, unscorable

    hidden = unscorable(truth, only=only) if protocol == "ytvos" else ""
    if hidden and not submits:
        raise UsageError(hidden, hint=NOT_PUBLIC)
    if hidden and tells:
        raise UsageError(f"not to be scored: {hidden}", hint="Leave out --json, --csv and --plot.")
    return hidden


def _check_targets(csv: Path | None, submission: Path | None, *, plot: Path | None, overwrite: bool) -> None:
    """Refuse files that cannot be written, or would be lost, before the work is done."""
    from stmcli.results import require_writable

    picture = plot if plot and plot.suffix.lower() == ".png" else None
    for path in filter(None, (csv, picture, submission)):
        if not path.parent.is_dir():
            raise UsageError("no such folder", path=path.parent, hint="Create it, or choose another name.")
        if path.is_dir():
            raise UsageError("is a folder", path=path, hint="Give the name of a file.")
        if path.exists() and not overwrite:
            raise UsageError("exists already", path=path, hint="Choose another name, or replace it with -y.")
    if plot and plot != picture:
        if not plot.is_dir() and (plot.exists() or plot.suffix.lower() in NOT_DRAWN):
            raise UsageError("is neither a folder nor a PNG", path=plot, hint="Give a folder, or FILE.png.")
        require_writable(plot)
        if any(plot.glob("*.png")) and not overwrite:
            hint = "Choose another folder, or replace them with -y."
            raise UsageError("holds pictures already", path=plot, hint=hint)


def _give_scores(scores: "Scores", *, csv: Path | None, as_json: bool, quiet: bool) -> None:
    for note in scores.notes:
        tell(quiet, f"note: {note}")
    if csv:
        write_whole(csv, scores.as_csv().encode())
    if as_json:
        give(json.dumps(scores.as_json()))
        return
    from stmcli.cli.console import results

    results.print(_score_table(scores))
    if split := scores.split():
        results.print(_split_table(split))


def _give_table(
    table: list["PolicyScores"], memory: MemoryOptions, *, csv: Path | None, as_json: bool, quiet: bool
) -> None:
    from stmcli.cli.console import results
    from stmcli.policies import table_as_csv

    for note in dict.fromkeys(note for one in table for note in one.scores.notes):
        tell(quiet, f"note: {note}")
    if csv:
        write_whole(csv, table_as_csv(table).encode())
    if as_json:
        give(json.dumps({"policies": {one.policy: one.as_json() for one in table}}))
    else:
        results.print(_policy_table(table, memory.every))


def _score_table(scores: "Scores") -> "Table":
    from rich.text import Text

    table = _table("clip", "object", *HEADINGS.values(), text=2)
    for clip, number, row in scores.rows():
        table.add_row(Text(clip), str(number), *_percents(row))  # a name may hold what rich takes for markup
    table.add_row("mean", "", *_percents(scores.mean_row()), style="bold")
    return table


def _split_table(split: Mapping[str, float | None]) -> "Table":
    table = _table(*(name.replace("_", " ") for name in split), text=0)
    table.add_row(*map(_percent, split.values()))
    return table


def _policy_table(table: Sequence["PolicyScores"], every: int) -> "Table":
    overall = ["Overall"] if any(one.scores.split() for one in table) else []
    shown = _table("memory", "J", "F", "J&F", *overall, "s/frame", text=1)
    for one in table:
        mean = one.scores.mean_row()
        name = f"first+previous+every {every}" if one.policy.endswith("every") else one.policy
        numbers = _percents({column: mean[column] for column in ("J_mean", "F_mean", "J&F_mean")})
        numbers += [_percent(one.scores.split().get(column)) for column in overall]
        shown.add_row(name, *numbers, f"{one.seconds_per_frame:.3f}")
    return shown


def _table(*columns: str, text: int) -> "Table":
    """Return an empty table whose first columns are text and whose others are numbers."""
    from rich.table import Table

    table = Table(box=None, header_style="bold")
    for place, name in enumerate(columns):
        table.add_column(name, justify="left" if place < text else "right", overflow="fold")
    return table


def _percents(row: Mapping[str, float]) -> list[str]:
    return [_percent(value) for value in row.values()]


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:z.1f}"
