"""Open finished films again and compare what is found with what was written."""

from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import av
import pytest
from conftest import picture

from stmcli.errors import WriteError
from stmcli.video import ALPHA_CODECS, H264, FilmFacts, VideoWriter, check_film

RATE = Fraction(25)
CODECS = {"h264": H264, **ALPHA_CODECS}


def write(path, codec):
    """Write five frames at 25 a second and return the closed writer."""
    rate = Fraction(25)
    with VideoWriter(path, codec=codec, size=(64, 48), rate=rate, time_base=1 / rate) as writer:
        for index in range(5):
            writer.write(picture(index), index / rate)
    return writer


@pytest.mark.parametrize("name", CODECS)
def test_a_film_is_opened_again_and_described(tmp_path, name):
    codec = CODECS[name]
    facts = write(tmp_path / f"film{codec.suffix}", codec).facts
    names = {"prores4444": "prores"}
    assert facts == FilmFacts(
        frames=5,
        span=Fraction(4, 25),
        duration=Fraction(1, 5),
        width=64,
        height=48,
        codec=names.get(name, name),
        pix_fmt={"prores4444": "yuva444p12le", "vp9": "yuv420p"}.get(name, codec.pix_fmt),
        alpha=codec.has_alpha,
    )


def test_a_film_whose_path_looks_like_a_protocol_is_opened_again(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("take:1").mkdir()
    assert write(Path("take:1/x.mp4"), H264).facts.frames == 5


def test_missing_frames_are_found(tmp_path):
    path = write(tmp_path / "x.mp4", H264).path
    with pytest.raises(WriteError, match=r"x\.mp4: 5 of 6 frames are in the finished file"):
        check_film(path, frames=6)


def test_missing_time_is_found(tmp_path):
    path = write(tmp_path / "x.mp4", H264).path
    assert check_film(path, frames=5, span=Fraction(161, 1000)).span == Fraction(160, 1000)
    with pytest.raises(WriteError, match=r"final\.mp4: the finished file lasts 0\.160 s and not 0\.200 s"):
        check_film(path, frames=5, span=Fraction(1, 5), final=tmp_path / "final.mp4")


def test_missing_alpha_is_found(tmp_path):
    path = write(tmp_path / "x.mkv", replace(ALPHA_CODECS["ffv1"], pix_fmt="bgr0")).path
    assert not check_film(path, frames=5).alpha
    with pytest.raises(WriteError, match=r"x\.mkv: the finished file has no alpha"):
        check_film(path, frames=5, alpha=True)


def test_a_film_that_cannot_be_read_is_found(tmp_path):
    path = write(tmp_path / "x.mp4", H264).path
    path.write_bytes(path.read_bytes()[:300])
    with pytest.raises(WriteError, match=r"x\.mp4: the finished file cannot be read"):
        check_film(path, frames=5)


def test_a_film_is_written_without_a_log_that_an_encoder_could_wait_for_for_ever(tmp_path):
    av.logging.set_level(av.logging.ERROR)  # as torchvision 0.25 does
    with VideoWriter(
        tmp_path / "x.mp4", codec=H264, size=(64, 48), rate=Fraction(25), time_base=Fraction(1, 25)
    ) as film:
        assert av.logging.get_level() is None
        film.write(picture(0), Fraction(0))
