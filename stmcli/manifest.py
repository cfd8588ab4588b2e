"""A list of clips in a file: CSV with the header `video,mask,output`, or one JSON object on each line."""

import csv
import io
import json
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from stmcli.errors import UsageError
from stmcli.files import can_be, require_file
from stmcli.given import mask_in
from stmcli.pairing import Pair, above_all, name_outputs

FORM = "It has a line video,mask,output at the top, or one JSON object with these on each line (.jsonl)."


def pair_manifest(manifest: Path, out: Path) -> list[Pair]:
    """List the clips of a manifest; paths are taken from its folder, outputs lie below `out`.

    A clip without a mask has an `error`. Raises UsageError: a manifest that cannot be read, two clips with one
    output, an output outside of `out`.
    """
    pairs: list[Pair] = []
    lines: dict[str, int] = {}
    above: dict[str, int] = {}
    for line, row in _rows(manifest):
        pair = _pair(manifest, line, row)
        if pair.output:
            _require_inside(pair.output, out, manifest, line)
            folders = above_all([pair.output])
            others = (*(lines.get(name) for name in (pair.output, *folders)), above.get(pair.output))
            if other := next(filter(None, others), None):
                cause = f"line {line}: output {pair.output!r} is not apart from that of line {other}"
                raise UsageError(cause, path=manifest, hint="Give each clip a folder of its own.")
            lines[pair.output] = line
            above |= dict.fromkeys(folders, line)
        pairs.append(pair)
    if not pairs:
        raise UsageError("no clips", path=manifest, hint=FORM)
    return name_outputs(pairs)


def _pair(manifest: Path, line: int, row: Mapping[str, Any]) -> Pair:
    home = manifest.parent
    video, mask, output = (row.get(name) or "" for name in ("video", "mask", "output"))
    words = mask if isinstance(mask, list) else [mask]
    if not (video and isinstance(video, str) and isinstance(output, str) and all(isinstance(w, str) for w in words)):
        raise UsageError(f"line {line}: no clip and its mask", path=manifest, hint=FORM)
    whole = home / video
    for name in (video, *(part for word in words for part in word.split(";")), output):
        if not can_be(name):
            raise UsageError(f"line {line}: {name[:40]!r} can be no file or folder", path=manifest, hint=FORM)
    name = _name(video, whole)
    if not (name or output):
        cause = f"line {line}: {video!r} has no name for its result"
        raise UsageError(cause, path=manifest, hint="Give an output beside it.")
    masks = tuple(mask_in(home, word) for text in words for word in _words(home, text))
    error = (
        "" if masks else str(UsageError(f"no mask on line {line} of {manifest}", path=whole, hint="Give one there."))
    )
    return Pair(name, whole, masks, str(PurePosixPath(output)) if output else "", error)


def _name(video: str, whole: Path) -> str:
    """Return what the result of a clip is called: its path below the manifest, else its name; "" of a root alone."""
    inside = PurePosixPath(video)
    below = inside.parts and not inside.is_absolute() and ".." not in inside.parts
    return str(inside) if below else Path(os.path.abspath(whole)).name


def _words(home: Path, text: str) -> list[str]:
    """Return the words of `--mask` in a cell; a path may hold the sign between them."""
    words = [text] if os.path.exists(home / text) else text.split(";")  # text may be too long for a path
    return [word.strip() for word in words if word.strip()]


def _require_inside(output: str, out: Path, manifest: Path, line: int) -> None:
    parts = re.split(r"[/\\]", output)
    inside = (out / output).resolve().is_relative_to(out.resolve())
    if output == "." or ".." in parts or PurePosixPath(output).is_absolute() or "\0" in output or not inside:
        cause = f"line {line}: output {output!r} is outside the output root"
        raise UsageError(cause, path=manifest, hint=f"Give a folder inside {out}.")


def _rows(manifest: Path) -> Iterator[tuple[int, Mapping[str, Any]]]:
    """Yield the number and content of each line. Raises UsageError."""
    require_file(manifest, hint=FORM)
    try:
        text = manifest.read_text(encoding="utf-8-sig")
    except (OSError, ValueError) as error:
        cause = "not text in UTF-8" if isinstance(error, ValueError) else f"cannot be read ({error.strerror})"
        raise UsageError(cause, path=manifest, hint=FORM) from None
    if manifest.suffix.lower() in (".jsonl", ".ndjson", ".json"):
        yield from _json_rows(text, manifest)
    else:
        yield from _csv_rows(text, manifest)


def _json_rows(text: str, manifest: Path) -> Iterator[tuple[int, Mapping[str, Any]]]:
    for line, content in enumerate(text.split("\n"), 1):
        if not content.strip():
            continue
        try:
            row = json.loads(content)
        except (ValueError, RecursionError):
            row = None
        if not isinstance(row, dict):
            raise UsageError(f"line {line}: not a JSON object", path=manifest, hint=FORM)
        yield line, row


def _csv_rows(text: str, manifest: Path) -> Iterator[tuple[int, Mapping[str, Any]]]:
    rows = csv.DictReader(io.StringIO(text, newline=""), strict=True, skipinitialspace=True)
    try:
        if missing := [name for name in ("video", "mask") if name not in (rows.fieldnames or ())]:
            raise UsageError(f"no column {missing[0]}", path=manifest, hint=FORM)
        for row in rows:
            yield rows.line_num, row
    except csv.Error as error:
        raise UsageError(f"line {rows.reader.line_num}: {error}", path=manifest, hint=FORM) from None
