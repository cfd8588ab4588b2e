"""A batch of training clips, and the chance that they are drawn with."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

TRIES = 20  # draws before giving up on seeing an object
SMALLEST = 0.004  # an object is worth tracking when it covers this share of the first frame


@dataclass(frozen=True)
class Clips:
    """A batch of training clips."""

    rgb: Tensor  # (B, T, 3, S, S) in [0, 1]
    masks: Tensor  # (B, T, N, S, S), 0 or 1
    void: Tensor | None = None  # (B, T, S, S), 1 where nobody knows what is there

    def keep_for(self, stream: torch.cuda.Stream) -> None:
        """Let the memory not be used again before a stream other than that of their making is done with them."""
        for x in (self.rgb, self.masks, self.void):
            if x is not None:
                x.record_stream(stream)


class Chance:
    """Random numbers on the training device and off it; the same key gives the same numbers."""

    def __init__(self, device: torch.device, *key: int) -> None:
        self.device = device
        self.generator = torch.Generator(device)
        self.reseed(*key)

    def reseed(self, *key: int) -> None:
        """Start again from a key of whole numbers."""
        self.choices = np.random.default_rng(key)
        self.generator.manual_seed(int(np.random.SeedSequence(key).generate_state(1, np.uint64)[0] >> np.uint64(1)))

    def uniform(self, *shape: int) -> Tensor:
        """Draw from 0 to 1."""
        return torch.rand(*shape, generator=self.generator, device=self.device)

    def normal(self, *shape: int) -> Tensor:
        """Draw with mean 0 and standard deviation 1."""
        return torch.randn(*shape, generator=self.generator, device=self.device)
