"""Everything that stm reports to a person instead of a traceback.

    StmError                exit 1   failed: nothing that was asked for was completed
    |-- VideoError          exit 1   the clip cannot be read to its end
    |-- WeightsError        exit 1   the weights cannot be used
    |-- TrainingError       exit 1   training cannot start or go on
    |-- DeviceError         exit 1   the device failed, and this process can use it no more
    |-- LockedError         exit 1   another run works in the same output folder
    |-- WriteError          exit 1   an output cannot be written (encoder refuses)
    |   `-- NoRoomError     exit 1   the disk is full
    |-- UsageError          exit 2   an option, a missing input, an output that would be lost
    |   `-- MaskError       exit 2   the given mask cannot be used
    |-- ManyErrors          exit 2   several of these at once; 1 when not all of them are UsageError
    |-- PartialError        exit 3   some of what was asked for was completed
    `-- Interrupted         exit 130, or 143 when the system asked (SIGTERM)

`Terminated` is a KeyboardInterrupt, not an StmError: the signal itself, on its way to become `Interrupted`.
"""

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TypeVar

ELSEWHERE = "Choose another --output."  # a hint

Found = TypeVar("Found")


def counted(count: int, noun: str) -> str:
    """Return how many there are of something, of which there may be one."""
    return f"{count} {noun}{'s' * (count != 1)}"


def listed(words: Sequence[object], most: int) -> str:
    """Return the first words of a list, and how many more there are."""
    return ", ".join(map(str, words[:most])) + f" and {len(words) - most} more" * (len(words) > most)


class StmError(Exception):
    """Say in one line what is wrong, with which file, and what to do about it.

    Renders as ``<path>: <cause>. <hint>``; `path` and `hint` may be missing.
    """

    exit_code = 1

    def __init__(self, cause: str, *, path: str | Path | None = None, hint: str = "") -> None:
        self.cause = cause
        self.path = path
        self.hint = hint
        super().__init__(str(self))

    def __str__(self) -> str:
        line = self.cause if self.path is None else f"{self.path}: {self.cause}"
        if self.hint:
            line = f"{line if line.endswith('?') else line.rstrip('.') + '.'} {self.hint}"
        return " ".join(line.split())


class VideoError(StmError):
    """The clip cannot be read to its end."""


class WeightsError(StmError):
    """The weights cannot be used."""


class TrainingError(StmError):
    """Training cannot start or go on."""


class DeviceError(StmError):
    """The device failed, and this process can use it no more."""


class LockedError(StmError):
    """Another run works in the same output folder."""


class WriteError(StmError):
    """An output cannot be written."""


class NoRoomError(WriteError):
    """There is no room for an output, of which `size` bytes were to be written or had been."""

    def __init__(self, cause: str, *, path: str | Path, hint: str, size: int, free: int) -> None:
        self.reason, self.size, self.free = cause, size, free
        room = f"{in_bytes(free)} free" if not size else f"at least {in_bytes(size)} needed, {in_bytes(free)} free"
        super().__init__(f"{cause}: {room}", path=path, hint=hint)


class UsageError(StmError):
    """An option is wrong, an input does not exist, or an output would be lost."""

    exit_code = 2


class MaskError(UsageError):
    """The given mask cannot be used."""


class ManyErrors(StmError):
    """Several things are wrong that have nothing to do with each other; a line for each of `errors`."""

    def __init__(self, errors: Iterable[StmError]) -> None:
        self.errors = tuple(errors)
        self.exit_code = 2 if all(isinstance(error, UsageError) for error in self.errors) else 1
        super().__init__("; ".join(str(error).rstrip(".") for error in self.errors))


class PartialError(StmError):
    """Some of what was asked for was completed; `result` is what the job would have returned."""

    exit_code = 3
    result: object = None


class Interrupted(StmError):
    """The run was stopped from outside; what is finished is kept."""

    exit_code = 130

    def __init__(
        self,
        cause: str,
        *,
        path: str | Path,
        by: KeyboardInterrupt,
        hint: str = "Run the same command again to go on.",
    ) -> None:
        self.exit_code = exit_code_of(by)
        super().__init__(cause, path=path, hint=hint)


class Terminated(KeyboardInterrupt):
    """The system asked the process to end (SIGTERM)."""


def exit_code_of(stop: KeyboardInterrupt) -> int:
    """Return with what a process ends that a signal stopped."""
    return 143 if isinstance(stop, Terminated) else 130


def in_bytes(count: float) -> str:
    """Return a number of bytes as a person reads it."""
    unit, factor = next((pair for pair in (("GB", 1e9), ("MB", 1e6)) if count >= pair[1]), ("kB", 1e3))
    return f"{count / factor:.1f} {unit}"


class Faults:
    """Collect the errors of checks that do not depend on each other, to raise all of them at once."""

    def __init__(self) -> None:
        self.found: list[StmError] = []

    def look(self, check: Callable[[], Found]) -> Found | None:
        """Return what a check returns, None when it raises StmError."""
        try:
            return check()
        except ManyErrors as many:
            self.found += many.errors
        except StmError as error:
            self.found.append(error)
        return None

    def settle(self) -> None:
        """Raise what was found: nothing, the only error, or ManyErrors."""
        errors = [*{str(error): error for error in self.found}.values()]
        if len(errors) > 1:
            raise ManyErrors(errors)
        for error in errors:
            raise error
