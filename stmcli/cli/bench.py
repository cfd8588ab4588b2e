"""stm bench."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from stmcli.cli.app import (
    MEMORY,
    NETWORK,
    JsonOption,
    MaxOption,
    QuietOption,
    ThreadsOption,
    app,
    give,
    say,
    use_threads,
)
from stmcli.cli.exports import EXPORT, kinds_of
from stmcli.cli.groups import grouped
from stmcli.cli.network import SUITED, AnyNetwork
from stmcli.errors import UsageError
from stmcli.options import EXPORTS, PRECISIONS, BenchOptions, ExportOptions, MemoryOptions, NetworkOptions

if TYPE_CHECKING:
    from stmcli.bench import Comparison, Row, Speeds

BENCH = BenchOptions()
MOST_OBJECTS = 100
SETTING = ("weights", "size", "objects", "device", "precision")
MEASURED = ("p50 ms", "p90 ms", "frames/s", "MiB")


@dataclass(frozen=True)
class Networks(AnyNetwork):
    """Which networks run, where, and how finely; several of them are measured in turn."""

    weights: Annotated[
        list[str] | None,
        typer.Option(
            "--weights",
            "-w",
            metavar="NAME|FILE",
            help="Names from `stm weights list`, or files; resnet50: random numbers.",
            show_default=NETWORK.weights,
        ),
    ] = None
    device: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help="auto, cpu, cuda, cuda:1.", show_default=NETWORK.device)
    ] = None
    precision: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help=f"{', '.join(PRECISIONS)}.", show_default=NETWORK.precision)
    ] = None
    size: Annotated[
        list[str] | None,
        typer.Option(
            metavar="PX",
            help="Shorter side inside the network, px; 0 = the source's.",
            show_default=SUITED,
        ),
    ] = None

    def options(self) -> list[NetworkOptions]:
        """Check the values; every combination, weights first. Raises UsageError."""
        weights = _weights("--weights", self.weights) or [NETWORK.weights]
        devices = _listed("--device", self.device) or [NETWORK.device]
        precisions = _listed("--precision", self.precision) or [NETWORK.precision]
        sizes: Sequence[int | None] = _numbers("--size", self.size, least=0) or [NETWORK.size]
        return [
            self.one(weights=name, device=device, precision=precision, size=size)
            for name, device, precision, size in product(weights, devices, precisions, sizes)
        ]


@app.command()
@grouped
def bench(
    video: Annotated[
        Path | None,
        typer.Argument(help="A video file, a folder of frames, or a pattern; none: the network alone is measured."),
    ] = None,
    mask: Annotated[Path | None, typer.Option("--mask", "-m", help="With VIDEO: the mask of the first frame.")] = None,
    export: Annotated[
        list[str] | None,
        typer.Option(
            "--export",
            "-e",
            metavar="KIND",
            help=f"With VIDEO: {', '.join(EXPORTS)}; repeatable.",
            show_default=", ".join(EXPORT.kinds),
        ),
    ] = None,
    objects: Annotated[
        list[str] | None, typer.Option(metavar="N", help="Without VIDEO: how many, e.g. 1,3.", show_default="1")
    ] = None,
    frame_size: Annotated[
        str | None,
        typer.Option(
            metavar="WxH", help="Without VIDEO: of the synthetic frames.", show_default="{}x{}".format(*BENCH.frame)
        ),
    ] = None,
    against: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Without VIDEO: compare with what --json printed before.")
    ] = None,
    mem_max: MaxOption = MEMORY.max_slots,
    frames: Annotated[
        int | None,
        typer.Option(
            min=2,
            help="How many frames: of VIDEO from the first, or of each round.",
            show_default=f"{BENCH.clip_frames} of VIDEO, {BENCH.frames} of a round",
        ),
    ] = None,
    rounds: Annotated[
        int, typer.Option(min=1, help="How often; what comes first in each is not counted.")
    ] = BENCH.rounds,
    *,
    networks: Networks,
    threads: ThreadsOption = 0,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Measure how fast the network is, or a whole command.

    With VIDEO: the command beside its parts, which are decoding, the network, every output.

    Weights, device, precision, size and objects may be several, as a,b or by repeating the option: without VIDEO every
    combination is a row.
    """
    use_threads(threads)
    if video is None:
        others = {"--adapt": networks.adapt, "--mem-renew": networks.mem_renew}  # every step memorizes there
        _refuse("without VIDEO", {"--mask": mask, "--export": export, **others})
        options = BenchOptions(_frame_size(frame_size), frames or BENCH.frames, rounds)
        counts = _numbers("--objects", objects, least=1, most=MOST_OBJECTS) or [1]
        _bench_network(networks.options(), counts, mem_max, options, against, as_json=as_json, quiet=quiet)
        return
    _refuse("with VIDEO", {"--objects": objects, "--frame-size": frame_size, "--against": against})
    chosen = networks.options()
    if mask is None:
        raise UsageError("--mask is missing", hint="Give the mask of the first frame, or no VIDEO.")
    if len(chosen) > 1:
        raise UsageError("several networks with VIDEO", hint="Name one of each, or leave VIDEO out.")
    exports = ExportOptions(kinds=kinds_of("--export", export))
    memory = MemoryOptions(max_slots=mem_max)
    _bench_clip(
        video, mask, chosen[0], memory, exports, frames or BENCH.clip_frames, rounds, as_json=as_json, quiet=quiet
    )


# -- a whole command ---------------------------------------------------------------------------------------------------


def _bench_clip(
    video: Path,
    mask: Path,
    network: NetworkOptions,
    memory: MemoryOptions,
    exports: ExportOptions,
    frames: int,
    rounds: int,
    *,
    as_json: bool,
    quiet: bool,
) -> None:
    from stmcli.bench import bench_command
    from stmcli.job import Job

    job = Job(video, (mask,), Path("bench"), network=network, memory=memory, export=exports)
    timing = bench_command(
        job, frames=frames, rounds=rounds, on_round=lambda n: None if quiet else say(f"round {n} of {rounds}")
    )
    if as_json:
        ratios = {"against_sum": timing.against_sum, "against_longest": timing.against_longest}
        give(json.dumps(asdict(timing) | ratios))
        return
    from rich.table import Table

    from stmcli.cli.console import results

    table = Table("part", "ms a frame", "frames/s", box=None, header_style="bold")
    for name, seconds in (*timing.parts.items(), ("the whole command", timing.whole)):
        rate = f"{timing.frames / seconds:.1f}"
        table.add_row(name, f"{1000 * seconds / timing.frames:.1f}", rate)
    results.print(table)
    give(
        f"{timing.frames} frames on {timing.device}: {timing.against_sum:.2f} times the sum of the parts, "
        f"{timing.against_longest:.2f} times the longest"
    )


# -- the network alone -------------------------------------------------------------------------------------------------


def _bench_network(
    networks: Sequence[NetworkOptions],
    objects: Sequence[int],
    slots: int,
    options: BenchOptions,
    against: Path | None,
    *,
    as_json: bool,
    quiet: bool,
) -> None:
    from stmcli.bench import Case, bench_network, compare, read_earlier

    before = read_earlier(against) if against else None
    cases = [Case(network, count, slots) for network, count in product(networks, objects)]

    def tell(number: int, case: Case) -> None:
        if not quiet:
            say(f"row {number + 1} of {len(cases)}: {case.network.weights}, objects: {case.objects}")

    speeds = bench_network(cases, options, on_case=tell)
    facts = speeds.facts()
    comparison = compare(facts, before) if before else None
    if as_json:
        give(json.dumps(facts if comparison is None else facts | {"against": asdict(comparison)}))
        return
    _show(speeds, comparison)
    for note in comparison.notes if comparison else ():
        say(f"note: {note}")


def _show(speeds: "Speeds", comparison: "Comparison | None") -> None:
    from rich.table import Table

    from stmcli.cli.console import results

    on_gpu = any(row.peak_device_bytes is not None for row in speeds.rows)
    headings = [*SETTING, *MEASURED, *["GPU MiB"] * on_gpu, "conv", *["faster"] * (comparison is not None)]
    table = Table(*headings, box=None, header_style="bold", padding=(0, 1, 0, 0))
    for place, row in enumerate(speeds.rows):
        ratio = [_optional(comparison.ratios[place], ".2f")] if comparison else []
        table.add_row(*_cells(row, on_gpu=on_gpu), f"{speeds.share(row):.2f}", *ratio)
    results.print(table)
    first = speeds.rows[0]
    give(
        f"{first.frame} frames, {first.slots} slots of memory filled, {len(first.milliseconds)} frames a row. "
        f"MiB: peak, {first.peak_host}; conv: share of what this machine reaches in a convolution alone:"
    )
    for bound in speeds.bounds:
        unit = "GOP/s" if bound.precision == "int8" else "GFLOP/s"
        give(
            f"{bound.device} {bound.precision}: {bound.convolution / 1e9:.0f} {unit} in a 3x3 convolution, "
            f"{bound.product / 1e9:.0f} in a matrix product"
        )
    give(", ".join(f"{name} {value}" for name, value in speeds.machine.items() if value is not None))


def _cells(row: "Row", *, on_gpu: bool) -> list[str]:
    setting = (row.weights, str(row.fit.size), str(row.objects), row.device, row.precision)
    times = (f"{value:.1f}" for value in (row.p50, row.p90, row.frames_per_second))
    device = None if row.peak_device_bytes is None else row.peak_device_bytes / 2**20
    return [*setting, *times, f"{row.peak_host_bytes / 2**20:.0f}", *[_optional(device, ".0f")] * on_gpu]


def _optional(value: float | None, form: str) -> str:
    return "" if value is None else format(value, form)


# -- values ------------------------------------------------------------------------------------------------------------


def _refuse(where: str, given: dict[str, Any]) -> None:
    for name, value in given.items():
        if value:
            raise UsageError(f"{name}: not {where}", hint="See stm bench --help.")


def _listed(option: str, values: Iterable[str] | None) -> list[str]:
    """Split at commas what was given once or several times."""
    words = [word.strip() for value in values or () for word in value.split(",")]
    if "" in words:
        raise UsageError(f"{option}: a value is empty", hint="Give one, or several like a,b; or leave the option out.")
    return words


def _weights(option: str, values: Iterable[str] | None) -> list[str]:
    return [word for value in values or () for word in ([value] if Path(value).is_file() else _listed(option, [value]))]


def _numbers(option: str, values: Iterable[str] | None, *, least: int, most: int | None = None) -> list[int]:
    words = _listed(option, values)
    for word in words:
        if not word.isdecimal() or int(word) < least or (most is not None and int(word) > most):
            hint = f"Use whole numbers from {least} {'on' if most is None else f'to {most}'}."
            raise UsageError(f"{option} {word}: not a number it can be", hint=hint)
    return [int(word) for word in words]


def _frame_size(text: str | None) -> tuple[int, int]:
    if text is None:
        return BENCH.frame
    from stmcli.images import MAX_PIXELS  # takes a while

    width, times, height = text.lower().partition("x")
    if not (times and width.isdecimal() and height.isdecimal() and min(int(width), int(height)) >= 16):
        raise UsageError(f"--frame-size {text}: not a size", hint="Use WIDTHxHEIGHT in pixels, 16 or more.")
    if int(width) * int(height) > MAX_PIXELS:
        raise UsageError(f"--frame-size {text}: absurd dimensions", hint=f"At most {MAX_PIXELS // 2**20} megapixels.")
    return int(width), int(height)
