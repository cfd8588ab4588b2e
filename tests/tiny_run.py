"""Train a tiny network in a process of its own: python tiny_run.py FOLDER OUTPUT [--resume] [--die STEP] [--alike].

FOLDER holds `stills` and `videos`. With --die the process kills itself after that step, and under torchrun only the
second one does. With --alike all processes of a run have the same clips.
"""

import os
import signal
import sys
from pathlib import Path

import torch

from stmcli.model import SIZES, Dims
from stmcli.options import ClipOptions, TrainOptions
from stmcli.train import loop as job
from stmcli.train.trainer import Trainer

TINY = Dims(trunk="resnet18", key=8, value=16, decoder=8)
OPTIONS = TrainOptions(size="tiny", batch=2, objects=2, steps=6, warmup=2, validate_size=32)
CLIPS = ClipOptions(crop=32, frames=3, frames_end=4, skip=3, stills_share=0.5)


def run(folder: Path, output: Path, *, clips: ClipOptions = CLIPS, resume: bool = False, on_step=lambda _: None):
    SIZES["tiny"] = TINY
    return job.train(
        [folder / "stills"],
        output,
        videos=[(folder / "videos", 1.0)],
        options=OPTIONS,
        clips=clips,
        device="cpu",
        resume=resume,
        on_step=on_step,
    )


def main(words: list[str]) -> None:
    torch.set_num_threads(1)
    folder, output = Path(words[0]), Path(words[1])
    job.SAVE_EVERY = 0.0
    fatal = int(words[words.index("--die") + 1]) if "--die" in words else -1
    advance = Trainer.advance

    def watched(trainer: Trainer) -> None:
        if "--alike" in words:
            trainer.maker.rank = 0
        advance(trainer)
        if os.environ.get("RANK"):
            torch.save(trainer.state(), output.with_name(f"rank{trainer.ranks.rank}.pt"))
        if trainer.step == fatal and trainer.ranks.rank == trainer.ranks.size - 1:
            os.kill(os.getpid(), signal.SIGKILL)

    Trainer.advance = watched
    run(folder, output, resume="--resume" in words)


if __name__ == "__main__":
    main(sys.argv[1:])
