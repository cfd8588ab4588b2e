"""Weights: where they are, whether they are what they claim to be, and the network they belong to.

Ours are safetensors files with the network's dims and licence in the header. The published checkpoint
(`STM_weights.pth`, 2019) is read through a key table. Nothing here ever runs code from a file.
"""

from stmcli.weights.card import LICENCE, PUBLISHED_LICENCE, Card, card_of
from stmcli.weights.files import import_file, read, read_named, register, save
from stmcli.weights.network import compiled, load_model, pick_precision, suited
from stmcli.weights.pickles import rename, unpickle

__all__ = [
    "LICENCE",
    "PUBLISHED_LICENCE",
    "Card",
    "card_of",
    "compiled",
    "import_file",
    "load_model",
    "pick_precision",
    "read",
    "read_named",
    "register",
    "rename",
    "save",
    "suited",
    "unpickle",
]
