"""The rows of the list of faults about where a command writes to: no reader, no terminal, a narrow or plain one."""

import fcntl
import io
import os
import pty
import re
import shlex
import struct
import subprocess
import sys
import termios

import numpy as np
import pytest
from rich.console import Console
from test_evaluate import write_clip

from stmcli.cli import progress

STM = (sys.executable, "-m", "stmcli")


PLAIN = {"LC_ALL": "C", "PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0", "COLUMNS": "20"}


@pytest.fixture
def words(scene):
    """The words of a command that shows its progress, and starts sooner than one with a network."""
    write_clip(scene.folder / "masks", np.pad(np.ones((3, 9, 9), np.uint8), ((0, 0), (0, 39), (0, 55))))
    return ["export", scene.folder / "masks", "--video", scene.clip, "--to", "overlay", "-o", scene.output]


def run(*words, folder):
    command = [*STM, *map(str, words)]
    return subprocess.run(command, cwd=folder, env=os.environ | PLAIN, capture_output=True, timeout=300, check=False)


@pytest.mark.parametrize(
    "words", [("info", "clip.mp4"), ("--help",), ("mask", "check", "mask.png"), ("weights", "path")]
)
def test_a_closed_stdout_ends_quietly(scene, words):
    """As in `stm info clip.mp4 | true`: nobody is left to read, which is no error worth a word."""
    reader, writer = os.pipe()
    os.close(reader)
    command = [*STM, *words]
    done = subprocess.run(command, cwd=scene.folder, stdout=writer, stderr=subprocess.PIPE, timeout=300, check=False)
    os.close(writer)
    assert (done.returncode, done.stderr) == (0, b"")


def test_a_reader_of_messages_that_leaves_does_not_end_the_work(scene, words):
    """As in `stm segment ... 2>&1 | tee log` when tee is gone."""
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run([*STM, *map(str, words)], stdout=writer, stderr=writer, timeout=300, check=False)
    os.close(writer)
    assert done.returncode == 0
    assert (scene.output / "overlay.mp4").exists()


def test_a_window_that_is_closed_does_not_end_the_work(scene, words):
    """As in `stm segment ... & disown` and a window closed since."""
    ours, theirs = pty.openpty()
    environment = os.environ | {"TERM": "xterm"}
    with subprocess.Popen([*STM, *map(str, words)], stdout=theirs, stderr=theirs, env=environment) as process:
        os.close(theirs)
        assert os.read(ours, 1)  # the bar
        os.close(ours)
    assert process.returncode == 0
    assert (scene.output / "overlay.mp4").exists()


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full")
@pytest.mark.parametrize("words", [("--help",), ("weights", "path"), ("info", "clip.mp4")])
def test_a_full_stdout_is_one_line(scene, words):
    with open("/dev/full", "w") as full:
        result = subprocess.run([*STM, *words], cwd=scene.folder, stdout=full, stderr=subprocess.PIPE, check=False)
    assert (result.returncode, result.stderr) == (1, b"error: cannot print: No space left on device\n")


def test_without_stdin_and_stdout_a_result_is_still_made(scene, words):
    command = f"exec {shlex.join(map(str, (*STM, *words)))} -q <&- >&-"
    done = subprocess.run(["sh", "-c", command], stderr=subprocess.PIPE, timeout=300, check=False)
    assert (done.returncode, done.stderr) == (0, b"")
    assert (scene.output / "overlay.mp4").exists()


def test_a_terminal_that_is_narrow_and_no_utf8_gets_plain_text(scene, words):
    clip = scene.clip.rename(scene.folder / "ü 日本.mp4")
    done = run(*(clip if word == scene.clip else word for word in words), folder=scene.folder)
    assert done.returncode == 0, done.stderr
    assert done.stdout.isascii()
    assert done.stderr.isascii()
    assert done.stdout.decode().splitlines() == [str(scene.output / "overlay.mp4")]  # whole, whatever the width


@pytest.mark.parametrize("command", ["info", "frame"])
def test_an_error_is_one_plain_line_there_too(scene, command):
    done = run(command, "ü 日本.mp4", folder=scene.folder)
    assert (done.returncode, done.stdout, done.stderr.count(b"\n")) == (2, b"", 1), done.stderr
    assert done.stderr.isascii()
    assert re.match(rb"error: .*: no such file or folder\. ", done.stderr)


@pytest.mark.parametrize("words", [("info", "clip.mp4"), ("mask", "check", "mask.png"), ("segment", "--help")])
def test_lists_are_plain_there_too(scene, words):
    done = run(*words, folder=scene.folder)
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout
    assert done.stdout.isascii()


def test_a_narrow_terminal_shows_a_bar_and_then_the_result(scene, words):
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 10, 20, 0, 0))
    command = [*STM, *map(str, words)]
    environment = os.environ | {"TERM": "xterm", "LC_ALL": "C"}
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=theirs, env=environment) as process:
        os.close(theirs)
        shown = b"".join(iter(lambda: read(ours), b""))
        out = process.stdout.read()
    os.close(ours)
    assert process.returncode == 0, shown
    assert b"\x1b[" in shown  # the bar
    assert b"Traceback" not in shown
    assert out.decode() == f"{scene.output / 'overlay.mp4'}\n"


@pytest.mark.parametrize(("width", "name"), [(40, "a long …"), (80, "a long name.mov (cpu, int8)")])
def test_a_bar_and_then_a_name_give_way_to_the_numbers(width, name, monkeypatch):
    narrow = Console(file=io.StringIO(), force_terminal=True, width=width, color_system=None)
    monkeypatch.setattr(progress, "messages", narrow)
    with progress.show_progress("a long name.mov", quiet=False) as show:
        show.start(121, "cpu, int8")
        for _ in range(118):
            show.advance()
        show.bar.refresh()
    shown = re.split(r"[\r\n]|\x1b\[\S+?[a-zA-Z]", narrow.file.getvalue())
    last = [line for line in shown if line.strip()][-1]
    assert re.fullmatch(rf"{re.escape(name)} .+ 118/121 [\d.]+ fps \d:\d\d:\d\d *", last), last


def read(terminal):
    try:
        return os.read(terminal, 4096)
    except OSError:  # the other side is closed
        return b""
