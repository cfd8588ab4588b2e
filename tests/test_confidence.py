import math

import pytest
import torch
from calibration import area_under_curve, confidence, fit

from stmcli.segmenter.confidence import BIAS, CHANGED, TINY, UNDECIDED, Gauge


def masks(value, *, height=32, width=48):
    """One object that covers the left half with probability `value`."""
    prob = torch.zeros(1, 1, height, width)
    prob[..., : width // 2] = value
    return prob


def keys(*values):
    """A frame of 2 x 3 cells whose left column has the given key."""
    query = torch.zeros(1, len(values), 2, 3)
    query[0, :, :, 0] = torch.tensor(values, dtype=torch.float).unsqueeze(1)
    return query


def measure(gauge, masks, query):
    confidence, looks = gauge.measure(masks, query, gauge.looks(masks.shape[1], query.shape[1], masks.device))
    gauge.learn(looks)
    return confidence


def test_a_confidence_is_the_logistic_of_what_is_computed_by_hand():
    gauge = Gauge()
    first = measure(gauge, masks(0.9), keys(1, 0))
    second = measure(gauge, masks(0.8), keys(1, 1))  # 45 degrees away
    for found, undecided, changed in ((first, 0.1, 0.0), (second, 0.2, 1 - math.cos(math.pi / 4))):
        logit = BIAS + UNDECIDED * math.log(undecided + TINY) + CHANGED * math.log(changed + TINY)
        assert found.item() == pytest.approx(1 / (1 + math.exp(-logit)), abs=1e-5)


def test_confidence_falls_with_doubt_and_with_a_changed_look():
    gauge = Gauge()
    gauge.begin()
    best = measure(gauge, masks(0.99), keys(1, 0)).item()
    vague = measure(gauge, masks(0.6), keys(1, 0)).item()
    other = measure(gauge, masks(0.99), keys(0, 1)).item()
    assert 0 < vague < best < 1
    assert other < best


def test_an_object_without_a_pixel_has_no_confidence():
    assert measure(Gauge(), masks(0.3), keys(1, 0)).item() == 0


def test_an_object_that_is_seen_late_is_compared_with_what_it_was_then():
    both = lambda first: torch.cat([masks(0.9), masks(first).flip(3)], dim=1)  # noqa: E731  two objects side by side
    query = keys(1, 0) + keys(0, 1).flip(3)
    gauge = Gauge()
    measure(gauge, both(0.3), query)
    late, then = measure(gauge, both(0.9), query), measure(gauge, both(0.9), query)
    assert torch.allclose(late, then)
    assert late[1] == pytest.approx(late[0].item(), abs=1e-5)


def test_a_given_mask_begins_again():
    gauge = Gauge()
    before = measure(gauge, masks(0.9), keys(1, 0))
    gauge.begin()
    assert torch.equal(measure(gauge, masks(0.9), keys(0, 1)), before)


def test_a_given_mask_of_another_object_changes_nothing_for_one_that_was_there():
    gauge, alone = Gauge(), Gauge()
    for one in (gauge, alone):
        measure(one, masks(0.9), keys(1, 0))
    gauge.begin(2, others=[0])
    both = torch.cat([masks(0.9), masks(0.9).flip(3)], dim=1)  # two objects side by side
    found = measure(gauge, both, keys(0, 1) + keys(1, 0).flip(3))
    assert found[0] == measure(alone, masks(0.9), keys(0, 1))[0] < found[1]


def test_half_precision_changes_little():
    gauge, half = Gauge(), Gauge()
    for value, key in ((0.9, keys(1, 0.25)), (0.8, keys(0.5, 1))):
        whole = measure(gauge, masks(value), key)
        assert torch.allclose(measure(half, masks(value).bfloat16(), key.bfloat16()), whole, atol=0.02)


def test_calibration_finds_the_weights_that_made_the_scores():
    signs = torch.rand(400, 4, generator=torch.Generator().manual_seed(0)).numpy().astype(float) * 0.3
    wanted = [-2.0, -1.0, -0.5]
    found = fit(signs, confidence(signs, torch.tensor(wanted).numpy()), 1.0, ridge=1e-9)
    assert found == pytest.approx(wanted, abs=1e-3)
    assert area_under_curve(-signs[:, 0], signs[:, 0] < 0.1) == 1
