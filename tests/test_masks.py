import errno
import os
import struct
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from stmcli import images
from stmcli.errors import MaskError, UsageError, WriteError
from stmcli.masks import (
    Convention,
    check_fits,
    is_inverted,
    object_ids,
    read_labels,
    read_values,
    select_objects,
    write_labels,
)
from stmcli.render import palette


def squares(*ids, height=40, width=64):
    """One square for each id, side by side, on background."""
    labels = np.zeros((height, width), np.uint16 if max(ids) > 255 else np.uint8)
    for position, number in enumerate(ids):
        labels[8:30, 3 + 12 * position : 12 + 12 * position] = number
    return labels


def save(path, array, **options):
    Image.fromarray(array).save(path, **options)
    return path


def save_palette(path, labels):
    image = Image.fromarray(labels.astype(np.uint8))
    image.putpalette([level for level in range(256) for _ in range(3)])
    image.save(path)
    return path


def png(path, width, height, depth, color, rows, *, interlaced=False, palette=b""):
    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, color, 0, 0, interlaced))
    header += chunk(b"PLTE", palette) if palette else b""
    content = b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    path.write_bytes(content)
    return path


def refusal(path, *causes, **options):
    with pytest.raises(MaskError) as caught:
        read_labels(path, **options)
    message = str(caught.value)
    assert caught.value.exit_code == 2
    assert message.startswith(f"{path}: ")
    assert "\n" not in message
    for cause in causes:
        assert cause in message
    return message


@pytest.fixture
def path(tmp_path):
    return tmp_path / "mask.png"


# Every way a mask is stored.


def test_palette_index_is_the_id_whatever_the_colours(path):
    labels = squares(1, 7, 200)
    assert np.array_equal(read_labels(save_palette(path, labels)), labels)


def test_one_palette_id_is_kept(path):
    assert object_ids(read_labels(save_palette(path, squares(5)))) == (5,)


@pytest.mark.parametrize("level", [1, 255])
def test_two_valued_grey_is_object_one(path, level):
    labels = read_labels(save(path, squares(level)))
    assert np.array_equal(labels, squares(1))


def test_other_two_valued_grey_is_object_one_with_a_warning(path):
    said = []
    labels = read_labels(save(path, squares(3)), warn=said.append)
    assert object_ids(labels) == (1,)
    assert len(said) == 1
    assert str(path) in said[0]


def test_values_of_two_valued_grey_can_be_read_as_they_are(path):
    assert np.array_equal(read_values(save(path, squares(3))), squares(3))


def test_grey_ids_are_kept(path):
    labels = squares(2, 9, 130)
    assert np.array_equal(read_labels(save(path, labels)), labels)


def test_four_bit_grey_samples_are_ids(path):
    png(path, 4, 1, 4, 0, b"\x00\x01\x2f")
    assert read_labels(path).tolist() == [[0, 1, 2, 15]]


def test_one_bit_is_object_one(path):
    save(path, squares(1).astype(bool))
    with Image.open(path) as image:
        assert image.mode == "1"
    assert np.array_equal(read_labels(path), squares(1))


def test_sixteen_bit_ids_are_kept(path):
    labels = squares(1, 300, 40000)
    assert np.array_equal(read_labels(save(path, labels)), labels)


def test_one_sixteen_bit_id_is_kept(path):
    assert object_ids(read_labels(save(path, squares(300)))) == (300,)


def test_black_and_white_in_sixteen_bits_is_object_one(path):
    assert np.array_equal(read_labels(save(path, squares(65535))), squares(1))


def test_palette_colours_in_rgb_are_ids(path):
    labels = squares(1, 2, 22, 255)
    assert np.array_equal(read_labels(save(path, palette()[labels])), labels)


def test_black_and_white_in_rgb_is_object_one(path):
    rgb = np.repeat(squares(255)[..., None], 3, axis=2)
    assert np.array_equal(read_labels(save(path, rgb)), squares(1))
    assert np.array_equal(read_values(path), squares(255))  # void where other masks have ids


def test_unknown_rgb_colour_is_named_with_a_pixel(path):
    rgb = palette()[squares(1, 2)].copy()
    rgb[5, 6] = (1, 2, 250)
    refusal(save(path, rgb), "#0102fa", "x=6, y=5", "palette PNG")
    rgb[5, 6] = (250, 250, 250)
    refusal(save(path, rgb), "#fafafa", "x=6, y=5", "palette PNG")


def test_alpha_above_127_is_object_one(path):
    rgba = np.full((2, 3, 4), 77, np.uint8)
    rgba[..., 3] = [[0, 127, 128], [255, 1, 200]]
    assert read_labels(save(path, rgba)).tolist() == [[0, 0, 1], [1, 0, 1]]


def test_colours_count_when_alpha_is_opaque_everywhere(path):
    labels = squares(1, 2)
    rgba = np.dstack([palette()[labels], np.full(labels.shape, 255, np.uint8)])
    assert np.array_equal(read_labels(save(path, rgba)), labels)


@pytest.mark.parametrize("mode", ["P", "L"])
def test_255_beside_ids_is_void_and_no_object_and_in_grey_that_is_noted(path, mode):
    labels, notes = squares(1, 2, 255), []
    read = read_labels(save_palette(path, labels) if mode == "P" else save(path, labels), warn=notes.append)
    assert np.array_equal(read, labels)
    assert object_ids(read) == (1, 2)
    assert [note for note in notes if "white (255) beside other grey values is read as void" in note] == notes
    assert len(notes) == (mode == "L")


def test_255_alone_in_a_palette_is_object_one(path):
    assert np.array_equal(read_labels(save_palette(path, squares(255))), squares(1))


@pytest.mark.parametrize("suffix", [".bmp", ".gif", ".tif", ".webp"])
def test_other_lossless_formats_are_read(tmp_path, suffix):
    path = save(tmp_path / f"mask{suffix}", squares(255), **({"lossless": True} if suffix == ".webp" else {}))
    assert np.array_equal(read_labels(path), squares(1))


def test_clearly_binary_jpeg_is_thresholded_with_a_warning(tmp_path):
    path = save(tmp_path / "mask.jpg", squares(255, height=128, width=256), quality=90)
    with pytest.warns(UserWarning, match=r"mask\.jpg: a JPEG") as caught:
        labels = read_labels(path)
    assert len(caught) == 1
    wrong = np.count_nonzero(labels != squares(1, height=128, width=256))
    assert wrong < 10


@pytest.mark.parametrize(("depth", "packed"), [(1, b"\x00\x50"), (2, b"\x00\x1b"), (4, b"\x00\x01\x2f")])
@pytest.mark.parametrize("transparent", [False, True])
def test_narrow_palettes_hold_ids_whatever_their_transparency(path, depth, packed, transparent):
    colours = bytes(range(3 * 2**depth))
    png(path, 4, 1, depth, 3, packed, palette=colours)
    if transparent:
        with Image.open(path) as image:
            image.save(path, transparency=bytes([0, 128]), bits=depth)
        with Image.open(path) as image:
            assert "transparency" in image.info
    with Image.open(path) as image:
        assert image.mode == "P"
    assert read_labels(path).tolist() == {1: [[0, 1, 0, 1]], 2: [[0, 1, 2, 3]], 4: [[0, 1, 2, 15]]}[depth]


def test_two_bit_grey_samples_are_ids(path):
    assert read_labels(png(path, 4, 1, 2, 0, b"\x00\x1b")).tolist() == [[0, 1, 2, 3]]


ADAM7 = [(0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1)]


@pytest.mark.parametrize("color", [0, 3])
def test_interlaced_masks_are_read(path, color):
    labels = squares(1, 2, 3)
    passes = [labels[top::down, left::right] for top, left, down, right in ADAM7]
    rows = b"".join(b"\x00" + row.tobytes() for part in passes for row in part if part.size)
    png(path, 64, 40, 8, color, rows, interlaced=True, palette=palette().tobytes() if color == 3 else b"")
    assert np.array_equal(read_labels(path), labels)


def test_sixteen_bit_colours_of_the_palette_are_ids(path):
    labels = squares(1, 2, 22)
    wide = (palette()[labels].astype(np.uint16) * 257).astype(">u2")
    png(path, 64, 40, 16, 2, b"".join(b"\x00" + row.tobytes() for row in wide))
    assert np.array_equal(read_labels(path), labels)
    png(
        path,
        64,
        40,
        16,
        2,
        b"".join(b"\x00" + row.tobytes() for row in np.repeat(labels[..., None], 3, 2).astype(">u2")),
    )
    refusal(path, "no object")


def test_sixteen_bit_alpha_is_object_one(path):
    pixels = np.array([[[9, 9, 9, alpha] for alpha in (0, 0x7FFF, 0x8000, 0xFFFF)]], ">u2")
    assert read_labels(png(path, 4, 1, 16, 6, b"\x00" + pixels.tobytes())).tolist() == [[0, 0, 1, 1]]


def test_grey_with_alpha_is_its_alpha_or_its_grey_when_that_is_opaque(path):
    grey, alpha = squares(1, 2, 5), squares(200)
    assert np.array_equal(read_labels(save(path, np.dstack([grey, alpha]))), squares(1))
    assert np.array_equal(read_labels(save(path, np.dstack([grey, np.full_like(grey, 255)]))), grey)
    assert np.array_equal(read_labels(save(path, np.dstack([squares(255), np.full_like(grey, 255)]))), squares(1))


def exif(orientation):
    tags = Image.Exif()
    tags[0x0112] = orientation
    return tags


@pytest.mark.parametrize(("orientation", "turns"), [(3, 2), (6, 3), (8, 1)])
def test_a_jpeg_is_read_as_it_is_shown(tmp_path, orientation, turns):
    mask = squares(255, height=128, width=256)
    path = save(tmp_path / "mask.jpg", mask, quality=95, exif=exif(orientation))
    shown = np.rot90(mask > 0, turns)
    labels = read_labels(path, size=shown.shape[::-1], warn=lambda _: None)
    assert np.count_nonzero(labels != shown) < 10


def test_a_png_is_read_as_its_pixels_lie_and_a_turned_tiff_not_at_all(tmp_path):
    assert np.array_equal(read_labels(save(tmp_path / "m.png", squares(1, 2), exif=exif(6))), squares(1, 2))
    refusal(save(tmp_path / "m.tif", squares(1, 2), exif=exif(6)), "turns on its side", "PNG")


def test_a_binary_jpeg_for_print_is_thresholded_too(tmp_path):
    path = tmp_path / "mask.jpg"
    Image.fromarray(squares(255, height=128, width=256)).convert("RGB").convert("CMYK").save(path, quality=95)
    with Image.open(path) as image:
        assert image.mode == "CMYK"
    assert np.count_nonzero(read_labels(path, warn=lambda _: None) != squares(1, height=128, width=256)) < 10


def test_soft_edges_between_palette_colours_are_named(path):
    soft = Image.fromarray(palette()[squares(1, 2)]).resize((101, 67), Image.Resampling.BILINEAR)
    soft.save(path)
    refusal(path, "is not in the DAVIS palette", "stm mask fix")


# What is refused.


def test_missing_file_offers_the_nearest_name(path):
    save(path, squares(1))
    refusal(path.with_name("maks.png"), "no such file", "Did you mean mask.png?")


def test_missing_file_in_a_missing_folder(tmp_path):
    refusal(tmp_path / "nowhere" / "mask.png", "no such file")


def test_folder_is_refused(tmp_path):
    refusal(tmp_path, "folder")


def test_fifo_is_refused_without_hanging(path):
    os.mkfifo(path)
    refusal(path, "not a regular file")


@pytest.mark.parametrize("content", [b"<html>no</html>", b"%PDF-1.4", b"\x00" * 100], ids=["html", "pdf", "zeros"])
def test_other_files_are_refused(path, content):
    path.write_bytes(content)
    refusal(path, "not an image")


def test_empty_file_is_refused(path):
    path.touch()
    refusal(path, "empty file")


@pytest.mark.parametrize("share", [0.3, 0.6, 0.95, 0.99])
def test_truncated_png_is_refused(path, share):
    save(path, np.random.default_rng(0).integers(0, 5, (64, 64), np.uint8))
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    refusal(path, "truncated")


def test_truncated_jpeg_is_refused(tmp_path):
    path = save(tmp_path / "mask.jpg", squares(255, height=200, width=300))
    path.write_bytes(path.read_bytes()[:-400])
    refusal(path, "truncated")


@given(offset=st.integers(0, 10_000), bit=st.integers(0, 7), cut=st.booleans())
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_damage_is_read_exactly_or_refused_in_one_line(tmp_path, offset, bit, cut):
    path, labels = tmp_path / "damaged.png", squares(1, 2, 3)
    write_labels(path, labels)
    content = bytearray(path.read_bytes())
    offset %= len(content)
    content[offset] ^= 1 << bit
    path.write_bytes(content[:offset] if cut else content)
    message = ""
    try:
        assert np.array_equal(read_labels(path), labels)
    except MaskError as error:
        message = str(error)
    assert message == "" or (message.startswith(f"{path}: ") and "\n" not in message)


def test_declared_dimensions_beyond_reason_are_refused(path):
    refusal(png(path, 100_000, 100_000, 8, 0, b"\x00" * 1000), "absurd dimensions")


def test_bomb_is_refused_before_it_is_unpacked(path, monkeypatch):
    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", None)
    side = 8200
    png(path, side, side, 1, 0, (b"\x00" + b"\xff" * (side // 8)) * side)
    assert path.stat().st_size < 30_000
    refusal(path, "absurd dimensions")


def test_size_of_the_clip_is_asked_for_before_the_pixels(path):
    save(path, squares(1, height=40, width=64))
    assert read_labels(path, size=(64, 40)).shape == (40, 64)
    path.write_bytes(path.read_bytes()[:60])
    refusal(path, "64x40", "128x80", "nearest-neighbour", size=(128, 80))


def test_soft_edges_are_not_taken_for_ids(path):
    soft = Image.fromarray(squares(255, height=200, width=200)).resize((333, 333), Image.Resampling.BICUBIC)
    soft.save(path)
    refusal(path, "soft edges")


@pytest.mark.parametrize("labels", [np.zeros((9, 9), np.uint8), squares(255) // 2 * 0], ids=["black", "empty"])
def test_mask_without_object_is_refused(path, labels):
    refusal(save(path, labels), "no object")


def test_values_without_object_can_be_read(path):
    assert not read_values(save(path, np.zeros((9, 9), np.uint8))).any()


def test_photograph_as_jpeg_is_refused_and_png_asked_for(tmp_path):
    ramp = np.add.outer(np.arange(100), np.arange(120)).astype(np.uint8)
    path = save(tmp_path / "mask.jpg", np.dstack([ramp, ramp[::-1], 255 - ramp]))
    refusal(path, "JPEG", "PNG")


def test_a_jpeg_of_ids_is_refused(tmp_path):
    labels = np.zeros((128, 256), np.uint8)
    labels[20:100, 30:90] = 1  # as dark as black
    refusal(save(tmp_path / "colours.jpg", palette()[labels]), "JPEG", "PNG")
    grey = np.where(labels, 255, 0).astype(np.uint8)
    grey[40:80, 150:190] = 128  # a twentieth of the picture
    refusal(save(tmp_path / "grey.jpg", grey), "JPEG", "PNG")


@pytest.mark.parametrize("value", [-1, 70_000])
def test_ids_that_no_sixteen_bits_hold_are_refused(tmp_path, value):
    labels = squares(300).astype(np.int32)
    labels[0, 0] = value
    refusal(save(tmp_path / "mask.tif", labels), "ids outside 0..65535", "16-bit PNG")


def test_colour_mode_without_a_rule_is_refused(tmp_path):
    path = tmp_path / "mask.tif"
    Image.new("CMYK", (8, 8)).save(path)
    refusal(path, "CMYK", "palette PNG")


def test_unreadable_file_is_refused(path, monkeypatch):
    def denied(*_args, **_options):
        raise PermissionError(errno.EACCES, "Permission denied")

    save(path, squares(1))
    monkeypatch.setattr(Image, "open", denied)
    refusal(path, "Permission denied")


# Checks.


def test_mask_that_fits_passes():
    check_fits(squares(1, height=40, width=64), Path("mask.png"), 64, 40, "clip.mp4")


def test_mask_of_another_size_is_refused_with_both_sizes():
    with pytest.raises(MaskError) as caught:
        check_fits(squares(1, height=480, width=640), Path("mask.png"), 1280, 720, "clip.mp4")
    expected = "mask.png: the mask is 640x480 but clip.mp4 is 1280x720. Resize the mask with nearest-neighbour, or "
    assert str(caught.value) == expected + "use stm mask fix"


def test_mask_with_swapped_sides_looks_rotated():
    with pytest.raises(MaskError, match=r"mask\.png: .* 40x64 but clip\.mp4 is 64x40; it looks rotated"):
        check_fits(squares(1, height=64, width=40), Path("mask.png"), 64, 40, "clip.mp4")


def test_a_mask_that_takes_most_of_the_frame_and_of_its_edge_looks_inverted():
    labels = np.ones((40, 60), np.uint8)
    labels[10:25, 20:40] = 0
    assert is_inverted(labels)
    assert not is_inverted(1 - labels)
    assert not is_inverted(np.pad(labels[1:-1, 1:-1] | 1, 1))  # large, and away from the edge
    hollow = np.ones((40, 60), np.uint8)
    hollow[1:-1, 1:-1] = 0
    assert not is_inverted(hollow)
    corner = np.ones((40, 60), np.uint8)
    corner[36:, :] = corner[:, 54:] = 0  # two of the four sides
    assert not is_inverted(corner)


def test_selected_objects_keep_their_ids_and_void():
    kept = select_objects(squares(1, 3, 7, 255), (3, 7))
    assert np.array_equal(kept, np.where(squares(1, 3, 7, 255) == 1, 0, squares(1, 3, 7, 255)))
    assert object_ids(kept) == (3, 7)


@pytest.mark.parametrize("number", [0, 2, 255])
def test_selecting_an_unknown_object_lists_those_there_are(number):
    with pytest.raises(UsageError, match=rf"mask\.png: no object {number} .*there are: 1, 3$") as caught:
        select_objects(squares(1, 3, 255), (1, number), path=Path("mask.png"))
    assert caught.value.exit_code == 2


# Writing.


@pytest.mark.parametrize("ids", [(1,), (3,), (1, 2, 255), (4, 254)])
def test_written_labels_come_back_in_the_davis_palette(path, ids):
    write_labels(path, squares(*ids))
    with Image.open(path) as image:
        assert image.mode == "P"
        assert image.getpalette() == palette().ravel().tolist()
    assert np.array_equal(read_labels(path), squares(*ids))
    assert object_ids(squares(*ids)) == tuple(number for number in ids if number != 255)


@pytest.mark.parametrize("dtype", [np.uint16, np.int32, np.int64])
def test_ids_above_255_are_written_as_sixteen_bit_grey(path, dtype):
    labels = squares(1, 256, 65000).astype(dtype)
    write_labels(path, labels)
    with Image.open(path) as image:
        assert image.mode == "I;16"
    assert np.array_equal(read_labels(path), labels)


def test_id_256_alone_is_written_in_sixteen_bits(path):
    write_labels(path, squares(256))
    assert np.array_equal(read_labels(path), squares(256))


def test_small_ids_of_a_wide_type_are_written_in_eight_bits(path):
    write_labels(path, squares(1, 2).astype(np.int64))
    with Image.open(path) as image:
        assert image.mode == "P"


def test_labels_that_are_no_ids_are_a_programming_error(path):
    with pytest.raises(ValueError, match="must be"):
        write_labels(path, np.full((4, 4), 70_000))
    with pytest.raises(ValueError, match="must be"):
        write_labels(path, np.full((4, 4), -1))
    with pytest.raises(ValueError, match="must be"):
        write_labels(path, np.zeros((1, 4, 4), np.uint8))
    assert not path.exists()


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int32])
def test_object_ids_are_all_values_but_background_and_void(dtype):
    rng = np.random.default_rng(0)
    for values in ([0, 1, 254, 255], [0, 5], [255], [9], np.arange(256)):
        labels = rng.choice(np.array(values), (13, 7)).astype(dtype)
        assert object_ids(labels) == tuple(sorted({*labels.ravel().tolist()} - {0, 255}))
    assert object_ids(labels[:, ::2]) == tuple(sorted({*labels[:, ::2].ravel().tolist()} - {0, 255}))


def test_writing_leaves_only_the_mask(path):
    write_labels(path, squares(1))
    write_labels(path, squares(2))
    assert os.listdir(path.parent) == [path.name]


def test_full_disk_keeps_the_old_mask_and_leaves_nothing_behind(path, monkeypatch):
    write_labels(path, squares(1))

    def full(part, content):
        with open(part, "wb") as file:
            file.write(content[:10])
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(WriteError, match="the disk is full") as caught:
        write_labels(path, squares(2))
    assert caught.value.exit_code == 1
    assert str(caught.value).startswith(f"{path}: ")
    assert os.listdir(path.parent) == [path.name]
    assert object_ids(read_labels(path)) == (1,)


def test_interrupted_writing_keeps_the_old_mask(path, monkeypatch):
    def interrupted(*_paths):
        raise KeyboardInterrupt

    write_labels(path, squares(1))
    monkeypatch.setattr(os, "replace", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write_labels(path, squares(2, 3))
    assert os.listdir(path.parent) == [path.name]
    assert object_ids(read_labels(path)) == (1,)


def test_missing_folder_is_a_write_error(tmp_path):
    with pytest.raises(WriteError, match="No such file"):
        write_labels(tmp_path / "nowhere" / "00000.png", squares(1))


def test_large_images_leave_the_warning_filters_as_they_were(path):
    before = list(warnings.filters)
    png(path, 10_000, 10_000, 8, 0, b"")
    refusal(path, "absurd dimensions")
    assert warnings.filters == before
    assert images.MAX_PIXELS < Image.MAX_IMAGE_PIXELS


def test_65535_beside_ids_is_an_id_in_all_masks_that_belong_together():
    convention = Convention()
    masks = [np.array([[0, 7, 65535]], np.int32), np.array([[0, 65535, 0]], np.int32)]
    for values in masks:
        convention.learn(values, False)
    found = [object_ids(convention.labels(values, False, path=Path("m.png"), warn=print)) for values in masks]
    assert found == [(7, 65535), (65535,)]
