"""The space-time memory network."""

from stmcli.model.fused import fused
from stmcli.model.layers import LANES, Anchor
from stmcli.model.products import CONVOLVED, USUAL, can_convolve
from stmcli.model.quantized import largest_inputs, quantized
from stmcli.model.stm import SIZES, STM, Dims, Segmentation, aggregate

__all__ = [
    "CONVOLVED",
    "LANES",
    "SIZES",
    "STM",
    "USUAL",
    "Anchor",
    "Dims",
    "Segmentation",
    "aggregate",
    "can_convolve",
    "fused",
    "largest_inputs",
    "quantized",
]
