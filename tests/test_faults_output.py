"""The rows of the list of faults whose output would be lost, or lose something, for `stm segment`."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
from faults import check_fault, check_refusal, everything, forbid_network, mounted
from PIL import Image


def is_a_file(scene):
    scene.output = scene.put("file", b"precious")


def is_under_a_file(scene):
    scene.put("file", b"precious")
    scene.output = scene.folder / "file" / "out"


def has_no_place(scene):
    scene.output = Path("/proc/out")


def holds_something_else(scene):
    scene.output.mkdir()
    scene.put("out/holiday.jpg", b"precious")


def holds_another_job(scene):
    (scene.output / "masks").mkdir(parents=True)
    scene.put("out/masks/00000.png", b"precious")
    scene.put("out/report.json", b'{"status": "ok", "fingerprint": "another"}')


def holds_strange_masks(scene):
    (scene.output / "masks").mkdir(parents=True)
    scene.put("out/masks/painted.png", b"precious")
    scene.words = ["-y"]


def is_the_clip(name):
    def spoil(scene):
        scene.output.mkdir()
        scene.clip = scene.clip.rename(scene.output / name)
        scene.words = ["-y"]

    return spoil


def of_before_is_the_clip(scene):
    is_the_clip("matte.mp4")(scene)
    (scene.output / "report.json").write_text('{"status": "ok", "outputs": ["masks", "matte.mp4"]}')


def is_linked(name, what, link):
    """Return what makes an output of the job a link, of either kind, to one of its inputs."""

    def spoil(scene):
        path = scene.output / name
        path.parent.mkdir(parents=True)
        getattr(path, link)(getattr(scene, what))
        scene.put("out/report.json", b'{"status": "ok"}') if path.name != "report.json" else None
        scene.words = ["-y"]

    return spoil


def is_the_frame_folder(scene):
    (scene.output / "masks").mkdir(parents=True)
    scene.put("out/report.json", b'{"status": "ok"}')
    scene.clip = scene.output / "masks"
    for index in range(3):
        Image.fromarray(np.full((48, 64, 3), 9 * index, np.uint8)).save(scene.clip / f"{index}.png")
    scene.words = ["-y"]


def links_to_the_frame_folder(scene):
    scene.clip = scene.special("folder", "frames")
    for index in range(3):
        Image.fromarray(np.full((48, 64, 3), 9 * index, np.uint8)).save(scene.clip / f"{index}.png")
    scene.output.mkdir()
    (scene.output / "masks").symlink_to(scene.clip)
    scene.put("out/report.json", b'{"status": "ok"}')
    scene.words = ["-y"]


def holds_the_mask(scene):
    (scene.output / "masks").mkdir(parents=True)
    scene.put("out/report.json", b'{"status": "ok"}')
    scene.mask = scene.mask.rename(scene.output / "masks" / "00000.png")
    scene.words = ["-y"]


def dataset_of_before(scene, name):
    """Return a folder deep in the dataset that an earlier result has written."""
    folder = scene.output / "davis" / name / "480p" / "clip"
    folder.mkdir(parents=True)
    (scene.output / "report.json").write_text('{"status": "ok", "outputs": ["masks", "davis"]}')
    scene.words = ["-y"]
    return folder


def dataset_of_before_holds_the_mask(scene):
    scene.mask = scene.mask.rename(dataset_of_before(scene, "Annotations") / "00000.png")


def dataset_of_before_holds_what_the_mask_links_to(scene):
    dataset_of_before_holds_the_mask(scene)
    link = scene.folder / "link.png"
    link.symlink_to(scene.mask)
    scene.mask = link


def dataset_of_before_holds_the_frames(scene):
    scene.clip = dataset_of_before(scene, "JPEGImages")
    for index in range(3):
        Image.fromarray(np.full((48, 64, 3), 9 * index, np.uint8)).save(scene.clip / f"{index}.png")


def folder_in_the_place_of_a_film(scene):
    (scene.output / "overlay.mp4").mkdir(parents=True)
    scene.put("out/report.json", b'{"status": "ok"}')
    scene.words = ["-y"]


def report_of_before_names_what_is_outside(scene):
    scene.put("precious.mp4", b"precious")
    scene.output.mkdir()
    outputs = ["masks", "../precious.mp4", str(scene.folder / "precious.mp4")]
    (scene.output / "report.json").write_text(json.dumps({"status": "ok", "outputs": outputs}))
    scene.clip, scene.words = scene.folder / "clop.mp4", ["-y"]


GO = r"is where the masks would go"
FAULTS = {
    "is a file": (is_a_file, r"file: is a file"),
    "is under a file": (is_under_a_file, r"out: cannot be written \(Not a directory\)"),
    "has no place": (has_no_place, r"/proc/out: cannot be written"),
    "holds something else": (holds_something_else, r"out: is not empty, and holds no result of stm.*-y"),
    "holds another job": (holds_another_job, r"out: holds the result of another job.*-y"),
    "holds strange masks": (holds_strange_masks, r"masks: holds masks that stm did not write"),
    "is the clip": (is_the_clip("overlay.mp4"), r"overlay\.mp4: is an input"),
    "of before is the clip": (of_before_is_the_clip, r"matte\.mp4: is an input"),
    "is a link to the clip": (is_linked("overlay.mp4", "clip", "symlink_to"), r"overlay\.mp4: is an input"),
    "is a hard link to the clip": (is_linked("overlay.mp4", "clip", "hardlink_to"), r"overlay\.mp4: is an input"),
    "report is a link to the mask": (
        is_linked("report.json", "mask", "hardlink_to"),
        r"report\.json: is an input",
    ),
    "mask is a link to the mask": (is_linked("masks/00000.png", "mask", "symlink_to"), r"00000\.png: is an input"),
    "mask is a hard link to it": (is_linked("masks/00000.png", "mask", "hardlink_to"), r"00000\.png: is an input"),
    "is the frame folder": (is_the_frame_folder, rf"masks/.*: {GO}"),
    "links to the frame folder": (links_to_the_frame_folder, rf"frames/.*: {GO}"),
    "holds the mask": (holds_the_mask, rf"00000\.png: {GO}"),
    "dataset of before holds the mask": (dataset_of_before_holds_the_mask, r"00000\.png: is where the davis would"),
    "the mask links into it": (dataset_of_before_holds_what_the_mask_links_to, r"is where the davis would go"),
    "dataset of before holds the frames": (dataset_of_before_holds_the_frames, r"\.png: is where the davis would"),
    "folder in the place of a film": (folder_in_the_place_of_a_film, r"overlay\.mp4: is a folder"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_an_output_that_would_lose_something_is_found_before_the_network(scene, segment, monkeypatch, fault):
    forbid_network(monkeypatch)
    spoil, message = FAULTS[fault]
    check_fault(scene, (spoil, 2, message), lambda: segment(*scene.job))


def test_a_report_cannot_have_files_outside_removed(scene, segment):
    report_of_before_names_what_is_outside(scene)
    scene.clip = scene.folder / "clip.mp4"
    assert segment(*scene.job).exit_code == 0
    assert (scene.folder / "precious.mp4").read_bytes() == b"precious"


def test_a_broken_network_leaves_the_result_of_before_in_place(scene, segment, stm):
    assert segment(*scene.job).exit_code == 0
    before = everything(scene.output)
    assert stm("segment", *scene.job, "-y", "-w", scene.put("bad.pth", b"<html>")).exit_code == 1
    assert everything(scene.output) == before


@pytest.mark.parametrize("place", ["home", "home/deep/out"])
def test_a_place_that_may_only_be_read_is_found_before_the_network(scene, segment, monkeypatch, place):
    forbid_network(monkeypatch)
    scene.output = scene.folder / place
    with mounted(scene.folder / "home", readonly=True):
        row = (lambda _: None, 2, rf"{place}: cannot be written \(Read-only file system\)")
        check_fault(scene, row, lambda: segment(*scene.job))


def test_a_finished_result_that_may_only_be_read_is_done_and_not_replaced(scene, segment, monkeypatch):
    assert segment(*scene.job).exit_code == 0
    before = everything(scene.output)
    forbid_network(monkeypatch)
    monkeypatch.setattr(os, "access", lambda _, mode: not mode & os.W_OK)  # root may write everywhere
    again = segment(*scene.job)
    assert (again.exit_code, "already done" in again.stderr) == (0, True), again.output
    for more in ("-y", "--no-resume"):
        check_refusal(segment(*scene.job, more), 2, r"out: cannot be written \(Permission denied\)")
    assert everything(scene.output) == before


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_of_somebody_else_is_found_before_the_network(scene, segment, monkeypatch):
    forbid_network(monkeypatch)
    scene.output.mkdir(mode=0o500)
    row = (lambda _: None, 2, r"out: cannot be written \(Permission denied\)")
    check_fault(scene, row, lambda: segment(*scene.job))
