import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.ndimage import binary_dilation, maximum_filter, minimum_filter

from stmcli.metrics import boundary_f, jaccard, statistics

GOLDEN = Path(__file__).parent / "golden"
CLIPS = ("clip0", "clip1")


def golden_objects():
    arrays_ = np.load(GOLDEN / "metrics_a.npz")
    expected = json.loads((GOLDEN / "metrics_a.json").read_text())
    for clip in CLIPS:
        for number in (key for key in expected[clip] if key.isdecimal()):
            truth, prediction = (arrays_[f"{clip}_{kind}"][1:-1] for kind in ("truth", "prediction"))
            yield truth == int(number), prediction == int(number), expected[clip][number]


def disk(radius):
    y, x = np.mgrid[-radius : radius + 1, -radius : radius + 1]
    return x * x + y * y <= radius * radius


def naive_contour(mask):
    window = {"size": 2, "origin": -1, "mode": "nearest"}  # a pixel, its right and lower neighbours
    levels = mask.astype(np.uint8)
    return maximum_filter(levels, **window) != minimum_filter(levels, **window)


def naive_f(truth, prediction):
    element = disk(int(np.ceil(0.008 * np.linalg.norm(truth.shape))))
    one, other = naive_contour(truth), naive_contour(prediction)
    if not one.any() or not other.any():
        return float(one.any() == other.any())
    precision = (other & binary_dilation(one, element)).sum() / other.sum()
    recall = (one & binary_dilation(other, element)).sum() / one.sum()
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


def test_jaccard_of_a_case_counted_by_hand():
    truth = np.array([[0, 0, 0, 0, 0], [0, 1, 1, 0, 0], [0, 1, 1, 0, 0], [0, 1, 1, 0, 0], [0, 0, 0, 0, 0]], bool)
    prediction = np.roll(truth, 1, axis=1)
    prediction[0, 0] = True
    assert jaccard(truth, prediction) == pytest.approx(3 / 10)


def test_boundary_f_of_a_case_counted_by_hand():
    truth, prediction = np.zeros((2, 5, 5), bool)
    truth[1:4, 1:4] = True
    prediction[2:4, 1:4] = True
    # The tolerance is one pixel; the contours have 12 and 10 pixels, each with one of the other next to it.
    assert boundary_f(truth, prediction) == 1.0
    prediction[2] = False
    # Of the 12, the 4 in the top row are now too far away.
    precision, recall = 1, 8 / 12
    assert boundary_f(truth, prediction) == pytest.approx(2 * precision * recall / (precision + recall))


@pytest.mark.parametrize("measure", [jaccard, boundary_f])
def test_both_empty_is_perfect_and_one_empty_is_nothing(measure):
    empty, some = np.zeros((2, 20, 30), bool)
    some[5:9, 5:9] = True
    assert measure(empty, empty) == 1
    assert measure(some, empty) == 0
    assert measure(empty, some) == 0
    assert measure(some, some) == 1


@pytest.mark.parametrize("measure", [jaccard, boundary_f])
def test_a_clip_gives_one_value_for_each_frame(measure):
    truth = np.random.default_rng(1).random((4, 24, 31)) < 0.4
    prediction = np.roll(truth, 2, axis=2)
    values = measure(truth, prediction)
    assert values.shape == (4,)
    assert values.tolist() == [float(measure(t, p)) for t, p in zip(truth, prediction, strict=True)]


@given(arrays(bool, (2, 13, 11)), st.integers(1, 12))
@settings(max_examples=60, deadline=None)
def test_boundary_f_equals_dilation_with_a_disk(pair, scale):
    truth, prediction = pair.repeat(scale, axis=1).repeat(scale, axis=2)[:, :140, :130]
    if scale <= 3:
        assert boundary_f(truth, prediction) == pytest.approx(naive_f(truth, prediction), abs=1e-12)
    else:
        canvas = np.zeros((2, 200, 300), bool)  # tolerance 3
        canvas[:, 60 : 60 + len(truth), 90 : 90 + truth.shape[1]] = (truth, prediction)
        assert boundary_f(*canvas) == pytest.approx(naive_f(*canvas), abs=1e-12)


def test_boundary_f_counts_contours_at_the_edge_of_the_frame():
    truth, prediction = np.zeros((2, 40, 60), bool)
    truth[25:, 40:] = True
    prediction[25:, 44:] = True
    assert 0 < boundary_f(truth, prediction) < 1
    assert boundary_f(truth, prediction) == pytest.approx(naive_f(truth, prediction))


@pytest.mark.parametrize(("letter", "measure"), [("J", jaccard), ("F", boundary_f)])
def test_values_and_statistics_equal_the_official_evaluation(letter, measure):
    checked = 0
    for truth, prediction, expected in golden_objects():
        values = measure(truth, prediction)
        np.testing.assert_allclose(values, expected[f"{letter}_per_frame"], rtol=0, atol=1e-6)
        for name, value in statistics(values)._asdict().items():
            assert value == pytest.approx(expected[f"{letter}_{name}"], abs=1e-6)
        checked += 1
    assert checked == 5


def test_decay_is_the_first_quarter_minus_the_last():
    result = statistics(np.array([1.0, 1.0, 0.5, 0.5, 0.5, 0.5, 0.25, 0.25]))
    assert result.mean == pytest.approx(4.5 / 8)
    assert result.recall == pytest.approx(2 / 8)
    assert result.decay == pytest.approx((1 + 1 + 0.5) / 3 - (0.5 + 0.25 + 0.25) / 3)


def test_one_frame_has_no_decay():
    assert statistics(np.array([0.7])) == (pytest.approx(0.7), 1.0, 0.0)
