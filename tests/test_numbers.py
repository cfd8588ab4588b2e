"""Frames numbered from another number than the source's own: the same numbers everywhere."""

import io
import json
import re
import zipfile
from fractions import Fraction

import numpy as np
import pytest
from PIL import Image

from stmcli.datasets import DavisWriter
from stmcli.datasets.pictures import Pictures
from stmcli.errors import UsageError, VideoError
from stmcli.given import read_given
from stmcli.outputs import OverlayWriter
from stmcli.review import Review
from stmcli.video import first_frame_from, last_frame_until, open_source, read_frame
from stmcli.video.frame import Source
from stmcli.video.numbering import whole_range


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def stems(source: Source):
    return [source.frame_name(frame.index) for frame in source]


@pytest.fixture
def cut(segment, make_clip, make_mask):
    """Segment frames 3 to 5 of ten, numbered 1003 to 1005; the function takes more words."""
    clip, mask = make_clip(audio="aac", timecode="01:00:00:00"), make_mask()
    words = (clip, "-m", f"1003:{mask}", "--first-number", 1001, "--end", 1005, "-o", "out")
    return lambda *more: segment(*words, *more)


# -- a source ----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv", "a.ts", "a.avi"])
def test_a_video_counts_from_the_number_it_is_given(make_clip, name):
    path = make_clip(name)
    with open_source(path) as own, open_source(path, first_number=1001, start=1004, end=1006) as source:
        wanted, found = list(own)[3:6], list(source)
        assert (stems(source), source.count) == (["01004", "01005", "01006"], 3 if source.info.frames else None)
        assert list(source.times().items()) == [(number + 1001, time) for number, time in own.times().items()]
    assert [frame.index for frame in found] == [1004, 1005, 1006]
    assert [(frame.time, frame.rgb.tobytes()) for frame in found] == [(f.time, f.rgb.tobytes()) for f in wanted]


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv"])
def test_numbers_before_the_first_are_no_frames(make_clip, name):
    path = make_clip(name)
    for choice in ({"start": 3}, {"end": 1000}):
        with pytest.raises(UsageError, match=r"has no frame (3|1000)\. .* numbered (from 1001|1001 to 1010)"):
            open_source(path, first_number=1001, **choice)
    with pytest.raises(UsageError, match=r"has no frame 1011\. It has 10 frames, numbered 1001 to 1010"):
        list(open_source(path, first_number=1001, start=1011))
    with open_source(path, first_number=1001, start=1009, end=1020) as source:
        assert len(list(source)) == 2
        assert "the clip ends at frame 1010, before frame 1020" in source.warnings


@pytest.mark.parametrize(
    ("files", "first", "wanted"),
    [
        (["shot.0042.png", "shot.0043.png"], 1001, ["shot.1001", "shot.1002"]),
        (["shot.1001.png", "shot.1002.png"], 0, ["shot.0000", "shot.0001"]),
        (["s8.png", "s9.png", "s10.png"], 98, ["s98", "s99", "s100"]),
        (["099_v2.png", "100_v2.png"], 1000, ["01000", "01001"]),  # counted: what differs is not the last number
        (["0010.png", "0015.png", "0020.png"], 99_990, ["99990", "99995", "100000"]),
        (["a.png", "b.png"], 1001, ["01001", "01002"]),
    ],
)
def test_the_number_in_a_name_is_replaced_and_no_narrower(make_folder, files, first, wanted):
    with open_source(make_folder(files), first_number=first) as source:
        assert (stems(source), source.info.first_number) == (wanted, first)
        assert [frame.rgb.tobytes() for frame in source] == [f.rgb.tobytes() for f in open_source(source.info.path)]


def test_a_sequence_keeps_its_names_unless_told(make_folder):
    folder = make_folder(["a.png", "b.png"])
    with open_source(folder) as source:
        assert (stems(source), source.info.first_number) == (["a", "b"], 0)
    with open_source(make_folder(["7.png", "8.png"], name="numbered"), start=8) as source:
        assert (stems(source), source.info.first_number, source.info.first_chosen) == (["8"], 7, 8)


def test_a_time_finds_the_new_number(make_clip, make_folder):
    clip, folder = make_clip(), make_folder(["1.png", "2.png", "3.png"])  # 25 and 24 a second
    assert first_frame_from(clip, Fraction(8, 100), first_number=1001) == 1003
    assert last_frame_until(clip, Fraction(9, 100), first_number=1001) == 1003
    assert first_frame_from(folder, Fraction(1, 24), first_number=1001) == 1002
    assert first_frame_from(clip, 1003, first_number=1001) == 1003


def test_a_frame_that_cannot_be_decoded_is_named_by_its_new_number(make_folder):
    folder = make_folder(["0.png", "1.png", "2.png"])
    (folder / "1.png").write_bytes((folder / "1.png").read_bytes()[:60])
    with open_source(folder, first_number=1001, on_corrupt="skip") as source:
        assert [frame.corrupt for frame in source] == [False, True, False]
        assert source.corrupt_frames == [1002]


# -- films and dataset files -------------------------------------------------------------------


class Nothing:
    """Answer that there is no object."""

    object_ids = ()

    def labels(self):
        """Return an empty mask."""
        return np.zeros((48, 64), np.uint8)


@pytest.mark.parametrize(("start", "later"), [(None, 0), (1001, 0), (1004, 3)])
def test_the_timecode_of_a_film_is_that_of_its_first_frame_whatever_its_number(make_clip, tmp_path, start, later):
    source = open_source(make_clip(timecode="01:00:00:00"), first_number=1001, start=start)
    writer = OverlayWriter(tmp_path / "o.mp4", source.info)
    for frame in source:
        writer.write(frame, Nothing())
    writer.close()
    assert writer.facts["timecode"] == f"01:00:00:0{later}"


def test_pictures_that_are_files_are_found_by_their_new_numbers(make_folder, tmp_path):
    folder = make_folder(["s.0042.png", "s.0043.png"])
    with open_source(folder, first_number=1001, start=1002) as source:
        assert Pictures(source.info).file(1002) == folder / "s.0043.png"
        writer = DavisWriter(tmp_path / "davis", source.info, source.frame_name)
        for frame in source:
            writer.write(frame, Nothing())
        writer.close()
        assert writer.notes == ["davis counts its frames from 00000: 00000 is s.1002 of frames"]


# -- the commands ------------------------------------------------------------------------------


def test_one_numbering_holds_in_options_names_and_the_report(cut, tmp_path):
    result = cut("-e", "cutout", "-e", "mots")
    assert result.exit_code == 0, result.stderr
    wanted = ["01003.png", "01004.png", "01005.png"]
    for folder in ("masks", "soft/1", "cutout"):
        assert names(tmp_path / "out" / folder) == wanted
    stored = zipfile.ZipFile(tmp_path / "out" / "mots.zip").namelist()
    assert [name for name in stored if "images" in name] == [f"train/images/{name[:5]}.jpg" for name in wanted]
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert [frame["frame"] for frame in report["frames"]] == [1003, 1004, 1005]
    assert (report["masks"][0]["frame"], report["frames"][0]["time"]) == (1003, 0.08)
    assert "the clip is followed from frame 1003, the first with a mask" in report["notes"]


def test_other_numbers_are_another_job(segment, make_clip, make_mask, tmp_path):
    words = (make_clip("b.mp4", frames=3), "-m", make_mask("b.png"), "-o", "b", "-e", "none")
    assert segment(*words, "--first-number", 1001).exit_code == 0
    assert "already done" in segment(*words, "--first-number", 1001).stderr
    for other in ((), ("--first-number", 1)):
        refused = segment(*words, *other)
        assert (refused.exit_code, "another job" in refused.stderr) == (2, True)
    assert segment(*words, "-y").exit_code == 0
    assert names(tmp_path / "b" / "masks") == ["00000.png", "00001.png", "00002.png"]


def test_a_folder_of_masks_is_in_the_new_numbers(segment, make_folder, make_mask, tmp_path):
    frames = make_folder(["s.0001.png", "s.0002.png", "s.0003.png"])
    (tmp_path / "given").mkdir()
    for name in ("s.1002.png", "1003.png"):
        make_mask().rename(tmp_path / "given" / name)
    result = segment(frames, "-m", "given", "--first-number", 1001, "-o", "out", "-e", "none", "--json")
    assert result.exit_code == 0, result.stderr
    assert names(tmp_path / "out" / "masks") == ["s.1002.png", "s.1003.png"]


@pytest.mark.parametrize("command", ["segment", "frame", "export"])
def test_a_negative_number_is_refused(stm, make_clip, make_mask, command):
    words = {"segment": ("-m", make_mask()), "frame": (), "export": ("--video", make_clip("b.mp4"), "--to", "coco")}
    result = stm(command, make_clip(), *words[command], "--first-number", -1)
    assert (result.exit_code, len(result.stderr.splitlines())) == (2, 1)
    assert "--first-number" in result.stderr
    with pytest.raises(UsageError, match="has no frame -1"):
        open_source(make_clip(), first_number=-1)


def test_a_start_in_the_old_numbers_says_which_there_are(cut):
    result = cut("--start", 2)
    assert result.exit_code == 2
    assert result.stderr.endswith("has no frame 2. It has 10 frames, numbered 1001 to 1010.\n")


def test_a_later_export_finds_the_numbers_in_the_report(cut, stm, tmp_path):
    assert cut("-e", "none", "--keep-soft").exit_code == 0
    clip = tmp_path / "clip.mp4"
    made = stm("export", "out", "--video", clip, "--to", "cutout", "--to", "overlay", "--to", "ytvis")
    assert made.exit_code == 0, made.stderr
    assert names(tmp_path / "out" / "cutout") == ["01003.png", "01004.png", "01005.png"]
    film = [frame.rgb.astype(int) for frame in open_source(tmp_path / "out" / "overlay.mp4")]
    assert [round(rgb[40:, 40:].mean()) for rgb in film] == pytest.approx([72, 78, 84], abs=3)  # pictures 2, 3, 4
    assert stm("export", "out/masks", "--video", clip, "--to", "coco", "-o", "again").exit_code == 0
    images = json.loads((tmp_path / "again" / "coco.json").read_text())["images"]
    assert [image["file_name"] for image in images] == ["01003.jpg", "01004.jpg", "01005.jpg"]


def test_masks_without_a_report_need_to_be_told(cut, stm, tmp_path):
    assert cut("-e", "none").exit_code == 0
    (tmp_path / "out" / "masks").rename(tmp_path / "mine")
    words = ("export", "mine", "--video", tmp_path / "clip.mp4", "--to", "mots", "-o", "made")
    refused = stm(*words)
    assert (refused.exit_code, "has no frame 1003" in refused.stderr) == (2, True)
    assert stm(*words, "--first-number", 1001).exit_code == 0
    assert "train/images/01005.jpg" in zipfile.ZipFile(tmp_path / "made" / "mots.zip").namelist()


@pytest.mark.parametrize("content", ["[]", '{"options": []}', '{"options": {"segment": {"first_number": "x"}}}'])
def test_a_foreign_report_says_nothing_about_numbers(stm, make_clip, make_mask, tmp_path, content):
    (tmp_path / "masks").mkdir()
    make_mask().rename(tmp_path / "masks" / "00000.png")
    (tmp_path / "report.json").write_text(content)
    made = stm("export", "masks", "--video", make_clip(frames=1), "--to", "coco", "-o", "made")
    assert made.exit_code == 0, made.stderr


def test_a_frame_to_paint_on_is_found_by_its_new_number(stm, make_clip, tmp_path):
    clip = make_clip()
    for at, index in (("1004", 3), ("0.2s", 5)):
        assert stm("frame", clip, "--at", at, "--first-number", 1001, "-o", "f.png", "-y").exit_code == 0
        with Image.open(tmp_path / "f.png") as image:
            assert image.tobytes() == read_frame(clip, index).rgb.tobytes()
    assert stm("frame", clip, "--first-number", 1001, "-o", "f.png", "-y").exit_code == 0


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv"])
def test_a_mask_of_a_later_frame_is_given_by_its_new_number(make_clip, make_mask, name):
    mask = make_mask()
    with open_source(make_clip(name), first_number=1001) as source:
        for word in (f"1003:{mask}", f"0.08s:{mask}"):
            assert [given.frame for given in read_given([word], source)] == [1003]
        assert [given.frame for given in read_given([mask], source)] == [1001]
        with pytest.raises(UsageError, match=r"is a mask of frame 3, .* one of 1001 to 1010"):
            read_given([f"3:{mask}"], source)


def test_a_result_with_new_numbers_is_looked_through_and_its_page_made_again(cut, stm, tmp_path):
    """By the frames that they mean: a number too many would show every mask on the frame after its own."""
    assert cut("-e", "none").exit_code == 0
    clip = tmp_path / "clip.mp4"
    review = Review(tmp_path / "out")
    for number, index in ((1003, 2), (1005, 4)):
        shown = np.array(Image.open(io.BytesIO(review.frames.picture(number)))).astype(int)
        assert shown[40:, 40:].mean() == pytest.approx(read_frame(clip, index).rgb[40:, 40:].mean(), abs=2)
    before = (tmp_path / "out" / "report.html").read_text()
    made = stm("report", "out")
    assert made.exit_code == 0, made.stderr
    assert pictures_of((tmp_path / "out" / "report.html").read_text()) == pictures_of(before)
    assert "--first-number 1001" in next(line for line in before.splitlines() if "stm frame" in line)


def pictures_of(page):
    return re.findall(r'src="(data:[^"]+)"', page)


def test_masks_under_earlier_numbers_do_not_stay_beside_those_under_others(segment, make_folder, make_mask, tmp_path):
    folder, mask = make_folder([f"shot.{number}.png" for number in range(3)]), make_mask()
    words = (folder, "-m", mask, "-o", "out", "-e", "none", "-y")
    assert segment(*words, "--first-number", 1001).exit_code == 0
    (tmp_path / "out" / "masks" / "mine.png").write_bytes(b"mine")
    assert segment(*words).exit_code == 0
    assert names(tmp_path / "out" / "masks") == ["mine.png", "shot.0.png", "shot.1.png", "shot.2.png"]


def test_as_many_frames_may_be_missing_as_there_are(tmp_path):
    files = {number: tmp_path / f"{number}.png" for number in (1, 2, 6)}
    assert whole_range(tmp_path, files) == range(1, 7)
    with pytest.raises(VideoError, match="more frames are missing than are there"):
        whole_range(tmp_path, files | {15: tmp_path / "15.png"})
