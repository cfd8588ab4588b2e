"""One run over a clip: what an earlier one has done, the network for the other frames, and what each of them leaves."""

import json
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing
from functools import partial
from itertools import islice

import torch

from stmcli import __version__
from stmcli.device import waits_for_cores
from stmcli.earlier import holds, refuse_edited
from stmcli.images import is_whole_png
from stmcli.job import Opened
from stmcli.listeners import Listener
from stmcli.masks import MASKS, SOFT, read_values
from stmcli.matting import Matted
from stmcli.options import SOFT_STILLS, MattingOptions
from stmcli.outputs import Film, Writer
from stmcli.page import Pictures
from stmcli.report import UNFINISHED, Report, read_report
from stmcli.results import PAGE, STATE, clear, frame_names
from stmcli.saved import SavedPrediction
from stmcli.segmenter import Follower, State, propagate
from stmcli.segmenter.checkpoint import Checkpoint, Checkpoints
from stmcli.segmenter.directions import BackwardPass
from stmcli.segmenter.prediction import Prediction
from stmcli.signals import raise_lost
from stmcli.threads import Behind, Turns, Waiting, ahead
from stmcli.video import Frame

Writers = Sequence[Writer | Pictures]
Task = Callable[[], None]
Films = Sequence[tuple[Film, Behind[Task]]]  # each with its thread
Fitted = Matted | SavedPrediction


class Run:
    """Carry the given masks through a clip; decoding and writing run in threads of their own.

    On a GPU every film has one, and all run beside the network. On a CPU the network has all cores, and every step of
    it waits for the slowest of them: there masks are fitted to the picture between two steps, and after a few steps
    the threads have their turn. Soft alpha takes as long as the network, and is made beside it.
    """

    def __init__(self, opened: Opened, report: Report, before: Sequence[str], listener: Listener) -> None:
        """Take the report, which tells the device, and the names of what an earlier run has left beside its masks."""
        job, source, given = opened.job, opened.source, opened.given
        self._job, self._source, self._given, self._report = job, source, given, report
        self._before, self._listener, self.waiting = before, listener, Waiting()
        self._ids = opened.ids
        self._soft = job.keeps_soft
        self._has_begun = False
        self._may_go_on = job.can_go_on and job.segment.resume and not job.segment.overwrite
        self._kept: Checkpoint | None = None
        self._state = job.output / STATE
        key = {"stm": __version__, "identity": report.facts["identity"], "device": report.facts["device"]}
        direction = job.segment.direction
        self._back: BackwardPass | None = None
        if direction != "forward":  # then all masks have a say in every frame
            key["masks"] = report.facts["given"]
            self._back = BackwardPass(self._state / "backward", source, given, key)
        self._checkpoints = Checkpoints(self._state, key, given, keep=job.keeps_memory)

    @property
    def count(self) -> int | None:
        """How many frames the network and the writers go through, None if that is unknown."""
        count = self._source.count
        return count if count is None or self._back is None else count + self._back.count

    def find_kept(self) -> None:
        """Find how much of an earlier run can be kept, and note it in the report."""
        if not self._may_go_on:
            self._note_new_beginning()
            return
        self._kept = kept = self._checkpoints.latest(self._is_there)
        if kept is None:
            return
        refuse_edited([json.loads(line)["frame"] for line in kept.lines if not self._holds(line)], self._job.output)
        self._report.go_on(kept.lines, self._ids, seconds=kept.seconds)
        self._report.facts["kept_until"] = kept.frame
        self._report.notes.append(f"the results up to frame {kept.frame} were kept, the network went on from there")

    def _holds(self, line: str) -> bool:
        """Tell whether the mask of a frame is still the one that an earlier run has noted."""
        facts = json.loads(line)
        name = self._source.frame_name(facts["frame"])
        return holds(self._job.output / MASKS / f"{name}.png", facts)

    def _note_new_beginning(self) -> None:
        """Say why the network begins again where it was stopped before."""
        earlier, job = read_report(self._report.path), self._job
        unfinished = earlier.get("status") in UNFINISHED
        if unfinished and earlier.get("fingerprint") == self._report.facts["fingerprint"] and not job.can_go_on:
            self._report.notes.append("begun again: with soft films or skipped frames a run cannot go on in the middle")

    def finish(self) -> None:
        """Remove what only an unfinished run needs."""
        if not self._job.keeps_memory:
            shutil.rmtree(self._state, ignore_errors=True)

    def _begin(self) -> None:
        """Take the place of what was there before, now that there is something to put there.

        Until then nothing is lost of an earlier result, whatever fails. The report says so that the same command may go
        on after a kill.
        """
        if self._has_begun:
            return
        self._has_begun = True
        out, is_frame = self._job.output, frame_names(self._job.output, self._source)
        self._report.save("running")
        if not self._may_go_on:
            shutil.rmtree(self._state, ignore_errors=True)
        self._checkpoints.drop()
        kept = self._names(self._kept) if self._kept else []
        clear((out / name for name in (MASKS, PAGE, *self._before)), is_frame, keep=kept)

    def follow(self, segmenter: Follower, writers: Writers) -> None:
        """Hand every frame of the clip to the writers and to the report, and save checkpoints."""
        on_gpu = _is_beside(segmenter)
        turns = Turns(needed=waits_for_cores(_device(segmenter)) and not self._soft)
        if self._back:
            self._back.run(
                segmenter, self._on_frame, begin=self._begin, go_on=self._may_go_on, keep=self._job.can_go_on
            )
            segmenter.reset()
        with ExitStack() as stack:
            frames = stack.enter_context(closing(ahead(self._source, turns)))
            films = [writer for writer in writers if isinstance(writer, Film)] if on_gpu else []
            beside = [(film, stack.enter_context(Behind(_do))) for film in films]
            behind = stack.enter_context(Behind(_do, turns))  # ends before the films
            decoded = self.waiting.on("decoding", frames)
            others = [writer for writer in writers if writer not in films]
            if self._kept:
                for frame in islice(decoded, len(self._kept.lines)):
                    behind.put(partial(self._keep, others, beside, frame))
                    self._on_frame(frame.index)
                segmenter.restore(self._kept.state)
            for frame, prediction in self._predictions(segmenter, decoded):
                due = self._job.can_go_on and segmenter.object_ids and self._checkpoints.due(frame.index)
                matted = Matted(frame.rgb, prediction, options=MattingOptions(refine=self._job.export.refine))
                fitted = matted if on_gpu or self._soft else _settled(matted)
                with self.waiting.while_("writing"):
                    state = segmenter.state() if due else None
                    behind.put(partial(self._write, others, beside, frame, fitted, state))
                self._on_frame(frame.index)
        self._begin()  # where all frames were kept

    def _on_frame(self, number: int) -> None:
        raise_lost()
        self._listener.frame(number)

    def _predictions(self, segmenter: Follower, frames: Iterator[Frame]) -> Iterator[tuple[Frame, Prediction]]:
        if self._back is None:
            first, *later = self._given
            return propagate(segmenter, frames, first.labels(), later=later)
        if self._job.segment.direction == "both":
            return self._back.blended(segmenter, frames)
        device, found = _device(segmenter), self._back.at
        return ((frame, found(frame, device)) for frame in frames)

    def _write(self, writers: Writers, films: Films, frame: Frame, fitted: Fitted, state: State | None) -> None:
        self._begin()
        for film, thread in films:
            thread.put(partial(film.write, frame, fitted))  # type: ignore[arg-type]  # films of alpha get it
        for writer in writers:
            writer.write(frame, fitted)
        self._report.write(frame, fitted)
        if state:
            self._checkpoints.save(frame.index, state, self._report.lines, seconds=self._report.seconds)

    def _keep(self, writers: Writers, films: Films, frame: Frame) -> None:
        mask = self._job.output / MASKS / f"{self._source.frame_name(frame.index)}.png"
        objects = json.loads(self._report.lines[self._report.kept])["objects"]
        sure = tuple(objects[str(number)]["confidence"] for number in self._ids)
        saved = SavedPrediction(self._ids, read_values(mask), sure=sure)
        for film, thread in films:
            thread.put(partial(film.keep, frame, saved))  # type: ignore[arg-type]  # soft films cannot go on
        for writer in writers:
            writer.keep(frame, saved)
        self._report.keep(frame)

    def _is_there(self, found: Checkpoint) -> bool:
        """Tell whether all images of the frames up to a checkpoint are there, and whole."""
        stills = [output.name for output in self._job.outputs(self._ids) if output.kind in (SOFT, *SOFT_STILLS)]
        folders = [self._job.output / name for name in (MASKS, *stills)]
        return all(is_whole_png(folder / f"{name}.png") for folder in folders for name in self._names(found))

    def _names(self, found: Checkpoint) -> list[str]:
        return [self._source.frame_name(json.loads(line)["frame"]) for line in found.lines]


def _settled(matted: Matted) -> SavedPrediction:
    """Return a frame with its masks fitted, and without the probabilities that nothing else is made of."""
    return SavedPrediction(matted.object_ids, matted.labels(), sure=matted.confidence(), cut=matted.cut)


def _is_beside(segmenter: Follower) -> bool:
    """Tell whether the network leaves the cores to others."""
    return _device(segmenter).type == "cuda"


def _device(segmenter: Follower) -> torch.device:
    return segmenter.model.device


def _do(task: Task) -> None:
    task()
