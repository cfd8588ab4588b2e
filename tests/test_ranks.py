"""Check that processes which train together stay alike, and end together."""

import os
import signal
import socket
import subprocess
import sys

import pytest
import torch
from test_train import load, moments, same
from test_train_resume import SCRIPT, folder, straight  # noqa: F401
from tiny_run import run

from stmcli.errors import TrainingError


def start_two(*words):
    """Start two processes as torchrun does; return them."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}
    return [
        subprocess.Popen(
            [sys.executable, str(SCRIPT), *map(str, words)],
            env={**os.environ, **shared, "RANK": str(rank), "LOCAL_RANK": str(rank), "OMP_NUM_THREADS": "1"},
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in (0, 1)
    ]


def numbers(state):
    step, _, *_, loss, iou = state["progress"]
    return {"model": state["model"], "ema": state["ema"], "rest": (step, loss, iou), **moments(state)}


def test_two_processes_with_the_same_clips_equal_one(folder, straight, tmp_path):  # noqa: F811
    processes = start_two(folder, tmp_path / "run", "--alike")
    errors = [process.communicate(timeout=300)[1] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], errors
    states = [torch.load(tmp_path / f"rank{rank}.pt", weights_only=True) for rank in (0, 1)]
    assert same(numbers(states[0]), numbers(states[1]))
    assert same(numbers(states[0]), numbers(load(straight)))
    assert load(tmp_path / "run")["processes"] == 2
    with pytest.raises(TrainingError, match="the run had 2 processes and has 1"):
        run(folder, tmp_path / "run", resume=True)


def test_processes_with_clips_of_their_own_stay_alike_and_end_when_one_dies(folder, tmp_path):  # noqa: F811
    processes = start_two(folder, tmp_path / "run", "--die", "3")
    errors = [process.communicate(timeout=300)[1] for process in processes]
    assert [process.returncode for process in processes] == [1, -signal.SIGKILL]
    assert "another process of this run has ended" in errors[0]
    states = [torch.load(tmp_path / f"rank{rank}.pt", weights_only=True) for rank in (0, 1)]
    assert [state["progress"][0] for state in states] == [3, 3]
    assert same(numbers(states[0]), numbers(states[1]))
