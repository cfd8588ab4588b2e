"""stm train."""

from pathlib import Path
from typing import Annotated

import typer

from stmcli.cli.app import NETWORK, DeviceOption, QuietOption, app, give
from stmcli.cli.progress import show_progress
from stmcli.errors import UsageError
from stmcli.options import ClipOptions, TrainOptions

TRAIN, CLIPS = TrainOptions(), ClipOptions()


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
    with show_progress(output.name, quiet=quiet) as show:
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
    give(result.weights)


def _seconds(option: str, text: str) -> float:
    units = {"s": 1, "m": 60, "h": 3600}
    try:
        return float(text[:-1]) * units[text[-1]] if text[-1:] in units else float(text)
    except ValueError:
        raise UsageError(f"{option} {text}: not a time", hint="Write it like 90s, 20m or 2h.") from None
