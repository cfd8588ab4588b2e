import pytest

from stmcli.machine import free_memory

GIB = 2**30
TWO = ("sys/fs/cgroup", "0::", ("memory.max", "memory.current", ("active_file", "inactive_file")))
ONE = (
    "sys/fs/cgroup/memory",
    "4:memory:",
    ("memory.limit_in_bytes", "memory.usage_in_bytes", ("total_active_file", "total_inactive_file")),
)


@pytest.fixture
def machine(tmp_path):
    """Return what makes a machine with 8 GiB free, and a limit on some groups of its processes."""

    def make(kind, own, **limits):
        mounted, line, (limit, used, cache) = kind
        put = {
            "proc/meminfo": f"MemTotal: {16 * GIB // 1024} kB\nMemAvailable: {8 * GIB // 1024} kB\n",
            "proc/self/cgroup": f"9:cpu:/elsewhere\n{line}{own}\n",
        }
        for group, (most, taken) in limits.items():
            folder = f"{mounted}/{'' if group == 'root' else group.replace('_', '/')}"
            put |= {f"{folder}/{limit}": f"{most}\n", f"{folder}/{used}": f"{taken}\n"}
            put |= {f"{folder}/memory.stat": f"anon 7\n{cache[0]} {GIB // 4}\n{cache[1]} {GIB * 3 // 4}\n"}
        for name, text in put.items():
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_text(text)
        return tmp_path

    return make


@pytest.mark.parametrize("kind", [ONE, TWO])
def test_memory_is_free_as_far_as_every_limit_leaves_it(machine, kind):
    assert free_memory(machine(kind, "/job/step")) == 8 * GIB
    assert free_memory(machine(kind, "/job/step", job_step=(6 * GIB, 2 * GIB))) == 5 * GIB  # 1 of them is cache
    assert free_memory(machine(kind, "/job/step", job=(4 * GIB, 2 * GIB))) == 3 * GIB
    assert free_memory(machine(kind, "/job/step", job=(1 * GIB, 3 * GIB))) == 0
    assert free_memory(machine(kind, "/job/step", job=("max" if kind is TWO else 2**63 - 4096, GIB))) == 5 * GIB


@pytest.mark.parametrize("kind", [ONE, TWO])
def test_a_container_may_see_its_group_as_the_root(machine, kind):
    assert free_memory(machine(kind, "/docker/0123", root=(3 * GIB, 2 * GIB))) == 2 * GIB
    assert free_memory(machine(kind, "/", root=(4 * GIB, 2 * GIB))) == 3 * GIB


def test_a_system_that_does_not_say_is_no_limit(tmp_path):
    assert free_memory(tmp_path) is None
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc/meminfo").write_text("MemFree: 3 kB\n")
    assert free_memory(tmp_path) is None
