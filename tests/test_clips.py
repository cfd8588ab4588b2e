"""Check synthetic clips on stills whose objects have a colour of their own."""

import io
import struct
import tarfile
import zlib
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from stmcli.clips import ClipMaker, StillClips, load_stills
from stmcli.clips.cutouts import cutout
from stmcli.errors import TrainingError, UsageError
from stmcli.masks import object_ids, read_labels
from stmcli.options import ClipOptions

RED, BLUE, GREY = (255, 0, 0), (0, 0, 255), (128, 128, 128)
PLAIN = ClipOptions(crop=64, light=0.0, flicker=0.0, blur=0.0, noise=0.0)


def still(colour=RED, *, width=80, height=64, box=(16, 20, 44, 52), number=1):
    """Return an image (H, W, 3) with one coloured rectangle on grey, and its palette mask."""
    rgb = np.full((height, width, 3), GREY, np.uint8)
    labels = np.zeros((height, width), np.uint8)
    top, left, bottom, right = box
    rgb[top:bottom, left:right] = colour
    labels[top:bottom, left:right] = number
    return rgb, labels


def png(pixels):
    content = io.BytesIO()
    Image.fromarray(pixels).save(content, "PNG")
    return content.getvalue()


def write_grey_png(path, rows, *, width, height, bits):
    def chunk(kind, content):
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    head = chunk(b"IHDR", struct.pack(">2I5B", width, height, bits, 0, 0, 0, 0))
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b""))


def write_stills(folder, pairs):
    """Write name -> (image, mask) as a folder with images/ and masks/."""
    for kind, place in (("images", 0), ("masks", 1)):
        (folder / kind).mkdir(parents=True, exist_ok=True)
        for name, pair in pairs.items():
            (folder / kind / f"{name}.png").write_bytes(png(pair[place]))
    return folder


def pack(folder, path):
    with tarfile.open(path, "w") as tar:
        tar.add(folder, arcname="stills")
    return path


@pytest.fixture
def red(tmp_path):
    return load_stills([write_stills(tmp_path / "red", {f"red-{i}": still() for i in range(3)})])


@pytest.fixture
def mixed(tmp_path):
    pairs = {f"{name}-{i}": still(colour) for name, colour in (("red", RED), ("blue", BLUE)) for i in range(3)}
    return load_stills([write_stills(tmp_path / "mixed", pairs)])


def redness(rgb):
    return rgb[:, :, 0] - rgb[:, :, 1:].amax(2)  # (B, T, S, S)


def disagreement(found, masks):
    """Return the share of pixels that differ, (B, T), but for one pixel around the edges."""
    masks = masks.flatten(0, 1)[:, None]
    grown = torch.nn.functional.max_pool2d(masks, 3, 1, 1)
    shrunk = 1 - torch.nn.functional.max_pool2d(1 - masks, 3, 1, 1)
    edge = (grown - shrunk)[:, 0].view_as(found) > 0
    return ((found != masks[:, 0].view_as(found).bool()) & ~edge).float().mean((2, 3))


def test_folders_and_tars_hold_the_same_stills(tmp_path):
    folder = write_stills(tmp_path / "a", {"cat-1": still(), "dog-1": still(BLUE, number=3)})
    from_folder, from_tar = load_stills([folder]), load_stills([pack(folder, tmp_path / "a.tar")])
    assert [s.group for s in from_folder] == [s.group for s in from_tar] == ["cat", "dog"]
    for one, other in zip(from_folder, from_tar, strict=True):
        assert torch.equal(one.pixels, other.pixels)
        assert one.boxes == other.boxes
    assert from_tar[1].boxes.keys() == {3}


def test_a_mask_of_black_and_white_is_one_object(tmp_path):
    (loaded,) = load_stills([write_stills(tmp_path / "a", {"a": still(number=255)})])
    assert loaded.boxes == {1: (64, 80, 176, 208)}  # four times as large


@pytest.mark.parametrize(
    ("name", "content", "error", "text"),
    [
        ("gone", None, UsageError, "no such file"),
        ("a.tar", b"no tar at all" * 100, TrainingError, "not a tar"),
    ],
)
def test_what_is_no_collection_is_named(tmp_path, name, content, error, text):
    if content:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(error, match=f"{name}: {text}"):
        load_stills([tmp_path / name])


def test_what_is_no_still_is_not_read(tmp_path):
    folder = write_stills(tmp_path / "a", {"a": still()})
    for name in ("takes.mov", "images/notes.txt", "images/.a.png"):
        (folder / name).symlink_to("/proc/self/mem")  # nobody can read its beginning
    assert len(load_stills([folder])) == 1
    (folder / "images/b.png").symlink_to("/proc/self/mem")
    with pytest.raises(TrainingError, match=r"images/b\.png: cannot be read \(Input/output error\)"):
        load_stills([folder])


def test_a_link_in_a_tar_to_what_is_not_there_is_named(tmp_path):
    folder = write_stills(tmp_path / "a", {"a": still()})
    (folder / "images/b.png").symlink_to("gone.png")
    with pytest.raises(TrainingError, match=r"a\.tar: not a tar that can be read \(.*gone\.png"):
        load_stills([pack(folder, tmp_path / "a.tar")])


def test_stills_of_one_name_in_several_folders_keep_their_own_masks(tmp_path):
    write_stills(tmp_path / "all/a", {"0001": still(RED), "0002": still(RED)})
    write_stills(tmp_path / "all/b", {"0001": still(BLUE, box=(0, 0, 10, 10)), "0002": still(BLUE)})
    (tmp_path / "all/b/masks/0002.png").unlink()
    for path in (tmp_path / "all", pack(tmp_path / "all", tmp_path / "all.tar")):
        with pytest.warns(UserWarning, match="1 image without mask"):
            found = load_stills([path])
        assert len(found) == 3
        for one in found:
            top, left, *_ = one.boxes[1]
            assert one.pixels[:3, top + 2, left + 2].argmax() == np.argmax(RED if top else BLUE)


def test_no_stills_are_read_when_some_are_gone(tmp_path, monkeypatch):
    monkeypatch.setattr("stmcli.clips.stills._still", lambda *_, **__: pytest.fail("read a still"))
    with pytest.raises(UsageError, match="gone: no such file"):
        load_stills([write_stills(tmp_path / "red", {"red": still()}), tmp_path / "gone"])


def test_images_and_masks_without_each_other_are_counted_and_left_out(tmp_path):
    write_stills(tmp_path / "a", dict.fromkeys(("cat", "dog", "cow", "owl"), still()))
    for name in ("masks/cat", "masks/dog", "images/owl"):
        (tmp_path / f"a/{name}.png").unlink()
    for path in (tmp_path / "a", pack(tmp_path / "a", tmp_path / "a.tar")):
        with pytest.warns(UserWarning, match="left out") as said:
            assert [one.group for one in load_stills([path])] == ["cow"]
        what = "2 images without mask of the same name, 1 mask without image of the same name: left out"
        assert [str(one.message) for one in said] == [f"{path}: {what}"]


def test_masks_without_an_object_are_counted_and_left_out(tmp_path):
    folder = write_stills(tmp_path / "a", {"cat": still(number=0), "dog": still(number=0), "cow": still()})
    with pytest.warns(UserWarning, match="left out") as said:
        assert [one.group for one in load_stills([folder])] == ["cow"]
    assert [str(one.message) for one in said] == [f"{folder}: 2 masks without an object: left out"]


def test_small_ids_that_share_a_byte_are_read_as_everywhere_else(tmp_path):
    rgb, labels = still(number=1)
    labels[:8, :8] = 3
    folder = write_stills(tmp_path / "a", {"a": (rgb, labels)})
    rows = b"".join(b"\0" + np.packbits(np.unpackbits(row[:, None], axis=1)[:, 6:]).tobytes() for row in labels)
    write_grey_png(folder / "masks/a.png", rows, width=80, height=64, bits=2)
    (loaded,) = load_stills([folder])
    assert sorted(loaded.boxes) == [1, 3] == list(object_ids(read_labels(folder / "masks/a.png")))


def test_void_does_not_become_an_object_where_the_objects_are_too_small_to_be_left(tmp_path):
    rgb, labels = still(width=1024, height=1024, box=(0, 0, 200, 200), number=255)
    labels[900, 901] = 5
    write_stills(tmp_path / "a", {"a": (rgb, labels), "b": still()})
    with pytest.warns(UserWarning, match="1 mask without an object"):
        (loaded,) = load_stills([tmp_path / "a"])
    assert loaded.boxes.keys() == {1}
    assert loaded.pixels[3].unique().tolist() == [0, 1]


@pytest.mark.parametrize(
    ("pair", "text"),
    [
        (
            (still()[0], np.zeros((64, 80), np.uint8)),
            "no stills with objects.*images/ and masks/ with files of one name",
        ),
        ((still()[0], still()[0]), "mask of a is of colour mode RGB"),
    ],
)
def test_masks_that_cannot_serve_are_named(tmp_path, pair, text):
    with pytest.raises(TrainingError, match=text):
        load_stills([write_stills(tmp_path / "a", {"a": pair})])


def test_a_mask_with_soft_edges_is_named_and_not_taken_for_ids(tmp_path):
    labels = still(number=255)[1]
    labels[16:44, 20:36] = 8 * np.arange(1, 17)
    with pytest.raises(TrainingError, match=r"a: the mask of cat has soft edges: 16 grey values"):
        load_stills([write_stills(tmp_path / "a", {"cat": (still()[0], labels)})])


def test_a_mask_that_is_a_jpeg_is_named_and_not_taken_for_ids(tmp_path):
    folder = write_stills(tmp_path / "a", {"cat": still(number=255)})
    Image.open(folder / "masks/cat.png").save(folder / "masks/cat.jpg")
    (folder / "masks/cat.png").unlink()
    with pytest.raises(TrainingError, match=r"a: the mask of cat is a JPEG, which does not keep object ids"):
        load_stills([folder])


@pytest.mark.parametrize(("width", "height"), [(48, 96), (96, 52), (24, 16), (2 * 96, 2 * 52)])
def test_a_mask_of_another_shape_than_its_image_is_named(tmp_path, width, height):
    pair = still(width=96, height=48)[0], still(width=width, height=height, box=(4, 4, 12, 12))[1]
    with pytest.raises(TrainingError, match=f"a: cat is 96x48 but its mask {width}x{height}, which is another shape"):
        load_stills([write_stills(tmp_path / "a", {"cat": pair})])


@pytest.mark.parametrize(("width", "height"), [(96, 48), (96, 47), (48, 24), (33, 16), (32, 17), (192, 96), (200, 99)])
def test_a_mask_of_another_scale_is_taken(tmp_path, width, height):
    pair = still(width=96, height=48)[0], still(width=width, height=height, box=(4, 4, 12, 12))[1]
    (loaded,) = load_stills([write_stills(tmp_path / "a", {"cat": pair})])
    assert loaded.boxes.keys() == {1}


def test_a_damaged_image_is_named(tmp_path):
    folder = write_stills(tmp_path / "a", {"a": still()})
    (folder / "images" / "a.png").write_bytes(png(still()[0])[:60])
    with pytest.raises(TrainingError, match="a cannot be read"):
        load_stills([folder])


def test_the_same_seed_makes_the_same_clips(mixed):
    options = ClipOptions(crop=32)
    one, other, third = (StillClips(mixed, options, seed=seed).batch(2) for seed in (3, 3, 4))
    assert torch.equal(one.rgb, other.rgb)
    assert torch.equal(one.masks, other.masks)
    assert not torch.equal(one.rgb, third.rgb)


def test_the_clips_of_a_step_depend_on_seed_process_and_step_alone(mixed):
    options = ClipOptions(crop=32)
    maker = ClipMaker(mixed, (), options, seed=3)
    first, second = (maker.batch(2, 1, step=step, done=0.0) for step in (0, 1))
    again = ClipMaker(mixed, (), options, seed=3).batch(2, 1, step=1, done=0.0)
    assert torch.equal(again.rgb, second.rgb)
    assert torch.equal(again.masks, second.masks)
    other_rank = ClipMaker(mixed, (), options, seed=3, rank=1).batch(2, 1, step=1, done=0.0)
    assert not torch.equal(first.rgb, second.rgb)
    assert not torch.equal(other_rank.rgb, second.rgb)


def test_clips_have_the_shapes_and_ranges_they_say(mixed):
    source = StillClips(mixed, ClipOptions(crop=48, frames=4), seed=0)
    assert source.batch(1, frames=2).masks.shape == (1, 2, 1, 48, 48)
    clips = source.batch(3, 2)
    assert clips.rgb.shape == (3, 4, 3, 48, 48)
    assert clips.masks.shape == (3, 4, 2, 48, 48)
    assert clips.rgb.min() >= 0
    assert clips.rgb.max() <= 1
    assert set(clips.masks.unique().tolist()) <= {0.0, 1.0}
    assert clips.masks.sum(2).max() <= 1  # a pixel belongs to one object
    assert (clips.masks[:, 0, 0].mean((1, 2)) > 0.003).all()


def test_image_and_mask_of_a_whole_still_move_together(red):
    clips = StillClips(red, replace(PLAIN, whole_image=1.0), seed=0).batch(16)
    assert (disagreement(redness(clips.rgb) > 0.14, clips.masks[:, :, 0]) < 0.01).all()
    assert not torch.equal(clips.masks[:, 0], clips.masks[:, 2])


def test_what_is_pasted_over_the_object_hides_it_in_the_mask_too(mixed):
    source = StillClips(mixed, replace(PLAIN, whole_image=0.0, kin=0.0, area=(0.2, 0.4)), seed=0)
    frames, visible = source._paint(12, 1, 3)
    top = visible[:, 1:].amax(1)  # (B, T, S, S): what is seen of any pasted object
    hidden = (top > 0.9) & (visible[:, 0] > 0.1)
    assert not hidden.any()
    assert (visible.sum(1) <= 1 + 1e-5).all()
    assert visible.amax((0, 2, 3, 4)).all()  # each of them is seen in some clip
    coloured = redness(frames).abs() + (frames[:, :, 2] - frames[:, :, :2].amax(2)).clamp(min=0)
    assert (coloured[visible.sum(1) > 0.999] > 0.05).float().mean() > 0.95
    alone = StillClips(mixed, replace(PLAIN, whole_image=1.0), seed=0)._paint(12, 1, 3)[1][:, 0]
    assert visible[:, 0].mean() < alone.mean()  # some of it is covered


def test_clips_can_do_without_pasted_objects(red):
    assert StillClips(red, replace(PLAIN, pasted=0), seed=0).batch(2).rgb.shape == (2, 3, 3, 64, 64)


def test_a_very_thin_object_can_be_pasted(tmp_path):
    thin = still(width=64, height=256, box=(2, 30, 254, 31))
    (loaded,) = load_stills([write_stills(tmp_path / "a", {"a": thin})])
    narrow = replace(loaded, boxes={1: (0, 120, 600, 121)})
    assert cutout(narrow, 1).shape == (4, 256, 256)


def test_small_batches_survive_a_clip_without_its_object(tmp_path):
    corner = still(width=300, height=64, box=(0, 0, 6, 6))
    source = StillClips(load_stills([write_stills(tmp_path / "a", {"a": corner})]), PLAIN, seed=0)
    for _ in range(20):
        assert source.batch(1).masks[:, 0].any()


def test_a_clip_that_stands_in_for_another_brings_its_pictures_and_masks(tmp_path):
    corner = still(width=300, height=64, box=(0, 0, 6, 6))
    source = StillClips(load_stills([write_stills(tmp_path / "a", {"a": corner})]), PLAIN, seed=0)
    clips = source.batch(16)
    same_rgb, same_masks = ((x[:, None] == x).flatten(2).all(2) for x in (clips.rgb, clips.masks))
    assert torch.equal(same_rgb, same_masks)
    assert same_masks.sum() > 16  # some do stand in
