"""A striped hot-air balloon over farmland, passing behind a tree."""

from collections.abc import Callable

import numpy as np
from canvas import FPS, Array, Canvas, mix, sample, smoothstep, unit, value_noise, vec, voronoi, window_around
from outdoors import Air, Camera, Land, Thing, box, paint_land, rod

SUN = unit(vec(-0.62, 0.5, -0.48))
AIR = Air(
    SUN,
    sunlight=vec(2.5, 2.0, 1.45),
    zenith=vec(0.13, 0.28, 0.62),
    horizon=vec(0.62, 0.66, 0.70),
    reach=900,
    clouds=value_noise(512, 5, 6, 1),
    cover=0.46,
)
CLOTH, BARK = value_noise(256, 16, 4, 2), value_noise(256, 8, 5, 3)
LEAVES = np.random.default_rng(4).random((420, 8), np.float32)
RED, YELLOW, WHITE, BLUE = range(4)
DYES = vec(0.62, 0.05, 0.03, 0.80, 0.42, 0.04, 0.78, 0.70, 0.52, 0.04, 0.10, 0.30).reshape(4, 3)


def balloon() -> Callable[[int], Canvas]:
    """Return a function that paints a frame."""
    land = countryside()

    def draw(frame: int) -> Canvas:
        t = frame / FPS
        eye = vec(0.1 + 0.95 * t, 34 + 0.05 * np.sin(2.1 * t), 0.5 * t)
        camera = Camera(eye, 0.02 + 0.012 * t, 400 + 3 * np.sin(1.3 * t), 980)
        flight = craft(t)
        canvas = Canvas(AIR.sky(camera.rays(), 0.002 * t))
        canvas.depth = land.scan(camera, 25, 2600)
        below = float(land.at(*flight.centre[[0, 2]]))
        paint_land(canvas, camera, land, AIR, [flight.shadow(SUN, below)])
        for thing in [flight, *tree()]:
            thing.draw(canvas, camera, AIR)
        for leaf in LEAVES:
            paint_leaf(canvas, camera, leaf, t)
        return canvas

    return draw


def craft(t: float) -> Thing:
    """Return the balloon, drifting and slowly turning."""
    centre, spin = vec(-13 + 6.5 * t, 44 + 1.2 * t + 0.3 * np.sin(1.7 * t), 78), 0.5 + 0.12 * t

    def solid(p: Array) -> list[Array]:
        q = p - centre
        angle = np.arctan2(q[:, 0], q[:, 2]) + spin
        bulge = 0.16 * abs(np.sin(angle * 10)) * np.clip(1.3 - abs(q[:, 1]) / 10, 0, 1)
        c, s = np.cos(spin), np.sin(spin)
        b = np.stack([q[:, 0] * c - q[:, 2] * s, q[:, 1], q[:, 0] * s + q[:, 2] * c], -1)
        corner = np.stack([abs(b[:, 0]), b[:, 1], abs(b[:, 2])], -1)
        ropes = rod(corner, vec(1.0, -11.8, 1.0), vec(0.75, -14.3, 0.75), 0.11)
        basket = box(b, vec(0, -15, 0), vec(1, 0.85, 1), 0.2)
        return [envelope(q, top=8.2, bottom=1.5, drop=10.8) - bulge, ropes, basket]

    def albedo(p: Array, part: Array) -> Array:
        q = p - centre
        angle, up = (np.arctan2(q[:, 0], q[:, 2]) + spin) * 10 / np.pi, q[:, 1]
        zigzag = abs(angle % 2 - 1) * 1.6
        gore = np.where(np.floor(angle) % 2 == 0, RED, YELLOW)
        band = np.where(np.floor((up + zigzag) / 1.8) % 2 == 0, WHITE, BLUE)
        gore = np.where((up + zigzag > -3.2) & (up + zigzag < 2.2), band, gore)
        gore = np.where((up > 7) | (up < -9.4), BLUE, gore)
        seam = smoothstep(0, 0.09, 0.5 - abs(angle % 1 - 0.5)) * smoothstep(0, 0.06, abs(up / 1.5 % 1 - 0.5))
        grain = 0.85 + 0.3 * sample(CLOTH, angle / 6, up / 12)
        fabric = DYES[gore] * (grain * mix(0.7, 1, seam))[:, None]
        weave = 0.6 + 0.4 * np.sign(np.sin(up * 14) * np.sin((q[:, 0] + q[:, 2]) * 11))
        wicker = vec(0.30, 0.17, 0.07) * weave[:, None]
        return np.choose(part[:, None], [fabric, vec(0.1, 0.08, 0.06), wicker])

    return Thing(solid, centre - vec(0, 3.9, 0), 12.8, albedo, 1)


def envelope(p: Array, *, top: float, bottom: float, drop: float) -> Array:
    """Return the distance to a ball of radius `top` joined by tangents to a smaller one, `drop` below it."""
    side, up = np.hypot(p[:, 0], p[:, 2]), -p[:, 1]
    slant = (top - bottom) / drop
    run = np.sqrt(1 - slant * slant)
    along = up * run - side * slant  # along the tangent line
    ball, tip = np.hypot(side, up) - top, np.hypot(side, up - drop) - bottom
    return np.where(along < 0, ball, np.where(along > run * drop, tip, side * run + up * slant - top))


def tree() -> list[Thing]:
    """Return the trunk and the twigs of the tree next to the camera."""

    def trunk(p: Array) -> list[Array]:
        sway = 0.09 * np.sin(0.9 * p[:, 1])
        angle = np.arctan2(p[:, 0] - 1.2 - sway, p[:, 2] - 7)
        rough = sample(BARK, angle * 0.55, p[:, 1] * 0.22) + 0.4 * sample(BARK, angle * 2, p[:, 1] * 0.9)
        thick = 0.25 - 0.02 * (p[:, 1] - 34) + 0.05 * (rough - 0.6)
        return [0.7 * (np.hypot(p[:, 0] - 1.2 - sway, p[:, 2] - 7) - thick)]

    def twigs(p: Array) -> list[Array]:
        ends = vec(-0.5, 36.8, 6.7), vec(0.4, 37.4, 6.9), vec(3.1, 36.7, 7.2), vec(2.3, 37.4, 7.0)
        return [rod(p, vec(1.3, 35.5 + 0.2 * i, 7), end, 0.03) for i, end in enumerate(ends)]

    def albedo(p: Array, _: Array) -> Array:
        moss = smoothstep(0.45, 0.7, sample(BARK, p[:, 0] * 0.6, p[:, 1] * 0.3))
        return mix(vec(0.17, 0.12, 0.085), vec(0.10, 0.12, 0.04), moss[:, None])

    return [
        Thing(trunk, vec(1.2, 34, 7), 3.4, albedo, slim=0.14),
        Thing(twigs, vec(1.3, 36.5, 7), 2.0, albedo),
    ]


def countryside() -> Land:
    """Return 1.4 km of rolling fields, hedges and woods."""
    n, metres = 1024, 1400
    hills, bumps, tint = value_noise(n, 3, 2, 5), value_noise(n, 190, 2, 6), value_noise(n, 6, 7, 7)
    _, margin, index = voronoi(n, 17, 8)
    wood, row = value_noise(n, 8, 5, 9) - 0.57, 0.05 - margin  # above 0 there are trees
    crops = vec(0.09, 0.15, 0.03, 0.17, 0.19, 0.05, 0.38, 0.29, 0.10, 0.06, 0.11, 0.03, 0.22, 0.14, 0.07)
    rng = np.random.default_rng(10)
    field = crops.reshape(5, 3)[rng.integers(0, 5, 17 * 17)][index] * (0.5 + tint)[..., None]
    y, x = np.mgrid[0:n, 0:n]
    turn = rng.random(17 * 17)[index] * np.pi
    field *= (1 + 0.14 * np.sin(1.9 * (x * np.cos(turn) + y * np.sin(turn))))[..., None]
    trees = np.maximum(smoothstep(0, 0.025, wood), smoothstep(0, 0.025, row) * smoothstep(0.3, 0.45, bumps))
    dark = np.maximum(smoothstep(-0.03, -0.015, wood), smoothstep(-0.03, -0.01, row))[..., None]
    green = mix(vec(0.018, 0.04, 0.01), vec(0.075, 0.10, 0.02), bumps[..., None] ** 2)
    height = 46 * smoothstep(0.1, 1, hills) + trees * (2 + 8 * bumps)
    tufts = value_noise(512, 24, 5, 11)
    land = Land(height, mix(field, green, dark), metres, SUN)
    return land.strew(2.0 * tufts, 2.4 * (tufts - 0.5), 40, 220)


def paint_leaf(canvas: Canvas, camera: Camera, leaf: Array, t: float) -> None:
    """Draw one leaf of the foreground tree, turning in the wind."""
    side, lift, deep, turn, size, tint, phase, tilt = (float(v) for v in leaf)
    wind = np.sin(2.4 * t + 6.3 * phase) + 0.5 * np.sin(5.1 * t + 9 * tilt)
    low = 37.4 - 1.6 * lift**2 * (1.2 - abs(2 * side - 1))
    at = vec(1.2 + 5.2 * (side - 0.5) + 0.02 * wind, low, 6.4 + 1.4 * deep)
    col, row, depth = camera.project(at)
    length = (0.10 + 0.09 * size) * camera.focal / depth
    window = window_around(col, row, length, length)
    y, x = np.mgrid[window]
    angle = 6.3 * turn + 0.22 * wind
    a = ((x + 0.5 - col) * np.cos(angle) + (y + 0.5 - row) * np.sin(angle)) / length
    b = ((y + 0.5 - row) * np.cos(angle) - (x + 0.5 - col) * np.sin(angle)) / length
    width = (0.16 + 0.24 * tilt) * np.clip(1 - a * a, 0, 1) * (1 - 0.35 * a)
    alpha = smoothstep(0, 0.06, width - abs(b)).astype(np.float32)
    vein = 0.75 + 0.25 * smoothstep(0, 0.04, abs(b))
    shine = 0.45 + 0.55 * tint + 0.25 * np.sign(b) + 0.12 * wind
    green = mix(vec(0.06, 0.10, 0.015), vec(0.30, 0.30, 0.04), tint) * AIR.sunlight
    colour = 0.55 * green * np.clip(shine * vein, 0.15, 2)[..., None]
    canvas.paint(colour.astype(np.float32), alpha, window=window)
