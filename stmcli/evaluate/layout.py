"""Where the clips of a dataset are: folders of frames and of masks, in the DAVIS or YouTube-VOS layout."""

from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from stmcli.errors import UsageError, listed
from stmcli.evaluate.ytvos import meta_file, read_meta
from stmcli.files import can_be, natural_key, nearest_name, nearest_of
from stmcli.layout import ANNOTATIONS, IMAGES, LISTS, choose_resolution, list_place, read_list
from stmcli.masks import mask_folder
from stmcli.options import PROTOCOLS


@dataclass(frozen=True)
class Clip:
    """Where the frames and the ground truth of one clip of a dataset are."""

    name: str
    frames: Path
    annotations: Path


def list_sequences(dataset_root: Path, protocol: str, *, only: Collection[str] = ()) -> list[Clip]:
    """List the clips of a dataset in the DAVIS or YouTube-VOS layout, with their frames and ground truth.

    `only` names those that are wanted, where it is not all. Raises UsageError when the frames or the ground truth of a
    listed clip are missing.
    """
    images = image_folder(dataset_root)
    clips = [
        Clip(name, images / name, annotations)
        for name, annotations in annotation_folders(dataset_root, protocol, only=only).items()
    ]
    missing = [clip.name for clip in clips if not clip.frames.is_dir()]
    if missing:
        raise UsageError(f"no frames for clip {listed(missing, 1)}", path=images, hint="Give the dataset's root")
    return clips


def image_folder(root: Path) -> Path:
    """Return where the folders of frames of a dataset are; it need not exist."""
    return root / IMAGES / _resolution(root)


def annotation_folders(root: Path, protocol: str, *, only: Collection[str] = ()) -> dict[str, Path]:
    """Return the folder of ground truth of every clip that the protocol asks for, or of `only` these of them.

    Raises UsageError.
    """
    if protocol not in PROTOCOLS:
        raise UsageError(f"no protocol {protocol!r}", hint=f"The protocols are {', '.join(PROTOCOLS)}")
    require_folder(root)
    base = root / ANNOTATIONS / _resolution(root) if (root / ANNOTATIONS).is_dir() else root
    names = _listed_clips(root, protocol) or sorted(_clips_in(base))
    if not names:
        raise UsageError("no ground truth here", path=root, hint="It must hold <clip>/*.png")
    if unknown := [name for name in only if name not in names]:
        raise UsageError(f"no clip {unknown[0]!r} of {protocol}", path=root, hint=nearest_of(unknown[0], names))
    folders = {name: mask_folder(base / name) for name in names if not only or name in only}
    missing = [name for name, folder in folders.items() if not (folder.is_dir() and mask_files(folder))]
    if missing:
        raise UsageError(f"no ground truth for clip {listed(missing, 1)}", path=base, hint="Complete the dataset")
    return folders


def predicted_folders(predictions: Path, names: Iterable[str]) -> dict[str, Path]:
    """Return the folder of predicted masks of every clip. Raises UsageError when there is none."""
    require_folder(predictions)
    found = {name: mask_folder(predictions / name) for name in names}
    missing = [name for name, folder in found.items() if not folder.is_dir()]
    if missing:
        cause = f"no masks for clip {listed(missing, 1)}"
        inner = next((path for path in sorted(predictions.iterdir()) if (path / missing[0]).is_dir()), None)
        hint = f"Did you mean {inner}?" if inner else "It must hold <clip>/*.png or <clip>/masks/*.png"
        raise UsageError(cause, path=predictions, hint=hint)
    return found


def mask_files(folder: Path) -> list[Path]:
    """List the masks in a folder in natural order."""
    files = (path for path in folder.glob("*.png") if path.name[0] != ".")
    return sorted(files, key=lambda path: natural_key(path.stem))


def by_frame(files: Iterable[Path]) -> dict[str, Path]:
    """Return files by the frame they are of. Raises UsageError for `7.png` beside `00007.png`, the same frame."""
    found: dict[str, Path] = {}
    for path in files:
        other = found.setdefault(frame_key(path.stem), path)
        if other is not path:
            cause = f"{other.name} and {path.name} are the same frame"
            raise UsageError(cause, path=path.parent, hint="Remove one.")
    return found


def frame_key(name: str) -> str:
    """Return what the names of a frame have in common, whatever its zeros in front."""
    return name.lstrip("0")


def no_mask_for(missing: Sequence[str], prediction: Path) -> UsageError:
    """Return what to say of frames that a clip's masks lack, or that go by another name."""
    hint = f"Every frame needs one, called as in the ground truth: {missing[0]}.png"
    return UsageError(f"no mask for frame {listed(missing, 1)}", path=prediction, hint=hint)


def require_folder(path: Path) -> None:
    """Raise UsageError unless there is such a folder."""
    if not path.is_dir():
        if path.exists():
            raise UsageError("not a folder", path=path, hint="Give a folder of clips")
        raise UsageError("no such folder", path=path, hint=nearest_name(path.absolute()))


def _resolution(root: Path) -> str:
    """Return the folder between that of all masks and those of the clips, empty where there is none."""
    masks = root / ANNOTATIONS
    found = {folder.name for folder in masks.glob("*/") if any(_clips_in(folder))}
    return choose_resolution({"", *found} if any(_clips_in(masks)) else found)


def _clips_in(folder: Path) -> Iterator[str]:
    """Name the clips whose masks are in a folder."""
    return (clip.name for clip in folder.glob("*/") if mask_files(mask_folder(clip)))


def _listed_clips(root: Path, protocol: str) -> list[str]:
    if protocol == "ytvos":
        return _safe(sorted(read_meta(root)), meta_file(root))
    path = _clip_list(root, protocol)
    return _safe(read_list(path.read_bytes()), path) if path else []


def unlisted_note(root: Path, protocol: str) -> list[str]:
    """Say that a dataset lists clips, but not those of the protocol, so that every one is taken."""
    places = _list_places(protocol)
    if not places or has_list(root, protocol) or not (root / places[0]).parents[1].is_dir():
        return []
    return [f"{root}: there is no {places[0]}, so every clip is scored"]


def has_list(root: Path, protocol: str) -> bool:
    """Tell whether a dataset in the DAVIS layout lists the clips of a protocol."""
    return _clip_list(root, protocol) is not None


def _clip_list(root: Path, protocol: str) -> Path | None:
    paths = (root / place for place in _list_places(protocol))
    return next((path for path in paths if path.is_file()), None)


def _list_places(protocol: str) -> list[str]:
    return [list_place(folder, "val") for folder in LISTS.get(protocol, ())]


def _safe(names: list[str], path: Path) -> list[str]:
    outside = [name for name in names if name in ("", ".", "..") or Path(name).name != name or not can_be(name)]
    if outside:
        raise UsageError(f"{outside[0][:40]!r} is not the name of a clip", path=path, hint="One name for each clip")
    return names
