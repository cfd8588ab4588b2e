"""One frame's masks, alpha and colours for whoever writes them, each computed once and when first asked for."""

from collections.abc import Callable
from contextlib import suppress
from functools import cached_property
from threading import RLock
from typing import Protocol, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from stmcli.matting.alpha import refine
from stmcli.matting.colours import foreground
from stmcli.options import MattingOptions
from stmcli.segmenter.prediction import Prediction, likeliest
from stmcli.transfer import upload
from stmcli.video.frame import RGB

Alpha = npt.NDArray[np.float32]
Found = TypeVar("Found")


class Segmented(Protocol):
    """Hold what the network said about one frame, at the source's size."""

    @property
    def prob(self) -> Tensor:
        """Return (N+1, H, W), background first, sums to 1."""

    @property
    def object_ids(self) -> tuple[int, ...]:
        """Return the ids; channel i+1 is object_ids[i]."""

    def labels(self) -> npt.NDArray[np.integer]:
        """Return (H, W) object ids, 0 is background."""


class Matted:
    """A frame's prediction with refined labels, alpha and foreground colours, each computed when first asked for.

    Without `options.refine` labels and alpha are the network's own, and the colours are the source's.
    """

    def __init__(self, rgb: RGB, prediction: Segmented, *, options: MattingOptions = MattingOptions()) -> None:
        self.prob = prediction.prob  # (N+1, H, W)
        self.object_ids = prediction.object_ids
        self.cut = isinstance(prediction, Prediction) and prediction.cut
        self._rgb, self._prediction, self._options = rgb, prediction, options
        self._colours: dict[int | None, RGB] = {}
        self._lock = RLock()  # writers in several threads share what is computed

    def labels(self) -> npt.NDArray[np.integer]:
        """Return the ids of every pixel, (H, W): of the largest alpha, or as they were given or stored."""
        with self._lock:
            return self._labels

    def confidence(self) -> tuple[float, ...]:
        """Return for each object how far its mask is to be trusted, 0..1; 0 when it has no pixel."""
        known = self._prediction
        return (known if isinstance(known, Prediction) else Prediction(self.prob, self.object_ids)).confidence()

    def soft(self, object_id: int) -> Alpha:
        """Return the network's own probability of one object, unrefined: (H, W) float32 in [0, 1]."""
        return self.prob[1 + self.object_ids.index(object_id)].float().cpu().numpy()

    def alpha(self, object_id: int | None = None) -> Alpha:
        """Return how much of every pixel belongs to one object, or to any: (H, W) float32 in [0, 1].

        Raises ValueError for an id that there is not.
        """
        return self._share(object_id).cpu().numpy()

    def foreground(self, object_id: int | None = None) -> RGB:
        """Return the colours of one object, or of all, without what was behind them: (H, W, 3) uint8.

        Raises ValueError for an id that there is not.
        """
        if not self._options.refine:
            return self._rgb
        with self._lock:
            if object_id not in self._colours:
                self._colours[object_id] = self._spared(
                    lambda rgb: foreground(rgb, self._share(object_id).to(rgb.device), options=self._options)
                )
            return self._colours[object_id]

    def _share(self, object_id: int | None) -> Tensor:
        with self._lock:
            return self._union if object_id is None else self._alphas[self.object_ids.index(object_id)]

    @cached_property
    def _labels(self) -> npt.NDArray[np.integer]:
        found = self._prediction
        if not self._options.refine or not isinstance(found, Prediction) or {*found.given} >= {*found.object_ids}:
            return found.labels()
        fitted = likeliest(1 - self._union, self._alphas, self.object_ids)
        if not found.given:
            return fitted
        known = found.labels()
        return np.where(np.isin(known, found.given) | np.isin(fitted, found.given), known, fitted)

    @cached_property
    def _uploaded(self) -> Tensor:
        return upload(self._rgb, self.prob.device)

    def _spared(self, compute: Callable[[Tensor], Found]) -> Found:
        """Compute something of the frame on the device; on the CPU when that has too little memory."""
        with suppress(torch.OutOfMemoryError):
            return compute(self._uploaded)
        torch.cuda.empty_cache()
        return compute(upload(self._rgb, torch.device("cpu")))

    @cached_property
    def _alphas(self) -> Tensor:
        """(N, H, W)."""
        if not self._options.refine:
            return self.prob[1:].float()
        return self._spared(lambda rgb: refine(rgb, self.prob.to(rgb.device), options=self._options))

    @cached_property
    def _union(self) -> Tensor:
        """(H, W)."""
        return self._alphas.sum(0).clamp(0, 1) if len(self._alphas) != 1 else self._alphas[0]
