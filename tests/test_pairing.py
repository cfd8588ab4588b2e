import os

import numpy as np
import pytest
from conftest import ENCODERS
from PIL import Image

from stmcli.errors import UsageError
from stmcli.masks import write_labels
from stmcli.pairing import Pair, name_outputs, pair_clips


@pytest.fixture
def tree(tmp_path, monkeypatch):
    """Return a function that creates empty files, and goes where they are."""
    monkeypatch.chdir(tmp_path)

    def create(*names):
        for name in names:
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_bytes(b"")

    return create


def names(pairs):
    return [pair.name for pair in pairs]


def outputs(pairs):
    return {str(pair.video): pair.output for pair in pairs}


def paired(*clips, masks="m", out="out"):
    from pathlib import Path

    return pair_clips([str(clip) for clip in clips], Path(masks), Path(out))


@pytest.mark.parametrize(
    ("masks", "found"),
    [
        (["m/A/x.png"], "m/A/x.png"),
        (["m/x.png"], "m/x.png"),
        (["m/x/0.png"], "m/x"),
        (["m/A/x/0.png"], "m/A/x"),
        (["m/A/x.png", "m/y.png"], "m/A/x.png"),
        (["m/A/x.png", "m/x.png"], None),
        (["m/x.png", "m/x/0.png"], None),
        (["m/A/x.png", "m/A/x/0.png"], None),
        (["m/A/x.png", "m/x/readme.txt"], "m/A/x.png"),
        (["m/x.jpg"], None),
        (["m/B/x.png"], None),
    ],
)
def test_the_mask_of_a_clip(tree, masks, found):
    tree("clips/A/x.mp4", *masks)
    (pair,) = paired("clips")
    assert pair.name == "A/x.mp4"
    if found:
        assert ([str(mask) for mask in pair.masks], pair.error) == ([found], "")
    else:
        assert pair.error.startswith("clips/A/x.mp4: ")
        assert ("two masks" in pair.error) == (len(masks) == 2)


def test_the_mask_of_another_clip_is_no_candidate(tree):
    tree("clips/x.mp4", "clips/A/x.mp4", "clips/x/y.mp4", "m/x.png", "m/A/x.png", "m/x/y.png")
    assert {pair.name: [str(mask) for mask in pair.masks] for pair in paired("clips")} == {
        "A/x.mp4": ["m/A/x.png"],
        "x/y.mp4": ["m/x/y.png"],
        "x.mp4": ["m/x.png"],
    }


@pytest.mark.parametrize(
    ("files", "given", "found"),
    [
        (["c/a.mp4", "c/b.txt", "c/.c.mp4", "c/d.MOV"], ["c"], ["a.mp4", "d.MOV"]),
        (["c/a10.mp4", "c/a2.mp4"], ["c"], ["a2.mp4", "a10.mp4"]),
        (["c/A/x.mp4", "c/B/x.mp4"], ["c"], ["A/x.mp4", "B/x.mp4"]),
        (["c/A/x.mp4", "c/B/x.mp4"], ["c/A", "c/B"], ["A/x.mp4", "B/x.mp4"]),
        (["c/A/x.mp4", "c/B/x.mp4"], ["c/*/x.mp4"], ["A/x.mp4", "B/x.mp4"]),
        (["c/A/x.mp4", "c/B/x.mp4"], ["c/**/*.mp4"], ["A/x.mp4", "B/x.mp4"]),
        (["c/A/x.mp4"], ["c/A/x.mp4"], ["x.mp4"]),
        (["c/x.mp4"], ["c", "c/x.mp4", "./c/*.mp4"], ["x.mp4"]),
        (["c/f/0.png", "c/f/1.png", "c/g/0.jpg"], ["c"], ["f", "g"]),
        (["c/f/0.png", "c/f/1.png"], ["c/f"], ["f"]),
        (["c/f/0.png", "c/g/0.png"], ["c/*"], ["f", "g"]),
        (["c/x.mp4/0.png"], ["c"], ["x.mp4"]),
        (["c/poster.jpg", "c/A/x.mp4"], ["c"], ["A/x.mp4"]),
        (["c/x.mp4", "c/m/x.png", "c/out/x/masks/0.png"], ["c"], ["x.mp4"]),
        (["c/x.mp4", "c/old/x/masks/0.png", "c/old/x/overlay.mp4", "c/old/x/report.json"], ["c"], ["x.mp4"]),
        (["c/[x] 1.mp4", "c/-y.mp4"], ["c/[x] 1.mp4", "c/-y.mp4"], ["[x] 1.mp4", "-y.mp4"]),
    ],
)
def test_the_clips_of_what_is_given(tree, files, given, found):
    tree(*files, "c/m/none.png")
    assert names(paired(*given, masks="c/m", out="c/out")) == found


def test_masks_beside_the_clips_are_no_clips(tree):
    tree("c/x.mp4", "c/x/0.png", "c/A/y.mp4", "c/A/y.png")
    assert {pair.name: [str(mask) for mask in pair.masks] for pair in paired("c", masks="c")} == {
        "A/y.mp4": ["c/A/y.png"],
        "x.mp4": ["c/x"],
    }


def test_a_link_to_a_folder_above_ends(tree, tmp_path):
    tree("c/A/x.mp4", "m/x.png")
    (tmp_path / "c/A/again").symlink_to(tmp_path / "c")
    assert names(paired("c")) == ["A/x.mp4"]


def test_a_link_to_the_folder_that_is_given_holds_no_other_clips(tree, tmp_path):
    tree("c/A/x.mp4", "c/y.mp4", "m/x.png", "m/y.png")
    for place in ("c/again", "c/A/again"):
        (tmp_path / place).symlink_to(tmp_path / "c")
    assert sorted(names(paired("c"))) == ["A/x.mp4", "y.mp4"]


@pytest.mark.parametrize("suffix", [*ENCODERS, ".vob", ".asf", ".h264", ".NUT"])
def test_clips_of_all_kinds_that_can_be_read_are_found_in_a_folder(tree, suffix):
    tree(f"c/x{suffix}", "m/x.png")
    assert names(paired("c")) == [f"x{suffix}"]


@pytest.mark.parametrize(
    ("given", "masks", "cause"),
    [
        (["nowhere"], "m", "nowhere: no such file or folder"),
        (["c/*.mov"], "m", r"c/\*.mov: nothing matches"),
        (["empty"], "m", "empty: no clips"),
        (["c"], "n", "n: no such folder"),
        (["c"], "m/x.png", "m/x.png: not a folder"),
        (["c"], None, "no masks given"),
        (["out"], "m", "out: is where the results would go"),
    ],
)
def test_what_is_no_batch_is_wrong_usage(tree, tmp_path, given, masks, cause):
    from pathlib import Path

    tree("c/x.mp4", "m/x.png", "out/x.mp4")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UsageError, match=cause):
        pair_clips(given, masks and Path(masks), Path("out"))


@pytest.mark.parametrize(
    ("files", "wanted"),
    [
        (["a.mp4", "b.mp4"], ["a", "b"]),
        (["a.mp4", "a.mov"], ["a.mp4", "a.mov"]),
        (["A/x.mp4", "B/x.mp4"], ["A/x", "B/x"]),
        (["A.mp4", "a.mp4"], ["A", "a~2"]),
        (["A.mp4", "a.mp4", "á.mp4", "a\u0301.mp4"], ["A", "a~2", "á", "a\u0301~2"]),
        (["X/a.mp4", "x/A.mp4"], ["X/a", "x/A~2"]),
        (["x.mp4", "x/y.mp4"], ["x.mp4", "x/y"]),
        (["x.mp4", "x/y.mp4", "x/y/z.mp4"], ["x.mp4", "x/y.mp4", "x/y/z"]),
        (["X/y.mp4", "x.mp4"], ["X/y", "x~2"]),
        (["a.mp4", "a.mov", "a.mp4.mkv"], ["a.mp4", "a.mov", "a.mp4~2"]),
        (["summary.json.mp4", "batch.jsonl.mov"], ["summary.json~2", "batch.jsonl~2"]),
        (["index.html.mp4"], ["index.html~2"]),
        (["v1.2.mp4", "..mp4", "...mp4"], ["v1.2", "..mp4", "...mp4"]),
    ],
)
def test_every_clip_has_a_folder_of_its_own(tmp_path, files, wanted):
    named = name_outputs([Pair(file, tmp_path / file) for file in files])
    assert [pair.output for pair in named] == wanted
    folded = [os.path.normcase(pair.output) for pair in named]
    assert not any(one != other and f"{one}/".startswith(f"{other}/") for one in folded for other in folded)


def test_a_folder_of_frames_and_a_film_of_one_name(tree):
    tree("c/x.mp4", "c/x/0.png", "m/x.png")
    assert outputs(paired("c")) == {"c/x": "x", "c/x.mp4": "x.mp4"}


def write_dataset(root, *, resolution="480p", first=0):
    for name in ("bear", "dog"):
        images, masks = (root / kind / resolution / name for kind in ("JPEGImages", "Annotations"))
        images.mkdir(parents=True)
        masks.mkdir(parents=True)
        for index in range(3):
            Image.new("RGB", (8, 6)).save(images / f"{index:05d}.jpg")
            write_labels(masks / f"{index:05d}.png", np.full((6, 8), index >= first, np.uint16))


@pytest.mark.parametrize("resolution", ["480p", "1080p", ""])
def test_a_dataset_brings_its_own_masks(tmp_path, resolution):
    write_dataset(tmp_path / "D", resolution=resolution, first=1)
    pairs = pair_clips([str(tmp_path / "D")], None, tmp_path / "out")
    assert [(pair.name, pair.output) for pair in pairs] == [("bear", "bear"), ("dog", "dog")]
    assert pairs[0].video == tmp_path / "D/JPEGImages" / resolution / "bear"
    assert pairs[0].masks == (f"1:{tmp_path / 'D/Annotations' / resolution / 'bear/00001.png'}",)


def test_a_damaged_mask_of_a_dataset_fails_its_clip_alone(tmp_path):
    write_dataset(tmp_path / "D")
    (tmp_path / "D/Annotations/480p/bear/00000.png").write_bytes(b"no picture")
    bear, dog = pair_clips([str(tmp_path / "D")], None, tmp_path / "out")
    assert "00000.png" in bear.error
    assert dog.error == ""


def test_a_clip_of_a_dataset_without_frames_or_masks_fails_alone(tmp_path):
    write_dataset(tmp_path / "D")
    (tmp_path / "D/Annotations/480p/bear").rename(tmp_path / "D/Annotations/480p/cat")
    bear, cat, dog = pair_clips([str(tmp_path / "D")], None, tmp_path / "out")
    assert "no mask for it" in bear.error
    assert "JPEGImages/480p/cat" in cat.error
    assert dog.error == ""
