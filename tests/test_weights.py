import json
import os
import pickle
import shutil
import socket
import warnings
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from test_clips import still, write_stills

from stmcli import registry, weights
from stmcli.clips import load_stills
from stmcli.errors import StmError, UsageError, WeightsError
from stmcli.model import SIZES, STM, Dims
from stmcli.options import Fit, NetworkOptions
from stmcli.ranges import ranges_in_stills
from stmcli.registry import digest, registered, sha256, verify
from stmcli.weights import PUBLISHED_LICENCE, Card, load_model, read, save

TINY = Dims(trunk="resnet18", key=8, value=16, decoder=8)


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "stm" / "weights"


@pytest.fixture(scope="module")
def published_file(tmp_path_factory):
    """A file in the published format: its names, its shapes, small random numbers."""
    torch.manual_seed(1)
    wanted = STM(SIZES["resnet50"]).state_dict()
    state = {}
    for line in (Path(__file__).parent / "golden" / "keys.txt").read_text().splitlines():
        name = line.partition("\t")[0]
        state["module." + name] = wanted[weights.rename("module." + name)]
    path = tmp_path_factory.mktemp("published") / "STM_weights.pth"
    torch.save(state, path)
    return path


def same(ours, theirs):
    ours, theirs = ours.state_dict(), theirs.state_dict()
    return ours.keys() == theirs.keys() and all(torch.equal(x, theirs[name]) for name, x in ours.items())


def test_a_saved_network_comes_back_with_its_card(tmp_path):
    model, card = STM(TINY), Card(TINY, "mine", "here", Fit(96))
    written = save(tmp_path / "a.safetensors", model, card)
    again, its_card = read(tmp_path / "a.safetensors")
    assert same(model, again)
    assert its_card == card
    assert written == sha256(tmp_path / "a.safetensors")


def test_half_precision_storage_halves_the_file_and_loads_as_fp32(tmp_path):
    model, card = STM(TINY), Card(TINY, "mine")
    save(tmp_path / "a.safetensors", model, card)
    save(tmp_path / "b.safetensors", model, card, dtype=torch.float16)
    half = read(tmp_path / "b.safetensors")[0].state_dict()
    assert (tmp_path / "b.safetensors").stat().st_size < 0.52 * (tmp_path / "a.safetensors").stat().st_size
    for name, x in model.state_dict().items():
        assert half[name].dtype == x.dtype
        assert torch.equal(half[name], x.half().float() if x.is_floating_point() else x)


def test_the_bundled_network_is_registered_small_and_whole():
    entry = registered()["compact"]
    verify(entry)
    assert "non-commercial" in entry.licence
    assert entry.path.stat().st_size <= 20e6
    with safe_open(entry.path, framework="pt") as file:
        assert {file.get_tensor(name).dtype for name in file.keys() if "running" in name} == {torch.float16}  # noqa: SIM118
    model, card = read(entry.path)
    assert card.dims == SIZES["compact"]
    assert card.licence == entry.licence
    assert sum(p.numel() for p in model.parameters()) <= 10e6


def test_the_papers_size_has_the_papers_parameters():
    count = sum(p.numel() for p in STM(SIZES["resnet50"]).parameters())
    assert abs(count - 38.9e6) < 0.05e6


def test_import_of_the_published_file_gives_the_same_network_and_its_licence(published_file, cache):
    entry = weights.import_file(published_file, name="paper")
    assert entry.path == cache / "paper.safetensors"
    assert entry.licence == registered()["paper"].licence == PUBLISHED_LICENCE
    assert "non-commercial" in entry.licence
    verify(registered()["paper"])
    assert same(read(published_file)[0], weights.read_named("paper")[0])


def test_import_measures_on_stills_how_large_numbers_become(tiny_weights, tmp_path):
    write_stills(tmp_path / "stills", {"one": still(), "two": still()})
    assert not weights.card_of(tiny_weights).ranges
    entry = weights.import_file(
        tiny_weights, name="mine", measure=partial(ranges_in_stills, paths=[tmp_path / "stills"])
    )
    model, card = read(entry.path)
    assert card.ranges.keys() == {name for name, part in model.named_modules() if isinstance(part, torch.nn.Conv2d)}
    assert card.ranges["memory_encoder.planes.0"] == 1
    assert min(card.ranges.values()) > 0
    assert same(model, read(tiny_weights)[0])
    assert card.ranges == {name: float(f"{value:.3g}") for name, value in card.ranges.items()}
    with pytest.raises(UsageError, match="there are weights called mine"):
        weights.import_file(tiny_weights, name="mine", measure=lambda _: pytest.fail("measured"))


def test_import_takes_stills_on_the_command_line(stm, tiny_weights, tmp_path):
    write_stills(tmp_path / "stills", {"one": still(), "two": still()})
    assert stm("weights", "import", tiny_weights, "--name", "mine", "--stills", tmp_path / "stills").exit_code == 0
    assert weights.card_of(registered()["mine"].path).ranges
    refused = stm("weights", "import", tiny_weights, "--name", "other", "--stills", tmp_path / "nowhere")
    assert refused.exit_code == 2
    assert "nowhere" in refused.stderr


def test_of_many_stills_a_few_are_read(tmp_path):
    write_stills(tmp_path / "stills", {f"still-{number}": still() for number in range(7)})
    assert [len(load_stills([tmp_path / "stills"], most=most)) for most in (1, 3, 4, 7, 9, None)] == [1, 3, 4, 7, 7, 7]


@pytest.mark.parametrize("name", ["compact", "../escape", "a/b", ".hidden", ""])
def test_import_refuses_names_that_are_taken_or_no_names(tiny_weights, cache, name):
    source = tiny_weights if name else tiny_weights.parent / ".safetensors"
    with pytest.raises(UsageError) as caught:
        weights.import_file(source, name=name)
    assert not cache.exists() or not list(cache.parent.rglob("*"))
    assert caught.value.exit_code == 2


def test_imported_weights_cannot_hide_bundled_ones(cache):
    cache.mkdir(parents=True)
    (cache / "compact.json").write_text(json.dumps({"sha256": "0", "licence": "none", "origin": ""}))
    assert registered()["compact"].path.parent == registry.BUNDLED


def test_a_file_is_hashed_once_until_it_changes(tmp_path, monkeypatch):
    path, read = tmp_path / "a", []
    monkeypatch.setattr(registry, "sha256", lambda path: read.append(path) or sha256(path))
    path.write_bytes(b"one")
    assert [digest(path), digest(path)] == [sha256(path)] * 2
    path.write_bytes(b"three")
    assert digest(path) == sha256(path)
    assert len(read) == 2


def test_a_damaged_note_is_named(cache):
    cache.mkdir(parents=True)
    (cache / "mine.json").write_text('{"sha256": ')
    with pytest.raises(WeightsError, match=r"mine\.json: damaged"):
        registered()


def test_a_flipped_byte_in_registered_weights_is_found(tiny_weights):
    entry = weights.import_file(tiny_weights, name="mine")
    content = bytearray(entry.path.read_bytes())
    content[len(content) // 2] ^= 1
    entry.path.write_bytes(content)
    with pytest.raises(WeightsError, match=r"mine\.safetensors: sha256 mismatch"):
        load_model(NetworkOptions("mine", "cpu", "fp32"))


def test_weights_that_do_not_exist_are_a_usage_error_that_lists_what_there_is():
    with pytest.raises(UsageError, match=r"nowhere: no such weights.*compact"):
        load_model(NetworkOptions("nowhere", "cpu"))


class Marker:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def tampered(tmp_path, change):
    model = STM(TINY)
    state = dict(model.state_dict())
    change(state)
    note = json.dumps({"dims": vars(TINY), "licence": "mine"})
    save_file(state, tmp_path / "bad", metadata={"stm": note})
    return (tmp_path / "bad").read_bytes()


def legacy(tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.save({"a": torch.zeros(1000)}, tmp_path / "legacy", _use_new_zipfile_serialization=False)
    return (tmp_path / "legacy").read_bytes()


def zipped(tmp_path):
    torch.save({"a": torch.zeros(1000), "b": torch.zeros(3)}, tmp_path / "zip")
    return (tmp_path / "zip").read_bytes()


def without_head(state):
    del state["query_head.key.bias"], state["decoder.predict.bias"]


BROKEN = {
    "web page": (lambda _: b"\n<!DOCTYPE html><html>404</html>", "web page"),
    "lfs pointer": (lambda _: b"version https://git-lfs.github.com/spec/v1\noid sha256:1\n", "Git LFS pointer"),
    "empty": (lambda _: b"", "empty"),
    "text": (lambda _: b"these are no weights", "not a weights file"),
    "half a zip": (lambda p: zipped(p)[: len(zipped(p)) // 2], "cut short"),
    "half a legacy pickle": (lambda p: legacy(p)[: len(legacy(p)) // 2], "cut short"),
    "start of a legacy pickle": (lambda p: legacy(p)[:40], "cut short"),
    "half a safetensors": (lambda p: tampered(p, lambda _: None)[:100_000], "cut short"),
    "start of a safetensors": (lambda p: tampered(p, lambda _: None)[:20], "cut short"),
    "another network": (zipped, r"\d+ of 558 tensors missing, 2 unknown, first missing: decoder\.enter\.bias"),
    "missing tensors": (
        lambda p: tampered(p, without_head),
        r"2 of \d+ tensors missing, 0 unknown, first missing: decoder\.predict\.bias",
    ),
    "wrong shape": (
        lambda p: tampered(p, lambda s: s.update({"query_head.key.bias": torch.zeros(9)})),
        r"query_head\.key\.bias is \(9,\) but must be \(8,\)",
    ),
    "not a number": (lambda p: tampered(p, lambda s: s["query_head.key.bias"].fill_(torch.nan)), "NaN"),
    "a pickle that runs code": (lambda p: pickle.dumps(Marker(p / "ran"), protocol=2), "could run code"),
    "a run": (lambda p: (torch.save({"ema": {}}, p / "run"), (p / "run").read_bytes())[1], "state of a training run"),
    "a list": (lambda p: (torch.save([1], p / "list"), (p / "list").read_bytes())[1], "not a state dict"),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_broken_weights_are_refused_with_path_and_cause(tmp_path, kind):
    make, cause = BROKEN[kind]
    content = make(tmp_path)
    path = tmp_path / "broken.pth"
    path.write_bytes(content)
    with pytest.raises(WeightsError, match=rf"broken\.pth: .*{cause}") as caught:
        read(path)
    assert caught.value.exit_code == 1
    assert not (tmp_path / "ran").exists()


def test_the_marker_pickle_would_run_if_it_were_loaded_as_usual(tmp_path):
    pickle.loads(pickle.dumps(Marker(tmp_path / "ran"), protocol=2))
    assert (tmp_path / "ran").exists()


@pytest.mark.parametrize("kind", ["zip", "legacy"])
def test_any_cut_or_flip_of_a_checkpoint_is_a_weights_error(tmp_path, kind):
    whole = (zipped if kind == "zip" else legacy)(tmp_path)
    path = tmp_path / "broken.pth"
    for place in range(0, len(whole), len(whole) // 12):
        for content in (whole[:place], whole[:place] + bytes([whole[place] ^ 0x55]) + whole[place + 1 :]):
            path.write_bytes(content)
            with pytest.raises(WeightsError, match=r"broken\.pth"):
                read(path)


@pytest.mark.parametrize("size", SIZES)
def test_building_a_network_opens_no_socket(monkeypatch, size):
    def refuse(*_, **__):
        raise AssertionError("a socket was opened")

    monkeypatch.setattr(socket, "socket", refuse)
    STM(SIZES[size])


def test_precisions_and_devices_are_checked():
    assert load_model(NetworkOptions("compact", "cpu", "fp16")).decoder.predict.weight.dtype == torch.float16
    for options in (NetworkOptions(device="tpu"), NetworkOptions(device="mps"), NetworkOptions(precision="fp8")):
        with pytest.raises(UsageError):
            load_model(options)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is CUDA here")
def test_cuda_without_cuda_is_refused_before_the_weights_are_read(tmp_path):
    with pytest.raises(StmError, match="--device cuda"):
        load_model(NetworkOptions(str(tmp_path / "none"), "cuda"))


def test_what_suits_the_weights_fills_in_what_was_left_open():
    fit = Fit(size=384, top_k=30, reach=16, focus=2, anchor=100, augment=("flip", "scale"), gate=0.5, renew=3)
    assert weights.suited(NetworkOptions()) == fit
    assert (
        weights.suited(NetworkOptions(size=0, top_k=0, reach=0, focus=0, anchor=1, augment=(), gate=0, renew=1))
        == Fit()
    )
    assert weights.suited(NetworkOptions(top_k=0)) == replace(fit, top_k=0)


def test_published_weights_read_anywhere(published_file):
    assert weights.card_of(published_file).fit == Fit(size=480)


@pytest.mark.usefixtures("cache")
def test_what_was_found_to_suit_registered_weights_goes_with_them_and_their_copies(tiny_weights, tmp_path):
    entry = weights.import_file(tiny_weights, name="mine")
    note = entry.path.with_suffix(".json")
    note.write_text(json.dumps(json.loads(note.read_text()) | {"suits": {"reach": 4, "top_k": 9, "anchor": 3}}))
    weights.import_file(entry.path, name="again")
    for name in ("mine", "again"):
        card = weights.card_of(registered()[name].path)
        assert card.fit == Fit(size=48, top_k=9, reach=4, anchor=3)
        assert read(registered()[name].path)[1] == card
    copy, other = tmp_path / "copy.safetensors", tmp_path / "other.safetensors"
    shutil.copy(entry.path, copy)
    assert weights.card_of(copy) == weights.card_of(entry.path)
    other.write_bytes(bytes([*copy.read_bytes()[:-1], copy.read_bytes()[-1] ^ 1]))
    assert weights.card_of(other).fit == Fit(size=48)
    note.write_text(json.dumps(json.loads(note.read_text()) | {"suits": {"strange": 1}}))
    with pytest.raises(WeightsError, match="header is damaged"):
        weights.card_of(entry.path)


@pytest.mark.usefixtures("cache")
def test_a_name_is_given_to_other_weights_only_when_asked(stm, tiny_weights, tmp_path):
    torch.manual_seed(1)
    save(tmp_path / "other.safetensors", STM(TINY), Card(TINY, "mine"))
    assert stm("weights", "import", tiny_weights, "--name", "mine").exit_code == 0
    before = registered()["mine"].sha256
    assert stm("weights", "import", tiny_weights, "--name", "mine").exit_code == 0  # the same once more
    refused = stm("weights", "import", "other.safetensors", "--name", "mine")
    assert refused.exit_code == 2
    assert "other weights are called mine" in refused.stderr
    assert registered()["mine"].sha256 == before
    assert stm("weights", "import", "other.safetensors", "--name", "mine", "-y").exit_code == 0
    assert registered()["mine"].sha256 != before


def test_the_ways_in_which_a_given_frame_is_memorized_are_kept_in_the_file(tmp_path):
    card = Card(TINY, "mine", fit=Fit(size=48, augment=("flip", "scale")))
    save(tmp_path / "w.safetensors", STM(TINY), card)
    assert weights.card_of(tmp_path / "w.safetensors") == card
    options = NetworkOptions(str(tmp_path / "w.safetensors"))
    assert weights.suited(options).augment == ("flip", "scale")
    assert weights.suited(replace(options, augment=())).augment == ()
