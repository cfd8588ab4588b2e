"""What this machine is made of."""

import os
import platform
import re
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path

ROOT = Path("/")
CGROUPS = {  # by the controllers of a line of /proc/self/cgroup, versions 2 and 1: folder, limit, used, of that cache
    "": ("", "memory.max", "memory.current", ("active_file", "inactive_file")),
    "memory": (
        "memory",
        "memory.limit_in_bytes",
        "memory.usage_in_bytes",
        ("total_active_file", "total_inactive_file"),
    ),
}


def processor() -> str:
    """Return the name of the CPU."""
    model = re.search(r"^model name\s*:\s*(.+)$", _processor_facts(), re.MULTILINE)
    return model[1] if model else platform.processor() or platform.machine()


@cache
def is_intel() -> bool:
    """Tell whether Intel made the CPU."""
    return "GenuineIntel" in (_processor_facts() or platform.processor())


def _processor_facts() -> str:
    """Return what Linux says of the CPU, nothing elsewhere."""
    facts = Path("/proc/cpuinfo")
    return facts.read_text() if facts.exists() else ""


def usable_cores() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def free_memory(root: Path = ROOT) -> int | None:
    """Return how many bytes of memory this process may still take; None where the system does not say.

    Less than the machine has free where a container or a job scheduler sets a limit.
    """
    try:
        facts = dict(line.split(":", 1) for line in (root / "proc/meminfo").read_text().splitlines())
        free = [int(facts["MemAvailable"].split()[0]) * 1024]
    except (OSError, KeyError, ValueError):
        free = []
    return min([*free, *_left_by_limits(root)], default=None)


def _left_by_limits(root: Path) -> Iterator[int]:
    """Yield what each limit that holds for this process leaves free."""
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        return
    for _, controllers, group in (line.split(":", 2) for line in lines):
        if controllers in CGROUPS:
            folder, limit, used, cache = CGROUPS[controllers]
            mounted = root / "sys/fs/cgroup" / folder
            inner = mounted / group.lstrip("/")
            # In a container the group may have its outer name, which is not there: its root is its own then.
            for place in (inner, *inner.parents):
                left = _left(place, limit, used, cache) if place.is_relative_to(mounted) else None
                if left is not None:
                    yield left


def _left(group: Path, limit: str, used: str, cache: Sequence[str]) -> int | None:
    """Return what a group of processes may still take; None where it has no limit."""
    try:
        most, taken = (int((group / name).read_text()) for name in (limit, used))
        facts = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
        return max(0, most - taken + sum(int(facts[name]) for name in cache))
    except (OSError, KeyError, ValueError):
        return None
