"""Hold the engine for a Ray cluster against several machines, which are processes of this one."""

import json
import os
from types import SimpleNamespace

import pytest
from conftest import write_clip
from test_batch import records, sums

from stmcli.batch import Batch, run_batch
from stmcli.engines import open_engine
from stmcli.engines.cluster import STARTS
from stmcli.errors import PartialError, StmError, UsageError
from stmcli.options import BatchOptions, ExportOptions, NetworkOptions
from stmcli.pairing import pair_clips

quiet = pytest.mark.filterwarnings("ignore")  # Ray itself warns


@pytest.fixture
def cluster():
    ray = pytest.importorskip("ray", reason="needs Ray: pip install 'stmcli[ray]'")
    from ray.cluster_utils import Cluster

    checks = {"health_check_initial_delay_ms": 0, "health_check_period_ms": 1000, "health_check_failure_threshold": 5}
    machines = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "_system_config": checks})
    yield machines
    ray.shutdown()
    machines.shutdown()


@pytest.fixture
def batch_of(tmp_path, tiny_weights, make_mask):
    """Return a function that writes clips, the third without frames, and describes their batch."""

    def describe(count, *, engine, jobs=1, address="", out="out"):
        (tmp_path / "clips").mkdir(exist_ok=True)
        for number in range(count):
            path = write_clip(tmp_path / f"clips/c{number}.mp4", frames=4)
            make_mask(f"c{number}.png")
            if number == 2:
                path.write_bytes(b"")
        options = BatchOptions(engine=engine, jobs=jobs, address=address, threads=1)
        network = NetworkOptions(str(tiny_weights), "cpu", "fp32")
        pairs = pair_clips([str(tmp_path / "clips")], tmp_path, tmp_path / out)
        return Batch(pairs, tmp_path / out, network=network, export=ExportOptions(kinds=("none",)), options=options)

    return describe


@quiet
@pytest.mark.long
def test_a_machine_that_is_lost_costs_no_clip(cluster, batch_of, tmp_path):
    import ray

    machines = [cluster.add_node(num_cpus=1) for _ in range(2)]
    ended = []

    def on_end(record):
        ended.append(record["clip"])
        if len(ended) == 3:
            ours = ray.get_runtime_context().get_node_id()  # where this process is
            cluster.remove_node(next(one for one in machines if one.node_id != ours), allow_graceful=False)
            cluster.add_node(num_cpus=1)

    with pytest.raises(PartialError, match="of 12 clips 1 failed"):
        run_batch(batch_of(12, engine="ray", jobs=2, address=cluster.address), on_end=on_end)
    lines = records(tmp_path / "out")
    assert sorted(ended) == sorted(line["clip"] for line in lines) == sorted({line["clip"] for line in lines})
    assert {line["clip"] for line in lines if line["status"] == "failed"} == {"c2"}
    assert len(lines) == 12
    with pytest.raises(PartialError):
        run_batch(batch_of(12, engine="here", out="alone"))
    assert sums(tmp_path / "out") == sums(tmp_path / "alone")
    assert len(sums(tmp_path / "out")) == 11 * 4


@quiet
@pytest.mark.long
def test_a_worker_that_dies_twice_of_a_clip_costs_that_clip(cluster, batch_of, tmp_path, monkeypatch):
    cluster.add_node(num_cpus=1)
    batch = batch_of(4, engine="ray", jobs=1, address=cluster.address)
    monkeypatch.setattr("stmcli.engines.cluster._Actor", _deadly())
    with pytest.raises(PartialError, match="of 4 clips 2 failed"):
        run_batch(batch)
    lines = {line["clip"]: line for line in records(tmp_path / "out")}
    assert {clip: (line["status"], line["tries"]) for clip, line in lines.items()} == {
        **{"c0": ("ok", 1), "c1": ("failed", 2), "c2": ("failed", 1), "c3": ("ok", 1)}
    }
    assert "its worker died" in lines["c1"]["error"]
    assert json.loads((tmp_path / "out/summary.json").read_text())["failed"] == 2


def _deadly():
    from stmcli.engines import cluster

    class Deadly(cluster._Actor):
        def do(self, task):
            if task.name == "c1":
                os._exit(1)
            return super().do(task)

    return Deadly


def test_without_ray_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "ray", None)
    with pytest.raises(UsageError, match=r"stmcli\[ray\]"):
        open_engine(BatchOptions(engine="ray"), NetworkOptions(), lambda _: None)


class NoRoom:
    """A stand-in for Ray on a cluster where no actor can start."""

    class exceptions:  # noqa: N801
        class RayError(Exception):
            pass

    def __init__(self, gpus=0):
        self.gpus, self.started, self.asked = gpus, 0, {}

    def is_initialized(self):
        return True

    def cluster_resources(self):
        return {"CPU": 8.0, "GPU": float(self.gpus)}

    def remote(self, _kind):
        return self

    def options(self, **asked):
        self.asked = asked
        return Kind(self)

    def wait(self, words, **_):
        return words[:1], words[1:]

    def get(self, _word):
        raise self.exceptions.RayError("no module named\nstmcli")

    def kill(self, _actor):
        pass


class Kind:
    """Starts actors that never get ready."""

    def __init__(self, ray):
        self._ray = ray

    def remote(self, *_):
        self._ray.started += 1
        return SimpleNamespace(ready=SimpleNamespace(remote=object), do=None)


def test_a_cluster_where_no_worker_can_start_is_given_up(monkeypatch):
    ray = NoRoom()
    monkeypatch.setattr("stmcli.engines.cluster._import_ray", lambda: ray)
    cluster = open_engine(BatchOptions(engine="ray", jobs=2), NetworkOptions(), lambda _: None)
    waits = (cluster.wait() for _ in range(100))
    with pytest.raises(StmError, match=r"no worker can start in the cluster \(no module named stmcli\)"):
        assert not any(waits)
    assert ray.started <= 2 + STARTS


@pytest.mark.parametrize(("device", "gpus", "asked"), [("auto", 0, 0), ("auto", 2, 1), ("cuda", 0, 1), ("cpu", 8, 0)])
def test_workers_of_a_cluster_get_gpus_where_there_are_enough(monkeypatch, device, gpus, asked):
    ray = NoRoom(gpus)
    monkeypatch.setattr("stmcli.engines.cluster._import_ray", lambda: ray)
    open_engine(BatchOptions(engine="ray", jobs=2), NetworkOptions(device=device), lambda _: None)
    assert ray.asked["num_gpus"] == asked
