"""How fast the network is beside the published algorithm, and whether time and memory stay what they are.

    python tests/speed.py                    # all parts, half an hour on two cores
    python tests/speed.py network start      # some of them: network, command, flat, memory, start
    python tests/speed.py network --rounds 7 --frames 3

Everything that is compared runs in turn, round by round, so that a machine that slows down does so for both; a figure
is the median over the rounds. The published algorithm has a process of its own, where torch allocates memory as it does
by itself. Prints Markdown tables, with what is wanted beside what was measured.
"""

import argparse
import ctypes
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from functools import cache
from itertools import cycle
from multiprocessing import get_context
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import psutil
import torch
from PIL import Image
from plain import PlainFollower, PlainSTM, published_state

from stmcli.__main__ import SPINS, WAITING
from stmcli.bench.bound import Bound, measure_bound
from stmcli.bench.clock import time_round
from stmcli.bench.command import Timing, bench_command
from stmcli.bench.network import count_macs, full_follower, moving_frames, stripes, synthetic_ranges
from stmcli.device import has_int8_units
from stmcli.job import Job
from stmcli.machine import processor, usable_cores
from stmcli.masks import read_labels, write_labels
from stmcli.memory import MemoryBank
from stmcli.options import MemoryOptions, NetworkOptions, SegmentOptions
from stmcli.segmenter import Segmenter
from stmcli.segmenter.ensemble import make_follower
from stmcli.segmenter.geometry import Geometry
from stmcli.segmenter.prediction import Prediction
from stmcli.video import H264, VideoWriter, open_source
from stmcli.weights import load_model, pick_precision, read, save

ROOT = Path(__file__).resolve().parent.parent
FRAME, SLOTS, MANY, NEVER = (854, 480), 20, 100, 10**9
SMALL, EARLY, LATE = (160, 96), 200, 10_000  # of the part `flat`: frame size, px, and the frames that are compared
STARTS = 5  # of each program
CLIP = ROOT / "sample_videos" / "koi.mp4"
GRAIN = 4  # standard deviation, 0..255
INSIDE = 480  # px, of resnet50
COMMAND_WANTED = {(854, 480): 1.15, (1920, 1080): 1.25}  # against the longest of its parts
SUM_WANTED = 1.1  # against their sum
APART = get_context("spawn")
OBJECTS = {"cpu": (1, 3), "cuda": (1, 5)}
WANTED = {  # times as fast as the plain network, by device, name and objects
    ("cpu", "resnet50 fp32", 1): 1.2,
    ("cpu", "resnet50 fp32", 3): 1.7,
    ("cpu", "resnet50 bf16", 1): 2.5,
    ("cpu", "resnet50 bf16", 3): 3.8,
    ("cpu", "compact at 480 px", 1): 15,
    ("cpu", "compact as shipped", 1): 15,
    ("cuda", "resnet50 bf16", 1): 8,
    ("cuda", "resnet50 bf16", 5): 12,
}
WANTED_SHARE = {("cpu", "resnet50 fp32"): 0.8, ("cpu", "resnet50 bf16"): 0.8}
WANTED_RATE = {("cuda", "resnet50 bf16", 1): 300, ("cuda", "compact as shipped", 1): 800}  # frames/s
NO_GPU = "no GPU here"
measured = ["cpu", "cuda"]  # where they are


@dataclass
class Contender:
    """A way to segment the next frame, and how long it took in each round, in seconds."""

    name: str
    precision: str
    time: Callable[[int], list[float]]  # segments so many frames and returns the seconds of each
    macs: int = 0
    seconds: tuple[float, ...] = ()


def devices() -> list[torch.device]:
    there = ["cpu", *["cuda"] * torch.cuda.is_available()]
    return [torch.device(name) for name in there if name in measured]


def table(*headings: str) -> Iterator[str]:
    yield "| " + " | ".join(headings) + " |"
    yield "|---" * len(headings) + "|"


def line(*cells: object) -> str:
    return "| " + " | ".join(str(cell) for cell in cells) + " |"


# -- the network alone -------------------------------------------------------------------------------------------------


@contextmanager
def plain_contender(objects: int, device: torch.device) -> Iterator[Contender]:
    """The published algorithm in a process of its own."""
    pipe, theirs = APART.Pipe()
    process = APART.Process(target=serve_plain, args=(theirs, objects, device), daemon=True)
    process.start()
    theirs.close()

    def time(frames: int) -> list[float]:
        pipe.send(frames)
        return pipe.recv()

    try:
        yield Contender("plain fp32", "fp32", time)
    finally:
        process.terminate()
        process.join()


@torch.no_grad()
def serve_plain(pipe: Any, objects: int, device: torch.device) -> None:
    """Segment as many frames as are asked for, and say how long each took."""
    torch.backends.cudnn.allow_tf32 = False
    step = plain_step(objects, device)
    while frames := pipe.recv():
        pipe.send(time_round(step, count=frames, device=device))


def plain_step(objects: int, device: torch.device) -> Callable[[], object]:
    """Follow a clip with SLOTS slots: what is kept, and the previous frame, which is concatenated to it."""
    clip = cycle(moving_frames(*FRAME))
    state = {name.removeprefix("module."): x.to(device) for name, x in published_state().items()}
    masks = stripes(FRAME[1], FRAME[0], objects) == np.arange(1, objects + 1)[:, None, None]

    def upload(rgb: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(rgb).to(device).permute(2, 0, 1)[None].float().contiguous() / 255

    first = torch.from_numpy(masks).float().to(device)
    follower = PlainFollower(PlainSTM(state), upload(next(clip)), first, every=NEVER)
    follower.step(upload(next(clip)))
    follower.keys, follower.values = (x.repeat(1, 1, SLOTS - 1, 1, 1) for x in (follower.keys, follower.values))
    return lambda: follower.step(upload(next(clip)))


def our_contender(name: str, network: NetworkOptions, objects: int, device: torch.device) -> Contender:
    network = replace(network, device=str(device))
    clip = cycle(moving_frames(*FRAME))
    follower = full_follower(load_model(network), network, next(clip), objects=objects, slots=SLOTS)
    follower.step(next(clip))
    macs = count_macs(follower, next(clip))

    def time(frames: int) -> list[float]:
        return time_round(lambda: follower.step(next(clip)), count=frames, device=device)

    return Contender(name, pick_precision(network), time, macs)


def random_weights(folder: Path) -> Path:
    """Write random numbers as weights of resnet50, with how large the numbers in it become."""
    published, path = folder / "random.pth", folder / "random.safetensors"
    torch.save(published_state(), published)
    model, card = read(published)
    save(path, model, replace(card, ranges=synthetic_ranges(model.eval())))
    return path


def our_contenders(weights: str, objects: int, device: torch.device) -> list[Contender]:
    networks = {
        "resnet50 fp32": NetworkOptions(weights, precision="fp32", size=0),
        "resnet50 bf16": NetworkOptions(weights, precision="bf16", size=0),
    }
    if objects == 1:
        networks["compact at 480 px"] = NetworkOptions(size=0)
        networks["compact as shipped"] = NetworkOptions()
    if has_int8_units(device):
        networks["resnet50 int8"] = NetworkOptions(weights, precision="int8", size=0)
        if objects == 1:
            networks["compact as shipped, fp32"] = NetworkOptions(precision="fp32")
    return [our_contender(name, network, objects, device) for name, network in networks.items()]


def compete(runners: list[Contender], device: torch.device, rounds: int, frames: int) -> dict[str, Bound]:
    """Time all of them in turn, round by round, and the machine itself."""
    bounds: dict[str, Bound] = {}
    for number in range(rounds):
        for runner in runners:
            print(f"{runner.name}, round {number + 1} of {rounds}", file=sys.stderr)
            runner.seconds += (statistics.median(runner.time(frames)),)
        for precision in sorted({runner.precision for runner in runners}):
            bound = measure_bound(device, precision)
            bounds[precision] = bounds.get(precision, bound).best(bound)
    return bounds


def standing(runner: Contender, plain: Contender, bound: Bound, objects: int, device: str) -> str:
    milliseconds = 1000 * statistics.median(runner.seconds)
    faster = statistics.median(a / b for a, b in zip(plain.seconds, runner.seconds, strict=True))
    rate = 2 * runner.macs / (milliseconds / 1000) / bound.convolution
    wanted = WANTED.get((device, runner.name, objects), "")
    share = WANTED_SHARE.get((device, runner.name), "")
    frames = WANTED_RATE.get((device, runner.name, objects), "")
    mine = (f"{milliseconds:.3g}", f"{1000 / milliseconds:.3g}", frames, f"{faster:.2f}", wanted)
    return line(device, objects, runner.name, *mine, f"{rate:.2f}" if runner.macs else "", share)


def network(rounds: int, frames: int) -> Iterator[str]:
    yield f"{FRAME[0]}x{FRAME[1]}, {SLOTS} slots of memory filled, {rounds} rounds of {frames} frames"
    yield ""
    headings = ("device", "objects", "network", "ms a frame", "frames/s", "wanted", "times plain", "wanted")
    yield from table(*headings, "share of convolution", "wanted")
    speeds = []
    with tempfile.TemporaryDirectory() as folder:
        weights = random_weights(Path(folder))
        for device in devices():
            for objects in OBJECTS[device.type]:
                with plain_contender(objects, device) as plain:
                    runners = [plain, *our_contenders(str(weights), objects, device)]
                    bounds = compete(runners, device, rounds, frames)
                speeds += [f"{device} {b.precision}: {b.convolution / 1e9:.0f} G/s" for b in bounds.values()]
                for runner in runners:
                    yield standing(runner, plain, bounds[runner.precision], objects, device.type)
    if not torch.cuda.is_available():
        for key in dict.fromkeys((*WANTED, *WANTED_RATE)):
            if key[0] == "cuda":
                yield line(
                    key[0], key[2], key[1], NO_GPU, "", WANTED_RATE.get(key, ""), "", WANTED.get(key, ""), "", ""
                )
    yield ""
    yield "operations in a 3x3 convolution alone: " + ", ".join(speeds)


# -- a whole command ---------------------------------------------------------------------------------------------------


def command() -> Iterator[str]:
    """Measure masks and overlay of a clip beside decoding, network, masks and overlay alone."""
    yield "a whole command, masks and overlay, beside the longest of its parts or their sum; the second of two rounds"
    yield ""
    yield from table("device", "frames", "network", "ms a frame", "beside", "ms a frame", "ratio", "wanted")
    with tempfile.TemporaryDirectory() as folder:
        random = random_weights(Path(folder))
        for device in devices():
            for size in COMMAND_WANTED:
                clip = enlarged(CLIP, Path(folder), size)
                networks = {
                    "compact as shipped": NetworkOptions(device=str(device)),
                    f"resnet50, {INSIDE} px inside": NetworkOptions(str(random), str(device), size=INSIDE),
                }
                if size[1] > INSIDE:
                    networks["resnet50, all of it inside"] = NetworkOptions(str(random), str(device), size=0)
                cases = [(name, options, SegmentOptions()) for name, options in networks.items()]
                if device.type == "cuda":
                    name, options, _ = cases[0]
                    cases.append((f"{name}, decoded by NVDEC", options, SegmentOptions(decoder="nvdec")))
                for name, options, segment in cases:
                    print(f"{name}, {size[1]} lines", file=sys.stderr)
                    timing = timed_command(clip, options, segment, frames_of(options, device))
                    yield line(device, "{}x{}".format(*size), name, *beside_parts(timing, name, size, device))
    if not torch.cuda.is_available():
        for size, wanted in COMMAND_WANTED.items():
            yield line("cuda", "{}x{}".format(*size), NO_GPU, "", "longest", "", "", wanted)


def frames_of(options: NetworkOptions, device: torch.device) -> int:
    """Return so many frames that what a command takes once is a small part of it."""
    if device.type == "cuda" or options.weights == NetworkOptions.weights:
        return 60
    return 6 if options.size == 0 else 24


def beside_parts(timing: Timing, name: str, size: tuple[int, int], device: torch.device) -> Iterator[str]:
    """The cells of one command; beside `compact` on a CPU all parts need the cores."""
    shared = device.type == "cpu" and name.startswith("compact")
    alone = (sum if shared else max)(timing.parts.values())
    yield f"{1000 * timing.whole / timing.frames:.3g}"
    yield "their sum" if shared else max(timing.parts, key=lambda part: timing.parts[part])
    yield f"{1000 * alone / timing.frames:.3g}"
    yield f"{timing.whole / alone:.2f}"
    yield str(SUM_WANTED if shared else COMMAND_WANTED[size])


def enlarged(source: Path, folder: Path, size: tuple[int, int]) -> Path:
    """Write a clip in another size, with grain as a camera has it, and its mask."""
    path = folder / f"{size[1]}.mp4"
    labels = Image.fromarray(read_labels(source.with_suffix(".png"))).resize(size, Image.Resampling.NEAREST)
    write_labels(path.with_suffix(".png"), np.minimum(labels, 1))
    grain = np.random.default_rng(0)
    with open_source(source) as clip:
        film = VideoWriter(path, codec=H264, size=size, rate=clip.info.rate, time_base=clip.info.time_base)
        for frame in clip:
            larger = np.asarray(Image.fromarray(frame.rgb).resize(size, Image.Resampling.BICUBIC))
            noisy = larger + grain.normal(0, GRAIN, larger.shape[:2])[:, :, None]
            film.write(noisy.round().clip(0, 255).astype(np.uint8), frame.time)
        film.close()
    return path


def timed_command(clip: Path, options: NetworkOptions, segment: SegmentOptions, frames: int) -> Timing:
    """Random weights find nothing of the shape of an object: the given mask, as soft as theirs, then stands for it."""
    mask, follow = clip.with_suffix(".png"), Segmenter._follow
    labels = read_labels(mask)

    @cache
    def shape(device: torch.device) -> torch.Tensor:
        geometry = Geometry.fit(*labels.shape, options.size or 0)
        given = torch.from_numpy(labels).float().to(device)[None, None]
        soft = geometry.leave(geometry.crop(geometry.enter(given)))[0]
        return torch.cat([1 - soft, soft])

    def found(self: Segmenter, pixels: torch.Tensor, new: bool) -> Prediction:
        return replace(follow(self, pixels, new), prob=shape(pixels.device))

    is_random = options.weights != NetworkOptions.weights
    with mock.patch.object(Segmenter, "_follow", found) if is_random else nullcontext():
        return bench_command(Job(clip, (str(mask),), Path("speed"), segment, options), frames=frames, rounds=1)


# -- flat in time ------------------------------------------------------------------------------------------------------


def flat() -> Iterator[str]:
    """Follow one clip to frame LATE, then compare its steps with those of one at frame EARLY, in turn."""
    yield f"compact at {SMALL[0]}x{SMALL[1]}, frame {EARLY} and frame {LATE}"
    yield ""
    yield from table("device", f"ms at {EARLY}", f"ms at {LATE}", "ratio", "wanted", "host", "GPU", "wanted")
    for device in devices():
        yield flatness(device)
    if not torch.cuda.is_available():
        yield line("cuda", NO_GPU, "", "", "within 5 %", "", "", "within 2 %")


def flatness(device: torch.device, *, turns: int = 20, each: int = 25) -> str:
    options = NetworkOptions(device=str(device), size=0, renew=1)  # for every step to do the same
    model, clip = load_model(options), cycle(moving_frames(*SMALL))

    def start() -> Callable[[], object]:
        follower = make_follower(model, options, MemoryOptions())
        follower.step(next(clip), stripes(SMALL[1], SMALL[0], 1))
        return lambda: follower.step(next(clip))

    def go(step: Callable[[], object], count: int) -> None:
        for _ in range(count):
            step()

    old = start()
    go(old, EARLY)
    before = bytes_taken(device)
    go(old, LATE - EARLY - turns * (each + 1))
    grown = [growth(*pair) for pair in zip(before, bytes_taken(device), strict=True)]
    young = start()
    go(young, EARLY)
    times = [[time_round(step, count=each, device=device) for step in (young, old)] for _ in range(turns)]
    early, late = (1000 * statistics.median(s for turn in times for s in turn[place]) for place in (0, 1))
    ratio = statistics.median(statistics.median(b) / statistics.median(a) for a, b in times)
    return line(device, f"{early:.2f}", f"{late:.2f}", f"{ratio:.3f}", "within 5 %", *grown, "within 2 %")


def growth(before: int, after: int) -> str:
    return f"{100 * (after / before - 1):+.1f} %" if before else ""


def bytes_taken(device: torch.device) -> tuple[int, int]:
    """Resident memory of the process, and what torch has allocated on a GPU."""
    host = psutil.Process().memory_info().rss
    return host, torch.cuda.memory_allocated(device) if device.type == "cuda" else 0


# -- memory by objects -------------------------------------------------------------------------------------------------


def memory() -> Iterator[str]:
    """Make banks of many slots and see what they take: of the process on a CPU, of torch's memory on a GPU."""
    yield f"{FRAME[0]}x{FRAME[1]}, KiB for a slot and an object, in banks of {MANY} slots"
    yield ""
    yield from table("device", "network", "objects", "h x w x (Ck + Cv) x bytes", "measured", "ratio")
    with tempfile.TemporaryDirectory() as folder:
        weights = random_weights(Path(folder))
        for device in devices():
            for name, options in {
                "resnet50 fp32": NetworkOptions(str(weights), str(device), "fp32", size=0),
                "compact as shipped": NetworkOptions(device=str(device)),
            }.items():
                for objects in (1, 2, 4, 8):
                    yield memory_line(name, options, objects, device)
    if not torch.cuda.is_available():
        yield line("cuda", NO_GPU, "", "", "", "")


@torch.inference_mode()
def memory_line(name: str, options: NetworkOptions, objects: int, device: torch.device) -> str:
    model = load_model(options)
    follower = make_follower(model, replace(options, augment=(), together=True))
    follower.step(moving_frames(*FRAME)[0], stripes(FRAME[1], FRAME[0], objects))
    keys, values = follower.bank.read()[:2]
    cells = keys.shape[2]  # of the only slot so far
    computed = cells * (model.dims.key * keys.element_size() + model.dims.value * values.element_size())
    place = 0 if device.type == "cpu" else 1
    give_back()
    before = bytes_taken(device)[place]
    bank = MemoryBank(MemoryOptions(max_slots=MANY))
    bank.pin(keys, values)
    measured = (bytes_taken(device)[place] - before) / MANY / objects
    return line(device, name, objects, f"{computed / 1024:.1f}", f"{measured / 1024:.1f}", f"{measured / computed:.3f}")


def give_back() -> None:
    """Return what is free on the heap to the system, where that is glibc, so that what is taken next is seen."""
    if hasattr(libc := ctypes.CDLL(None), "malloc_trim"):
        libc.malloc_trim(0)


# -- start-up ----------------------------------------------------------------------------------------------------------


def start() -> Iterator[str]:
    """Start programs whose modules are compiled already, as they are after the first time."""
    yield f"seconds, medians of {STARTS}, in turn, modules compiled before"
    yield ""
    yield from table("program", "s", "its imports alone", "s", "ratio", "wanted")
    clip = ROOT / "sample_videos" / "balloon.mp4"
    words = ["segment", str(clip), "--mask", str(clip.with_suffix(".png")), "--end", "1", "-e", "none", "--no-page"]
    with tempfile.TemporaryDirectory() as folder:
        os.environ |= {"PYTHONPYCACHEPREFIX": folder, "PYTHONDONTWRITEBYTECODE": ""}
        yield beside("stm --help", lambda: seconds_of("-m", "stmcli", "--help"), "typer, rich")
        yield beside("stm segment, first mask", lambda: first_mask(*words, "--device", "cpu"), "torch, torchvision")


def beside(name: str, measure: Callable[[], float], imports: str) -> str:
    pairs = [(measure(), seconds_of("-c", f"import {imports}")) for _ in range(STARTS + 1)]
    del pairs[0]  # which compiles the modules
    whole, alone = (statistics.median(times) for times in zip(*pairs, strict=True))
    ratio = statistics.median(a / b for a, b in pairs)
    return line(name, f"{whole:.2f}", f"import {imports}", f"{alone:.2f}", f"{ratio:.2f}", "at most 1.5")


def seconds_of(*words: str) -> float:
    began = time.perf_counter()
    subprocess.run([sys.executable, *words], cwd=ROOT, check=True, capture_output=True)
    return time.perf_counter() - began


def first_mask(*words: str) -> float:
    """Return the seconds until the mask of the second frame is there, the first that the network computes."""
    with tempfile.TemporaryDirectory() as folder:
        mask = Path(folder) / "out" / "masks" / "00001.png"
        began = time.perf_counter()
        command = [sys.executable, "-m", "stmcli", *words, "-o", str(mask.parent.parent)]
        with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
            while not mask.exists():
                if process.poll() is not None and not mask.exists():
                    raise SystemExit(f"{' '.join(command)}: ended with {process.returncode}")
                time.sleep(0.002)
            return time.perf_counter() - began


def wait_as_stm_does() -> None:
    """Begin again where threads wait for each other in another way than in `stm`; torch looks when it is imported."""
    if not WAITING & os.environ.keys():
        os.environ["GOMP_SPINCOUNT"] = SPINS
        os.execv(sys.executable, [sys.executable, *sys.argv])


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("parts", nargs="*", metavar="PART", help="network, command, flat, memory, start")
    parser.add_argument("--rounds", type=int, default=5, help="of network")
    parser.add_argument("--frames", type=int, default=2, help="of network, in a round")
    parser.add_argument("--device", choices=measured, help="of all but start; none: every one there is")
    options = parser.parse_args()
    wait_as_stm_does()
    measured[:] = [options.device] if options.device else measured
    parts = {
        "network": lambda: network(options.rounds, options.frames),
        **{"command": command, "flat": flat, "memory": memory, "start": start},
    }
    if unknown := {*options.parts} - {*parts}:
        parser.error(f"no such part: {', '.join(sorted(unknown))}")
    torch.set_grad_enabled(False)
    cards = [torch.cuda.get_device_name()] if torch.device("cuda") in devices() else []
    machine = [processor(), f"{usable_cores()} cores, {torch.get_num_threads()} threads", *cards]
    print(", ".join([*machine, f"torch {torch.__version__}"]))
    for name in options.parts or parts:
        print(f"\n## {name}\n")
        for text in parts[name]():
            print(text, flush=True)


if __name__ == "__main__":
    main()
