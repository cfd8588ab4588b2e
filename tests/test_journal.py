import resource

import pytest

from stmcli.errors import WriteError
from stmcli.journal import Journal, read_records


def test_the_last_line_of_a_clip_counts(tmp_path):
    journal = Journal(tmp_path / "batch.jsonl")
    for status, clip in (("failed", "a"), ("ok", "b"), ("ok", "a")):
        journal.add({"clip": clip, "status": status})
    assert {clip: record["status"] for clip, record in journal.latest().items()} == {"a": "ok", "b": "ok"}
    assert len(list(read_records(tmp_path / "batch.jsonl"))) == 3


@pytest.mark.parametrize("cut", range(1, 30, 4))
def test_a_torn_line_costs_nothing_but_itself(tmp_path, cut):
    path = tmp_path / "batch.jsonl"
    for clip in "ab":
        Journal(path).add({"clip": clip, "note": "ä\udcff\n"})
    whole = path.read_bytes()
    path.write_bytes(whole[:-cut])
    again = Journal(path)
    assert set(again.latest()) == ({"a", "b"} if cut == 1 else {"a"})  # without its line end it is still whole
    again.add({"clip": "c"})
    assert set(again.latest()) - {"b"} == {"a", "c"}
    assert again.latest()["a"]["note"] == "ä\udcff\n"


def test_a_journal_that_is_not_there_is_empty(tmp_path):
    assert Journal(tmp_path / "none" / "batch.jsonl").latest() == {}


def test_a_journal_that_cannot_be_written_says_so(tmp_path):
    with pytest.raises(WriteError, match="cannot be written"):
        Journal(tmp_path / "none" / "batch.jsonl").add({})


def test_a_line_that_a_full_disk_has_torn_costs_nothing_but_itself(tmp_path):
    journal = Journal(tmp_path / "batch.jsonl")
    journal.add({"clip": "a"})
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (journal.path.stat().st_size + 9, hard))
    try:
        with pytest.raises(WriteError, match="no file may be so large"):
            journal.add({"clip": "b"})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    journal.add({"clip": "c"})
    assert set(journal.latest()) == {"a", "c"}
