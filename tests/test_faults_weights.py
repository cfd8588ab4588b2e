"""The rows of the list of faults whose weights are spoilt, for every command that reads weights."""

import json
import pickle

import pytest
import torch
from faults import check_fault
from spoilt import cut
from test_clips import still, write_stills
from test_weights import Marker, tampered

from stmcli import registry


def content(data):
    def spoil(scene):
        scene.weights = scene.put("bad.pth", data)

    return spoil


def missing(scene):
    scene.weights = scene.put("tiny.pth", b"PK").with_name("tony.pth")


def special(kind):
    def spoil(scene):
        scene.weights = scene.special(kind, "bad.pth")

    return spoil


def runs_code(protocol):
    """Pickles that make a folder when they are loaded as usual: bare, and as torch packs them."""

    def spoil(scene):
        scene.weights = scene.folder / "bad.pth"
        if protocol:
            scene.weights.write_bytes(pickle.dumps(Marker(scene.folder / "ran"), protocol=protocol))
        else:
            torch.save({"a": torch.zeros(3), "b": Marker(scene.folder / "ran")}, scene.weights)

    return spoil


def changed(change, share=1.0):
    def spoil(scene):
        tampered(scene.folder, change)
        scene.weights = cut((scene.folder / "bad").rename(scene.folder / "bad.pth"), share)

    return spoil


def lose_two(state):
    del state["query_head.key.bias"], state["decoder.predict.bias"]


def not_a_number(state):
    state["query_head.key.bias"].fill_(torch.nan)


def another_network(scene):
    scene.weights = scene.folder / "bad.pth"
    torch.save({"conv1.weight": torch.zeros(3), "fc.bias": torch.zeros(3)}, scene.weights)


def another_safetensors(scene):
    from safetensors.torch import save_file

    scene.weights = scene.folder / "bad.pth"
    save_file({"a": torch.zeros(3)}, scene.weights)


def deep_header(scene):
    from safetensors.torch import save_file

    scene.weights = scene.folder / "bad.pth"
    save_file({"a": torch.zeros(3)}, scene.weights, metadata={"stm": "[" * 10**5})


FAULTS = {
    "missing": (missing, 2, r"tony\.pth: no such weights\. Did you mean tiny\.pth\?"),
    "folder": (special("folder"), 2, r"bad\.pth: .*not a regular file"),
    "pipe": (special("pipe"), 2, r"bad\.pth: .*not a regular file"),
    "socket": (special("socket"), 2, r"bad\.pth: .*not a regular file"),
    "device": (special("device"), 2, r"/dev/zero: .*not a regular file"),
    "empty": (content(b""), 1, r"bad\.pth: the file is empty"),
    "text": (content(b"these are no weights"), 1, r"bad\.pth: not a weights file"),
    "web page": (content(b"<html>"), 1, r"bad\.pth: .*web page"),
    "lfs pointer": (content(b"version https://git-lfs.github.com/spec/v1\n"), 1, r"bad\.pth: .*Git LFS.*git lfs pull"),
    "cut pth": (content(b"PK\x03\x04" + bytes(99)), 1, r"bad\.pth: .*cut short"),
    "pth of two bytes": (content(b"PK"), 1, r"bad\.pth: damaged or cut short"),
    "cut safetensors": (changed(lambda _: None, 0.6), 1, r"bad\.pth: damaged or cut short"),
    "another network": (another_network, 1, r"\d+ of 558 tensors missing, 2 unknown, first missing: decoder\.enter"),
    "another safetensors": (another_safetensors, 1, r"bad\.pth: not made by stm.*what stm train wrote"),
    "header in too many brackets": (deep_header, 1, r"bad\.pth: its header is damaged"),
    "tensors missing": (changed(lose_two), 1, r"2 of \d+ tensors missing, 0 unknown, first missing: decoder\.predict"),
    "not a number": (changed(not_a_number), 1, r"bad\.pth: .*query_head\.key\.bias.*NaN"),
    "pickle that runs code": (runs_code(2), 1, r"bad\.pth: refused, .*could run code"),
    "checkpoint that runs code": (runs_code(0), 1, r"bad\.pth: refused, .*could run code"),
}


def run_segment(stm, scene):
    return stm("segment", *scene.job, "-w", scene.weights, "--device", "cpu")


def run_import(stm, scene):
    return stm("weights", "import", scene.weights, "--name", "mine")


def run_init(stm, scene):
    small = ("--size", "compact", "--steps", "1", "--batch", "1", "--crop", "32", "--device", "cpu", "-q")
    stills = scene.folder / "stills"
    return stm("train", stills, "--init", scene.weights, "-o", scene.folder / "run", *small)


COMMANDS = {"segment": run_segment, "weights import": run_import, "train --init": run_init}


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("fault", FAULTS)
def test_spoilt_weights_are_one_line_and_run_nothing(scene, stm, fault, command):
    write_stills(scene.folder / "stills", {"red": still()})
    check_fault(scene, FAULTS[fault], lambda: COMMANDS[command](stm, scene))
    assert not (scene.folder / "ran").exists()


def test_weights_that_are_not_those_registered_are_refused(scene, stm, tiny_weights):
    assert stm("weights", "import", tiny_weights, "--name", "mine").exit_code == 0
    path = registry.registered()["mine"].path
    flipped = bytearray(path.read_bytes())
    flipped[len(flipped) // 2] ^= 1
    path.write_bytes(flipped)
    scene.weights = "mine"
    row = (lambda _: None, 1, r"mine\.safetensors: sha256 mismatch")
    check_fault(scene, row, lambda: run_segment(stm, scene))
    check_fault(scene, row, lambda: stm("weights", "verify", "mine"))


def test_there_is_no_switch_that_lets_weights_run_code(stm):
    words = " ".join(stm(*command, "--help").stdout for command in (("segment",), ("weights", "import"), ("train",)))
    assert "--weights" in words
    assert not any(word in words for word in ("unsafe", "trust", "pickle", "allow"))


def test_a_damaged_note_of_weights_is_named(scene, stm):
    folder = registry.cache_folder()
    folder.mkdir(parents=True)
    (folder / "mine.json").write_text(json.dumps({"sha256": ""}))
    check_fault(scene, (lambda _: None, 1, r"mine\.json: damaged note"), lambda: stm("weights", "list"))
