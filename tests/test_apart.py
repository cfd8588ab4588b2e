"""Objects that are followed each by itself: what they share out, and that each is seen as if it were alone."""

from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch

from stmcli.options import Fit, NetworkOptions
from stmcli.registry import find
from stmcli.segmenter import Segmenter
from stmcli.segmenter import apart as apart_module
from stmcli.segmenter import segmenter as segmenter_module
from stmcli.segmenter.apart import Apart, shared
from stmcli.segmenter.ensemble import Ensemble, make_follower
from stmcli.transfer import upload
from stmcli.weights import card_of, read

FIT = Fit(size=48, focus=2.0, anchor=9.0, gate=0.5)
CLIP = [np.random.default_rng(3).integers(0, 256, (72, 96, 3), np.uint8) for _ in range(5)]


@pytest.fixture(scope="module")
def model(tiny_weights):
    return read(tiny_weights)[0].eval()


def labels(*ids):
    """Objects 2 and 7 in opposite corners, and 3 between them."""
    places = {7: np.s_[4:16, 4:20], 2: np.s_[56:68, 70:90], 3: np.s_[30:40, 40:50]}
    found = np.zeros((72, 96), np.uint8)
    for number in ids:
        found[places[number]] = number
    return found


def apart(model):
    return Apart(model, partial(Segmenter, model, fit=FIT))


def same(a, b):
    return torch.equal(a.prob, b.prob) and (a.object_ids, a.given, a.cut) == (b.object_ids, b.given, b.cut)


# -- sharing out -------------------------------------------------------------------------------------------------------


def test_what_only_one_object_claims_is_its_own():
    one, other = torch.tensor([[0.9, 0.0, 0.0]]), torch.tensor([[0.0, 0.3, 0.0]])
    assert torch.allclose(shared([one, other], []), torch.stack([torch.tensor([[0.1, 0.7, 1.0]]), one, other]))


def test_what_several_claim_is_divided_by_their_odds():
    found = shared([torch.tensor([[0.8]]), torch.tensor([[0.5]]), torch.tensor([[1.0]])], [])[:, 0, 0]
    assert found[3] > 0.9999
    found = shared([torch.tensor([[0.8]]), torch.tensor([[0.5]])], [])[:, 0, 0]
    assert torch.allclose(found, torch.tensor([1.0, 4.0, 1.0]) / 6)


def test_what_was_given_is_taken_from_what_others_claim():
    given, other = torch.tensor([[1.0, 0.0]]), torch.tensor([[1.0, 0.5]])
    assert torch.equal(shared([other, given], [1]), torch.tensor([[[0.0, 0.5]], [[0.0, 0.5]], [[1.0, 0.0]]]))


# -- following ---------------------------------------------------------------------------------------------------------


def test_one_object_is_followed_as_by_a_segmenter_to_the_bit(model):
    ours, plain = apart(model), Segmenter(model, fit=FIT)
    for place, rgb in enumerate(CLIP):
        given = labels(7) if place in (0, 3) else None
        a, b = ours.step(rgb, given), plain.step(rgb, given)
        assert same(a, b)
        assert (a.measured is None) == (b.measured is None)


def test_every_object_has_a_window_of_its_own(model):
    both = apart(model)
    both.step(CLIP[0], labels(2, 7))
    for number, segmenter in zip((2, 7), both.segmenters, strict=True):
        alone = Segmenter(model, fit=FIT)
        alone.step(CLIP[0], labels(number))
        assert segmenter._fitted.window == alone._fitted.window
        assert torch.equal(segmenter.bank.read()[1], alone.bank.read()[1])
    together = Segmenter(model, fit=FIT)
    together.step(CLIP[0], labels(2, 7))
    assert together._fitted.window.height > both.segmenters[0]._fitted.window.height


def test_a_frame_goes_to_the_device_once_however_many_objects_there_are(model, monkeypatch):
    uploaded = []
    for module in (apart_module, segmenter_module):
        monkeypatch.setattr(module, "upload", lambda rgb, device: uploaded.append(rgb) or upload(rgb, device))
    both = apart(model)
    for place, rgb in enumerate(CLIP):
        both.step(rgb, None if place else labels(2, 3, 7))
    assert [id(rgb) for rgb in uploaded] == [id(rgb) for rgb in CLIP]


def test_objects_remember_what_they_agree_on(model, monkeypatch):
    both, revised = apart(model), []
    both.step(CLIP[0], labels(2, 7))
    monkeypatch.setattr(Segmenter, "revise", lambda self, prediction: revised.append((self.object_ids, prediction)))
    found = both.step(CLIP[1])
    assert [ids for ids, _ in revised] == [(2,), (7,)]
    assert all(torch.equal(prediction.prob, found.prob) for _, prediction in revised)
    assert torch.allclose(found.prob.sum(0), torch.ones(72, 96), atol=1e-5)


def test_an_object_that_enters_late_has_a_memory_of_its_own(model):
    both = apart(model)
    both.expected = (2, 7)
    first = both.step(CLIP[0], labels(7))
    assert (first.object_ids, first.given) == ((2, 7), (2, 7))
    assert not first.prob[1].any()
    entering = both.step(CLIP[1], labels(2))
    assert (both.object_ids, entering.object_ids, entering.given, entering.measured) == ((7, 2), (2, 7), (2,), None)
    assert np.array_equal(entering.labels() == 2, labels(2) == 2)
    assert [segmenter.bank.objects[0] for segmenter in both.segmenters] == [1, 1]
    assert both.step(CLIP[2]).measured.shape == (2,)


def test_a_mask_of_all_of_a_frame_tells_what_is_absent(model):
    both = apart(model)
    both.step(CLIP[0], labels(2, 7))
    found = both.step(CLIP[1], labels(2), whole=True)
    assert found.given == (2, 7)
    assert np.array_equal(found.labels(), labels(2))
    assert not found.prob[2].any()


def test_what_is_given_is_as_it_was_given_whatever_others_claim(model, monkeypatch):
    both = apart(model)
    both.step(CLIP[0], labels(2, 7))
    other = both.segmenters[1]
    claim = replace(other.step(CLIP[1]), prob=torch.stack([torch.zeros(72, 96), torch.ones(72, 96)]))
    monkeypatch.setattr(other, "step", lambda *_, **__: claim)
    found = both.step(CLIP[1], labels(2))
    mine = torch.from_numpy(labels(2) == 2)
    assert torch.equal(found.prob[1], mine.float())
    assert not found.prob[2, mine].any()


def test_a_new_scene_is_told_where_an_object_enters_with_it(model):
    both = apart(model)
    both.step(np.full_like(CLIP[0], 10), labels(7))
    assert both.step(np.full_like(CLIP[0], 240), labels(2)).cut


@pytest.mark.parametrize("tta", [(), ("flip",)])
def test_what_is_to_be_said_is_said_once(model, tiny_weights, monkeypatch, tta):
    follower = make_follower(model, NetworkOptions(str(tiny_weights), "cpu", size=48, focus=2.0, tta=tta))
    follower.step(CLIP[0], labels(2, 7))
    assert follower.notes() == []
    monkeypatch.setattr("stmcli.segmenter.guard.Guard.notes", lambda _: ["memory was short"])
    assert follower.notes() == ["memory was short"]


def test_an_object_that_others_have_taken_all_of_is_not_sure(model):
    both = apart(model)
    both.step(CLIP[0], labels(2, 7))
    seen = [both.segmenters[0].step(CLIP[1]), both.segmenters[1].step(CLIP[1])]
    everywhere, nowhere = torch.full((72, 96), 0.99), torch.full((72, 96), 0.6)
    claims = [
        replace(found, prob=torch.stack([1 - p, p]), measured=torch.ones(1))
        for found, p in zip(seen, (everywhere, nowhere), strict=True)
    ]
    assert both._answer(claims, []).measured.tolist() == [1, 0]


def test_it_goes_on_from_its_state_to_the_bit(model):
    whole, part = apart(model), apart(model)
    for follower in (whole, part):
        follower.expected = (2, 3, 7)
        follower.step(CLIP[0], labels(2, 7))
        follower.step(CLIP[1])
        follower.step(CLIP[2], labels(3))
    state = part.state()
    later = apart(model)
    later.expected = (2, 3, 7)
    later.step(CLIP[4], labels(3))  # of another clip
    later.restore(state)
    assert later.object_ids == (2, 7, 3)
    for rgb in CLIP[3:]:
        a, b = whole.step(rgb), later.step(rgb)
        assert same(a, b)
        assert torch.equal(a.measured, b.measured)
    later.reset()
    assert later.object_ids == ()
    with pytest.raises(ValueError, match="needs labels"):
        later.step(CLIP[0])


def test_objects_have_windows_of_their_own_where_that_suits_the_weights(model, monkeypatch):
    card = replace(card_of(find("compact")), fit=FIT)
    monkeypatch.setattr("stmcli.weights.network.card_of", lambda _: card)
    assert isinstance(make_follower(model, NetworkOptions()), Apart)


def test_objects_have_windows_of_their_own_unless_they_are_to_be_followed_together(model, tiny_weights):
    network = NetworkOptions(str(tiny_weights), "cpu", size=48, focus=2.0)
    assert isinstance(make_follower(model, network), Apart)
    assert isinstance(make_follower(model, replace(network, together=True)), Segmenter)
    assert isinstance(make_follower(model, replace(network, focus=0.0)), Segmenter)
    mirrored = make_follower(model, replace(network, tta=("flip",)))
    assert isinstance(mirrored, Ensemble)
    first = mirrored.step(CLIP[0], labels(2, 7))
    assert np.array_equal(first.labels(), labels(2, 7))
    assert mirrored.step(CLIP[1]).prob.shape == (3, 72, 96)
