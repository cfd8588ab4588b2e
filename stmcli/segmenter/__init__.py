"""Follow the objects of one clip: the network at work frame by frame, and all that is decided around it."""

from stmcli.segmenter.follower import Follower, State, propagate
from stmcli.segmenter.segmenter import Segmenter

__all__ = ["Follower", "Segmenter", "State", "propagate"]
