"""Training clips: synthetic motion from still images with object masks (paper, section 4.1).

A clip is a stack of layers: a whole still at the back, objects cut from other stills in front of it. Every layer
moves, bends and changes its light on its own; one layer is tracked, the others occlude it or look like it.
All of it is batched tensor work on the training device.
"""

import io
import tarfile
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from stmcli.errors import TrainingError, UsageError
from stmcli.masks import is_binary
from stmcli.options import ClipOptions

CANVAS = 256  # side of the square that a layer is cut from, px; also the shorter side of a still
BENDS = 5  # nodes per side of the random warp
NODES = 21  # nodes per side at which a path is computed; in between it is interpolated
TRIES = 20  # batches made before giving up on seeing an object
SMALLEST = 0.004  # an object is worth tracking when it covers this share of the first frame
MASK_MODES = ("1", "L", "P")
IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp")


@dataclass(frozen=True)
class Still:
    """An image with the objects in it."""

    group: str  # the collection it is from; objects of one group resemble each other
    pixels: Tensor  # (4, H, W) uint8: RGB and object ids, on the training device
    boxes: dict[int, tuple[int, int, int, int]]  # id -> top, left, bottom, right


@dataclass(frozen=True)
class Clips:
    """A batch of training clips."""

    rgb: Tensor  # (B, T, 3, S, S) in [0, 1]
    masks: Tensor  # (B, T, N, S, S), 0 or 1


def load_stills(paths: Sequence[Path], *, device: torch.device | str = "cpu") -> list[Still]:
    """Read stills from folders or tars that hold `images/` and `masks/` (palette or id PNGs of the same stem).

    Raises UsageError when a path does not exist, TrainingError when nothing usable is in it.
    """
    stills = []
    for path in paths:
        if not path.exists():
            raise UsageError("no such file", path=path, hint="give folders or tars with images/ and masks/")
        found = [still for pair in _pairs(path) if (still := _still(path, *pair, device=device)) is not None]
        if not found:
            raise TrainingError("no stills with objects in it", path=path, hint="it needs images/ and masks/")
        stills += found
    return stills


def _pairs(path: Path) -> Iterator[tuple[str, bytes, bytes]]:
    """Yield (stem, image file, mask file)."""
    images: dict[str, bytes] = {}
    masks: dict[str, bytes] = {}
    for name, content in _members(path):
        folder = {"images": images, "masks": masks}.get(name.parent.name)
        if folder is not None and name.suffix.lower() in IMAGE_SUFFIXES and not name.name.startswith("."):
            folder[name.stem] = content
    for stem in sorted(images.keys() & masks.keys()):
        yield stem, images[stem], masks[stem]


def _members(path: Path) -> Iterator[tuple[Path, bytes]]:
    if path.is_dir():
        for file in sorted(path.rglob("*.*")):
            if file.is_file():
                yield file, file.read_bytes()
        return
    try:
        with tarfile.open(path) as tar:
            for member in tar:
                content = tar.extractfile(member)
                if content is not None:
                    yield Path(member.name), content.read()
    except (tarfile.TarError, OSError, EOFError, zlib.error) as error:
        raise TrainingError(f"not a tar that can be read ({error})", path=path, hint="copy it again") from None


def _still(path: Path, stem: str, image: bytes, mask: bytes, *, device: torch.device | str) -> Still | None:
    try:
        ids = Image.open(io.BytesIO(mask))
        ids.load()
        rgb = Image.open(io.BytesIO(image)).convert("RGB")
    except (OSError, SyntaxError, ValueError, EOFError) as error:
        raise TrainingError(f"{stem} cannot be read ({error})", path=path, hint="replace or remove it") from None
    if ids.mode not in MASK_MODES:
        hint = "save masks as palette or 8-bit grey PNG"
        raise TrainingError(f"the mask of {stem} is of colour mode {ids.mode}", path=path, hint=hint)
    scale = CANVAS / min(ids.size)
    size = (max(CANVAS, round(ids.width * scale)), max(CANVAS, round(ids.height * scale)))
    labels = np.asarray(ids.resize(size, Image.Resampling.NEAREST)).astype(np.uint8)
    if is_binary(labels):
        labels = (labels > 0).astype(np.uint8)
    boxes = {int(i): _box(labels == i) for i in np.unique(labels) if i not in (0, 255)}
    if not boxes:
        return None
    pixels = np.dstack([np.asarray(rgb.resize(size, Image.Resampling.BILINEAR)), labels])
    tensor = torch.from_numpy(np.ascontiguousarray(pixels.transpose(2, 0, 1))).to(device)
    return Still(stem.rstrip("0123456789-_"), tensor, boxes)


def _box(mask: np.ndarray) -> tuple[int, int, int, int]:
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    return int(rows[0]), int(columns[0]), int(rows[-1]) + 1, int(columns[-1]) + 1


class StillClips:
    """Makes batches of clips from stills; the same seed gives the same clips."""

    def __init__(self, stills: Sequence[Still], options: ClipOptions, *, seed: int = 0) -> None:
        self.stills = stills
        self.options = options
        self.device = stills[0].pixels.device
        self.generator = torch.Generator(self.device).manual_seed(seed)
        self.choices = np.random.default_rng(seed)
        self.groups: dict[str, list[int]] = {}
        for index, still in enumerate(stills):
            self.groups.setdefault(still.group, []).append(index)

    def state(self) -> dict[str, object]:
        """Return what `restore` needs to go on with the same clips."""
        return {"generator": self.generator.get_state(), "choices": self.choices.bit_generator.state}

    def restore(self, state: dict[str, object]) -> None:
        """Go on where `state` was taken."""
        self.generator.set_state(state["generator"])  # type: ignore[arg-type]
        self.choices.bit_generator.state = state["choices"]  # type: ignore[assignment]

    def batch(self, size: int, objects: int = 1) -> Clips:
        """Make `size` clips that each track `objects` objects; raise TrainingError when none comes into view."""
        for _ in range(TRIES):
            if (clips := self._try(size, objects)) is not None:
                return clips
        raise TrainingError(f"no object came into view in {TRIES} batches", hint="check the masks")

    def _try(self, size: int, objects: int) -> Clips | None:
        frames, visible = self._paint(size)  # (B, T, 3, S, S), (B, K, T, S, S)
        chosen = self._choose(visible, objects)  # (B, N)
        masks = visible.gather(1, chosen[:, :, None, None, None].expand(-1, -1, *visible.shape[2:]))
        keep = self._keep(masks)
        if keep is None:
            return None
        return Clips(self._degrade(frames)[keep], (masks > 0.5).float().transpose(1, 2)[keep])

    def _paint(self, size: int) -> tuple[Tensor, Tensor]:
        """Paint the layers back to front: frames (B, T, 3, S, S), what is seen of each object (B, K, T, S, S)."""
        o = self.options
        backs = [self.stills[i] for i in self.choices.integers(len(self.stills), size=size)]
        pasted = self.choices.integers(min(1, o.pasted), o.pasted + 1, size) * (
            self.choices.random(size) >= o.whole_image
        )
        pasted = -np.sort(-pasted)  # clips with many layers come first, so every layer is a slice of the batch
        shot = self._shoot(torch.stack([self._back(still) for still in backs]), back=True)
        frames, visible = shot[:, :, :3], shot.new_zeros(size, 1 + o.pasted, *shot[:, :, 3].shape[1:])
        visible[:, 0] = shot[:, :, 3]
        for layer in range(1, 1 + int(pasted[0])):
            count = int((pasted >= layer).sum())
            cutouts = [self._cutout(self._relative(still)) for still in backs[:count]]
            shot = self._shoot(torch.stack(cutouts), back=False)
            cover = shot[:, :, 3:]  # (b, T, 1, S, S)
            frames[:count].lerp_(shot[:, :, :3], cover.expand_as(frames[:count]))
            visible[:count] *= 1 - cover.transpose(1, 2)
            visible[:count, layer] = cover[:, :, 0]
        return frames, visible

    # -- layers ------------------------------------------------------------------------------------------------

    def _relative(self, still: Still) -> Still:
        """Choose the still of a pasted object: sometimes from the collection of `still`."""
        if self.choices.random() < self.options.kin:
            return self.stills[int(self.choices.choice(self.groups[still.group]))]
        return self.stills[int(self.choices.integers(len(self.stills)))]

    def _back(self, still: Still) -> Tensor:
        """Cut a square around one object, with all of what surrounds it: (4, C, C), RGB and mask in [0, 1]."""
        chosen = self._object(still)
        top, left = (self._start(still, chosen, axis) for axis in (0, 1))
        square = still.pixels[:, top : top + CANVAS, left : left + CANVAS]
        together = self.choices.random() < self.options.union
        mask = (square[3] > 0) & (square[3] < 255) if together else square[3] == chosen
        return _layer(square, mask)

    def _start(self, still: Still, chosen: int, axis: int) -> int:
        room = still.pixels.shape[1 + axis] - CANVAS
        middle = (still.boxes[chosen][axis] + still.boxes[chosen][axis + 2]) // 2 - CANVAS // 2
        return int(np.clip(middle + self.choices.integers(-CANVAS // 4, CANVAS // 4 + 1), 0, room))

    def _cutout(self, still: Still) -> Tensor:
        """Cut one object and centre it: (4, C, C), the mask zero elsewhere."""
        chosen = self._object(still)
        top, left, bottom, right = still.boxes[chosen]
        part = still.pixels[:, top:bottom, left:right]
        part = _layer(part, part[3] == chosen)
        if max(part.shape[1:]) > CANVAS:
            scale = CANVAS / max(part.shape[1:])
            size = [max(1, round(side * scale)) for side in part.shape[1:]]
            part = F.interpolate(part[None], size=size, mode="bilinear", antialias=True)[0]
        height, width = part.shape[1:]
        top, left = (CANVAS - height) // 2, (CANVAS - width) // 2
        return F.pad(part, (left, CANVAS - width - left, top, CANVAS - height - top))

    def _object(self, still: Still) -> int:
        return int(self.choices.choice(list(still.boxes)))

    # -- motion ------------------------------------------------------------------------------------------------

    def _shoot(self, layers: Tensor, *, back: bool) -> Tensor:
        """Film layers (b, 4, C, C) along a path each: (b, T, 4, S, S), RGB and mask."""
        frames, crop = self.options.frames, self.options.crop
        zoom = self._zoom(layers[:, 3], back=back)  # (b,)
        grid = self._path(zoom, calm=0.6 if back else 1.0)  # (b, T*S, S, 2): all frames of a layer in one go
        edge = "reflection" if back else "zeros"
        shot = F.grid_sample(layers, grid, padding_mode=edge, align_corners=False)
        return self._relight(shot.unflatten(2, (frames, crop)).transpose(1, 2))

    def _zoom(self, masks: Tensor, *, back: bool) -> Tensor:
        """How much of the canvas the crop shows: (b,); smaller is nearer."""
        o = self.options
        if back:
            return 0.35 + 0.55 * self._uniform(masks.shape[0])
        low, high = (float(np.log(a)) for a in o.area)
        wanted = (low + (high - low) * self._uniform(masks.shape[0])).exp()
        zoom = (masks.mean((1, 2)).clamp(min=1e-4) / wanted).sqrt()
        return zoom.clamp(0.25 * o.crop / CANVAS, 4.0)

    def _path(self, zoom: Tensor, *, calm: float) -> Tensor:
        """Where each output pixel of each frame comes from: (b, T*S, S, 2) in canvas coordinates, -1 to 1."""
        o = self.options
        size = zoom.shape[0]
        scales = torch.tensor([o.translate, o.translate, o.rotate, o.zoom, o.shear], device=self.device)
        pose = self._walk(size) * (scales * calm)  # (b, T, 5): x, y, rotation, log zoom, shear
        place = (self._uniform(size, 1, 2) * 2 - 1) * (0.75 if calm == 1 else 0.25)
        tilt = 0.2 * self._normal(size, 1)
        matrix = _affine(zoom[:, None] * pose[..., 3].exp(), pose[..., 2] + tilt, pose[..., 4])  # (b, T, 2, 2)
        flip = 1 - 2 * (self._uniform(size, 1, 1) < 0.5).float()
        matrix = matrix * torch.stack([flip, torch.ones_like(flip)], -2)
        line = torch.linspace(-1, 1, NODES, device=self.device)
        y, x = torch.meshgrid(line, line, indexing="ij")
        points = torch.stack([x, y], -1) + self._warp(size) - (place + pose[..., :2])[:, :, None, None]
        nodes = torch.einsum("btij,btyxj->btiyx", matrix, points).flatten(0, 1)  # (b*T, 2, NODES, NODES)
        grid = F.interpolate(nodes, size=(o.crop, o.crop), mode="bilinear", align_corners=True)
        return grid.permute(0, 2, 3, 1).reshape(size, -1, o.crop, 2)

    def _walk(self, size: int) -> Tensor:
        """A path with some inertia through T frames: (b, T, 5) in standard deviations, zero at the first frame."""
        pace = self._uniform(size, 1, 1) * 1.5  # calm clips and wild ones
        step = 0.7 * self._normal(size, 1, 5) + 0.7 * self._normal(size, self.options.frames - 1, 5)
        return F.pad((pace * step).cumsum(1), (0, 0, 1, 0))

    def _warp(self, size: int) -> Tensor:
        """A smooth bend that changes from frame to frame: (b, T, NODES, NODES, 2) in half-crops."""
        frames = self.options.frames
        coarse = self._normal(size, frames, 2, BENDS, BENDS).cumsum(1)
        coarse = coarse * (self.options.warp * self._uniform(size, 1, 1, 1, 1))
        fine = F.interpolate(coarse.flatten(0, 1), size=(NODES, NODES), mode="bicubic", align_corners=True)
        return fine.permute(0, 2, 3, 1).unflatten(0, (size, frames))

    # -- light and camera --------------------------------------------------------------------------------------

    def _relight(self, shot: Tensor) -> Tensor:
        """Change gain, offset and saturation per layer, and a little per frame; in place."""
        o = self.options
        size, frames = shot.shape[:2]
        layer, colour, frame = (size, 1, 1, 1, 1), (size, 1, 3, 1, 1), (size, frames, 1, 1, 1)
        gain = o.light * self._normal(*layer) + 0.3 * o.light * self._normal(*colour)
        gain = (gain + o.flicker * self._normal(*frame)).exp()
        offset = 0.3 * o.light * self._normal(*layer) + 0.3 * o.flicker * self._normal(*frame)
        rgb = shot[:, :, :3]
        grey = rgb.mean(2, keepdim=True)
        saturation = 0.3 + 1.2 * self._uniform(*layer)
        rgb.sub_(grey).mul_(saturation).add_(grey).mul_(gain).add_(offset).clamp_(0, 1)
        return shot

    def _degrade(self, frames: Tensor) -> Tensor:
        """Blur some clips and add noise, in place: (B, T, 3, S, S)."""
        size = frames.shape[0]
        small = F.avg_pool2d(frames.flatten(0, 1), 2)
        soft = F.interpolate(small, size=frames.shape[-2:], mode="bilinear").view_as(frames)
        blurred = (self._uniform(size, 1, 1, 1, 1) < self.options.blur).float()
        weight = blurred * self._uniform(size, frames.shape[1], 1, 1, 1)
        noise = self.options.noise * self._uniform(size, 1, 1, 1, 1) ** 2
        return frames.lerp_(soft, weight).add_(self._normal(*frames.shape).mul_(noise)).clamp_(0, 1)

    # -- choice ------------------------------------------------------------------------------------------------

    def _choose(self, visible: Tensor, objects: int) -> Tensor:
        """Choose which layers are tracked, by what is visible in the first frame: (B, N) layer indices."""
        area = visible[:, :, 0].mean((2, 3))  # (B, K)
        score = self._uniform(*area.shape) + 2.0 * (area > SMALLEST)
        return score.topk(objects, dim=1).indices

    def _keep(self, masks: Tensor) -> Tensor | None:
        """Replace clips without their object in the first frame by others: (B,) indices; None if all are."""
        good = (masks[:, 0, 0].mean((1, 2)) > SMALLEST).nonzero()[:, 0]
        if not len(good):
            return None
        keep = torch.arange(masks.shape[0], device=self.device)
        bad = torch.ones_like(keep, dtype=torch.bool)
        bad[good] = False
        keep[bad] = good[torch.arange(int(bad.sum()), device=self.device) % len(good)]
        return keep

    def _uniform(self, *shape: int) -> Tensor:
        return torch.rand(*shape, generator=self.generator, device=self.device)

    def _normal(self, *shape: int) -> Tensor:
        return torch.randn(*shape, generator=self.generator, device=self.device)


def _layer(pixels: Tensor, mask: Tensor) -> Tensor:
    """(4, h, w) uint8 and a mask (h, w) -> (4, h, w) in [0, 1], the mask last."""
    layer = pixels.float().div_(255)
    layer[3] = mask
    return layer


def _affine(zoom: Tensor, angle: Tensor, shear: Tensor) -> Tensor:
    """Build (..., 2, 2) matrices that rotate, shear and scale."""
    cos, sin = angle.cos() * zoom, angle.sin() * zoom
    rows = [torch.stack([cos, cos * shear - sin], -1), torch.stack([sin, sin * shear + cos], -1)]
    return torch.stack(rows, -2)
