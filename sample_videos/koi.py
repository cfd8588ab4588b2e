"""Two koi over a bed of pebbles, one swimming under the other."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from canvas import (
    COLS,
    FPS,
    ROWS,
    SUPER,
    Array,
    Canvas,
    mix,
    sample,
    slopes,
    smoothstep,
    value_noise,
    vec,
    voronoi,
)

BLOTCHES = value_noise(256, 5, 5, 20)


@dataclass
class Fish:
    """A koi seen from above: where its middle is, how it beats its tail, what it wears."""

    length: float
    path: Callable[[float], tuple[float, float]]
    turn: float  # curvature of the whole body
    beat: float  # tail beats per second
    colours: Array  # (3, 3): base, patch, second patch
    seed: float
    object_id: int

    def local(self, x: Array, y: Array, t: float) -> tuple[Array, Array, Array]:
        """Return body coordinates in lengths: along (nose at 0.5), across from the bent spine, half width."""
        (x0, y0), (x1, y1) = self.path(t - 0.05), self.path(t + 0.05)
        angle, c = np.arctan2(y1 - y0, x1 - x0), self.path(t)
        dx, dy = (x - c[0]) / self.length, (y - c[1]) / self.length
        along, across = dx * np.cos(angle) + dy * np.sin(angle), dy * np.cos(angle) - dx * np.sin(angle)
        behind = np.clip(0.5 - along, 0, 1.3)
        wave = 2 * np.pi * (0.8 * behind - self.beat * t)
        spine = 0.10 * behind**1.4 * np.sin(wave) + self.turn * behind**2
        slope = 0.10 * behind**1.4 * 5.0 * np.cos(wave) + 2 * self.turn * behind
        u = np.clip(behind / 0.9, 0, 1)
        width = 0.31 * np.sqrt(u) * (1 - u) ** 1.05 + 0.022 * smoothstep(0, 0.3, u)
        return along, (across - spine) / np.sqrt(1 + slope * slope), width

    def draw(self, canvas: Canvas, x: Array, y: Array, t: float, light: Array) -> None:
        """Paint shadow, fins and body; x and y are the pond coordinates of each pixel."""
        (cx, cy), size = self.path(t), self.length
        rows = np.nonzero(abs(y[:, COLS // 2] - cy - 0.08 * size) < 0.62 * size)[0]
        cols = np.nonzero(abs(x[ROWS // 2] - cx) < 0.84 * size)[0]
        window = np.s_[rows[0] : rows[-1] + 1, cols[0] : cols[-1] + 1]
        x, y, glow = x[window], y[window], light[window]
        self.shade(canvas, window, x - 0.13 * size, y - 0.2 * size, t)
        a, d, w = self.local(x, y, t)
        edge = 0.6 / size
        for side in (-1, 1):
            flap = 2.35 + 0.3 * np.sin(5 * t + side)
            self.paint_fin(canvas, window, a - 0.24, side * d - 0.085, glow, size=0.16, sweep=flap)
            self.paint_fin(canvas, window, a + 0.08, side * d - 0.06, glow, size=0.09, sweep=2.6)
        self.paint_tail(canvas, window, a, d, glow, edge)
        body = smoothstep(-edge, edge, w - abs(d)) * ((a > -0.42) & (a < 0.5))
        self.lay(canvas, window, self.body(a, d, w, glow), body)
        ridge = smoothstep(0.009, 0.004, abs(d - 0.012 * np.sin(4 * t)))
        crest = ridge * smoothstep(0.2, 0.12, a) * smoothstep(-0.24, -0.1, a)
        self.lay(canvas, window, self.colours[0] * 0.5, 0.65 * crest)

    def body(self, a: Array, d: Array, w: Array, glow: Array) -> Array:
        """Return the lit colour of the rounded back."""
        across_unit = np.clip(d / np.maximum(w, 1e-3), -1, 1)
        up = np.sqrt(np.clip(1 - 0.93 * across_unit**2, 0.02, 1))
        sun = np.clip(0.75 * up - 0.42 * across_unit + 0.1, 0.12, 1.2)
        skin = self.skin(a, d, across_unit)
        eye = np.hypot(a - 0.41, abs(d) - 0.052)
        skin = mix(skin, vec(0.01, 0.01, 0.01), 1 - smoothstep(0.009, 0.013, eye)[..., None])
        gloss = 0.5 * np.exp(-(((across_unit + 0.38) / 0.16) ** 2))
        gloss *= smoothstep(0.5, 0.3, a) * smoothstep(-0.4, 0, a)
        gleam = gloss * (0.6 + 0.8 * sample(BLOTCHES, a * 2.5 + self.seed, d * 4))
        return skin * (sun * (0.5 + 0.55 * glow))[..., None] + 0.5 * (gleam * glow)[..., None]

    def skin(self, a: Array, d: Array, across_unit: Array) -> Array:
        """Return the patches and scales."""
        patch = sample(BLOTCHES, a * 0.75 + self.seed, d * 0.8 + 2 * self.seed)
        other = sample(BLOTCHES, a * 1.1 + 3 * self.seed, d * 1.2 + 5 * self.seed)
        colour = mix(self.colours[0], self.colours[1], smoothstep(0.50, 0.52, patch)[..., None])
        colour = mix(colour, self.colours[2], smoothstep(0.49, 0.51, other)[..., None])
        row = a * 42
        across = np.arcsin(across_unit) * 7 + 0.5 * (np.floor(row) % 2)
        scale = np.hypot(row % 1 - 1.0, (across % 1 - 0.5) * 1.2)
        net = 1 - 0.22 * smoothstep(0.62, 0.95, scale) * smoothstep(0.34, 0.26, a) * smoothstep(-0.4, -0.3, a)
        slit = np.exp(-(((a - 0.285 + 0.05 * across_unit**2) / 0.008) ** 2))
        gill = 1 - 0.35 * slit * smoothstep(0.2, 0.5, abs(across_unit))
        return colour * (net * gill)[..., None]

    def paint_fin(
        self, canvas: Canvas, window: tuple, a: Array, d: Array, glow: Array, *, size: float, sweep: float
    ) -> None:
        """Paint a fan that starts at the flank and points `sweep` radians away from the nose."""
        angle, reach = np.arctan2(d, a) - sweep, np.hypot(a, d) / size
        outline = 1 - 0.28 * (angle / 0.55) ** 2 - 0.03 * abs(np.sin(9 * angle))
        alpha = smoothstep(-0.02, 0.04, outline - reach) * smoothstep(0.72, 0.62, abs(angle)) * (d > -0.05)
        rays = 0.8 + 0.2 * np.sin(angle * 46)
        colour = mix(self.colours[0], self.colours[1], 0.35) * (rays * (0.3 + 0.6 * glow))[..., None]
        self.lay(canvas, window, colour, alpha * mix(0.95, 0.6, reach))

    def paint_tail(self, canvas: Canvas, window: tuple, a: Array, d: Array, glow: Array, edge: float) -> None:
        """Paint the forked tail fin."""
        back = np.clip(-0.34 - a, 0, 1)
        spread = 0.018 + 0.75 * back - 0.9 * back**2
        fork = 0.30 - 0.16 * np.cos(np.clip(d / 0.13, -1.5, 1.5) * 1.6)
        alpha = smoothstep(-edge, 2 * edge, spread - abs(d)) * (back > 0)
        alpha *= smoothstep(-2 * edge, 2 * edge, fork - back)
        rays = 0.75 + 0.25 * np.sin(d / (0.03 + 0.5 * back) * 30)
        colour = mix(self.colours[0], self.colours[1], 0.5) * (rays * (0.3 + 0.65 * glow))[..., None]
        self.lay(canvas, window, colour, alpha * (0.95 - back))

    def lay(self, canvas: Canvas, window: tuple, colour: Array, alpha: Array) -> None:
        colour, alpha = colour.astype(np.float32), alpha.astype(np.float32)
        canvas.paint(colour, alpha, object_id=self.object_id, window=window)

    def shade(self, canvas: Canvas, window: tuple, x: Array, y: Array, t: float) -> None:
        """Darken the bed under the fish; what lies in between is darkened too, as by a real shadow."""
        along, across, width = self.local(x, y, t)
        soft = smoothstep(0.05, -0.035, abs(across) - width)
        soft *= smoothstep(-0.68, -0.3, along) * smoothstep(0.54, 0.44, along)
        canvas.rgb[window] *= (1 - 0.62 * soft)[..., None].astype(np.float32)


def pebbles() -> Array:
    """Return (n, n, 3) of a stony bed lit from the upper left."""
    n, fine = 1024, value_noise(1024, 24, 6, 21)
    rng, bed = np.random.default_rng(22), np.zeros((n, n, 3), np.float32)
    top = np.zeros((n, n), np.float32)
    hues = vec(0.20, 0.17, 0.13, 0.30, 0.27, 0.23, 0.12, 0.13, 0.13, 0.26, 0.19, 0.12, 0.38, 0.36, 0.31)
    for cells, lift, rare in ((34, 0.6, 1.0), (15, 1.6, 0.45)):
        first, margin, index = voronoi(n, cells, cells)
        dome = np.sqrt(np.clip(smoothstep(0.05, 0.55, margin + 0.12 * fine - 0.06), 0, 1)) * (1 - 0.4 * first)
        height = np.where(rng.random(cells * cells)[index] < rare, dome * lift, 0)
        hue = hues.reshape(5, 3)[rng.integers(0, 5, cells * cells)]
        stone = (hue * rng.uniform(0.6, 1.25, cells * cells)[:, None])[index]
        bed = np.where((height > top)[..., None], stone, bed)
        top = np.maximum(top, height)
    gx, gy = slopes(top * 9 + 2.5 * fine, 1.0)
    shine = np.clip(0.62 - 0.42 * gx - 0.5 * gy, 0.08, 1.6) * smoothstep(-0.1, 0.5, top)
    return (bed * (0.55 + 0.9 * fine)[..., None] * shine[..., None]).astype(np.float32)


def koi() -> Callable[[int], Canvas]:
    """Return a function that paints a frame; the pond is measured in pixels of the clip."""
    bed, wave, (_, veins, _) = pebbles(), value_noise(256, 6, 2, 23), voronoi(512, 7, 24)
    ripple, web = np.dstack(slopes(wave, 1 / 256)), np.exp(-veins / 0.075)
    gy, gx = np.mgrid[0:ROWS, 0:COLS].astype(np.float32) / SUPER
    kohaku = np.array([[0.62, 0.58, 0.52], [0.62, 0.06, 0.012], [0.62, 0.06, 0.012]], np.float32)
    utsuri = np.array([[0.80, 0.36, 0.03], [0.85, 0.50, 0.06], [0.02, 0.02, 0.025]], np.float32)
    white = Fish(190, lambda t: (190 + 92 * t, 205 - 26 * t + 9 * t * t), 0.05, 0.95, kohaku, 0.172, 1)
    gold = Fish(165, lambda t: (505 - 84 * t, 115 + 42 * t + 5 * t * t), -0.06, 1.15, utsuri, 0.953, 2)

    def draw(frame: int) -> Canvas:
        t = frame / FPS
        zoom = 1 - 0.02 * t
        x, y = (gx - 320) * zoom + 320 + 14 * t, (gy - 180) * zoom + 180 + 5 * np.sin(0.8 * t)
        swell = sample(ripple, x / 420 + 0.05 * t, y / 420) + sample(ripple, x / 260, y / 260 + 0.07 * t)
        bent_x, bent_y = x + 0.2 * swell[..., 0], y + 0.2 * swell[..., 1]
        lens_x, lens_y = (bent_x + 2.5 * swell[..., 0]) / 330, (bent_y + 2.5 * swell[..., 1]) / 330
        nets = [sample(web, lens_x + a * t, lens_y + b * t) for a, b in ((0.06, 0.03), (-0.05, 0.045))]
        caustic = 0.55 + 1.5 * np.minimum(nets[0], nets[1]) + 0.25 * (nets[0] + nets[1])
        stones = sample(bed, (x + 0.6 * swell[..., 0]) / 700, (y + 0.6 * swell[..., 1]) / 700)
        murk = 0.5 + 0.5 * sample(BLOTCHES, x / 900, y / 900 + 0.3)
        light = stones * vec(0.85, 1.0, 0.8) * caustic[..., None]
        deep = mix(light, vec(0.025, 0.075, 0.06), 0.12 + 0.25 * murk[..., None])
        canvas = Canvas(1.25 * deep.astype(np.float32), 2)
        for fish in (gold, white):
            fish.draw(canvas, bent_x, bent_y, t, np.clip(caustic, 0.5, 1.7))
        sheen = np.clip(swell[..., 0] * 0.05 + swell[..., 1] * 0.07 - 0.26, 0, 0.5)
        canvas.rgb = canvas.rgb * 1.15 + (sheen[..., None] * vec(0.22, 0.28, 0.32)).astype(np.float32)
        return canvas

    return draw
