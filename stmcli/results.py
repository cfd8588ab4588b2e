"""The folder that a run writes into: whose result is there, who is at work in it, what may be replaced."""

import fcntl
import os
import re
import shutil
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from io import FileIO
from pathlib import Path

from stmcli.datasets import FORMATS, DavisWriter
from stmcli.errors import ELSEWHERE, LockedError, PartialError, UsageError, counted, listed
from stmcli.files import can_be, nearest_existing, writing
from stmcli.journal import SUMMARY
from stmcli.masks import MASKS, SOFT
from stmcli.options import SOFT_FILMS, SOFT_STILLS
from stmcli.report import is_finished, read_report
from stmcli.signals import held_back
from stmcli.video import Source, last_number, list_frames, would_be_frame

REPORT, PAGE, INDEX, LOCK = "report.json", "report.html", "index.html", ".lock"
CORRECTIONS = "corrections"  # a folder of masks that stm review has saved
STATE = ".state"  # what an unfinished run needs to go on
DATASET = DavisWriter.file  # the one output that is a tree of folders
FOLDERS = re.compile(  # that outputs are in
    rf"{MASKS}|{SOFT}|{SOFT}/\d+|({'|'.join(SOFT_STILLS)})(-\d+)?|{DATASET}|\{STATE}|\{STATE}/.+"
)
AT_ONCE = (REPORT, PAGE, SUMMARY, INDEX, *(kind.file for kind in FORMATS.values()))  # `.x.part` before
UNFINISHED = re.compile(  # beside these folders
    rf"({'|'.join(('overlay', *SOFT_FILMS))})(-\d+)?\.part\.\w+|\.({'|'.join(map(re.escape, AT_ONCE))})\.part"
)


def source_files(video: Path) -> list[Path]:
    """Return the files that a source is read from: a video, or the frames of a folder or pattern."""
    return [video] if video.is_file() else list_frames(video)


def refuse_input(path: Path, *inputs: Path) -> None:
    """Raise UsageError when a file to be written is one of the inputs, or a link to one."""
    if path.exists() and any(file.exists() and path.samefile(file) for file in inputs):
        raise UsageError("is an input of this job", path=path, hint=ELSEWHERE)


def require_png(path: Path) -> None:
    """Raise UsageError for a picture that is not called a PNG, which is what is written."""
    if path.suffix.lower() != ".png" and not path.is_dir():
        raise UsageError("masks and frames are written as PNG alone", path=path, hint=f"Call it {path.stem}.png.")


def check_picture(path: Path, *inputs: Path, overwrite: bool) -> None:
    """Raise UsageError when a picture cannot be written, or something would be lost."""
    if not path.parent.is_dir():
        raise UsageError("no such folder", path=path.parent, hint="Create it, or choose another --output.")
    if path.is_dir():
        raise UsageError("is a folder", path=path, hint="Give the name of a PNG.")
    for file in inputs:
        if would_be_frame(path, file):
            raise UsageError("would become a frame of the source", path=path, hint=ELSEWHERE)
        refuse_input(path, *source_files(file))
    if path.exists() and not overwrite:
        raise UsageError("exists already", path=path, hint="Replace it with -y.")


def check_folder(out: Path, names: Iterable[str], *inputs: Path) -> None:
    """Raise UsageError when `out` is no folder, or a result there would destroy an input.

    `names` and masks are written, what an earlier result names is removed; where that is finished, there may be nothing
    to write. An input is a file that is read, or the folder or pattern of a clip's frames.
    """
    if not can_be(out) or not is_finished(read_report(out / REPORT)):
        require_writable(out)
    check_outputs([out / name for name in (MASKS, *names, *output_names(out), REPORT, PAGE)], *inputs)


def require_writable(out: Path) -> None:
    """Raise UsageError when `out` is no folder, may not be written, or cannot be created where it would be."""
    if not can_be(out):
        raise UsageError("no folder can have this name", path=out, hint=ELSEWHERE)
    if out.exists() and not out.is_dir():
        raise UsageError("is a file, not a folder", path=out, hint=ELSEWHERE)
    if is_writable(out):
        return
    home = nearest_existing(out)
    if not home.is_dir():
        reason = "Not a directory"
    else:
        reason = "Read-only file system" if os.statvfs(home).f_flag & os.ST_RDONLY else "Permission denied"
    raise UsageError(f"cannot be written ({reason})", path=out, hint=ELSEWHERE)


def is_writable(out: Path) -> bool:
    """Tell whether something can be put into a folder, or the folder created."""
    home = nearest_existing(out)
    return home.is_dir() and os.access(home, os.W_OK | os.X_OK)


def check_outputs(outputs: Sequence[Path], *inputs: Path) -> None:
    """Raise UsageError when a file or folder cannot be written or replaced, or an input is it or lies in it."""
    files = [file for path in inputs for file in source_files(path)]
    homes = {(file.resolve() if file.is_symlink() else file).parent: file for file in files}
    places = {_place(file) for file in files if file.exists()}
    for output in outputs:
        _refuse_kind(output)
        refuse_input(output, *files)
    for folder in filter(Path.is_dir, outputs):
        for home, file in homes.items():
            if any(parent.samefile(folder) for parent in (home, *home.absolute().parents)):
                raise UsageError(f"is where the {folder.name} would go", path=file, hint=ELSEWHERE)
        for image in folder.glob("*.png"):
            if image.exists() and _place(image) in places:
                raise UsageError("is an input of this job", path=image, hint=ELSEWHERE)


def _place(file: Path) -> tuple[int, int]:
    """Return what all names of a file have in common."""
    facts = file.stat()
    return facts.st_dev, facts.st_ino


def refuse_corrupt(source: Source, video: Path, out: Path, result: object) -> None:
    """Raise PartialError with the `result` when frames of a clip could not be decoded or are missing."""
    if not source.is_whole:
        error = PartialError(_loss(source), path=video, hint=f"The others are in {out}.")
        error.result = result
        raise error


def _loss(source: Source) -> str:
    """Name the frames that could not be decoded, and the first that is missing."""
    count, causes = len(source.corrupt_frames), []
    if count:
        causes.append(f"{counted(count, 'frame')} could not be read ({listed(source.corrupt_frames, 10)})")
    if source.missing_from is not None:
        causes.append(f"the file was cut short, the clip is missing from frame {source.missing_from} on")
    return "; ".join(causes)


def _refuse_kind(path: Path) -> None:
    """Raise UsageError when a folder is in the place of a file, which has a suffix, or the other way round."""
    if path.is_dir() and path.suffix:
        raise UsageError("is a folder", path=path, hint=ELSEWHERE)
    if path.exists() and not path.is_dir() and not path.suffix:
        raise UsageError("is a file, not a folder", path=path, hint=ELSEWHERE)


@contextmanager
def lock(out: Path) -> Iterator[None]:
    """Create the folder, keep a second run out of it, and remove it again, with those above, if nothing came into it.

    The system drops the lock of a process that dies. Raises UsageError, LockedError.
    """
    file, above = None, list[Path]()
    try:
        with held_back():  # a signal between making the file and knowing it would leave it there
            file = _locked(out, above)
        with writing(out):
            file.truncate(0)
            file.write(str(os.getpid()).encode())
        _sweep(out)
        yield
    finally:
        if file:
            with file:
                (out / LOCK).unlink(missing_ok=True)
                for folder in (*_folders(out), out, *above):
                    with suppress(OSError):  # not empty
                        folder.rmdir()


def _locked(out: Path, above: list[Path]) -> FileIO:
    """Return the locked file of a folder that is made, with those `above` it, which are listed, if it is not there."""
    try:
        above += [folder for folder in out.absolute().parents if not folder.exists()]
        out.mkdir(parents=True, exist_ok=True)
        file = (out / LOCK).open("ab+", buffering=0)  # closing it writes nothing, which a full disk would refuse
    except OSError as error:
        raise UsageError(f"cannot be written ({error.strerror})", path=out, hint=ELSEWHERE) from None
    with ExitStack() as unless_locked:
        unless_locked.enter_context(file)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            owner = file.read().decode(errors="replace")
            raise LockedError(f"in use by process {owner}", path=out, hint="Wait for it, or stop it.") from None
        except OSError as error:  # some file systems of a network know no locks
            (out / LOCK).unlink(missing_ok=True)
            raise UsageError(f"cannot be locked ({error.strerror})", path=out, hint=ELSEWHERE) from None
        if not _is_still(out / LOCK, file.fileno()):  # the run before removed it between our two steps
            raise LockedError("another run has just ended here", path=out, hint="Run the same command again.")
        unless_locked.pop_all()
    return file


def _is_still(path: Path, opened: int) -> bool:
    """Tell whether an open file is still the one with that name."""
    try:
        return os.path.samestat(os.fstat(opened), path.stat())
    except FileNotFoundError:
        return False


def clear(outputs: Iterable[Path], is_frame: Callable[[str], bool], *, keep: Collection[str] = ()) -> None:
    """Remove outputs of an earlier result, but not the images of frames with the names to `keep`.

    Folders of images may hold what is not ours, the name of no frame, and that stays.
    """
    for path in outputs:
        if path.is_dir() and path.name == DATASET:
            shutil.rmtree(path)
        elif path.is_dir():
            for image in path.glob("*.png"):
                if is_frame(image.stem) and image.stem not in keep:
                    image.unlink()
        else:
            path.unlink(missing_ok=True)


def frame_names(out: Path, source: Source) -> Callable[[str], bool]:
    """Return what tells whether a name is that of a frame of `source`, or of another whose result is in `out`."""
    report = read_report(out / REPORT)
    numbers = {frame["frame"] for frame in report.get("frames", [])}
    known = source.info.is_video or numbers <= source.times().keys()
    if known and report.get("source", {}).get("path") == str(source.info.path):
        return lambda name: source.number_of(name) is not None

    def is_frame(name: str) -> bool:
        number = last_number(name)
        return source.number_of(name) is not None or (number in numbers if numbers else number is not None)

    return is_frame


def output_names(out: Path) -> list[str]:
    """Return what an earlier result says it has written into `out`; only what is inside it."""
    report = read_report(out / REPORT)
    names = [*report.get("outputs", []), *report.get("exported", {})]
    return [str(name) for name in names if name != MASKS and not Path(name).is_absolute() and ".." not in name]


def _sweep(out: Path) -> None:
    """Remove what a killed run left unfinished."""
    for path in _temporaries(out):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def _temporaries(out: Path) -> list[Path]:
    """List unfinished files and folders of ours: `.x.part`, and `x.part.mov` of a film."""
    beside = [path for path in out.glob("*.part*") if UNFINISHED.fullmatch(path.name)]
    beside += out.glob(f".{DATASET}.old")  # what a killed run was about to replace
    state = out / STATE
    inside = {folder: ".*.part" if state in (folder, folder.parent) else ".*.png.part" for folder in _folders(out)}
    return [*beside, *(path for folder, pattern in inside.items() for path in folder.glob(pattern))]


def _folders(out: Path) -> list[Path]:
    """List the folders that outputs are in, inner ones first."""
    found = [path for pattern in (f"{SOFT}/*", f"{STATE}/*", "*") for path in out.glob(pattern)]
    return [path for path in found if FOLDERS.fullmatch(path.relative_to(out).as_posix()) and path.is_dir()]


def is_empty(out: Path) -> bool:
    """Tell whether nothing but the beginnings of a run of ours is there."""
    if not out.exists():
        return True
    ours, unfinished = {out / LOCK, *_folders(out)}, [out / STATE, *_temporaries(out)]
    return all(path in ours or any(map(path.is_relative_to, unfinished)) for path in out.rglob("*"))
