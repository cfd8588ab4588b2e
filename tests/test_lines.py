import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stmcli.lines import BLOCK, Lines


def filled(lines):
    found = Lines()
    for line in lines:
        found.append(line)
    return found


@given(st.lists(st.text(), max_size=3 * BLOCK), st.slices(3 * BLOCK))
def test_lines_are_read_like_a_list(lines, part):
    found = filled(lines)
    assert (len(found), list(found), found[part]) == (len(lines), lines, lines[part])
    assert [found[place] for place in range(-len(lines), len(lines))] == lines * 2


@pytest.mark.parametrize("place", [BLOCK + 1, -BLOCK - 2])
def test_a_line_that_is_not_there_is_an_error(place):
    with pytest.raises(IndexError):
        filled(["x"] * (BLOCK + 1))[place]


def test_lines_take_a_fraction_of_their_length():
    found = filled(
        f'{{"frame": {n}, "time": {n / 25}, "objects": {{"1": {{"area": {n * n % 997}}}}}}}' for n in range(6400)
    )
    assert sum(map(sys.getsizeof, found._packed)) < sum(map(len, found)) / 3
