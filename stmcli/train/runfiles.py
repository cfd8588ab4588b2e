"""The folder of a training run: its state, its weights, its curve."""

import csv
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from stmcli.errors import TrainingError, UsageError, WeightsError
from stmcli.files import whole, writing
from stmcli.options import ClipOptions, Fit, TrainOptions
from stmcli.results import require_writable
from stmcli.train.curve import CURVE, read_curve
from stmcli.train.trainer import FORMAT, Trainer
from stmcli.weights import LICENCE, Card, save, unpickle

FREE = ("steps", "time_budget", "validate_every")  # options that may change when a run goes on


class RunFiles:
    """The output folder of a run: `last.pt`, `best.safetensors`, `curve.csv`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.last = path / "last.pt"
        self.weights = path / "best.safetensors"
        self.curve = path / "curve.csv"
        self.saved = 0.0  # seconds of training at the latest save
        self.logged = 0  # step of the latest line of the curve

    def check(self, *, resume: bool, init: str | None) -> None:
        """Raise UsageError when a run would be lost, or there is none to go on with."""
        require_writable(self.path)
        if resume and init:
            raise UsageError("--init starts a new run and --resume goes on with one", hint="Use one of them")
        if resume and not self.last.is_file():
            raise UsageError("no run to go on with", path=self.last, hint="Leave out --resume to start one")
        if not resume and (self.last.exists() or self.weights.exists()):
            go_on = "Go on with it by --resume, or choose another output folder"
            hint = go_on if self.last.exists() else self._anew()
            raise UsageError("holds a run already", path=self.path, hint=hint)

    def load(self, trainer: Trainer) -> dict[str, Any]:
        """Read the state of the run that `trainer` is to go on with; raise TrainingError unless it is the same.

        Raises WeightsError for a damaged file.
        """
        try:
            state = unpickle(self.last)
        except WeightsError as error:
            raise WeightsError(error.cause, path=self.last, hint=self._anew()) from None
        if not isinstance(state, dict) or state.get("format") != FORMAT:
            cause = "not the state of a run of this version"
            raise TrainingError(cause, path=self.last, hint=self._anew())
        changed = [*_changes(state, trainer), *_moves(state, trainer)]
        if changed:
            hint = "Go on with what it was started with, or start a new run with --init"
            raise TrainingError(", ".join(changed), path=self.last, hint=hint)
        return dict(state)

    def _anew(self) -> str:
        """Return how to start again from what the run has left, when its state is of no use."""
        return "Start a new run in another --output" + f" with --init {self.weights}" * self.weights.is_file()

    def begin(self, trainer: Trainer) -> None:
        """Make the folder, and leave in the curve only what belongs to the steps that `trainer` has made."""
        self.saved = trainer.seconds
        with writing(self.path):
            self.path.mkdir(parents=True, exist_ok=True)
            self._cut(trainer.step)

    def _cut(self, last: int) -> None:
        """Leave in the curve only the steps up to `last`."""
        rows = [row for row in read_curve(self.curve) if int(row[0]) <= last]
        self.logged = int(rows[-1][0]) if rows else 0
        with whole(self.curve) as part, part.open("w", newline="") as file:
            csv.writer(file).writerows([CURVE, *rows])

    def log(self, trainer: Trainer, *, score: float | None) -> None:
        """Add a line to the curve, in the place of one for the same step."""
        now = trainer.progress()
        numbers = f"{now.seconds:.1f}", f"{now.loss:.4f}", f"{now.iou:.4f}", f"{now.lr:.3e}"
        with writing(self.curve):
            if self.logged == now.step:
                self._cut(now.step - 1)
            with self.curve.open("a", newline="") as file:
                csv.writer(file).writerow([now.step, *numbers, "" if score is None else f"{score:.4f}"])
            self.logged = now.step

    def save(self, trainer: Trainer) -> None:
        """Write the state of the run, and the weights when no validation tells which are best."""
        with whole(self.last) as part, part.open("wb") as file, _torch_errors():
            torch.save(trainer.state(), file)
        self.saved = trainer.seconds
        if trainer.best < 0:
            self.keep_weights(trainer)

    def keep_weights(self, trainer: Trainer) -> None:
        """Write the averaged weights, in half precision."""
        facts = [f"{trainer.step} steps on {trainer.maker.summary()}", *_unusual(trainer)]
        facts += [f"started from {trainer.init}"] if trainer.init else []
        origin = f"stm train: {', '.join(facts)}"
        card = Card(trainer.model.dims, LICENCE, origin, Fit(size=trainer.options.validate_size), trainer.ranges)
        save(self.weights, trainer.ema, card, dtype=torch.float16)


def _changes(state: dict[str, Any], trainer: Trainer) -> list[str]:
    """List the options that are not what they were, but for those that may change."""
    old = state["options"]["train"] | state["options"]["clips"]
    return [f"{name} was {old[name]} and is {value}" for name, value in _differing(old, trainer) if name not in FREE]


def _moves(state: dict[str, Any], trainer: Trainer) -> list[str]:
    """List what else is not as it was: data, device, number of processes."""
    old, now = state["data"], trainer.maker.facts()
    changed = [f"the {kind} are others" for kind in now if now[kind] != old[kind]]
    scored_on = {state.get("scored_on", ""), trainer.scored_on} - {""}
    if len(scored_on) > 1 and state["progress"][2] >= 0:  # its best score would be held against those of other clips
        changed.append("the validation clips are others")
    if (device := state["device"]) != trainer.device.type:
        changed.append(f"device was {device} and is {trainer.device.type}")
    if (processes := state["processes"]) != trainer.ranks.size:
        changed.append(f"the run had {processes} processes and has {trainer.ranks.size}")
    return changed


def _unusual(trainer: Trainer) -> list[str]:
    """Name the options that are not the defaults, for the weights to say how they were trained."""
    processes = [f"{trainer.ranks.size} processes"] if trainer.ranks.size > 1 else []
    return [f"{name}={value}" for name, value in _differing(_defaults(), trainer)] + processes


def _defaults() -> dict[str, Any]:
    return asdict(TrainOptions()) | asdict(ClipOptions())


def _differing(old: dict[str, Any], trainer: Trainer) -> list[tuple[str, Any]]:
    new = asdict(trainer.options) | asdict(trainer.maker.options)
    return [(name, value) for name, value in new.items() if value != old[name]]


@contextmanager
def _torch_errors() -> Iterator[None]:
    """Raise what ended the writing of a file, in whose place torch has an error of its own."""
    try:
        yield
    except RuntimeError as error:
        reason = error.__context__
        raise (reason if isinstance(reason, OSError | KeyboardInterrupt) else error) from None
