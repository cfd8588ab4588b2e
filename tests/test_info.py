import json
from dataclasses import replace
from fractions import Fraction

import av
import pytest
from conftest import write_sound_file
from PIL import Image

from stmcli.video import clip_facts
from stmcli.video.facts import _pace


def facts_of(stm, path, *, code=0):
    result = stm("info", path, "--json")
    assert result.exit_code == code, result.output
    return json.loads(result.stdout)


def decoded(path):
    """Count the frames that come out of the decoder."""
    with av.open(str(path)) as container:
        return sum(1 for _ in container.decode(video=0))


def test_everything_about_a_plain_clip(stm, make_clip):
    path = make_clip("clip.mov", audio="aac", rotation=90, aspect=Fraction(4, 3), timecode="01:00:00:00")
    facts = facts_of(stm, path)
    assert facts == {
        "path": str(path),
        "usable": True,
        "reason": None,
        "kind": "video",
        "container": "mov",
        "width": 48,
        "height": 64,
        "rotation": 90,
        "flip": "none",
        "pixel_aspect": "3:4",
        "codec": "h264",
        "timecode": "01:00:00:00",
        "interlaced": False,
        "pixel_format": "yuv420p",
        "bits": 8,
        "alpha": False,
        "hdr": False,
        "color": {
            "primaries": None,
            "transfer": None,
            "matrix": None,
            "range": None,
            "matrix_used": "BT.601",
            "range_used": "limited",
        },
        "frames_declared": 10,
        "frames": 10,
        "counted_by": "index",
        "first": 0,
        "last": 9,
        "step": 1,
        "rate": "25",
        "vfr": False,
        "shortest_gap": 0.04,
        "longest_gap": 0.04,
        "duration": 0.4,
        "audio": {"codec": "aac", "channels": 1, "rate": 48000},
        "warnings": ["pixels are not square; masks have the size of the stored frames"],
    }


@pytest.mark.parametrize(
    ("name", "container", "counted"),
    [
        ("a.mp4", "mp4", "index"),
        ("a.mov", "mov", "index"),
        ("a.avi", "avi", "index"),
        ("a.mkv", "mkv", "packets"),
        ("a.webm", "webm", "packets"),
        ("a.ts", "ts", "packets"),
    ],
)
def test_frames_are_counted_without_decoding(make_clip, name, container, counted):
    path = make_clip(name, frames=14)
    facts = clip_facts(path)
    assert facts.pace.frames == decoded(path) == 14
    assert (facts.info.container, facts.pace.counted_by) == (container, counted)
    assert not facts.pace.variable


def test_frames_hidden_by_an_edit_list_are_not_counted(make_clip, tmp_path):
    whole, cut = make_clip("whole.mp4", frames=24, gop=12), tmp_path / "cut.mp4"
    with av.open(str(whole)) as inp, av.open(str(cut), "w") as out:
        stream = out.add_stream_from_template(inp.streams.video[0])
        for packet in inp.demux(video=0):
            if packet.dts is None:
                continue
            offset = round(5 / 25 / packet.time_base)
            packet.pts, packet.dts, packet.stream = packet.pts - offset, packet.dts - offset, stream
            out.mux(packet)
    facts = clip_facts(cut)
    assert (facts.declared, facts.pace.frames, facts.pace.last) == (24, 19, 18)
    assert facts.pace.duration == Fraction(19, 25)
    assert not facts.pace.variable


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv"])
@pytest.mark.parametrize("rate", [Fraction(30000, 1001), Fraction(24000, 1001), Fraction(60)])
def test_a_constant_rate_is_known_through_the_rounding_of_its_container(make_clip, name, rate):
    facts = clip_facts(make_clip(name, frames=40, rate=rate))
    assert not facts.pace.variable
    assert facts.pace.rate == rate


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv", "a.ts"])
def test_one_missing_frame_is_a_variable_rate(stm, make_clip, name):
    path = make_clip(name, frames=6, ticks=[0, 1, 2, 4, 5, 6])
    facts = facts_of(stm, path)
    assert facts["vfr"]
    assert (facts["shortest_gap"], facts["longest_gap"]) == pytest.approx((0.04, 0.08))
    assert float(Fraction(facts["rate"])) == pytest.approx(5 / 0.24)
    assert "variable, 20.833 fps on average, 40 to 80 ms between frames" in stm("info", path).stdout


def test_colour_tags_and_what_is_assumed_are_told_apart(stm, make_clip, tmp_path):
    path = tmp_path / "c.mkv"
    with av.open(str(path), "w") as out:
        stream = out.add_stream("libx264", rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p10le"
        context = stream.codec_context
        context.color_primaries, context.color_trc, context.colorspace, context.color_range = 9, 16, 9, 1
        out.mux(stream.encode(av.VideoFrame(64, 48, "yuv420p10le")))
        out.mux(stream.encode(None))
    facts = facts_of(stm, path)
    assert (facts["bits"], facts["hdr"], facts["pixel_format"]) == (10, True, "yuv420p10le")
    tags = {"primaries": "BT.2020", "transfer": "PQ", "matrix": "BT.2020", "range": "limited"}
    assert facts["color"] == tags | {"matrix_used": "BT.2020", "range_used": "limited"}
    assert "taken as" not in stm("info", path).stdout
    assert "untagged; taken as matrix BT.601, range limited" in stm("info", make_clip()).stdout


def test_a_mirrored_clip_says_so(stm, make_clip):
    path = make_clip(frames=2, matrix=(-65536, 0, 0, 0, 65536, 0, 0, 0, 1 << 30))
    assert facts_of(stm, path)["flip"] == "horizontal"
    assert "mirrored left to right" in stm("info", path).stdout


def test_a_folder_tells_its_numbers_and_its_images(stm, make_folder):
    folder = make_folder([f"shot.{number}.png" for number in (1001, 1003, 1005)])
    for path, container in ((folder, "folder"), (folder / "shot.####.png", "sequence")):
        facts = facts_of(stm, path)
        assert (facts["kind"], facts["container"], facts["codec"], facts["counted_by"]) == (
            "frames",
            container,
            "png",
            "files",
        )
        assert (facts["frames"], facts["first"], facts["last"], facts["step"]) == (3, 1001, 1005, 2)
        assert (facts["audio"], facts["timecode"], facts["bits"], facts["rate"]) == (None, None, 8, "24")
    assert "1001 to 1005 in steps of 2" in stm("info", folder).stdout


def test_16_bit_images_are_known(tmp_path):
    Image.new("I;16", (8, 8)).save(tmp_path / "0.png")
    assert clip_facts(tmp_path).info.color.bits == 16


def test_the_listing_has_two_columns_and_ends_with_the_verdict(stm, make_clip):
    result = stm("info", make_clip(audio="aac"))
    lines = result.stdout.splitlines()
    assert result.exit_code == 0
    assert lines[0] == "container     mp4"
    assert lines[-1] == "usable        yes"
    assert all(line[:13].strip() and line[13] == " " and line[14] != " " for line in lines)
    assert "audio         aac, 1 channel, 48000 Hz" in lines


def test_a_clip_cut_short_tells_what_is_left_and_fails(stm, make_clip):
    path = make_clip(frames=40, movflags="faststart")
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * 0.7)])
    facts = facts_of(stm, path, code=1)
    assert facts["usable"] is False
    assert f"{facts['frames']} of 40 frames can be read" in facts["reason"]
    assert (facts["frames_declared"], facts["counted_by"], facts["width"]) == (40, "packets", 64)
    result = stm("info", path)
    assert result.exit_code == 1
    assert result.stdout.splitlines()[-1] == "usable        no"
    assert result.stderr.startswith(f"error: {path}: the file was cut short")
    assert result.stderr.count("\n") == 1


def test_what_is_no_video_is_said_in_one_line(stm, tmp_path):
    path = tmp_path / "x.mp4"
    path.write_bytes(b"%PDF-1.7\n\x00\x01" * 50)
    facts = facts_of(stm, path, code=1)
    assert facts == {
        "path": str(path),
        "usable": False,
        "reason": "this is a PDF document, not a video. Give the video file itself.",
        "warnings": [],
    }
    assert "only audio" in facts_of(stm, write_sound_file(tmp_path / "s.mp4"), code=1)["reason"]


def test_a_gap_in_a_folder_is_a_reason(stm, make_folder):
    assert "frame 2 is missing" in facts_of(stm, make_folder(["0.png", "1.png", "3.png"]), code=1)["reason"]


def test_what_does_not_exist_is_a_usage_error(stm, tmp_path):
    result = stm("info", tmp_path / "none.mp4", "--json")
    assert (result.exit_code, result.stdout) == (2, "")
    assert "no such file" in result.stderr


def test_a_rate_that_the_timestamps_contradict_is_not_believed(make_clip):
    path = make_clip("a.avi", frames=8, codec="mjpeg", pix_fmt="yuvj420p", options={})
    info = clip_facts(path).info
    times = [Fraction(index, 25) for index in range(8)]
    assert _pace(list(range(8)), times, replace(info, rate=Fraction(50))).rate == 25
