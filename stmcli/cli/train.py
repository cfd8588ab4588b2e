"""stm train."""

import math
import warnings
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer

from stmcli.cli.app import NETWORK, DeviceOption, QuietOption, ThreadsOption, app, give, one_of, say, use_threads
from stmcli.cli.groups import grouped
from stmcli.errors import UsageError
from stmcli.options import INGREDIENTS, PRESETS, ClipOptions, TrainOptions

TRAIN, CLIPS = PRESETS["scratch"]
LARGEST_SEED = 2**63 - 1
Options = TypeVar("Options", TrainOptions, ClipOptions)


def _preset(default: object) -> Any:
    return f"{default}, or the preset's"


@dataclass(frozen=True)
class Training:
    """How a run learns, and from what clips; None is as the preset has it."""

    preset: Annotated[str, typer.Option(help=f"{', '.join(PRESETS)}; other options override it.")] = "scratch"
    without: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help="Leave out an ingredient; repeatable. `list` names them.")
    ] = None
    with_: Annotated[
        list[str] | None,
        typer.Option("--with", metavar="NAME", help="Put in an ingredient; repeatable. `list` names them."),
    ] = None
    size: Annotated[str | None, typer.Option(help="compact or resnet50.", show_default=_preset(TRAIN.size))] = None
    stills_share: Annotated[
        float | None,
        typer.Option(
            min=0, max=1, help="Share of steps on stills beside videos.", show_default=_preset(CLIPS.stills_share)
        ),
    ] = None
    steps: Annotated[int | None, typer.Option(min=1, show_default=_preset(TRAIN.steps))] = None
    time_budget: Annotated[str | None, typer.Option(help="End after 90m, 2h ...; whichever is first.")] = None
    batch: Annotated[
        int | None, typer.Option(min=1, help="Clips of a step, in each process.", show_default=_preset(TRAIN.batch))
    ] = None
    objects: Annotated[
        int | None, typer.Option(min=1, help="Objects tracked per clip, at most.", show_default=_preset(TRAIN.objects))
    ] = None
    crop: Annotated[
        int | None,
        typer.Option(min=32, help="Side of a frame, px, a multiple of 16.", show_default=_preset(CLIPS.crop)),
    ] = None
    frames: Annotated[int | None, typer.Option(min=2, help="Frames per clip.", show_default=_preset(CLIPS.frames))] = (
        None
    )
    frames_end: Annotated[
        int | None, typer.Option(min=2, help="Frames per clip at the end of the run.", show_default="as --frames")
    ] = None
    skip: Annotated[
        int | None,
        typer.Option(min=0, help="Frames of a video left out in between, at most.", show_default=_preset(CLIPS.skip)),
    ] = None
    skip_end: Annotated[
        int | None,
        typer.Option(
            min=0, help="That at the end of the run.", show_default=f"{_preset(CLIPS.skip_end)}, at most --skip"
        ),
    ] = None
    detach: Annotated[
        bool | None,
        typer.Option(
            "--detach/--no-detach", help="No gradients through predicted masks.", show_default=_preset("no-detach")
        ),
    ] = None
    lr: Annotated[float | None, typer.Option(min=0, show_default=_preset(TRAIN.lr))] = None
    validate_every: Annotated[str, typer.Option(help="Time between validations.")] = f"{TRAIN.validate_every / 60:.0f}m"
    seed: Annotated[int, typer.Option(min=0, max=LARGEST_SEED)] = TRAIN.seed

    def options(self) -> tuple[TrainOptions, ClipOptions]:
        """Merge options, the later over the earlier: of the preset, of ingredients, those given. Raises UsageError."""
        train, clips = PRESETS[one_of("--preset", self.preset, tuple(PRESETS))]
        changed: dict[str, Any] = {}
        for option, names, place in (("--without", self.without, 0), ("--with", self.with_, 1)):
            for name in names or ():
                values = INGREDIENTS[one_of(option, name, tuple(INGREDIENTS))]
                changed[name.replace("-", "_")] = values[place]
        if both := [name for name in self.without or () if name in (self.with_ or ())]:
            raise UsageError(f"--without and --with both name {both[0]}", hint="Leave out one of them.")
        if self.lr == math.inf:
            raise UsageError("--lr inf: not a learning rate", hint=f"Use a number like {TRAIN.lr:g}.")
        changed |= {name: value for name, value in vars(self).items() if value is not None}
        changed["time_budget"] = None if self.time_budget is None else _seconds("--time-budget", self.time_budget)
        changed["validate_every"] = _seconds("--validate-every", self.validate_every)
        if "skip" in changed and "skip_end" not in changed:  # the preset's must not exceed what was given
            changed["skip_end"] = min(clips.skip_end, changed["skip"])
        return _replaced(train, changed), _replaced(clips, changed)

    def idle(self, *, stills: bool, videos: bool) -> list[str]:
        """Say which of the options given do nothing with what there is to train on."""
        needs = {
            "--stills-share": (self.stills_share, stills and videos, "both stills and videos"),
            "--skip": (self.skip, videos, "videos"),
            "--skip-end": (self.skip_end, videos, "videos"),
        }
        return [
            f"{option} does nothing without {what}"
            for option, (value, is_there, what) in needs.items()
            if value is not None and not is_there
        ]


@app.command()
@grouped
def train(
    stills: Annotated[
        list[Path] | None, typer.Argument(help="Folders or tars with images/ and masks/.", show_default=False)
    ] = None,
    output: Annotated[Path, typer.Option("--output", "-o")] = Path("runs/stm"),
    video: Annotated[
        list[str] | None,
        typer.Option(metavar="ROOT[:WEIGHT]", help="A dataset in the DAVIS or YouTube-VOS layout; repeatable."),
    ] = None,
    val: Annotated[Path | None, typer.Option(help="A DAVIS root to validate on; never trained on.")] = None,
    init: Annotated[str | None, typer.Option(help="Start a new run from these weights.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on exactly where the run in --output stopped.")] = False,
    *,
    training: Training,
    profile: Annotated[
        bool, typer.Option("--profile", help="Only measure: steps on the same clips, and full steps with new ones.")
    ] = False,
    device: DeviceOption = NETWORK.device,
    threads: ThreadsOption = 0,
    quiet: QuietOption = False,
) -> None:
    """Train a network.

    From still images with object masks, from annotated videos, or from both.

    `torchrun --nproc-per-node N -m stmcli train ...` trains in N processes, each with its own GPU.
    """
    if "list" in (*(training.without or ()), *(training.with_ or ())):
        give("\n".join(INGREDIENTS))
        return
    from stmcli.cli.progress import show_progress
    from stmcli.clips import parse_root
    from stmcli.device import pick_device
    from stmcli.train import train as run_training
    from stmcli.train.ranks import leads

    use_threads(threads)
    options, clips = training.options()
    videos = [parse_root(text) for text in video or []]
    if quiet := quiet or not leads():
        warnings.simplefilter("ignore")  # notes, which are those of the process that reports
    if profile and resume:
        raise UsageError("--profile measures a run of its own", hint="Leave out --resume.")
    if profile:
        _profile(stills or [], videos, options, clips, device, init, output.name, quiet)
        return
    if not options.train_norm and not init and not resume and leads():
        say("note: batch norm keeps the statistics of a random network; start from trained weights by --init")
    if not quiet:
        for note in training.idle(stills=bool(stills), videos=bool(videos)):
            say(f"note: {note}")
        say("reading what to train on")
    with show_progress(output.name, quiet=quiet) as show:
        result = run_training(
            stills or [],
            output,
            videos=videos,
            options=options,
            clips=clips,
            device=pick_device(device),
            validation=val,
            init=init,
            resume=resume,
            on_step=show.training,
        )
    if leads():
        give(result.weights)


def _profile(
    stills: list[Path],
    videos: list[tuple[Path, float]],
    options: TrainOptions,
    clips: ClipOptions,
    device: str,
    init: str | None,
    name: str,
    quiet: bool,
) -> None:
    from stmcli.cli.progress import show_progress
    from stmcli.device import pick_device
    from stmcli.train import check_options
    from stmcli.train.profiling import ROUNDS, profile
    from stmcli.train.ranks import leads

    check_options(options, clips, stills=bool(stills), videos=bool(videos))
    where = pick_device(device)
    with show_progress(name, unit="rounds of steps", quiet=quiet) as show:
        show.start(2 * ROUNDS, where.type)
        found = profile(
            stills,
            videos=videos,
            options=options,
            clips=clips,
            device=where,
            init=init,
            on_round=show.advance,
        )
    if not leads():
        return
    give(f"bare {found.bare:.2f} clips/s  forward, backward and optimizer on the same clips")
    give(f"full {found.full:.2f} clips/s  with new clips, as a run does")
    give(f"ratio {found.ratio:.3f}")
    if found.busy is not None:
        give(f"GPU {100 * found.busy:.0f} % busy  by {found.measure}")


def _replaced(options: Options, changed: dict[str, Any]) -> Options:
    names = {field.name for field in fields(options)}
    return replace(options, **{name: value for name, value in changed.items() if name in names})


def _seconds(option: str, text: str) -> float:
    units = {"s": 1, "m": 60, "h": 3600}
    hint = "Write it like 90s, 20m or 2h."
    try:
        seconds = float(text[:-1]) * units[text[-1]] if text[-1:] in units else float(text)
    except ValueError:
        raise UsageError(f"{option} {text}: not a time", hint=hint) from None
    if not 0 < seconds < math.inf:
        raise UsageError(f"{option} {text}: not a time above 0", hint=hint)
    return seconds
