"""Diagrams drawn with Pillow: axes with round numbers, and lines."""

import io
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from stmcli.files import write_whole

GREY = "#cccccc"
FEW = 50  # points; so many or less are marked

Line = tuple[list[float], list[float]]  # x, y


def font(size: int = 15) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """Return the font of all texts."""
    return ImageFont.load_default(size)


@dataclass(frozen=True)
class Panel:
    """Where a pair of axes is in a picture, px, and which numbers are at their ends; y begins at 0."""

    left: int
    above: int
    width: int
    height: int
    span: tuple[float, float]  # x at the left and right end
    top: float  # y at the upper end

    @property
    def base(self) -> int:
        """Where the lower axis is, px from above."""
        return self.above + self.height

    def x(self, value: float) -> float:
        """Return where a number is from the left, px."""
        first, last = self.span
        return self.left + self.width * (value - first) / max(last - first, 1e-9)

    def y(self, value: float) -> float:
        """Return where a number is from above, px; none is outside."""
        return self.base - self.height * min(max(value, 0.0), self.top) / self.top


def draw_axes(draw: ImageDraw.ImageDraw, panel: Panel, label: Callable[[float], str]) -> None:
    """Draw both axes with round numbers; `label` says what stands below the lower one."""
    right = panel.left + panel.width
    for tick in ticks(panel.top):
        draw.line((panel.left, panel.y(tick), right, panel.y(tick)), fill=GREY)
        draw.text((panel.left - 8, panel.y(tick)), f"{tick:g}", fill="black", font=font(), anchor="rm")
    for tick in ticks(panel.span[1], panel.span[0]):
        x = panel.x(tick)
        draw.line((x, panel.base, x, panel.base + 5), fill="black")
        draw.multiline_text((x, panel.base + 8), label(tick), fill="black", font=font(), anchor="ma", align="center")
    draw.line((panel.left, panel.base, right, panel.base), fill="black")


def draw_line(draw: ImageDraw.ImageDraw, panel: Panel, line: Line, colour: str) -> None:
    """Draw a line, and its points when they are few; what is not a number is left out."""
    pairs = zip(*line, strict=True)
    points = [(panel.x(x), panel.y(y)) for x, y in pairs if not math.isnan(y)]
    draw.line(points, fill=colour, width=2)
    for x, y in points if len(points) < FEW else []:
        draw.ellipse((x - 3, y - 3, x + 3, y + 3), fill=colour)


def ticks(last: float, first: float = 0.0) -> list[float]:
    """Choose four to ten round numbers from `first` to `last`, one for no distance."""
    length = last - first
    if length <= 0:
        return [first]
    step = 10.0 ** math.floor(math.log10(length))
    step *= next(share for share in (0.1, 0.2, 0.5, 1.0) if length / (step * share) <= 10)
    begin = math.ceil(first / step - 1e-9)
    return [round(i * step, 10) for i in range(begin, int(last / step + 1e-9) + 1)]


def write_image(path: Path, image: Image.Image) -> None:
    """Write a picture as PNG; the file appears only when complete. Raises WriteError."""
    content = io.BytesIO()
    image.save(content, "PNG")
    write_whole(path, content.getvalue())
