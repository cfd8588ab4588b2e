"""Scene cuts are found, and only they: what they change is tested with a network."""

import json
from fractions import Fraction

import numpy as np
import pytest
import torch
from conftest import picture

from stmcli.options import Fit, MemoryOptions
from stmcli.segmenter import Segmenter, propagate
from stmcli.segmenter.cuts import SCENES, CutDetector
from stmcli.video import Frame
from stmcli.weights import read


def scene(seed, height=72, width=96):
    """A picture of smooth blobs whose colours belong to this scene."""
    rng = np.random.default_rng(seed)
    small = rng.integers(0, 256, (3, 4, 3)).astype(np.uint8)
    return small.repeat(height // 3, axis=0).repeat(width // 4, axis=1)


def cuts(pictures):
    detector = CutDetector()
    return [index for index, rgb in enumerate(pictures) if detector.is_cut(rgb)]


def test_a_cut_is_found_at_its_frame_and_nowhere_else():
    one, two = scene(1), scene(2)
    clip = [np.roll(one, 2 * t, axis=1) for t in range(6)] + [np.roll(two, t, axis=1) for t in range(6)]
    assert cuts(clip) == [6]
    assert cuts(clip + clip[:6]) == [6, 12]


def test_a_scene_that_comes_back_has_its_number_again():
    detector, scenes = CutDetector(), []
    for t, seed in enumerate([1, 1, 2, 2, 1, 3, 2, 1, 1]):
        detector.is_cut(np.roll(scene(seed), t, axis=1))
        scenes.append(detector.scene)
    assert scenes == [0, 0, 1, 1, 0, 2, 1, 0, 0]


def test_a_scene_that_is_only_a_little_like_one_before_is_a_new_one():
    detector, scenes = CutDetector(), []
    for white in [0, *[25] * 12, 10, 0]:  # percent of the picture
        detector.is_cut(np.repeat(np.arange(100) < white, 300).reshape(100, 100, 3).astype(np.uint8) * 255)
        scenes.append(detector.scene)
    assert scenes == [0, *[1] * 12, 2, 2]


def test_of_many_scenes_only_the_latest_are_known_again():
    detector, scenes = CutDetector(), []
    for seed in [*range(SCENES + 2), 0, SCENES + 1]:
        for _ in range(12):
            detector.is_cut(scene(seed))
        scenes.append(detector.scene)
    assert scenes == [*range(SCENES + 3), SCENES + 1]
    assert len(detector.left) == SCENES


def test_motion_noise_and_slow_light_are_no_cuts():
    rng = np.random.default_rng(0)
    still = scene(3).astype(float)
    fade = [np.clip(still * (1 - 0.02 * t) + rng.normal(0, 4, still.shape), 0, 255).astype(np.uint8) for t in range(20)]
    assert cuts(fade) == []
    assert cuts([np.roll(scene(3), 9 * t, axis=1) for t in range(20)]) == []


def test_a_clip_that_always_flickers_has_no_cut_after_it_is_known_to():
    clip = [scene(4 + t % 2) for t in range(12)]
    assert len(cuts(clip)) < 3


class Deaf:
    """A detector that finds nothing."""

    scene = 0

    def is_cut(self, _):
        return False


@pytest.fixture(scope="module")
def model(tiny_weights):
    return read(tiny_weights)[0].eval().requires_grad_(False)


def follow(model, pictures, *, deaf=False):
    segmenter = Segmenter(model)
    if deaf:
        segmenter.cuts = Deaf()
    labels = np.zeros(pictures[0].shape[:2], np.uint8)
    labels[:20, :20] = 1
    frames = [Frame(index, Fraction(index, 25), rgb) for index, rgb in enumerate(pictures)]
    return [prediction for _, prediction in propagate(segmenter, frames, labels)]


def test_without_a_cut_every_probability_stays_as_it_was(model):
    clip = [np.roll(picture(t, 96, 72), t, axis=1) for t in range(8)]
    heard, deaf = follow(model, clip), follow(model, clip, deaf=True)
    assert not any(prediction.cut for prediction in heard)
    assert all(torch.equal(a.prob, b.prob) for a, b in zip(heard, deaf, strict=True))


def test_at_a_cut_only_the_given_frame_is_read(model):
    one, two = scene(1), scene(2)
    clip = [*(np.roll(one, t, axis=1) for t in range(7)), two, two]
    predictions = follow(model, clip)
    assert [prediction.cut for prediction in predictions] == [False] * 7 + [True, False]
    alone = follow(model, [one, two])[1]  # the given frame, and nothing else, is in memory
    assert torch.equal(predictions[7].prob, alone.prob)
    assert not torch.equal(follow(model, clip, deaf=True)[7].prob, alone.prob)


def test_the_frame_before_a_cut_is_not_remembered(model, monkeypatch):
    segmenter, written = Segmenter(model), []
    monkeypatch.setattr(segmenter.bank, "write", lambda *_, age: written.append(age))
    for t, seed in enumerate([1, 1, 1, 2, 2]):
        segmenter.step(scene(seed), None if t else mask(1, 4))
    assert written == [1, 3]


@pytest.mark.parametrize("between", [np.zeros((72, 96, 3), np.uint8), np.full((72, 96, 3), 255, np.uint8), scene(2)])
@pytest.mark.parametrize("count", [1, 3])
def test_a_scene_that_comes_back_is_followed_as_if_nothing_had_been_between(model, between, count):
    clip, fit = [scene(1)] * 4, Fit(focus=2.0, anchor=100.0)
    plain, broken = (Segmenter(model, memory=MemoryOptions(policy="first"), fit=fit) for _ in range(2))
    expected = [plain.step(rgb, None if t else mask(1, 4)) for t, rgb in enumerate(clip)]
    for t, rgb in enumerate([*clip[:2], *[between] * count]):
        broken.step(rgb, None if t else mask(1, 4))
    resumed = Segmenter(model, memory=MemoryOptions(policy="first"), fit=fit)
    state = broken.state()
    resumed.restore(state._replace(facts=json.loads(json.dumps(state.facts))))
    for follower in (broken, resumed):
        found = [follower.step(rgb) for rgb in clip[2:]]
        assert all(torch.equal(a.prob, b.prob) for a, b in zip(found, expected[2:], strict=True))


@pytest.mark.parametrize("policy", ["first", "previous", "first+previous", "first+previous+every"])
def test_at_a_cut_an_object_that_no_given_frame_in_memory_knows_reads_what_there_is(model, policy):
    one, two = scene(1), scene(2)
    segmenter = Segmenter(model, memory=MemoryOptions(max_slots=2, policy=policy))
    given = {0: mask(1, 4), 2: mask(2, 40)}
    found = [segmenter.step(rgb, given.get(t)) for t, rgb in enumerate([one, one, one, one, two, two])]
    assert [prediction.cut for prediction in found] == [False] * 4 + [True, False]
    assert all(torch.isfinite(prediction.prob).all() for prediction in found)


def mask(number, left):
    labels = np.zeros((72, 96), np.uint8)
    labels[20:50, left : left + 30] = number
    return labels
