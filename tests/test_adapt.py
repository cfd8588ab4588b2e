import copy
from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import picture

from stmcli.options import NetworkOptions
from stmcli.segmenter import adapt as adapting
from stmcli.segmenter.adapt import adapt, vary
from stmcli.segmenter.ensemble import make_follower
from stmcli.weights import read

RGB = picture(0, 64, 48)


@pytest.fixture(scope="module")
def model(tiny_weights):
    return read(tiny_weights)[0].eval().requires_grad_(False)


@pytest.fixture
def network(tiny_weights):
    return NetworkOptions(str(tiny_weights), "cpu", "fp32", adapt=12)


def labels(*, void=False):
    given = np.zeros((48, 64), np.uint8)
    given[:12, :16], given[30:, 40:] = 3, 7
    if void:
        given[12:15] = 255
    return given


def held_out(model, *, seed):
    """Return the mean loss on variations of the given frame that no training has seen."""
    frame, truth = adapting._enter(RGB, labels(), size=48, device=torch.device("cpu"))
    generator = torch.Generator().manual_seed(seed)
    with torch.inference_mode():
        memory = model.memorize(frame, truth[:, 1:-1])
        pairs = [vary(frame, truth, generator) for _ in range(8)]
        return float(sum(adapting.loss(model.segment(x, *memory).logits, y) for x, y in pairs) / 8)


def test_training_on_the_given_frame_lowers_the_loss_on_other_variations_of_it(model, network, monkeypatch):
    monkeypatch.setattr(adapting, "RATE", 1e-2)  # of a network that knows nothing
    assert held_out(adapt(model, RGB, labels(), network), seed=1) < 0.8 * held_out(model, seed=1)


def test_the_given_network_stays_as_it_is_and_only_the_decoder_of_the_copy_differs(model, network):
    before = copy.deepcopy(model.state_dict())
    pupil = adapt(model, RGB, labels(), network)
    assert not model.decoder.predict.weight.requires_grad
    assert not any(p.requires_grad for p in pupil.parameters())
    changed = set()
    for name, x in pupil.state_dict().items():
        assert torch.equal(model.state_dict()[name], before[name])
        if not torch.equal(x, before[name]):
            changed.add(name.split(".")[0])
    assert changed == {"decoder"}


def test_the_same_frame_gives_the_same_network_and_leaves_other_random_numbers_alone(model, network):
    torch.manual_seed(7)
    wanted = torch.rand(1)
    torch.manual_seed(7)
    first, second = (adapt(model, RGB, labels(), network).state_dict() for _ in range(2))
    assert torch.rand(1) == wanted
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_what_is_trained_is_compiled_when_asked(model, network, monkeypatch):
    seen = []
    monkeypatch.setattr(torch.nn.Module, "compile", lambda part, **_: seen.append(part))
    pupil = adapt(model, RGB, labels(), replace(network, adapt=1, compile=True))
    assert seen == [pupil.query_encoder, pupil.memory_encoder, pupil.decoder]


def test_it_is_trained_in_full_precision_and_comes_back_in_its_own(model, network):
    half = copy.deepcopy(model).to(torch.bfloat16)
    pupil = adapt(half, RGB, labels(), network)
    assert {p.dtype for p in pupil.parameters()} == {torch.bfloat16}
    full = adapt(copy.deepcopy(half).float(), RGB, labels(), network)
    assert torch.equal(pupil.decoder.enter.weight, full.decoder.enter.weight.bfloat16())


def test_void_pixels_do_not_matter_to_the_loss():
    logits = torch.randn(1, 3, 4, 5, generator=torch.Generator().manual_seed(0))
    truth = torch.zeros(1, 4, 4, 5)
    truth[0, 0], truth[0, 0, 0], truth[0, 3, 0] = 1, 0, 1  # a row of void
    wanted = -torch.log_softmax(logits, dim=1)[0, 0, 1:].sum() / 20
    assert torch.allclose(adapting.loss(logits, truth), wanted)
    logits[:, :, 0] += torch.randn(1, 3, 5)
    assert torch.allclose(adapting.loss(logits, truth), wanted)


def test_a_frame_and_its_truth_move_together():
    generator = torch.Generator().manual_seed(3)
    frame, truth = adapting._enter(RGB, labels(), size=0, device=torch.device("cpu"))
    marked = truth[:, [1, 1, 1]]  # a picture that is the mask of an object
    for _ in range(4):
        state = generator.get_state()
        moved, target = vary(marked, truth, generator)
        assert not torch.allclose(target, truth, atol=0.1)
        assert ((moved[0, 0] > moved.mean()) == (target[0, 1] > target[0, 1].mean())).float().mean() > 0.97
        generator.set_state(state)
        assert torch.equal(vary(frame, truth, generator)[1], target)


def test_every_step_is_heard_and_ids_are_kept(model, network):
    heard = []
    pupil = adapt(model, RGB, labels(void=True), network, on_step=lambda *step: heard.append(step))
    assert heard == [(step, 12) for step in range(1, 13)]
    follower = make_follower(pupil, replace(network, tta=("flip",)))
    assert follower.step(RGB, labels(void=True)).object_ids == follower.step(RGB).object_ids == (3, 7)


def test_the_memory_is_read_in_training_as_in_use(model, network):
    pupils = [adapt(model, RGB, labels(), replace(network, **how)) for how in ({}, {"top_k": 1}, {"reach": 1.0})]
    weights = [pupil.decoder.predict.weight for pupil in pupils]
    assert not any(torch.equal(weights[0], other) for other in weights[1:])
