import numpy as np
import pytest

from stmcli.evaluate.sheet import _colour
from stmcli.page.document import chip
from stmcli.render import matte, overlay, palette, vivid

FIRST = [
    (0, 0, 0),
    (128, 0, 0),
    (0, 128, 0),
    (128, 128, 0),
    (0, 0, 128),
    (128, 0, 128),
    (0, 128, 128),
    (128, 128, 128),
    (64, 0, 0),
    (192, 0, 0),
]


def noise(height=40, width=60):
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)


def test_the_palette_is_the_published_one():
    colors = palette()
    assert (colors.shape, colors.dtype) == ((256, 3), np.uint8)
    assert colors[:10].tolist() == [list(color) for color in FIRST]
    assert colors[255].tolist() == [224, 224, 192]
    assert len({tuple(color) for color in colors.tolist()}) == 256


def test_the_palette_cannot_be_spoiled():
    with pytest.raises(ValueError, match="read-only"):
        palette()[0] = 1


def test_the_background_and_the_input_stay_untouched():
    rgb, labels = noise(), np.zeros((40, 60), dtype=np.uint8)
    labels[10:20, 10:20] = 2
    before = rgb.copy()
    drawn = overlay(rgb, labels)
    assert (rgb == before).all()
    assert (drawn[labels == 0] == rgb[labels == 0]).all()
    assert (drawn[labels == 2] != rgb[labels == 2]).any(axis=-1).all()


def test_without_objects_nothing_changes():
    rgb = noise()
    drawn = overlay(rgb, np.zeros((40, 60), dtype=np.uint8))
    assert (drawn == rgb).all()
    assert drawn is not rgb


@pytest.mark.parametrize("opacity", [0.0, 0.3, 0.5, 1.0])
def test_the_inside_is_mixed_by_opacity(opacity):
    rgb, labels = noise(), np.full((40, 60), 3, dtype=np.uint8)
    expected = rgb * (1 - opacity) + vivid()[3] * opacity
    assert np.abs(overlay(rgb, labels, opacity=opacity, contour=False) - expected).max() <= 1.5


def test_the_contour_is_one_pixel_of_full_colour_inside_the_object():
    rgb, labels = noise(), np.zeros((40, 60), dtype=np.uint8)
    labels[10:20, 10:20] = 1
    full = (overlay(rgb, labels) == vivid()[1]).all(axis=2)
    ring = np.zeros((40, 60), dtype=bool)
    ring[10:20, 10:20] = True
    ring[11:19, 11:19] = False
    assert (full == ring).all()


def test_the_contour_grows_with_the_frame_and_stops_at_its_border():
    rgb, labels = np.full((1200, 60, 3), 90, dtype=np.uint8), np.zeros((1200, 60), dtype=np.uint8)
    labels[:600] = 1
    full = (overlay(rgb, labels) == vivid()[1]).all(axis=2)
    assert np.flatnonzero(full[:, 30]).tolist() == [595, 596, 597, 598, 599]
    assert not full[:590].any()


def test_objects_that_touch_are_both_outlined():
    labels = np.ones((40, 60), dtype=np.int32)
    labels[:, 30:] = 300
    drawn = overlay(np.full((40, 60, 3), 90, dtype=np.uint8), labels)
    assert (drawn[:, 29] == vivid()[1]).all()
    assert (drawn[:, 30] == vivid()[45]).all()  # 300 is 255 entries after 45


@pytest.mark.parametrize(("number", "entry"), [(1, 1), (254, 254), (255, 255), (256, 1), (300, 45), (511, 1)])
def test_an_id_has_its_entry_of_the_palette_in_films_pages_and_sheets(number, entry):
    drawn = overlay(np.zeros((4, 4, 3), np.uint8), np.full((4, 4), number), opacity=1.0)
    red, green, blue = vivid()[entry].tolist()
    assert drawn[0, 0].tolist() == [red, green, blue]
    assert f"rgb({red} {green} {blue})" in chip(number)
    assert _colour(number) == "#" + palette()[entry].tobytes().hex()


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int32, np.int64])
def test_every_integer_type_draws_the_same(dtype):
    labels = np.zeros((40, 60), dtype=np.uint8)
    labels[5:25, 5:25], labels[20:39, 20:50] = 7, 255
    assert (overlay(noise(), labels.astype(dtype)) == overlay(noise(), labels)).all()


def test_a_matte_is_grey_and_rounded():
    alpha = np.array([[0, 0.5, 1, 1.2, -0.1]], dtype=np.float32)
    drawn = matte(alpha)
    assert drawn.dtype == np.uint8
    assert drawn[0].tolist() == [[g] * 3 for g in (0, 128, 255, 255, 0)]


def test_vivid_colours_keep_their_hue_and_reach_full_brightness():
    assert vivid()[1].tolist() == [255, 0, 0]
    assert vivid()[3].tolist() == [255, 255, 0]
    assert vivid()[0].tolist() == [0, 0, 0]
    assert (vivid()[1:].max(axis=1) == 255).all()
