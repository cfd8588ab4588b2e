import shutil

import pytest
import torch

from stmcli import device
from stmcli.errors import UsageError
from stmcli.options import NetworkOptions
from stmcli.weights import load_model


@pytest.mark.parametrize(
    ("units", "faster", "dtype"),
    [(True, True, torch.bfloat16), (True, False, torch.float32), (False, True, torch.float32)],
)
def test_auto_takes_bf16_on_a_cpu_that_is_faster_in_it(monkeypatch, units, faster, dtype):
    monkeypatch.setattr(device, "has_bf16_units", lambda: units)
    monkeypatch.setattr(device, "bf16_is_faster", lambda: faster)
    assert device.pick_dtype("auto", torch.device("cpu")) == dtype


@pytest.mark.parametrize("units", [True, False])
def test_beside_integers_memory_is_in_bf16_where_the_cpu_multiplies_it(monkeypatch, units):
    monkeypatch.setattr(device, "has_bf16_units", lambda: units)
    kept = {precision: device.memory_dtype(precision, torch.device("cpu")) for precision in ("int8", "fp32", "bf16")}
    expected = torch.bfloat16 if units else torch.float32
    assert kept == {"int8": expected, "fp32": torch.float32, "bf16": torch.bfloat16}


def test_the_trial_of_precisions_says_which_was_faster(monkeypatch):
    ticks = iter(range(10**6))

    def convolve(x, *_, **__):
        for _ in range(3 if x.dtype == slow else 1):
            next(ticks)

    monkeypatch.setattr(device.torch, "conv2d", convolve)
    monkeypatch.setattr(device, "perf_counter", lambda: next(ticks))
    for slow in (torch.float32, torch.bfloat16):
        assert device.bf16_is_faster.__wrapped__() == (slow == torch.float32)


def test_compiling_needs_a_compiler_and_says_so(monkeypatch):
    options = NetworkOptions(device="cpu", compile=True)
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(UsageError, match=r"no C\+\+ compiler here\. Leave it out, or install g\+\+"):
        device.check_compiler(options)
    device.check_compiler(NetworkOptions(device="cpu"))


def test_the_parts_that_compute_are_compiled_when_asked(tiny_weights, monkeypatch):
    seen = []
    monkeypatch.setattr(torch.nn.Module, "compile", lambda part, **_: seen.append(type(part).__name__))
    load_model(NetworkOptions(str(tiny_weights), "cpu", compile=True))
    assert seen == ["FusedEncoder", "FusedEncoder", "Decoder"]


@pytest.mark.long
@pytest.mark.skipif(not shutil.which("g++"), reason="there is no compiler here")
def test_a_compiled_network_computes_the_same(tiny_weights):
    frame, masks = torch.rand(1, 3, 48, 64), torch.rand(1, 2, 48, 64)
    found = []
    for compiled in (False, True):
        model = load_model(NetworkOptions(str(tiny_weights), "cpu", "fp32", compile=compiled))
        found.append(model.segment(frame, *model.memorize(frame, masks)).logits.softmax(1))
    assert torch.allclose(*found, atol=1e-4)
