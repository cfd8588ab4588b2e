"""Predicted masks against ground truth: J, F and J&F of every object of every clip."""

from stmcli.evaluate.layout import Clip, list_sequences
from stmcli.evaluate.scores import ObjectScores, Scores
from stmcli.evaluate.scoring import NONE_AT_FIRST, evaluate_folder, first_shown
from stmcli.evaluate.sheet import draw_sheets
from stmcli.evaluate.submission import unscorable, write_submission
from stmcli.evaluate.ytvos import NOT_PUBLIC, read_seen

__all__ = [
    "NONE_AT_FIRST",
    "NOT_PUBLIC",
    "Clip",
    "ObjectScores",
    "Scores",
    "draw_sheets",
    "evaluate_folder",
    "first_shown",
    "list_sequences",
    "read_seen",
    "unscorable",
    "write_submission",
]
