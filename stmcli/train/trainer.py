"""One training step, and all that has to be kept to make the next one."""

import copy
import math
import time
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

from stmcli.clips import Ahead, ClipMaker, Clips, has_core_to_spare
from stmcli.device import pick_dtype
from stmcli.errors import TrainingError
from stmcli.model import SIZES, STM
from stmcli.options import TrainOptions
from stmcli.ranges import ranges_in_clips
from stmcli.signals import held_back
from stmcli.train.losses import clip_loss
from stmcli.train.ranks import Ranks

FORMAT = 3  # of a run's state
SAMPLE = 8  # clips that tell how large numbers become
RUNNING = ("running_mean", "running_var")  # what batch norm gathers from the clips


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


def new_model(size: str, *, seed: int = 0, equal_start: bool = True) -> STM:
    """Build a network to be trained from scratch.

    With equal starts of both encoders and key heads the memory read matches a frame with itself from the first
    step on.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = STM(SIZES[size])
    if equal_start:
        start = model.query_encoder.state_dict()
        model.memory_encoder.load_state_dict(start, strict=False)
        model.memory_head.key.load_state_dict(model.query_head.key.state_dict())
    return model


class Trainer:
    """All that a run consists of, so that it can be saved and gone on with exactly.

    A step counts once the weights are updated: until then `state` is that of before the step. While the weights
    are being updated signals wait; `whole` is False, and stays so after an error there: no state is worth saving then.
    """

    def __init__(self, model: STM, maker: ClipMaker, options: TrainOptions, ranks: Ranks | None = None) -> None:
        self.options = options
        self.maker = maker
        self.ranks = ranks or Ranks()
        self.device = maker.device
        fast = pick_dtype("auto", self.device) == torch.bfloat16
        self.bf16 = bool(self.ranks.first(fast, self.device))  # where it is faster, as the first process finds
        self.model = model.to(self.device, memory_format=torch.channels_last).train()  # type: ignore[call-overload]
        if not options.train_norm:
            _freeze_norm(self.model)
        self.ema = copy.deepcopy(self.model).eval().requires_grad_(False)
        self.optimizer = torch.optim.AdamW(
            _decayed(self.model, options.weight_decay), lr=options.lr, betas=(0.9, options.beta2), fused=True
        )
        self.ahead = Ahead(self._make, self.device) if has_core_to_spare(self.device, self.ranks.local) else None
        self.ranges: dict[str, float] = {}  # as last measured: how large the averaged network's numbers become
        self.init = ""  # the weights that the run started from; empty: random ones
        self.scored_on = ""  # what tells the clips of the validation from others; empty: none
        self.step = 0
        self.seconds = 0.0
        self.validated = 0.0  # seconds of training at the latest validation
        self.best = -1.0
        self.score: float | None = None
        self.loss = self.iou = math.nan
        self.whole = True
        self._buffers = dict(self.model.named_buffers())
        self._buffers_before = {name: x.clone() for name, x in self._buffers.items()}

    @property
    def done(self) -> float:
        """Share of the run, 0 to 1, by whichever of steps and time ends first."""
        return self._done_at(self.step)

    def _done_at(self, step: int) -> float:
        share = step / self.options.steps
        if self.options.time_budget:
            share = max(share, self.seconds / self.options.time_budget)
        return min(1.0, share)

    def advance(self) -> None:
        """Make one step. Raises TrainingError, before any weight changes, when the loss is not a number."""
        started = time.monotonic()
        for group in self.optimizer.param_groups:
            group["lr"] = self.rate()
        loss, iou, norm = self.gradients(self._clips())
        if not math.isfinite(loss + norm):
            cause = f"the loss is {loss} and its gradient {norm} at step {self.step}"
            raise TrainingError(cause, hint="Start a new run with a lower --lr, perhaps with --init from this one")
        with held_back():
            self.whole = False
            self.optimizer.step()
            self._average()
            self.step += 1
            self.loss, self.iou = _running(self.loss, loss), _running(self.iou, iou)
            self.seconds += time.monotonic() - started
            self._commit()
            self.whole = True
        self.seconds = self.ranks.first(self.seconds, self.device)

    def _clips(self) -> Clips:
        if self.ahead is None:
            return self._make(self.step, self.done)
        return self.ahead(self.step, self.done, then=self._done_at(self.step + 1))

    def _make(self, step: int, done: float) -> Clips:
        return self.maker.batch(self.options.batch, self.options.objects, step=step, done=done)

    def loss_of(self, clips: Clips, *, hard: float) -> tuple[Tensor, Tensor]:
        """Unroll the network over clips, convolutions in the precision that is fastest here: see `clip_loss`."""
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16):
            return clip_loss(self.model, clips, self.options, hard=hard)

    def gradients(self, clips: Clips) -> tuple[float, float, float]:
        """Compute the gradient of the loss on clips, over all processes, clipped: loss, IoU, norm of the gradient."""
        o = self.options
        hard = 1 - (1 - o.hard) * min(1.0, max(0.0, (self.done - 0.1) / 0.5))
        loss, iou = self.loss_of(clips, hard=hard)
        self.optimizer.zero_grad()
        loss.backward()
        seen = torch.stack([loss.detach(), iou])
        self.ranks.mean_([*(p.grad for p in self.model.parameters() if p.grad is not None), seen])
        self.ranks.mean_([x for name, x in self._buffers.items() if name.rpartition(".")[2] in RUNNING])
        norm = nn.utils.clip_grad_norm_(self.model.parameters(), o.clip_norm)
        loss, iou, norm = torch.stack([*seen, norm]).tolist()  # the only wait for the device
        return loss, iou, norm

    def _commit(self) -> None:
        """Note the running statistics, which the next step changes before it counts."""
        torch._foreach_copy_(list(self._buffers_before.values()), list(self._buffers.values()))

    def rate(self) -> float:
        """Learning rate: linear warm-up, then a cosine to zero, or as it is."""
        warm = min(1.0, (self.step + 1) / self.options.warmup)
        return self.options.lr * warm * (0.5 * (1 + math.cos(math.pi * self.done)) if self.options.cosine else 1.0)

    @torch.no_grad()
    def _average(self) -> None:
        """Follow the network's weights with an exponential moving average that starts fast."""
        decay = min(self.options.ema, (1 + self.step) / (10 + self.step))
        pairs = list(zip(self.ema.state_dict().values(), self.model.state_dict().values(), strict=True))
        means, values = zip(*[pair for pair in pairs if pair[0].is_floating_point()], strict=True)
        torch._foreach_lerp_(means, values, 1 - decay)
        for mean, value in pairs:
            if not mean.is_floating_point():
                mean.copy_(value)

    def measure_ranges(self) -> None:
        """Note the largest inputs of the averaged network's convolutions in a few clips, always the same ones."""
        self.settle()
        self.ranges = ranges_in_clips(self.ema, lambda step: self._make(step, 1.0), -(-SAMPLE // self.options.batch))

    def state(self) -> dict[str, Any]:
        """Return all that `restore` needs to go on as if nothing had happened; plain numbers and tensors."""
        return {
            "format": FORMAT,
            "model": self.model.state_dict() | self._buffers_before,
            "ema": self.ema.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "progress": (self.step, self.seconds, self.best, self.score, self.loss, self.iou),
            "validated": self.validated,
            "init": self.init,
            "scored_on": self.scored_on,
            "ranges": self.ranges,
            "options": {"train": asdict(self.options), "clips": asdict(self.maker.options)},
            "device": self.device.type,
            "bf16": self.bf16,
            "data": self.maker.facts(),
            "processes": self.ranks.size,
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Go on where `state` was taken."""
        self.model.load_state_dict(state["model"])
        self.ema.load_state_dict(state["ema"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.step, self.seconds, self.best, self.score, self.loss, self.iou = state["progress"]
        self.validated = state["validated"]
        self.bf16 = state["bf16"]
        self.init = state["init"]
        self.scored_on = self.scored_on or state.get("scored_on", "")  # runs of before have none
        self.ranges = state.get("ranges", {})
        self._commit()

    def progress(self) -> Progress:
        """Summarise where the run is."""
        return Progress(self.step, self.done, self.seconds, self.loss, self.iou, self.rate(), self.score)

    def settle(self) -> None:
        """Wait until nothing goes on beside the caller."""
        if self.ahead is not None:
            self.ahead.wait()

    def close(self) -> None:
        """End the thread that makes clips."""
        if self.ahead is not None:
            self.ahead.close()


def _freeze_norm(model: nn.Module) -> None:
    """Keep batch norm as it is: statistics, scales and shifts (paper, section 4)."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eval().requires_grad_(False)


def _decayed(model: nn.Module, decay: float) -> list[dict[str, object]]:
    """Weight decay is for matrices and kernels, not for biases and norms."""
    named = [p for p in model.parameters() if p.requires_grad]
    return [
        {"params": [p for p in named if p.ndim > 1], "weight_decay": decay},
        {"params": [p for p in named if p.ndim <= 1], "weight_decay": 0.0},
    ]


def _running(mean: float, value: float) -> float:
    if math.isnan(value):  # no object was there, nor found
        return mean
    return value if math.isnan(mean) else mean + 0.02 * (value - mean)
