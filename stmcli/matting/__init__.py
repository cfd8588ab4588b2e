"""Alpha at the size of the source, and the colours of what is cut out, from the network's blurry probabilities."""

from stmcli.matting.matted import Matted

__all__ = ["Matted"]
