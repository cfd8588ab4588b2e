import json
import os
from importlib.metadata import version
from types import SimpleNamespace

import av
import pytest
import torch

from stmcli import __version__, device, doctor, registry, weights
from stmcli.weights import Card, network, register, save


@pytest.fixture
def found(stm):
    """Return a function that runs `stm doctor --json`."""

    def run():
        result = stm("doctor", "--json")
        assert (result.exit_code, result.stderr) == (0, "")
        return json.loads(result.stdout)

    return run


def test_versions_are_those_of_the_libraries_in_use(found):
    versions = found()["versions"]
    assert (versions["stm"], versions["av"], versions["ffmpeg"]) == (
        __version__,
        av.__version__,
        av.ffmpeg_version_info,
    )
    assert versions["torch"] in torch.__version__
    assert {versions[name] == version(name) for name in ("torchvision", "numpy", "pillow", "typer", "rich")} == {True}


def test_an_extra_that_is_missing_is_not_an_error(found, monkeypatch):
    monkeypatch.setattr(doctor, "EXTRAS", ("no-such-library", "pytest"))
    assert found()["extras"] == {"no-such-library": "not installed", "pytest": pytest.__version__}


def test_encoders_open_where_pyav_opens_them(found):
    encoders = found()["encoders"]
    assert list(encoders) == ["libx264", "h264_nvenc", "prores_ks", "png", "qtrle", "ffv1", "libvpx-vp9"]
    assert encoders["libx264"] == encoders["png"] == "opens"


@pytest.mark.parametrize(("does", "answer"), [(True, "opens"), (False, "does not open")])
def test_a_decoder_opens_where_there_is_a_card(found, monkeypatch, does, answer):
    monkeypatch.setattr("stmcli.video.nvdec_opens", lambda: does)
    assert found()["decoders"] == {"nvdec": answer}


def test_a_missing_encoder_says_so(found, monkeypatch):
    monkeypatch.setattr("stmcli.video.opens", lambda codec, _: codec.encoder != "ffv1")
    assert {name for name, answer in found()["encoders"].items() if answer != "opens"} == {"ffv1"}


def test_the_precision_is_what_a_run_takes(found, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(device, "bf16_is_faster", lambda: True)
    for bf16, int8, name in ((True, True, "int8"), (True, False, "bf16"), (False, False, "fp32")):
        monkeypatch.setattr(device, "has_bf16_units", lambda bf16=bf16: bf16)
        for module in (device, network):
            monkeypatch.setattr(module, "has_int8_units", lambda _, int8=int8: int8)
        machine = found()["machine"]
        assert machine["precision"] == f"auto takes {name} on cpu for compact"
        known = (("with" if there else "without") for there in (bf16, int8))
        assert machine["units"].endswith("{} bf16, {} int8".format(*known))


def test_cuda_devices_are_listed_with_their_memory(monkeypatch):
    card = SimpleNamespace(name="Card", total_memory=80 * 2**30, major=9, minor=0)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: card)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda emulated: not emulated)
    machine = doctor.examine()["machine"]
    assert machine["cuda"] == "cuda:0 Card, 80.0 GiB, compute 9.0; cuda:1 Card, 80.0 GiB, compute 9.0"
    assert machine["precision"] == "auto takes bf16 on cuda for compact"


def test_without_cuda_the_reason_is_there(found, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.version, "cuda", None)
    assert found()["machine"]["cuda"] == f"none: torch {torch.__version__} is made without CUDA"
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    assert found()["machine"]["cuda"].startswith("none: torch is made for CUDA 13.0; no device")


def test_damaged_weights_are_named_and_the_others_are_verified(found, tiny_weights):
    model, card = weights.read(tiny_weights)
    folder = registry.cache_folder()
    for name in ("good", "bad"):
        save(folder / f"{name}.safetensors", model, Card(card.dims, "free"))
        register(folder / f"{name}.safetensors", card)
    content = bytearray((folder / "bad.safetensors").read_bytes())
    content[-1] ^= 1
    (folder / "bad.safetensors").write_bytes(content)
    answers = found()["weights"]
    assert answers["good"] == f"ok, sha256 {registry.sha256(folder / 'good.safetensors')}"
    assert "sha256 mismatch" in answers["bad"]
    assert answers["compact"].startswith("ok, sha256 ")


def test_a_section_that_fails_costs_no_other(found):
    folder = registry.cache_folder()
    folder.mkdir(parents=True)
    (folder / "x.json").write_text("not json")
    answers = found()
    assert "damaged note" in answers["weights"]["all"]
    assert "GiB free" in answers["disk"]["weights cache"]


def test_a_probe_that_fails_costs_no_other(found, monkeypatch):
    def fail():
        raise OSError("no such\nthing")

    monkeypatch.setattr(doctor, "processor", fail)
    machine = found()["machine"]
    assert machine["processor"] == "cannot be found out (OSError: no such thing)"
    assert str(os.cpu_count()) in machine["cores"]


def test_nothing_of_the_environment_is_shown(stm, monkeypatch):
    monkeypatch.setenv("STM_SEGMENT_TOKEN", "hush-hush")
    result = stm("doctor")
    assert result.exit_code == 0
    assert "hush-hush" not in result.output
    assert "\nencoders:\n  libx264         opens\n" in result.output
