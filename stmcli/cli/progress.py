"""How far a job is: a bar on a terminal, plain lines elsewhere."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from stmcli.cli.app import messages, say

PLAIN_EVERY = 5.0  # seconds between progress lines where there is no terminal


class _Rate(ProgressColumn):
    """Frames per second."""

    def render(self, task: Task) -> Text:
        return Text(f"{task.finished_speed or task.speed or 0:.1f} fps")


class Show:
    """A progress bar on a terminal, a plain line every few seconds elsewhere."""

    def __init__(self, name: str, bar: Progress | None) -> None:
        self.name = self.text = name
        self.bar = bar
        self.total: int | None = None
        self.done = 0
        self.began = self.last = time.monotonic()
        self.task = bar.add_task(name, total=None) if bar else None

    def start(self, total: int | None, device: str) -> None:
        """Say how many frames there are, and where the network runs or what else the masks come from."""
        self.total, self.began = total, time.monotonic()
        self.text = f"{self.name} ({device})"
        if self.bar is not None and self.task is not None:
            self.bar.update(self.task, total=total, description=self.text)
        else:
            say(self.text)

    def advance(self) -> None:
        """Count one frame."""
        self.done += 1
        if self.bar is not None and self.task is not None:
            self.bar.advance(self.task)
            return
        rate = self.done / max(1e-9, time.monotonic() - self.began)
        left = f", {(self.total - self.done) / rate:.0f} s left" if self.total else ""
        self._line(f"{self.name}: {self.done}/{self.total or '?'} frames, {rate:.1f} fps{left}")

    def adapting(self, step: int, steps: int) -> None:
        """Show a step of training on the given frame."""
        text = f"{self.name}: adapting {step}/{steps}"
        if self.bar is not None and self.task is not None:
            self.bar.update(self.task, description=text if step < steps else self.text)
        else:
            self._line(text)

    def training(self, now: Any) -> None:
        """Show a training step: loss, IoU, J, time left."""
        left = now.seconds * (1 / max(now.done, 1e-6) - 1)
        score = "-" if now.score is None else f"{100 * now.score:.1f}"
        text = f"step {now.step} loss {now.loss:.3f} IoU {now.iou:.3f} J {score}"
        if self.bar is not None and self.task is not None:
            self.bar.update(self.task, total=100, completed=100 * now.done, description=text)
        else:
            self._line(f"{text} {100 * now.done:.1f}% {left / 60:.0f} min left")

    def _line(self, text: str) -> None:
        if time.monotonic() - self.last >= PLAIN_EVERY:
            self.last = time.monotonic()
            say(text)


class Silent(Show):
    """Say nothing."""

    def start(self, total: int | None, device: str) -> None:
        """Say nothing."""

    def _line(self, text: str) -> None:
        pass


@contextmanager
def show_progress(name: str, *, quiet: bool) -> Iterator[Show]:
    """Show how far a job is, for as long as it runs."""
    if quiet:
        yield Silent(name, None)
    elif not messages.is_terminal:
        yield Show(name, None)
    else:
        columns = (
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            _Rate(),
            TimeRemainingColumn(),
        )
        with Progress(*columns, console=messages, transient=True) as bar:
            yield Show(name, bar)
