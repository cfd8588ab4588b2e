"""Read and write moving pictures: the only package that uses PyAV."""

from stmcli.video.color import Color
from stmcli.video.facts import ClipFacts, clip_facts
from stmcli.video.folder import FrameFolder
from stmcli.video.frame import Frame, OnCorrupt, Source, SourceInfo
from stmcli.video.position import first_frame_from, last_frame_until, parse_position
from stmcli.video.probe import frame_times
from stmcli.video.reader import VideoReader
from stmcli.video.source import open_source, read_frame
from stmcli.video.writer import VideoWriter

__all__ = [
    "ClipFacts",
    "Color",
    "Frame",
    "FrameFolder",
    "OnCorrupt",
    "Source",
    "SourceInfo",
    "VideoReader",
    "VideoWriter",
    "clip_facts",
    "first_frame_from",
    "frame_times",
    "last_frame_until",
    "open_source",
    "parse_position",
    "read_frame",
]
