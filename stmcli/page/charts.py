"""Curves over a clip as inline SVG, with a bounded number of points."""

from collections.abc import Sequence

import numpy as np

POINTS = 400
WIDTH, HEIGHT = 800, 100


def thin(values: Sequence[float], *, lowest: bool) -> list[tuple[float, float]]:
    """Return at most POINTS (place 0..1, value) of a curve: of each stretch the lowest, or the mean."""
    if not values:
        return []
    parts = np.array_split(np.asarray(values, dtype=float), min(POINTS, len(values)))
    ends = np.cumsum([len(part) for part in parts])
    last = max(1, len(values) - 1)
    middles = [(end - (len(part) + 1) / 2) / last for end, part in zip(ends, parts, strict=True)]
    found = [part.min() if lowest else part.mean() for part in parts]
    return [(float(x), float(y)) for x, y in zip(middles, found, strict=True)]


def chart(
    curve: Sequence[tuple[float, float]],
    *,
    kind: str,
    title: str,
    level: float | None = None,
    lines: Sequence[float] = (),
    gaps: Sequence[tuple[float, float]] = (),
) -> str:
    """Return an SVG: a curve of (place, value) in 0..1, filled, over gaps, with vertical lines and one level.

    `kind` is a CSS class; `title` is read aloud, and must be escaped.
    """
    points = " ".join(f"{x * WIDTH:.1f},{(1 - y) * HEIGHT:.1f}" for x, y in curve)
    parts = [
        *(f'<rect class="gap" x="{a * WIDTH:.1f}" width="{max(2, (b - a) * WIDTH):.1f}" height="{HEIGHT}"/>'
          for a, b in gaps),
        f'<polygon class="fill" points="{_x(curve, 0)},{HEIGHT} {points} {_x(curve, -1)},{HEIGHT}"/>' if curve else "",
        "" if level is None else f'<path class="level" d="M0 {(1 - level) * HEIGHT:.1f}H{WIDTH}"/>',
        *(f'<path class="cut" d="M{x * WIDTH:.1f} 0V{HEIGHT}"/>' for x in lines),
        f'<polyline class="line" points="{points}"/>',
    ]  # fmt: skip
    return (
        f'<svg class="{kind}" viewBox="0 0 {WIDTH} {HEIGHT}" preserveAspectRatio="none" role="img" '
        f'aria-label="{title}">{"".join(parts)}</svg>'
    )


def _x(curve: Sequence[tuple[float, float]], place: int) -> str:
    return f"{curve[place][0] * WIDTH:.1f}"
