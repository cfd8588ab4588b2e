"""The network that options name, where and as finely as they name it."""

from dataclasses import replace

import torch

from stmcli.device import (
    PRECISION,
    has_amx,
    has_int8_units,
    has_slow_products,
    is_short_of_multiplications,
    keep_freed_memory,
    memory_dtype,
    pick_device,
    pick_dtype,
)
from stmcli.errors import UsageError, WeightsError
from stmcli.model import CONVOLVED, LANES, STM, USUAL, fused, quantized
from stmcli.options import FIT, Fit, NetworkOptions
from stmcli.registry import find
from stmcli.weights.card import Card, card_of
from stmcli.weights.files import read_named


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
    usual = _needs_usual(options)
    products = CONVOLVED if has_slow_products(device) and not usual else USUAL
    if precision == "int8":
        model = fused(model, products=products).to(memory_format=torch.channels_last)
        return _in_integers(model, card, options.weights, memory_dtype(precision, device))
    winograd = is_short_of_multiplications(device, dtype) and not usual
    model = fused(model, lanes=LANES[device.type], winograd=winograd, products=products).to(device, dtype)
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
