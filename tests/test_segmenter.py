import json
import math
import subprocess
import sys
from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
import torch
from conftest import picture

from stmcli.model.layers import Anchor, _best, memory_read
from stmcli.options import Fit, MemoryOptions
from stmcli.segmenter import Segmenter, propagate
from stmcli.segmenter.anchors import Anchors
from stmcli.segmenter.focus import Box
from stmcli.segmenter.geometry import TIMES, Geometry, seen_as
from stmcli.segmenter.prediction import Prediction, likeliest
from stmcli.segmenter.presence import Presence
from stmcli.video import Frame
from stmcli.weights import read

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def model(tiny_weights):
    return read(tiny_weights)[0].eval().requires_grad_(False)


def frames(count=6, width=64, height=48, corrupt=()):
    for index in range(count):
        rgb = np.roll(picture(index, width, height), index, axis=1)
        yield Frame(index, Fraction(index, 25), rgb, corrupt=index in corrupt)


def given(width=64, height=48, ids=(1,), dtype=np.uint8):
    labels = np.zeros((height, width), dtype)
    for place, number in enumerate(ids):
        labels[8 * place : 8 * place + 8, : width // 4] = number
    return labels


def anchors_of(segmenter, slots):
    return segmenter.anchors.among(slots, segmenter._fitted, segmenter.cuts.scene, CPU)


def follow(model, *, labels=None, clip=None, memory=None, **fit):
    segmenter = Segmenter(model, memory=memory, fit=Fit(**fit))
    labels = given() if labels is None else labels
    return [prediction for _, prediction in propagate(segmenter, clip or frames(), labels)]


class Counted:
    """A network that counts how often each verb is asked for."""

    def __init__(self, model):
        self.model, self.memorized, self.segmented = model, 0, 0
        self.integers = model.integers

    def parameters(self):
        return self.model.parameters()

    def memorize(self, *tensors):
        self.memorized += 1
        return self.model.memorize(*tensors)

    def segment(self, *tensors, **options):
        self.segmented += 1
        return self.model.segment(*tensors, **options)


def test_frames_may_be_read_only_and_of_any_order_in_memory(model):
    strange = []
    for frame in frames():
        rgb = np.asfortranarray(frame.rgb) if frame.index % 2 else frame.rgb.copy()
        rgb.flags.writeable = False
        strange.append(Frame(frame.index, frame.time, rgb))
    for odd, usual in zip(follow(model, clip=strange), follow(model), strict=True):
        assert torch.equal(odd.prob, usual.prob)


@pytest.mark.parametrize("size", [0, 32])
@pytest.mark.parametrize("sides", [(64, 48), (67, 51), (33, 91)])
def test_results_have_the_size_of_the_source_and_probabilities_sum_to_one(model, sides, size):
    width, height = sides
    clip = frames(3, width, height)
    for prediction in follow(model, clip=clip, labels=given(width, height, ids=(1, 2)), size=size):
        assert prediction.prob.shape == (3, height, width)
        assert prediction.labels().shape == prediction.alpha().shape == (height, width)
        assert torch.allclose(prediction.prob.sum(0), torch.ones(height, width), atol=1e-5)
        assert prediction.prob.min() >= 0
        assert np.allclose(prediction.alpha(), 1 - prediction.prob[0].numpy(), atol=1e-6)


@pytest.mark.parametrize(("ids", "dtype"), [((3, 7), np.uint8), ((3, 300), np.uint16)])
def test_ids_are_kept_as_given(model, ids, dtype):
    labels = given(ids=ids, dtype=np.uint16)
    first, *rest = follow(model, labels=labels)
    assert first.object_ids == ids
    assert np.array_equal(first.labels(), labels)
    assert {prediction.labels().dtype for prediction in (first, *rest)} == {np.dtype(dtype)}
    assert all(set(np.unique(prediction.labels())) <= {0, *ids} for prediction in rest)


@pytest.mark.parametrize("ids", [(1,), (3,), (1, 2), (3, 7)])
def test_labels_follow_the_largest_probability(model, ids):
    for prediction in follow(model, labels=given(ids=ids))[1:]:
        winner = prediction.prob.argmax(0).numpy()
        assert np.array_equal(prediction.labels(), np.array([0, *ids])[winner])


def test_confidence_is_measured_and_is_the_mean_probability_where_it_is_not(model):
    given_one, *rest = follow(model, labels=given(ids=(3, 7)))
    assert given_one.confidence() == (1, 1)
    for prediction in rest:
        assert prediction.confidence() == tuple(prediction.measured.tolist())
        winner = prediction.prob.argmax(0).numpy()
        for place, sure in enumerate(Prediction(prediction.prob, (3, 7)).confidence()):
            won = prediction.prob[place + 1].numpy()[winner == place + 1]
            assert sure == pytest.approx(won.mean() if won.size else 0, abs=1e-6)


def test_void_is_never_tracked(model):
    labels = given(ids=(1, 255))
    first, second, *_ = follow(model, labels=labels)
    assert first.object_ids == (1,)
    assert np.array_equal(first.labels(), given(ids=(1,)))
    assert torch.equal(second.prob, follow(model, labels=given(ids=(1,)))[1].prob)


def test_a_small_working_size_changes_the_result_and_a_large_one_never_enlarges(model):
    as_is, small, large = (follow(model, size=size)[2].prob for size in (0, 32, 480))
    assert torch.equal(as_is, large)
    assert not torch.allclose(as_is, small, atol=1e-4)


def test_the_order_of_the_colours_matters(model):
    swapped = (Frame(f.index, f.time, f.rgb[:, :, ::-1]) for f in frames())
    assert not torch.allclose(follow(model)[3].prob, follow(model, clip=swapped)[3].prob, atol=1e-4)


def test_frames_and_labels_of_another_size_are_refused(model):
    segmenter = Segmenter(model)
    with pytest.raises(ValueError, match="first frame needs labels"):
        segmenter.step(picture(0))
    with pytest.raises(ValueError, match="labels are"):
        segmenter.step(picture(0), given(32, 48))
    segmenter.step(picture(0), given())
    with pytest.raises(ValueError, match="all frames have its size"):
        segmenter.step(picture(1, 48, 64))


@pytest.mark.parametrize(
    ("policy", "every", "renew", "calls"),
    [
        ("first", 5, 1, 1),
        ("previous", 5, 1, 11),
        ("first+previous", 5, 1, 11),
        ("first+previous+every", 5, 1, 11),
        ("first+previous+every", 0, 1, 11),
        ("previous", 5, 4, 11),
        ("first+previous+every", 5, 3, 6),  # the first, 3, 5, 6, 9, 10
    ],
)
def test_memorize_is_called_only_when_needed_and_never_for_the_last_frame(model, policy, every, renew, calls):
    counted = Counted(model)
    follow(counted, clip=frames(12), memory=MemoryOptions(every, 20, policy), renew=renew)
    assert (counted.memorized, counted.segmented) == (calls, 11)


def test_the_largest_of_many_objects_is_found_and_of_two_alike_the_first():
    prob = torch.rand(301, 6, 7, generator=torch.Generator().manual_seed(0))
    ids = tuple(range(1000, 1300))
    assert np.array_equal(likeliest(prob[0], prob[1:], ids), np.array([0, *ids])[prob.argmax(0).numpy()])
    assert likeliest(torch.full((1, 2), 0.5), torch.full((1, 1, 2), 0.5), (1,)).tolist() == [[0, 0]]


def test_memory_policies_differ_in_what_they_see(model):
    last = [
        follow(model, clip=frames(9), memory=MemoryOptions(2, 20, policy))[-1].prob
        for policy in ("first", "previous", "first+previous", "first+previous+every")
    ]
    pairs = [(a, b) for place, a in enumerate(last) for b in last[:place]]
    assert all(not torch.equal(a, b) for a, b in pairs)


def test_where_all_is_doubtful_a_gate_leaves_the_given_frame(model, monkeypatch):
    monkeypatch.setattr(Presence, "look", lambda *_: None)  # it would show nothing of what is so doubtful
    first = follow(model, memory=MemoryOptions(2, 20, "first"))
    gated = follow(model, memory=MemoryOptions(2, 20), gate=1.0)
    usual = follow(model, memory=MemoryOptions(2, 20))
    for alone, other in zip(first, gated, strict=True):  # the same frame in several slots weighs no more
        assert torch.allclose(alone.prob, other.prob, atol=1e-5)
    assert not torch.allclose(first[-1].prob, usual[-1].prob, atol=1e-4)


def test_a_corrupt_frame_repeats_the_prediction_before_it_and_is_not_remembered(model):
    clip = [*frames(6)]
    broken = [Frame(f.index, f.time, np.zeros_like(f.rgb), corrupt=f.index == 3) if f.index == 3 else f for f in clip]
    predictions = follow(model, clip=broken)
    assert len(predictions) == 6
    assert predictions[3] is predictions[2]
    without = follow(model, clip=clip[:3] + clip[4:])
    assert torch.equal(predictions[4].prob, without[3].prob)


def test_predictions_can_be_read_in_another_thread_and_outside_inference_mode(model):
    prediction = follow(model)[2]
    assert prediction.labels() is prediction.labels()
    assert (prediction.prob.clone() + 1).min() >= 1


MEMORY_SAMPLER = """
import sys
from fractions import Fraction
from pathlib import Path
import numpy as np, psutil, torch
from stmcli.options import Fit
from stmcli.segmenter.prediction import Prediction
from stmcli.segmenter import Segmenter, propagate
from stmcli.video import Frame
from stmcli.weights import read
weights, first, last = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
torch.set_num_threads(1)
still = np.random.default_rng(0).integers(0, 255, (360, 640, 3), dtype=np.uint8)
labels = np.zeros((360, 640), np.uint8)
labels[100:200, 100:200] = 1
clip = (Frame(t, Fraction(t, 25), np.roll(still, t, axis=1)) for t in range(last + 1))
segmenter = Segmenter(read(weights)[0].eval().requires_grad_(False), fit=Fit(size=16))
process, taken = psutil.Process(), []
for frame, prediction in propagate(segmenter, clip, labels):
    prediction.labels()
    taken.append(process.memory_info().rss)
print(min(taken[last - 20 : last]) - min(taken[first - 20 : first]))  # what one frame takes comes and goes
"""
TEN_FRAMES = 10 * 640 * 360 * 3


def growth(tiny_weights, first, last):
    words = [sys.executable, "-c", MEMORY_SAMPLER, str(tiny_weights), str(first), str(last)]
    return int(subprocess.run(words, capture_output=True, text=True, check=True).stdout)


def test_memory_does_not_grow_with_the_clip(tiny_weights):
    assert growth(tiny_weights, 40, 120) < TEN_FRAMES / 2  # one byte kept of each pixel would be 18 MB


@pytest.mark.long
def test_memory_grows_by_less_than_ten_frames_from_frame_200_to_frame_2000(tiny_weights):
    assert growth(tiny_weights, 200, 2000) < TEN_FRAMES


@pytest.mark.parametrize("finer", [(), (1,), (4,), (2, 3)])
@pytest.mark.parametrize("cells", [4, 9, 24, 72])
@pytest.mark.parametrize("top_k", [1, 5, 7, 23])
def test_the_best_cells_are_found_by_their_places_in_the_frame(cells, top_k, finer):
    torch.manual_seed(cells)
    match = torch.randint(-9, 10, (2, 3, 5, 72)).float()  # with many that are alike
    match[..., 3:17] = -torch.inf
    values, places = _best(match, top_k, 72 // cells, *finer)
    assert torch.equal(values.sort(3, descending=True).values, match.topk(top_k, dim=3).values)
    assert torch.equal(match.gather(3, places), values)
    assert all(len(set(row.tolist())) == top_k for row in places.flatten(0, 2))


def test_a_top_k_read_takes_only_the_best_cells_and_a_large_one_takes_all():
    generator = torch.Generator().manual_seed(0)
    query, keys, values = (
        torch.randn(shape, generator=generator) for shape in ((1, 8, 3, 4), (1, 2, 30, 8), (1, 2, 30, 5))
    )
    full = memory_read(query, keys, values)
    assert torch.equal(memory_read(query, keys, values, top_k=30), full)
    few = memory_read(query, keys, values, top_k=3)
    match = torch.einsum("cq,nlc->nql", query[0].flatten(1), keys[0]) / 8**0.5
    for item in range(2):
        for cell in range(12):
            best = match[item, cell].argsort(descending=True)[:3]
            wanted = torch.softmax(match[item, cell, best], dim=0) @ values[0, item, best]
            assert torch.allclose(few[0, item].flatten(1)[:, cell], wanted, atol=1e-6)


def test_the_full_read_equals_a_plain_einsum():
    generator = torch.Generator().manual_seed(1)
    query, keys, values = (
        torch.randn(shape, generator=generator) for shape in ((2, 8, 20, 17), (2, 3, 50, 8), (2, 3, 50, 5))
    )
    weight = torch.softmax(torch.einsum("bcyx,bnlc->bnyxl", query, keys) / 8**0.5, dim=-1)
    plain = torch.einsum("bnyxl,bnlv->bnvyx", weight, values)
    assert torch.allclose(memory_read(query, keys, values), plain, atol=1e-5)


@pytest.mark.parametrize("top_k", [0, 7])
def test_a_read_of_some_reach_takes_the_distance_off_every_match(top_k):
    generator = torch.Generator().manual_seed(2)
    shapes = ((2, 8, 20, 17), (2, 3, 2 * 340, 8), (2, 3, 2 * 340, 5))  # 340 cells: more than one chunk
    query, keys, values = (torch.randn(shape, generator=generator) for shape in shapes)
    match = torch.einsum("bcyx,bnlc->bnyxl", query, keys).unflatten(4, (2, 20, 17)) / 8**0.5
    for y in range(20):
        for x in range(17):
            away = (torch.arange(20)[:, None] - y) ** 2 + (torch.arange(17) - x) ** 2
            match[:, :, y, x] -= away / (2 * 2.5**2)
    match = match.flatten(4)
    if top_k:
        match[match < match.topk(top_k, dim=-1).values[..., -1:]] = -torch.inf
    plain = torch.einsum("bnyxl,bnlv->bnvyx", torch.softmax(match, dim=-1), values)
    assert torch.allclose(memory_read(query, keys, values, top_k=top_k, reach=2.5), plain, atol=1e-5)
    assert not torch.allclose(memory_read(query, keys, values, top_k=top_k), plain, atol=1e-3)


def test_gradients_pass_through_a_read_of_some_reach():
    generator = torch.Generator().manual_seed(3)
    shapes = ((1, 4, 2, 3), (1, 1, 6, 4), (1, 1, 6, 2))
    tensors = [torch.randn(shape, generator=generator, dtype=torch.float64, requires_grad=True) for shape in shapes]
    assert torch.autograd.gradcheck(lambda *x: memory_read(*x, reach=1.5), tensors)


def test_distances_keep_their_digits_in_half_precision() -> None:
    rng = torch.Generator().manual_seed(5)
    query = torch.zeros(1, 8, 40, 60)  # what is near decides
    keys, values = torch.zeros(1, 1, 40 * 60, 8), torch.rand((1, 1, 40 * 60, 4), generator=rng)
    exact = memory_read(query, keys, values, reach=1)
    half = memory_read(query, *(x.bfloat16() for x in (keys, values)), reach=1)
    assert (half - exact).abs().max() < 0.02, "0.4 where squares of distances are rounded to bf16"


@pytest.mark.parametrize("top_k", [0, 7])
def test_cells_of_an_anchored_slot_match_better_by_where_they_lie(top_k):
    generator = torch.Generator().manual_seed(2)
    shapes = ((1, 8, 20, 17), (1, 3, 3 * 340, 8), (1, 3, 3 * 340, 5), (20, 20), (17, 17))  # 340 cells: several chunks
    query, keys, values, rows, columns = (torch.randn(shape, generator=generator) for shape in shapes)
    match = torch.einsum("bcyx,bnlc->bnyxl", query, keys).unflatten(4, (3, 20, 17)) / 8**0.5
    match[:, :, :, :, 1] += torch.einsum("yv,xu->yxvu", rows, columns)
    match = match.flatten(4)
    if top_k:
        match[match < match.topk(top_k, dim=-1).values[..., -1:]] = -torch.inf
    plain = torch.einsum("bnyxl,bnlv->bnvyx", torch.softmax(match, dim=-1), values)
    anchors = [Anchor(1, rows, columns)]
    assert torch.allclose(memory_read(query, keys, values, top_k=top_k, anchors=anchors), plain, atol=1e-5)
    assert not torch.allclose(memory_read(query, keys, values, top_k=top_k), plain, atol=1e-3)


def test_given_frames_are_anchored_where_they_are_read_and_by_what_was_looked_at(model):
    clip = [frame.rgb for frame in frames(6)]
    segmenter = Segmenter(model, memory=MemoryOptions(every=1, max_slots=6), fit=Fit(focus=2, anchor=9))
    segmenter.step(clip[0], given())
    assert [anchor.slot for anchor in anchors_of(segmenter, [0])] == [0]
    first = segmenter._fitted
    for place, rgb in enumerate(clip[1:], 1):
        segmenter.step(rgb, given() if place == 3 else None)
    assert segmenter.bank.pinned == [0, 3]
    rows, columns = segmenter._fitted.nearness(first, device=torch.device("cpu"))
    for slots, places in (([0, 1, 2, 3], [0, 3]), ([0, 3], [0, 1])):
        anchors = anchors_of(segmenter, slots)
        assert [anchor.slot for anchor in anchors] == places
        assert torch.allclose(anchors[0].rows, math.log(9) * rows)
        assert torch.equal(anchors[0].columns, columns)
    unmoved = Anchors(1)
    unmoved.add(0, first, 0)
    assert unmoved.among([0], first, 0, CPU) == []


def test_a_frame_that_takes_the_place_of_a_given_one_is_anchored_where_it_is():
    anchors, here = Anchors(9), Geometry.fit(48, 64, 0)
    anchors.add(0, here, 0)
    anchors.add(0, here.through(Box(0, 0, 24, 32)), 1)
    assert anchors.among([0], here, 0, CPU) == []
    (anchor,) = anchors.among([0], here, 1, CPU)
    assert anchor.rows[0, 0] > anchor.rows[0, -1] > anchor.rows[-1, 0]


def test_another_scene_is_not_anchored_in_the_one_before(model):
    dark, bright = np.full((48, 64, 3), 10, np.uint8), np.full((48, 64, 3), 240, np.uint8)
    segmenter = Segmenter(model, fit=Fit(anchor=9))
    segmenter.step(dark, given())
    segmenter.step(dark)
    assert len(anchors_of(segmenter, [0])) == 1
    assert segmenter.step(bright).cut
    assert anchors_of(segmenter, [0]) == []
    segmenter.step(bright, given())
    assert len(anchors_of(segmenter, [*range(segmenter.bank.slots)])) == 1


def test_a_frame_is_memorized_in_other_ways_where_objects_enter_and_there_is_room(model):
    """Mirrored and at other sizes, with its masks; a correction is not, and half of the memory is for other frames."""
    ways = ("flip", "scale")
    segmenter = Segmenter(model, memory=MemoryOptions(max_slots=24), fit=Fit(anchor=9, augment=ways))
    rgb, labels = next(frames(1)).rgb, given()
    segmenter.step(rgb, labels)
    assert segmenter.bank.pinned == [*range(10)]
    turned = Segmenter(model)
    turned.step(np.ascontiguousarray(rgb[:, ::-1]), np.ascontiguousarray(labels[:, ::-1]))
    cells = turned.bank.read()[1].shape[2]
    mirrored = segmenter.bank.read()[1][:, :, cells : 2 * cells]  # behind the frame as it is
    assert torch.allclose(mirrored, turned.bank.read()[1], atol=1e-5)
    assert [anchor.slot for anchor in anchors_of(segmenter, [*range(10)])] == [0]
    segmenter.step(rgb, labels)
    assert segmenter.bank.pinned == [*range(11)]
    more = labels.copy()
    more[-4:, -4:] = 7
    segmenter.step(rgb, more)  # of a new object; but for its views there is no room
    assert segmenter.bank.pinned == [*range(12)]
    for memory in (MemoryOptions(max_slots=18), MemoryOptions(policy="previous")):
        small = Segmenter(model, memory=memory, fit=Fit(augment=ways))
        small.step(rgb, labels)
        assert small.bank.slots == 1


@pytest.mark.parametrize("times", TIMES)
def test_a_resized_view_is_what_lies_around_the_middle_and_has_no_edges(times):
    y, x = torch.meshgrid(torch.arange(48.0), torch.arange(64.0), indexing="ij")
    frame = torch.stack([y, x, x + y])[None]
    masks = (y > 23.5).float()[None, None]
    seen, mask = (seen_as(x, times, mirrored=False) for x in (frame, masks))
    assert seen.shape == frame.shape
    assert torch.allclose(seen[0, 0, 20:28], 23.5 + (y[20:28] - 23.5) / times, atol=1e-3)
    assert torch.equal(mask[0, 0] > 0.5, y > 23.5)
    assert seen[0, 2].min() >= 0
    column = 31.5 - 31.5 / times
    assert float(seen[0, 1, 0, 0]) == pytest.approx(column if column > 0 else -1 - column, abs=0.01)  # mirrored there


@pytest.mark.parametrize(
    ("switch", "off", "on"), [("reach", 0, 0.5), ("anchor", 1, 100), ("augment", (), ("flip",)), ("gate", 0, 1)]
)
def test_a_switch_is_off_by_default_and_changes_what_is_read(model, switch, off, on):
    clip = [frame.rgb for frame in frames(3)]

    def last(**options):
        segmenter = Segmenter(model, fit=Fit(**options))
        segmenter.step(clip[0], given())
        return [segmenter.step(rgb).prob for rgb in clip[1:]][-1]

    assert torch.equal(last(), last(**{switch: off}))
    assert not torch.equal(last(), last(**{switch: on}))


def test_a_segmenter_that_goes_on_from_a_state_has_all_of_it(model):
    options = {
        "memory": MemoryOptions(every=2, max_slots=4, keep="useful"),
        "fit": Fit(gate=0.3, anchor=9.0, focus=2.0),
    }
    one, other = (Segmenter(model, **options) for _ in range(2))
    black, grey = np.zeros_like(picture(0)), np.full_like(picture(0), 9)
    scenes = [picture(0), picture(0), black, picture(0), picture(1), grey]
    for t, rgb in enumerate(scenes):
        one.step(rgb, {0: given(), 2: given(), 4: given(ids=(1, 2))}.get(t))
    assert one.cuts.left
    state = one.state()
    other.restore(state._replace(facts=json.loads(json.dumps(state.facts))))
    again = other.state()
    assert json.dumps(again.facts) == json.dumps(state.facts)
    assert again.tensors.keys() == state.tensors.keys()
    same = [np.array_equal(again.tensors[name], x, equal_nan=True) for name, x in state.tensors.items()]
    assert all(same)


def test_a_scene_that_comes_back_reads_what_it_left_in_memory(model):
    segmenter, alone = Segmenter(model, fit=Fit(size=48)), []
    scenes = [picture(0), picture(0), np.zeros((48, 64, 3), np.uint8), np.zeros((48, 64, 3), np.uint8), picture(0)]
    read = segmenter.bank.read
    segmenter.bank.read = lambda **how: alone.append(how["given_only"]) or read(**how)
    found = [segmenter.step(rgb, None if t else given()) for t, rgb in enumerate(scenes)]
    assert [prediction.cut for prediction in found] == [False, False, True, False, True]
    assert alone == [False, True, False, False]


def test_a_scene_that_comes_back_is_looked_at_where_it_was_left(model):
    segmenter, black = Segmenter(model, fit=Fit(size=48, focus=1.5)), np.zeros((48, 64, 3), np.uint8)
    for t, rgb in enumerate([picture(0), picture(0)]):
        segmenter.step(rgb, None if t else given())
    there = {"window": Box(4, 8, 24, 32), "length": 0.3, "seen": Box(8, 12, 12, 14), "count": 1, "most": 2}
    segmenter._aimed.restore(there)
    segmenter.step(black)
    assert segmenter._aimed.window == (0, 0, 48, 64)
    aim, seen = segmenter._aimed.aim, []
    segmenter._aimed.aim = lambda *labels, **how: seen.append(segmenter._aimed.state()) or aim(*labels, **how)
    segmenter.step(picture(0))
    assert seen == [there]


def test_a_frame_that_is_given_counts_for_which_are_kept(model):
    segmenter, written = Segmenter(model), []
    segmenter.bank.write = lambda *_, age: written.append(age)
    for frame in frames(6):
        segmenter.step(frame.rgb, given() if frame.index in (0, 2) else None)
    assert written == [1, 3, 4]


def test_what_is_revised_is_remembered_with_the_confidence_it_has_now(model):
    segmenter = Segmenter(model, fit=Fit(gate=0.5))
    clip = [frame.rgb for frame in frames(3)]
    segmenter.step(clip[0], given())
    prediction, seen = segmenter.step(clip[1]), []
    segmenter.revise(replace(prediction, measured=None))  # it was given: what is known stays
    segmenter.revise(replace(prediction, measured=torch.tensor([0.25])))
    segmenter.gate.admit = lambda key, value, confidence: seen.append(confidence.tolist()) or (key, value)
    segmenter.step(clip[2])
    assert seen == [[0.25]]


def test_of_scenes_that_are_forgotten_nothing_is_kept(model):
    segmenter = Segmenter(model, fit=Fit(size=48))
    for t in range(24):
        segmenter.step(np.full((48, 64, 3), t // 2 * 20, np.uint8), None if t else given())
    assert 0 < len(segmenter._left) == len(segmenter.cuts.left) < segmenter.cuts.scene


def test_a_correction_is_memorized_in_one_way(model):
    segmenter = Segmenter(model, memory=MemoryOptions(max_slots=12), fit=Fit(size=48, augment=("flip",)))
    counts = []
    for frame in frames(3):
        segmenter.step(frame.rgb, None if frame.index == 1 else given())
        counts.append(len(segmenter.bank.pinned))
    assert counts == [2, 2, 3]


def test_what_is_void_in_a_given_mask_is_background(model):
    labels = given()
    labels[30:] = 255
    prob = Segmenter(model, fit=Fit(size=48)).step(picture(0), labels).prob
    assert torch.equal(prob[0], torch.from_numpy(labels != 1).float())


def test_every_frame_tells_how_useful_those_in_memory_are(model):
    segmenter, asked = Segmenter(model, memory=MemoryOptions(keep="useful"), fit=Fit(size=48)), []
    segmenter.bank.weigh = lambda query: asked.append(query.shape)
    for frame in frames(3):
        segmenter.step(frame.rgb, None if frame.index else given())
    assert len(asked) == 2
