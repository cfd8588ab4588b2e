"""A picture of how a clip was scored: J of every frame, and the worst frames with both contours."""

from collections.abc import Container, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from stmcli.diagram import Panel, draw_axes, draw_line, font, write_image
from stmcli.errors import UsageError
from stmcli.evaluate.layout import (
    annotation_folders,
    by_frame,
    frame_key,
    image_folder,
    mask_files,
    predicted_folders,
)
from stmcli.evaluate.scores import ObjectScores, Scores
from stmcli.evaluate.scoring import Truth, read_prediction
from stmcli.files import natural_key, writing
from stmcli.images import check_size, load_image
from stmcli.metrics import Mask
from stmcli.render import outline, palette, palette_index

WIDTH, MARGIN, GAP = 1280, 60, 12  # px
CURVES, TITLE, LEGEND, FOOT = 240, 44, 22, 50  # heights of the diagram, the title, a line of the legend, the numbers
TILES, TALLEST = 3, 420  # worst frames side by side, and how high one may be, px
APART = 0.1  # worst frames are at least so much of the clip apart
TRUTH, PREDICTION = "#00e5ff", "#ff3d00"
CLOSEST, AROUND = 0.3, 1.8  # share of a frame's sides to show at least, and how much more than the object takes
DARK, LIT = 40, 90  # grey of the background and of the object where there are no frames
IMAGES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff")

Objects = dict[int, ObjectScores]


@dataclass(frozen=True)
class Worst:
    """A frame in which an object is scored badly."""

    frame: str
    number: int
    j: float


def draw_sheets(scores: Scores, predictions: Path, truth: Path, *, protocol: str, target: Path) -> list[Path]:
    """Draw a picture of every clip into a folder, or all in one when `target` ends in .png; return what was written.

    Frames are taken from `JPEGImages` beside the ground truth; without them the worst masks are drawn on grey. Raises
    UsageError, MaskError, WriteError.
    """
    sheets = _sheets(scores, predictions, truth, protocol)
    if target.suffix.lower() == ".png":
        write_image(target, _stack([sheet for _, sheet in sheets]))
        return [target]
    with writing(target):
        target.mkdir(parents=True, exist_ok=True)
    written = []
    for name, sheet in sheets:
        written.append(target / f"{name}.png")
        write_image(written[-1], sheet)
    return written


def worst_frames(objects: Objects, *, among: Container[str] | None = None) -> list[Worst]:
    """Return the frames with the lowest J of any object, some distance apart, in the order of the clip.

    `among` holds the keys of those that can be shown: before an object enters no mask need be predicted.
    """
    order = _frames_of(objects)
    places = {frame: place for place, frame in enumerate(order)}
    pairs = [(number, one) for number, one in objects.items()]
    ranked = sorted(
        (
            Worst(frame, number, float(j))
            for number, one in pairs
            for frame, j in zip(one.frames, one.j, strict=True)
            if among is None or frame_key(frame) in among
        ),
        key=lambda worst: (worst.j, places[worst.frame]),
    )
    chosen: list[Worst] = []
    for worst in ranked:
        near = (abs(places[worst.frame] - places[other.frame]) for other in chosen)
        if len(chosen) < TILES and all(distance >= max(1, APART * len(order)) for distance in near):
            chosen.append(worst)
    return sorted(chosen, key=lambda worst: places[worst.frame])


def _frames_of(objects: Objects) -> list[str]:
    """Return the names of all scored frames, in the order of the clip."""
    return sorted({frame for one in objects.values() for frame in one.frames}, key=natural_key)


def _sheets(scores: Scores, predictions: Path, truth: Path, protocol: str) -> Iterator[tuple[str, Image.Image]]:
    annotations = annotation_folders(truth, protocol, only=scores.sequences)
    found, images = predicted_folders(predictions, annotations), image_folder(truth)
    for name, objects in scores.sequences.items():
        given, predicted = Truth(annotations[name], protocol), by_frame(mask_files(found[name]))
        worst = worst_frames(dict(objects), among=predicted)
        tiles = [_tile(one, given, predicted[frame_key(one.frame)], images / name) for one in worst]
        yield name, _sheet(name, dict(objects), worst, tiles)


def _stack(sheets: list[Image.Image]) -> Image.Image:
    whole = Image.new("RGB", (WIDTH, sum(sheet.height for sheet in sheets)), "white")
    above = 0
    for sheet in sheets:
        whole.paste(sheet, (0, above))
        above += sheet.height
    return whole


def _sheet(name: str, objects: Objects, worst: list[Worst], tiles: list[Image.Image]) -> Image.Image:
    legend = [_legend_of(number, one) for number, one in objects.items()]
    rows = _in_rows(legend)
    above = TITLE + LEGEND * len(rows) + GAP
    strip = above + CURVES + FOOT
    height = strip + LEGEND + max(tile.height for tile in tiles) + 2 * GAP
    sheet = Image.new("RGB", (WIDTH, height), "white")
    draw = ImageDraw.Draw(sheet)
    means = [float(np.mean([getattr(one, letter).mean() for one in objects.values()])) for letter in "jf"]
    draw.text((MARGIN, 12), f"{name}   J {means[0]:.3f}   F {means[1]:.3f}", fill="black", font=font(22))
    for place, row in enumerate(rows):
        for column, (text, colour) in enumerate(row):
            left, y = MARGIN + column * _column(legend), TITLE + LEGEND * place
            draw.rectangle((left, y + 5, left + 14, y + 13), fill=colour)
            draw.text((left + 22, y), text, fill="black", font=font())
    _draw_curves(draw, above, objects, worst)
    _draw_key(draw, strip)
    for place, tile in enumerate(tiles):
        sheet.paste(tile, (MARGIN + place * (_tile_width() + GAP), strip + LEGEND + GAP // 2))
    return sheet


def _legend_of(number: int, one: ObjectScores) -> tuple[str, str]:
    category = f" {one.category}" if one.category else ""
    return f"object {number}{category}: J {one.j.mean():.3f}, F {one.f.mean():.3f}", _colour(number)


def _column(legend: list[tuple[str, str]]) -> int:
    return int(max(font().getlength(text) for text, _ in legend)) + 50


def _in_rows(legend: list[tuple[str, str]]) -> list[list[tuple[str, str]]]:
    columns = max(1, (WIDTH - 2 * MARGIN) // _column(legend))
    return [legend[first : first + columns] for first in range(0, len(legend), columns)]


def _draw_curves(draw: ImageDraw.ImageDraw, above: int, objects: Objects, worst: list[Worst]) -> None:
    """Draw J of every object against the numbers of the frames, and ring the worst."""
    names = _frames_of(objects)
    numeric = all(name.isdecimal() for name in names)
    place = {name: float(name) if numeric else float(index) for index, name in enumerate(names)}
    span = min(place.values()), max(place.values())
    panel = Panel(MARGIN, above, WIDTH - 2 * MARGIN, CURVES, span, 1.0)
    draw_axes(draw, panel, lambda x: f"{x:g}")
    draw.text((MARGIN - 12, panel.base + 8), "frame", fill="black", font=font(), anchor="ra")
    draw.text((MARGIN - 34, above - 4), "J", fill="black", font=font(), anchor="ls")
    for number, one in objects.items():
        draw_line(draw, panel, ([place[frame] for frame in one.frames], one.j.tolist()), _colour(number))
    for one_worst in worst:
        x, y = panel.x(place[one_worst.frame]), panel.y(one_worst.j)
        draw.ellipse((x - 7, y - 7, x + 7, y + 7), outline="black", width=2)


def _draw_key(draw: ImageDraw.ImageDraw, above: int) -> None:
    left = float(MARGIN)
    texts = (("the worst frames (ringed above)", None), ("ground truth", TRUTH), ("prediction", PREDICTION))
    for text, colour in texts:
        if colour:
            draw.rectangle((left, above + 6, left + 22, above + 12), fill=colour)
            left += 30
        draw.text((left, above), text, fill="black", font=font())
        left += font().getlength(text) + 28


def _tile_width() -> int:
    return (WIDTH - 2 * MARGIN - (TILES - 1) * GAP) // TILES


def _tile(worst: Worst, truth: Truth, predicted: Path, images: Path) -> Image.Image:
    """Draw a frame with both contours of its object, and which frame it is and its J on it."""
    path = next(file for file in truth.files if file.stem == worst.frame)
    labels = truth.read(path)
    masks = labels == worst.number, read_prediction(predicted, labels, path, truth) == worst.number
    box = _view(masks[0] | masks[1])
    scale = min(_tile_width() / (box[2] - box[0]), TALLEST / (box[3] - box[1]))
    size = max(1, round((box[2] - box[0]) * scale)), max(1, round((box[3] - box[1]) * scale))
    picture = _picture(images, worst.frame, masks[0]).resize(size, Image.Resampling.LANCZOS, box=box)
    for mask, colour in zip(masks, (TRUTH, PREDICTION), strict=True):
        small = np.array(Image.fromarray(mask).resize(size, Image.Resampling.NEAREST, box=box))
        picture.paste(colour, mask=Image.fromarray(outline(small.astype(np.uint8), 2)))
    draw = ImageDraw.Draw(picture)
    text = f"frame {worst.frame}, object {worst.number}: J {worst.j:.2f}"
    draw.rectangle((0, 0, font(16).getlength(text) + 16, 26), fill="black")
    draw.text((8, 3), text, fill="white", font=font(16))
    return picture


def _view(mask: Mask) -> tuple[int, int, int, int]:
    """Return left, top, right and bottom of what to show: the whole frame, or less around a small object."""
    height, width = mask.shape
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if not rows.size:
        return 0, 0, width, height
    sides = (rows[-1] - rows[0]) / height, (columns[-1] - columns[0]) / width
    share = max(CLOSEST, AROUND * max(sides))
    if share >= 1:
        return 0, 0, width, height
    tall, wide = max(1, round(share * height)), max(1, round(share * width))
    top = min(max(0, int(rows[0] + rows[-1] - tall) // 2), height - tall)
    left = min(max(0, int(columns[0] + columns[-1] - wide) // 2), width - wide)
    return left, top, left + wide, top + tall


def _picture(images: Path, frame: str, truth: Mask) -> Image.Image:
    """Return a frame, or where there are none the object on grey."""
    files = [path for path in images.glob("*") if path.suffix.lower() in IMAGES and path.name[0] != "."]
    path = by_frame(files).get(frame_key(frame))
    if path is None:
        if files:
            raise UsageError(f"no frame {frame}", path=images, hint="Complete the dataset")
        return Image.fromarray(np.where(truth, LIT, DARK).astype(np.uint8)).convert("RGB")
    picture = load_image(path).convert("RGB")
    check_size(path, picture.size, truth.shape[::-1], "the ground truth")
    return picture


def _colour(number: int) -> str:
    red, green, blue = palette()[palette_index(number)]
    return f"#{red:02x}{green:02x}{blue:02x}"
