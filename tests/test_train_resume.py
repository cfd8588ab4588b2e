"""Check that a run on stills and videos, with schedules, can end anywhere and go on as if it had not."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest
import tiny_run
import torch
from test_clips import still, write_stills
from test_train import load, numbers, same
from test_videos import frame, write_video

from stmcli.clips import ClipMaker
from stmcli.errors import Interrupted, TrainingError
from stmcli.train import trainer
from stmcli.weights import read

SCRIPT = Path(tiny_run.__file__)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("data")
    write_stills(path / "stills", {f"red-{i}": still() for i in range(3)})
    write_video(path / "videos", make=lambda number: frame(number, ids=(1, 2)))
    return path


@pytest.fixture(scope="module")
def straight(folder, tmp_path_factory):
    """Return the folder of a run that nothing interrupted."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    output = tmp_path_factory.mktemp("straight") / "a"
    tiny_run.run(folder, output)
    yield output
    torch.set_num_threads(threads)


def test_a_mixed_run_that_went_on_equals_one_that_never_stopped(folder, straight, tmp_path):
    def stop(now):
        if now.step in (1, 4):
            raise KeyboardInterrupt

    for resume in (False, True):
        with pytest.raises(Interrupted):
            tiny_run.run(folder, tmp_path / "b", resume=resume, on_step=stop)
    tiny_run.run(folder, tmp_path / "b", resume=True)
    assert same(numbers(load(straight)), numbers(load(tmp_path / "b")))
    assert (straight / "best.safetensors").read_bytes() == (tmp_path / "b" / "best.safetensors").read_bytes()


def test_a_run_that_was_killed_goes_on_to_the_same_weights(folder, straight, tmp_path):
    command = [sys.executable, str(SCRIPT), str(folder), str(tmp_path / "b")]
    killed = subprocess.run([*command, "--die", "3"], check=False)
    assert killed.returncode == -signal.SIGKILL
    assert load(tmp_path / "b")["progress"][0] == 2
    tiny_run.run(folder, tmp_path / "b", resume=True)
    assert same(numbers(load(straight)), numbers(load(tmp_path / "b")))
    assert (straight / "best.safetensors").read_bytes() == (tmp_path / "b" / "best.safetensors").read_bytes()
    assert not list((tmp_path / "b").glob(".*"))


def test_a_run_says_what_it_was_trained_on_and_how(straight):
    state = load(straight)
    assert state["options"]["clips"]["frames_end"] == 4
    ((name, weight, count, _),) = state["data"]["videos"]
    assert (name, weight, count, state["processes"]) == ("videos", 1.0, 1, 1)
    origin = read(straight / "best.safetensors")[1].origin
    assert origin.startswith(
        "stm train: 6 steps on 3 stills, 1 videos of videos, size=tiny, batch=2, objects=2, steps=6"
    )
    assert "frames_end=4, skip=3" in origin


def test_a_run_says_how_large_its_numbers_become(straight):
    model, card = read(straight / "best.safetensors")
    wanted = {name for name, part in model.named_modules() if isinstance(part, torch.nn.Conv2d)}
    assert card.ranges.keys() == wanted
    assert min(card.ranges.values()) > 0
    assert card.ranges["memory_encoder.planes.0"] == 1


def test_a_run_that_can_make_no_more_clips_says_so_and_keeps_its_weights(folder, tmp_path, monkeypatch):
    def end(now):
        if now.step == 3:
            monkeypatch.setattr(ClipMaker, "batch", broken)
            raise KeyboardInterrupt

    def broken(*_, **__):
        raise TrainingError("the share is gone")

    with pytest.raises(Interrupted, match="stopped after 3 steps"):
        tiny_run.run(folder, tmp_path / "b", on_step=end)
    assert read(tmp_path / "b" / "best.safetensors")


@pytest.mark.parametrize(("fast", "slow"), [(torch.float32, torch.bfloat16), (torch.bfloat16, torch.float32)])
def test_a_run_convolves_in_what_was_fastest_where_it_began(folder, tmp_path, monkeypatch, fast, slow):
    def stop(now):
        if now.step == 2:
            raise KeyboardInterrupt

    def note(module, _, output):
        if isinstance(module, torch.nn.Conv2d) and module.training:
            seen.append(output.dtype)

    seen = []
    monkeypatch.setattr(trainer, "pick_dtype", lambda *_: fast)
    with torch.nn.modules.module.register_module_forward_hook(note):
        with pytest.raises(Interrupted):
            tiny_run.run(folder, tmp_path / "b", on_step=stop)
        before = len(seen)
        monkeypatch.setattr(trainer, "pick_dtype", lambda *_: slow)
        tiny_run.run(folder, tmp_path / "b", resume=True)
    assert 0 < before < len(seen)
    assert set(seen) == {fast}


def test_a_run_does_not_go_on_with_other_videos(folder, straight, tmp_path):
    write_video(tmp_path / "videos", numbers=range(5))
    (tmp_path / "stills").symlink_to(folder / "stills")
    with pytest.raises(TrainingError, match=r"last.pt: the videos are others"):
        tiny_run.run(tmp_path, straight, resume=True)
