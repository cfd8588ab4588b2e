"""A six-wheeled rover that drives out of the dunes towards the camera, behind a rock."""

from collections.abc import Callable

import numpy as np
from canvas import FPS, Array, Canvas, mix, norm, sample, smoothstep, unit, value_noise, vec, window_around
from outdoors import Air, Camera, Land, Thing, box, paint_land, rod

AXLES, WHEEL, SPEED = (-0.8, 0.0, 0.8), 0.31, 3.1
SUN = unit(vec(0.70, 0.44, -0.50))
AIR = Air(
    SUN,
    sunlight=vec(2.6, 1.85, 1.1),
    zenith=vec(0.12, 0.23, 0.45),
    horizon=vec(0.66, 0.52, 0.40),
    reach=110,
    clouds=value_noise(512, 5, 6, 40),
    cover=0.55,
)
STONE = value_noise(256, 4, 6, 41)
PUFFS = np.random.default_rng(42).random((110, 4), np.float32)
PAINT = vec(
    *(0.045, 0.045, 0.05, 0.25, 0.25, 0.26, 0.72, 0.70, 0.66),
    *(0.03, 0.05, 0.13, 0.3, 0.3, 0.3, 0.62, 0.62, 0.6),
).reshape(6, 3)
RUBBER, ARMS, HULL, PANEL, MAST, HEAD = range(6)


def rover() -> Callable[[int], Canvas]:
    """Return a function that paints a frame."""
    land = desert()
    places = (-1.1, 8.6, 1.35, 0.1), (4.6, 11.5, 0.8, 0.4), (-4.6, 7.0, 0.45, 0.7), (1.2, 16.5, 1.0, 0.55)
    rocks = [rock(land, *place) for place in places]
    shadows = [thing.shadow(SUN, float(thing.centre[1])) for thing in rocks]

    def draw(frame: int) -> Canvas:
        t = frame / FPS
        eye = vec(0.35 * t, float(land.at(0, 0)) + 2.2, -0.1 * t)
        camera = Camera(eye, -0.16 + 0.085 * t + 0.003 * np.sin(5 * t), 285 + 2.5 * np.sin(7 * t), 1080)
        car = vehicle(land, t)
        under = car.shadow(SUN, float(car.centre[1]) - 0.95)
        canvas = Canvas(AIR.sky(camera.rays(), 0.0))
        canvas.depth = land.scan(camera, 2.5, 260)
        paint_land(canvas, camera, land, AIR, [*shadows, under, lambda x, z: ruts(x, z, t)])
        for thing in [*rocks, car]:
            thing.draw(canvas, camera, AIR)
        for puff in PUFFS:
            paint_dust(canvas, camera, land, puff, t)
        return canvas

    return draw


def way(t: float) -> tuple[float, float]:
    """Return x and z of the rover."""
    return -5.2 + SPEED * t, 15.5 - 2.9 * t - 0.18 * t * t


def pose(land: Land, t: float) -> tuple[Array, Array, list[float]]:
    """Return the place, the axes (forward, up, left as rows) and each axle's height above the frame."""
    (x, z), (x2, z2) = way(t), way(t + 0.01)
    ahead = unit(vec(x2 - x, z2 - z))
    heights = [float(land.at(x + a * ahead[0], z + a * ahead[1])) for a in AXLES]
    left = [float(land.at(x - s * ahead[1], z + s * ahead[0])) for s in (-0.6, 0.6)]
    pitch = (heights[2] - heights[0]) / (AXLES[2] - AXLES[0]) + 0.012 * np.sin(11 * t)
    forward = unit(vec(ahead[0], pitch, ahead[1]))
    side = vec(-ahead[1], (left[1] - left[0]) / 1.2 + 0.012 * np.sin(8.3 * t), ahead[0])
    side = unit(side - forward * (side @ forward))
    up = np.cross(side, forward)
    up = up if up[1] > 0 else -up
    base = float(np.mean(heights))
    lifts = [h - base - a * pitch for h, a in zip(heights, AXLES, strict=True)]
    return vec(x, base, z), np.stack([forward, up, side]), lifts


def wheel(q: Array, spin: float) -> Array:
    """Return the distance to a treaded wheel around the origin, its axle along z."""
    side, flat = np.hypot(q[:, 0], q[:, 1]), abs(q[:, 2]) - 0.11
    flat = flat + 0.05 * smoothstep(0.2, 0.1, side)
    side = side - (WHEEL - 0.04) - 0.012 * np.sin(22 * (np.arctan2(q[:, 1], q[:, 0]) - spin))
    return np.hypot(np.maximum(side, 0), np.maximum(flat, 0)) + np.minimum(np.maximum(side, flat), 0) - 0.03


def vehicle(land: Land, t: float) -> Thing:
    """Return the rover: x forward, y up, z to its left."""
    place, axes, axles = pose(land, t)
    spin = -1.4 * SPEED * t / WHEEL

    def hub(q: Array) -> Array:
        """Return coordinates around the nearest axle's wheel, left and right folded together."""
        nearest = np.clip(np.rint(q[:, 0] / 0.8), -1, 1).astype(int)
        lift = np.array(axles, np.float32)[nearest + 1]
        x, y, z = q[:, 0] - 0.8 * nearest, q[:, 1] - WHEEL - lift, abs(q[:, 2]) - 0.62
        return np.stack([x, y, z], -1).astype(np.float32)

    def solid(p: Array) -> list[Array]:
        q = (p - place) @ axes.T
        arms = rod(abs(q), vec(0.8, WHEEL, 0.48), vec(0, 0.66, 0.44), 0.045)
        arms = np.minimum(arms, rod(abs(q), vec(0, WHEEL, 0.48), vec(0, 0.66, 0.44), 0.045))
        hull = box(q, vec(0, 0.74, 0), vec(0.78, 0.17, 0.42), 0.07)
        hull = np.minimum(hull, box(q, vec(-0.55, 1.05, 0), vec(0.22, 0.16, 0.28), 0.05))
        panel = box(q, vec(0.12, 0.99, 0), vec(0.42, 0.025, 0.5), 0.02)
        mast, aerial = rod(q, vec(0.62, 0.8, 0.2), vec(0.62, 1.5, 0.2), 0.05), vec(-0.85, 1.95, -0.22)
        mast = np.minimum(mast, rod(q, vec(-0.7, 1.1, -0.22), aerial, 0.022))
        head = box(q, vec(0.65, 1.58, 0.2), vec(0.12, 0.1, 0.2), 0.05)
        return [wheel(hub(q), spin), arms, hull, panel, mast, head]

    def albedo(p: Array, part: Array) -> Array:
        q = (p - place) @ axes.T
        patchy = sample(STONE, q[:, 0] * 0.7, q[:, 2] * 0.7 + q[:, 1] * 0.6)
        dust = smoothstep(1.1, 0.25, q[:, 1] + 0.3 * patchy)
        grid = np.maximum(abs(q[:, 0] / 0.17 % 1 - 0.5), abs(q[:, 2] / 0.17 % 1 - 0.5))
        eyes = np.hypot(q[:, 1] - 1.58, abs(q[:, 2] - 0.2) - 0.09)
        colour = PAINT[part]
        colour[(part == RUBBER) & (np.hypot(*hub(q)[:, :2].T) < 0.16)] = vec(0.45, 0.45, 0.46)
        colour[(part == HULL) & (abs(q[:, 1] - 0.72) < 0.055)] = vec(0.75, 0.16, 0.02)
        colour[(part == PANEL) & (grid > 0.44)] = vec(0.35, 0.37, 0.40)
        colour[(part == HEAD) & (q[:, 0] > 0.74) & (eyes < 0.06)] = vec(0.01, 0.01, 0.015)
        return mix(colour, vec(0.42, 0.25, 0.13), 0.75 * dust[:, None])

    return Thing(solid, place + vec(0, 0.95, 0), 1.5, albedo, 1)


def rock(land: Land, x: float, z: float, size: float, seed: float) -> Thing:
    """Return a weathered boulder, half sunk in the sand."""
    centre = vec(x, float(land.at(x, z)) + 0.25 * size, z)

    def solid(p: Array) -> list[Array]:
        q = (p - centre) / size
        lump = sample(STONE, 0.35 * q[:, 0] + seed, 0.35 * q[:, 1] + 0.15 * q[:, 2])
        lump = 0.5 * lump + 0.5 * sample(STONE, 0.35 * q[:, 2] + 0.3, 0.4 * q[:, 1] - 0.15 * q[:, 0] + seed)
        blunt = norm(q * vec(0.85, 1.25, 0.9)) - 0.5 - 0.6 * lump
        facet = abs(q @ unit(vec(0.6, 0.7, -0.5))) - 0.45 - 0.3 * lump
        return [0.6 * size * np.maximum(blunt, facet)]

    def albedo(p: Array, _: Array) -> Array:
        q = p - centre
        band = sample(STONE, 0.05 * q[:, 0], 0.9 * q[:, 1] + 0.1 * q[:, 2])
        speck = sample(STONE, 0.8 * q[:, 0] + 0.3 * q[:, 2], 0.8 * q[:, 1] + 0.4 * q[:, 2])
        return mix(vec(0.20, 0.11, 0.065), vec(0.40, 0.25, 0.15), band[:, None]) * (0.55 + 0.9 * speck)[:, None]

    return Thing(solid, centre, 1.3 * size, albedo)


def ruts(x: Array, z: Array, t: float) -> Array:
    """Return how much light the ruts behind the rover leave."""
    when = (x - way(0)[0]) / SPEED
    aside = abs(z - way(when)[1]) * 0.7
    rut = smoothstep(0.13, 0.09, abs(aside - 0.62)) * smoothstep(0, 0.1, t - when)
    return 1 - rut * (0.3 + 0.25 * np.sign(np.sin(when * 90)))


def paint_dust(canvas: Canvas, camera: Camera, land: Land, puff: Array, t: float) -> None:
    """Draw one puff of the dust that the rear wheels throw up."""
    born = float(puff[0]) * 4.2 - 1.6
    age = t - born
    if not 0 < age < 1.8:
        return
    x, z = way(born - 0.28)
    at = vec(x - 0.8 * age * float(puff[1]), 0.1 + 0.4 * age, z + float(puff[2]) - 0.5)
    at[1] += float(land.at(at[0], at[2]))
    (col, row, depth), radius = camera.project(at), 0.2 + 0.5 * age
    reach = radius * camera.focal / depth
    window = window_around(col, row, reach, reach)
    y, x = np.mgrid[window].astype(np.float32)
    u, v = (x - col) / reach, (y - row) / reach
    swirl = sample(STONE, 0.3 * u + float(puff[3]), 0.3 * v + 0.2 * age)
    ahead = smoothstep(-radius, radius, canvas.depth[window] - depth)
    alpha = 0.8 * np.exp(-1.5 * age) * smoothstep(1, 0.1, np.hypot(u, v) + 0.5 * swirl) * ahead
    canvas.paint(vec(0.74, 0.54, 0.34) * (1.15 - 0.3 * swirl - 0.15 * v)[..., None], alpha, window=window)


def desert() -> Land:
    """Return rippled dunes, low where the rover drives."""
    n, metres = 1024, 150
    soft, crest = value_noise(n, 4, 4, 30), 1 - abs(2 * value_noise(n, 3, 3, 31) - 1)
    tint = value_noise(n, 9, 6, 32)
    albedo = mix(vec(0.36, 0.185, 0.085), vec(0.50, 0.30, 0.15), tint[..., None])
    u, v = np.meshgrid(np.arange(512) / 512, np.arange(512) / 512)
    warp, sand = value_noise(512, 4, 3, 33), value_noise(512, 60, 3, 34)
    wave = 0.5 + 0.5 * np.sin(2 * np.pi * (9 * u + 14 * v + 2.2 * warp))
    ripples = 0.028 * wave**1.6 * (0.3 + warp) + 0.02 * sand
    dunes = np.roll(4.5 * crest**2.5 + 1.1 * soft, (-205, -341), (0, 1))  # a level stretch before the camera
    return Land(dunes, albedo, metres, SUN).strew(ripples, 0.5 * (sand - 0.5), 4.5, 14)
