import gc
import json
import signal
import subprocess
import sys
import threading
import time
import weakref
from contextlib import closing, suppress
from itertools import pairwise
from pathlib import Path

import pytest

from stmcli.threads import Behind, Turns, ahead
from stmcli.video import open_source


def test_decoding_runs_ahead_but_only_a_little(make_folder):
    folder = make_folder([f"{index:02d}.png" for index in range(30)])
    early, decoded = [], []

    class Watched:
        def __iter__(self):
            with open_source(folder) as source:
                for frame in source:
                    decoded.append(frame.index)
                    yield frame

    for frame in ahead(Watched()):
        time.sleep(0.005)
        early.append(len(decoded) - frame.index)
    assert 1 < max(early) <= 7


def test_a_few_items_are_done_in_each_turn():
    log, turns = [], Turns()

    def items():
        for item in range(10):
            log.append(f"read {item}")
            yield item

    with closing(ahead(items(), turns)) as ready, Behind(lambda item: log.append(f"write {item}"), turns) as behind:
        for item in ready:
            log.append(f"work {item}")
            time.sleep(0.01)
            behind.put(item)
    work = [place for place, entry in enumerate(log) if entry.startswith("work")]
    assert [log[place] for place in work] == [f"work {item}" for item in range(10)]
    assert [entry for entry in log if "read" in entry] == [f"read {item}" for item in range(10)]
    assert [entry for entry in log if "write" in entry] == [f"write {item}" for item in range(10)]
    assert [first + 1 == then for first, then in pairwise(work)] == [*[True, True, True, False] * 2, True]


def test_what_was_put_is_done_although_the_one_who_put_it_fails():
    done, may_go_on = [], threading.Event()

    def work(item):
        may_go_on.wait()
        done.append(item)

    with suppress(KeyboardInterrupt), Behind(work) as behind:
        for item in range(3):
            behind.put(item)
        may_go_on.set()
        raise KeyboardInterrupt
    assert done == [0, 1, 2]


@pytest.mark.parametrize("waiting", [1, 5])  # 5: there is no room left to say that this was all
def test_a_signal_at_the_end_waits_for_what_was_put(waiting):
    done, here = [], threading.current_thread()

    def work(item):
        time.sleep(0.1)
        if not done:
            signal.pthread_kill(here.ident, signal.SIGINT)
        time.sleep(0.1)
        done.append(item)

    def put_all():
        with Behind(work) as behind:
            for item in range(waiting):
                behind.put(item)

    with pytest.raises(KeyboardInterrupt):
        put_all()
    assert done == [*range(waiting)]


def test_a_signal_at_the_end_waits_for_the_thread_that_reads_ahead():
    ended, here = [], threading.current_thread()

    def items():
        yield 0
        time.sleep(0.1)
        signal.pthread_kill(here.ident, signal.SIGINT)
        time.sleep(0.1)
        ended.append(True)
        yield 1

    with pytest.raises(KeyboardInterrupt), closing(ahead(items())) as found:
        assert next(found) == 0
    assert ended


@pytest.mark.parametrize("where", ["reading", "working", "writing"])
def test_an_error_in_anyones_turn_is_raised_and_all_end(where):
    turns, written = Turns(), []

    def fail(place, item):
        if (place, item) == (where, 5):
            raise ValueError(place)
        return item

    def follow():
        write = lambda item: written.append(fail("writing", item))  # noqa: E731
        items = (fail("reading", item) for item in range(50))
        with closing(ahead(items, turns)) as ready, Behind(write, turns) as behind:
            for item in ready:
                behind.put(fail("working", item))

    with pytest.raises(ValueError, match=where):
        follow()
    assert written == [*range(5)]
    assert not {"decode", "write"}.intersection(thread.name for thread in threading.enumerate())


def test_a_signal_in_the_turn_of_the_threads_ends_all_of_them():
    turns, here, written = Turns(), threading.current_thread(), []

    def write(item):
        if item == 2:
            signal.pthread_kill(here.ident, signal.SIGINT)
            time.sleep(0.1)
        written.append(item)

    def follow():
        with closing(ahead(range(50), turns)) as ready, Behind(write, turns) as behind:
            for item in ready:
                behind.put(item)

    with pytest.raises(KeyboardInterrupt):
        follow()
    assert written == [*range(4)]
    assert not {"decode", "write"}.intersection(thread.name for thread in threading.enumerate())


@pytest.mark.parametrize("begins", [True, False])
def test_a_decoder_has_ended_although_a_signal_came_while_its_thread_was_being_started(monkeypatch, begins):
    start, read = threading.Thread.start, []

    def interrupted(thread):
        if begins:
            start(thread)
        raise KeyboardInterrupt

    monkeypatch.setattr("stmcli.threads._Thread.start", interrupted)
    monkeypatch.setattr("stmcli.threads.SOON", 0.5)
    with suppress(KeyboardInterrupt):
        next(ahead(map(read.append, range(100))))
    assert "decode" not in [thread.name for thread in threading.enumerate()]
    assert not read


@pytest.mark.parametrize("in_turn", [False, True])
def test_a_signal_at_any_step_of_the_main_thread_ends_all_of_them(in_turn):
    """One step too early or too late it would be left waiting for a lock that nobody gives back."""
    script = Path(__file__).with_name("anywhere.py")
    command = [sys.executable, str(script), str(int(in_turn))]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)
    found = json.loads(done.stdout)
    assert found["steps"] > 100
    assert not found["wrong"], done.stderr


@pytest.mark.parametrize("where", ["reading", "writing"])
def test_an_error_does_not_keep_alive_what_its_traceback_saw(where):
    """Else the memory of a network would stay on the GPU, beside that of the next clip, until garbage is collected."""

    class Memory:
        pass

    def follow(_memory):
        def fail(item):
            if item == 2:
                raise ValueError(where)
            return item

        read, write = (fail, str) if where == "reading" else (int, fail)
        with closing(ahead(map(read, range(10)))) as ready, Behind(write) as behind:
            for item in ready:
                behind.put(item)

    gc.disable()
    try:
        memory = Memory()
        seen = weakref.ref(memory)
        with suppress(ValueError):
            follow(memory)
        del memory
        assert seen() is None
    finally:
        gc.enable()
