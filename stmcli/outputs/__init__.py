"""Turn predictions into files: every writer has write(frame, prediction), close() and abort()."""

from stmcli.outputs.films import AlphaWriter, Film, GreenWriter, MatteWriter, OverlayWriter
from stmcli.outputs.stills import CutoutWriter, MaskWriter, MattesWriter, SoftWriter
from stmcli.outputs.writer import Prediction, SoftPrediction, Writer

__all__ = [
    "AlphaWriter",
    "CutoutWriter",
    "Film",
    "GreenWriter",
    "MaskWriter",
    "MatteWriter",
    "MattesWriter",
    "OverlayWriter",
    "Prediction",
    "SoftPrediction",
    "SoftWriter",
    "Writer",
]
