import csv
import io
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from stmcli.cli.evaluate import _percents
from stmcli.errors import MaskError, UsageError
from stmcli.evaluate import evaluate_folder, first_shown, list_sequences
from stmcli.evaluate.layout import annotation_folders
from stmcli.masks import write_labels
from stmcli.metrics import boundary_f, jaccard

GOLDEN = Path(__file__).parent / "golden"
DAVIS = ("davis2016", "davis2017")


def write_clip(folder, clip):
    folder.mkdir(parents=True, exist_ok=True)
    for index, labels in enumerate(clip):
        write_labels(folder / f"{index:05}.png", labels)


def moving(*ids, frames=5, step=1):
    """One square for each id, moving right by `step` in each frame."""
    clip = np.zeros((frames, 40, 60), np.uint8)
    for index in range(frames):
        for position, number in enumerate(ids):
            clip[index, 4 + 12 * position : 12 + 12 * position, 3 + step * index : 15 + step * index] = number
    return clip


@pytest.fixture
def tree(tmp_path):
    """Predictions that lag behind the ground truth of clips `cat` and `dog`, two objects each."""
    for name in ("cat", "dog"):
        write_clip(tmp_path / "truth" / name, moving(1, 3, step=2))
        write_clip(tmp_path / "predicted" / name, moving(1, 3, step=1))
    return tmp_path


def score(tree, protocol="folder"):
    return evaluate_folder(tree / "predicted", tree / "truth", protocol=protocol)


def refusal(tree, *causes, kind=UsageError, protocol="folder"):
    with pytest.raises(kind) as caught:
        score(tree, protocol)
    message = str(caught.value)
    assert caught.value.exit_code == 2
    assert "\n" not in message
    for cause in causes:
        assert str(cause) in message


def make_davis_root(root, *, year=None, names=("cat", "dog"), resolution="480p"):
    for name in names:
        write_clip(root / "Annotations" / resolution / name, moving(1, 2))
        (root / "JPEGImages" / resolution / name).mkdir(parents=True)
    if year:
        (root / "ImageSets" / year).mkdir(parents=True)
        (root / "ImageSets" / year / "val.txt").write_text("dog\n")
    return root


@pytest.mark.parametrize("protocol", ["davis2017", "folder"])
def test_scores_equal_the_official_evaluation(tmp_path, protocol):
    arrays = np.load(GOLDEN / "metrics_a.npz")
    expected = json.loads((GOLDEN / "metrics_a.json").read_text())
    for clip in ("clip0", "clip1"):
        write_clip(tmp_path / "truth" / clip, arrays[f"{clip}_truth"])
        write_clip(tmp_path / "predicted" / clip / "masks", arrays[f"{clip}_prediction"])
    result = score(tmp_path, protocol).as_json()
    for clip in ("clip0", "clip1"):
        mean = expected[clip].pop("J&F_mean")
        assert set(result["sequences"][clip]) == set(expected[clip])
        objects = list(result["sequences"][clip].values())
        assert np.mean([[o["J_mean"], o["F_mean"]] for o in objects]) == pytest.approx(mean, abs=1e-6)
        for number, measures in expected[clip].items():
            assert set(result["sequences"][clip][number]) == set(measures)
            for name, value in measures.items():
                assert result["sequences"][clip][number][name] == pytest.approx(value, abs=1e-6)


def test_json_has_the_documented_shape_and_means_over_objects(tree):
    result = json.loads(json.dumps(score(tree).as_json()))
    assert set(result) == {"J&F_mean", "J_mean", "F_mean", "sequences"}
    objects = [measures for clip in result["sequences"].values() for measures in clip.values()]
    assert set(result["sequences"]["cat"]) == {"1", "3"}
    assert result["J_mean"] == pytest.approx(np.mean([o["J_mean"] for o in objects]))
    assert result["F_mean"] == pytest.approx(np.mean([o["F_mean"] for o in objects]))
    assert result["J&F_mean"] == pytest.approx((result["J_mean"] + result["F_mean"]) / 2)
    assert 0 < result["J_mean"] < 1


@pytest.mark.parametrize("protocol", ["davis2016", "davis2017", "folder"])
def test_first_and_last_frame_are_not_scored(tree, protocol):
    before = score(tree, protocol).as_json()
    assert len(before["sequences"]["cat"]["1"]["J_per_frame"]) == 3
    for index in (0, 4):
        (tree / "predicted" / "cat" / f"{index:05}.png").unlink()
    assert score(tree, protocol).as_json() == before


def test_a_loss_that_is_only_rounding_is_shown_without_a_sign():
    assert _percents({"J_decay": -1e-16, "F_decay": -0.001}) == ["0.0", "-0.1"]


def test_davis2016_merges_the_objects(tree):
    write_clip(tree / "predicted" / "cat", moving(7, 1, step=1))
    scores = score(tree, "davis2016").sequences["cat"]
    truth, predicted = (moving(1, 3, step=step)[1:-1] > 0 for step in (2, 1))
    assert list(scores) == [1]
    np.testing.assert_allclose(scores[1].j, jaccard(truth, predicted))
    np.testing.assert_allclose(scores[1].f, boundary_f(truth, predicted))


def test_black_and_white_masks_are_one_object(tree):
    for index in range(5):
        for kind, step in (("truth", 2), ("predicted", 1)):
            labels = np.where(moving(1, step=step)[index] > 0, 255, 0).astype(np.uint8)
            Image.fromarray(labels).save(tree / kind / "cat" / f"{index:05}.png")
    scores = score(tree).sequences["cat"]
    expected = jaccard(moving(1, step=2)[1:-1] > 0, moving(1, step=1)[1:-1] > 0)
    assert list(scores) == [1]
    np.testing.assert_allclose(scores[1].j, expected)


def test_grey_ids_are_kept_in_frames_with_one_object(tree):
    for path in (tree / "predicted").glob("*/*.png"):
        labels = np.array(Image.open(path).copy())
        Image.fromarray(np.where(labels == 3, 3, 0).astype(np.uint8)).save(path)
    scores = score(tree).sequences["cat"]
    assert scores[3].j.min() > 0.5
    assert scores[1].j.max() == 0


def test_void_counts_for_nothing(tree):
    truth = moving(1, step=2)
    truth[:, 20:] = 255
    predicted = moving(1, step=2)
    predicted[:, 25:, ::2] = 1
    write_clip(tree / "truth" / "cat", truth)
    write_clip(tree / "predicted" / "cat", predicted)
    scores = score(tree).sequences["cat"]
    assert list(scores) == [1]
    assert scores[1].j.tolist() == [1, 1, 1]
    assert scores[1].f.tolist() == [1, 1, 1]


def test_void_counts_for_nothing_where_objects_are_merged_too(tree):
    truth, predicted = moving(1, 3, step=2), moving(1, 3, step=2)
    truth[:, 30:], predicted[:, 35:, ::2] = 255, 1
    write_clip(tree / "truth" / "cat", truth)
    write_clip(tree / "predicted" / "cat", predicted)
    scores = score(tree, "davis2016").sequences["cat"]
    assert {number: one.j.tolist() for number, one in scores.items()} == {1: [1, 1, 1]}


def test_davis2017_scores_the_objects_of_the_first_frame(tree):
    late = moving(1, 2)
    late[:2][late[:2] == 2] = 0
    write_clip(tree / "truth" / "cat", late)
    assert list(score(tree, "davis2017").sequences["cat"]) == [1]
    assert list(score(tree, "folder").sequences["cat"]) == [1, 2]


def test_ytvos_scores_an_object_after_its_first_frame_to_the_end(tree):
    late = moving(1, 2)
    late[:2][late[:2] == 2] = 0
    write_clip(tree / "truth" / "cat", late)
    write_clip(tree / "predicted" / "cat", late)
    scores = score(tree, "ytvos").sequences["cat"]
    assert {number: values.j.tolist() for number, values in scores.items()} == {1: [1] * 4, 2: [1] * 2}


def test_an_object_absent_from_both_is_right(tree):
    late = moving(1, 2)
    late[:3][late[:3] == 2] = 0
    for kind in ("truth", "predicted"):
        write_clip(tree / kind / "cat", late)
    scores = score(tree).sequences["cat"][2]
    assert (scores.j.tolist(), scores.f.tolist()) == ([1, 1, 1], [1, 1, 1])


def test_an_object_predicted_before_it_enters_is_wrong(tree):
    late = moving(1, 2)
    late[:2][late[:2] == 2] = 0
    write_clip(tree / "truth" / "cat", late)
    write_clip(tree / "predicted" / "cat", moving(1, 2))
    assert score(tree).sequences["cat"][2].j.tolist() == [0, 1, 1]


def test_predictions_of_other_frames_and_clips_are_ignored(tree):
    before = score(tree).as_json()
    write_clip(tree / "predicted" / "bird", moving(1))
    write_clip(tree / "predicted" / "cat", moving(1, 3, frames=9)[:9])
    for kind in ("truth", "predicted"):
        (tree / kind / "cat" / "._00001.png").write_bytes(b"junk")
    assert score(tree).as_json() == before


def test_frames_match_by_number(tree):
    for path in (tree / "predicted" / "cat").glob("*.png"):
        path.rename(path.with_name(f"{int(path.stem)}.png"))
    assert score(tree).sequences["cat"].keys() == {1, 3}


def test_frames_are_in_natural_order(tree):
    for index, labels in enumerate(moving(1, frames=11)):
        write_labels(tree / "truth" / "cat" / f"frame{index}.png", labels)
        write_labels(tree / "predicted" / "cat" / f"frame{index}.png", labels if index == 10 else labels * 0)
    for path in (tree / "truth" / "cat").glob("0*.png"):
        path.unlink()
    assert score(tree).sequences["cat"][1].j.tolist() == [0] * 9


@pytest.mark.parametrize(("protocol", "year"), [("davis2016", "2016"), ("davis2017", "2017")])
@pytest.mark.parametrize("resolution", ["480p", "Full-Resolution"])
def test_davis_root_is_read_by_its_list(tmp_path, protocol, year, resolution):
    root = make_davis_root(tmp_path / "davis", year=year, resolution=resolution)
    write_clip(tmp_path / "predicted" / "dog", moving(1, 2))
    scores = evaluate_folder(tmp_path / "predicted", root, protocol=protocol)
    assert list(scores.sequences) == ["dog"]
    assert (scores.j_mean, scores.f_mean) == (1, 1)
    (clip,) = list_sequences(root, protocol)
    assert clip.name == "dog"
    assert clip.frames == root / "JPEGImages" / resolution / "dog"
    assert clip.annotations == root / "Annotations" / resolution / "dog"


def test_the_list_of_the_first_davis_names_images(tmp_path):
    root = make_davis_root(tmp_path)
    (root / "ImageSets" / "480p").mkdir(parents=True)
    lines = [f"/JPEGImages/480p/dog/{i:05}.jpg /Annotations/480p/dog/{i:05}.png" for i in range(3)]
    (root / "ImageSets" / "480p" / "val.txt").write_text("\n".join(lines))
    assert [clip.name for clip in list_sequences(root, "davis2016")] == ["dog"]
    assert [clip.name for clip in list_sequences(root, "davis2017")] == ["cat", "dog"]


def test_dataset_without_a_list_has_all_its_clips(tmp_path):
    root = make_davis_root(tmp_path, names=("b", "a"))
    assert [clip.name for clip in list_sequences(root, "davis2017")] == ["a", "b"]


def test_dataset_without_resolutions_is_read(tmp_path):
    root = make_davis_root(tmp_path, resolution="")
    assert [clip.frames for clip in list_sequences(root, "ytvos")] == [
        root / "JPEGImages" / "cat",
        root / "JPEGImages" / "dog",
    ]


@pytest.mark.parametrize(("resolution", "names"), [("other", ["cat", "dog"]), ("480p", ["owl"])])
def test_clips_beside_folders_of_resolutions_are_taken_unless_one_is_usual(tmp_path, resolution, names):
    root = make_davis_root(tmp_path, names=["owl"], resolution=resolution)
    for name in ("cat", "dog"):
        write_clip(root / "Annotations" / name, moving(1, 2))
    assert [*annotation_folders(root, "folder")] == names


def test_dataset_without_frames_is_refused(tmp_path):
    root = make_davis_root(tmp_path)
    (root / "JPEGImages" / "480p" / "cat").rmdir()
    with pytest.raises(UsageError, match=r"JPEGImages/480p: no frames for clip cat\."):
        list_sequences(root, "davis2016")


@pytest.mark.parametrize("name", ["../outside", "/etc", "..", 300 * "a"])
def test_clip_lists_cannot_leave_the_dataset(tmp_path, name):
    root = make_davis_root(tmp_path, year="2016")
    (root / "ImageSets" / "2016" / "val.txt").write_text(f"dog\n{name}\n")
    with pytest.raises(UsageError, match=r"val\.txt: .* is not the name of a clip"):
        list_sequences(root, "davis2016")


def test_listed_clip_without_ground_truth_is_refused(tmp_path):
    root = make_davis_root(tmp_path, year="2016")
    (root / "ImageSets" / "2016" / "val.txt").write_text("dog\ncow\n")
    with pytest.raises(UsageError, match=r"Annotations/480p: no ground truth for clip cow\."):
        list_sequences(root, "davis2016")


def test_unknown_protocol_lists_the_protocols(tree):
    refusal(tree, "davis2018", "davis2016, davis2017, folder, ytvos", protocol="davis2018")


@pytest.mark.parametrize("name", ["predicted", "truth"])
def test_missing_folder_is_named(tree, name):
    (tree / name).rename(tree / "elsewhere")
    refusal(tree, tree / name, "no such folder")


def test_ground_truth_without_clips_is_refused(tree):
    with pytest.raises(UsageError, match=r"truth/cat: no ground truth here\."):
        evaluate_folder(tree / "predicted", tree / "truth" / "cat", protocol="folder")


def test_missing_clips_are_counted(tree):
    for name in ("cat", "dog"):
        (tree / "predicted" / name).rename(tree / name)
    refusal(tree, tree / "predicted", "no masks for clip cat and 1 more")


def test_clips_one_folder_further_in_are_pointed_at(tree):
    (tree / "predicted").rename(tree / "480p")
    (tree / "predicted").mkdir()
    (tree / "480p").rename(tree / "predicted" / "480p")
    refusal(tree, f"Did you mean {tree / 'predicted' / '480p'}?")


def test_a_dataset_that_lists_no_clips_of_the_protocol_is_noted(tree):
    (tree / "truth" / "ImageSets" / "2017").mkdir(parents=True)
    (tree / "truth" / "ImageSets" / "2017" / "val.txt").write_text("cat\n")
    notes = [len(score(tree, protocol).notes) for protocol in ("davis2016", "davis2017", "folder")]
    assert notes == [1, 0, 0]
    assert "no ImageSets/2016/val.txt, so every clip" in score(tree, "davis2016").notes[0]


def test_missing_frames_are_counted(tree):
    for index in (1, 3):
        (tree / "predicted" / "dog" / f"{index:05}.png").unlink()
    hint = "Every frame needs one, called as in the ground truth: 00001.png"
    refusal(tree, tree / "predicted" / "dog", "no mask for frame 00001 and 1 more", hint)


def test_clip_too_short_to_score_is_refused(tree):
    write_clip(tree / "truth" / "ant", moving(1, frames=2))
    write_clip(tree / "predicted" / "ant", moving(1, frames=2))
    refusal(tree, tree / "truth" / "ant", "2 frames")


def test_ground_truth_without_object_is_refused(tree):
    write_clip(tree / "truth" / "cat", moving(1) * 0)
    refusal(tree, tree / "truth" / "cat", "no object")


def test_prediction_of_another_size_names_both_files(tree):
    bad = tree / "predicted" / "dog" / "00002.png"
    write_labels(bad, np.ones((20, 30), np.uint8))
    refusal(tree, bad, "30x20", tree / "truth" / "dog" / "00002.png", "60x40", kind=MaskError)


def test_ground_truth_of_mixed_sizes_names_both_files(tree):
    bad = tree / "truth" / "dog" / "00003.png"
    write_labels(bad, np.ones((20, 30), np.uint8))
    refusal(tree, bad, "30x20", tree / "truth" / "dog" / "00000.png", "60x40", kind=MaskError)


@pytest.mark.parametrize("kind", ["truth", "predicted"])
def test_unreadable_mask_is_named(tree, kind):
    bad = tree / kind / "dog" / "00002.png"
    bad.write_bytes(bad.read_bytes()[:70])
    refusal(tree, bad, "truncated", kind=MaskError)


@pytest.mark.parametrize("protocol", DAVIS)
def test_a_gap_in_dense_ground_truth_is_named(tree, protocol):
    (tree / "truth" / "cat" / "00002.png").unlink()
    refusal(tree, tree / "truth" / "cat", "no ground truth for frame 00002.", protocol=protocol)
    assert len(score(tree, "folder").sequences["cat"][1].j) == 2


@pytest.mark.parametrize("protocol", DAVIS)
def test_dense_ground_truth_may_begin_at_any_number(tree, protocol):
    for path in sorted((tree / "truth" / "cat").glob("*.png"), reverse=True):
        path.rename(path.with_stem(f"{int(path.stem) + 7:05}"))
    write_clip(tree / "predicted" / "cat", moving(1, 3, frames=13))
    assert len(score(tree, protocol).sequences["cat"][1].j) == 3


def test_two_masks_of_one_frame_are_named(tree):
    (tree / "predicted" / "cat" / "2.png").write_bytes((tree / "predicted" / "cat" / "00001.png").read_bytes())
    refusal(tree, tree / "predicted" / "cat", "00002.png and 2.png are the same frame")


def test_an_empty_folder_of_ground_truth_is_named(tree):
    (tree / "ImageSets" / "2017").mkdir(parents=True)
    (tree / "ImageSets" / "2017" / "val.txt").write_text("cat\nowl\n")
    (tree / "Annotations").mkdir()
    (tree / "truth" / "cat").rename(tree / "Annotations" / "cat")
    (tree / "Annotations" / "owl").mkdir()
    with pytest.raises(UsageError, match="no ground truth for clip owl"):
        annotation_folders(tree, "davis2017")


def test_junk_beside_the_masks_is_no_frame(tree):
    (tree / "truth" / "cat" / "Thumbs.db").write_bytes(b"junk")
    (tree / "truth" / ".DS_Store").write_bytes(b"junk")
    assert len(score(tree, "davis2017").sequences["cat"][1].j) == 3


@pytest.mark.parametrize("protocol", ["davis2017", "folder", "ytvos"])
def test_a_missed_object_scores_nothing(tree, protocol):
    write_clip(tree / "predicted" / "cat", moving(1, step=2))
    scores = score(tree, protocol).sequences["cat"]
    assert (set(scores[1].j), set(scores[3].j), set(scores[3].f)) == ({1.0}, {0.0}, {0.0})


def test_objects_that_come_and_go_are_scored_in_every_frame(tree):
    clip = moving(1, 2, step=2)
    clip[2][clip[2] == 2] = 0
    write_clip(tree / "truth" / "cat", clip)
    write_clip(tree / "predicted" / "cat", moving(1, 2, step=2))
    assert score(tree, "davis2017").sequences["cat"][2].j.tolist() == [1, 0, 1]


def test_an_object_of_the_truth_that_is_not_scored_is_not_noted(tree):
    late = moving(1, 3, step=2)
    late[:2][late[:2] == 3] = 0
    write_clip(tree / "truth" / "cat", late)
    assert score(tree, "davis2017").notes == ()


def test_the_first_mask_that_shows_an_object_is_found_where_others_before_it_are_void(tmp_path):
    clip = moving(1, 3)
    clip[:, 35:] = 255
    clip[0][clip[0] < 255] = 0
    write_clip(tmp_path, clip)
    assert first_shown(tmp_path) == tmp_path / "00001.png"
    write_clip(tmp_path, np.where(clip > 0, 255, 0).astype(np.uint8))
    assert first_shown(tmp_path) == tmp_path / "00000.png"


def test_clips_that_are_asked_for_are_there_and_alone(tree):
    assert [*annotation_folders(tree / "truth", "folder", only=["cat"])] == ["cat"]
    with pytest.raises(UsageError, match=r"truth: no clip 'catt' of folder\. Did you mean cat\?"):
        annotation_folders(tree / "truth", "folder", only=["cat", "catt"])


def test_other_ids_than_those_of_the_truth_are_noted(tree):
    write_clip(tree / "truth" / "cat", moving(1, 2, step=2))
    write_clip(tree / "predicted" / "cat", moving(5, 6, step=2))
    notes = [note.removeprefix(f"{tree / 'predicted' / 'cat'}: ") for note in score(tree, "davis2017").notes]
    assert notes == [
        "objects 1, 2 in no scored mask, counted as missed",
        "objects 5, 6 not in the ground truth, not counted",
    ]
    assert score(tree, "davis2016").notes == ()
    write_clip(tree / "predicted" / "cat", np.where(np.arange(5)[:, None, None] > 0, 0, moving(1, 2, step=2)))
    assert "objects 1, 2 in no scored mask" in score(tree, "davis2017").notes[0]


def test_objects_that_no_prediction_shows_are_noted(tree):
    late = moving(1, 3, step=2)
    late[:2][late[:2] == 3] = 0
    write_clip(tree / "truth" / "cat", late)
    write_clip(tree / "predicted" / "cat", moving(1, step=2))
    assert score(tree).notes == (f"{tree / 'predicted' / 'cat'}: object 3 in no scored mask, counted as missed",)
    assert score(tree).sequences["cat"][3].j.tolist() == [1, 0, 0]
    assert score(tree, "davis2017").notes == ()


def test_csv_has_a_line_for_each_object_and_the_means(tree):
    scores = score(tree)
    rows = list(csv.DictReader(io.StringIO(scores.as_csv())))
    assert [(row["sequence"], row["object"]) for row in rows] == [
        *(("cat", "1"), ("cat", "3"), ("dog", "1"), ("dog", "3"), ("mean", "")),
    ]
    measures = scores.as_json()["sequences"]["dog"]["3"]
    for name in ("J_mean", "J_recall", "J_decay", "F_mean", "F_recall", "F_decay"):
        assert float(rows[3][name]) == measures[name]
        assert float(rows[4][name]) == pytest.approx(np.mean([float(row[name]) for row in rows[:4]]))
    assert float(rows[4]["J&F_mean"]) == pytest.approx(scores.as_json()["J&F_mean"])


def test_evaluation_does_not_load_the_network():
    code = "import sys, stmcli.evaluate; sys.exit('torch' in sys.modules or 'av' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


# -- what a mask means -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("protocol", ["folder", "ytvos"])
def test_a_first_mask_of_nothing_but_void_does_not_make_one_object_of_all(tmp_path, protocol):
    clip = moving(1, 2, frames=6)
    clip[:, 30:, 40:] = 255
    clip[0][clip[0] < 255] = 0
    write_clip(tmp_path / "truth" / "cat", clip)
    write_clip(tmp_path / "predicted" / "cat", clip)
    found = score(tmp_path, protocol).sequences["cat"]
    assert {number: scores.j.mean() for number, scores in found.items()} == {1: 1, 2: 1}
    swapped = np.where(clip == 1, 2, np.where(clip == 2, 1, clip))
    write_clip(tmp_path / "predicted" / "cat", swapped)
    assert all(scores.j.mean() == 0 for scores in score(tmp_path, protocol).sequences["cat"].values())


@pytest.mark.parametrize("protocol", ["davis2016", "davis2017", "folder"])
@pytest.mark.parametrize(("value", "mode"), [(128, "L"), (255, "L"), (255, "P")])
def test_one_value_is_one_object_whatever_a_prediction_calls_it(tmp_path, protocol, value, mode):
    clip = moving(1)
    (tmp_path / "truth" / "cat").mkdir(parents=True)
    for index, labels in enumerate(clip):
        if mode == "P":
            write_labels(tmp_path / "truth" / "cat" / f"{index:05}.png", value * labels)
        else:
            Image.fromarray(value * labels).save(tmp_path / "truth" / "cat" / f"{index:05}.png")
    for number in (1, 3):
        write_clip(tmp_path / "predicted" / "cat", number * clip)
        assert [row.j.mean() for row in score(tmp_path, protocol).sequences["cat"].values()] == [1]


def test_a_second_predicted_object_is_no_part_of_the_one_without_an_id(tmp_path):
    clip = moving(1)
    write_clip(tmp_path / "truth" / "cat", 255 * clip)
    clip[:, 30:, 40:] = 2
    write_clip(tmp_path / "predicted" / "cat", clip)
    scores = score(tmp_path, "folder")
    assert [row.j.mean() for row in scores.sequences["cat"].values()] == [1]
    assert "object 2 not in the ground truth, not counted" in scores.notes[0]


def test_frames_before_the_first_object_need_no_prediction(tmp_path):
    clip = moving(1, frames=7)
    clip[:3] = 0
    write_clip(tmp_path / "truth" / "cat", clip)
    write_clip(tmp_path / "predicted" / "cat", clip)
    for index in range(3):
        (tmp_path / "predicted" / "cat" / f"{index:05}.png").unlink()
    assert score(tmp_path).sequences["cat"][1].j.tolist() == [1] * 5
    refusal(tmp_path, "no object in the first frame", "--protocol folder", protocol="davis2017")
    (tmp_path / "predicted" / "cat" / "00003.png").unlink()
    refusal(tmp_path, "no mask for frame 00003")


def test_an_object_that_only_the_unscored_last_frame_shows_is_left_out(tree):
    clip = moving(1, 3, step=2)
    clip[-1, 30:36, 40:50] = 5
    write_clip(tree / "truth" / "cat", clip)
    scores = score(tree)
    assert [*scores.sequences["cat"]] == [1, 3]
    assert scores.notes == ()
