"""The curve of a training run: its columns, and the picture of it."""

import csv
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from stmcli.diagram import Line, Panel, draw_axes, draw_line, font, write_image

CURVE = ("step", "seconds", "loss", "iou", "lr", "J")
PANEL = (840, 260)  # width and height of a diagram's axes, px
MARGIN = (80, 50)  # left of and above the axes, px
UNITS = ((3600, "h"), (60, "min"), (1, "s"))
COLOURS = ("#1f5fa8", "#2e8b57", "#c0392b")


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
    write_image(picture, image)


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
    length, unit = next((one for one in UNITS if max(table["seconds"]) >= 2 * one[0]), UNITS[-1])

    def label(step: float) -> str:
        seconds = float(np.interp(step, [0.0, *table["step"]], [0.0, *table["seconds"]]))
        return f"{step:g}\n{seconds / length:.1f} {unit}" if step else f"step 0\n0 {unit}"

    (width, height), (left, room) = PANEL, MARGIN
    panel = Panel(left, above + room, width, height, (0, max(table["step"])), top)
    draw_axes(draw, panel, label)
    for place, ((name, line), colour) in enumerate(zip(lines.items(), colours, strict=True)):
        draw_line(draw, panel, line, colour)
        last_value = f", at last {line[1][-1]:.3f}" if line[1] else ""
        draw.text((left + 10 + 320 * place, above + room - 28), name + last_value, fill=colour, font=font())
