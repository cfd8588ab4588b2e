"""What a weights file says about itself, known without reading its tensors."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from stmcli.errors import WeightsError
from stmcli.model import SIZES, Dims
from stmcli.options import DEFAULT_FIT, FIT, Fit
from stmcli.registry import Entry, digest, registered

LICENCE = "CC BY-NC-SA 4.0 (non-commercial)"
PUBLISHED_LICENCE = "CC BY-NC-SA 4.0 (non-commercial), by the authors of STM"


@dataclass(frozen=True)
class Card:
    """What a weights file says about itself."""

    dims: Dims
    licence: str
    origin: str = ""
    fit: Fit = DEFAULT_FIT  # what suits them
    ranges: Mapping[str, float] = field(default_factory=dict)  # the largest inputs of convolutions; none: not known


def card_of(path: Path) -> Card:
    """Return what a weights file says about itself, without reading its tensors. Raises WeightsError."""
    known = kind_of(path) == "safetensors"
    return read_header(path)[0] if known else Card(SIZES["resnet50"], PUBLISHED_LICENCE)


def kind_of(path: Path) -> str:
    """Tell safetensors from pickles by the first bytes; name the usual impostors."""
    try:
        with path.open("rb") as file:
            head = file.read(512)
    except OSError as error:
        raise WeightsError(f"cannot be read ({error.strerror})", path=path, hint="Check its permissions") from None
    text = head.lstrip().lower()
    if not head:
        raise WeightsError("the file is empty", path=path, hint="Download it again")
    if text.startswith((b"<!doctype", b"<html")):
        raise WeightsError("this is a web page, not weights", path=path, hint="Download the file itself")
    if text.startswith(b"version https://git-lfs"):
        raise WeightsError("this is a Git LFS pointer, not weights", path=path, hint="Run git lfs pull")
    if head[8:9] == b"{":
        return "safetensors"
    if head.startswith((b"PK", b"\x80")):
        return "pickle"
    raise WeightsError("not a weights file", path=path, hint="Use a .safetensors or the published .pth")


def read_header(path: Path) -> tuple[Card, list[str]]:
    """Return what a safetensors file of ours says about itself, and the names of its tensors. Raises WeightsError."""
    try:
        with safe_open(path, framework="pt") as file:
            note, names = (file.metadata() or {}).get("stm"), list(file.keys())
    except (SafetensorError, OSError) as error:
        raise WeightsError(f"damaged or cut short ({error})", path=path, hint="Get the file again") from None
    if note is None:
        hint = "Use the published STM_weights.pth, or what stm train wrote"
        raise WeightsError("not made by stm: its header has no dims", path=path, hint=hint)
    try:
        facts = json.loads(note) | _suits(path)
        values: dict[str, Any] = {name: facts.pop(name) for name in FIT if name in facts}
        if "augment" in values:
            values["augment"] = tuple(values["augment"])
        fit = replace(DEFAULT_FIT, **values)
        return Card(**{**facts, "dims": Dims(**facts["dims"]), "fit": fit}), names
    except (ValueError, RecursionError, TypeError, KeyError):
        raise WeightsError("its header is damaged", path=path, hint="Get the file again") from None


def _suits(path: Path) -> Mapping[str, Any]:
    """Return what was found to suit a registered file after it was written; a copy of it is the same."""
    entries = [entry for entry in registered().values() if entry.suits]
    return next((entry.suits for entry in entries if entry.path == path.resolve() or _is_copy(path, entry)), {})


def _is_copy(path: Path, entry: Entry) -> bool:
    """Tell whether a file has the content of a registered one, which is only read when it has its size."""
    return entry.path.is_file() and path.stat().st_size == entry.path.stat().st_size and digest(path) == entry.sha256
