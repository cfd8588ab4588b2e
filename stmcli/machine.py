"""What this machine is made of."""

import os
import platform
import re
from pathlib import Path


def processor() -> str:
    """Return the name of the CPU."""
    facts = Path("/proc/cpuinfo")
    model = re.search(r"^model name\s*:\s*(.+)$", facts.read_text(), re.MULTILINE) if facts.exists() else None
    return model[1] if model else platform.processor() or platform.machine()


def usable_cores() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
