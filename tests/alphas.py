"""How far an alpha is from the truth."""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from scipy.ndimage import binary_dilation, gaussian_gradient_magnitude, grey_dilation, grey_erosion

DERIVATIVE = 1.4  # standard deviation of the Gaussian whose derivative compares gradients, px
Mask = npt.NDArray[np.bool_]
Values = npt.NDArray[np.float64]


class AlphaErrors(NamedTuple):
    """How far an alpha is from the truth; sums are in thousands."""

    sad: float  # sum of absolute differences
    mse: float  # mean of squared differences, all pixels
    mse_band: float  # the same, where alpha is hard to tell
    gradient: float  # sum of squared differences of the gradients' lengths


def alpha_errors(truth: Values, alpha: Values, *, band: int = 6) -> AlphaErrors:
    """Compare an alpha (H, W) in [0, 1] with the true one; the band reaches so many pixels beyond mixed ones.

    Source: Rhemann et al. 2009.
    """
    truth, alpha = np.asarray(truth, np.float64), np.asarray(alpha, np.float64)
    squared = (alpha - truth) ** 2
    hard = unknown_band(truth, band)
    lengths = (gaussian_gradient_magnitude(values, DERIVATIVE) for values in (truth, alpha))
    return AlphaErrors(
        sad=float(np.abs(alpha - truth).sum() / 1000),
        mse=float(squared.mean()),
        mse_band=float(squared[hard].mean()) if hard.any() else 0.0,
        gradient=float(((next(lengths) - next(lengths)) ** 2).sum() / 1000),
    )


def unknown_band(truth: Values, width: int) -> Mask:
    """Return the pixels (H, W) at most `width` steps from one whose 3 x 3 neighbourhood is not all 0 or all 1."""
    mixed = (grey_dilation(truth, (3, 3)) > 0) & (grey_erosion(truth, (3, 3)) < 1)
    return binary_dilation(mixed, iterations=width) if width else mixed
