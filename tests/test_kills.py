"""Runs that are killed come to the result of a run that nobody killed; `make soak` does it hundreds of times."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

HOME = Path(__file__).parent


@pytest.mark.parametrize(("kind", "seed"), [("forward", 3), ("both", 1)])
def test_a_run_killed_at_random_moments_ends_with_the_same_result(kind, seed):
    words = [sys.executable, "-m", "soak.kills", kind, str(seed), "5"]
    paths = [str(HOME), str(HOME.parent)]
    done = subprocess.run(words, capture_output=True, text=True, check=True, env=_alone(paths))
    found = json.loads(done.stdout)
    assert found["wrong"] == [], done.stderr
    assert found["kills"] == 5
    assert found["runs"]
    assert found["kept"]


def _alone(paths):
    import os

    return {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(paths)}
