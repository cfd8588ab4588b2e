"""The pieces of the space-time memory network, small to large."""

from collections.abc import Iterator, Sequence
from itertools import repeat
from typing import Any, NamedTuple, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models import resnet

from stmcli.model.products import USUAL, Products

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
Bonus: TypeAlias = tuple[slice, Tensor]
LANES = {"cpu": 1, "cuda": 8}  # channels that a convolution takes at once, at least
READ_CHUNK = {"cpu": 256, "cuda": 2048}  # query cells read at once: bounds the attention matrix; fits a cache
PARTS = {"cpu": 4, "cuda": 1}  # into which the cells of a frame are divided to find the best of them


class Features(NamedTuple):
    """What a trunk sees in a frame, by stride."""

    f16: Tensor  # (B, C16, H/16, W/16)
    f8: Tensor  # (B, C8, H/8, W/8)
    f4: Tensor  # (B, C4, H/4, W/4)


class Anchor(NamedTuple):
    """How much better the cells of a slot match, by where they lie: cell (v, u) for query cell (y, x).

    `rows[y, v] * columns[x, u]` is added to the match.
    """

    slot: int  # of the memory that is read
    rows: Tensor  # (h, h)
    columns: Tensor  # (w, w)


class ResidualBlock(nn.Module):
    """Add `conv(relu(conv(relu(x))))` to `x`: (B, C, h, w) -> (B, C, h, w)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(width, width, 3, padding=1)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """Return `x` plus its residual, same shape."""
        return x + self.conv2(F.relu(self.conv1(F.relu(x))))


class KeyValue(nn.Module):
    """Embed stride-16 features: (B, C16, h, w) -> key (B, Ck, h, w), value (B, Cv, h, w)."""

    def __init__(self, width: int, *, key: int, value: int) -> None:
        super().__init__()
        self.key = nn.Conv2d(width, key, 3, padding=1)
        self.value = nn.Conv2d(width, value, 3, padding=1)

    def forward(self, f16: Tensor) -> tuple[Tensor, Tensor]:
        """Return the key and the value map of `f16`."""
        return self.key(f16), self.value(f16)


class Encoder(nn.Module):
    """A ResNet up to stride 16, with one more 7x7 stem for each extra input plane.

    The extra planes (none for the query; the object's mask and the other objects' masks for the memory) are
    added after their own stem, so the image part of the first convolution is shared by all objects of a frame.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, trunk: str, *, planes: int) -> None:
        super().__init__()
        net = getattr(resnet, trunk)(weights=None)
        self.conv1 = net.conv1
        self.planes = nn.ModuleList(
            nn.Conv2d(1, net.conv1.out_channels, 7, stride=2, padding=3, bias=False) for _ in range(planes)
        )
        self.bn1 = net.bn1
        self.maxpool = net.maxpool
        self.layer1, self.layer2, self.layer3 = net.layer1, net.layer2, net.layer3
        self.widths = tuple(layer[-1].conv1.in_channels for layer in (net.layer3, net.layer2, net.layer1))
        self.register_buffer("mean", torch.tensor(IMAGENET_MEAN).view(1, 3, 1, 1))
        self.register_buffer("std", torch.tensor(IMAGENET_STD).view(1, 3, 1, 1))

    def forward(self, frame: Tensor, *planes: Tensor) -> Features:
        """Encode `frame` (B, 3, H, W) in [0, 1]; each plane is (B, N, H, W) and makes the batch B*N."""
        x = (frame - self.mean) / self.std
        x = _filled_up([x], [self.conv1.weight]) if x.is_cuda else self.conv1(x)  # (B, C, H/2, W/2)
        if planes:
            x = self._add_planes(x, planes)  # (B*N, C, H/2, W/2)
        f4 = self.layer1(self.maxpool(F.relu(self.bn1(x), inplace=True)))
        f8 = self.layer2(f4)
        return Features(self.layer3(f8), f8, f4)

    def _add_planes(self, x: Tensor, planes: tuple[Tensor, ...]) -> Tensor:
        batch, objects = planes[0].shape[:2]
        x = x.repeat_interleave(objects, dim=0) if objects > 1 else x  # (B*N, C, H/2, W/2)
        x = channels_last(x)  # repeating has lost the frame's layout
        flat = [plane.reshape(batch * objects, 1, *plane.shape[-2:]) for plane in planes]
        if x.is_cuda:
            return x + _filled_up(flat, [stem.weight for stem in self.planes])
        for stem, plane in zip(self.planes, flat, strict=True):
            x = x + stem(plane)
        return x


def _filled_up(inputs: Sequence[Tensor], weights: Sequence[Any]) -> Tensor:
    """Convolve inputs of few channels with the weights of a stem each, and add up: so many that tensor cores take."""
    x, weight = torch.cat([*inputs], dim=1), torch.cat([*weights], dim=1)
    fill = -x.shape[1] % LANES["cuda"]
    x, weight = (F.pad(part, (0, 0, 0, 0, 0, fill)) for part in (x, weight))
    return F.conv2d(channels_last(x), weight, stride=2, padding=3)


def channels_last(x: Tensor) -> Tensor:
    """Return (B, C, H, W) with the channels of a pixel side by side in memory, as convolutions take it fastest."""
    return x.contiguous(memory_format=torch.channels_last)


class Refine(nn.Module):
    """Double the resolution of a decoder map with the help of the frame's features at that stride."""

    def __init__(self, skip: int, width: int) -> None:
        super().__init__()
        self.skip = nn.Conv2d(skip, width, 3, padding=1)
        self.skip_block = ResidualBlock(width)
        self.block = ResidualBlock(width)

    def forward(self, skip: Tensor, x: Tensor) -> Tensor:
        """Merge `skip` (B, C, 2h, 2w) into each object's `x` (B*N, D, h, w) -> (B*N, D, 2h, 2w)."""
        s = self.skip_block(self.skip(skip))  # (B, D, 2h, 2w), once for all objects
        x = F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)
        merged = s.unsqueeze(1) + x.unflatten(0, (s.shape[0], -1))  # (B, N, D, 2h, 2w)
        return self.block(merged.flatten(0, 1))


class Decoder(nn.Module):
    """Turn what was read from memory into foreground logits per object (paper, section 3.3)."""

    def __init__(self, widths: tuple[int, ...], *, value: int, width: int) -> None:
        super().__init__()
        _, c8, c4 = widths
        self.enter = nn.Conv2d(2 * value, width, 3, padding=1)
        self.enter_block = ResidualBlock(width)
        self.refine8 = Refine(c8, width)
        self.refine4 = Refine(c4, width)
        self.predict = nn.Conv2d(width, 2, 3, padding=1)

    def forward(self, x: Tensor, features: Features) -> Tensor:
        """Decode `x` (B*N, 2*Cv, h, w) -> (B*N, 2, H, W) logits of background and object."""
        layout = _layout(self.predict.weight)
        x = self.enter_block(self.enter(x.contiguous(memory_format=layout)))
        x = self.refine8(features.f8.contiguous(memory_format=layout), x)
        x = self.refine4(features.f4.contiguous(memory_format=layout), x)
        x = self.predict(F.relu(x)).contiguous()  # two channels side by side are resized at a quarter of the speed
        return F.interpolate(x, scale_factor=4, mode="bilinear", align_corners=False)


def _layout(weight: Tensor) -> torch.memory_format:
    """Return how a convolution's weights lie in memory; its input must lie alike, or the faster layout wins."""
    last = weight.is_contiguous(memory_format=torch.channels_last)
    return torch.channels_last if last else torch.contiguous_format


def memory_read(
    query: Tensor,
    keys: Tensor,
    values: Tensor,
    valid: Tensor | None = None,
    *,
    top_k: int = 0,
    reach: float = 0.0,
    anchors: Sequence[Anchor] = (),
    published: bool = False,
    chunk: int = 0,
    products: Products = USUAL,
) -> Tensor:
    """Read the memory for every query cell (paper, section 3.2): softmax of `k.q / sqrt(Ck)` over all cells.

    With `top_k` only over that many best matching cells; with `valid` (N, L) only over those that an object has. With
    `reach`, in cells, the match of two cells that are d apart in the frame is less by `d^2 / (2 reach^2)`, and with
    `anchors` it is as much better as they say; L is then a multiple of h*w. `published` sums fp32 reads of all cells in
    the published order, at a little more time; `chunk` bounds how many query cells are read at once, 0 = what suits the
    device; `products` multiplies matrices.
    Keys and values may be in another precision, in which they are read then.
    query (B, Ck, h, w); keys (B, N, L, Ck); values (B, N, L, Cv) -> (B, N, Cv, h, w).
    """
    h, w = query.shape[-2:]
    chunk = chunk or READ_CHUNK[query.device.type]
    cells = query.to(keys.dtype).flatten(2).transpose(1, 2).unsqueeze(1)  # (B, 1, h*w, Ck)
    few = 0 < top_k < keys.shape[2]
    if published and keys.dtype == torch.float32 and valid is None and not (reach or anchors or few):
        read = [_read_as_published(q, keys, values) for q in cells.split(chunk, dim=2)]
    else:
        cells = cells / cells.shape[3] ** 0.5
        if reach:
            cells, keys = _with_places(cells, keys, h, w, reach)
        bonuses = _bonuses(anchors, h, w, chunk, like=keys) if anchors else repeat([])
        objects = _apart(keys, values, valid)
        read = [
            torch.cat(
                [
                    _read(_match(q, k, more, ok, products), v, top_k if few else 0, h * w, products)
                    for k, v, ok in objects
                ],
                1,
            )
            for q, more in zip(cells.split(chunk, dim=2), bonuses, strict=False)
        ]
    return torch.cat(read, dim=2).to(query.dtype).transpose(2, 3).unflatten(3, (h, w))  # (B, N, Cv, h, w)


def _read_as_published(q: Tensor, keys: Tensor, values: Tensor) -> Tensor:
    """Read all cells, with sums in the order that makes saturated pixels agree too: (B, N, P, Cv)."""
    attention = torch.softmax((keys @ q.transpose(2, 3)) / q.shape[3] ** 0.5, dim=2)  # (B, N, L, P)
    return (values.transpose(2, 3) @ attention).transpose(2, 3)


def _match(q: Tensor, keys: Tensor, bonuses: Sequence[Bonus], valid: Tensor | None, products: Products) -> Tensor:
    """Return how well memory cells match query cells: q (B, 1, P, Ck), keys (B, N, L, Ck) -> (B, N, P, L)."""
    match = products.both(q, keys.transpose(2, 3))
    for rows, bonus in bonuses:
        match[..., rows] += bonus
    return match if valid is None else match.masked_fill(~valid.unsqueeze(1), -torch.inf)


def _apart(keys: Tensor, values: Tensor, valid: Tensor | None) -> list[tuple[Tensor, Tensor, Tensor | None]]:
    """Split what is multiplied at once: on a CPU object by object, for each product to have all cores."""
    if keys.device.type != "cpu":
        return [(keys, values, valid)]
    known = repeat(None) if valid is None else valid.split(1)
    return [*zip(keys.split(1, dim=1), values.split(1, dim=1), known, strict=False)]


def _read(match: Tensor, values: Tensor, top_k: int, cells: int, products: Products) -> Tensor:
    """Read all cells, or the best matching ones: match (B, N, P, L), values (B, N, L, Cv) -> (B, N, P, Cv)."""
    return _read_best(match, values, top_k, cells) if top_k else products.both(torch.softmax(match, dim=3), values)


def _read_best(match: Tensor, values: Tensor, top_k: int, cells: int) -> Tensor:
    """Read the `top_k` best matching cells: match (B, N, P, L), values (B, N, L, Cv) -> (B, N, P, Cv)."""
    found, places = _best(match, top_k, max(1, match.shape[3] // cells), PARTS[match.device.type])
    weights = torch.softmax(found, dim=3)  # (B, N, P, k)
    objects = zip(*(x.flatten(0, 1) for x in (places, weights)), values.flatten(0, 1), strict=True)
    read = [F.embedding_bag(i, v, mode="sum", per_sample_weights=w) for i, w, v in objects]  # gathers and adds
    return torch.stack(read).unflatten(0, tuple(match.shape[:2]))


def _best(match: Tensor, top_k: int, parts: int, *finer: int) -> tuple[Tensor, Tensor]:
    """Return the `top_k` largest of (B, N, P, L) and where they are: (B, N, P, k) each, in any order.

    With a row cut into so many equal parts, one under the other, they all lie in the columns whose largest numbers are
    the `top_k` largest; both these columns and what is in them are then looked through in `finer` parts.
    """
    columns, rest = divmod(match.shape[3], parts)
    if rest or parts == 1 or columns <= top_k:
        return match.topk(top_k, dim=3, sorted=False)
    finer = finer or (1,)
    there = _best(match.unflatten(3, (parts, columns)).amax(3), top_k, *finer)[1]  # (B, N, P, k)
    places = there.unsqueeze(3) + columns * torch.arange(parts, device=match.device)[:, None]
    places = places.flatten(3)  # (B, N, P, parts*k)
    found, at = _best(match.gather(3, places), top_k, *finer)
    return found, places.gather(3, at)


def _with_places(cells: Tensor, keys: Tensor, h: int, w: int, reach: float) -> tuple[Tensor, Tensor]:
    """Append channels by which cells match less the farther apart they are: cells (B, 1, h*w, Ck), keys (B, N, L, Ck).

    For places a and b, in reaches, they add `a.b - a^2 / 2 - b^2 / 2`: no pass over all the matches is needed. Squares
    have two channels each, as half precision has too few digits for them.
    """
    y, x = torch.meshgrid(*(torch.arange(side, device=keys.device) / reach for side in (h, w)), indexing="ij")
    places = torch.stack([y, x], 2).flatten(0, 1).to(keys.dtype).float()  # (h*w, 2)
    square = -places.square().sum(1, keepdim=True) / 2
    coarse = square.to(keys.dtype).float()
    squares, ones = torch.cat([coarse, square - coarse], 1), torch.ones_like(places)
    unused = places.new_zeros(len(places), -6 % LANES[keys.device.type])
    here = torch.cat([places, squares, ones, unused], 1).to(keys.dtype)
    there = torch.cat([places, ones, squares, unused], 1).to(keys.dtype).repeat(keys.shape[2] // (h * w), 1)
    cells = torch.cat([cells, here.expand(*cells.shape[:2], -1, -1)], 3)
    return cells, torch.cat([keys, there.expand(*keys.shape[:2], -1, -1)], 3)


def _bonuses(anchors: Sequence[Anchor], h: int, w: int, chunk: int, *, like: Tensor) -> Iterator[list[Bonus]]:
    """Yield for each chunk of query cells the rows of each anchored slot, and how much better they match: (P, h*w)."""
    for part in torch.arange(h * w, device=like.device).split(chunk):
        y, x = part // w, part % w
        yield [
            (slice(slot * h * w, (slot + 1) * h * w), (rows[y, :, None] * columns[x, None]).flatten(1).to(like.dtype))
            for slot, rows, columns in anchors
        ]
