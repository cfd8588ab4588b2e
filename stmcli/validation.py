"""Score a network on whole clips while it trains."""

import copy
from collections.abc import Sequence
from itertools import islice
from pathlib import Path

import numpy as np
import torch

from stmcli.device import pick_dtype
from stmcli.errors import UsageError
from stmcli.evaluate import Sequence as Clip
from stmcli.evaluate import list_sequences
from stmcli.masks import VOID, Labels, is_binary, read_labels, read_values
from stmcli.metrics import jaccard
from stmcli.model import STM
from stmcli.options import Fit
from stmcli.segmenter import Segmenter, propagate
from stmcli.video import open_source


def validation_clips(root: Path) -> list[Clip]:
    """List the clips of a DAVIS root that can be scored. Raises UsageError."""
    clips = list_sequences(root, "davis2016")
    for clip in clips:
        if len(_truths(clip)) < 3:
            cause = "fewer than 3 frames, of which the first and last are not scored"
            raise UsageError(cause, path=clip.annotations, hint="Leave this clip out")
    return clips


def validate(model: STM, sequences: Sequence[Clip], *, size: int, limit_frames: int | None = None) -> float:
    """Segment whole clips from their first mask and return the mean over clips of mean J, 0 to 1.

    As DAVIS 2016 defines it: objects merged, first and last frame left out, void ignored. `size` is the shorter
    side inside the network, px. The network is copied to the precision of inference.
    """
    device = next(model.parameters()).device
    fast = copy.deepcopy(model).to(device, pick_dtype("auto", device)).eval().requires_grad_(False)
    fast = fast.to(memory_format=torch.channels_last)
    return float(np.mean([_clip_j(fast, clip, size, limit_frames) for clip in sequences]))


def _clip_j(model: STM, clip: Clip, size: int, limit: int | None) -> float:
    truths = _truths(clip)
    first = next(iter(truths.values()))
    binary = is_binary(read_values(first))
    scores = []
    with open_source(clip.frames) as source:
        labels = read_labels(first, size=(source.info.width, source.info.height))
        segmenter = Segmenter(model, fit=Fit(size=size))
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
