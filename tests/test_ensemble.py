from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import picture

from stmcli.options import Fit, MemoryOptions, NetworkOptions
from stmcli.segmenter import Segmenter
from stmcli.segmenter.ensemble import ZOOMS, Ensemble, View, make_follower
from stmcli.segmenter.geometry import Geometry
from stmcli.weights import read


@pytest.fixture(scope="module")
def model(tiny_weights):
    return read(tiny_weights)[0].eval().requires_grad_(False)


@pytest.fixture(scope="module")
def network(tiny_weights):
    return NetworkOptions(str(tiny_weights), "cpu", "fp32")


CLIP = [np.roll(picture(index, 67, 51), 3 * index, axis=1) for index in range(5)]


def labels(ids=(3, 7)):
    given = np.zeros((51, 67), np.uint8)
    for place, number in enumerate(ids):
        given[9 * place : 9 * place + 9, :20] = number
    return given


def follow(follower, clip=CLIP, given=None):
    first = labels() if given is None else given
    return [follower.step(rgb, first if index == 0 else None) for index, rgb in enumerate(clip)]


def mirrored(pictures):
    return [rgb[:, ::-1] for rgb in pictures]


def test_without_views_it_is_one_segmenter_to_the_bit(model, network):
    follower = make_follower(model, network, MemoryOptions(every=2))
    assert isinstance(follower, Segmenter)
    plain = Segmenter(model, memory=MemoryOptions(every=2), fit=Fit(size=48))
    for ours, theirs in zip(follow(follower), follow(plain), strict=True):
        assert torch.equal(ours.prob, theirs.prob)


@pytest.mark.parametrize(("tta", "views"), [(("flip",), 2), (("scale",), 3), (("flip", "scale"), 6)])
def test_views_agree_on_probabilities_of_source_size_and_keep_ids(model, network, tta, views):
    follower = make_follower(model, replace(network, tta=tta))
    assert len(follower.views) == views
    plain = follow(make_follower(model, network))
    first, *rest = follow(follower)
    assert torch.equal(first.prob, plain[0].prob)
    assert np.array_equal(first.labels(), labels())
    for prediction, other in zip(rest, plain[1:], strict=True):
        assert prediction.object_ids == (3, 7)
        assert prediction.prob.shape == (3, 51, 67)
        assert torch.allclose(prediction.prob.sum(0), torch.ones(51, 67), atol=1e-5)
        assert not torch.allclose(prediction.prob, other.prob, atol=1e-5)


def test_a_mirrored_clip_gives_the_mirrored_result(model, network):
    flipping = replace(network, tta=("flip",))
    usual = follow(make_follower(model, flipping))
    turned = follow(make_follower(model, flipping), mirrored(CLIP), labels()[:, ::-1])
    for a, b in zip(usual, turned, strict=True):
        assert torch.allclose(a.prob, b.prob.flip(-1), atol=1e-6)
    plain = follow(make_follower(model, network), mirrored(CLIP), labels()[:, ::-1])
    assert not torch.allclose(plain[-1].prob.flip(-1), follow(make_follower(model, network))[-1].prob, atol=1e-5)


def test_a_mask_of_all_of_a_frame_tells_every_view_what_is_absent(model, network):
    follower = make_follower(model, replace(network, tta=("flip",)))
    follower.step(CLIP[0], labels())
    found = follower.step(CLIP[1], labels((3,)), whole=True)
    assert np.array_equal(found.labels(), labels((3,)))
    assert not found.prob[2].any()


def test_every_view_has_a_channel_for_an_object_that_is_to_come(model, network):
    follower = make_follower(model, replace(network, tta=("flip",)))
    follower.expected = (3, 7)
    found = follow(follower, given=labels((3,)))
    assert (follower.expected, follower.object_ids) == ((3, 7), (3,))
    assert all(prediction.object_ids == (3, 7) and not prediction.prob[2].any() for prediction in found)


def test_all_views_go_on_from_a_state_to_the_bit_and_forget_a_clip(model, network):
    first, second = (make_follower(model, replace(network, tta=("flip",))) for _ in range(2))
    wanted = [prediction.prob for prediction in follow(first)]
    follow(second, CLIP[:3])
    first.restore(second.state())
    assert all(torch.equal(first.step(rgb).prob, prob) for rgb, prob in zip(CLIP[3:], wanted[3:], strict=True))
    first.reset()
    assert first.object_ids == ()
    assert all(torch.equal(found.prob, prob) for found, prob in zip(follow(first), wanted, strict=True))


def test_each_view_remembers_the_mean_of_all(model):
    views = [View(Segmenter(model, fit=Fit(size=32))), View(Segmenter(model, fit=Fit(size=32)), mirrored=True)]
    said = follow(Ensemble(views), CLIP[:2])[1]
    plain = follow(Segmenter(model, fit=Fit(size=32)))[1]
    turned = follow(Segmenter(model, fit=Fit(size=32)), mirrored(CLIP), labels()[:, ::-1])[1]
    assert torch.allclose(said.prob, (plain.prob + turned.prob.flip(-1)) / 2, atol=1e-6)
    fitted = Geometry.fit(51, 67, 32)
    for view, kept in zip(views, (said.prob, said.prob.flip(-1)), strict=True):
        frame, masks, _ = view.segmenter._pending
        assert torch.equal(masks, fitted.enter(kept[None, 1:]))
        assert frame.shape[-2:] == masks.shape[-2:]


def test_the_confidence_is_the_mean_of_what_all_views_measure(model, network, monkeypatch):
    follower = make_follower(model, replace(network, tta=("flip",)))
    follow(follower, CLIP[:1])
    plain, sure = Segmenter.step, iter([[0.2, 1.0], [0.6, 0.5]])

    def step(*given, **how):
        return replace(plain(*given, **how), measured=torch.tensor(next(sure)))

    monkeypatch.setattr(Segmenter, "step", step)
    assert follower.step(CLIP[1]).measured.tolist() == pytest.approx([0.4, 0.75])


def test_other_sizes_are_shares_of_the_working_size():
    shorter = [min(Geometry.fit(480, 854, 336, zoom=zoom).inner) for zoom in (1.0, *ZOOMS)]
    assert shorter == [336, round(336 * 0.85), round(336 * 1.15)]
    assert Geometry.fit(480, 854, 0, zoom=0.5).inner == (240, 427)
    assert Geometry.fit(480, 854, 336, zoom=1.0) == Geometry.fit(480, 854, 336)
