"""Training clips: made of stills by synthetic motion, or cut from annotated videos."""

from stmcli.clips.batch import Chance, Clips
from stmcli.clips.footage import VideoClips
from stmcli.clips.maker import Ahead, ClipMaker, has_core_to_spare
from stmcli.clips.stills import CANVAS, Still, load_stills
from stmcli.clips.synthesis import StillClips
from stmcli.clips.videos import Video, Videos, load_videos, parse_root

__all__ = [
    "CANVAS",
    "Ahead",
    "Chance",
    "ClipMaker",
    "Clips",
    "Still",
    "StillClips",
    "Video",
    "VideoClips",
    "Videos",
    "has_core_to_spare",
    "load_stills",
    "load_videos",
    "parse_root",
]
