"""Read back the stills that stm writes, by hand and with Pillow."""

import zlib

import numpy as np
import pytest
from PIL import Image

from stmcli.errors import WriteError
from stmcli.video import write_rgba


def read_png_by_hand(path):
    """Return the (H, W, 4) samples of a PNG whose rows are unfiltered or filtered by their left neighbour."""
    content, position, chunks = path.read_bytes(), 8, {}
    while position < len(content):
        length, kind = int.from_bytes(content[position : position + 4]), content[position + 4 : position + 8]
        chunks[kind] = chunks.get(kind, b"") + content[position + 8 : position + 8 + length]
        position += 12 + length
    width, height = (int.from_bytes(chunks[b"IHDR"][at : at + 4]) for at in (0, 4))
    depth, colour = chunks[b"IHDR"][8:10]
    assert colour == 6, "RGBA"
    step = depth // 2
    rows = np.frombuffer(zlib.decompress(chunks[b"IDAT"]), np.uint8).reshape(height, 1 + step * width)
    assert set(rows[:, 0]) <= {0, 1}
    pixels = rows[:, 1:].reshape(height, width, step)
    summed = np.where(rows[:, :1, None] == 1, np.cumsum(pixels, axis=1, dtype=np.uint8), pixels)
    return summed if depth == 8 else summed.view(">u2").astype(np.uint16)


@pytest.mark.parametrize("kind", [np.uint8, np.uint16])
@pytest.mark.parametrize("size", [(64, 48), (63, 47), (1, 1), (70, 5)])
def test_stills_keep_every_bit(tmp_path, kind, size):
    rgba = np.random.default_rng(3).integers(0, np.iinfo(kind).max, (*size[::-1], 4), dtype=kind, endpoint=True)
    write_rgba(tmp_path / "x.png", rgba)
    found = read_png_by_hand(tmp_path / "x.png")
    assert found.dtype == kind
    assert (found == rgba).all()
    with Image.open(tmp_path / "x.png") as image:
        assert image.mode == "RGBA"
        assert (np.asarray(image) == (rgba if kind == np.uint8 else rgba >> 8)).all()
    assert [file.name for file in tmp_path.iterdir()] == ["x.png"]


def test_a_still_may_be_a_view_of_another_array(tmp_path):
    rgba = np.random.default_rng(4).integers(0, 256, (20, 30, 4), dtype=np.uint8)[::-1, ::2]
    write_rgba(tmp_path / "x.png", rgba)
    assert (read_png_by_hand(tmp_path / "x.png") == rgba).all()


def test_a_still_that_cannot_be_written_leaves_what_was_there(tmp_path):
    (tmp_path / "x.png").mkdir()
    with pytest.raises(WriteError, match=r"x\.png: cannot be written"):
        write_rgba(tmp_path / "x.png", np.zeros((4, 4, 4), np.uint8))
    assert [file.name for file in tmp_path.iterdir()] == ["x.png"]
