"""How fast it is: a whole command beside its parts, and the network alone beside what the machine can do."""

from stmcli.bench.against import Comparison, compare, read_earlier
from stmcli.bench.bound import Bound
from stmcli.bench.command import Timing, bench_command
from stmcli.bench.network import Case, Speeds, bench_network
from stmcli.bench.row import Row

__all__ = [
    "Bound",
    "Case",
    "Comparison",
    "Row",
    "Speeds",
    "Timing",
    "bench_command",
    "bench_network",
    "compare",
    "read_earlier",
]
