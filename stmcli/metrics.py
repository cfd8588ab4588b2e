"""Region similarity J and contour accuracy F as the DAVIS 2017 benchmark defines them."""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from scipy.spatial import cKDTree

Mask = npt.NDArray[np.bool_]
Values = npt.NDArray[np.float64]

TOLERANCE = 0.008  # of the image diagonal


class Statistics(NamedTuple):
    """How a measure runs over a clip: mean, share above 0.5, and loss from the first to the last quarter."""

    mean: float
    recall: float
    decay: float


def jaccard(truth: Mask, prediction: Mask) -> Values:
    """Compute region similarity J, intersection over union, for every frame of one object.

    Takes (..., H, W) booleans and returns (...) values in [0, 1]; two empty masks score 1.
    """
    intersection = np.count_nonzero(truth & prediction, axis=(-2, -1))
    union = np.count_nonzero(truth | prediction, axis=(-2, -1))
    return np.asarray(np.where(union == 0, 1.0, intersection / np.maximum(union, 1)))


def boundary_f(truth: Mask, prediction: Mask) -> Values:
    """Compute contour accuracy F for every frame of one object.

    Takes (..., H, W) booleans and returns (...) values in [0, 1]; two empty contours score 1. A contour
    pixel counts as found within a disk of 0.8 % of the diagonal, rounded up. Source: Perazzi et al. 2016.
    """
    height, width = truth.shape[-2:]
    radius = int(np.ceil(TOLERANCE * np.hypot(height, width)))
    pairs = zip(truth.reshape(-1, height, width), prediction.reshape(-1, height, width), strict=True)
    values = [_frame_f(one, other, radius) for one, other in pairs]
    return np.array(values, dtype=np.float64).reshape(truth.shape[:-2])


def statistics(values: Values) -> Statistics:
    """Summarise the values of a measure over the frames of a clip, (T,) with T > 0.

    Decay is the mean of the first quarter minus the mean of the last; neighbouring quarters share a frame.
    """
    edges = np.round(np.linspace(1, len(values), 5) + 1e-10).astype(int) - 1
    first, last = values[edges[0] : edges[1] + 1], values[edges[3] : edges[4] + 1]
    return Statistics(float(values.mean()), float((values > 0.5).mean()), float(first.mean() - last.mean()))


def _frame_f(truth: Mask, prediction: Mask, radius: int) -> float:
    truth_points, found_points = _contour(truth), _contour(prediction)
    if len(truth_points) == 0 or len(found_points) == 0:
        return float(len(truth_points) == len(found_points))
    precision = _share_near(found_points, truth_points, radius)
    recall = _share_near(truth_points, found_points, radius)
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


def _contour(mask: Mask) -> npt.NDArray[np.intp]:
    """List the pixels (P, 2) that differ from the one to the right, below, or diagonally between."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if len(rows) == 0:
        return np.empty((0, 2), dtype=np.intp)
    top, left = max(rows[0] - 1, 0), max(columns[0] - 1, 0)
    box = mask[top : rows[-1] + 2, left : columns[-1] + 2]
    # Repeating the edge means that a pixel on the frame's border has no neighbour to differ from.
    padded = np.pad(box, ((0, 1), (0, 1)), mode="edge")
    differs = (box ^ padded[:-1, 1:]) | (box ^ padded[1:, :-1]) | (box ^ padded[1:, 1:])
    return np.add(np.argwhere(differs), (top, left))


def _share_near(points: npt.NDArray[np.intp], others: npt.NDArray[np.intp], radius: int) -> float:
    """Return the share of points (P, 2) with another contour's pixel at most `radius` away."""
    distances, _ = cKDTree(others).query(points, distance_upper_bound=radius + 0.5)
    return float(np.mean(np.asarray(distances) <= radius))
