from fractions import Fraction
from itertools import product

import pytest

from stmcli.video import advance_timecode

NTSC = Fraction(30000, 1001)


def count_up(fps, dropped, mark):
    """Yield every timecode of two hours, leaving out the dropped numbers one by one."""
    for hour, minute, second, frame in product(range(2), range(60), range(60), range(fps)):
        if not (second == 0 and frame < dropped and minute % 10):
            yield f"{hour:02}:{minute:02}:{second:02}{mark}{frame:02}"


@pytest.mark.parametrize(
    ("rate", "dropped", "mark"),
    [
        (Fraction(25), 0, ":"),
        (Fraction(24000, 1001), 0, ":"),
        (NTSC, 0, ":"),
        (NTSC, 2, ";"),
        (NTSC, 2, "."),
        (2 * NTSC, 4, ";"),
    ],
)
def test_a_timecode_counts_frames(rate, dropped, mark):
    codes = list(count_up(round(rate), dropped, mark))
    for index in [*range(0, len(codes), 997), *range(1790, 1810), *range(17970, 17990), len(codes) - 1]:
        assert advance_timecode(codes[0], index, rate=rate) == codes[index]
        assert advance_timecode(codes[1801], index - 1801, rate=rate) == codes[index]


@pytest.mark.parametrize(
    ("before", "after", "rate"),
    [
        ("00:00:59;29", "00:01:00;02", NTSC),
        ("00:09:59;29", "00:10:00;00", NTSC),
        ("23:59:59:24", "00:00:00:00", Fraction(25)),
        ("23:59:59;29", "00:00:00;00", NTSC),
        ("10:59:59:23", "11:00:00:00", Fraction(24)),
    ],
)
def test_the_next_timecode(before, after, rate):
    assert advance_timecode(before, 1, rate=rate) == after
    assert advance_timecode(before, 0, rate=rate) == before


@pytest.mark.parametrize("timecode", ["", "half past one", "1:00:00:00", "00:00:00:25", "00:00:00"])
def test_what_is_no_timecode_has_no_next(timecode):
    assert advance_timecode(timecode, 1, rate=Fraction(25)) is None
