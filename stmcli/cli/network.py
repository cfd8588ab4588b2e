"""The options of the network, which one command takes for one network and another for several."""

import math
from dataclasses import dataclass
from typing import Annotated, Any

import typer

from stmcli.cli.app import NETWORK, DeviceOption, one_of
from stmcli.errors import UsageError
from stmcli.options import AUGMENT, PRECISIONS, TTA, NetworkOptions

SUITED = "suits the weights"
SHORTEST_REACH = 0.1  # cells; a cell then reads its own place only


@dataclass(frozen=True)
class AnyNetwork:
    """How a network looks at frames and reads its memory, whether a command takes one network or several."""

    weights: Any = None  # whoever inherits says how many of these four there are; they keep their place in the help
    device: Any = None
    precision: Any = None
    size: Any = None
    top_k: Annotated[
        int | None,
        typer.Option(min=0, help="Read only the N best matching cells of the memory; 0 = all.", show_default=SUITED),
    ] = NETWORK.top_k
    reach: Annotated[
        float | None,
        typer.Option(
            help="Prefer memory near a place: standard deviation in cells of 16 px; 0 = anywhere alike.",
            show_default=SUITED,
        ),
    ] = NETWORK.reach
    tta: Annotated[
        str,
        typer.Option(
            metavar="flip,scale",
            help="Average views of every frame: flip = mirrored too, twice the time; scale = at two other sizes too, "
            "three times; both: six times.",
            show_default="none",
        ),
    ] = ""
    adapt: Annotated[
        int, typer.Option(min=0, metavar="STEPS", help="First train a copy of the decoder on the given frame.")
    ] = NETWORK.adapt
    compile: Annotated[
        bool, typer.Option("--compile", help="Compile the network first: half a minute, then every frame is faster.")
    ] = NETWORK.compile
    focus: Annotated[
        float | None,
        typer.Option(
            help="Look for each object in a window this many times as long as it is; 0 = in the whole frame.",
            show_default=SUITED,
        ),
    ] = NETWORK.focus
    together: Annotated[
        bool, typer.Option("--together", help="Look at all objects through one window: faster, where there are many.")
    ] = NETWORK.together
    anchor: Annotated[
        float | None,
        typer.Option(
            help="Let a given mask count so many times as much where a frame shows what it showed; "
            "1 = as any other frame.",
            show_default=SUITED,
        ),
    ] = NETWORK.anchor
    augment: Annotated[
        str | None,
        typer.Option(
            metavar="VIEWS",
            help=f"Memorize a frame where objects enter mirrored and at other sizes too: {', '.join(AUGMENT)}; none.",
            show_default=SUITED,
        ),
    ] = None
    memory_gate: Annotated[
        float | None,
        typer.Option(
            min=0,
            max=1,
            help="Do not remember an object from frames with less confidence in it, nor show odd finds; 0: off.",
            show_default=SUITED,
        ),
    ] = NETWORK.gate
    mem_renew: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Memorize the previous frame only every N frames, which takes less time.",
            show_default=SUITED,
        ),
    ] = NETWORK.renew

    def one(self, *, weights: str, device: str, precision: str, size: int | None) -> NetworkOptions:
        """Check and collect the options of one network. Raises UsageError."""
        reach, focus, anchor = self.reach, self.focus, self.anchor
        if reach and not SHORTEST_REACH <= reach < math.inf:
            raise UsageError(f"--reach {reach:g}: not a distance", hint=f"Use 0 or cells from {SHORTEST_REACH} on.")
        if focus and not 1 <= focus < math.inf:
            raise UsageError(f"--focus {focus:g}: not a size", hint="Use 0, or 2 for twice as long as the objects.")
        if anchor is not None and not 1 <= anchor < math.inf:
            raise UsageError(f"--anchor {anchor:g}: not a weight", hint="Use 1, or 100 for a hundred times as much.")
        return NetworkOptions(
            weights=weights,
            device=device,
            precision=one_of("--precision", precision, PRECISIONS),
            size=size,
            top_k=self.top_k,
            reach=reach,
            tta=_views("--tta", self.tta, TTA),
            adapt=self.adapt,
            compile=self.compile,
            focus=focus,
            together=self.together,
            anchor=anchor,
            augment=_augment(self.augment),
            gate=self.memory_gate,
            renew=self.mem_renew,
        )


@dataclass(frozen=True)
class Network(AnyNetwork):
    """Which network runs, where, and how finely."""

    weights: Annotated[str, typer.Option("--weights", "-w", help="A name from `stm weights list`, or a file.")] = (
        NETWORK.weights
    )
    device: DeviceOption = NETWORK.device
    precision: Annotated[str, typer.Option(help=f"{', '.join(PRECISIONS)}.")] = NETWORK.precision
    size: Annotated[
        int | None,
        typer.Option(min=0, help="Shorter side inside the network, px; 0 = the source's.", show_default=SUITED),
    ] = NETWORK.size

    def options(self) -> NetworkOptions:
        """Check the values. Raises UsageError."""
        return self.one(weights=self.weights, device=self.device, precision=self.precision, size=self.size)


def _augment(text: str | None) -> tuple[str, ...] | None:
    return None if text is None else _views("--augment", "" if text == "none" else text, AUGMENT)


def _views(option: str, text: str, allowed: tuple[str, ...]) -> tuple[str, ...]:
    words = {one_of(option, word.strip(), allowed) for word in text.split(",")} if text else set()
    return tuple(word for word in allowed if word in words)
