"""Every kind of file that stm reads, small, and the commands that read it."""

import json
import shutil
import tarfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from unittest import mock

import numpy as np
import torch
from conftest import picture, write_clip
from PIL import Image
from plates import write_plate

from stmcli.clips.stills import load_stills
from stmcli.clips.videos import load_videos
from stmcli.datasets import CocoWriter, YtvisWriter
from stmcli.errors import Interrupted
from stmcli.job import Job
from stmcli.listeners import Listener
from stmcli.masks import write_labels
from stmcli.model import STM, Dims
from stmcli.options import ExportOptions, Fit, NetworkOptions, SegmentOptions
from stmcli.pipeline import segment_video
from stmcli.review import Review
from stmcli.saved import SavedPrediction
from stmcli.segmenter import checkpoint
from stmcli.video import open_source
from stmcli.video.plate import is_plate
from stmcli.weights import Card, save

FRAMES, HEIGHT, WIDTH = 8, 48, 64
DIMS = Dims(trunk="resnet18", key=8, value=16, decoder=8)
TINY = "tiny.safetensors"  # beside the folders of all cases; in a command it stands for that file
SEGMENT = ("segment", "{}", "-m", "mask.png", "-o", "out", "-q")
NETWORK = ("-w", TINY, "--device", "cpu", "--precision", "fp32")
Command = tuple[str, ...] | Callable[[], object]


@dataclass(frozen=True)
class Case:
    """A file that is spoilt, and what reads it.

    `make` writes everything into a folder. `whole` says that the results must be right whatever was spoilt: those
    under `out` must then be the ones under `whole`. Errors of a case that is `loose` may name other files.
    """

    name: str
    file: str
    make: Callable[[Path], object]
    commands: tuple[Command, ...]
    whole: bool = False
    loose: bool = False

    def words(self, command: tuple[str, ...], weights: Path) -> list[str]:
        """Return a command line for the case."""
        return [str(weights) if word == TINY else word.format(self.file) for word in command]

    @property
    def names(self) -> tuple[str, ...]:
        """Return what an error may call the file; none when it may be about others."""
        number = self.name.split()[1:2] if self.file.startswith("frames/") else ()
        whose = ("out: holds the result of another job",) if self.file.endswith("report.json") else ()
        return () if self.loose else (Path(self.file).name, *(f"({n})" for n in number), *whose)

    @property
    def is_json(self) -> bool:
        return self.file.endswith(".json")


def cases() -> dict[str, Case]:
    """Return all cases by name."""
    found = [*_clips(), *_folders(), *_masks(), *_annotations(), *_weights(), *_lists(), *_results(), *_training()]
    return {case.name: case for case in found}


def write_tiny(path: Path) -> Path:
    """Write the weights of a tiny random network."""
    torch.manual_seed(0)
    save(path, STM(DIMS), Card(DIMS, "free", fit=Fit(size=48)))
    return path


# -- clips -----------------------------------------------------------------------------------------------------------

CLIPS = {
    "clip.mp4": {"audio": "aac"},
    "fast.mp4": {"movflags": "faststart"},
    "turned.mov": {"rotation": 90, "timecode": "01:00:00:00"},
    "clip.mkv": {"audio": "aac"},
    "clip.avi": {},
    "clip.webm": {},
    "clip.ts": {"audio": "aac"},
    "clip.y4m": {},
    "clip.gif": {},
    "clip.apng": {},
    "frames.mov": {"codec": "mjpeg", "pix_fmt": "yuvj420p", "options": {}},
    "exact.mkv": {"codec": "ffv1", "pix_fmt": "yuv420p", "options": {}},
    "b.mp4": {"options": {"preset": "medium", "crf": "10"}},
}


def _clips() -> Iterable[Case]:
    commands: list[Command] = [(*SEGMENT, "--on-corrupt", how, *NETWORK) for how in ("fail", "stop", "skip")]
    commands += [("info", "{}"), ("frame", "{}", "--at", "3"), ("mask", "check", "mask.png", "--video", "{}")]
    for name, settings in CLIPS.items():

        def make(folder: Path, name: str = name, settings: dict = settings) -> None:
            write_clip(folder / name, frames=FRAMES, **settings)
            side = settings.get("rotation") == 90
            _put_mask(folder / "mask.png", height=WIDTH if side else HEIGHT, width=HEIGHT if side else WIDTH)

        yield Case(name, name, make, tuple(commands))


def _folders() -> Iterable[Case]:
    commands = (*((*SEGMENT[:1], "frames", *SEGMENT[2:], "--on-corrupt", how, *NETWORK) for how in ("fail", "skip")),)
    for suffix in ("png", "jpg", "bmp", "tif", "webp", "ppm", "exr", "dpx", "tga"):

        def make(folder: Path, suffix: str = suffix) -> None:
            _put_mask(folder / "mask.png")
            (folder / "frames").mkdir()
            for index in range(4):
                path = folder / f"frames/{index:03d}.{suffix}"
                if is_plate(path):
                    write_plate(path, picture(index))
                else:
                    Image.fromarray(picture(index)).save(path)

        for number in (0, 2):
            yield Case(
                f"frame {number} {suffix}", f"frames/{number:03d}.{suffix}", make, (*commands, ("info", "frames"))
            )


# -- masks -----------------------------------------------------------------------------------------------------------


def _labels(*ids: int, height: int = HEIGHT, width: int = WIDTH) -> np.ndarray:
    labels = np.zeros((height, width), np.uint16)
    for place, number in enumerate(ids or (1, 2)):
        labels[4 + 20 * place : 20 + 20 * place, 6:30] = number
    return labels


def _put_mask(path: Path, *ids: int, **size: int) -> None:
    write_labels(path, _labels(*ids, **size))


def _save_as(mode: str) -> Callable[[Path], None]:
    def put(path: Path) -> None:
        image = Image.fromarray((_labels() > 0).astype(np.uint8) * 255)
        if mode == "RGBA":
            image = Image.merge("RGBA", [image] * 4)
        image.convert(mode).save(path)

    return put


MASKS: dict[str, Callable[[Path], None]] = {
    "mask.png": _put_mask,
    "wide.png": lambda path: _put_mask(path, 300, 7),
    "grey.png": _save_as("L"),
    "bits.png": _save_as("1"),
    "colour.png": _save_as("RGB"),
    "alpha.png": _save_as("RGBA"),
    "mask.jpg": _save_as("L"),
    "mask.bmp": _save_as("L"),
    "mask.gif": _save_as("L"),
    "mask.tif": _save_as("L"),
    "mask.webp": _save_as("RGBA"),
}


def _masks() -> Iterable[Case]:
    commands: tuple[Command, ...] = (
        ("segment", "clip.mp4", "-m", "{}", "-o", "out", "-q", *NETWORK),
        ("mask", "check", "{}", "--video", "clip.mp4"),
        ("mask", "fix", "{}", "--video", "clip.mp4", "-o", "fixed.png"),
        ("evaluate", "pred", "--gt", "gt", "--protocol", "folder"),
    )
    for name, put in MASKS.items():

        def make(folder: Path, name: str = name, put: Callable[[Path], None] = put) -> None:
            write_clip(folder / "clip.mp4", frames=3)
            put(folder / name)
            for place in ("gt", "pred") if name.endswith(".png") else ():
                (folder / place / "clip").mkdir(parents=True)
                for index in range(3):
                    put(folder / place / "clip" / f"{index:05d}.png")

        yield Case(name, name, make, commands[:3])
        if name.endswith(".png"):
            yield Case(f"truth {name}", "gt/clip/00001.png", make, commands[3:])
            yield Case(f"prediction {name}", "pred/clip/00001.png", make, commands[3:])


def _annotations() -> Iterable[Case]:
    kinds = {"coco.json": CocoWriter, "ytvis.json": YtvisWriter}
    commands = (
        ("segment", "clip.mp4", "-m", "{}", "-o", "out", "-q", *NETWORK),
        ("segment", "clip.mp4", "-m", "2:{}#1", "-o", "out", "-q", "--start", "2", *NETWORK),
    )
    for name, kind in kinds.items():

        def make(folder: Path, name: str = name, kind: type = kind) -> None:
            write_clip(folder / "clip.mp4", frames=3)
            with open_source(folder / "clip.mp4") as source:
                writer = kind(folder / name, source.info, source.frame_name)
                for frame in source:
                    writer.write(frame, SavedPrediction((1, 2), _labels()))
                writer.close()

        yield Case(name, name, make, commands)

    def polygons(folder: Path) -> None:
        write_clip(folder / "clip.mp4", frames=3)
        shape = {"id": 1, "image_id": 1, "segmentation": [[4, 4, 40, 5, 20, 40]], "iscrowd": 0, "category_id": 1}
        image = {"id": 1, "file_name": "00000.jpg", "width": WIDTH, "height": HEIGHT}
        (folder / "polygons.json").write_text(json.dumps({"images": [image], "annotations": [shape]}))

    yield Case("polygons.json", "polygons.json", polygons, commands[:1])


# -- weights ---------------------------------------------------------------------------------------------------------


def _weights() -> Iterable[Case]:
    def clip(folder: Path) -> None:
        write_clip(folder / "clip.mp4", frames=2)
        _put_mask(folder / "mask.png")

    def safetensors(folder: Path) -> None:
        clip(folder)
        shutil.copy(folder.parent / TINY, folder / "own.safetensors")

    def pickled(folder: Path, *, zipped: bool) -> None:
        clip(folder)
        state = {f"module.Encoder_M.conv{i}.weight": torch.arange(12.0).reshape(3, 4) + i for i in range(5)}
        torch.save(state, folder / "own.pth", _use_new_zipfile_serialization=zipped)

    segment = (
        "segment",
        "clip.mp4",
        "-m",
        "mask.png",
        "-o",
        "out",
        "-q",
        "--device",
        "cpu",
        "--precision",
        "fp32",
        "-w",
        "{}",
    )
    yield Case("own.safetensors", "own.safetensors", safetensors, (segment,))
    for name, zipped in (("own.pth", True), ("old.pth", False)):
        make = lambda folder, zipped=zipped: pickled(folder, zipped=zipped)  # noqa: E731
        yield Case(name, "own.pth", make, (segment, ("weights", "import", "{}", "--name", "own")))


# -- lists -----------------------------------------------------------------------------------------------------------


def _lists() -> Iterable[Case]:
    rows = [{"video": f"{name}.mp4", "mask": "mask.png", "output": f"made/{name}"} for name in "ab"]

    def make(folder: Path) -> None:
        for row in rows:
            write_clip(folder / row["video"], frames=2)
        _put_mask(folder / "mask.png")
        lines = [",".join(row.values()) for row in rows]
        (folder / "jobs.csv").write_text("\n".join(["video,mask,output", *lines, ""]))
        (folder / "jobs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))

    batch = ("batch", "--manifest", "{}", "-o", "results", "--engine", "here", "-e", "none", "-q", *NETWORK)
    for name in ("jobs.csv", "jobs.jsonl"):
        yield Case(name, name, make, (batch, (*batch, "--dry-run")), loose=True)

    def dataset(folder: Path) -> None:
        for place in ("Annotations", "JPEGImages", "pred"):
            (folder / "set" / place / "clip" if place != "pred" else folder / "pred/clip").mkdir(parents=True)
        for index in range(3):
            for place in ("set/Annotations", "pred"):
                _put_mask(folder / place / "clip" / f"{index:05d}.png")
            Image.fromarray(picture(index)).save(folder / f"set/JPEGImages/clip/{index:05d}.jpg")
        wanted = {"category": "dog", "frames": [f"{index:05d}" for index in range(3)]}
        meta = {"videos": {"clip": {"objects": {"1": wanted, "2": wanted}}}}
        (folder / "set/meta.json").write_text(json.dumps(meta))

    evaluate = ("evaluate", "pred", "--gt", "set", "--protocol", "ytvos", "-q")
    yield Case("meta.json", "set/meta.json", dataset, (evaluate,), loose=True)


# -- results ---------------------------------------------------------------------------------------------------------


def _job(folder: Path, **options: object) -> Job:
    write_clip(folder / "clip.mp4", frames=FRAMES)
    _put_mask(folder / "mask.png")
    _put_mask(folder / "last.png", 1)
    network = NetworkOptions(str(folder.parent / TINY), "cpu", "fp32")
    masks = (folder / "mask.png", f"6:{folder / 'last.png'}")
    return Job(folder / "clip.mp4", masks, folder / "out", SegmentOptions(**options), network)  # type: ignore[arg-type]


def _stopped(folder: Path, direction: str, frame: int) -> None:
    """Leave a run behind that was stopped, and the result that it must come to."""
    job = _job(folder, direction=direction)
    count = 0

    def stop(_: int) -> None:
        nonlocal count
        count += 1
        if count == frame:
            raise KeyboardInterrupt

    with mock.patch.object(checkpoint, "EVERY", 2):
        segment_video(replace(job, output=folder / "whole"))
        try:
            segment_video(job, listener=Listener(frame=stop))
        except Interrupted:
            return
    raise AssertionError("it was not stopped")


def _results() -> Iterable[Case]:
    again = ("segment", "clip.mp4", "-m", "mask.png", "-m", "6:last.png", "-o", "out", "-q", *NETWORK)

    def done(folder: Path) -> None:
        segment_video(replace(_job(folder, keep_soft=True), export=ExportOptions(kinds=("none",))))

    readers: tuple[Command, ...] = (
        ("export", "out", "--video", "clip.mp4", "--to", "davis", "-o", "exported", "-q"),
        ("export", "out", "--video", "clip.mp4", "--to", "overlay", "-q"),
        ("report", "out", "--video", "clip.mp4", "-q"),
        look_through,
    )
    yield Case("report.json", "out/report.json", done, (*readers, (*again, "-e", "none", "--keep-soft")))
    yield Case("saved mask", "out/masks/00003.png", done, readers)
    yield Case(
        "soft.png", "out/soft/1/00003.png", done, (("export", "out", "--video", "clip.mp4", "--to", "cutout", "-q"),)
    )
    for direction, frame, files in (
        ("forward", 6, ("00000006.safetensors", "frames.jsonl")),
        ("backward", 10, ("backward/00000006.safetensors", "backward/frames.jsonl", "backward/4.prob")),
        ("both", 11, ("00000004.safetensors", "backward/6.prob", "backward/2.prob")),
    ):
        make = lambda folder, direction=direction, frame=frame: _stopped(folder, direction, frame)  # noqa: E731
        for file in (*(f".state/{name}" for name in files), "masks/00001.png", "report.json"):
            command = (*again, "--direction", direction)
            whole = file != "report.json"  # without it nobody knows whose masks are there
            yield Case(f"{direction} {file}", f"out/{file}", make, (command,), whole=whole)


def look_through() -> None:
    """Ask for everything that `stm review` serves of the result in `out`."""
    review = Review(Path("out"), video=Path("clip.mp4"))
    json.dumps(review.facts())
    for number in range(FRAMES):
        if number in review:
            review.frames.picture(number), review.labels(number)


# -- training --------------------------------------------------------------------------------------------------------


def _training() -> Iterable[Case]:
    def stills(folder: Path) -> None:
        for place in ("images", "masks"):
            (folder / "set" / place).mkdir(parents=True)
        for index in range(3):
            Image.fromarray(picture(index)).save(folder / f"set/images/{index}.jpg")
            _put_mask(folder / f"set/masks/{index}.png")
        _pack(folder, "stills.tar")

    def videos(folder: Path) -> None:
        for place in ("JPEGImages", "Annotations"):
            (folder / "set" / place / "480p/clip").mkdir(parents=True)
        for index in range(3):
            Image.fromarray(picture(index)).save(folder / f"set/JPEGImages/480p/clip/{index:05d}.jpg")
            _put_mask(folder / f"set/Annotations/480p/clip/{index:05d}.png")
        (folder / "set/ImageSets/2017").mkdir(parents=True)
        (folder / "set/ImageSets/2017/train.txt").write_text("clip\n")
        _pack(folder, "videos.tar")

    yield Case("stills.tar", "stills.tar", stills, (lambda: load_stills([Path("stills.tar")], canvas=32),))
    yield Case("videos.tar", "videos.tar", videos, (lambda: load_videos(Path("videos.tar")),))


def _pack(folder: Path, name: str) -> None:
    with tarfile.open(folder / name, "w") as tar:
        tar.add(folder / "set", arcname=".")
    shutil.rmtree(folder / "set")
