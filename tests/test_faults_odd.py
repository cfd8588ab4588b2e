"""The rows of the list of faults whose clip is odd and no fault, for `stm segment`: it is done, and the oddity said."""

import json
import re
from fractions import Fraction
from itertools import pairwise
from pathlib import Path

import av
import numpy as np
import pytest
from conftest import picture
from PIL import Image
from spoilt import hidden_frames, stamped_clip
from test_faults_clip import THREE, frames

from stmcli.masks import read_values


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
    scene.words = ["-e", "overlay, alpha"]


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
