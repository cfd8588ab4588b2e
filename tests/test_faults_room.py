"""The rows of the list of faults about a full disk: what is needed is said, and the same command goes on."""

import hashlib
import json
import re
import resource
import subprocess
from contextlib import contextmanager, suppress

import numpy as np
import pytest
from faults import mounted
from PIL import Image

FRAMES = 90
WORDS = ("-e", "overlay", "--no-page")
LINE = r"error: .*: {cause}: at least ([\d.]+) kB needed, [\d.]+ [kMG]B free\. {todo}"
FREE = "Free some, then run the same command again to go on."


@pytest.fixture
def noisy(scene):
    """The scene with a clip that does not compress: 90 frames with a checkpoint after the 50th."""
    rng = np.random.default_rng(0)
    scene.clip = scene.special("folder", "frames")
    for index in range(FRAMES):
        Image.fromarray(rng.integers(0, 255, (48, 64, 3), np.uint8)).save(scene.clip / f"{index:05d}.png")
    return scene


def masks_in(output):
    paths = sorted((output / "masks").glob("*.png"))
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in paths}


@contextmanager
def no_file_larger_than(size):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))  # Python ignores the signal, and writing fails
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def check_kept(scene, lines, cause, whole, *, todo=FREE):
    """See that the one line says what is needed, that good masks are there, and nothing unfinished."""
    assert len(lines) == 1
    said = re.match(LINE.format(cause=cause, todo=re.escape(todo)), lines[0])
    assert said, lines[0]
    kept = masks_in(scene.output)
    assert len(kept) >= 50
    assert kept.items() <= whole.items()
    assert not [path for path in scene.output.rglob("*") if ".part" in path.name or path.name == "overlay.mp4"]
    return float(said[1]) * 1000


def check_finished(scene, result, whole):
    """See that the same command went on after its checkpoint, to the same masks and nothing else."""
    assert result.exit_code == 0, (result.stderr, result.exception)
    assert "the results up to frame 49 were kept" in result.stderr
    assert masks_in(scene.output) == whole
    assert sorted(path.name for path in scene.output.iterdir()) == ["masks", "overlay.mp4", "report.json"]
    assert json.loads((scene.output / "report.json").read_text())["status"] == "ok"


@pytest.fixture
def whole(noisy, segment):
    """The masks of a run that nothing stopped."""
    result = segment(noisy.clip, "-m", noisy.mask, "-o", noisy.folder / "whole", *WORDS)
    assert result.exit_code == 0, result.stderr
    return masks_in(noisy.folder / "whole")


def test_a_file_too_large_at_the_end_ends_a_run_that_goes_on_without_it(noisy, segment, whole):
    size = (noisy.folder / "whole" / "overlay.mp4").stat().st_size
    words = (*noisy.job, *WORDS)
    with no_file_larger_than(size * 4 // 5):
        result = segment(*words, "-q")
    assert result.exit_code == 1
    todo = "Raise that limit (ulimit -f), or choose another disk."  # there is room enough
    needed = check_kept(noisy, result.stderr.splitlines(), "no file may be so large here", whole, todo=todo)
    assert round(size * 0.8) - 100 < needed < size + 20_000
    check_finished(noisy, segment(*words), whole)


def test_a_disk_that_is_full_before_a_run_is_named(scene, segment):
    with mounted(scene.folder / "home", size="64k") as home:
        scene.output = home / "out"
        scene.output.mkdir()
        (scene.output / ".lock").touch()  # a killed run left it
        with suppress(OSError), (home / "others").open("wb", buffering=0) as file:
            while True:
                file.write(bytes(4096))
        result = segment(*scene.job)
    assert result.exit_code == 1
    assert "out: the disk is full" in result.stderr


def test_a_full_disk_in_the_middle_ends_a_run_that_goes_on_when_there_is_room(noisy, segment, whole):
    noisy.output = noisy.folder / "home" / "out"
    words = (*noisy.job, *WORDS)
    with mounted(noisy.folder / "home", size="320k") as home:
        result = segment(*words, "-q")
        assert result.exit_code == 1, result.stderr
        check_kept(noisy, result.stderr.splitlines(), "the disk is full", whole)
        assert len(masks_in(noisy.output)) < FRAMES
        subprocess.run(["mount", "-o", "remount,size=8m", str(home)], check=True)
        check_finished(noisy, segment(*words), whole)


def test_a_disk_that_is_full_within_the_first_frame_ends_a_run_that_begins_again_when_there_is_room(noisy, segment):
    words = (*noisy.job, "-e", "cutout", "--no-page")
    Image.fromarray(np.ones((48, 64), np.uint8)).save(noisy.mask)
    with no_file_larger_than(8000):  # its mask is smaller, its cutout is larger
        result = segment(*words)
    assert result.exit_code == 1
    assert masks_in(noisy.output).keys() == {"00000.png"}, result.stderr
    result = segment(*words)
    assert result.exit_code == 0, result.stderr
    assert len(masks_in(noisy.output)) == FRAMES
