import json
import os
import re
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from conftest import picture
from PIL import Image

from stmcli import __version__
from stmcli.cli.commands import COMMANDS
from stmcli.masks import read_values, write_labels
from stmcli.options import MemoryOptions, NetworkOptions

BELOW = ("weights list", "weights path", "weights verify", "weights import", "mask check", "mask fix")


def plain(text):
    """Without the frames and colours of the help, and in one line."""
    return " ".join(re.sub(r"\x1b\[[0-9;]*m", " ", text).split())


def run_python(code, **settings):
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, **settings)


@pytest.mark.parametrize("library", ["torch", "av", "numpy", "rich.console", "stmcli.cli.segment"])
def test_help_does_not_wait_for(library):
    code = f"""
import sys
from stmcli.__main__ import main
sys.argv = ["stm", "--help"]
try:
    main()
except SystemExit as end:
    sys.exit(10 * ("{library}" in sys.modules) + (end.code or 0))
"""
    result = run_python(code)
    assert result.returncode == 0, result.stderr
    assert all(word in result.stdout for word in ("segment", "frame", "mask", "evaluate", "train", "weights"))


def test_a_variable_that_is_called_like_the_option_does_not_make_every_command_print_the_version(stm, monkeypatch):
    monkeypatch.setenv("STM_VERSION", "1")
    assert __version__ not in stm("weights", "path").stdout


def test_version(stm):
    result = stm("--version")
    assert (result.exit_code, result.stdout, result.stderr) == (0, f"stm {__version__}\n", "")


@pytest.mark.parametrize("command", [*COMMANDS, *BELOW])
@pytest.mark.parametrize("flag", ["-h", "--help"])
def test_every_command_has_help(stm, command, flag):
    result = stm(*command.split(), flag)
    assert result.exit_code == 0
    assert "Usage: " in result.stdout


@pytest.mark.parametrize("name", COMMANDS)
def test_the_list_of_commands_says_what_their_help_says_first(stm, name):
    _, _, text = stm(name, "--help").stdout.partition("\n\n")  # behind the usage
    assert plain(text).startswith(COMMANDS[name])


@pytest.mark.parametrize("words", [(), ("mask",), ("weights",)])
def test_lists_of_commands_are_whole_sentences(stm, words):
    shown = stm(*words, "--help").stdout.partition("Commands:")[2]
    assert shown.count(".\n") > 1
    assert "..." not in shown


def test_a_mistyped_command_is_one_sentence_after_another(stm):
    assert stm("segmnt").stderr == "error: No such command 'segmnt'. Did you mean 'segment'? See stm --help.\n"
    assert stm("weights", "info").stderr == "error: No such command 'info'. See stm weights --help.\n"


def test_without_a_command_the_help_is_shown(stm):
    result = stm()
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr == stm("--help").stdout


@pytest.mark.parametrize(
    ("said", "spins"), [({}, "10000"), ({"GOMP_SPINCOUNT": "7"}, "7"), ({"OMP_WAIT_POLICY": "ACTIVE"}, "None")]
)
def test_threads_that_wait_sleep_soon_unless_the_environment_says_otherwise(said, spins):
    code = "import atexit, os; atexit.register(lambda: print(os.environ.get('GOMP_SPINCOUNT')))"
    code += "; from stmcli.__main__ import main; main()"
    known = {name: value for name, value in os.environ.items() if name not in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")}
    words = [sys.executable, "-c", code, "--version"]
    done = subprocess.run(words, env=known | said, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == spins


def test_help_shows_the_defaults_of_the_options(stm, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    text = plain(stm("segment", "--help").stdout)
    for option, value in (
        ("--mem-every", MemoryOptions().every),
        ("--mem-max", MemoryOptions().max_slots),
        ("--mem-policy", MemoryOptions().policy),
        ("--weights", NetworkOptions().weights),
        ("--device", NetworkOptions().device),
        ("--export", "overlay"),
    ):
        assert re.search(rf"{option} .{{0,150}}\[default: \(?{re.escape(str(value))}\)?[;\]]", text), option


@pytest.mark.parametrize("words", [["segmnt"], ["--wrong"], ["segment"], ["segment", "--mem", "3"], ["weights", "x"]])
def test_wrong_usage_is_one_line_and_two(stm, words):
    result = stm(*words)
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr.startswith("error: ")
    assert len(result.stderr.splitlines()) == 1


def test_stdout_holds_the_paths_of_the_results_and_nothing_else(segment, make_clip, make_mask, tmp_path):
    result = segment(make_clip("my [red] take:1.mp4", frames=2), "-m", make_mask(), "-o", "out", "-e", "matte")
    assert result.exit_code == 0, result.stderr
    assert result.stdout.splitlines() == ["out/masks", "out/soft/1", "out/matte.mp4", "out/report.json"]
    assert all((tmp_path / line).exists() for line in result.stdout.splitlines())
    assert "take:1.mp4 (cpu, fp32)" in result.stderr
    assert "2 frames in" in result.stderr


def test_json_is_one_object(segment, make_clip, make_mask):
    result = segment(make_clip(frames=2), "-m", make_mask(), "--json", "-v")
    folder = "stm_out/clip"
    files = [f"{folder}/{name}" for name in ("masks", "overlay.mp4", "report.json")]
    assert json.loads(result.stdout) == {"output": folder, "files": files, "frames": 2}
    assert result.stdout.count("\n") == 1
    assert "64x48 h264, 2 frames, objects 1; weights" in result.stderr


def test_quiet_says_nothing(segment, make_clip, make_mask):
    assert segment(make_clip(frames=2), "-m", make_mask(), "-q").stderr == ""


def test_a_dry_run_writes_nothing(segment, make_clip, make_mask, tmp_path):
    words = (make_clip(frames=2), "-m", make_mask(ids=(3, 7)), "-n")
    shown, given = segment(*words), segment(*words, "--json")
    assert shown.exit_code == given.exit_code == 0
    assert "objects: 3, 7\n" in shown.stdout
    assert json.loads(given.stdout)["notes"] == []
    assert json.loads(segment(*words, "--json", "--end", 1).stdout)["notes"] == []
    late = json.loads(segment(*words, "--json", "--end", 9).stdout)
    assert (late["frames"], late["notes"]) == (2, ["the clip ends at frame 1, before frame 9"])
    assert json.loads(given.stdout)["objects"] == [3, 7]
    assert not (tmp_path / "stm_out").exists()


@pytest.mark.parametrize("words", [("segment",), ("mask", "fix"), ("mask", "check"), ("weights", "import")])
def test_no_help_lists_environment_variables(stm, words):
    shown = stm(*words, "--help").stdout
    assert "Usage" in shown
    assert "env var" not in shown


def test_options_read_the_environment(segment, make_clip, make_mask, monkeypatch, tmp_path):
    monkeypatch.setenv("STM_SEGMENT_MEM_EVERY", "2")
    assert segment(make_clip(frames=2), "-m", make_mask(), "-o", "out").exit_code == 0
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert report["options"]["memory"]["every"] == 2
    monkeypatch.setenv("STM_SEGMENT_MEM_EVERY", "often")
    assert segment(make_clip(frames=2), "-m", make_mask(), "-o", "other").exit_code == 2


def test_the_environment_holds_several_values_as_a_shell_does(segment, make_clip, make_mask, monkeypatch):
    clip, spaced, quoted = make_clip(), make_mask("a mask.png", ids=(2,)), make_mask("it's.png", ids=(7,))
    monkeypatch.setenv("STM_SEGMENT_MASK", f"'{spaced}' '5:{spaced}'")
    monkeypatch.setenv("STM_SEGMENT_EXPORT", "coco matte")
    plan = json.loads(segment(clip, "-n", "--json").stdout)
    assert [(mask["frame"], mask["path"]) for mask in plan["masks"]] == [(0, str(spaced)), (5, str(spaced))]
    assert [name.rpartition("/")[2] for name in plan["outputs"]][2:4] == ["coco.json", "matte.mp4"]
    monkeypatch.setenv("STM_SEGMENT_MASK", str(quoted))
    assert json.loads(segment(clip, "-n", "--json").stdout)["objects"] == [7]


def test_what_a_partial_job_has_made_is_on_stdout(segment, stm, make_folder, make_mask):
    clip, mask = make_folder([f"{index}.png" for index in range(4)]), make_mask()
    broken = clip / "2.png"
    broken.write_bytes(broken.read_bytes()[:99])
    made = segment(clip, "-m", mask, "-o", "out", "-e", "none", "--on-corrupt", "skip", "--json")
    assert (made.exit_code, json.loads(made.stdout)["files"]) == (3, ["out/masks", "out/report.json"])
    assert made.stderr.splitlines()[-1].endswith("frames: 1 frame could not be read (2). The others are in out.")
    exported = stm("export", "out", "--video", clip, "--to", "overlay", "--on-corrupt", "stop")
    assert (exported.exit_code, exported.stdout) == (3, "out/overlay.mp4\n")
    assert "note: stopped at frame 2" in exported.stderr


def test_objects_are_chosen_by_their_ids(segment, make_clip, make_mask, tmp_path):
    assert segment(make_clip(frames=3), "-m", make_mask(ids=(3, 7)), "--objects", "7", "-o", "out").exit_code == 0
    assert set(np.unique(read_values(tmp_path / "out" / "masks" / "00000.png"))) == {0, 7}


def test_tracebacks_are_shown_only_when_asked_for(segment, stm, make_mask):
    words = ("none.mp4", "-m", make_mask())
    assert "Traceback" not in segment(*words, "-v").stderr
    assert "Traceback" in segment(*words, "-vv").stderr
    assert "Traceback" in stm("-vv", "segment", *words).stderr


@pytest.mark.parametrize("code", [130, 143])
def test_an_interrupt_before_the_job_is_one_line_too(segment, make_clip, make_mask, monkeypatch, code):
    from stmcli.errors import Terminated

    def stop(*_, **__):
        raise Terminated if code == 143 else KeyboardInterrupt

    monkeypatch.setattr("stmcli.job.open_source", stop)
    result = segment(make_clip(frames=2), "-m", make_mask())
    assert (result.exit_code, result.stderr) == (code, "error: interrupted\n")


def test_sigterm_ends_a_run_with_143_and_says_how_to_go_on(make_clip, make_mask, tiny_weights, tmp_path):
    words = ["segment", make_clip(frames=2000), "-m", make_mask(), "-o", "out", "-w", tiny_weights, "-e", "overlay"]
    command = [sys.executable, "-m", "stmcli", *map(str, words), "--device", "cpu"]
    process = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    while not (tmp_path / "out" / "masks" / "00005.png").exists() and process.poll() is None:
        time.sleep(0.02)
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate()
    assert (process.returncode, out) == (143, ""), err
    last = err.splitlines()[-1]
    assert re.fullmatch(r"error: out: stopped after \d+ frames\. Run the same command again to go on\.", last)
    assert not [name for name in os.listdir(tmp_path / "out") if "overlay" in name or name == ".lock"]


# -- stm frame


def test_frame_is_upright_and_equal_to_the_decoded_one(stm, make_clip, tmp_path):
    from stmcli.video import read_frame

    clip = make_clip(rotation=90)
    result = stm("frame", clip, "--at", "3", "-o", "f.png")
    assert (result.exit_code, result.stdout) == (0, "f.png\n"), result.stderr
    with Image.open(tmp_path / "f.png") as image:
        drawn = np.array(image)
    assert drawn.shape == (64, 48, 3)
    assert np.array_equal(drawn, read_frame(clip, 3).rgb)
    assert np.abs(drawn.astype(int).mean() - picture(3).mean()) < 3


def test_frame_overwrites_only_when_told(stm, make_clip, tmp_path):
    (tmp_path / "f.png").write_bytes(b"precious")
    result = stm("frame", make_clip(), "-o", "f.png")
    assert (result.exit_code, len(result.stderr.splitlines())) == (2, 1)
    assert (tmp_path / "f.png").read_bytes() == b"precious"
    assert stm("frame", make_clip(), "-o", "f.png", "-y").exit_code == 0
    with Image.open(tmp_path / "f.png") as image:
        assert image.size == (64, 48)


def test_frame_is_written_as_png_alone(stm, make_clip, tmp_path):
    for name in ("f.jpg", "f.JPEG", "f"):
        result = stm("frame", make_clip(), "-o", name)
        said = f"error: {name}: masks and frames are written as PNG alone. Call it f.png.\n"
        assert (result.exit_code, result.stderr) == (2, said)
        assert not (tmp_path / name).exists()


def test_frame_says_that_a_rate_does_nothing_for_a_video(stm, make_clip, make_folder):
    frames = make_folder(["0.png", "1.png"])
    for video, fps, said in ((make_clip(), "25", True), (make_clip(), "24", False), (frames, "25", False)):
        result = stm("frame", video, "--fps", fps, "-o", "f.png", "-y")
        assert result.exit_code == 0, result.stderr
        assert result.stderr == "note: --fps does nothing: a video has its own rate\n" * said


def test_frame_never_touches_its_source(stm, make_clip, make_folder):
    clip, folder = make_clip(), make_folder(["0.png", "1.png"])
    before = clip.read_bytes(), (folder / "1.png").read_bytes()
    for video, output in ((clip, clip), (folder, folder / "1.png"), (folder, folder / "new.png")):
        result = stm("frame", video, "-o", output, "-y")
        assert result.exit_code == 2, result.stderr
    for output in ("1.png", "2.png"):
        assert stm("frame", folder / "%d.png", "-o", folder / output, "-y").exit_code == 2
    assert (clip.read_bytes(), (folder / "1.png").read_bytes()) == before
    assert sorted(os.listdir(folder)) == ["0.png", "1.png"]
    assert stm("frame", folder / "%d.png", "-o", folder / "mask.png").exit_code == 0


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["none.mp4"], "no such file"),
        (["clip.mp4", "--at", "99"], "has no frame 99"),
        (["clip.mp4", "-o", "no/f.png"], "no: no such folder"),
        (["clip.mp4", "-o", "."], "is a folder"),
    ],
)
def test_frame_says_what_is_wrong(stm, make_clip, words, message):
    make_clip("clip.mp4")
    result = stm("frame", *words)
    assert (result.exit_code, len(result.stderr.splitlines())) == (2, 1)
    assert message in result.stderr


def test_of_words_that_are_too_many_a_few_are_named_and_how_frames_are_given(stm):
    names = [f"shot/{number:04}.png" for number in range(900)]
    result = stm("segment", *names, "--mask", "m.png")
    assert (result.exit_code, len(result.stderr.splitlines())) == (2, 1)
    assert "too many words: shot/0001.png, shot/0002.png and 897 more" in result.stderr
    assert "one word, its folder or shot.####.png" in result.stderr
    assert "too many words: b.mp4. See stm info --help." in stm("info", "a.mp4", "b.mp4").stderr


# -- stm weights


def test_weights_are_listed_with_their_licence(stm, tiny_weights):
    assert "non-commercial" in plain(stm("weights", "list").stdout)
    imported = stm("weights", "import", tiny_weights, "--name", "mine")
    assert imported.exit_code == 0, imported.stderr
    assert imported.stderr == "mine: free\n"
    path = imported.stdout.strip()
    assert stm("weights", "path", "mine").stdout.strip() == path
    rows = {row["name"]: row for row in json.loads(stm("weights", "list", "--json").stdout)}
    assert rows["mine"]["path"] == path
    assert rows["compact"]["licence"].startswith("CC BY-NC-SA")


def test_weights_verify_finds_a_damaged_file(stm, tiny_weights):
    path = stm("weights", "import", tiny_weights, "--name", "mine").stdout.strip()
    assert [line.split(":")[0] for line in stm("weights", "verify").stdout.splitlines()] == ["mine", "compact"]
    with open(path, "r+b") as file:
        file.seek(5000)
        file.write(b"damage")
    result = stm("weights", "verify", "mine")
    assert (result.exit_code, result.stdout) == (1, "")
    assert "sha256 mismatch" in result.stderr
    assert stm("weights", "verify", "compact").exit_code == 0
    assert stm("weights", "verify", "none").exit_code == 2


# -- stm evaluate


@pytest.fixture
def davis(tmp_path):
    """A DAVIS root with two clips of five frames; the object of the second one moves."""
    root = tmp_path / "davis"
    for clip, speed in (("still", 0), ("moving", 3)):
        frames, masks = root / "JPEGImages" / "480p" / clip, root / "Annotations" / "480p" / clip
        frames.mkdir(parents=True)
        masks.mkdir(parents=True)
        for index in range(5):
            Image.fromarray(np.roll(picture(0), speed * index, axis=1)).save(frames / f"{index:05d}.jpg")
            labels = np.zeros((48, 64), np.uint8)
            labels[:12, speed * index : speed * index + 16] = 1
            write_labels(masks / f"{index:05d}.png", labels)
    return root


def test_evaluate_gives_the_scores_as_json(stm, davis):
    truth = davis / "Annotations" / "480p"
    result = stm("evaluate", truth, "--gt", davis, "--json")
    scores = json.loads(result.stdout)
    assert (scores["J&F_mean"], scores["J_mean"], scores["F_mean"]) == (1, 1, 1)
    assert set(scores["sequences"]) == {"still", "moving"}
    names = {f"{letter}_{name}" for letter in "JF" for name in ("mean", "recall", "decay", "per_frame")}
    assert set(scores["sequences"]["moving"]["1"]) == names
    assert "mean" in stm("evaluate", truth, "--gt", davis).stdout


def test_evaluate_can_segment_first_and_goes_on_where_it_was(stm, davis, tiny_weights, tmp_path):
    words = ("evaluate", "--run", davis, "-w", tiny_weights, "--device", "cpu", "-o", "scored", "--json")
    first = stm(*words)
    assert first.exit_code == 0, first.stderr
    scores = json.loads(first.stdout)
    assert 0 <= scores["J_mean"] <= 1
    assert len(scores["sequences"]["still"]["1"]["J_per_frame"]) == 3
    assert len(os.listdir(tmp_path / "scored" / "moving" / "masks")) == 5
    before = (tmp_path / "scored" / "still" / "report.json").stat().st_mtime_ns
    assert stm(*words).stdout == first.stdout
    assert (tmp_path / "scored" / "still" / "report.json").stat().st_mtime_ns == before
    other = stm(*words, "--mem-every", "1")
    assert (other.exit_code, other.stdout) == (2, "")
    assert stm(*words, "--mem-every", "1", "-y").exit_code == 0


@pytest.mark.parametrize(("words", "folder"), [((), "still"), (("--policies",), "first/still")])
def test_evaluate_segments_with_or_without_fitted_masks(words, folder, stm, davis, tiny_weights, tmp_path):
    words = ("evaluate", "--run", davis, "-w", tiny_weights, "--device", "cpu", "-o", "scored", "-q", *words)
    for choice, refine in (((), True), (("--no-refine", "-y"), False)):
        assert stm(*words, *choice).exit_code == 0
        report = json.loads((tmp_path / "scored" / folder / "report.json").read_text())
        assert report["options"]["export"]["refine"] is refine


@pytest.mark.parametrize("words", [[], ["p"], ["--gt", "g"], ["p", "--run", "r"], ["--run", "r", "--protocol", "x"]])
def test_evaluate_needs_predictions_and_truth(stm, words):
    result = stm("evaluate", *words)
    assert (result.exit_code, len(result.stderr.splitlines())) == (2, 1)


@pytest.mark.parametrize("anchor", ["0.5", "-1", "nan", "inf"])
def test_an_anchor_that_is_no_weight_is_refused(segment, make_clip, make_mask, anchor):
    result = segment(make_clip(), "-m", make_mask(), "--anchor", anchor)
    assert result.exit_code == 2
    assert f"--anchor {float(anchor):g}: not a weight" in result.stderr


@pytest.mark.parametrize("reach", ["-1", "nan", "inf", "0.01"])
def test_a_reach_that_is_no_distance_is_refused(segment, make_clip, make_mask, reach):
    result = segment(make_clip(), "-m", make_mask(), "--reach", reach)
    assert (result.exit_code, len(result.stderr.splitlines())) == (2, 1)
    assert f"--reach {float(reach):g}: not a distance" in result.stderr


def test_reach_is_part_of_the_job_and_of_its_report(segment, make_clip, make_mask, tmp_path):
    words = (make_clip(frames=3), "-m", make_mask(), "-o", "out", "-e", "none")
    assert segment(*words, "--reach", "0.5").exit_code == 0
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert report["options"]["network"]["reach"] == 0.5
    assert "already done" in segment(*words, "--reach", "0.5").stderr
    assert segment(*words).exit_code == 2  # another job's result


def test_views_are_a_list_of_known_words_in_any_order(segment, make_clip, make_mask, tmp_path):
    words = (make_clip(frames=3), "-m", make_mask(), "-o", "out", "-e", "none")
    assert segment(*words, "--tta", "scale,flip").exit_code == 0
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert report["options"]["network"]["tta"] == ["flip", "scale"]
    assert "already done" in segment(*words, "--tta", "flip,scale").stderr
    result = segment(*words, "--tta", "flip,turn")
    assert (result.exit_code, len(result.stderr.splitlines())) == (2, 1)
    assert "--tta turn: unknown" in result.stderr


def test_adapting_is_shown(segment, make_clip, make_mask, monkeypatch):
    monkeypatch.setattr("stmcli.cli.progress.PLAIN_EVERY", 0.0)
    result = segment(make_clip(frames=3), "-m", make_mask(), "--adapt", "2", "-e", "none")
    assert result.exit_code == 0
    assert "clip.mp4: adapting 1/2" in result.stderr
    assert segment(make_clip(), "-m", make_mask(), "--adapt", "-1").exit_code == 2
