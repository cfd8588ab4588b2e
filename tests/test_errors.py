import pytest

from stmcli.errors import listed


@pytest.mark.parametrize(
    ("words", "most", "expected"),
    [([], 2, ""), ([7], 2, "7"), (["a", "b"], 2, "a, b"), (range(5), 2, "0, 1 and 3 more"), ("abc", 1, "a and 2 more")],
)
def test_a_long_list_ends_in_how_many_more_there_are(words, most, expected):
    assert listed(words, most) == expected
