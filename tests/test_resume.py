"""Runs that go on in the middle of a clip: after a kill, and after a correction."""

import json
import os
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import picture
from safetensors import safe_open
from safetensors.torch import save_file
from soak.kills import hashes

from stmcli import run
from stmcli.earlier import edited
from stmcli.errors import Interrupted, UsageError
from stmcli.given import GivenMask
from stmcli.job import Job
from stmcli.listeners import Listener
from stmcli.masks import read_values, write_labels
from stmcli.options import ExportOptions, Fit, MemoryOptions, NetworkOptions, SegmentOptions
from stmcli.pipeline import segment_video
from stmcli.segmenter import Segmenter, State, checkpoint
from stmcli.segmenter.checkpoint import Checkpoints
from stmcli.video import frame_times, open_source
from stmcli.weights import read


@pytest.fixture(scope="module")
def model(tiny_weights):
    return read(tiny_weights)[0].eval().requires_grad_(False)


@pytest.fixture(autouse=True)
def often(monkeypatch):
    monkeypatch.setattr(checkpoint, "EVERY", 3)
    monkeypatch.setattr(checkpoint, "CLOSE", 1)


@pytest.fixture
def put(tmp_path):
    """Return a function that writes a mask in which each object {id: (top, left)} is a block."""

    def write(name, objects):
        labels = np.zeros((48, 64), np.uint8)
        for number, (top, left) in objects.items():
            labels[top : top + 12, left : left + 14] = number
        write_labels(tmp_path / name, labels)
        return tmp_path / name

    return write


@pytest.fixture
def job(tmp_path, make_clip, put, tiny_weights):
    network = NetworkOptions(str(tiny_weights), "cpu", "fp32")
    masks = (put("a.png", {1: (0, 0)}), f"5:{put('b.png', {2: (20, 30)})}")
    return Job(make_clip(frames=12), masks, tmp_path / "out", network=network, memory=MemoryOptions(every=2))


@pytest.fixture
def steps(monkeypatch):
    """Return the list of calls of the network: one entry for each frame that it segments."""
    seen, plain = [], Segmenter.step
    monkeypatch.setattr(Segmenter, "step", lambda *words, **named: seen.append(1) or plain(*words, **named))
    return seen


def stop_after(number):
    def on_frame(index):
        if index == number:
            raise KeyboardInterrupt

    return on_frame


def report_of(job):
    return json.loads((job.output / "report.json").read_text())


def hidden(job):
    return sorted(path.name for path in (job.output / ".state").glob("*"))


def run_whole(job, name="whole"):
    whole = replace(job, output=job.output.parent / name, segment=replace(job.segment, keep_memory=False))
    segment_video(whole)
    return whole


def stop(job, number):
    with pytest.raises(Interrupted):
        segment_video(job, listener=Listener(frame=stop_after(number)))


# The state of a segmenter.


def predict(segmenter, clip, given, numbers):
    return [segmenter.step(clip[t], given.get(t)).prob for t in numbers]


@pytest.mark.parametrize("policy", ["first", "previous", "first+previous", "first+previous+every"])
@pytest.mark.parametrize(
    ("dtype", "after", "renew"),
    [(torch.float32, 1, 1), (torch.float32, 3, 1), (torch.float32, 4, 3), (torch.bfloat16, 6, 1)],
)
def test_a_restored_segmenter_goes_on_bit_for_bit(tiny_weights, policy, dtype, after, renew):
    model = read(tiny_weights)[0].eval().requires_grad_(False).to(dtype, memory_format=torch.channels_last)
    labels = np.zeros((50, 70), np.uint8)
    labels[5:20, 5:30], labels[25:40, 20:50] = 4, 2
    given = {0: labels, 3: np.where(labels == 2, 9, 0).astype(np.uint8)}
    clip = [np.roll(picture(t, 70, 50), t, axis=1) for t in range(9)]
    memory, fit = MemoryOptions(2, 4, policy), Fit(size=40, top_k=9, renew=renew)
    first, second, whole = (Segmenter(model, memory=memory, fit=fit) for _ in range(3))
    wanted = predict(whole, clip, given, range(9))
    predict(first, clip, given, range(after + 1))
    tensors, facts = first.state()
    second.restore(State({name: one.contiguous() for name, one in tensors.items()}, json.loads(json.dumps(facts))))
    for found, prob in zip(predict(second, clip, given, range(after + 1, 9)), wanted[after + 1 :], strict=True):
        assert torch.equal(found, prob)


# After a stop.


def test_a_stopped_run_goes_on_from_its_last_checkpoint_to_the_same_result(job, steps):
    whole = run_whole(job)
    stop(job, 7)
    assert hidden(job) == ["00000006.safetensors", "frames.jsonl"]
    steps.clear()
    heard = []
    result = segment_video(job, listener=Listener(frame=heard.append))
    assert (len(steps), heard, result.frames) == (6, [*range(12)], 12)
    assert hashes(job.output) == hashes(whole.output)
    assert not (job.output / ".state").exists()
    mine, other = report_of(job), report_of(whole)
    assert (mine["frames"], mine["frames_decoded"]) == (other["frames"], 12)
    assert mine["kept_until"] == 5
    assert "the results up to frame 5 were kept, the network went on from there" in mine["notes"]
    assert hashes(job.output, "overlay.mp4") == hashes(whole.output, "overlay.mp4")
    assert frame_times(job.output / "overlay.mp4") == frame_times(job.video)


def test_the_time_that_a_stopped_run_took_for_what_is_kept_counts(job):
    def slow(index):
        time.sleep(1.0 if index == 1 else 0.0)
        stop_after(7)(index)

    with pytest.raises(Interrupted):
        segment_video(job, listener=Listener(frame=slow))
    began = time.monotonic()
    result = segment_video(job)
    assert result.seconds > time.monotonic() - began
    assert report_of(job)["seconds"] == pytest.approx(result.seconds, abs=0.01)
    assert report_of(job)["frames_per_second"] == pytest.approx(12 / result.seconds, abs=0.01)


def test_datasets_and_stored_probabilities_are_whole_after_going_on(job, steps):
    kinds = ("cutout", "mattes", "davis", "ytvis", "mots", "overlay")
    job = replace(job, export=ExportOptions(kinds=kinds), segment=SegmentOptions(keep_soft=True))
    whole = run_whole(job)
    stop(job, 7)
    steps.clear()
    segment_video(job)
    assert len(steps) == 6
    for pattern in ("masks/*", "soft/*/*", "cutout/*", "mattes/*", "davis/**/*.*", "*.json", "*.mp4"):
        mine, other = hashes(job.output, pattern), hashes(whole.output, pattern)
        assert mine.keys() == other.keys()
        assert pattern == "*.json" or mine == other
    assert hashes(job.output, "ytvis.json") == hashes(whole.output, "ytvis.json")


def test_soft_films_are_made_from_the_first_frame_again(job, steps):
    job = replace(job, export=ExportOptions(kinds=("matte",)))
    whole = run_whole(job)
    stop(job, 7)
    steps.clear()
    segment_video(job)
    assert len(steps) == 12
    assert "begun again: with soft films" in str(report_of(job)["notes"])
    assert hashes(job.output, "matte.mp4") == hashes(whole.output, "matte.mp4")
    stop(replace(job, segment=SegmentOptions(resume=False)), 7)
    assert not hidden(job)
    segment_video(replace(job, memory=MemoryOptions(every=3), segment=SegmentOptions(overwrite=True)))
    assert "begun again" not in str(report_of(job)["notes"])  # it is another one


@pytest.mark.parametrize("how", ["no resume", "overwrite", "lost mask", "lost lines", "spoiled", "other version"])
def test_a_run_begins_again_when_it_is_asked_to_or_has_to(job, steps, monkeypatch, how):
    whole = run_whole(job)
    stop(job, 7)
    state = job.output / ".state"
    if how == "lost mask":
        (job.output / "masks" / "00002.png").unlink()
    elif how == "lost lines":
        (state / "frames.jsonl").write_text("")
    elif how == "spoiled":
        path = next(state.glob("*.safetensors"))
        path.write_bytes(path.read_bytes()[:100])
    elif how == "other version":
        monkeypatch.setattr(run, "__version__", "0.0.9")
    options = {"no resume": {"resume": False}, "overwrite": {"overwrite": True}}.get(how, {})
    steps.clear()
    segment_video(replace(job, segment=SegmentOptions(**options)))
    assert len(steps) == 12
    assert hashes(job.output) == hashes(whole.output)
    assert "begun again" not in str(report_of(job)["notes"])


@pytest.mark.parametrize("options", [{"resume": False}, {"overwrite": True}])
@pytest.mark.parametrize(("direction", "last", "count"), [("forward", 7, 12), ("backward", 1, 6), ("both", 7, 18)])
def test_a_run_that_is_to_begin_again_but_fails_before_its_first_frame_loses_nothing(
    job, steps, monkeypatch, options, direction, last, count
):
    job = replace(job, segment=SegmentOptions(direction=direction))
    whole = run_whole(job)
    stop(job, last)
    before = hashes(job.output, "**/*.*")
    assert any(".state" in name for name in before)
    again = replace(job, segment=replace(job.segment, **options))
    with monkeypatch.context() as broken:
        broken.setattr("stmcli.pipeline.make_follower", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            segment_video(again)
    assert hashes(job.output, "**/*.*") == before
    steps.clear()
    segment_video(again)
    assert len(steps) == count
    assert hashes(job.output) == hashes(whole.output)


@pytest.mark.parametrize("how", ["no resume", "overwrite", "other version"])
def test_a_run_that_began_again_goes_on_from_its_own_checkpoint(job, steps, monkeypatch, how):
    with monkeypatch.context() as older:
        if how == "other version":
            older.setattr(run, "__version__", "0.0.9")
        stop(job, 10)
    options = {"no resume": {"resume": False}, "overwrite": {"overwrite": True}}.get(how, {})
    stop(replace(job, segment=SegmentOptions(**options)), 4)
    assert hidden(job) == ["00000003.safetensors", "frames.jsonl"]
    steps.clear()
    segment_video(job)
    assert len(steps) == 9


@pytest.mark.parametrize("lost", ["soft/1/00002.png", "cutout/00002.png"])
def test_a_run_begins_again_where_an_image_beside_the_masks_is_lost(job, steps, lost):
    job = replace(job, export=ExportOptions(kinds=("cutout",)), segment=SegmentOptions(keep_soft=True))
    stop(job, 7)
    (job.output / lost).unlink()
    steps.clear()
    segment_video(job)
    assert len(steps) == 12
    assert (job.output / lost).is_file()


def test_an_interrupt_while_the_kept_frames_are_replayed_loses_nothing(job, steps):
    whole = run_whole(job)
    stop(job, 7)
    stop(job, 2)
    steps.clear()
    segment_video(job)
    assert len(steps) == 6
    assert hashes(job.output) == hashes(whole.output)
    assert report_of(job)["frames"] == report_of(whole)["frames"]


# After a correction.


def corrected(job, put, frame=8):
    return replace(job, masks=(*job.masks, f"{frame}:{put('c.png', {1: (30, 10), 3: (5, 45)})}"))


def test_a_correction_keeps_the_frames_before_it_and_computes_only_the_others(job, put, steps):
    job = replace(job, segment=SegmentOptions(keep_memory=True))
    segment_video(job)
    assert hidden(job)
    before = {path: path.stat().st_mtime_ns for path in (job.output / "masks").glob("*.png")}
    other = corrected(job, put)
    whole = run_whole(other)
    steps.clear()
    segment_video(other)
    assert len(steps) == 4
    after = {path: path.stat().st_mtime_ns for path in before}
    assert [path.stem for path in sorted(before) if before[path] == after[path]] == [f"{t:05d}" for t in range(8)]
    assert hashes(job.output) == hashes(whole.output)
    assert report_of(other)["frames"] == report_of(whole)["frames"]
    assert report_of(other)["objects"] == [1, 2, 3]
    assert segment_video(other).done_before


def test_a_correction_that_was_changed_is_made_again(job, put):
    segment_video(job)
    put("b.png", {2: (5, 30)})
    assert not segment_video(job).done_before
    assert segment_video(job).done_before


@pytest.mark.parametrize("place", ["stmcli.pipeline.make_follower", "stmcli.segmenter.Segmenter.step"])
@pytest.mark.parametrize("keep_memory", [False, True])
@pytest.mark.parametrize("direction", ["forward", "both"])
def test_a_correction_that_fails_before_its_first_frame_loses_nothing(
    job, put, monkeypatch, place, keep_memory, direction
):
    job = replace(job, segment=SegmentOptions(keep_memory=keep_memory, direction=direction))
    segment_video(job)
    before = hashes(job.output, "**/*.*")

    def fail(*_, **__):
        raise RuntimeError("no memory")

    with monkeypatch.context() as broken:
        broken.setattr(place, fail)
        with pytest.raises(RuntimeError, match="no memory"):
            segment_video(corrected(job, put))
    assert hashes(job.output, "**/*.*") == before
    assert segment_video(job).done_before


def test_a_first_run_that_fails_before_its_first_frame_leaves_nothing(job, monkeypatch):
    monkeypatch.setattr("stmcli.pipeline.make_follower", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        segment_video(job)
    assert not job.output.exists()


@pytest.mark.parametrize(
    ("kind", "how"), [("none", {"direction": "both"}), ("none", {"on_corrupt": "skip"}), ("green", {})]
)
def test_memory_that_is_asked_for_in_vain_is_noted_and_not_missed(job, kind, how):
    job = replace(job, segment=SegmentOptions(keep_memory=True, **how), export=ExportOptions((kind,)))
    said = "no memory is kept: a correction can only go on forward, without soft films and skipped frames"
    assert said in segment_video(job).notes
    again = segment_video(job)
    assert again.done_before
    assert not any("--no-resume" in note for note in again.notes)


def test_memory_that_is_no_longer_wanted_goes_and_one_that_was_not_kept_is_missed(job):
    keeping = replace(job, segment=SegmentOptions(keep_memory=True))
    segment_video(keeping)
    assert not any("--no-resume" in note for note in segment_video(keeping).notes)
    assert segment_video(job).done_before
    assert not (job.output / ".state").exists()
    said = "its memory was not kept: --no-resume segments it again, and keeps it"
    assert said in segment_video(keeping).notes


def test_the_command_of_before_a_correction_leaves_the_corrected_result(job, put, steps):
    segment_video(job)
    other = corrected(job, put)
    segment_video(other)
    before = hashes(job.output, "**/*.*")
    steps.clear()
    found = segment_video(job)
    assert found.done_before
    assert "it was corrected by masks of frame 8 too; -y makes it without them" in found.notes
    elsewhere = corrected(job, put, frame=9)
    with pytest.raises(UsageError, match=r"corrected by masks of frame 8 too\. Give these as well, or .* -y"):
        segment_video(elsewhere)
    with pytest.raises(UsageError, match="corrected by masks of frame 8 too"):
        segment_video(replace(job, segment=SegmentOptions(resume=False)))
    assert hashes(job.output, "**/*.*") == before
    assert not steps
    segment_video(replace(job, segment=SegmentOptions(overwrite=True)))
    assert hashes(job.output) == hashes(run_whole(job).output)


def edit(path):
    labels = read_values(path)
    labels[40:48, 50:60] = 1
    write_labels(path, labels)
    return labels


def test_masks_that_were_edited_are_not_replaced_when_something_else_is_missing(job):
    segment_video(job)
    labels = edit(job.output / "masks/00009.png")
    with pytest.raises(UsageError, match="edited by hand, of frame 9"):
        segment_video(replace(job, segment=SegmentOptions(resume=False)))
    (job.output / "masks/00004.png").unlink()
    with pytest.raises(UsageError, match="edited by hand, of frame 9"):
        segment_video(job)
    assert np.array_equal(read_values(job.output / "masks/00009.png"), labels)


def test_a_damaged_mask_is_not_taken_for_an_edited_one(job):
    segment_video(job)
    before = hashes(job.output)
    mask = job.output / "masks/00009.png"
    mask.write_bytes(mask.read_bytes()[:-20])
    (job.output / "masks/00004.png").unlink()
    segment_video(job)
    assert hashes(job.output) == before


@pytest.mark.parametrize("how", ["stopped", "killed"])
def test_an_edit_in_a_stopped_run_is_not_taken_for_its_own(job, how):
    stop(job, 9)
    if how == "killed":  # its report tells of no frame yet
        (job.output / "report.json").write_text(json.dumps(report_of(job) | {"status": "running", "frames": []}))
    labels = edit(job.output / "masks/00001.png")
    with pytest.raises(UsageError, match="edited by hand, of frame 1"):
        segment_video(job)
    assert np.array_equal(read_values(job.output / "masks/00001.png"), labels)


def test_an_edited_mask_that_keeps_its_date_is_seen_and_can_be_given(job, tmp_path):
    segment_video(job)
    mask = job.output / "masks/00009.png"
    date = mask.stat().st_mtime_ns
    labels = edit(mask)
    os.utime(mask, ns=(date, date))
    write_labels(tmp_path / "mine.png", labels)
    other = replace(job, masks=(*job.masks, f"10:{tmp_path / 'mine.png'}"))
    with pytest.raises(UsageError, match="edited by hand, of frame 9"):
        segment_video(other)
    given = replace(job, masks=(*job.masks, f"9:{tmp_path / 'mine.png'}"))
    assert not segment_video(given).done_before
    assert np.array_equal(read_values(mask), labels)


def test_frames_that_were_renamed_are_another_clip(job, make_folder):
    folder = make_folder([f"f.{number:04d}.png" for number in range(12)])
    job = replace(job, video=folder)
    segment_video(job)
    before = hashes(job.output)
    for path in folder.iterdir():
        path.rename(path.with_name(path.name.replace("f", "g", 1)))
    with pytest.raises(UsageError, match=r"another job \(clip differs"):
        segment_video(job)
    assert hashes(job.output) == before


def test_a_clip_is_the_same_whatever_way_leads_to_it(job, make_folder, monkeypatch):
    folder = make_folder([f"{number:04d}.png" for number in range(12)])
    segment_video(replace(job, video=folder))
    monkeypatch.chdir(folder)
    assert segment_video(replace(job, video=Path())).done_before


def test_a_correction_on_the_way_back_lies_before_the_mask_that_it_begins_with(job, put):
    job = replace(job, segment=SegmentOptions(direction="backward"))
    segment_video(job)
    early = replace(job, masks=(f"2:{put('c.png', {1: (30, 10)})}", job.masks[1]))
    early = replace(early, masks=(*early.masks, f"0:{put('a.png', {1: (0, 0)})}"))
    assert not segment_video(early).done_before
    late = replace(job, masks=(job.masks[0], f"5:{put('d.png', {2: (1, 1)})}"))
    with pytest.raises(UsageError, match=r"another job \(the mask of frame 5 differs"):
        segment_video(late)


def test_masks_that_were_edited_are_not_replaced_by_a_correction(job, put):
    segment_video(job)
    mask = job.output / "masks" / "00009.png"
    labels = read_values(mask)
    os.utime(mask)  # as by a copy: newer, but as it was
    assert edited(job.output, open_source(job.video), report_of(job)) == []
    labels[40:48, 50:60] = 1
    write_labels(mask, labels)
    before = hashes(job.output, "**/*.*")
    assert segment_video(job).done_before
    with pytest.raises(UsageError, match=r"edited by hand, of frame 9\. Copy them and give them by --mask 9:FILE"):
        segment_video(corrected(job, put))
    assert hashes(job.output, "**/*.*") == before
    assert not segment_video(replace(corrected(job, put), segment=SegmentOptions(overwrite=True))).done_before


def test_without_its_memory_a_corrected_result_is_computed_again(job, put, steps):
    segment_video(job)
    other = corrected(job, put)
    whole = run_whole(other)
    steps.clear()
    segment_video(other)
    assert len(steps) == 12
    assert hashes(job.output) == hashes(whole.output)


def test_a_changed_first_mask_or_option_is_another_job(job, put):
    segment_video(job)
    before = hashes(job.output, "**/*.*")
    first = replace(job, masks=(put("z.png", {1: (9, 9)}), job.masks[1]))
    more = replace(job, export=ExportOptions(("overlay", "coco")))
    others = {
        "the mask of frame 0 differs": first,
        "--mem-every differs": replace(corrected(job, put), memory=MemoryOptions(every=3)),
        r"--export differs\)\. More exports of it are made by stm export": more,
    }
    for words, other in others.items():
        with pytest.raises(UsageError, match=rf"holds the result of another job \({words}"):
            segment_video(other)
    assert hashes(job.output, "**/*.*") == before


def test_checkpoints_are_few_and_spread_over_the_clip(tmp_path, model, monkeypatch):
    monkeypatch.setattr(checkpoint, "MOST", 5)
    segmenter = Segmenter(model)
    labels = np.zeros((48, 64), np.uint8)
    labels[:9, :9] = 1
    segmenter.step(picture(0), labels)
    checkpoints = Checkpoints(tmp_path / "state", {}, (), keep=True)
    for count in range(1, 41):
        checkpoints.save(count - 1, segmenter.state(), [f'"{n}"' for n in range(count)])
        places = [int(path.stem) for path in sorted((tmp_path / "state").glob("*.safetensors"))]
        assert len(places) <= 5
        assert places[-1] == count
    assert max(np.diff([0, *places])) <= 16
    found = Checkpoints(tmp_path / "state", {}, ()).latest(lambda one: one.frame < 30)
    assert found.lines == tuple(f'"{n}"' for n in range(found.frame + 1))


@pytest.mark.parametrize(("keep", "wanted"), [(False, [4, 9]), (True, [3, 6, 11])])
def test_checkpoints_are_due_at_times_and_with_keep_before_given_masks_too(tmp_path, monkeypatch, keep, wanted):
    monkeypatch.setattr(checkpoint, "EVERY", 5)
    monkeypatch.setattr(checkpoint, "CLOSE", 2)
    checkpoints = Checkpoints(tmp_path, {}, [mask(1), mask(4), mask(7)], keep=keep)
    assert [frame for frame in range(12) if checkpoints.due(frame)] == wanted


def mask(frame, number=1):
    return GivenMask.pack(frame, Path("m.png"), np.full((2, 3), number, np.uint8))


def save(folder, frame, *, key="a", given=(), keep=False, lines=("one", "two", "three")):
    """Save what is known after a frame of three; return the file."""
    checkpoints = Checkpoints(folder, {"key": key}, given, keep=keep)
    checkpoints.save(frame, State({"x": torch.arange(6.0)}, {"age": frame}), lines, seconds=1.5)
    return folder / f"{len(lines):08}.safetensors"


def latest(folder, key="a", given=(), holds=lambda _: True):
    checkpoints = Checkpoints(folder, {"key": key}, given)
    found = checkpoints.latest(holds)
    checkpoints.drop()
    return found


def test_the_latest_checkpoint_is_found_as_it_was_saved(tmp_path):
    save(tmp_path, 1, lines=("four", "five"))
    save(tmp_path, 2, keep=True)
    found = latest(tmp_path)
    assert (found.frame, found.lines, found.seconds) == (2, ("one", "two", "three"), 1.5)
    assert found.state.facts == {"age": 2}
    assert torch.equal(found.state.tensors["x"], torch.arange(6.0))


def test_a_checkpoint_holds_for_the_same_run_and_the_same_masks_until_its_frame(tmp_path):
    path = save(tmp_path, 2, given=[mask(0), mask(2), mask(4)])
    assert latest(tmp_path, given=[mask(0), mask(2), mask(3), mask(4, 7)])
    kept = path.read_bytes()
    for other in (
        {"given": [mask(0, 7), mask(2)]},
        {"given": [mask(0), mask(2, 7)]},
        {"given": [mask(0), mask(1), mask(2)]},
        {"given": [mask(0), mask(2)], "key": "b"},
        {"given": [mask(0), mask(2)], "holds": lambda found: found.frame != 2},
    ):
        assert latest(tmp_path, **other) is None
        assert not path.exists()
        path.write_bytes(kept)


@pytest.mark.parametrize(
    "what", ["number", "name", "fact", "no facts", "no sum", "cut off", "empty", "line", "lines cut off", "no lines"]
)
def test_a_damaged_checkpoint_is_not_gone_on_from(tmp_path, what):
    path, lines = save(tmp_path, 2), tmp_path / "frames.jsonl"
    with safe_open(path, "pt") as file:
        x, facts = file.get_tensor("x"), file.metadata()
    if what == "number":
        save_file({"x": x + (x == 3)}, path, facts)
    elif what == "name":
        save_file({"y": x}, path, facts)
    elif what == "fact":
        save_file({"x": x}, path, {"facts": facts["facts"].replace('"frame": 2', '"frame": 1')})
    elif what == "no facts":
        save_file({"x": x}, path)
    elif what == "no sum":
        save_file({"x": x}, path, {"facts": facts["facts"].replace("sha256", "sha1")})
    elif what in ("cut off", "empty"):
        path.write_bytes(path.read_bytes()[:100] * (what == "cut off"))
    elif what == "no lines":
        lines.unlink()
    else:
        said = lines.read_text()
        lines.write_text(said.replace("two", "too") if what == "line" else said[: said.index("two") - 9])
    assert latest(tmp_path) is None
    assert not path.exists()
