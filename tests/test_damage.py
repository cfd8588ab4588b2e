"""Whatever is spoilt in a file that stm reads: an exit code, one line that names it, and nothing half-written."""

import pytest
from hypothesis import HealthCheck, given, settings
from soak.damage import Cut, Flips, Overwritten, Swapped
from soak.trials import attempts, ground, judge

EXAMPLES = 48
# What broke a rule once: the case, which of its commands, and how the file was spoilt.
FOUND = [
    ("saved mask", 0, Cut(95)),
    ("soft.png", 0, Cut(0)),
    ("report.json", 4, Cut(0)),
    ("report.json", 2, Flips(((3870, 1),))),
    ("report.json", 3, Swapped(470, '"/"')),
    ("forward report.json", 0, Flips(((73, 0), (85, 5)))),
    ("forward masks/00001.png", 0, Cut(0)),
    ("forward masks/00001.png", 0, Flips(((743, 0), (163, 4)))),
    ("forward .state/frames.jsonl", 0, Flips(((38, 6),))),
    ("forward .state/00000006.safetensors", 0, Flips(((9000, 6),))),
    ("backward .state/backward/4.prob", 0, Cut(40)),
    ("both .state/backward/2.prob", 0, Flips(((60, 3),))),
    ("frame 2 png", 2, Flips(((0, 0), (17, 3)))),
    ("frame 0 tif", 0, Flips(((20, 5), (989, 4), (5054, 0)))),
    ("old.pth", 1, Overwritten(1, b"1e999", 58)),
]


@pytest.mark.parametrize("found", FOUND, ids=lambda found: f"{found[0]} {found[1]} {type(found[2]).__name__}")
def test_what_broke_a_rule_once_breaks_none_now(found):
    judge(*found)


@settings(derandomize=True, max_examples=EXAMPLES, deadline=None, database=None, suppress_health_check=[*HealthCheck])
@given(attempts(tuple(ground().cases)))
def test_a_spoilt_file_is_named_and_nothing_is_left_half_written(attempt):
    judge(*attempt)


@pytest.mark.parametrize("name", ["clip.mp4", "mask.png", "own.safetensors"])
def test_the_rules_can_be_broken(name, monkeypatch):
    """With an error that names no file, or code that falls over, a trial fails."""
    monkeypatch.setattr("stmcli.errors.StmError.__str__", lambda self: self.cause)
    with pytest.raises(AssertionError, match="no file is named"):
        judge(name, 0, Cut(3))
