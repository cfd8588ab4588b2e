import json

import pytest

from stmcli.bench import bench_command
from stmcli.job import Job
from stmcli.options import ExportOptions, NetworkOptions


@pytest.fixture
def job(tmp_path, make_clip, make_mask, tiny_weights):
    network = NetworkOptions(str(tiny_weights), "cpu", "fp32")
    return Job(make_clip(frames=6), (make_mask(),), tmp_path / "out", network=network)


def test_every_part_and_the_whole_are_measured_and_nothing_is_left(job):
    rounds = []
    job = Job(job.video, job.masks, job.output, network=job.network, export=ExportOptions(("overlay", "cutout")))
    timing = bench_command(job, frames=4, rounds=2, on_round=rounds.append)
    assert list(timing.parts) == ["decoding", "network", "masks", "soft/1", "overlay.mp4", "cutout"]
    assert all(seconds > 0 for seconds in timing.parts.values())
    assert (timing.frames, timing.device, rounds) == (4, "cpu", [0, 1, 2])
    assert timing.against_sum == pytest.approx(timing.whole / sum(timing.parts.values()))
    assert timing.against_longest == pytest.approx(timing.whole / max(timing.parts.values()))
    assert not job.output.exists()


def test_the_command_prints_the_parts_and_the_ratios(job, stm):
    words = ("bench", job.video, "-m", job.masks[0], "-w", job.network.weights, "--device", "cpu", "--frames", 3)
    result = stm(*words, "--rounds", 1, "--json", "-q")
    assert result.exit_code == 0, result.stderr
    facts = json.loads(result.stdout)
    assert (facts["frames"], set(facts["parts"])) == (3, {"decoding", "network", "masks", "overlay.mp4"})
    shown = stm(*words, "--rounds", 1)
    assert "the whole command" in shown.stdout
    assert "times the sum of the parts" in shown.stdout
