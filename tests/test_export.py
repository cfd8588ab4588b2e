import json
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image
from scenes import scene

from stmcli.errors import MaskError, PartialError, UsageError
from stmcli.export import ExportJob, export_masks
from stmcli.job import Job, plan
from stmcli.kinds import outputs
from stmcli.masks import read_grey, read_values, write_labels
from stmcli.options import ExportOptions, Fit, NetworkOptions, SegmentOptions
from stmcli.pipeline import segment_video
from stmcli.render import overlay, palette
from stmcli.segmenter import Segmenter, propagate
from stmcli.video import frame_times, open_source
from stmcli.weights import load_model

IDS = (1, 3)


@pytest.fixture
def job(tmp_path, make_clip, make_mask, tiny_weights):
    """A clip of 70x48 px, six frames at uneven times, with sound, and two objects; soft alpha is kept."""
    ticks = [0, 3, 4, 9, 12, 13]
    video = make_clip("clip.mp4", frames=6, width=70, ticks=ticks, time_base=Fraction(1, 50), audio="aac")
    return Job(
        video,
        (make_mask(ids=IDS, width=70),),
        tmp_path / "out",
        segment=SegmentOptions(keep_soft=True),
        network=NetworkOptions(str(tiny_weights), "cpu", "fp32"),
        export=ExportOptions(kinds=("none",)),
    )


@pytest.fixture
def done(job):
    segment_video(job)
    return job


def exports(job, *kinds, overwrite=False, **options):
    return export_masks(ExportJob(job.output, job.video, export=ExportOptions(kinds, **options), overwrite=overwrite))


def decoded(path, layout="rgba"):
    with av.open(str(path)) as film:
        return [frame.to_ndarray(format=layout) for frame in film.decode(video=0)]


def cutout(job, folder, index):
    with Image.open(job.output / folder / f"{index:05d}.png") as image:
        return np.asarray(image)


# -- what is kept for them ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bits", [8, 16])
def test_soft_alpha_is_what_the_network_said(job, bits):
    segment_video(replace(job, segment=SegmentOptions(keep_soft=True, soft_bits=bits)))
    segmenter = Segmenter(load_model(job.network), fit=Fit(size=48))
    with open_source(job.video) as source:
        for frame, prediction in propagate(segmenter, source, read_values(job.masks[0])):
            for channel, number in enumerate(IDS, start=1):
                stored = read_grey(job.output / f"soft/{number}/{frame.index:05d}.png", size=(70, 48))
                assert np.abs(stored - prediction.prob[channel].numpy()).max() <= 0.51 / (2**bits - 1)


def test_soft_alpha_is_kept_when_asked_or_when_an_export_is_made_of_it(job):
    hard = replace(job, segment=SegmentOptions())
    segment_video(hard)
    assert not (job.output / "soft").exists()
    segment_video(replace(hard, segment=SegmentOptions(overwrite=True), export=ExportOptions(("matte",))))
    assert sorted(path.name for path in (job.output / "soft").iterdir()) == ["1", "3"]


# -- the same as at once -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("refine", [True, False])
def test_exports_are_the_same_at_once_and_later(job, tmp_path, refine):
    kinds = ("overlay", "cutout", "green")
    options = ExportOptions(kinds, refine=refine, bits=16, background="0000ff")
    at_once = replace(job, output=tmp_path / "at_once", segment=SegmentOptions(soft_bits=16), export=options)
    segment_video(at_once)
    kept = SegmentOptions(keep_soft=True, soft_bits=16)
    segment_video(replace(job, segment=kept, export=ExportOptions(("none",), refine=refine)))
    exports(job, *kinds, refine=refine, bits=16, background="0000ff")
    for index in range(6):
        with av.open(str(at_once.output / f"cutout/{index:05d}.png")) as one:
            first = next(one.decode(video=0)).to_ndarray()
        with av.open(str(job.output / f"cutout/{index:05d}.png")) as two:
            second = next(two.decode(video=0)).to_ndarray()
        assert first.dtype == np.uint16
        assert (
            np.abs(first[..., 3].astype(int) - second[..., 3]).max() <= 40
        )  # 16-bit probabilities, through refinement
    for name in ("overlay.mp4", "green.mp4"):
        for first, second in zip(decoded(at_once.output / name), decoded(job.output / name), strict=True):
            assert np.abs(first.astype(int) - second).mean() < 0.5


def test_an_exported_film_has_the_times_and_the_sound_of_the_source(done):
    made = exports(done, "overlay", "alpha")
    for path in made.files:
        assert frame_times(path) == frame_times(done.video)
        with av.open(str(path)) as film, av.open(str(done.video)) as source:
            ours, theirs = ([bytes(packet) for packet in file.demux(audio=0) if packet.size] for file in (film, source))
        assert ours == theirs
    assert made.facts["alpha.mov"]["alpha"] is True
    assert made.facts["overlay.mp4"] | {"alpha": False, "frames": 6} == made.facts["overlay.mp4"]


def test_hard_masks_from_anywhere_make_an_overlay_of_their_frames(done, tmp_path):
    masks = tmp_path / "mine"
    masks.mkdir()
    labels = np.zeros((48, 70), np.uint8)
    labels[10:30, 20:40] = 7
    for index in (2, 3, 4):
        write_labels(masks / f"{index}.png", labels)
    made = export_masks(ExportJob(masks, done.video, tmp_path / "made", ExportOptions(("overlay",))))
    assert (made.files, made.frames) == ((tmp_path / "made" / "overlay.mp4",), 3)
    with open_source(done.video, start=2, end=4) as source, open_source(made.files[0]) as film:
        for before, after in zip(source, film, strict=True):
            wanted = overlay(before.rgb, labels)[15:25, 25:35].reshape(-1, 3).mean(0)
            assert np.abs(after.rgb[15:25, 25:35].reshape(-1, 3).mean(0) - wanted).max() <= 6


# -- the kinds ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("codec", "name", "tolerance"),
    [
        ("prores4444", "alpha.mov", 1),
        ("png", "alpha.mov", 1),
        ("qtrle", "alpha.mov", 1),
        ("ffv1", "alpha.mkv", 1),
        ("vp9", "alpha.webm", 3),
    ],
)
def test_every_alpha_codec_gives_the_matte_back(done, codec, name, tolerance):
    made = exports(done, "alpha", "cutout", alpha_codec=codec)
    assert [path.name for path in made.files] == [name, "cutout"]
    assert made.facts[name]["alpha"] is True
    with av.open(str(done.output / name)) as film:
        stream = film.streams.video[0]
        reader = av.CodecContext.create("libvpx-vp9", "r") if codec == "vp9" else stream.codec_context
        pictures = [f for packet in film.demux(stream) for f in reader.decode(packet if packet.size else None)]
    for index, picture in enumerate(pictures):
        wanted = cutout(done, "cutout", index)[..., 3].astype(int)
        rgba = picture.reformat(format="rgba", threads=1).to_ndarray()  # several threads of swscale overwrite pixels
        assert np.abs(rgba[..., 3] - wanted).max() <= tolerance
    assert len(pictures) == 6


def test_premultiplied_colours_are_straight_ones_times_alpha(done):
    exports(done, "cutout")
    straight = cutout(done, "cutout", 3).astype(float)
    exports(done, "cutout", alpha_mode="premultiplied", overwrite=True)
    premultiplied = cutout(done, "cutout", 3).astype(float)
    assert np.array_equal(straight[..., 3], premultiplied[..., 3])
    assert np.mean((straight[..., 3] > 20) & (straight[..., 3] < 235)) > 0.05  # there are soft pixels
    wanted = straight[..., :3] * straight[..., 3:] / 255
    assert np.abs(premultiplied[..., :3] - wanted).max() <= 1.01  # alpha is rounded to 8 bits in `wanted`


def test_objects_can_be_exported_one_by_one(done):
    made = exports(done, "cutout", "matte", "overlay", per_object=True)
    names = ["cutout-1", "cutout-3", "matte-1.mp4", "matte-3.mp4", "overlay.mp4"]
    assert [path.name for path in made.files] == names
    exports(done, "cutout")
    together = cutout(done, "cutout", 4)[..., 3].astype(int)
    apart = [cutout(done, f"cutout-{number}", 4)[..., 3].astype(int) for number in IDS]
    assert all(np.abs(one - together).max() > 20 for one in apart)
    assert np.abs(sum(apart) - together).max() <= 2


def test_green_shows_the_background_colour_where_there_is_no_object(done):
    exports(done, "green", "cutout", background="00c8ff")
    outside = cutout(done, "cutout", 0)[..., 3] == 0
    green = decoded(done.output / "green.mp4", "rgb24")[0]
    assert outside.mean() > 0.3
    assert np.abs(np.median(green[outside], axis=0) - (0, 200, 255)).max() <= 3


def test_datasets_name_objects_as_asked(done):
    made = exports(done, "coco", "davis", categories=((1, "dog"),))
    coco = json.loads(made.files[0].read_text())
    names = {category["id"]: category["name"] for category in coco["categories"]}
    assert {names[one["category_id"]] for one in coco["annotations"]} <= {"dog", "object"}
    assert "dog" in names.values()
    annotated = sorted((done.output / "davis").rglob("Annotations/480p/*/*.png"))
    assert np.array_equal(read_values(annotated[3]), read_values(done.output / "masks/00003.png"))
    with Image.open(annotated[0]) as image:
        assert image.getpalette()[:9] == palette()[:3].ravel().tolist()


def test_what_is_asked_for_is_named():
    options = ExportOptions(("alpha", "cutout", "alpha", "mots"), alpha_codec="vp9", per_object=True)
    names = [output.name for output in outputs(options, (1, 300))]
    assert names[:4] == ["alpha-1.webm", "alpha-300.webm", "cutout-1", "cutout-300"]
    assert outputs(ExportOptions(("none",)), (1,)) == []


# -- faults ------------------------------------------------------------------------------------------------------------


def test_what_is_there_is_replaced_only_with_y(done):
    exports(done, "overlay")
    before = (done.output / "overlay.mp4").read_bytes()
    with pytest.raises(UsageError, match=r"overlay\.mp4: exists already.*-y"):
        exports(done, "overlay", opacity=1.0)
    assert (done.output / "overlay.mp4").read_bytes() == before
    exports(done, "overlay", opacity=1.0, overwrite=True)
    assert (done.output / "overlay.mp4").read_bytes() != before


@pytest.mark.parametrize(
    ("spoil", "error", "words"),
    [
        (lambda out: (out / "masks/00002.png").unlink(), UsageError, "no mask of frame 2"),
        (
            lambda out: write_labels(out / f"masks/{10**12}.png", np.ones((48, 70), np.uint8)),
            UsageError,
            "no mask of frame 6",
        ),
        (lambda out: (out / "masks/00002.png").write_bytes(b""), MaskError, "00002.png: empty file"),
        (lambda out: (out / "soft/3/00002.png").unlink(), MaskError, "soft/3/00002.png: no such file"),
        (lambda out: write_labels(out / "masks/00002.png", np.ones((5, 5), np.uint8)), MaskError, "is 5x5 but"),
        (
            lambda out: write_labels(out / "masks/00006.png", np.ones((48, 70), np.uint8)),
            UsageError,
            "00006.png: there is no frame for this mask",
        ),
    ],
)
def test_masks_that_do_not_fit_are_named_and_nothing_is_left(done, spoil, error, words):
    spoil(done.output)
    before = sorted(done.output.rglob("*"))
    with pytest.raises(error, match=words):
        exports(done, "matte")
    assert sorted(done.output.rglob("*")) == before


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"kinds": ("gif",)}, "no export gif"),
        ({"kinds": ("green",), "background": "greenish"}, "greenish is no colour"),
        ({"kinds": ("none",)}, "nothing to export"),
    ],
)
def test_options_that_mean_nothing_are_refused(done, options, words):
    with pytest.raises(UsageError, match=words):
        export_masks(ExportJob(done.output, done.video, export=ExportOptions(**options)))


@pytest.mark.parametrize(
    ("words", "cause"),
    [
        (("1=dog", "1=cat"), "--category 1=cat: object 1 is called dog already. Give each object one name."),
        (("\u00b2=dog",), "--category \u00b2=dog: not an object and its name"),  # a digit that is no number
    ],
)
def test_names_that_say_nothing_clear_are_refused(stm, tmp_path, words, cause):
    categories = [part for word in words for part in ("--category", word)]
    answer = stm("export", tmp_path, "--video", "clip.mp4", "--to", "coco", *categories)
    assert (answer.exit_code, cause in answer.stderr) == (2, True)


def test_an_export_from_within_the_folder_of_masks_is_that_of_their_result(done, stm, monkeypatch):
    monkeypatch.chdir(done.output / "masks")
    made = stm("export", ".", "--video", done.video, "--to", "matte")
    assert made.exit_code == 0, made.stderr
    assert "hard masks" not in made.stderr
    assert [path for path in (done.output / "masks").iterdir() if path.suffix != ".png"] == []
    assert (done.output / "matte.mp4").exists()


def test_a_result_knows_of_its_exports_however_its_folder_is_called(done, stm, monkeypatch):
    monkeypatch.chdir(done.output.parent)
    made = stm("export", done.output.name, "--video", done.video, "--to", "matte", "-o", done.output)
    assert made.exit_code == 0, made.stderr
    assert [*json.loads((done.output / "report.json").read_text())["exported"]] == ["matte.mp4"]


def test_an_object_of_a_run_that_alone_has_the_largest_id_keeps_it(segment, stm, make_clip, make_mask, tmp_path):
    clip, mask = make_clip(frames=3), make_mask(ids=(1, 65535))
    words = ("-m", mask, "--objects", 65535, "-o", "out", "-e", "none", "--keep-soft")
    assert segment(clip, *words).exit_code == 0
    made = stm("export", "out", "--video", clip, "--to", "mattes", "--to", "coco", "--per-object")
    assert made.exit_code == 0, made.stderr
    assert sorted(path.name for path in (tmp_path / "out").glob("mattes*")) == ["mattes-65535"]
    coco = json.loads((tmp_path / "out" / "coco.json").read_text())
    assert {one["track_id"] for one in coco["annotations"]} == {65535}


def test_a_folder_beside_the_soft_ones_that_has_no_number_is_left_alone(done):
    (done.output / "soft" / "\u00b2").mkdir(parents=True)
    assert exports(done, "matte").frames


def test_alpha_of_hard_masks_follows_the_picture_or_is_as_hard_and_says_so(tmp_path):
    truth = scene("blob", 0)
    (tmp_path / "clip").mkdir()
    (tmp_path / "mine").mkdir()
    Image.fromarray(truth.rgb).save(tmp_path / "clip/0.png")
    labels = 7 * (truth.alpha[0] > 0.5).astype(np.uint8)
    write_labels(tmp_path / "mine/0.png", labels)

    def error(output, **options):
        job = ExportJob(tmp_path / "mine", tmp_path / "clip", tmp_path / output, ExportOptions(("mattes",), **options))
        made = export_masks(job)
        assert any(note.startswith("made of hard masks") for note in made.notes)
        alpha = read_grey(tmp_path / output / "mattes/0.png", size=truth.rgb.shape[1::-1])
        return np.abs(alpha - truth.alpha[0]).sum(), alpha

    fitted, _ = error("fitted", bits=16)
    hard, alpha = error("hard", refine=False)
    assert (alpha == (labels > 0)).all()
    assert fitted < 0.5 * hard


@pytest.mark.parametrize("bits", [8, 16])
def test_mattes_are_the_alpha_of_the_cutouts(done, bits):
    exports(done, "mattes", "cutout", bits=bits, per_object=True)
    for number in IDS:
        for index in range(6):
            with av.open(str(done.output / f"cutout-{number}/{index:05d}.png")) as image:
                wanted = next(image.decode(video=0)).to_ndarray()[..., 3].astype(int)
            found = np.asarray(Image.open(done.output / f"mattes-{number}/{index:05d}.png")).astype(int)
            assert found.max() > 2**bits // 4
            assert (wanted == found).all()


def test_masks_in_black_and_white_are_one_object(done, tmp_path):
    folder = tmp_path / "painted"
    folder.mkdir()
    for index in range(3):
        grey = np.zeros((48, 70), np.uint8)
        grey[:12, : 5 * index] = 255  # nothing in the first
        Image.fromarray(grey).save(folder / f"{index:05d}.png")
    (coco, film) = export_masks(ExportJob(folder, done.video, export=ExportOptions(("coco", "overlay")))).files
    found = json.loads(coco.read_text())["annotations"]
    assert [(one["image_id"], one["bbox"]) for one in found] == [(2, [0, 0, 5, 12]), (3, [0, 0, 10, 12])]
    assert film.exists()


def test_frames_of_an_export_of_before_do_not_stay(done):
    exports(done, "cutout")
    for index in (0, 4, 5):
        (done.output / "masks" / f"{index:05d}.png").unlink()
    exports(done, "cutout", overwrite=True)
    assert sorted(path.name for path in (done.output / "cutout").iterdir()) == ["00001.png", "00002.png", "00003.png"]


def test_an_export_never_replaces_what_it_is_made_of(done):
    exports(done, "cutout", "davis")
    before = {path: path.read_bytes() for path in done.output.rglob("*.*")}
    video = replace(done, video=done.output / "cutout")
    with pytest.raises(UsageError, match=r"\.png: is where the cutout would go"):
        exports(video, "cutout", overwrite=True)
    masks = done.output / "davis" / "Annotations" / "480p" / "clip"
    with pytest.raises(UsageError, match=r"\.png: is where the davis would go"):
        export_masks(ExportJob(masks, done.video, done.output, ExportOptions(("davis",)), overwrite=True))
    assert {path: path.read_bytes() for path in done.output.rglob("*.*")} == before


@pytest.mark.parametrize(("how", "count"), [("skip", 4), ("stop", 2)])
def test_corrupt_frames_end_partially(make_folder, tmp_path, how, count):
    frames = make_folder([f"{index}.png" for index in range(4)])
    masks = tmp_path / "painted"
    masks.mkdir()
    for index in range(4):
        write_labels(masks / f"{index}.png", np.ones((48, 64), np.uint8))
    broken = frames / "2.png"
    broken.write_bytes(broken.read_bytes()[:99])
    job = ExportJob(masks, frames, tmp_path / "out", ExportOptions(("overlay",)), on_corrupt=how)
    with pytest.raises(PartialError, match=r"frames: 1 frame could not be read \(2\)\. The others are in .*out"):
        export_masks(job)
    assert len(decoded(tmp_path / "out" / "overlay.mp4")) == count


def test_the_report_of_a_result_names_later_exports_and_they_go_with_it(done):
    path = done.output / "report.json"
    before = json.loads(path.read_text())
    made = exports(done, "cutout", "davis")
    assert json.loads(path.read_text()) == before | {"exported": {"cutout": {"frames": 6}, "davis": {"frames": 6}}}
    assert len(path.read_text().splitlines()) > len(before["frames"])
    exports(done, "mots")
    assert [*json.loads(path.read_text())["exported"]] == ["cutout", "davis", "mots.zip"]
    assert segment_video(done).done_before
    segment_video(replace(done, segment=SegmentOptions(overwrite=True)))
    assert not [file for file in made.files if file.exists()]


def test_an_export_into_another_folder_is_in_no_report(done, tmp_path):
    before = (done.output / "report.json").read_bytes()
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "report.json").write_bytes(before)
    export_masks(ExportJob(done.output, done.video, tmp_path / "other", ExportOptions(("coco",))))
    for folder in (done.output, tmp_path / "other"):
        assert (folder / "report.json").read_bytes() == before


def test_a_folder_without_masks_is_refused(done, tmp_path):
    (tmp_path / "empty").mkdir()
    for folder, words in ((tmp_path / "empty", "no frames"), (tmp_path / "nowhere", "no such folder of masks")):
        with pytest.raises(UsageError, match=words):
            export_masks(ExportJob(folder, done.video, tmp_path / "made"))
    assert not (tmp_path / "made").exists()


def test_the_command_makes_what_is_asked_for(done, stm):
    ran = stm("export", done.output / "masks", "--video", done.video, "--to", "matte", "--to", "ytvis", "--json")
    assert ran.exit_code == 0, ran.output
    made = json.loads(ran.stdout)
    assert [Path(name).name for name in made["files"]] == ["matte.mp4", "ytvis.json"]
    assert made["frames"] == 6
    assert stm("export", done.output, "--video", done.video, "--to", "gif").exit_code == 2


# -- whose frames, and whose files -------------------------------------------------------------------------------------


@pytest.mark.parametrize("names", ["abcdefgh", ["0001", "0002", "0003", "0004", "0005", "zzz"]])
def test_masks_of_a_part_are_put_on_the_frames_whose_names_they_have(stm, make_folder, tmp_path, tiny_weights, names):
    folder = make_folder([f"{name}.png" for name in names])
    write_labels(tmp_path / "m.png", block())
    words = ("--size", "48", "-w", tiny_weights, "--device", "cpu", "--precision", "fp32")
    made = stm(
        "segment", folder, "-m", "m.png", "--start", 2, "--end", 4, "-e", "none", "--keep-soft", "-o", "out", *words
    )
    assert made.exit_code == 0, made.stderr
    made = stm("export", "out", "--video", folder, *(["--to", "overlay", "--to", "cutout", "--to", "coco"]))
    assert made.exit_code == 0, made.stderr
    assert sorted(path.stem for path in (tmp_path / "out/cutout").iterdir()) == [*names[2:5]]
    film = decoded(tmp_path / "out" / "overlay.mp4", "rgb24")
    assert [round(rgb[40:, 40:].mean()) for rgb in film] == pytest.approx([72, 78, 84], abs=3)  # pictures 2, 3, 4
    images = json.loads((tmp_path / "out" / "coco.json").read_text())["images"]
    assert [Path(image["file_name"]).stem for image in images] == [*names[2:5]]


def block():
    labels = np.zeros((48, 64), np.uint8)
    labels[:12, :16] = 1
    return labels


def test_masks_are_numbered_when_some_of_their_names_are_no_frames(make_folder, tmp_path):
    (tmp_path / "mine").mkdir()
    for name in ("1", "m2", "m3"):
        write_labels(tmp_path / "mine" / f"{name}.png", block())
    frames = make_folder([f"{number}.png" for number in range(3)])
    assert export_masks(ExportJob(tmp_path / "mine", frames, export=ExportOptions(("coco",)))).frames == 3


def test_files_of_others_stay_where_an_export_is_made(stm, make_clip, tmp_path):
    home = tmp_path / "work"
    (home / "masks_of_mine").mkdir(parents=True)
    for number in range(3):
        write_labels(home / "masks_of_mine" / f"{number:05d}.png", block())
    foreign = [".note.part", ".precious.part/x", "cutout_ideas/.k.png.part", "cutout/.k.part", "empty/"]
    for name in foreign:
        (home / name).parent.mkdir(exist_ok=True)
        (home / name).mkdir() if name.endswith("/") else (home / name).write_text("mine")
    (home / ".coco.json.part").write_text("of a killed run")
    made = stm("export", home / "masks_of_mine", "--video", make_clip(frames=3), "--to", "coco")
    assert made.exit_code == 0, made.stderr
    assert all((home / name).exists() for name in foreign)
    assert not (home / ".coco.json.part").exists()


def test_void_is_not_drawn(stm, make_clip, tmp_path):
    (tmp_path / "mine").mkdir()
    labels = block()
    labels[24:, 32:] = 255
    write_labels(tmp_path / "mine" / "00000.png", labels)
    assert stm("export", "mine", "--video", make_clip(frames=1), "--to", "overlay").exit_code == 0
    drawn = decoded(tmp_path / "overlay.mp4", "rgb24")[0].astype(int)
    assert abs(drawn[40:, 40:] - 60).max() < 6


def test_sound_that_lasts_longer_than_the_pictures_is_whole_when_all_frames_are(stm, make_clip, tmp_path):
    """As in a film of the run itself; of a part it ends with the part."""
    clip = make_clip(
        frames=8, ticks=[*range(8)], time_base=Fraction(1, 50), audio="aac"
    )  # 0.16 s, with 0.32 s of sound
    (tmp_path / "mine").mkdir()
    for number in range(8):
        write_labels(tmp_path / "mine" / f"{number:05d}.png", block())
    words = ("export", "mine", "--video", clip, "--to", "overlay", "-y")
    assert stm(*words).exit_code == 0
    assert sound_seconds(tmp_path / "overlay.mp4") == pytest.approx(sound_seconds(clip), abs=0.03)
    (tmp_path / "mine" / "00007.png").unlink()
    assert stm(*words).exit_code == 0
    assert sound_seconds(tmp_path / "overlay.mp4") < 0.2


def test_films_of_a_sequence_have_the_rate_of_their_run(segment, stm, make_folder, make_mask, tmp_path):
    folder = make_folder([f"{number}.png" for number in range(6)])
    made = segment(folder, "-m", make_mask(), "-o", "out", "--fps", "29.97", "--start", "0.05s", "--keep-soft")
    assert made.exit_code == 0, made.stderr
    rate = Fraction(30000, 1001)
    assert (tmp_path / "out/masks/2.png").exists()
    assert not (tmp_path / "out/masks/1.png").exists()
    for more, name, wanted in (((), "matte", rate), (("--fps", "25"), "green", Fraction(25))):
        made = stm("export", "out", "--video", folder, "--to", name, *more)
        assert (made.exit_code, "does nothing" in made.stderr) == (0, False)
        times = frame_times(tmp_path / f"out/{name}.mp4")
        assert [time - times[0] for time in times] == [number / wanted for number in range(4)]
    assert frame_times(tmp_path / "out/overlay.mp4")[-1] == 3 / rate


def test_a_rate_for_a_video_is_said_to_do_nothing(job, stm, make_folder, make_mask):
    given = replace(job.segment, fps="25")
    assert "--fps does nothing: a video has its own rate" in plan(replace(job, segment=given))["notes"]
    assert "--fps" not in str(plan(job)["notes"])
    frames = make_folder([f"{number}.png" for number in range(3)])
    assert "--fps" not in str(plan(replace(job, video=frames, masks=(make_mask("small.png"),), segment=given))["notes"])
    segment_video(job)
    assert segment_video(replace(job, segment=given)).done_before
    for more, said in (((), False), (("--fps", "25"), True)):
        made = stm("export", job.output, "--video", job.video, "--to", "davis", "-y", *more)
        assert made.exit_code == 0, made.stderr
        assert ("note: --fps does nothing" in made.stderr) == said


def test_a_gap_behind_the_masks_is_no_matter_to_an_export(segment, stm, make_folder, make_mask):
    folder = make_folder(["0.png", "1.png", "4.png"])
    assert segment(folder, "-m", make_mask(), "-o", "out", "--end", 1, "-e", "none").exit_code == 0
    made = stm("export", "out", "--video", folder, "--to", "overlay", "--to", "coco")
    assert made.exit_code == 0, made.stderr


def sound_seconds(path):
    with av.open(str(path)) as container:
        return max(float((p.pts + p.duration) * p.time_base) for p in container.demux(audio=0) if p.size)


def test_a_second_sound_is_left_out_and_said_so(stm, make_clip, tmp_path):
    (tmp_path / "mine").mkdir()
    write_labels(tmp_path / "mine" / "00000.png", block())
    one = make_clip("one.mkv", frames=1, audio="aac")
    with av.open(str(one)) as inp, av.open(str(tmp_path / "two.mkv"), "w") as out:
        streams = [out.add_stream_from_template(s) for s in (*inp.streams.video, *2 * inp.streams.audio)]
        for packet in inp.demux():
            for stream in streams[:1] if packet.stream.type == "video" else streams[1:]:
                if packet.size:
                    packet.stream = stream
                    out.mux(packet)
    made = stm("export", "mine", "--video", "two.mkv", "--to", "overlay")
    assert made.exit_code == 0, made.stderr
    assert "overlay.mp4 has the first of 2 sound tracks" in made.stderr


def test_masks_that_were_edited_count_and_that_is_said(done):
    mask = done.output / "masks/00003.png"
    labels = read_values(mask)
    exports(done, "cutout", "overlay", refine=False)
    before = cutout(done, "cutout", 3)[..., 3]
    labels[30:40, 40:60] = 3
    write_labels(mask, labels)
    for kind in ("mattes", "coco"):  # the second after a report that was written later than the edit
        made = exports(done, kind, "cutout", refine=False, overwrite=True)
        assert "made of the masks that were edited, where they were: frame 3" in made.notes
        after = cutout(done, "cutout", 3)[..., 3]
        assert (after == 255 * (labels > 0)).all()
        assert (after[30:40, 40:60] != before[30:40, 40:60]).any()


def test_an_object_that_was_painted_in_later_leaves_the_others_soft(done):
    mask = done.output / "masks/00003.png"
    exports(done, "cutout", bits=16)
    with av.open(str(done.output / "cutout/00002.png")) as image:
        before = next(image.decode(video=0)).to_ndarray()[..., 3]
    labels = read_values(mask)
    labels[40:44, 60:66] = 9
    write_labels(mask, labels)
    made = exports(done, "cutout", bits=16, overwrite=True)
    assert not any("hard masks" in note for note in made.notes)
    with av.open(str(done.output / "cutout/00002.png")) as image:
        after = next(image.decode(video=0)).to_ndarray()[..., 3]
    assert (before == after).all()
    with av.open(str(done.output / "cutout/00003.png")) as image:
        assert (next(image.decode(video=0)).to_ndarray()[40:44, 60:66, 3] == 65535).all()


def test_another_clip_of_the_same_length_is_told(done, make_clip):
    other = make_clip("other.mp4", frames=6, width=70, options={"crf": "40"})
    assert not any("very file" in note for note in exports(done, "overlay").notes)
    made = exports(replace(done, video=other), "overlay", overwrite=True)
    assert f"{other} is not the very file that was segmented" in made.notes
    moved = other.rename(other.with_name("moved.mp4"))
    moved.write_bytes(done.video.read_bytes())
    assert not any("very file" in note for note in exports(replace(done, video=moved), "overlay", overwrite=True).notes)


def test_an_export_of_a_run_that_was_stopped_says_so(done):
    report = done.output / "report.json"
    report.write_text(report.read_text().replace('"status": "ok"', '"status": "running"'))
    with pytest.raises(PartialError, match=r"stopped; 6 frames were exported\. Finish it") as caught:
        exports(done, "overlay")
    assert caught.value.result.files == (done.output / "overlay.mp4",)
    assert len(decoded(done.output / "overlay.mp4")) == 6


def test_another_clip_than_that_of_the_result_is_refused(done, make_clip):
    other = replace(done, video=make_clip("other.mp4", frames=7, width=70))
    with pytest.raises(UsageError, match=r"other\.mp4: has 7 frames, but the clip of the result had 6"):
        exports(other, "overlay")
    assert not (done.output / "overlay.mp4").exists()


def test_what_goes_because_masks_change_is_named(done, make_mask):
    exports(done, "overlay", "cutout")
    corrected = replace(done, masks=(*done.masks, f"3:{make_mask('later.png', ids=IDS, width=70)}"))
    wanted = "removed what was made of the masks before: overlay.mp4, cutout; stm export makes it again"
    assert wanted in plan(corrected)["notes"]
    assert (done.output / "cutout").exists()
    assert wanted in segment_video(corrected).notes
    assert not (done.output / "cutout").exists()
    assert not any("removed" in note for note in plan(corrected)["notes"])
