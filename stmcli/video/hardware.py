"""Decode on the graphics card, where NVDEC opens and makes the same pictures."""

from collections.abc import Iterator
from functools import cache
from itertools import islice
from pathlib import Path
from typing import Literal

import av
import numpy as np
from av.codec.hwaccel import HWAccel

from stmcli.errors import StmError, VideoError
from stmcli.video.frame import RGB
from stmcli.video.probe import open_container, pick_video
from stmcli.video.rgb import RgbConverter

Decoder = Literal["software", "nvdec"]
NVDEC = "cuda"  # what FFmpeg calls it, and its pictures while they are on the card
TRIED = 4  # pictures that must be the same


@cache  # hardware does not come and go
def nvdec_opens() -> bool:
    """Return whether there is a card that decodes, with its driver."""
    try:
        av.CodecContext.create("h264", "r", hwaccel=HWAccel(NVDEC))
    except (av.FFmpegError, ValueError, NotImplementedError):
        return False
    return True


def card_for(path: Path) -> tuple[HWAccel | None, str]:
    """Return what to open a video with for NVDEC to decode it, or None and why that cannot be.

    The first pictures are decoded both ways. The standards say to the bit what comes out, but not that every card and
    its driver keep to them.
    """
    if not nvdec_opens():
        return None, "NVDEC does not open here"
    card = HWAccel(NVDEC)
    try:
        pairs = zip(_first(path, card), _first(path, None), strict=True)
        same = all(np.array_equal(on_card, in_software) for on_card, in_software in pairs)
    except (av.FFmpegError, StmError, ValueError):  # one of them cannot, or ends before the other
        return None, "NVDEC does not take this clip"
    return (card, "") if same else (None, "NVDEC makes other pictures of this clip")


def _first(path: Path, card: HWAccel | None) -> Iterator[RGB]:
    """Yield the first pictures of a video; raise VideoError when FFmpeg decodes them in the card's place."""
    with open_container(path, hardware=card) as container:
        stream, converter = pick_video(container, path), RgbConverter()
        for picture in islice(container.decode(stream), TRIED):
            if card is not None and stream.codec_context.pix_fmt != NVDEC:
                raise VideoError("is decoded in software", path=path)
            yield converter.convert(picture)
