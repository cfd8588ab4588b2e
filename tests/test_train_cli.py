"""Check `stm train` as people call it."""

import warnings

import numpy as np
import pytest
import torch
from test_clips import still, write_stills
from test_train import tiny  # noqa: F401
from test_videos import write_video

from stmcli.cli.app import show_warning
from stmcli.errors import Terminated
from stmcli.options import INGREDIENTS
from stmcli.train.profiling import ROUNDS
from stmcli.train.trainer import Trainer

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


def test_the_largest_seed_serves_stills_and_videos_and_a_run_that_goes_on(stm, tmp_path):
    write_video(tmp_path / "set")
    write_stills(tmp_path / "stills", {"red": still()})
    words = ("train", "stills", "--video", "set", *SMALL, "--seed", 2**63 - 1, "-o", "run")
    for more in ((), ("--resume", "--steps", "6")):  # of both kinds
        done = stm(*words, *more)
        assert done.exit_code == 0, done.output
    state = torch.load(tmp_path / "run" / "last.pt", weights_only=True)
    assert (state["options"]["train"]["seed"], state["progress"][0]) == (2**63 - 1, 6)
    assert {np.random.default_rng((2**63 - 1, step)).random() < 0.5 for step in range(6)} == {True, False}


@pytest.mark.parametrize(("signal", "code"), [(KeyboardInterrupt, 130), (Terminated, 143)])
def test_a_run_that_is_stopped_says_how_it_goes_on(stm, tmp_path, monkeypatch, signal, code):
    write_stills(tmp_path / "stills", {"red": still()})
    words = ("train", "stills", *SMALL, "--steps", "3", "-o", "run")
    advance, left = Trainer.advance, [0]

    def stop(trainer):
        if trainer.step == left[0]:
            raise signal
        advance(trainer)

    monkeypatch.setattr(Trainer, "advance", stop)
    done = stm(*words)
    text = "error: run: stopped after 0 steps. Nothing was saved: run the same command again\n"
    assert (done.exit_code, done.stderr) == (code, text)
    left[0] = 2
    done = stm(*words)
    assert (done.exit_code, done.stderr) == (code, "error: run: stopped after 2 steps. Go on by --resume\n")
    left[0] = None
    assert stm(*words, "--resume").exit_code == 0


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ((), (25, 5)),
        (("--skip", 3), (3, 3)),
        (("--skip", 9), (9, 5)),
        (("--skip", 3, "--skip-end", 7), (3, 7)),
        (("--preset", "paper", "--skip", 3), (3, 3)),
    ],
)
def test_a_given_skip_is_not_exceeded_unless_the_end_is_given_too(stm, monkeypatch, words, expected):
    seen = []
    monkeypatch.setattr("stmcli.train.train", lambda *_, clips, **__: seen.append((clips.skip, clips.skip_end)))
    stm("train", "stills", *words, "--device", "cpu", "-q")
    assert seen == [expected]


def test_a_profile_says_how_much_of_the_time_is_the_network(stm, tmp_path, monkeypatch):
    monkeypatch.setattr("stmcli.cli.progress.PLAIN_EVERY", 0.0)
    write_video(tmp_path / "set")
    done = stm("train", "--video", "set", *SMALL[:-1], "-o", "run", "--profile")
    assert f"run: 1/{2 * ROUNDS} rounds of steps, " in done.stderr
    assert done.exit_code == 0, done.output
    rows = [line.split() for line in done.stdout.splitlines()]
    assert [row[0] for row in rows] == ["bare", "full", "ratio"]
    assert all(float(row[1]) > 0 for row in rows)
    assert not (tmp_path / "run").exists()
    refused = stm("train", "--video", "set", *SMALL, "-o", "run", "--profile", "--resume")
    assert (refused.exit_code, "--profile measures a run of its own" in refused.stderr) == (2, True)


@pytest.mark.parametrize(("rank", "more", "said"), [("0", (), True), ("1", (), False), ("0", ("-q",), False)])
def test_notes_are_said_by_the_first_process_unless_it_is_to_be_quiet(stm, tmp_path, monkeypatch, rank, more, said):
    write_stills(tmp_path / "stills", {"red": still(), "blue": still(), "empty": still(number=0)})
    (tmp_path / "stills/masks/blue.png").unlink()
    monkeypatch.setenv("RANK", rank)
    monkeypatch.setattr("warnings.showwarning", show_warning)
    warnings.simplefilter("default")
    done = stm("train", "stills", *SMALL[:-1], *more, "-o", "run")
    assert done.exit_code == 0, done.stderr
    assert ("note: stills: 1 image without mask of the same name: left out\n" in done.stderr) == said
    assert ("note: stills: 1 mask without an object: left out\n" in done.stderr) == said


@pytest.mark.parametrize(
    ("words", "notes"),
    [
        (("stills", "--stills-share", 0.2, "--skip", 3, "--skip-end", 2), ["--stills-share", "--skip", "--skip-end"]),
        (("--video", "set", "--stills-share", 0.2, "--skip", 3), ["--stills-share"]),
        (("stills", "--video", "set", "--stills-share", 0.2, "--skip", 3, "--skip-end", 2), []),
        (("stills",), []),
        (("stills", "--skip", 3, "-q"), []),
    ],
)
def test_options_that_do_nothing_with_what_is_trained_on_are_noted(stm, monkeypatch, words, notes):
    monkeypatch.setattr("stmcli.train.train", lambda *_, **__: None)
    lines = stm("train", *words, "--device", "cpu").stderr.splitlines()
    assert [line.split()[1] for line in lines if " does nothing without " in line] == notes


@pytest.mark.parametrize("option", ["--without", "--with"])
def test_ingredients_are_listed(stm, option):
    assert stm("train", option, "list").stdout.split() == list(INGREDIENTS)


@pytest.mark.parametrize(
    ("words", "text"),
    [
        ((), "error: nothing to train on. Give stills, or videos by --video"),
        (("--video", "gone"), "error: gone: no such file"),
        (("--video", "a", "--without", "moon"), "error: --without moon: unknown"),
        (("--video", "a", "--without", "kin", "--with", "kin"), "error: --without and --with both name kin. Leave out"),
        (("--video", "a", "--preset", "moon"), "error: --preset moon: unknown"),
        (("--video", "a", "--seed", "-1"), "error: Invalid value for '--seed': "),
        (("--video", "a", "--seed", 2**63), "error: Invalid value for '--seed': "),
        (("--video", "a", "--time-budget", "soon"), "error: --time-budget soon: not a time"),
        (("--video", "a", "--time-budget", ""), "error: --time-budget : not a time"),
        (("--video", "a", "--time-budget", "0"), "error: --time-budget 0: not a time above 0. Write it like 90s"),
        (("--video", "a", "--time-budget=-5m"), "error: --time-budget -5m: not a time above 0"),
        (("--video", "a", "--time-budget", "nan"), "error: --time-budget nan: not a time above 0"),
        (("--video", "a", "--lr", "inf"), "error: --lr inf: not a learning rate. Use a number like 0.0"),
        (("--video", "a", "--validate-every", "inf"), "error: --validate-every inf: not a time above 0"),
    ],
)
def test_what_cannot_work_is_one_line_and_exit_code_2(stm, words, text):
    done = stm("train", *words, "--device", "cpu", "-q")
    assert done.exit_code == 2
    assert done.stderr.startswith(text)
    assert done.stderr.count("\n") == 1
