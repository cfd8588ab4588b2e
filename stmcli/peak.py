"""The most memory that was taken since some moment, on the host and on the device."""

import resource
import sys
from pathlib import Path

import torch

STATUS, RESET = Path("/proc/self/status"), Path("/proc/self/clear_refs")
SINCE_RESET, SINCE_START = "resident memory of the process, VmHWM of the row", "ru_maxrss, since the process began"


class Peak:
    """Measure from here on: resident memory of the whole process, and what torch has allocated on a CUDA device."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._is_reset = _reset_host()
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)

    @property
    def of_host(self) -> str:
        """Say what `host` measures."""
        return SINCE_RESET if self._is_reset else SINCE_START

    def host(self) -> int:
        """Return bytes."""
        if self._is_reset:
            line = next(line for line in STATUS.read_text().splitlines() if line.startswith("VmHWM:"))
            return int(line.split()[1]) * 1024
        most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return most if sys.platform == "darwin" else most * 1024

    def device(self) -> int | None:
        """Return bytes; None where the device is the host."""
        return torch.cuda.max_memory_allocated(self._device) if self._device.type == "cuda" else None


def _reset_host() -> bool:
    """Begin a new peak of resident memory, where the system is a Linux that lets us."""
    try:
        RESET.write_text("5")
    except OSError:
        return False
    return True
