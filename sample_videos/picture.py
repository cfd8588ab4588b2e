"""Draw the README's pictures from results of the sample clips.

python sample_videos/picture.py stm_out/balloon stm_out/rover

`overlay.jpg`: a row for each result: the first frame, its mask, and overlays of later frames.
`cutout.jpg`: a row for each result that has cutouts: the source, and the cutouts over a checkerboard.
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
SQUARE = 8  # of the checkerboard, px


def overlays(result: Path) -> list[np.ndarray]:
    """Return the first frame, its mask, and three overlays."""
    mask = palette()[read_labels(HERE / f"{result.name}.png")]
    return [frames(HERE / f"{result.name}.mp4")[0], mask, *some(frames(result / "overlay.mp4"))]


def cutouts(result: Path) -> list[np.ndarray]:
    """Return an early frame, its cutout, both enlarged, and the cutout of a late frame."""
    files = sorted((result / "cutout").glob("*.png"))
    early, _, late = (np.asarray(Image.open(file)) for file in some(files))
    rows, columns = np.nonzero(early[..., 3] > 127)
    height, width = early.shape[0] // 4, early.shape[1] // 4
    top, left = max(0, rows.min() - height // 8), max(0, int(columns.mean()) - width // 2)
    near = slice(top, top + height), slice(left, left + width)
    source = some(frames(HERE / f"{result.name}.mp4"))[0]
    cut = over_checkerboard(early)
    return [source, cut, source[near], cut[near], over_checkerboard(late)]


def over_checkerboard(rgba: np.ndarray) -> np.ndarray:
    """Return (H, W, 3): a straight RGBA picture over grey squares."""
    rows, columns = np.indices(rgba.shape[:2]) // SQUARE
    behind = np.where((rows + columns) % 2, 200, 140)[..., None]
    alpha = rgba[..., 3:] / 255
    return (rgba[..., :3] * alpha + behind * (1 - alpha)).astype(np.uint8)


def frames(path: Path) -> list[np.ndarray]:
    """Return all pictures of a film."""
    with open_source(path) as source:
        return [frame.rgb for frame in source]


def some(items: list) -> list:
    """Return the items at AT."""
    return [items[round(share * (len(items) - 1))] for share in AT]


def row(tiles: list[np.ndarray]) -> np.ndarray:
    """Return (h, W, 3): the tiles beside each other."""
    height = tiles[0].shape[0] * WIDTH // tiles[0].shape[1]
    small = [np.asarray(Image.fromarray(tile).resize((WIDTH, height))) for tile in tiles]
    gap = np.full((height, GAP, 3), 255, dtype=np.uint8)
    return np.hstack([part for tile in small for part in (tile, gap)][:-1])


def save(name: str, rows: list[np.ndarray]) -> None:
    """Write the rows below each other."""
    gap = np.full((GAP, rows[0].shape[1], 3), 255, dtype=np.uint8)
    Image.fromarray(np.vstack([part for one in rows for part in (one, gap)][:-1])).save(HERE / name, quality=88)


def main() -> None:
    """Draw a row for each result that is given."""
    results = [Path(path) for path in sys.argv[1:]]
    save("overlay.jpg", [row(overlays(result)) for result in results])
    save("cutout.jpg", [row(cutouts(result)) for result in results if (result / "cutout").is_dir()])


if __name__ == "__main__":
    main()
