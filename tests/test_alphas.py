import numpy as np
import pytest
from alphas import alpha_errors, unknown_band


def test_alpha_errors_of_a_case_counted_by_hand():
    truth, alpha = np.zeros((2, 20, 30))
    truth[:, 10:20] = 1
    alpha[:, 10:20] = 0.5
    alpha[0, 0] = 1
    errors = alpha_errors(truth, alpha, band=0)
    assert errors.sad == pytest.approx((200 * 0.5 + 1) / 1000)
    assert errors.mse == pytest.approx((200 * 0.25 + 1) / 600)
    # The band is the columns next to the two edges; in each pair one is inside.
    assert errors.mse_band == pytest.approx(40 * 0.25 / 80)
    assert alpha_errors(truth, truth) == (0, 0, 0, 0)


def test_the_gradient_error_equals_a_plain_convolution():
    truth, alpha = np.random.default_rng(2).random((2, 41, 37))
    x = np.arange(-6, 7)
    bell = np.exp(-(x**2) / (2 * 1.4**2))
    bell, slope = bell / bell.sum(), -x / 1.4**2 * bell / bell.sum()

    def filtered(values, down, right):
        rows = np.apply_along_axis(np.convolve, 0, values, down, mode="valid")
        return np.apply_along_axis(np.convolve, 1, rows, right, mode="valid")

    inner = np.pad(truth, 20, mode="symmetric"), np.pad(alpha, 20, mode="symmetric")
    lengths = [np.hypot(filtered(a, slope, bell), filtered(a, bell, slope))[14:-14, 14:-14] for a in inner]
    assert alpha_errors(truth, alpha).gradient == pytest.approx(((lengths[0] - lengths[1]) ** 2).sum() / 1000, rel=1e-3)


def test_the_unknown_band_reaches_its_width_beyond_mixed_pixels():
    truth = np.zeros((9, 30))
    truth[:, 15:] = 1
    assert np.flatnonzero(unknown_band(truth, 0)[4]).tolist() == [14, 15]
    assert np.flatnonzero(unknown_band(truth, 3)[4]).tolist() == [*range(11, 19)]
    truth[:, 15] = 0.5
    assert np.flatnonzero(unknown_band(truth, 0)[4]).tolist() == [14, 15, 16]
    assert not unknown_band(np.ones((5, 5)), 3).any()
