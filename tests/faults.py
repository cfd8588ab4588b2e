"""The scene that every row of the list of faults spoils, and what must hold when a command meets the fault.

A row is `"name of the fault": (spoil, exit code, pattern of the one line)`. The rows of `stm segment` are, by what is
spoilt, in `test_faults_clip`, `test_faults_odd` (no fault, but said), `test_faults_sources` (what points elsewhere),
`test_faults_mask`, `test_faults_weights`, `test_faults_output`, `test_faults_options` and `test_faults_device`; those
of other commands in `test_faults_commands`. What happens during a run is in `test_faults_room` (a full disk),
`test_faults_stop` (signals, two runs) and `test_faults_terminal`.
"""

import os
import re
import signal
import socket
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

LINE = re.compile(r"error: .+: .+[.?] .+")  # the path, the cause, and what to do


class Scene:
    """A good clip and mask in the test's folder, for a fault to spoil."""

    def __init__(self, folder: Path, make_clip: Callable[..., Path], make_mask: Callable[..., Path]) -> None:
        self.folder, self.make_clip = folder, make_clip
        self.clip: Path | str = make_clip(frames=3)
        self.mask: Path | str = make_mask()
        self.words: list[object] = []
        self.output = folder / "out"
        self.weights: Path | None = None

    def put(self, name: str, content: bytes) -> Path:
        (self.folder / name).write_bytes(content)
        return self.folder / name

    def special(self, kind: str, name: str) -> Path:
        """Return the path of what is there and no file: a folder, a pipe, a device, a socket."""
        path = Path("/dev/zero") if kind == "device" else self.folder / name
        if kind == "folder":
            path.mkdir()
        elif kind == "pipe":
            os.mkfifo(path)
        elif kind == "socket":
            folder = os.open(self.folder, os.O_RDONLY)  # a socket's own name may have 107 bytes
            with socket.socket(socket.AF_UNIX) as server:
                server.bind(f"/proc/self/fd/{folder}/{name}")
            os.close(folder)
        return path

    @property
    def job(self) -> tuple[object, ...]:
        """Return the words of `stm segment`."""
        return (self.clip, "-m", self.mask, "-o", self.output, *self.words)


@contextmanager
def unless_it_hangs(seconds: int = 8) -> Iterator[None]:
    """Fail the test when the block waits for what never comes, as the other end of a pipe."""

    def give_up(*_: object) -> None:
        pytest.fail("it hangs")

    before = signal.signal(signal.SIGALRM, give_up)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def everything(folder: Path) -> dict[str, object]:
    """Return what is in a folder, and what is in its files."""
    files = {p: p.read_bytes() if p.is_file() else p.is_dir() for p in folder.rglob("*")}
    return {str(p): content for p, content in files.items() if p.name != "cache"}


def forbid_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fail the test when the network is loaded."""
    monkeypatch.setattr("stmcli.pipeline.load_model", lambda _: pytest.fail("the network was loaded first"))


def check_refusal(result: Any, code: int, message: str) -> None:
    """See that a command ended with a code and one line of the usual form, and without a result."""
    lines = result.stderr.splitlines()
    assert (result.exit_code, len(lines), result.stdout) == (code, 1, ""), (result.stderr, result.exception)
    assert LINE.fullmatch(lines[0]), lines[0]
    assert re.search(message, lines[0]), lines[0]


def check_fault(scene: Scene, row: tuple[Callable[[Scene], None], int, str], run: Callable[[], Any]) -> None:
    """See that a spoilt scene is refused as the row says, and that everything stays as it was."""
    spoil, code, message = row
    spoil(scene)
    before = everything(scene.folder)
    with unless_it_hangs():
        result = run()
    check_refusal(result, code, message)
    assert everything(scene.folder) == before


@contextmanager
def mounted(folder: Path, *, size: str = "1m", readonly: bool = False) -> Iterator[Path]:
    """Mount a small file system in memory, or skip the test where that is not allowed."""
    folder.mkdir()
    options = f"size={size},{'ro' if readonly else 'rw'}"
    command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)]
    if os.geteuid() != 0 or subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("only root may mount a file system, and not everywhere")
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)
