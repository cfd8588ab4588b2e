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
    TaskID,
    TextColumn,
    TimeRemainingColumn,
)
from rich.table import Column
from rich.text import Text

from stmcli.cli.app import say
from stmcli.cli.console import messages
from stmcli.listeners import Listener

PLAIN_EVERY = 5.0  # seconds between progress lines where there is no terminal
FRAMES = "frames"  # what is counted, but for other units
NUMBERS = 32  # columns of a terminal for how many, how fast and how long; a name takes no more than the others


class _Rate(ProgressColumn):
    """Frames per second; other things pass at another rate."""

    def render(self, task: Task) -> Text:
        rate = task.finished_speed or task.speed or 0
        return Text(f"{rate:.1f} fps" if task.fields["unit"] == FRAMES else "")


class Show:
    """A progress bar on a terminal, a plain line every few seconds elsewhere."""

    def __init__(self, name: str, bar: Progress | None, unit: str = FRAMES) -> None:
        self.name = self.text = name
        self.unit = unit
        self.bar = bar
        self.total: int | None = None
        self.done = 0
        self.began = self.last = time.monotonic()
        self.task = bar.add_task(name, total=None, unit=unit) if bar else None

    @property
    def listener(self) -> Listener:
        """What a job calls to be shown."""
        return Listener(self.start, lambda _: self.advance(), self.adapting)

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
        speed = f", {rate:.1f} fps" if self.unit == FRAMES else ""
        self._line(f"{self.name}: {self.done}/{self.total or '?'} {self.unit}{speed}{left}")

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


class ShowBatch:
    """How far a batch is, and each clip at work in it: bars on a terminal, a plain line every few seconds elsewhere."""

    def __init__(self, wanted: int, bar: Progress | None, *, quiet: bool) -> None:
        self.wanted, self.bar, self.quiet = wanted, bar, quiet
        self.ended = self.failed = 0
        self.began = self.last = time.monotonic()
        self.at_work: dict[str, Any] = {}  # by clip: what was heard last
        self.tasks: dict[str, TaskID] = {}
        self.whole = bar.add_task("clips", total=wanted, unit="clips") if bar else None

    def hear(self, now: Any) -> None:
        """Show how far a clip is."""
        self.at_work[now.name] = now
        if self.bar is None or self.whole is None:
            return self._line()
        self.bar.update(self.whole, completed=self._done())
        if now.name in self.tasks:
            self.bar.update(self.tasks[now.name], completed=now.done, total=now.total)
        else:
            text = f"{now.name} ({now.device})"
            self.tasks[now.name] = self.bar.add_task(text, completed=now.done, total=now.total, unit=FRAMES)

    def end(self, name: str, *, failed: bool) -> None:
        """Count a clip that has ended."""
        self.ended += 1
        self.failed += failed
        self.at_work.pop(name, None)
        if self.bar is None or self.whole is None:
            return self._line()
        self.bar.update(self.whole, completed=self._done(), description=f"clips, {self.failed} failed")
        if name in self.tasks:
            self.bar.remove_task(self.tasks.pop(name))

    def _done(self) -> float:
        """Return how many clips are done, and parts of those at work."""
        return self.ended + sum(now.done / now.total for now in self.at_work.values() if now.total)

    def _line(self) -> None:
        if self.quiet or time.monotonic() - self.last < PLAIN_EVERY:
            return
        self.last = time.monotonic()
        clips = ", ".join(f"{now.name} {now.done}/{now.total or '?'}" for now in self.at_work.values())
        done = self._done()
        left = (self.last - self.began) * (self.wanted / done - 1) if done else None
        say(
            f"{self.ended}/{self.wanted} clips, {self.failed} failed"
            + (f", {left:.0f} s left" if left is not None else "")
            + (f"; {clips}" if clips else "")
        )


@contextmanager
def show_progress(name: str, *, quiet: bool, unit: str = FRAMES) -> Iterator[Show]:
    """Show how far a job is, for as long as it runs; `unit` is what it counts."""
    with _bars(quiet=quiet) as bar:
        yield Silent(name, None) if quiet else Show(name, bar, unit)


@contextmanager
def show_batch(wanted: int, *, quiet: bool) -> Iterator[ShowBatch]:
    """Show how far a batch is, for as long as it runs."""
    with _bars(quiet=quiet) as bar:
        yield ShowBatch(wanted, bar, quiet=quiet)


@contextmanager
def _bars(*, quiet: bool) -> Iterator[Progress | None]:
    """Give the bars of a terminal, None where there is none."""
    if quiet or not messages.is_terminal:
        yield None
        return
    name, whole = Column(no_wrap=True, max_width=max(1, messages.width - NUMBERS)), Column(no_wrap=True)
    columns = (
        TextColumn("{task.description}", markup=False, table_column=name),
        BarColumn(),
        MofNCompleteColumn(table_column=whole),
        _Rate(table_column=whole),
        TimeRemainingColumn(table_column=whole),
    )
    with Progress(*columns, console=messages, transient=True) as bar:
        yield bar
