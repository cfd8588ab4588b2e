import json
import sys
from dataclasses import dataclass, replace

import numpy as np
import pytest
from PIL import Image, ImageDraw
from pycocotools import mask as rle

from stmcli import annotations
from stmcli.datasets import CocoWriter, YtvisWriter
from stmcli.errors import UsageError
from stmcli.given import list_mask_files, read_given
from stmcli.job import Job
from stmcli.masks import read_values, write_labels
from stmcli.options import ExportOptions, NetworkOptions
from stmcli.pipeline import segment_video
from stmcli.video import open_source

HEIGHT, WIDTH = 48, 64
TRIANGLE = [8.0, 6.0, 50.0, 14.0, 20.0, 40.0]

# pycocotools 2.0.11 does not yet speak the array protocol of numpy 2 when it decodes
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")


@dataclass
class Answer:
    """Stand in for a prediction."""

    ids: np.ndarray

    def labels(self):
        return self.ids


def labels_of(index):
    """Return a moving block, and a ring in two pieces that enters in frame 2."""
    labels = np.zeros((HEIGHT, WIDTH), np.uint16)
    labels[10:22, index : index + 9] = 300
    if index >= 2:
        labels[30:40, 40:50] = 7
        labels[33:36, 43:46] = 0
        labels[::2, 63] = 7
    return labels


def block(left, width=8):
    mask = np.zeros((HEIGHT, WIDTH), np.uint8)
    mask[4:12, left : left + width] = 1
    return mask


def packed(mask):
    runs = rle.encode(np.asfortranarray(mask))
    return {"size": runs["size"], "counts": runs["counts"].decode()}


def plain(mask):
    """Return uncompressed run lengths, counted without pycocotools."""
    column = mask.ravel(order="F")
    edges = [0, *(np.flatnonzero(np.diff(column)) + 1), column.size]
    counts = np.diff(edges).tolist()
    return {"size": list(mask.shape), "counts": [0, *counts] if column[0] else counts}


@pytest.fixture
def put(tmp_path):
    """Return a function that writes a COCO file of one image with the given annotations."""

    def write(*entries, name="anno.json", images=("00000.jpg",), **more):
        size = {"width": WIDTH, "height": HEIGHT}
        content = {
            "images": [{"id": 5 + place, "file_name": image, **size} for place, image in enumerate(images)],
            "annotations": [{"id": place, "image_id": 5, **entry} for place, entry in enumerate(entries, 1)],
        }
        (tmp_path / name).write_text(json.dumps(content | more))
        return tmp_path / name

    return write


def given(clip, *words, **options):
    """Return {frame: labels}, and what was said."""
    said = []
    with open_source(clip) as source:
        masks = read_given(words, source, warn=said.append, **options)
    return {mask.frame: mask.labels() for mask in masks}, said


def refusal(clip, *words):
    with pytest.raises(UsageError) as caught:
        given(clip, *words)
    assert caught.value.exit_code == 2
    assert "\n" not in str(caught.value)
    return str(caught.value)


# There and back.


@pytest.mark.parametrize("make", [CocoWriter, YtvisWriter])
@pytest.mark.parametrize("kind", ["video", "folder", "pattern"])
def test_what_is_exported_is_the_same_mask_again(make, kind, make_clip, make_folder, tmp_path):
    clip, first = make_clip(frames=5), 0
    if kind != "video":
        clip, first = make_folder([f"s.{number}.png" for number in range(1001, 1006)]), 1001
        clip = clip / "s.####.png" if kind == "pattern" else clip
    path = tmp_path / "made.json"
    with open_source(clip) as source:
        writer = make(path, source.info, source.frame_name)
        for frame in source:
            writer.write(frame, Answer(labels_of(frame.index - first)))
        writer.close()
    found, said = given(clip, path, f"{first + 2}:{path}", f"{first + 4}:{path}#7")
    assert np.array_equal(found[first], labels_of(0))
    assert np.array_equal(found[first + 2], labels_of(2))
    assert np.array_equal(found[first + 4], np.where(labels_of(4) == 7, 7, 0))
    assert said == [f"{path}: object 7 enters at frame {first + 2}"]
    assert f"made.json: no object 7 in frame {first}. The ids there are: 300" in refusal(clip, f"{path}#7")


def test_a_result_is_corrected_from_its_own_annotations(make_clip, tiny_weights, tmp_path):
    clip, mask = make_clip(frames=3), tmp_path / "m.png"
    labels = labels_of(2).astype(np.int32)
    labels[labels == 300] = 3
    write_labels(mask, labels)
    network = NetworkOptions(weights=str(tiny_weights), device="cpu")
    job = Job(clip, (mask,), tmp_path / "one", network=network, export=ExportOptions(("coco", "ytvis")))
    made = segment_video(job).output
    for name in ("coco.json", "ytvis.json"):
        found = given(clip, made / name)[0][0]
        assert np.array_equal(found, read_values(made / "masks" / "00000.png"))
    again = replace(job, masks=(f"{made / 'coco.json'}#3",), output=tmp_path / "two", export=ExportOptions(("none",)))
    segment_video(again)
    assert np.array_equal(read_values(tmp_path / "two" / "masks" / "00000.png"), np.where(labels == 3, 3, 0))
    report = json.loads((tmp_path / "two" / "report.json").read_text())
    assert report["masks"] == [{"frame": 0, "path": f"{made / 'coco.json'}#3", "ids": [3]}]


@pytest.mark.parametrize("name", ["coco.json", "report.json"])
def test_given_annotations_are_never_overwritten(name, segment, put, make_clip, tmp_path):
    (tmp_path / "out").mkdir()
    path = put({"segmentation": packed(block(0))}, name=f"out/{name}")
    before = path.read_bytes()
    result = segment(make_clip(frames=2), "-m", f"{path}#1", "-o", "out", "-e", "coco", "-y")
    assert (result.exit_code, path.read_bytes()) == (2, before)
    assert f"{name}: is an input of this job" in result.stderr


# What the word names.


def test_a_number_behind_the_file_names_an_object(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = ["a.json", "120:b/a.JSON#3", "a.json#", "m.png#3", "1:30:a.json#12"]
    files = [(str(file.path), file.frame, file.object) for file in list_mask_files(words)]
    assert files == [
        *(("a.json", None, None), ("b/a.JSON", 120, 3), ("a.json#", None, None)),
        *(("m.png#3", None, None), ("a.json", 90, 12)),
    ]
    (tmp_path / "a.json#3").write_text("{}")
    assert [(str(file.path), file.object) for file in list_mask_files(["a.json#3"])] == [("a.json#3", None)]


# Ids.


def test_an_annotation_has_its_own_id_unless_it_has_a_track(put, make_clip):
    path = put(
        {"segmentation": packed(block(0)), "id": 65535},
        {"segmentation": plain(block(10)), "track_id": 4},
        {"segmentation": packed(block(20)), "attributes": {"track_id": 12}},
        {"segmentation": packed(block(30)), "image_id": 6},
    )
    wanted = 65535 * block(0).astype(int) + 4 * block(10) + 12 * block(20)
    assert np.array_equal(given(make_clip(), path)[0][0], wanted)
    assert np.array_equal(given(make_clip(), f"{path}#12")[0][0], 12 * block(20))
    assert np.array_equal(given(make_clip(), f"{path}#2")[0][0], 4 * block(10))
    assert np.array_equal(given(make_clip(), path, objects=(4,))[0][0], 4 * block(10))


def test_the_only_object_keeps_the_highest_id(put, make_clip):
    path = put({"segmentation": packed(block(0)), "id": 65535})
    assert np.array_equal(given(make_clip(), path)[0][0], 65535 * block(0).astype(int))


@pytest.mark.parametrize("number", [0, 255, 65536, 908800339])
def test_an_id_that_masks_cannot_hold_must_be_named(number, put, make_clip):
    path, clip = put({"segmentation": packed(block(0)), "id": number}, {"segmentation": packed(block(20))}), make_clip()
    message = refusal(clip, path)
    assert f"id {number} in frame 0 does not fit: masks hold 1 to 65535 without 255. Name one object" in message
    found, said = given(clip, f"{path}#{number}")
    assert np.array_equal(found[0], block(0))
    assert [f"object {number} becomes object 1" in remark for remark in said] == [True]


def test_two_annotations_of_one_object_must_be_told_apart(put, make_clip):
    path = put(*({"segmentation": packed(block(left)), "track_id": 9} for left in (0, 20)))
    assert "2 annotations of object 9 in frame 0. Name one by its own id: anno.json#1, anno.json#2" in refusal(
        make_clip(), path
    )
    assert "2 annotations of object 9" in refusal(make_clip(), f"{path}#9")
    assert np.array_equal(given(make_clip(), f"{path}#2")[0][0], 9 * block(20))


def test_crowds_are_left_out(put, make_clip):
    crowd = {"segmentation": packed(block(0)), "iscrowd": 1}
    path = put(crowd, {"segmentation": packed(block(20))})
    found, said = given(make_clip(), path)
    assert np.array_equal(found[0], 2 * block(20))
    assert said == [f"{path}: 1 crowd annotation of frame 0 left out"]
    assert "annotation 1 is a crowd, not one object" in refusal(make_clip(), f"{path}#1")
    assert "The ids there are: 2" in refusal(make_clip(), f"{path}#3")
    assert "no object in frame 0" in refusal(make_clip(), put(crowd))
    assert "no object 1 in frame 0. The ids there are: none" in refusal(make_clip(), f"{put()}#1")


def test_the_smaller_of_two_objects_is_in_front(put, make_clip):
    path = put({"segmentation": packed(block(2, 4))}, {"segmentation": packed(block(0, 20))})
    found, said = given(make_clip(), path)
    assert np.array_equal(found[0], 2 * block(0, 20) - block(2, 4))
    assert said == [f"{path}: 32 pixels are of several objects; the smaller one has them"]


# Which image.


def test_an_image_belongs_to_the_frame_by_name_number_or_alone(put, make_clip):
    clip = make_clip()
    entries = [{"segmentation": packed(block(10 * place)), "image_id": 5 + place} for place in range(3)]
    path = put(*entries, images=("f_2.jpg", "a/frame1_000001.PNG", "00000.png"))
    found, said = given(clip, path, f"1:{path}", f"2:{path}")
    assert [found[frame].max() for frame in range(3)] == [3, 2, 1]
    assert "no image of frame 3, 00003. Its images: f_2.jpg, a/frame1_000001.PNG, 00000.png" in refusal(
        clip, f"3:{path}"
    )
    alone = put(entries[0], images=("shot.jpg",))
    found, said = given(clip, f"4:{alone}")
    assert np.array_equal(found[4], block(0))
    assert said == [f"{alone}: its only image, shot.jpg, is taken for frame 4"]
    assert "2 images may be frame 0. Keep one of: a/0.jpg, b/0.jpg" in refusal(
        clip, put(*entries[:2], images=("a/0.jpg", "b/0.jpg"))
    )


def test_the_whole_name_comes_before_the_number(put, make_clip):
    entries = [{"segmentation": packed(block(10 * place)), "image_id": 5 + place} for place in range(2)]
    path = put(*entries, images=("take2_00001.jpg", "00001.jpg"))
    assert np.array_equal(given(make_clip(), f"1:{path}")[0][1], 2 * block(10))


def test_the_clips_own_folder_comes_first(put, make_clip):
    entries = [{"segmentation": packed(block(10 * place)), "image_id": 5 + place} for place in range(2)]
    path = put(*entries, images=("other/00000.jpg", "clip/00000.jpg"))
    assert np.array_equal(given(make_clip(), path)[0][0], 2 * block(10))
    path = put(*entries, images=("other/00003.jpg", "clip/00000.jpg"))
    assert "no image of frame 3" in refusal(make_clip(), f"3:{path}")


def test_the_video_is_the_one_in_the_clips_folder(put, make_clip):
    size = {"width": WIDTH, "height": HEIGHT}
    videos = [{"id": n, "file_names": [f"{name}/00000.jpg"], **size} for n, name in ((1, "other"), (2, "clip"))]
    tracks = [
        {"id": 3 * n, "video_id": n, "segmentations": [None if n == 3 else packed(block(10 * n))]} for n in (1, 2)
    ]
    path = put(videos=videos, images=[], annotations=tracks)
    assert np.array_equal(given(make_clip(), path)[0][0], 6 * block(20))
    videos[1]["file_names"] = ["another/00000.jpg"]
    path = put(videos=videos, images=[], annotations=tracks)
    assert "none of its 2 videos is clip, or several are. Its videos: other, another" in refusal(make_clip(), path)


# What is drawn.


def test_polygons_are_drawn_to_within_their_edge(put, make_clip):
    second = [40.0, 30.0, 60.0, 30.0, 60.0, 44.0, 40.0, 44.0]
    found = given(make_clip(), put({"segmentation": [TRIANGLE, second]}))[0][0]
    inside, edge = Image.new("1", (WIDTH, HEIGHT)), Image.new("1", (WIDTH, HEIGHT))
    for points in (TRIANGLE, second):
        ImageDraw.Draw(inside).polygon(points, fill=1)
        ImageDraw.Draw(edge).line([*points, *points[:2]], fill=1, width=3)
    away = ~np.array(edge)
    assert np.array_equal(found.astype(bool)[away], np.array(inside)[away])
    assert (found[away] > 0).sum() > 500


def test_run_lengths_are_read_as_pycocotools_reads_them():
    random = np.random.default_rng(1)
    for share in (0, 0.001, 0.3, 0.9, 1):
        mask = (random.random((97, 203)) < share).astype(np.uint8)
        assert annotations._lengths(packed(mask)["counts"]) == plain(mask)["counts"]


# Refusals.


@pytest.mark.parametrize(
    ("segmentation", "cause"),
    [
        (packed(np.ones((64, 48), np.uint8)), "the mask is 48x64 but clip.mp4 is 64x48; it looks rotated"),
        (packed(np.ones((24, 32), np.uint8)), "the mask is 32x24 but clip.mp4 is 64x48"),
        ({"size": [HEIGHT, WIDTH], "counts": ""}, "damaged run lengths of object 1"),
        ({"size": [HEIGHT, WIDTH], "counts": packed(block(9))["counts"][:-1]}, "damaged run lengths of object 1"),
        ({"size": [HEIGHT, WIDTH], "counts": [HEIGHT * WIDTH + 5, -5]}, "damaged run lengths of object 1"),
        ({"size": [HEIGHT, WIDTH], "counts": ["a"]}, "annotations that cannot be read"),
        ({"size": [HEIGHT, WIDTH]}, "lacks the key counts"),
        ([[1, 2, 3, 4]], "damaged polygon of object 1"),
        ([TRIANGLE[:-1]], "damaged polygon of object 1"),
        ([[float("nan")] * 6], "damaged polygon of object 1"),
        ([[1e9, 0, 0, 0, 0, 1e9]], "damaged polygon of object 1"),
        (TRIANGLE, "damaged polygon of object 1"),
        (None, "annotations that cannot be read"),
        (packed(0 * block(0)), "no object in this mask"),
    ],
)
def test_a_shape_that_cannot_be_drawn_is_refused(segmentation, cause, put, make_clip):
    assert f"anno.json: {cause}" in refusal(make_clip(), put({"segmentation": segmentation}))


@pytest.mark.parametrize(
    ("text", "cause"),
    [
        ("", "empty file"),
        ('{"images": [', "not a JSON file that can be read"),
        ("[" * 100_000, "not a JSON file that can be read"),
        ("7", "annotations that cannot be read"),
        ("\xff", "not a JSON file that can be read"),
        ("[]", "annotations that cannot be read"),
        ("{}", "lacks the key annotations. It must be in the format of COCO or YouTube-VIS"),
        ('{"annotations": []}', "lacks the key images"),
        ('{"annotations": [], "images": [{"id": 1, "file_name": "00000.jpg"}]}', "lacks the key width"),
        ('{"annotations": [], "images": [{"id": 1, "file_name": 7}]}', "annotations that cannot be read"),
    ],
)
def test_a_file_of_another_kind_is_refused(text, cause, tmp_path, make_clip):
    path = tmp_path / "anno.json"
    path.write_text(text, encoding="latin-1")
    assert f"anno.json: {cause}" in refusal(make_clip(), path)


def test_a_file_that_is_not_there_or_far_too_large_is_not_read(put, tmp_path, make_clip, monkeypatch):
    path = put({"segmentation": packed(block(0))})
    assert "ano.json: no such file. Did you mean anno.json?" in refusal(make_clip(), tmp_path / "ano.json")
    monkeypatch.setattr(annotations, "MAX_BYTES", path.stat().st_size - 1)
    monkeypatch.setattr(json, "loads", None)
    assert "more than 0. Keep only those of this clip" in refusal(make_clip(), path)


def test_without_pycocotools_it_is_said_what_to_install(put, make_clip, monkeypatch):
    path = put({"segmentation": packed(block(0))})
    monkeypatch.setitem(sys.modules, "pycocotools", None)
    assert refusal(make_clip(), path) == f"{path}: needs pycocotools. pip install 'stmcli[coco]'"


def test_each_file_is_read_once(put, make_clip, monkeypatch):
    path, read = put({"segmentation": packed(block(0))}, images=("shot.jpg",)), []
    monkeypatch.setattr(json, "loads", lambda text, own=json.loads: read.append(text) or own(text))
    given(make_clip(), path, f"3:{path}")
    assert len(read) == 1


def test_a_mask_beside_annotations_keeps_its_own_convention(put, make_clip, tmp_path):
    path = put({"segmentation": packed(block(0)), "id": 3})
    Image.fromarray(255 * block(10)).save(tmp_path / "white.png")
    found = given(make_clip(), path, f"2:{tmp_path / 'white.png'}")[0]
    assert [np.unique(found[frame]).tolist() for frame in (0, 2)] == [[0, 3], [0, 1]]
