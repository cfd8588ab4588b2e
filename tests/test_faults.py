"""The rows of the list of faults: an exit code, one line that names the file, and nothing lost or half-written."""

import os
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import write_sound_file
from PIL import Image

from stmcli.masks import write_labels


class Scene:
    """A good clip and mask in the test's folder, for a fault to spoil."""

    def __init__(self, folder: Path, make_clip, make_mask) -> None:
        self.folder = folder
        self.clip, self.mask, self.make_clip = make_clip(frames=3), make_mask(), make_clip
        self.words: list[object] = []
        self.output = folder / "out"
        self.weights: Path | None = None

    def put(self, name: str, content: bytes) -> Path:
        (self.folder / name).write_bytes(content)
        return self.folder / name


def video(name, content):
    def spoil(scene):
        scene.clip = scene.put(name, content)

    return spoil


def missing_video(scene):
    scene.clip = scene.folder / "clop.mp4"


def only_sound(scene):
    scene.clip = write_sound_file(scene.folder / "sound.mp4")


def still_image(scene):
    scene.clip = scene.put("still.mp4", scene.mask.read_bytes())


def cut_mp4(scene):
    whole = scene.make_clip("cut.mp4", frames=40).read_bytes()
    scene.clip = scene.put("cut.mp4", whole[: len(whole) // 2])


def cut_faststart(scene):
    whole = scene.make_clip("cut.mp4", frames=40, movflags="faststart").read_bytes()
    scene.clip = scene.put("cut.mp4", whole[: len(whole) * 3 // 4])


def empty_folder(scene):
    scene.clip = scene.folder / "frames"
    scene.clip.mkdir()


def fifo(scene):
    scene.clip = scene.folder / "pipe.mp4"
    os.mkfifo(scene.clip)


def missing_mask(scene):
    scene.mask = scene.folder / "mosk.png"


def mask(content):
    def spoil(scene):
        scene.mask = scene.put("bad.png", content)

    return spoil


def mask_of(width, height, value=1):
    def spoil(scene):
        scene.mask = scene.folder / "bad.png"
        labels = np.zeros((height, width), np.uint8)
        labels[:9, :9] = value
        write_labels(scene.mask, labels)

    return spoil


def cut_mask(scene):
    scene.mask = scene.put("bad.png", scene.mask.read_bytes()[:60])


def mask_in_colours(scene):
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (48, 64, 3), np.uint8)).save(scene.folder / "bad.png")
    scene.mask = scene.folder / "bad.png"


def words(*some):
    def spoil(scene):
        scene.words = [*some]

    return spoil


def output_is_a_file(scene):
    scene.output = scene.put("file", b"precious")


def output_under_a_file(scene):
    scene.put("file", b"precious")
    scene.output = scene.folder / "file" / "out"


def output_is_anothers(scene):
    scene.output.mkdir()
    scene.put("out/holiday.jpg", b"precious")


def output_holds_strange_masks(scene):
    (scene.output / "masks").mkdir(parents=True)
    scene.put("out/masks/painted.png", b"precious")
    scene.words = ["-y"]


def output_is_the_clip(name):
    def spoil(scene):
        scene.output.mkdir()
        scene.clip = scene.clip.rename(scene.output / name)
        scene.words = ["-y"]

    return spoil


def output_of_before_is_the_clip(scene):
    output_is_the_clip("matte.mp4")(scene)
    (scene.output / "report.json").write_text('{"status": "ok", "outputs": ["masks", "matte.mp4"]}')


def output_is_a_link_to_the_clip(scene):
    scene.output.mkdir()
    (scene.output / "overlay.mp4").symlink_to(scene.clip)
    scene.words = ["-y"]


def output_is_the_frame_folder(scene):
    (scene.output / "masks").mkdir(parents=True)
    scene.put("out/report.json", b'{"status": "ok"}')
    scene.clip = scene.output / "masks"
    for index in range(3):
        Image.fromarray(np.full((48, 64, 3), 9 * index, np.uint8)).save(scene.clip / f"{index}.png")
    scene.words = ["-y"]


def output_holds_the_mask(scene):
    (scene.output / "masks").mkdir(parents=True)
    scene.put("out/report.json", b'{"status": "ok"}')
    scene.mask = scene.mask.rename(scene.output / "masks" / "00000.png")
    scene.words = ["-y"]


def weights(content):
    def spoil(scene):
        scene.weights = scene.put("bad.pth", content)

    return spoil


def dataset_of_before(scene, name):
    """Return a folder deep in the dataset that an earlier result has written."""
    folder = scene.output / "davis" / name / "480p" / "clip"
    folder.mkdir(parents=True)
    (scene.output / "report.json").write_text('{"status": "ok", "outputs": ["masks", "davis"]}')
    scene.words = ["-y"]
    return folder


def dataset_of_before_holds_the_mask(scene):
    scene.mask = scene.mask.rename(dataset_of_before(scene, "Annotations") / "00000.png")


def dataset_of_before_holds_what_the_mask_links_to(scene):
    dataset_of_before_holds_the_mask(scene)
    link = scene.folder / "link.png"
    link.symlink_to(scene.mask)
    scene.mask = link


def dataset_of_before_holds_the_frames(scene):
    scene.clip = dataset_of_before(scene, "JPEGImages")
    for index in range(3):
        Image.fromarray(np.full((48, 64, 3), 9 * index, np.uint8)).save(scene.clip / f"{index}.png")


def missing_weights(scene):
    scene.weights = scene.folder / "none.pth"


FAULTS = {
    "missing video": (missing_video, 2, r"clop\.mp4: no such file.*clip\.mp4"),
    "empty video": (video("a.mp4", b""), 1, r"a\.mp4: empty file"),
    "text as video": (video("a.mp4", b"just words\n" * 9), 1, r"a\.mp4: .*not a video"),
    "pdf as video": (video("a.mp4", b"%PDF-1.7\n" + bytes(99)), 1, r"a\.mp4: .*PDF"),
    "web page as video": (video("a.mp4", b"<!DOCTYPE html><html></html>"), 1, r"a\.mp4: .*web page"),
    "still as video": (still_image, 1, r"still\.mp4: .*still image"),
    "sound only": (only_sound, 1, r"sound\.mp4: no video stream"),
    "cut mp4": (cut_mp4, 1, r"cut\.mp4: .*moov"),
    "cut faststart mp4": (cut_faststart, 1, r"cut\.mp4: .*of 40 frames can be read.*--on-corrupt stop"),
    "playlist": (video("a.mp4", b"#EXTM3U\nhttp://localhost/x.ts\n"), 1, r"a\.mp4: .*playlist"),
    "empty folder": (empty_folder, 2, r"frames: no frames"),
    "pipe": (fifo, 2, r"pipe\.mp4: not a regular file"),
    "missing mask": (missing_mask, 2, r"mosk\.png: no such file.*mask\.png"),
    "mask is text": (mask(b"words"), 2, r"bad\.png: not an image"),
    "mask is empty": (mask(b""), 2, r"bad\.png: empty file"),
    "mask is cut": (cut_mask, 2, r"bad\.png: "),
    "mask of another size": (mask_of(32, 48), 2, r"bad\.png: the mask is 32x48 but clip\.mp4 is 64x48"),
    "mask rotated": (mask_of(48, 64), 2, r"bad\.png: .*looks rotated"),
    "mask without object": (mask_of(64, 48, 0), 2, r"bad\.png: no object"),
    "mask in unknown colours": (mask_in_colours, 2, r"bad\.png: colour #"),
    "unknown object": (words("--objects", "1,4"), 2, r"mask\.png: no object 4.*1"),
    "objects are no numbers": (words("--objects", "one"), 2, r"--objects one"),
    "frame beyond the end": (words("--start", "99"), 2, r"clip\.mp4: has no frame 99.*3 frames"),
    "range upside down": (words("--start", "2", "--end", "1"), 2, r"clip\.mp4: starts"),
    "unknown export": (words("-e", "gif"), 2, "--export gif"),
    "unknown policy": (words("--mem-policy", "none"), 2, "--mem-policy none"),
    "one memory slot": (words("--mem-max", "1"), 2, "--mem-max"),
    "negative size": (words("--size", "-1"), 2, "--size"),
    "size is no number": (words("--size", "big"), 2, "--size.*integer"),
    "unknown option": (words("--speed", "9"), 2, "--speed"),
    "unknown audio": (words("--audio", "loud"), 2, "--audio loud"),
    "unknown on-corrupt": (words("--on-corrupt", "pray"), 2, "--on-corrupt pray"),
    "output is a file": (output_is_a_file, 2, r"file: is a file"),
    "output under a file": (output_under_a_file, 2, r"out: cannot be"),
    "output holds something else": (output_is_anothers, 2, r"out: is not empty.*-y"),
    "output holds other masks": (output_holds_strange_masks, 2, r"masks: holds masks that stm did not write"),
    "output is the clip": (output_is_the_clip("overlay.mp4"), 2, r"overlay\.mp4: is an input"),
    "output of before is the clip": (output_of_before_is_the_clip, 2, r"matte\.mp4: is an input"),
    "output links to the clip": (output_is_a_link_to_the_clip, 2, r"overlay\.mp4: is an input"),
    "output is the frame folder": (output_is_the_frame_folder, 2, r"masks/.*: is where the masks would go"),
    "output holds the mask": (output_holds_the_mask, 2, r"00000\.png: is where the masks would go"),
    "dataset of before holds the mask": (dataset_of_before_holds_the_mask, 2, r"00000\.png: is where the davis would"),
    "the mask links into it": (dataset_of_before_holds_what_the_mask_links_to, 2, r"is where the davis would go"),
    "dataset of before holds the frames": (dataset_of_before_holds_the_frames, 2, r"\.png: is where the davis would"),
    "missing weights": (missing_weights, 2, r"none\.pth: no such weights"),
    "weights are a web page": (weights(b"<html>"), 1, r"bad\.pth: .*web page"),
    "weights are cut": (weights(b"PK\x03\x04" + bytes(99)), 1, r"bad\.pth: .*cut short"),
}


def everything(folder):
    """What is in a folder, and what is in its files."""
    files = {p: p.read_bytes() if p.is_file() else p.is_dir() for p in folder.rglob("*")}
    return {str(p): content for p, content in files.items() if p.name != "cache"}


@pytest.fixture
def scene(tmp_path, make_clip, make_mask):
    return Scene(tmp_path, make_clip, make_mask)


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_one_line_and_leaves_everything_as_it_was(scene, segment, stm, monkeypatch, fault):
    spoil, code, message = FAULTS[fault]
    spoil(scene)
    before = everything(scene.folder)
    if code == 2 or scene.weights is None:
        monkeypatch.setattr("stmcli.pipeline.load_model", lambda _: pytest.fail("the network was loaded first"))
    job = (scene.clip, "-m", scene.mask, "-o", scene.output, *scene.words)
    result = stm("segment", *job, "-w", scene.weights) if scene.weights else segment(*job)
    lines = result.stderr.splitlines()
    assert (result.exit_code, len(lines), result.stdout) == (code, 1, ""), result.stderr
    assert lines[0].startswith("error: ")
    assert re.search(message, lines[0]), lines[0]
    assert everything(scene.folder) == before


def test_the_scene_without_a_fault_is_segmented(scene, segment):
    result = segment(scene.clip, "-m", scene.mask, "-o", scene.output)
    assert result.exit_code == 0, result.stderr


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is CUDA here")
def test_cuda_without_cuda_is_an_error_that_leaves_nothing(scene, stm, tiny_weights):
    before = everything(scene.folder)
    result = stm("segment", scene.clip, "-m", scene.mask, "-o", scene.output, "-w", tiny_weights, "--device", "cuda")
    assert (result.exit_code, len(result.stderr.splitlines())) == (2, 1)
    assert result.stderr.startswith("error: --device cuda: ")
    assert everything(scene.folder) == before


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_an_output_that_cannot_be_written_is_found_before_the_network(scene, segment, monkeypatch):
    monkeypatch.setattr("stmcli.pipeline.load_model", lambda _: pytest.fail("the network was loaded first"))
    scene.output.mkdir(mode=0o500)
    result = segment(scene.clip, "-m", scene.mask, "-o", scene.output)
    assert result.exit_code == 2
    assert "out: cannot be written" in result.stderr


def test_a_broken_network_leaves_the_result_of_before_in_place(scene, segment, stm):
    assert segment(scene.clip, "-m", scene.mask, "-o", scene.output).exit_code == 0
    before = everything(scene.output)
    bad = scene.put("bad.pth", b"<html>")
    assert stm("segment", scene.clip, "-m", scene.mask, "-o", scene.output, "-y", "-w", bad).exit_code == 1
    assert everything(scene.output) == before


def several(scene, segment, *spoils, words=()):
    for spoil in spoils:
        spoil(scene)
    before = everything(scene.folder)
    result = segment(scene.clip, "-m", scene.mask, "-o", scene.output, *scene.words, *words)
    assert everything(scene.folder) == before
    assert result.stdout == ""
    return result.exit_code, result.stderr.splitlines()


def test_all_that_is_wrong_is_told_at_once(scene, segment):
    words = ("--encoder", "gpu", "--mem-policy", "none", "--objects", "one", "--tta", "turn")
    code, lines = several(scene, segment, missing_mask, output_is_a_file, words=words)
    assert code == 2
    found = (
        "--objects one",
        "--tta turn",
        "--mem-policy none",
        "--encoder gpu",
        r"mosk\.png: no such",
        "file: is a file",
    )
    assert len(lines) == len(found)
    assert all(re.match(f"error: .*{text}", line) for text, line in zip(found, lines, strict=True)), lines


def test_faults_of_the_clip_beside_those_of_usage_end_with_1(scene, segment):
    code, lines = several(scene, segment, video("a.mp4", b""), mask(b"words"))
    assert code == 1
    assert [re.findall(r"error: \S+/(\S+): (\w+)", line)[0] for line in lines] == [
        ("a.mp4", "empty"),
        ("bad.png", "not"),
    ]


def test_one_fault_that_two_checks_find_is_told_once(scene, segment):
    code, lines = several(scene, segment, missing_video, words=("--start", "0.1s"))
    assert (code, len(lines)) == (2, 1)


def test_a_wrong_option_does_not_make_others_seem_wrong(scene, segment):
    scene.mask = f"1002:{scene.mask}"
    words = ("--first-number", "1001", "--on-corrupt", "pray", "--encoder", "gpu")
    code, lines = several(scene, segment, words=words)
    assert code == 2
    assert [line.split()[1] for line in lines] == ["--on-corrupt", "--encoder"]
