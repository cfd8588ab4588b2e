from dataclasses import dataclass, replace
from fractions import Fraction
from itertools import pairwise
from pathlib import Path

import av
import numpy as np
import pytest
from conftest import decode, picture
from PIL import Image

from stmcli.errors import StmError, WriteError
from stmcli.outputs import AlphaWriter, MaskWriter, MatteWriter, OverlayWriter
from stmcli.render import palette, vivid
from stmcli.video import ALPHA_CODECS, H264, Frame, VideoWriter, open_source

FILMS = [(OverlayWriter, "o.mp4"), (AlphaWriter, "a.mov"), (MatteWriter, "m.mp4")]


@dataclass
class Answer:
    """Stand in for a prediction."""

    ids: np.ndarray
    rgb: np.ndarray | None = None

    def labels(self):
        return self.ids

    def foreground(self, object_id=None):
        assert object_id is None
        return self.rgb

    def alpha(self, object_id=None):
        assert object_id is None
        ramp = np.linspace(0, 1, self.ids.shape[1], dtype=np.float32)
        return np.tile(ramp, (self.ids.shape[0], 1))


def block(height, width, value=1, rgb=None):
    labels = np.zeros((height, width), dtype=np.int32)
    labels[height // 2 :, width // 2 :] = value
    return Answer(labels, rgb)


def convert(source, writer):
    for frame in source:
        writer.write(frame, block(*frame.rgb.shape[:2], rgb=frame.rgb))
    writer.close()
    return writer


def times(path):
    return [frame.time for frame in open_source(path)]


def sound(path):
    with av.open(str(path)) as container:
        return [(bytes(p), p.pts * p.time_base) for p in container.demux(audio=0) if p.size]


def files(folder):
    return sorted(f.name for f in folder.iterdir())


@pytest.mark.parametrize(("make", "name"), FILMS)
@pytest.mark.parametrize(
    "timing",
    [
        {},
        {"rate": Fraction(30000, 1001)},
        {"ticks": [0, 17, 50, 51, 90, 200, 201, 300, 310, 333], "time_base": Fraction(1, 600)},
        {"ticks": [7, 17, 50, 51, 90, 200, 201, 300, 310, 333], "time_base": Fraction(1, 600)},
        {"ticks": [7, 40, 80, 120, 130, 200, 240, 280, 320, 366], "time_base": Fraction(1, 1000)},
    ],
)
def test_films_keep_the_exact_time_of_every_frame(make_clip, tmp_path, make, name, timing):
    source = open_source(make_clip(**timing))
    writer = convert(source, make(tmp_path / name, source.info))
    assert times(writer.path) == [frame.time for frame in source]
    assert files(tmp_path) == sorted(["clip.mp4", name])


@pytest.mark.parametrize("name", ["clip.mkv", "clip.webm", "clip.avi", "clip.ts", "clip.mov"])
def test_sources_of_every_container_keep_their_times(make_clip, tmp_path, name):
    source = open_source(make_clip(name))
    writer = convert(source, OverlayWriter(tmp_path / "o.mp4", source.info))
    assert times(writer.path) == [frame.time - source.info.shift for frame in source]
    assert [b - a for a, b in pairwise(times(writer.path))] == [Fraction(1, 25)] * 9


def test_a_trimmed_film_begins_at_the_beginning(make_clip, tmp_path):
    source = open_source(make_clip(frames=50, audio="aac"), start=20, end=39)
    writer = convert(source, OverlayWriter(tmp_path / "o.mp4", source.info))
    assert times(writer.path) == [Fraction(i, 25) for i in range(20)]
    whole, kept = sound(source.info.path), sound(writer.path)
    first = [packet for packet, _ in whole].index(kept[0][0])
    assert [packet for packet, _ in kept] == [packet for packet, _ in whole][first : first + len(kept)]
    assert kept[0][1] == pytest.approx(whole[first][1] - Fraction(20, 25), abs=1e-4)
    assert 0 <= kept[0][1] < 0.03
    assert 0.75 < kept[-1][1] < 0.8


def test_the_sound_is_copied_byte_for_byte(make_clip, tmp_path):
    source = open_source(make_clip(audio="aac", frames=30))
    writer = convert(source, OverlayWriter(tmp_path / "o.mp4", source.info))
    assert sound(writer.path) == sound(source.info.path)
    assert len(sound(writer.path)) > 50
    assert writer.notes == []


def test_sound_that_begins_before_the_pictures_of_a_broadcast_is_whole(make_clip, tmp_path):
    source = open_source(make_clip("clip.mpg", audio="mp2"))  # from 47698 of 90000, which no microsecond is
    writer = convert(source, OverlayWriter(tmp_path / "o.mp4", source.info))
    whole, kept = sound(source.info.path), sound(writer.path)
    assert [packet for packet, _ in kept] == [packet for packet, _ in whole]
    assert kept[0][1] - times(writer.path)[0] == pytest.approx(whole[0][1] - times(source.info.path)[0], abs=1e-4)


def test_the_sound_lies_between_the_pictures(make_clip, tmp_path):
    source = open_source(make_clip(audio="aac", frames=100))
    writer = convert(source, OverlayWriter(tmp_path / "o.mp4", source.info))
    with av.open(str(writer.path)) as container:
        places = [(p.pos, p.stream.type) for p in container.demux() if p.size]
    kinds = [kind for _, kind in sorted(places)]
    assert "audio" in kinds[: len(kinds) // 4]
    assert "video" in kinds[-len(kinds) // 4 :]


def test_sound_that_the_container_refuses_is_encoded_again(make_clip, tmp_path):
    source = open_source(make_clip("clip.mkv", audio="flac", frames=30))
    writer = convert(source, AlphaWriter(tmp_path / "a.mov", source.info))
    assert "encoded again as aac" in writer.notes[0]
    info = open_source(writer.path).info
    assert info.audio == "aac"
    assert float(sound(writer.path)[-1][1]) == pytest.approx(1.2, abs=0.05)


def test_damaged_sound_does_not_cost_the_pictures(make_clip, tmp_path):
    whole, path = make_clip("whole.ts", audio="aac", frames=30), tmp_path / "clip.ts"
    content = bytearray(whole.read_bytes())
    starts = [place for place in range(len(content)) if content[place : place + 3] == b"\xff\xf1\x4c"]
    for place in starts[len(starts) // 2 :]:
        content[place : place + 7] = bytes(7)  # the head of a sound packet
    path.write_bytes(content)
    source = open_source(path)
    writer = convert(source, OverlayWriter(tmp_path / "o.mp4", source.info))
    assert len(starts) > 20
    assert "not whole" in writer.notes[0]
    assert times(writer.path) == [frame.time - source.info.shift for frame in source]
    assert 0 < len(sound(writer.path)) < len(sound(whole))


def test_sound_can_be_left_out(make_clip, tmp_path):
    source = open_source(make_clip(audio="aac"))
    writer = convert(source, OverlayWriter(tmp_path / "o.mp4", source.info, audio=False))
    assert open_source(writer.path).info.audio is None


def test_an_overlay_shows_the_source_and_the_objects(make_clip, tmp_path):
    source = open_source(make_clip())
    writer = convert(source, OverlayWriter(tmp_path / "o.mp4", source.info))
    for before, after in zip(source, open_source(writer.path), strict=True):
        expected = before.rgb[40, 50] * 0.5 + vivid()[1] * 0.5
        assert np.abs(after.rgb[40, 50] - expected).max() <= 12
        assert np.abs(after.rgb[4, 4].astype(int) - before.rgb[4, 4]).max() <= 12


def test_films_are_tagged_as_bt709(make_clip, tmp_path):
    source = open_source(make_clip())
    for make, name in FILMS:
        path = convert(source, make(tmp_path / name, source.info)).path
        with av.open(str(path)) as container:
            frame = next(container.decode(video=0))
            tags = (frame.colorspace, frame.color_primaries, frame.color_trc, frame.color_range)
        assert tags == (1, 1, 1, 1), name


def test_alpha_and_colours_come_back_within_one_level(make_clip, tmp_path):
    source = open_source(make_clip())
    path = convert(source, AlphaWriter(tmp_path / "a.mov", source.info)).path
    expected = np.rint(block(48, 64).alpha() * 255)
    with av.open(str(path)) as container:
        decoded = [f.to_ndarray(format="rgba") for f in container.decode(video=0)]
        assert container.streams.video[0].codec_context.name == "prores"
    assert len(decoded) == 10
    for frame, rgba in zip(source, decoded, strict=True):
        assert np.abs(rgba[..., 3] - expected).max() <= 1
        assert np.abs(rgba[30:, 30:, :3].astype(int) - frame.rgb[30:, 30:]).max() <= 3


@pytest.mark.parametrize("premultiplied", [False, True])
def test_colours_of_a_film_are_straight_or_times_alpha(make_clip, tmp_path, premultiplied):
    source = open_source(make_clip(frames=2))
    codec = ALPHA_CODECS["qtrle"]
    path = convert(source, AlphaWriter(tmp_path / "a.mov", source.info, codec, premultiplied=premultiplied)).path
    share = block(48, 64).alpha()[..., None] if premultiplied else 1
    for frame, stored in zip(source, decode(path), strict=True):
        assert np.abs(stored.to_ndarray(format="rgba")[..., :3] - frame.rgb * share).max() <= 1


def test_a_matte_is_the_alpha_in_grey(make_clip, tmp_path):
    source = open_source(make_clip())
    path = convert(source, MatteWriter(tmp_path / "m.mp4", source.info)).path
    expected = np.rint(block(48, 64).alpha() * 255)[..., None]
    for frame in open_source(path):
        assert np.abs(frame.rgb - expected).max() <= 10
        assert np.ptp(frame.rgb.astype(int), axis=2).max() <= 4


def test_odd_sizes_are_padded_by_one_pixel_and_said(make_folder, tmp_path):
    source = open_source(make_folder(["0.png", "1.png", "2.png"], width=63, height=47))
    writer = convert(source, OverlayWriter(tmp_path / "o.mp4", source.info))
    info = open_source(writer.path).info
    assert (info.width, info.height, info.frames) == (64, 48, 3)
    assert "64x48" in writer.notes[0]
    alpha = convert(source, AlphaWriter(tmp_path / "a.mov", source.info))
    assert (open_source(alpha.path).info.width, alpha.notes) == (63, [])


def test_a_folder_makes_a_silent_film_of_24_frames_a_second(make_folder, tmp_path):
    source = open_source(make_folder(["7.png", "8.png", "9.png"]))
    writer = convert(source, OverlayWriter(tmp_path / "o.mp4", source.info))
    assert times(writer.path) == [Fraction(i, 24) for i in range(3)]
    assert open_source(writer.path).info.audio is None


def test_the_shape_of_the_pixels_is_kept(make_clip, tmp_path):
    source = open_source(make_clip(aspect=Fraction(4, 3)))
    writer = convert(source, OverlayWriter(tmp_path / "o.mp4", source.info))
    assert open_source(writer.path).info.aspect == Fraction(4, 3)


def test_a_rotated_clip_becomes_an_upright_film(make_clip, tmp_path):
    source = open_source(make_clip(rotation=90))
    info = open_source(convert(source, OverlayWriter(tmp_path / "o.mp4", source.info)).path).info
    assert (info.rotation, info.width, info.height) == (0, 48, 64)


# -- faults ------------------------------------------------------------------------------------


@pytest.mark.parametrize(("make", "name"), FILMS)
def test_an_aborted_film_leaves_what_was_there(make_clip, tmp_path, make, name):
    source = open_source(make_clip(audio="aac"))
    (tmp_path / name).write_bytes(b"before")
    writer = make(tmp_path / name, source.info)
    for frame in source:
        writer.write(frame, block(48, 64, rgb=frame.rgb))
    writer.abort()
    assert (tmp_path / name).read_bytes() == b"before"
    assert files(tmp_path) == sorted(["clip.mp4", name])


def test_an_exception_aborts_the_film(make_clip, tmp_path):
    info = open_source(make_clip()).info
    with pytest.raises(ValueError, match="takes frames of"), writer_for(tmp_path / "x.mp4", info) as writer:
        writer.write(picture(0, 32, 32), Fraction(0))
    assert files(tmp_path) == ["clip.mp4"]


def writer_for(path, info, *, codec=H264, **settings):
    size = (info.width, info.height)
    return VideoWriter(path, codec=codec, size=size, rate=info.rate, time_base=info.time_base, **settings)


def test_nothing_appears_under_the_name_before_the_end(make_clip, tmp_path):
    info = open_source(make_clip()).info
    writer = writer_for(tmp_path / "x.mp4", info)
    writer.write(picture(0), Fraction(0))
    assert files(tmp_path) == ["clip.mp4", "x.part.mp4"]
    writer.close()
    assert files(tmp_path) == ["clip.mp4", "x.mp4"]
    writer.close()  # a second time does nothing


def test_a_film_without_frames_is_an_error(make_clip, tmp_path):
    writer = writer_for(tmp_path / "x.mp4", open_source(make_clip()).info)
    with pytest.raises(WriteError, match="0 frames"):
        writer.close()
    assert files(tmp_path) == ["clip.mp4"]


def test_a_missing_encoder_is_found_before_the_first_frame(make_clip, tmp_path):
    info = open_source(make_clip(audio="aac")).info
    for extra in ({}, {"audio_from": info.path}):
        with pytest.raises(WriteError, match=r"x\.mp4: there is no encoder no_such_encoder here"):
            writer_for(tmp_path / "x.mp4", info, codec=replace(H264, encoder="no_such_encoder"), **extra)
    assert files(tmp_path) == ["clip.mp4"]


def test_an_encoder_that_refuses_is_found_before_the_first_frame(make_clip, tmp_path):
    info = open_source(make_clip()).info
    with pytest.raises(WriteError, match=r"x\.mp4: cannot be written with prores_ks"):
        writer_for(tmp_path / "x.mp4", info, codec=replace(ALPHA_CODECS["prores4444"], pix_fmt="yuv420p"))
    assert files(tmp_path) == ["clip.mp4"]


def test_an_output_that_is_a_folder_is_an_error(make_clip, tmp_path):
    source = open_source(make_clip())
    (tmp_path / "x.mp4").mkdir()
    with pytest.raises(WriteError, match=r"x\.mp4"):
        convert(source, OverlayWriter(tmp_path / "x.mp4", source.info))
    assert files(tmp_path) == ["clip.mp4", "x.mp4"]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
@pytest.mark.parametrize("name", ["x.mp4", "x.mkv"])
def test_a_full_disk_is_said_and_leaves_nothing(make_clip, tmp_path, name):
    info = open_source(make_clip()).info
    (tmp_path / f"x.part{Path(name).suffix}").symlink_to("/dev/full")
    with pytest.raises(WriteError, match="the disk is full"):
        fill(writer_for(tmp_path / name, info))
    assert files(tmp_path) == ["clip.mp4"]


def fill(writer):
    rng = np.random.default_rng(0)
    for index in range(40):
        writer.write(rng.integers(0, 256, (48, 64, 3), dtype=np.uint8), Fraction(index, 25))
    writer.close()


# -- masks -------------------------------------------------------------------------------------


def test_masks_keep_their_ids_names_and_palette(make_clip, tmp_path):
    source = open_source(make_clip(), start=3)
    writer = MaskWriter(tmp_path / "masks", source.frame_name)
    for frame in source:
        writer.write(frame, block(48, 64, value=5))
    writer.close()
    assert files(writer.path) == [f"{i:05d}.png" for i in range(3, 10)]
    with Image.open(writer.path / "00003.png") as image:
        assert image.mode == "P"
        assert (np.asarray(image) == block(48, 64, value=5).ids).all()
        assert image.getpalette()[:30] == palette()[:10].ravel().tolist()


@pytest.mark.parametrize("spoil", [Path.unlink, lambda path: path.write_bytes(b"")], ids=["removed", "emptied"])
def test_a_mask_that_is_gone_at_the_end_is_an_error(make_clip, tmp_path, spoil):
    source = open_source(make_clip(frames=2))
    writer = MaskWriter(tmp_path / "masks", source.frame_name)
    for frame in source:
        writer.write(frame, block(48, 64))
    spoil(tmp_path / "masks" / "00000.png")
    with pytest.raises(WriteError, match=r"00000\.png: is not there any more"):
        writer.close()


def test_ids_above_255_make_16_bit_masks(tmp_path):
    writer = MaskWriter(tmp_path, lambda index: f"f{index}")
    writer.write(Frame(0, Fraction(0), picture(0)), block(48, 64, value=300))
    with Image.open(tmp_path / "f0.png") as image:
        assert image.mode == "I;16"
        assert np.asarray(image).max() == 300


def test_a_mask_folder_that_cannot_be_made_is_an_error(tmp_path):
    (tmp_path / "masks").write_bytes(b"")
    with pytest.raises(StmError, match="masks"):
        MaskWriter(tmp_path / "masks", str)
