"""Every container, codec, pace, turn and parity that a clip may come in: all frames, their times, upright."""

from fractions import Fraction
from itertools import product

import av
import numpy as np
import pytest
from conftest import picture
from PIL import Image

from stmcli.video import frame_times, open_source
from stmcli.video.orientation import Orientation
from stmcli.video.probe import _key_picture, open_container, pick_video

QUICK = {"preset": "ultrafast", "crf": "10"}
CODECS = {  # pixel formats that take odd sizes
    ".mp4": {"libx264": ("yuv444p", QUICK), "mpeg4": ("yuv420p", {"qscale": "2"})},
    ".mov": {"libx264": ("yuv444p10le", QUICK), "prores_ks": ("yuv444p10le", {}), "qtrle": ("argb", {})},
    ".mkv": {"libx264": ("yuv444p", QUICK), "ffv1": ("yuv420p", {}), "mjpeg": ("yuvj420p", {"qscale": "2"})},
    ".webm": {"libvpx-vp9": ("yuv420p", {"deadline": "realtime", "cpu-used": "8", "crf": "10", "b": "0"})},
    ".avi": {"mpeg4": ("yuv420p", {"qscale": "2"}), "libx264": ("yuv444p", {"preset": "medium", "crf": "10"})},
    ".ts": {"libx264": ("yuv444p", {"preset": "medium", "crf": "10"}), "mpeg2video": ("yuv420p", {"qscale": "2"})},
}
TURNS = (".mp4", ".mov", ".mkv", ".webm")  # containers that can say that a picture is turned
EXACT = (".mp4", ".mov", ".avi", ".ts")  # the others round to 1 ms
CONSTANT, VARIABLE = (0, 1, 2, 3, 4), (0, 3, 4, 9, 13)  # ticks of 1/25 s
UNIT = 1 << 16
MATRICES = [  # a, b, c, d of all eight ways to hold a picture: shown (a x + c y, b x + d y)
    (1, 0, 0, 1),
    (0, 1, -1, 0),
    (-1, 0, 0, -1),
    (0, -1, 1, 0),
    (-1, 0, 0, 1),
    (1, 0, 0, -1),
    (0, 1, 1, 0),
    (0, -1, -1, 0),
]


def cases():
    for suffix, codecs in CODECS.items():
        paces = (CONSTANT,) if suffix == ".avi" else (CONSTANT, VARIABLE)
        turns = (0, 90, 180, 270) if suffix in TURNS else (0,)
        yield from product((suffix,), codecs, paces, turns, ((64, 48), (67, 51)))


def case_name(case):
    return str(case) if isinstance(case, (str, int)) else "vfr" if case is VARIABLE else "x".join(map(str, case))


@pytest.mark.parametrize(("suffix", "codec", "ticks", "rotation", "size"), list(cases()), ids=case_name)
def test_what_comes_in_is_right(make_clip, suffix, codec, ticks, rotation, size):
    layout, options = CODECS[suffix][codec]
    path = make_clip(
        f"clip{suffix}",
        frames=5,
        width=size[0],
        height=size[1],
        ticks=ticks,
        codec=codec,
        pix_fmt=layout,
        options=options,
        rotation=rotation,
    )
    with open_source(path) as source:
        frames = list(source)
        assert (source.info.width, source.info.height) == (size if rotation % 180 == 0 else size[::-1])
        assert (source.info.rotation, source.info.flip, source.corrupt_frames) == (rotation, "none", [])
        assert not [warning for warning in source.warnings if "time" in warning or "declares" in warning]
    first = frames[0].time
    for index, (frame, tick) in enumerate(zip(frames, ticks, strict=True)):
        assert frame.index == index
        assert abs(frame.time - first - Fraction(tick, 25)) <= (0 if suffix in EXACT else Fraction(1, 1000))
        upright = np.rot90(picture(index, *size), rotation // 90)
        assert frame.rgb.shape == upright.shape
        assert np.abs(frame.rgb.astype(int) - upright).mean() < 6
    assert frame_times(path) == tuple(frame.time for frame in frames)


def shown(stored, matrix):
    """Return a stored picture as its display matrix shows it, pixel by pixel."""
    a, b, c, d = matrix
    y, x = np.indices(stored.shape[:2])
    across, down = a * x + c * y, b * x + d * y
    across, down = across - across.min(), down - down.min()
    upright = np.zeros((down.max() + 1, across.max() + 1, 3), stored.dtype)
    upright[down, across] = stored
    return upright


@pytest.mark.parametrize("suffix", TURNS)
@pytest.mark.parametrize("matrix", MATRICES, ids=str)
def test_a_display_matrix_is_followed_turned_or_mirrored(make_clip, suffix, matrix):
    a, b, c, d = matrix
    whole = (a * UNIT, b * UNIT, 0, c * UNIT, d * UNIT, 0, 0, 0, 1 << 30)
    path = make_clip(f"clip{suffix}", frames=2, matrix=whole)
    with open_source(path) as source:
        frame, info = next(iter(source)), source.info
    expected = shown(picture(0), matrix)
    assert frame.rgb.shape == expected.shape == (info.height, info.width, 3)
    assert np.abs(frame.rgb.astype(int) - expected).mean() < 6
    assert frame.rgb.flags.c_contiguous
    assert (Orientation(info.rotation, info.flip).apply(picture(0)) == expected).all()
    assert (info.flip != "none") == (a * d - b * c < 0)


def test_a_track_header_of_a_phone_is_followed(make_clip):
    path = make_clip("clip.mov", frames=2)
    content = path.read_bytes()
    plain = b"".join(n.to_bytes(4, "big") for n in (UNIT, 0, 0, 0, UNIT, 0, 0, 0, 1 << 30))
    front = b"".join(
        n.to_bytes(4, "big", signed=True) for n in (0, -UNIT, 0, -UNIT, 0, 0, 48 * UNIT, 64 * UNIT, 1 << 30)
    )
    header = content.index(b"tkhd")
    place = content.index(plain, header)
    path.write_bytes(content[:place] + front + content[place + len(front) :])
    with open_source(path) as source:
        frame = next(iter(source))
    assert np.abs(frame.rgb.astype(int) - shown(picture(0), (0, -1, -1, 0))).mean() < 6


def test_a_turn_in_exif_is_followed(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned clockwise
    Image.fromarray(picture(0)).save(tmp_path / "still.jpg", exif=exif, quality=95)
    with av.open(str(tmp_path / "clip.mov"), "w") as out:
        stream = out.add_stream("mjpeg", rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuvj420p"
        packet = av.Packet((tmp_path / "still.jpg").read_bytes())
        packet.pts = packet.dts = 0
        packet.time_base, packet.stream, packet.is_keyframe = Fraction(1, 25), stream, True
        out.mux(packet)
    with open_source(tmp_path / "clip.mov") as source:
        frame = next(iter(source))
    assert np.abs(frame.rgb.astype(int) - np.rot90(picture(0), -1)).mean() < 6


def test_times_of_h264_in_avi_are_in_order(make_clip):
    path = make_clip("clip.avi", frames=20, codec="libx264", pix_fmt="yuv420p", options={"preset": "medium"})
    with open_source(path) as source:
        frames = list(source)
        assert source.warnings == ()
    assert [frame.time - frames[0].time for frame in frames] == [Fraction(i, 25) for i in range(20)]
    assert [round((int(frame.rgb[40, 40, 0]) - 60) / 6) for frame in frames] == list(range(20))


def test_a_transport_stream_cut_in_its_middle_starts_at_a_key_frame(make_clip):
    path = make_clip("clip.ts", frames=60, gop=20, options={"preset": "medium", "x264-params": "scenecut=0"})
    packets = path.read_bytes()
    path.write_bytes(packets[len(packets) // 188 // 6 * 188 :])
    with open_source(path) as source:
        times = tuple(frame.time for frame in source)
    assert 0 < len(times) < 60
    assert frame_times(path) == times


@pytest.mark.parametrize(
    ("suffix", "codec", "cut"),
    [(".mp4", "libx264", False), (".ts", "libx264", False), (".ts", "libx264", True), (".ts", "mpeg2video", True)],
)
def test_where_the_first_picture_is_a_key_frame_no_other_is_decoded_to_know_the_clip(make_clip, suffix, codec, cut):
    options = {"preset": "medium", "x264-params": "scenecut=0:open-gop=1"} if codec == "libx264" else {"bf": "2"}
    path = make_clip(f"clip{suffix}", codec=codec, pix_fmt="yuv420p", frames=60, gop=20, options=options)
    if cut:
        packets = path.read_bytes()
        path.write_bytes(packets[len(packets) // 188 // 6 * 188 :])
    with open_container(path) as container:
        alone = _key_picture(container, pick_video(container, path))
    with open_source(path) as source:
        first = next(iter(source))
        assert source.info.start_time == first.time
    assert (alone is None) == cut
    assert cut or alone.pts * source.info.time_base == first.time
    assert cut or np.abs(alone.to_ndarray(format="rgb24").astype(int) - first.rgb).mean() < 2


@pytest.mark.parametrize(
    ("name", "code"), [("a.mov", "01:00:00:00"), ("a.mp4", "10:20:30:12"), ("a.mkv", "00:59:59:24")]
)
def test_the_timecode_is_kept(make_clip, name, code):
    assert open_source(make_clip(name, frames=2, timecode=code)).info.timecode == code


def test_a_clip_without_a_timecode_has_none(make_clip, make_folder):
    assert open_source(make_clip(frames=2)).info.timecode is None
    assert open_source(make_folder(["0.png"])).info.timecode is None


def test_interlaced_pictures_are_known_and_warned_of(make_clip):
    path = make_clip(frames=2, options={"x264-params": "tff=1"})
    with open_source(path) as source:
        assert source.info.interlaced
        said = "interlaced frames are processed as they are, and films of them say that they are progressive"
        assert said in source.warnings
    assert not open_source(make_clip("p.mp4", frames=2)).info.interlaced


@pytest.mark.parametrize("rotation", [0, 90])
def test_the_pixel_aspect_is_that_of_the_upright_picture(make_clip, rotation):
    path = make_clip(frames=2, aspect=Fraction(4, 3), rotation=rotation)
    assert open_source(path).info.aspect == (Fraction(3, 4) if rotation else Fraction(4, 3))
