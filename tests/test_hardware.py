"""Decoding on the graphics card: the same pictures as without one, or a note that says why not."""

import av
import numpy as np
import pytest
from spoilt import flipped_clip
from test_colour import planar_frame

from stmcli.errors import VideoError
from stmcli.video import frame_times, hardware, nvdec_opens, open_source, reader
from stmcli.video.rgb import RgbConverter

WOVEN = [
    ("yuv420p", "nv12", 8),
    ("yuv422p", "nv16", 8),
    ("yuv420p10le", "p010le", 10),
    ("yuv420p16le", "p016le", 16),
    ("yuv422p10le", "p210le", 10),
    ("yuv422p16le", "p216le", 16),
]


def frames(path, **options):
    """Return the frames of a clip, and what a person should know."""
    with open_source(path, **options) as source:
        return [(frame.index, frame.time, frame.rgb.tobytes()) for frame in source], source.warnings


@pytest.fixture
def card(monkeypatch):
    """Return a function that puts a card into the machine, and the list of what files were opened with since.

    The card calls its pictures as it is told, and `changed` is what becomes of them.
    """
    opened = []

    def put(name="yuv420p", changed=lambda rgb: rgb):
        class Converter(RgbConverter):
            """Convert what came of the file that was opened last."""

            def __init__(self):
                super().__init__()
                self.card = opened[-1]

            def convert(self, picture):
                return changed(super().convert(picture)) if self.card else super().convert(picture)

        def opening(path, *, hardware=None):
            opened.append(hardware)
            return real(path)

        real = reader.open_container
        for module in (hardware, reader):
            monkeypatch.setattr(module, "open_container", opening)
        monkeypatch.setattr(hardware, "NVDEC", name)
        monkeypatch.setattr(hardware, "HWAccel", lambda _: "card")
        monkeypatch.setattr(hardware, "RgbConverter", Converter)
        monkeypatch.setattr(hardware, "nvdec_opens", lambda: True)
        return opened

    return put


@pytest.mark.parametrize("size", [(48, 64), (51, 67)], ids=["even", "odd"])
@pytest.mark.parametrize(("apart", "woven", "bits"), WOVEN)
def test_pictures_with_woven_chroma_have_the_colours_of_those_with_planes_apart(apart, woven, bits, size):
    random = np.random.default_rng(0)
    sides = [size, *[(-(-size[0] // (2 if "420" in apart else 1)), -(-size[1] // 2))] * 2]
    planes = [random.integers(0, 2**bits, side).astype(np.uint8 if bits == 8 else np.uint16) for side in sides]
    shift = 0 if bits == 8 else 16 - bits
    both = np.stack(planes[1:], axis=2).reshape(sides[1][0], -1)
    plain = planar_frame(planes, apart, bits=bits)
    other = planar_frame([planes[0] << shift, both << shift], woven, bits=bits)
    assert np.array_equal(RgbConverter().convert(other), RgbConverter().convert(plain))


def test_without_a_card_ffmpeg_decodes_and_a_note_says_so(make_clip, monkeypatch):
    monkeypatch.setattr(hardware, "nvdec_opens", lambda: False)
    plain, nothing = frames(make_clip())
    found, notes = frames(make_clip(), decoder="nvdec")
    assert (found, nothing) == (plain, ())
    assert notes == ("decoded in software: NVDEC does not open here",)


def test_a_card_that_makes_the_same_pictures_decodes_the_clip(make_clip, card):
    path = make_clip()
    plain, _ = frames(path)
    opened = card()
    assert frames(path, decoder="nvdec") == (plain, ())
    assert opened == ["card", None, "card"]


def test_where_a_card_fails_later_on_software_is_what_may_help(make_clip, card, monkeypatch):
    path = flipped_clip(make_clip)
    card()
    with pytest.raises(VideoError, match=r"frame 11 cannot be decoded\. Decode it in software, or go on with --on-c"):
        frames(path, decoder="nvdec")
    monkeypatch.setattr(hardware, "nvdec_opens", lambda: False)
    with pytest.raises(VideoError, match=r"frame 11 cannot be decoded\. Copy it again, or"):
        frames(path, decoder="nvdec")


def test_software_does_not_ask_for_a_card(make_clip, card):
    opened = card()
    frames(make_clip())
    assert opened == [None]


@pytest.mark.parametrize(
    ("machine", "why"),
    [
        ({"changed": lambda rgb: rgb ^ 1}, "makes other pictures of this clip"),
        ({"name": "cuda"}, "does not take this clip"),
    ],
    ids=["differs", "falls-back"],
)
def test_a_card_that_will_not_do_is_not_used(make_clip, card, machine, why):
    path = make_clip()
    plain, _ = frames(path)
    opened = card(**machine)
    assert frames(path, decoder="nvdec") == (plain, (f"decoded in software: NVDEC {why}",))
    assert opened[-1] is None


def test_a_difference_in_a_later_picture_is_seen(make_clip, card):
    seen = []

    def late(rgb):
        seen.append(rgb)
        return rgb ^ (len(seen) == hardware.TRIED)

    opened = card(changed=late)
    _, notes = frames(make_clip(), decoder="nvdec")
    assert notes == ("decoded in software: NVDEC makes other pictures of this clip",)
    assert (len(seen), opened[-1]) == (hardware.TRIED, None)


def test_a_card_that_fails_is_not_used(make_clip, card):
    def fail(_):
        raise av.error.ExternalError(1, "the driver is gone")

    card(changed=fail)
    path = make_clip()
    found, notes = frames(path, decoder="nvdec")
    assert len(found) == len(frame_times(path))
    assert notes == ("decoded in software: NVDEC does not take this clip",)


def test_frames_of_a_folder_need_no_decoder(make_folder, card):
    opened = card()
    folder = make_folder(["0.png", "1.png"])
    assert frames(folder, decoder="nvdec") == frames(folder)
    assert not opened


def test_the_command_takes_a_decoder_and_notes_where_it_does_not_open(segment, make_clip, make_mask, monkeypatch):
    monkeypatch.setattr(hardware, "nvdec_opens", lambda: False)
    made = segment(make_clip(), "--mask", make_mask(), "--decoder", "nvdec")
    assert made.exit_code == 0
    assert "decoded in software: NVDEC does not open here" in made.stderr
    assert segment(make_clip(), "--mask", make_mask(), "--decoder", "fast").exit_code == 2


@pytest.mark.cuda
@pytest.mark.usefixtures("cuda")
@pytest.mark.parametrize("codec", ["libx264", "libx265", "libvpx-vp9"])
def test_nvdec_makes_the_pictures_of_ffmpeg(make_clip, codec):
    if not nvdec_opens():
        pytest.skip("no NVDEC beside this CUDA device")
    path = make_clip("c.mkv", codec=codec, width=322, height=242, frames=30)
    assert frames(path, decoder="nvdec") == frames(path)
