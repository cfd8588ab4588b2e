"""Score a network on whole clips while it trains."""

import copy
import hashlib
from collections.abc import Sequence
from itertools import dropwhile
from pathlib import Path

import numpy as np
import torch

from stmcli.device import pick_dtype
from stmcli.errors import UsageError, listed
from stmcli.evaluate import Clip, list_sequences
from stmcli.evaluate.layout import by_frame, frame_key, has_list, mask_files
from stmcli.evaluate.scoring import Truth, first_shown
from stmcli.images import check_size, image_size
from stmcli.masks import VOID, read_values
from stmcli.metrics import jaccard
from stmcli.model import STM
from stmcli.options import Fit
from stmcli.segmenter import Segmenter, propagate
from stmcli.video import open_source


def validation_clips(root: Path) -> list[Clip]:
    """List the clips of a DAVIS root to validate on: those of its first list for validation that is there, or all.

    Raises UsageError and VideoError for a clip that cannot be scored: from its first mask with an object on every
    frame needs a mask of its size.
    """
    protocol = next((name for name in ("davis2016", "davis2017") if has_list(root, name)), "davis2016")
    clips = list_sequences(root, protocol)
    for clip in clips:
        _check(clip)
    return clips


def what_scores(clips: Sequence[Clip]) -> str:
    """Tell sets of clips apart by their masks' names: scores of one mean nothing beside those of another."""
    facts = [(clip.name, [path.stem for path in mask_files(clip.annotations)]) for clip in clips]
    return hashlib.sha256(repr(facts).encode(errors="surrogateescape")).hexdigest() if clips else ""


def _check(clip: Clip) -> None:
    """Raise UsageError, VideoError for a clip that cannot be scored, by the names and headers of its files."""
    truths = _truths(clip)
    first = next(iter(truths))
    with open_source(clip.frames) as source:
        size = source.info.width, source.info.height
        frames = [source.frame_name(number) for number in source.times()]
    for path in truths.values():
        check_size(path, image_size(path), size, "the clip")
    if first not in map(frame_key, frames):
        raise UsageError("no frame for this mask", path=truths[first], hint=f"Complete or leave out {clip.frames}")
    frames = [*dropwhile(lambda name: frame_key(name) != first, frames)]
    if missing := [name for name in frames if frame_key(name) not in truths]:
        cause = f"no mask for frame {listed(missing, 1)}"
        raise UsageError(cause, path=clip.annotations, hint="Complete it, or leave this clip out")
    if len(frames) < 3:
        cause = "fewer than 3 frames from the first object on, of which the first and last are not scored"
        raise UsageError(cause, path=clip.annotations, hint="Leave this clip out")


def validate(model: STM, sequences: Sequence[Clip], *, size: int) -> float:
    """Segment clips from their first mask with an object and return the mean over clips of mean J, 0 to 1.

    As DAVIS 2016 defines it: objects merged, first and last frame left out, void ignored. `size` is the shorter
    side inside the network, px. The network is copied to the precision of inference.
    """
    fast = copy.deepcopy(model).to(dtype=pick_dtype("auto", model.device)).eval().requires_grad_(False)
    fast = fast.to(memory_format=torch.channels_last)
    return float(np.mean([_clip_j(fast, clip, size) for clip in sequences]))


def _clip_j(model: STM, clip: Clip, size: int) -> float:
    truth, truths = Truth(clip.annotations, "davis2016"), _truths(clip)
    start, first = next(iter(truths.items()))
    scores = []
    with open_source(clip.frames) as source:
        key = {number: frame_key(source.frame_name(number)) for number in source.times()}
        labels = truth.read(first)
        segmenter = Segmenter(model, fit=Fit(size=size))
        frames = dropwhile(lambda frame: key[frame.index] != start, source)
        for frame, prediction in propagate(segmenter, frames, np.where(labels == VOID, 0, labels)):
            wanted = truth.read(truths[key[frame.index]])
            scores.append(float(jaccard(wanted == 1, (prediction.labels() > 0) & (wanted != VOID))))
    return float(np.mean(scores[1:-1]))


def _truths(clip: Clip) -> dict[str, Path]:
    """Return the masks of a clip by their frames, from the first one with an object on. Raises UsageError."""
    first = first_shown(clip.annotations)
    if not read_values(first).any():
        raise UsageError("no object in the ground truth", path=clip.annotations, hint="Leave this clip out")
    return by_frame(dropwhile(lambda path: path != first, mask_files(clip.annotations)))
