"""Files that say by themselves that they were cut short."""

from fractions import Fraction

import av
import pytest
from spoilt import cut

from stmcli.errors import VideoError
from stmcli.video.ends import end_loss
from stmcli.video.probe import probe

SHORT = r"the file was cut short: .* (within a (frame|packet)|bytes are there)"
KINDS = {  # of the clip, and of its pixels
    "plain.y4m": {},
    "odd.y4m": {"width": 63, "height": 47},
    "grey.y4m": {"pix_fmt": "gray"},
    "wide.y4m": {"pix_fmt": "yuv411p", "width": 63},
    "full.y4m": {"pix_fmt": "yuv444p"},
    "clip.ivf": {},
    "clip.flv": {},
    "sound.flv": {"audio": "aac"},
    "clip.mxf": {},
    "clip.wmv": {},
    "clip.mpg": {},
    "sound.mpg": {"audio": "mp2"},
    "clip.rm": {},
    "sound.rm": {"audio": "ac3"},
    "ntsc.dv": {"width": 720, "height": 480, "rate": Fraction(30000, 1001)},
    "pal.dv": {"width": 720, "height": 576, "pix_fmt": "yuv420p"},
}


@pytest.mark.parametrize("name", KINDS)
def test_a_file_that_is_cut_short_is_refused_and_a_whole_one_is_not(make_clip, name):
    path = make_clip(name, frames=40, **KINDS[name])
    assert not probe(path).cut_short
    for share in (0.83, 0.77, 0.51):  # of what the cut before left
        cut(path, share)
        with pytest.raises(VideoError, match=SHORT):
            probe(path)


def test_an_mp4_in_fragments_that_ends_within_one_is_refused(make_clip):
    path = make_clip(frames=40, movflags="frag_keyframe+empty_moov", gop=6)
    content = path.read_bytes()
    assert not probe(path).cut_short
    path.write_bytes(content[: content.rindex(b"moof") + 20])
    with pytest.raises(VideoError, match="the file was cut short: it ends within a fragment"):
        probe(path)


def test_a_second_part_of_an_avi_counts_too(make_clip):
    path = make_clip("clip.avi")
    path.write_bytes(path.read_bytes() + b"RIFF" + (104).to_bytes(4, "little") + b"AVIX" + bytes(100))
    assert not probe(path).cut_short
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(VideoError, match=r"the file was cut short: \d+ of \d+ bytes are there"):
        probe(path)


@pytest.mark.parametrize("name", ["plain.y4m", "clip.flv", "clip.wmv"])
def test_what_is_there_of_a_cut_file_is_segmented_when_asked_for(segment, make_clip, make_mask, tmp_path, name):
    path = cut(make_clip(name, frames=40), 0.7)
    result = segment(path, "--mask", make_mask(), "-e", "none", "--on-corrupt", "stop", "-o", tmp_path / "out")
    assert result.exit_code == 3, result.output
    assert 5 < len(list((tmp_path / "out" / "masks").iterdir())) < 40


def test_frames_of_y4m_may_have_words_of_their_own(make_clip):
    path = make_clip("clip.y4m", frames=3)
    path.write_bytes(path.read_bytes().replace(b"FRAME\n", b"FRAME Ip\n"))
    assert not probe(path).cut_short


@pytest.mark.parametrize("layout", ["420p10", "mono16", "444alpha", "unheard"])
def test_a_layout_of_y4m_is_understood_or_not_judged(tmp_path, layout):
    size = {"420p10": 24, "mono16": 16}.get(layout, 10)
    path = tmp_path / "clip.y4m"
    path.write_bytes(f"YUV4MPEG2 W4 H2 F25:1 C{layout}\n".encode() + 2 * (b"FRAME\n" + bytes(size)))
    assert end_loss(path, "yuv4mpegpipe") is None


@pytest.mark.parametrize("audio", [None, "aac"])
def test_a_live_recording_in_mkv_that_ends_within_a_packet_is_refused(make_clip, tmp_path, audio):
    path = tmp_path / "live.mkv"
    with av.open(str(make_clip(frames=40, audio=audio))) as inp, av.open(str(path), "w", options={"live": "1"}) as out:
        streams = [out.add_stream_from_template(stream) for stream in inp.streams]
        for packet in inp.demux():
            if packet.dts is not None:
                packet.stream = streams[packet.stream.index]
                out.mux(packet)
    assert probe(path).duration is None
    assert not probe(path).cut_short
    for share in (0.85, 0.8, 0.51):
        cut(path, share)
        with pytest.raises(VideoError, match=SHORT):
            probe(path)


def test_a_part_of_rm_without_a_length_is_passed(tmp_path):
    (tmp_path / "clip.rm").write_bytes(b".RMF" + bytes(100))
    assert end_loss(tmp_path / "clip.rm", "rm") is None


@pytest.mark.parametrize(
    "content", [b"\0\0\1\xba" + bytes(40), bytes(50), b"\0\0\1\xba\x44" + bytes(9) + b"junk at the end"]
)
def test_what_follows_the_last_packet_of_an_mpg_is_not_judged(make_clip, content):
    path = make_clip("clip.mpg")
    path.write_bytes(path.read_bytes() + content)
    assert not probe(path).cut_short


@pytest.mark.parametrize(
    ("name", "audio", "words"),
    [
        ("clip.ts", None, "the file ends within a packet, its end may be missing"),
        ("clip.nut", None, "the file has no index, its end may be missing"),
        ("clip.nut", "aac", "the file has no index, its end may be missing"),
    ],
)
def test_a_recording_that_was_perhaps_cut_short_is_taken_with_a_note(make_clip, name, audio, words):
    path = make_clip(name, frames=40, audio=audio)
    assert not probe(path).warnings
    assert probe(cut(path, 0.8)).warnings == (words,)
