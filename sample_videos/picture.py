"""Draw the README's picture: a clip, its first mask, and overlays of later frames.

python sample_videos/picture.py stm_out/balloon/overlay.mp4 stm_out/rover/overlay.mp4
"""

import sys
from pathlib import Path

import numpy as np
from PIL import Image

from stmcli.masks import read_labels
from stmcli.render import palette
from stmcli.video import open_source

HERE = Path(__file__).parent
WIDTH, GAP = 320, 4
AT = (0.15, 0.5, 0.85)  # of the clip


def row(overlay: Path) -> np.ndarray:
    """Return (h, W, 3): first frame, its mask, and three overlays."""
    name = overlay.parent.name
    with open_source(HERE / f"{name}.mp4") as source:
        first = next(iter(source)).rgb
    mask = palette()[read_labels(HERE / f"{name}.png")]
    with open_source(overlay) as source:
        frames = [frame.rgb for frame in source]
    tiles = [first, mask, *(frames[round(share * (len(frames) - 1))] for share in AT)]
    height = first.shape[0] * WIDTH // first.shape[1]
    small = [np.asarray(Image.fromarray(tile).resize((WIDTH, height))) for tile in tiles]
    gap = np.full((height, GAP, 3), 255, dtype=np.uint8)
    return np.hstack([part for tile in small for part in (tile, gap)][:-1])


def main() -> None:
    """Draw one row for each overlay that is given."""
    rows = [row(Path(path)) for path in sys.argv[1:]]
    gap = np.full((GAP, rows[0].shape[1], 3), 255, dtype=np.uint8)
    picture = np.vstack([part for one in rows for part in (one, gap)][:-1])
    Image.fromarray(picture).save(HERE / "overlay.jpg", quality=88)


if __name__ == "__main__":
    main()
