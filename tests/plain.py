"""The published network as plain as it can be written, from the paper and a state dict with the published names.

Every object passes through all of it, every frame's keys and values are concatenated, nothing is shared, folded or
reordered. It is what the network of the package is compared with, and what its speed is a multiple of.
"""

import math
from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

BLOCKS = {"res2": 3, "res3": 4, "res4": 6}


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


def run_plain(model: PlainSTM, frames: Tensor, first: Tensor, *, every: int) -> list[Tensor]:
    """Segment a clip by the published protocol: first, every N-th and previous frame in memory.

    frames (T, 3, H, W) in [0, 1], first (N, H, W) one-hot -> per frame prob (N+1, H, W), the given mask first.
    """
    pad = [side for length in frames.shape[:1:-1] for side in ((-length % 16) // 2, -length % 16 - (-length % 16) // 2)]
    left, top = pad[0], pad[2]
    height, width = frames.shape[2:]
    padded = F.pad(frames, pad)
    probs = [torch.cat([1 - first.sum(0, keepdim=True), first])]
    kept: list[tuple[Tensor, Tensor]] = []
    for t in range(1, len(frames)):
        previous = model.memorize(padded[t - 1 : t], F.pad(probs[-1][1:], pad))
        slots = [*kept, previous]
        kept = slots if (t - 1) % every == 0 else kept
        keys, values = (torch.stack([slot[part] for slot in slots], dim=2) for part in (0, 1))
        logits = model.segment(padded[t : t + 1], keys, values)[:, top : top + height, left : left + width]
        probs.append(torch.softmax(logits, dim=0))
    return probs


def _enlarge(x: Tensor, factor: int) -> Tensor:
    return F.interpolate(x, scale_factor=factor, mode="bilinear", align_corners=False)
