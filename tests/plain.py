"""The published network as plain as it can be written, from the paper and a state dict with the published names.

Every object passes through all of it, every frame's keys and values are concatenated, nothing is shared, folded or
reordered. It is what the network of the package is compared with, and what its speed is a multiple of.
"""

import math
import zlib
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

GOLDEN = Path(__file__).parent / "golden"
BLOCKS = {"res2": 3, "res3": 4, "res4": 6}


def published_state() -> dict[str, torch.Tensor]:
    """The deterministic state dict of tests/golden/README.md, with the names of the published file."""
    state = {}
    for line in (GOLDEN / "keys.txt").read_text().splitlines():
        name, _, dims = line.partition("\t")
        shape = tuple(int(n) for n in dims.split("x") if n)
        state["module." + name] = torch.from_numpy(golden_tensor(name, shape))
    return state


def golden_tensor(name: str, shape: tuple[int, ...]) -> np.ndarray:
    if name.endswith("num_batches_tracked"):
        return np.array(0)
    if name.endswith((".mean", ".std")):
        values = (0.485, 0.456, 0.406) if name.endswith(".mean") else (0.229, 0.224, 0.225)
        return np.array(values, dtype=np.float32).reshape(shape)
    seed = np.random.RandomState(zlib.crc32(("golden-a:" + name).encode()))
    x = seed.standard_normal(shape).astype(np.float32)
    if name.endswith("running_var"):
        x = 0.5 + np.abs(x)
    elif name.endswith("running_mean"):
        x = 0.1 * x
    elif x.ndim == 4:
        x = x * np.sqrt(2.0 / (shape[1] * shape[2] * shape[3])).astype(np.float32)
    elif name.endswith(".bias"):
        x = 0.05 * x
    else:
        x = 1 + 0.1 * x
    return (0.3 * x if ".bn3.weight" in name else x).astype(np.float32)


class PlainSTM:
    """STM with a ResNet-50 trunk; `state` maps the published names (without `module.`) to tensors."""

    def __init__(self, state: Mapping[str, Tensor]) -> None:
        self.state = state

    def memorize(self, frame: Tensor, masks: Tensor) -> tuple[Tensor, Tensor]:
        """(1, 3, H, W), (N, H, W) -> keys (N, Ck, h, w), values (N, Cv, h, w)."""
        count = masks.shape[0]
        others = [masks[[j for j in range(count) if j != i]].sum(0).clamp(0, 1) for i in range(count)]
        x = self._stem("Encoder_M", frame.expand(count, -1, -1, -1))
        x = x + self._conv("Encoder_M.conv1_m", masks[:, None], stride=2, padding=3)
        x = x + self._conv("Encoder_M.conv1_o", torch.stack(others)[:, None], stride=2, padding=3)
        f16, _, _ = self._trunk("Encoder_M", x)
        return self._conv("KV_M_r4.Key", f16), self._conv("KV_M_r4.Value", f16)

    def segment(self, frame: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        """(1, 3, H, W), keys (N, Ck, M, h, w), values (N, Cv, M, h, w) -> logits (N+1, H, W)."""
        count, width = keys.shape[:2]
        f16, f8, f4 = self._trunk("Encoder_Q", self._stem("Encoder_Q", frame))
        query, value = self._conv("KV_Q_r4.Key", f16), self._conv("KV_Q_r4.Value", f16)
        q = query.expand(count, -1, -1, -1).reshape(count, width, -1)
        match = torch.bmm(keys.reshape(count, width, -1).transpose(1, 2), q) / math.sqrt(width)  # (N, L, h*w)
        read = torch.bmm(values.reshape(count, values.shape[1], -1), torch.softmax(match, dim=1))
        x = torch.cat([read.view(count, -1, *query.shape[2:]), value.expand(count, -1, -1, -1)], dim=1)
        x = self._residual("Decoder.ResMM", self._conv("Decoder.convFM", x))
        for name, skip in (("Decoder.RF3", f8), ("Decoder.RF2", f4)):
            s = self._conv(f"{name}.convFS", skip.expand(count, -1, -1, -1))
            s = self._residual(f"{name}.ResFS", s)
            x = self._residual(f"{name}.ResMM", s + _enlarge(x, 2))
        pair = _enlarge(self._conv("Decoder.pred2", F.relu(x)), 4)  # (N, 2, H, W)
        objects = torch.softmax(pair, dim=1)[:, 1]
        prob = torch.cat([torch.prod(1 - objects, dim=0, keepdim=True), objects]).clamp(1e-7, 1 - 1e-7)
        return torch.log(prob / (1 - prob))

    def _stem(self, name: str, frame: Tensor) -> Tensor:
        frame = (frame - self.state[f"{name}.mean"]) / self.state[f"{name}.std"]
        return self._conv(f"{name}.conv1", frame, stride=2, padding=3)

    def _trunk(self, name: str, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the features at strides 16, 8 and 4."""
        x = F.max_pool2d(F.relu(self._norm(f"{name}.bn1", x)), 3, stride=2, padding=1)
        found = []
        for stage, blocks in BLOCKS.items():
            for index in range(blocks):
                stride = 2 if index == 0 and stage != "res2" else 1
                x = self._bottleneck(f"{name}.{stage}.{index}", x, stride=stride, first=index == 0)
            found.append(x)
        f4, f8, f16 = found
        return f16, f8, f4

    def _bottleneck(self, name: str, x: Tensor, *, stride: int, first: bool) -> Tensor:
        y = F.relu(self._norm(f"{name}.bn1", self._conv(f"{name}.conv1", x, padding=0)))
        y = F.relu(self._norm(f"{name}.bn2", self._conv(f"{name}.conv2", y, stride=stride)))
        y = self._norm(f"{name}.bn3", self._conv(f"{name}.conv3", y, padding=0))
        if first:
            x = self._norm(f"{name}.downsample.1", self._conv(f"{name}.downsample.0", x, stride=stride, padding=0))
        return F.relu(y + x)

    def _residual(self, name: str, x: Tensor) -> Tensor:
        return x + self._conv(f"{name}.conv2", F.relu(self._conv(f"{name}.conv1", F.relu(x))))

    def _conv(self, name: str, x: Tensor, *, stride: int = 1, padding: int = 1) -> Tensor:
        return F.conv2d(x, self.state[f"{name}.weight"], self.state.get(f"{name}.bias"), stride, padding)

    def _norm(self, name: str, x: Tensor) -> Tensor:
        mean, var, weight, bias = (self.state[f"{name}.{x}"] for x in ("running_mean", "running_var", "weight", "bias"))
        return F.batch_norm(x, mean, var, weight, bias)


class PlainFollower:
    """Follow a clip by the published protocol: first, every N-th and previous frame in memory, which only grows."""

    def __init__(self, model: PlainSTM, frame: Tensor, first: Tensor, *, every: int) -> None:
        """Take the first frame (1, 3, H, W) in [0, 1] and its one-hot masks (N, H, W)."""
        self.model, self.every, self.age = model, every, 0
        height, width = self.size = frame.shape[2:]
        sides = [((-length % 16) // 2, -length % 16 - (-length % 16) // 2) for length in (width, height)]
        self.pad = [*sides[0], *sides[1]]
        self.prob = torch.cat([1 - first.sum(0, keepdim=True), first])
        self.before = F.pad(frame, self.pad)
        self.keys, self.values = torch.empty(0), torch.empty(0)  # (N, Ck, M, h, w), (N, Cv, M, h, w)

    def step(self, frame: Tensor) -> Tensor:
        """Segment the next frame: (1, 3, H, W) -> prob (N+1, H, W)."""
        key, value = self.model.memorize(self.before, F.pad(self.prob[1:], self.pad))
        keys, values = self._with(self.keys, key), self._with(self.values, value)
        if self.age % self.every == 0:
            self.keys, self.values = keys, values
        self.age += 1
        self.before = F.pad(frame, self.pad)
        left, top = self.pad[0], self.pad[2]
        logits = self.model.segment(self.before, keys, values)
        self.prob = torch.softmax(logits[:, top : top + self.size[0], left : left + self.size[1]], dim=0)
        return self.prob

    def _with(self, memory: Tensor, part: Tensor) -> Tensor:
        return torch.cat([memory, part[:, :, None]], dim=2) if self.age else part[:, :, None]


def run_plain(model: PlainSTM, frames: Tensor, first: Tensor, *, every: int) -> list[Tensor]:
    """Segment a clip: frames (T, 3, H, W), first (N, H, W) -> per frame prob (N+1, H, W), the given mask first."""
    follower = PlainFollower(model, frames[:1], first, every=every)
    return [follower.prob, *(follower.step(frame) for frame in frames[1:].split(1))]


def _enlarge(x: Tensor, factor: int) -> Tensor:
    return F.interpolate(x, scale_factor=factor, mode="bilinear", align_corners=False)
