"""The space-time memory network."""

from stmcli.model.fused import fused
from stmcli.model.layers import LANES, Anchor
from stmcli.model.quantized import largest_inputs, quantized
from stmcli.model.stm import SIZES, STM, Dims, Segmentation, aggregate

__all__ = [
    "LANES",
    "SIZES",
    "STM",
    "Anchor",
    "Dims",
    "Segmentation",
    "aggregate",
    "fused",
    "largest_inputs",
    "quantized",
]
