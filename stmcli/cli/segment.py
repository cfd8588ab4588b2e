"""stm segment."""

import json
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from stmcli.cli.app import (
    MEMORY,
    JsonOption,
    QuietOption,
    ThreadsOption,
    VerboseOption,
    app,
    give,
    part_of,
    say,
    use_threads,
)
from stmcli.cli.frame import POSITION, frame_number
from stmcli.cli.groups import Clip, Exports, Memory, grouped
from stmcli.cli.network import Network
from stmcli.cli.review import serve
from stmcli.errors import Faults, PartialError, counted
from stmcli.options import OUTPUT, ExportOptions, NetworkOptions, SegmentOptions

if TYPE_CHECKING:
    from stmcli.pipeline import Result


@app.command()
@grouped
def segment(
    video: Annotated[Path, typer.Argument(help="A video file, a folder of frames, or a pattern like shot.%04d.png.")],
    mask: Annotated[
        list[str],
        typer.Option(
            "--mask",
            "-m",
            metavar="[FRAME:]PATH",
            help="A mask of the first frame or of another, by number or time; its values are ids. "
            "Or a folder of <frame>.png, or FILE.json[#ID], COCO or YouTube-VIS annotations. Repeatable.",
        ),
    ],
    output: Annotated[Path | None, typer.Option("--output", "-o", show_default=f"{OUTPUT}/<clip>/")] = None,
    start: Annotated[str | None, typer.Option(help=f"First frame: {POSITION}.", metavar="FRAME|TIME")] = None,
    end: Annotated[str | None, typer.Option(help="Last frame, inclusive.", metavar="FRAME|TIME")] = None,
    *,
    clip: Clip,
    network: Network,
    threads: ThreadsOption = 0,
    memory: Memory,
    exports: Exports,
    review: Annotated[
        bool, typer.Option("--review", help="Then look through the result in the browser; Ctrl-C ends that.")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", "-n", help="Check everything, write nothing.")] = False,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
    verbose: VerboseOption = 0,
) -> None:
    """Follow the objects of a first-frame mask through a clip."""
    number = partial(frame_number, video, first_number=clip.first_number, fps=clip.fps)
    faults = Faults()  # an option that is wrong leaves a value with which the rest can be checked
    choices = (
        faults.look(lambda: clip.options(start=number(start), end=number(end, last=True)))
        or SegmentOptions(first_number=clip.first_number),
        faults.look(network.options) or NetworkOptions(network.weights, network.device),
        faults.look(memory.options) or MEMORY,
        faults.look(lambda: exports.options("--export", clip.export)) or ExportOptions(("none",)),
    )
    from stmcli.cli.progress import show_progress
    from stmcli.job import Job, check, default_output, plan
    from stmcli.pipeline import Result, segment_video

    job = Job(video, tuple(mask), output or default_output(video), *choices)
    if faults.found:
        faults.look(lambda: check(job))
        faults.settle()
    if dry_run:
        _give_facts(plan(job), as_json=as_json)
        return
    use_threads(threads)
    with show_progress(video.name, quiet=quiet) as show:
        fault = None
        try:
            result = segment_video(job, listener=show.listener)
        except PartialError as error:
            fault, result = error, part_of(error, Result)
    if not quiet:
        _say_notes(result)
    _give_result(result, as_json=as_json, verbose=verbose)
    if review:
        serve(result.output)
    if fault:
        raise fault


def _say_notes(result: "Result") -> None:
    for note in result.notes:
        say(f"note: {note}")
    if (page := result.output / "report.html").exists():
        say(f"to look it through: {page}")
    say("already done, nothing to do" if result.done_before else _speed(result.frames, result.seconds))


def _give_result(result: "Result", *, as_json: bool, verbose: int) -> None:
    """Hand over the paths of what was made."""
    report = result.output / "report.json"
    if verbose:
        say(_summary(json.loads(report.read_text())))
    files = [str(path) for path in (*result.files, report)]
    if as_json:
        give(json.dumps({"output": str(result.output), "files": files, "frames": result.frames}))
    else:
        give("\n".join(files))


def _give_facts(facts: dict[str, Any], *, as_json: bool) -> None:
    if as_json:
        give(json.dumps(facts))
        return
    for name, value in facts.items():
        give(f"{name}: {', '.join(map(_in_words, value)) if isinstance(value, list) else value}")


def _in_words(value: Any) -> str:
    if isinstance(value, dict):  # a mask
        return f"frame {value['frame']}: {value['path']} (ids {', '.join(map(str, value['ids'])) or 'none'})"
    return str(value)


def _summary(report: dict[str, Any]) -> str:
    source, weights = report["source"], report["weights"]
    return (
        f"{source['width']}x{source['height']} {source['codec']}, {report['frames_written']} frames, "
        f"objects {', '.join(map(str, report['objects']))}; weights {weights['path']} ({weights['licence']}), "
        f"sha256 {weights['sha256'][:12]}; on {report['device']}, peak {report['peak_host_bytes'] / 2**20:.0f} MiB"
    )


def _speed(frames: int, seconds: float) -> str:
    return f"{counted(frames, 'frame')} in {seconds:.1f} s ({frames / max(seconds, 1e-9):.1f} per second)"
