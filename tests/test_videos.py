"""Check clips from videos on squares whose colour tells which object they are and whose place tells the frame."""

import tarfile
import warnings
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from test_clips import mixed, redness  # noqa: F401

from stmcli.clips import ClipMaker, VideoClips, load_videos, parse_root
from stmcli.clips.schedule import clip_length, largest_skip
from stmcli.errors import TrainingError, UsageError
from stmcli.evaluate import list_sequences
from stmcli.masks import write_labels
from stmcli.options import PRESETS, ClipOptions

PLAIN = ClipOptions(crop=64, light=0.0, union=0.0)
WIDTH, HEIGHT = 96, 64


def frame(number, *, ids=(1,), width=WIDTH, height=HEIGHT):
    """Return RGB and ids: a red square for id 1, a green one below for id 2; blue tells the number of the frame."""
    rgb, labels = np.zeros((height, width, 3), np.uint8), np.zeros((height, width), np.uint8)
    rgb[..., 2] = 5 * number
    for i in ids:
        place = slice(4 + 30 * (i - 1), 28 + 30 * (i - 1)), slice(20 + number % 20, 50 + number % 20)
        rgb[place][..., i - 1] = 255
        labels[place] = i
    return rgb, labels


def write_video(root, name="car", *, numbers=range(8), resolution="480p", annotated=None, make=frame):
    """Write a clip in the layout of DAVIS, or without a resolution in that of YouTube-VOS."""
    images, masks = (root / kind / resolution / name for kind in ("JPEGImages", "Annotations"))
    for folder in (images, masks):
        folder.mkdir(parents=True, exist_ok=True)
    for number in numbers:
        rgb, labels = make(number)
        Image.fromarray(rgb).save(images / f"{number:05d}.png")
        if annotated is None or number in annotated:
            write_labels(masks / f"{number:05d}.png", labels)
    return root


def write_soft_mask(path):
    labels = np.full((HEIGHT, WIDTH), 255, np.uint8)
    labels[:, :24] = 10 * np.arange(1, 25)
    Image.fromarray(labels).save(path)


def write_list(root, name, clips, *, folder="2017"):
    (root / "ImageSets" / folder).mkdir(parents=True, exist_ok=True)
    (root / "ImageSets" / folder / name).write_text("\n".join(clips))


def names(root):
    return [video.name for video in load_videos(root).videos]


def numbers(clips):
    """Return which frame of the video each frame of (B, T, ...) clips is."""
    return (clips.rgb[:, :, 2].amax((2, 3)) * 51).round().int().tolist()


# -- where the frames are ----------------------------------------------------------------------------------------------


def test_both_layouts_and_a_tar_hold_the_same_frames(tmp_path):
    davis = write_video(tmp_path / "davis")
    ytvos = write_video(tmp_path / "ytvos" / "train", resolution="")
    write_video(tmp_path / "ytvos" / "valid", "other", resolution="")
    with tarfile.open(tmp_path / "davis.tar", "w") as tar:
        tar.add(davis, arcname="set")
    read = []
    for root in (davis, ytvos.parent, tmp_path / "davis.tar"):
        (video,) = load_videos(root).videos
        assert (video.name, [shot.number for shot in video.shots]) == ("car", list(range(8)))
        read.append([(shot.image.read(), shot.mask.read()) for shot in video.shots])
    assert read[0] == read[1] == read[2]


def test_files_beside_the_frames_do_not_matter(tmp_path):
    root = write_video(tmp_path / "set")
    for name in ("meta.json", "README.md", "SOURCES.png", "JPEGImages/480p/sheet.png"):
        (root / name).write_bytes(b"words")
    with tarfile.open(tmp_path / "set.tar", "w") as tar:
        tar.add(root, arcname=".")
    assert names(root) == names(tmp_path / "set.tar") == ["car"]


def test_only_annotated_frames_are_used(tmp_path):
    write_video(tmp_path, numbers=range(16), annotated=(0, 5, 10, 15), resolution="")
    (video,) = load_videos(tmp_path).videos
    assert [shot.number for shot in video.shots] == [0, 5, 10, 15]


def test_a_frame_that_is_missing_is_passed_over(tmp_path):
    write_video(tmp_path, numbers=range(4))
    (tmp_path / "JPEGImages" / "480p" / "car" / "00001.png").unlink()
    (video,) = load_videos(tmp_path).videos
    assert [shot.number for shot in video.shots] == [0, 2, 3]
    assert numbers(VideoClips([load_videos(tmp_path)], PLAIN, seed=0).batch(1, frames=5, skip=1)) == [[0, 2, 3, 3, 3]]


def test_what_the_lists_keep_for_validation_is_not_trained_on(tmp_path):
    for name in ("a", "b", "c"):
        write_video(tmp_path, name)
    assert names(tmp_path) == ["a", "b", "c"]
    write_list(tmp_path, "val.txt", ["b"])
    assert names(tmp_path) == ["a", "c"]
    write_list(tmp_path, "train.txt", ["c"])
    assert names(tmp_path) == ["c"]
    write_list(tmp_path, "train.txt", ["c", "gone"])
    with pytest.raises(TrainingError, match="no annotated frames of clip gone"):
        load_videos(tmp_path)


@pytest.mark.parametrize(
    ("folder", "line"),
    [
        ("2016", "b"),
        ("2019", "b"),
        ("", "b"),
        ("2017", "d b"),
        ("480p", "/JPEGImages/480p/b/0.jpg /Annotations/480p/b/0.png 1"),
    ],
)
def test_a_clip_of_any_list_for_validation_is_not_trained_on(tmp_path, folder, line):
    for name in ("a", "b", "c", "d"):
        write_video(tmp_path, name)
    write_list(tmp_path, "val.txt", ["d"])
    write_list(tmp_path, "val.txt", [line], folder=folder)
    assert names(tmp_path) == ["a", "c"]
    write_list(tmp_path, "train.txt", ["a", "b", "d"])
    assert names(tmp_path) == ["a"]
    with tarfile.open(tmp_path / "set.tar", "w") as tar:
        for kind in ("JPEGImages", "Annotations", "ImageSets"):
            tar.add(tmp_path / kind, arcname=f"set/{kind}")
    assert names(tmp_path / "set.tar") == ["a"]


def test_a_set_that_is_all_for_validation_is_refused(tmp_path):
    write_list(write_video(tmp_path), "val.txt", ["car"])
    with pytest.raises(TrainingError, match=r"all clips that it holds are for validation, by ImageSets/2017/val\.txt"):
        load_videos(tmp_path)
    write_list(write_video(tmp_path, "bus"), "train.txt", ["car"])
    with pytest.raises(TrainingError, match=r"all clips that ImageSets/2017/train\.txt names are for validation"):
        load_videos(tmp_path)


def test_of_several_resolutions_480p_is_taken(tmp_path):
    write_video(tmp_path, "large", resolution="1080p")
    assert names(tmp_path) == ["large"]
    write_video(tmp_path, "small", resolution="480p")
    assert names(tmp_path) == ["small"]


@pytest.mark.parametrize("resolutions", [("",), ("480p",), ("1080p",), ("1080p", "Full-Resolution"), ("1080p", "")])
def test_what_is_trained_on_is_what_would_be_evaluated(tmp_path, resolutions):
    for resolution in resolutions:
        for name in ("a", "b", "c"):
            write_video(tmp_path, name, resolution=resolution)
    clips = list_sequences(tmp_path, "davis2017")
    videos = load_videos(tmp_path).videos
    assert [clip.name for clip in clips] == [video.name for video in videos] == ["a", "b", "c"]
    for clip, video in zip(clips, videos, strict=True):
        assert clip.frames == tmp_path / "JPEGImages" / resolutions[-1] / clip.name == video.shots[0].image.path.parent
        assert clip.annotations == video.shots[0].mask.path.parent
    write_list(tmp_path, "val.txt", ["a b"])
    assert [clip.name for clip in list_sequences(tmp_path, "davis2017")] == ["a", "b"]
    assert names(tmp_path) == ["c"]


@pytest.mark.parametrize(
    ("name", "error", "text"),
    [
        ("gone", UsageError, "no such file"),
        ("empty", TrainingError, "no JPEGImages/"),
        ("bad.tar", TrainingError, "not a tar"),
        ("bare", TrainingError, "no frame with an annotation of the same name. It needs"),
        ("short", TrainingError, "no video with 2 annotated frames"),
    ],
)
def test_what_is_no_dataset_is_named(tmp_path, name, error, text):
    (tmp_path / "empty").mkdir()
    (tmp_path / "bad.tar").write_bytes(b"no tar" * 200)
    write_video(tmp_path / "bare", annotated=())
    write_video(tmp_path / "short", annotated=(3,))
    with pytest.raises(error, match=f"{name}: {text}"):
        load_videos(tmp_path / name)


def test_a_weight_follows_a_colon(tmp_path):
    (tmp_path / "a:2").mkdir()
    assert parse_root(str(tmp_path / "a:2")) == (tmp_path / "a:2", 1.0)  # a path that is there
    assert parse_root("sets/davis:2.5") == (tmp_path.__class__("sets/davis"), 2.5)
    assert parse_root("sets/davis") == (tmp_path.__class__("sets/davis"), 1.0)
    with pytest.raises(UsageError, match="above 0"):
        parse_root("davis:0")


# -- the clips ---------------------------------------------------------------------------------------------------------


def test_frames_are_in_order_and_no_farther_apart_than_the_skip(tmp_path):
    write_video(tmp_path, numbers=range(30))
    source = VideoClips([load_videos(tmp_path)], PLAIN, seed=1)
    seen = set()
    for skip in (0, 3):
        for clip in numbers(source.batch(16, frames=4, skip=skip)):
            gaps = np.diff(clip)
            assert (gaps >= 1).all()
            assert (gaps <= 1 + skip).all()
            seen |= {(skip, int(gap)) for gap in gaps}
    assert seen == {(0, 1), *((3, gap) for gap in (1, 2, 3, 4))}


def test_sparse_annotations_are_taken_one_after_the_other(tmp_path):
    write_video(tmp_path, numbers=range(0, 40, 5), resolution="")
    clips = VideoClips([load_videos(tmp_path)], PLAIN, seed=1).batch(8, frames=3, skip=1)
    assert (np.diff(numbers(clips)) == 5).all()


def test_image_and_mask_of_a_video_are_cropped_together(tmp_path):
    write_video(tmp_path, make=lambda number: frame(number, ids=(1, 2)))
    clips = VideoClips([load_videos(tmp_path)], PLAIN, seed=0).batch(8, 2)
    assert clips.masks.shape == (8, 3, 2, 64, 64)
    assert clips.void is None
    for b in range(8):
        for n in range(2):
            colours = [(clips.rgb[b, :, i] > 0.5) for i in (0, 1)]
            errors = [(found != clips.masks[b, :, n].bool()).float().mean() for found in colours]
            assert min(errors) < 0.03 or not clips.masks[b, :, n].any()
        assert clips.masks[b, 0, 0].mean() > 0.004
    assert clips.masks.sum(2).max() == 1


def test_a_whole_clip_is_seen_through_one_window(tmp_path):
    still = frame(3)
    write_video(tmp_path, make=lambda _: still)
    clips = VideoClips([load_videos(tmp_path)], replace(PLAIN, light=0.3), seed=0).batch(4, frames=5)
    assert torch.equal(clips.rgb[:, 0], clips.rgb[:, 4])
    assert not torch.equal(clips.masks[0], clips.masks[1])


def test_an_object_that_enters_late_is_background(tmp_path):
    write_video(tmp_path, numbers=range(3), make=lambda number: frame(number, ids=(1, 2) if number else (1,)))
    clips = VideoClips([load_videos(tmp_path)], PLAIN, seed=0).batch(6, 2)
    assert clips.masks.shape[2] == 1
    assert not (clips.masks[:, :, 0].bool() & (clips.rgb[:, :, 1] > 0.5) & (clips.rgb[:, :, 0] < 0.5)).any()


def test_void_is_told_from_a_white_object(tmp_path):
    def void(number):
        rgb, labels = frame(number)
        labels[40:] = 255
        return rgb, labels

    def white(number):
        rgb, labels = frame(number)
        return rgb, labels * 255

    for name, make, there in (("void", void, True), ("white", white, False)):
        clips = VideoClips([load_videos(write_video(tmp_path / name, make=make))], PLAIN, seed=0).batch(4)
        assert (clips.void is not None) == there
        assert clips.masks[:, 0].any()
        if clips.void is not None:
            assert not (clips.void.bool() & clips.masks[:, :, 0].bool()).any()


def test_weights_say_how_often_a_set_is_drawn(tmp_path):
    sets = [
        load_videos(write_video(tmp_path / name, name, make=lambda n, i=i: frame(n, ids=(i,))), weight)
        for i, name, weight in ((1, "red", 1.0), (2, "green", 4.0))
    ]
    clips = VideoClips(sets, PLAIN, seed=0).batch(100)
    green = (clips.rgb[:, 0, 1].amax((1, 2)) > 0.5).float().mean()
    assert 0.7 < green < 0.9


def test_frames_that_do_not_fit_are_decoded_again_to_the_same_clips(tmp_path):
    videos = load_videos(write_video(tmp_path))
    kept, again = (VideoClips([videos], PLAIN, seed=2) for _ in range(2))
    again.frames.room = 0
    one, other = kept.batch(4), again.batch(4)
    assert kept.frames.kept
    assert not again.frames.kept
    assert torch.equal(one.rgb, other.rgb)
    assert torch.equal(one.masks, other.masks)


def test_a_frame_that_a_short_video_repeats_is_decoded_once(tmp_path, monkeypatch):
    clips = VideoClips([load_videos(write_video(tmp_path, numbers=range(2)))], PLAIN)
    clips.frames.room, decode, decoded = 0, clips.frames._decode, []
    monkeypatch.setattr(clips.frames, "_decode", lambda shot: decoded.append(shot.number) or decode(shot))
    assert numbers(clips.batch(1, frames=5)) == [[0, 1, 1, 1, 1]]
    assert [number for number in decoded if number] == [1]


@pytest.mark.parametrize(
    ("damage", "text"),
    [
        (lambda root: (root / "JPEGImages/480p/bad/00002.png").write_bytes(b"\x89PNG no"), "00002.png: cannot be read"),
        (lambda root: (root / "Annotations/480p/bad/00002.png").write_bytes(b""), "00002.png: cannot be read"),
        (
            lambda root: Image.new("L", (9, 9)).save(root / "Annotations/480p/bad/00002.png"),
            "mask is 9x9 but its frame",
        ),
        (lambda root: write_video(root, "bad", numbers=[2], make=lambda n: frame(n, width=64)), "another size"),
        (
            lambda root: Image.new("LAB", (96, 64)).save(root / "Annotations/480p/bad/00002.png", "TIFF"),
            "colour mode LAB",
        ),
        (
            lambda root: Image.new("L", (96, 64), 255).save(root / "Annotations/480p/bad/00002.png", "JPEG"),
            "the mask is a JPEG",
        ),
        (lambda root: write_soft_mask(root / "Annotations/480p/bad/00002.png"), "the mask has soft edges: 24 grey"),
    ],
)
def test_a_video_that_cannot_be_read_is_left_out_with_one_line_and_named_when_none_is_left(tmp_path, damage, text):
    write_video(tmp_path, "bad", numbers=range(4))
    damage(tmp_path)
    alone = VideoClips([load_videos(tmp_path)], PLAIN, seed=0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with pytest.raises(TrainingError, match=text):
            alone.batch(8, frames=4)
    write_video(tmp_path, "good", numbers=range(4))
    both = VideoClips([load_videos(tmp_path)], PLAIN, seed=0)
    with pytest.warns(UserWarning, match=f"{text}.*left out") as seen:
        clips = both.batch(8, frames=4)
    assert len(seen) == 1
    assert clips.masks[:, 0].any()


# -- over a run --------------------------------------------------------------------------------------------------------


def test_the_length_of_a_clip_grows_in_equal_parts_of_the_run():
    options = ClipOptions(frames=3, frames_end=6)
    assert [clip_length(options, done) for done in (0, 0.24, 0.26, 0.49, 0.51, 0.74, 0.76, 1)] == [
        3,
        3,
        4,
        4,
        5,
        5,
        6,
        6,
    ]
    assert {clip_length(ClipOptions(frames=4), done) for done in (0, 0.5, 1)} == {4}
    assert clip_length(ClipOptions(frames=6, frames_end=4), 0.99) == 4


def test_the_largest_skip_grows_and_shrinks():
    options = ClipOptions(skip=20, skip_end=4, skip_grown=0.5)
    found = [largest_skip(options, done) for done in (0, 0.25, 0.5, 0.9, 0.95, 1)]
    assert found == [0, 10, 20, 20, 12, 4]
    assert [largest_skip(options, done) for done in (0.7, 0.91, 0.975, 0.99)] == [20, 18, 8, 6]
    slow = replace(options, skip_grown=1.0)
    assert [largest_skip(slow, done) for done in (0.8, 0.91, 0.95)] == [16, 18, 12]
    paper = PRESETS["paper"][1]
    assert [largest_skip(paper, done) for done in (0, 0.5, 1)] == [0, 12, 25]


def test_the_largest_skip_grows_further_to_an_end_above_it():
    options = ClipOptions(skip=4, skip_end=20, skip_grown=0.5)
    assert [largest_skip(options, done) for done in (0, 0.25, 0.5, 0.9, 0.95, 1)] == [0, 2, 4, 4, 12, 20]
    slow = replace(options, skip_grown=1.0)
    assert [largest_skip(slow, done) for done in (0.5, 0.9, 0.95, 1)] == [2, 4, 12, 20]
    late = replace(options, skip=0)
    assert [largest_skip(late, done) for done in (0.5, 0.9, 1)] == [0, 0, 20]


def test_steps_are_of_stills_or_videos_by_their_share_and_the_same_in_each_process(mixed, tmp_path):  # noqa: F811
    sets = [load_videos(write_video(tmp_path / "set"))]
    makers = [
        ClipMaker(mixed, sets, replace(PLAIN, stills_share=0.25, frames_end=4), seed=5, rank=rank) for rank in (0, 1)
    ]
    kinds = [[maker._of_stills(step) for step in range(400)] for maker in makers]
    assert kinds[0] == kinds[1]
    assert 0.18 < np.mean(kinds[0]) < 0.32
    video, still = kinds[0].index(False), kinds[0].index(True)
    one, other = (maker.batch(2, 1, step=video, done=0.99) for maker in makers)
    assert one.rgb.shape == other.rgb.shape == (2, 4, 3, 64, 64)
    assert not torch.equal(one.rgb, other.rgb)
    assert one.rgb[:, 0, 2].unique().numel() < makers[0].batch(2, 1, step=still, done=0).rgb[:, 0, 2].unique().numel()


def test_nothing_to_train_on_is_said():
    with pytest.raises(UsageError, match="nothing to train on"):
        ClipMaker([], [], PLAIN)
