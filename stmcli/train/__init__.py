"""Train a network: the run, its steps, and what it leaves."""

from stmcli.train.loop import check_options, train

__all__ = ["check_options", "train"]
