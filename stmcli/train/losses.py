"""The loss of a network on training clips, unrolled through its own memory."""

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from stmcli.clips import Clips
from stmcli.model import STM
from stmcli.model.layers import channels_last
from stmcli.model.stm import STRIDE
from stmcli.options import TrainOptions

UNKNOWN = -1  # the label of a pixel that is void


def unroll(model: STM, clips: Clips, *, detach: bool = False) -> Iterator[tuple[int, Tensor, Tensor]]:
    """Run through clips as inference would, with gradients through the memory.

    Yields (t, logits (B, N+1, S, S), read (B, N, h*w)) for t = 1 .. T-1; read is the share of each query cell's
    attention that falls on the object. The network's own prediction is what goes into memory; with `detach` no
    gradient flows through it.
    """
    rgb = [channels_last(clips.rgb[:, t]) for t in range(clips.rgb.shape[1])]
    keys, values = model.memorize(rgb[0], clips.masks[:, 0])
    cells = _cells(clips.masks[:, 0])  # (B, N, L)
    for t in range(1, len(rgb)):
        logits, query = model.segment(rgb[t], keys, values)
        yield t, logits, _read_share(query, keys, cells)
        if t + 1 < len(rgb):
            masks = torch.softmax(logits, dim=1)[:, 1:]
            key, value = model.memorize(rgb[t], masks.detach() if detach else masks)
            keys, values = torch.cat([keys, key], dim=2), torch.cat([values, value], dim=2)
            cells = torch.cat([cells, _cells(clips.masks[:, t])], dim=2)


def _cells(masks: Tensor) -> Tensor:
    """(B, N, S, S) -> (B, N, h*w): the share of each memory cell that an object covers."""
    return F.avg_pool2d(masks, STRIDE).flatten(2)


def _read_share(query: Tensor, keys: Tensor, cells: Tensor) -> Tensor:
    """How much of the attention of each query cell falls on an object's cells: (B, N, h*w)."""
    q = query.flatten(2).transpose(1, 2).unsqueeze(1) / query.shape[1] ** 0.5
    attention = torch.softmax((q @ keys.transpose(2, 3)).float(), dim=-1)  # (B, N, h*w, L)
    return (attention * cells.unsqueeze(2)).sum(-1)


def clip_loss(model: STM, clips: Clips, options: TrainOptions, *, hard: float) -> tuple[Tensor, Tensor]:
    """Mean loss over frames 1 .. T-1, and the IoU in the last frame (for people, not for the optimizer)."""
    total = clips.rgb.new_zeros(())
    for t, logits, share in unroll(model, clips, detach=options.detach):
        masks = clips.masks[:, t]  # (B, N, S, S)
        void = None if clips.void is None else clips.void[:, t]
        log_prob = torch.log_softmax(logits.float(), dim=1)
        total = total + _pixel_loss(log_prob, masks, void, hard=hard)
        prob = log_prob[:, 1:].exp()
        total = total + options.dice_loss * _dice_loss(prob if void is None else prob * (1 - void[:, None]), masks)
        total = total + options.read_loss * _read_loss(share, _cells(masks))
    return total / (clips.rgb.shape[1] - 1), _iou(logits.detach(), masks, void)


def _pixel_loss(log_prob: Tensor, masks: Tensor, void: Tensor | None = None, *, hard: float) -> Tensor:
    """Cross-entropy of (B, N+1, S, S) log probabilities, over the hardest share of each clip's pixels.

    Pixels that are void, (B, S, S), add nothing.
    """
    ids = torch.arange(1, masks.shape[1] + 1, device=masks.device, dtype=masks.dtype).view(-1, 1, 1)
    labels = (masks * ids).amax(1).long()  # (B, S, S)
    if void is not None:
        labels = labels.masked_fill(void > 0, UNKNOWN)
    loss = F.nll_loss(log_prob, labels, reduction="none", ignore_index=UNKNOWN).flatten(1)  # (B, S*S)
    if hard < 1:
        loss = loss.topk(max(1, int(hard * loss.shape[1])), dim=1, sorted=False).values
    return loss.mean()


def _dice_loss(prob: Tensor, masks: Tensor) -> Tensor:
    """One minus the soft Dice overlap of (B, N, S, S) probabilities with the truth."""
    prob, truth = prob.flatten(2), masks.flatten(2)
    both = (prob * truth).sum(-1)
    return (1 - (2 * both + 1) / (prob.sum(-1) + truth.sum(-1) + 1)).mean()


def _read_loss(share: Tensor, cells: Tensor) -> Tensor:
    """Binary cross-entropy of the attention on an object against the query cell's own label, (B, N, h*w)."""
    with torch.autocast(share.device.type, enabled=False):  # which refuses it on CUDA, whatever the precision
        known = share.float().clamp(1e-6, 1 - 1e-6).nan_to_num(0.5)  # it stops at NaN, which is the caller's to tell
        return F.binary_cross_entropy(known, cells.float()).masked_fill(share.isnan().any(), torch.nan)


def _iou(logits: Tensor, masks: Tensor, void: Tensor | None = None) -> Tensor:
    """Mean intersection over union of the objects that are there or were found; NaN without any.

    Pixels that are void, (B, S, S), count for nothing.
    """
    objects = logits[:, 1:]
    found = (objects > logits[:, :1]) & (objects == objects.amax(1, keepdim=True))
    if void is not None:
        found = found & (void[:, None] == 0)
    truth = masks > 0.5
    union = (found | truth).sum((2, 3))
    return ((found & truth).sum((2, 3)) / union).nanmean()  # 0 / 0 is NaN
