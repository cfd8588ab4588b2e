"""Tell what a clip holds and whether it can be segmented, without decoding it."""

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

from stmcli.errors import UsageError, VideoError
from stmcli.video.color import Color
from stmcli.video.frame import SourceInfo
from stmcli.video.probe import Sound, declared_frames, sound_of
from stmcli.video.source import open_source

_RATE_SLACK = Fraction(1, 100)  # how far timestamps may be from the declared rate before they are believed instead
CountedBy = Literal["index", "packets", "files"]


@dataclass(frozen=True)
class Pace:
    """Hold the frames that will decode: how many, how numbered, when.

    `counted_by` says where the number is from: the file's own index, confirmed by its packets; its packets
    alone; or the files of a folder. `rate` is frames per second, an average when `variable`. `shortest` and
    `longest` are the seconds between one frame and the next, `duration` all frames with the last.
    """

    frames: int
    counted_by: CountedBy
    first: int
    last: int
    step: int
    rate: Fraction
    variable: bool
    shortest: Fraction
    longest: Fraction
    duration: Fraction


@dataclass(frozen=True)
class ClipFacts:
    """Hold what is known of a clip; `info` and `pace` are None when it cannot be read at all.

    `reason` says in one line why it cannot be segmented, None when it can.
    """

    path: Path
    reason: str | None = None
    declared: int | None = None
    info: SourceInfo | None = None
    pace: Pace | None = None
    sound: Sound | None = None
    warnings: tuple[str, ...] = ()

    @property
    def usable(self) -> bool:
        """Return whether the clip can be segmented."""
        return self.reason is None

    def as_json(self) -> dict[str, Any]:
        """Return the facts as values that JSON knows; rates and ratios are text, times are seconds."""
        facts: dict[str, Any] = {"path": str(self.path), "usable": self.usable, "reason": self.reason}
        if self.info is not None:
            facts |= _picture_facts(self.info) | {"frames_declared": self.declared}
        if self.pace is not None:
            facts |= _pace_facts(self.pace)
        if self.info is not None:
            facts["audio"] = vars(self.sound) if self.sound else None
        return facts | {"warnings": list(self.warnings)}


def clip_facts(path: str | Path) -> ClipFacts:
    """Return what a clip holds; read all of its packets and decode one picture.

    What it holds is told as far as it can be read. Raises UsageError when there is nothing to read.
    """
    try:
        return _read_facts(Path(path), None)
    except UsageError:
        raise
    except VideoError as error:
        return _broken_facts(Path(path), error)


def _broken_facts(path: Path, error: VideoError) -> ClipFacts:
    """Return what is left of a clip that cannot be read to its end."""
    culprit = Path(error.path or path)
    frame = f"{culprit.name}: " if culprit.name != path.name else ""  # one of a folder
    reason = " ".join(f"{frame}{error.cause}. {error.hint}".split())
    try:
        return _read_facts(path, reason)
    except VideoError:
        return ClipFacts(path, reason)


def _read_facts(path: Path, reason: str | None) -> ClipFacts:
    with open_source(path, on_corrupt="fail" if reason is None else "stop") as source:
        times, info = source.times(), source.info
        warnings = list(source.warnings)
    if not times:
        raise VideoError("0 frames can be decoded", path=path, hint="Copy or record it again.")
    pace = _pace(list(times), sorted(times.values()), info)
    if pace.shortest == 0 and pace.frames > 1:
        warnings.append("duplicate timestamps, which will be moved forward")
    declared = declared_frames(info.path) if info.is_video else info.frames
    sound = sound_of(info.path) if info.is_video else None
    return ClipFacts(path, reason, declared, info, pace, sound, tuple(warnings))


def _pace(numbers: Sequence[int], times: Sequence[Fraction], info: SourceInfo) -> Pace:
    gaps = [after - before for before, after in pairwise(times)]
    span = times[-1] - times[0]
    even = _is_even(times, info.time_base)
    declared_holds = not span or (even and abs(info.rate * span / len(gaps) - 1) < _RATE_SLACK)
    rate = info.rate if declared_holds else len(gaps) / span
    frames = len(numbers)
    by_index: CountedBy = "index" if info.frames == frames else "packets"
    return Pace(
        frames=frames,
        counted_by=by_index if info.is_video else "files",
        first=numbers[0],
        last=numbers[-1],
        step=numbers[1] - numbers[0] if frames > 1 else 1,
        rate=rate,
        variable=not even,
        shortest=min(gaps, default=1 / rate),
        longest=max(gaps, default=1 / rate),
        duration=span + 1 / rate,
    )


def _is_even(times: Sequence[Fraction], tick: Fraction) -> bool:
    """Return whether the frames are equally far apart, as well as a fine clock of `tick` seconds can tell."""
    step = (times[-1] - times[0]) / max(1, len(times) - 1)
    slack = tick if 4 * tick <= step else 0
    return all(abs(time - times[0] - place * step) <= slack for place, time in enumerate(times))


def _picture_facts(info: SourceInfo) -> dict[str, Any]:
    return {
        "kind": "video" if info.is_video else "frames",
        "container": info.container,
        "width": info.width,
        "height": info.height,
        "rotation": info.rotation,
        "flip": info.flip,
        "pixel_aspect": f"{info.aspect.numerator}:{info.aspect.denominator}",
        "codec": info.codec,
        "timecode": info.timecode,
        "interlaced": info.interlaced,
        **_color_facts(info.color),
    }


def _color_facts(color: Color) -> dict[str, Any]:
    tags = {name: getattr(color, name) for name in ("primaries", "transfer", "matrix", "range")}
    used = {"matrix_used": color.matrix_used, "range_used": color.range_used}
    return {
        "pixel_format": color.pixel_format,
        "bits": color.bits,
        "alpha": color.alpha,
        "hdr": color.hdr,
        "color": tags | used,
    }


def _pace_facts(pace: Pace) -> dict[str, Any]:
    return {
        "frames": pace.frames,
        "counted_by": pace.counted_by,
        "first": pace.first,
        "last": pace.last,
        "step": pace.step,
        "rate": str(pace.rate),
        "vfr": pace.variable,
        "shortest_gap": float(pace.shortest),
        "longest_gap": float(pace.longest),
        "duration": float(pace.duration),
    }
