"""The pictures that belong to the masks of a dataset."""

import io
from pathlib import Path

from PIL import Image

from stmcli.images import ORIENTATION
from stmcli.video import Frame, SourceInfo
from stmcli.video.folder import list_frames
from stmcli.video.numbering import numbered

QUALITY = 95
UPRIGHT = (None, 1)


class Pictures:
    """Know the image files of a source, if it is made of them."""

    def __init__(self, info: SourceInfo) -> None:
        self._size = (info.width, info.height)
        files = [] if info.is_video else list_frames(info.path)
        self._files = numbered(info.path, files, first=info.first_number) if files else {}

    def file(self, index: int) -> Path | None:
        """Return the image that is frame `index`; None for a video."""
        return self._files.get(index)

    def jpeg(self, frame: Frame) -> bytes:
        """Return a frame as JPEG: its very file when that is one, without loss; else encoded."""
        file = self.file(frame.index)
        if file is not None and not frame.corrupt and self._is_upright_jpeg(file):
            return file.read_bytes()
        content = io.BytesIO()
        Image.fromarray(frame.rgb).save(content, "JPEG", quality=QUALITY)
        return content.getvalue()

    def _is_upright_jpeg(self, file: Path) -> bool:
        """Tell whether every reader sees in the file what was segmented: some ignore a turn in its metadata."""
        if file.suffix.lower() not in (".jpg", ".jpeg"):
            return False
        with Image.open(file) as image:
            plain = image.format == "JPEG" and image.mode == "RGB" and image.size == self._size
            return plain and image.getexif().get(ORIENTATION) in UPRIGHT
