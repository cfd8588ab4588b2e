"""Coverage-guided fuzzing of the readers of small files, with atheris; without it the corpus is tried as it is.

make fuzz                                            install atheris, then all of `python -m soak fuzz`
python -m soak.fuzz TARGET [libFuzzer's options]     one of them; what breaks it is kept in tests/soak/corpus/TARGET
"""

import gc
import io
import json
import re
import sys
import tempfile
import warnings
from collections.abc import Callable
from functools import cache
from pathlib import Path
from types import FunctionType

import numpy as np
from conftest import write_clip
from PIL import Image

from stmcli.annotations import load_annotations, read_annotated
from stmcli.clips.videos import load_videos
from stmcli.errors import StmError
from stmcli.evaluate.layout import annotation_folders
from stmcli.evaluate.ytvos import read_meta
from stmcli.listeners import unheard
from stmcli.manifest import pair_manifest
from stmcli.masks import encode_labels, object_ids, read_labels
from stmcli.video import FrameFolder, open_source
from stmcli.video.folder import is_pattern, list_frames
from stmcli.video.numbering import numbered, whole_range

CORPUS = Path(__file__).with_name("corpus")
FOLLOWED = ("stmcli", "PIL", "csv", "json", "tarfile")
WRITTEN = ("00001.png", "00002.png", "00010.png", "shot.0001.png", "shot.0002.png", "a1b2.png", "x%d.png", "7.png")


@cache
def ground() -> Path:
    """Return a folder for the files of this process."""
    return Path(tempfile.mkdtemp(prefix="stm-fuzz-"))


def read_mask(content: bytes) -> None:
    """Read a mask: ids that fit, or an error."""
    path = ground() / "mask.png"
    path.write_bytes(content)
    labels = read_labels(path, warn=unheard)
    assert labels.ndim == 2
    assert labels.dtype in (np.uint8, np.int32)
    assert all(0 < number <= 65535 for number in object_ids(labels))


def read_manifest(content: bytes) -> None:
    """Read a manifest of either kind: outputs that are apart from each other and inside, or an error."""
    path = ground() / ("jobs.csv" if content[:1] == b"c" else "jobs.jsonl")
    path.write_bytes(content[1:])
    out = ground() / "out"
    pairs = pair_manifest(path, out)
    places = [(out / pair.output).resolve() for pair in pairs]
    assert len({*places}) == len(places)
    assert all(place.is_relative_to(out) and place != out for place in places)


def read_dataset(content: bytes) -> None:
    """Read annotations, what `meta.json` asks for, a list of clips, or a tar of videos."""
    kind, rest = content[:1], content[1:]
    if kind == b"a":
        path = ground() / "annotations.json"
        path.write_bytes(rest)
        with open_source(_clip()) as source:
            labels = read_annotated(load_annotations(path), source, 0, warn=unheard)
            assert labels.shape == (source.info.height, source.info.width)
    elif kind == b"m":
        (_dataset() / "meta.json").write_bytes(rest)
        read_meta(_dataset())
    elif kind == b"l":
        (_dataset() / "ImageSets/2017/val.txt").write_bytes(rest)
        for folder in annotation_folders(_dataset(), "davis2017").values():
            assert folder.resolve().is_relative_to(_dataset().resolve())
    else:
        path = ground() / "videos.tar"
        path.write_bytes(rest)
        load_videos(path)


def read_pattern(content: bytes) -> None:
    """Find the files of a frame pattern: those that it names, in order, or an error."""
    name = content.decode("utf-8", "surrogateescape")
    if not name or "\0" in name or "/" in name or len(content) > 200:
        return
    path = _written() / name
    if not is_pattern(path):
        return
    files = list_frames(path)
    assert {file.name for file in files} <= {*WRITTEN}
    numbers = numbered(path, files)
    assert [*numbers] == sorted(numbers)
    whole = whole_range(path, numbers)
    assert FrameFolder(path, on_corrupt="skip").count == len(whole)
    if len(whole) == len(numbers):
        assert FrameFolder(path).count == len(whole)


TARGETS: dict[str, Callable[[bytes], None]] = {
    "mask": read_mask,
    "manifest": read_manifest,
    "dataset": read_dataset,
    "pattern": read_pattern,
}


def seeds(target: str) -> list[bytes]:
    """Return good inputs to begin with."""
    labels = np.zeros((12, 16), np.uint16)
    labels[2:8, 3:9] = 3
    grey = io.BytesIO()
    Image.fromarray((labels > 0).astype(np.uint8) * 255).save(grey, "PNG")
    shape = {"id": 1, "image_id": 1, "segmentation": [[4, 4, 40, 5, 20, 40]], "iscrowd": 0}
    image = {"id": 1, "file_name": "00000.jpg", "width": 64, "height": 48}
    track = {"id": 1, "video_id": 1, "segmentations": [{"size": [48, 64], "counts": [100, 20, 2952]}], "iscrowd": 0}
    film = {"id": 1, "width": 64, "height": 48, "file_names": ["clip/00000.jpg"]}
    wanted = {"videos": {"cat": {"objects": {"1": {"category": "cat", "frames": ["00000"]}}}}}
    return {
        "mask": [encode_labels(labels), encode_labels(labels * 200), grey.getvalue()],
        "manifest": [
            b"cvideo,mask,output\na.mp4,a.png,x/a\nb.mp4,0:a.png;4:b.png,\n",
            b'j{"video": "a.mp4", "mask": ["a.png"], "output": "x/a"}\n{"video": "b.mp4", "mask": "b.png"}\n',
        ],
        "dataset": [
            b"a" + json.dumps({"images": [image], "annotations": [shape]}).encode(),
            b"a" + json.dumps({"videos": [film], "annotations": [track]}).encode(),
            b"m" + json.dumps(wanted).encode(),
            b"lcat\n",
            b"t" + bytes(1024),
        ],
        "pattern": [b"%05d.png", b"shot.####.png", b"a%db2.png", b"#.png", b"%d%d.png"],
    }[target]


def attempt(target: str, content: bytes) -> None:
    """Try an input; anything but an error of ours is raised."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            TARGETS[target](content)
        except StmError as error:
            if "\n" in str(error):
                raise


def executions(said: str) -> int:
    """Return how often libFuzzer says that it has run a target."""
    return max(map(int, re.findall(r"#(\d+)\s", said)), default=0)


@cache
def _clip() -> Path:
    return write_clip(ground() / "clip.mp4", frames=1)


@cache
def _dataset() -> Path:
    root = ground() / "set"
    for folder in ("ImageSets/2017", "Annotations/480p/cat", "JPEGImages/480p/cat"):
        (root / folder).mkdir(parents=True)
    return root


@cache
def _written() -> Path:
    folder = ground() / "frames"
    folder.mkdir()
    for name in WRITTEN:
        Image.new("RGB", (4, 4)).save(folder / name)
    return folder


def _is_ours(thing: object) -> bool:
    """Tell whether something is a function whose branches are to be followed; all of torch would take minutes."""
    module = getattr(thing, "__module__", None) if isinstance(thing, FunctionType) else None
    return isinstance(module, str) and module.split(".")[0] in FOLLOWED


def main(target: str, *options: str) -> None:
    """Hand a target over to libFuzzer, which never returns."""
    import atheris

    corpus, found = ground() / "corpus", CORPUS / target
    for folder in (corpus, found):
        folder.mkdir(parents=True, exist_ok=True)
    for place, content in enumerate(seeds(target)):
        (corpus / f"seed{place}").write_bytes(content)
    for function in filter(_is_ours, gc.get_objects()):
        atheris.instrument_func(function)
    words = [sys.argv[0], *options, f"-artifact_prefix={found}/", str(corpus), str(found)]
    atheris.Setup(words, lambda content: attempt(target, content))
    atheris.Fuzz()


if __name__ == "__main__":
    main(*sys.argv[1:])
