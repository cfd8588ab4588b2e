"""Everything that stm reports to a person instead of a traceback.

    StmError                exit 1   failed: nothing that was asked for was completed
    |-- VideoError          exit 1   the clip cannot be read to its end
    |-- WeightsError        exit 1   the weights cannot be used
    |-- TrainingError       exit 1   training cannot start or go on
    |-- LockedError         exit 1   another run works in the same output folder
    |-- WriteError          exit 1   an output cannot be written (disk full, encoder refuses)
    |-- UsageError          exit 2   an option, a missing input, an output that would be lost
    |   `-- MaskError       exit 2   the given mask cannot be used
    |-- PartialError        exit 3   some of what was asked for was completed
    `-- Interrupted         exit 130, or 143 when the system asked (SIGTERM)

`Terminated` is a KeyboardInterrupt, not an StmError: the signal itself, on its way to become `Interrupted`.
"""

from pathlib import Path


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
            line = f"{line.rstrip('.')}. {self.hint}"
        return " ".join(line.split())


class VideoError(StmError):
    """The clip cannot be read to its end."""


class WeightsError(StmError):
    """The weights cannot be used."""


class TrainingError(StmError):
    """Training cannot start or go on."""


class LockedError(StmError):
    """Another run works in the same output folder."""


class WriteError(StmError):
    """An output cannot be written."""


class UsageError(StmError):
    """An option is wrong, an input does not exist, or an output would be lost."""

    exit_code = 2


class MaskError(UsageError):
    """The given mask cannot be used."""


class PartialError(StmError):
    """Some of what was asked for was completed; `result` is what the job would have returned."""

    exit_code = 3
    result: object = None


class Interrupted(StmError):
    """The run was stopped from outside; what is finished is kept."""

    exit_code = 130

    def __init__(self, cause: str, *, path: str | Path, by: KeyboardInterrupt) -> None:
        self.exit_code = 143 if isinstance(by, Terminated) else 130
        super().__init__(cause, path=path, hint="Run the same command again to go on.")


class Terminated(KeyboardInterrupt):
    """The system asked the process to end (SIGTERM)."""
