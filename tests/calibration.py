"""Fit the two weights of stmcli/segmenter/confidence.py; say how well they do on clips that they have not seen.

    python tests/calibration.py DAVIS        # a folder in the DAVIS layout; segments every clip twice

Prints the area under the ROC curve for "J below 0.5" with each clip left out of the fit in turn, beside that of the
area jump and of the mean probability alone, then how runs as shipped fare, then the weights fitted to all clips.
"""

import sys
from pathlib import Path

import numpy as np
import torch
from scipy.special import expit
from scipy.stats import rankdata

from stmcli.evaluate import list_sequences
from stmcli.evaluate.layout import mask_files
from stmcli.masks import read_values
from stmcli.matting import Matted
from stmcli.metrics import jaccard
from stmcli.options import DOUBTFUL, NetworkOptions
from stmcli.segmenter import propagate
from stmcli.segmenter.confidence import BIAS, CHANGED, TINY, UNDECIDED, Gauge
from stmcli.segmenter.ensemble import make_follower
from stmcli.video import open_source
from stmcli.weights import load_model


class Recorder(Gauge):
    """A gauge that keeps what it sees: undecided, changed, mean probability inside, area."""

    def __init__(self):
        super().__init__()
        self.rows = []

    def measure(self, masks, query, looks):
        undecided, changed, _ = self.signs(masks, query, looks)
        inside = masks.gt(0.5)
        sure = masks[inside].float().mean().nan_to_num()
        self.rows.append([float(undecided[0]), float(changed[0]), float(sure), float(inside.sum())])
        return super().measure(masks, query, looks)


def watch(model, network, clip):
    """Return the signs (T-1, 4) and J (T-1,) of the frames after the first, all objects as one."""
    truth = [read_values(path) > 0 for path in mask_files(clip.annotations)]
    segmenter = make_follower(model, network)
    segmenter.gauge = gauge = Recorder()
    with open_source(clip.frames) as source:
        predictions = propagate(segmenter, source, truth[0].astype(np.uint8))
        pairs = zip(truth, predictions, strict=True)
        scores = [jaccard(mask, Matted(frame.rgb, found).labels() > 0) for mask, (frame, found) in pairs]
    return np.array(gauge.rows), np.array(scores[1:])


def area_under_curve(score, bad):
    """Return how often a bad frame scores higher than a good one."""
    rank, count = rankdata(score), bad.sum()
    return (rank[bad].sum() - count * (count + 1) / 2) / (count * (~bad).sum())


def fit(signs, scores, weights, ridge=1.0, steps=30):
    """Return (bias, undecided, changed): a logistic curve through J by Newton's method; every clip weighs the same."""
    x = np.log(signs[:, :2] + TINY)
    mean, spread = x.mean(0), x.std(0)
    z = np.column_stack(((x - mean) / spread, np.ones(len(x))))
    w, penalty = np.zeros(3), np.array([ridge, ridge, 1e-6])
    for _ in range(steps):
        p = expit(z @ w)
        slope = z.T @ (weights * (p - scores)) + penalty * w * (1, 1, 0)
        w -= np.linalg.solve((z * (weights * p * (1 - p))[:, None]).T @ z + np.diag(penalty), slope)
    raw = w[:2] / spread
    return np.array([w[2] - raw @ mean, *raw])


def confidence(signs, fitted):
    return expit(fitted[0] + np.log(signs[:, :2] + TINY) @ fitted[1:])


def fit_clips(clips):
    weights = np.concatenate([np.full(len(scores), 50 / len(scores)) for _, scores in clips])
    return fit(*(np.concatenate(parts) for parts in zip(*clips, strict=True)), weights)


def area_jumps(signs):
    return np.abs(np.diff(np.log(signs[:, 3] + 1), prepend=np.log(signs[0, 3] + 1)))


def watch_all(root, **options):
    network = NetworkOptions(**options, together=True)  # in one segmenter
    model = load_model(network)
    return [watch(model, network, clip) for clip in list_sequences(root, "davis2016")]


def judge(name, sure, bad):
    said = sure < DOUBTFUL
    print(
        f"{name}: area under the curve {area_under_curve(-sure, bad):.3f}, "
        f"below {DOUBTFUL}: precision {(said & bad).sum() / said.sum():.2f}, recall {said[bad].mean():.2f}"
    )


def main(root):
    """Fit to runs that remember every frame, whatever its confidence, and judge those and the runs as shipped."""
    torch.set_grad_enabled(False)
    clips, shipped = watch_all(root, gate=0.0), watch_all(root)
    for clip, *both in zip(list_sequences(root, "davis2016"), clips, shipped, strict=True):
        shares = [f"J {scores.mean():.3f}, {np.mean(scores < 0.5):.0%} of the frames below 0.5" for _, scores in both]
        print(f"{clip.name}: {'; as shipped '.join(shares)}")
    bad, still_bad = (np.concatenate([scores for _, scores in each]) < 0.5 for each in (clips, shipped))
    rest = [[other for other in clips if other is not clip] for clip in clips]
    unseen = [confidence(signs, fit_clips(others)) for (signs, _), others in zip(clips, rest, strict=True)]
    judge("confidence, each clip left out", np.concatenate(unseen), bad)
    print(f"area jump: {area_under_curve(np.concatenate([area_jumps(signs) for signs, _ in clips]), bad):.3f}")
    print(f"mean probability: {area_under_curve(-np.concatenate([signs[:, 2] for signs, _ in clips]), bad):.3f}")
    constants = np.array([BIAS, UNDECIDED, CHANGED])
    judge("as shipped", np.concatenate([confidence(signs, constants) for signs, _ in shipped]), still_bad)
    print("BIAS, UNDECIDED, CHANGED =", ", ".join(f"{value:.2f}" for value in fit_clips(clips)))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
