"""The rows of the list of faults whose mask is spoilt, or stored in another way, for `stm segment`."""

import re

import numpy as np
import pytest
from conftest import picture
from faults import check_fault, forbid_network
from PIL import Image
from spoilt import bomb

from stmcli.masks import read_values, write_labels
from stmcli.render import palette


def missing(scene):
    scene.mask = scene.folder / "mosk.png"


def missing_with_its_folder(scene):
    scene.mask = scene.folder / "masks" / "mask.png"


def content(data, name="bad.png"):
    def spoil(scene):
        scene.mask = scene.put(name, data)

    return spoil


def special(kind, name):
    def spoil(scene):
        scene.mask = scene.special(kind, name)

    return spoil


def cut_short(scene):
    scene.mask = scene.put("bad.png", scene.mask.read_bytes()[:60])


def is_the_clip(scene):
    scene.mask = scene.clip


def of_size(width, height, value=1):
    def spoil(scene):
        scene.mask = scene.folder / "bad.png"
        labels = np.zeros((height, width), np.uint8)
        labels[:9, :9] = value
        write_labels(scene.mask, labels)

    return spoil


def image(make, name="bad.png"):
    def spoil(scene):
        scene.mask = scene.folder / name
        make().save(scene.mask)

    return spoil


def noise():
    return Image.fromarray(np.random.default_rng(0).integers(0, 255, (48, 64, 3), np.uint8))


def soft_edges():
    ramp = np.minimum(np.arange(64) * 8, 255).astype(np.uint8)
    return Image.fromarray(np.tile(ramp, (48, 1)))


def a_bomb(scene):
    scene.mask = scene.folder / "bad.png"
    bomb(scene.mask)


def of_frame(number):
    def spoil(scene):
        scene.mask = f"{number}:{scene.mask}"

    return spoil


def twice(scene):
    scene.words = ["-m", f"0:{scene.mask}"]


FAULTS = {
    "missing": (missing, 2, r"mosk\.png: no such file.*Did you mean mask\.png\?"),
    "missing with its folder": (missing_with_its_folder, 2, r"mask\.png: no such file.*folder .*masks does not exist"),
    "text": (content(b"words"), 2, r"bad\.png: not an image"),
    "empty": (content(b""), 2, r"bad\.png: empty file"),
    "web page": (content(b"<!DOCTYPE html><html></html>"), 2, r"bad\.png: .*not an image"),
    "is the clip": (is_the_clip, 2, r"clip\.mp4: not an image"),
    "cut": (cut_short, 2, r"bad\.png: (damaged or truncated|.*truncated)"),
    "pipe": (special("pipe", "bad.png"), 2, r"bad\.png: not a regular file"),
    "socket": (special("socket", "bad.png"), 2, r"bad\.png: not a regular file"),
    "device": (special("device", ""), 2, r"/dev/zero: not a regular file"),
    "empty folder": (special("folder", "masks"), 2, r"masks: no masks in this folder"),
    "another size": (of_size(32, 48), 2, r"bad\.png: the mask is 32x48 but clip\.mp4 is 64x48.*nearest-neighbour"),
    "rotated": (of_size(48, 64), 2, r"bad\.png: the mask is 48x64 but clip\.mp4 is 64x48; it looks rotated"),
    "no object": (of_size(64, 48, 0), 2, r"bad\.png: no object in this mask"),
    "unknown colours": (image(noise), 2, r"bad\.png: colour #[0-9a-f]{6} at x=0, y=0"),
    "soft edges": (image(soft_edges), 2, r"bad\.png: soft edges"),
    "photograph as jpeg": (image(lambda: Image.fromarray(picture(0)), "bad.jpg"), 2, r"bad\.jpg: a JPEG.*PNG"),
    "bomb": (a_bomb, 2, r"bad\.png: absurd dimensions"),
    "frame that is not there": (of_frame(9), 2, r"mask\.png: is a mask of frame 9, which clip\.mp4 does not have"),
    "two masks of a frame": (twice, 2, r"mask\.png: a second mask for frame 0"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_spoilt_mask_is_one_line_and_leaves_everything_as_it_was(scene, segment, monkeypatch, fault):
    forbid_network(monkeypatch)
    check_fault(scene, FAULTS[fault], lambda: segment(*scene.job))


# -- the ways to store ids ----------------------------------------------------------------------------------------


def ids(*values, dtype=np.uint8):
    """Return (48, 64) with a block of each value."""
    stored = np.zeros((48, 64), dtype)
    for place, value in enumerate(values):
        stored[:12, 16 * place : 16 * place + 12] = value
    return stored


def with_palette(values):
    made = Image.fromarray(values)
    made.putpalette(palette().tobytes())
    return made


def colours_of(*numbers):
    return Image.fromarray(palette()[ids(*numbers)])


def see_through(values):
    return Image.fromarray(np.dstack([np.full((48, 64, 3), 90, np.uint8), values * np.uint8(200)]))


STORED = {
    "palette": (lambda: with_palette(ids(3, 7)), "a.png", {3, 7}, ""),
    "one bit": (lambda: Image.fromarray(ids(255)).convert("1"), "a.png", {1}, ""),
    "grey of 0 and 255": (lambda: Image.fromarray(ids(255)), "a.png", {1}, ""),
    "grey ids": (lambda: Image.fromarray(ids(2, 5)), "a.png", {2, 5}, ""),
    "16 bits": (lambda: Image.fromarray(ids(300, 1000, dtype=np.uint16)), "a.png", {300, 1000}, ""),
    "palette colours in rgb": (lambda: colours_of(2, 4), "a.png", {2, 4}, ""),
    "alpha": (lambda: see_through(ids(1)), "a.png", {1}, ""),
    "void beside ids": (lambda: with_palette(ids(3, 255)), "a.png", {3}, ""),
    "jpeg in black and white": (lambda: Image.fromarray(ids(255)), "a.jpg", {1}, r"note: .*a\.jpg: a JPEG, read as"),
}


@pytest.mark.parametrize("case", STORED)
def test_however_ids_are_stored_they_are_kept(scene, segment, case):
    make, name, wanted, note = STORED[case]
    image(make, name)(scene)
    result = segment(*scene.job)
    assert result.exit_code == 0, (result.stderr, result.exception)
    first = read_values(scene.output / "masks" / "00000.png")
    assert set(np.unique(first)) - {0} == wanted
    noted = [line for line in result.stderr.splitlines() if line.startswith("note: ")]
    assert len(noted) == bool(note), noted
    assert all(re.search(note, line) for line in noted)
