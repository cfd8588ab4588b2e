"""Clips from videos (paper, section 4.1, main training): frames in order, skips between them, one crop for all."""

import math
import warnings
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from stmcli.clips.batch import SMALLEST, TRIES, Chance, Clips
from stmcli.clips.camera import relight
from stmcli.clips.motion import affine
from stmcli.clips.stills import CANVAS, UNREADABLE, mask_fault
from stmcli.clips.videos import Shot, Video, Videos
from stmcli.errors import MaskError, TrainingError
from stmcli.images import open_image
from stmcli.machine import free_memory, usable_cores
from stmcli.masks import VOID, colour_codes, ids_of_colours, samples
from stmcli.options import ClipOptions

UNKNOWN = 4 * 2**30  # bytes of memory that are taken for free where the system does not say
ROOM = 0.4  # share of the free memory that decoded frames may take
READERS = 4  # threads that decode, at most
SHOWN = (0.5, 1.1)  # side of the crop, of the frame's shorter side
TURN, SHEAR = 0.12, 0.06  # of a whole clip, standard deviation
Pixels = npt.NDArray[np.uint8]


@dataclass
class Frames:
    """Decodes frames, and keeps them while there is room."""

    side: int  # frames are reduced to this shorter side, px
    room: int  # bytes
    kept: dict[Shot, Pixels] = field(default_factory=dict)

    def pixels(self, shot: Shot) -> Pixels:
        """Return (4, h, w): RGB and ids as stored. Raises TrainingError that names the file."""
        if (pixels := self.kept.get(shot)) is not None:
            return pixels
        pixels = self._decode(shot)
        if pixels.nbytes <= self.room:
            self.room -= pixels.nbytes
            self.kept[shot] = pixels
        return pixels

    def _decode(self, shot: Shot) -> Pixels:
        file = shot.image
        try:
            image = open_image(file.read())
            full = image.size
            scale = min(1.0, self.side / min(full))
            size = round(full[0] * scale), round(full[1] * scale)
            image.draft("RGB", size)
            rgb = image.convert("RGB").resize(size, Image.Resampling.BILINEAR)
            file = shot.mask
            mask = open_image(file.read())
            mask.load()
            if mask.size != full:
                cause = f"the mask is {mask.width}x{mask.height} but its frame is {full[0]}x{full[1]}"
                raise TrainingError(cause, path=str(file), hint="Replace or remove it")
            ids = Image.fromarray(_ids(mask, file.path)).resize(size, Image.Resampling.NEAREST)
        except MaskError as error:
            raise TrainingError(error.cause, path=str(file), hint="Save it as palette PNG") from None
        except UNREADABLE as error:
            raise TrainingError(f"cannot be read ({error})", path=str(file), hint="Replace or remove it") from None
        return np.ascontiguousarray(np.dstack([np.asarray(rgb), np.asarray(ids)]).transpose(2, 0, 1))


def _ids(mask: Image.Image, path: Path) -> Pixels:
    if mask.mode in ("RGB", "RGBA") and mask.format != "JPEG":
        return np.asarray(ids_of_colours(colour_codes(np.asarray(mask.convert("RGB"))), path)).astype(np.uint8)
    if fault := mask_fault(mask):
        raise MaskError(f"the mask {fault}")
    return samples(mask).astype(np.uint8, copy=False)


class VideoClips:
    """Makes batches of clips from videos; the same key gives the same clips."""

    def __init__(
        self,
        sets: Sequence[Videos],
        options: ClipOptions,
        *,
        device: torch.device | str = "cpu",
        seed: int = 0,
        processes: int = 1,
    ) -> None:
        self.sets = sets
        self.options = options
        self.chance = Chance(torch.device(device), seed)
        self.frames = Frames(
            max(CANVAS, round(1.25 * options.crop)), int(ROOM * (free_memory() or UNKNOWN) / processes)
        )
        self.binary: dict[Video, bool] = {}
        self.warned: set[Video] = set()
        readers = min(READERS, usable_cores() // processes)
        self.readers = ThreadPoolExecutor(readers, "read") if readers > 1 else None

    def batch(self, size: int, objects: int = 1, *, frames: int | None = None, skip: int | None = None) -> Clips:
        """Make `size` clips that track up to `objects` objects; the others' masks are empty.

        Up to `skip` frames of the video are left out between two frames. Raises TrainingError when nothing
        can be made of the videos.
        """
        length = frames or self.options.frames
        apart = 1 + (self.options.skip if skip is None else skip)
        clips = [self._clip(objects, length, apart) for _ in range(size)]
        rgb, masks, void = (torch.stack(parts) for parts in zip(*clips, strict=True))
        most = max(1, int((masks[:, 0].amax((2, 3)) > 0).sum(1).max()))  # empty masks come last
        return Clips(rgb, masks[:, :, :most], void if bool(void.any()) else None)

    def _clip(self, objects: int, length: int, apart: int) -> tuple[Tensor, Tensor, Tensor]:
        """Make one clip: (T, 3, S, S), (T, N, S, S), (T, S, S)."""
        broken: TrainingError | None = None
        for _ in range(TRIES):
            video, shots = self._draw(length, apart)
            try:
                pixels, ids = self._read(video, shots)
            except TrainingError as error:
                broken = error
                self._warn(video, error)
                continue
            if (clip := self._film(pixels, ids, objects)) is not None:
                return clip
        raise broken or TrainingError(f"no object came into view in {TRIES} clips", hint="Check the annotations")

    def _warn(self, video: Video, error: TrainingError) -> None:
        """Say once for each video that clips of it are left out."""
        if video not in self.warned:
            self.warned.add(video)
            warnings.warn(f"{error.path}: {error.cause}; clips with it are left out", stacklevel=2)

    # -- which frames ------------------------------------------------------------------------------------------

    def _draw(self, length: int, apart: int) -> tuple[Video, list[Shot]]:
        """Choose a video and `length` of its frames in temporal order, each at most `apart` after the one before.

        Where annotations are farther apart than that, it is the next one. A video with fewer frames repeats its last.
        """
        choices = self.chance.choices
        weights = np.array([one.weight for one in self.sets])
        videos = self.sets[int(choices.choice(len(weights), p=weights / weights.sum()))].videos
        video = videos[int(choices.integers(len(videos)))]
        shots = video.shots
        place = int(choices.integers(max(1, len(shots) - length + 1)))
        places = [place]
        for left in range(length - 2, -1, -1):
            last = place + 1
            while last + 1 < len(shots) - left and shots[last + 1].number - shots[place].number <= apart:
                last += 1
            place = min(int(choices.integers(place + 1, last + 1)), len(shots) - 1)
            places.append(place)
        return video, [shots[place] for place in places]

    def _read(self, video: Video, shots: Sequence[Shot]) -> tuple[Tensor, Tensor]:
        """Return RGB (T, 3, h, w) and ids (T, h, w), both uint8. Raises TrainingError."""
        once, pixels_of = [*dict.fromkeys(shots)], self.frames.pixels  # a short video repeats its last
        read = map(pixels_of, once) if self.readers is None else self.readers.map(pixels_of, once)
        found = dict(zip(once, read, strict=True))
        frames = [found[shot] for shot in shots]
        for frame, shot in zip(frames, shots, strict=True):
            if frame.shape != frames[0].shape:
                cause = f"is of another size than {shots[0].image.path.name}"
                raise TrainingError(cause, path=str(shot.image), hint="All frames of a video must have one size")
        pixels = torch.from_numpy(np.stack(frames)).to(self.chance.device)
        ids = pixels[:, 3]
        return pixels[:, :3], (ids > 0).byte() if self._is_binary(video) else ids

    def _is_binary(self, video: Video) -> bool:
        """Tell by its first annotation with more than 255 in it whether 255 is an object, not void."""
        if video not in self.binary:
            stored = ({*np.unique(self.frames.pixels(shot)[3]).tolist()} - {0, VOID} for shot in video.shots)
            self.binary[video] = not any(stored)
        return self.binary[video]

    # -- what is shown -----------------------------------------------------------------------------------------

    def _film(self, rgb: Tensor, ids: Tensor, objects: int) -> tuple[Tensor, Tensor, Tensor] | None:
        """Crop and turn all frames in the same way, around an object of the first; None when it is not in sight."""
        areas = torch.bincount(ids[0].flatten().long(), minlength=VOID + 1).cpu().numpy()
        areas[0] = areas[VOID] = 0
        there = np.flatnonzero(areas)
        if not len(there):
            return None
        order = self.chance.choices.permutation(there)
        union = self.chance.choices.random() < self.options.union
        tracked = [(ids > 0) & (ids != VOID)] if union else [ids == int(i) for i in order[:objects]]
        layers = torch.cat([rgb.float() / 255, torch.stack([*tracked, ids == VOID], 1).float()], 1)
        grid = self._view(tracked[0][0])  # (S, S, 2)
        shot = F.grid_sample(
            layers, grid.expand(len(layers), -1, -1, -1), padding_mode="reflection", align_corners=False
        )  # (T, 3+n+1, S, S)
        masks, void = (shot[:, 3:-1] > 0.5).float(), (shot[:, -1] > 0.5).float()
        if not float(masks[0, 0].mean()) > SMALLEST:
            return None
        area, largest = masks[0].mean((1, 2)).sort(descending=True, stable=True)  # (n,)
        masks = masks[:, largest] * (area > 0).view(1, -1, 1, 1)
        empty = masks.new_zeros(len(masks), objects - masks.shape[1], *masks.shape[2:])
        lit = relight(self.chance, shot[None, :, :3], light=self.options.light, flicker=0.0)[0]
        return lit.clamp(0, 1), torch.cat([masks, empty], 1), void

    def _view(self, mask: Tensor) -> Tensor:
        """Draw a view of frames (h, w) that has the object `mask` in it: (S, S, 2), places from -1 to 1."""
        choices, (height, width) = self.chance.choices, mask.shape
        rows, columns = (np.flatnonzero(mask.any(axis).cpu().numpy()) for axis in (1, 0))
        half = min(height, width) / 2 * math.exp(choices.uniform(*np.log(SHOWN)))
        middle = [_near(choices, seen, half, length) for seen, length in ((columns, width), (rows, height))]
        pose = torch.tensor([half, TURN * choices.normal(), SHEAR * choices.normal()], dtype=torch.float64)
        matrix = affine(*pose)  # (2, 2), px
        matrix = matrix * torch.tensor([1 - 2 * choices.integers(2), 1])
        line = (torch.arange(self.options.crop, dtype=torch.float64) + 0.5) * (2 / self.options.crop) - 1
        y, x = torch.meshgrid(line, line, indexing="ij")
        places = torch.stack([x, y], -1) @ matrix.T + torch.tensor(middle)
        return (places / torch.tensor([width / 2, height / 2]) - 1).float().to(self.chance.device)


def _near(choices: np.random.Generator, seen: npt.NDArray[np.intp], half: float, length: int) -> float:
    """Draw the middle of a view along one axis: near what is seen, inside the frame as far as the view fits."""
    middle = choices.uniform(seen[0], seen[-1] + 1) + half / 2 * choices.uniform(-1, 1)
    low, high = min(half, length / 2), max(length - half, length / 2)
    return float(np.clip(middle, low, high))
