"""An earlier measurement beside this one."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stmcli.bench.row import SETTING
from stmcli.errors import UsageError

MACHINE = ("processor", "cores", "threads", "cuda", "torch")  # what makes times differ


@dataclass(frozen=True)
class Comparison:
    """How many times as fast each row is as it was, None where it was not measured; and what to bear in mind."""

    ratios: tuple[float | None, ...]
    notes: tuple[str, ...]


def compare(now: Mapping[str, Any], before: Mapping[str, Any]) -> Comparison:
    """Compare what `Speeds.facts` returned with what `read_earlier` did.

    Rows belong together when the whole setting is the same; the ratio is that of the median frames.
    """
    mine, theirs = _by_setting(now["rows"]), _by_setting(before["rows"])
    ratios = tuple(_ratio(theirs.get(_setting(row)), row) for row in now["rows"])
    here, there = now["machine"], before["machine"]
    notes = [
        f"another {name}: {there.get(name)} before, {here.get(name)} now"
        for name in MACHINE
        if there.get(name) != here.get(name)
    ]
    notes += [f"not measured before: {_words(key)}" for key in mine if key not in theirs]
    notes += [f"measured before alone: {_words(key)}" for key in theirs if key not in mine]
    return Comparison(ratios, tuple(notes))


def read_earlier(path: Path) -> dict[str, Any]:
    """Read what `stm bench --json` printed. Raises UsageError."""
    try:
        facts = json.loads(path.read_text(encoding="utf-8"))
        _by_setting(facts["rows"])
        facts["machine"].items()
    except OSError as error:
        raise UsageError(f"cannot be read ({error.strerror})", path=path, hint="Give a file.") from None
    except (ValueError, RecursionError, LookupError, TypeError, AttributeError):
        hint = "Write one with stm bench --json > FILE."
        raise UsageError("not what stm bench --json prints without a clip", path=path, hint=hint) from None
    return facts


def _by_setting(rows: Sequence[Mapping[str, Any]]) -> dict[tuple[Any, ...], Mapping[str, Any]]:
    return {_setting(row): row for row in rows if row["p50_ms"] > 0}


def _setting(row: Mapping[str, Any]) -> tuple[Any, ...]:
    return tuple(row.get(name) for name in SETTING)  # an older stm had fewer


def _ratio(before: Mapping[str, Any] | None, now: Mapping[str, Any]) -> float | None:
    return None if before is None else before["p50_ms"] / now["p50_ms"]


def _words(key: Sequence[Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in zip(SETTING, key, strict=True) if value not in ("", 0, None))
