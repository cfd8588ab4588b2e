"""Train a network on clips made of stills, of videos, or of both: the run from its options to its files."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from stmcli.clips import CANVAS, ClipMaker, Videos, load_stills, load_videos
from stmcli.clips.schedule import clip_length
from stmcli.device import pick_device
from stmcli.errors import Interrupted, NoRoomError, UsageError
from stmcli.evaluate import Clip
from stmcli.listeners import unheard
from stmcli.model import SIZES, STM
from stmcli.model.stm import STRIDE
from stmcli.options import ClipOptions, NetworkOptions, TrainOptions
from stmcli.registry import find
from stmcli.results import lock
from stmcli.segmenter.guard import device_explained
from stmcli.signals import raise_lost
from stmcli.train.curve import draw_curve
from stmcli.train.ranks import joined, leads
from stmcli.train.runfiles import RunFiles
from stmcli.train.trainer import Progress, Trainer, new_model
from stmcli.train.validation import validate, validation_clips, what_scores
from stmcli.weights import read_named

__all__ = ["Progress", "Result", "train", "validate"]

LOG_EVERY = 50  # steps
SAVE_EVERY = 300.0  # seconds


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
    videos: Sequence[tuple[Path, float]] = (),
    options: TrainOptions | None = None,
    clips: ClipOptions | None = None,
    device: torch.device | str = NetworkOptions.device,
    validation: Path | None = None,
    init: str | None = None,
    resume: bool = False,
    on_step: Callable[[Progress], None] = unheard,
) -> Result:
    """Train a network on clips of `stills` and `videos` and keep the run in the folder `output`.

    `videos` are datasets in the DAVIS or YouTube-VOS layout and their weights. The folder gets `last.pt` (all that
    `resume` needs; kept at any interruption too), `best.safetensors`, `curve.csv` and `curve.png`. `validation` is
    a dataset in the DAVIS layout. `init` names weights that a new run starts from. Under `torchrun` the first
    process writes, validates and calls `on_step`. Raises UsageError for inputs that do not fit and for an `output`
    that holds a run already, LockedError when another run works in it, TrainingError when a resumed run had other
    options or data or the loss is not a number, Interrupted, when it was stopped at a step, to say how to go on.
    """
    options, clips = options or TrainOptions(), clips or ClipOptions()
    check_options(options, clips, stills=bool(stills), videos=bool(videos))
    files = RunFiles(output)
    files.check(resume=resume, init=init)
    sequences = validation_clips(validation) if validation else []
    with (
        lock(output) if leads() else nullcontext(),
        build_trainer(stills, videos, options, clips, device, init, sequences) as trainer,
        closing(trainer),
    ):
        if resume:
            trainer.restore(files.load(trainer))
        with device_explained(trainer.device, "Use a smaller --batch or --crop."):
            if trainer.ranks.leads:
                try:
                    _lead(trainer, sequences, files, on_step)
                except KeyboardInterrupt as stop:
                    raise _interrupted(trainer, files, stop) from None
                except NoRoomError as error:
                    if files.last.is_file():
                        error.hint = "Make room, then go on by --resume"
                    raise
            while trainer.done < 1:  # the others follow
                trainer.advance()
    best = trainer.best if trainer.best >= 0 else None
    return Result(files.weights, trainer.step, trainer.seconds, trainer.loss, trainer.iou, best)


def _lead(trainer: Trainer, sequences: Sequence[Clip], files: RunFiles, on_step: Callable[[Progress], None]) -> None:
    """Train to the end, validate when it is time to, and keep the files of the run."""
    files.begin(trainer)
    try:
        if _score_if_due(trainer, sequences, files):  # perhaps the run was cut short while it was validated
            files.log(trainer, score=trainer.score)
            files.save(trainer)
        while trainer.done < 1:
            raise_lost()
            trainer.advance()
            scored = _score_if_due(trainer, sequences, files)
            if scored or trainer.done >= 1 or trainer.step % LOG_EVERY == 0:
                files.log(trainer, score=trainer.score if scored else None)
            saved = scored or trainer.done >= 1 or trainer.seconds - files.saved >= SAVE_EVERY
            if saved:
                if trainer.best < 0:
                    trainer.measure_ranges()  # for the weights that are saved too
                files.save(trainer)
            on_step(replace(trainer.progress(), saved=saved))
    finally:
        if trainer.whole and trainer.seconds > files.saved:
            files.save(trainer)
    draw_curve(files.curve, files.path / "curve.png")


def _interrupted(trainer: Trainer, files: RunFiles, stop: KeyboardInterrupt) -> Interrupted:
    """Return what to say of a run that was stopped: how far it is, and how it goes on."""
    hint = "Go on by --resume" if files.last.is_file() else "Nothing was saved: run the same command again"
    return Interrupted(f"stopped after {trainer.step} steps", path=files.path, by=stop, hint=hint)


def _score_if_due(trainer: Trainer, sequences: Sequence[Clip], files: RunFiles) -> bool:
    """Validate when it is time to, and keep the averaged weights when they are the best so far."""
    since = trainer.seconds - trainer.validated
    if not sequences or since <= 0 or (since < trainer.options.validate_every and trainer.done < 1):
        return False
    trainer.score = validate(trainer.ema, sequences, size=trainer.options.validate_size)
    if trainer.score > trainer.best:
        trainer.measure_ranges()
        files.keep_weights(trainer)  # before they count as kept: it may be stopped, or the disk be full
        trainer.best = trainer.score
    trainer.validated = trainer.seconds
    return True


# -- what a run needs before it starts ---------------------------------------------------------------------------------


def check_options(options: TrainOptions, clips: ClipOptions, *, stills: bool, videos: bool) -> None:
    """Raise UsageError for options that cannot work with what there is to train on."""
    if not stills and not videos:
        raise UsageError("nothing to train on", hint="Give stills, or videos by --video")
    if options.size not in SIZES:
        raise UsageError(f"no network size {options.size!r}", hint=f"The sizes are {', '.join(SIZES)}")
    if clips.crop < STRIDE or clips.crop % STRIDE:
        raise UsageError(f"a crop of {clips.crop} px is no multiple of {STRIDE}", hint="Use 160, 256 or 384")
    if min(clips.frames, clip_length(clips, 1.0)) < 2:
        raise UsageError("a training clip needs at least 2 frames")
    if options.objects < 1 or (options.objects > 1 + clips.pasted and not videos):
        cause = f"{options.objects} objects cannot be tracked in clips of 1 to {1 + clips.pasted}"
        raise UsageError(cause, hint="Use a smaller --objects")
    if min(options.batch, options.steps, options.warmup) < 1:
        raise UsageError("batch, steps and warm-up must be at least 1")
    if not 0 <= clips.stills_share <= 1:
        raise UsageError(f"a share of {clips.stills_share} stills is not between 0 and 1")


@contextmanager
def build_trainer(
    stills: Sequence[Path],
    videos: Sequence[tuple[Path, float]],
    options: TrainOptions,
    clips: ClipOptions,
    device: torch.device | str,
    init: str | None = None,
    sequences: Sequence[Clip] = (),
) -> Iterator[Trainer]:
    """Read what a run needs and join its other processes for the block. Raises UsageError, TrainingError."""
    model = _first_model(init, options)  # before what takes long: its weights may be none
    sets = _load_videos(videos, sequences)
    with joined(pick_device(str(device))) as (ranks, where):
        images = load_stills(stills, device=where, canvas=max(CANVAS, clips.crop))
        maker = ClipMaker(images, sets, clips, device=where, seed=options.seed, rank=ranks.rank, processes=ranks.local)
        trainer = Trainer(model, maker, options, ranks)
        trainer.init, trainer.scored_on = init or "", what_scores(sequences)
        yield trainer


def _load_videos(videos: Sequence[tuple[Path, float]], sequences: Sequence[Clip]) -> list[Videos]:
    """List the videos to train on; raise UsageError when one of them is validated on."""
    sets = [load_videos(root, weight) for root, weight in videos]
    trained = {shot.image.path.parent.resolve() for one in sets for video in one.videos for shot in video.shots[:1]}
    for clip in sequences:
        if clip.frames.resolve() in trained:
            raise UsageError("is trained on and validated on", path=clip.frames, hint="Name it in ImageSets/*/val.txt")
    return sets


def _first_model(init: str | None, options: TrainOptions) -> STM:
    """Build the network that a run starts from. Raises UsageError for weights of another size."""
    if init:
        return _load_init(init, options.size)
    return new_model(options.size, seed=options.seed, equal_start=options.equal_start)


def _load_init(name: str, size: str) -> STM:
    """Read the weights that a run starts from; raise UsageError when they are of another size."""
    model, card = read_named(name)
    if card.dims != SIZES[size]:
        known = [name for name, dims in SIZES.items() if dims == card.dims]
        kind = known[0] if known else str(card.dims)
        raise UsageError(f"these weights are {kind}, not {size}", path=find(name), hint="Train the size that they have")
    return model
