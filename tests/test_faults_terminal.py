"""The rows of the list of faults about where a command writes to: no reader, no terminal, a narrow or plain one."""

import fcntl
import os
import pty
import struct
import subprocess
import sys
import termios

import pytest

STM = (sys.executable, "-m", "stmcli")


def run(*words, folder, **settings):
    environment = {**os.environ, "OMP_NUM_THREADS": "1", **settings.pop("env", {})}
    return subprocess.run(
        [*STM, *map(str, words)], cwd=folder, env=environment, capture_output=True, timeout=120, check=False, **settings
    )


def test_a_closed_stdout_ends_quietly(scene):
    """As in `stm weights list | true`: nobody is left to read, which is no error worth a word."""
    reader, writer = os.pipe()
    os.close(reader)
    for words in (("info", scene.clip), ("--help",), ("weights", "list"), ("evaluate", "--help")):
        done = subprocess.run([*STM, *map(str, words)], stdout=writer, stderr=subprocess.PIPE, timeout=60, check=False)
        assert done.stderr == b"", (words, done.stderr)
        assert done.returncode in (0, 1), words
    os.close(writer)


def test_without_stdout_and_stdin_a_result_is_still_made(scene, tiny_weights):
    words = ["segment", *scene.job, "-w", tiny_weights, "--device", "cpu", "-q"]
    command = f"exec {' '.join(map(str, (*STM, *words)))} <&- >&-"
    done = subprocess.run(["sh", "-c", command], stderr=subprocess.PIPE, timeout=120, check=False)
    assert (done.returncode, done.stderr) == (0, b"")
    assert (scene.output / "report.json").exists()


PLAIN = {"LC_ALL": "C", "PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0", "COLUMNS": "20"}


def test_a_terminal_that_is_narrow_and_no_utf8_gets_plain_text(scene, tiny_weights):
    scene.clip = scene.clip.rename(scene.folder / "ü 日本.mp4")
    words = ("segment", *scene.job, "-w", tiny_weights, "--device", "cpu")
    done = run(*words, folder=scene.folder, env=PLAIN)
    assert done.returncode == 0, done.stderr
    assert done.stdout.isascii()
    assert done.stderr.isascii()
    assert b"Traceback" not in done.stderr
    paths = done.stdout.decode().splitlines()  # whole lines, whatever the width
    assert paths == [str(scene.output / name) for name in ("masks", "overlay.mp4", "report.json")]


@pytest.mark.parametrize("command", [("info",), ("segment", "-m", "mask.png")])
def test_an_error_is_one_plain_line_there_too(scene, command):
    done = run(*command, "ü 日本.mp4", folder=scene.folder, env=PLAIN)
    assert done.returncode == 2
    assert done.stdout == b""
    assert done.stderr.isascii()
    assert done.stderr.count(b"\n") == 1
    assert done.stderr.startswith(b"error: ")
    assert b"no such file" in done.stderr


@pytest.mark.parametrize("words", [("weights", "list"), ("info", "clip.mp4"), ("doctor",), ("mask", "check", "mask.png")])
def test_lists_are_plain_there_too(scene, words):
    done = run(*words, folder=scene.folder, env=PLAIN)
    assert done.returncode == 0, done.stderr
    assert done.stdout
    assert done.stdout.isascii()
    assert b"Traceback" not in done.stderr


def test_a_narrow_terminal_shows_a_bar_and_then_the_result(scene, tiny_weights):
    """On a real terminal of 20 columns."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 10, 20, 0, 0))
    words = ("segment", *scene.job, "-w", tiny_weights, "--device", "cpu")
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "TERM": "xterm", "LC_ALL": "C"}
    command = [*STM, *map(str, words)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=theirs, env=environment) as process:
        os.close(theirs)
        shown = b"".join(iter(lambda: _read(ours), b""))
        out = process.stdout.read()
    os.close(ours)
    assert process.returncode == 0, shown
    assert b"Traceback" not in shown
    assert out.decode().splitlines()[-1] == str(scene.output / "report.json")


def _read(terminal):
    try:
        return os.read(terminal, 4096)
    except OSError:  # the other side is closed
        return b""
