"""Train a network on synthetic clips: the run, its validation, the files that it leaves."""

import copy
import csv
import os
import pickle
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch

from stmcli.clips import load_stills
from stmcli.curve import CURVE, draw_curve, read_curve
from stmcli.errors import TrainingError, UsageError, WriteError
from stmcli.evaluate import Sequence as Clip
from stmcli.evaluate import list_sequences
from stmcli.masks import VOID, Labels, is_binary, read_labels, read_values
from stmcli.metrics import jaccard
from stmcli.model import SIZES, STM
from stmcli.model.stm import STRIDE
from stmcli.options import ClipOptions, NetworkOptions, TrainOptions
from stmcli.segmenter import Segmenter, propagate
from stmcli.trainer import Progress, Trainer, new_model
from stmcli.video import open_source
from stmcli.weights import LICENCE, Card, find, pick_device, pick_dtype, read_named, save

LOG_EVERY = 50  # steps
SAVE_EVERY = 300.0  # seconds
FREE = ("steps", "time_budget", "validate_every")  # options that may change when a run goes on


@dataclass(frozen=True)
class Result:
    """What a finished run leaves."""

    weights: Path  # of the averaged network: the best validated one, else the latest
    step: int
    seconds: float
    loss: float
    iou: float
    score: float | None  # the best validation J


def train(
    stills: Sequence[Path],
    output: Path,
    *,
    options: TrainOptions | None = None,
    clips: ClipOptions | None = None,
    device: torch.device | str = NetworkOptions.device,
    validation: Path | None = None,
    init: str | None = None,
    resume: bool = False,
    on_step: Callable[[Progress], None] = lambda _: None,
) -> Result:
    """Train a network on synthetic clips of `stills` and keep the run in the folder `output`.

    The folder gets `last.pt` (all that `resume` needs; kept at any interruption too), `best.safetensors`,
    `curve.csv` and `curve.png`. `validation` is a dataset in the DAVIS layout. `init` names weights that a new
    run starts from. Raises UsageError for inputs that do not fit and for an `output` that holds a run already,
    TrainingError when a resumed run had other options or the loss is not a number.
    """
    options, clips = options or TrainOptions(), clips or ClipOptions()
    _check_options(options, clips)
    files = RunFiles(output)
    files.check(resume=resume, init=init)
    sequences = _sequences(validation) if validation else []
    where = pick_device(str(device))
    model = _load_init(init, options.size) if init else new_model(options.size, seed=options.seed)
    trainer = Trainer(model, load_stills(stills, device=where), options, clips)
    trainer.init = init or ""
    if resume:
        trainer.restore(files.load(trainer))
    files.begin(trainer)
    try:
        _score_if_due(trainer, sequences, files)  # perhaps the run was cut short while it was validated
        while trainer.done < 1:
            trainer.advance()
            scored = _score_if_due(trainer, sequences, files)
            if scored or trainer.step % LOG_EVERY == 0:
                files.log(trainer, score=trainer.score if scored else None)
            saved = scored or trainer.done >= 1 or trainer.seconds - files.saved >= SAVE_EVERY
            if saved:
                files.save(trainer)
            on_step(replace(trainer.progress(), saved=saved))
    finally:
        if trainer.whole and trainer.seconds > files.saved:
            files.save(trainer)
    draw_curve(files.curve, files.path / "curve.png")
    best = trainer.best if trainer.best >= 0 else None
    return Result(files.weights, trainer.step, trainer.seconds, trainer.loss, trainer.iou, best)


def validate(model: STM, sequences: Sequence[Clip], *, size: int, limit_frames: int | None = None) -> float:
    """Segment whole clips from their first mask and return the mean over clips of mean J, 0 to 1.

    As DAVIS 2016 defines it: objects merged, first and last frame left out, void ignored. `size` is the shorter
    side inside the network, px. The network is copied to the precision of inference.
    """
    device = next(model.parameters()).device
    fast = copy.deepcopy(model).to(device, pick_dtype("auto", device)).eval().requires_grad_(False)
    fast = fast.to(memory_format=torch.channels_last)
    return float(np.mean([_clip_j(fast, clip, size, limit_frames) for clip in sequences]))


# -- what a run needs before it starts ---------------------------------------------------------------------------------


def _check_options(options: TrainOptions, clips: ClipOptions) -> None:
    if options.size not in SIZES:
        raise UsageError(f"no network size {options.size!r}", hint=f"The sizes are {', '.join(SIZES)}")
    if clips.crop < STRIDE or clips.crop % STRIDE:
        raise UsageError(f"a crop of {clips.crop} px is no multiple of {STRIDE}", hint="Use 160, 256 or 384")
    if clips.frames < 2:
        raise UsageError("a training clip needs at least 2 frames")
    if not 1 <= options.objects <= 1 + clips.pasted:
        raise UsageError(f"{options.objects} objects cannot be tracked in clips of 1 to {1 + clips.pasted}")
    if min(options.batch, options.steps, options.warmup) < 1:
        raise UsageError("batch, steps and warm-up must be at least 1")


def _load_init(name: str, size: str) -> STM:
    """Read the weights that a run starts from; raise UsageError when they are of another size."""
    model, card = read_named(name)
    if card.dims != SIZES[size]:
        known = [name for name, dims in SIZES.items() if dims == card.dims]
        kind = known[0] if known else str(card.dims)
        raise UsageError(f"these weights are {kind}, not {size}", path=find(name), hint="Train the size that they have")
    return model


def _sequences(root: Path) -> list[Clip]:
    clips = list_sequences(root, "davis2016")
    for clip in clips:
        if len(_truths(clip)) < 3:
            cause = "fewer than 3 frames, of which the first and last are not scored"
            raise UsageError(cause, path=clip.annotations, hint="Leave this clip out")
    return clips


# -- validation --------------------------------------------------------------------------------------------------------


def _score_if_due(trainer: Trainer, sequences: Sequence[Clip], files: "RunFiles") -> bool:
    """Validate when it is time to, and keep the averaged weights when they are the best so far."""
    since = trainer.seconds - trainer.validated
    if not sequences or since <= 0 or (since < trainer.options.validate_every and trainer.done < 1):
        return False
    trainer.score = validate(trainer.ema, sequences, size=trainer.options.validate_size)
    trainer.validated = trainer.seconds
    if trainer.score > trainer.best:
        trainer.best = trainer.score
        files.keep_weights(trainer)
    return True


def _clip_j(model: STM, clip: Clip, size: int, limit: int | None) -> float:
    truths = _truths(clip)
    first = next(iter(truths.values()))
    binary = is_binary(read_values(first))
    scores = []
    with open_source(clip.frames) as source:
        labels = read_labels(first, size=(source.info.width, source.info.height))
        segmenter = Segmenter(model, size=size)
        for frame, prediction in propagate(segmenter, islice(source, limit), _merge(labels)):
            values = read_values(truths[source.frame_name(frame.index)])
            truth = values > 0 if binary else _merge(values) > 0
            counts = np.ones_like(truth) if binary else values != VOID
            scores.append(float(jaccard(truth, (prediction.labels() > 0) & counts)))
    return float(np.mean(scores[1:-1]))


def _merge(labels: Labels) -> Labels:
    return ((labels > 0) & (labels != VOID)).astype(np.uint8)


def _truths(clip: Clip) -> dict[str, Path]:
    return {path.stem: path for path in sorted(clip.annotations.glob("*.png"))}


# -- the files of a run ------------------------------------------------------------------------------------------------


class RunFiles:
    """The output folder of a run: `last.pt`, `best.safetensors`, `curve.csv`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.last = path / "last.pt"
        self.weights = path / "best.safetensors"
        self.curve = path / "curve.csv"
        self.saved = 0.0  # seconds of training at the latest save

    def check(self, *, resume: bool, init: str | None) -> None:
        """Raise UsageError when a run would be lost, or there is none to go on with."""
        if self.path.exists() and not self.path.is_dir():
            raise UsageError("not a folder", path=self.path, hint="Choose another output folder")
        if resume and init:
            raise UsageError("--init starts a new run and --resume goes on with one", hint="Use one of them")
        if resume and not self.last.is_file():
            raise UsageError("no run to go on with", path=self.last, hint="Leave out --resume to start one")
        if not resume and (self.last.exists() or self.weights.exists()):
            hint = "Go on with it by --resume, or choose another output folder"
            raise UsageError("holds a run already", path=self.path, hint=hint)

    def load(self, trainer: Trainer) -> dict[str, Any]:
        """Read the state of the run that `trainer` is to go on with; raise TrainingError unless it is the same."""
        try:
            state = torch.load(self.last, map_location="cpu", weights_only=True)
        except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError, KeyError, OSError):
            raise TrainingError("damaged, or not a run", path=self.last, hint="start a new run") from None
        changed = _changes(state["options"], trainer)
        if state.get("stills", trainer.stills_print()) != trainer.stills_print():
            changed.append("the stills are others")
        if state.get("device", trainer.device.type) != trainer.device.type:
            changed.append(f"device was {state['device']} and is {trainer.device.type}")
        if changed:
            hint = "go on with what it was started with, or start a new run with --init"
            raise TrainingError(", ".join(changed), path=self.last, hint=hint)
        return dict(state)

    def begin(self, trainer: Trainer) -> None:
        """Make the folder, and leave in the curve only what belongs to the steps that `trainer` has made."""
        self.saved = trainer.seconds
        with _write_errors(self.path):
            self.path.mkdir(parents=True, exist_ok=True)
            rows = [row for row in read_curve(self.curve) if int(row[0]) <= trainer.step]
            with self.curve.open("w", newline="") as file:
                csv.writer(file).writerows([CURVE, *rows])

    def log(self, trainer: Trainer, *, score: float | None) -> None:
        """Add a line to the curve."""
        now = trainer.progress()
        numbers = f"{now.seconds:.1f}", f"{now.loss:.4f}", f"{now.iou:.4f}", f"{now.lr:.3e}"
        with _write_errors(self.curve), self.curve.open("a", newline="") as file:
            csv.writer(file).writerow([now.step, *numbers, "" if score is None else f"{score:.4f}"])

    def save(self, trainer: Trainer) -> None:
        """Write the state of the run, and the weights when no validation tells which are best."""
        part = self.path / ".last.pt.part"
        with _write_errors(self.last):
            torch.save(trainer.state(), part)
            os.replace(part, self.last)
        self.saved = trainer.seconds
        if trainer.best < 0:
            self.keep_weights(trainer)

    def keep_weights(self, trainer: Trainer) -> None:
        """Write the averaged weights, in half precision."""
        start = f", started from {trainer.init}" if trainer.init else ""
        origin = f"stm train: {trainer.step} steps on {len(trainer.clips.stills)} stills{start}"
        card = Card(trainer.model.dims, LICENCE, size=trainer.options.validate_size, origin=origin)
        save(self.weights, trainer.ema, card, dtype=torch.float16)


def _changes(before: dict[str, dict[str, Any]], trainer: Trainer) -> list[str]:
    """List the options that are not what they were, but for those that may change."""
    old = asdict(TrainOptions()) | before["train"] | asdict(ClipOptions()) | before["clips"]
    new = asdict(trainer.options) | asdict(trainer.clip_options)
    differing = [name for name in new if name not in FREE and new[name] != old[name]]
    return [f"{name} was {old[name]} and is {new[name]}" for name in differing]


@contextmanager
def _write_errors(path: Path) -> Iterator[None]:
    """Turn what a full or closed disk raises into one line."""
    try:
        yield
    except (OSError, RuntimeError) as error:  # torch reports a full disk by the latter
        reason = getattr(error, "strerror", None) or error
        raise WriteError(f"cannot be written ({reason})", path=path, hint="Free space, then --resume") from None
