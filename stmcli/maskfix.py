"""Clean masks: soft edges resolved, colours snapped to the palette, turned and resized to fit a clip."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType

import numpy as np
import numpy.typing as npt
from PIL import Image
from scipy import ndimage

from stmcli.errors import MaskError, counted
from stmcli.ghosts import EIGHT, Codes, Colours, Mask, Points, find_ghosts, settle, thin_codes
from stmcli.images import load_image
from stmcli.masks import (
    GREY_MODES,
    VOID,
    WHITE,
    WIDE_MODES,
    Convention,
    Labels,
    colour_codes,
    has_soft_edges,
    ids_of_colours,
    object_ids,
    read_labels,
    samples,
    without_idle_alpha,
)
from stmcli.options import MaskOptions
from stmcli.render import palette
from stmcli.video import SourceInfo, open_source

NONE: Mapping[int, int] = MappingProxyType({})
SNAP = 12.0  # how far a colour may be from the palette's and still be meant
FEW = 22  # ids that a colour may be snapped to unseen: the palette's own are 64 apart there; others must be seen exact
NO_MASK = 0.25  # a picture with a larger share of its pixels in no flat colour is a photograph


@dataclass(frozen=True)
class Cleaned:
    """Hold what a mask file means once its soft edges are gone."""

    labels: Labels  # (H, W)
    changes: tuple[str, ...]
    problem: str = ""  # why the file is not to be used as it is
    ghosts: int = 0  # pixels of soft edges
    shades: int = 0  # values that these have


def fix_mask(
    path: Path,
    *,
    video: Path | None = None,
    turn: int = 0,
    speck: int = MaskOptions().speck,
    ids: Mapping[int, int] = NONE,
) -> Cleaned:
    """Return what `clean` does, turned by `turn` degrees counter-clockwise, and made to fit a clip.

    With a clip the mask is turned and resized to its size where only one way fits. Parts of an object of fewer pixels
    than `speck` become what is around them. Raises MaskError, and what `open_source` raises.
    """
    cleaned = clean(path, ids)
    labels, changes = cleaned.labels, [*cleaned.changes]
    if turn:
        labels = np.rot90(labels, turn // 90)
        changes.append(f"turned by {turn} degrees counter-clockwise")
    if video is not None:
        with open_source(video) as clip:
            labels = _fit(labels, path, clip.info, changes.append)
    if speck:
        labels = _without_specks(labels, speck, changes.append)
    return replace(cleaned, labels=labels, changes=tuple(changes))


def clean(path: Path, ids: Mapping[int, int] = NONE) -> Cleaned:
    """Return the ids in a mask file, soft edges resolved, with what was changed.

    `ids` are those of colours, 0xRRGGBB, that are not in the DAVIS palette or mean another id. Raises MaskError.
    """
    image = without_idle_alpha(load_image(path))
    if ids and image.mode != "RGB":
        raise MaskError("its values are ids, not colours", path=path, hint="Leave out --id, or save it as RGB")
    if image.format == "JPEG" or image.mode not in ("RGB", "P", *GREY_MODES, *WIDE_MODES):
        changes: list[str] = []
        return Cleaned(read_labels(path, warn=changes.append), tuple(changes))
    if image.mode == "RGB":
        return _clean_colours(colour_codes(np.array(image)), path, ids)
    if image.mode == "P" and _means_its_colours(image):
        cleaned = _clean_colours(_palette_codes(image)[samples(image)], path, NONE)
        cause = "its palette indices are no ids: the background is not index 0; its colours are the DAVIS palette's"
        return replace(cleaned, problem=cause, changes=("read by its colours, not by its indices", *cleaned.changes))
    return _clean_values(image, path)


def parts(labels: Labels, number: int) -> tuple[npt.NDArray[np.integer], npt.NDArray[np.integer]]:
    """Return the parts of an object that hang together: (H, W) with 1, 2, ... and their areas."""
    numbered, _ = ndimage.label(labels == number, EIGHT)
    return numbered, np.bincount(numbered.ravel())[1:]


# -- soft edges and colours ------------------------------------------------------------------------------------------


def _clean_values(image: Image.Image, path: Path) -> Cleaned:
    grey = image.mode in GREY_MODES
    stored = np.array(image).astype(np.int32) if image.mode in WIDE_MODES else samples(image).astype(np.int32)
    if has_soft_edges(image):
        codes = np.where(stored > 127, 255, 0).astype(np.int32)
    else:
        codes = stored
        for colours in [_palette_of(image), _as_grey] if image.mode == "P" else [_as_grey]:
            codes = settle(codes, find_ghosts(codes, colours, proper=(0, VOID)), colours)
    wrong = codes != stored
    changes = [_resolved(wrong, stored)] if wrong.any() else []
    convention = Convention()
    convention.learn(codes, grey)
    labels = convention.labels(codes, grey, path=path, warn=changes.append)
    return _cleaned(labels, path, changes, wrong, stored)


def _clean_colours(stored: Codes, path: Path, ids: Mapping[int, int]) -> Cleaned:
    own = np.array([*ids], dtype=np.int32)
    flat = np.setdiff1d(stored, thin_codes(stored))
    davis = colour_codes(palette())
    known = np.unique([*davis[:FEW], davis[VOID], WHITE, *own, *np.intersect1d(davis, flat)])
    snapped = _snap(stored, known)
    wrong = np.isin(snapped, np.setdiff1d(thin_codes(snapped), known)) | find_ghosts(snapped, _as_rgb)
    if wrong.mean() > NO_MASK:
        cause = f"{wrong.mean():.0%} of its pixels are in no flat colour: a photograph, or blurred"
        raise MaskError(cause, path=path, hint="Paint the mask in flat colours")
    codes = painted = settle(snapped, wrong, _as_rgb)
    unknown = np.argwhere(~np.isin(codes, known))
    if len(unknown):
        y, x = (int(value) for value in unknown[0])
        cause = f"colour #{codes[y, x]:06x} at x={x}, y={y} is near no colour of the DAVIS palette"
        hint = f"Say which id it is by --id {codes[y, x]:06x}=1, or repaint it: id 1 is #800000, id 2 #008000"
        raise MaskError(cause, path=path, hint=hint)
    for colour in ids:
        codes = np.where(painted == colour, davis[ids[colour]], codes)
    if absent := [f"#{colour:06x}" for colour in ids if not (painted == colour).any()]:
        raise MaskError(
            f"no pixel is {', '.join(absent)}", path=path, hint="Leave out its --id, or look at the colours"
        )
    if len(np.setdiff1d(codes, (0, WHITE))) and (codes == WHITE).any():
        raise MaskError("white beside colours may be anything", path=path, hint="Paint the background black")
    moved = (stored != snapped) & ~wrong
    changes = [_resolved(wrong, stored)] if wrong.any() else []
    if moved.any():
        changes.append(f"{_count(moved, stored)} snapped to the DAVIS palette")
    values = ids_of_colours(codes, path)
    convention = Convention()
    convention.learn(values, False)
    return _cleaned(convention.labels(values, False, path=path, warn=changes.append), path, changes, wrong, stored)


def _cleaned(labels: Labels, path: Path, changes: list[str], wrong: Mask, stored: Codes) -> Cleaned:
    if not object_ids(labels):
        raise MaskError("no object in this mask", path=path, hint="Paint each object with its own id")
    ghosts, shades = int(np.count_nonzero(wrong)), len(np.unique(stored[wrong]))
    unreal = len(np.setdiff1d(stored[wrong], stored[~wrong])) > 0  # an id that is nothing but soft edge
    bad = unreal or ghosts >= MaskOptions().tiny
    problem = f"soft edges: {_count(wrong, stored)} only between others" if bad else ""
    return Cleaned(labels, tuple(changes), problem, ghosts, shades)


def _resolved(wrong: Mask, stored: Codes) -> str:
    return f"soft edges: {_count(wrong, stored)} resolved to the ids beside them"


def _count(pixels: Mask, stored: Codes) -> str:
    count, values = int(np.count_nonzero(pixels)), len(np.unique(stored[pixels]))
    return f"{counted(count, 'pixel')} in {counted(values, 'value')}"


def _snap(codes: Codes, known: Codes) -> Codes:
    """Move colours that are close to a known one onto it."""
    found, where = np.unique(codes, return_inverse=True)
    points = _as_rgb(known)
    for start in range(0, len(found), 4096):
        some = found[start : start + 4096]
        distance = np.linalg.norm(_as_rgb(some)[:, None] - points, axis=2)  # (K, known)
        near = distance.min(axis=1) <= SNAP
        some[near] = known[distance.argmin(axis=1)][near]
    return found[where].reshape(codes.shape)


def _as_rgb(codes: Codes) -> Points:
    return np.stack([codes >> 16 & 255, codes >> 8 & 255, codes & 255], axis=-1).astype(np.float32)


def _as_grey(codes: Codes) -> Points:
    return np.repeat(codes[..., None], 3, axis=-1).astype(np.float32)


def _palette_codes(image: Image.Image) -> Codes:
    """Return the colours of a palette picture by index, (256,); black where it has none."""
    levels = np.zeros((256, 3), dtype=np.uint8)
    own = np.array(image.getpalette("RGB"), dtype=np.uint8).reshape(-1, 3)
    levels[: len(own)] = own
    return colour_codes(levels)


def _palette_of(image: Image.Image) -> Colours:
    levels = _as_rgb(_palette_codes(image))
    return lambda codes: levels[codes]


def _means_its_colours(image: Image.Image) -> bool:
    """Tell whether a palette picture is an export of DAVIS colours: black is an area, but not at index 0."""
    indices = samples(image)
    flat = np.setdiff1d(indices, thin_codes(indices))
    davis = colour_codes(palette())
    own = _snap(_palette_codes(image), davis)
    return bool(own[0] and 0 in own[flat] and np.isin(own[flat], davis).all())


# -- turning, resizing, specks ---------------------------------------------------------------------------------------


def _fit(labels: Labels, path: Path, info: SourceInfo, say: Callable[[str], object]) -> Labels:
    """Turn and resize labels to the size of the clip. Raises MaskError when no way or more than one fits."""
    wanted = (info.height, info.width)
    if labels.shape == wanted:
        return labels
    sizes = f"the mask is {labels.shape[1]}x{labels.shape[0]} but {info.path.name} is {info.width}x{info.height}"
    if not _is_scaled(labels.shape, wanted) and _is_scaled(labels.shape[::-1], wanted):
        if info.rotation % 180 == 0:
            raise MaskError(f"{sizes}; it looks rotated", path=path, hint="Say how, with --rotate 90 or --rotate 270")
        labels = np.rot90(labels, info.rotation // 90)
        say(f"turned by {info.rotation} degrees counter-clockwise, as the clip itself is")
    if not _is_scaled(labels.shape, wanted):
        raise MaskError(f"{sizes}, of another shape", path=path, hint="Crop or pad the mask to the whole frame")
    if labels.shape != wanted:
        say(f"resized from {labels.shape[1]}x{labels.shape[0]} to {info.width}x{info.height}, nearest neighbour")
        labels = _resize(labels, wanted, say)
    return labels


def _is_scaled(found: tuple[int, ...], wanted: tuple[int, int]) -> bool:
    """Tell whether one (H, W) is the other scaled and rounded to whole pixels."""
    height, width = found
    return abs(width - wanted[1] * height / wanted[0]) <= 1 or abs(wanted[1] - width * wanted[0] / height) <= 1


def _resize(labels: Labels, wanted: tuple[int, int], say: Callable[[str], object]) -> Labels:
    rows, columns = (
        ((np.arange(new) + 0.5) * old / new).astype(np.intp) for new, old in zip(wanted, labels.shape, strict=True)
    )
    resized = labels[rows][:, columns]
    if lost := [str(number) for number in object_ids(labels) if number not in object_ids(resized)]:
        say(f"object {', '.join(lost)} is too small to be left")
    return resized


def _without_specks(labels: Labels, below: int, say: Callable[[str], object]) -> Labels:
    """Give the parts of an object that have fewer pixels to what surrounds them; the largest part always stays."""
    left = labels.copy()
    for number in object_ids(labels):
        numbered, areas = parts(labels, number)
        small = [part for part in np.flatnonzero(areas < below) if part != areas.argmax()]
        boxes = ndimage.find_objects(numbered)
        for part in small:
            box = tuple(slice(max(0, side.start - 1), side.stop + 1) for side in boxes[part])
            speck = numbered[box] == part + 1
            ring = left[box][ndimage.binary_dilation(speck, EIGHT) & ~speck]
            left[box][speck] = np.bincount(ring.astype(np.int64)).argmax() if ring.size else 0
        if small:
            pixels = int(areas[small].sum())
            specks = f"{counted(len(small), 'speck')} of {counted(pixels, 'pixel')}"
            say(f"object {number}: {specks} removed")
    return left
