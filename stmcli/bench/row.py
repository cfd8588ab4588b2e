"""What was measured of one network in one setting."""

import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from stmcli.options import FIT, Fit

# what makes rows comparable; compiled or not is a change like one of the code
SETTING = ("weights", "frame", *FIT, "tta", "objects", "slots", "precision", "device")


@dataclass(frozen=True)
class Row:
    """A setting, and the milliseconds and bytes that it took."""

    weights: str  # a name or a file; of a size without weights: random numbers
    frame: str  # WxH, px
    fit: Fit
    tta: str
    compiled: bool
    objects: int
    slots: int  # of memory, all filled
    precision: str
    device: str
    milliseconds: tuple[float, ...]  # of each frame, all rounds
    macs: int  # multiply-accumulates of a frame: convolutions and matrix products
    peak_host_bytes: int
    peak_host: str  # what that is
    peak_device_bytes: int | None

    @property
    def p50(self) -> float:
        """The median frame, in milliseconds."""
        return statistics.median(self.milliseconds)

    @property
    def p90(self) -> float:
        """The time that nine of ten frames do not exceed, in milliseconds."""
        return percentile(self.milliseconds, 0.9)

    @property
    def frames_per_second(self) -> float:
        """Frames a second, over all of them."""
        return 1000 * len(self.milliseconds) / sum(self.milliseconds)

    @property
    def operations_per_second(self) -> float:
        """Operations a second in the median frame, two for each multiply-accumulate."""
        return 2 * self.macs / (self.p50 / 1000)

    def facts(self) -> dict[str, Any]:
        """Return the row as JSON holds it."""
        stored = {name: value for name, value in vars(self).items() if name not in ("milliseconds", "fit")}
        found = {
            "frames": len(self.milliseconds),
            "p50_ms": self.p50,
            "p90_ms": self.p90,
            "frames_per_second": self.frames_per_second,
            "operations_per_second": self.operations_per_second,
        }
        return stored | asdict(self.fit) | {"augment": ",".join(self.fit.augment)} | found


def percentile(values: Sequence[float], share: float) -> float:
    """Return the smallest of the values that at least this share of them do not exceed."""
    ordered = sorted(values)
    return next(value for place, value in enumerate(ordered, start=1) if place >= share * len(ordered))
