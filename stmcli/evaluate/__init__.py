"""Predicted masks against ground truth: J, F and J&F of every object of every clip."""

from stmcli.evaluate.layout import Sequence, list_sequences, mask_files
from stmcli.evaluate.scores import ObjectScores, Scores
from stmcli.evaluate.scoring import evaluate_folder
from stmcli.evaluate.sheet import draw_sheets
from stmcli.evaluate.submission import unscorable, write_submission
from stmcli.evaluate.ytvos import read_seen

__all__ = [
    "ObjectScores",
    "Scores",
    "Sequence",
    "draw_sheets",
    "evaluate_folder",
    "list_sequences",
    "mask_files",
    "read_seen",
    "unscorable",
    "write_submission",
]
