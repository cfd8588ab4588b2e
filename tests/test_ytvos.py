"""Evaluation in the layout of YouTube-VOS: meta.json, late objects, seen and unseen categories, the submission."""

import csv
import json
import zipfile

import numpy as np
import pytest
from PIL import Image

from stmcli.errors import MaskError, UsageError
from stmcli.evaluate import Scores, evaluate_folder, read_seen, unscorable, write_submission
from stmcli.evaluate.scores import ObjectScores
from stmcli.evaluate.ytvos import TRAINING_CATEGORIES, read_meta
from stmcli.masks import write_labels

NAMES = ("00000", "00005", "00010", "00015")


def clip_of(*firsts):
    """Four frames in which object i + 1 is a block of its own from frame firsts[i] on."""
    clip = np.zeros((4, 24, 40), np.uint8)
    for number, first in enumerate(firsts, 1):
        clip[first:, 2:8, 10 * number - 8 : 10 * number] = number
    return clip


def write_masks(folder, clip, names=NAMES):
    folder.mkdir(parents=True, exist_ok=True)
    for name, labels in zip(names, clip, strict=True):
        write_labels(folder / f"{name}.png", labels)


def write_meta(root, **clips):
    """`clip={id: (category, frames)}`."""
    videos = {
        clip: {
            "objects": {str(i): {"category": category, "frames": [*frames]} for i, (category, frames) in ids.items()}
        }
        for clip, ids in clips.items()
    }
    (root / "meta.json").write_text(json.dumps({"videos": videos}))


@pytest.fixture
def root(tmp_path):
    """A root with one clip `a`: object 1 from the first frame, object 2 from the third."""
    write_masks(tmp_path / "truth" / "Annotations" / "a", clip_of(0, 2))
    write_masks(tmp_path / "predicted" / "a", clip_of(0, 2))
    write_meta(tmp_path / "truth", a={1: ("dog", NAMES), 2: ("tractor", NAMES[2:])})
    return tmp_path


def score(root, **settings):
    return evaluate_folder(root / "predicted", root / "truth", protocol="ytvos", **settings)


def values(scores, clip="a"):
    return {number: one.j.tolist() for number, one in scores.sequences[clip].items()}


def test_an_object_is_scored_in_the_frames_listed_for_it_after_its_first(root):
    scores = score(root)
    assert {number: one.frames for number, one in scores.sequences["a"].items()} == {1: NAMES[1:], 2: NAMES[3:]}
    assert values(scores) == {1: [1, 1, 1], 2: [1]}
    write_meta(root / "truth", a={1: ("dog", (NAMES[0], NAMES[2]))})
    assert values(score(root)) == {1: [1]}
    for name in (NAMES[1], NAMES[3]):
        (root / "predicted" / "a" / f"{name}.png").unlink()
    assert values(score(root)) == {1: [1]}


def test_objects_without_listed_frames_are_scored_to_the_end(root):
    write_meta(root / "truth", a={1: ("dog", ()), 2: ("tractor", ())})
    assert values(score(root)) == {1: [1, 1, 1], 2: [1]}


def test_where_frames_are_listed_for_some_objects_the_others_are_scored_to_the_end(root):
    write_meta(root / "truth", a={1: ("dog", ()), 2: ("tractor", NAMES[2:])})
    write_masks(root / "predicted" / "a", clip_of(0, 2) * (np.arange(4) != 1)[:, None, None])
    assert values(score(root)) == {1: [0, 1, 1], 2: [1]}


def test_the_frame_in_which_a_listed_object_enters_needs_no_prediction(root):
    write_meta(root / "truth", a={1: ("dog", NAMES[:2]), 2: ("tractor", NAMES[2:])})
    (root / "predicted" / "a" / f"{NAMES[2]}.png").unlink()
    assert values(score(root)) == {1: [1], 2: [1]}


def test_two_frames_are_enough_and_an_object_that_enters_in_the_last_one_is_not_scored(root):
    for kind in ("truth/Annotations", "predicted"):
        for name in NAMES[2:]:
            (root / kind / "a" / f"{name}.png").unlink()
    write_masks(root / "truth/Annotations/a", clip_of(0, 1)[:2], NAMES[:2])
    write_meta(root / "truth", a={1: ("dog", ()), 2: ("tractor", ())})
    assert values(score(root)) == {1: [1]}


def test_predictions_of_frames_without_truth_are_not_scored(root):
    write_masks(root / "predicted" / "a", clip_of(0) * 0, names=("00001", "00002", "00011", "00014"))
    assert values(score(root)) == {1: [1, 1, 1], 2: [1]}


def test_a_late_object_that_is_never_predicted_scores_nothing_and_is_noted(root):
    write_masks(root / "predicted" / "a", clip_of(0))
    scores = score(root)
    assert values(scores) == {1: [1, 1, 1], 2: [0]}
    assert len(scores.notes) == 1
    assert scores.notes[0] == f"{root / 'predicted' / 'a'}: object 2 in no scored mask, counted as missed"


def test_frames_before_the_first_object_need_no_prediction(root):
    write_meta(root / "truth", a={1: ("dog", NAMES[1:])})
    write_masks(root / "truth" / "Annotations" / "a", clip_of(1))
    for name in NAMES[:2]:
        (root / "predicted" / "a" / f"{name}.png").unlink()
    assert values(score(root)) == {1: [1, 1]}


def test_only_clips_that_meta_lists_are_scored(root):
    write_masks(root / "truth" / "Annotations" / "b", clip_of(0))
    assert list(score(root).sequences) == ["a"]


def test_the_folder_of_annotations_stands_for_the_root(root):
    scores = evaluate_folder(root / "predicted", root / "truth" / "Annotations", protocol="ytvos")
    assert scores.as_json() == score(root).as_json()


def test_means_of_seen_and_unseen_categories_and_overall():
    def one(category, j, f):
        return ObjectScores(np.array([j, j]), np.array([f, f]), NAMES[:2], category)

    clips = {"a": {1: one("dog", 0.9, 0.8), 2: one("tractor", 0.2, 0.4)}, "b": {5: one("cat", 0.7, 0.6)}}
    split = Scores(clips).split()
    assert split == pytest.approx(
        {"J_seen": 0.8, "F_seen": 0.7, "J_unseen": 0.2, "F_unseen": 0.4, "Overall": (0.8 + 0.7 + 0.2 + 0.4) / 4}
    )
    other = Scores(clips, seen=frozenset({"tractor"})).split()
    assert other == pytest.approx({"J_seen": 0.2, "F_seen": 0.4, "J_unseen": 0.8, "F_unseen": 0.7, "Overall": 2.1 / 4})
    assert Scores(clips, seen=frozenset()).split()["Overall"] is None
    assert Scores({"a": {1: one("", 1, 1)}}).split() == {}
    assert set(Scores(clips).as_json()) - {"J&F_mean", "J_mean", "F_mean", "sequences"} == set(split)


def test_the_table_as_csv_has_the_means_of_categories():
    one = lambda category, value: ObjectScores(np.full(3, value), np.full(3, value / 2), category=category)  # noqa: E731
    scores = Scores({"a": {1: one("dog", 0.8), 2: one("tractor", 0.4)}})
    rows = {row["sequence"]: row for row in csv.DictReader(scores.as_csv().splitlines())}
    for kind, j in (("seen", 0.8), ("unseen", 0.4)):
        found = [float(rows[kind][column]) for column in ("J_mean", "F_mean")]
        assert found == pytest.approx([j, j / 2])
    assert float(rows["Overall"]["J&F_mean"]) == pytest.approx(0.45)
    plain = Scores({"a": {1: one("", 0.8)}}).as_csv()
    assert "Overall" not in plain


def test_categories_of_one_kind_alone_are_noted(root):
    write_masks(root / "predicted" / "a", clip_of(0, 0, 0))
    names = {
        one["category"] for one in json.loads((root / "truth/meta.json").read_text())["videos"]["a"]["objects"].values()
    }
    for seen, said in ((frozenset(names), "seen"), (frozenset({"Octopus"}), "not seen")):
        notes = evaluate_folder(root / "predicted", root / "truth", protocol="ytvos", seen=seen).notes
        assert f"all objects are of categories that training has {said}" in notes


def test_sixty_five_categories_are_seen_by_default():
    assert len(TRAINING_CATEGORIES) == 65
    assert read_seen(None) == TRAINING_CATEGORIES


def test_seen_categories_are_read_from_a_list_or_a_training_set(tmp_path):
    (tmp_path / "seen.txt").write_text("dog\n\n giant panda \n")
    assert read_seen(tmp_path / "seen.txt") == {"dog", "giant_panda"}
    write_meta(tmp_path, a={1: ("dog", ())}, b={1: ("cat", ()), 2: ("dog", ())})
    assert read_seen((tmp_path / "meta.json").rename(tmp_path / "train.json")) == {"dog", "cat"}
    (tmp_path / "empty.txt").write_text("\n")
    for name in ("none.txt", "empty.txt"):
        with pytest.raises(UsageError, match=name):
            read_seen(tmp_path / name)


@pytest.mark.parametrize(
    "content",
    ["", "[]", "[" * 10**5, '{"videos": {"a": {}}}', '{"videos": {"a": {"objects": {"x": {}}}}}', '{"videos": []}'],
    ids=lambda content: content[:40],
)
def test_a_meta_file_of_another_form_is_refused(root, content):
    (root / "truth" / "meta.json").write_text(content)
    with pytest.raises(UsageError, match=r"meta\.json: is not of the form"):
        score(root)


def test_clips_of_meta_cannot_leave_the_dataset(root):
    write_meta(root / "truth", **{"../a": {1: ("dog", NAMES)}})
    with pytest.raises(UsageError, match=r"meta\.json: '\.\./a' is not the name of a clip"):
        score(root)


@pytest.mark.parametrize(
    ("meta", "cause"),
    [
        ({"a": {1: ("dog", (*NAMES, "00020", "00025"))}}, "no ground truth for frame 00020 and 1 more, which meta"),
        ({"a": {3: ("dog", NAMES)}}, "no object 3, which meta"),
        ({"a": {1: ("dog", NAMES)}, "z": {1: ("dog", NAMES)}}, "no ground truth for clip z"),
    ],
)
def test_truth_that_lacks_what_meta_lists_is_named(root, meta, cause):
    write_meta(root / "truth", **meta)
    with pytest.raises(UsageError, match=cause):
        score(root)


def test_required_frames_without_prediction_are_named(root):
    (root / "predicted" / "a" / "00010.png").unlink()
    with pytest.raises(UsageError, match=r"predicted/a: no mask for frame 00010\."):
        score(root)


# -- the submission


def contents(archive):
    with zipfile.ZipFile(archive) as file:
        return {name: np.array(Image.open(file.open(name))) for name in file.namelist()}


def test_the_submission_holds_required_frames_and_ids_only(root):
    predicted = clip_of(0, 0, 0)  # object 2 two frames too early, and 3 that nobody asked for
    write_masks(root / "predicted" / "a" / "masks", predicted)
    write_masks(root / "predicted" / "a" / "masks", predicted, names=("00001", "00002", "00003", "00004"))
    assert write_submission(root / "predicted", root / "truth", root / "s.zip") == 4
    masks = contents(root / "s.zip")
    assert list(masks) == [f"Annotations/a/{name}.png" for name in NAMES]
    assert [np.unique(mask).tolist() for mask in masks.values()] == [[0, 1], [0, 1], [0, 1, 2], [0, 1, 2]]
    np.testing.assert_array_equal(masks["Annotations/a/00010.png"] == 2, predicted[2] == 2)


def test_the_submission_without_meta_holds_the_annotated_frames(root):
    (root / "truth" / "meta.json").unlink()
    write_masks(root / "predicted" / "a", clip_of(0, 0, 0))
    assert write_submission(root / "predicted", root / "truth", root / "s.zip") == 4
    assert [np.unique(m).tolist() for m in contents(root / "s.zip").values()] == [[0, 1], [0, 1], [0, 1, 2], [0, 1, 2]]


def test_the_submission_needs_no_truth_but_the_given_masks(root):
    assert unscorable(root / "truth") == ""
    for name in NAMES[1::2]:
        (root / "truth" / "Annotations" / "a" / f"{name}.png").unlink()
    assert "no ground truth for frame 00005 and 1 more" in unscorable(root / "truth")
    assert write_submission(root / "predicted", root / "truth", root / "s.zip") == 4


def test_a_submission_that_cannot_be_complete_is_not_written(root):
    (root / "predicted" / "a" / "00010.png").unlink()
    with pytest.raises(UsageError, match="no mask for frame 00010"):
        write_submission(root / "predicted", root / "truth", root / "s.zip")
    write_labels(root / "predicted" / "a" / "00010.png", np.ones((5, 5), np.uint8))
    with pytest.raises(MaskError, match=r"00010\.png: the mask is 5x5 but .*00000\.png is 40x24"):
        write_submission(root / "predicted", root / "truth", root / "s.zip")
    assert sorted(path.name for path in root.iterdir()) == ["predicted", "truth"]


def test_frames_without_zeros_in_front_are_in_the_order_of_their_numbers(tmp_path):
    objects = {"1": {"category": "cat", "frames": ["0", "10", "5", "100"]}, "2": {"frames": ["10", "5", "100"]}}
    (tmp_path / "meta.json").write_text(json.dumps({"videos": {"a": {"objects": objects}}}))
    wanted = read_meta(tmp_path)["a"]
    assert [one.frames for one in wanted.values()] == [("0", "5", "10", "100"), ("5", "10", "100")]
