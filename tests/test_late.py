"""Masks of later frames: objects that enter late, and corrections."""

import json
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import picture

from stmcli.given import GivenMask
from stmcli.job import Job, plan
from stmcli.masks import read_values, write_labels
from stmcli.model.layers import memory_read
from stmcli.options import ExportOptions, MemoryOptions, NetworkOptions, SegmentOptions
from stmcli.pipeline import segment_dataset, segment_video
from stmcli.segmenter import Segmenter, propagate
from stmcli.video import Frame
from stmcli.weights import read

PLACES = {1: (0, 0), 2: (16, 20), 3: (32, 40), 300: (24, 4)}


@pytest.fixture(scope="module")
def model(tiny_weights):
    return read(tiny_weights)[0].eval().requires_grad_(False)


def frames(count=8):
    return [Frame(t, Fraction(t, 25), np.roll(picture(t), t, axis=1)) for t in range(count)]


def blocks(*ids, shift=0):
    """A block for each id, at a place of its own."""
    labels = np.zeros((48, 64), np.uint16 if max(ids, default=0) > 255 else np.uint8)
    for number in ids:
        top, left = PLACES[number]
        labels[top : top + 12, left + shift : left + shift + 14] = number
    return labels


def mask(frame, *ids, whole=False, shift=0):
    return replace(GivenMask.pack(frame, Path("m.png"), blocks(*ids, shift=shift)), whole=whole)


def follow(model, first, *later, clip=None, memory=None):
    segmenter = Segmenter(model, memory=memory)
    return [p for _, p in propagate(segmenter, clip or frames(), blocks(*first), later=later)], segmenter


def entry_of(model, frame, labels, ids):
    """What a given frame leaves in memory, computed without a Segmenter."""
    rgb = torch.from_numpy(frame.rgb.copy()).permute(2, 0, 1)[None] / 255
    masks = torch.stack([torch.from_numpy((labels == number).astype(np.float32)) for number in ids])[None]
    with torch.inference_mode():
        return model.memorize(rgb.to(memory_format=torch.channels_last), masks)


def test_an_object_that_enters_late_is_absent_before_and_known_after(model):
    plain, _ = follow(model, (1,))
    found, _ = follow(model, (1,), mask(4, 2, 300))
    for t, (alone, prediction) in enumerate(zip(plain, found, strict=True)):
        assert prediction.object_ids == (1, 2, 300)
        if t < 4:
            assert torch.equal(prediction.prob[:2], alone.prob)
            assert not prediction.prob[2:].any()
            assert prediction.confidence()[1:] == (0, 0)
        else:
            assert (prediction.prob[2:].amax((1, 2)) > 0.1).all()
        assert prediction.prob.sum(0).allclose(torch.ones(48, 64), atol=1e-5)
    assert np.array_equal(np.isin(found[4].labels(), (2, 300)), blocks(2, 300) > 0)


def test_channels_are_sorted_by_id_whatever_enters_first(model):
    found, segmenter = follow(model, (3,), mask(2, 1))
    assert segmenter.object_ids == (3, 1)
    assert {prediction.object_ids for prediction in found} == {(1, 3)}
    assert np.array_equal(found[0].labels(), blocks(3))
    assert np.array_equal(found[2].labels() == 1, blocks(1) == 1)


def test_a_known_object_that_a_later_mask_lacks_is_segmented_where_nothing_is_given(model):
    plain, _ = follow(model, (1,))
    found, _ = follow(model, (1,), mask(4, 2))
    free = torch.from_numpy(blocks(2) == 0)
    assert torch.allclose(found[4].prob[:2, free], plain[4].prob[:, free], atol=1e-6)
    assert torch.equal(found[4].prob[2], (~free).float())
    assert not found[4].prob[:2, ~free].any()
    assert [prediction.given for prediction in found[:5]] == [(1, 2), (), (), (), (2,)]


def test_what_a_given_id_loses_goes_to_the_others_in_proportion(model):
    plain, _ = follow(model, (1, 2))
    found, _ = follow(model, (1, 2), mask(4, 2))
    free = torch.from_numpy(blocks(2) == 0)
    others = plain[4].prob[:2, free]
    assert torch.allclose(found[4].prob[:2, free], others / others.sum(0), atol=1e-5)


def test_what_a_mask_takes_from_an_object_that_is_all_there_is_is_background(model, monkeypatch):
    segmenter = Segmenter(model)
    first, second, *_ = frames()
    segmenter.step(first.rgb, blocks(1, 2))
    found = segmenter._segment

    def sure(*words):
        prob = torch.zeros_like(found(*words).prob)
        prob[:, 2] = 1  # of object 2, everywhere
        return found(*words)._replace(prob=prob)

    monkeypatch.setattr(segmenter, "_segment", sure)
    prediction = segmenter.step(second.rgb, blocks(2))
    assert prediction.prob.sum(0).allclose(torch.ones(48, 64))
    assert np.array_equal(prediction.prob[0].numpy(), blocks(2) == 0)


@pytest.mark.parametrize("second", [2, 1])
def test_only_an_object_that_is_given_is_compared_with_what_it_is_from_there_on(model, second):
    segmenter, looks = Segmenter(model), []
    for t, frame in enumerate(frames(5)):
        segmenter.step(frame.rgb, {0: blocks(1), 3: blocks(second)}.get(t))
        looks.append(segmenter.gauge.state().get("looks"))
    assert torch.equal(looks[4][:, 0], looks[2][:, 0]) == (second == 2)


def test_a_correction_is_the_truth_and_later_frames_follow_it(model):
    plain, _ = follow(model, (1, 2))
    found, _ = follow(model, (1, 2), mask(4, 1, 2, shift=5))
    assert all(torch.equal(a.prob, b.prob) for a, b in zip(plain[:4], found[:4], strict=True))
    assert np.array_equal(found[4].labels(), blocks(1, 2, shift=5))
    assert found[4].confidence() == (1, 1)
    assert not torch.allclose(found[6].prob, plain[6].prob, atol=1e-4)


def test_a_correction_is_what_a_clip_that_begins_there_would_remember(model):
    clip = frames()
    _, segmenter = follow(model, (1, 2), mask(4, 1, 2, shift=5), clip=clip[:5])
    again, fresh = follow(model, (1, 2), clip=[Frame(4, Fraction(4), clip[4].rgb)])
    assert again
    wanted = entry_of(model, clip[4], blocks(1, 2, shift=5), (1, 2))
    keys, values, valid = segmenter.bank.read()
    cells = keys.shape[2] // segmenter.bank.slots
    slot = segmenter.bank.pinned[-1]
    assert valid is None
    assert torch.allclose(keys[:, :, slot * cells : (slot + 1) * cells], wanted[0], atol=1e-6)
    assert torch.allclose(values[:, :, slot * cells : (slot + 1) * cells], wanted[1], atol=1e-6)
    assert fresh.bank.slots == 1
    previous, _ = follow(model, (1, 2), mask(4, 1, 2, shift=5), memory=MemoryOptions(policy="previous"))
    started = list(propagate(Segmenter(model), clip[4:6], blocks(1, 2, shift=5)))
    assert torch.equal(previous[5].prob, started[1][1].prob)


def test_an_object_that_a_whole_mask_lacks_has_no_pixel_there(model):
    found, _ = follow(model, (1, 2), mask(4, 1, whole=True))
    assert np.array_equal(found[4].labels(), blocks(1))
    assert not found[4].prob[2].any()


def test_a_mask_of_a_frame_that_could_not_be_decoded_is_taken(model):
    clip = [replace(frame, corrupt=frame.index == 4) for frame in frames()]
    found, _ = follow(model, (1,), mask(4, 1, 2, shift=2), clip=clip)
    assert np.array_equal(found[4].labels(), blocks(1, 2, shift=2))


def test_a_late_object_reads_nothing_from_before_it_was_there(model):
    found, segmenter = follow(model, (1,), mask(4, 2), clip=frames(6), memory=MemoryOptions(every=2))
    keys, values, valid = segmenter.bank.read()
    assert valid[0].all()
    assert not valid[1].all()
    query = torch.randn(1, keys.shape[3], 3, 4, generator=torch.Generator().manual_seed(0))
    read_all = memory_read(query, keys, values, valid)
    own = memory_read(query, keys[:, 1:, valid[1]], values[:, 1:, valid[1]])
    assert torch.allclose(read_all[:, 1:], own, atol=1e-6)
    few = memory_read(query, keys, values, valid, top_k=5)
    assert torch.allclose(few[:, 1:], memory_read(query, keys[:, 1:, valid[1]], values[:, 1:, valid[1]], top_k=5))
    assert torch.isfinite(found[5].prob).all()


@pytest.mark.parametrize("policy", ["first", "previous", "first+previous", "first+previous+every"])
@pytest.mark.parametrize("slots", [2, 3, 5])
def test_any_number_of_masks_fits_any_memory(model, policy, slots):
    later = [mask(t, *ids) for t, ids in ((1, (2,)), (2, (1, 3)), (3, (1,)), (5, (2, 3)), (6, (300,)))]
    found, segmenter = follow(model, (1,), *later, memory=MemoryOptions(2, slots, policy))
    assert segmenter.bank.slots <= slots
    for given in later:
        for number in given.ids:
            assert np.array_equal(found[given.frame].labels() == number, blocks(*given.ids) == number)
    assert all(torch.isfinite(prediction.prob).all() for prediction in found)


# The whole command.


@pytest.fixture
def put(tmp_path):
    def write(name, *ids, shift=0):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        write_labels(path, blocks(*ids, shift=shift))
        return path

    return write


@pytest.fixture
def job(tmp_path, make_clip, put, tiny_weights):
    network = NetworkOptions(str(tiny_weights), "cpu", "fp32")
    masks = (put("a.png", 1), f"3:{put('b.png', 2)}", f"5:{put('c.png', 1, shift=3)}")
    return Job(make_clip(frames=8), masks, tmp_path / "out", network=network, export=ExportOptions(kinds=("none",)))


def masks_of(folder):
    return [read_values(path) for path in sorted((folder / "masks").glob("*.png"))]


def report_of(job):
    return json.loads((job.output / "report.json").read_text())


def test_the_masks_and_the_report_show_late_objects_and_corrections(job):
    segment_video(job)
    masks, report = masks_of(job.output), report_of(job)
    assert not any((labels == 2).any() for labels in masks[:3])
    assert np.array_equal(masks[3] == 2, blocks(2) == 2)
    assert np.array_equal(masks[5] == 1, blocks(1, shift=3) == 1)
    assert report["objects"] == [1, 2]
    assert [sorted(frame["objects"]) for frame in report["frames"]] == [["1", "2"]] * 8
    assert [frame["objects"]["2"]["area"] for frame in report["frames"][:4]] == [0, 0, 0, 12 * 14]
    assert [mask["frame"] for mask in report["masks"]] == [0, 3, 5]
    assert not [note for note in report["notes"] if "not used" in note]


def test_every_export_takes_objects_that_enter_late(job):
    kinds = ("overlay", "alpha", "davis", "ytvis", "coco", "mots")
    segment_video(replace(job, export=ExportOptions(kinds=kinds, per_object=True)))
    names = {path.name for path in job.output.iterdir()}
    assert {"overlay.mp4", "alpha-1.mov", "alpha-2.mov", "davis", "ytvis.json", "coco.json", "mots.zip"} <= names
    assert len(list((job.output / "soft" / "2").glob("*.png"))) == 8
    tracks = json.loads((job.output / "ytvis.json").read_text())["annotations"]
    (late,) = [track for track in tracks if track["id"] == 2]
    assert [area is None for area in late["areas"][:4]] == [True, True, True, False]


def test_more_masks_than_slots_are_noted(job):
    segment_video(replace(job, memory=MemoryOptions(max_slots=3)))
    assert "3 masks are given; the memory holds the first and the latest 2 in all" in report_of(job)["notes"]
    assert np.array_equal(masks_of(job.output)[5] == 1, blocks(1, shift=3) == 1)
    forgetful = replace(job, memory=MemoryOptions(policy="previous"), segment=replace(job.segment, overwrite=True))
    assert not any("the memory holds" in note for note in plan(forgetful)["notes"])


def test_a_mask_folder_shows_whole_frames_unless_only_new_objects_are_in_it(job, put):
    for frame, ids in {0: (1, 2), 2: (1,), 4: (), 6: (3,)}.items():
        folder = put(f"all/{frame}.png", *ids).parent
    segment_video(replace(job, masks=(folder,)))
    masks = masks_of(job.output)
    assert np.array_equal(masks[2], blocks(1))
    assert not masks[4].any()
    assert np.array_equal(masks[6] == 3, blocks(3) == 3)


def test_without_corrections_masks_only_bring_new_objects(job, put):
    for frame, ids in {0: (1,), 2: (1, 2), 4: (1,), 6: ()}.items():
        folder = put(f"all/{frame}.png", *ids, shift=frame).parent
    segment_video(replace(job, masks=(folder,), segment=SegmentOptions(corrections=False)))
    assert [(one["frame"], one["ids"]) for one in report_of(job)["masks"]] == [(0, [1]), (2, [2])]
    masks = masks_of(job.output)
    segment_video(replace(job, masks=(put("a.png", 1), f"2:{put('n.png', 2, shift=2)}"), output=job.output / "words"))
    assert all(np.array_equal(a, b) for a, b in zip(masks, masks_of(job.output / "words"), strict=True))


@pytest.mark.parametrize(("protocol", "there"), [("ytvos", {1, 2}), ("davis2017", {1})])
def test_a_dataset_gives_late_objects_only_where_its_protocol_does(tmp_path, job, put, make_folder, protocol, there):
    frames_of = tmp_path / "set" / "JPEGImages" / "a"
    frames_of.parent.mkdir(parents=True)
    make_folder([f"{t:05d}.png" for t in range(6)]).rename(frames_of)
    for frame in range(6):
        put(f"set/Annotations/a/{frame:05d}.png", *((1, 2) if frame >= 3 else (1,)), shift=frame)
    out = segment_dataset(
        tmp_path / "set", tmp_path / "found", protocol=protocol, network=job.network, memory=job.memory
    )
    masks = masks_of(out / "a")
    assert {int(value) for labels in masks for value in np.unique(labels) if value} <= there
    assert not np.array_equal(masks[3] == 1, blocks(1, shift=3) == 1)  # not corrected
    if protocol == "ytvos":
        assert np.array_equal(masks[3] == 2, blocks(2, shift=3) == 2)
