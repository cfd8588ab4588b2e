"""The rows of the list of faults whose clip is spoilt, or odd, for `stm segment`."""

import json
import os
import re
from fractions import Fraction
from itertools import pairwise
from pathlib import Path

import av
import numpy as np
import pytest
from conftest import picture, write_sound_file
from faults import check_fault, forbid_network
from PIL import Image
from spoilt import bomb, cut, flipped_clip, hidden_frames, huge_clip, no_frames, stamped_clip, two_sizes

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


# -- odd, and no fault --------------------------------------------------------------------------------------------


def clip(name="odd.mp4", **settings):
    def make(scene):
        scene.clip = scene.make_clip(name, frames=3, **settings)

    return make


def turned(degrees):
    def make(scene):
        scene.clip = scene.make_clip("turned.mp4", frames=3, rotation=degrees)
        if degrees != 180:
            scene.mask = scene.folder / "upright.png"
            Image.fromarray(np.pad(np.ones((16, 12), np.uint8), ((0, 48), (0, 36)))).save(scene.mask)

    return make


def odd_sides(scene):
    scene.clip = scene.make_clip("odd.mp4", frames=3, width=65, height=47, pix_fmt="yuv444p")
    scene.mask = scene.folder / "odd.png"
    Image.fromarray(np.pad(np.ones((12, 16), np.uint8), ((0, 35), (0, 49)))).save(scene.mask)
    scene.words = ["-e", "overlay", "-e", "alpha"]


def edit_list(scene):
    scene.clip = hidden_frames(scene.make_clip, scene.folder / "edited.mp4", frames=50, hidden=13)


def stamped(*ticks):
    def make(scene):
        scene.clip = stamped_clip(scene.folder / "stamped.mkv", ticks)

    return make


def interlaced(scene):
    options = {"preset": "ultrafast", "x264-params": "tff=1"}
    scene.clip = scene.make_clip("fields.mp4", frames=3, options=options)


def hdr(scene):
    scene.clip = scene.folder / "hdr.mkv"
    with av.open(str(scene.clip), "w") as out:
        stream = out.add_stream("libx264", rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p10le"
        context = stream.codec_context
        context.colorspace, context.color_trc, context.color_primaries, context.color_range = 9, 16, 9, 1
        for index in range(3):
            out.mux(stream.encode(av.VideoFrame.from_ndarray(picture(index), "rgb24").reformat(format="yuv420p10le")))
        out.mux(stream.encode(None))


def junk(folder):
    for name in (".DS_Store", "Thumbs.db", "._2.png", "notes.txt"):
        (folder / name).write_bytes(b"junk")


def called(name):
    def make(scene):
        scene.clip = scene.clip.rename(scene.folder / name).name
        scene.mask = scene.mask.rename(scene.folder / f"{name}.png").name
        if name.startswith("-"):
            scene.clip, scene.mask = f"./{scene.clip}", f"./{scene.mask}"

    return make


VFR = [0, 40, 100, 120, 400]
TIMES_MOVED = r"note: 2 duplicate or backward timestamps were moved forward"
ODD = {
    "folder called mp4": (lambda s: frames(THREE)(s) or setattr(s, "clip", s.clip.rename(s.folder / "x.mp4")), "", 3),
    "edit list": (edit_list, "note: a new scene begins at frames 7, 27", 37),  # as picture() has them
    "odd sides": (odd_sides, r"note: overlay\.mp4 is 66x48: libx264 takes no odd size", 3),
    "turned by 90": (turned(90), "", 3),
    "turned by 180": (turned(180), "", 3),
    "turned by 270": (turned(270), "", 3),
    "variable rate": (stamped(*VFR), "", 5),
    "times twice and backwards": (stamped(0, 40, 40, 80, 60, 120), TIMES_MOVED, 6),
    "10 bits": (clip(pix_fmt="yuv420p10le"), r"note: processed with 8 bits per colour", 3),
    "hdr": (hdr, r"note: HDR is processed as if it were SDR", 3),
    "interlaced": (interlaced, r"note: interlaced frames are processed as they are", 3),
    "pixels not square": (clip(aspect=Fraction(4, 3)), r"note: pixels are not square", 3),
    "natural order and junk": (frames(("f8.png", "f9.png", "f10.png"), spoil=junk), "", 3),
    "colon in the name": (called("take:1.mp4"), "", 3),
    "spaces in the name": (called("my clip .mp4"), "", 3),
    "unicode in the name": (called("ü 日本 🎬.mp4"), "", 3),
    "newline in the name": (called("a\nb.mp4"), "", 3),
    "dash before the name": (called("-x.mp4"), "", 3),
    "pattern in the name": (called("s%04d.mp4"), "", 3),
    "quotes and markup in the name": (called('it\'s [red]"x"&.mp4'), "", 3),
    "bytes that are no text in the name": (called(b"caf\xe9.mp4".decode(errors="surrogateescape")), "", 3),
}


@pytest.mark.parametrize("case", ODD)
def test_an_odd_clip_is_done_and_what_changes_is_said_once(scene, segment, case):
    make, note, count = ODD[case]
    make(scene)
    result = segment(*scene.job)
    assert result.exit_code == 0, (result.stderr, result.exception)
    report = json.loads((scene.output / "report.json").read_text())
    noted = [line for line in result.stderr.splitlines() if line.startswith("note: ")]
    assert len(noted) == bool(note), noted
    for line in noted:
        assert re.search(note, line), line
    assert (report["status"], report["frames_written"], len(report["notes"])) == ("ok", count, len(noted))
    size = (report["source"]["width"], report["source"]["height"])
    masks = sorted((scene.output / "masks").iterdir())
    assert [read_values(path).shape[::-1] for path in masks] == [size] * count
    if "times" in case or "rate" in case:
        times = [frame["time"] for frame in report["frames"]]
        assert all(before < after for before, after in pairwise(times))
        assert case != "variable rate" or times == [tick / 1000 for tick in VFR]


def test_the_first_mask_of_a_turned_clip_is_upright(scene, segment):
    turned(90)(scene)
    assert segment(*scene.job).exit_code == 0
    assert np.array_equal(read_values(scene.output / "masks" / "00000.png"), read_values(Path(scene.mask)))


def test_a_good_scene_is_segmented(scene, segment):
    result = segment(*scene.job)
    assert result.exit_code == 0, result.stderr
