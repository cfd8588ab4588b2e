"""Files that torch wrote, above all the published checkpoint, read without running what may be in them."""

import pickle
import re
import struct
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from stmcli.errors import WeightsError
from stmcli.model import SIZES, STM
from stmcli.weights.card import PUBLISHED_LICENCE, Card

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


def read_pickle(path: Path) -> tuple[dict[str, Tensor], Card]:
    """Read the published checkpoint, or one of its layout, by our names. Raises WeightsError."""
    state = unpickle(path)
    if isinstance(state, Mapping) and "ema" in state:
        raise WeightsError("the state of a training run", path=path, hint="Use best.safetensors beside it")
    if not isinstance(state, Mapping) or not all(isinstance(x, Tensor) for x in state.values()):
        raise WeightsError("not a state dict of tensors", path=path, hint="Use the published STM_weights.pth")
    named = {rename(name): x for name, x in state.items()}
    with torch.device("meta"):
        wanted = STM(SIZES["resnet50"]).state_dict()
    for name in wanted.keys() - named.keys():
        if name.endswith("num_batches_tracked"):  # not written by torch of that time
            named[name] = torch.tensor(0)
    return named, Card(SIZES["resnet50"], PUBLISHED_LICENCE, origin=f"published checkpoint {path.name}")


def rename(name: str) -> str:
    """Translate a name of the published checkpoint into ours."""
    for pattern, ours in PUBLISHED_KEYS:
        name = re.sub(pattern, ours, name)
    return name
