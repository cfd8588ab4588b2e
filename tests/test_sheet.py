"""The picture of how a clip was scored."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from stmcli.diagram import ticks
from stmcli.errors import MaskError, UsageError, WriteError
from stmcli.evaluate import ObjectScores, draw_sheets, evaluate_folder
from stmcli.evaluate.layout import mask_files
from stmcli.evaluate.sheet import PREDICTION, TRUTH, WIDTH, _view, worst_frames
from stmcli.masks import write_labels


def load(path):
    with Image.open(path) as image:
        return image.copy()


def rgb(colour):
    return tuple(bytes.fromhex(colour[1:]))


def count(image, colour):
    return int((np.array(image) == rgb(colour)).all(axis=-1).sum())


@pytest.fixture
def root(tmp_path):
    """A clip of nine frames whose prediction stands still while the object moves, with its frames."""
    for index in range(9):
        labels = np.zeros((60, 80), np.uint8)
        labels[10:30, 3 * index : 3 * index + 20] = 1
        paths = (tmp_path / kind / "clip" for kind in ("Annotations", "JPEGImages", "predicted"))
        truth, frames, predicted = paths
        for folder in (truth, frames, predicted):
            folder.mkdir(parents=True, exist_ok=True)
        write_labels(truth / f"{index:05}.png", labels)
        write_labels(predicted / f"{index:05}.png", np.roll(labels, -3 * index, axis=1))
        Image.new("RGB", (80, 60), (0, 0, 120)).save(frames / f"{index:05}.jpg")
    return tmp_path


def draw(root, target):
    predicted = root / "predicted"
    scores = evaluate_folder(predicted, root, protocol="folder")
    return draw_sheets(scores, predicted, root, protocol="folder", target=target)


def test_a_folder_gets_a_picture_for_each_clip_with_both_contours_over_the_frames(root):
    (path,) = draw(root, root / "sheets")
    assert path == root / "sheets" / "clip.png"
    sheet = load(path)
    assert sheet.width == WIDTH
    assert count(sheet, TRUTH) > 1000
    assert count(sheet, PREDICTION) > 1000
    blue = np.abs(np.array(sheet.convert("RGB")).astype(int) - (0, 0, 120)).max(axis=-1) < 12
    assert blue.sum() > 100_000


def test_a_png_holds_all_clips_and_frames_are_not_needed(root):
    (single,) = draw(root, root / "single.png")
    for kind in ("Annotations", "predicted"):
        (root / kind / "again").mkdir()
        for path in (root / kind / "clip").glob("*.png"):
            (root / kind / "again" / path.name).write_bytes(path.read_bytes())
    (both,) = draw(root, root / "both.png")
    assert load(both).height == 2 * load(single).height


def test_worst_frames_are_apart_and_in_order():
    names = tuple(f"{index:05}" for index in range(20))
    j = np.ones(20)
    j[[3, 4, 12]] = 0.2, 0.1, 0.3
    other = np.ones(20)
    other[17] = 0.0
    objects = {1: ObjectScores(j, j, names), 4: ObjectScores(other, other, names)}
    worst = worst_frames(objects)
    assert [(one.frame, one.number, one.j) for one in worst] == [
        ("00004", 1, 0.1),
        ("00012", 1, 0.3),
        ("00017", 4, 0.0),
    ]


@pytest.mark.parametrize("names", [("8", "9", "10"), ("00008", "9", "00010"), ("end", "mid", "top"), ("aa", "b", "cc")])
def test_the_worst_frames_come_in_the_order_of_the_masks(names, tmp_path):
    for name in reversed(names):
        (tmp_path / f"{name}.png").touch()
    assert tuple(path.stem for path in mask_files(tmp_path)) == names
    objects = {1: ObjectScores(np.zeros(3), np.zeros(3), names)}
    assert tuple(one.frame for one in worst_frames(objects)) == names


def test_frames_before_an_object_enters_need_no_prediction(root):
    for index in range(4):
        write_labels(root / "Annotations" / "clip" / f"{index:05}.png", np.zeros((60, 80), np.uint8))
        (root / "predicted" / "clip" / f"{index:05}.png").unlink()
    for path in (root / "predicted" / "clip").glob("*.png"):
        path.write_bytes((root / "Annotations" / "clip" / path.name).read_bytes())
    assert load(draw(root, root / "late.png")[0]).width == WIDTH


def test_small_objects_are_shown_closer_and_none_is_cut():
    mask = np.zeros((100, 200), bool)
    assert _view(mask) == (0, 0, 200, 100)
    mask[90:98, 4:20] = True
    assert _view(mask) == (0, 70, 60, 100)  # three tenths of each side, moved inside the frame
    mask[40:60, 150:170] = True
    assert _view(mask) == (0, 0, 200, 100)


def test_a_clip_of_one_scored_frame_is_drawn(root):
    for kind in ("Annotations", "predicted"):
        for path in sorted((root / kind / "clip").glob("*.png"))[3:]:
            path.unlink()
    assert load(draw(root, root / "short.png")[0]).width == WIDTH


def test_a_folder_that_cannot_be_made_is_named(root):
    with pytest.raises(WriteError, match="/proc/sheets: cannot be written"):
        draw(root, Path("/proc/sheets"))


def test_a_missing_or_odd_frame_is_named(root):
    frame = root / "JPEGImages" / "clip" / "00007.jpg"
    Image.new("RGB", (30, 20)).save(frame)
    with pytest.raises(MaskError, match=r"00007\.jpg: .*30x20 .*80x60"):
        draw(root, root / "x.png")
    frame.write_bytes(b"junk")
    with pytest.raises(MaskError, match=r"00007\.jpg: not an image"):
        draw(root, root / "x.png")
    frame.unlink()
    with pytest.raises(UsageError, match=r"JPEGImages/clip: no frame 00007"):
        draw(root, root / "x.png")
    assert not (root / "x.png").exists()


@pytest.mark.parametrize(
    ("first", "last", "expected"),
    [(0, 1, [0.1 * i for i in range(11)]), (1, 9, [*range(1, 10)]), (95, 130, [95, 100, 105, 110, 115, 120, 125, 130])],
)
def test_ticks_are_round_numbers(first, last, expected):
    assert ticks(last, first) == pytest.approx(expected)


def test_one_place_has_one_tick():
    assert ticks(5, 5) == [5]
