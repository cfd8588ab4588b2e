"""stm evaluate: the files it writes beside the table, and the memory policies side by side."""

import csv
import json
import re
import shutil
import zipfile
from dataclasses import asdict

import numpy as np
import pytest
from conftest import picture
from PIL import Image

from stmcli.masks import read_values, write_labels
from stmcli.options import MemoryOptions

FRAMES = 4


@pytest.fixture
def dataset(tmp_path):
    """A root in the layout of YouTube-VOS: object 1 enters clip `late` at its second frame, object 2 at its third."""
    root = tmp_path / "data"
    for clip, first in (("late", 1), ("whole", 0)):
        frames, masks = root / "JPEGImages" / clip, root / "Annotations" / clip
        for folder in (frames, masks):
            folder.mkdir(parents=True)
        for index in range(FRAMES):
            Image.fromarray(np.roll(picture(0), 2 * index, axis=1)).save(frames / f"{5 * index:05d}.jpg")
            labels = np.zeros((48, 64), np.uint8)
            labels[:12, 2 * index : 2 * index + 16] = index >= first
            if clip == "late" and index >= 2:
                labels[30:40, 40:60] = 2
            if index >= first:
                write_labels(masks / f"{5 * index:05d}.png", labels)
    return root


@pytest.fixture
def evaluate(stm, tiny_weights):
    return lambda *words: stm("evaluate", *words, "-w", tiny_weights, "--device", "cpu", "--precision", "fp32")


def write_meta(root):
    names = [f"{5 * index:05d}" for index in range(FRAMES)]
    late = {"1": {"category": "dog", "frames": names[1:]}, "2": {"category": "tractor", "frames": names[2:]}}
    whole = {"1": {"category": "dog", "frames": names}}
    (root / "meta.json").write_text(json.dumps({"videos": {"late": {"objects": late}, "whole": {"objects": whole}}}))


def test_a_run_segments_all_frames_from_the_first_mask_and_late_objects_from_theirs(evaluate, dataset, tmp_path):
    write_meta(dataset)
    words = ("--run", dataset, "--protocol", "ytvos", "-o", "out")
    result = evaluate(*words, "--submission", "s.zip", "--csv", "s.csv", "--plot", "sheets", "--json")
    assert result.exit_code == 0, result.stderr
    assert sorted(path.stem for path in (tmp_path / "out" / "late" / "masks").iterdir()) == ["00005", "00010", "00015"]
    assert "counted as missed" not in result.stderr
    scores = json.loads(result.stdout)
    assert set(scores["sequences"]["late"]) == {"1", "2"}
    late = scores["sequences"]["late"]["2"]
    assert (len(late["J_per_frame"]), scores["J_unseen"]) == (1, pytest.approx(late["J_mean"]))
    halves = [scores[name] for name in ("J_seen", "F_seen", "J_unseen", "F_unseen")]
    assert scores["Overall"] == pytest.approx(sum(halves) / 4)
    with zipfile.ZipFile(tmp_path / "s.zip") as archive:
        assert len(archive.namelist()) == 3 + FRAMES
    with (tmp_path / "s.csv").open(newline="") as file:
        rows = [(row["sequence"], row["category"]) for row in csv.DictReader(file)]
    assert [category for _, category in rows[:3]] == ["dog", "tractor", "dog"]
    assert rows[3:] == [("mean", ""), ("seen", ""), ("unseen", ""), ("Overall", "")]
    assert sorted(path.name for path in (tmp_path / "sheets").iterdir()) == ["late.png", "whole.png"]
    (tmp_path / "seen.txt").write_text("tractor\n")
    other = json.loads(evaluate(*words, "--seen", "seen.txt", "--json").stdout)
    assert (other["J_seen"], other["J_unseen"]) == (scores["J_unseen"], scores["J_seen"])
    table = evaluate(*words).stdout
    assert re.search(r"J seen +F seen +J unseen +F unseen +Overall", table)


def test_the_table_has_means_recalls_and_decays_and_names_as_they_are(evaluate, dataset):
    (dataset / "Annotations" / "whole").rename(dataset / "Annotations" / "[red]x")
    truth = dataset / "Annotations"
    lines = evaluate(truth, "--gt", truth, "--protocol", "ytvos").stdout.splitlines()
    assert lines[0].split() == ["clip", "object", "J", "recall", "decay", "F", "recall", "decay", "J&F"]
    assert [line.split()[:2] for line in lines[1:]] == [
        ["[red]x", "1"],
        ["late", "1"],
        ["late", "2"],
        ["mean", "100.0"],
    ]
    assert lines[1].split()[2:] == ["100.0", "100.0", "0.0"] * 2 + ["100.0"]


def test_without_public_truth_only_the_submission_is_made(evaluate, dataset, tmp_path):
    write_meta(dataset)
    for clip, given in (("late", 2), ("whole", 1)):
        for path in sorted((dataset / "Annotations" / clip).iterdir())[given:]:
            path.unlink()
    words = ("--run", dataset, "--protocol", "ytvos", "-o", "out")
    for more in (("--json",), ("--csv", "s.csv"), ("--plot", "plots")):
        refused = evaluate(*words, "--submission", "s.zip", *more)
        assert refused.exit_code == 2
        assert "not to be scored: " in refused.stderr
    assert not (tmp_path / "out").exists()
    result = evaluate(*words, "--submission", "s.zip")
    assert (result.exit_code, result.stdout) == (0, "")
    assert "note: not scored:" in result.stderr
    assert (tmp_path / "s.zip").is_file()
    for more in ((), ("--policies",)):
        refused = evaluate(*words[:-1], "other", *more)
        assert (refused.exit_code, (tmp_path / "other").exists()) == (2, False)
        assert "late: no ground truth for frame 00015. Where the truth is not public, " in refused.stderr


def test_every_policy_is_segmented_into_a_folder_of_its_own_and_scored(evaluate, dataset, tmp_path):
    words = ("--run", dataset, "--protocol", "ytvos", "-o", "out", "--policies", "--mem-every", "2")
    first = evaluate(*words, "--csv", "t.csv", "--json")
    assert first.exit_code == 0, first.stderr
    table = json.loads(first.stdout)["policies"]
    assert list(table) == ["first", "previous", "first+previous", "first+previous+every"]
    for policy, scores in table.items():
        report = json.loads((tmp_path / "out" / policy / "whole" / "report.json").read_text())
        assert report["options"]["memory"] == asdict(MemoryOptions(every=2, policy=policy))
        assert len(scores["sequences"]["whole"]["1"]["J_per_frame"]) == FRAMES - 1
        reports = [json.loads((tmp_path / "out" / policy / c / "report.json").read_text()) for c in ("late", "whole")]
        seconds, frames = (sum(one[key] for one in reports) for key in ("seconds", "frames_written"))
        assert (frames, scores["seconds_per_frame"]) == (2 * FRAMES - 1, pytest.approx(seconds / frames))
    with (tmp_path / "t.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["policy"] for row in rows] == list(table)
    assert [float(row["J&F_mean"]) for row in rows] == pytest.approx([one["J&F_mean"] for one in table.values()])
    again = evaluate(*words)
    assert re.search(r"memory +J +F +J&F +s/frame", again.stdout)
    assert "first+previous+every 2" in again.stdout
    assert json.loads(evaluate(*words, "--json").stdout)["policies"] == table  # nothing was segmented again
    assert "Overall" not in again.stdout
    write_meta(dataset)
    assert re.search(r"memory +J +F +J&F +Overall +s/frame", evaluate(*words).stdout)


def test_policies_are_scored_against_the_truth_that_is_given(evaluate, dataset, tmp_path):
    shutil.copytree(dataset / "Annotations", tmp_path / "truth")
    for path in (tmp_path / "truth").rglob("*.png"):
        write_labels(path, read_values(path)[:, ::-1])
    words = ("--run", dataset, "--protocol", "folder", "--clip", "whole", "--policies", "--json")
    own, other = (json.loads(evaluate(*words, *more).stdout) for more in ((), ("--gt", tmp_path / "truth")))
    for policy, scores in own["policies"].items():
        assert scores["J_mean"] > other["policies"][policy]["J_mean"]


def test_options_that_do_nothing_without_a_run_are_noted(evaluate, dataset):
    truth = dataset / "Annotations"
    for more in (("-o", "there"), ("--mem-max", "4")):
        said = evaluate(truth, "--gt", truth, "--protocol", "folder", *more).stderr
        assert "so --output and the options of network and memory do nothing" in said


def test_bad_frames_and_masks_of_a_run_are_named_in_one_line(evaluate, dataset):
    def refusal():
        result = evaluate("--run", dataset, "--protocol", "folder", "-o", "out", "-q")
        assert len(result.stderr.splitlines()) == 1
        return result.exit_code, result.stderr

    frames, masks = dataset / "JPEGImages" / "late", dataset / "Annotations" / "late"
    whole = (frames / "00010.jpg").read_bytes()
    (frames / "00010.jpg").write_bytes(whole[:300])
    code, message = refusal()
    assert (code, str(frames / "00010.jpg") in message) == (1, True)
    (frames / "00010.jpg").unlink()
    code, message = refusal()
    assert (code, str(frames) in message, "10" in message) == (1, True, True)
    (frames / "00010.jpg").write_bytes(whole)
    for path in masks.iterdir():
        write_labels(path, np.zeros((48, 64), np.uint8))
    code, message = refusal()
    assert (code, str(masks) in message, "no object" in message) == (2, True, True)


def test_a_clip_alone_is_segmented_scored_and_drawn(evaluate, dataset, tmp_path):
    words = ("--run", dataset, "--protocol", "folder", "--clip", "whole", "-o", "out")
    result = evaluate(*words, "--plot", "sheets", "--json")
    assert result.exit_code == 0, result.stderr
    assert [*json.loads(result.stdout)["sequences"]] == ["whole"]
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["whole"]
    assert [path.name for path in (tmp_path / "sheets").iterdir()] == ["whole.png"]
    table = json.loads(evaluate(*words[:-1], "each", "--policies", "--json").stdout)["policies"]
    assert {name for one in table.values() for name in one["sequences"]} == {"whole"}


@pytest.mark.usefixtures("dataset")
@pytest.mark.parametrize(
    ("words", "cause"),
    [
        (("p", "--gt", "data", "--policies"), "--policies segments"),
        (("--run", "data", "--policies", "--plot", "x"), "--policies segments"),
        (("--run", "data", "--policies", "--mem-policy", "first"), "--policies segments"),
        (("--run", "data", "--submission", "x.zip"), "for YouTube-VOS"),
        (("--run", "data", "--protocol", "ytvos", "--clip", "late", "--submission", "x.zip"), "is of all clips"),
        (
            ("--run", "data", "--protocol", "folder", "--clip", "lat"),
            "data: no clip 'lat' of folder. Did you mean late",
        ),
        (("--run", "data", "--csv", "no/x.csv"), "no: no such folder"),
        (("--run", "data", "--csv", "data"), "data: is a folder"),
        (("--run", "data", "--csv", "there.txt"), "there.txt: exists already"),
        (("--run", "data", "--plot", "there.txt"), "there.txt: is neither a folder nor a PNG"),
        (("--run", "data", "--plot", "sheet.JPG"), "sheet.JPG: is neither a folder nor a PNG"),
        (("--run", "data", "--plot", "data/Annotations/whole"), "whole: holds pictures already"),
        (("--run", "data", "--protocol", "ytvos", "--seen", "none.txt"), "none.txt: no such file"),
    ],
)
def test_options_that_do_not_fit_are_refused_before_the_work(evaluate, tmp_path, words, cause):
    (tmp_path / "there.txt").write_text("mine")
    result = evaluate(*words)
    assert (result.exit_code, len(result.stderr.splitlines())) == (2, 1)
    assert cause in result.stderr
    assert (tmp_path / "there.txt").read_text() == "mine"
    assert not (tmp_path / "stm_out").exists()
