"""The clips of a run: for any step those of its kind, as a function of the seed, the process and the step alone."""

import hashlib
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import Any

import numpy as np
import torch

from stmcli.clips.batch import Clips
from stmcli.clips.footage import VideoClips
from stmcli.clips.schedule import clip_length, largest_skip
from stmcli.clips.stills import Still
from stmcli.clips.synthesis import StillClips
from stmcli.clips.videos import Videos
from stmcli.errors import UsageError
from stmcli.machine import usable_cores
from stmcli.options import ClipOptions

Make = Callable[[int, float], Clips]


class ClipMaker:
    """Makes the clips of every step of a run, of stills or of videos; nothing of it need be kept to go on.

    `rank` tells the processes of a run apart: each has clips of its own, of the same kind in the same step.
    """

    def __init__(
        self,
        stills: Sequence[Still],
        sets: Sequence[Videos],
        options: ClipOptions,
        *,
        device: torch.device | str = "cpu",
        seed: int = 0,
        rank: int = 0,
        processes: int = 1,
    ) -> None:
        if not stills and not sets:
            raise UsageError("nothing to train on", hint="Give stills, or videos by --video")
        self.options = options
        self.device = torch.device(device)
        self.seed, self.rank = seed, rank
        self.stills = StillClips(stills, options) if stills else None
        self.videos = VideoClips(sets, options, device=device, processes=processes) if sets else None

    def batch(self, size: int, objects: int, *, step: int, done: float) -> Clips:
        """Make the clips of a step, at which the share `done` of the run is over. Raises TrainingError."""
        length = clip_length(self.options, done)
        if self._of_stills(step):
            assert self.stills is not None
            self.stills.chance.reseed(self.seed, self.rank, step)
            return self.stills.batch(size, min(objects, 1 + self.options.pasted), frames=length)
        assert self.videos is not None
        self.videos.chance.reseed(self.seed, self.rank, step)
        return self.videos.batch(size, objects, frames=length, skip=largest_skip(self.options, done))

    def _of_stills(self, step: int) -> bool:
        if self.stills is None or self.videos is None:
            return self.videos is None
        return np.random.default_rng((self.seed, step)).random() < self.options.stills_share

    def facts(self) -> dict[str, Any]:
        """Say what the clips are made of, so that another run's data can be told from it."""
        sets = self.videos.sets if self.videos else ()
        return {
            "stills": _print_stills(self.stills.stills if self.stills else ()),
            "videos": [(one.root.name, one.weight, len(one.videos), _print_videos(one)) for one in sets],
        }

    def summary(self) -> str:
        """Say in a few words what the clips are made of."""
        parts = [f"{len(self.stills.stills)} stills"] if self.stills else []
        sets = self.videos.sets if self.videos else ()
        return ", ".join([*parts, *(f"{len(one.videos)} videos of {one.root.name}" for one in sets)])


def _print_stills(stills: Sequence[Still]) -> str:
    """Tell sets of stills apart by what is where in them, not by their pixels."""
    return _hash([(still.group, tuple(still.pixels.shape), still.boxes) for still in stills])


def _print_videos(one: Videos) -> str:
    return _hash([(video.name, [shot.number for shot in video.shots]) for video in one.videos])


def _hash(facts: object) -> str:
    return hashlib.sha256(repr(facts).encode()).hexdigest()


class Ahead:
    """Makes the clips of the next step in a thread while those of this one are trained on.

    On CUDA in a stream of its own too: making clips waits for the device now and then, but not for the training.
    """

    def __init__(self, make: Make, device: torch.device) -> None:
        self._make = make
        self._stream = torch.cuda.Stream(device, priority=-1) if device.type == "cuda" else None
        self._thread = ThreadPoolExecutor(1, "clips")
        self._next: tuple[int, Future[Clips]] | None = None

    def __call__(self, step: int, done: float, *, then: float) -> Clips:
        """Return the clips of `step`, and begin with those of the next, at which `then` will be done."""
        ready, self._next = self._next, None
        mine = ready[1] if ready and ready[0] == step else self._thread.submit(self._made, step, done)
        clips = mine.result()
        if then < 1:
            self._next = step + 1, self._thread.submit(self._made, step + 1, then)
        if self._stream:
            clips.keep_for(torch.cuda.current_stream(self._stream.device))
        return clips

    def _made(self, step: int, done: float) -> Clips:
        if self._stream is None:
            return self._make(step, done)
        with torch.cuda.stream(self._stream):
            clips = self._make(step, done)
        self._stream.synchronize()
        return clips

    def wait(self) -> None:
        """Wait until the next clips are made."""
        if self._next is not None:
            wait([self._next[1]])

    def close(self) -> None:
        """End the thread."""
        self._thread.shutdown(cancel_futures=True)


def has_core_to_spare(device: torch.device, processes: int = 1) -> bool:
    """Tell whether a thread beside the training has a core to run on, when so many processes share them."""
    return usable_cores() // processes > (1 if device.type == "cuda" else torch.get_num_threads())
