"""The command line: parse, call one job, show what it says. The jobs themselves print nothing."""

import json
import signal
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeRemainingColumn,
)
from rich.table import Table
from rich.text import Text
from typer.core import TyperGroup

from stmcli import __version__
from stmcli.errors import StmError, Terminated, UsageError
from stmcli.options import (
    AUDIO,
    EXPORTS,
    MEMORY_POLICIES,
    ON_CORRUPT,
    PRECISIONS,
    PROTOCOLS,
    ClipOptions,
    MemoryOptions,
    NetworkOptions,
    SegmentOptions,
    TrainOptions,
)

PLAIN_EVERY = 5.0  # seconds between progress lines where there is no terminal
SEGMENT, NETWORK, MEMORY, TRAIN, CLIPS = (
    SegmentOptions(),
    NetworkOptions(),
    MemoryOptions(),
    TrainOptions(),
    ClipOptions(),
)
messages = Console(stderr=True, highlight=False, soft_wrap=True)
results = Console(highlight=False, soft_wrap=True)


class Group(TyperGroup):
    """Turn an StmError into one line on stderr and its exit code."""

    def invoke(self, ctx: Any) -> Any:
        """Run the command."""
        signal.signal(signal.SIGTERM, _terminate)
        warnings.showwarning = _show_warning
        try:
            return super().invoke(ctx)
        except StmError as error:
            if ctx.obj:  # -vv
                messages.print_exception()
            messages.print(Text(f"error: {error}"), style="red" if messages.is_terminal else None)
            raise typer.Exit(error.exit_code) from None


def _terminate(_number: int, _frame: FrameType | None) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_DFL)  # twice means now
    raise Terminated


def _show_warning(message: Warning | str, *_: Any, **__: Any) -> None:
    messages.print(Text(f"note: {message}"))


app = typer.Typer(
    cls=Group,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"], "auto_envvar_prefix": "STM"},
    help="Cut an object out of every frame of a clip, given its mask in the first frame.",
)
weights_app = typer.Typer(no_args_is_help=True, help="The bundled network and imported checkpoints.")
app.add_typer(weights_app, name="weights")

WeightsOption = Annotated[str, typer.Option("--weights", "-w", help="A name from `stm weights list`, or a file.")]
DeviceOption = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1.")]
PrecisionOption = Annotated[str, typer.Option(help=f"{', '.join(PRECISIONS)}.")]
SizeOption = Annotated[
    int | None,
    typer.Option(
        min=0, help="Shorter side inside the network, px; 0 = the source's.", show_default="suits the weights"
    ),
]
EveryOption = Annotated[int, typer.Option(min=0, help="Keep each N-th frame in memory; 0: first and previous only.")]
MaxOption = Annotated[int, typer.Option(min=2, help="Most frames in memory, first and previous included.")]
PolicyOption = Annotated[str, typer.Option(help=f"{', '.join(MEMORY_POLICIES)}.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]
QuietOption = Annotated[bool, typer.Option("--quiet", "-q", help="No progress, no notes.")]


def main() -> None:
    """Run `stm`."""
    app()


def _verbose(ctx: typer.Context, count: int) -> int:
    root = ctx.find_root()
    root.obj = bool(root.obj) or count > 1
    return count


VerboseOption = Annotated[
    int, typer.Option("--verbose", "-v", count=True, callback=_verbose, help="-vv shows tracebacks of errors.")
]


def _version(wanted: bool) -> None:
    if wanted:
        results.print(f"stm {__version__}")
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Print it.")] = False,
    verbose: VerboseOption = 0,
) -> None:
    """Hold the options that stand before every command."""


# -- stm segment -----------------------------------------------------------------------------------------------------


@app.command()
def segment(
    video: Annotated[Path, typer.Argument(help="A video file, a folder of frames, or a pattern like shot.%04d.png.")],
    mask: Annotated[Path, typer.Option("--mask", "-m", help="The mask of the first frame: PNG, its values are ids.")],
    output: Annotated[Path | None, typer.Option("--output", "-o", show_default="stm_out/<clip>/")] = None,
    export: Annotated[
        list[str] | None, typer.Option("--export", "-e", help=f"{', '.join(EXPORTS)}; repeatable.")
    ] = None,
    objects: Annotated[str, typer.Option(help="Ids to follow, e.g. 1,3.", show_default="all")] = "",
    start: Annotated[int | None, typer.Option(min=0, help="First frame, the source's own number.")] = SEGMENT.start,
    end: Annotated[int | None, typer.Option(min=0, help="Last frame, inclusive.")] = SEGMENT.end,
    weights: WeightsOption = NETWORK.weights,
    device: DeviceOption = NETWORK.device,
    precision: PrecisionOption = NETWORK.precision,
    size: SizeOption = NETWORK.size,
    mem_every: EveryOption = MEMORY.every,
    mem_max: MaxOption = MEMORY.max_slots,
    mem_policy: PolicyOption = MEMORY.policy,
    audio: Annotated[str, typer.Option(help=f"{', '.join(AUDIO)}.")] = SEGMENT.audio,
    on_corrupt: Annotated[str, typer.Option(help=f"{', '.join(ON_CORRUPT)}.")] = SEGMENT.on_corrupt,
    overwrite: Annotated[bool, typer.Option("--overwrite", "-y", help="Replace another job's result.")] = False,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
    verbose: VerboseOption = 0,
) -> None:
    """Follow the objects of a first-frame mask through a clip."""
    options = SegmentOptions(
        exports=tuple(_one_of("--export", kind, EXPORTS) for kind in export or SEGMENT.exports),
        objects=_ids(objects),
        start=start,
        end=end,
        audio=_one_of("--audio", audio, AUDIO),
        on_corrupt=_one_of("--on-corrupt", on_corrupt, ON_CORRUPT),
        overwrite=overwrite,
    )
    network = _network(weights, device, precision, size)
    memory = MemoryOptions(mem_every, mem_max, _one_of("--mem-policy", mem_policy, MEMORY_POLICIES))
    from stmcli.pipeline import Job, default_output, segment_video

    job = Job(video, mask, output or default_output(video), options, network, memory)
    with _progress(video.name, quiet=quiet) as show:
        result = segment_video(job, on_start=show.start, on_frame=lambda _: show.advance())
    if not quiet:
        for note in result.notes:
            messages.print(Text(f"note: {note}"))
        messages.print("already done, nothing to do" if result.done_before else _speed(result.frames, result.seconds))
    _print_files(result.output, result.files, as_json=as_json, frames=result.frames)


def _network(weights: str, device: str, precision: str, size: int | None) -> NetworkOptions:
    return NetworkOptions(weights, device, _one_of("--precision", precision, PRECISIONS), size)


def _one_of(option: str, value: str, allowed: tuple[str, ...]) -> str:
    if value not in allowed:
        raise UsageError(f"{option} {value}: unknown", hint=f"Use one of {', '.join(allowed)}.")
    return value


def _ids(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in text.split(",")) if text else ()
    except ValueError:
        raise UsageError(f"--objects {text}: not a list of ids", hint="Write them like 1,3.") from None


def _speed(frames: int, seconds: float) -> str:
    return f"{frames} frames in {seconds:.1f} s ({frames / max(seconds, 1e-9):.1f} per second)"


def _print_files(output: Path, files: tuple[Path, ...], *, as_json: bool, frames: int) -> None:
    if as_json:
        content = {"output": str(output), "files": [str(path) for path in files], "frames": frames}
        results.print(Text(json.dumps(content)))
        return
    for path in files:
        results.print(Text(str(path)))
    if output not in files:
        results.print(Text(str(output / "report.json")))


# -- stm frame -------------------------------------------------------------------------------------------------------


@app.command()
def frame(
    video: Annotated[Path, typer.Argument(help="A video file, a folder of frames, or a pattern.")],
    at: Annotated[int, typer.Option(min=0, help="The source's own frame number.")] = 0,
    output: Annotated[Path, typer.Option("--output", "-o", help="A PNG.")] = Path("frame.png"),
    overwrite: Annotated[bool, typer.Option("--overwrite", "-y")] = False,
) -> None:
    """Write one frame, upright and at source size, to paint a mask on."""
    if output.exists() and not overwrite:
        raise UsageError("exists already", path=output, hint="Replace it with -y.")
    from stmcli.masks import write_picture
    from stmcli.video import read_frame

    write_picture(output, read_frame(video, at).rgb)
    results.print(Text(str(output)))


# -- stm evaluate ----------------------------------------------------------------------------------------------------


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
    mem_every: EveryOption = MEMORY.every,
    mem_max: MaxOption = MEMORY.max_slots,
    mem_policy: PolicyOption = MEMORY.policy,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Score masks against ground truth: region similarity J and contour accuracy F."""
    from stmcli.evaluate import evaluate_folder

    _one_of("--protocol", protocol, PROTOCOLS)
    if run is not None:
        network = _network(weights, device, precision, size)
        memory = MemoryOptions(mem_every, mem_max, _one_of("--mem-policy", mem_policy, MEMORY_POLICIES))
        from stmcli.pipeline import segment_dataset

        with _progress(run.name, quiet=quiet) as show:
            predictions = segment_dataset(
                run,
                output,
                protocol=protocol,
                network=network,
                memory=memory,
                on_start=show.start,
                on_frame=lambda _: show.advance(),
            )
    if predictions is None or (truth or run) is None:
        raise UsageError("nothing to score", hint="Give PRED and --gt, or --run DATASET.")
    scores = evaluate_folder(predictions, truth or run, protocol=protocol)  # type: ignore[arg-type]
    if as_json:
        results.print(Text(json.dumps(scores.as_json())))
    else:
        results.print(_score_table(scores.as_json()))


def _score_table(scores: dict[str, Any]) -> Table:
    table = Table("clip", "object", "J", "F", box=None, header_style="bold")
    for clip, objects in scores["sequences"].items():
        for number, one in objects.items():
            table.add_row(clip, number, f"{100 * one['J_mean']:.1f}", f"{100 * one['F_mean']:.1f}")
    table.add_row("mean", "", f"{100 * scores['J_mean']:.1f}", f"{100 * scores['F_mean']:.1f}", style="bold")
    return table


# -- stm train -------------------------------------------------------------------------------------------------------


@app.command()
def train(
    stills: Annotated[list[Path], typer.Argument(help="Folders or tars with images/ and masks/.")],
    output: Annotated[Path, typer.Option("--output", "-o")] = Path("runs/stm"),
    val: Annotated[Path | None, typer.Option(help="A DAVIS root to validate on; never trained on.")] = None,
    size: Annotated[str, typer.Option(help="compact or resnet50.")] = TRAIN.size,
    init: Annotated[str | None, typer.Option(help="Start a new run from these weights.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on exactly where the run in --output stopped.")] = False,
    steps: Annotated[int, typer.Option(min=1)] = TRAIN.steps,
    time_budget: Annotated[str | None, typer.Option(help="End after 90m, 2h ...; whichever is first.")] = None,
    batch: Annotated[int, typer.Option(min=1)] = TRAIN.batch,
    objects: Annotated[int, typer.Option(min=1, help="Objects tracked per clip.")] = TRAIN.objects,
    crop: Annotated[int, typer.Option(min=32, help="Side of a training frame, px.")] = CLIPS.crop,
    frames: Annotated[int, typer.Option(min=2, help="Frames per clip.")] = CLIPS.frames,
    lr: Annotated[float, typer.Option(min=0)] = TRAIN.lr,
    validate_every: Annotated[
        str, typer.Option(help="Time between validations.")
    ] = f"{TRAIN.validate_every / 60:.0f}m",
    device: DeviceOption = NETWORK.device,
    threads: Annotated[int, typer.Option(min=0, help="CPU threads; 0 = all.")] = 0,
    seed: int = TRAIN.seed,
    quiet: QuietOption = False,
) -> None:
    """Train a network from still images with object masks (stage 1)."""
    import torch

    from stmcli.train import train as run_training
    from stmcli.weights import pick_device

    if threads:
        torch.set_num_threads(threads)
    options = TrainOptions(
        size=size,
        batch=batch,
        objects=objects,
        steps=steps,
        lr=lr,
        seed=seed,
        time_budget=_seconds("--time-budget", time_budget) if time_budget else None,
        validate_every=_seconds("--validate-every", validate_every),
    )
    with _progress(output.name, quiet=quiet) as show:
        result = run_training(
            stills,
            output,
            options=options,
            clips=ClipOptions(crop=crop, frames=frames),
            device=pick_device(device),
            validation=val,
            init=init,
            resume=resume,
            on_step=show.training,
        )
    results.print(Text(str(result.weights)))


def _seconds(option: str, text: str) -> float:
    units = {"s": 1, "m": 60, "h": 3600}
    try:
        return float(text[:-1]) * units[text[-1]] if text[-1:] in units else float(text)
    except ValueError:
        raise UsageError(f"{option} {text}: not a time", hint="Write it like 90s, 20m or 2h.") from None


# -- stm weights -----------------------------------------------------------------------------------------------------


@weights_app.command("list")
def list_weights(as_json: JsonOption = False) -> None:
    """List the weights that can be named, with their licences."""
    from stmcli.weights import registry

    entries = registry().values()
    if as_json:
        rows = [{**vars(entry), "path": str(entry.path)} for entry in entries]
        results.print(Text(json.dumps(rows)))
        return
    table = Table("name", "licence", "origin", box=None, header_style="bold")
    for entry in entries:
        table.add_row(entry.name, entry.licence, entry.origin)
    results.print(table)


@weights_app.command("path")
def weights_path(name: Annotated[str, typer.Argument()] = NETWORK.weights) -> None:
    """Print the file of a name."""
    from stmcli.weights import find

    results.print(Text(str(find(name))))


@weights_app.command("verify")
def verify_weights(name: Annotated[str | None, typer.Argument(show_default="all")] = None) -> None:
    """Compare files with the sha256 they were registered with."""
    from stmcli.weights import find, registry, verify

    entries = registry()
    if name is not None and name not in entries:
        raise UsageError("is not registered", path=find(name), hint="See stm weights list.")
    for entry in [entries[name]] if name else entries.values():
        verify(entry)
        results.print(Text(f"{entry.name}: ok {entry.sha256}"))


@weights_app.command("import")
def import_weights(
    source: Annotated[Path, typer.Argument(help="The published STM_weights.pth, or a file that stm train wrote.")],
    name: Annotated[str | None, typer.Option(help="How to call them.", show_default="the file's name")] = None,
) -> None:
    """Convert a checkpoint to safetensors in the user's cache."""
    from stmcli.weights import import_file

    entry = import_file(source, name=name)
    messages.print(Text(f"{entry.name}: {entry.licence}"))
    results.print(Text(str(entry.path)))


# -- progress --------------------------------------------------------------------------------------------------------


class _Rate(ProgressColumn):
    """Frames per second."""

    def render(self, task: Task) -> Text:
        return Text(f"{task.finished_speed or task.speed or 0:.1f} fps")


class _Show:
    """A progress bar on a terminal, a plain line every few seconds elsewhere."""

    def __init__(self, name: str, bar: Progress | None) -> None:
        self.name, self.bar = name, bar
        self.total: int | None = None
        self.done = 0
        self.began = self.last = time.monotonic()
        self.task = bar.add_task(name, total=None) if bar else None

    def start(self, total: int | None, device: str) -> None:
        """Say how many frames there are and where the network runs."""
        self.total, self.began = total, time.monotonic()
        if self.bar is not None and self.task is not None:
            self.bar.update(self.task, total=total, description=f"{self.name} ({device})")
        else:
            messages.print(Text(f"{self.name}: on {device}"))

    def advance(self) -> None:
        """Count one frame."""
        self.done += 1
        if self.bar is not None and self.task is not None:
            self.bar.advance(self.task)
            return
        rate = self.done / max(1e-9, time.monotonic() - self.began)
        left = f", {(self.total - self.done) / rate:.0f} s left" if self.total else ""
        self._line(f"{self.name}: {self.done}/{self.total or '?'} frames, {rate:.1f} fps{left}")

    def training(self, now: Any) -> None:
        """Show a training step: loss, IoU, J, time left."""
        left = now.seconds * (1 / max(now.done, 1e-6) - 1)
        score = "-" if now.score is None else f"{100 * now.score:.1f}"
        text = f"step {now.step} loss {now.loss:.3f} IoU {now.iou:.3f} J {score}"
        if self.bar is not None and self.task is not None:
            self.bar.update(self.task, total=100, completed=100 * now.done, description=text)
        else:
            self._line(f"{text} {100 * now.done:.1f}% {left / 60:.0f} min left")

    def _line(self, text: str) -> None:
        if time.monotonic() - self.last >= PLAIN_EVERY:
            self.last = time.monotonic()
            messages.print(Text(text))


class _Silent(_Show):
    """Say nothing."""

    def start(self, total: int | None, device: str) -> None:
        """Say nothing."""

    def _line(self, text: str) -> None:
        pass


@contextmanager
def _progress(name: str, *, quiet: bool) -> Iterator[_Show]:
    if quiet:
        yield _Silent(name, None)
    elif not messages.is_terminal:
        yield _Show(name, None)
    else:
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            _Rate(),
            TimeRemainingColumn(),
        )
        with Progress(*columns, console=messages, transient=True) as bar:
            yield _Show(name, bar)
