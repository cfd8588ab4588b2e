"""How long the network alone takes for a frame, with its memory full."""

import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_hook
from torch.utils.flop_counter import FlopCounterMode

from stmcli import __version__
from stmcli.bench.bound import Bound, measure_bound
from stmcli.bench.clock import time_round
from stmcli.bench.row import Row
from stmcli.clips import Clips
from stmcli.device import check_compiler, pick_device
from stmcli.listeners import unheard
from stmcli.machine import processor, usable_cores
from stmcli.model import SIZES, STM
from stmcli.model.products import LINEAR
from stmcli.model.quantized import QuantizedConv
from stmcli.model.winograd import Winograd
from stmcli.options import BenchOptions, MemoryOptions, NetworkOptions
from stmcli.peak import Peak
from stmcli.ranges import ranges_in_clips
from stmcli.registry import find, registered
from stmcli.segmenter import Follower, Segmenter
from stmcli.segmenter.apart import Apart
from stmcli.segmenter.ensemble import Ensemble, make_follower
from stmcli.segmenter.recorder import unrecorded
from stmcli.weights import Card, load_model, pick_precision, save, suited

SEED = 0
EACH = 1  # steps after which the frame before is memorized: the most that steps take, and all of them the same
SMALL = 128  # px, of a frame that shows how large numbers become
BLOCK, SHIFT, PICTURES = 16, 4, 8  # px of a patch of colour, px that it moves by, frames before they come again


@dataclass(frozen=True)
class Case:
    """One row to measure."""

    network: NetworkOptions
    objects: int
    slots: int = MemoryOptions().max_slots


@dataclass(frozen=True)
class Speeds:
    """All rows, and what is known of the machine."""

    machine: dict[str, Any]
    bounds: tuple[Bound, ...]
    rows: tuple[Row, ...]

    def share(self, row: Row) -> float:
        """Return what part of the machine's own convolution speed a row reaches."""
        bound = next(b for b in self.bounds if (b.device, b.precision) == (row.device, row.precision))
        return row.operations_per_second / bound.convolution

    def facts(self) -> dict[str, Any]:
        """Return all of it as JSON holds it."""
        rows = [row.facts() | {"share_of_convolution": self.share(row)} for row in self.rows]
        return {"machine": self.machine, "bounds": [asdict(bound) for bound in self.bounds], "rows": rows}


def bench_network(
    cases: Sequence[Case], options: BenchOptions | None = None, *, on_case: Callable[[int, Case], None] = unheard
) -> Speeds:
    """Measure the network on synthetic frames, a row for each case. Raises UsageError and WeightsError.

    A name of `model.SIZES` that no weights have stands for random ones.
    """
    options = options or BenchOptions()
    devices = [_checked(case.network) for case in cases]
    bounds: dict[tuple[str, str], Bound] = {}
    rows = []
    for number, (case, device) in enumerate(zip(cases, devices, strict=True)):
        on_case(number, case)
        with _found(case.network) as network:
            bound = measure_bound(device, pick_precision(network))  # beside every row: machines have better moments
            key = bound.device, bound.precision
            bounds[key] = bounds.get(key, bound).best(bound)
            rows.append(_measure(case, network, device, options))
    return Speeds(_machine(devices), tuple(bounds.values()), tuple(rows))


def _checked(network: NetworkOptions) -> torch.device:
    """Return the device; raise at once what would otherwise be raised after minutes of other rows."""
    made_up = _is_made_up(network.weights)
    if not made_up:
        find(network.weights)
    check_compiler(network)
    pick_precision(replace(network, weights=NetworkOptions.weights) if made_up else network)
    return pick_device(network.device)


def _measure(case: Case, network: NetworkOptions, device: torch.device, options: BenchOptions) -> Row:
    peak, fit = Peak(device), replace(suited(network), renew=EACH)
    model = load_model(network)
    clip = cycle(moving_frames(*options.frame))
    follower = full_follower(model, network, next(clip), objects=case.objects, slots=case.slots)
    follower.step(next(clip))  # the first one has no frame before it to memorize
    macs = count_macs(follower, next(clip))
    rounds = [
        time_round(lambda: follower.step(next(clip)), count=options.frames, device=device)
        for _ in range(options.rounds)
    ]
    return Row(
        weights=case.network.weights,
        frame="{}x{}".format(*options.frame),
        fit=fit,
        tta=",".join(network.tta),
        compiled=network.compile,
        objects=case.objects,
        slots=case.slots,
        precision=pick_precision(network),
        device=str(device),
        milliseconds=tuple(1000 * seconds for times in rounds for seconds in times),
        macs=macs,
        peak_host_bytes=peak.host(),
        peak_host=peak.of_host,
        peak_device_bytes=peak.device(),
    )


def full_follower(model: STM, network: NetworkOptions, rgb: np.ndarray, *, objects: int, slots: int) -> Follower:
    """Return what follows a clip and has memorized its first frame, rgb (H, W, 3), in every slot but the last.

    The last is for the previous frame, which every step memorizes. No other frame is kept, so every step reads the same
    number of slots.
    """
    follower = make_follower(model, replace(network, renew=EACH), MemoryOptions(every=0, max_slots=slots))
    follower.step(rgb, stripes(rgb.shape[0], rgb.shape[1], objects))
    fill_memory(follower, slots=slots)
    return follower


@torch.inference_mode()
def fill_memory(follower: Follower, *, slots: int) -> None:
    """Give the first frame, which was memorized already, again and again until one slot is left."""
    for segmenter in _segmenters(follower):
        bank = segmenter.bank
        keys, values = (part[:, :, : part.shape[2] // bank.slots].clone() for part in bank.read()[:2])
        for _ in range(slots - 1 - bank.slots):
            bank.pin(keys, values)


def _segmenters(follower: Follower) -> list[Segmenter]:
    if isinstance(follower, Ensemble):
        return [one for view in follower.views for one in _segmenters(view.segmenter)]
    if isinstance(follower, Apart):
        return [*follower.segmenters]
    assert isinstance(follower, Segmenter)
    return [follower]


def count_macs(follower: Follower, rgb: np.ndarray) -> int:
    """Count the multiply-accumulates of a step, in convolutions and matrix products, by making it.

    Those of a `Winograd` count as those of the convolution whose place it took.
    """
    unseen: list[int] = []

    def note(module: nn.Module, _: object, y: Tensor) -> None:
        if isinstance(module, Winograd):
            unseen.append(module.spared(y))
        elif isinstance(module, QuantizedConv):
            unseen.append(module.macs(y))

    eager, others = torch.compiler.set_stance("force_eager"), {LINEAR: _operations} if LINEAR else {}
    counter = FlopCounterMode(display=False, custom_mapping=others)
    with unrecorded(), eager, register_module_forward_hook(note), counter:
        follower.step(rgb)
    return counter.get_total_flops() // 2 + sum(unseen)


def _operations(x: Sequence[int], y: Sequence[int], *_: object, **__: object) -> int:
    """Return how many operations a product of x (M, K) and y (N, K) takes."""
    return 2 * x[0] * x[1] * y[0]


def moving_frames(width: int, height: int) -> list[np.ndarray]:
    """Return frames (H, W, 3) of coloured patches that move slowly."""
    patches = np.random.default_rng(SEED).integers(0, 256, (height // BLOCK + 1, width // BLOCK + 1, 3), np.uint8)
    picture = patches.repeat(BLOCK, 0).repeat(BLOCK, 1)[:height, :width]
    return [np.ascontiguousarray(np.roll(picture, SHIFT * t, axis=1)) for t in range(PICTURES)]


def stripes(height: int, width: int, objects: int) -> np.ndarray:
    """Return labels (H, W): objects side by side in the middle half of the frame."""
    labels = np.zeros((height, width), np.uint8)
    labels[height // 4 : height - height // 4] = 1 + np.arange(width) * objects // width
    return labels


def _is_made_up(name: str) -> bool:
    return name in SIZES and name not in registered() and not Path(name).is_file()


@contextmanager
def _found(network: NetworkOptions) -> Iterator[NetworkOptions]:
    """Write random weights where a size is named that has none."""
    name = network.weights
    if not _is_made_up(name):
        yield network
        return
    with tempfile.TemporaryDirectory() as folder, torch.random.fork_rng(devices=[]):
        torch.manual_seed(SEED)
        path, model = Path(folder) / f"{name}.safetensors", STM(SIZES[name]).eval()
        ranges = synthetic_ranges(model) if network.precision == "int8" else {}
        save(path, model, Card(SIZES[name], "none", origin="random numbers", ranges=ranges))
        yield replace(network, weights=str(path))


def synthetic_ranges(model: STM) -> dict[str, float]:
    """Return the largest inputs of a network's convolutions in two synthetic frames."""
    rgb = torch.from_numpy(np.stack(moving_frames(SMALL, SMALL)[:2])).permute(0, 3, 1, 2)[None] / 255
    masks = torch.from_numpy(stripes(SMALL, SMALL, 1))[None, None, None].float()
    return ranges_in_clips(model, lambda _: Clips(rgb, masks), 1)


def _machine(devices: Sequence[torch.device]) -> dict[str, Any]:
    cuda = sorted({torch.cuda.get_device_name(device) for device in devices if device.type == "cuda"})
    return {
        "processor": processor(),
        "cores": usable_cores(),
        "threads": torch.get_num_threads(),
        "cuda": ", ".join(cuda) or None,
        "torch": torch.__version__,
        "stm": __version__,
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
    }
