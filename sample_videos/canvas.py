"""Numbers, noise textures, and the canvas that the sample clips are painted on.

Light is linear float32 at twice the size of the clip until `Canvas.develop` turns it into pixels and labels.
"""

import numpy as np

WIDTH, HEIGHT, FPS, SUPER = 640, 360, 24, 2
COLS, ROWS = WIDTH * SUPER, HEIGHT * SUPER
Array = np.ndarray


def vec(*values: float) -> Array:
    return np.array(values, np.float32)


def norm(v: Array) -> Array:
    return np.sqrt(np.einsum("...i,...i->...", v, v))


def unit(v: Array) -> Array:
    return v / norm(v)[..., None]


def mix(a: Array | float, b: Array | float, t: Array | float) -> Array:
    return a + (b - a) * t


def smoothstep(low: float, high: float, x: Array) -> Array:
    t = np.clip((x - low) / (high - low), 0, 1)
    return t * t * (3 - 2 * t)


def value_noise(size: int, cells: int, octaves: int, seed: int) -> Array:
    """Return a (size, size) tile of multi-octave value noise stretched to 0..1."""
    rng, total = np.random.default_rng(seed), np.zeros((size, size), np.float32)
    for octave in range(octaves):
        n = min(cells << octave, size)
        grid, at = rng.random((n, n), np.float32), np.arange(size, dtype=np.float32) * n / size
        low, t = at.astype(int), smoothstep(0, 1, at % 1)
        rows = mix(grid[low], grid[(low + 1) % n], t[:, None])
        total += mix(rows[:, low], rows[:, (low + 1) % n], t) * 0.5**octave
    return (total - total.min()) / np.ptp(total)


def voronoi(size: int, cells: int, seed: int) -> tuple[Array, Array, Array]:
    """Return tiles of the distance to the nearest jittered point, the margin to the second, and its index."""
    points = np.random.default_rng(seed).random((cells, cells, 2), np.float32)
    at = np.arange(size, dtype=np.float32) * cells / size
    cell, first = at.astype(np.int32), np.full((size, size), 9, np.float32)
    second, index = first.copy(), np.zeros((size, size), np.int32)
    for dy, dx in np.ndindex(3, 3):
        row, col = cell[:, None] + dy - 1, cell[None, :] + dx - 1
        point = points[row % cells, col % cells]
        far = (point[..., 0] + (row - at[:, None]).astype(np.float32)) ** 2 + (
            point[..., 1] + (col - at).astype(np.float32)
        ) ** 2
        index = np.where(far < first, row % cells * cells + col % cells, index)
        second = np.minimum(second, np.maximum(first, far))
        first = np.minimum(first, far)
    return np.sqrt(first), np.sqrt(second) - np.sqrt(first), index


def sample(tile: Array, u: Array, v: Array) -> Array:
    """Read a repeating (n, n[, C]) tile, n a power of 2, bilinearly at column u, row v in repeats."""
    n = tile.shape[0]
    x, y = u * np.float32(n), v * np.float32(n)
    left, top = np.floor(x), np.floor(y)
    fx, fy = (x - left).astype(np.float32), (y - top).astype(np.float32)
    if tile.ndim == 3:
        fx, fy = fx[..., None], fy[..., None]
    i, j = left.astype(np.int32) & (n - 1), top.astype(np.int32) & (n - 1)
    i2, j2, flat = (i + 1) & (n - 1), (j + 1) & (n - 1), tile.reshape(n * n, *tile.shape[2:])
    upper = mix(flat.take(j * n + i, 0), flat.take(j * n + i2, 0), fx)
    return mix(upper, mix(flat.take(j2 * n + i, 0), flat.take(j2 * n + i2, 0), fx), fy)


def slopes(height: Array, spacing: float) -> tuple[Array, Array]:
    """Return the derivative of a repeating height tile along its columns and its rows."""
    return tuple((np.roll(height, -1, a) - np.roll(height, 1, a)) / (2 * spacing) for a in (1, 0))


def halve(image: Array) -> Array:
    """Shrink the first two axes by two with a [1 3 3 1] filter."""
    for _ in range(2):
        p = np.pad(image, [(1, 1)] + [(0, 0)] * (image.ndim - 1), mode="edge")
        image = ((p[0:-2:2] + p[3::2] + 3 * (p[1:-2:2] + p[2:-1:2])) / 8).swapaxes(0, 1)
    return image


class Canvas:
    """Linear light, depth, and how much of each pixel belongs to each object (0 is the background)."""

    def __init__(self, rgb: Array, objects: int = 1) -> None:
        self.rgb, self.depth = rgb, np.full(rgb.shape[:2], np.inf, np.float32)
        self.share = np.zeros((*rgb.shape[:2], objects + 1), np.float32)
        self.share[..., 0] = 1

    def paint(self, colour: Array, alpha: Array, *, object_id: int = 0, window: tuple = np.s_[:, :]) -> None:
        """Lay a colour over the window; what it hides of other objects is no longer theirs."""
        rgb, share, alpha = self.rgb[window], self.share[window], alpha[..., None]
        rgb += alpha * (colour - rgb)
        share *= 1 - alpha
        share[..., object_id] += alpha[..., 0]

    def develop(self, index: int) -> tuple[Array, Array]:
        """Return (H, W, 3) uint8 with lens fall-off, film curve and grain, and (H, W) uint8 labels."""
        y, x = np.mgrid[-1 : 1 : HEIGHT * 1j, -1 : 1 : WIDTH * 1j]
        light = halve(self.rgb) * (1 - 0.13 * (x * x + y * y))[..., None]
        film = light * (2.51 * light + 0.03) / (light * (2.43 * light + 0.59) + 0.14)
        grain = np.random.default_rng(index).normal(0, 1.3, (HEIGHT, WIDTH, 1))
        pixels = np.clip(film, 0, 1) ** (1 / 2.2) * 255 + grain
        return np.clip(pixels + 0.5, 0, 255).astype(np.uint8), halve(self.share).argmax(-1).astype(np.uint8)


def window_around(col: float, row: float, wide: float, high: float) -> tuple[slice, slice]:
    """Return the part of the canvas near a point; it may be empty."""
    spans = (row - high, row + high + 1, ROWS), (col - wide, col + wide + 1, COLS)
    return tuple(slice(int(min(max(a, 0), n)), int(max(min(b, n), 0))) for a, b, n in spans)
