"""The space-time memory network."""

from stmcli.model.fused import fused
from stmcli.model.layers import Anchor
from stmcli.model.stm import SIZES, STM, Dims, Segmentation, aggregate

__all__ = ["SIZES", "STM", "Anchor", "Dims", "Segmentation", "aggregate", "fused"]
