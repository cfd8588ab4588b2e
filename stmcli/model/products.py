"""Products of matrices, for CPUs on which torch's own for them is the slower one of two libraries."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

LINEAR = getattr(torch.ops.mkldnn, "_linear_pointwise", None)  # x (M, K), y (N, K) -> (M, N)


class Products(NamedTuple):
    """Multiply matrices: `both` (..., M, K) by (..., K, N), and `each` of (B, M, K) by that of (B, K, N)."""

    both: Callable[[Tensor, Tensor], Tensor]  # -> (..., M, N)
    each: Callable[[Tensor, Tensor], Sequence[Tensor] | Tensor]  # -> B times (M, N)


def can_convolve() -> bool:
    """Tell whether the library that convolves on CPUs is there and multiplies matrices too, as `CONVOLVED` does."""
    return torch.backends.mkldnn.is_available() and LINEAR is not None


def _usual(x: Tensor, y: Tensor) -> Tensor:
    if y.shape[:-2].numel() == 1 and y.mT.is_contiguous():  # then linear copies nothing, as `x @ y` does
        return F.linear(x, y.mT.reshape(y.shape[-1], y.shape[-2]))
    return x @ y


def _both(x: Tensor, y: Tensor) -> Tensor:
    if x.dtype != torch.float32:  # then torch takes that library by itself
        return _usual(x, y)
    shape = torch.broadcast_shapes(x.shape[:-2], y.shape[:-2])
    found = _each(*(part.expand(*shape, *part.shape[-2:]).reshape(-1, *part.shape[-2:]) for part in (x, y)))
    joined = found[0] if len(found) == 1 else torch.stack([*found])
    return joined.view(*shape, *joined.shape[-2:])


def _each(x: Tensor, y: Tensor) -> Sequence[Tensor] | Tensor:
    if x.dtype != torch.float32 or LINEAR is None:
        return torch.bmm(x, y)
    return [LINEAR(a, b.T, None, "none", [], "") for a, b in zip(x, y, strict=True)]  # a view costs it nothing


USUAL = Products(_usual, torch.bmm)
CONVOLVED = Products(_both, _each)  # the same but for rounding; knows no gradients
