"""Train a network on synthetic clips: the loop, its loss, its checkpoints."""

import copy
import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stmcli.clips import Clips, Still, StillClips
from stmcli.errors import TrainingError
from stmcli.model import SIZES, STM
from stmcli.options import ClipOptions, TrainOptions

CURVE = ("step", "seconds", "loss", "iou", "lr", "J")


@dataclass(frozen=True)
class Progress:
    """What a caller may show after each step."""

    step: int
    done: float  # share of the run, 0 to 1
    seconds: float  # spent in this run, resumed parts included
    loss: float  # running mean
    iou: float  # running mean on the clips' last frame
    lr: float
    score: float | None  # the latest validation J
    saved: bool = False


def new_model(size: str, *, seed: int = 0) -> STM:
    """Build a network to be trained from scratch; both encoders and key heads start from the same numbers.

    With equal starts the memory read matches a frame with itself from the first step on.
    """
    torch.manual_seed(seed)
    model = STM(SIZES[size])
    start = model.query_encoder.state_dict()
    model.memory_encoder.load_state_dict(start, strict=False)
    model.memory_head.key.load_state_dict(model.query_head.key.state_dict())
    return model


def unroll(model: STM, clips: Clips) -> Iterator[tuple[int, Tensor, Tensor]]:
    """Run through clips as inference would, with gradients through the memory.

    Yields (t, logits (B, N+1, S, S), read (B, N, h*w)) for t = 1 .. T-1; read is the share of each query cell's
    attention that falls on the object. The network's own prediction is what goes into memory.
    """
    rgb = [_channels_last(clips.rgb[:, t]) for t in range(clips.rgb.shape[1])]
    keys, values = model.memorize(rgb[0], clips.masks[:, 0])
    cells = _cells(clips.masks[:, 0])  # (B, N, L)
    for t in range(1, len(rgb)):
        logits, query = model.segment(rgb[t], keys, values)
        yield t, logits, _read_share(query, keys, cells)
        if t + 1 < len(rgb):
            key, value = model.memorize(rgb[t], torch.softmax(logits, dim=1)[:, 1:])
            keys, values = torch.cat([keys, key], dim=2), torch.cat([values, value], dim=2)
            cells = torch.cat([cells, _cells(clips.masks[:, t])], dim=2)


def _channels_last(frames: Tensor) -> Tensor:
    return frames.contiguous(memory_format=torch.channels_last)


def _cells(masks: Tensor) -> Tensor:
    """(B, N, S, S) -> (B, N, h*w): the share of each memory cell that an object covers."""
    return F.avg_pool2d(masks, 16).flatten(2)


def _read_share(query: Tensor, keys: Tensor, cells: Tensor) -> Tensor:
    """How much of the attention of each query cell falls on an object's cells: (B, N, h*w)."""
    q = query.flatten(2).transpose(1, 2).unsqueeze(1) / query.shape[1] ** 0.5
    attention = torch.softmax((q @ keys.transpose(2, 3)).float(), dim=-1)  # (B, N, h*w, L)
    return (attention * cells.unsqueeze(2)).sum(-1)


def clip_loss(model: STM, clips: Clips, options: TrainOptions, *, hard: float) -> tuple[Tensor, float]:
    """Mean loss over frames 1 .. T-1, and the IoU in the last frame (for people, not for the optimizer)."""
    total = clips.rgb.new_zeros(())
    iou = 0.0
    for t, logits, share in unroll(model, clips):
        masks = clips.masks[:, t]  # (B, N, S, S)
        logits = logits.float()
        total = total + _pixel_loss(logits, masks, hard=hard) + options.dice_loss * _dice_loss(logits, masks)
        target = _cells(masks)
        total = total + options.read_loss * F.binary_cross_entropy(share.clamp(1e-6, 1 - 1e-6), target)
        iou = _iou(logits.detach(), masks)
    return total / (clips.rgb.shape[1] - 1), iou


def _pixel_loss(logits: Tensor, masks: Tensor, *, hard: float) -> Tensor:
    """Cross-entropy on the aggregated logits, over the hardest share of the pixels."""
    labels = torch.cat([1 - masks.amax(1, keepdim=True), masks], dim=1).argmax(1)
    loss = F.cross_entropy(logits, labels, reduction="none").flatten(1)  # (B, S*S)
    if hard < 1:
        loss = loss.topk(max(1, int(hard * loss.shape[1])), dim=1, sorted=False).values
    return loss.mean()


def _dice_loss(logits: Tensor, masks: Tensor) -> Tensor:
    prob = torch.softmax(logits, dim=1)[:, 1:].flatten(2)
    truth = masks.flatten(2)
    both = (prob * truth).sum(-1)
    return (1 - (2 * both + 1) / (prob.sum(-1) + truth.sum(-1) + 1)).mean()


def _iou(logits: Tensor, masks: Tensor) -> float:
    found = logits.argmax(1, keepdim=True) == torch.arange(1, logits.shape[1], device=logits.device)[:, None, None]
    truth = masks > 0.5
    union = (found | truth).sum((2, 3))
    return float(((found & truth).sum((2, 3)) / union.clamp(min=1))[union > 0].mean())


class Trainer:
    """All that a run consists of, so that it can be saved and gone on with exactly."""

    def __init__(self, model: STM, stills: Sequence[Still], options: TrainOptions, clips: ClipOptions) -> None:
        self.options = options
        self.clip_options = clips
        self.device = stills[0].pixels.device
        self.model = model.to(self.device, memory_format=torch.channels_last).train()  # type: ignore[call-overload]
        self.ema = copy.deepcopy(self.model).eval().requires_grad_(False)
        self.clips = StillClips(stills, clips, seed=options.seed)
        self.optimizer = torch.optim.AdamW(
            _decayed(self.model, options.weight_decay), lr=options.lr, betas=(0.9, 0.99)
        )
        self.step = 0
        self.seconds = 0.0
        self.best = -1.0
        self.score: float | None = None
        self.loss = self.iou = math.nan

    @property
    def done(self) -> float:
        """Share of the run, 0 to 1, by whichever of steps and time ends first."""
        share = self.step / self.options.steps
        if self.options.time_budget:
            share = max(share, self.seconds / self.options.time_budget)
        return min(1.0, share)

    def advance(self) -> None:
        """Make one step. Raises TrainingError when the loss is not a number; the last good state is kept."""
        started = time.monotonic()
        o = self.options
        for group in self.optimizer.param_groups:
            group["lr"] = self.rate()
        hard = 1 - (1 - o.hard) * min(1.0, max(0.0, (self.done - 0.1) / 0.5))
        clips = self.clips.batch(o.batch, o.objects)
        with torch.autocast(self.device.type, torch.bfloat16):
            loss, iou = clip_loss(self.model, clips, o, hard=hard)
        if not torch.isfinite(loss):
            raise TrainingError(f"the loss is {loss.item()} at step {self.step}", hint="resume with a lower --lr")
        self.optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(self.model.parameters(), o.clip_norm)
        self.optimizer.step()
        self._average()
        self.step += 1
        self.loss = _running(self.loss, loss.item())
        self.iou = _running(self.iou, iou)
        self.seconds += time.monotonic() - started

    def rate(self) -> float:
        """Learning rate: linear warm-up, then a cosine to zero."""
        warm = min(1.0, (self.step + 1) / self.options.warmup)
        return self.options.lr * warm * 0.5 * (1 + math.cos(math.pi * self.done))

    @torch.no_grad()
    def _average(self) -> None:
        """Follow the network's weights with an exponential moving average that starts fast."""
        decay = min(self.options.ema, (1 + self.step) / (10 + self.step))
        for mean, now in zip(self.ema.state_dict().values(), self.model.state_dict().values(), strict=True):
            if mean.is_floating_point():
                mean.lerp_(now, 1 - decay)
            else:
                mean.copy_(now)

    def state(self) -> dict[str, object]:
        """Return all that `restore` needs to go on as if nothing had happened."""
        return {
            "model": self.model.state_dict(),
            "ema": self.ema.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "clips": self.clips.state(),
            "progress": (self.step, self.seconds, self.best, self.score, self.loss, self.iou),
            "options": {"train": asdict(self.options), "clips": asdict(self.clip_options)},
        }

    def restore(self, state: dict[str, object]) -> None:
        """Go on where `state` was taken."""
        self.model.load_state_dict(state["model"])  # type: ignore[arg-type]
        self.ema.load_state_dict(state["ema"])  # type: ignore[arg-type]
        self.optimizer.load_state_dict(state["optimizer"])  # type: ignore[arg-type]
        self.clips.restore(state["clips"])  # type: ignore[arg-type]
        self.step, self.seconds, self.best, self.score, self.loss, self.iou = state["progress"]  # type: ignore[misc]

    def progress(self) -> Progress:
        """Summarise where the run is."""
        return Progress(self.step, self.done, self.seconds, self.loss, self.iou, self.rate(), self.score)


def _decayed(model: nn.Module, decay: float) -> list[dict[str, object]]:
    """Weight decay is for matrices and kernels, not for biases and norms."""
    named = [p for p in model.parameters() if p.requires_grad]
    return [
        {"params": [p for p in named if p.ndim > 1], "weight_decay": decay},
        {"params": [p for p in named if p.ndim <= 1], "weight_decay": 0.0},
    ]


def _running(mean: float, value: float) -> float:
    return value if math.isnan(mean) else mean + 0.02 * (value - mean)
