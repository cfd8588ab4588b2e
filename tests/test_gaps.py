"""Gaps between the parts of a mask, of which the network is not sure, are closed."""

import numpy as np
import pytest
import torch
from scipy.ndimage import binary_closing, binary_opening

from stmcli.matting.alpha import refine
from stmcli.matting.gaps import close_gaps, closed, opened
from stmcli.options import MattingOptions

SIDE = 120
HERE, GAP = (slice(20, 100), slice(20, 100)), (slice(20, 100), slice(54, 62))  # an object, and what parts it
INNER = slice(22, 98), slice(54, 62)  # of the gap, whose ends are open


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=pytest.mark.cuda)])
def device(request):
    return request.getfixturevalue("cuda") if request.param == "cuda" else torch.device("cpu")


def halves(doubt, *, at=GAP):
    """Return the probabilities of an object of two halves, and of so much of what is between them."""
    p = torch.full((SIDE, SIDE), 0.01)
    p[HERE] = 0.98
    p[at] = doubt
    return torch.stack([1 - p, p])


@pytest.mark.parametrize(("doubt", "is_closed"), [(0.3, True), (0.45, True), (0.1, False)])
def test_a_gap_that_the_network_doubts_is_closed_and_one_that_it_is_sure_of_stays(doubt, is_closed, device):
    prob = halves(doubt).to(device)
    found = close_gaps(prob, MattingOptions())[0].cpu()
    assert ((found[INNER] > 0.5) == is_closed).all()
    assert ((found[INNER] == prob[1].cpu()[INNER]) != is_closed).all()
    found[GAP] = doubt
    assert torch.equal(found, prob[1].cpu())


def test_wide_gaps_and_what_is_not_between_parts_stay():
    for place in ((slice(20, 100), slice(40, 80)), (slice(20, 100), slice(86, 100)), (slice(0, 20), slice(20, 100))):
        prob = halves(0.4, at=place)
        assert torch.equal(close_gaps(prob, MattingOptions())[0], prob[1]), place
    prob = halves(0.4)
    assert torch.equal(close_gaps(prob, MattingOptions(closing=0))[0], prob[1])


def test_refined_masks_have_no_gap_where_the_frame_shows_none():
    rgb = np.full((SIDE, SIDE, 3), (40, 160, 60), np.uint8)
    rgb[HERE] = 200, 30, 20
    holed, whole = (refine(rgb, halves(0.4), options=MattingOptions(closing=how))[0] for how in (0, 0.1))
    assert (holed[30:90, 56:60] < 0.5).any()
    assert (whole[30:90, 30:90] > 0.5).all()


def test_nothing_is_taken_from_another_object():
    one, other = halves(0.3)[1], torch.zeros(SIDE, SIDE)
    other[GAP] = 0.6
    prob = torch.stack([1 - one - other, one, other])
    found = close_gaps(prob, MattingOptions())
    assert torch.equal(found, prob[1:])  # nor from the background, of which hardly anything is left
    other[GAP] = 0.1
    found = close_gaps(torch.stack([1 - one - other, one, other]), MattingOptions())
    assert (found[0][INNER] > 0.5).all()
    assert torch.equal(found[1], other)
    assert (found.sum(0) <= 1 + 1e-6).all()


def test_both_of_two_objects_have_their_gaps_closed():
    one = halves(0.4)[1]
    one[50:, :] = 0
    prob = torch.stack([1 - one - one.flip(0), one, one.flip(0)])
    found = close_gaps(prob, MattingOptions())
    assert (found[0][22:48, GAP[1]] > 0.5).all()
    assert torch.equal(found[0], found[1].flip(0))


@pytest.mark.parametrize("size", [(1, 1), (2, 7), (31, 9), (1, 60_000)])
def test_masks_of_any_size_are_taken(size):
    generator = torch.Generator().manual_seed(3)
    for _ in range(10):
        p = torch.rand(size, generator=generator)
        found = close_gaps(torch.stack([1 - p, p]), MattingOptions())[0]
        assert ((found == p) | ((p < 0.5) & (found > 0.5))).all()


@pytest.mark.parametrize("radius", [0, 1, 4, 8])
def test_closing_and_opening_equal_those_of_scipy(radius):
    generator = np.random.default_rng(radius)
    square = np.ones((2 * radius + 1,) * 2)
    for share in (0.02, 0.2, 0.6):
        mask = generator.random((40, 30)) < share
        tensor = torch.tensor(mask, dtype=torch.float32)[None]
        known = binary_closing(np.pad(mask, radius), square)[radius : radius + 40, radius : radius + 30]
        assert np.array_equal(closed(tensor, radius)[0].numpy() > 0, known)
        known = binary_opening(np.pad(mask, 1, constant_values=True), np.ones((3, 3)))[1:-1, 1:-1]
        assert np.array_equal(opened(tensor)[0].numpy() > 0, known)
