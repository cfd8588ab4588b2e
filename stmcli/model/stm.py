"""STM, the space-time memory network of Oh, Lee, Xu and Kim (ICCV 2019), written from the paper.

Two verbs serve inference and training alike:

    key, value = stm.memorize(frame, masks)        what a frame and its masks leave in memory
    segmentation = stm.segment(frame, keys, values)  a new frame, matched against all of it
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import repeat
from typing import NamedTuple

import torch
from torch import Tensor, nn

from stmcli.model.layers import Anchor, Decoder, Encoder, Features, KeyValue, memory_read
from stmcli.model.products import USUAL

STRIDE = 16


@dataclass(frozen=True)
class Dims:
    """The widths of a network; stored in every checkpoint."""

    trunk: str  # a torchvision ResNet
    key: int  # Ck
    value: int  # Cv
    decoder: int


SIZES = {
    "resnet50": Dims(trunk="resnet50", key=128, value=512, decoder=256),
    "compact": Dims(trunk="resnet18", key=64, value=256, decoder=64),
}


class Segmentation(NamedTuple):
    """What `STM.segment` returns."""

    logits: Tensor  # (B, N+1, H, W), background first; softmax over dim 1 gives prob
    query: Tensor  # (B, Ck, h, w), the query key


class STM(nn.Module):
    """The network: two encoders, two key/value heads, a decoder, and a memory read between them."""

    def __init__(self, dims: Dims) -> None:
        super().__init__()
        self.dims = dims
        self.published = True  # whether fp32 sums go in the published order
        self.at_once = 0  # objects computed at once, 0 = all; fewer take less memory and more time
        self.integers = False  # whether convolutions are in integers of 8 bits
        self.chunk = 0  # query cells read at once, 0 = what suits the device
        self.products = USUAL  # of the matrices in a memory read
        self.query_encoder = Encoder(dims.trunk, planes=0)
        self.memory_encoder = Encoder(dims.trunk, planes=2)
        widths = self.query_encoder.widths
        self.query_head = KeyValue(widths[0], key=dims.key, value=dims.value)
        self.memory_head = KeyValue(widths[0], key=dims.key, value=dims.value)
        self.decoder = Decoder(widths, value=dims.value, width=dims.decoder)

    @property
    def device(self) -> torch.device:
        """Where the weights are, and where frames must be."""
        return next(self.parameters()).device

    def memorize(self, frame: Tensor, masks: Tensor) -> tuple[Tensor, Tensor]:
        """Encode a frame and its masks into memory.

        frame (B, 3, H, W) in [0, 1], masks (B, N, H, W) in [0, 1], H and W multiples of 16
        -> keys (B, N, h*w, Ck), values (B, N, h*w, Cv).
        """
        groups = zip(self._split(masks), self._split(_others(masks)), strict=True)
        keys, values = zip(*(self._memorize(frame, *group) for group in groups), strict=True)
        return torch.cat(keys, dim=1), torch.cat(values, dim=1)

    def _memorize(self, frame: Tensor, masks: Tensor, others: Tensor) -> tuple[Tensor, Tensor]:
        features = self.memory_encoder(frame, masks, others)
        key, value = self.memory_head(features.f16)  # (B*N, Ck, h, w), (B*N, Cv, h, w)
        return _cells(key, masks.shape[:2]), _cells(value, masks.shape[:2])

    def segment(
        self,
        frame: Tensor,
        keys: Tensor,
        values: Tensor,
        valid: Tensor | None = None,
        *,
        top_k: int = 0,
        reach: float = 0.0,
        anchors: Sequence[Anchor] = (),
    ) -> Segmentation:
        """Segment a frame by what is in memory.

        frame (B, 3, H, W) in [0, 1], keys (B, N, L, Ck), values (B, N, L, Cv) -> logits (B, N+1, H, W).
        `valid` (N, L): which memory cells an object has, None = all; `top_k`: how many of them a cell reads, 0 = all;
        `reach`: how far away, in cells, 0 = anywhere; `anchors`: which slots match better, and where.
        """
        features = self.query_encoder(frame)
        query, value = self.query_head(features.f16)  # (B, Ck, h, w), (B, Cv, h, w)
        known = repeat(None) if valid is None else self._split(valid, dim=0)
        groups = zip(self._split(keys), self._split(values), known, strict=False)
        reading = partial(memory_read, top_k=top_k, reach=reach, anchors=anchors, products=self.products)
        masks = [self._mask(features, query, value, *group, reading) for group in groups]
        return Segmentation(aggregate(torch.cat(masks, dim=1)), query)

    def _mask(
        self,
        features: Features,
        query: Tensor,
        value: Tensor,
        keys: Tensor,
        values: Tensor,
        valid: Tensor | None,
        reading: Callable[..., Tensor],
    ) -> Tensor:
        """Return the probability of each object on its own: (B, N, H, W)."""
        read = reading(query, keys, values, valid, published=self.published, chunk=self.chunk)  # (B, N, Cv, h, w)
        x = torch.cat([read, value.unsqueeze(1).expand_as(read)], dim=2).flatten(0, 1)  # (B*N, 2*Cv, h, w)
        pair = self.decoder(x, features).unflatten(0, read.shape[:2])  # (B, N, 2, H, W)
        return torch.softmax(pair.float(), dim=2)[:, :, 1]

    def _split(self, x: Tensor, dim: int = 1) -> tuple[Tensor, ...]:
        """Split what there is of all objects into what is computed at once."""
        return x.split(self.at_once or x.shape[dim], dim)


def _others(masks: Tensor) -> Tensor:
    """Sum for each object the masks of all others, clamped to 1: (B, N, H, W) -> (B, N, H, W).

    Added up, not taken from the sum of all: that would leave rounding where another object is alone.
    """
    apart = 1 - torch.eye(masks.shape[1], device=masks.device, dtype=masks.dtype)
    return torch.einsum("ij,bjhw->bihw", apart, masks).clamp(0, 1)


def aggregate(masks: Tensor) -> Tensor:
    """Merge independent foreground probabilities (B, N, H, W) into logits (B, N+1, H, W).

    Soft aggregation: the background is what no object claims; logits of all, to be compared by softmax.
    """
    background = (1 - masks).prod(dim=1, keepdim=True)
    prob = torch.cat([background, masks], dim=1).clamp(1e-7, 1 - 1e-7)
    return torch.log(prob / (1 - prob))


def _cells(x: Tensor, shape: torch.Size) -> Tensor:
    """(B*N, C, h, w) -> (B, N, h*w, C)."""
    return x.flatten(2).transpose(1, 2).unflatten(0, tuple(shape))
