"""Check `stm train` as people call it."""

import pytest
import torch
from test_train import tiny  # noqa: F401
from test_videos import write_video

from stmcli.options import INGREDIENTS

SMALL = ("--size", "tiny", "--steps", "1", "--batch", "1", "--crop", "32", "--device", "cpu", "--threads", "1", "-q")


def test_videos_alone_train_a_network_whose_run_says_how(stm, tmp_path):
    write_video(tmp_path / "set")
    words = ("train", "--video", "set:2", *SMALL, "-o", "run", "--without", "light", "--with", "jpeg", "--skip", "3")
    done = stm(*words)
    assert done.exit_code == 0, done.output
    assert done.stdout.strip() == "run/best.safetensors"
    state = torch.load(tmp_path / "run" / "last.pt", weights_only=True)
    clips = state["options"]["clips"]
    assert (clips["light"], clips["jpeg"], clips["skip"], state["data"]["videos"][0][1]) == (0.0, 0.3, 3, 2.0)


def test_a_profile_says_how_much_of_the_time_is_the_network(stm, tmp_path):
    write_video(tmp_path / "set")
    done = stm("train", "--video", "set", *SMALL, "-o", "run", "--profile")
    assert done.exit_code == 0, done.output
    rows = [line.split() for line in done.stdout.splitlines()]
    assert [row[0] for row in rows] == ["bare", "full", "ratio"]
    assert all(float(row[1]) > 0 for row in rows)
    assert not (tmp_path / "run").exists()


def test_ingredients_are_listed(stm):
    assert stm("train", "--without", "list").stdout.split() == list(INGREDIENTS)


@pytest.mark.parametrize(
    ("words", "text"),
    [
        ((), "error: nothing to train on. Give stills, or videos by --video"),
        (("--video", "gone"), "error: gone: no such file"),
        (("--video", "a", "--without", "moon"), "error: --without moon: unknown"),
        (("--video", "a", "--preset", "moon"), "error: --preset moon: unknown"),
    ],
)
def test_what_cannot_work_is_one_line_and_exit_code_2(stm, words, text):
    done = stm("train", *words, "--device", "cpu", "-q")
    assert done.exit_code == 2
    assert done.stderr.startswith(text)
    assert done.stderr.count("\n") == 1
