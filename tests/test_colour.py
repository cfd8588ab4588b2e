"""RGB is within one level of the standards' own matrices, computed here from known planes in floating point."""

import av
import numpy as np
import pytest
from PIL import Image

from stmcli.video import open_source
from stmcli.video.color import Color, color_of, oddities

WEIGHTS = {"601": (0.299, 0.114), "709": (0.2126, 0.0722), "2020": (0.2627, 0.0593)}  # of red and blue in luma
MATRIX = {"601": 6, "709": 1, "2020": 9}
SHARE = {"444": (1, 1), "422": (2, 1), "420": (2, 2)}  # columns and rows of luma for one of chroma
BORDER = 4  # pixels where chroma has no neighbour to be interpolated with


def yuv_planes(kind, height, width, *, bits, full):
    """Return a noisy luma plane and two chroma planes that are linear, and so interpolate exactly."""
    unit = 2 ** (bits - 8)
    low, high = (0, 2**bits - 1) if full else (16 * unit, 235 * unit)
    across, down = SHARE[kind]
    x, y = np.meshgrid(np.arange(-(-width // across)), np.arange(-(-height // down)))
    luma = np.random.default_rng(7).integers(low, high + 1, (height, width))
    return luma, (90 + across * x) * unit, (150 - down * y) * unit


def full_chroma(plane, kind, shape, *, sited_left):
    """Return a linear chroma plane at the places of luma, by its slopes."""
    across, down = SHARE[kind]
    y, x = np.mgrid[: shape[0], : shape[1]]
    column = x / across - (0 if sited_left or across == 1 else 0.25)
    row = y / down - (0.25 if down == 2 else 0)
    return plane[0, 0] + column * (plane[0, 1] - plane[0, 0]) + row * (plane[1, 0] - plane[0, 0])


def textbook_rgb(luma, cb, cr, space, *, bits, full):
    """Return (H, W, 3) floating point RGB, 0..255, by the equations of BT.601, BT.709 or BT.2020."""
    unit = 2 ** (bits - 8)
    red, blue = WEIGHTS[space]
    black, swing, colour = (0, 2**bits - 1, 2**bits - 1) if full else (16 * unit, 219 * unit, 224 * unit)
    y, b, r = (luma - black) / swing, (cb - 128 * unit) / colour, (cr - 128 * unit) / colour
    r, b = y + 2 * (1 - red) * r, y + 2 * (1 - blue) * b
    g = (y - red * r - blue * b) / (1 - red - blue)
    return np.clip(np.stack([r, g, b], axis=-1) * 255, 0, 255)


def planar_frame(planes, layout, *, bits):
    frame = av.VideoFrame(planes[0].shape[1], planes[0].shape[0], layout)
    kind = np.uint8 if bits == 8 else np.dtype("<u2")
    for held, plane in zip(frame.planes, planes, strict=True):
        lines = np.zeros((held.height, held.line_size // np.dtype(kind).itemsize), kind)
        lines[:, : plane.shape[1]] = plane
        held.update(lines.tobytes())
    return frame


def write_planes(path, planes, layout, *, bits, codec="ffv1", options=None, tags=None):
    """Write one lossless frame; `tags` are attributes of the encoder."""
    with av.open(str(path), "w") as out:
        stream = out.add_stream(codec, rate=25, options=options or {})
        stream.height, stream.width = planes[0].shape
        stream.pix_fmt = layout
        for name, value in (tags or {}).items():
            setattr(stream.codec_context, name, value)
        frame = planar_frame(planes, layout, bits=bits)
        frame.colorspace, frame.color_range = (tags or {}).get("colorspace", 2), (tags or {}).get("color_range", 0)
        out.mux(stream.encode(frame))
        out.mux(stream.encode(None))
    return path


def read_one(path):
    with open_source(path) as source:
        return next(iter(source)).rgb, source.info.color


def assert_within_a_level(rgb, expected, border=0):
    inner = slice(border, -border or None)
    assert np.abs(rgb[inner, inner].astype(float) - expected[inner, inner]).max() <= 1


@pytest.mark.parametrize("size", [(48, 64), (51, 67)], ids=["even", "odd"])
@pytest.mark.parametrize("full", [False, True], ids=["limited", "full"])
@pytest.mark.parametrize("bits", [8, 10, 12])
@pytest.mark.parametrize("kind", ["444", "422", "420"])
@pytest.mark.parametrize("space", ["601", "709", "2020"])
def test_rgb_follows_the_standard(tmp_path, space, kind, bits, full, size):
    planes = yuv_planes(kind, *size, bits=bits, full=full)
    layout = f"yuv{kind}p{f'{bits}le' if bits > 8 else ''}"
    tags = {"colorspace": MATRIX[space], "color_range": 2 if full else 1}
    rgb, color = read_one(write_planes(tmp_path / "c.mkv", planes, layout, bits=bits, tags=tags))
    cb, cr = (full_chroma(plane, kind, size, sited_left=False) for plane in planes[1:])
    assert_within_a_level(rgb, textbook_rgb(planes[0], cb, cr, space, bits=bits, full=full), BORDER)
    assert (color.matrix, color.range, color.bits) == (f"BT.{space}", "full" if full else "limited", bits)
    assert (color.matrix_used, color.range_used) == (color.matrix, color.range)


@pytest.mark.parametrize("bits", [8, 10])
@pytest.mark.parametrize("full", [False, True], ids=["limited", "full"])
def test_h264_chroma_sits_at_the_left(tmp_path, bits, full):
    planes = yuv_planes("420", 48, 64, bits=bits, full=full)
    layout = "yuv420p10le" if bits == 10 else "yuv420p"
    tags = {"colorspace": 1, "color_range": 2 if full else 1}
    options = {"qp": "0", "preset": "ultrafast"}
    path = write_planes(tmp_path / "c.mp4", planes, layout, bits=bits, codec="libx264", options=options, tags=tags)
    cb, cr = (full_chroma(plane, "420", (48, 64), sited_left=True) for plane in planes[1:])
    assert_within_a_level(read_one(path)[0], textbook_rgb(planes[0], cb, cr, "709", bits=bits, full=full), BORDER)


@pytest.mark.parametrize("kind", ["422", "420"])
@pytest.mark.parametrize("height", [64, 65])
def test_flat_chroma_is_right_up_to_the_border(tmp_path, kind, height):
    luma, cb, cr = yuv_planes(kind, height, 66, bits=8, full=False)
    planes = (luma, np.full_like(cb, 100), np.full_like(cr, 150))
    path = write_planes(tmp_path / "c.mkv", planes, f"yuv{kind}p", bits=8, tags={"colorspace": 1})
    assert_within_a_level(read_one(path)[0], textbook_rgb(luma, 100.0, 150.0 + 0 * luma, "709", bits=8, full=False))


@pytest.mark.parametrize(("height", "space"), [(718, "601"), (720, "709"), (1080, "709")])
def test_an_untagged_picture_goes_by_its_lines(tmp_path, height, space):
    planes = yuv_planes("444", height, 32, bits=8, full=False)
    planes = (planes[0], planes[1], np.full_like(planes[2], 170))
    rgb, color = read_one(write_planes(tmp_path / "c.mkv", planes, "yuv444p", bits=8))
    assert_within_a_level(rgb, textbook_rgb(*planes, space, bits=8, full=False))
    assert (color.matrix, color.range) == (None, None)
    assert (color.matrix_used, color.range_used) == (f"BT.{space}", "limited")


def test_every_10_bit_level_of_full_range_becomes_the_nearest(tmp_path):
    luma = np.tile(np.arange(1024), (16, 1))
    flat = np.full_like(luma, 512)
    tags = {"colorspace": 1, "color_range": 2}
    rgb, _ = read_one(write_planes(tmp_path / "c.mkv", (luma, flat, flat), "yuv444p10le", bits=10, tags=tags))
    assert np.abs(rgb[0] - (luma[0] * 255 / 1023)[:, None]).max() <= 0.51 + 0.14  # rounding, and swscale's own


@pytest.mark.parametrize(("layout", "bits"), [("gray", 8), ("gray10le", 10)])
@pytest.mark.parametrize("tag", [0, 1, 2])
def test_grey_is_full_range_unless_tagged(tmp_path, layout, bits, tag):
    luma = np.tile(np.arange(2**bits)[:: 2 ** (bits - 8)], (16, 1))
    rgb, _ = read_one(write_planes(tmp_path / "c.mkv", (luma,), layout, bits=bits, tags={"color_range": tag}))
    expected = textbook_rgb(
        luma, 128.0 * 2 ** (bits - 8), 0 * luma + 128.0 * 2 ** (bits - 8), "709", bits=bits, full=tag != 1
    )
    assert_within_a_level(rgb, expected)


@pytest.mark.parametrize(
    ("codec", "name", "layout"), [("ffv1", "c.mkv", "bgra"), ("qtrle", "c.mov", "argb"), ("png", "c.mov", "rgb24")]
)
def test_rgb_sources_are_taken_as_they_are(tmp_path, codec, name, layout):
    rgb = np.random.default_rng(1).integers(0, 256, (33, 47, 3), np.uint8)
    with av.open(str(tmp_path / name), "w") as out:
        stream = out.add_stream(codec, rate=25)
        stream.height, stream.width, stream.pix_fmt = 33, 47, layout
        out.mux(stream.encode(av.VideoFrame.from_ndarray(rgb, "rgb24").reformat(format=layout)))
        out.mux(stream.encode(None))
    found, color = read_one(tmp_path / name)
    assert (found == rgb).all()
    assert (color.matrix_used, color.range_used, color.bits) == ("RGB", "full", 8)


def test_a_palette_is_looked_up(tmp_path):
    image = Image.fromarray(np.arange(33 * 47, dtype=np.uint8).reshape(33, 47) % 7, "P")
    image.putpalette([0, 0, 0, 255, 0, 0, 0, 255, 0, 9, 8, 7, 255, 255, 255, 16, 16, 16, 235, 128, 1])
    image.save(tmp_path / "still.png")
    with av.open(str(tmp_path / "still.png")) as still, av.open(str(tmp_path / "c.mov"), "w") as out:
        stream = out.add_stream_from_template(still.streams.video[0])
        packet = next(still.demux(video=0))
        packet.pts = packet.dts = 0
        packet.stream = stream
        out.mux(packet)
    rgb, color = read_one(tmp_path / "c.mov")
    assert color.pixel_format == "pal8"
    assert (rgb == np.asarray(image.convert("RGB"))).all()


def test_an_odd_height_below_hd_is_still_below(tmp_path):
    luma = np.full((719, 32), 120)
    chroma = np.full((360, 16), 128)
    path = write_planes(tmp_path / "c.mkv", (luma, chroma, chroma + 42), "yuv420p", bits=8)
    assert_within_a_level(read_one(path)[0], textbook_rgb(luma, 128.0, 170.0 + 0 * luma, "601", bits=8, full=False))


def test_a_matrix_without_equations_here_is_warned_of(tmp_path):
    planes = yuv_planes("444", 48, 64, bits=8, full=False)
    path = write_planes(tmp_path / "c.mkv", planes, "yuv444p", bits=8, tags={"colorspace": 8})
    with open_source(path) as source:
        assert "YCgCo, is taken as BT.601" in " ".join(source.warnings)


@pytest.mark.parametrize("curve", [16, 18])
def test_hdr_is_known_by_its_curve_and_warned_of(tmp_path, curve):
    planes = yuv_planes("420", 48, 64, bits=10, full=False)
    tags = {"colorspace": 9, "color_trc": curve, "color_primaries": 9, "color_range": 1}
    path = write_planes(tmp_path / "c.mkv", planes, "yuv420p10le", bits=10, codec="libx264", tags=tags)
    with open_source(path) as source:
        assert source.info.color.hdr
        assert source.info.color.primaries == "BT.2020"
        assert "HDR" in " ".join(source.warnings)
    assert not Color(transfer="BT.709").hdr


@pytest.mark.parametrize(("primaries", "name"), [(1, None), (6, None), (9, "BT.2020"), (12, "Display P3")])
def test_wide_primaries_that_are_not_converted_are_warned_of(tmp_path, primaries, name):
    planes = yuv_planes("420", 48, 64, bits=8, full=False)
    tags = {"colorspace": 1, "color_trc": 1, "color_primaries": primaries, "color_range": 1}
    path = write_planes(tmp_path / "c.mkv", planes, "yuv420p", bits=8, codec="libx264", tags=tags)
    with open_source(path) as source:
        said = [f"its primaries, {name}, are taken as BT.709, in which its colours are paler"] if name else []
        assert list(source.warnings) == said


@pytest.mark.parametrize(
    ("layout", "tags", "expected"),
    [
        ("yuv444p", {"colorspace": 0}, {"matrix": "RGB", "matrix_used": "BT.601", "range_used": "limited"}),
        ("yuvj420p", {}, {"matrix": None, "range_used": "full"}),
        ("yuva420p", {}, {"alpha": True, "bits": 8}),
        ("rgb565le", {"colorspace": 0}, {"matrix": None, "bits": 6, "alpha": False}),
        ("monow", {}, {"matrix_used": "RGB", "range_used": "full"}),
        ("yuv420p10le", {"color_trc": 14}, {"transfer": "BT.2020", "bits": 10}),
    ],
)
def test_the_colour_of_a_picture_is_what_it_says_and_its_kind_tells(layout, tags, expected):
    frame = av.VideoFrame(32, 32, layout)
    for name, value in tags.items():
        setattr(frame, name, value)
    color = color_of(frame)
    assert {name: getattr(color, name) for name in expected} == expected


@pytest.mark.parametrize(
    ("color", "said"),
    [
        (Color(), []),
        (Color(bits=10), ["processed with 8 bits per colour"]),
        (Color(bits=16, transfer="linear"), ["linear light is processed as 8-bit sRGB, and what is brighter"]),
        (Color(bits=10, transfer="PQ", primaries="BT.2020"), ["HDR is processed as if it were SDR"]),
        (Color(alpha=True), ["its own transparency is not used"]),
    ],
)
def test_what_is_lost_is_said_once(color, said):
    found = oddities(color)
    assert len(found) == len(said)
    assert all(one.startswith(start) for one, start in zip(found, said, strict=True))
