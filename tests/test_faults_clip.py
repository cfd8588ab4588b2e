"""The rows of the list of faults whose clip is spoilt, for `stm segment`."""

import os
import re

import numpy as np
import pytest
from conftest import picture, write_sound_file
from faults import check_fault, forbid_network
from PIL import Image
from spoilt import bomb, cut, flipped_clip, huge_clip, no_frames, two_sizes

from stmcli.masks import read_values


def content(data, name="a.mp4"):
    def spoil(scene):
        scene.clip = scene.put(name, data)

    return spoil


def missing(scene):
    scene.clip = scene.folder / "clop.mp4"


def special(kind, name):
    def spoil(scene):
        scene.clip = scene.special(kind, name)

    return spoil


def still_image(scene):
    scene.clip = scene.put("still.mp4", scene.mask.read_bytes())


def only_sound(scene):
    scene.clip = write_sound_file(scene.folder / "sound.mp4")


def only_cover_art(scene):
    Image.fromarray(picture(0)).save(scene.folder / "cover.png")
    scene.clip = write_sound_file(scene.folder / "sound.mp4", cover=scene.folder / "cover.png")


def without_frames(name):
    def spoil(scene):
        scene.clip = no_frames(scene.make_clip, scene.folder / name)

    return spoil


def cut_clip(name, share=0.5, **settings):
    def spoil(scene):
        scene.clip = cut(scene.make_clip(name, frames=40, **settings), share)

    return spoil


def made(make, *words):
    def spoil(scene):
        scene.clip, scene.words = make(scene.make_clip), [*words]

    return spoil


def frames(names, *, size=(64, 48), spoil=None):
    """Return what makes the clip a folder of frames; `spoil` changes the folder afterwards."""

    def make(scene):
        scene.clip = scene.folder / "frames"
        scene.clip.mkdir()
        for index, name in enumerate(names):
            Image.fromarray(picture(index, *size)).save(scene.clip / name)
        if spoil:
            spoil(scene.clip)

    return make


def one_larger(folder):
    Image.fromarray(picture(1, 96, 64)).save(folder / "1.png")


def one_cut(folder):
    cut(folder / "1.png", 0.6)


def one_bomb(folder):
    bomb(folder / "1.png")


def one_pipe(folder):
    os.mkfifo(folder / "3.png")


THREE = ("0.png", "1.png", "2.png")
FAULTS = {
    "missing video": (missing, 2, r"clop\.mp4: no such file.*Did you mean clip\.mp4\?"),
    "empty folder called mp4": (special("folder", "x.mp4"), 2, r"x\.mp4: no frames"),
    "pipe": (special("pipe", "x.mp4"), 2, r"x\.mp4: not a regular file"),
    "socket": (special("socket", "x.mp4"), 2, r"x\.mp4: not a regular file"),
    "device": (special("device", ""), 2, r"/dev/zero: not a regular file"),
    "empty": (content(b""), 1, r"a\.mp4: empty file"),
    "text": (content(b"just words\n" * 9), 1, r"a\.mp4: .*text file, not a video"),
    "pdf": (content(b"%PDF-1.7\n" + bytes(99)), 1, r"a\.mp4: .*PDF document, not a video"),
    "web page": (content(b"<!DOCTYPE html><html></html>"), 1, r"a\.mp4: .*web page"),
    "lfs pointer": (content(b"version https://git-lfs.github.com/spec/v1\noid sha256:1\n"), 1, r"a\.mp4: .*Git LFS"),
    "noise": (content(bytes(range(256)) * 40), 1, r"a\.mp4: not a video"),
    "still image": (still_image, 1, r"still\.mp4: .*still image \(PNG\)"),
    "only sound": (only_sound, 1, r"sound\.mp4: no video stream \(only audio"),
    "only cover art": (only_cover_art, 1, r"sound\.mp4: no video stream \(only cover art"),
    "no frames in mp4": (without_frames("none.mp4"), 1, r"none\.mp4: .*0 frames"),
    "no frames in mkv": (without_frames("none.mkv"), 1, r"none\.mkv: .*0 frames"),
    "cut mp4": (cut_clip("cut.mp4"), 1, r"cut\.mp4: the recording or copy did not finish \(moov atom missing\)"),
    "mp4 cut in its index": (cut_clip("cut.mp4", 0.97), 1, r"cut\.mp4: the recording or copy did not finish"),
    "cut faststart mp4": (
        cut_clip("cut.mp4", 0.75, movflags="faststart"),
        1,
        r"cut\.mp4: .*: \d+ of 40 frames can be read.*--on-corrupt stop",
    ),
    "cut mkv": (cut_clip("cut.mkv"), 1, r"cut\.mkv: the file was cut short: .* of 1\.60 s.*--on-corrupt stop"),
    "cut webm": (cut_clip("cut.webm", 0.7), 1, r"cut\.webm: the file was cut short: .*--on-corrupt stop"),
    "cut avi": (cut_clip("cut.avi", 0.7), 1, r"cut\.avi: the file was cut short: \d+ of \d+ bytes.*--on-corrupt stop"),
    "avi cut in its head": (cut_clip("cut.avi", 0.2), 1, r"cut\.avi: the file was cut short: \d+ of \d+ bytes.*again"),
    "absurd dimensions": (made(huge_clip), 1, r"huge\.avi: .*absurd size"),
    "gap in the frames": (frames(("0.png", "1.png", "3.png")), 1, r"frames: frame 2 is missing after 1\.png"),
    "frames of two sizes": (frames(THREE, spoil=one_larger), 1, r"1\.png: is 96x64 but 0\.png is 64x48"),
    "frame that is a bomb": (frames(THREE, spoil=one_bomb), 1, r"1\.png: more than 64 megapixels"),
    "frame that is a pipe": (frames(THREE, spoil=one_pipe), 2, r"3\.png: not a regular file"),
}

# Only the decoder notices these: the network is loaded, and the masks before the damage stay.
DAMAGED = {
    "flipped bits": (made(flipped_clip), 1, r"clip\.mp4: frame 11 cannot be decoded.*--on-corrupt stop or skip", 11),
    "flipped bits, stop": (made(flipped_clip, "--on-corrupt", "stop"), 3, r"clip\.mp4: 1 frame .*\(11\)", 11),
    "flipped bits, skip": (made(flipped_clip, "--on-corrupt", "skip"), 3, r"clip\.mp4: 1 frame .*\(11\)", 24),
    "another size mid-stream": (made(two_sizes), 1, r"both\.ts: frame 6 is 96x64 but the first is 64x48", 6),
    "cut frame in a folder": (frames(THREE, spoil=one_cut), 1, r"1\.png: not an image that can be read", 1),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_spoilt_clip_is_one_line_and_leaves_everything_as_it_was(scene, segment, monkeypatch, fault):
    forbid_network(monkeypatch)
    check_fault(scene, FAULTS[fault], lambda: segment(*scene.job))


@pytest.mark.parametrize("fault", DAMAGED)
def test_damage_names_its_frame_and_keeps_the_masks_before_it(scene, segment, fault):
    spoil, code, message, kept = DAMAGED[fault]
    spoil(scene)
    result = segment(*scene.job, "-q")
    lines = result.stderr.splitlines()
    assert (result.exit_code, len(lines)) == (code, 1), result.stderr
    assert lines[0].startswith("error: ")
    assert re.search(message, lines[0]), lines[0]
    masks = sorted(path.name for path in (scene.output / "masks").iterdir())
    assert len(masks) == kept
    assert (scene.output / "overlay.mp4").exists() == (code == 3)


def test_a_skipped_frame_repeats_the_mask_before_it(scene, segment):
    made(flipped_clip, "--on-corrupt", "skip")(scene)
    assert segment(*scene.job).exit_code == 3
    masks = [read_values(scene.output / "masks" / f"{index:05d}.png") for index in (10, 11)]
    assert np.array_equal(*masks)
