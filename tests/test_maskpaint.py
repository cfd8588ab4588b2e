"""stm mask paint: the mask of a frame, painted in a browser from nothing or from one that is there."""

import json
import os
import shlex
import subprocess

import numpy as np
import pytest
from PIL import Image
from test_review import ask, served

from stmcli.errors import MaskError, UsageError, VideoError
from stmcli.given.words import list_mask_files
from stmcli.maskpaint import NewMask
from stmcli.masks import read_labels, write_labels
from stmcli.painting import PaintServer


def painted(*ids):
    labels = np.zeros((48, 64), np.uint16)
    for place, number in enumerate(ids):
        labels[10 * place : 10 * place + 8, 5:30] = number
    return labels


def body(*ids):
    return painted(*ids).tobytes()


def command(server):
    return json.loads(ask(server, "clip.json")[2])["command"]


def test_a_mask_that_is_painted_becomes_a_file_and_a_command(make_clip, tmp_path):
    clip, path = make_clip(), tmp_path / "my mask.png"
    with served(NewMask(clip, path)) as server:
        facts = json.loads(ask(server, "clip.json")[2])
        assert (facts["width"], facts["height"], facts["objects"], facts["command"]) == (64, 48, [1], "")
        assert [frame["frame"] for frame in facts["frames"]] == [0]
        assert not any(ask(server, "labels/0")[2])
        assert ask(server, "picture/0")[1]["Content-Type"] == "image/jpeg"
        assert not path.exists()
        said = json.loads(ask(server, "labels/0", method="POST", body=body(1, 300))[2])
    assert said["file"] == str(path)
    assert shlex.split(said["command"]) == ["stm", "segment", str(clip), "--mask", str(path)]
    assert np.array_equal(read_labels(path), painted(1, 300))


def test_the_command_that_is_offered_runs(segment, make_clip, tmp_path):
    mask = NewMask(make_clip(frames=4), tmp_path / "m.png", number=12, first_number=10, words=["--first-number", "10"])
    mask.save(12, painted(2))
    words = shlex.split(mask.command())
    assert words[:2] == ["stm", "segment"]
    made = segment(*words[2:], "-o", "out", "-e", "none")
    assert made.exit_code == 0, made.stderr
    assert [path.name for path in sorted((tmp_path / "out" / "masks").iterdir())] == ["00012.png", "00013.png"]
    assert np.array_equal(read_labels(tmp_path / "out" / "masks" / "00012.png"), painted(2))


@pytest.mark.parametrize("number", [0, 3])
@pytest.mark.parametrize("mask", ["my mask.png", "12:m.png", "-m.png", "two\nlines.png"])
def test_the_command_names_the_files_whatever_they_are_called(make_clip, tmp_path, monkeypatch, mask, number):
    monkeypatch.chdir(tmp_path)
    clip = make_clip("-v.mp4").relative_to(tmp_path)
    painting = NewMask(clip, tmp_path.joinpath(mask).relative_to(tmp_path), number=number)
    painting.save(number, painted(1))
    assert len(painting.command().splitlines()) == 1
    shell = subprocess.run(["bash", "-c", f"printf '%s\\0' {painting.command()}"], capture_output=True, check=True)
    _, _, video, option, word = shell.stdout.decode().split("\0")[:-1]
    assert (video[0] != "-", option) == (True, "--mask")
    assert os.path.samefile(video, clip)
    (file,) = list_mask_files([word])
    assert (file.path.samefile(mask), file.frame) == (True, number or None)


def test_a_frame_that_is_damaged_is_refused(make_folder, tmp_path):
    folder = make_folder(["0.png", "1.png"])
    (folder / "0.png").write_bytes((folder / "0.png").read_bytes()[:-40])
    with pytest.raises(VideoError, match=r"0\.png: not an image"):
        NewMask(folder, tmp_path / "m.png")
    assert NewMask(folder, tmp_path / "m.png", number=1).number == 1


def test_a_frame_that_is_missing_behind_is_no_matter(make_folder, tmp_path):
    folder = make_folder(["3.png", "4.png", "7.png"])
    assert NewMask(folder, tmp_path / "m.png").number == 3
    with pytest.raises(VideoError, match="frame 5 cannot be decoded"):
        NewMask(folder, tmp_path / "m.png", number=5)


def test_an_empty_mask_has_no_command_and_can_be_opened_again(make_clip, tmp_path):
    mask = NewMask(make_clip(), tmp_path / "m.png")
    mask.save(0, painted())
    assert mask.command() == ""
    assert NewMask(make_clip(), tmp_path / "m.png").facts()["objects"] == (1,)


@pytest.mark.parametrize("mode", ["palette", "white on black"])
def test_a_mask_that_is_there_is_gone_on_with_and_can_be_had_back(make_clip, tmp_path, mode):
    path = tmp_path / "m.png"
    if mode == "palette":
        write_labels(path, painted(3, 5))
    else:
        Image.fromarray((255 * (painted(1) > 0)).astype(np.uint8)).save(path)
    before = path.read_bytes()
    with served(NewMask(make_clip(), path)) as server:
        facts = json.loads(ask(server, "clip.json")[2])
        assert facts["objects"] == ([3, 5] if mode == "palette" else [1])
        found = np.frombuffer(ask(server, "labels/0")[2], "<u2").reshape(48, 64)
        assert np.array_equal(found, painted(3, 5) if mode == "palette" else painted(1))
        assert path.read_bytes() == before
        ask(server, "labels/0", method="POST", body=body(9))
        assert np.array_equal(read_labels(path), painted(9))
        assert ask(server, "labels/0", method="DELETE")[0] == 200
    assert path.read_bytes() == before


def test_a_mask_that_was_not_there_is_gone_when_it_is_started_again(make_clip, tmp_path):
    mask = NewMask(make_clip(), tmp_path / "m.png")
    mask.forget(0)
    mask.save(0, painted(1))
    mask.forget(0)
    assert not mask.path.exists()
    assert mask.command() == ""


def test_only_its_frame_is_reached(make_clip, tmp_path):
    with served(NewMask(make_clip(), tmp_path / "m.png", number=3)) as server:
        assert json.loads(ask(server, "clip.json")[2])["name"] == "clip, frame 3"
        assert ask(server, "picture/3")[0] == 200
        for path in ("picture/2", "labels/0", "picture/../m.png"):
            assert ask(server, path)[0] == 404
        assert ask(server, "labels/2", method="POST", body=body(1))[0] == 404
    assert not (tmp_path / "m.png").exists()


def test_a_mask_of_another_clip_is_refused_and_stays_as_it_is(make_clip, tmp_path):
    path = tmp_path / "m.png"
    write_labels(path, painted(1)[:20])
    before = path.read_bytes()
    with pytest.raises(MaskError, match="64x20"):
        NewMask(make_clip(), path)
    assert path.read_bytes() == before


def test_a_frame_that_the_clip_has_not_is_refused(make_clip, tmp_path):
    with pytest.raises(UsageError, match="no frame 99"):
        NewMask(make_clip(), tmp_path / "m.png", number=99)


def interrupt(*_):
    raise KeyboardInterrupt


def test_the_command_line_says_how_to_go_on(stm, make_clip, tmp_path, monkeypatch):
    def paint(server):
        server.painting.save(server.painting.number, painted(1))
        raise KeyboardInterrupt

    clip = make_clip(frames=30)
    monkeypatch.setattr(PaintServer, "serve_forever", interrupt)
    answer = stm("mask", "paint", clip, "--no-browser")
    assert (answer.exit_code, answer.stdout[:17]) == (0, "http://127.0.0.1:")
    assert answer.stderr.splitlines()[-1] == "No mask."
    monkeypatch.setattr(PaintServer, "serve_forever", paint)
    answer = stm("mask", "paint", clip, "--at", "1s", "-o", "late.png", "--no-browser")
    said = answer.stderr.splitlines()[-1]
    assert said == f"To follow it through the clip: stm segment {clip} --mask 25:late.png"
    assert (tmp_path / "late.png").exists()


def test_the_command_repeats_what_it_was_told_about_the_clip(stm, make_folder, monkeypatch):
    def paint(server):
        server.painting.save(server.painting.number, painted(1))
        raise KeyboardInterrupt

    monkeypatch.setattr(PaintServer, "serve_forever", paint)
    folder = make_folder(["0.png", "1.png"])
    answer = stm("mask", "paint", folder, "--first-number", 7, "--fps", "25", "--no-browser")
    words = shlex.split(answer.stderr.splitlines()[-1].partition(": ")[2])
    assert words == ["stm", "segment", str(folder), "--mask", "mask.png", "--first-number", "7", "--fps", "25"]


@pytest.mark.parametrize(
    ("output", "cause"),
    [("m.jpg", "PNG"), ("frames/2.png", "would become a frame of the source"), ("none/m.png", "no such folder")],
)
def test_where_no_mask_can_be_is_refused_before_anything_is_painted(stm, make_folder, output, cause):
    folder = make_folder(["0.png", "1.png"])
    answer = stm("mask", "paint", folder, "-o", output, "--no-browser")
    assert answer.exit_code == 2
    assert cause in answer.stderr


@pytest.mark.parametrize("make", ["mkdir", "mkfifo"])
def test_what_is_there_and_no_file_is_refused(stm, make_clip, tmp_path, make):
    getattr(os, make)(tmp_path / "m.png")
    answer = stm("mask", "paint", make_clip(), "-o", "m.png", "--no-browser")
    assert answer.exit_code == 2
    assert answer.stderr.startswith("error: m.png: ")


def test_a_folder_that_may_not_be_written_is_refused_before_anything_is_painted(stm, make_clip, monkeypatch):
    clip = make_clip()
    monkeypatch.setattr(os, "access", lambda _, mode: not mode & os.W_OK)  # root may write everywhere
    answer = stm("mask", "paint", clip, "--no-browser")
    assert answer.exit_code == 2
    assert "cannot be written (Permission denied)" in answer.stderr


def test_a_rate_must_be_one_and_a_video_has_its_own(stm, make_clip, monkeypatch):
    answer = stm("mask", "paint", make_clip(), "--fps", "0", "--no-browser")
    assert (answer.exit_code, answer.stderr[:16]) == (2, "error: --fps 0 i")
    monkeypatch.setattr(PaintServer, "serve_forever", interrupt)
    answer = stm("mask", "paint", make_clip(), "--fps", "30", "--no-browser")
    assert answer.stderr.startswith("note: --fps does nothing")
