"""The readers of small files, on good inputs and on all that has ever broken one; `make fuzz` looks for more."""

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from soak.damage import harms
from soak.fuzz import CORPUS, TARGETS, attempt, seeds

BROKEN = [(path.parent.name, path) for path in sorted(CORPUS.glob("*/*"))]  # may be none


@pytest.mark.parametrize("target", TARGETS)
def test_good_files_are_read(target):
    for content in seeds(target)[:4]:
        attempt(target, content)


def test_what_broke_a_reader_once_breaks_none_now():
    for target, path in BROKEN:
        attempt(target, path.read_bytes())


@pytest.mark.parametrize("name", ["x" * 300 + ".mp4", "x" * 300 + "%d.png", "a\0b.mp4", "%0999999999999d.png"])
def test_a_clip_whose_name_cannot_be_is_refused(segment, make_mask, name):
    result = segment(name, "-m", make_mask(), "-o", "out")
    assert (result.exit_code, len(result.stderr.splitlines())) == (2, 1)
    assert result.stderr.startswith("error: ")


def test_an_output_whose_name_cannot_be_is_refused(segment, make_clip, make_mask):
    result = segment(make_clip(frames=1), "-m", make_mask(), "-o", "x" * 300)
    assert (result.exit_code, len(result.stderr.splitlines())) == (2, 1)
    assert "no folder can have this name" in result.stderr


@pytest.mark.parametrize("target", TARGETS)
def test_spoilt_files_are_read_or_refused(target):
    @settings(derandomize=True, max_examples=60, deadline=None, database=None, suppress_health_check=[*HealthCheck])
    @given(st.sampled_from(seeds(target)).flatmap(lambda content: harms(content).map(lambda harm: harm.apply(content))))
    def spoil(content):
        attempt(target, content)

    spoil()
