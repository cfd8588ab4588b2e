"""The curve of a training run: its columns, and the picture of it."""

import csv
import io
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from stmcli.files import write_whole

CURVE = ("step", "seconds", "loss", "iou", "lr", "J")
PANEL = (840, 260)  # width and height of a diagram's axes, px
MARGIN = (80, 50)  # left of and above the axes, px
COLOURS = ("#1f5fa8", "#2e8b57", "#c0392b")
GREY = "#cccccc"

Line = tuple[list[float], list[float]]  # x, y


def read_curve(curve: Path) -> list[list[str]]:
    """Return the complete lines of a curve, without its header."""
    if not curve.is_file():
        return []
    with curve.open(newline="") as file:
        return [row for row in csv.reader(file) if len(row) == len(CURVE) and row[0].isdecimal()]


def draw_curve(curve: Path, picture: Path) -> None:
    """Draw `curve.csv` as a PNG: loss above, IoU and validation J below, against steps and time."""
    numbers = [[float(cell) if cell else math.nan for cell in row] for row in read_curve(curve)]
    if not numbers:
        return
    table = dict(zip(CURVE, (list(column) for column in zip(*numbers, strict=True)), strict=True))
    steps = table["step"]
    scored = [i for i, score in enumerate(table["J"]) if not math.isnan(score)]
    scores = [steps[i] for i in scored], [table["J"][i] for i in scored]
    height = 2 * (PANEL[1] + 2 * MARGIN[1])
    image = Image.new("RGB", (PANEL[0] + 2 * MARGIN[0], height), "white")
    draw = ImageDraw.Draw(image)
    known = [loss for loss in table["loss"] if not math.isnan(loss)]
    losses = {"loss": (steps, table["loss"])}
    _draw_panel(draw, 0, losses, top=max([*known, 0.1]), table=table, colours=COLOURS[:1])
    shares = {"IoU on training clips": (steps, table["iou"]), "validation J": scores}
    _draw_panel(draw, height // 2, shares, top=1.0, table=table, colours=COLOURS[1:])
    content = io.BytesIO()
    image.save(content, "PNG")
    write_whole(picture, content.getvalue())


def _draw_panel(
    draw: ImageDraw.ImageDraw,
    above: int,
    lines: dict[str, Line],
    *,
    top: float,
    table: dict[str, list[float]],
    colours: Sequence[str],
) -> None:
    """Draw axes with numbers, a legend and one line per name; y runs from 0 to `top`."""
    font = ImageFont.load_default(15)
    (width, height), (left, room) = PANEL, MARGIN
    base, last = above + room + height, max(table["step"])
    for tick in _ticks(top):
        y = base - height * tick / top
        draw.line((left, y, left + width, y), fill=GREY)
        draw.text((left - 8, y), f"{tick:g}", fill="black", font=font, anchor="rm")
    for tick in _ticks(last):
        x = left + width * tick / last
        hours = float(np.interp(tick, table["step"], table["seconds"])) / 3600 if tick else 0.0
        draw.line((x, base, x, base + 5), fill="black")
        label = f"{tick:g}\n{hours:.1f} h" if tick else "step 0\n0 h"
        draw.multiline_text((x, base + 8), label, fill="black", font=font, anchor="ma", align="center")
    draw.line((left, base, left + width, base), fill="black")
    for place, ((name, (xs, ys)), colour) in enumerate(zip(lines.items(), colours, strict=True)):
        points = [(left + width * x / last, base - height * min(y, top) / top) for x, y in zip(xs, ys, strict=True)]
        points = [point for point in points if not math.isnan(point[1])]
        draw.line(points, fill=colour, width=2)
        for x, y in points if len(points) < 50 else []:
            draw.ellipse((x - 3, y - 3, x + 3, y + 3), fill=colour)
        last_value = f", at last {ys[-1]:.3f}" if ys else ""
        draw.text((left + 10 + 320 * place, above + room - 28), name + last_value, fill=colour, font=font)


def _ticks(top: float) -> list[float]:
    """Choose four to ten round numbers from 0 to `top`."""
    step = 10.0 ** math.floor(math.log10(top))
    step *= next(share for share in (0.1, 0.2, 0.5, 1.0) if top / (step * share) <= 10)
    return [round(i * step, 10) for i in range(int(top / step + 1e-9) + 1)]
