from fractions import Fraction

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFilter

from stmcli.errors import MaskError
from stmcli.ghosts import find_ghosts, settle, thin_codes
from stmcli.maskfix import clean, fix_mask, parts
from stmcli.masks import read_labels, write_labels
from stmcli.render import palette

TIMES = 4  # the drawings are this much larger than the masks


def drawing(*ids, width=160, height=120):
    """A disc and two overlapping polygons of the given ids, four times larger than the mask."""
    image = Image.new("L", (TIMES * width, TIMES * height))
    draw = ImageDraw.Draw(image)
    shapes = [(60, 60, 300, 320), [(200, 100), (560, 180), (340, 400)], [(380, 330), (620, 300), (560, 460)]]
    draw.ellipse(shapes[0], fill=ids[0])
    for number, shape in zip(ids[1:], shapes[1:], strict=False):
        draw.polygon(shape, fill=number)
    return np.array(image)


def shrunk(large):
    """Each mask pixel with the id that most of its drawn pixels have."""
    height, width = large.shape
    cells = large.reshape(height // TIMES, TIMES, width // TIMES, TIMES).swapaxes(1, 2).reshape(-1, TIMES**2)
    return np.array([np.bincount(cell).argmax() for cell in cells]).reshape(height // TIMES, width // TIMES)


def smooth(large, *, levels=None):
    """The drawing in palette colours (or in these grey levels) with anti-aliased edges, made by a box filter."""
    colours = palette()[large] if levels is None else np.array(levels, np.uint8)[large]
    size = (large.shape[1] // TIMES, large.shape[0] // TIMES)
    return Image.fromarray(colours).resize(size, Image.Resampling.BOX)


def wrong(labels, truth):
    """The share of pixels that differ."""
    return float((labels != truth).mean())


@pytest.fixture
def path(tmp_path):
    return tmp_path / "mask.png"


def refusal(path, *causes, **options):
    with pytest.raises(MaskError) as caught:
        fix_mask(path, **options)
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)
    for cause in causes:
        assert cause in str(caught.value)


# Ghosts, by hand.


def grey(codes):
    return np.repeat(codes[..., None], 3, axis=-1).astype(np.float32)


def test_a_thin_code_between_two_flat_ones_is_a_ghost_and_one_within_is_not():
    codes = np.zeros((9, 12), np.int32)
    codes[:, 6:] = 10
    codes[:, 5] = 4  # the edge
    codes[4, 9] = 7  # a speck within 10, next to nothing else
    assert thin_codes(codes).tolist() == [4, 7]
    assert np.array_equal(find_ghosts(codes, grey), codes == 4)
    assert not find_ghosts(codes, grey, proper=[4]).any()
    settled = settle(codes, codes == 4, grey)
    assert np.array_equal(settled, np.where(codes == 4, 0, codes))
    codes[codes == 4] = 6
    assert np.array_equal(settle(codes, codes == 6, grey), np.where(codes == 6, 10, codes))


def test_a_line_on_the_edge_that_is_no_blend_of_its_sides_is_no_ghost():
    codes = np.zeros((9, 12), np.int32)
    codes[:, 6:] = 10
    codes[:, 5] = 12
    assert thin_codes(codes).tolist() == [12]
    assert not find_ghosts(codes, grey).any()


def test_a_ring_of_a_code_that_is_flat_elsewhere_is_a_ghost():
    codes = np.zeros((20, 30), np.int32)
    codes[3:9, 3:9] = 1
    codes[4:14, 15:25] = 1
    codes[5:13, 16:24] = 2
    ring = (codes == 1) & (np.arange(30) > 12)
    assert np.array_equal(find_ghosts(codes, grey), ring)


def test_wrong_pixels_far_from_right_ones_take_the_closest():
    codes = np.full((5, 40), 7, np.int32)
    codes[:, :2], codes[:, 38:] = 1, 2
    settled = settle(codes, codes == 7, grey)
    assert set(settled[:, 6:18].ravel()) == {1}
    assert set(settled[:, 22:34].ravel()) == {2}


# Soft edges in every mode.


@pytest.mark.parametrize("ids", [(1, 2, 3), (4, 9, 2), (1, 77, 200)])
def test_smooth_palette_colours_become_the_ids_they_were_drawn_in(path, ids):
    large = drawing(*ids)
    smooth(large).save(path)
    cleaned = clean(path)
    assert {*np.unique(cleaned.labels)} == {0, *ids}
    assert wrong(cleaned.labels, shrunk(large)) < 0.006
    assert cleaned.ghosts > 100
    assert cleaned.problem.startswith(f"soft edges: {cleaned.ghosts} pixels in {cleaned.shades} values")


def test_an_export_with_a_palette_of_its_own_is_read_by_its_colours(path):
    large = drawing(1, 2, 3)
    indexed = smooth(large).quantize(64)
    assert read_labels_of(indexed, path) != [0, 1, 2, 3]
    cleaned = clean(path)
    assert wrong(cleaned.labels, shrunk(large)) < 0.01
    assert "indices are no ids" in cleaned.problem


def read_labels_of(image, path):
    image.save(path)
    return np.unique(read_labels(path)).tolist()


@pytest.mark.parametrize(
    "colours",
    [
        dict.fromkeys(range(1, 256), (128, 0, 0)),
        {0: (128, 0, 0), 5: (0, 128, 0), 7: (128, 128, 0)},  # no black area
        {0: (128, 0, 0), 5: (0, 0, 0), 7: (10, 200, 30)},  # not the DAVIS palette
    ],
)
def test_a_palette_that_happens_to_be_coloured_is_left_alone(path, colours):
    image = Image.fromarray(shrunk(drawing(5, 7)).astype(np.uint8))
    image.putpalette([level for number in range(256) for level in colours.get(number, (0, 0, 0))])
    image.save(path)
    cleaned = clean(path)
    assert np.array_equal(cleaned.labels, shrunk(drawing(5, 7)))
    assert (cleaned.changes, cleaned.problem) == ((), "")


@pytest.mark.parametrize("mode", ["L", "P"])
def test_ids_resized_as_if_they_were_light_are_found(path, mode):
    labels = shrunk(drawing(1, 2, 30)).astype(np.uint8)
    soft = Image.fromarray(labels).resize((293, 220), Image.Resampling.BILINEAR)
    hard = np.array(Image.fromarray(labels).resize((293, 220), Image.Resampling.NEAREST))
    if mode == "P":
        soft.putpalette(palette().tobytes())
    soft.save(path)
    before = wrong(np.array(soft), hard)
    cleaned = clean(path)
    assert {*np.unique(cleaned.labels)} == {0, 1, 2, 30}
    assert wrong(cleaned.labels, hard) < before / 1.5


@pytest.mark.parametrize("blur", [0, 3])
def test_a_soft_matte_is_cut_at_the_middle(path, blur):
    matte = smooth(drawing(1, 2), levels=[0, 255, 255]).filter(ImageFilter.GaussianBlur(blur))
    matte.save(path)
    with pytest.raises(MaskError, match="soft edges"):
        read_labels(path)
    assert np.array_equal(clean(path).labels, np.array(matte) > 127)


def test_few_greys_between_black_and_white_are_no_ids(path):
    values = np.zeros((30, 30), np.uint8)
    values[:, 16:] = 255
    values[:, 15], values[:, 14] = 170, 85
    Image.fromarray(values).save(path)
    cleaned = clean(path)
    assert np.array_equal(cleaned.labels, values > 127)
    assert (cleaned.ghosts, cleaned.shades) == (60, 2)


def test_void_borders_and_thin_ids_stay(path):
    labels = shrunk(drawing(3, 8)).astype(np.uint8)
    labels[100:102, 10:150] = 5  # a line on background
    edge = np.zeros(labels.shape, bool)
    edge[:, 1:] = labels[:, 1:] != labels[:, :-1]
    labels[edge] = 255
    write_labels(path, labels)
    cleaned = clean(path)
    assert np.array_equal(cleaned.labels, labels)
    assert cleaned.problem == ""


def test_sixteen_bit_ids_stay_and_their_soft_edges_go(path):
    labels = np.zeros((40, 60), np.uint16)
    labels[5:30, 5:25], labels[5:30, 30:50] = 300, 40000
    Image.fromarray(labels).save(path)
    assert np.array_equal(clean(path).labels, labels)
    soft = labels.copy()
    soft[5:30, 25] = 130
    Image.fromarray(soft).save(path)
    assert np.array_equal(clean(path).labels, labels)


def test_one_stray_pixel_of_a_known_id_is_cleaned_but_no_reason_to_refuse(path):
    labels = np.zeros((30, 50), np.uint8)
    labels[3:9, 3:9], labels[3:27, 25:45] = 1, 2
    write_labels(path, np.where(np.arange(1500).reshape(30, 50) == 10 * 50 + 24, 1, labels))
    cleaned = clean(path)
    assert (cleaned.ghosts, cleaned.problem) == (1, "")
    assert cleaned.changes == ("soft edges: 1 pixel in 1 value resolved to the ids beside them",)
    assert np.array_equal(np.delete(cleaned.labels, 24, axis=1), np.delete(labels, 24, axis=1))
    write_labels(path, np.where(np.arange(1500).reshape(30, 50) == 10 * 50 + 24, 1, np.where(labels == 1, 0, labels)))
    assert clean(path).problem.startswith("soft edges: 1 pixel")  # else id 1 would be an object


# Colours beside the palette.


def test_colours_near_the_palette_are_snapped_and_counted(path):
    labels = shrunk(drawing(1, 2))
    rgb = palette()[labels].copy()
    rgb[labels == 1] = (126, 3, 2)
    Image.fromarray(rgb).save(path)
    cleaned = clean(path)
    assert np.array_equal(cleaned.labels, labels)
    assert cleaned.changes == (f"{(labels == 1).sum()} pixels in 1 value snapped to the DAVIS palette",)


def test_a_colour_far_from_the_palette_is_named_not_guessed(path):
    rgb = palette()[shrunk(drawing(1, 2))].copy()
    rgb[:20, 130:150] = (255, 0, 0)
    Image.fromarray(rgb).save(path)
    refusal(path, "#ff0000 at x=130, y=0 is near no colour", "id 1 is #800000")


def test_colours_of_ones_own_get_the_ids_that_are_said(path):
    large = drawing(1, 2, 5)
    own = np.zeros((256, 3), np.uint8)
    own[[1, 2, 5]] = (255, 0, 0), (0, 255, 0), (70, 130, 180)
    size = (large.shape[1] // TIMES, large.shape[0] // TIMES)
    Image.fromarray(own[large]).resize(size, Image.Resampling.BOX).save(path)
    refusal(path, "Say which id it is by --id", "=1")
    fixed = fix_mask(path, ids={0xFF0000: 1, 0x00FF00: 2, 0x4682B4: 5})
    assert wrong(fixed.labels, shrunk(large)) < 0.005
    refusal(path, "no pixel is #123456", ids={0xFF0000: 1, 0x00FF00: 2, 0x4682B4: 5, 0x123456: 7})
    write_labels(path, fixed.labels)
    refusal(path, "its values are ids, not colours", ids={0xFF0000: 1})


def test_ids_of_two_palette_colours_can_be_swapped(path):
    labels = shrunk(drawing(1, 2, 5))
    Image.fromarray(palette()[labels]).save(path)
    fixed = fix_mask(path, ids={0x800000: 2, 0x008000: 1})
    assert np.array_equal(fixed.labels, np.array([0, 2, 1, 3, 4, 5])[labels])


def test_thousands_of_colours_near_the_palette_are_snapped(path):
    labels = np.kron([[3, 5], [6, 7]], np.ones((80, 120), int))
    noise = np.random.default_rng(0).integers(-6, 7, (*labels.shape, 3))
    rgb = np.clip(palette()[labels] + noise, 0, 255).astype(np.uint8)
    assert len(np.unique(rgb.reshape(-1, 3), axis=0)) > 4096
    Image.fromarray(rgb).save(path)
    assert np.array_equal(fix_mask(path).labels, labels)


def test_an_id_of_a_colour_is_said_in_words(stm, path, tmp_path):
    rgb = np.zeros((48, 64, 3), np.uint8)
    rgb[8:30, 8:30], rgb[32:44, 8:60] = (255, 0, 0), (0, 0, 255)
    Image.fromarray(rgb).save(path)
    made = stm("mask", "fix", path, "-o", tmp_path / "a.png", "--id", "ff0000=7", "--id", "#0000FF=2")
    assert made.exit_code == 0, made.stderr
    assert read_labels(tmp_path / "a.png")[[10, 40], [10, 10]].tolist() == [7, 2]
    for word in ("ff0000", "red=1", "ff0000=255", "ff0000=x"):
        refused = stm("mask", "fix", path, "-o", tmp_path / "b.png", "--id", word)
        assert (refused.exit_code, "Write it like ff0000=1" in refused.stderr) == (2, True)
    refused = stm("mask", "fix", path, "-o", tmp_path / "b.jpg", "--id", "ff0000=7")
    said = "b.jpg: masks and frames are written as PNG alone. Call it b.png."
    assert (refused.exit_code, said in refused.stderr) == (2, True)


def test_a_photograph_is_no_mask(path):
    noise = np.random.default_rng(0).integers(0, 256, (60, 80, 3), np.uint8)
    Image.fromarray(noise).filter(ImageFilter.GaussianBlur(2)).save(path)
    refusal(path, "no flat colour")


def test_a_clear_jpeg_and_alpha_are_read_as_ever(tmp_path):
    white = np.where(shrunk(drawing(1)), 255, 0).astype(np.uint8)
    Image.fromarray(white).save(tmp_path / "m.jpg", quality=92)
    cleaned = clean(tmp_path / "m.jpg")
    assert wrong(cleaned.labels, white > 127) < 0.005
    assert "a JPEG" in cleaned.changes[0]
    Image.fromarray(np.dstack([white * 0 + 9] * 3 + [white // 2 + 20])).save(tmp_path / "m.png")
    assert np.array_equal(clean(tmp_path / "m.png").labels, white > 127)


# Size, rotation, specks.


def test_a_mask_is_turned_only_where_one_way_fits(path, make_clip):
    labels = shrunk(drawing(1, 2)).astype(np.uint8)
    write_labels(path, np.rot90(labels, -1))  # painted on a frame as it is stored
    upright = make_clip("upright.mp4", frames=2, width=160, height=120)
    refusal(path, "120x160 but upright.mp4 is 160x120; it looks rotated", "--rotate 90 or --rotate 270", video=upright)
    assert np.array_equal(fix_mask(path, video=upright, turn=90).labels, labels)
    assert np.array_equal(fix_mask(path, video=upright, turn=270).labels, np.rot90(labels, 2))
    phone = make_clip("phone.mp4", frames=2, width=120, height=160, rotation=90)
    fixed = fix_mask(path, video=phone)
    assert np.array_equal(fixed.labels, labels)
    assert fixed.changes == ("turned by 90 degrees counter-clockwise, as the clip itself is",)


@pytest.mark.parametrize(("width", "height"), [(80, 60), (322, 240), (106, 80), (22, 16)])
def test_a_mask_of_the_same_shape_is_resized_by_its_nearest_pixels(path, make_clip, width, height):
    labels = shrunk(drawing(1, 2)).astype(np.uint8)
    write_labels(path, labels)
    clip = make_clip(frames=2, width=width, height=height)
    fixed = fix_mask(path, video=clip)
    for y, x in np.ndindex(height, width):
        row, column = int(Fraction(2 * y + 1, 2 * height) * 120), int(Fraction(2 * x + 1, 2 * width) * 160)
        assert fixed.labels[y, x] == labels[row, column]
    assert fixed.changes == (f"resized from 160x120 to {width}x{height}, nearest neighbour",)


def test_a_mask_of_another_shape_is_refused(path, make_clip):
    write_labels(path, shrunk(drawing(1)))
    refusal(path, "160x120", "128x120, of another shape", video=make_clip(frames=2, width=128, height=120))


def test_an_object_lost_by_resizing_is_named(path, make_clip):
    labels = shrunk(drawing(1)).astype(np.uint8)
    labels[100, 100] = 6
    write_labels(path, labels)
    fixed = fix_mask(path, video=make_clip(frames=2, width=40, height=30))
    assert fixed.changes[-1] == "object 6 is too small to be left"


def test_specks_go_to_what_is_around_them_only_when_asked(path):
    labels = np.zeros((40, 60), np.uint8)
    labels[5:30, 5:30] = 1
    labels[10:12, 10:12] = 2  # within object 1
    labels[20, 50] = 2  # on background
    labels[33:38, 33:38] = 2
    labels[0, 59] = 3  # all there is of object 3
    write_labels(path, labels)
    assert np.array_equal(fix_mask(path).labels, labels)
    assert parts(labels, 2)[1].tolist() == [4, 1, 25]
    few = fix_mask(path, speck=3)
    assert few.changes == ("object 2: 1 speck of 1 pixel removed",)
    expected = labels.copy()
    expected[20, 50], expected[10:12, 10:12] = 0, 1
    assert np.array_equal(fix_mask(path, speck=5).labels, expected)


def test_specks_at_the_edge_large_ones_and_one_within_another_go_too(path):
    kept = np.zeros((40, 60), np.uint8)
    kept[5:30, 5:30] = 1
    kept[30:35, 48:58] = 1  # 50 pixels are no fewer than 50
    kept[2:20, 40:44] = 2
    labels = kept.copy()
    labels[0:3, 33:36] = labels[38:40, 0:2] = 1
    labels[33:37, 5:15] = 1  # more pixels than there are around it
    labels[35:38, 25:28] = 1
    labels[36, 26] = 2
    write_labels(path, labels)
    assert np.array_equal(fix_mask(path, speck=50).labels, kept)


def test_white_beside_colours_is_refused_with_what_to_do(tmp_path):
    pixels = np.full((40, 60, 3), 255, np.uint8)
    pixels[5:20, 5:20] = (0x80, 0, 0)
    Image.fromarray(pixels).save(tmp_path / "m.png")
    with pytest.raises(MaskError, match=r"white beside colours may be anything\. Paint the background black"):
        fix_mask(tmp_path / "m.png")
