"""Hold the films that stm writes to their colours, alpha, times and tags, codec by codec."""

import ast
from dataclasses import replace
from fractions import Fraction
from itertools import pairwise
from pathlib import Path

import av
import numpy as np
import pytest
from conftest import add_sound, decode, picture, stored_alpha, stored_planes, write_clip
from conftest import write_sound as write_tone

from stmcli import options
from stmcli.errors import WriteError
from stmcli.video import (
    ALPHA_CODECS,
    H264,
    H264_NVENC,
    VideoWriter,
    open_source,
)
from stmcli.video import picture as picture_module
from stmcli.video.picture import encode_picture

CODECS = {"h264": H264, **ALPHA_CODECS}
RGB_CODECS = ("png", "qtrle", "ffv1")
ALPHA_ERROR = {"prores4444": 1, "png": 0, "qtrle": 0, "ffv1": 0, "vp9": 3}
SIZES = [(64, 48), (70, 40), (86, 48), (63, 47), (17, 33)]
RATE = Fraction(25)


def write(path, codec, pictures, **settings):
    """Write pictures at 25 frames a second and return the closed writer."""
    height, width = pictures[0].shape[:2]
    with VideoWriter(path, codec=codec, size=(width, height), rate=RATE, time_base=1 / RATE, **settings) as writer:
        for index, rgba in enumerate(pictures):
            writer.write(rgba, index / RATE)
    return writer


def film(tmp_path, name, pictures, **settings):
    codec = CODECS[name]
    fitting = pictures if codec.has_alpha else [rgba[..., :3] for rgba in pictures]
    return write(tmp_path / f"film{codec.suffix}", codec, fitting, **settings)


def soft_alpha(index, width, height):
    """Return (H, W) uint8: a blob with a soft edge above, any value beside any other below."""
    rng = np.random.default_rng(index)
    rows, columns = np.mgrid[:height, :width]
    distance = np.hypot(columns - width / 2 - index, rows - height / 3)
    alpha = 255 / (1 + np.exp((distance - height / 4) / 2))
    alpha[height // 2 :] = rng.uniform(0, 256, alpha[height // 2 :].shape)
    return alpha.astype(np.uint8)


def gradient(width, height):
    """Return (H, W, 3): red grows to the right, green downwards, blue falls to the right."""
    rows, columns = np.mgrid[:height, :width]
    red, green = 80 + columns * 80 // width, 80 + rows * 80 // height
    return np.stack([red, green, 240 - red], axis=2).astype(np.uint8)


def with_alpha(rgb, alpha):
    return np.dstack([rgb, np.broadcast_to(alpha, rgb.shape[:2]).astype(np.uint8)])


def to_rgb_by_hand(frame):
    """Return the (H, W, 3) colours of a decoded frame, from its bytes and tags alone."""
    name = frame.format.name
    if not name.startswith("yuv"):
        rows = np.frombuffer(frame.planes[0], np.uint8).reshape(frame.height, -1)[:, : 4 * frame.width]
        pixels = rows.reshape(frame.height, frame.width, 4).astype(float)
        return np.stack([pixels[..., name.index(letter)] for letter in "rgb"], axis=2)
    assert (frame.colorspace, frame.color_range) == (1, 1), "BT.709, limited range"
    y, cb, cr = (plane / 2.0 ** (frame.format.components[0].bits - 8) for plane in stored_planes(frame)[:3])
    if cb.shape != y.shape:
        cb, cr = (plane.repeat(2, 0).repeat(2, 1)[: y.shape[0], : y.shape[1]] for plane in (cb, cr))
    y, cb, cr = (y - 16) / 219, (cb - 128) / 224, (cr - 128) / 224
    red, blue = y + 2 * (1 - 0.2126) * cr, y + 2 * (1 - 0.0722) * cb
    green = (y - 0.2126 * red - 0.0722 * blue) / 0.7152
    return np.stack([red, green, blue], axis=2) * 255


# -- colour ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", CODECS)
@pytest.mark.parametrize("size", [(64, 48), (63, 47), (63, 48)])
@pytest.mark.parametrize("colour", [(200, 30, 60), (10, 240, 120), (255, 255, 255), (0, 0, 0), (20, 20, 250)])
def test_a_solid_colour_comes_back_within_two_levels(tmp_path, name, size, colour):
    width, height = size
    solid = np.full((height, width, 3), colour, np.uint8)
    path = film(tmp_path, name, [with_alpha(solid, 255)] * 2).path
    tolerance = 0 if name in RGB_CODECS else 2
    for frame in open_source(path):
        assert np.abs(frame.rgb[:height, :width].astype(int) - solid).max() <= tolerance
    for frame in decode(path):
        assert np.abs(to_rgb_by_hand(frame)[:height, :width] - solid).max() <= tolerance


@pytest.mark.parametrize("name", ["prores4444", "vp9"])
def test_a_gradient_comes_back_within_three_levels(tmp_path, name):
    rgb = gradient(170, 140)
    path = film(tmp_path, name, [with_alpha(rgb, 255)]).path
    (decoded,), (read,) = decode(path), open_source(path)
    assert np.abs(to_rgb_by_hand(decoded) - rgb).max() <= 3
    assert np.abs(read.rgb.astype(int) - rgb).max() <= 4  # FFmpeg reads 4:2:0 up to a level too dark


@pytest.mark.parametrize("name", RGB_CODECS)
@pytest.mark.parametrize("size", SIZES)
def test_codecs_of_rgb_keep_every_bit(tmp_path, name, size):
    noise = np.random.default_rng(0).integers(0, 256, (3, *size[::-1], 4), dtype=np.uint8)
    path = film(tmp_path, name, list(noise)).path
    for before, after, read in zip(noise, decode(path), open_source(path), strict=True):
        assert (to_rgb_by_hand(after) == before[..., :3]).all()
        assert (stored_alpha(after) == before[..., 3]).all()
        assert (read.rgb == before[..., :3]).all()


def test_a_picture_is_converted_as_bt709_says():
    rgb = np.random.default_rng(1).integers(0, 256, (47, 63, 3), dtype=np.uint8)
    y, cb, cr = (plane.astype(float) for plane in stored_planes(encode_picture(rgb, "yuva444p10le"))[:3])
    red, green, blue = (rgb[..., channel] / 255 for channel in range(3))
    luma = 0.2126 * red + 0.7152 * green + 0.0722 * blue
    assert np.abs(y - 4 * (16 + 219 * luma)).max() <= 2
    assert np.abs(cb - 4 * (128 + 224 * (blue - luma) / 1.8556)).max() <= 2
    assert np.abs(cr - 4 * (128 + 224 * (red - luma) / 1.5748)).max() <= 2


# -- alpha -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ALPHA_CODECS)
@pytest.mark.parametrize("size", SIZES)
def test_soft_alpha_comes_back_everywhere(tmp_path, name, size):
    alphas = [soft_alpha(index, *size) for index in range(8)]
    path = film(tmp_path, name, [with_alpha(gradient(*size), alpha) for alpha in alphas]).path
    for alpha, frame in zip(alphas, decode(path), strict=True):
        assert np.abs(stored_alpha(frame) - alpha).max() <= ALPHA_ERROR[name]


@pytest.mark.parametrize("size", [(70, 40), (86, 48), (854, 40)])
def test_alpha_does_not_depend_on_how_many_cores_convert_it(size):
    """Two threads of the converter overwrote each other's rows, at widths that are no multiple of 16."""
    for index in range(40):
        rgba = with_alpha(gradient(*size), soft_alpha(index, *size))
        planes = stored_planes(encode_picture(rgba, "yuva444p10le"))
        assert np.abs(planes[3] - rgba[..., 3] * (1023 / 255)).max() <= 0.5
        luma = 64 + 876 / 255 * (rgba[..., :3] @ (0.2126, 0.7152, 0.0722))
        assert np.abs(planes[0] - luma).max() <= 2


def test_every_picture_is_converted_in_one_thread():
    """The fault needs two idle cores to show: hold its cause instead."""
    tree = ast.parse(Path(picture_module.__file__).read_text(encoding="utf-8"))
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call)]
    conversions = [call for call in calls if getattr(call.func, "attr", None) == "reformat"]
    threads = [word.value.id for call in conversions for word in call.keywords if word.arg == "threads"]
    assert threads == ["_ONE_THREAD"] * len(conversions)
    assert picture_module._ONE_THREAD == 1
    assert len(conversions) == 2


def test_noise_is_not_too_much_for_the_fixed_quantiser_of_prores(tmp_path):
    noise = np.random.default_rng(2).integers(0, 256, (2, 180, 326, 4), dtype=np.uint8)
    path = film(tmp_path, "prores4444", list(noise)).path
    for before, after in zip(noise, decode(path), strict=True):
        assert np.abs(stored_alpha(after) - before[..., 3]).max() <= 1
        assert np.abs(to_rgb_by_hand(after) - before[..., :3]).mean() < 2


def test_pictures_without_alpha_are_opaque(tmp_path):
    path = write(tmp_path / "a.mov", ALPHA_CODECS["prores4444"], [gradient(70, 40)]).path
    assert (stored_alpha(decode(path)[0]) == 255).all()


# -- what the container holds ------------------------------------------------------------------


@pytest.mark.parametrize("name", CODECS)
@pytest.mark.parametrize("timecode", ["10:20:30:05", "01:00:00:00"])
def test_the_timecode_comes_back(tmp_path, name, timecode):
    writer = film(tmp_path, name, [with_alpha(picture(0), 255)] * 3, timecode=timecode)
    with av.open(str(writer.path)) as container:
        metadata = container.streams.video[0].metadata
    assert (metadata.get("timecode") or metadata.get("TIMECODE")) == timecode
    assert writer.facts.timecode == timecode
    assert writer.notes == []


def test_a_drop_frame_timecode_comes_back(tmp_path):
    rate = Fraction(30000, 1001)
    with VideoWriter(
        tmp_path / "x.mp4", codec=H264, size=(64, 48), rate=rate, time_base=1 / rate, timecode="00:59:59;28"
    ) as writer:
        writer.write(picture(0), Fraction(0))
    assert writer.facts.timecode == "00:59:59;28"


def test_a_timecode_that_cannot_be_held_is_said(tmp_path):
    writer = write(tmp_path / "x.mov", ALPHA_CODECS["qtrle"], [with_alpha(picture(0), 0)], timecode="half past one")
    assert writer.facts.timecode is None
    assert writer.notes == ["x.mov cannot hold the timecode half past one"]


@pytest.mark.parametrize("name", CODECS)
def test_the_shape_of_the_pixels_is_kept_or_the_loss_is_said(tmp_path, name):
    writer = film(tmp_path, name, [with_alpha(picture(0), 255)], aspect=Fraction(16, 11))
    kept = writer.path.suffix in (".mp4", ".mov")
    assert open_source(writer.path).info.aspect == writer.facts.aspect == (Fraction(16, 11) if kept else 1)
    assert writer.notes == ([] if kept else [f"{writer.path.name} does not say that its pixels are 16:11"])


@pytest.mark.parametrize("name", CODECS)
def test_times_closer_than_the_clock_stay_apart(tmp_path, name):
    codec, base = CODECS[name], Fraction(1, 90000)
    path = tmp_path / f"film{codec.suffix}"
    times = [tick * base for tick in (0, 30, 60, 9000)]
    with VideoWriter(path, codec=codec, size=(64, 48), rate=RATE, time_base=base) as writer:
        for time in times:
            writer.write(picture(0) if not codec.has_alpha else with_alpha(picture(0), 9), time)
    found = [frame.time for frame in open_source(path)]
    assert len(set(found)) == 4
    if codec.suffix in (".mp4", ".mov"):
        assert found == times
    assert abs(found[-1] - Fraction(1, 10)) <= Fraction(1, 1000)


@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
def test_no_two_pictures_have_one_time(tmp_path, suffix):
    settings = {"size": (64, 48), "rate": RATE, "time_base": Fraction(1, 100)}
    with VideoWriter(tmp_path / f"film{suffix}", codec=H264, **settings) as writer:
        for tick in (0, 4, 4, 3, 20):
            writer.write(picture(0), Fraction(tick, 100))
    with av.open(str(writer.path)) as container:
        found = [frame.pts * frame.time_base for frame in container.decode(video=0)]
    step = Fraction(1, 1000 if suffix == ".mkv" else 100)
    assert found == [0, Fraction(4, 100), Fraction(4, 100) + step, Fraction(4, 100) + 2 * step, Fraction(20, 100)]


@pytest.mark.parametrize("name", [name for name in CODECS if name not in RGB_CODECS])
def test_films_of_yuv_say_how_their_colours_are_meant(tmp_path, name):
    color = open_source(film(tmp_path, name, [with_alpha(picture(0), 255)]).path).info.color
    assert (color.primaries, color.transfer, color.matrix, color.range) == (*3 * ["BT.709"], "limited")


@pytest.mark.parametrize("suffix", [".mp4", ".mov", ".m4v"])
def test_a_film_begins_exactly_where_it_is_to(tmp_path, suffix):
    settings = {"size": (64, 48), "rate": Fraction(24), "time_base": Fraction(1, 24), "start": Fraction(7, 24)}
    with VideoWriter(tmp_path / f"film{suffix}", codec=H264, **settings) as writer:
        for index in range(3):
            writer.write(picture(0), Fraction(index, 24))
    with av.open(str(writer.path)) as container:
        assert [frame.pts * frame.time_base for frame in container.decode(video=0)] == [
            Fraction(tick, 24) for tick in (7, 8, 9)
        ]


@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
@pytest.mark.parametrize(("start", "first"), [(None, 3), (Fraction(0), 0), (Fraction(1), 1)])
def test_times_are_rounded_to_the_clock_and_begin_where_they_are_to(tmp_path, suffix, start, first):
    times = [3 + Fraction(index, 30) for index in range(4)]
    settings = {"size": (64, 48), "rate": Fraction(30), "time_base": Fraction(1, 1000), "start": start}
    with VideoWriter(tmp_path / f"film{suffix}", codec=H264, **settings) as writer:
        for time in times:
            writer.write(picture(0), time)
    with av.open(str(writer.path)) as container:
        found = [frame.pts * frame.time_base for frame in container.decode(video=0)]
    assert found == [first + Fraction(tick, 1000) for tick in (0, 33, 67, 100)]


@pytest.mark.parametrize("trim", [False, True])
@pytest.mark.parametrize("start", [None, Fraction(0)])
def test_sound_moves_along_with_the_pictures_and_ends_with_them_when_asked(tmp_path, start, trim):
    heard = write_sound(tmp_path / "clip.mkv", "flac", 48000)
    settings = {"size": (64, 48), "rate": RATE, "time_base": 1 / RATE, "start": start, "trim_audio": trim}
    with VideoWriter(tmp_path / "film.mkv", codec=H264, audio_from=heard, **settings) as writer:
        for index in range(5, 15):
            writer.write(picture(index), index / RATE)
    with av.open(str(writer.path)) as container:
        packets = [packet for packet in container.demux(audio=0) if packet.dts is not None]
        first, last = (packet.pts * packet.time_base for packet in (packets[0], packets[-1]))
    moved = Fraction(0) if start is None else Fraction(5, 25)
    assert abs(last - ((Fraction(15, 25) if trim else 1) - moved)) < Fraction(1, 8)  # a packet of FLAC is 0.1 s
    assert first < Fraction(1, 8)


def packets_of(path, kind):
    """Return first and last moment of a film's pictures or sound, and the place in the file of each packet."""
    with av.open(str(path)) as container:
        packets = [packet for packet in container.demux(**{kind: 0}) if packet.pts is not None]
        first, last = min(packets, key=lambda one: one.pts), max(packets, key=lambda one: one.pts)
        return (
            first.pts * first.time_base,
            (last.pts + last.duration) * last.time_base,
            {packet.pos: packet.pts * packet.time_base for packet in packets},
        )


@pytest.mark.parametrize(("name", "sound"), [("h264", "aac"), ("ffv1", "aac"), ("vp9", "libopus")])
def test_sound_that_begins_before_the_pictures_does_not_move_them(tmp_path, name, sound):
    codec = CODECS[name]
    heard = write_sound(tmp_path / f"clip.{'mp4' if sound == 'aac' else 'mkv'}", sound, 48000)
    pictures = [picture(index) if not codec.has_alpha else with_alpha(picture(index), 255) for index in range(5)]
    for suffix in {codec.suffix, ".mkv"}:
        writer = write(tmp_path / f"film{suffix}", codec, pictures, audio_from=heard)
        assert writer.notes == []
        assert packets_of(writer.path, "video")[0] == 0


def test_sound_that_begins_between_two_pictures_stays_there_to_the_millisecond(tmp_path):
    heard = write_sound(tmp_path / "clip.mp4", "aac", 48000)
    begin = Fraction(5, 25)
    settings = {"size": (64, 48), "rate": RATE, "time_base": 1 / RATE, "start": Fraction(0), "trim_audio": True}
    with VideoWriter(tmp_path / "film.mp4", codec=H264, audio_from=heard, **settings) as writer:
        for index in range(5, 15):
            writer.write(picture(index), index / RATE)
    first, last, _ = packets_of(writer.path, "audio")
    wanted = next(time for time in sorted(packets_of(heard, "audio")[2].values()) if time >= begin) - begin
    assert abs(first - wanted) < Fraction(1, 1000)
    assert 0 <= last - Fraction(10, 25) < Fraction(1024, 48000)


@pytest.mark.parametrize("begin", [0, 8])
def test_sound_lies_beside_its_pictures_in_the_file(tmp_path, begin):
    heard = tmp_path / "clip.mkv"
    with av.open(str(heard), "w") as out:
        write_tone(out, add_sound(out, "flac"), seconds=40)
    settings = {"size": (64, 48), "rate": Fraction(1), "time_base": Fraction(1), "start": Fraction(0)}
    with VideoWriter(tmp_path / "film.mkv", codec=CODECS["ffv1"], audio_from=heard, **settings) as writer:
        for index in range(begin, 40):
            writer.write(with_alpha(picture(0), 255), Fraction(index))
    places = sorted({**packets_of(writer.path, "video")[2], **packets_of(writer.path, "audio")[2]}.items())
    times = [time for _, time in places]
    assert max(abs(after - before) for before, after in pairwise(times)) <= 2


@pytest.mark.parametrize("name", CODECS)
def test_the_last_picture_is_shown_as_long_as_the_others(tmp_path, name):
    writer = film(tmp_path / "new" / "folder", name, [with_alpha(picture(0), 255)])
    with av.open(str(writer.path)) as container:
        assert container.duration == 40_000  # microseconds


def test_of_several_sounds_the_first_is_taken_and_that_is_said(tmp_path):
    heard = tmp_path / "clip.mkv"
    with av.open(str(heard), "w") as out:
        video = out.add_stream("libx264", rate=25, options={"preset": "ultrafast"})
        video.width, video.height, video.pix_fmt = 64, 48, "yuv420p"
        sounds = [add_sound(out, "flac") for _ in range(2)]
        out.mux(video.encode(av.VideoFrame.from_ndarray(picture(0), "rgb24")))
        out.mux(video.encode(None))
        for sound in sounds:
            write_tone(out, sound, seconds=0.5)
    writer = write(tmp_path / "film.mkv", H264, [picture(0)] * 2, audio_from=heard)
    assert writer.notes == ["film.mkv has the first of 2 sound tracks"]


# -- what is left when it goes wrong -----------------------------------------------------------


def test_a_film_without_a_frame_is_refused_and_what_was_there_stays(tmp_path):
    (tmp_path / "film.mp4").write_bytes(b"before")
    writer = VideoWriter(tmp_path / "film.mp4", codec=H264, size=(64, 48), rate=RATE, time_base=1 / RATE)
    with pytest.raises(WriteError, match=r"film\.mp4: 0 frames were given to it"):
        writer.close()
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {"film.mp4": b"before"}


def test_of_a_film_that_is_given_up_nothing_is_left(tmp_path):
    with pytest.raises(ValueError, match=r"takes frames of \(64, 48\), not \(48, 64\)"):
        write(tmp_path / "film.mp4", H264, [picture(0), picture(0).transpose(1, 0, 2)])
    assert [*tmp_path.iterdir()] == []


@pytest.mark.parametrize(
    ("source", "codec", "rate"),
    [("flac", ALPHA_CODECS["prores4444"], 192000), ("aac", ALPHA_CODECS["vp9"], 44100)],
)
def test_sound_of_a_rate_the_encoder_lacks_gets_another(tmp_path, source, codec, rate):
    heard = write_sound(tmp_path / "clip.mkv", source, rate)
    writer = write(
        tmp_path / f"film{codec.suffix}", codec, [with_alpha(picture(i), 255) for i in range(25)], audio_from=heard
    )
    assert "encoded again" in writer.notes[0]
    with av.open(str(writer.path)) as container:
        stream = container.streams.audio[0]
        assert stream.rate == 48000
        samples = np.concatenate([f.to_ndarray()[0] for f in container.decode(stream)])
    spectrum = np.abs(np.fft.rfft(samples[4800:43200]))
    assert np.argmax(spectrum[10:]) + 10 == pytest.approx(440 * 0.8, abs=2)
    assert len(samples) >= 48000


def test_sound_that_nothing_takes_is_left_out_and_said(tmp_path):
    heard = write_sound(tmp_path / "clip.mkv", "pcm_s16le", 48000, layout="hexadecagonal")
    writer = write(tmp_path / "x.webm", ALPHA_CODECS["vp9"], [with_alpha(picture(0), 255)] * 2, audio_from=heard)
    assert writer.notes == ["x.webm has no sound: it can neither be copied nor encoded again"]
    assert writer.facts.audio is None


def write_sound(path, codec, rate, *, layout="mono"):
    """Write a second of 440 Hz beside pictures."""
    with av.open(str(path), "w") as out:
        video = out.add_stream("libx264", rate=25, options={"preset": "ultrafast"})
        video.width, video.height, video.pix_fmt = 64, 48, "yuv420p"
        sound = out.add_stream(codec, rate=rate)
        sound.layout = layout
        for index in range(25):
            frame = av.VideoFrame.from_ndarray(picture(index), "rgb24")
            frame.pts = index
            out.mux(video.encode(frame))
        out.mux(video.encode(None))
        wave = (np.sin(np.arange(rate) * (2 * np.pi * 440 / rate)) * 12000).astype(np.int16)
        wave = np.repeat(wave, len(av.AudioLayout(layout).channels))
        frame = av.AudioFrame.from_ndarray(wave[None], format="s16", layout=layout)
        frame.sample_rate, frame.pts, frame.time_base = rate, 0, Fraction(1, rate)
        out.mux(sound.encode(frame))
        out.mux(sound.encode(None))
    return path


# -- encoders that are missing -----------------------------------------------------------------


def test_a_missing_encoder_gives_way_to_its_fallback(tmp_path):
    codec = replace(H264_NVENC, encoder="no_such_encoder")
    writer = write(tmp_path / "x.mp4", codec, [picture(0), picture(1)])
    assert writer.notes == ["x.mp4 is encoded with libx264: there is no encoder no_such_encoder here"]
    assert (writer.codec, writer.facts.codec, writer.facts.frames) == (H264, "h264", 2)


def test_a_refusing_encoder_gives_way_to_its_fallback(tmp_path):
    codec = replace(H264_NVENC, encoder="prores_ks")  # takes no yuv420p
    heard = write_clip(tmp_path / "clip.mp4", audio="aac")
    writer = write(tmp_path / "x.mp4", codec, [picture(0, 63, 47)], audio_from=heard)
    assert writer.notes[0].startswith("x.mp4 is encoded with libx264: cannot be written with prores_ks (")
    assert "64x48" in writer.notes[1]
    assert (len(writer.notes), writer.facts.audio) == (2, "aac")


def test_the_hardware_encoder_or_its_fallback_writes_h264(tmp_path):
    writer = write(tmp_path / "x.mp4", H264_NVENC, [picture(i, 256, 192) for i in range(4)])
    assert (writer.facts.codec, writer.facts.frames) == ("h264", 4)
    assert bool(writer.notes) == (writer.codec is H264)


def test_the_names_of_the_options_are_the_codecs_there_are():
    assert tuple(ALPHA_CODECS) == options.ALPHA_CODECS
    assert all(codec.has_alpha for codec in ALPHA_CODECS.values())
    assert not H264.has_alpha
