import copy

import pytest
import torch
from torch import nn

from stmcli.device import is_short_of_multiplications
from stmcli.model import STM, Dims, fused, winograd
from stmcli.model.winograd import Winograd, pays
from stmcli.options import NetworkOptions
from stmcli.weights import load_model


def convolution(inputs=5, outputs=7, *, bias=True, dtype=torch.float64, **how):
    torch.manual_seed(0)
    return nn.Conv2d(inputs, outputs, **{"kernel_size": 3, "padding": 1, **how}, bias=bias).to(dtype)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("strip", [1, 16 * 6 * 7 * 2, 1 << 22])  # a row of tiles at a time, two, all
@pytest.mark.parametrize(("height", "width"), [(8, 12), (7, 12), (8, 11), (5, 3), (2, 2), (1, 1)])
@torch.no_grad()
def test_it_is_the_convolution(height, width, strip, bias, monkeypatch):
    monkeypatch.setattr(winograd, "STRIP", strip)
    plain = convolution(bias=bias)
    x = torch.randn(2, 5, height, width, dtype=torch.float64).contiguous(memory_format=torch.channels_last)
    before = x.clone()
    assert (Winograd(plain)(x) - plain(x)).abs().max() < 1e-13
    assert torch.equal(x, before)


@torch.no_grad()
def test_in_single_precision_it_is_as_exact_as_the_convolution():
    plain = convolution(256, 256, dtype=torch.float32)
    x = torch.randn(1, 256, 16, 16)
    true = copy.deepcopy(plain).double()(x.double())
    off, usual = ((y - true).abs().max() for y in (Winograd(plain)(x), plain(x)))
    assert off < 4 * usual


@torch.no_grad()
def test_in_half_precision_it_is_rounded_a_few_times_more():
    plain = convolution(256, 256, dtype=torch.bfloat16)
    x = torch.randn(1, 256, 16, 16).bfloat16()
    true = copy.deepcopy(plain).double()(x.double())
    off, usual = ((y - true).square().mean().sqrt() for y in (Winograd(plain)(x), plain(x)))
    assert off < 8 * usual


def test_it_stands_for_wide_plain_convolutions_only():
    wide = winograd.WIDE
    assert pays(convolution(wide, wide))
    others = (
        {"stride": 2},
        {"dilation": 2, "padding": 2},
        {"padding": 0},
        {"kernel_size": 1, "padding": 0},
        {"groups": 2},
    )
    assert not any(pays(convolution(wide, wide, **how)) for how in others)
    assert not any(pays(convolution(*widths)) for widths in ((wide - 1, wide), (wide, wide - 1)))


@pytest.mark.parametrize("objects", [1, 2])
@torch.no_grad()
def test_the_network_is_the_same_with_it(objects, monkeypatch):
    monkeypatch.setattr(winograd, "WIDE", 8)
    torch.manual_seed(0)
    network = STM(Dims(trunk="resnet18", key=8, value=16, decoder=12)).eval().double()
    plain, spared = fused(network), fused(network, winograd=True)
    assert len([x for x in spared.modules() if isinstance(x, Winograd)]) > 20
    torch.manual_seed(1)
    frame, masks = torch.rand(1, 3, 48, 80).double(), torch.rand(1, objects, 48, 80).double()
    memories = [model.memorize(frame, masks) for model in (plain, spared)]
    for one, other in zip(*memories, strict=True):
        assert torch.allclose(one, other, rtol=1e-9, atol=1e-9 * float(one.abs().max()))
    logits = [model.segment(frame, *memories[0]).logits for model in (plain, spared)]
    assert torch.allclose(*logits, rtol=1e-9, atol=1e-9 * float(logits[0].abs().max()))


@pytest.mark.parametrize(
    ("dtype", "machine", "avx512", "amx", "short"),
    [
        (torch.float32, "x86_64", False, False, True),
        (torch.float32, "AMD64", True, True, True),
        (torch.bfloat16, "x86_64", True, False, True),
        (torch.bfloat16, "x86_64", True, True, False),
        (torch.bfloat16, "x86_64", False, False, False),
        (torch.float16, "x86_64", True, False, False),
        (torch.float32, "arm64", False, False, False),
    ],
)
def test_it_is_for_cpus_that_are_short_of_multiplications(dtype, machine, avx512, amx, short, monkeypatch):
    monkeypatch.setattr("platform.machine", lambda: machine)
    monkeypatch.setattr("torch.cpu._is_avx512_bf16_supported", lambda: avx512)
    monkeypatch.setattr("torch.cpu._is_amx_tile_supported", lambda: amx)
    assert is_short_of_multiplications(torch.device("cpu"), dtype) == short
    assert not is_short_of_multiplications(torch.device("cuda"), dtype)


@pytest.mark.parametrize(("options", "some"), [({}, True), ({"adapt": 1}, False)])
def test_a_network_on_such_a_cpu_has_it_unless_its_decoder_is_trained(options, some, monkeypatch):
    monkeypatch.setattr("stmcli.weights.network.is_short_of_multiplications", lambda *_: True)
    model = load_model(NetworkOptions(device="cpu", precision="fp32", **options))
    assert any(isinstance(x, Winograd) for x in model.modules()) == some


@torch.no_grad()
def test_it_knows_how_much_it_spares():
    plain = convolution(4, 6)
    assert Winograd(plain).spared(torch.empty(2, 6, 8, 12)) == 2 * 4 * 6 * (9 * 8 * 12 - 16 * 4 * 6)
    assert Winograd(plain).spared(torch.empty(1, 6, 7, 3)) == 4 * 6 * (9 * 7 * 3 - 16 * 4 * 2)
