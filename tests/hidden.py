"""Measure what is found in place of objects that are hidden: `python tests/hidden.py DAVIS`.

Of the first 45 frames of every clip 18 have the object covered with what another clip shows there.
"""

import sys
from pathlib import Path

import numpy as np
from PIL import Image

from stmcli.masks import read_labels
from stmcli.metrics import jaccard
from stmcli.options import NetworkOptions
from stmcli.segmenter.ensemble import make_follower
from stmcli.segmenter.focus import box_of
from stmcli.weights import load_model

FRAMES, HIDDEN = 45, range(12, 30)


def cover(rgb: np.ndarray, mask: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Return a frame (H, W, 3) with what `other` shows around the pixels of a mask (H, W)."""
    box = box_of(mask)
    assert box, "nothing to cover"
    spans = [(first, size - 1, 8 + (size - 1) // 8) for first, size in ((box.top, box.height), (box.left, box.width))]
    around = tuple(slice(max(0, first - margin), first + length + margin) for first, length, margin in spans)
    covered = rgb.copy()
    covered[around] = other[around]
    return covered


def main(root: Path) -> None:
    """Print for every clip what is found where nothing is, and J before and after."""
    options = NetworkOptions()
    model = load_model(options)
    clips = sorted((root / "JPEGImages" / "480p").iterdir())
    first = [np.asarray(Image.open(min(clip.glob("*.jpg"))).convert("RGB")) for clip in clips]
    rows = []
    for number, clip in enumerate(clips):
        follower, found = make_follower(model, options), {"before": [], "false": [], "empty": [], "after": []}
        size = 0
        for frame, path in zip(range(FRAMES), sorted(clip.glob("*.jpg")), strict=False):
            truth = read_labels(root / "Annotations" / "480p" / clip.name / f"{path.stem}.png") > 0
            rgb = np.asarray(Image.open(path).convert("RGB"))
            if not frame:
                size = truth.sum()
                follower.step(rgb, truth.astype(np.uint8))
                continue
            hidden = frame in HIDDEN
            other = np.asarray(Image.fromarray(first[number - 3]).resize(rgb.shape[1::-1]))
            mask = follower.step(cover(rgb, truth, other) if hidden else rgb).labels() > 0
            if hidden:
                found["false"].append(mask.sum() / size)
                found["empty"].append(not mask.any())
            else:
                found["before" if frame < HIDDEN[0] else "after"] += jaccard(truth[None], mask[None]).tolist()
        rows.append([100 * float(np.mean(found[name])) for name in ("before", "false", "empty", "after")])
        print(report(clip.name, rows[-1]), flush=True)
    print(report("mean", list(np.mean(rows, axis=0))))


def report(name: str, row: list[float]) -> str:
    """Return a line of numbers in percent."""
    before, false, empty, after = row
    return f"{name:16}J {before:5.1f}  hidden: {false:6.1f} % of its size, {empty:5.1f} % empty  then J {after:5.1f}"


if __name__ == "__main__":
    main(Path(sys.argv[1]))
