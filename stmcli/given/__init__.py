"""The masks that a person gives for a clip: which file belongs to which frame, all read and checked together."""

from stmcli.given.mask import GivenMask, followed_from, from_first, ids_of, start_of
from stmcli.given.reading import check_readable, read_given
from stmcli.given.words import MaskFile, list_mask_files, mask_in

__all__ = [
    "GivenMask",
    "MaskFile",
    "check_readable",
    "followed_from",
    "from_first",
    "ids_of",
    "list_mask_files",
    "mask_in",
    "read_given",
    "start_of",
]
