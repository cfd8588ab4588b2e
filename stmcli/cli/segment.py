"""stm segment, and stm frame for the mask that it needs."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from stmcli.cli.app import (
    MEMORY,
    NETWORK,
    AdaptOption,
    DeviceOption,
    EveryOption,
    FirstNumberOption,
    GateOption,
    JsonOption,
    MaxOption,
    OverwriteOption,
    PolicyOption,
    PrecisionOption,
    QuietOption,
    ReachOption,
    SizeOption,
    TopOption,
    TtaOption,
    VerboseOption,
    WeightsOption,
    app,
    give,
    memory_options,
    network_options,
    one_of,
    part_of,
    say,
)
from stmcli.cli.exports import (
    EXPORT,
    AudioOption,
    BitsOption,
    CategoryOption,
    CodecOption,
    ColourOption,
    ContourOption,
    EncoderOption,
    ModeOption,
    OpacityOption,
    PerObjectOption,
    RefineOption,
    bits_of,
    export_options,
    kinds_of,
)
from stmcli.cli.progress import show_progress
from stmcli.cli.review import serve
from stmcli.errors import PartialError, UsageError
from stmcli.options import DIRECTIONS, EXPORTS, ON_CORRUPT, SegmentOptions

if TYPE_CHECKING:
    from stmcli.pipeline import Result

SEGMENT = SegmentOptions()
POSITION = "its number, or a time like 10s or 00:01:30.500"


@app.command()
def segment(
    video: Annotated[Path, typer.Argument(help="A video file, a folder of frames, or a pattern like shot.%04d.png.")],
    mask: Annotated[
        list[str],
        typer.Option(
            "--mask",
            "-m",
            metavar="[FRAME:]PATH",
            help="A mask of the first frame or of another, by number or time; its values are ids. "
            "Or a folder of <frame>.png. Repeatable.",
        ),
    ],
    output: Annotated[Path | None, typer.Option("--output", "-o", show_default="stm_out/<clip>/")] = None,
    export: Annotated[
        list[str] | None,
        typer.Option(
            "--export",
            "-e",
            help=f"{', '.join(EXPORTS)}; repeatable.",
            show_default=", ".join(EXPORT.kinds),
        ),
    ] = None,
    objects: Annotated[str, typer.Option(help="Ids to follow, e.g. 1,3.", show_default="all")] = "",
    start: Annotated[str | None, typer.Option(help=f"First frame: {POSITION}.", metavar="FRAME|TIME")] = None,
    end: Annotated[str | None, typer.Option(help="Last frame, inclusive.", metavar="FRAME|TIME")] = None,
    first_number: FirstNumberOption = SEGMENT.first_number,
    direction: Annotated[
        str, typer.Option(help=f"{', '.join(DIRECTIONS)}: from the first mask, from the last, or between all.")
    ] = SEGMENT.direction,
    weights: WeightsOption = NETWORK.weights,
    device: DeviceOption = NETWORK.device,
    precision: PrecisionOption = NETWORK.precision,
    size: SizeOption = NETWORK.size,
    top_k: TopOption = NETWORK.top_k,
    reach: ReachOption = NETWORK.reach,
    tta: TtaOption = "",
    adapt: AdaptOption = NETWORK.adapt,
    mem_every: EveryOption = MEMORY.every,
    mem_max: MaxOption = MEMORY.max_slots,
    mem_policy: PolicyOption = MEMORY.policy,
    memory_gate: GateOption = MEMORY.gate,
    per_object: PerObjectOption = EXPORT.per_object,
    audio: AudioOption = EXPORT.audio,
    encoder: EncoderOption = EXPORT.encoder,
    opacity: OpacityOption = EXPORT.opacity,
    contour: ContourOption = EXPORT.contour,
    alpha_codec: CodecOption = EXPORT.alpha_codec,
    alpha_mode: ModeOption = EXPORT.alpha_mode,
    bits: BitsOption = EXPORT.bits,
    background: ColourOption = EXPORT.background,
    refine: RefineOption = EXPORT.refine,
    category: CategoryOption = None,
    keep_soft: Annotated[
        bool, typer.Option("--keep-soft", help="Store the network's probabilities for stm export.")
    ] = SEGMENT.keep_soft,
    soft_bits: Annotated[int, typer.Option(help="8 or 16, of the stored probabilities.")] = SEGMENT.soft_bits,
    on_corrupt: Annotated[str, typer.Option(help=f"{', '.join(ON_CORRUPT)}.")] = SEGMENT.on_corrupt,
    overwrite: OverwriteOption = SEGMENT.overwrite,
    page: Annotated[
        bool, typer.Option("--page/--no-page", help="Write report.html, to look the result through.")
    ] = SEGMENT.page,
    resume: Annotated[
        bool,
        typer.Option("--resume/--no-resume", help="Go on where this very job stopped, if anywhere; or do it again."),
    ] = SEGMENT.resume,
    keep_memory: Annotated[
        bool,
        typer.Option("--keep-memory", help="Store the memory, so that a correction computes only what it changes."),
    ] = SEGMENT.keep_memory,
    review: Annotated[
        bool, typer.Option("--review", help="Then look through the result in the browser; Ctrl-C ends that.")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", "-n", help="Check everything, write nothing.")] = False,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
    verbose: VerboseOption = 0,
) -> None:
    """Follow the objects of a first-frame mask through a clip."""
    options = SegmentOptions(
        objects=_ids(objects),
        first_number=first_number,
        start=_first_frame(video, start, first_number),
        end=_last_frame(video, end, first_number),
        keep_soft=keep_soft,
        soft_bits=bits_of("--soft-bits", soft_bits),
        on_corrupt=one_of("--on-corrupt", on_corrupt, ON_CORRUPT),
        overwrite=overwrite,
        resume=resume,
        page=page,
        keep_memory=keep_memory,
        direction=one_of("--direction", direction, DIRECTIONS),
    )
    exports = export_options(
        kinds_of("--export", export),
        per_object=per_object,
        audio=audio,
        encoder=encoder,
        opacity=opacity,
        contour=contour,
        alpha_codec=alpha_codec,
        alpha_mode=alpha_mode,
        bits=bits,
        background=background,
        refine=refine,
        category=category,
    )
    network = network_options(weights, device, precision, size, top_k, reach, tta, adapt)
    memory = memory_options(mem_every, mem_max, mem_policy, memory_gate)
    from stmcli.job import Job, default_output, plan
    from stmcli.pipeline import Result, segment_video

    job = Job(video, tuple(mask), output or default_output(video), options, network, memory, exports)
    if dry_run:
        _give_facts(plan(job), as_json=as_json)
        return
    with show_progress(video.name, quiet=quiet) as show:
        fault = None
        try:
            result = segment_video(job, on_start=show.start, on_frame=lambda _: show.advance(), on_adapt=show.adapting)
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


def _first_frame(video: Path, text: str | None, first_number: int | None) -> int | None:
    """Return the frame number of --start."""
    from stmcli.video import first_frame_from, parse_position

    return None if text is None else first_frame_from(video, parse_position(text), first_number=first_number)


def _last_frame(video: Path, text: str | None, first_number: int | None) -> int | None:
    """Return the frame number of --end."""
    from stmcli.video import last_frame_until, parse_position

    return None if text is None else last_frame_until(video, parse_position(text), first_number=first_number)


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


def _ids(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in text.split(",")) if text else ()
    except ValueError:
        raise UsageError(f"--objects {text}: not a list of ids", hint="Write them like 1,3.") from None


def _speed(frames: int, seconds: float) -> str:
    return f"{frames} frames in {seconds:.1f} s ({frames / max(seconds, 1e-9):.1f} per second)"


@app.command()
def frame(
    video: Annotated[Path, typer.Argument(help="A video file, a folder of frames, or a pattern.")],
    at: Annotated[
        str | None,
        typer.Option(help=f"Which frame: {POSITION}.", metavar="FRAME|TIME", show_default="the first"),
    ] = None,
    first_number: FirstNumberOption = SEGMENT.first_number,
    output: Annotated[Path, typer.Option("--output", "-o", help="A PNG.")] = Path("frame.png"),
    overwrite: OverwriteOption = False,
) -> None:
    """Write one frame, upright and at source size, to paint a mask on."""
    from stmcli.masks import write_picture
    from stmcli.results import check_picture
    from stmcli.video import read_frame

    index = _first_frame(video, at, first_number)
    picture = read_frame(video, index, first_number=first_number).rgb
    check_picture(output, video, overwrite=overwrite)
    write_picture(output, picture)
    give(output)
