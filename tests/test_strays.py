"""Parts of a mask that appear far from where the object was."""

import pytest
import torch

from stmcli.segmenter.focus import Box
from stmcli.segmenter.geometry import Geometry
from stmcli.segmenter.strays import Strays

WHOLE = Geometry.fit(160, 320, 0)
OBJECT = (48, 48, 48)  # top, left, side
FAR = (48, 224, 32)


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=pytest.mark.cuda)])
def device(request):
    return request.getfixturevalue("cuda") if request.param == "cuda" else torch.device("cpu")


def masks(device, *parts, value=0.7):
    """One object that is seen in squares, with a probability: 0.9, or that said of a part."""
    prob = torch.zeros(1, 1, 160, 320, device=device)
    for top, left, side, *sure in parts:
        prob[..., top : top + side, left : left + side] = sure[0] if sure else value
    return prob


def begun(device, *parts, least=0.5):
    strays = Strays(least)
    strays.begin(masks(device, *(parts or [OBJECT]), value=1.0), WHOLE)
    return strays


def look(strays, found, *, geometry=WHOLE, lost=None):
    """Return how many pixels of each object are shown."""
    shown = strays.look(found, geometry, lost)
    return ((found if shown is None else found * shown)[0] > 0.5).sum((1, 2)).tolist()


def test_a_part_far_from_where_the_object_was_is_not_shown_as_long_as_it_is_there(device):
    strays = begun(device)
    for _ in range(3):
        assert look(strays, masks(device, OBJECT, FAR)) == [48 * 48]


def test_what_is_blurred_around_such_a_part_goes_with_it(device):
    found = masks(device, (40, 216, 48, 0.3), OBJECT, FAR)
    shown = found * begun(device).look(found, WHOLE, None)
    assert not shown[..., 200:].any()
    assert torch.equal(shown[..., :200], found[..., :200])


def test_a_part_that_comes_within_reach_is_shown_and_so_is_what_is_near_to_it_then(device):
    body, near, beyond = (0, 0, 160), (64, 192, 16), (64, 240, 16)  # 0.3 of 160 px are 48, from cell to cell
    strays = begun(device, body)
    assert look(strays, masks(device, body, beyond)) == [160 * 160]
    assert look(strays, masks(device, body, near)) == [160 * 160 + 256]
    assert look(strays, masks(device, body, beyond)) == [160 * 160 + 256]


def test_a_part_of_which_the_network_is_certain_is_shown(device):
    assert look(begun(device), masks(device, OBJECT, (48, 224, 32, 0.999))) == [48 * 48 + 32 * 32]
    assert look(begun(device), masks(device, OBJECT, (48, 224, 32, 0.93))) == [48 * 48]


def test_a_part_that_is_connected_is_shown_however_far_it_goes(device):
    found = masks(device, OBJECT, FAR)
    found[..., 56:60, 48:240] = 0.7
    assert look(begun(device), found) == [int((found > 0.5).sum())]


def test_an_object_of_which_little_was_seen_may_come_back_anywhere(device):
    strays = begun(device)
    assert look(strays, masks(device, (48, 48, 32))) == [32 * 32]  # less than half of the most
    assert look(strays, masks(device, (48, 48, 32), FAR)) == [32 * 32 + 32 * 32]
    strays = begun(device)
    assert look(strays, masks(device, (48, 48, 40))) == [40 * 40]
    assert look(strays, masks(device, (48, 48, 40), FAR)) == [40 * 40]


def test_an_object_that_is_for_the_most_part_elsewhere_has_moved(device):
    assert look(begun(device), masks(device, (48, 48, 30), FAR)) == [30 * 30 + 32 * 32]
    assert look(begun(device), masks(device, (48, 48, 34), FAR)) == [34 * 34]
    assert look(begun(device), masks(device, FAR)) == [32 * 32]


def test_of_an_object_that_is_lost_all_is_shown(device):
    found = masks(device, OBJECT, FAR)
    assert look(begun(device), found, lost=torch.tensor([True], device=device)) == [48 * 48 + 32 * 32]
    assert look(begun(device), found, lost=torch.tensor([False], device=device)) == [48 * 48]


def test_in_another_scene_an_object_may_be_anywhere(device):
    strays = begun(device)
    strays.turn()
    assert look(strays, masks(device, OBJECT, FAR)) == [48 * 48 + 32 * 32]
    assert look(strays, masks(device, OBJECT, FAR, (128, 48, 16))) == [48 * 48 + 32 * 32]


def test_where_an_object_was_is_known_in_the_frame_and_not_in_a_window(device):
    half = Geometry.fit(320, 640, 160)  # 2 px of the source to one
    here, there = (half.through(Box(*corner, 160, 320)) for corner in ((0, 0), (0, 160)))
    strays = Strays(0.5)
    strays.begin(masks(device, (48, 208, 48), value=1.0), here)
    assert look(strays, masks(device, (48, 48, 48), (48, 208, 32)), geometry=there) == [48 * 48]
    strays = Strays(0.5)
    strays.begin(masks(device, (48, 48, 48), value=1.0), half)  # at 96 to 192 of the source
    low = half.through(Box(80, 0, 160, 320))
    assert look(strays, masks(device, (16, 96, 96), (16, 240, 16)), geometry=low) == [96 * 96]


def test_every_object_is_looked_at_by_itself_also_when_others_enter(device):
    one, other = masks(device, OBJECT, FAR), masks(device, FAR)
    strays = begun(device)
    strays.begin(torch.cat([masks(device, (48, 48, 32)), other], dim=1), WHOLE)
    assert look(strays, torch.cat([one, other], dim=1)) == [48 * 48 + 32 * 32, 32 * 32]  # a third of the first was seen
    strays.begin(torch.cat([masks(device, OBJECT), other], dim=1), WHOLE)
    assert look(strays, torch.cat([one, other], dim=1)) == [48 * 48, 32 * 32]


def test_it_goes_on_from_its_state(device):
    strays = begun(device)
    look(strays, masks(device, (48, 48, 40)))
    again = Strays(0.5)
    again.restore({name: tensor.clone() for name, tensor in strays.state().items()})
    for found in (masks(device, (48, 48, 30), FAR), masks(device, (48, 48, 36), FAR), masks(device, OBJECT, FAR)):
        assert look(strays, found) == look(again, found)
    again.restore({})
    assert look(again, masks(device, OBJECT, FAR)) == [48 * 48 + 32 * 32]
    assert Strays(0.5).state() == {}


def test_where_every_mask_is_trusted_there_are_none(device):
    assert look(begun(device, least=0.0), masks(device, OBJECT, FAR)) == [48 * 48 + 32 * 32]
