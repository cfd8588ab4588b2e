"""Ways to spoil a file, and what must hold whatever was spoilt."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hypothesis import strategies as st
from PIL import Image

WORDS = (
    b"-1",
    b"null",
    b"1e999",
    b"[]",
    b'"',
    b"NaN",
    b"\x00" * 4,
    b"\xff" * 4,
    b"\x7f\xff\xff\xff",
    b"\n",
    b"99999999",
)
VALUES = ("null", "-1", "0", "1e400", "99999999999", "[]", "{}", '"x"', '"/"', "true", "[[1]]", '"\\ud800"', "0.5")
EDGE = 600  # bytes at either end of a file, where headers and indexes are


@dataclass(frozen=True)
class Cut:
    """The file ends early."""

    length: int

    def apply(self, content: bytes) -> bytes:
        return content[: self.length]


@dataclass(frozen=True)
class Flips:
    """Some bits are the other way round, each at (byte, bit)."""

    places: tuple[tuple[int, int], ...]

    def apply(self, content: bytes) -> bytes:
        spoilt = bytearray(content)
        for place, bit in self.places:
            spoilt[place % len(spoilt)] ^= 1 << bit
        return bytes(spoilt)


@dataclass(frozen=True)
class Overwritten:
    """Other bytes are in the place of some."""

    place: int
    word: bytes
    times: int = 1

    def apply(self, content: bytes) -> bytes:
        word = self.word * self.times
        return (content[: self.place] + word + content[self.place + len(word) :])[: len(content)]


@dataclass(frozen=True)
class Swapped:
    """A value in a JSON file is another one."""

    place: int
    value: str

    def apply(self, content: bytes) -> bytes:
        root = {"": json.loads(content)}
        places = list(_values(root))
        holder, key = places[self.place % len(places)]
        holder[key] = json.loads(self.value)
        return json.dumps(root[""]).encode()


Harm = Cut | Flips | Overwritten | Swapped


def _values(node: Any) -> Iterator[tuple[Any, Any]]:
    """Yield where each value in a JSON document is: what holds it, and under which key."""
    for key, value in [*(node.items() if isinstance(node, dict) else enumerate(node))]:
        yield node, key
        if isinstance(value, (dict, list)):
            yield from _values(value)


def harms(content: bytes, *, is_json: bool = False) -> st.SearchStrategy[Harm]:
    """Return a strategy for ways to spoil a file."""
    last = len(content) - 1
    places = st.one_of(st.integers(0, last), st.integers(0, min(last, EDGE)), st.integers(max(0, last - EDGE), last))
    flips = st.lists(st.tuples(places, st.integers(0, 7)), min_size=1, max_size=8).map(tuple)
    kinds = [
        st.builds(Cut, places),
        st.builds(Flips, flips),
        st.builds(Overwritten, places, st.sampled_from(WORDS), st.integers(1, 64)),
    ]
    if is_json:
        kinds.append(st.builds(Swapped, st.integers(0, 999), st.sampled_from(VALUES)))
    return st.one_of(kinds)


@dataclass(frozen=True)
class Outcome:
    """How a command ended; `crash` is what a person must never see."""

    code: int
    stdout: str
    stderr: str
    crash: str = ""


def everything(folder: Path) -> dict[str, bytes]:
    """Return the content of all files below a folder."""
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def broken_rules(
    outcome: Outcome, folder: Path, before: Mapping[str, bytes], stays: set[str], names: tuple[str, ...]
) -> list[str]:
    """Return which rules a command has broken that found a spoilt file, in words.

    `before` is what was in the folder, and what `stays` must still be there; an error must hold one of the `names`, if
    there are any.
    """
    lines = outcome.stderr.splitlines()
    errors = [line for line in lines if line.startswith("error: ")]
    left = everything(folder)
    broken = {
        f"a traceback: {outcome.crash}": outcome.crash,
        f"exit code {outcome.code}": outcome.code not in (0, 1, 2, 3),
        "a traceback is shown": "Traceback (most" in outcome.stderr + outcome.stdout,
        f"exit code {outcome.code} without an error": outcome.code and not errors,
        "an error that ends with 0": not outcome.code and errors,
        f"several errors: {errors}": len(errors) > 1 and names,
        f"no file is named: {errors}": errors and names and not any(name in line for name in names for line in errors),
        f"a line of neither kind: {lines}": outcome.code
        and any(not line.startswith(("error: ", "note: ")) for line in lines),
        "something of before was changed": any(left.get(name) != before[name] for name in stays),
        f"unfinished: {sorted(left)}": any(".part" in name or name.endswith("/.lock") for name in left),
    }
    new = {name for name, content in left.items() if before.get(name) != content}
    return [rule for rule, breaks in broken.items() if breaks] + _unfinished(folder / "out", new, outcome.code)


def _unfinished(out: Path, new: set[str], code: int) -> list[str]:
    """Return which new files of a result are not what their names say."""
    broken = []
    masks = sorted(out.glob("masks/*.png"))
    for mask in masks:
        try:
            with Image.open(mask) as image:
                image.load()
        except (OSError, SyntaxError) as error:
            broken += [f"{mask.name} is not whole: {error}"] if f"out/masks/{mask.name}" in new else []
    if "out/report.json" not in new:
        return broken
    content = json.loads((out / "report.json").read_text())
    status, written = content["status"], content.get("frames_written")
    if status in ("ok", "partial") and (written != len(masks) or len(content["frames"]) != written):
        broken.append(f"the report says {status} and {written} frames beside {len(masks)} masks")
    if status == "ok" and not all((out / name).exists() for name in content["outputs"]):
        broken.append("the report says ok, and an output is missing")
    if code in (1, 2) and status in ("ok", "partial"):
        broken.append(f"exit code {code} beside a report that says {status}")
    return broken
