import json
import re
from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
from PIL import Image

from stmcli.errors import MaskError, UsageError
from stmcli.given import GivenMask, list_mask_files, mask_in, read_given
from stmcli.masks import read_values, write_labels
from stmcli.video import open_source


def block(*ids, width=64, height=48):
    """One 8x8 square for each id, side by side, on background."""
    labels = np.zeros((height, width), np.uint16 if max(ids, default=0) > 255 else np.uint8)
    for place, number in enumerate(ids):
        labels[4:12, 8 * place : 8 * place + 8] = number
    return labels


@pytest.fixture
def put(tmp_path):
    """Return a function that writes a palette mask of the given ids into the test's folder."""

    def write(name, *ids, **size):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        write_labels(path, block(*ids, **size))
        return path

    return write


@pytest.fixture
def grey(tmp_path):
    def write(name, *levels):
        Image.fromarray(block(*levels)).save(tmp_path / name)
        return tmp_path / name

    return write


def given(clip, *masks, start=None, end=None, objects=()):
    """Return {frame: ids}, and what was said."""
    said = []
    with open_source(clip, start=start, end=end) as source:
        masks = read_given(masks, source, objects=objects, warn=said.append)
    return {mask.frame: mask.ids for mask in masks}, said


def refusal(error, clip, *masks, **options):
    with pytest.raises(error) as caught:
        given(clip, *masks, **options)
    assert caught.value.exit_code == 2
    assert "\n" not in str(caught.value)
    return str(caught.value)


# Which file, which frame.


@pytest.mark.parametrize(
    ("word", "path", "frame"),
    [
        ("m.png", "m.png", None),
        ("7:m.png", "m.png", 7),
        ("0012:a/b:c.png", "a/b:c.png", 12),
        ("10s:m.png", "m.png", 10),
        (".5s:a b.png", "a b.png", Fraction(1, 2)),
        ("1:30:m.png", "m.png", 90),
        ("00:01:30.25:m.png", "m.png", Fraction(361, 4)),
        ("1:30.png", "30.png", 1),
        ("1:75:m.png", "75:m.png", 1),
        ("1:99:00:m.png", "99:00:m.png", 1),
        ("take:1.png", "take:1.png", None),
        ("C:\\masks\\m.png", "C:\\masks\\m.png", None),
        ("-1:m.png", "-1:m.png", None),
        ("./7:m.png", "7:m.png", None),
        ("7:", "7:", None),
        ("٣:m.png", "٣:m.png", None),
    ],
)
def test_a_number_or_a_time_before_a_colon_is_a_frame(word, path, frame, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (file,) = list_mask_files([word])
    assert (str(file.path), file.frame) == (path, frame)


def test_a_file_of_that_very_name_is_that_file(tmp_path, monkeypatch, put):
    monkeypatch.chdir(tmp_path)
    put("7:m.png", 1)
    (file,) = list_mask_files(["7:m.png"])
    assert (str(file.path), file.frame) == ("7:m.png", None)


def test_a_time_is_the_first_frame_from_then_on(make_clip, make_folder, put):
    clip, folder = make_clip(), make_folder([f"s.{number}.png" for number in (1001, 1003, 1005)])
    mask = put("m.png", 1)
    assert given(clip, f"0.121s:{mask}")[0] == {4: (1,)}
    assert given(clip, mask, f"00:00:00.12:{mask}", start=1)[0] == {1: (1,), 3: (1,)}
    assert given(folder, f"0:00.04:{mask}")[0] == {1003: (1,)}
    with pytest.raises(UsageError, match=r"clip\.mp4: has no frame at 5\.000 s or later"):
        given(clip, f"5s:{mask}")


def test_masks_come_in_the_order_of_their_frames_with_their_own_labels(make_clip, put):
    clip, masks = make_clip(), [f"7:{put('b.png', 2, 300)}", put("a.png", 1, 5), f"3:{put('c.png', 5)}"]
    with open_source(clip) as source:
        read = read_given(masks, source, warn=lambda _: None)
    assert [(mask.frame, mask.ids) for mask in read] == [(0, (1, 5)), (3, (5,)), (7, (2, 300))]
    for mask, ids in zip(read, [(1, 5), (5,), (2, 300)], strict=True):
        assert np.array_equal(mask.labels(), block(*ids))


def test_a_mask_without_a_frame_belongs_to_the_first_chosen_one(make_clip, make_folder, put):
    mask, folder = put("m.png", 1), make_folder([f"s.{number}.png" for number in (1001, 1003, 1005)])
    assert given(make_clip(), mask, start=4)[0] == {4: (1,)}
    assert given(make_clip("clip.mkv"), mask, start=4)[0] == {4: (1,)}
    assert given(folder, mask)[0] == {1001: (1,)}
    assert given(folder, mask, start=1003)[0] == {1003: (1,)}


def test_a_folder_of_masks_is_named_after_the_frames(make_clip, make_folder, put):
    frames = make_folder([f"s.{number:04d}.png" for number in (8, 9, 10)])
    for name, ids in (("9.png", (2,)), ("010.PNG", (1, 2)), ("s.0008.png", (1,)), (".DS_Store.png", ())):
        masks = put(f"masks/{name}", *ids).parent
    (masks / "notes.txt").write_text("no mask")
    assert given(frames, masks)[0] == {8: (1,), 9: (2,), 10: (1, 2)}
    message = refusal(UsageError, make_clip(frames=20), masks)
    assert "s.0008.png: is not named after a frame. Name it <frame>.png" in message


def test_masks_of_frames_that_were_not_chosen_stay_out_of_a_folder_only(make_clip, put):
    clip = make_clip()
    for number in range(10):
        masks = put(f"masks/{number:05d}.png", 1 + number).parent
    found, said = given(clip, masks, start=2, end=4)
    assert found == {2: (3,), 3: (4,), 4: (5,)}
    assert "7 masks of frames that were not chosen left out" in said
    message = refusal(UsageError, clip, put("a.png", 1), f"5:{put('b.png', 1)}", start=2, end=4)
    assert "b.png: is a mask of frame 5, which was not chosen. Its frame must be one of 2 to 4." in message


def test_empty_masks_in_a_folder_say_that_nothing_is_there(make_clip, put):
    for number, ids in enumerate([(), (), (1,), (), (1, 2)]):
        masks = put(f"masks/{number}.png", *ids).parent
    found, said = given(make_clip(), masks)
    assert found == {2: (1,), 3: (), 4: (1, 2)}
    assert said == [f"{masks}/4.png: object 2 enters at frame 4"]


@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
def test_a_frame_that_the_clip_does_not_have_is_named_with_those_it_has(make_clip, put, suffix):
    clip, mask = make_clip(f"clip{suffix}"), put("m.png", 1)
    message = refusal(UsageError, clip, mask, f"10:{mask}")
    assert (
        f"m.png: is a mask of frame 10, which clip{suffix} does not have. Its frame must be one of 0 to 9." in message
    )
    assert given(clip, mask, f"9:{mask}")[0] == {0: (1,), 9: (1,)}


def test_a_folder_with_the_mask_of_a_frame_that_the_clip_does_not_have_is_refused(make_clip, put):
    put("masks/0.png", 1)
    message = refusal(UsageError, make_clip(), put("masks/10.png", 1).parent)
    assert "10.png: is a mask of frame 10, which clip.mp4 does not have" in message


def test_a_number_between_those_of_a_folder_is_no_frame_of_it(make_folder, put):
    folder, mask = make_folder([f"s.{number}.png" for number in (1001, 1003, 1005)]), put("m.png", 1)
    message = refusal(UsageError, folder, mask, f"1002:{mask}")
    assert "1002, which frames does not have. Its frame must be one of 1001 to 1005 in steps of 2." in message
    message = refusal(UsageError, folder, mask, f"1001:{mask}", start=1003)
    assert "1001, which was not chosen. Its frame must be one of 1003 to 1005 in steps of 2." in message


@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
def test_a_first_frame_beyond_the_end_is_named_with_those_there_are(make_clip, put, suffix):
    clip, mask = make_clip(f"clip{suffix}"), put("masks/0.png", 1)
    for words in ([mask.parent], [mask, f"3:{mask}"]):
        message = refusal(UsageError, clip, *words, start=12)
        assert f"clip{suffix}: has no frame 12. It has 10 frames, numbered 0 to 9." in message


def test_two_masks_of_one_frame_are_refused(make_clip, put):
    message = refusal(UsageError, make_clip(), put("a.png", 1), f"0:{put('b.png', 1)}")
    assert "b.png: a second mask for frame 0, beside " in message


def test_a_chosen_first_frame_needs_its_mask(make_clip, put):
    mask = put("m.png", 1)
    message = refusal(UsageError, make_clip(), f"5:{mask}", start=3)
    assert "the first mask is of frame 5, but the first frame is 3. Give a mask of frame 3, or --start 5." in message
    assert given(make_clip(), f"5:{mask}")[0] == {5: (1,)}


def test_folders_without_masks_are_refused(make_clip, tmp_path, put):
    (tmp_path / "empty").mkdir()
    assert "empty: no masks in this folder" in refusal(UsageError, make_clip(), tmp_path / "empty")
    masks = put("masks/3.png", 1).parent
    assert "no mask of a chosen frame" in refusal(UsageError, make_clip(), masks, start=5)
    put("masks/3.png")
    assert "no object in any of these masks" in refusal(MaskError, make_clip(), masks)


def test_a_word_keeps_its_meaning_in_another_folder(tmp_path, put):
    assert mask_in(tmp_path, "m.png") == tmp_path / "m.png"
    assert mask_in(tmp_path, "7:m.png") == f"7:{tmp_path / 'm.png'}"
    assert mask_in(tmp_path, "7:m.png") != put("7:m.png", 1)
    assert mask_in(tmp_path, "7:m.png") == tmp_path / "7:m.png"


# What is in them, taken together.


def test_masks_in_a_folder_show_whole_frames_but_for_those_with_new_objects_alone(make_clip, put):
    clip, word = make_clip(), f"7:{put('late.png', 1)}"
    for number, ids in enumerate([(1,), (2,), (1, 2, 3), ()]):
        masks = put(f"masks/{number}.png", *ids).parent
    for objects in ((), (1, 2)):
        with open_source(clip) as source:
            read = read_given([masks, word], source, objects=objects, warn=lambda _: None)
        assert [mask.whole for mask in read] == [True, False, True, True, False]


def test_masks_that_say_something_else_have_another_digest(tmp_path):
    mask = GivenMask.pack(3, tmp_path, block(1, 2))
    others = [
        replace(mask, frame=4),
        replace(mask, whole=True),
        GivenMask.pack(3, tmp_path, block(1, 2, 3)),
        GivenMask.pack(3, tmp_path, block(1, 2)[::-1]),
        GivenMask.pack(3, tmp_path, block(1, 2).reshape(64, 48)),
    ]
    assert len({one.digest() for one in (mask, *others)}) == 6
    assert GivenMask.pack(3, tmp_path / "elsewhere.png", block(1, 2)).digest() == mask.digest()


def test_every_mask_is_checked_not_only_the_first(make_clip, put, tmp_path):
    clip, good = make_clip(), put("good.png", 1)
    assert "no such file" in refusal(MaskError, clip, good, f"5:{tmp_path}/goood.png")
    rotated = put("r.png", 1, width=48, height=64)
    assert "r.png: the mask is 48x64 but clip.mp4 is 64x48; it looks rotated" in refusal(
        MaskError, clip, good, f"5:{rotated}"
    )
    assert "e.png: no object in this mask" in refusal(MaskError, clip, good, f"5:{put('e.png')}")


def test_white_alone_is_an_object_unless_another_mask_has_it_as_void(make_clip, put, grey):
    first, later = put("a.png", 1), f"3:{put('b.png', 255)}"
    assert given(make_clip(), first, later)[0] == {0: (1,), 3: (1,)}
    assert "b.png: no object" in refusal(MaskError, make_clip(), put("a.png", 1, 255), later)
    assert given(make_clip(), grey("c.png", 255), f"3:{grey('d.png', 2)}")[0] == {0: (1,), 3: (2,)}


def test_one_grey_value_is_an_id_where_the_other_masks_have_more(make_clip, grey):
    clip, one, two = make_clip(), grey("one.png", 3), grey("two.png", 3, 4)
    assert given(clip, one)[0] == {0: (1,)}
    assert given(clip, two, f"4:{one}") == ({0: (3, 4), 4: (3,)}, [])
    found, said = given(clip, one, f"4:{one}")
    assert found == {0: (1,), 4: (1,)}
    assert said == [f"{one}: grey values 0 and 3 are read as one object, id 1; palette PNG keeps ids (and in 1 more)"]


def test_objects_are_chosen_in_all_masks(make_clip, put):
    clip, masks = make_clip(), [put("a.png", 1, 2), f"3:{put('b.png', 2, 7)}", f"5:{put('c.png', 9)}"]
    found, said = given(clip, *masks, objects=(1, 7))
    assert found == {0: (1,), 3: (7,)}
    assert "1 of 3 masks show none of the chosen objects" in said
    assert given(clip, *masks, objects=(7,))[0] == {3: (7,)}
    assert refusal(UsageError, clip, *masks, objects=(1, 8)) == "no object 8 in any mask. The ids there are: 1, 2, 7, 9"


def test_objects_that_enter_late_are_reported(make_clip, put):
    b = put("b.png", 1, 4, 5)
    _, said = given(make_clip(), put("a.png", 1), f"2:{b}", f"6:{put('c.png', 5)}")
    assert said == [f"{b}: objects 4, 5 enter at frame 2"]


# Handed on by the command.


def test_the_clip_is_followed_from_the_first_mask_and_the_report_lists_them_all(segment, make_clip, put, tmp_path):
    first, second = put("a.png", 3), put("b.png", 3, 4)
    words = (make_clip(frames=6), "-m", f"4:{second}", "-m", f"2:{first}", "-o", "out", "-e", "none")
    result = segment(*words)
    assert result.exit_code == 0, result.stderr
    assert sorted(path.name for path in (tmp_path / "out" / "masks").iterdir()) == [f"0000{n}.png" for n in range(2, 6)]
    assert np.array_equal(read_values(tmp_path / "out" / "masks" / "00002.png"), block(3))
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    listed = [{"frame": 2, "path": str(first), "ids": [3]}, {"frame": 4, "path": str(second), "ids": [3, 4]}]
    assert (report["masks"], report["objects"]) == (listed, [3, 4])
    for note in (
        f"{second}: object 4 enters at frame 4",
        "the clip is followed from frame 2, the first with a mask",
    ):
        assert note in report["notes"]
        assert f"note: {note}\n" in result.stderr
    assert "already done" in segment(*words).stderr
    put("a.png", 4)
    assert "holds the result of another job" in segment(*words).stderr


def test_a_plan_lists_the_masks(segment, make_clip, put):
    words = (make_clip(frames=6), "-m", put("a.png", 1), "-m", f"3:{put('b.png', 1, 2)}", "-n")
    masks = json.loads(segment(*words, "--json").stdout)["masks"]
    assert [(mask["frame"], mask["ids"]) for mask in masks] == [(0, [1]), (3, [1, 2])]
    assert re.search(r"masks: frame 0: \S+a\.png \(ids 1\), frame 3: \S+b\.png \(ids 1, 2\)\n", segment(*words).stdout)


@pytest.mark.parametrize("later", ["99:mask.png", "2:none.png", "0:mask.png", "2:empty.png"])
def test_a_later_mask_is_checked_before_the_network_is_loaded(segment, make_clip, make_mask, put, monkeypatch, later):
    monkeypatch.setattr("stmcli.pipeline.load_model", lambda _: pytest.fail("the network was loaded first"))
    put("empty.png")
    result = segment(make_clip(frames=3), "-m", make_mask(), "-m", later)
    assert (result.exit_code, len(result.stderr.splitlines())) == (2, 1), result.stderr
    assert result.stderr.startswith(f"error: {later.split(':')[1]}: ")


def test_a_later_mask_is_never_overwritten(segment, make_clip, make_mask, put):
    late = put("out/overlay.mp4", 1)
    before = late.read_bytes()
    result = segment(make_clip(frames=3), "-m", make_mask(), "-m", f"1:{late}", "-o", "out", "-y")
    assert (result.exit_code, late.read_bytes()) == (2, before)
    assert "overlay.mp4: is an input of this job" in result.stderr


def test_a_folder_that_is_given_later_corrects_what_was_given_before(make_clip, put):
    clip, first = make_clip(), put("m.png", 1)
    put("masks/4.png", 1, 2)
    put("fixed/4.png", 2)
    masks, fixed = put("masks/0.png", 1, 2).parent, put("fixed/0.png", 1).parent
    found, said = given(clip, masks, fixed)
    assert found == {0: (1,), 4: (2,)}
    assert "2 masks replaced by what was given later for the same frame" in said
    assert given(clip, first, fixed)[0] == {0: (1,), 4: (2,)}
    assert given(clip, masks, f"4:{put('later.png', 1)}")[0] == {0: (1, 2), 4: (1,)}
    put("fixed/00004.png", 1)
    message = refusal(UsageError, clip, masks, fixed)
    assert "a second mask for frame 4, beside" in message


def test_masks_have_the_names_of_frames_that_are_only_counted(make_folder, put):
    """Where one name has no number, the others' numbers do not count."""
    folder = make_folder(["0001.png", "0002.png", "0003.png", "last.png"])
    files = [put(f"masks/{name}.png", 1) for name in ("0001", "0002", "last")]
    assert given(folder, files[0].parent)[0] == {0: (1,), 1: (1,), 3: (1,)}
