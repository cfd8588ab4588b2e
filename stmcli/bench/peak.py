"""The most memory that was taken since some moment, on the host and on the device."""

import resource
import sys
from pathlib import Path

import torch

STATUS, RESET = Path("/proc/self/status"), Path("/proc/self/clear_refs")


class Peak:
    """Measure from here on: resident memory of the whole process, and what torch has allocated on a CUDA device."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self.is_reset = _reset_host()  # off: the host's peak is that since the process began
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)

    def host(self) -> int:
        """Return bytes."""
        if self.is_reset:
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
