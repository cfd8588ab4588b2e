"""The pages, read without a browser."""

import json
import os
import shlex
import shutil
import subprocess
from dataclasses import fields
from fractions import Fraction
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote

import numpy as np
import pytest
from PIL import Image

from stmcli.page import Pictures, pictures, write_batch_page, write_page
from stmcli.page.advice import DEFAULTS, FLAGS, SWITCHES, fix_command
from stmcli.page.charts import POINTS, thin
from stmcli.page.clip import absences
from stmcli.page.pictures import APART, THUMBNAILS, WORST
from stmcli.report import NOWHERE, worst_in, worst_of
from stmcli.review import Review
from stmcli.video import Frame

HOSTILE = '<img src=x onerror=alert(1)> & "q" \'s.mp4'


class Answer:
    def __init__(self, *confidence, labels=None):
        self._confidence, self.object_ids = confidence, tuple(range(1, len(confidence) + 1))
        self._labels = np.eye(48, 64, dtype=np.uint8) if labels is None else labels

    def labels(self):
        return self._labels

    def confidence(self):
        return self._confidence


class Reader(HTMLParser):
    """Collect the elements and the text of a page."""

    def __init__(self):
        super().__init__()
        self.elements, self.words, self.commands, self._code = [("", {})], [], [], False

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        self._code = tag == "code"

    def handle_data(self, data):
        if self.elements[-1][0] not in ("style", "script"):
            self.words.append(data)
        if self._code:
            self.commands.append(data)
            self._code = False

    def all(self, tag):
        return [attrs for name, attrs in self.elements if name == tag]


def read(path):
    reader = Reader()
    reader.feed(path.read_text(encoding="utf-8"))
    return reader


def report(confidences, *, name=HOSTILE, areas=None, cut=(), first=0):
    frames = []
    for place, sure in enumerate(confidences):
        area = 100 if areas is None else areas[place]
        facts = {"frame": first + place, "time": place / 25, "objects": {"1": {"area": area, "confidence": sure}}}
        frames.append(facts | ({"cut": True} if place in cut else {}))
    return {
        "status": "ok",
        "source": {"path": f"/clips/{name}", "width": 64, "height": 48},
        "mask_words": ["first mask's.png"],
        "objects": [1],
        "weights": {"path": "compact.safetensors", "licence": "free"},
        "notes": ["<b>note</b>"],
        "frames": frames,
    }


def collect(confidences, *, first=0, areas=None):
    pictures = Pictures(len(confidences))
    for place, sure in enumerate(confidences):
        rgb = np.full((48, 64, 3), place % 256, np.uint8)
        labels = None if areas is None or areas[place] else np.zeros((48, 64), np.uint8)
        pictures.write(Frame(first + place, Fraction(place, 25), rgb), Answer(sure, labels=labels))
    return pictures


def made(tmp_path, confidences, **facts):
    shown = {name: facts[name] for name in ("first", "areas") if name in facts}
    write_page(tmp_path / "report.html", report(confidences, **facts), collect(confidences, **shown))
    return read(tmp_path / "report.html")


def test_a_page_loads_nothing_and_escapes_every_name(tmp_path):
    page = made(tmp_path, [0.9, 0.4, 0.8])
    urls = [value for _, attrs in page.elements for name, value in attrs.items() if name in ("src", "href", "action")]
    assert urls
    assert all(url.startswith("data:image/jpeg;base64,") for url in urls)
    assert not page.all("link")
    assert len(page.all("script")) == 1
    assert not page.all("b")
    assert "url(" not in (tmp_path / "report.html").read_text()
    assert HOSTILE in "".join(page.words)
    policy = next(meta["content"] for meta in page.all("meta") if meta.get("http-equiv") == "Content-Security-Policy")
    assert policy.startswith("default-src 'none'")


def test_the_dips_of_the_confidence_are_shown_large_the_lowest_first(tmp_path):
    sure = [0.9] * 60
    sure[10:14] = [0.45, 0.3, 0.2, 0.4]
    sure[30], sure[50] = 0.1, 0.35
    page = made(tmp_path, sure, first=100)
    assert [attrs["id"] for attrs in page.all("article") if "id" in attrs] == ["frame-130", "frame-112", "frame-150"]


@pytest.mark.parametrize("seed", range(5))
def test_the_worst_frames_are_far_apart_and_the_lowest_is_among_them(seed):
    sure = np.random.default_rng(seed).uniform(0.05, 0.95, 300)
    worst = collect(sure.tolist()).worst()
    frames = sorted(one.frame for one in worst)
    assert worst[0].frame == sure.argmin()
    assert len(frames) == WORST
    assert min(np.diff(frames)) >= APART


def test_frames_without_the_object_are_not_the_worst():
    pictures = collect([1.0, 0.0, 0.6, 0.3], areas=[9, 0, 9, 0])
    assert [one.frame for one in pictures.worst()] == [2]
    assert [one.confidence for one in pictures.strip()] == [1.0, NOWHERE, 0.6, NOWHERE]


def test_the_parts_of_a_page_agree_on_an_object_of_no_confidence_that_is_there(tmp_path):
    page = made(tmp_path, [0.0] * 3)
    assert "100% of the frames look doubtful" in "".join(page.words)
    assert [attrs["id"] for attrs in page.all("article") if "id" in attrs] == ["frame-0"]
    assert [one.confidence for one in collect([0.0] * 3).strip()] == [0.0] * 3


def test_the_confidence_of_a_frame_is_the_lowest_of_the_objects_that_it_shows():
    asked, sure = [], {1: 0.9, 2: 0.2, 3: 0.0, 4: 0.5}
    assert worst_of(sure, lambda number: asked.append(number) or number in (1, 2)) == 0.2
    assert asked == [3, 2]
    assert worst_of(sure, lambda _: 0) == worst_of({}, bool) == NOWHERE
    objects = {str(number): {"area": number % 2, "confidence": value} for number, value in sure.items()}
    assert worst_in({"objects": objects}) == 0.0


def test_a_long_clip_makes_no_larger_page(tmp_path):
    sure = np.random.default_rng(0).uniform(0.1, 0.9, 20_000).round(3).tolist()
    pictures = collect(sure)
    assert len(pictures.strip()) <= THUMBNAILS
    frames = [one.frame for one in pictures.strip()]
    assert frames[0] == 0
    assert frames[-1] > 19_000
    assert len(set(np.diff(frames))) == 1
    write_page(tmp_path / "report.html", report(sure, cut=range(0, 20_000, 7)), pictures)
    assert (tmp_path / "report.html").stat().st_size < 1_000_000


def test_no_more_frames_are_made_small_than_the_strip_shows(monkeypatch):
    made, small = [], pictures._Kept.small
    monkeypatch.setattr(pictures._Kept, "small", lambda kept, longest: made.append(kept.frame) or small(kept, longest))
    collect([NOWHERE] * 150)
    assert 24 < len(made) <= THUMBNAILS


def test_a_frame_that_the_next_takes_the_place_of_is_not_made_small(monkeypatch):
    made, reduce = [], Image.Image.reduce
    monkeypatch.setattr(Image.Image, "reduce", lambda image, factor: made.append(factor) or reduce(image, factor))
    kept = Pictures(1000)  # whose strip has every fourth frame
    for place, sure in enumerate(np.linspace(0.9, 0.5, 16)):
        kept.write(
            Frame(place, Fraction(place, 25), np.zeros((40, 2000, 3), np.uint8)),
            Answer(float(sure), labels=np.ones((40, 2000), np.uint8)),
        )
    assert len(made) == 4
    (worst,) = kept.worst()
    assert (worst.frame, worst.width) == (15, 960)


def test_a_clip_that_is_much_shorter_than_it_says_has_a_strip():
    pictures = Pictures(10_000)
    for place in range(40):
        pictures.write(Frame(place, Fraction(place, 25), np.zeros((48, 64, 3), np.uint8)), Answer(0.9))
    assert len(pictures.strip()) == 10


def test_a_curve_keeps_its_lowest_point_when_thinned():
    values = np.ones(5000)
    values[1234] = 0.2
    points = thin(values.tolist(), lowest=True)
    assert len(points) == POINTS
    x, y = min(points, key=lambda point: point[1])
    assert (x, y) == (pytest.approx(1234 / 4999, abs=1 / POINTS), 0.2)


def test_commands_are_quoted_and_repeat_the_run(tmp_path):
    page = made(tmp_path, [0.9, 0.9, 0.3], first=85)
    words = next(shlex.split(line) for line in page.commands if "87:fixed-87.png" in line)
    assert words[:3] == ["stm", "segment", f"/clips/{HOSTILE}"]
    assert words[3:7] == ["--mask", "first mask's.png", "--mask", "87:fixed-87.png"]
    assert words[words.index("-o") + 1] == str(tmp_path)


@pytest.mark.skipif(not shutil.which("bash"), reason="no bash here: the commands were not given to a shell")
@pytest.mark.parametrize("name", ["a\nb's.mp4", "a\x07\\n.mp4", os.fsdecode(b"caf\xe9 1.mp4"), "été.mp4"])
def test_commands_name_a_clip_whatever_is_in_its_name(tmp_path, name):
    write_page(tmp_path / "report.html", report([0.1, 0.9], name=name), collect([0.1, 0.9]))
    page = read(tmp_path / "report.html")
    assert len(page.commands) >= 3
    for line in page.commands[:2]:
        assert line.isprintable()
        script = f"stm() {{ printf '%s\\0' \"$@\"; }}; {line}".encode()
        told = subprocess.run(["bash", "-c", script], capture_output=True, check=True).stdout.split(b"\0")
        assert told[1] == os.fsencode(f"/clips/{name}")


def test_commands_work_in_any_folder(stm, tiny_weights, make_clip, make_mask, tmp_path):
    clip, first, later = make_clip().name, make_mask().name, make_mask("later.png").name
    shutil.copy(tiny_weights, tmp_path / "own.safetensors")
    assert stm("segment", clip, "-m", first, "-m", f"2:{later}", "-o", "out", "-w", "own.safetensors").exit_code == 0
    facts = json.loads((tmp_path / "out" / "report.json").read_text())
    words = shlex.split(fix_command(facts, Path("out"), "3:more.png", frames=[3]))
    assert words[2:7] == [f"{tmp_path}/{clip}", "--mask", f"{tmp_path}/{first}", "--mask", f"2:{tmp_path}/{later}"]
    assert words[words.index("-o") + 1] == f"{tmp_path}/out"
    assert words[words.index("--weights") + 1] == f"{tmp_path}/own.safetensors"
    assert [mask["path"] for mask in facts["masks"]] == [f"{tmp_path}/{first}", f"{tmp_path}/{later}"]


def test_a_command_to_mend_a_frame_that_has_a_mask_gives_its_mask_up(segment, stm, make_clip, make_mask, tmp_path):
    masks = [make_mask().name, f"2:{make_mask('late.png', ids=(2,)).name}"]
    assert segment(make_clip(frames=3).name, "-m", masks[0], "-m", masks[1], "-o", "out").exit_code == 0
    facts = json.loads((tmp_path / "out/report.json").read_text())
    mended = make_mask("fixed-2.png", ids=(1, 2)).name
    words = shlex.split(fix_command(facts, Path("out"), f"2:{mended}", frames=[2]))
    assert words[3:7] == ["--mask", f"{tmp_path}/{masks[0]}", "--mask", f"2:{mended}"]
    assert words.count("--mask") == 2
    answer = stm(*words[1:])
    assert answer.exit_code == 0, answer.stderr
    given = json.loads((tmp_path / "out/report.json").read_text())["masks"]
    assert [(mask["frame"], mask["ids"]) for mask in given] == [(0, [1]), (2, [1, 2])]


def test_a_file_of_masks_of_several_frames_is_given_up_for_one_of_them():
    facts = report([0.5] * 9) | {
        "masks": [{"frame": frame, "path": "/a.json", "ids": [1]} for frame in (0, 4, 8)],
        "mask_words": ["/a.json", "4:/a.json", "8:/a.json"],
    }
    words = shlex.split(fix_command(facts, Path("out"), "8:m.png", frames=[8]))
    assert [word for word in words if "a.json" in word] == ["/a.json", "4:/a.json"]


def test_a_command_repeats_what_was_not_the_default():
    facts = report([0.5]) | {
        "options": {
            "network": {"weights": "paper", "size": None, "device": "auto"},
            "memory": {"every": 3, "max_slots": 20},
            "segment": {"objects": [1, 3], "start": 7, "keep_soft": True},
            "export": {"kinds": ["alpha", "matte"], "refine": False, "audio": "copy"},
        }
    }
    words = shlex.split(fix_command(facts, Path("out"), "m.png", frames=[0]))
    for pair in (("--weights", "paper"), ("--mem-every", "3"), ("--objects", "1,3"), ("--start", "7")):
        assert words[words.index(pair[0]) + 1] == pair[1]
    assert {"--keep-soft", "--no-refine", "alpha", "matte"} <= set(words)
    assert not {"--size", "--device", "--mem-max", "--audio"} & set(words)


def test_no_option_that_changes_a_result_is_forgotten():
    elsewhere = {"kinds", "categories", "objects", "overwrite", "resume", "corrections"}  # said otherwise, or no matter
    for group, default in DEFAULTS.items():
        named = {*FLAGS[group], *SWITCHES.get(group, {})}
        assert {field.name for field in fields(default)} - elsewhere == named, group


def test_lists_are_repeated_as_one_word_and_the_usual_ones_not_at_all():
    def words(*views):
        facts = report([0.5]) | {"options": {"network": {"tta": views}}}
        return shlex.split(fix_command(facts, Path("out"), "m.png", frames=[0]))

    both = words("flip", "scale")
    assert both[both.index("--tta") + 1] == "flip,scale"
    assert "--tta" not in words()


def test_absences_are_told_with_whether_the_object_came_back(tmp_path):
    areas = [5, 5, 0, 0, 5, 0, 0]
    found = [(one.first, one.last, one.back) for one in absences(report([0.8] * 7, areas=areas, first=10), "1")]
    assert found == [(12, 13, True), (15, 16, False)]
    text = "".join(made(tmp_path, [0.8] * 7, areas=areas, first=10).words)
    assert "12 to 13 (came back), 15 to 16 (did not come back)" in text


def test_cuts_are_marked_in_the_strip_and_the_curves(tmp_path):
    page = made(tmp_path, [0.8] * 6, cut=(3,))
    assert "A new scene begins at 3" in "".join(page.words)
    assert sum("after-cut" in attrs.get("class", "") for attrs in page.all("figure")) == 1
    lines = [attrs["d"] for attrs in page.all("path") if attrs["class"] == "cut"]
    assert lines == ["M480.0 0V100"] * 2


def test_the_page_of_many_clips_has_the_worst_first_and_links_only_inside(tmp_path):
    for name, sure in (("good", 0.9), ("b & <c>", 0.3), ("fair", 0.6)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "report.json").write_text(json.dumps(report([sure] * 3)))
        (tmp_path / name / "report.html").write_text("")
    clips = [{"clip": name, "output": str(tmp_path / name), "status": "ok"} for name in ("good", "b & <c>")]
    clips += [{"clip": "fair", "output": "/moved/since/fair", "status": "ok", "notes": []}]
    clips += [{"clip": "lost", "status": "failed", "error": "lost/x.mp4: empty file", "notes": []}]
    clips += [{"clip": "evil", "output": "../..", "status": "ok"}]
    (tmp_path / "summary.json").write_text(json.dumps({"clips": len(clips), "results": clips}))
    page = read(write_batch_page(tmp_path))
    text = "".join(page.words)
    places = [text.index(word) for word in ("lost/x.mp4: empty file", "b & <c>", "fair", "good")]
    assert places == sorted(places)
    assert [unquote(attrs["href"]) for attrs in page.all("a")] == [
        f"./{name}/report.html" for name in ("b & <c>", "fair", "good")
    ]


def test_the_page_of_many_clips_needs_no_summary(tmp_path):
    (tmp_path / "a" / "x").mkdir(parents=True)
    (tmp_path / "a" / "x" / "report.json").write_text(json.dumps(report([0.5])))
    assert "a/x" in "".join(read(write_batch_page(tmp_path)).words)


def test_the_page_made_with_another_clip_says_so(segment, stm, make_clip, make_mask, tmp_path):
    clip, other = make_clip(frames=3), make_clip("other.mp4", frames=3, options={"crf": "40"})
    assert segment(clip, "-m", make_mask(), "-o", "out").exit_code == 0
    said = f"note: {other} is not the very file that was segmented"
    for words in (("report", "out"), ("report", "out", "--video", clip)):
        assert "very file" not in stm(*words).stderr
    assert said in stm("report", "out", "--video", other).stderr
    assert Review(tmp_path / "out", video=other).doubts == [said.removeprefix("note: ")]
    assert Review(tmp_path / "out").doubts == []


def test_a_clip_of_one_frame_has_a_page_and_is_counted_as_one(segment, make_clip, make_mask, tmp_path):
    answer = segment(make_clip(frames=1), "-m", make_mask(), "-o", "out")
    assert (answer.exit_code, "\n1 frame in " in answer.stderr) == (0, True)
    page = read(tmp_path / "out" / "report.html")
    assert len(page.all("figure")) == 1
    assert page.commands == []


def test_the_page_of_a_run_that_is_not_finished_waits_for_it(stm, tmp_path):
    (tmp_path / "out/masks").mkdir(parents=True)
    (tmp_path / "out/report.json").write_text('{"status": "running", "frames": []}')
    refused = stm("report", "out")
    assert (refused.exit_code, "out: is not finished (running). Wait for it" in refused.stderr) == (2, True)
