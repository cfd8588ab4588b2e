import hashlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import nullcontext
from dataclasses import replace
from fractions import Fraction
from itertools import pairwise
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from stmcli import outputs
from stmcli.errors import (
    Interrupted,
    LockedError,
    ManyErrors,
    PartialError,
    StmError,
    UsageError,
    VideoError,
    WriteError,
)
from stmcli.identity import fingerprint
from stmcli.job import Job, default_output, plan
from stmcli.listeners import Listener
from stmcli.masks import read_labels, read_values
from stmcli.matting import Matted
from stmcli.options import ExportOptions, Fit, MemoryOptions, NetworkOptions, SegmentOptions
from stmcli.outputs import MaskWriter, OverlayWriter
from stmcli.pipeline import segment_video
from stmcli.registry import sha256
from stmcli.segmenter import Segmenter, propagate
from stmcli.segmenter.prediction import Prediction
from stmcli.video import VideoReader, frame_times, open_source
from stmcli.weights import load_model, suited


@pytest.fixture
def job(tmp_path, make_clip, make_mask, tiny_weights):
    network = NetworkOptions(str(tiny_weights), "cpu", "fp32")
    return Job(make_clip(frames=6), (make_mask(ids=(1, 3)),), tmp_path / "out", network=network)


def hashes(folder, pattern="masks/*.png"):
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.glob(pattern)}


def files(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def report_of(job):
    return json.loads((job.output / "report.json").read_text())


def packets(path, kind):
    with av.open(str(path)) as container:
        stream = getattr(container.streams, kind)[0]
        return [bytes(packet) for packet in container.demux(stream) if packet.size]


def exporting(job, *kinds, segment=None, overwrite=False, **options):
    wanted = replace(job.segment, overwrite=overwrite, **(segment or {}))
    return replace(job, export=ExportOptions(kinds=kinds, **options), segment=wanted)


def test_every_frame_gives_a_mask_and_an_overlay_frame(job):
    seen = []
    result = segment_video(job, listener=Listener(frame=seen.append))
    names = [f"{index:05d}.png" for index in range(6)]
    reports = ("report.html", "report.json")
    assert files(job.output) == sorted(["masks", *(f"masks/{name}" for name in names), "overlay.mp4", *reports])
    assert seen == list(range(6))
    assert (result.frames, result.files) == (6, (job.output / "masks", job.output / "overlay.mp4"))
    assert np.array_equal(read_values(job.output / "masks" / names[0]), read_values(job.masks[0]))
    assert frame_times(job.output / "overlay.mp4") == frame_times(job.video)


def test_uneven_times_of_the_source_are_kept(job, make_clip):
    video = make_clip("vfr.mp4", frames=6, ticks=[0, 1, 5, 6, 20, 23], time_base=Fraction(1, 100))
    segment_video(replace(job, video=video))
    times = frame_times(job.output / "overlay.mp4")
    assert times == frame_times(video)
    assert len({after - before for before, after in pairwise(times)}) > 1
    assert [frame["time"] for frame in report_of(job)["frames"]] == [float(time) for time in times]


def test_the_sound_is_copied_unless_it_is_not_wanted(job, make_clip):
    job = replace(job, video=make_clip("loud.mp4", frames=12, audio="aac"))
    segment_video(job)
    assert packets(job.output / "overlay.mp4", "audio") == packets(job.video, "audio")
    segment_video(exporting(job, "overlay", audio="none", overwrite=True))
    with av.open(str(job.output / "overlay.mp4")) as container:
        assert not container.streams.audio


def test_the_alpha_film_holds_the_probabilities_at_source_size(job, make_clip, make_mask):
    video, mask = make_clip("odd.mkv", frames=4, width=70, height=54), make_mask("odd.png", width=70, height=54)
    job = replace(job, video=video, masks=(mask,), network=replace(job.network, size=32))
    job = exporting(job, "alpha", "matte", refine=False)
    segment_video(job)
    with av.open(str(job.output / "alpha.mov")) as film:
        assert film.streams.video[0].codec_context.name == "prores"
        drawn = [frame.to_ndarray(format="rgba")[:, :, 3] for frame in film.decode(video=0)]
    segmenter = Segmenter(load_model(job.network), fit=Fit(size=32))
    with open_source(video) as source:
        wanted = [p.alpha() for _, p in propagate(segmenter, source, read_labels(mask))]
    assert np.abs(np.stack(drawn) / 255 - np.stack(wanted)).max() < 0.02
    assert np.mean((drawn[2] > 10) & (drawn[2] < 245)) > 0.1  # neither 0 nor 1
    assert len(packets(job.output / "matte.mp4", "video")) == 4


@pytest.mark.parametrize("kinds", [("overlay",), ("overlay", "matte", "cutout")])
def test_films_are_the_same_when_each_has_a_thread_of_its_own(job, monkeypatch, kinds, tmp_path):
    segment_video(exporting(job, *kinds))
    threads = set()
    draw = outputs.Film.write

    def write(film, *given):
        threads.add((type(film), threading.current_thread()))
        draw(film, *given)

    monkeypatch.setattr("stmcli.run._is_beside", lambda _: True)
    monkeypatch.setattr(outputs.Film, "write", write)
    other = replace(exporting(job, *kinds), output=tmp_path / "other")
    segment_video(other)
    for pattern in ("masks/*.png", "*.mp4", "cutout/*.png"):
        assert hashes(other.output, pattern) == hashes(job.output, pattern)
    films = [kind for kind in kinds if kind != "cutout"]
    assert len({kind for kind, _ in threads}) == len({thread for _, thread in threads}) == len(films)


@pytest.mark.parametrize("place", ["write", "close"])
def test_an_error_of_a_film_in_a_thread_of_its_own_reaches_the_caller(job, monkeypatch, place):
    def fail(*_):
        raise WriteError("no room", path="overlay.mp4")

    monkeypatch.setattr("stmcli.run._is_beside", lambda _: True)
    monkeypatch.setattr(OverlayWriter, place, fail)
    with pytest.raises(WriteError, match="no room"):
        segment_video(job)
    assert report_of(job)["status"] == "failed"


def test_no_film_is_written_when_none_is_asked_for(job):
    result = segment_video(exporting(job, "none"))
    assert result.files == (job.output / "masks",)
    assert not (job.output / "overlay.mp4").exists()


def test_an_export_asked_for_twice_is_written_once(job):
    assert len(segment_video(exporting(job, "overlay", "overlay")).files) == 2


def test_an_unknown_export_is_refused_not_ignored(job):
    with pytest.raises(UsageError, match="no export gif"):
        segment_video(exporting(job, "gif"))
    assert not job.output.exists()


def test_frame_folders_and_patterns_keep_their_own_names(job, make_folder):
    names = [f"shot.{number}.png" for number in (8, 9, 10, 11)]
    folder = make_folder(names)
    for index, video in enumerate((folder, folder / "shot.%d.png", folder / "shot.#.png")):
        out = job.output / str(index)
        segment_video(exporting(replace(job, video=video, output=out), "none", segment={"start": 9, "end": 10}))
        assert sorted(p.name for p in (out / "masks").iterdir()) == ["shot.10.png", "shot.9.png"]


def test_the_report_holds_what_happened(job):
    segment_video(job)
    report = report_of(job)
    assert (report["status"], report["frames_written"], report["objects"]) == ("ok", 6, [1, 3])
    assert report["identity"] == json.loads(json.dumps(job.identity()))
    assert report["fingerprint"] == fingerprint(report["identity"], report["given"])
    assert report["weights"] == {
        "path": job.network.weights,
        "sha256": sha256(Path(job.network.weights)),
        "licence": "free",
    }
    assert (report["source"]["width"], report["source"]["height"]) == (64, 48)
    policy = {"every": 5, "max_slots": 20, "policy": "first+previous+every", "keep": "recent", "half": False}
    assert report["options"]["memory"] == policy
    for frame in report["frames"]:
        labels = read_values(job.output / "masks" / f"{frame['frame']:05d}.png")
        for number, facts in frame["objects"].items():
            rows, columns = np.nonzero(labels == int(number))
            assert facts["area"] == len(rows)
            assert 0 <= facts["confidence"] <= 1
            if len(rows):
                left, top = columns.min(), rows.min()
                assert facts["box"] == [left, top, columns.max() - left + 1, rows.max() - top + 1]
            else:
                assert facts["box"] is None
    assert report["frames"][0]["objects"]["1"] == {"area": 96, "box": [0, 0, 8, 12], "confidence": 1.0}


def test_the_page_is_that_of_the_report_and_can_be_left_out(job, stm):
    segment_video(job)
    page = job.output / "report.html"
    text = page.read_text()
    assert job.video.name in text
    assert text.count("data:image/jpeg") >= 6
    page.unlink()
    assert stm("report", job.output).stdout.strip() == str(page)
    assert page.read_text().count("<figure") == text.count("<figure")
    segment_video(exporting(job, "none", segment={"page": False}, overwrite=True))
    assert not page.exists()


def test_a_scene_cut_is_in_the_report(job, make_folder):
    folder = make_folder([f"{index}.png" for index in range(8)])
    for index in range(4, 8):
        Image.fromarray(np.full((48, 64, 3), (10, 200, 90), np.uint8)).save(folder / f"{index}.png")
    result = segment_video(exporting(replace(job, video=folder), "none"))
    assert [frame["frame"] for frame in report_of(job)["frames"] if frame.get("cut")] == [4]
    assert any("a new scene begins at frame 4" in note for note in result.notes)


def test_odd_masks_are_noted_and_nothing_is_warned(job):
    labels = np.zeros((48, 64), np.uint8)
    labels[:9, :9] = 77
    Image.fromarray(labels).save(job.masks[0])
    result = segment_video(job)
    assert any("77" in note for note in result.notes)
    assert list(result.notes) == report_of(job)["notes"]


def test_a_finished_job_is_not_done_again(job, monkeypatch):
    segment_video(job)
    before = {path: path.stat().st_mtime_ns for path in job.output.rglob("*.*")}
    monkeypatch.setattr("stmcli.pipeline.load_model", lambda _: pytest.fail("the network was loaded"))
    result = segment_video(job)
    assert (result.done_before, result.frames) == (True, 6)
    assert {path: path.stat().st_mtime_ns for path in job.output.rglob("*.*")} == before


@pytest.mark.parametrize("options", [{"overwrite": True}, {"resume": False}])
def test_a_finished_job_is_done_again_when_asked(job, options):
    segment_video(job)
    before = (job.output / "report.json").stat().st_mtime_ns
    assert not segment_video(replace(job, segment=replace(job.segment, **options))).done_before
    assert (job.output / "report.json").stat().st_mtime_ns > before


@pytest.mark.parametrize("lost", ["masks/00003.png", "overlay.mp4"])
def test_a_result_that_is_not_whole_is_done_again(job, lost):
    segment_video(job)
    before = hashes(job.output)
    (job.output / lost).unlink()
    assert not segment_video(job).done_before
    assert hashes(job.output) == before
    assert (job.output / lost).exists()


@pytest.mark.parametrize("emptied", ["masks/00003.png", "overlay.mp4"])
def test_a_result_with_a_file_that_is_empty_is_done_again(job, emptied):
    segment_video(job)
    content = (job.output / emptied).read_bytes()
    (job.output / emptied).write_bytes(b"")
    assert not segment_video(job).done_before
    assert (job.output / emptied).read_bytes() == content


def test_another_jobs_result_is_refused_and_replaced_with_y(job, make_mask):
    segment_video(job)
    before = hashes(job.output, "**/*.*")
    other = exporting(replace(job, masks=(make_mask("other.png", ids=(2,)),)), "none", segment={"end": 3})
    for changed in (other, replace(job, memory=MemoryOptions(every=2)), exporting(job, "none")):
        with pytest.raises(UsageError, match="out: holds the result of another job"):
            segment_video(changed)
        with pytest.raises(UsageError, match="out: holds the result of another job"):
            plan(changed)
    assert hashes(job.output, "**/*.*") == before
    segment_video(exporting(other, "none", segment={"end": 3}, overwrite=True))
    masks = [f"masks/0000{index}.png" for index in range(4)]
    assert files(job.output) == ["masks", *masks, "report.html", "report.json"]


def test_memory_options_change_the_result(job):
    results = []
    for index, memory in enumerate((MemoryOptions(), MemoryOptions(policy="first"), MemoryOptions(policy="previous"))):
        run = replace(job, output=job.output / str(index), memory=memory)
        segment_video(run)
        results.append([frame["objects"] for frame in report_of(run)["frames"]])
    assert results[0][0] == results[1][0] == results[2][0]
    assert results[0] != results[1] != results[2] != results[0]


def interrupt_at(number):
    def on_frame(index):
        if index == number:
            raise KeyboardInterrupt

    return on_frame


def threads():
    return [thread.name for thread in threading.enumerate() if thread.name in ("decode", "write")]


def test_an_interrupted_run_leaves_no_unfinished_film_and_goes_on_to_the_same_result(job, tmp_path):
    whole = replace(job, output=tmp_path / "whole")
    segment_video(whole)
    with pytest.raises(Interrupted, match=r"out: stopped after .* frames\. Run the same command again") as caught:
        segment_video(job, listener=Listener(frame=interrupt_at(3)))
    assert caught.value.exit_code == 130
    assert not threads()
    assert not [name for name in files(job.output) if "part" in name or "overlay" in name or "lock" in name]
    assert report_of(job)["status"] == "interrupted"
    assert not segment_video(job).done_before
    assert hashes(job.output) == hashes(whole.output)
    assert files(job.output) == files(whole.output)


def test_an_interrupt_inside_the_network_ends_the_decoder_before_the_source_is_closed(job, monkeypatch):
    real, alive, here = open_source, [], threading.current_thread

    def opened(*words, **options):
        source = real(*words, **options)
        close = source.close
        source.close = lambda: (alive.append(threads() if here() is threading.main_thread() else []), close())
        return source

    steps = iter(range(9))

    def step(self, rgb, labels=None, *, plain=Segmenter.step):
        if next(steps) == 2:
            raise KeyboardInterrupt
        return plain(self, rgb, labels)

    monkeypatch.setattr("stmcli.job.open_source", opened)
    monkeypatch.setattr(Segmenter, "step", step)
    with pytest.raises(Interrupted):
        segment_video(job)
    assert alive
    assert not any(alive)


def test_an_error_of_a_writer_reaches_the_caller(job, monkeypatch):
    def full(self, frame, _):
        if frame.index == 2:
            raise WriteError("the disk is full", path=self.path)

    monkeypatch.setattr(MaskWriter, "write", full)
    with pytest.raises(WriteError, match="the disk is full"):
        segment_video(job)
    assert not threads()
    assert report_of(job)["status"] == "failed"
    assert "overlay.mp4" not in files(job.output)


def test_an_error_when_a_film_is_closed_leaves_no_report_of_success(job, monkeypatch):
    def full(self):
        raise WriteError("the disk is full", path=self.path)

    monkeypatch.setattr(outputs.OverlayWriter, "close", full)
    with pytest.raises(WriteError):
        segment_video(job)
    assert report_of(job)["status"] == "failed"
    assert len(hashes(job.output)) == 6
    assert not [name for name in files(job.output) if "overlay" in name]


def spoiled_folder(make_folder, number):
    folder = make_folder([f"{index}.png" for index in range(6)])
    path = folder / f"{number}.png"
    path.write_bytes(path.read_bytes()[:70])
    return folder


def test_an_error_of_the_decoder_reaches_the_caller(job, make_folder):
    with pytest.raises(VideoError, match=r"3\.png"):
        segment_video(replace(job, video=spoiled_folder(make_folder, 3)))
    assert not threads()
    assert report_of(job)["status"] == "failed"
    assert len(hashes(job.output)) <= 3


@pytest.mark.parametrize(("how", "count"), [("skip", 6), ("stop", 3)])
def test_corrupt_frames_are_repeated_or_end_the_clip_and_are_named(job, make_folder, how, count):
    job = exporting(replace(job, video=spoiled_folder(make_folder, 3)), "none", segment={"on_corrupt": how})
    with pytest.raises(PartialError, match=r"1 frames? could not be read \(3\)") as caught:
        segment_video(job)
    assert caught.value.exit_code == 3
    assert len(hashes(job.output)) == count
    report = report_of(job)
    assert (report["status"], report["frames_corrupt"], report["frames_written"]) == ("partial", [3], count)
    assert report["frames_decoded"] == count - (how == "skip")
    if how == "skip":
        assert hashes(job.output)["3.png"] == hashes(job.output)["2.png"]


@pytest.mark.parametrize("how", ["stop", "skip"])
def test_a_clip_that_was_cut_short_is_done_in_part(job, make_clip, how):
    video = make_clip("cut.mkv", frames=60)
    video.write_bytes(video.read_bytes()[: video.stat().st_size // 3])
    job = exporting(replace(job, video=video), "overlay", segment={"on_corrupt": how})
    with pytest.raises(PartialError, match=r"cut\.mkv: .*missing from frame \d+ on\. The others are in") as caught:
        segment_video(job)
    report, count = report_of(job), len(hashes(job.output))
    assert (caught.value.exit_code, 0 < count < 60) == (3, True)
    assert (report["status"], report["missing_from"], report["frames_corrupt"]) == ("partial", count, [])
    assert any(f"missing from frame {count} on" in note for note in report["notes"])


def test_a_failed_job_goes_on_with_another_way_to_take_corrupt_frames(job, make_folder):
    job = exporting(replace(job, video=spoiled_folder(make_folder, 3)), "none")
    with pytest.raises(VideoError, match="not an image"):
        segment_video(job)
    with pytest.raises(PartialError):
        segment_video(replace(job, segment=SegmentOptions(on_corrupt="skip")))
    assert len(hashes(job.output)) == 6


def test_a_job_that_could_not_begin_leaves_no_folder_in_the_way(job):
    with pytest.raises(StmError, match="no such CUDA"):
        segment_video(replace(job, network=replace(job.network, device="cuda:99")))
    assert not job.output.exists()


def test_a_second_run_in_a_folder_names_the_first(job):
    errors = []

    def second(index):
        if index == 2:
            with pytest.raises(LockedError) as caught:
                segment_video(job)
            errors.append(caught.value)

    segment_video(job, listener=Listener(frame=second))
    assert f"in use by process {os.getpid()}" in str(errors[0])
    assert errors[0].exit_code == 1
    assert report_of(job)["status"] == "ok"


def test_the_lock_of_a_dead_process_is_taken_over(job):
    job.output.mkdir()
    (job.output / ".lock").write_text(str(os.getppid()))  # a number that is in use again
    assert segment_video(job).frames == 6
    assert not (job.output / ".lock").exists()


KILLED = """
import os, signal, sys
from pathlib import Path
from stmcli.options import NetworkOptions
from stmcli.job import Job
from stmcli.listeners import Listener
from stmcli.pipeline import segment_video
video, mask, out, weights = sys.argv[1:]
def on_frame(index):
    if index == 3:
        os.kill(os.getpid(), signal.SIGKILL)
network = NetworkOptions(weights, "cpu", "fp32")
segment_video(Job(Path(video), (mask,), Path(out), network=network), listener=Listener(frame=on_frame))
"""


def test_a_killed_run_is_done_again_to_the_same_result(job, tmp_path):
    words = [sys.executable, "-c", KILLED, *map(str, (job.video, job.masks[0], job.output, job.network.weights))]
    assert subprocess.run(words, check=False).returncode == -signal.SIGKILL
    assert {".lock", "overlay.part.mp4"} <= set(files(job.output))
    assert "overlay.mp4" not in files(job.output)
    whole = replace(job, output=tmp_path / "whole")
    segment_video(whole)
    assert not segment_video(job).done_before
    assert hashes(job.output) == hashes(whole.output)
    assert files(job.output) == files(whole.output)


@pytest.mark.parametrize("end", [interrupt_at(3), None], ids=["unfinished", "finished"])
def test_nothing_of_an_unfinished_run_is_left_beside_another_result(job, tmp_path, end):
    whole = replace(job, output=tmp_path / "whole")
    segment_video(whole)
    first = exporting(job, "cutout", "davis", "coco", per_object=True)
    with pytest.raises(Interrupted) if end else nullcontext():
        segment_video(first, listener=Listener(frame=end or (lambda _: None)))
    with pytest.raises(Interrupted):
        segment_video(exporting(job, "matte", overwrite=True), listener=Listener(frame=interrupt_at(2)))
    segment_video(replace(job, segment=SegmentOptions(overwrite=True)))
    assert files(job.output) == files(whole.output)


def test_a_run_killed_before_its_first_report_does_not_stand_in_the_way(job):
    (job.output / "masks").mkdir(parents=True)
    for name in (".report.json.part", "overlay.part.mp4", "masks/.00000.png.part", ".lock"):
        (job.output / name).write_bytes(b"x")
    assert segment_video(job).frames == 6
    assert not [name for name in files(job.output) if "part" in name]


def test_a_plan_says_what_a_job_would_do_and_writes_nothing(job):
    facts = plan(job)
    assert (facts["frames"], facts["objects"], facts["done_before"]) == (6, [1, 3], False)
    assert facts["outputs"] == [str(job.output / name) for name in ("masks", "overlay.mp4", "report.json")]
    assert not job.output.exists()
    segment_video(job)
    assert plan(job)["done_before"]


def test_a_plan_counts_the_frames_between_the_mask_and_the_end_that_was_asked_for(job):
    (mask,) = job.masks
    for start, frame, end, direction in ((None, 2, 4, "forward"), (1, 3, None, "backward"), (1, 3, 5, "backward")):
        options = SegmentOptions(start=start, end=end, direction=direction)
        assert plan(replace(job, masks=(f"{frame}:{mask}",), segment=options))["frames"] == 3
    short = plan(replace(job, segment=SegmentOptions(end=6)))
    assert (short["frames"], short["notes"]) == (6, ["the clip ends at frame 5, before frame 6"])
    assert plan(replace(job, segment=SegmentOptions(end=5)))["notes"] == []


def test_a_plan_finds_an_output_that_cannot_be_written(job, monkeypatch):
    below_a_file = replace(job, output=job.video / "out")
    with pytest.raises(UsageError, match=r"clip\.mp4/out: cannot be written \(Not a directory\)"):
        plan(below_a_file)
    monkeypatch.setattr(os, "access", lambda path, mode: (Path(path), mode) != (job.output.parent, os.W_OK | os.X_OK))
    with pytest.raises(UsageError, match=r"out: cannot be written \(Permission denied\)"):
        plan(job)


def test_a_plan_names_all_that_is_wrong_at_once(job, monkeypatch):
    monkeypatch.setenv("CXX", "no-such-compiler")
    job.masks[0].write_bytes(b"damaged")
    wrong = replace(job, video=Path("no.mp4"), network=replace(job.network, compile=True))
    with pytest.raises(ManyErrors) as found:
        plan(wrong)
    for words in ("there is no C++ compiler", "no.mp4: no such", f"{job.masks[0]}: not an image"):
        assert words in str(found.value)


def test_a_finished_result_need_not_be_writable_until_there_is_something_to_do(job, monkeypatch):
    segment_video(job)
    monkeypatch.setattr(os, "access", lambda path, mode: (Path(path), mode) != (job.output, os.W_OK | os.X_OK))
    assert plan(job)["done_before"]
    with pytest.raises(UsageError, match=r"out: cannot be written \(Permission denied\)"):
        plan(exporting(job, "none", overwrite=True))


def test_other_files_beside_a_pattern_do_not_change_the_job(job, make_folder):
    folder = make_folder([f"{index}.png" for index in range(3)])
    job = replace(job, video=folder / "%d.png")
    before = job.identity()
    (folder / "log.txt").write_text("progress")
    assert job.identity() == before
    os.utime(folder / "1.png", ns=(1, 1))
    assert job.identity() == before
    (folder / "1.png").write_bytes((folder / "2.png").read_bytes())
    assert job.identity() != before


@pytest.mark.parametrize(("name", "folder"), [("a/b.c.mp4", "b.c"), ("a/take.2", "take.2"), ("a/take.2/..", "a")])
def test_results_are_called_as_the_clip_is(tmp_path, monkeypatch, name, folder):
    (tmp_path / "a" / "take.2").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    assert default_output(Path(name)) == Path("stm_out") / folder


@pytest.mark.parametrize(
    ("kind", "cores", "in_turn"), [("overlay", 2, True), ("none", 2, True), ("alpha", 2, False), ("overlay", 1, False)]
)
def test_decoding_and_writing_take_turns_with_a_network_on_several_cores(
    job, make_clip, monkeypatch, kind, cores, in_turn
):
    steps, beside = threading.Event(), set()
    step, write, decode = Segmenter.step, MaskWriter.write, VideoReader._frames

    def stepped(*given, **options):
        steps.set()
        time.sleep(0.05)
        found = step(*given, **options)
        steps.clear()
        return found

    def begins(what):
        beside.update([what] if steps.is_set() else [])

    def decoded(*given):
        frames = decode(*given)
        begins("decoding")
        for frame in frames:
            yield frame
            begins("decoding")

    monkeypatch.setattr("torch.get_num_threads", lambda: cores)
    monkeypatch.setattr(Segmenter, "step", stepped)
    monkeypatch.setattr(MaskWriter, "write", lambda *x: begins("writing") or write(*x))
    monkeypatch.setattr(VideoReader, "_frames", decoded)
    segment_video(replace(exporting(job, kind), video=make_clip(frames=14)))
    assert beside == (set() if in_turn else {"decoding", "writing"})


@pytest.mark.parametrize(("kind", "kept"), [("overlay", False), ("alpha", True)])
def test_frames_that_wait_to_be_written_keep_probabilities_only_where_they_are_needed(job, monkeypatch, kind, kept):
    taken = []
    write = MaskWriter.write
    monkeypatch.setattr(MaskWriter, "write", lambda *x: taken.append(x[2].prob is not None) or write(*x))
    segment_video(exporting(job, kind))
    assert {*taken} == {kept}


def test_the_parts_can_be_used_without_the_command(job, tmp_path):
    segmenter = Segmenter(load_model(job.network), fit=Fit(size=suited(job.network).size))
    with open_source(job.video) as source:
        writers = [MaskWriter(tmp_path / "m", source.frame_name), OverlayWriter(tmp_path / "o.mp4", source.info)]
        for frame, prediction in propagate(segmenter, source, read_labels(job.masks[0])):
            assert isinstance(prediction, Prediction)
            matted = Matted(frame.rgb, prediction)
            for writer in writers:
                writer.write(frame, matted)
        for writer in writers:
            writer.close()
    segment_video(exporting(job, "overlay"))
    assert hashes(tmp_path, "m/*.png") == hashes(job.output)
    assert frame_times(tmp_path / "o.mp4") == frame_times(job.video)


@pytest.mark.parametrize("direction", ["forward", "both"])
def test_masks_are_fitted_to_the_picture_but_not_those_that_were_given(job, direction):
    segment = replace(job.segment, direction=direction)
    fitted, plain = (
        replace(job, output=job.output / str(refine), segment=segment, export=ExportOptions(("none",), refine=refine))
        for refine in (True, False)
    )
    for one in (fitted, plain):
        segment_video(one)
    first, *others = zip(*(sorted((one.output / "masks").iterdir()) for one in (fitted, plain)), strict=True)
    assert all(np.array_equal(read_values(path), read_values(job.masks[0])) for path in first)
    assert any(not np.array_equal(*map(read_values, pair)) for pair in others)


def test_default_options_follow_all_objects_of_the_whole_clip():
    assert SegmentOptions() == SegmentOptions((), None, None, None, False, 8, "fail", "software", False, True)
    assert (ExportOptions().kinds, ExportOptions().audio) == (("overlay",), "copy")


def test_switches_are_part_of_the_job_and_change_its_result(job):
    segment_video(job)
    plain, heard = hashes(job.output), []
    for place, switch in enumerate(({"tta": ("flip",)}, {"tta": ("scale",)}, {"adapt": 2}, {"reach": 0.3})):
        network = replace(job.network, **switch)
        other = replace(job, network=network, output=job.output.parent / str(place))
        assert other.identity() != job.identity()
        assert segment_video(other, listener=Listener(adapt=lambda *step: heard.append(step))).frames == 6
        said = report_of(other)["options"]["network"]
        assert said == {**said, **json.loads(json.dumps(switch))}
        assert hashes(other.output) != plain or "adapt" in switch  # two small steps may change no label
    assert heard == [(1, 2), (2, 2)]
    same = replace(job, network=replace(job.network, size=48, top_k=0, reach=0.0))
    assert same.identity() == job.identity()
    assert segment_video(same).done_before


def test_pictures_of_others_among_the_masks_stay_and_do_not_make_a_result_unfinished(job):
    segment_video(job)
    (job.output / "masks" / "my_edit.png").write_bytes(b"mine")
    assert segment_video(job).done_before
    segment_video(replace(job, segment=SegmentOptions(overwrite=True)))
    assert (job.output / "masks" / "my_edit.png").read_bytes() == b"mine"
    (job.output / "masks" / "00003.png").unlink()
    assert not segment_video(job).done_before
    assert (job.output / "masks" / "my_edit.png").exists()


def test_a_page_that_was_not_wanted_before_is_made_of_the_result(job):
    segment_video(replace(job, segment=SegmentOptions(page=False)))
    assert not (job.output / "report.html").exists()
    kept = segment_video(replace(job, segment=SegmentOptions(keep_memory=True)))
    assert kept.done_before
    assert (job.output / "report.html").exists()
    assert kept.notes[-1].startswith("its memory was not kept")
