"""How long the whole command takes, beside each of its parts alone, in one run on one machine."""

import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

import torch

from stmcli.given import GivenMask
from stmcli.job import Job, Opened, open_job
from stmcli.kinds import open_writers, opened_writers
from stmcli.listeners import unheard
from stmcli.masks import MASKS
from stmcli.matting import Matted
from stmcli.model import STM
from stmcli.options import BenchOptions, MattingOptions
from stmcli.outputs import MaskWriter, Writer
from stmcli.pipeline import segment_video
from stmcli.segmenter import propagate
from stmcli.segmenter.ensemble import make_follower
from stmcli.segmenter.prediction import Prediction
from stmcli.video import Frame
from stmcli.weights import load_model

DECODING, NETWORK, FITTING = "decoding", "network", "fitting"


@dataclass(frozen=True)
class Timing:
    """What was measured: seconds, the median of all rounds."""

    frames: int
    device: str
    parts: dict[str, float]  # each alone: decoding, the network, fitting masks to the picture, every output
    whole: float  # the command, all of it together

    @property
    def against_sum(self) -> float:
        """Return the whole as a multiple of all parts together: where they share the cores."""
        return self.whole / sum(self.parts.values())

    @property
    def against_longest(self) -> float:
        """Return the whole as a multiple of its longest part: where they run beside each other."""
        return self.whole / max(self.parts.values())


def bench_command(
    job: Job,
    *,
    frames: int = BenchOptions.clip_frames,
    rounds: int = BenchOptions.rounds,
    on_round: Callable[[int], None] = unheard,
) -> Timing:
    """Measure segmenting the first `frames` frames of a clip: each part alone and then the whole, `rounds` times.

    One round comes first that is not counted. The network is loaded before; what is written goes to a folder
    that is removed. Raises StmError.
    """
    with tempfile.TemporaryDirectory() as folder:
        return _bench(replace(job, output=Path(folder)), frames, rounds, on_round)


def _bench(job: Job, frames: int, rounds: int, on_round: Callable[[int], None]) -> Timing:
    model = load_model(job.network)
    with open_job(job) as opened:
        given, clip = opened.given, list(islice(opened.source, frames))
    job = replace(job, segment=replace(job.segment, end=clip[-1].index))
    seen: list[dict[str, float]] = []
    for number in range(rounds + 1):
        on_round(number)
        seen.append(_round(job, model, given, clip))
    median = {name: statistics.median(times[name] for times in seen[1:]) for name in seen[0]}
    whole = median.pop("whole")
    return Timing(len(clip), model.device.type, median, whole)


def _round(job: Job, model: STM, given: Sequence[GivenMask], clip: Sequence[Frame]) -> dict[str, float]:
    times: dict[str, float] = {}
    with tempfile.TemporaryDirectory(dir=job.output) as folder:
        with open_job(job) as opened, _timed(times, DECODING):
            for _ in opened.source:
                pass
        with _timed(times, NETWORK):
            predictions = _predict(job, model, given, clip)
        with _timed(times, FITTING):
            fitted = _fit(job, clip, predictions)
        with open_job(job) as opened:
            on_cuda = model.device.type == "cuda"
            for name, writer in _outputs(opened, Path(folder) / "parts", on_cuda=on_cuda):
                with _timed(times, name):
                    _write(writer, clip, fitted)
        del fitted, predictions
        with _timed(times, "whole"):
            segment_video(replace(job, output=Path(folder) / "whole"), load=lambda: model)
    return times


def _predict(job: Job, model: STM, given: Sequence[GivenMask], clip: Sequence[Frame]) -> list[Prediction]:
    follower = make_follower(model, job.network, job.memory)
    predictions = [prediction for _, prediction in propagate(follower, clip, given[0].labels(), later=given[1:])]
    if model.device.type == "cuda":
        torch.cuda.synchronize(model.device)  # which need not be the first
    return predictions


def _outputs(opened: Opened, folder: Path, *, on_cuda: bool) -> Iterator[tuple[str, Writer]]:
    job, source = opened.job, opened.source
    yield MASKS, MaskWriter(folder / MASKS, source.frame_name)
    for output in job.outputs(opened.ids):
        bits = job.segment.soft_bits
        unopened = open_writers([output], folder, source, job.export, soft_bits=bits, on_cuda=on_cuda)
        with opened_writers(unopened) as writers:
            yield output.name, writers[0]


def _fit(job: Job, clip: Sequence[Frame], predictions: Sequence[Prediction]) -> list[Matted]:
    """Return what writers take of each frame, with the labels that it has."""
    matting = MattingOptions(refine=job.export.refine)
    fitted = [Matted(frame.rgb, found, options=matting) for frame, found in zip(clip, predictions, strict=True)]
    for matted in fitted:
        matted.labels()
    return fitted


def _write(writer: Writer, clip: Sequence[Frame], fitted: Sequence[Matted]) -> None:
    for frame, matted in zip(clip, fitted, strict=True):
        writer.write(frame, matted)
    writer.close()


@contextmanager
def _timed(times: dict[str, float], name: str) -> Iterator[None]:
    began = time.perf_counter()
    yield
    times[name] = time.perf_counter() - began
