"""What is in a mask file, what is odd about it, and whether it can be used for a clip as it is."""

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from stmcli.errors import MaskError
from stmcli.images import load_image
from stmcli.maskfix import Cleaned, clean, parts
from stmcli.masks import (
    ALPHA_MODES,
    GREY_MODES,
    INVERTED_NOTE,
    VOID,
    WIDE_MODES,
    Labels,
    check_fits,
    is_inverted,
    object_ids,
    read_labels,
    samples,
    without_idle_alpha,
)
from stmcli.options import MaskOptions
from stmcli.render import palette
from stmcli.video import SourceInfo, open_source

MODES = {"1": "1-bit", "P": "palette", "L": "grey", "RGB": "RGB", "RGBA": "RGB with alpha", "LA": "grey with alpha"}
FIX = "stm mask fix writes a clean one"


@dataclass(frozen=True)
class MaskObject:
    """One object of a mask: its pixels, and its parts that hang together; specks are the tiny ones."""

    id: int
    area: int
    color: str
    parts: int
    specks: int


@dataclass(frozen=True)
class MaskFacts:
    """What `check_mask` found. `problems` are (cause, hint); without any the mask can be used as it is."""

    path: Path
    mode: str
    width: int
    height: int
    two_valued: bool
    objects: tuple[MaskObject, ...]
    void: int  # pixels
    ghosts: int  # pixels of soft edges
    ghost_values: int
    clip: str | None
    reading: str  # what stm makes of it
    notes: tuple[str, ...]
    problems: tuple[tuple[str, str], ...]

    @property
    def usable(self) -> bool:
        """Whether `stm segment` takes it as it is, and takes it right."""
        return not self.problems

    def as_json(self) -> dict[str, Any]:
        """Return the object that `stm mask check --json` prints."""
        problems = [f"{cause}. {hint}" for cause, hint in self.problems]
        return {**asdict(self), "path": str(self.path), "usable": self.usable, "problems": problems}


def check_mask(path: Path, *, video: Path | None = None) -> MaskFacts:
    """Look at a mask file, and at the clip that it is for.

    What is listed of a mask that cannot be used as it is, is what `clean` makes of it, if it can. Raises MaskError
    for a file that is no image, and what `open_source` raises.
    """
    image = load_image(path)
    notes: list[str] = []
    problems: list[tuple[str, str]] = []
    if without_idle_alpha(image).mode in ALPHA_MODES:
        notes.append("what is opaque is the object; its colours do not count")
    labels, cleaned = _labels(path, notes, problems), _cleaned(path)
    if cleaned and cleaned.problem and not problems:
        problems.append((cleaned.problem, FIX))
    info = _clip(video)
    if info is not None:
        problems += _misfit(image, path, info)
        notes += _turned(info)
    if labels is not None and is_inverted(labels):
        notes.append(f"it {INVERTED_NOTE}")
    shown = cleaned.labels if problems and cleaned else labels
    return MaskFacts(
        path=path,
        mode=describe(image),
        width=image.width,
        height=image.height,
        two_valued=_is_two_valued(image),
        objects=() if shown is None else tuple(_objects(shown, image)),
        void=0 if shown is None else int(np.count_nonzero(shown == VOID)),
        ghosts=cleaned.ghosts if cleaned else 0,
        ghost_values=cleaned.shades if cleaned else 0,
        clip=f"{info.width}x{info.height}" if info else None,
        reading=_reading(labels, cleaned, problems),
        notes=tuple(notes),
        problems=tuple(problems),
    )


def describe(image: Image.Image) -> str:
    """Name the format and the mode of a mask file: `8-bit palette PNG`."""
    packing = image.info.get("packing", "")
    bits = packing.partition(";")[2].rstrip("BLNIR")
    depth = int(bits) if bits.isdecimal() else 16 if image.mode in WIDE_MODES else 8
    mode = MODES.get(image.mode, "grey" if image.mode in WIDE_MODES else image.mode)
    colours = ""
    if image.mode == "P":
        levels = image.getpalette("RGB") or []
        colours = " in the DAVIS palette" if levels == palette().ravel()[: len(levels)].tolist() else ", own palette"
    return f"{mode} {image.format}" if image.mode == "1" else f"{depth}-bit {mode} {image.format}{colours}"


def _labels(path: Path, notes: list[str], problems: list[tuple[str, str]]) -> Labels | None:
    try:
        return read_labels(path, warn=lambda note: notes.append(note.removeprefix(f"{path}: ")))
    except MaskError as error:
        problems.append((error.cause, error.hint))
        return None


def _cleaned(path: Path) -> Cleaned | None:
    try:
        return clean(path)
    except MaskError:
        return None


def _clip(video: Path | None) -> SourceInfo | None:
    if video is None:
        return None
    with open_source(video) as source:
        return source.info


def _misfit(image: Image.Image, path: Path, info: SourceInfo) -> Iterator[tuple[str, str]]:
    try:
        check_fits(np.empty((image.height, image.width), np.uint8), path, info.width, info.height, info.path.name)
    except MaskError as error:
        yield error.cause, error.hint


def _turned(info: SourceInfo) -> Iterator[str]:
    if info.rotation:
        yield f"the clip is shown turned by {info.rotation} degrees counter-clockwise; the mask must be upright too"


def _is_two_valued(image: Image.Image) -> bool:
    if image.mode in WIDE_MODES:
        return len(np.unique(np.array(image))) == 2
    colours = image.getcolors(maxcolors=2)
    return colours is not None and len(colours) == 2


def _objects(labels: Labels, image: Image.Image) -> Iterator[MaskObject]:
    plain = image.copy()
    plain.info.pop("transparency", None)  # else Pillow warns
    rgb = np.array(plain.convert("RGB")) if image.mode not in WIDE_MODES else None
    for number in object_ids(labels):
        inside = labels == number
        areas = parts(labels, number)[1]
        specks = int(np.count_nonzero(areas < MaskOptions().tiny)) - int(areas.max() < MaskOptions().tiny)
        color = "" if rgb is None else _main_colour(rgb[inside])
        if image.mode in GREY_MODES:
            color = f"grey {np.bincount(samples(image)[inside]).argmax()}"
        yield MaskObject(number, int(areas.sum()), color, len(areas), specks)


def _main_colour(pixels: np.ndarray) -> str:
    codes = pixels.astype(np.int32) @ [65536, 256, 1]
    colours, counts = np.unique(codes, return_counts=True)
    return f"#{colours[counts.argmax()]:06x}"


def _reading(labels: Labels | None, cleaned: Cleaned | None, problems: list[tuple[str, str]]) -> str:
    shown = cleaned.labels if problems and cleaned else labels
    if shown is None:
        return "cannot be used"
    ids = object_ids(shown)
    objects = f"object{'s' * (len(ids) > 1)} {', '.join(map(str, ids))}"
    return f"{'stm mask fix would make of it' if problems else 'usable as it is'}: {objects}"
