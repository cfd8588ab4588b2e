"""Number the frames of a sequence by the names of its files, and find which are missing."""

import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from pathlib import Path

from stmcli.errors import VideoError, listed
from stmcli.video.frame import number_name

_LAST_NUMBER = re.compile(r"(\d+)(?=\D*$)")
_NUMBER = re.compile(r"[^0-9]*([0-9]{1,18})")  # of a name from its end
MOST_MISSING = 2  # times as many frames may be counted as there are files


def last_number(stem: str) -> int | None:
    """Return the last number in the name of a frame, None without one."""
    number = _NUMBER.match(stem[::-1])
    return int(number[1][::-1]) if number else None


def numbered(path: Path, files: list[Path], *, first: int | None = None) -> dict[int, Path]:
    """Return the frame number of each file, in order; raise VideoError when two have the same.

    Numbers are those in the names, moved so that they begin with `first` if it is given.
    """
    found = _numbers(path, files)
    shift = 0 if first is None else first - next(iter(found))
    return {number + shift: file for number, file in found.items()}


def _numbers(path: Path, files: list[Path]) -> dict[int, Path]:
    if not _hold_numbers(files):
        for file, following in pairwise(sorted(files, key=lambda file: file.stem)):
            if file.stem == following.stem:  # so would their masks be
                cause = f"{file.name} and {following.name} have the same name"
                raise VideoError(cause, path=path, hint="Rename or remove one.")
        return dict(enumerate(files))
    pairs = sorted((int(_LAST_NUMBER.findall(file.stem)[0]), file) for file in files)
    for (number, file), (other, following) in pairwise(pairs):
        if number == other:
            cause = f"{file.name} and {following.name} are the same frame"
            raise VideoError(cause, path=path, hint="Remove one.")
    return dict(pairs)


def whole_range(path: Path, files: Mapping[int, Path]) -> range:
    """Return all numbers from the first to the last, in the step that is usual between two.

    Raises VideoError when files are out of step, and when more are missing than there are.
    """
    numbers = list(files)
    steps = [after - before for before, after in pairwise(numbers)]
    often = Counter(steps)
    usual = max(often, key=lambda step: (often[step], -step), default=1)
    whole = range(numbers[0], numbers[-1] + 1, usual)
    odd = next((number for number in numbers if number not in whole), None)
    if odd is not None:
        whole = range(numbers[0], numbers[-1] + 1, math.gcd(*steps))
    if (numbers[-1] - numbers[0]) // whole.step < MOST_MISSING * len(numbers):  # len() takes no number of 20 digits
        return whole
    if odd is not None:
        cause = f"{files[odd].name} is out of step: most numbers are {usual} apart"
        raise VideoError(cause, path=path, hint="Remove or rename what does not belong there.")
    missing = next(number for number in whole if number not in files)
    cause = f"more frames are missing than are there, the first after {files[missing - usual].name}"
    raise VideoError(cause, path=path, hint="Complete the sequence, or move what belongs to another one elsewhere.")


def gaps(files: Mapping[int, Path], numbers: Sequence[int]) -> list[str]:
    """Say how many of the frames have no file, if any."""
    missing = [number for number in numbers if number not in files]
    return [f"frame {listed(missing, 1)} missing, of {len(numbers)} frames"] if missing else []


def refuse_gap(path: Path, files: Mapping[int, Path], numbers: Sequence[int]) -> None:
    """Raise VideoError when there is no file for one of the numbers."""
    missing = next((number for number in numbers if number not in files), None)
    if missing is None:
        return
    before = max((number for number in files if number < missing), default=None)
    place = "" if before is None else f" after {files[before].name}"
    hint = "Render or copy what is missing there, take a part without it, or go on with --on-corrupt stop or skip."
    raise VideoError(f"frame {missing} is missing{place}", path=path, hint=hint)


def _hold_numbers(files: Iterable[Path]) -> bool:
    """Return whether names differ in their last number and in nothing else."""
    names = [file.stem for file in files]
    return all(map(_LAST_NUMBER.search, names)) and len({_LAST_NUMBER.sub("", name) for name in names}) == 1


def odd_names(files: Iterable[Path]) -> tuple[str, ...]:
    """Say which names keep the numbers of the others from counting, when it is but a few."""
    names = [file.stem for file in files]
    bases = Counter(_LAST_NUMBER.sub("", name) if _LAST_NUMBER.search(name) else None for name in names)
    usual, count = bases.most_common(1)[0]
    odd = [name for name in names if not _LAST_NUMBER.search(name) or _LAST_NUMBER.sub("", name) != usual]
    if usual is None or not odd or count < 0.5 * len(names):
        return ()
    note = (
        f"not numbered like the other frames: {listed(odd, 3)}; so all are counted from 0, in the order of their names"
    )
    return (note,)


def stems(files: Mapping[int, Path], numbers: Sequence[int], *, renumbered: bool) -> dict[int, str]:
    """Return the name of each frame, also of those that are missing; new numbers are as wide as the old, or wider."""
    if renumbered and not _hold_numbers(files.values()):
        return {number: number_name(number) for number in numbers}
    first = files[numbers[0]]
    own = {} if renumbered else {number: file.stem for number, file in files.items()}
    return {number: own.get(number) or _renamed(files.get(number, first).stem, number) for number in numbers}


def _renamed(stem: str, number: int) -> str:
    return _LAST_NUMBER.sub(lambda own: f"{number:0{len(own[0])}d}", stem)
