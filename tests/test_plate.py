import struct
from pathlib import Path

import numpy as np
import pytest
from conftest import picture
from PIL import Image
from plates import attribute, exr, write_plate

from stmcli.errors import VideoError
from stmcli.video import open_source
from stmcli.video.plate import is_plate, plate_size, read_plate

LIGHT = np.linspace(-0.25, 2, 6 * 5 * 3, dtype=np.float32).reshape(5, 6, 3)


def srgb(light):
    light = np.clip(light.astype(np.float64), 0, 1)
    return 255 * np.where(light <= 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055)


@pytest.mark.parametrize("kind", ["e", "f"])
def test_linear_light_of_an_exr_is_shown_as_srgb(tmp_path, kind):
    path = tmp_path / "a.exr"
    path.write_bytes(exr(LIGHT[:, :, ::-1], kind=kind))
    assert plate_size(path) == (6, 5)
    rgb = read_plate(path)
    assert rgb.dtype == np.uint8
    assert np.abs(rgb - srgb(LIGHT)).max() < 0.6


def test_an_exr_of_brightness_alone_is_grey_and_what_is_no_number_is_black(tmp_path):
    light = LIGHT[:, :, :1].copy()
    light[0, :3, 0] = np.nan, np.inf, -np.inf
    (tmp_path / "a.exr").write_bytes(exr(light, names="Y"))
    rgb = read_plate(tmp_path / "a.exr")
    assert (rgb == rgb[:, :, :1]).all()
    assert rgb[0, :3, 0].tolist() == [0, 255, 0]
    assert np.abs(rgb[1:, :, 0] - srgb(light)[1:, :, 0]).max() < 0.6


def test_an_exr_with_more_or_less_than_is_shown_has_the_size_and_place_that_are_shown(tmp_path):
    (tmp_path / "less.exr").write_bytes(exr(LIGHT[:, :, ::-1], at=(2, 1), window=(0, 0, 11, 9)))
    assert plate_size(tmp_path / "less.exr") == (12, 10)
    rgb = read_plate(tmp_path / "less.exr")
    assert np.abs(rgb[1:6, 2:8] - srgb(LIGHT)).max() < 0.6
    assert (rgb[6:] == 0).all()
    (tmp_path / "more.exr").write_bytes(exr(LIGHT[:, :, ::-1], at=(-1, -1), window=(0, 0, 3, 2)))
    assert np.abs(read_plate(tmp_path / "more.exr") - srgb(LIGHT)[1:4, 1:5]).max() < 0.6


@pytest.mark.parametrize(("left", "top"), [(1, 1), (0, 1), (1, 0)])
def test_an_exr_whose_picture_begins_elsewhere_is_refused(tmp_path, left, top):
    (tmp_path / "a.exr").write_bytes(exr(LIGHT, window=(left, top, 4, 3)))
    with pytest.raises(VideoError, match=f"its display window begins at {left},{top}"):
        open_source(tmp_path)


def test_a_long_header_is_read(tmp_path):
    whole = exr(LIGHT[:, :, ::-1])
    more = attribute("cryptomatte/manifest", "string", b"x" * 300_000)
    head, rest = whole[:8], whole[8:]
    end = len(whole) - 5 * (8 + 6 * 3 * 4)  # where the lines begin
    table = end - 5 * 8
    offsets = [offset + len(more) for offset in struct.unpack_from("<5Q", whole, table)]
    (tmp_path / "a.exr").write_bytes(head + more + rest[: table - 8] + struct.pack("<5Q", *offsets) + whole[end:])
    assert plate_size(tmp_path / "a.exr") == (6, 5)
    assert np.abs(read_plate(tmp_path / "a.exr") - srgb(LIGHT)).max() < 0.6


def test_passes_beside_the_frames_are_left_out_and_a_cut_first_plate_is_survived(tmp_path):
    for number in range(3):
        Image.fromarray(picture(number)).save(tmp_path / f"f.{number}.png")
        (tmp_path / f"f.{number}.exr").write_bytes(exr(LIGHT))
    with open_source(tmp_path) as source:
        assert (source.count, source.info.codec) == (3, "png")
        assert "left out beside the other images: f.0.exr, f.1.exr, f.2.exr" in source.warnings
    (tmp_path / "f.1.exr").write_bytes(exr(LIGHT)[:-9])
    with open_source(tmp_path / "f.#.exr", on_corrupt="skip", start=1) as source:
        assert [frame.corrupt for frame in source] == [True, False]


@pytest.mark.parametrize("keep", [0, 3, 100, 300, -90, -1])
def test_an_exr_that_is_not_whole_is_refused(tmp_path, keep):
    whole = exr(LIGHT)
    (tmp_path / "a.exr").write_bytes(whole[:keep])
    with pytest.raises(VideoError, match=r"a\.exr: (not an image|the file was cut short)"):
        read_plate(tmp_path / "a.exr")


def test_a_rendering_that_was_stopped_is_refused(tmp_path):
    whole = bytearray(exr(LIGHT))
    place = len(whole) - 5 * (8 + 6 * 3 * 4) - 2 * 8  # the offsets of the last two lines
    whole[place : place + 16] = bytes(16)
    (tmp_path / "a.exr").write_bytes(whole)
    with pytest.raises(VideoError, match="its rendering was stopped"):
        read_plate(tmp_path / "a.exr")


@pytest.mark.parametrize("offset", [0, 9, 2**20])
@pytest.mark.parametrize("line", [0, 2, 4])
def test_a_table_that_points_elsewhere_is_refused(tmp_path, line, offset):
    whole = bytearray(exr(LIGHT))
    struct.pack_into("<Q", whole, len(whole) - 5 * (8 + 6 * 3 * 4) - (5 - line) * 8, offset)
    (tmp_path / "a.exr").write_bytes(whole)
    with pytest.raises(VideoError, match="the file was cut short"):
        read_plate(tmp_path / "a.exr")


def test_the_size_is_that_of_the_first_part_whatever_its_attributes_are_called(tmp_path):
    first, second = (exr(LIGHT, window=window)[8 : -5 * (8 + 8 + 6 * 3 * 4)] for window in (None, (0, 0, 1, 1)))
    more = attribute("a" * 200, "string", b"x")
    (tmp_path / "a.exr").write_bytes(struct.pack("<2I", 20000630, 0x1402) + more + first + second + b"\0")
    assert plate_size(tmp_path / "a.exr") == (6, 5)
    (tmp_path / "b.exr").write_bytes(struct.pack("<2I", 20000631, 0x1402) + first + b"\0")
    with pytest.raises(ValueError, match="no OpenEXR header"):
        plate_size(tmp_path / "b.exr")


@pytest.mark.parametrize(("width", "height"), [(0, 5), (5, 0)])
def test_a_plate_without_a_size_is_refused(tmp_path, width, height):
    (tmp_path / "a.tga").write_bytes(bytes(12) + struct.pack("<2H", width, height) + bytes(100))
    with pytest.raises(ValueError, match="it has no size"):
        plate_size(tmp_path / "a.tga")


def test_lines_may_lie_in_any_order(tmp_path):
    whole = bytearray(exr(LIGHT[:, :, ::-1]))
    lines = 5 * (8 + 6 * 3 * 4)
    size, table = lines // 5, len(whole) - lines - 5 * 8
    offsets = struct.unpack_from("<5Q", whole, table)
    parts = [whole[offset : offset + size] for offset in offsets]
    whole = whole[:table] + struct.pack("<5Q", *offsets[::-1]) + b"".join(parts[::-1])
    (tmp_path / "a.exr").write_bytes(whole)
    assert np.abs(read_plate(tmp_path / "a.exr") - srgb(LIGHT)).max() < 0.6
    (tmp_path / "a.exr").write_bytes(whole[:-1])
    with pytest.raises(VideoError, match="the file was cut short"):
        read_plate(tmp_path / "a.exr")


def of_two_parts():
    """Return an OpenEXR file whose second part begins at line -9: headers, tables, and chunks of part, y and bytes."""
    header, lines = b"", []
    for part, at in enumerate([(0, 0), (0, -9)]):
        whole = exr(LIGHT[:, :, ::-1], at=at, window=(0, 0, 5, 4))
        end = len(whole) - 5 * (8 + 6 * 3 * 4)
        more = attribute("name", "string", b"ab"[part : part + 1]) + attribute("type", "string", b"scanlineimage")
        header += more + attribute("chunkCount", "int", struct.pack("<i", 5)) + whole[8 : end - 5 * 8]
        lines += [struct.pack("<i", part) + whole[end:][place : place + 80] for place in range(0, 400, 80)]
    start = 8 + len(header) + 1 + 10 * 8
    offsets = [start + place * 84 for place in range(10)]
    return b"".join([struct.pack("<2I", 20000630, 0x1002), header, b"\0", struct.pack("<10Q", *offsets), *lines])


def test_of_several_parts_the_first_is_read_when_all_are_whole(tmp_path):
    whole = of_two_parts()
    (tmp_path / "a.exr").write_bytes(whole)
    assert np.abs(read_plate(tmp_path / "a.exr") - srgb(LIGHT)).max() < 0.6
    (tmp_path / "a.exr").write_bytes(whole[:-84])  # where the last line would begin
    with pytest.raises(VideoError, match="the file was cut short"):
        read_plate(tmp_path / "a.exr")
    table = len(whole) - 10 * 84 - 8
    (tmp_path / "a.exr").write_bytes(whole[:table] + bytes(8) + whole[table + 8 :])
    with pytest.raises(VideoError, match="its rendering was stopped"):
        read_plate(tmp_path / "a.exr")


def test_tiles_are_read(tmp_path):
    light = np.linspace(0, 1, 40, dtype=np.float32).reshape(40, 1, 1)
    whole = exr(light, names="Y")
    end = len(whole) - 40 * (8 + 4)
    head = whole[8 : end - 40 * 8 - 1] + attribute("tiles", "tiledesc", struct.pack("<2IB", 1, 1, 0)) + b"\0"
    start = 8 + len(head) + 40 * 8
    tiles = [struct.pack("<4iI", 0, y, 0, 0, 4) + light[y].tobytes() for y in range(40)]
    offsets = struct.pack("<40Q", *(start + 24 * y for y in range(40)))
    (tmp_path / "a.exr").write_bytes(struct.pack("<2I", 20000630, 0x202) + head + offsets + b"".join(tiles))
    assert np.abs(read_plate(tmp_path / "a.exr") - srgb(light)).max() < 0.6


def test_kinds_are_told_by_names_of_any_case():
    assert [is_plate(Path(name)) for name in ("a.exr", "A.EXR", "a.Dpx", "a.png")] == [True, True, True, False]


@pytest.mark.parametrize("suffix", [".dpx", ".tga"])
def test_dpx_and_targa_are_read_as_they_were_written(tmp_path, suffix):
    write_plate(tmp_path / f"a{suffix}", rgb := picture(3, 50, 34))
    assert plate_size(tmp_path / f"a{suffix}") == (50, 34)
    assert (read_plate(tmp_path / f"a{suffix}") == rgb).all()


def test_a_deep_dpx_is_read_to_within_a_level(tmp_path):
    rgb = picture(3, 50, 34)
    write_plate(tmp_path / "a.dpx", rgb.astype(np.uint16) * 257)
    assert np.abs(read_plate(tmp_path / "a.dpx").astype(int) - rgb).max() <= 1


def test_a_packed_targa_and_one_with_alpha_are_read(tmp_path):
    rgb = picture(3, 50, 34)
    Image.fromarray(rgb).save(tmp_path / "0.tga", compression="tga_rle")
    assert (read_plate(tmp_path / "0.tga") == rgb).all()
    Image.fromarray(np.dstack([rgb, np.full((34, 50), 9, np.uint8)])).save(tmp_path / "1.tga")
    assert (read_plate(tmp_path / "1.tga") == rgb).all()


def test_a_sequence_of_plates_is_a_clip_and_says_what_it_loses(tmp_path):
    for number in (1001, 1002):
        (tmp_path / f"shot.{number}.exr").write_bytes(exr(LIGHT, kind="e"))
    with open_source(tmp_path / "shot.####.exr") as source:
        frames = list(source)
        info = source.info
        assert (info.width, info.height, info.codec, info.color.bits) == (6, 5, "exr", 16)
        assert any("linear light" in warning for warning in source.warnings)
    assert [frame.index for frame in frames] == [1001, 1002]


@pytest.mark.parametrize("suffix", [".exr", ".dpx", ".tga"])
@pytest.mark.parametrize("content", [b"", b"x" * 5000, bytes(5000), struct.pack("<2I", 20000630, 2) + bytes(5000)])
def test_what_is_no_plate_is_named(tmp_path, suffix, content):
    (tmp_path / f"a{suffix}").write_bytes(content)
    with pytest.raises(VideoError, match=rf"a\{suffix}: (empty|not an image|more than)"):
        open_source(tmp_path)


def test_an_absurd_size_is_refused_before_it_is_read(tmp_path):
    (tmp_path / "a.exr").write_bytes(exr(LIGHT, window=(0, 0, 99999, 99999)))
    with pytest.raises(VideoError, match="more than 64 megapixels"):
        open_source(tmp_path)
