"""The rows of the list of faults whose options are wrong, or several things at once, for `stm segment`."""

import re

import pytest
import torch
from faults import check_fault, everything, forbid_network
from test_faults_clip import content as clip_of
from test_faults_clip import missing as missing_clip
from test_faults_mask import content as mask_of
from test_faults_mask import missing as missing_mask
from test_faults_output import is_a_file as output_is_a_file

FAULTS = {
    "unknown object": (("--objects", "1,4"), r"mask\.png: no object 4.*1"),
    "objects are no numbers": (("--objects", "one"), r"--objects one"),
    "frame beyond the end": (("--start", "99"), r"clip\.mp4: has no frame 99.*3 frames"),
    "range upside down": (("--start", "2", "--end", "1"), r"clip\.mp4: starts"),
    "unknown export": (("-e", "gif"), "--export gif"),
    "unknown policy": (("--mem-policy", "none"), "--mem-policy none"),
    "one memory slot": (("--mem-max", "1"), "--mem-max"),
    "negative size": (("--size", "-1"), "--size"),
    "size is no number": (("--size", "big"), "--size.*integer"),
    "unknown option": (("--speed", "9"), "--speed"),
    "option by its beginning": (("--overw",), "--overw"),
    "unknown audio": (("--audio", "loud"), "--audio loud"),
    "unknown on-corrupt": (("--on-corrupt", "pray"), "--on-corrupt pray"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_wrong_option_is_one_line_and_leaves_everything_as_it_was(scene, segment, monkeypatch, fault):
    forbid_network(monkeypatch)
    words, message = FAULTS[fault]
    check_fault(scene, (lambda _: None, 2, message), lambda: segment(*scene.job, *words))


@pytest.mark.parametrize(
    ("device", "code", "cause"),
    [
        pytest.param(
            "cuda",
            1,
            "there is no such CUDA device here",
            marks=pytest.mark.skipif(torch.cuda.is_available(), reason="there is CUDA here"),
        ),
        ("cuda:99", 1, "there is no such CUDA device here"),
        ("meta", 2, "not supported"),
        ("tpu", 2, "no such device"),
    ],
)
def test_a_device_that_is_not_there_is_an_error_that_leaves_nothing(scene, stm, tiny_weights, device, code, cause):
    row = (lambda _: None, code, f"^error: --device {device}: {cause}")
    check_fault(scene, row, lambda: stm("segment", *scene.job, "-w", tiny_weights, "--device", device))


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is CUDA here")
def test_auto_takes_the_cpu_where_there_is_no_cuda_and_says_so(scene, stm, tiny_weights):
    result = stm("segment", *scene.job, "-w", tiny_weights, "--precision", "fp32")
    assert result.exit_code == 0, result.stderr
    assert result.stderr.startswith("clip.mp4 (cpu, fp32)\n")


@pytest.mark.parametrize("words", [("segment",), ("segment", "clip.mp4"), ("segment", "-m", "mask.png"), ("fly",)])
def test_what_is_missing_in_a_command_is_wrong_usage(stm, words):
    result = stm(*words)
    assert (result.exit_code, len(result.stderr.splitlines())) == (2, 1)
    command = "stm segment" if words[0] == "segment" else "stm"
    paints = "stm mask paint makes one. " if words == ("segment", "clip.mp4") else ""
    assert re.match(rf"error: (Missing|No such command) [^.]*\. {paints}See {command} --help\.", result.stderr)


def several(scene, segment, *spoils, words=()):
    for spoil in spoils:
        spoil(scene)
    before = everything(scene.folder)
    result = segment(*scene.job, *words)
    assert everything(scene.folder) == before
    assert result.stdout == ""
    return result.exit_code, result.stderr.splitlines()


def test_all_that_is_wrong_is_told_at_once(scene, segment):
    words = ("--encoder", "gpu", "--mem-policy", "none", "--objects", "one", "--tta", "turn")
    code, lines = several(scene, segment, missing_mask, output_is_a_file, words=words)
    assert code == 2
    found = (
        "--objects one",
        "--tta turn",
        "--mem-policy none",
        "--encoder gpu",
        r"mosk\.png: no such",
        "file: is a file",
    )
    assert len(lines) == len(found)
    assert all(re.match(f"error: .*{text}", line) for text, line in zip(found, lines, strict=True)), lines


def test_faults_of_the_clip_beside_those_of_usage_end_with_1(scene, segment):
    code, lines = several(scene, segment, clip_of(b""), mask_of(b"words"))
    assert code == 1
    assert [re.findall(r"error: \S+/(\S+): (\w+)", line)[0] for line in lines] == [
        ("a.mp4", "empty"),
        ("bad.png", "not"),
    ]


def test_one_fault_that_two_checks_find_is_told_once(scene, segment):
    code, lines = several(scene, segment, missing_clip, words=("--start", "0.1s"))
    assert (code, len(lines)) == (2, 1)


def test_a_wrong_option_does_not_make_others_seem_wrong(scene, segment):
    scene.mask = f"1002:{scene.mask}"
    words = ("--first-number", "1001", "--on-corrupt", "pray", "--encoder", "gpu")
    code, lines = several(scene, segment, words=words)
    assert code == 2
    assert [line.split()[1] for line in lines] == ["--on-corrupt", "--encoder"]
