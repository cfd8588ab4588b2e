"""The way back through a clip, from later masks to earlier frames, and how it is blended with the way forward."""

import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from stmcli.device import waits_for_cores
from stmcli.errors import VideoError
from stmcli.files import write_whole, writing
from stmcli.given import GivenMask, from_first, ids_of
from stmcli.lines import Lines
from stmcli.segmenter.checkpoint import Checkpoint, Checkpoints
from stmcli.segmenter.follower import Follower, propagate
from stmcli.segmenter.prediction import Prediction
from stmcli.segmenter.segmenter import TINY
from stmcli.threads import Turns, ahead
from stmcli.video import Frame, Source, frames_backward

TOP = 2**16 - 1  # a probability of 1, as it is stored
LEAST_SURE = 0.5  # an object that a pass does not see is no proof against it


class BackwardPass:
    """Carry the given masks back through a clip, and keep what comes out in files until the writers come by.

    A frame takes two bytes a pixel and object, packed. The pass goes on where a killed run left it. A line of its
    checkpoints is the number of a frame, and behind it where a new scene begins if the pass saw a cut there.
    """

    def __init__(self, folder: Path, source: Source, given: Sequence[GivenMask], key: Mapping[str, Any]) -> None:
        self._folder, self._source, self._given, self._ids = folder, source, given, ids_of(given)
        self._first, *self._later = from_first(given[::-1])
        self._checkpoints = Checkpoints(folder, key, ())
        self._scenes: set[int] = set()  # frames that begin one, in the order of the clip

    @property
    def count(self) -> int:
        """How many frames it has."""
        first = self._source.info.first_chosen
        return sum(first <= number <= self._first.frame for number in self._source.times())

    def run(
        self,
        segmenter: Follower,
        on_frame: Callable[[int], None],
        *,
        begin: Callable[[], None],
        go_on: bool,
        keep: bool,
    ) -> None:
        """Segment from the last mask to the first frame of the clip; `begin` is called before a frame is stored.

        Go on where another run was stopped, and keep what a later one can go on from, if it may be so.
        """
        last, lines = self._first.frame, Lines()
        after = last  # the frame that the segmenter saw before
        if kept := self._checkpoints.latest(self._is_stored) if go_on else None:
            last, after = kept.frame - 1, kept.frame
            segmenter.restore(kept.state)
            for line in kept.lines:
                lines.append(line)
                number, *begun = map(int, line.split())
                self._scenes.update(begun)
                on_frame(number)
        frames = frames_backward(self._source, first=self._source.info.first_chosen, last=last)
        before: Prediction | None = None
        turns = Turns(needed=waits_for_cores(segmenter.model.device))
        with closing(ahead(frames, turns)) as decoded:
            for frame, prediction in propagate(segmenter, decoded, self._first.labels(), later=self._later):
                begin()
                self._checkpoints.drop()
                self._store(frame.index, prediction)
                begun = []
                if prediction is not before:  # one that is repeated, for a corrupt frame, tells of no cut again
                    begun = [after] if prediction.cut else []
                    after, before = frame.index, prediction
                self._scenes.update(begun)
                lines.append(" ".join(map(str, (frame.index, *begun))))
                if keep and self._checkpoints.due(frame.index):
                    self._checkpoints.save(frame.index, segmenter.state(), lines)
                on_frame(frame.index)

    def at(self, frame: Frame, device: torch.device) -> Prediction:
        """Return what was found for a frame. Raises VideoError when it did not come up."""
        file = self._file(frame.index)
        if not file.is_file():
            cause = f"frame {frame.index} did not come up on the way back"
            raise VideoError(cause, path=self._source.info.path, hint="Convert the clip, or go forward only.")
        stored = self._stored(file)
        if stored is None:
            raise VideoError("damaged", path=file, hint="Run the same command again: it is computed again then.")
        sure, levels = stored
        objects = torch.from_numpy(levels.astype(np.float32) / TOP).to(device)  # (N, H, W)
        ground = (1 - objects.sum(0, keepdim=True)).clamp(min=0)
        here = [self._ids if mask.whole else mask.ids for mask in self._given if mask.frame == frame.index]
        measured = None if np.isnan(sure).any() else torch.from_numpy(sure.copy()).to(device)
        cut, told = frame.index in self._scenes, here[0] if here else ()
        return Prediction(torch.cat([ground, objects]), self._ids, measured, cut, told)

    def blended(self, segmenter: Follower, frames: Iterator[Frame]) -> Iterator[tuple[Frame, Prediction]]:
        """Carry the masks forward and yield each frame with what both ways say about it."""
        device = segmenter.model.device
        first, *later = from_first(self._given)
        for frame in frames:
            if frame.index >= first.frame:
                frames = chain([frame], frames)
                break
            yield frame, self.at(frame, device)
        for frame, forward in propagate(segmenter, frames, first.labels(), later=later):
            between = frame.index < self._first.frame
            both = self._blend(frame.index, forward, self.at(frame, device)) if between else forward
            yield frame, replace(both, cut=frame.index in self._scenes) if frame.index == first.frame else both

    @torch.inference_mode()
    def _blend(self, index: int, forward: Prediction, backward: Prediction) -> Prediction:
        both = zip(self._ids, forward.confidence(), backward.confidence(), strict=True)
        weights = [forward_weight(self._given, index, number, sure=pair) for number, *pair in both]
        weight = torch.tensor(weights, device=forward.prob.device)  # (N,)
        objects = torch.lerp(backward.prob[1:], forward.prob[1:], weight.view(-1, 1, 1))  # (N, H, W)
        prob = torch.cat([(1 - objects.sum(0, keepdim=True)).clamp(min=0), objects])
        prob = prob / prob.sum(0).clamp(min=TINY)
        measured = None
        if forward.measured is not None and backward.measured is not None:
            there = prob[1:].amax((1, 2)) > 0.5  # as either way asks for: neither's mask may be left
            measured = torch.lerp(backward.measured, forward.measured, weight) * there
        return Prediction(prob, self._ids, measured, forward.cut, forward.given)

    def _store(self, index: int, prediction: Prediction) -> None:
        objects = prediction.prob[1:].float().cpu().numpy()
        none = torch.full((len(objects),), torch.nan)
        sure = (none if prediction.measured is None else prediction.measured.float()).cpu().numpy()
        packed = zlib.compress(sure.tobytes() + np.rint(objects * TOP).astype(np.uint16).tobytes(), 1)
        with writing(self._folder):
            self._folder.mkdir(parents=True, exist_ok=True)
        write_whole(self._file(index), packed)

    def _stored(self, file: Path) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.uint16]] | None:
        """Return the confidence in a frame's objects, (N,), NaN if there is none, and their probabilities, (N, H, W).

        None when its file is missing or damaged.
        """
        try:
            content = zlib.decompress(file.read_bytes())
            info, count = self._source.info, len(self._ids)
            sure = np.frombuffer(content, np.float32, count)
            return sure, np.frombuffer(content, np.uint16, offset=sure.nbytes).reshape(count, info.height, info.width)
        except (OSError, ValueError, zlib.error):
            return None

    def _file(self, index: int) -> Path:
        return self._folder / f"{index}.prob"

    def _is_stored(self, found: Checkpoint) -> bool:
        return all(self._stored(self._file(int(line.split()[0]))) is not None for line in found.lines)


def forward_weight(given: Sequence[GivenMask], index: int, number: int, *, sure: Sequence[float]) -> float:
    """Return how much the way forward counts for an object in a frame, 0..1; `sure` is how sure either way is.

    It is 1 where a mask says something about the object, 0 before the first such mask, and falls from the one before
    the frame to the one after it.
    """
    told = [mask.frame for mask in given if mask.whole or number in mask.ids]
    before, after = [at for at in told if at <= index], [at for at in told if at > index]
    if not before or not after:
        return float(bool(before))
    near = (after[0] - index) / (after[0] - before[-1])
    ahead_of_it, behind_it = (max(one, LEAST_SURE) for one in sure)
    return near * ahead_of_it / (near * ahead_of_it + (1 - near) * behind_it)
