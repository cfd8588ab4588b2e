"""Backward through a clip, and from masks on both sides."""

import hashlib
import json
import os
import signal
import subprocess
import sys
import zlib
from contextlib import nullcontext, suppress
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from spoilt import flipped_clip, two_sizes

from stmcli.errors import Interrupted, PartialError, UsageError, VideoError
from stmcli.given import GivenMask
from stmcli.job import Job
from stmcli.listeners import Listener
from stmcli.masks import read_values, write_labels
from stmcli.options import ExportOptions, MemoryOptions, NetworkOptions, SegmentOptions
from stmcli.page import fix_command
from stmcli.pipeline import segment_video
from stmcli.segmenter import Segmenter, checkpoint
from stmcli.segmenter.directions import TOP, forward_weight
from stmcli.video import frames_backward, open_source, read_frame
from stmcli.video.reverse import _sought

FRAMES = 9


@pytest.fixture(autouse=True)
def often(monkeypatch):
    monkeypatch.setattr(checkpoint, "EVERY", 2)


@pytest.fixture
def put(tmp_path):
    """Return a function that writes a mask in which each object {id: (top, left)} is a block."""

    def write(name, objects):
        labels = np.zeros((48, 64), np.uint8)
        for number, (top, left) in objects.items():
            labels[top : top + 16, left : left + 18] = number
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        write_labels(path, labels)
        return path

    return write


@pytest.fixture
def clips(tmp_path):
    """A folder of frames, and the same in reverse order."""
    rng = np.random.default_rng(0)
    still = np.kron(rng.integers(0, 255, (6, 8, 3), dtype=np.uint8), np.ones((8, 8, 1), np.uint8))
    for name in ("on", "back"):
        (tmp_path / name).mkdir()
    for t in range(FRAMES):
        picture = Image.fromarray(np.roll(still, 3 * t, axis=1))
        picture.save(tmp_path / "on" / f"{t}.png")
        picture.save(tmp_path / "back" / f"{FRAMES - 1 - t}.png")
    return tmp_path / "on", tmp_path / "back"


@pytest.fixture
def job(tmp_path, clips, put, tiny_weights):
    network = NetworkOptions(str(tiny_weights), "cpu", "fp32")
    masks = (f"2:{put('a.png', {1: (4, 4)})}", f"6:{put('b.png', {1: (8, 20), 2: (30, 40)})}")
    export = ExportOptions(kinds=("none",))
    return Job(clips[0], masks, tmp_path / "out", network=network, memory=MemoryOptions(every=2), export=export)


def toward(job, direction, name="", **options):
    wanted = replace(job.segment, direction=direction, **options)
    return replace(job, segment=wanted, output=job.output / name if name else job.output)


def put_cuts(folder, *places):
    """Begin a new scene, darker or as before, at each of these places in a folder of frames."""
    for place, path in enumerate(sorted(folder.iterdir())):
        if sum(place >= cut for cut in places) % 2:
            Image.fromarray(np.array(Image.open(path)) // 4).save(path)


def sure_of(job, number):
    """Return the confidence {frame: 0..1} in an object."""
    return {frame["frame"]: frame["objects"][str(number)]["confidence"] for frame in report_of(job)["frames"]}


def cuts_of(job):
    return [frame["frame"] for frame in report_of(job)["frames"] if frame.get("cut")]


def masks_of(job):
    return {int(path.stem): read_values(path) for path in (job.output / "masks").glob("*.png")}


def soft_of(job, number):
    """Return the stored probabilities {frame: (H, W)} of an object, 0..65535."""
    return {
        int(path.stem): np.array(Image.open(path)).astype(int) for path in (job.output / f"soft/{number}").iterdir()
    }


def hashes(job):
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in (job.output / "masks").glob("*.png")}


def report_of(job):
    return json.loads((job.output / "report.json").read_text())


@pytest.mark.parametrize(("direction", "frame"), [("forward", 2), ("both", 2), ("backward", 6)])
def test_the_decoder_adapts_to_the_frame_that_a_clip_is_followed_from(job, put, monkeypatch, direction, frame):
    seen = []
    monkeypatch.setattr("stmcli.pipeline.adapt", lambda model, rgb, *_, **__: seen.append(rgb) or model)
    masks = [put(f"given/{number}.png", {1: (4, 4)} if number in (2, 6) else {}) for number in (1, 2, 6, 7)]
    segment_video(toward(replace(job, masks=(masks[0].parent,), network=replace(job.network, adapt=1)), direction))
    assert np.array_equal(seen, [read_frame(job.video, frame).rgb])


@pytest.mark.parametrize(("direction", "frame"), [("forward", 2), ("both", 2), ("backward", 6)])
def test_another_mask_where_the_clip_is_followed_from_is_another_job(job, put, direction, frame):
    masks = [put(f"given/{number}.png", {1: (4, 4)} if number in (2, 6) else {}) for number in (1, 2, 6, 7)]
    job = toward(replace(job, masks=(masks[0].parent,)), direction)
    segment_video(job)
    assert segment_video(job).done_before
    put(f"given/{frame}.png", {1: (8, 8)})
    with pytest.raises(UsageError, match=rf"another job \(the mask of frame {frame} differs\)"):
        segment_video(job)


@pytest.mark.parametrize(
    ("direction", "frames", "needed"),
    [
        *[("forward", [1], True), ("forward", [2, 4], True), ("forward", [3, 6], False)],
        *[("both", [1], True), ("both", [0], True), ("both", [2], True), ("both", [4, 8], False)],
        *[("backward", [0, 6], True), ("backward", [7], True), ("backward", [0, 4], False)],
    ],
)
def test_the_command_to_mend_a_frame_asks_for_leave_where_it_needs_it(job, put, direction, frames, needed):
    folder, *_ = (put(f"given/{n}.png", {1: (4, 4)} if n in (2, 6) else {}).parent for n in (0, 2, 6, 8))
    job = toward(replace(job, masks=(folder,)), direction)
    segment_video(job)
    assert fix_command(report_of(job), job.output, "more", frames=frames).endswith(" -y") == needed
    mended = replace(job, masks=(folder, *(f"{n}:{put(f'more/{n}.png', {1: (8, 8)})}" for n in frames)))
    with pytest.raises(UsageError, match=r"the mask of frame .* differs") if needed else nullcontext():
        segment_video(mended)


# The frames.


def same(one, other):
    return (one.index, one.time, one.corrupt) == (other.index, other.time, other.corrupt) and (
        one.rgb.tobytes() == other.rgb.tobytes()
    )


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv", "a.mov", "a.webm", "a.ts", "a.avi"])
def test_frames_backward_are_those_forward(make_clip, monkeypatch, name):
    monkeypatch.setattr("stmcli.video.reverse.CHUNK_FRAMES", 7)
    path = make_clip(name, frames=40, gop=9, options={"bf": "2"} if name[2:] in ("mp4", "mkv", "mov") else None)
    with open_source(path) as source:
        wanted = [frame for frame in source if 3 <= frame.index <= 33]
        found = list(frames_backward(source, first=3, last=33))
    assert len(found) == 31
    assert all(same(*pair) for pair in zip(found[::-1], wanted, strict=True))


@pytest.mark.parametrize("more", [{}, {"options": {"bf": "3", "x264-params": "open-gop=1", "preset": "medium"}}])
def test_a_transport_stream_is_entered_close_to_the_frames_that_are_wanted(make_clip, monkeypatch, more):
    monkeypatch.setattr("stmcli.video.reverse.CHUNK_FRAMES", 20)
    monkeypatch.setattr("stmcli.video.reverse._decoded", None)
    with open_source(make_clip("a.ts", frames=200, gop=10, **more)) as source:
        wanted = list(source)
        found = list(frames_backward(source, first=0, last=199))
    assert all(same(*pair) for pair in zip(found[::-1], wanted, strict=True))


def test_frames_that_are_lost_are_repeated_on_the_way_back_too(make_clip, make_folder, monkeypatch):
    clip, folder = flipped_clip(make_clip), make_folder([f"{number}.png" for number in range(24) if number != 11])
    for path in (clip, folder):
        for size in (6, 11, 12, 13):
            monkeypatch.setattr("stmcli.video.reverse.CHUNK_FRAMES", size)
            with open_source(path, on_corrupt="skip") as source:
                wanted = list(source)
                found = list(frames_backward(source, first=0, last=23))
            assert [frame.corrupt for frame in wanted].count(True) == 1
            assert all(same(*pair) for pair in zip(found[::-1], wanted, strict=True))


def test_a_change_of_size_is_named_on_the_way_back_too(make_clip):
    with open_source(two_sizes(make_clip)) as source, pytest.raises(VideoError, match="frame 6 is 96x64 but the first"):
        list(frames_backward(source, first=0, last=11))


def test_a_file_is_entered_close_to_the_frames_that_are_wanted(make_clip):
    with open_source(make_clip(frames=40, gop=10)) as source:
        times = {number: time for number, time in source.times().items() if 25 <= number < 32}
        wanted = [frame for frame in source if frame.index in times]
        found = _sought(source, times)
        assert all(same(*pair) for pair in zip(found, wanted, strict=True))
        assert _sought(source, {**times, 99: Fraction(77, 1000)}) is None


def test_h264_in_avi_goes_backward_in_the_order_that_it_shows(make_clip):
    with open_source(make_clip("h.avi", frames=20, codec="libx264", options={"preset": "medium"})) as source:
        wanted = [frame for frame in source if 4 <= frame.index <= 15]
        found = list(frames_backward(source, first=4, last=15))
    assert all(same(*pair) for pair in zip(found[::-1], wanted, strict=True))


def test_a_folder_goes_backward_by_its_own_numbers(make_folder):
    with open_source(make_folder([f"s.{number}.png" for number in (3, 5, 7, 9)])) as source:
        assert [frame.index for frame in frames_backward(source, first=4, last=8)] == [7, 5]


# The predictions.


def test_backward_is_forward_through_the_reversed_clip(job, clips, put):
    words = [(2, put("a.png", {1: (4, 4)})), (7, put("b.png", {2: (30, 40)}))]
    back = toward(job, "backward", keep_soft=True, soft_bits=16)
    back = replace(back, masks=tuple(f"{frame}:{path}" for frame, path in words))
    on = replace(toward(back, "forward", "on"), video=clips[1])
    on = replace(on, masks=tuple(f"{FRAMES - 1 - frame}:{path}" for frame, path in words))
    segment_video(back)
    segment_video(on)
    assert sorted(masks_of(back)) == list(range(8))
    assert "the clip is followed back from frame 7, the last with a mask" in report_of(back)["notes"]
    there = {FRAMES - 1 - t: labels for t, labels in masks_of(on).items()}
    assert all((masks_of(back)[t] == there[t]).mean() > 0.995 for t in range(8))  # but for ties of a random network
    for number in (1, 2):
        mine, other = soft_of(back, number), soft_of(on, number)
        assert max(abs(mine[t] - other[FRAMES - 1 - t]).max() for t in range(8)) <= 1
        sure = {FRAMES - 1 - t: measured for t, measured in sure_of(on, number).items()}
        assert sure_of(back, number) == pytest.approx(sure, abs=0.002)
    assert np.array_equal(masks_of(back)[2] == 1, read_values(words[0][1]) == 1)
    assert (masks_of(back)[4] == 2).any() or soft_of(back, 2)[4].max() > 6000


def test_both_are_the_given_masks_where_they_are_given_and_one_way_outside(job):
    job = toward(job, "both", keep_soft=True, soft_bits=16)
    on, back = toward(job, "forward", "on"), toward(job, "backward", "back")
    for one in (job, on, back):
        segment_video(one)
    masks = masks_of(job)
    assert sorted(masks) == list(range(FRAMES))
    given = {2: read_values(Path(job.masks[0][2:])), 6: read_values(Path(job.masks[1][2:]))}
    assert np.array_equal(masks[2] == 1, given[2] == 1)
    assert np.array_equal(masks[6], given[6])
    assert all(np.array_equal(masks[t], masks_of(on)[t]) for t in (7, 8))
    assert all(np.array_equal(masks[t], masks_of(back)[t]) for t in (0, 1))
    one, forward, backward = (soft_of(which, 1) for which in (job, on, back))
    assert np.abs(one[0] - backward[0]).max() <= 1
    for t in (3, 4, 5):
        low, high = np.minimum(forward[t], backward[t]), np.maximum(forward[t], backward[t])
        sums = one[t] + soft_of(job, 2)[t]
        assert (sums <= 65536).all()
        assert (one[t] <= high + 2).all()
        assert (one[t] >= low - 2)[forward[t] + soft_of(back, 2)[t] < 65000].mean() > 0.9
        assert not np.array_equal(one[t], forward[t])


def test_both_blend_the_confidence_that_either_way_measures(job):
    job = toward(job, "both", keep_soft=True, soft_bits=16)
    on, back = toward(job, "forward", "on"), toward(job, "backward", "back")
    for one in (job, on, back):
        segment_video(one)
    given = [mask(2, 1), mask(6, 1, 2)]
    for number in (1, 2):
        found, forward, backward = (sure_of(which, number) for which in (job, on, back))
        assert all(found[t] == backward[t] for t in (0, 1))
        assert all(found[t] == forward[t] for t in (7, 8))
        for t in (3, 4, 5):
            weight = forward_weight(given, t, number, sure=(forward[t], backward[t]))
            blend = weight * forward[t] + (1 - weight) * backward[t]
            seen = soft_of(job, number)[t].max() > TOP / 2
            assert found[t] == pytest.approx(blend if seen else 0, abs=0.002)
        assert max(found[t] for t in (0, 1, 3, 4, 5)) < 0.5  # of a network that knows nothing


@pytest.mark.parametrize(
    ("missing", "given", "cuts"),
    [((), (), [4, 7]), ((3,), (), [4, 7]), ((4,), (), [5, 7]), ((4,), (4,), [5, 7]), ((6, 7), (), [4, 8])],
)
def test_a_cut_is_reported_at_the_same_frame_in_all_directions(job, put, missing, given, cuts):
    put_cuts(job.video, 4, 7)
    for number in missing:
        (job.video / f"{number}.png").unlink()
    masks = tuple(f"{number}:{put(f'{number}.png', {1: (4, number)})}" for number in (0, *given, 8))
    for direction in ("forward", "backward", "both"):
        run = toward(replace(job, masks=masks), direction, direction, on_corrupt="skip", page=False)
        with suppress(PartialError):
            segment_video(run)
        assert cuts_of(run) == cuts
        assert f"a new scene begins at frames {cuts[0]}, {cuts[1]}: look at the masks there" in report_of(run)["notes"]


def test_a_cut_is_reported_by_the_numbers_of_a_sequence(job, put):
    put_cuts(job.video, 4, 7)
    for number in reversed(range(FRAMES)):
        (job.video / f"{number}.png").rename(job.video / f"s.{10 + 5 * number:03}.png")
    job = replace(job, masks=(f"10:{put('a.png', {1: (4, 4)})}", f"50:{put('b.png', {1: (8, 20)})}"))
    for direction in ("forward", "backward", "both"):
        run = toward(job, direction, direction, page=False)
        segment_video(run)
        assert cuts_of(run) == [30, 45]


def test_a_new_scene_may_begin_before_the_first_mask_at_it_and_after_the_last(job, put):
    put_cuts(job.video, 2, 4, 7)
    masks = tuple(f"{number}:{put(f'{number}.png', {1: (4, number)})}" for number in (4, 6))
    for direction, cuts in {"forward": [7], "backward": [2, 4], "both": [2, 4, 7]}.items():
        run = toward(replace(job, masks=masks), direction, direction, page=False)
        segment_video(run)
        assert cuts_of(run) == cuts


def test_the_report_and_the_progress_count_both_ways(job):
    totals, heard = [], []
    segment_video(toward(job, "both"), listener=Listener(lambda total, _: totals.append(total), heard.append))
    assert totals == [FRAMES + 7] == [len(heard)]
    assert heard == [6, 5, 4, 3, 2, 1, 0, *range(FRAMES)]
    report = report_of(toward(job, "both"))
    assert [frame["frame"] for frame in report["frames"]] == list(range(FRAMES))
    assert report["objects"] == [1, 2]
    assert not (job.output / ".state").exists()


def test_a_film_of_a_video_goes_both_ways(job, make_clip):
    job = replace(job, video=make_clip(frames=8), export=ExportOptions(kinds=("matte", "overlay")))
    segment_video(toward(job, "both"))
    with open_source(job.output / "matte.mp4") as film:
        assert film.count == 8


def mask(frame, *ids, whole=False):
    labels = np.zeros((4, 20), np.uint8)
    labels[0, : len(ids)] = ids
    return GivenMask(frame, Path("m"), ids, labels.shape, labels.dtype, b"", whole)


@pytest.mark.parametrize(
    ("index", "number", "sure", "weight"),
    [
        (10, 1, (0.7, 0.9), 1),
        (15, 1, (0.8, 0.8), 0.5),
        (18, 1, (0.8, 0.8), 0.2),
        (15, 1, (0.9, 0.6), 0.6),
        (15, 1, (0.0, 1.0), 1 / 3),
        (20, 1, (0.7, 0.9), 1),
        (25, 1, (0.7, 0.9), 1),
        (5, 1, (0.7, 0.9), 0),
        (15, 2, (0.7, 0.9), 0),
        (20, 2, (0.7, 0.9), 1),
        (35, 2, (0.5, 0.5), 0.5),
    ],
)
def test_the_weight_of_the_way_forward_falls_from_mask_to_mask(index, number, sure, weight):
    given = [mask(10, 1), mask(20, 1, 2), mask(30, 2), mask(40, whole=True)]
    if number == 1 and index > 20:
        given = given[:2]
    assert forward_weight(given, index, number, sure=sure) == pytest.approx(weight)


def test_empty_masks_of_a_folder_end_the_way_back(job, put):
    for frame, objects in {0: {}, 3: {1: (4, 4)}, 6: {}}.items():
        folder = put(f"all/{frame}.png", objects).parent
    job = replace(toward(job, "both"), masks=(folder,))
    segment_video(job)
    masks = masks_of(job)
    assert not masks[0].any()
    assert not masks[6].any()
    assert np.array_equal(masks[3], read_values(folder / "3.png"))


def test_what_cannot_go_backward_is_refused(job):
    with pytest.raises(UsageError, match="no direction sideways"):
        segment_video(toward(job, "sideways"))
    with pytest.raises(UsageError, match="needs its end"):
        segment_video(toward(job, "both", on_corrupt="stop"))


# A stop on either way.


@pytest.mark.parametrize(
    ("direction", "heard_before", "steps_left"), [("both", 4, 10), ("both", 13, 1 + 3), ("backward", 4, 3)]
)
def test_a_stopped_run_goes_on_on_either_way(job, monkeypatch, direction, heard_before, steps_left):
    scenes = [3, 5] if direction == "backward" else [2, 5]  # of 3 the way back is told right after the stop
    put_cuts(job.video, *scenes)
    whole, job = toward(job, direction, "whole"), toward(job, direction, "mine")
    segment_video(whole)
    heard = []

    def on_frame(index):
        heard.append(index)
        if len(heard) == heard_before:
            raise KeyboardInterrupt

    with pytest.raises(Interrupted):
        segment_video(job, listener=Listener(frame=on_frame))
    steps, plain = [], Segmenter.step
    monkeypatch.setattr(Segmenter, "step", lambda *words, **named: steps.append(1) or plain(*words, **named))
    segment_video(job)
    assert len(steps) == steps_left
    assert hashes(job) == hashes(whole)
    assert report_of(job)["frames"] == report_of(whole)["frames"]
    assert cuts_of(job) == cuts_of(whole) == scenes
    assert sorted(path.name for path in job.output.iterdir()) == ["masks", "report.html", "report.json"]


SPOILT = {
    "missing": lambda file: file.unlink(),
    "empty": lambda file: file.write_bytes(b""),
    "spoilt": lambda file: file.write_bytes(b"y" + file.read_bytes()[1:]),
    "of another size": lambda file: file.write_bytes(zlib.compress(zlib.decompress(file.read_bytes())[:-2])),
}


@pytest.mark.parametrize("how", SPOILT)
def test_a_stopped_way_back_begins_again_where_a_frame_is_not_stored_whole(job, how):
    whole, job = toward(job, "both", "whole"), toward(job, "both", "mine")
    segment_video(whole)

    def on_frame(index):
        if index == 2:
            raise KeyboardInterrupt

    with pytest.raises(Interrupted):
        segment_video(job, listener=Listener(frame=on_frame))
    SPOILT[how](job.output / ".state/backward/4.prob")
    segment_video(job)
    assert hashes(job) == hashes(whole)


@pytest.mark.parametrize("how", SPOILT)
def test_what_is_lost_of_the_way_back_before_it_is_used_is_named(job, how):
    job, found = toward(job, "both"), []

    def on_frame(index):
        if index == 0 and not found:  # the last of the way back
            found.append(job.output / ".state/backward/4.prob")
            SPOILT[how](found[0])

    said = "frame 4 did not come up on the way back" if how == "missing" else r"4\.prob: damaged\. Run the same command"
    with pytest.raises(VideoError, match=said):
        segment_video(job, listener=Listener(frame=on_frame))


KILLED = """
import os, signal, sys
from pathlib import Path
from stmcli.segmenter import checkpoint
from stmcli.job import Job
from stmcli.options import ExportOptions, MemoryOptions, NetworkOptions, SegmentOptions
from stmcli.pipeline import segment_video
checkpoint.EVERY = 2
video, first, later, out, weights, *kills = sys.argv[1:]
network, segment = NetworkOptions(weights, "cpu", "fp32"), SegmentOptions(direction="both")
export, memory = ExportOptions(kinds=("none",)), MemoryOptions(every=2)
job = Job(Path(video), (first, later), Path(out), segment, network, memory, export)
plain, calls = os.replace, 0
def replace(old, new):
    global calls
    calls += 1
    if calls == kill:
        os.kill(os.getpid(), signal.SIGKILL)
    plain(old, new)
os.replace = replace
for kill in map(int, kills):
    if not (child := os.fork()):
        segment_video(job)
        os._exit(0)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


def test_a_run_killed_on_either_way_ends_with_the_same_result(job):
    put_cuts(job.video, 2, 5)
    whole, job = toward(job, "both", "whole"), toward(job, "both", "mine")
    segment_video(whole)
    words = [job.video, *job.masks, job.output, job.network.weights]
    done = subprocess.run(
        [sys.executable, "-c", KILLED, *map(str, words), "6", "9", "8"],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads())},
    )
    assert done.stdout.split() == [str(-signal.SIGKILL)] * 3
    segment_video(job)
    assert hashes(job) == hashes(whole)
    assert report_of(job)["frames"] == report_of(whole)["frames"]
    assert cuts_of(job) == [2, 5]


def test_a_correction_changes_all_that_lies_between(job, put):
    job = toward(job, "both", keep_memory=True)
    segment_video(job)
    other = replace(job, masks=(*job.masks, f"4:{put('c.png', {1: (0, 0)})}"))
    segment_video(other)
    whole = toward(other, "both", "whole")
    segment_video(whole)
    assert hashes(other) == hashes(whole)
    assert not (job.output / ".state").exists()


def test_the_command_takes_a_direction(segment, job, tmp_path):
    words = (job.video, "-m", job.masks[0], "-m", job.masks[1], "-o", "cli", "-e", "none")
    assert segment(*words, "--direction", "both").exit_code == 0
    assert len(list((tmp_path / "cli" / "masks").iterdir())) == FRAMES
    assert segment(*words, "--direction", "up").exit_code == 2
    assert SegmentOptions().direction == "forward"
