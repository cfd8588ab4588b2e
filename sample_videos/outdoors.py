"""Camera, sky, land and solid things in the sun: what the balloon and the rover are made with.

World units are metres: x right, y up, z away from the first camera.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from canvas import COLS, ROWS, Array, Canvas, mix, norm, sample, slopes, smoothstep, unit, vec, window_around


@dataclass
class Camera:
    """A level camera: tilting is a shift of the horizon, as with a view camera."""

    eye: Array
    yaw: float
    horizon: float
    focal: float

    def rays(self, window: tuple = np.s_[0:ROWS, 0:COLS]) -> Array:
        """Return directions (h, w, 3) of one unit of depth each."""
        rows, cols = window
        x = ((np.arange(cols.start, cols.stop) + 0.5 - COLS / 2) / self.focal).astype(np.float32)[None, :]
        y = ((self.horizon - np.arange(rows.start, rows.stop) - 0.5) / self.focal).astype(np.float32)[:, None]
        c, s = np.cos(self.yaw), np.sin(self.yaw)
        return np.stack(np.broadcast_arrays(x * c + s, y, c - x * s), -1).astype(np.float32)

    def project(self, point: Array) -> tuple[float, float, float]:
        """Return column, row and depth of a point."""
        x, y, z = (float(v) for v in point - self.eye)
        c, s = np.cos(self.yaw), np.sin(self.yaw)
        depth = max(x * s + z * c, 1e-3)
        return COLS / 2 + self.focal * (x * c - z * s) / depth, self.horizon - self.focal * y / depth, depth


@dataclass
class Air:
    """The light of a place."""

    sun: Array
    sunlight: Array
    zenith: Array
    horizon: Array
    reach: float  # metres over which haze takes two thirds of the view
    clouds: Array
    cover: float

    def sky(self, rays: Array, drift: float) -> Array:
        d = unit(rays)
        up, toward = np.clip(d[..., 1], 0, 1), np.clip(d @ self.sun, 0, 1)
        colour = mix(self.horizon, self.zenith, (1 - np.exp(-3.2 * up))[..., None])
        u, v = (d[..., a] / (up + 0.18) * 0.21 for a in (0, 2))
        body, edge = sample(self.clouds, u + drift, v), sample(self.clouds, u + drift - 0.012, v + 0.008)
        cloud = smoothstep(self.cover, self.cover + 0.28, body) * smoothstep(0.0, 0.12, up)
        white = mix(self.horizon, self.sunlight * 0.55, np.clip(0.62 + 5 * (body - edge), 0, 1)[..., None])
        glow = self.sunlight * (0.25 * toward**10 + 0.05 * toward**3)[..., None]
        return mix(colour, white, 0.85 * cloud[..., None]) + glow

    def light(self, albedo: Array, normal: Array, lit: Array, depth: Array | float) -> Array:
        """Shade a matt surface by sun and sky, then look at it through the haze."""
        direct = (np.clip(normal @ self.sun, 0, 1) * lit)[..., None]
        sky = mix(0.12, 0.42, 0.5 + 0.5 * normal[..., 1:2]) * self.zenith + 0.06 * self.horizon
        haze = 1 - np.exp(-np.asarray(depth, np.float32)[..., None] / self.reach)
        return mix(albedo * (direct * self.sunlight + sky), self.horizon, haze)


class Land:
    """A repeating height map with colours and the shadows of its own hills."""

    def __init__(self, height: Array, albedo: Array, metres: float, sun: Array) -> None:
        n = height.shape[0]
        self.metres, self.height = metres, height.astype(np.float32)
        blocked = np.zeros_like(height)
        for step in np.unique(np.geomspace(1, n / 6, 28).astype(int)):
            shift = np.round(step * sun[[2, 0]] / np.hypot(sun[0], sun[2])).astype(int)
            rise = step * metres / n * sun[1] / np.hypot(sun[0], sun[2])
            above = np.roll(height, (-shift[0], -shift[1]), (0, 1)) - height - rise
            blocked = np.maximum(blocked, above / (0.02 * rise + metres / n))
        layers = [*slopes(height, metres / n), 1 - np.clip(blocked, 0, 1)]
        self.surface = np.dstack([*layers, albedo]).astype(np.float32)

    def strew(self, height: Array, tint: Array, metres: float, reach: float) -> "Land":
        """Add a small repeating relief and tint that fade out over reach metres."""
        self.grain_metres, self.grain_reach = metres, reach
        self.grain = np.dstack([*slopes(height, metres / height.shape[0]), tint]).astype(np.float32)
        return self

    def at(self, x: Array, z: Array) -> Array:
        return sample(self.height, np.float32(x) / self.metres, np.float32(z) / self.metres)

    def scan(self, camera: Camera, near: float, far: float, steps: int = 420) -> Array:
        """Return the depth (ROWS, COLS) of the land, inf for sky: march whole columns of rays outwards."""
        ray, depth = camera.rays(np.s_[0:1, 0:COLS])[0], np.geomspace(near, far, steps, dtype=np.float32)
        x, z = (camera.eye[a] + ray[:, a : a + 1] * depth for a in (0, 2))
        row = camera.horizon - camera.focal * (self.at(x, z) - camera.eye[1]) / depth  # (COLS, steps)
        row[:, 0] = ROWS
        edge = np.clip(np.ceil(np.minimum.accumulate(row, 1) - 0.5), 0, ROWS).astype(int)
        count = np.hstack([-np.diff(edge, axis=1), edge[:, -1:]])  # the last one is sky
        hit = np.repeat(np.tile(np.arange(steps), COLS), count.ravel()).reshape(COLS, ROWS)[:, ::-1]
        sky, hit = hit == steps - 1, np.minimum(hit, steps - 2)
        low, high = np.take_along_axis(row, hit, 1), np.take_along_axis(row, hit + 1, 1)
        part = np.clip((low - np.arange(ROWS) - 0.5) / np.maximum(low - high, 1e-3), 0, 1)
        return np.where(sky, np.inf, mix(depth[hit], depth[hit + 1], part)).T.astype(np.float32)


Solid = Callable[[Array], list[Array]]  # points (n, 3) -> the signed distance (n,) to each of its parts


def distance(solid: Solid, point: Array) -> Array:
    return np.minimum.reduce(solid(point))


def march(solid: Solid, origin: Array, ray: Array, far: Array, close: float) -> tuple[Array, Array]:
    """Follow unit rays (n, 3) to the surface; return how far each went and whether it came close."""
    gone, hit, alive = np.zeros(len(ray), np.float32), np.zeros(len(ray), bool), np.arange(len(ray))
    for _ in range(90):
        step = distance(solid, origin[alive] + gone[alive, None] * ray[alive])
        gone[alive] += 0.9 * step
        near = step < close
        hit[alive[near]] = True
        alive = alive[~near & (gone[alive] < far[alive])]
    return gone, hit


def sunlit(solid: Solid, point: Array, sun: Array, size: float) -> Array:
    """Return 0..1 per point: how much of the sun gets past the solid, soft-edged."""
    light, gone = np.ones(len(point), np.float32), np.full(len(point), 0.02 * size, np.float32)
    for _ in range(22):
        step = distance(solid, point + gone[:, None] * sun)
        light = np.minimum(light, np.clip(0.5 + 9 * step / gone, 0, 1))
        gone += np.clip(step, 0.015 * size, 0.25 * size)
    return light


@dataclass
class Thing:
    """A solid within radius of a centre, and the colour of its parts."""

    solid: Solid
    centre: Array
    radius: float
    albedo: Callable[[Array, Array], Array]  # points (n, 3), part (n,) -> (n, 3)
    object_id: int = 0
    slim: float = 1.0  # width of the window over its height

    def draw(self, canvas: Canvas, camera: Camera, air: Air) -> None:
        col, row, depth = camera.project(self.centre)
        reach = self.radius * camera.focal / max(depth - self.radius * self.slim, 0.5)
        window = window_around(col, row, reach * self.slim, reach)
        direction = camera.rays(window)
        colour, far = np.zeros_like(direction), np.full(direction.shape[:2], np.inf, np.float32)
        hits, point = self.meet(camera.eye, unit(direction), 0.25 * depth / camera.focal)
        far[hits] = norm(point - camera.eye) / norm(direction[hits])
        colour[hits] = self.shade(point, far[hits], air)
        seen = far < canvas.depth[window]
        canvas.paint(colour, seen.astype(np.float32), object_id=self.object_id, window=window)
        canvas.depth[window] = np.minimum(canvas.depth[window], far)

    def meet(self, eye: Array, ray: Array, close: float) -> tuple[tuple[Array, Array], Array]:
        """Return the indices of the rays (h, w, 3) that hit and where, inside the bounding sphere."""
        nearest = ray @ (self.centre - eye)
        half2 = self.radius**2 - norm(self.centre - eye) ** 2 + nearest**2
        index = np.nonzero((half2 > 0) & (nearest > 0))
        ray, half = ray[index], np.sqrt(half2[index])
        start = eye + np.maximum(nearest[index] - half, 0)[:, None] * ray
        gone, hit = march(self.solid, start, ray, 2 * half, close)
        return (index[0][hit], index[1][hit]), start[hit] + gone[hit, None] * ray[hit]

    def shade(self, point: Array, depth: Array, air: Air) -> Array:
        corners, e = vec(1, -1, -1, -1, -1, 1, -1, 1, -1, 1, 1, 1).reshape(4, 3), 0.002 * self.radius
        normal = unit(sum(k * distance(self.solid, point + e * k)[:, None] for k in corners) + 1e-9)
        part, lit = np.argmin(self.solid(point), 0), sunlit(self.solid, point, air.sun, self.radius)
        crease = distance(self.solid, point + 0.08 * self.radius * normal) / (0.08 * self.radius)
        return air.light(self.albedo(point, part) * np.clip(crease, 0.35, 1)[:, None], normal, lit, depth)

    def shadow(self, sun: Array, ground: float) -> Callable[[Array, Array], Array]:
        """Return the light (x, z) -> 0..1 that it leaves on ground of about that height."""
        n, half = 128, 1.6 * self.radius
        middle = self.centre - sun * (self.centre[1] - ground) / sun[1]
        at = np.linspace(-half, half, n, endpoint=False, dtype=np.float32)
        z, x = np.meshgrid(at + middle[2], at + middle[0], indexing="ij")
        point = np.stack([x, np.full_like(x, ground), z], -1).reshape(-1, 3)
        lift = max(float(self.centre[1] - ground) / float(sun[1]) - 1.4 * self.radius, 0)
        light = sunlit(self.solid, point + lift * sun, sun, self.radius).reshape(n, n)

        def shade(px: Array, pz: Array) -> Array:
            u, v = (px - middle[0]) / (2 * half) + 0.5, (pz - middle[2]) / (2 * half) + 0.5
            inside = (abs(u - 0.5) < 0.49) & (abs(v - 0.5) < 0.49)
            return np.where(inside, sample(light, u, v), 1)

        return shade


def box(p: Array, centre: Array, half: Array, round_: float) -> Array:
    q = abs(p - centre) - (half - round_)
    inside = np.maximum(np.maximum(q[:, 0], q[:, 1]), q[:, 2])
    return norm(np.maximum(q, 0)) + np.minimum(inside, 0) - round_


def rod(p: Array, a: Array, b: Array, radius: float) -> Array:
    pa, ba = p - a, b - a
    t = np.clip(pa @ (ba / (ba @ ba)), 0, 1)
    return norm(pa - t[:, None] * ba) - radius


def paint_land(canvas: Canvas, camera: Camera, land: Land, air: Air, shadows: list) -> None:
    """Fill the pixels that have a depth."""
    rows, cols = np.nonzero(np.isfinite(canvas.depth))
    depth = canvas.depth[rows, cols]
    x, y, z = (camera.eye + camera.rays()[rows, cols] * depth[:, None]).T
    s, close = sample(land.surface, x / land.metres, z / land.metres), np.exp(-depth / land.grain_reach)
    u, v = (x + 0.7 * y) / land.grain_metres, (z + 0.7 * y) / land.grain_metres
    grain = sample(land.grain, u, v) * close[:, None]
    normal = unit(np.stack([-s[:, 0] - grain[:, 0], np.ones_like(x), -s[:, 1] - grain[:, 1]], -1))
    lit = s[:, 2]
    for shadow in shadows:
        lit = lit * shadow(x, z)
    canvas.rgb[rows, cols] = air.light(s[:, 3:] * (1 + grain[:, 2:]), normal, lit, depth)
