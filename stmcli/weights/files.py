"""Read and write weights files, and take them into the registry."""

import hashlib
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save as safetensors_bytes
from torch import Tensor

from stmcli.errors import UsageError, WeightsError, WriteError
from stmcli.files import write_whole
from stmcli.model import STM
from stmcli.registry import BUNDLED, Entry, cache_folder, find, registered, sha256, verify
from stmcli.weights.card import Card, kind_of, read_header
from stmcli.weights.pickles import read_pickle


def read_named(name: str) -> tuple[STM, Card]:
    """Read weights by their name or path; registered ones must be the file that was registered.

    Raises UsageError when there are none, WeightsError when they cannot be used.
    """
    if (entry := registered().get(name)) is not None:
        verify(entry)
    return read(find(name))


def read(path: Path) -> tuple[STM, Card]:
    """Read a weights file of any known kind into a network, in fp32 on the CPU.

    Raises WeightsError that says what the file is instead.
    """
    kind = kind_of(path)
    state, card = _read_safetensors(path) if kind == "safetensors" else read_pickle(path)
    state = {name: x.float() if x.is_floating_point() else x for name, x in state.items()}
    with torch.device("meta"):  # only names and shapes, no random start
        model = STM(card.dims)
    _check(path, model.state_dict(), state)
    model.load_state_dict(state, assign=True)
    return model, card


def _check(path: Path, wanted: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> None:
    """Raise WeightsError when names, shapes or numbers are not those of the network."""
    missing = sorted(wanted.keys() - state.keys())
    strange = sorted(state.keys() - wanted.keys())
    if missing or strange:
        first = f"first missing: {missing[0]}" if missing else f"first unknown: {strange[0]}"
        cause = f"another architecture: {len(missing)} of {len(wanted)} tensors missing, {len(strange)} unknown"
        raise WeightsError(f"{cause}, {first}", path=path, hint="Use STM weights")
    for name, x in state.items():
        if x.shape != wanted[name].shape:
            cause = f"{name} is {tuple(x.shape)} but must be {tuple(wanted[name].shape)}"
            raise WeightsError(cause, path=path, hint="Use STM weights of this size")
        if not torch.isfinite(x).all():
            raise WeightsError(f"{name} holds NaN or infinity", path=path, hint="Get the file again")


def _read_safetensors(path: Path) -> tuple[dict[str, Tensor], Card]:
    card, names = read_header(path)
    with safe_open(path, framework="pt") as file:
        state = {name: file.get_tensor(name) for name in names}
    return state, card


def save(path: Path, model: STM, card: Card, *, dtype: torch.dtype = torch.float32) -> str:
    """Write a network as safetensors and return the file's sha256. Raises WriteError."""
    return _write(path, _packed(model, card, dtype))


def _packed(model: STM, card: Card, dtype: torch.dtype) -> bytes:
    state = {
        name: (x.to(dtype) if x.is_floating_point() else x).contiguous().cpu() for name, x in model.state_dict().items()
    }
    facts = asdict(card)
    facts |= facts.pop("fit")
    return safetensors_bytes(state, metadata={"stm": json.dumps(facts)})


def _write(path: Path, content: bytes) -> str:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise WriteError(f"cannot be created ({error.strerror})", path=path.parent) from None
    write_whole(path, content)
    return sha256(path)


def register(path: Path, card: Card) -> Entry:
    """Write the note beside a weights file that makes it part of the registry."""
    facts = {"sha256": sha256(path), "licence": card.licence, "origin": card.origin}
    write_whole(path.with_suffix(".json"), (json.dumps(facts, indent=1) + "\n").encode())
    return Entry(path.stem, path, facts["sha256"], card.licence, card.origin)


def import_file(
    source: Path,
    *,
    name: str | None = None,
    overwrite: bool = False,
    measure: Callable[[STM], Mapping[str, float]] | None = None,
) -> Entry:
    """Convert a checkpoint to safetensors in the user's cache and register it.

    `measure` tells how large a network's numbers become, for int8: see `ranges_in_stills`.
    Raises UsageError for a file that does not exist, or a name that cannot be given or that other weights have, which
    only `overwrite` replaces, WeightsError, WriteError.
    """
    name = name or source.stem
    if not re.fullmatch(r"\w[\w.+-]*", name):
        raise UsageError(f"{name!r} is not a name for weights", path=source, hint="Give one with --name")
    if (BUNDLED / f"{name}.json").exists():
        raise UsageError(f"the name {name} is taken by bundled weights", path=source, hint="Choose another --name")
    model, card = read(find(source))
    known, target = registered().get(name), cache_folder() / f"{name}.safetensors"
    if known and measure and not overwrite:
        raise UsageError(f"there are weights called {name}", path=source, hint="Choose a --name, or replace them by -y")
    card = replace(card, ranges=measure(model.eval())) if measure else card
    content = _packed(model, card, torch.float32)
    if known and known.sha256 != hashlib.sha256(content).hexdigest() and not overwrite:
        raise UsageError(f"other weights are called {name}", path=source, hint="Choose a --name, or replace them by -y")
    _write(target, content)
    return register(target, card)
