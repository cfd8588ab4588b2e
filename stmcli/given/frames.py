"""Which mask file belongs to which frame of a clip."""

from stmcli.errors import UsageError, counted
from stmcli.given.words import MaskFile
from stmcli.masks import Warn
from stmcli.video import Source, first_frame_from, frame_times
from stmcli.video.frame import no_such_frame


def place(files: list[MaskFile], source: Source, warn: Warn) -> dict[int, MaskFile]:
    """Return the file of each frame that is in use, in the order of the frames."""
    if not files:
        raise UsageError("no mask given", hint="Give one with --mask.")
    whole, chosen = _numbers(source, files)
    placed: dict[int, MaskFile] = {}
    left_out, replaced = 0, 0
    for file in files:
        number = _frame_of(file, source, chosen)
        if file.in_folder and number in whole and number not in chosen:
            left_out += 1
            continue
        _require_chosen(file, number, source, whole, chosen)
        if number in placed and not _takes_place(file, placed[number]):
            cause = f"a second mask for frame {number}, beside {placed[number].path}"
            bare = None in (file.frame, placed[number].frame)
            hint = "A mask without FRAME: is that of the first frame." if bare else "Give one mask for each frame."
            raise UsageError(cause, path=file.path, hint=hint)
        replaced += number in placed
        placed[number] = file
    if replaced:
        warn(f"{counted(replaced, 'mask')} replaced by what was given later for the same frame")
    if left_out:
        warn(f"{counted(left_out, 'mask')} of frames that were not chosen left out")
    if not placed:
        raise UsageError("no mask of a chosen frame", path=files[0].path.parent, hint=_has_frames(chosen))
    return dict(sorted(placed.items()))


def _takes_place(file: MaskFile, before: MaskFile) -> bool:
    """Tell whether a mask that is given later replaces another of the same frame: folders may hold corrections."""
    return (file.in_folder or before.in_folder) and file.path.parent != before.path.parent


def _numbers(source: Source, files: list[MaskFile]) -> tuple[range, range]:
    """Return the numbers of all frames of a source, and of those that were chosen. Raises UsageError without any."""
    info = source.info
    if info.is_video:
        count = info.frames
        if count is None:  # only counting tells, and is only worth it for a mask of a later frame
            late = any(file.in_folder or file.frame for file in files)
            count = len(frame_times(info.path)) if late else info.first_chosen + 1 - info.first_number
        whole = range(info.first_number, info.first_number + count)
    else:
        numbers = list(source.times())
        step = numbers[1] - numbers[0] if len(numbers) > 1 else 1
        whole = range(numbers[0], numbers[-1] + 1, step)
    stop = whole.stop if info.end is None else min(info.end + 1, whole.stop)
    chosen = range(info.first_chosen, stop, whole.step)
    if not chosen:
        first, last = whole.start, whole.stop - 1
        raise no_such_frame(info.path, info.first_chosen, first=first, last=last, count=len(whole))
    return whole, chosen


def _frame_of(file: MaskFile, source: Source, chosen: range) -> int:
    if not file.in_folder:
        if file.frame is None:
            return chosen[0]
        return first_frame_from(
            source.info.path, file.frame, first_number=source.info.first_number, rate=source.info.rate
        )
    stem = file.path.stem
    frame = source.number_of(stem)
    if frame is None and not (stem.isascii() and stem.isdecimal()):
        raise UsageError("is not named after a frame", path=file.path, hint="Name it <frame>.png")
    return int(stem) if frame is None else frame


def _require_chosen(file: MaskFile, number: int, source: Source, whole: range, chosen: range) -> None:
    if number not in whole:
        cause = f"is a mask of frame {number}, which {source.info.path.name} does not have"
        raise UsageError(cause, path=file.path, hint=_has_frames(whole))
    if number not in chosen:
        cause = f"is a mask of frame {number}, which was not chosen"
        raise UsageError(cause, path=file.path, hint=_has_frames(chosen))


def _has_frames(numbers: range) -> str:
    every = f" in steps of {numbers.step}" if numbers.step > 1 else ""
    return f"Its frame must be one of {numbers[0]} to {numbers[-1]}{every}."
