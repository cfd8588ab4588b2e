"""stm info: what a clip holds, and whether it can be segmented."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from stmcli.cli.app import JsonOption, VerboseOption, app, give
from stmcli.errors import VideoError

if TYPE_CHECKING:
    from fractions import Fraction

    from stmcli.video import ClipFacts, Color, SourceInfo
    from stmcli.video.facts import Pace

_LABEL = 14  # columns
_SOURCES = {
    "index": "by the file's index and its packets",
    "packets": "by the file's packets",
    "files": "by the files",
}


@app.command()
def info(
    clip: Annotated[Path, typer.Argument(help="A video file, a folder of frames, or a pattern like shot.%04d.png.")],
    as_json: JsonOption = False,
    verbose: VerboseOption = 0,
) -> None:
    """Say what a clip holds, and whether it can be segmented."""
    from stmcli.video import clip_facts

    facts = clip_facts(clip)
    if as_json:
        give(json.dumps(facts.as_json()))
    else:
        for label, value in _rows(facts):
            give(f"{label:<{_LABEL}}{value}")
    if facts.reason is not None:
        raise VideoError(facts.reason, path=clip)


def _rows(facts: ClipFacts) -> Iterator[tuple[str, str]]:
    if facts.info is not None:
        yield "container", facts.info.container
        yield "size", f"{facts.info.width}x{facts.info.height}"
    if facts.pace is not None:
        assumed = facts.info is not None and not facts.info.is_video
        yield from _pace_rows(facts.pace, facts.declared, assumed=assumed)
    if facts.info is not None:
        yield from _picture_rows(facts.info)
        sound = facts.sound
        yield "audio", f"{sound.codec}, {_plural(sound.channels, 'channel')}, {sound.rate} Hz" if sound else "none"
    for warning in facts.warnings:
        yield "warning", warning
    yield "usable", "yes" if facts.usable else "no"


def _pace_rows(pace: Pace, declared: int | None, *, assumed: bool) -> Iterator[tuple[str, str]]:
    also = f", declares {declared}" if declared not in (None, pace.frames) else ""
    yield "frames", f"{pace.frames} will decode (counted {_SOURCES[pace.counted_by]}){also}"
    step = f" in steps of {pace.step}" if pace.step != 1 else ""
    yield "numbers", f"{pace.first} to {pace.last}{step}"
    if pace.variable:
        gaps = f"{_decimal(1000 * pace.shortest)} to {_decimal(1000 * pace.longest)} ms between frames"
        yield "rate", f"variable, {_decimal(pace.rate)} fps on average, {gaps}"
    else:
        yield "rate", f"{_decimal(pace.rate)} fps, {'assumed: --fps says otherwise' if assumed else 'constant'}"
    yield "duration", f"{float(pace.duration):.3f} s"


def _picture_rows(info: SourceInfo) -> Iterator[tuple[str, str]]:
    yield "timecode", info.timecode or "none"
    yield "orientation", _orientation(info)
    aspect = info.aspect
    yield "pixels", "square" if aspect == 1 else f"{aspect.numerator}:{aspect.denominator}, not square"
    yield "codec", info.codec
    alpha = ", with alpha" if info.color.alpha else ""
    yield "samples", f"{info.color.pixel_format}, {info.color.bits} bits{alpha}"
    yield "colour", _colour(info.color)
    yield "scan", "interlaced" if info.interlaced else "progressive"


def _orientation(info: SourceInfo) -> str:
    flip = {"none": "", "horizontal": "mirrored left to right", "vertical": "mirrored top to bottom"}[info.flip]
    turn = f"turned {info.rotation} degrees counter-clockwise" if info.rotation else ""
    return ", then ".join(filter(None, (flip, turn))) or "upright as stored"


def _colour(color: Color) -> str:
    if color.matrix_used == "RGB":
        return "RGB"
    tags = {"primaries": color.primaries, "transfer": color.transfer, "matrix": color.matrix, "range": color.range}
    tagged = ", ".join(f"{name} {value}" for name, value in tags.items() if value)
    missing = [("matrix", color.matrix, color.matrix_used), ("range", color.range, color.range_used)]
    assumed = ", ".join(f"{name} {used}" for name, tag, used in missing if tag is None)
    return (tagged or "untagged") + (f"; taken as {assumed}" if assumed else "")


def _decimal(value: Fraction) -> str:
    return f"{float(value):.3f}".rstrip("0").rstrip(".")


def _plural(count: int, noun: str) -> str:
    return f"{count} {noun}{'s' if count != 1 else ''}"
