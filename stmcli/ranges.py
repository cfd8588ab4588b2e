"""How large the numbers in a network become, which must be known before 8 bits can hold them."""

from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from stmcli.clips import ClipMaker, Clips, load_stills
from stmcli.model import STM, largest_inputs
from stmcli.model.layers import channels_last
from stmcli.options import ClipOptions

CROP = 384  # px
CLIPS = 16
STILLS = 64  # of each path, at most
OBJECTS = 2


def ranges_in_stills(model: STM, paths: Sequence[Path]) -> dict[str, float]:
    """Return the largest inputs of a network's convolutions in clips made of stills. Raises what `load_stills` does."""
    maker = ClipMaker(load_stills(paths, canvas=CROP, most=STILLS), [], ClipOptions(crop=CROP, frames=2))
    return ranges_in_clips(model, lambda step: maker.batch(1, OBJECTS, step=step, done=1.0), CLIPS)


@torch.inference_mode()
def ranges_in_clips(model: STM, make: Callable[[int], Clips], count: int) -> dict[str, float]:
    """Return the largest inputs of a network's convolutions in the first and last frames of `make(0)`, `make(1)` ..."""
    with largest_inputs(model) as found:
        for clips in map(make, range(count)):
            first, last = (channels_last(clips.rgb[:, t]) for t in (0, -1))
            model.segment(last, *model.memorize(first, clips.masks[:, 0]))
    return {name: float(f"{largest:.3g}") for name, largest in found.items()}  # on all machines alike
