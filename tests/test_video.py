import os
import re
import socket
import struct
from fractions import Fraction
from itertools import pairwise
from pathlib import Path

import av
import numpy as np
import pytest
from conftest import picture, write_clip, write_sound_file
from PIL import Image
from spoilt import cut, flipped_clip, hidden_frames, huge_clip, no_frames, stamped_clip, two_sizes

from stmcli.errors import StmError, UsageError, VideoError
from stmcli.files import natural_key
from stmcli.video import FrameFolder, VideoReader, clip_facts, frame_times, open_source, probe, read_frame
from stmcli.video.position import first_frame_from, last_frame_until, parse_rate

RED = np.array((220, 30, 30))


def read(path, **choices):
    with open_source(path, **choices) as source:
        return list(source)


def assert_refused(path, *words, code, named=None, **choices):
    """Check that reading `path` fails in one line that names it and holds `words`."""
    with pytest.raises(StmError) as caught:
        read(path, **choices)
    message = str(caught.value)
    assert caught.value.exit_code == code, message
    assert str(named or Path(path).name) in message
    assert "\n" not in message
    for word in words:
        assert word in message


@pytest.mark.parametrize("suffix", [".mp4", ".mov", ".mkv", ".webm", ".avi", ".ts"])
def test_every_frame_comes_out_once_in_order(make_clip, suffix):
    frames = read(make_clip(f"clip{suffix}", frames=14))
    assert [frame.index for frame in frames] == list(range(14))
    greys = [int(frame.rgb[40, 40].mean()) for frame in frames]
    assert np.abs(np.array(greys) - [60 + 6 * i for i in range(14)]).max() <= 6


@pytest.mark.parametrize("suffix", [".mp4", ".mov"])
def test_times_are_exact_at_a_constant_rate(make_clip, suffix):
    frames = read(make_clip(f"clip{suffix}", rate=Fraction(30000, 1001)))
    assert [frame.time for frame in frames] == [Fraction(1001 * i, 30000) for i in range(10)]


def test_times_are_exact_at_a_variable_rate(make_clip):
    ticks = [0, 17, 50, 51, 90, 200]
    path = make_clip(frames=6, ticks=ticks, time_base=Fraction(1, 600))
    assert [frame.time for frame in read(path)] == [Fraction(t, 600) for t in ticks]
    assert frame_times(path) == tuple(Fraction(t, 600) for t in ticks)


def test_no_log_is_kept_that_a_decoder_could_wait_for_for_ever(make_clip):
    clip = make_clip()
    av.logging.set_level(av.logging.ERROR)  # as torchvision 0.25 does
    open_source(clip).close()
    assert av.logging.get_level() is None


def test_a_source_can_be_read_again_after_a_break(make_clip):
    with open_source(make_clip()) as source:
        for frame in source:
            if frame.index == 3:
                break
        assert [frame.index for frame in source] == list(range(10))


@pytest.mark.parametrize("rotation", [90, 180, 270])
def test_frames_are_upright(make_clip, rotation):
    # the stored picture has its red block upper left; turned counter-clockwise it moves like np.rot90
    path = make_clip(rotation=rotation)
    with open_source(path) as source:
        frame = next(iter(source))
        shape = (source.info.height, source.info.width)
    expected = np.rot90(picture(0), rotation // 90)
    assert frame.rgb.shape == expected.shape
    assert shape == expected.shape[:2]
    assert np.abs(frame.rgb.astype(int) - expected).mean() < 6
    assert frame.rgb.flags.c_contiguous


def one_frame_clip(path, rgb, *, space, full, tag):
    """Write one lossless 4:4:4 picture converted by hand with the textbook matrix of BT.601 or BT.709."""
    red, blue = (0.299, 0.114) if space == 601 else (0.2126, 0.0722)
    r, g, b = (rgb[..., c].astype(float) for c in range(3))
    luma = red * r + (1 - red - blue) * g + blue * b
    cb, cr = (b - luma) / (2 - 2 * blue), (r - luma) / (2 - 2 * red)
    scale, black = ((1, 1), 0) if full else ((219 / 255, 224 / 255), 16)
    planes = (black + luma * scale[0], 128 + cb * scale[1], 128 + cr * scale[1])
    yuv = np.stack([np.rint(p).astype(np.uint8) for p in planes])
    with av.open(str(path), "w") as out:
        stream = out.add_stream("libx264", rate=25, options={"qp": "0", "preset": "ultrafast"})
        stream.height, stream.width, stream.pix_fmt = *rgb.shape[:2], "yuv444p"
        if tag:
            stream.codec_context.colorspace = 1 if space == 709 else 6
            stream.codec_context.color_range = 2 if full else 1
        out.mux(stream.encode(av.VideoFrame.from_ndarray(yuv, "yuv444p")))
        out.mux(stream.encode(None))
    return path


@pytest.mark.parametrize(
    ("height", "space", "full", "tag"),
    [
        (64, 601, False, True),
        (64, 709, False, True),
        (64, 601, True, True),
        (64, 709, True, True),
        (64, 601, False, False),
        (720, 709, False, False),
    ],
)
def test_colours_follow_the_tags(tmp_path, height, space, full, tag):
    rgb = np.zeros((height, 64, 3), dtype=np.uint8)
    rgb[:, :16], rgb[:, 16:32], rgb[:, 32:48], rgb[:, 48:] = (200, 40, 40), (40, 200, 40), (40, 40, 200), 128
    frame = read(one_frame_clip(tmp_path / "c.mp4", rgb, space=space, full=full, tag=tag))[0]
    assert np.abs(frame.rgb.astype(int) - rgb).max() <= 3


def test_a_range_keeps_the_numbers_of_the_source(make_clip):
    path = make_clip()
    with open_source(path, start=3, end=5) as source:
        frames = list(source)
        assert source.count == 3
    whole = read(path)
    assert [frame.index for frame in frames] == [3, 4, 5]
    assert [frame.time for frame in frames] == [frame.time for frame in whole[3:6]]
    assert all((a.rgb == b.rgb).all() for a, b in zip(frames, whole[3:6], strict=True))


def test_a_start_after_the_end_of_the_clip_is_a_usage_error(make_clip):
    assert_refused(make_clip(), "10 frames", "0 to 9", code=2, start=10)
    assert_refused(make_clip("a.mkv"), "10 frames", "0 to 9", code=2, start=10)
    assert_refused(make_clip(), "5", "3", code=2, start=5, end=3)


def test_an_end_after_the_end_of_the_clip_is_a_warning(make_clip):
    with open_source(make_clip(), end=99) as source:
        assert len(list(source)) == source.count == 10
        assert "99" in source.warnings[0]


def test_one_frame_can_be_read_by_its_number(make_clip):
    path = make_clip()
    assert (read_frame(path, 7).rgb == read(path)[7].rgb).all()
    with pytest.raises(UsageError, match="10 frames"):
        read_frame(path, 10)


def test_the_description_of_a_clip(make_clip):
    info = open_source(make_clip("a b.mp4", audio="aac", rotation=90)).info
    assert (info.name, info.frames, info.rate, info.rotation) == ("a b", 10, 25, 90)
    assert (info.width, info.height, info.audio, info.codec) == (48, 64, "aac", "h264")
    assert info.is_video
    assert info.duration == pytest.approx(0.4, abs=0.05)


def test_an_edit_list_that_hides_frames_is_followed(make_clip, tmp_path):
    with open_source(hidden_frames(make_clip, tmp_path / "cut.mp4", frames=24, hidden=5)) as reader:
        assert reader.info.frames == len(list(reader)) == 19


def test_odd_pixels_depth_and_interlace_are_warned_of(make_clip):
    path = make_clip(pix_fmt="yuv420p10le", aspect=Fraction(4, 3))
    with open_source(path) as source:
        assert len(list(source)) == 10
        text = " ".join(source.warnings)
    assert "8 bits" in text
    assert "not square" in text


def test_backward_and_duplicate_times_become_increasing(tmp_path):
    path = stamped_clip(tmp_path / "odd.mkv", [0, 40, 40, 80, 60, 120])
    with open_source(path) as source:
        times = [frame.time for frame in source]
        text = " ".join(source.warnings)
    assert len(times) == 6
    assert all(a < b for a, b in pairwise(times))
    assert re.search(r"\b2 duplicate or backward", text)


# -- faults ------------------------------------------------------------------------------------


def test_a_missing_file_is_named_with_its_neighbour(make_clip, tmp_path):
    make_clip("holiday.mp4")
    assert_refused(tmp_path / "holidy.mp4", "no such file", "holiday.mp4", code=2)
    assert_refused(tmp_path / "none" / "x.mp4", "no such file", code=2)
    assert_refused(tmp_path / "[holidy].mp4", "no such file", "holiday.mp4", code=2)
    assert_refused(tmp_path / "shot.*.png", "no such file", "is called shot.####.png, or by its folder", code=2)


def test_a_link_to_what_is_not_there_says_so(tmp_path):
    (tmp_path / "x.mp4").symlink_to("gone.mp4")
    assert_refused(tmp_path / "x.mp4", "no such file", "a link to gone.mp4, which does not exist", code=2)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", ["empty file"]),
        (b"just some words\n" * 50, ["text"]),
        (b"%PDF-1.7\n\x00\x01" * 50, ["PDF"]),
        (b"<!DOCTYPE html><html><body>404</body></html>" * 20, ["web page"]),
        (b"#EXTM3U\n#EXTINF:10,\nother.ts\n#EXT-X-ENDLIST\n", ["playlist"]),
        (b"ffconcat version 1.0\nfile other.mp4\n", ["playlist"]),
        (bytes(range(256)) * 40, ["not a video"]),
    ],
)
def test_a_file_that_is_no_video_says_what_it_is(tmp_path, content, words):
    path = tmp_path / "x.mp4"
    path.write_bytes(content)
    assert_refused(path, *words, code=1)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "TIFF", "BMP"])
def test_a_still_image_called_mp4_is_refused(tmp_path, kind):
    Image.fromarray(picture(0)).save(tmp_path / "x.mp4", format=kind)
    assert_refused(tmp_path / "x.mp4", "still image", code=1)


def test_sound_without_pictures_is_refused(tmp_path):
    assert_refused(write_sound_file(tmp_path / "x.mp4"), "only audio", code=1)


def test_cover_art_is_not_a_video(tmp_path):
    Image.fromarray(picture(0)).save(tmp_path / "cover.png")
    path = write_sound_file(tmp_path / "x.mp4", cover=tmp_path / "cover.png")
    with av.open(str(path)) as container:
        assert container.streams.video, "the clip must hold cover art"
    assert_refused(path, "cover art", code=1)


def test_a_video_stream_without_frames_is_refused(make_clip, tmp_path):
    for name in ("none.mkv", "none.mp4"):
        assert_refused(no_frames(make_clip, tmp_path / name), "0 frames", code=1)


def test_a_codec_without_a_decoder_is_said(make_clip):
    path = make_clip()
    path.write_bytes(path.read_bytes().replace(b"avc1", b"zzzz"))
    assert_refused(path, "decoder", code=1)


def test_a_fifo_and_a_device_do_not_hang(tmp_path):
    os.mkfifo(tmp_path / "x.mp4")
    assert_refused(tmp_path / "x.mp4", "not a regular file", code=2)
    assert_refused("/dev/zero", "not a regular file", code=2)


@pytest.mark.parametrize("url", ["http://127.0.0.1:{}/x.mp4", "rtsp://127.0.0.1:{}/x", "file:///etc/passwd"])
def test_a_url_is_refused_and_no_socket_opened(url):
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        server.settimeout(0.05)
        assert_refused(url.format(server.getsockname()[1]), "URL", code=2)
        with pytest.raises(TimeoutError):
            server.accept()


def test_an_mp4_cut_before_its_index_says_so(make_clip):
    assert_refused(cut(make_clip(frames=20)), "moov atom missing", code=1)


def test_a_cut_faststart_mp4_is_found_before_decoding(make_clip):
    path = cut(make_clip(frames=40, movflags="faststart"), 0.7)
    with pytest.raises(VideoError, match=r"\d+ of 40 frames can be read.*--on-corrupt stop"):
        VideoReader(path)
    with open_source(path, on_corrupt="stop") as source:
        kept = len(list(source))
        assert f"{kept} of 40" in source.warnings[0]
    assert 0 < kept < 40


@pytest.mark.parametrize("name", ["x.mkv", "x.avi", "x.gif"])
def test_a_cut_file_without_a_leading_index_is_found(make_clip, name):
    path = cut(make_clip(name, frames=60), 0.6)
    assert_refused(path, "cut short", "--on-corrupt stop", code=1)
    assert 0 < len(read(path, on_corrupt="stop")) < 60


CUT = [("x.mkv", {}), ("x.webm", {}), ("x.avi", {}), ("x.gif", {}), ("x.mp4", {"movflags": "faststart"})]


@pytest.mark.parametrize("how", ["stop", "skip"])
@pytest.mark.parametrize(("name", "settings"), CUT)
def test_what_a_cut_file_no_longer_holds_is_missing(make_clip, name, settings, how):
    path = cut(make_clip(name, frames=60, **settings), 0.8)
    with open_source(path, on_corrupt=how) as source:
        assert source.is_whole
        count = len(list(source))
        assert 0 < count < 60
        assert (source.missing_from, source.is_whole) == (count, False)
        assert f"missing from frame {count} on" in source.warnings[-1]


@pytest.mark.parametrize("settings", [{}, {"audio": "aac"}], ids=["silent", "sound"])
@pytest.mark.parametrize("name", ["x.mkv", "x.webm"])
def test_a_file_without_its_very_last_frame_is_cut_short(make_clip, name, settings):
    if settings and name == "x.webm":
        settings = {"audio": "libopus"}
    path = make_clip(name, frames=60, **settings)
    with av.open(str(path)) as container:
        last = [bytes(packet) for packet in container.demux(video=0) if packet.size][-1]
    content = path.read_bytes()
    path.write_bytes(content[: content.rindex(last) + len(last) // 2])
    assert_refused(path, "cut short", "--on-corrupt stop", code=1)
    with open_source(path, on_corrupt="stop") as source:
        assert len(list(source)) == 59
        assert source.missing_from == 59


def test_an_mkv_that_lost_only_its_index_has_all_its_frames(make_clip):
    path = make_clip("x.mkv", frames=60)
    path.write_bytes(path.read_bytes()[:-1])
    assert len(read(path)) == 60


def test_missing_frames_have_the_numbers_asked_for_and_none_is_missing_before_the_end(make_clip):
    path = cut(make_clip("x.mkv", frames=60), 0.6)
    with open_source(path, first_number=1001, start=1010, on_corrupt="stop") as source:
        last = list(source)[-1].index
        assert source.missing_from == last + 1
        assert f"missing from frame {last + 1} on" in source.warnings[-1]
    with open_source(path, end=9, on_corrupt="stop") as source:
        assert len(list(source)) == 10
        assert source.is_whole


def test_an_avi_without_its_last_bytes_alone_has_all_its_frames(make_clip):
    path = cut(make_clip("x.avi", frames=20), 0.99)
    with open_source(path, on_corrupt="stop") as source:
        assert "cut short" in source.warnings[0]
        assert len(list(source)) == 20
        assert source.is_whole


def test_a_clip_that_ends_before_its_first_frame_is_no_matter_of_usage(make_clip, monkeypatch):
    path = cut(make_clip("x.mkv", frames=20), 0.6)
    monkeypatch.setattr("stmcli.video.reader._decoded", lambda *_: iter([(0, False, None)]))
    with open_source(path, on_corrupt="stop") as source, pytest.raises(VideoError, match="0 frames can be decoded"):
        list(source)


def test_a_damaged_frame_is_named(make_clip):
    assert_refused(flipped_clip(make_clip), "frame 11 ", "skip", code=1)


@pytest.mark.parametrize(
    ("name", "codec", "pixels", "kept"),
    [("x.mov", "png", "rgb24", 0.6), ("x.mxf", "mpeg2video", "yuv422p", 0)],  # of the packet; a decoder says nothing
)
def test_a_picture_that_a_decoder_silently_loses_is_named(make_clip, name, codec, pixels, kept):
    path = make_clip(name, codec=codec, pix_fmt=pixels, options={}, frames=9, gop=1)
    with av.open(str(path)) as container:
        packet = next(bytes(p) for place, p in enumerate(container.demux(video=0)) if place == 4)
    whole = path.read_bytes()
    assert whole.count(packet) == 1
    path.write_bytes(whole.replace(packet, packet[: int(kept * len(packet))].ljust(len(packet), b"\0")))
    assert_refused(path, "frame 4 ", "skip", code=1)
    with open_source(path, on_corrupt="skip") as source:
        assert [frame.index for frame in source] == list(range(9))
        assert source.corrupt_frames == [4]


def test_damage_beyond_the_end_is_not_met(make_clip):
    assert len(read(flipped_clip(make_clip), end=10)) == 11


def test_a_damaged_frame_ends_the_clip_when_asked(make_clip):
    with open_source(flipped_clip(make_clip), on_corrupt="stop") as source:
        assert [frame.index for frame in source] == list(range(11))
        assert source.corrupt_frames == [11]


def test_a_damaged_frame_is_replaced_when_asked(make_clip):
    with open_source(flipped_clip(make_clip), on_corrupt="skip") as source:
        frames = list(source)
        assert source.corrupt_frames == [11]
    assert [frame.index for frame in frames] == list(range(24))
    assert [frame.time for frame in frames] == [Fraction(i, 25) for i in range(24)]
    assert [frame.index for frame in frames if frame.corrupt] == [11]
    assert (frames[11].rgb == frames[10].rgb).all()


def test_a_change_of_size_names_the_frame_and_both_sizes(make_clip):
    assert_refused(two_sizes(make_clip), "frame 6 ", "96x64", "64x48", code=1)


def test_absurd_dimensions_are_refused_before_decoding(make_clip, monkeypatch):
    assert_refused(huge_clip(make_clip), "absurd", code=1)
    monkeypatch.setattr(probe, "MAX_PIXELS", 1024)
    assert_refused(make_clip("y.mp4"), "64x48", code=1)


@pytest.mark.parametrize("name", ["take:1.mp4", "-x.mp4", "ü 日本.mp4", "a\nb.mp4", "s%04d.mp4", "a##.mp4"])
def test_odd_names_work(make_clip, monkeypatch, name):
    path = make_clip(name, frames=2)
    monkeypatch.chdir(path.parent)
    assert len(read(name)) == 2


@pytest.mark.parametrize(("name", "codec"), [("h264", "libx264"), ("hevc", "libx265")])
def test_a_bare_stream_has_the_times_of_its_rate(make_clip, tmp_path, name, codec):
    options = {"preset": "medium"} if codec == "libx264" else {}
    path = tmp_path / f"bare.{name}"
    clip = make_clip("clip.mkv", frames=14, codec=codec, options=options)
    with av.open(str(clip)) as source, av.open(str(path), "w", format=name) as bare:
        stream = bare.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(video=0):
            if packet.size:
                packet.stream = stream
                bare.mux(packet)
    with open_source(path) as source:
        frames = list(source)
        assert [frame.time for frame in frames] == list(source.times().values()) == [Fraction(i, 25) for i in range(14)]
    assert clip_facts(path).usable
    assert first_frame_from(path, Fraction(1, 2)) == 13


def test_a_frame_that_cannot_be_decoded_is_not_shown_as_another(make_clip):
    with pytest.raises(VideoError, match="frame 11 cannot be decoded"):
        read_frame(flipped_clip(make_clip), 11)


# -- folders -----------------------------------------------------------------------------------


def test_a_folder_is_read_in_natural_order_with_its_own_numbers(make_folder):
    folder = make_folder([f"frame{i}.png" for i in range(8, 13)])
    for junk in (".DS_Store", "Thumbs.db", "._frame9.png", "notes.txt"):
        (folder / junk).write_bytes(b"junk")
    with open_source(folder) as source:
        frames = list(source)
        assert source.frame_name(9) == "frame9"
        assert (source.count, source.info.frames, source.info.is_video) == (5, 5, False)
    assert [frame.index for frame in frames] == [8, 9, 10, 11, 12]
    assert [frame.time for frame in frames] == [Fraction(i, 24) for i in range(5)]
    assert all((frame.rgb == picture(i)).all() for i, frame in enumerate(frames))


def test_natural_order_puts_two_before_ten():
    assert sorted(["f10", "f2", "F1"], key=natural_key) == ["F1", "f2", "f10"]


def test_names_without_numbers_are_counted(make_folder):
    assert [frame.index for frame in read(make_folder(["a.png", "b.png"]))] == [0, 1]


def test_a_constant_step_is_no_gap(make_folder):
    assert [frame.index for frame in read(make_folder(["00000.png", "00005.png", "00010.png"]))] == [0, 5, 10]


def test_a_gap_names_the_missing_frame(make_folder):
    assert_refused(make_folder(["0.png", "1.png", "3.png"]), "frame 2 is missing", code=1)


def test_a_gap_is_no_matter_outside_the_range(make_folder):
    folder = make_folder(["s.08.png", "s.09.png", "s.12.png", "s.13.png"])
    assert [frame.index for frame in read(folder, start=12)] == [12, 13]
    assert [frame.time for frame in read(folder, start=12)] == [Fraction(4, 24), Fraction(5, 24)]
    assert [frame.index for frame in read(folder, end=9)] == [8, 9]
    assert read_frame(folder, 13).index == 13
    assert_refused(folder, "frame 10 is missing after s.09.png", code=1, end=12)


def test_frames_that_are_missing_are_like_damaged_ones(make_folder):
    folder = make_folder(["s.08.png", "s.09.png", "s.12.png"])
    with open_source(folder, on_corrupt="skip") as source:
        frames = list(source)
        assert source.count == len(source.times()) == source.info.frames == 5
        assert source.corrupt_frames == [10, 11]
        assert source.frame_name(10) == "s.10"
        assert "frame 10 and 1 more missing, of 5 frames" in source.warnings
    assert [frame.corrupt for frame in frames] == [False, False, True, True, False]
    assert (frames[3].rgb == frames[1].rgb).all()
    with open_source(folder, on_corrupt="stop") as source:
        assert [frame.index for frame in source] == list(source.times()) == [8, 9]
        assert source.corrupt_frames == [10]
    assert [frame.index for frame in read(folder, on_corrupt="stop", start=12)] == [12]
    assert_refused(folder, "frame 11 is missing after s.09.png", code=1, start=11)


@pytest.mark.parametrize("far", ["20241129", "123456789012345678901234"])
def test_more_missing_frames_than_frames_are_refused(make_folder, far):
    folder = make_folder(["1.png", "2.png", f"{far}.png"])
    assert_refused(folder, "more frames are missing than are there, the first after 2.png", code=1, on_corrupt="skip")


def test_frames_of_which_every_other_is_missing_are_taken(make_folder):
    folder = make_folder([f"{number:02d}.png" for number in (1, 2, 4, 6, 8, 10)])
    frames = read(folder, on_corrupt="skip")
    assert [frame.index for frame in frames if not frame.corrupt] == [1, 2, 4, 6, 8, 10]
    assert len(frames) == 10


def test_a_missing_frame_is_not_shown_as_another(make_folder):
    folder = make_folder(["1.png", "2.png", "4.png", "5.png"])
    with pytest.raises(VideoError, match="frame 3 cannot be decoded"):
        read_frame(folder, 3)


def test_a_sequence_cannot_begin_with_a_missing_frame(make_folder):
    folder = make_folder(["1.png", "2.png", "4.png", "5.png"])
    assert_refused(folder, "frame 3 is missing", code=1, on_corrupt="stop", start=3)
    assert [frame.corrupt for frame in read(folder, on_corrupt="skip", start=3)] == [True, False, False]


def test_a_frame_out_of_step_is_named(make_folder):
    folder = make_folder(["00.png", "05.png", "10.png", "12.png", "15.png"])
    assert_refused(folder, "12.png is out of step: most numbers are 5 apart", code=1, on_corrupt="skip")


@pytest.mark.parametrize(
    ("text", "rate"),
    [
        ("25", Fraction(25)),
        (" 24 ", Fraction(24)),
        ("5", Fraction(5)),
        ("23.976", Fraction(24000, 1001)),
        ("23.98", Fraction(24000, 1001)),
        ("29.97", Fraction(30000, 1001)),
        ("59.94", Fraction(60000, 1001)),
        ("30000/1001", Fraction(30000, 1001)),
        ("12.5", Fraction(25, 2)),
        ("25.12345678901", Fraction("25.12345678901").limit_denominator(10**6)),
    ],
)
def test_a_rate_is_a_fraction_and_those_of_broadcasts_are_exact(text, rate):
    assert parse_rate(text) == rate


@pytest.mark.parametrize("text", ["", "0", "-25", "x", "1/0", "nan", "inf", "1001", "1e3", "1/" + "0" * 9, "9" * 20])
def test_what_is_no_rate_is_refused(text):
    with pytest.raises(UsageError, match="is no rate"):
        parse_rate(text)


def test_a_sequence_has_the_rate_that_is_said(make_folder):
    folder = make_folder([f"{number}.png" for number in range(5)])
    rate = Fraction(30000, 1001)
    assert [frame.time for frame in read(folder, rate=rate)] == [number / rate for number in range(5)]
    assert first_frame_from(folder, Fraction(1, 10), rate=rate) == 3
    assert last_frame_until(folder, Fraction(1, 10), rate=rate) == 2


def test_transparency_that_is_not_used_is_told(tmp_path):
    Image.fromarray(np.zeros((8, 8, 4), np.uint8)).save(tmp_path / "0.png")
    with open_source(tmp_path) as source:
        assert source.info.color.alpha
        assert source.warnings == ("its own transparency is not used",)


def test_two_files_for_one_frame_are_an_error(make_folder):
    assert_refused(make_folder(["0.png", "1.png", "1.jpg"]), "same frame", code=1)


def test_mixed_sizes_name_the_file_and_both_sizes(make_folder):
    make_folder(["0.png", "1.png"], width=32)
    folder = make_folder(["0.png"])
    assert_refused(folder, "32x48", "64x48", code=1, named="1.png")


def test_a_folder_without_images_is_a_usage_error(tmp_path):
    (tmp_path / "x.mp4").mkdir()
    assert_refused(tmp_path / "x.mp4", "no frames", code=2)


@pytest.mark.parametrize("share", [0, 0.02, 0.5])
def test_a_broken_image_is_named_or_repeated(make_folder, share):
    folder = make_folder(["0.png", "1.png", "2.png"])
    cut(folder / "1.png", share)
    assert_refused(folder, code=1, named="1.png")
    frames = read(folder, on_corrupt="skip")
    assert [frame.corrupt for frame in frames] == [False, True, False]
    assert (frames[1].rgb == frames[0].rgb).all()
    with open_source(folder, on_corrupt="stop") as source:
        assert [frame.index for frame in source] == [0]
        assert source.corrupt_frames == [1]


def test_broken_images_at_the_beginning_are_no_matter_when_the_range_begins_later(make_folder):
    folder = make_folder(["0.png", "1.png", "2.png"])
    cut(folder / "0.png", 0)
    assert_refused(folder, code=1, named="0.png", on_corrupt="skip")
    assert [frame.index for frame in read(folder, on_corrupt="skip", start=1)] == [1, 2]


def test_a_folder_of_broken_images_alone_is_refused(make_folder):
    folder = make_folder(["0.png", "1.png"])
    for name in ("0.png", "1.png"):
        cut(folder / name, 0)
    assert_refused(folder, "empty file", code=1, on_corrupt="skip")


@pytest.mark.parametrize(("kind", "value"), [(2, b"x\0\0\0"), (7, b"\6\0\0\0"), (3, b"\0\x09\0\0"), (4, b"\0\0\0\0")])
def test_an_odd_orientation_in_metadata_is_no_matter(tmp_path, kind, value):
    exif = b"Exif\0\0MM\0*\0\0\0\x08\0\x01" + struct.pack(">HHI", 0x0112, kind, 1) + value + bytes(4)
    Image.new("RGB", (40, 20)).save(tmp_path / "0.jpg", exif=exif)
    assert read(tmp_path)[0].rgb.shape == (20, 40, 3)


def test_a_folder_that_is_given_by_the_way_back_to_it_has_its_name(make_folder, tmp_path, monkeypatch):
    folder = make_folder(["0.png"])
    (folder / "inner").mkdir()
    monkeypatch.chdir(folder / "inner")
    for path in ("..", f"../../{folder.name}", f"../../{folder.name}/%d.png"):
        with open_source(path) as source:
            assert (source.info.name, source.info.path.parent) in ((folder.name, tmp_path), (folder.name, folder))


@pytest.mark.parametrize("pattern", ["shot.%04d.png", "shot.####.png"])
def test_a_pattern_takes_its_own_files(make_folder, pattern):
    folder = make_folder(["shot.0998.png", "shot.0999.png", "shot.1000.png", "other.0001.png"])
    with open_source(folder / pattern, start=999) as source:
        assert [frame.index for frame in source] == [999, 1000]
        assert source.frame_name(999) == "shot.0999"
        assert source.info.name == "shot"
    assert_refused(folder / f"x{pattern}", "no file matches", code=2)


def test_a_folder_range_outside_its_numbers_is_a_usage_error(make_folder):
    assert_refused(make_folder(["5.png", "6.png"]), "2 frames", "5 to 6", code=2, start=0)


def test_every_image_mode_becomes_rgb(tmp_path):
    grey = np.arange(64 * 48, dtype=np.uint16).reshape(48, 64) * 20
    Image.fromarray(grey).save(tmp_path / "0.png")
    frame = next(iter(FrameFolder(tmp_path)))
    assert (frame.rgb == (grey >> 8)[:, :, None]).all()


def test_the_reader_leaves_no_file_open(make_clip):
    path = make_clip()
    before = len(os.listdir("/proc/self/fd"))
    with open_source(path) as source:
        next(iter(source))
    write_clip(path)
    assert len(os.listdir("/proc/self/fd")) == before


@pytest.mark.parametrize("place", [1, 2, 3, 9])
def test_the_frame_that_is_lost_is_named_though_others_were_decoded_before_it(make_clip, place):
    """With B-frames, which come in another order; what was decoded by then is not thrown away."""
    path = make_clip(frames=30, gop=30, options={"preset": "medium", "bf": "3", "b-adapt": "0"})
    with av.open(str(path)) as container:
        packets = [p for p in container.demux(video=0) if p.size]
        times = sorted(p.pts for p in packets)
        spoilt, position, size = times.index(packets[place].pts), packets[place].pos, packets[place].size
    with path.open("r+b") as file:
        file.seek(position)
        file.write(b"\xff" * size)
    with pytest.raises(VideoError, match=f"frame {spoilt} cannot be decoded"):
        read(path)
    for how, count in (("stop", spoilt), ("skip", 30)):
        with open_source(path, on_corrupt=how) as source:
            assert len([*source]) == count
            assert source.corrupt_frames == [spoilt]
    assert len(read(path, end=spoilt - 1)) == spoilt
    assert read_frame(path, 25).index == 25
    with pytest.raises(VideoError, match=f"frame {spoilt} cannot be decoded"):
        read_frame(path, spoilt)


def test_frames_of_the_same_name_are_refused_and_names_without_numbers_told(make_folder):
    with pytest.raises(VideoError, match=r"a\.jpg and a\.png have the same name"):
        open_source(make_folder(["a.png", "a.jpg", "b.png"], name="twice"))
    with open_source(make_folder(["0001.png", "0002.png", "0003.png", "mask.png"])) as source:
        assert [*source.times()] == [0, 1, 2, 3]
        assert "not numbered like the other frames: mask; so all are counted from 0" in source.warnings[0]
        assert [source.number_of(name) for name in ("0001", "mask", "1", "0004")] == [0, 3, None, None]
    for names in (["a.png", "b.png"], ["0001.png", "0002.png"]):
        with open_source(make_folder(names, name=names[0])) as source:
            assert source.warnings == ()


@pytest.mark.parametrize("kind", [np.float32, np.int32])
def test_frames_of_32_bits_are_refused_since_nobody_knows_what_is_white(tmp_path, kind):
    Image.fromarray(np.full((48, 64), 7, kind)).save(tmp_path / "1.tif")
    with pytest.raises(VideoError, match=r"1\.tif: pixels of 32 bits"):
        open_source(tmp_path)


@pytest.mark.parametrize(("codec", "gop"), [("mpeg2video", 1), ("mpeg2video", 12), ("libx264", 1), ("libx264", 12)])
def test_a_clock_that_begins_again_is_no_loss(make_clip, codec, gop):
    parts = [make_clip(f"{name}.ts", codec=codec, pix_fmt="yuv420p", options={}, frames=6, gop=gop) for name in "ab"]
    both = parts[0].with_name("both.ts")
    both.write_bytes(b"".join(part.read_bytes() for part in parts))
    with open_source(both) as source:
        assert len([*source]) == 12
        assert not source.corrupt_frames
