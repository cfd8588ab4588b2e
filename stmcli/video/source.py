"""Open whatever holds frames: a video file, a folder, a numbered sequence."""

from fractions import Fraction
from pathlib import Path

from stmcli.errors import UsageError, VideoError
from stmcli.files import can_be, refuse_url
from stmcli.video.faults import check_file
from stmcli.video.folder import RATE, FrameFolder, is_pattern
from stmcli.video.frame import Frame, OnCorrupt, Source
from stmcli.video.hardware import Decoder
from stmcli.video.reader import VideoReader


def open_source(
    path: str | Path,
    *,
    first_number: int | None = None,
    start: int | None = None,
    end: int | None = None,
    on_corrupt: OnCorrupt = "fail",
    rate: Fraction = RATE,
    decoder: Decoder = "software",
) -> Source:
    """Open a video file, a folder of frames or a pattern such as ``shot.%04d.png``.

    `first_number` is what the first frame of the whole source is to be called; None: a video's is 0, a
    sequence's as in its name. `start` and `end` are such numbers, `end` inclusive. `rate` is how many frames of a
    sequence there are in a second; a video has its own. `decoder` is of videos. Raises UsageError (no
    such source, not a regular file, no such frame) and VideoError (it cannot be read).
    """
    refuse_url(path)
    whole = Path(path).absolute()
    if ".." in whole.parts:  # which is no name
        path = whole = whole.parent.resolve() / whole.name if whole.name != ".." else whole.resolve()
    if not can_be(whole):
        raise UsageError("no file can have this name", path=path, hint="Check it.")
    if not is_pattern(whole):
        whole = check_file(path)
    if is_pattern(whole) or whole.is_dir():
        return FrameFolder(whole, first_number=first_number, start=start, end=end, on_corrupt=on_corrupt, rate=rate)
    return VideoReader(whole, first_number=first_number, start=start, end=end, on_corrupt=on_corrupt, decoder=decoder)


def read_frame(path: str | Path, index: int | None = None, *, first_number: int | None = None) -> Frame:
    """Return frame `index` of a source, its first by default, whatever is damaged before it.

    Raises UsageError that says how many frames there are, and VideoError when this one cannot be decoded.
    """
    with open_source(path, first_number=first_number, start=index, end=index, on_corrupt="skip") as source:
        for frame in source:
            if frame.corrupt:
                raise VideoError(f"frame {frame.index} cannot be decoded", path=path, hint="Take another one.")
            return frame
    raise AssertionError(f"{path}: an iteration without a frame")
