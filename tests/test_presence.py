"""Objects that are hidden, and what stands in for them."""

from pathlib import Path

import numpy as np
import pytest
import torch

from stmcli.masks import read_labels
from stmcli.options import NetworkOptions
from stmcli.segmenter.ensemble import make_follower
from stmcli.segmenter.focus import box_of
from stmcli.segmenter.presence import Presence
from stmcli.video import open_source
from stmcli.weights import load_model

SAMPLES = Path(__file__).parent.parent / "sample_videos"
TRUSTED = 400.0  # pixels of the source, the last mask that was trusted


def masks(height, width, *, value=0.55, objects=1):
    """Objects in the upper left corner of a frame, of so many pixels, seen with a probability."""
    prob = torch.zeros(1, objects, 160, 320)
    prob[..., :height, :width] = value
    return prob


def look(presence, found, *confidence, area=1.0):
    """Return what is shown of each object, in pixels, and the confidence in it."""
    looked = presence.look(found, torch.tensor(confidence), area)
    if looked is None:
        return [(int(n), c) for n, c in zip((found[0] > 0.5).sum((1, 2)), confidence, strict=True)]
    shown, sure = looked
    return [(int(n), float(c)) for n, c in zip((found * shown > 0.5)[0].sum((1, 2)), sure, strict=True)]


@pytest.fixture
def presence():
    known = Presence(0.5)
    known.begin(torch.tensor([TRUSTED]))
    return known


@pytest.mark.parametrize(
    ("size", "confidence", "is_lost"),
    [
        ((20, 41), 0.49, True),  # more than twice as large
        ((20, 41), 0.51, False),  # and not so doubtful
        ((3, 13), 0.3, True),  # less than a tenth
        ((20, 40), 0.01, False),  # as doubtful as may be, and of a likely size
        ((5, 8), 0.01, False),
    ],
)
def test_an_object_is_lost_when_its_mask_is_doubted_and_of_an_odd_size(presence, size, confidence, is_lost):
    ((pixels, sure),) = look(presence, masks(*size), confidence)
    assert pixels == (0 if is_lost else size[0] * size[1])
    assert sure == pytest.approx(0 if is_lost else confidence)


def test_sizes_are_those_of_the_source(presence):
    assert look(presence, masks(20, 20), 0.3, area=2.1) == [(0, 0.0)]
    presence.begin(torch.tensor([TRUSTED]))
    assert look(presence, masks(20, 20), 0.3, area=1.9) == [(400, pytest.approx(0.3))]


def test_a_lost_object_stays_so_until_its_mask_may_be_trusted(presence):
    look(presence, masks(60, 60), 0.3)
    assert look(presence, masks(20, 20), 0.39) == [(0, 0.0)]
    assert look(presence, masks(60, 60), 0.74) == [(0, 0.0)]
    assert look(presence, masks(60, 60), 0.49) == [(0, 0.0)], "that size was not trusted"
    assert look(presence, masks(20, 20), 0.41) == [(400, pytest.approx(0.41))]
    assert look(presence, masks(20, 20), 0.39) == [(400, pytest.approx(0.39))]


def test_a_mask_of_an_odd_size_may_be_trusted_when_it_leaves_little_doubt(presence):
    look(presence, masks(60, 60), 0.3)
    assert look(presence, masks(60, 60), 0.76) == [(3600, pytest.approx(0.76))]
    assert look(presence, masks(60, 60), 0.3) == [(3600, pytest.approx(0.3))]


def test_sizes_follow_masks_that_are_trusted_alone(presence):
    look(presence, masks(20, 36), 0.49)
    assert look(presence, masks(20, 60), 0.3) == [(0, 0.0)]
    look(presence, masks(20, 36), 0.5)
    assert look(presence, masks(20, 60), 0.3) == [(1200, pytest.approx(0.3))]


def test_of_a_lost_object_the_certain_parts_are_shown_and_not_trusted(presence):
    found = masks(40, 60)
    found[..., 96:144, 224:272] = 0.999
    assert look(presence, found, 0.49) == [(48 * 48, pytest.approx(0.5 * 0.49))]


@pytest.mark.parametrize(("value", "pixels"), [(0.93, 0), (0.95, 160 * 320)])
def test_the_network_is_certain_where_it_is_undecided_about_little_of_what_it_sees(presence, value, pixels):
    ((shown, _),) = look(presence, masks(160, 320, value=value), 0.3)
    assert shown == pixels


def test_the_network_is_certain_two_cells_away_from_what_it_doubts(presence):
    found = masks(160, 320, value=0)
    found[..., 32:48], found[..., 64:112] = 0.6, 0.999  # the third column of cells, and the fifth to seventh
    looked = presence.look(found, torch.tensor([0.3]), 1.0)
    assert looked is not None
    assert ((found * looked[0])[0, 0] > 0.5).any(0).nonzero().flatten().tolist() == [*range(80, 112)]


def test_objects_are_lost_one_by_one():
    presence = Presence(0.5)
    presence.begin(torch.tensor([TRUSTED, 4000.0]))
    assert look(presence, masks(50, 50, objects=2), 0.3, 0.3) == [(0, 0.0), (2500, pytest.approx(0.3))]


def test_a_mask_that_shows_nothing_of_an_object_makes_it_lost():
    presence = Presence(0.5)
    presence.begin(torch.tensor([TRUSTED, TRUSTED]))
    look(presence, masks(60, 60, objects=2), 0.3, 0.9)  # the first is lost, the second 3600 pixels
    presence.begin(torch.tensor([7.0, 7.0, 0.0]), others=[0, 1])  # a mask of the third alone
    seen = look(presence, masks(20, 20, objects=3), 0.3, 0.3, 0.55)
    assert seen == [(0, 0.0), (400, pytest.approx(0.3)), (0, 0.0)]
    presence.begin(torch.tensor([TRUSTED, TRUSTED, TRUSTED]))
    assert [pixels for pixels, _ in look(presence, masks(20, 20, objects=3), 0.3, 0.3, 0.3)] == [400] * 3


def test_after_a_cut_an_object_may_have_any_size_once_it_may_be_trusted(presence):
    presence.turn()
    assert look(presence, masks(20, 20), 0.39) == [(0, 0.0)]
    assert look(presence, masks(100, 100), 0.41) == [(10_000, pytest.approx(0.41))]
    assert look(presence, masks(2, 2), 0.41) == [(4, pytest.approx(0.41))]


def test_nothing_is_lost_where_all_masks_are_trusted():
    presence = Presence(0)
    presence.begin(torch.tensor([TRUSTED]))
    assert look(presence, masks(100, 100), 0.01) == [(10_000, pytest.approx(0.01))]


def test_a_restored_presence_goes_on_as_the_one_that_was_saved(presence):
    look(presence, masks(20, 24), 0.9)
    look(presence, masks(60, 60), 0.3)
    other = Presence(0.5)
    other.restore(presence.state())
    for found, confidence in ((masks(20, 20), 0.3), (masks(20, 20), 0.5), (masks(20, 50), 0.3)):
        assert look(other, found, confidence) == look(presence, found, confidence)


def test_a_presence_that_was_saved_before_any_mask_knows_of_nothing_lost(presence):
    presence.restore(Presence(0.5).state())
    assert look(presence, masks(60, 60), 0.3) == [(3600, pytest.approx(0.3))]


def test_an_object_that_is_hidden_leaves_nothing_and_is_found_again():
    """A fish is covered with water from frame 4 to frame 9."""
    options = NetworkOptions(device="cpu")
    follower = make_follower(load_model(options), options)
    given = (read_labels(SAMPLES / "koi.png") == 1).astype(np.uint8)
    box = box_of(given > 0)
    rows, columns = (slice(at - 20, at + size + 20) for at, size in ((box.top, box.height), (box.left, box.width)))
    pixels = []
    with open_source(SAMPLES / "koi.mp4") as source:
        for number, frame in zip(range(12), source, strict=False):
            rgb = frame.rgb.copy()
            if 4 <= number < 10:
                rgb[rows, columns] = rgb[rows, -box.width - 40 :]
            pixels.append(int((follower.step(rgb, None if number else given).labels() > 0).sum()))
    assert pixels[4:10] == [0] * 6
    assert min(pixels[:4] + pixels[10:]) > 0.8 * given.sum()
