"""The whole commands on CUDA: they leave what they leave on a CPU, also when they are stopped or in pieces."""

from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from test_clips import still, write_stills
from test_resume import report_of, run_whole, stop
from test_videos import frame, write_video

from stmcli.bench import Case, bench_network
from stmcli.errors import Interrupted
from stmcli.job import Job
from stmcli.masks import read_values, write_labels
from stmcli.options import BenchOptions, ClipOptions, ExportOptions, MemoryOptions, NetworkOptions, TrainOptions
from stmcli.pipeline import segment_video
from stmcli.segmenter import Segmenter
from stmcli.train import train
from stmcli.video import open_source
from stmcli.weights import read

pytestmark = pytest.mark.cuda
SETTINGS = {"top_k": 9, "anchor": 100.0, "augment": ("flip", "scale"), "focus": 2.0}


@pytest.fixture
def job(cuda, tmp_path, make_clip, make_mask, tiny_weights):
    """A clip in which a second object enters, and more frames are kept than there is room for."""
    second = np.zeros((48, 64), np.uint8)
    second[20:40, 30:50] = 2
    write_labels(tmp_path / "second.png", second)
    network = NetworkOptions(str(tiny_weights), cuda.type, "fp32", **SETTINGS)
    masks = (make_mask(), f"9:{tmp_path / 'second.png'}")
    memory, export = MemoryOptions(every=2, max_slots=22), ExportOptions(kinds=("overlay", "matte", "cutout"))
    return Job(make_clip(frames=40), masks, tmp_path / "out", network=network, memory=memory, export=export)


def masks(job):
    return [read_values(path) for path in sorted((job.output / "masks").glob("*.png"))]


def agreement(one, other):
    """Return the share of pixels that are alike."""
    return np.mean([a == b for a, b in zip(masks(one), masks(other), strict=True)])


@pytest.mark.parametrize("tta", [(), ("flip",)])
def test_a_command_leaves_what_it_leaves_on_a_cpu(job, tta):
    job = replace(job, network=replace(job.network, tta=tta))
    other = replace(job, output=job.output.parent / "cpu", network=replace(job.network, device="cpu"))
    for each in (job, other):
        segment_video(each)
    assert report_of(job)["device"] == f"{job.network.device}, fp32"
    assert agreement(job, other) > 0.999
    for name in ("overlay.mp4", "matte.mp4"):
        with open_source(job.output / name) as ours, open_source(other.output / name) as theirs:
            assert len([*ours]) == len([*theirs]) == 40


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_stopped_command_goes_on_to_the_same_masks(job, precision, monkeypatch):
    monkeypatch.setattr("stmcli.segmenter.checkpoint.EVERY", 3)
    job = replace(job, network=replace(job.network, precision=precision), export=ExportOptions())
    whole = run_whole(job)
    stop(job, 22)
    segment_video(job)
    assert 10 < report_of(job)["kept_until"] < 22
    assert agreement(job, whole) == 1


def test_a_second_clip_of_another_size_is_as_the_first(cuda, tiny_weights):
    model = read(tiny_weights)[0].eval().requires_grad_(False).to(cuda)
    segmenter = Segmenter(model, memory=MemoryOptions(max_slots=4))
    for side in (48, 80, 48):
        rgb, labels = np.full((side, 64, 3), 90, np.uint8), np.zeros((side, 64), np.uint8)
        rgb[5:20, 5:30] = 200
        labels[5:20, 5:30] = 1
        seen = [segmenter.step(rgb, labels if t == 0 else None).prob.cpu() for t in range(8)]
        fresh = Segmenter(model, memory=MemoryOptions(max_slots=4))
        again = [fresh.step(rgb, labels if t == 0 else None).prob.cpu() for t in range(8)]
        assert all(torch.allclose(a, b, atol=1e-5) for a, b in zip(seen, again, strict=True))
        segmenter.reset()


def test_training_goes_on_where_it_stopped(cuda, tmp_path):
    write_stills(tmp_path / "stills", {f"red-{i}": still() for i in range(3)})
    write_video(tmp_path / "videos", make=lambda number: frame(number, ids=(1, 2)))
    run = partial(
        train,
        [tmp_path / "stills"],
        tmp_path / "run",
        videos=[(tmp_path / "videos", 1.0)],
        options=TrainOptions(batch=2, objects=2, steps=4, warmup=1),
        clips=ClipOptions(crop=32, frames=3),
        device=cuda,
    )
    with pytest.raises(Interrupted, match="stopped after 2 steps"):
        run(on_step=stop_at(2))
    done = run(resume=True)
    assert done.step == 4
    assert np.isfinite(done.loss)


def stop_at(step):
    def on_step(progress):
        if progress.step == step:
            raise KeyboardInterrupt

    return on_step


def test_a_measurement_says_what_the_device_took(cuda, tiny_weights):
    network = NetworkOptions(str(tiny_weights), cuda.type, "bf16", **SETTINGS)
    speeds = bench_network([Case(network, 2, 6)], BenchOptions(frame=(64, 48), frames=3, rounds=1))
    (row,) = speeds.rows
    assert row.macs > 0
    assert (row.peak_device_bytes is None) == (cuda.type == "cpu")
    assert speeds.machine["cuda"] or cuda.type == "cpu"
