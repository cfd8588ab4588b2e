import os

import pytest

from stmcli import identity
from stmcli.identity import content_of, differences


@pytest.fixture
def files(tmp_path):
    """Three files of 1000 bytes each."""
    paths = [tmp_path / f"{number}.raw" for number in range(3)]
    for number, path in enumerate(paths):
        path.write_bytes(bytes([number]) * 1000)
    return paths


def change(path, place):
    content = bytearray(path.read_bytes())
    content[place] ^= 255
    path.write_bytes(content)


@pytest.mark.parametrize("place", [0, 517, 999])
def test_every_byte_of_small_files_counts_and_neither_names_nor_dates(files, tmp_path, place):
    before = content_of(files)
    os.utime(files[1], ns=(1, 1))
    files[2] = files[2].rename(tmp_path / "other.raw")
    assert content_of(files) == before
    change(files[1], place)
    assert content_of(files) != before


def test_of_a_large_file_pieces_from_all_over_it_count(tmp_path, monkeypatch):
    monkeypatch.setattr(identity, "WHOLE", 1000)
    monkeypatch.setattr(identity, "PIECE", 10)
    path = tmp_path / "large.raw"
    path.write_bytes(bytes(99_990))
    before = content_of([path])
    for place in (0, 99_989, 50_500):
        change(path, place)  # alone it is looked at in 100 pieces of 10 bytes, 1010 apart
        assert content_of([path]) != before
        change(path, place)
    assert content_of([path]) == before
    path.write_bytes(bytes(99_991))
    assert content_of([path]) != before


def test_of_many_large_frames_the_dates_count_too(files, monkeypatch):
    monkeypatch.setattr(identity, "WHOLE", 300)
    before = content_of(files)
    change(files[1], 500)
    assert content_of(files) != before


def test_what_differs_is_called_as_on_the_command_line():
    old = {"version": "1", "clip": ["a", "0"], "weights": "w", "memory": {"every": 5}, "export": {"kinds": ["none"]}}
    new = {**old, "clip": ["a", "1"], "memory": {"every": 4, "half": True}, "export": {"kinds": ("none",)}}
    assert differences(old, old) == []
    assert differences(old, new) == ["clip", "--mem-every", "--mem-half"]
    assert differences({}, old) == ["the stm that made it"]
    assert differences({**old, "version": "0"}, old) == ["stm 0"]


def test_what_only_another_command_changes_is_not_called_an_option():
    old, new = ({"segment": {"corrections": value, "direction": "both"}} for value in (True, False))
    assert differences(old, new) == ["the use of later masks"]
