"""The zip that the evaluation server of YouTube-VOS takes: the required frames, with the required ids."""

import zipfile
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path

import numpy as np

from stmcli.errors import UsageError, listed
from stmcli.evaluate.layout import annotation_folders, by_frame, frame_key, mask_files, no_mask_for, predicted_folders
from stmcli.evaluate.ytvos import META, Wanted, frame_order, read_meta
from stmcli.files import NO_DATE, whole
from stmcli.layout import ANNOTATIONS
from stmcli.masks import Labels, check_fits, encode_labels, is_binary, object_ids, read_values

Required = Mapping[str, frozenset[int]]  # frame -> ids that may be in it


def write_submission(predictions: Path, truth: Path, archive: Path) -> int:
    """Write `Annotations/<clip>/<frame>.png` of the frames and ids that are required, and return how many frames.

    `meta.json` under `truth` says what is required: of each object the frames listed for it, and nothing of it before
    the first of them; without it, the frames that have ground truth and the ids there. Raises UsageError, MaskError,
    WriteError.
    """
    annotations = annotation_folders(truth, "ytvos")
    found = predicted_folders(predictions, annotations)
    meta = read_meta(truth)
    count = 0
    with whole(archive) as part, zipfile.ZipFile(part, "w", zipfile.ZIP_STORED) as content:  # PNG is packed already
        for name, folder in annotations.items():
            wanted = meta.get(name)
            required = _listed(wanted) if wanted else _annotated(folder)
            for frame, labels in _masks(found[name], folder, required):
                content.writestr(zipfile.ZipInfo(f"{ANNOTATIONS}/{name}/{frame}.png", NO_DATE), encode_labels(labels))
                count += 1
    return count


def unscorable(truth: Path, *, only: Collection[str] = ()) -> str:
    """Say which ground truth is not there though `meta.json` lists it; empty: all of it is there.

    Where the truth is not public, only the masks of the frames in which objects enter are there. Raises UsageError.
    """
    meta = read_meta(truth)
    for name, folder in annotation_folders(truth, "ytvos", only=only).items() if meta else ():
        there = {path.stem for path in mask_files(folder)}
        if missing := sorted(_listed(meta[name]).keys() - there, key=frame_order):
            return f"{folder}: no ground truth for frame {listed(missing, 1)}"
    return ""


def _listed(wanted: Mapping[int, Wanted]) -> Required:
    frames = sorted({frame for one in wanted.values() for frame in one.frames}, key=frame_order)
    first = {number: frame_order(one.frames[0]) for number, one in wanted.items() if one.frames}
    return {frame: frozenset(n for n, entry in first.items() if entry <= frame_order(frame)) for frame in frames}


def _annotated(folder: Path) -> Required:
    """Return the frames that have ground truth, with the ids that have been in one of them so far."""
    required: dict[str, frozenset[int]] = {}
    ids: frozenset[int] = frozenset()
    for path in mask_files(folder):
        values = read_values(path)
        ids |= {1} if is_binary(values) else {*object_ids(values)}
        required[path.stem] = ids
    return required


def _masks(prediction: Path, truth: Path, required: Required) -> Iterator[tuple[str, Labels]]:
    """Yield name and ids (H, W) of every required frame; the size is that of the ground truth."""
    if not any(required.values()):
        raise UsageError("no frame is required", path=truth, hint=f"{META} lists frames for each object")
    predicted, given = by_frame(mask_files(prediction)), mask_files(truth)
    missing = [frame for frame in required if frame_key(frame) not in predicted]
    if missing:
        raise no_mask_for(missing, prediction)
    height, width = read_values(given[0]).shape
    for frame, ids in required.items():
        path = predicted[frame_key(frame)]
        values = read_values(path)
        check_fits(values, path, width, height, str(given[0]))
        labels = (values > 0).astype(np.uint8) if is_binary(values) else values
        yield frame, np.where(np.isin(labels, [*ids]), labels, 0).astype(labels.dtype)
