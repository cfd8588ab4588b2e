"""The committed clips are what `sample_videos/render.py` says they are."""

from importlib import import_module
from pathlib import Path
from types import ModuleType

import av
import numpy as np
import pytest
from PIL import Image

FOLDER = Path(__file__).parents[1] / "sample_videos"
CLIPS = {"balloon": (64, [0, 1]), "koi": (60, [0, 1, 2]), "rover": (60, [0, 1])}


def read_mask(name: str) -> np.ndarray:
    with Image.open(FOLDER / f"{name}.png") as image:
        assert image.mode == "P"
        return np.asarray(image)


@pytest.fixture
def render(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(FOLDER))
    return import_module("render")


@pytest.mark.parametrize("name", CLIPS)
def test_a_clip_has_the_stated_frames_and_is_tagged_bt709(name: str) -> None:
    with av.open(str(FOLDER / f"{name}.mp4")) as file:
        frames = [(f.width, f.height, f.colorspace, f.color_range) for f in file.decode(video=0)]
        assert file.streams.video[0].average_rate == 24
        assert bool(file.streams.audio) == (name == "rover")
    assert len(frames) == CLIPS[name][0]
    assert set(frames) == {(640, 360, av.video.reformatter.Colorspace.ITU709, av.video.reformatter.ColorRange.MPEG)}
    assert (FOLDER / f"{name}.mp4").stat().st_size <= 700_000


@pytest.mark.parametrize("name", CLIPS)
def test_a_mask_has_the_expected_ids_and_the_voc_palette(name: str) -> None:
    labels = read_mask(name)
    assert labels.shape == (360, 640)
    assert np.unique(labels).tolist() == CLIPS[name][1]
    with Image.open(FOLDER / f"{name}.png") as image:
        assert image.getpalette()[:9] == [0, 0, 0, 128, 0, 0, 0, 128, 0]


def test_the_sound_lasts_as_long_as_the_picture() -> None:
    with av.open(str(FOLDER / "rover.mp4")) as file:
        samples = [frame.to_ndarray() for frame in file.decode(audio=0)]
        rate = file.streams.audio[0].rate
    assert np.hstack(samples).shape[1] / rate == pytest.approx(60 / 24, abs=0.05)
    assert 0.01 < np.abs(np.hstack(samples)).max() <= 1


@pytest.mark.parametrize("name", CLIPS)
def test_rendering_again_gives_the_committed_mask_and_picture(name: str, render: ModuleType) -> None:
    rgb, labels = next(render.frames(name))
    np.testing.assert_array_equal(labels, read_mask(name))
    with av.open(str(FOLDER / f"{name}.mp4")) as file:
        decoded = next(file.decode(video=0)).to_ndarray(format="rgb24")
    error = np.abs(decoded.astype(float) - rgb).mean((0, 1))
    assert (error < 6).all(), f"mean difference per channel {error}"
