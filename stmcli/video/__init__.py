"""Read and write moving pictures: the only package that uses PyAV."""

from stmcli.video.codecs import ALPHA_CODECS, H264, H264_NVENC, Codec, ffmpeg_version, opens
from stmcli.video.color import Color
from stmcli.video.facts import ClipFacts, clip_facts
from stmcli.video.film import FilmFacts, check_film
from stmcli.video.folder import FrameFolder, list_frames, would_be_frame
from stmcli.video.frame import Frame, OnCorrupt, Source, SourceInfo
from stmcli.video.hardware import nvdec_opens
from stmcli.video.numbering import last_number, numbered
from stmcli.video.position import Position, first_frame_from, last_frame_until, parse_position, parse_rate
from stmcli.video.probe import frame_times
from stmcli.video.reader import VideoReader
from stmcli.video.reverse import frames_backward
from stmcli.video.source import open_source, read_frame
from stmcli.video.still import write_rgba
from stmcli.video.timecode import advance_timecode, find_timecode
from stmcli.video.writer import VideoWriter

__all__ = [
    "ALPHA_CODECS",
    "H264",
    "H264_NVENC",
    "ClipFacts",
    "Codec",
    "Color",
    "FilmFacts",
    "Frame",
    "FrameFolder",
    "OnCorrupt",
    "Position",
    "Source",
    "SourceInfo",
    "VideoReader",
    "VideoWriter",
    "advance_timecode",
    "check_film",
    "clip_facts",
    "ffmpeg_version",
    "find_timecode",
    "first_frame_from",
    "frame_times",
    "frames_backward",
    "last_frame_until",
    "last_number",
    "list_frames",
    "numbered",
    "nvdec_opens",
    "open_source",
    "opens",
    "parse_position",
    "parse_rate",
    "read_frame",
    "would_be_frame",
    "write_rgba",
]
