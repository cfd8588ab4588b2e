"""stm batch."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from stmcli.cli.app import QuietOption, VerboseOption, app, give, one_of, say
from stmcli.cli.groups import Clip, Exports, Memory, grouped
from stmcli.cli.network import Network
from stmcli.errors import PartialError, StmError, UsageError, counted
from stmcli.options import ENGINES, OUTPUT, BatchOptions

if TYPE_CHECKING:
    from rich.table import Table

    from stmcli.batch import Batch
    from stmcli.pairing import Pair

BATCH = BatchOptions()
LISTED = 20  # clips that the table at the end has at most, unless they failed


@dataclass(frozen=True)
class Workers:
    """Who does the clips, and what happens when one fails."""

    jobs: Annotated[
        int | None,
        typer.Option(
            "--jobs",
            "-j",
            min=1,
            help="Clips at a time, each in a process.",
            show_default="on a CPU one for each core and 4 GB of memory, else 1",
        ),
    ] = BATCH.jobs
    gpus: Annotated[str, typer.Option(metavar="0,1", help="A process on each of these GPUs.", show_default=False)] = ""
    threads: Annotated[
        int | None, typer.Option(min=1, help="Of each process.", show_default="the cores divided by --jobs")
    ] = BATCH.threads
    engine: Annotated[str, typer.Option(help=f"{', '.join(ENGINES)}.")] = BATCH.engine
    address: Annotated[
        str, typer.Option(metavar="HOST:PORT", help="Of a Ray cluster.", show_default="one on this machine")
    ] = BATCH.address
    retries: Annotated[int, typer.Option(min=0, help="Try a clip that failed again.")] = BATCH.retries
    fail_fast: Annotated[bool, typer.Option("--fail-fast", help="Begin no other clip once one has failed.")] = (
        BATCH.fail_fast
    )

    def options(self) -> BatchOptions:
        """Check the values. Raises UsageError."""
        on_gpus = _gpus(self.gpus)
        if on_gpus and (self.jobs or self.engine != BATCH.engine):
            cause = "--gpus starts a process on each GPU of this machine"
            raise UsageError(cause, hint="Give it without --jobs and --engine; with Ray: --device cuda --jobs N.")
        if self.address and self.engine != "ray":
            raise UsageError("--address is for Ray", hint="Give --engine ray.")
        if self.engine == "here" and (self.jobs or self.threads):
            cause = "--engine here does one clip after the other in this process"
            raise UsageError(cause, hint="Give it without --jobs and --threads.")
        return BatchOptions(
            engine=one_of("--engine", self.engine, ENGINES),
            jobs=self.jobs,
            gpus=on_gpus,
            address=self.address,
            threads=self.threads,
            retries=self.retries,
            fail_fast=self.fail_fast,
        )


@app.command()
@grouped
def batch(
    clips: Annotated[
        list[str] | None,
        typer.Argument(metavar="[CLIPS]...", help="Folders of clips or of frame folders, files, globs, or datasets."),
    ] = None,
    masks: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="The mask of A/x.mp4 is DIR/A/x.png, else DIR/x.png, else the folder DIR/x/."),
    ] = None,
    manifest: Annotated[
        Path | None, typer.Option(metavar="FILE", help="A .csv or .jsonl of video,mask,output instead of CLIPS.")
    ] = None,
    output: Annotated[Path, typer.Option("--output", "-o", help="The clip A/x.mp4 goes to A/x/ in it.")] = Path(OUTPUT),
    only_failed: Annotated[
        bool, typer.Option("--only-failed", help="Only clips that failed or are there in part.")
    ] = False,
    limit: Annotated[int | None, typer.Option(min=1, help="Only the first N clips.")] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", "-n", help="Say what would be done, in what time and room; write nothing.")
    ] = False,
    *,
    workers: Workers,
    clip: Clip,
    network: Network,
    memory: Memory,
    exports: Exports,
    as_json: Annotated[bool, typer.Option("--json", help="Print a JSON line for each clip.")] = False,
    quiet: QuietOption = False,
    verbose: VerboseOption = 0,
) -> None:
    """Segment many clips.

    A bad one is reported and the others go on; a rerun does what is missing.
    """
    options = workers.options()
    choices = (clip.options(), network.options(), memory.options(), exports.options("--export", clip.export))
    from stmcli.batch import Batch, choose, run_batch
    from stmcli.cli.console import messages
    from stmcli.cli.progress import show_batch

    job = Batch(_pairs(clips, masks, manifest, output), output, *choices, options)
    chosen = choose(job.pairs, output, only_failed=only_failed, limit=limit)
    if dry_run:
        return _give_forecast(job, chosen, as_json=as_json, quiet=quiet)
    ended: list[dict[str, Any]] = []  # what the table at the end shows
    with show_batch(len(chosen), quiet=quiet) as show:

        def end(record: dict[str, Any]) -> None:
            show.end(record["clip"], failed=record["status"] == "failed")
            _tell(record, quiet=quiet, verbose=verbose)
            _give(record, as_json=as_json)
            if record["status"] != "ok" or verbose or len(ended) < LISTED:
                ended.append({name: record[name] for name in ("clip", "status", "frames", "seconds", "error")})

        try:
            summary = run_batch(job, chosen=chosen, hear=show.hear, on_end=end)
        finally:
            if ended and not quiet:
                messages.print(_table(ended))
    if not quiet:
        clips_done = f"{counted(len(chosen), 'clip')}"
        say(f"{clips_done} in {summary['seconds']:.1f} s; {output / 'summary.json'} has the totals")


def _gpus(text: str) -> tuple[int, ...]:
    try:
        numbers = tuple(int(part) for part in text.split(",")) if text else ()
    except ValueError:
        raise UsageError(f"--gpus {text}: not a list of GPUs", hint="Write them like 0,1.") from None
    return tuple(dict.fromkeys(numbers))


def _pairs(clips: list[str] | None, masks: Path | None, manifest: Path | None, output: Path) -> "list[Pair]":
    from stmcli.manifest import pair_manifest
    from stmcli.pairing import pair_clips

    if manifest is not None:
        if clips or masks:
            raise UsageError("--manifest names the clips and masks itself", hint="Give it alone.")
        return pair_manifest(manifest, output)
    if not clips:
        raise UsageError("no clips", hint="Give folders of clips, files or globs, or a --manifest.")
    return pair_clips(clips, masks, output)


def _tell(record: dict[str, Any], *, quiet: bool, verbose: int) -> None:
    if record["error"]:
        say(f"error: {record['error']}")
    for note in record["notes"] if verbose and not quiet else ():
        say(f"{record['clip']}: note: {note}")


def _give(record: dict[str, Any], *, as_json: bool) -> None:
    """Hand over the folder of a clip that is there, or all that is known of any."""
    if as_json:
        give(json.dumps(record))
    elif record["status"] != "failed":
        give(record["output"])


def _give_forecast(job: "Batch", chosen: "Sequence[Pair]", *, as_json: bool, quiet: bool) -> None:
    """Hand over what a batch would do; raise the error that it would end with."""
    from stmcli.forecast import forecast

    seen = forecast(job, chosen)
    if as_json:
        give(json.dumps(seen.as_json()))
    for clip in seen.clips if not as_json else ():
        frames = "" if clip["frames"] is None else f", {clip['frames']} frames"
        give(f"{clip['clip']}: {clip['error'] or clip['status'] + frames}")
    failed = seen.count("failed")
    if not quiet:
        time = "unknown" if seen.seconds is None else f"about {seen.seconds:.0f} s"
        left = seen.count("to do")
        say(
            f"{counted(left, 'clip')} to do, {seen.count('done')} done, {failed} would fail; "
            f"{seen.frames} frames, time {time}; "
            f"disk about {seen.bytes_needed / 1e6:.1f} MB of {seen.bytes_free / 1e6:.0f} MB free"
        )
    if failed:
        error = PartialError if failed < len(seen.clips) else StmError
        clips = f"{counted(len(seen.clips), 'clip')}"
        raise error(f"{failed} of {clips} would fail", hint="See above, or --json.")


def _table(ended: list[dict[str, Any]]) -> "Table":
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, header_style="bold")
    for name in ("clip", "status", "frames", "s", "error"):
        table.add_column(name, justify="right" if name in ("frames", "s") else "left", overflow="fold")
    for record in ended:
        cells = (record["clip"], record["status"], str(record["frames"]), f"{record['seconds']:.1f}", record["error"])
        table.add_row(*map(Text, cells))
    return table
