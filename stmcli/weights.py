"""Weights: where they are, whether they are what they claim to be, and the network they belong to.

Ours are safetensors files with the network's dims and licence in the header. The published checkpoint
(`STM_weights.pth`, 2019) is read through a key table. Nothing here ever runs code from a file.
"""

import hashlib
import json
import pickle
import re
import struct
import warnings
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as safetensors_bytes
from torch import Tensor

from stmcli.device import (
    PRECISION,
    has_amx,
    has_int8_units,
    is_short_of_multiplications,
    keep_freed_memory,
    memory_dtype,
    pick_device,
    pick_dtype,
)
from stmcli.errors import UsageError, WeightsError, WriteError
from stmcli.files import write_whole
from stmcli.model import LANES, SIZES, STM, Dims, fused, quantized
from stmcli.options import DEFAULT_FIT, FIT, Fit, NetworkOptions
from stmcli.registry import BUNDLED, Entry, cache_folder, digest, find, registered, sha256, verify

LICENCE = "CC BY-NC-SA 4.0 (non-commercial)"
PUBLISHED_LICENCE = "CC BY-NC-SA 4.0 (non-commercial), by the authors of STM"

# The published checkpoint's names, and ours.
PUBLISHED_KEYS = (
    (r"^module\.", ""),
    (r"^Encoder_M\.", "memory_encoder."),
    (r"^Encoder_Q\.", "query_encoder."),
    (r"\.conv1_m\.", ".planes.0."),
    (r"\.conv1_o\.", ".planes.1."),
    (r"encoder\.res2\.", "encoder.layer1."),
    (r"encoder\.res3\.", "encoder.layer2."),
    (r"encoder\.res4\.", "encoder.layer3."),
    (r"^KV_M_r4\.Key\.", "memory_head.key."),
    (r"^KV_M_r4\.Value\.", "memory_head.value."),
    (r"^KV_Q_r4\.Key\.", "query_head.key."),
    (r"^KV_Q_r4\.Value\.", "query_head.value."),
    (r"^Decoder\.convFM\.", "decoder.enter."),
    (r"^Decoder\.ResMM\.", "decoder.enter_block."),
    (r"^Decoder\.RF3\.", "decoder.refine8."),
    (r"^Decoder\.RF2\.", "decoder.refine4."),
    (r"\.convFS\.", ".skip."),
    (r"\.ResFS\.", ".skip_block."),
    (r"refine(\d)\.ResMM\.", r"refine\1.block."),
    (r"^Decoder\.pred2\.", "decoder.predict."),
)


ZIP = b"PK\3\4"  # with which torch's files begin; a shorter one is none, and nothing else either


@dataclass(frozen=True)
class Card:
    """What a weights file says about itself."""

    dims: Dims
    licence: str
    origin: str = ""
    fit: Fit = DEFAULT_FIT  # what suits them
    ranges: Mapping[str, float] = field(default_factory=dict)  # the largest inputs of convolutions; none: not known


def load_model(options: NetworkOptions | None = None) -> STM:
    """Build the network that the options name, on the device and in the precision that they name.

    Raises UsageError for a device or weights that do not exist, WeightsError for a file that cannot be used.
    """
    options = options or NetworkOptions()
    device, precision = pick_device(options.device), pick_precision(options)
    dtype = pick_dtype(precision, device)
    if device.type == "cpu":
        keep_freed_memory()
    else:
        torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False  # fp32 is fp32
    model, card = read_named(options.weights)
    if precision == "int8":
        model = fused(model).to(memory_format=torch.channels_last)
        return _in_integers(model, card, options.weights, memory_dtype(precision, device))
    winograd = is_short_of_multiplications(device, dtype) and not _needs_usual(options)
    model = fused(model, lanes=LANES[device.type], winograd=winograd).to(device, dtype)
    model = model.to(memory_format=torch.channels_last)
    return compiled(model) if options.compile else model


def compiled(model: STM) -> STM:
    """Have the parts that compute compiled when they are first called, and return the network; copies of it are not."""
    for part in (model.query_encoder, model.memory_encoder, model.decoder):
        part.compile(dynamic=False)
    return model


def pick_precision(options: NetworkOptions) -> str:
    """Turn `auto` into int8 where device and weights allow it and bf16 is not faster still, else see `pick_dtype`.

    Returns int8, fp32, bf16 or fp16. Raises UsageError where int8 is asked for and cannot be.
    """
    device, asked = pick_device(options.device), options.precision
    if asked in ("auto", "int8"):
        obstacle = _obstacle_to_int8(options, device)
        if asked == "int8" and obstacle is not None:
            raise UsageError(f"--precision int8: {obstacle[0]}", hint=obstacle[1])
        if obstacle is None and (asked == "int8" or not has_amx()):
            return "int8"
    return PRECISION[pick_dtype(asked, device)]


def _obstacle_to_int8(options: NetworkOptions, device: torch.device) -> tuple[str, str] | None:
    """Return why convolutions cannot be in integers, and what to do."""
    if not has_int8_units(device):
        return "it needs an x86 CPU with AVX512-VNNI", "Use auto"
    if _needs_usual(options):
        return f"{'--compile' if options.compile else '--adapt'} needs other convolutions", "Leave out one of them"
    if card_of(find(options.weights)).ranges:
        return None
    return f"{options.weights} does not say how large its numbers become", "Measure it by stm weights import --stills"


def _needs_usual(options: NetworkOptions) -> bool:
    """Tell whether convolutions must be torch's own: a compiler has its own ways, and adapting needs gradients."""
    return bool(options.compile or options.adapt)


def _in_integers(model: STM, card: Card, weights: str, memory: torch.dtype) -> STM:
    try:
        return quantized(model, card.ranges, memory=memory)
    except (KeyError, TypeError, ValueError):
        raise WeightsError("its ranges are damaged", path=find(weights), hint="Use --precision fp32") from None


def suited(options: NetworkOptions) -> Fit:
    """Return what was asked for, and where nothing was what suits the weights."""
    asked = {name: getattr(options, name) for name in FIT}
    fit = card_of(find(options.weights)).fit
    return replace(fit, **{name: value for name, value in asked.items() if value is not None})


def card_of(path: Path) -> Card:
    """Return what a weights file says about itself, without reading its tensors. Raises WeightsError."""
    known = _kind(path) == "safetensors"
    return _read_header(path)[0] if known else Card(SIZES["resnet50"], PUBLISHED_LICENCE)


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
    kind = _kind(path)
    state, card = _read_safetensors(path) if kind == "safetensors" else _read_pickle(path)
    with torch.device("meta"):  # only names and shapes, no random start
        model = STM(card.dims)
    _check(path, model.state_dict(), state)
    model.load_state_dict(state, assign=True)
    return model, card


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


# -- files of several kinds ------------------------------------------------------------------------------------------


def _kind(path: Path) -> str:
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


def _read_header(path: Path) -> tuple[Card, list[str]]:
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
    except (ValueError, TypeError, KeyError):
        raise WeightsError("its header is damaged", path=path, hint="Get the file again") from None


def _suits(path: Path) -> Mapping[str, Any]:
    """Return what was found to suit a registered file after it was written; a copy of it is the same."""
    entries = [entry for entry in registered().values() if entry.suits]
    return next((entry.suits for entry in entries if entry.path == path.resolve() or _is_copy(path, entry)), {})


def _is_copy(path: Path, entry: Entry) -> bool:
    """Tell whether a file has the content of a registered one, which is only read when it has its size."""
    return entry.path.is_file() and path.stat().st_size == entry.path.stat().st_size and digest(path) == entry.sha256


def _read_safetensors(path: Path) -> tuple[dict[str, Tensor], Card]:
    card, names = _read_header(path)
    with safe_open(path, framework="pt") as file:
        state = {name: file.get_tensor(name) for name in names}
    return {name: _full(x) for name, x in state.items()}, card


def unpickle(path: Path) -> Any:
    """Return what `torch.save` wrote: tensors and plain values. Raises WeightsError for anything else, running none."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of torch about files of other kinds, which the error says in one line
            return torch.load(path, map_location="cpu", weights_only=True)
    except (
        *(RuntimeError, EOFError, ValueError, OSError, LookupError, TypeError, AttributeError),
        *(AssertionError, ArithmeticError, MemoryError, struct.error, pickle.UnpicklingError),
    ) as error:
        if isinstance(error, pickle.UnpicklingError) and path.stat().st_size >= len(ZIP):
            cause = "refused, it holds more than tensors and could run code"
            raise WeightsError(cause, path=path, hint="Use another file") from None
        raise WeightsError("damaged or cut short", path=path, hint="Get the file again") from None


def _read_pickle(path: Path) -> tuple[dict[str, Tensor], Card]:
    state = unpickle(path)
    if isinstance(state, Mapping) and "ema" in state:
        raise WeightsError("the state of a training run", path=path, hint="Use best.safetensors beside it")
    if not isinstance(state, Mapping) or not all(isinstance(x, Tensor) for x in state.values()):
        raise WeightsError("not a state dict of tensors", path=path, hint="Use the published STM_weights.pth")
    named = {rename(name): _full(x) for name, x in state.items()}
    with torch.device("meta"):
        wanted = STM(SIZES["resnet50"]).state_dict()
    for name in wanted.keys() - named.keys():
        if name.endswith("num_batches_tracked"):  # not written by torch of that time
            named[name] = torch.tensor(0)
    return named, Card(SIZES["resnet50"], PUBLISHED_LICENCE, origin=f"published checkpoint {path.name}")


def _full(x: Tensor) -> Tensor:
    """Return any floating-point tensor in fp32."""
    return x.float() if x.is_floating_point() else x


def rename(name: str) -> str:
    """Translate a name of the published checkpoint into ours."""
    for pattern, ours in PUBLISHED_KEYS:
        name = re.sub(pattern, ours, name)
    return name


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
