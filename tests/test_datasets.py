import hashlib
import io
import json
import resource
import sys
import zipfile
from contextlib import contextmanager
from dataclasses import dataclass, replace
from fractions import Fraction

import numpy as np
import pytest
from conftest import picture
from PIL import Image
from pycocotools import mask as rle
from pycocotools.coco import COCO

from stmcli.clips import load_videos
from stmcli.datasets import FORMATS, CocoWriter, DavisWriter, MotsWriter, YtvisWriter
from stmcli.datasets.categories import Categories
from stmcli.errors import TrainingError, UsageError, WriteError
from stmcli.evaluate import evaluate_folder, list_sequences
from stmcli.masks import read_labels
from stmcli.outputs import MaskWriter
from stmcli.render import palette
from stmcli.video import Frame, open_source

HEIGHT, WIDTH = 48, 64


@dataclass
class Answer:
    """Stand in for a prediction."""

    ids: np.ndarray

    def labels(self):
        return self.ids

    def alpha(self):
        return (self.ids > 0).astype(np.float32)


def labels_of(index, ids=(3, 7), dtype=np.uint8):
    """Return a moving block, a ring that comes in frame 2 and is gone in frame 4, and a line of void."""
    labels = np.zeros((HEIGHT, WIDTH), dtype)
    labels[10:22, index : index + 9] = ids[0]
    if index >= 2 and index != 4:
        labels[30:40, 40 + index : 50 + index] = ids[1]
        labels[33:36, 43 + index : 46 + index] = 0
        labels[::2, 63] = ids[1]  # two pieces, one of them at the edge
    labels[46] = 255
    return labels


# pycocotools 2.0.11 does not yet speak the array protocol of numpy 2 when it decodes
decodes = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")


def convert(source, path, make, *, labels=labels_of, **settings):
    writer = make(path, source.info, source.frame_name, **settings)
    for frame in source:
        writer.write(frame, Answer(labels(frame.index)))
    writer.close()
    return writer


def files(folder):
    """Return the content of every file under a folder."""
    found = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in found}


def box_of(mask):
    rows, columns = np.nonzero(mask)
    return [columns.min(), rows.min(), np.ptp(columns) + 1, np.ptp(rows) + 1]


@pytest.fixture
def source(make_clip):
    return open_source(make_clip(frames=7))


@pytest.fixture
def out(tmp_path):
    (tmp_path / "out").mkdir()
    return tmp_path / "out"


@pytest.fixture(params=FORMATS.values(), ids=FORMATS)
def make(request):
    return request.param


# -- all formats -------------------------------------------------------------------------------------


def test_nothing_has_its_name_before_the_end(source, out, make):
    path = out / make.file
    writer = make(path, source.info, source.frame_name)
    for frame in source:
        writer.write(frame, Answer(labels_of(frame.index)))
        assert not path.exists()
    writer.close()
    writer.close()  # a second time does nothing
    writer.abort()
    assert [file.name for file in out.iterdir()] == [make.file]


def test_an_aborted_dataset_leaves_what_was_there(source, out, make):
    path = out / make.file
    convert(source, path, make)
    before = files(out)
    writer = make(path, source.info, source.frame_name)
    writer.write(next(iter(source)), Answer(labels_of(5)))
    writer.abort()
    assert files(out) == before


def test_an_earlier_result_is_replaced(source, out, make):
    path = out / make.file
    convert(source, path, make)
    before = files(out)
    convert(source, path, make, labels=lambda index: labels_of(index, (1, 2)))
    assert files(out).keys() == before.keys()
    assert files(out) != before


def test_the_same_job_gives_the_same_files(source, out, make):
    convert(source, out / "a" / make.file, make)
    convert(source, out / "b" / make.file, make)
    assert files(out / "a") == files(out / "b")


def test_a_dataset_without_frames_is_an_error(source, out, make):
    writer = make(out / make.file, source.info, source.frame_name)
    with pytest.raises(WriteError, match="0 frames"):
        writer.close()
    assert files(out) == {}


@contextmanager
def full_disk():
    """Let no file grow beyond 100 bytes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_full_disk_is_said_and_leaves_nothing(source, out, make):
    path, frames = out / make.file, list(source)
    writer = make(path, source.info, source.frame_name)
    with full_disk(), pytest.raises(WriteError) as caught:
        fill(writer, frames)
    writer.abort()
    assert str(caught.value).startswith(f"{path}: no file may be so large here: ")
    assert list(out.iterdir()) == []


def fill(writer, frames):
    for frame in frames:
        writer.write(frame, Answer(labels_of(frame.index)))
    writer.close()


def test_what_cannot_be_written_is_found_at_opening(source, out, make):
    (out / "file").write_bytes(b"")
    with pytest.raises(WriteError, match=make.file):
        make(out / "file" / make.file, source.info, source.frame_name)


def test_what_is_there_and_no_dataset_is_found_at_opening(source, out, make):
    path = out / make.file
    path.write_bytes(b"") if make is DavisWriter else path.mkdir()
    with pytest.raises(UsageError, match="a folder"):
        make(path, source.info, source.frame_name)
    assert path.exists()


@pytest.mark.parametrize(("make", "largest"), [(DavisWriter, 254), (MotsWriter, 999)])
def test_ids_that_do_not_fit_are_refused(source, out, make, largest):
    path = out / make.file
    writer = make(path, source.info, source.frame_name)
    frame = next(iter(source))
    with pytest.raises(UsageError, match=f"{make.file}: object 1000 .* end at {largest}"):
        writer.write(frame, Answer(labels_of(2, (3, 1000), np.uint16)))
    with pytest.raises(UsageError, match=f"object {largest + 1} "):
        make.check_ids(path, (3, largest + 1))
    make.check_ids(path, (3, largest))
    writer.write(frame, Answer(labels_of(2, (3, largest), np.uint16)))
    writer.close()


@pytest.mark.parametrize("make", [CocoWriter, YtvisWriter])
def test_a_missing_pycocotools_is_found_at_opening(source, out, make, monkeypatch):
    monkeypatch.setitem(sys.modules, "pycocotools", None)
    with pytest.raises(UsageError, match=r"needs pycocotools. pip install 'stmcli\[coco\]'"):
        make(out / make.file, source.info, source.frame_name)
    assert list(out.iterdir()) == []


# -- davis -------------------------------------------------------------------------------------------


def test_a_davis_folder_is_read_back_with_all_frames_and_ids(source, out):
    root = convert(source, out / "davis", DavisWriter).path
    assert (root / "ImageSets" / "2017" / "val.txt").read_text() == "clip\n"
    (clip,) = list_sequences(root, "davis2017")
    numbers = [f"{index:05d}" for index in range(7)]
    assert sorted(path.name for path in clip.annotations.iterdir()) == [f"{number}.png" for number in numbers]
    assert sorted(path.name for path in clip.frames.iterdir()) == [f"{number}.jpg" for number in numbers]
    for index, (before, after) in enumerate(zip(source, open_source(clip.frames), strict=True)):
        assert np.abs(after.rgb.astype(int) - before.rgb).mean() < 1
        with Image.open(clip.annotations / f"{index:05d}.png") as image:
            assert image.mode == "P"
            assert image.getpalette() == palette().ravel().tolist()
            assert (np.asarray(image) == labels_of(index)).all()


def test_a_davis_folder_is_trained_on_once_its_list_is_called_train(source, out):
    root = convert(source, out / "davis", DavisWriter).path
    with pytest.raises(TrainingError, match=r"for validation, by ImageSets/2017/val\.txt.*take what to train on out"):
        load_videos(root)
    (root / "ImageSets" / "2017" / "val.txt").rename(root / "ImageSets" / "2017" / "train.txt")
    (video,) = load_videos(root).videos
    assert (video.name, len(video.shots)) == ("clip", 7)


@pytest.mark.parametrize("protocol", ["davis2016", "davis2017", "folder", "ytvos"])
def test_masks_score_full_marks_against_their_own_davis_folder(source, out, protocol):
    convert(source, out / "davis", DavisWriter)
    masks = MaskWriter(out / "masks" / "clip", source.frame_name)
    for frame in source:
        masks.write(frame, Answer(labels_of(frame.index)))
    scores = evaluate_folder(out / "masks", out / "davis", protocol=protocol)
    assert (scores.j_mean, scores.f_mean) == (1, 1)
    assert list(scores.sequences) == ["clip"]


def test_davis_counts_from_zero_and_says_which_frame_that_is(make_clip, out):
    source = open_source(make_clip("my first clip.mp4"), start=4)
    writer = convert(source, out / "davis", DavisWriter)
    assert writer.notes == ["davis counts its frames from 00000: 00000 is 00004 of my first clip"]
    (clip,) = list_sequences(writer.path, "davis2017")
    assert clip.name == "my_first_clip"  # lists of clips are split at spaces
    assert (read_labels(clip.annotations / "00000.png") == labels_of(4)).all()
    assert len(list(clip.frames.iterdir())) == 6


def test_numbers_of_a_long_clip_sort_as_they_count(source, out):
    long = replace(source.info, frames=100_001)
    writer = DavisWriter(out / "davis", long, source.frame_name)
    writer.write(next(iter(source)), Answer(labels_of(0)))
    writer.close()
    assert (writer.path / "JPEGImages" / "480p" / "clip" / "000000.jpg").exists()


def test_jpeg_frames_are_copied_byte_for_byte_unless_readers_may_turn_them(tmp_path, out):
    frames = tmp_path / "shot"
    frames.mkdir()
    upright, turned = Image.fromarray(picture(0)), Image.fromarray(np.rot90(picture(1)))
    turn = Image.Exif()
    turn[0x0112] = 6  # a quarter turn clockwise
    upright.save(frames / "f0010.jpg", quality=60)
    turned.save(frames / "f0011.jpg", exif=turn)
    upright.convert("L").save(frames / "f0012.jpg")
    upright.save(frames / "f0013.jpeg", "PNG")
    source = open_source(frames)
    writer = convert(source, out / "davis", DavisWriter)
    (clip,) = list_sequences(writer.path, "davis2017")
    written = sorted(clip.frames.iterdir())
    assert [
        path.read_bytes() == frame.read_bytes() for path, frame in zip(written, sorted(frames.iterdir()), strict=True)
    ] == [*(True, False, False, False)]
    for path, frame in zip(written, source, strict=True):
        with Image.open(path) as image:
            assert (image.format, image.mode, image.getexif()) == ("JPEG", "RGB", {})
            assert np.abs(np.asarray(image, int) - frame.rgb).mean() < 2
    assert writer.notes == ["davis counts its frames from 00000: 00000 is f0010 of shot"]


def test_a_frame_that_stands_in_for_a_corrupt_one_is_not_the_corrupt_file(make_folder, out):
    folder = make_folder(["0.png"])
    Image.fromarray(picture(5)).save(folder / "1.jpg")
    source = open_source(folder)
    writer = DavisWriter(out / "davis", source.info, source.frame_name)
    for frame in source:
        writer.write(replace(frame, rgb=picture(9), corrupt=True), Answer(labels_of(0)))
    writer.close()
    for frame in open_source(writer.path / "JPEGImages" / "480p" / "frames"):
        assert np.abs(frame.rgb.astype(int) - picture(9)).mean() < 2


@pytest.mark.parametrize(
    "name", ["JPEGImages/480p/bear/00000.jpg", "README.md", "Annotations/Full-Resolution/clip/0.png"]
)
def test_a_dataset_of_other_clips_is_never_replaced(source, out, name):
    convert(source, out / "davis", DavisWriter)
    (out / "davis" / name).parent.mkdir(parents=True, exist_ok=True)
    (out / "davis" / name).write_bytes(b"precious")
    before = files(out)
    with pytest.raises(UsageError, match=f"davis: holds more than the clip clip, such as {name}"):
        DavisWriter(out / "davis", source.info, source.frame_name)
    assert files(out) == before


def test_a_dataset_is_not_written_over_its_own_source(source, out):
    convert(source, out / "davis", DavisWriter)
    again = open_source(out / "davis" / "JPEGImages" / "480p" / "clip")
    with pytest.raises(UsageError, match="holds the source"):
        DavisWriter(out / "davis", again.info, again.frame_name)


def test_what_a_killed_run_left_is_cleared_and_what_it_moved_comes_back(source, out):
    convert(source, out / "davis", DavisWriter)
    before = files(out)
    (out / "davis").rename(out / ".davis.old")
    (out / ".davis.part" / "ImageSets").mkdir(parents=True)
    DavisWriter(out / "davis", source.info, source.frame_name).abort()
    assert files(out) == before
    assert [path.name for path in out.iterdir()] == ["davis"]


# -- coco --------------------------------------------------------------------------------------------


@decodes
def test_coco_gives_back_every_mask_box_and_area(source, out):
    coco = COCO(str(convert(source, out / "coco.json", CocoWriter).path))
    assert [image["file_name"] for image in coco.dataset["images"]] == [f"{index:05d}.jpg" for index in range(7)]
    assert coco.dataset["categories"] == [{"id": 1, "name": "object", "supercategory": "object"}]
    for index, number in enumerate(coco.getImgIds()):
        annotations = {a["track_id"]: a for a in coco.loadAnns(coco.getAnnIds(imgIds=number))}
        assert set(annotations) == ({3, 7} if index in (2, 3, 5, 6) else {3})
        for track, annotation in annotations.items():
            expected = labels_of(index) == track
            assert (coco.annToMask(annotation) == expected).all()
            assert annotation["area"] == expected.sum()
            assert annotation["bbox"] == box_of(expected)
            assert (annotation["iscrowd"], annotation["category_id"]) == (0, 1)
            assert annotation["attributes"] == {"track_id": track}
    assert len(coco.dataset["annotations"]) == 7 + 4
    assert sorted(coco.anns) == list(range(1, 12))


def test_coco_takes_names_and_numbers_of_objects_as_they_are(make_folder, out):
    source = open_source(make_folder(["shot.0008.png", "shot.0009.png"]))
    path = out / "coco.json"
    convert(source, path, CocoWriter, labels=lambda i: labels_of(i, (300, 65535), np.uint16), categories={65535: "dög"})
    coco = COCO(str(path))
    images = coco.dataset["images"]
    assert [(image["file_name"], image["width"], image["height"]) for image in images] == [
        ("shot.0008.png", WIDTH, HEIGHT),
        ("shot.0009.png", WIDTH, HEIGHT),
    ]
    names = {a["track_id"]: coco.cats[a["category_id"]]["name"] for a in coco.anns.values()}
    assert names == {300: "object", 65535: "dög"}


def test_a_clip_without_objects_is_a_dataset_without_annotations(source, out):
    empty = np.zeros((HEIGHT, WIDTH), np.uint8)
    coco = COCO(str(convert(source, out / "coco.json", CocoWriter, labels=lambda _: empty).path))
    assert (len(coco.imgs), len(coco.anns)) == (7, 0)
    content = json.loads(convert(source, out / "y.json", YtvisWriter, labels=lambda _: empty).path.read_text())
    assert (content["videos"][0]["length"], content["annotations"]) == (7, [])


# -- ytvis -------------------------------------------------------------------------------------------


@decodes
def test_ytvis_has_a_mask_box_and_area_or_null_in_every_frame(source, out):
    path = convert(source, out / "ytvis.json", YtvisWriter, categories={7: "ring"}).path
    content = json.loads(path.read_text(encoding="ascii"))
    assert content.keys() == {"info", "licenses", "categories", "videos", "annotations"}
    (video,) = content["videos"]
    assert (video["width"], video["height"], video["length"]) == (WIDTH, HEIGHT, 7)
    assert video["file_names"] == [f"clip/{index:05d}.jpg" for index in range(7)]
    assert [(c["id"], c["name"]) for c in content["categories"]] == [(1, "ring"), (2, "object")]
    found = {annotation["id"]: annotation for annotation in content["annotations"]}
    assert {number: annotation["category_id"] for number, annotation in found.items()} == {3: 2, 7: 1}
    for number, annotation in found.items():
        assert (annotation["video_id"], annotation["iscrowd"]) == (video["id"], 0)
        lists = [annotation[name] for name in ("segmentations", "bboxes", "areas")]
        for index, (segmentation, box, area) in enumerate(zip(*lists, strict=True)):
            expected = labels_of(index) == number
            if not expected.any():
                assert (segmentation, box, area) == (None, None, None)
                continue
            assert (rle.decode(segmentation) == expected).all()
            assert (box, area) == (box_of(expected), expected.sum())
        assert index == 6


def test_ytvis_names_the_files_that_there_are(make_folder, out):
    source = open_source(make_folder(["s_0099.png", "s_0100.png", "s_0101.png"], name="night"), start=100)
    content = json.loads(convert(source, out / "y.json", YtvisWriter).path.read_text())
    assert content["videos"][0]["file_names"] == ["night/s_0100.png", "night/s_0101.png"]


# -- mots --------------------------------------------------------------------------------------------


def read_mots(path):
    """Return labels and {file name: picture}, by folder."""
    with zipfile.ZipFile(path) as archive:
        assert archive.testzip() is None
        members = {name: archive.read(name) for name in archive.namelist()}
    labels = members.pop("train/instances/labels.txt").decode().splitlines()
    pictures = {name: Image.open(io.BytesIO(content)) for name, content in members.items()}
    return labels, pictures


def test_mots_masks_hold_category_and_id(make_clip, out):
    source = open_source(make_clip(frames=7), start=2)
    writer = convert(source, out / "mots.zip", MotsWriter, categories={7: "ring", 1: "dog"})
    labels, pictures = read_mots(writer.path)
    assert labels == ["dog", "ring", "object", "ignored"]
    stems = [f"{index:05d}" for index in range(2, 7)]
    assert sorted(pictures) == sorted(
        [f"train/images/{s}.jpg" for s in stems] + [f"train/instances/{s}.png" for s in stems]
    )
    for frame in source:
        mask, given = pictures[f"train/instances/{frame.index:05d}.png"], labels_of(frame.index)
        assert (mask.format, mask.mode) == ("PNG", "I;16")
        values = np.asarray(mask).astype(int)
        assert (values == np.select([given == 3, given == 7, given == 255], [3003, 2007, 10000])).all()
        shown = np.asarray(pictures[f"train/images/{frame.index:05d}.jpg"], int)
        assert np.abs(shown - frame.rgb).mean() < 1
    void = "void is value 10000 in mots.zip, and the label 'ignored'"
    assert writer.notes == ["--category 1=dog: there was no object 1", void]


def test_mots_without_void_has_no_label_for_it(source, out):
    writer = convert(source, out / "mots.zip", MotsWriter, labels=lambda i: labels_of(i) % 255)
    labels, pictures = read_mots(writer.path)
    assert (labels, writer.notes) == (["object"], [])
    assert np.unique(pictures["train/instances/00002.png"]).tolist() == [0, 1003, 1007]


def test_mots_has_room_for_nine_categories(source, out):
    names = {number: f"kind {number}" for number in range(1, 9)}
    MotsWriter(out / "mots.zip", source.info, source.frame_name, categories=names).abort()
    with pytest.raises(UsageError, match=r"mots\.zip: has room for 9 categories, 'object' included"):
        MotsWriter(out / "mots.zip", source.info, source.frame_name, categories={**names, 9: "kind 9"})
    assert list(out.iterdir()) == []


# -- categories --------------------------------------------------------------------------------------


def test_categories_are_numbered_by_object_and_unnamed_objects_come_last():
    categories = Categories({9: "cat", 2: "dog ", 5: "cat"})
    assert [categories[number] for number in (2, 5, 9)] == [1, 2, 2]
    assert categories.numbered() == {1: "dog", 2: "cat"}
    assert categories[4] == 3
    assert categories.numbered() == {1: "dog", 2: "cat", 3: "object"}
    assert not categories.notes()


@pytest.mark.parametrize("kind", ["coco", "ytvis", "mots"])
def test_a_name_of_an_object_that_there_is_not_is_told(source, out, kind):
    writer = convert(source, out / kind, FORMATS[kind], categories={7: "ring", 9: "cat"})
    assert "--category 9=cat: there was no object 9" in writer.notes
    assert not [note for note in writer.notes if "7=ring" in note]


@pytest.mark.parametrize("name", ["", "  ", "two\nlines"])
def test_a_name_that_nobody_can_read_is_refused(name):
    with pytest.raises(UsageError, match="cannot be the name of a category"):
        Categories({1: name})


def test_odd_names_of_frames_reach_every_format(source, out):
    odd = replace(source.info, name="näme with\nbreak")
    for kind, make in FORMATS.items():
        writer = make(out / make.file, odd, lambda index: f"tâke \udcff:{index}")
        writer.write(Frame(0, Fraction(0), picture(0)), Answer(labels_of(0)))
        writer.close()
        assert writer.path.exists(), kind
    assert (out / "davis" / "Annotations" / "480p" / "näme_with_break" / "00000.png").exists()
    assert "train/images/tâke ?:0.jpg" in zipfile.ZipFile(out / "mots.zip").namelist()
