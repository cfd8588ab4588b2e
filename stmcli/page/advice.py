"""What to do about a frame that is wrong: the commands, ready to copy."""

import os
import shlex
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

from stmcli.flags import FLAGS, SWITCHES
from stmcli.given import start_of
from stmcli.options import ExportOptions, MemoryOptions, NetworkOptions, SegmentOptions
from stmcli.report import first_number_of

DEFAULTS = {
    "network": NetworkOptions(),
    "memory": MemoryOptions(),
    "segment": SegmentOptions(),
    "export": ExportOptions(),
}


def frame_command(report: Mapping[str, Any], frame: int, picture: str) -> str:
    """Return the command that writes a frame to paint on."""
    first = first_number_of(report)
    renumbered = [] if first is None else ["--first-number", str(first)]
    return in_shell(["stm", "frame", _path(_source(report)), "--at", str(frame), *renumbered, "-o", picture])


def fix_command(
    report: Mapping[str, Any], output: Path, mask: str, *, frames: Collection[int], fewer: bool = False
) -> str:
    """Return the command that segments the same clip with one more word of `--mask`, if any, of masks of `frames`.

    A word `FRAME:PATH` takes the place of the file that was given for that frame; a folder may come beside it.
    A new mask of the frame that the clip is followed from makes it another job, and so do another clip and `fewer`
    masks than the result was made with: it needs leave to replace the result.
    """
    words = ["stm", "segment", _path(_source(report))]
    given = _given(report, [frame for frame in frames if mask.startswith(f"{frame}:")])
    for word in [*given, *([mask] if mask else [])]:
        words += ["--mask", word]
    masks = [(one["frame"], one["ids"]) for one in report.get("masks", [])]
    direction = report.get("options", {}).get("segment", {}).get("direction", "forward")
    start = start_of([*masks, *((frame, (1,)) for frame in frames)], direction)  # they show an object
    words += [*_options(report.get("options", {})), "-o", str(output.absolute())]
    return in_shell([*words, *["-y"] * (start in frames or fewer or bool(report.get("another_clip")))])


def in_shell(words: Iterable[str]) -> str:
    """Return a command as one line, also where a path has line breaks in it, or bytes that are no text."""
    return " ".join(shlex.quote(word) if word.isprintable() else f"$'{_escaped(word)}'" for word in words)


def _escaped(word: str) -> str:
    """Return a word with all that is not to be shown, or ends quotes, as numbers of its bytes."""
    shown = (one if one.isprintable() and one not in "'\\" else _numbers(os.fsencode(one)) for one in word)
    return "".join(shown)


def _numbers(content: bytes) -> str:
    return "".join(f"\\{byte:03o}" for byte in content)


def _source(report: Mapping[str, Any]) -> str:
    return str(report.get("source", {}).get("path", "CLIP"))


def _given(report: Mapping[str, Any], replaced: Collection[int]) -> list[str]:
    """Return the words of `--mask` of the run itself, but for files that are masks of the `replaced` frames."""
    masks = report.get("masks", [])
    gone = [mask for mask in masks if mask["frame"] in replaced]
    others = {mask["path"] for mask in masks if mask not in gone}  # annotations are in one file
    words = report.get("mask_words", [f"{mask['frame']}:{mask['path']}" for mask in masks])
    return [
        str(word)
        for word in words
        if word and not any(_names(str(word), one["frame"], one["path"], others) for one in gone)
    ]


def _names(word: str, frame: int, path: str, others: Collection[str]) -> bool:
    """Tell whether a word of `--mask` names the file of a frame; one of `others` too does so with the number alone."""
    return word == f"{frame}:{path}" or (path not in others and (word == path or word.endswith(f":{path}")))


def _options(options: Mapping[str, Mapping[str, Any]]) -> list[str]:
    words: list[str] = []
    for group, default in DEFAULTS.items():
        values = options.get(group, {})
        usual = {name: _word(getattr(default, name)) for name in values if hasattr(default, name)}
        changed = {name: value for name, value in values.items() if _word(value) != usual.get(name)}
        for name, flag in FLAGS[group].items():
            words += [flag, _word(changed[name])] if changed.get(name) is not None else []
        words += [flag for name, flag in SWITCHES.get(group, {}).items() if name in changed]
    export, objects = options.get("export", {}), options.get("segment", {}).get("objects")
    if export.get("kinds") and tuple(export["kinds"]) != ExportOptions.kinds:
        words += [word for kind in export["kinds"] for word in ("--export", str(kind))]
    for number, name in export.get("categories", ()):
        words += ["--category", f"{number}={name}"]
    return [*words, *(["--objects", ",".join(map(str, objects))] if objects else [])]


def _word(value: Any) -> str:
    return ",".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


def _path(path: str) -> str:
    return f"./{path}" if path.startswith("-") else path
