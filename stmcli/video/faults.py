"""Say in a person's words why a path cannot be read as a video."""

import os
import re
from pathlib import Path

from stmcli.errors import StmError, UsageError, VideoError
from stmcli.files import require_file
from stmcli.video.ends import end_loss, mp4_boxes

_STILLS = {
    b"\x89PNG": "PNG",
    b"\xff\xd8\xff": "JPEG",
    b"BM": "BMP",
    b"II*\x00": "TIFF",
    b"MM\x00*": "TIFF",
    b"8BPS": "PSD",
    b"v/1\x01": "OpenEXR",
    b"SDPX": "DPX",
    b"XPDS": "DPX",
}
_TEXTS = {
    b"#extm3u": "a playlist, and playlists are not followed",
    b"ffconcat": "a playlist, and playlists are not followed",
    b"version https://git-lfs": "a Git LFS pointer, not the video itself",
    b"%pdf": "a PDF document, not a video",
    b"<!doctype html": "a web page (HTML), not a video",
    b"<html": "a web page (HTML), not a video",
    b"<?xml": "an XML document, not a video",
    b"pk\x03\x04": "a ZIP archive, not a video",
}
_MP4_BOXES = {b"ftyp", b"mdat", b"moov", b"wide", b"free", b"skip"}
_COPY_AGAIN = "Copy or record it again."


def check_file(path: str | Path) -> Path:
    """Return `path` made absolute, or raise UsageError unless it is a regular file or a folder."""
    whole = Path(path).absolute()
    name = re.sub(r"[*?]+", "####", whole.name)
    if name != whole.name and not os.path.lexists(whole):
        hint = f"A sequence of frames is called {name}, or by its folder."
        raise UsageError("no such file or folder", path=path, hint=hint)
    require_file(path, hint="Give a video file or a folder of frames.", folders=True)
    return whole


def explain(path: Path, error: Exception) -> StmError:
    """Return why `path` does not open as a video, judged by its own bytes; `error` is the decoder's."""
    if isinstance(error, PermissionError):
        return UsageError("permission denied", path=path, hint="Make it readable.")
    head = _head(path)
    if not head:
        return VideoError("empty file (0 bytes)", path=path, hint=_COPY_AGAIN)
    if kind := _still(head):
        hint = "Give a video, or a folder of frames."
        return VideoError(f"this is a still image ({kind}), not a video", path=path, hint=hint)
    if kind := _text(head):
        return VideoError(f"this is {kind}", path=path, hint="Give the video file itself.")
    if head[4:8] in _MP4_BOXES and b"moov" not in _boxes(path):
        cause = "the recording or copy did not finish (moov atom missing)"
        return VideoError(cause, path=path, hint=_COPY_AGAIN)
    if head[:4] == b"RIFF" and head[8:12] == b"AVI " and (loss := end_loss(path, "avi")):
        return VideoError(loss, path=path, hint=_COPY_AGAIN)
    if isinstance(error, EOFError):
        return VideoError("it ends before the first picture (0 frames)", path=path, hint=_COPY_AGAIN)
    reason = getattr(error, "strerror", None) or str(error)
    return VideoError(f"not a video that can be read ({reason})", path=path, hint="Convert it to MP4 or MKV.")


def _head(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(1024)


def _still(head: bytes) -> str | None:
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return "WebP"
    return next((kind for magic, kind in _STILLS.items() if head.startswith(magic)), None)


def _text(head: bytes) -> str | None:
    start = head.removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    for magic, kind in _TEXTS.items():
        if start.startswith(magic):
            return kind
    control = sum(byte < 9 or 13 < byte < 32 for byte in head)
    return None if control else "a text file, not a video"


def _boxes(path: Path) -> set[bytes]:
    """Return the kinds of the outermost boxes of an MP4 file that are there as a whole."""
    size = path.stat().st_size
    with path.open("rb") as file:
        return {kind for kind, end in mp4_boxes(file, size) if end <= size}
