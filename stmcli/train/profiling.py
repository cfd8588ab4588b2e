"""How much of a training run's time goes into the network, and how much into making its clips."""

import statistics
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch

from stmcli.clips import Clips
from stmcli.listeners import unheard
from stmcli.options import ClipOptions, TrainOptions
from stmcli.train.loop import build_trainer
from stmcli.train.trainer import Trainer

ROUNDS, EACH = 5, 4  # of as many bare and full steps in turn, so that a machine that slows down does so for both
SAMPLE = 0.05  # seconds between two looks at the GPU


@dataclass(frozen=True)
class Profile:
    """Training clips per second, and what the GPU did meanwhile."""

    bare: float  # forward, backward and optimizer step on the same clips again and again
    full: float  # steps as a run makes them: new clips, clipped gradients, averaged weights
    ratio: float  # full / bare, median over the rounds
    busy: float | None = None  # share of the time in which the GPU worked, in the full steps
    measure: str = ""  # how that was measured


def profile(
    stills: Sequence[Path],
    *,
    videos: Sequence[tuple[Path, float]] = (),
    options: TrainOptions,
    clips: ClipOptions,
    device: torch.device,
    init: str | None = None,
    on_round: Callable[[], None] = unheard,
) -> Profile:
    """Measure bare and full steps of a run; `on_round` is called after each round. Raises what `train` does."""
    with build_trainer(stills, videos, options, clips, device, init) as trainer, closing(trainer):
        same = trainer.maker.batch(options.batch, options.objects, step=0, done=0.0)
        bare: list[float] = []
        full: list[float] = []
        busy: list[float] = []
        _bare_step(trainer, same)  # the first one sets things up
        for _ in range(ROUNDS):
            trainer.settle()
            bare.append(_time(trainer, lambda: _bare_step(trainer, same), on_round))
            trainer.advance()  # whose clips are made before, as those of the steps after it
            with _gpu_load(trainer.device, busy):
                full.append(_time(trainer, trainer.advance, on_round))
        ratio = statistics.median(b / f for b, f in zip(bare, full, strict=True))
        load, measure = (statistics.mean(busy), "nvidia-ml") if busy else _kernel_share(trainer)
        made = options.batch * EACH
        return Profile(made / statistics.median(bare), made / statistics.median(full), ratio, load, measure)


def _bare_step(trainer: Trainer, clips: Clips) -> None:
    loss, _ = trainer.loss_of(clips, hard=1.0)
    trainer.optimizer.zero_grad()
    loss.backward()
    trainer.optimizer.step()
    loss.item()  # as a run does, to see that it is a number


def _time(trainer: Trainer, step: Callable[[], None], on_round: Callable[[], None] = unheard) -> float:
    """Return the seconds that a round of a step takes."""
    _wait(trainer.device)
    began = time.perf_counter()
    for _ in range(EACH):
        step()
    _wait(trainer.device)
    seconds = time.perf_counter() - began
    on_round()
    return seconds


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


@contextmanager
def _gpu_load(device: torch.device, found: list[float]) -> Iterator[None]:
    """Ask nvidia-ml again and again how busy the GPU is, 0 to 1; find nothing where it is not to be had."""
    over = threading.Event()

    def look() -> None:
        while not over.wait(SAMPLE):
            try:
                found.append(torch.cuda.utilization(device) / 100)
            except (ModuleNotFoundError, RuntimeError):
                return

    watcher = threading.Thread(target=look, name="gpu", daemon=True)
    if device.type == "cuda":
        watcher.start()
    try:
        yield
    finally:
        over.set()
        if watcher.ident is not None:
            watcher.join()


def _kernel_share(trainer: Trainer) -> tuple[float | None, str]:
    """Return the share of the time of some full steps that the GPU spent in kernels."""
    if trainer.device.type != "cuda":
        return None, ""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as seen:
        seconds = _time(trainer, trainer.advance)
    kernels = sum(event.self_device_time_total for event in seen.key_averages()) / 1e6
    return min(1.0, kernels / seconds), "kernels"
