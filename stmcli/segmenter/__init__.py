"""Follow the objects of one clip: the network at work frame by frame, and all that is decided around it."""

from stmcli.segmenter.segmenter import Follower, Segmenter, State, propagate

__all__ = ["Follower", "Segmenter", "State", "propagate"]
