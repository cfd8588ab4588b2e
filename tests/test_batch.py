import errno
import fcntl
import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from unittest.mock import Mock

import psutil
import pytest
import torch
from conftest import hear_interrupts, picture, write_clip
from PIL import Image

from stmcli import batch as batch_module
from stmcli.batch import Batch, run_batch
from stmcli.cli import progress
from stmcli.engines import Outcome, settled, sharing, task
from stmcli.engines.here import Here
from stmcli.engines.processes import _serve, networks
from stmcli.engines.sharing import shared_cores, threads_each
from stmcli.engines.task import Advanced, Task, do
from stmcli.errors import Interrupted, LockedError, PartialError, StmError, Terminated, UsageError
from stmcli.forecast import BYTES
from stmcli.job import Job
from stmcli.options import EXPORTS, BatchOptions, ExportOptions, MemoryOptions, NetworkOptions, SegmentOptions
from stmcli.pairing import Pair, pair_clips
from stmcli.results import lock
from stmcli.segmenter.guard import device_explained

ALONE = {**os.environ, "OMP_NUM_THREADS": "1"}


@pytest.fixture
def shots(tmp_path, make_mask):
    """Return a function that writes clips, each with its mask."""

    def write(*names, frames=3):
        for name in names:
            path = tmp_path / "clips" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            write_clip(path, frames=frames)
            (tmp_path / "masks").mkdir(exist_ok=True)
            make_mask(f"masks/{path.stem}.png")

    return write


@pytest.fixture
def many(stm, tiny_weights):
    """Return a function that runs `stm batch clips --masks masks` in this process, with the tiny network."""
    words = ("clips", "--masks", "masks", "-o", "out", "--engine", "here", "-e", "none")
    return lambda *more: stm("batch", *words, "-w", tiny_weights, "--device", "cpu", "--precision", "fp32", *more)


@pytest.fixture
def batch_of(tmp_path, tiny_weights):
    """Return a function that describes a batch of all clips that were written."""

    def describe(**options):
        pairs = pair_clips([str(tmp_path / "clips")], tmp_path / "masks", tmp_path / "out")
        network = NetworkOptions(str(tiny_weights), "cpu", "fp32")
        options = BatchOptions(**{"engine": "here"} | options)
        return Batch(pairs, tmp_path / "out", network=network, export=ExportOptions(kinds=("none",)), options=options)

    return describe


def spoil(tmp_path, *, frames=3):
    """Write clips that are bad in different ways; return what is said about each."""
    clips, masks = tmp_path / "clips", tmp_path / "masks"
    whole = write_clip(tmp_path / "whole.mp4", frames=frames).read_bytes()
    (clips / "text.mp4").write_text("<html>no film</html>")
    (clips / "empty.mp4").write_bytes(b"")
    (clips / "cut.mp4").write_bytes(whole[: len(whole) // 2])
    (clips / "large.mp4").write_bytes(write_clip(tmp_path / "large.mp4", frames=2, width=128).read_bytes())
    (clips / "unmasked.mp4").write_bytes(whole)
    for name in ("text", "empty", "cut", "large"):
        (masks / f"{name}.png").write_bytes(next(masks.glob("*.png")).read_bytes())
    return {
        "text": "not a video",
        "empty": "0 bytes",
        "cut": "moov atom missing",
        "large": "64x48",
        "unmasked": "no mask",
    }


def records(out):
    return [json.loads(line) for line in (out / "batch.jsonl").read_text().splitlines()]


def sums(folder):
    """Return the hash of every mask below a folder, by its place there."""
    files = sorted(folder.rglob("masks/*.png"))
    return {str(file.relative_to(folder)): hashlib.sha256(file.read_bytes()).hexdigest() for file in files}


def test_a_bad_clip_neither_stops_nor_hides(many, segment, shots, tmp_path):
    shots("a.mp4", "B/b.mp4", "z.mov")
    bad = spoil(tmp_path)
    result = many()
    assert result.exit_code == 3
    assert result.stdout.splitlines() == ["out/a", "out/B/b", "out/z"]
    lines = result.stderr.splitlines()
    for clip, cause in bad.items():
        assert any(line.startswith(f"error: clips/{clip}.mp4: ") or cause in line for line in lines), clip
    assert lines[-1].startswith("error: out: of 8 clips 5 failed: clips/")
    assert "Traceback" not in result.output
    summary = json.loads((tmp_path / "out/summary.json").read_text())
    assert {name: summary[name] for name in ("status", "clips", "ok", "failed", "pending", "frames")} == {
        **{"status": "partial", "clips": 8, "ok": 3, "failed": 5, "pending": 0, "frames": 9}
    }
    told = {clip["clip"]: clip for clip in summary["results"]}
    assert all(cause in told[clip]["error"] and told[clip]["status"] == "failed" for clip, cause in bad.items())
    assert [record["clip"] for record in records(tmp_path / "out")] == list(told)
    for clip in ("a.mp4", "B/b.mp4", "z.mov"):
        words = ("-m", f"masks/{Path(clip).stem}.png", "-o", f"alone/{Path(clip).with_suffix('')}", "-e", "none")
        assert segment(f"clips/{clip}", *words).exit_code == 0
    assert sums(tmp_path / "out") == sums(tmp_path / "alone")
    assert len(sums(tmp_path / "out")) == 9


def test_a_rerun_does_what_is_missing(many, shots, tmp_path, monkeypatch):
    shots("a.mp4", "b.mp4")
    (tmp_path / "clips/b.mp4").write_bytes(b"")
    assert many().exit_code == 3
    before = sums(tmp_path / "out"), (tmp_path / "out/a/report.json").stat().st_mtime_ns
    write_clip(tmp_path / "clips/b.mp4", frames=2)
    result = many()
    assert (result.exit_code, result.stdout.split()) == (0, ["out/a", "out/b"])
    assert (tmp_path / "out/a/report.json").stat().st_mtime_ns == before[1]
    assert [(line["clip"], line["status"]) for line in records(tmp_path / "out")] == [
        ("a", "ok"),
        ("b", "failed"),
        ("b", "ok"),
    ]
    monkeypatch.setattr("stmcli.engines.here.load_model", lambda _: pytest.fail("the network was loaded"))
    assert many().exit_code == 0
    assert len(records(tmp_path / "out")) == 3


def test_results_that_were_moved_are_where_they_are_now(many, shots, tmp_path):
    shots("a.mp4")
    assert many("-q").exit_code == 0
    (tmp_path / "out").rename(tmp_path / "moved")
    result = many("-q", "-o", tmp_path / "moved")
    assert result.exit_code == 0, result.stderr
    (clip,) = json.loads((tmp_path / "moved" / "summary.json").read_text())["results"]
    assert (clip["status"], clip["output"]) == ("ok", str(tmp_path / "moved" / "a"))


def test_the_network_is_loaded_once(many, shots, monkeypatch):
    from stmcli.weights import load_model

    loaded = []
    monkeypatch.setattr("stmcli.engines.here.load_model", lambda options: loaded.append(1) or load_model(options))
    shots("a.mp4", "b.mp4", "c.mp4")
    assert many().exit_code == 0
    assert len(loaded) == 1


def test_exit_codes_without_any_result(many, stm, shots, tmp_path):
    shots("a.mp4")
    (tmp_path / "clips/a.mp4").write_bytes(b"")
    assert many().exit_code == 1
    assert many("-w", tmp_path / "none.safetensors").exit_code == 2
    assert many("--only-failed", "-o", "new").exit_code == 2
    (tmp_path / "empty").mkdir()
    for words in (["empty", "--masks", "masks"], [], ["clips"], ["clips", "--manifest", "jobs.csv"]):
        result = stm("batch", *words)
        assert (result.exit_code, len(result.stderr.splitlines())) == (2, 1), words


def test_part_of_a_clip_is_part_of_a_batch(many, shots, tmp_path):
    shots("a.mp4")
    (tmp_path / "clips/b").mkdir()
    for number in range(3):
        Image.fromarray(picture(number)).save(tmp_path / f"clips/b/{number}.png")
    damaged = (tmp_path / "clips/b/1.png").read_bytes()
    (tmp_path / "clips/b/1.png").write_bytes(damaged[: len(damaged) // 2])
    (tmp_path / "masks/b.png").write_bytes((tmp_path / "masks/a.png").read_bytes())
    result = many("--on-corrupt", "skip")
    assert (result.exit_code, result.stdout.split()) == (3, ["out/a", "out/b"])
    assert [line["status"] for line in records(tmp_path / "out")] == ["ok", "partial"]
    assert "1 done in part" in result.stderr.splitlines()[-1]


def test_only_some_of_the_clips(many, shots, tmp_path):
    shots("a.mp4", "b.mp4", "c.mp4")
    (tmp_path / "clips/b.mp4").write_bytes(b"")
    assert many("--limit", "1").stdout.split() == ["out/a"]
    assert json.loads((tmp_path / "out/summary.json").read_text())["pending"] == 2
    result = many("--fail-fast")
    assert (result.exit_code, result.stdout.split()) == (3, ["out/a"])
    assert "1 failed, 1 not begun" in result.stderr.splitlines()[-1]
    write_clip(tmp_path / "clips/b.mp4", frames=2)
    assert many("--only-failed").stdout.split() == ["out/b"]
    assert many("--only-failed").exit_code == 0
    assert not (tmp_path / "out/c").exists()


def test_a_clip_that_failed_is_tried_again_as_often_as_asked(batch_of, shots, tmp_path, monkeypatch):
    segment_video, tries = task.segment_video, []

    def flaky(job, **how):
        tries.append(job.video.name)
        if tries.count("a.mp4") < 3 and job.video.name == "a.mp4":
            raise RuntimeError("the disk was away")
        return segment_video(job, **how)

    monkeypatch.setattr(task, "segment_video", flaky)
    shots("a.mp4", "b.mp4")
    with pytest.raises(PartialError):
        run_batch(batch_of(retries=1))
    assert tries == ["a.mp4", "b.mp4", "a.mp4"]
    line = next(line for line in records(tmp_path / "out") if line["clip"] == "a")
    assert (line["error"], line["tries"]) == (f"{tmp_path}/clips/a.mp4: RuntimeError: the disk was away", 2)
    assert run_batch(batch_of(retries=1))["ok"] == 2
    tries[:] = ["a.mp4"]
    assert run_batch(replace(batch_of(retries=3), segment=SegmentOptions(overwrite=True)))["ok"] == 2
    notes = {line["clip"]: line["notes"] for line in records(tmp_path / "out")}
    assert (notes["a"][-1:], notes["b"]) == ([f"tried again after: {line['error']}"], [])


def test_json_is_a_line_for_each_clip(many, shots):
    shots("a.mp4", "b.mp4")
    lines = [json.loads(line) for line in many("--json", "-q").stdout.splitlines()]
    assert [(line["clip"], line["status"], line["frames"]) for line in lines] == [("a", "ok", 3), ("b", "ok", 3)]


def test_quiet_says_nothing_but_errors(many, shots, tmp_path):
    shots("a.mp4")
    assert many("-q").stderr == ""
    (tmp_path / "clips/b.mp4").write_bytes(b"")
    assert [line[:6] for line in many("-q").stderr.splitlines()] == ["error:", "error:"]


def test_the_time_left_counts_what_is_done_of_the_clips_at_work(monkeypatch, capsys):
    now = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    show = progress.ShowBatch(4, None, quiet=False)
    for part in (5, 10):
        now[0] += 30
        show.hear(Advanced("a", part, 10, "cpu"))
    now[0] += 30
    show.end("a", failed=False)
    first, second, third = capsys.readouterr().err.splitlines()
    assert first == "0/4 clips, 0 failed, 210 s left; a 5/10"
    assert second == "0/4 clips, 0 failed, 180 s left; a 10/10"
    assert third == "1/4 clips, 0 failed, 270 s left"


def test_a_dry_run_plans_and_writes_nothing(many, shots, tmp_path):
    shots("a.mp4", "b.mp4", "c.mp4")
    (tmp_path / "clips/b.mp4").write_bytes(b"")
    result = many("--dry-run")
    assert result.exit_code == 3
    assert not (tmp_path / "out").exists()
    assert "time unknown" in result.stderr
    a, b, c = result.stdout.splitlines()
    assert (a, c) == ("a: to do, 3 frames", "c: to do, 3 frames")
    assert b.startswith("b: ")
    assert "b.mp4: empty file" in b
    assert many("--limit", "1").exit_code == 0
    (tmp_path / "clips/b.mp4").unlink()
    assert "\n1 clip to do, 1 done" in f"\n{many('--dry-run').stderr}"
    seen = json.loads(many("--dry-run", "--json").stdout)
    assert [clip["status"] for clip in seen["clips"]] == ["done", "to do"]
    done = records(tmp_path / "out")[0]
    assert seen["seconds"] == pytest.approx(done["seconds"], abs=0.1)
    assert seen["bytes_needed"] == done["bytes"]
    (tmp_path / "out/batch.jsonl").write_text(json.dumps(done | {"workers": 4, "seconds": 40.0}) + "\n")
    assert json.loads(many("--dry-run", "--json").stdout)["seconds"] == 10
    assert 0 < seen["bytes_needed"] < seen["bytes_free"]


@pytest.mark.parametrize("kind", [kind for kind in EXPORTS if kind != "none"])
def test_a_dry_run_knows_how_large_an_export_of_every_kind_becomes(many, shots, kind):
    shots("a.mp4")
    result = many("--dry-run", "--json", "-e", kind, "--keep-soft", "--per-object")
    assert json.loads(result.stdout)["bytes_needed"] > 3 * 64 * 48 * (BYTES[kind] + BYTES["masks"])


def test_a_dry_run_knows_which_dataset_files_hold_the_frames_too(many, shots):
    shots("a.mp4")
    kinds = ("davis", "mots", "coco", "ytvis")
    needed = {kind: json.loads(many("--dry-run", "--json", "-e", kind).stdout)["bytes_needed"] for kind in kinds}
    assert min(needed["davis"], needed["mots"]) > 5 * max(needed["coco"], needed["ytvis"])


def test_a_lock_that_was_removed_and_made_anew_is_another_runs(tmp_path, monkeypatch):
    take = fcntl.flock

    def late(file, how):
        (tmp_path / ".lock").unlink()
        (tmp_path / ".lock").touch()
        take(file, how)

    monkeypatch.setattr(fcntl, "flock", late)
    with pytest.raises(LockedError, match="another run has just ended here"), lock(tmp_path):
        raise AssertionError
    assert (tmp_path / ".lock").exists()


def test_a_lock_leaves_no_folders_where_nothing_came_into_them(tmp_path):
    with lock(tmp_path / "a/b/c"):
        assert [path.name for path in (tmp_path / "a/b/c").iterdir()] == [".lock"]
    assert not any(tmp_path.iterdir())
    with lock(tmp_path / "a/b/c"):
        (tmp_path / "a/x").touch()
    assert [path.name for path in tmp_path.rglob("*")] == ["a", "x"]


def test_a_folder_that_cannot_be_locked_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(fcntl, "flock", Mock(side_effect=OSError(errno.ENOLCK, "No locks available")))
    with pytest.raises(UsageError, match=r"cannot be locked \(No locks available\)"), lock(tmp_path):
        raise AssertionError
    assert not any(tmp_path.iterdir())


def test_two_batches_do_not_mix(many, shots, tmp_path):
    shots("a.mp4")
    with lock(tmp_path / "out"):
        result = many()
    assert result.exit_code == 1
    assert f"in use by process {os.getpid()}" in result.stderr


@pytest.mark.parametrize(("stop", "code"), [(KeyboardInterrupt, 130), (Terminated, 143)])
def test_an_interruption_keeps_what_is_done(many, shots, tmp_path, monkeypatch, stop, code):
    segment_video = task.segment_video

    def interrupted(job, **how):
        if job.video.name == "b.mp4":
            raise stop
        return segment_video(job, **how)

    monkeypatch.setattr(task, "segment_video", interrupted)
    shots("a.mp4", "b.mp4", "c.mp4")
    result = many()
    assert (result.exit_code, result.stdout.split()) == (code, ["out/a"])
    last = "error: out: stopped after 1 of 3 clips. Run the same command again to go on."
    assert result.stderr.splitlines()[-1] == last
    summary = json.loads((tmp_path / "out/summary.json").read_text())
    assert (summary["status"], summary["ok"], summary["pending"]) == ("interrupted", 1, 2)


class Fragile:
    """An engine of two workers that die of some clips."""

    def __init__(self, deadly):
        self.deadly, self.begun, self.at_work = deadly, [], []

    def free(self):
        return len(self.at_work) < 2

    def busy(self):
        return bool(self.at_work)

    def submit(self, task):
        self.begun.append(task.name)
        self.at_work.append(task)

    def wait(self):
        task = self.at_work.pop()
        dies = self.begun.count(task.name) <= self.deadly.get(task.name, 0)
        return [Outcome(task.name, "failed" if dies else "ok", "it died" * dies, lost=dies)]

    def close(self, *, now=False):
        assert now or not self.at_work


def test_a_clip_whose_worker_died_is_tried_once_more(tmp_path, tiny_weights, monkeypatch):
    engine = Fragile({"b": 1, "c": 2})
    monkeypatch.setattr(batch_module, "open_engine", lambda *_: engine)
    pairs = [Pair(name, tmp_path / name, ("m.png",), name) for name in "abcde"]
    with pytest.raises(PartialError, match=r"of 5 clips 1 failed: .*/c\."):
        run_batch(Batch(pairs, tmp_path / "out", network=NetworkOptions(str(tiny_weights), "cpu")))
    assert sorted(engine.begun) == ["a", "b", "b", "c", "c", "d", "e"]
    assert {line["clip"]: (line["status"], line["tries"]) for line in records(tmp_path / "out")} == {
        **{"a": ("ok", 1), "b": ("ok", 2), "c": ("failed", 2), "d": ("ok", 1), "e": ("ok", 1)}
    }


def test_once_a_clip_has_failed_no_other_is_begun_and_those_that_were_tried_are_told(
    tmp_path, tiny_weights, monkeypatch
):
    engine = Fragile({"a": 1, "b": 1})
    monkeypatch.setattr(batch_module, "open_engine", lambda *_: engine)
    pairs = [Pair(name, tmp_path / name, ("m.png",), name, error="no mask" * (name == "c")) for name in "abcd"]
    network, options = NetworkOptions(str(tiny_weights), "cpu"), BatchOptions(fail_fast=True)
    with pytest.raises(StmError, match=r"of 4 clips 3 failed, 1 not begun"):
        run_batch(Batch(pairs, tmp_path / "out", network=network, options=options))
    assert engine.begun == ["a", "b"]
    assert [(line["clip"], line["error"], line["tries"], line["notes"]) for line in records(tmp_path / "out")] == [
        *[("c", "no mask", 1, []), ("b", "it died", 1, []), ("a", "it died", 1, [])]
    ]


def test_a_device_that_fails_costs_its_worker_and_not_the_other_clips(tmp_path, tiny_weights, monkeypatch):
    def fails(*_, **__):
        with device_explained(torch.device("cuda"), ""):
            raise torch.AcceleratorError("CUDA error: an illegal memory access was encountered\nCompile with ...")

    monkeypatch.setattr("stmcli.engines.task.segment_video", fails)
    job = Job(tmp_path / "a.mp4", ("m.png",), tmp_path / "out")
    outcome = do(Task("a", job), lambda: None, lambda _: None)
    assert outcome.lost
    assert outcome.error == (
        "cuda: the device failed (CUDA error: an illegal memory access was encountered). Run the same command again."
    )
    engine = Here(NetworkOptions(str(tiny_weights), "cpu"), lambda _: None)
    engine.submit(Task("a", job))
    assert engine.wait() == [outcome]
    with pytest.raises(StmError, match="the device failed"):
        engine.free()


def test_every_gpu_has_a_process_and_the_cores_are_divided(monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(sharing, "shared_cores", lambda: 8)
    network = NetworkOptions()
    assert [own.device for own in networks(BatchOptions(gpus=(0, 2)), network)] == ["cuda:0", "cuda:2"]
    assert networks(BatchOptions(jobs=3), network) == [network] * 3
    cores = {options: threads_each(options) for options in (BatchOptions(), BatchOptions(jobs=3), BatchOptions(jobs=9))}
    assert [*cores.values(), threads_each(BatchOptions(gpus=(0, 2)))] == [None, 2, 1, 4]
    assert threads_each(BatchOptions(jobs=4, threads=7)) == 7
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    assert threads_each(BatchOptions(jobs=2)) is None


@pytest.mark.parametrize(
    ("cores", "free", "clips", "asked", "jobs"),
    [
        (8, 100, 20, {}, 8),
        (8, 100, 3, {}, 3),
        (8, 17, 20, {}, 4),
        (8, 1, 20, {}, 1),
        (8, None, 20, {}, 8),
        (8, 100, 0, {}, 1),
        (8, 100, 20, {"threads": 3}, 2),
        (8, 100, 20, {"threads": 99}, 1),
        (8, 100, 20, {"jobs": 5}, 5),
        (8, 100, 20, {"engine": "ray"}, None),
        (8, 100, 20, {"engine": "here"}, None),
        (8, 100, 20, {"gpus": (0, 1)}, None),
    ],
)
def test_a_cpu_does_a_clip_on_every_core_as_far_as_memory_goes(monkeypatch, cores, free, clips, asked, jobs):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(sharing, "shared_cores", lambda: cores)
    monkeypatch.setattr(sharing, "free_bytes", lambda _: None if free is None else free * 10**9)
    network, memory = NetworkOptions(device="cpu"), MemoryOptions()
    assert settled(BatchOptions(**asked), network, memory, clips).jobs == jobs
    monkeypatch.setenv("OMP_NUM_THREADS", "4")  # who sets it divides the cores too
    assert settled(BatchOptions(**asked), network, memory, clips).jobs == asked.get("jobs")


def test_a_larger_network_takes_more_memory(monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(sharing, "shared_cores", lambda: 8)
    monkeypatch.setattr(sharing, "free_bytes", lambda _: 17 * 10**9)
    assert settled(BatchOptions(), NetworkOptions(device="cpu", size=0), MemoryOptions(), 20).jobs == 2


def test_the_clips_that_are_left_decide_how_many_are_done_at_a_time(batch_of, shots, tmp_path, monkeypatch):
    counted = []
    monkeypatch.setattr(
        batch_module, "settled", lambda options, *_: counted.append(_[-1]) or replace(options, jobs=len(counted))
    )
    monkeypatch.setattr(batch_module, "open_engine", lambda _, network, hear: Here(network, hear))
    shots("a.mp4", "b.mp4", "c.mp4")
    (tmp_path / "masks/c.png").unlink()
    batch = batch_of(engine="processes")
    for again in (batch, batch, replace(batch, segment=replace(batch.segment, overwrite=True))):
        with pytest.raises(PartialError):
            run_batch(again)
    assert counted == [2, 0, 2]
    assert json.loads((tmp_path / "out/summary.json").read_text())["options"]["batch"]["jobs"] == 3
    assert {line["clip"]: line["workers"] for line in records(tmp_path / "out")} == {"a": 3, "b": 3, "c": 3}


def test_no_core_is_counted_twice(monkeypatch):
    monkeypatch.setattr(sharing, "usable_cores", lambda: 8)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 4)  # as torch takes of 4 cores that look like 8
    assert shared_cores() == 4
    monkeypatch.setattr(sharing, "usable_cores", lambda: 2)
    assert shared_cores() == 2


def test_this_process_does_one_clip_at_a_time():
    assert BatchOptions(engine="here", jobs=4).workers == 1


def test_a_file_that_goes_while_a_result_is_measured_is_not_missed(tmp_path, monkeypatch):
    is_file = Path.is_file

    def gone(path):
        found = is_file(path)
        if path.name == ".saved.png.part":
            path.unlink(missing_ok=True)
        return found

    passing = tmp_path / ".saved.png.part"
    passing.write_bytes(b"part of a correction")
    monkeypatch.setattr(Path, "is_file", gone)
    assert task._size(passing.parent) == 0


def test_a_task_means_the_same_files_in_another_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    network = NetworkOptions("mine.safetensors")
    job = Task("a", Job(Path("a.mp4"), ("3:a.png",), Path("out"), network=network)).anywhere().job
    paths = job.video, job.masks, job.output, job.network.weights
    assert paths == (tmp_path / "a.mp4", (f"3:{tmp_path / 'a.png'}",), tmp_path / "out", f"{tmp_path}/mine.safetensors")
    assert Task("a", Job(Path("a.mp4"), ("a.png",), Path("out"))).anywhere().job.network.weights == "compact"


def test_a_gpu_does_one_clip_at_a_time(monkeypatch):
    monkeypatch.setattr(sharing, "pick_device", lambda _: torch.device("cuda"))
    assert settled(BatchOptions(), NetworkOptions(), MemoryOptions(), 20).workers == 1


@pytest.mark.parametrize(
    "words",
    [
        *(("--gpus", "0", "-j", "2"), ("--gpus", "a"), ("--address", "h:1"), ("--engine", "x")),
        *(("--engine", "here", "-j", "2"), ("--engine", "here", "--threads", "2")),
    ],
)
def test_options_that_do_not_go_together_are_refused(many, shots, words):
    shots("a.mp4")
    result = many(*words) if "--engine" in words else many(*words, "--engine", "processes")
    assert (result.exit_code, len(result.stderr.splitlines())) == (2, 1)


# -- in processes ----------------------------------------------------------------------------------------------------


def workers(process):
    """Return the worker processes of a batch."""
    children = psutil.Process(process).children() if psutil.pid_exists(process) else []
    return [child for child in children if any("spawn_main" in word for word in child.cmdline())]


def test_a_worker_that_is_killed_costs_only_its_clip(batch_of, shots, tmp_path):
    shots("a.mp4", "b.mp4", "c.mp4")
    killed = []

    def hear(now):
        if now.name == "b":
            killed.extend(workers(os.getpid()))
            killed[-1].kill()

    with pytest.raises(PartialError, match="of 3 clips 1 failed"):
        run_batch(batch_of(engine="processes", jobs=1, threads=1), hear=hear)
    lines = {line["clip"]: line for line in records(tmp_path / "out")}
    assert {clip: line["status"] for clip, line in lines.items()} == {"a": "ok", "b": "failed", "c": "ok"}
    assert "its worker was killed by SIGKILL (out of memory?)" in lines["b"]["error"]
    assert lines["b"]["tries"] == 2
    assert len({worker.pid for worker in killed}) == 2
    assert not workers(os.getpid())


def test_a_system_that_starts_no_worker_is_told_in_one_line(many, shots, tmp_path, monkeypatch):
    def refuse(_):
        raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))

    shots("a.mp4")
    monkeypatch.setattr("multiprocessing.context.SpawnProcess.start", refuse)
    result = many("-q", "--engine", "processes")
    assert (result.exit_code, len(result.stderr.splitlines())) == (1, 1), (result.stderr, result.exception)
    assert "no worker can be started (Resource temporarily unavailable)" in result.stderr
    assert json.loads((tmp_path / "out" / "summary.json").read_text())["status"] == "failed"


def start(tmp_path, weights, *more):
    command = [sys.executable, "-m", "stmcli", "batch", "clips", "--masks", "masks", "-o", "out", "-e", "none"]
    command += ["-w", str(weights), "--device", "cpu", "--precision", "fp32", *more]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(command, cwd=tmp_path, env=ALONE, **pipes, preexec_fn=hear_interrupts)


def wait_for(process, what):
    until = time.monotonic() + 1200
    while process.poll() is None and time.monotonic() < until and not what():
        time.sleep(0.01)


def begun(tmp_path, lines):
    """Tell whether so many clips have ended."""
    path = tmp_path / "out/batch.jsonl"
    return path.exists() and path.read_bytes().count(b"\n") >= lines


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_stops_the_workers_and_says_how_to_go_on(shots, tmp_path, tiny_weights, number, code):
    shots("a.mp4", frames=2)
    shots("b.mp4", frames=3000)
    process = start(tmp_path, tiny_weights, "--jobs", "1")
    wait_for(process, lambda: any((tmp_path / "out/b/masks").glob("*.png")))
    atwork = workers(process.pid)
    process.send_signal(number)
    _, said = process.communicate(timeout=600)
    assert process.returncode == code, said
    assert said.splitlines()[-1] == "error: out: stopped after 1 of 2 clips. Run the same command again to go on."
    assert "Traceback" not in said
    assert atwork
    assert not any(worker.is_running() for worker in atwork)
    assert json.loads((tmp_path / "out/summary.json").read_text())["status"] == "interrupted"


def test_a_worker_ends_where_a_library_made_an_error_of_a_signal(tmp_path, monkeypatch):
    """As torch does while it looks at weights. Else it says that the clip failed, and waits until it is killed."""
    tasks = iter([Task("a", Job(tmp_path / "a.mp4", (), tmp_path / "out"))])

    class Pipe:
        def recv(self):
            for one in tasks:
                return one
            threading.Event().wait()

        def send(self, outcome):
            raise AssertionError(outcome)

    def stopped(*_, **__):
        with suppress(KeyboardInterrupt):
            signal.raise_signal(signal.SIGTERM)
        raise ValueError("not a tensor")

    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    monkeypatch.setattr("stmcli.signals._heard", [])
    monkeypatch.setattr(task, "segment_video", stopped)
    try:
        _serve(Pipe(), NetworkOptions(), None)
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)


def harm_and_rerun(tmp_path, weights, *, clips, bad, kills, seed):
    """Kill workers at random moments, then the whole batch, and run it again; return the end of the last run."""
    moments = random.Random(seed)
    process = start(tmp_path, weights, "--jobs", "2", "--threads", "1")
    for lines in sorted(moments.sample(range(1, clips // 2), kills)):
        wait_for(process, lambda lines=lines: begun(tmp_path, lines))
        time.sleep(moments.random() / 10)
        for worker in workers(process.pid)[:1]:
            worker.kill()
    wait_for(process, lambda: begun(tmp_path, clips * 2 // 3))
    left = workers(process.pid)
    process.kill()
    process.communicate()
    psutil.wait_procs(left, timeout=60)
    assert not any(worker.is_running() for worker in left)
    last = start(tmp_path, weights, "--jobs", "2", "--threads", "1")
    last.communicate()
    latest = {line["clip"]: line["status"] for line in records_of(tmp_path)}
    assert {clip for clip, status in latest.items() if status == "failed"} == set(bad)
    assert len(latest) == clips
    return last.returncode


def records_of(tmp_path):
    lines = (tmp_path / "out/batch.jsonl").read_bytes().splitlines()
    return [json.loads(line) for line in lines if line.startswith(b"{") and line.endswith(b"}")]


def one_by_one(batch, out):
    """Do the clips of a batch in this process, each by itself, into another folder; return the hashes."""
    from stmcli.pipeline import segment_video

    for pair in batch.pairs:
        try:
            segment_video(replace(batch.job(pair), output=out / pair.output))
        except StmError:
            continue
    return sums(out)


def test_what_is_killed_and_run_again_is_as_if_done_one_by_one(shots, batch_of, tmp_path, tiny_weights):
    shots(*(f"{'A/' * (n % 2)}c{n}.mp4" for n in range(17)), frames=4)
    bad = spoil(tmp_path)
    assert harm_and_rerun(tmp_path, tiny_weights, clips=22, bad=bad, kills=1, seed=7) == 3
    assert sums(tmp_path / "out") == one_by_one(batch_of(), tmp_path / "alone")
    assert len(sums(tmp_path / "out")) == 17 * 4
    assert not list((tmp_path / "out").rglob("*.part"))


@pytest.mark.long
def test_two_hundred_clips(shots, batch_of, tmp_path, tiny_weights):
    shots(*(f"{n % 7}/c{n}.mp4" for n in range(195)), frames=20)
    bad = spoil(tmp_path, frames=20)
    assert harm_and_rerun(tmp_path, tiny_weights, clips=200, bad=bad, kills=5, seed=11) == 3
    assert sums(tmp_path / "out") == one_by_one(batch_of(), tmp_path / "alone")
    assert len(sums(tmp_path / "out")) == 195 * 20


def test_an_interruption_is_raised_to_python_too(batch_of, shots, monkeypatch):
    def interrupted(job, **_):
        raise Interrupted("stopped", path=job.output, by=Terminated())

    monkeypatch.setattr(task, "segment_video", interrupted)
    shots("a.mp4")
    with pytest.raises(Interrupted) as caught:
        run_batch(batch_of())
    assert caught.value.exit_code == 143
