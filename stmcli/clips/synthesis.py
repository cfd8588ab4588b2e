"""Clips with synthetic motion, made of stills with object masks (paper, section 4.1).

A clip is a stack of layers: a whole still at the back, objects cut from other stills in front of it. Every layer
moves, bends and changes its light on its own; some layers are tracked, the others occlude them or look like them.
All of it is batched tensor work on the training device.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from stmcli.clips.batch import SMALLEST, TRIES, Chance, Clips
from stmcli.clips.camera import degrade, relight
from stmcli.clips.cutouts import cutout, region, square
from stmcli.clips.motion import draw_jumps, path
from stmcli.clips.stills import Still
from stmcli.errors import TrainingError
from stmcli.options import ClipOptions


class StillClips:
    """Makes batches of clips from stills; the same key gives the same clips."""

    def __init__(self, stills: Sequence[Still], options: ClipOptions, *, seed: int = 0) -> None:
        self.stills = stills
        self.options = options
        self.chance = Chance(stills[0].pixels.device, seed)
        self.canvas = min(stills[0].pixels.shape[1:])
        self.groups: dict[str, list[int]] = {}
        for index, still in enumerate(stills):
            self.groups.setdefault(still.group, []).append(index)

    def batch(self, size: int, objects: int = 1, *, frames: int | None = None) -> Clips:
        """Make `size` clips that each track `objects` objects; raise TrainingError when none comes into view."""
        for _ in range(TRIES):
            if (clips := self._try(size, objects, frames or self.options.frames)) is not None:
                return clips
        raise TrainingError(f"no object came into view in {TRIES} batches", hint="Check the masks")

    def _try(self, size: int, objects: int, length: int) -> Clips | None:
        frames, visible = self._paint(size, objects, length)  # (B, T, 3, S, S), (B, K, T, S, S)
        chosen = self._choose(visible, objects)  # (B, N)
        masks = visible.gather(1, chosen[:, :, None, None, None].expand(-1, -1, *visible.shape[2:]))
        keep = self._keep(masks)
        if keep is None:
            return None
        if self.options.occluder and length > 2:
            self._occlude(frames, masks)
        frames = degrade(self.chance, frames, self.options)
        return Clips(frames[keep], (masks > 0.5).float().transpose(1, 2)[keep])

    def _paint(self, size: int, objects: int, length: int) -> tuple[Tensor, Tensor]:
        """Paint the layers back to front: frames (B, T, 3, S, S), what is seen of each object (B, K, T, S, S).

        The first `objects` of the K are those of the still at the back.
        """
        o = self.options
        backs, pasted = self._plan(size, objects)
        jump = draw_jumps(self.chance, size, length, o.jump)
        seen = [[(still, self._object(still))] for still in backs]  # by clip, what was cut out so far
        together = np.where((pasted > 0) | (objects == 1), o.union, 0.0)
        squares = [
            square(self.chance, *one[0], objects=objects, union=float(union))
            for one, union in zip(seen, together, strict=True)
        ]
        shot = self._shoot(torch.stack(squares), jump, back=True)
        frames, visible = shot[:, :, :3], shot.new_zeros(size, objects + o.pasted, length, o.crop, o.crop)
        visible[:, :objects] = shot[:, :, 3:].transpose(1, 2)
        for layer in range(int(pasted[0])):
            count = int((pasted > layer).sum())
            shot = self._shoot(torch.stack([self._cut(one) for one in seen[:count]]), jump[:count], back=False)
            cover = shot[:, :, 3:]  # (b, T, 1, S, S)
            frames[:count].lerp_(shot[:, :, :3], cover.expand_as(frames[:count]))
            visible[:count] *= 1 - cover.transpose(1, 2)
            visible[:count, objects + layer] = cover[:, :, 0]
        return frames, visible

    # -- layers ------------------------------------------------------------------------------------------------

    def _plan(self, size: int, objects: int) -> tuple[list[Still], npt.NDArray[np.int64]]:
        """Choose the stills at the back and how many objects are pasted over each: those with many come first.

        So every layer is a slice of the batch. None are pasted only where the still has objects enough by itself.
        """
        o, choices = self.options, self.chance.choices
        backs = [self.stills[i] for i in choices.integers(len(self.stills), size=size)]
        pasted = choices.integers(min(max(1, objects - 1), o.pasted), o.pasted + 1, size)
        enough = np.array([o.whole_image == 1 or len(still.boxes) >= objects for still in backs])
        pasted[(choices.random(size) < o.whole_image) & enough] = 0
        order = np.argsort(-pasted, kind="stable")
        return [backs[i] for i in order], pasted[order]

    def _cut(self, seen: list[tuple[Still, int]]) -> Tensor:
        """Cut what is pasted next into a clip: (4, C, C); take note of it in `seen`."""
        o, choices = self.options, self.chance.choices
        if o.twin and choices.random() < o.twin:
            return cutout(*seen[int(choices.integers(len(seen)))])
        still = self._relative(seen[0][0])
        if o.regions and choices.random() < o.regions:
            return region(self.chance, still)
        seen.append((still, self._object(still)))
        return cutout(*seen[-1])

    def _relative(self, still: Still) -> Still:
        """Choose the still of a pasted object: sometimes from the collection of `still`."""
        if self.chance.choices.random() < self.options.kin:
            return self.stills[int(self.chance.choices.choice(self.groups[still.group]))]
        return self.stills[int(self.chance.choices.integers(len(self.stills)))]

    def _object(self, still: Still) -> int:
        return int(self.chance.choices.choice(list(still.boxes)))

    # -- motion ------------------------------------------------------------------------------------------------

    def _shoot(self, layers: Tensor, jump: Tensor, *, back: bool) -> Tensor:
        """Film layers (b, 3+N, C, C) along a path each: (b, T, 3+N, S, S), RGB and masks."""
        o = self.options
        zoom = self._zoom(layers[:, 3], back=back)  # (b,)
        grid = path(self.chance, o, zoom, jump, calm=0.6 if back else 1.0)  # all frames of a layer in one go
        edge = "reflection" if back else "zeros"
        shot = F.grid_sample(layers, grid, padding_mode=edge, align_corners=False)
        shot = shot.unflatten(2, (jump.shape[1], o.crop)).transpose(1, 2)
        return relight(self.chance, shot, light=o.light, flicker=o.flicker)

    def _zoom(self, masks: Tensor, *, back: bool) -> Tensor:
        """How much of the canvas the crop shows: (b,); smaller is nearer."""
        o = self.options
        if back:
            return 0.35 + 0.55 * self.chance.uniform(masks.shape[0])
        low, high = (float(np.log(a)) for a in o.area)
        wanted = (low + (high - low) * self.chance.uniform(masks.shape[0])).exp()
        zoom = (masks.mean((1, 2)).clamp(min=1e-4) / wanted).sqrt()
        return zoom.clamp(0.25 * o.crop / self.canvas, 4.0)

    def _occlude(self, frames: Tensor, masks: Tensor) -> None:
        """Let something pass over the first object of some clips, in a frame between the ends; in place.

        frames (B, T, 3, S, S), masks (B, N, T, S, S).
        """
        size, length = frames.shape[:2]
        picked = (self.chance.uniform(size) < self.options.occluder).nonzero()[:, 0]
        if not len(picked):
            return
        choices = self.chance.choices
        stills = [self.stills[int(choices.integers(len(self.stills)))] for _ in picked]
        layers = torch.stack([cutout(still, self._object(still)) for still in stills])
        when = 1 + (self.chance.uniform(len(picked)) * (length - 2)).long()
        target = masks[picked, 0, when]  # (n, S, S)
        shot = self._pass_over(layers, target, when, length)
        cover = shot[:, :, 3:]  # (n, T, 1, S, S)
        frames[picked] = frames[picked].lerp(shot[:, :, :3], cover.expand(-1, -1, 3, -1, -1))
        masks[picked] *= 1 - cover.transpose(1, 2)

    def _pass_over(self, layers: Tensor, target: Tensor, when: Tensor, length: int) -> Tensor:
        """Film layers (n, 4, C, C) that are over what `target` (n, S, S) shows in frame `when`: (n, T, 4, S, S)."""
        crop, chance = self.options.crop, self.chance
        line = torch.linspace(-1, 1, crop, device=chance.device)
        area = target.sum((1, 2)).clamp(min=1e-3)
        middle = torch.stack([(target.sum(1) * line).sum(1), (target.sum(2) * line).sum(1)], -1) / area[:, None]
        angle = 2 * np.pi * chance.uniform(len(layers))
        speed = torch.stack([angle.cos(), angle.sin()], -1) * (0.8 + 0.8 * chance.uniform(len(layers), 1))
        frame = torch.arange(length, device=chance.device) - when[:, None]
        centre = middle[:, None] + frame[..., None] * speed[:, None]  # (n, T, 2)
        larger = 0.6 + 1.2 * chance.uniform(len(layers))  # than the object, in area
        zoom = (layers[:, 3].mean((1, 2)).clamp(min=1e-4) * crop**2 / (area * larger)).sqrt().clamp(0.25, 8.0)
        y, x = torch.meshgrid(line, line, indexing="ij")
        grid = (torch.stack([x, y], -1) - centre[:, :, None, None]) * zoom[:, None, None, None, None]
        shot = F.grid_sample(layers, grid.flatten(1, 2), align_corners=False)
        return shot.unflatten(2, (length, crop)).transpose(1, 2)

    # -- choice ------------------------------------------------------------------------------------------------

    def _choose(self, visible: Tensor, objects: int) -> Tensor:
        """Choose which layers are tracked, by what is visible in the first frame: (B, N) layer indices."""
        area = visible[:, :, 0].mean((2, 3))  # (B, K)
        score = self.chance.uniform(*area.shape) + 2.0 * (area > SMALLEST)
        return score.topk(objects, dim=1).indices

    def _keep(self, masks: Tensor) -> Tensor | None:
        """Replace clips that show less of their objects in the first frame by others: (B,) indices.

        Those without any, by clips that show all of theirs when there are some. None when no clip shows any.
        """
        count = (masks[:, :, 0].mean((2, 3)) > SMALLEST).sum(1)  # (B,) objects that are there
        if not int(count.max()):
            return None
        good = (count == count.max()).nonzero()[:, 0]
        keep = torch.arange(masks.shape[0], device=self.chance.device)
        bad = count == 0
        keep[bad] = good[torch.arange(int(bad.sum()), device=self.chance.device) % len(good)]
        return keep
