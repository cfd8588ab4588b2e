"""The script that measures speed fits the package: all that it calls and replaces there, at tiny sizes."""

from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import pytest
import speed
import torch

from stmcli.bench import Bound
from stmcli.masks import read_labels
from stmcli.options import NetworkOptions, SegmentOptions
from stmcli.pipeline import segment_video
from stmcli.video import open_source

TINY = {"FRAME": (64, 48), "SMALL": (64, 48), "SLOTS": 3, "MANY": 4, "EARLY": 2, "LATE": 8, "STARTS": 1}
CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def small(monkeypatch):
    for name, value in TINY.items():
        monkeypatch.setattr(speed, name, value)
    monkeypatch.setattr(speed, "measured", ["cpu"])


@pytest.fixture
def network(tiny_weights):
    return NetworkOptions(str(tiny_weights), "cpu", "fp32", size=0)


def cells(row):
    return [cell.strip() for cell in row.strip("|").split("|")]


def rows(lines):
    """Return the cells of the rows of a table that were measured, without its headings."""
    table = [cells(line) for line in lines if line.startswith("|")]
    assert len({len(row) for row in table}) == 1
    return [row for row in table[2:] if speed.NO_GPU not in row]


def test_our_networks_are_measured_beside_the_plain_one(tiny_weights, monkeypatch):
    @contextmanager
    def plain(*_):
        yield speed.Contender("plain fp32", "fp32", lambda frames: [1.0] * frames)

    monkeypatch.setattr(speed, "OBJECTS", {"cpu": (1,)})
    monkeypatch.setattr(speed, "plain_contender", plain)
    monkeypatch.setattr(speed, "random_weights", lambda _: tiny_weights)
    monkeypatch.setattr(speed, "has_int8_units", lambda _: False)  # the tiny network has no ranges for them
    monkeypatch.setattr(speed, "measure_bound", lambda device, precision: Bound(str(device), precision, 1e9, 1e9))
    first, *ours = rows(speed.network(rounds=1, frames=1))
    assert first[:4] == ["cpu", "1", "plain fp32", "1e+03"]
    assert [row[2] for row in ours] == ["resnet50 fp32", "resnet50 bf16", "compact at 480 px", "compact as shipped"]
    assert all(float(row[6]) > 0 < float(row[8]) for row in ours)  # times as fast, and share of the convolution


def test_the_plain_network_follows_as_many_objects():
    assert speed.plain_step(2, CPU)().shape == (3, 48, 64)


@pytest.mark.parametrize("is_random", [True, False])
def test_the_given_mask_stands_for_what_random_weights_find(
    make_clip, make_mask, network, tmp_path, monkeypatch, is_random
):
    clip, mask, out = make_clip(frames=3), make_mask("clip.png"), tmp_path / "out"
    monkeypatch.setattr(speed, "bench_command", lambda job, **_: segment_video(replace(job, output=out)))
    if not is_random:
        monkeypatch.setattr(NetworkOptions, "weights", network.weights)
    speed.timed_command(clip, network, SegmentOptions(), 3)
    found = [read_labels(out / "masks" / f"0000{index}.png", warn=print) for index in (1, 2)]
    assert all(np.array_equal(labels, read_labels(mask)) for labels in found) == is_random


def test_a_clip_is_enlarged_with_its_mask(make_clip, make_mask, tmp_path):
    clip, _ = make_clip(frames=2), make_mask("clip.png", ids=(1, 2))
    larger = speed.enlarged(clip, tmp_path, (128, 96))
    with open_source(larger) as source:
        assert [frame.rgb.shape for frame in source] == [(96, 128, 3)] * 2
    assert np.unique(read_labels(larger.with_suffix(".png"))).tolist() == [0, 1]


def test_early_and_late_frames_of_a_clip_are_compared():
    row = cells(speed.flatness(CPU, turns=1, each=1))
    assert float(row[3]) > 0
    assert row[5].endswith("%")


def test_a_slot_takes_what_its_numbers_take(network):
    row = cells(speed.memory_line("tiny", network, 2, CPU))
    assert row[2:4] == ["2", f"{4 * 3 * (8 + 16) * 4 / 1024:.1f}"]


def test_what_is_started_makes_the_mask_that_is_waited_for(stm, tiny_weights, tmp_path, monkeypatch):
    started = []
    monkeypatch.setenv("PYTHONPYCACHEPREFIX", "")
    monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "")
    monkeypatch.setattr(speed, "seconds_of", lambda *_: 2.0)
    monkeypatch.setattr(speed, "first_mask", lambda *words: started.append(words) or 3.0)
    assert [row[4] for row in rows(speed.start())] == ["1.00", "1.50"]
    result = stm(*started[0], "-o", tmp_path / "out", "-w", tiny_weights)
    assert result.exit_code == 0, result.stderr
    assert [path.name for path in sorted((tmp_path / "out" / "masks").iterdir())] == ["00000.png", "00001.png"]
