from dataclasses import replace
from fractions import Fraction
from itertools import pairwise

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conftest import picture

from stmcli.options import Fit, NetworkOptions
from stmcli.registry import find
from stmcli.segmenter import Segmenter, propagate
from stmcli.segmenter.ensemble import make_follower
from stmcli.segmenter.focus import SEARCH, Box, Focus, box_of
from stmcli.segmenter.geometry import NEAR, Geometry
from stmcli.video import Frame
from stmcli.weights import card_of, read

WIDTH, HEIGHT = 320, 192


@pytest.fixture(scope="module")
def model(tiny_weights):
    return read(tiny_weights)[0].eval().requires_grad_(False)


def labels(top=40, left=60, height=20, width=30, number=1):
    given = np.zeros((HEIGHT, WIDTH), np.uint8)
    given[top : top + height, left : left + width] = number
    return given


def prob(*, seen):
    """What a network says that sees the objects there: (2, H, W)."""
    inside = torch.from_numpy(seen > 0).float()
    return torch.stack([1 - inside, inside])


def aimed(focus, seen):
    focus.saw(prob(seen=seen))
    return focus.aim(None, cut=False)


def test_the_box_holds_every_true_pixel_and_no_more():
    assert box_of(labels() > 0) == (40, 60, 20, 30)
    assert box_of(labels(height=1, width=1) > 0) == (40, 60, 1, 1)
    assert box_of(np.zeros((4, 4), bool)) is None


@pytest.mark.parametrize(
    ("inner", "held"),
    [
        ((15, 28, 80, 160), True),
        *[((14, 28, 80, 160), False), ((15, 27, 80, 160), False)],
        *[((15, 28, 81, 160), False), ((15, 28, 80, 161), False)],
    ],
)
def test_a_box_holds_what_stays_away_from_each_of_its_edges(inner, held):
    assert Box(5, 8, 100, 200).holds(Box(*inner), margin=0.1) == held


def test_the_window_is_as_much_longer_than_the_object_as_was_asked_for_and_has_the_frames_shape():
    window = Focus((HEIGHT, WIDTH), times=3, size=48).aim(labels(), cut=False)
    assert window.height == round(HEIGHT * 3 * 20 / HEIGHT)
    assert window.width == round(WIDTH * 3 * 20 / HEIGHT)
    assert abs(window.top + window.height / 2 - 50) <= 1
    assert abs(window.left + window.width / 2 - 75) <= 1


@pytest.mark.parametrize(("place", "corner"), [((0, 314), (0, 240)), ((188, 0), (144, 0))])
def test_pixels_are_not_enlarged_more_than_twice_and_the_window_stays_in_the_frame(place, corner):
    window = Focus((HEIGHT, WIDTH), times=2, size=96).aim(labels(*place, 4, 6), cut=False)
    assert (window.height, window.width) == (48, 80)
    assert (window.top, window.left) == corner


def test_the_window_stays_while_the_object_fits_and_goes_with_it_when_it_leaves():
    focus = Focus((HEIGHT, WIDTH), times=3, size=48)
    first = focus.aim(labels(), cut=False)
    assert aimed(focus, labels(top=44)) == first
    moved = aimed(focus, labels(top=55))
    assert moved.top > first.top
    assert moved.holds(Box(55, 60, 20, 30), margin=0.15), "before it has left"


def test_the_window_grows_with_an_object_before_it_leaves():
    focus = Focus((HEIGHT, WIDTH), times=3, size=48)
    assert focus.aim(labels(), cut=False).holds(Box(35, 60, 30, 30), margin=0.15)
    assert aimed(focus, labels(top=35, height=30)).height == 90


def test_the_whole_frame_is_looked_at_while_the_window_would_be_only_a_little_smaller():
    edge = labels(0, 0, 80, 40)
    assert Focus((HEIGHT, WIDTH), times=2, size=16).aim(edge, cut=False) == (0, 0, HEIGHT, WIDTH)
    assert Focus((HEIGHT, WIDTH), times=1.5, size=16).aim(edge, cut=False) == (0, 0, 120, 200)


def test_the_window_goes_down_slowly_behind_an_object_that_may_only_be_hidden():
    focus = Focus((HEIGHT, WIDTH), times=2, size=16)
    whole = focus.aim(labels(height=60, width=80), cut=False)
    hidden = [aimed(focus, labels(height=10, width=12)) for _ in range(15)]
    assert hidden[0].height > 0.95 * whole.height
    assert hidden[-1].height > 0.7 * whole.height
    shown = [aimed(focus, labels(height=10, width=12)).height for _ in range(120)]
    assert shown[-1] < whole.height / 3


def test_a_new_scene_owes_nothing_to_the_one_before():
    focus = Focus((HEIGHT, WIDTH), times=2, size=16)
    whole = focus.aim(labels(height=60, width=80), cut=False)
    focus.aim(None, cut=True)
    assert aimed(focus, labels(height=10, width=12)).height < whole.height / 3


def test_while_nothing_is_seen_the_window_grows_to_the_whole_frame():
    focus = Focus((HEIGHT, WIDTH), times=3, size=48)
    focus.aim(labels(), cut=False)
    windows = [aimed(focus, labels()), *(aimed(focus, np.zeros((HEIGHT, WIDTH))) for _ in range(8))]
    assert all(after.holds(before, margin=0) for before, after in pairwise(windows))
    sides = [window.height for window in windows]
    assert sides == pytest.approx([min(HEIGHT, 60 * SEARCH**count) for count in range(9)], abs=2)


def test_a_given_mask_and_a_new_scene_are_looked_for_where_they_are():
    focus = Focus((HEIGHT, WIDTH), times=2, size=48)
    focus.aim(labels(), cut=False)
    focus.saw(prob(seen=labels()))
    both = focus.aim(labels(150, 280, number=2), cut=False)
    assert both.holds(Box(40, 60, 130, 250), margin=0)
    assert focus.aim(None, cut=True) == (0, 0, HEIGHT, WIDTH)


@pytest.mark.parametrize("places", [((40, 60), (70, 100)), ((70, 100), (40, 60)), ((40, 100), (70, 60))])
def test_the_window_lies_around_what_was_seen_and_what_is_given(places):
    focus = Focus((HEIGHT, WIDTH), times=1.4, size=16)
    seen, given = (labels(*place) for place in places)
    focus.aim(seen, cut=False)
    focus.saw(prob(seen=seen))
    assert focus.aim(given, cut=False) == (30, 36, 70, 117)


def test_outside_of_the_window_all_is_background_and_inside_the_picture_comes_back_in_place():
    geometry = Geometry.fit(HEIGHT, WIDTH, 64).through(Box(32, 80, 96, 160))
    seen = prob(seen=labels(60, 120, 40, 60))[None]
    back = geometry.leave(geometry.crop(geometry.enter(seen)))
    assert back.shape == seen.shape
    assert torch.equal(back[0, 0, :32], torch.ones(32, WIDTH))
    assert torch.equal(back[0, 1, :, 240:], torch.zeros(HEIGHT, 80))
    assert ((back[0, 1] > 0.5) == (seen[0, 1] > 0.5)).float().mean() > 0.99


def test_what_two_windows_show_at_one_place_is_near():
    cpu = torch.device("cpu")
    whole = Geometry.fit(HEIGHT, WIDTH, 0)
    rows, columns = whole.nearness(whole, device=cpu)
    assert (rows.shape, columns.shape) == ((12, 12), (20, 20))
    assert torch.equal(rows.argmax(1), torch.arange(12))
    assert torch.allclose(rows.diagonal(), torch.ones(12))
    assert rows[4, 6].item() == pytest.approx(np.exp(-(2**2) / (2 * NEAR**2)), rel=1e-5)
    half = Geometry.fit(HEIGHT, WIDTH, 0).through(Box(48, 160, 96, 160))  # cells of 8 px
    rows, columns = half.nearness(whole, device=cpu)
    assert torch.equal(columns.argmax(1), 10 + torch.arange(20) // 2)
    assert torch.equal(rows.argmax(1), 3 + torch.arange(12) // 2)
    assert rows[0, 3].item() == pytest.approx(np.exp(-(0.5**2) / (2 * NEAR**2)), rel=1e-5)  # 52 and 56 px


def test_cells_are_as_high_and_as_wide_as_what_they_show():
    low = Geometry.fit(HEIGHT, WIDTH, 0).through(Box(48, 0, 96, WIDTH))  # cells of 8 by 16 px
    rows, columns = low.nearness(low, device=torch.device("cpu"))
    for near in (rows, columns):
        assert near[0, 1].item() == pytest.approx(np.exp(-1 / (2 * NEAR**2)))


def test_padding_moves_no_cell():
    geometry = Geometry.fit(100, 112, 0)  # padded by 6 above and below to 112
    rows, columns = (centres.tolist() for centres in geometry.centres(torch.device("cpu")))
    assert rows == [2, 18, 34, 50, 66, 82, 98]
    assert columns == [8, 24, 40, 56, 72, 88, 104]


def test_what_is_padded_is_empty():
    frame = torch.ones(1, 1, 101, 103)
    assert torch.equal(Geometry.fit(101, 103, 0).enter(frame), F.pad(frame, (4, 5, 5, 6)))


def test_every_place_stays_where_it_is_at_the_working_size_and_back():
    geometry = Geometry.fit(HEIGHT, WIDTH, 48)
    wide, small = ((torch.arange(count) + 0.5) / count for count in (WIDTH, WIDTH // 4))
    entered = geometry.enter(wide.expand(1, 1, HEIGHT, WIDTH))
    assert torch.allclose(entered[0, 0, :, 2:-2], small[2:-2], atol=1e-6)
    left = geometry.leave(small.expand(1, 2, 48, WIDTH // 4))
    assert torch.allclose(left[0, 1, :, 2:-2], wide[2:-2], atol=1e-6)


def test_a_pixel_stands_for_its_share_of_the_window():
    geometry = Geometry.fit(HEIGHT, WIDTH, 96)
    assert geometry.area == 4
    assert geometry.through(Box(0, 0, 48, 160)).area == 0.5


def frames(count=6):
    for index in range(count):
        yield Frame(index, Fraction(index, 25), np.roll(picture(index, WIDTH, HEIGHT), 9 * index, axis=1))


def test_a_clip_is_followed_through_the_window_and_goes_on_from_a_state_bit_for_bit(model):
    def follower():
        return Segmenter(model, fit=Fit(size=64, focus=2, anchor=100))

    whole = [p.prob for _, p in propagate(follower(), frames(), labels())]
    assert all(p.shape == (2, HEIGHT, WIDTH) for p in whole)
    first, second = follower(), follower()
    clip = list(frames())
    for frame, _ in zip(clip[:3], propagate(first, clip[:3], labels()), strict=True):
        assert frame is not None
    second.restore(first.state())
    rest = [p.prob for _, p in propagate(second, clip[3:], labels())]
    assert all(torch.equal(a, b) for a, b in zip(whole[3:], rest, strict=True))
    plain = Segmenter(model, fit=Fit(size=64))
    assert not torch.equal(whole[-1], [p.prob for _, p in propagate(plain, frames(), labels())][-1])


@pytest.mark.parametrize("known", [1, 2])
def test_the_window_stays_longer_where_an_object_was_that_is_not_seen(known):
    left, right = labels(left=110) > 0, labels(left=180) > 0
    focus = Focus((HEIGHT, WIDTH), times=1.5, size=16)
    widths = [focus.aim(labels(left=110) + labels(left=180), cut=False).width]
    for index in range(40):  # the left one is gone from the sixth frame on, or they are one that becomes smaller
        both = np.stack([left & (index < 5), right])[-known:]
        both[-1] |= left & (index < 5)
        inside = torch.from_numpy(both).float().clamp(min=0.5)  # which is not seen yet
        focus.saw(torch.cat([1 - inside.amax(0, keepdim=True), inside]))
        widths.append(focus.aim(None, cut=False).width)
    assert widths[:6] == [150] * 6
    assert (widths[-1] == 150) == (known == 2)


def test_known_objects_are_looked_for_as_before_in_a_frame_that_brings_another_far_away(model, monkeypatch):
    windows, segment = [], Segmenter._segment

    def watched(self, *given):
        windows.append(self._fitted.window)
        return segment(self, *given)

    monkeypatch.setattr(Segmenter, "_segment", watched)
    near, far = np.zeros((2, HEIGHT, WIDTH), np.uint8)
    near[60:80, 40:70], far[150:170, 280:310] = 1, 2
    clip = [frame.rgb for frame in frames(2)]
    usual, late = (Segmenter(model, fit=Fit(size=64, focus=2)) for _ in range(2))
    found = [
        [follower.step(clip[0], near), follower.step(clip[1], later)]
        for follower, later in ((usual, None), (late, far))
    ]
    assert windows[0] == windows[1] != (0, 0, HEIGHT, WIDTH)
    assert torch.allclose(found[0][1].prob[1, :140], found[1][1].prob[1, :140], atol=1e-6)
    assert late._fitted.window.holds(box_of(near + far > 0), margin=0)  # where the frame is memorized


def test_a_window_of_the_whole_frame_changes_nothing(model):
    wide = Segmenter(model, fit=Fit(size=64, focus=1000))
    plain = Segmenter(model, fit=Fit(size=64))
    pairs = zip(propagate(wide, frames(), labels()), propagate(plain, frames(), labels()), strict=True)
    assert all(torch.equal(a.prob, b.prob) for (_, a), (_, b) in pairs)


def test_the_window_that_suits_the_weights_is_looked_at(model, monkeypatch):
    fit = Fit(size=64, focus=2, anchor=100)
    card = replace(card_of(find("compact")), fit=fit)
    monkeypatch.setattr("stmcli.weights.network.card_of", lambda _: card)
    usual = [p for _, p in propagate(make_follower(model, NetworkOptions()), frames(2), labels())]
    told = [p for _, p in propagate(Segmenter(model, fit=fit), frames(2), labels())]
    assert torch.equal(usual[1].prob, told[1].prob)
