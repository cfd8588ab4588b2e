"""Open a finished film again and say what is really in it."""

from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
from av.container import InputContainer

from stmcli.errors import StmError, VideoError, WriteError
from stmcli.video.codecs import has_alpha
from stmcli.video.probe import open_container, pick_audio, pick_video
from stmcli.video.timecode import find_timecode

_CLOCK = Fraction(1, 500)  # seconds: both ends of a film, each rounded to whole milliseconds


@dataclass(frozen=True)
class FilmFacts:
    """Hold what a film was found to contain.

    `span` is the time from its first frame to its last, `duration` also counts the last frame, both in
    seconds. `alpha` says whether it has transparency, `aspect` is width by height of a pixel, `audio` the
    codec of its sound.
    """

    frames: int
    span: Fraction
    duration: Fraction
    width: int
    height: int
    codec: str
    pix_fmt: str
    alpha: bool
    aspect: Fraction = Fraction(1)
    audio: str | None = None
    timecode: str | None = None


def check_film(
    path: Path, *, frames: int, span: Fraction | None = None, alpha: bool = False, final: Path | None = None
) -> FilmFacts:
    """Read a finished film without decoding it, and return what it holds.

    Raises WriteError when it cannot be read, when it has not exactly `frames` frames, when they do not
    last `span` seconds (2 ms are forgiven) or when `alpha` is expected and missing. Errors name `final`
    if the file is to be renamed to that.
    """
    shown = final or path
    try:
        with open_container(path) as container:
            facts = _read(container, path)
    except (StmError, av.FFmpegError, OSError) as error:
        reason = error.cause if isinstance(error, StmError) else error
        raise WriteError(f"the finished file cannot be read ({reason})", path=shown, hint="Run it again.") from error
    fault = _fault(facts, frames=frames, span=span, alpha=alpha)
    if fault:
        raise WriteError(fault, path=shown, hint="Run it again.")
    return facts


def _read(container: InputContainer, path: Path) -> FilmFacts:
    stream = pick_video(container, path)
    layout = stream.codec_context.format
    if layout is None:
        raise VideoError("none of its pictures can be decoded", path=path)
    base = stream.time_base or Fraction(1)
    shown = [(p.pts * base, (p.duration or 0) * base) for p in container.demux(stream) if p.size and p.pts is not None]
    first, last = min(shown, default=None), max(shown, default=None)
    span = last[0] - first[0] if first and last else Fraction(0)
    sound = pick_audio(container)
    return FilmFacts(
        frames=len(shown),
        span=span,
        duration=span + (last[1] if last else 0),
        width=stream.width,
        height=stream.height,
        codec=stream.codec_context.name,
        pix_fmt=layout.name,
        alpha=has_alpha(layout) or stream.metadata.get("alpha_mode") == "1",  # a tag: VP9
        aspect=stream.sample_aspect_ratio or Fraction(1),
        audio=sound.codec_context.name if sound else None,
        timecode=find_timecode(container, stream),
    )


def _fault(facts: FilmFacts, *, frames: int, span: Fraction | None, alpha: bool) -> str | None:
    if facts.frames != frames:
        return f"{facts.frames} of {frames} frames are in the finished file"
    if span is not None and abs(facts.span - span) > _CLOCK:
        return f"the finished file lasts {float(facts.span):.3f} s and not {float(span):.3f} s"
    if alpha and not facts.alpha:
        return "the finished file has no alpha"
    return None
