import json

import numpy as np
import pytest
from PIL import Image, ImageFilter
from test_masks import exif, png

from stmcli.maskcheck import check_mask, describe
from stmcli.masks import read_labels, read_values, write_labels
from stmcli.render import palette


def labels_of(*ids, width=64, height=48):
    """A 10x10 square for each id."""
    labels = np.zeros((height, width), np.uint16 if max(ids) > 255 else np.uint8)
    for place, number in enumerate(ids):
        labels[20:30, 2 + 12 * place : 12 + 12 * place] = number
    return labels


@pytest.fixture
def mask(tmp_path):
    """Return a function that writes a palette mask of squares."""

    def write(*ids, name="mask.png", **size):
        write_labels(tmp_path / name, labels_of(*ids, **size))
        return tmp_path / name

    return write


def soften(path):
    """Make the edges of a palette mask soft, in its colours."""
    with Image.open(path) as image:
        rgb = np.array(image.convert("RGB")).astype(np.uint16)
    rgb[:, 1:] = (rgb[:, 1:] + rgb[:, :-1]) // 2
    Image.fromarray(rgb.astype(np.uint8)).save(path)
    return path


# What is said.


def test_objects_are_listed_with_area_colour_parts_and_specks(mask):
    path = mask(1, 7, 255)
    labels = read_values(path).copy()
    labels[2:4, 2:4], labels[2:8, 40:46] = 7, 7
    write_labels(path, labels)
    facts = check_mask(path)
    assert [(o.id, o.area, o.color, o.parts, o.specks) for o in facts.objects] == [
        (1, 100, "#800000", 1, 0),
        (7, 140, "#808080", 3, 1),
    ]
    assert (facts.void, facts.ghosts, facts.two_valued, facts.usable) == (100, 0, False, True)
    assert facts.reading == "usable as it is: objects 1, 7"


@pytest.mark.parametrize(
    ("array", "mode", "color"),
    [
        (labels_of(255), "8-bit grey PNG", "grey 255"),
        (labels_of(1).astype(bool), "1-bit PNG", "#ffffff"),
        (labels_of(300), "16-bit grey PNG", ""),
        (palette()[labels_of(2)], "8-bit RGB PNG", "#008000"),
        (np.dstack([labels_of(9)] * 3 + [labels_of(200)]), "8-bit RGB with alpha PNG", "#090909"),
    ],
)
def test_the_mode_is_named(tmp_path, array, mode, color):
    Image.fromarray(array).save(tmp_path / "m.png")
    facts = check_mask(tmp_path / "m.png")
    assert (facts.mode, facts.two_valued, facts.usable) == (mode, True, True)
    assert [one.color for one in facts.objects] == [color]
    assert [one.id for one in facts.objects] == [300 if "16" in mode else 2 if mode == "8-bit RGB PNG" else 1]


@pytest.mark.parametrize(
    ("depth", "color", "words"),
    [
        (2, 0, "2-bit grey PNG"),
        (4, 0, "4-bit grey PNG"),
        (1, 3, "1-bit palette PNG, own palette"),
        (4, 3, "4-bit palette PNG, own palette"),
        (16, 2, "16-bit RGB PNG"),
        (16, 0, "16-bit grey PNG"),
        (16, 6, "16-bit RGB with alpha PNG"),
    ],
)
def test_the_depth_of_the_file_is_named(tmp_path, depth, color, words):
    from stmcli.images import load_image

    samples = {0: 1, 2: 3, 3: 1, 6: 4}[color]
    row = b"\x00" + bytes(4 * samples * depth // 8 or 1)
    path = png(tmp_path / "m.png", 4, 1, depth, color, row, palette=bytes(range(6)) if color == 3 else b"")
    assert describe(load_image(path)) == words


def test_a_transparent_palette_is_no_trouble(mask):
    path = mask(1, 2)
    with Image.open(path) as image:
        image.save(path, transparency=bytes([0, 128]))
    facts = check_mask(path)
    assert facts.mode == "8-bit palette PNG in the DAVIS palette"
    assert [one.color for one in facts.objects] == ["#800000", "#008000"]


def test_soft_edges_that_have_colours_of_the_palette_are_found(mask):
    path = soften(mask(1))
    assert set(np.unique(read_labels(path))) == {0, 1, 8}  # half of the red of id 1 is the red of id 8
    facts = check_mask(path)
    assert (facts.ghosts, facts.ghost_values, facts.usable) == (20, 1, False)
    assert facts.problems[0][0].startswith("soft edges: 20 pixels in 1 value")
    assert facts.reading == "stm mask fix would make of it: object 1"


def test_a_clip_of_another_size_or_rotation_is_a_problem(mask, make_clip):
    clip = make_clip(frames=2)
    assert check_mask(mask(1), video=clip).usable
    facts = check_mask(mask(1, width=48, height=64), video=clip)
    assert facts.problems[0][0] == "the mask is 48x64 but clip.mp4 is 64x48; it looks rotated"
    phone = make_clip("phone.mp4", frames=2, rotation=90)
    facts = check_mask(mask(1, width=48, height=64), video=phone)
    assert facts.usable
    assert facts.notes == ("the clip is shown turned by 90 degrees counter-clockwise; the mask must be upright too",)


def test_warnings_of_reading_are_notes(tmp_path):
    Image.fromarray(labels_of(77)).save(tmp_path / "m.png")
    facts = check_mask(tmp_path / "m.png")
    assert facts.notes == ("grey values 0 and 77 are read as one object, id 1; palette PNG keeps ids",)


def test_a_turned_jpeg_has_the_size_that_is_shown(tmp_path):
    Image.fromarray(labels_of(255)).save(tmp_path / "m.jpg", quality=95, exif=exif(6))
    facts = check_mask(tmp_path / "m.jpg")
    assert (facts.width, facts.height, facts.mode) == (48, 64, "8-bit grey JPEG")


# stm mask check, stm mask fix.


def test_check_of_a_good_mask_ends_with_nought(stm, mask, make_clip):
    result = stm("mask", "check", mask(1, 3), "--video", make_clip(frames=2))
    assert (result.exit_code, result.stderr) == (0, "")
    assert "mode: 8-bit palette PNG in the DAVIS palette\nsize: 64x48; the clip: 64x48\n" in result.stdout
    assert "usable as it is: objects 1, 3\n" in result.stdout
    assert " 3   100     #808000  1      0" in result.stdout


def test_check_of_a_mask_to_be_cleaned_says_why_in_one_line(stm, mask):
    path = soften(mask(1, 2))
    result = stm("mask", "check", path)
    assert (result.exit_code, len(result.stderr.splitlines())) == (2, 1)
    assert result.stderr.startswith(f"error: {path}: soft edges: 40 pixels in 2 values")
    assert "stm mask fix would make of it: objects 1, 2\n" in result.stdout


def test_check_gives_json(stm, mask, make_clip):
    result = stm("mask", "check", mask(1), "--video", make_clip(frames=2, width=128, height=96), "--json")
    facts = json.loads(result.stdout)
    assert (result.exit_code, result.stdout.count("\n")) == (2, 1)
    assert facts["objects"] == [{"id": 1, "area": 100, "color": "#800000", "parts": 1, "specks": 0}]
    assert (facts["usable"], facts["width"], facts["height"], facts["clip"]) == (False, 64, 48, "128x96")
    cause = "the mask is 64x48 but clip.mp4 is 128x96. Resize the mask with nearest-neighbour"
    assert facts["problems"] == [f"{cause}, or use stm mask fix"]


def test_check_of_unknown_colours_names_one_and_says_what_fix_would_make(stm, mask):
    path = mask(1, 2)
    rgb = palette()[read_labels(path)].copy()
    rgb[20:30, 2] = (100, 20, 0)
    Image.fromarray(rgb).save(path)
    result = stm("mask", "check", path)
    assert (result.exit_code, len(result.stderr.splitlines())) == (2, 1)
    assert result.stderr.startswith(f"error: {path}: colour #641400 at x=2, y=20 is not in the DAVIS palette")
    assert "stm mask fix would make of it: objects 1, 2\n" in result.stdout


def test_fix_makes_a_mask_that_check_takes(stm, mask, make_clip, tmp_path):
    path, clip = soften(mask(1, 2)), make_clip(frames=2, width=128, height=96)
    result = stm("mask", "fix", path, "-o", "fixed.png", "--video", clip)
    assert (result.exit_code, result.stdout) == (0, "fixed.png\n"), result.stderr
    assert "soft edges: 40 pixels in " in result.stderr
    assert "resized from 64x48 to 128x96, nearest neighbour\n" in result.stderr
    assert stm("mask", "check", "fixed.png", "--video", clip).exit_code == 0
    with Image.open(tmp_path / "fixed.png") as image:
        assert (image.mode, image.size, image.getpalette()) == ("P", (128, 96), palette().ravel().tolist())


def test_fix_keeps_wide_ids_and_removes_specks_when_asked(stm, mask, tmp_path):
    path = mask(3, 700)
    labels = read_labels(path).copy()
    labels[2, 2] = 700
    write_labels(path, labels)
    result = stm("mask", "fix", path, "-o", "all.png")
    assert "the ids were clean already\n" in result.stderr
    assert np.array_equal(read_labels(tmp_path / "all.png"), labels)
    assert "object 700: 1 speck of 1 pixel removed\n" in stm("mask", "fix", path, "-o", "f.png", "--speck", "5").stderr
    assert np.array_equal(read_labels(tmp_path / "f.png"), labels_of(3, 700))


def test_fix_never_writes_over_its_input_nor_over_others_unless_told(stm, mask, make_clip, tmp_path):
    path, clip = mask(1), make_clip(frames=2)
    (tmp_path / "other.png").write_bytes(b"precious")
    (tmp_path / "link.png").symlink_to(path)
    before = path.read_bytes(), clip.read_bytes()
    for words in ((path, "-y"), ("link.png", "-y"), (clip, "-y"), ("other.png",), ("none/f.png",), (".", "-y")):
        result = stm("mask", "fix", path, "--video", clip, "-o", *words)
        assert (result.exit_code, len(result.stderr.splitlines()), result.stdout) == (2, 1, ""), result.stderr
    assert ((path.read_bytes(), clip.read_bytes()), (tmp_path / "other.png").read_bytes()) == (before, b"precious")
    assert stm("mask", "fix", path, "-o", "other.png", "-y").exit_code == 0
    assert np.array_equal(read_labels(tmp_path / "other.png"), labels_of(1))


def missing(folder):
    return folder / "none.png", "no such file"


def truncated(folder):
    path = folder / "cut.png"
    write_labels(path, labels_of(1))
    path.write_bytes(path.read_bytes()[:60])
    return path, "truncated"


def words(folder):
    (folder / "words.png").write_text("no image")
    return folder / "words.png", "not an image"


def bomb(folder):
    return png(folder / "bomb.png", 50_000, 50_000, 8, 0, b""), "absurd dimensions"


def blank(folder):
    Image.new("L", (64, 48)).save(folder / "blank.png")
    return folder / "blank.png", "no object"


def photograph(folder):
    ramp = np.add.outer(np.arange(48), np.arange(64)).astype(np.uint8)
    Image.fromarray(np.dstack([ramp, ramp[::-1], 255 - ramp])).save(folder / "photo.jpg")
    return folder / "photo.jpg", "JPEG"


@pytest.mark.parametrize("fault", [missing, truncated, words, bomb, blank, photograph])
@pytest.mark.parametrize("command", ["check", "fix"])
def test_a_fault_is_one_line_that_names_the_file(stm, tmp_path, fault, command):
    path, message = fault(tmp_path)
    result = stm("mask", command, path, *(["-o", "fixed.png"] if command == "fix" else []))
    assert (result.exit_code, len(result.stderr.splitlines())) == (2, 1), result.stderr
    assert result.stderr.startswith(f"error: {path}: ")
    assert message in result.stderr
    assert not (tmp_path / "fixed.png").exists()


def test_faults_of_the_clip_and_of_the_options_are_one_line_too(stm, mask):
    for words, message in ((("--video", "none.mp4"), "none.mp4: no such file"), (("--rotate", "45"), "--rotate 45")):
        result = stm("mask", "fix", mask(1), "-o", "f.png", *words)
        assert (result.exit_code, len(result.stderr.splitlines())) == (2, 1)
        assert message in result.stderr


def test_a_mask_that_looks_inverted_is_doubted(stm, tmp_path, make_clip, segment):
    labels = np.full((48, 64), 255, np.uint8)
    labels[10:30, 10:30] = 0
    Image.fromarray(labels).save(tmp_path / "m.png")
    assert "is it inverted?" in stm("mask", "check", "m.png").stdout
    assert (
        "m.png takes most of the frame and of its edge: is it inverted?" in segment(make_clip(), "-m", "m.png").stderr
    )
    Image.fromarray(255 - labels).save(tmp_path / "m.png")
    assert "inverted" not in stm("mask", "check", "m.png").stdout


def test_everything_that_is_wrong_is_named(stm, tmp_path, make_clip):
    large = Image.new("L", (160, 120))
    large.paste(255, (40, 40, 90, 90))
    large.resize((80, 60), Image.Resampling.BILINEAR).filter(ImageFilter.GaussianBlur(2)).save(tmp_path / "m.png")
    checked = stm("mask", "check", "m.png", "--video", make_clip())
    assert checked.exit_code == 2
    assert "soft edges" in checked.stderr
    assert "problem: the mask is 80x60 but clip.mp4 is 64x48" in checked.stdout
