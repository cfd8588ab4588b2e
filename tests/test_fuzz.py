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


@pytest.mark.parametrize("target", TARGETS)
def test_spoilt_files_are_read_or_refused(target):
    @settings(derandomize=True, max_examples=60, deadline=None, database=None, suppress_health_check=[*HealthCheck])
    @given(st.sampled_from(seeds(target)).flatmap(lambda content: harms(content).map(lambda harm: harm.apply(content))))
    def spoil(content):
        attempt(target, content)

    spoil()
