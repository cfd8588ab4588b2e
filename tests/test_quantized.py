import copy
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from stmcli.device import has_bf16_units, has_int8_units
from stmcli.errors import UsageError, WeightsError
from stmcli.masks import read_labels
from stmcli.model import STM, Dims, fused, largest_inputs
from stmcli.model.quantized import QuantizedConv, QuantizedStem, quantize, quantized
from stmcli.options import NetworkOptions
from stmcli.weights import Card, load_model, network, pick_precision, save

SAMPLES = Path(__file__).parents[1] / "sample_videos"
CPU = torch.device("cpu")
WIDTHS = {"key": 8, "value": 16, "decoder": 16}
KINDS = {
    "3x3": {"kernel_size": 3, "padding": 1},
    "1x1": {"kernel_size": 1},
    "half as large": {"kernel_size": 3, "padding": 1, "stride": 2},
    "stem": {"kernel_size": 7, "padding": 3, "stride": 2},
    "no bias": {"kernel_size": 3, "padding": 1, "bias": False},
}
needs_int8 = pytest.mark.skipif(not has_int8_units(CPU), reason="no units for integers of 8 bits here")


@pytest.fixture(scope="module", params=["resnet18", "resnet50"])
def model(request):
    torch.manual_seed(0)
    return STM(Dims(trunk=request.param, **WIDTHS)).eval().requires_grad_(False)


def inputs(objects, seed=1):
    torch.manual_seed(seed)
    frame = functional.interpolate(torch.rand(1, 3, 12, 16), size=(96, 128), mode="bilinear")
    return frame.contiguous(memory_format=torch.channels_last), torch.rand(1, objects, 96, 128).round()


def ranges_of(model, objects=2):
    with largest_inputs(model) as found:
        frame, masks = inputs(objects)
        model.segment(frame, *model.memorize(frame, masks))
    return found


def rounded(x, convolution, largest, *, signed):
    """Convolve in float64 with numbers rounded as 8 bits hold them, worked out apart."""
    step = largest / (127 if signed else 255)
    whole = torch.floor(x.double() / step + 0.5).clamp(-128 if signed else 0, 127 if signed else 255)
    weight = convolution.weight.detach().double()
    steps = weight.abs().flatten(1).amax(1).view(-1, 1, 1, 1) / 127
    bias = None if convolution.bias is None else convolution.bias.detach().double()
    how = {"stride": convolution.stride, "padding": convolution.padding}
    return functional.conv2d(whole * step, torch.round(weight / steps) * steps, bias, **how)


@needs_int8
@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_it_is_the_convolution_of_what_8_bits_hold(kind, signed):
    torch.manual_seed(0)
    convolution = nn.Conv2d(5, 7, **KINDS[kind])
    x = torch.randn(2, 5, 13, 10).contiguous(memory_format=torch.channels_last)
    x = x if signed else x.relu()
    before = x.clone()
    ours = QuantizedConv(convolution, 2.0, signed=signed)  # some numbers are larger
    true = rounded(x, convolution, 2.0, signed=signed)
    assert (ours(x) - true).abs().max() < 1e-5
    assert (ours(x, relu=True) - true.relu()).abs().max() < 1e-5
    assert torch.equal(x, before)
    assert ours.macs(ours(x)) == true.numel() * convolution.weight[0].numel()


@needs_int8
@torch.no_grad()
def test_what_comes_out_may_be_8_bits_and_may_be_added_to_others():
    torch.manual_seed(0)
    convolution = nn.Conv2d(6, 6, 3, padding=1)
    x = torch.rand(1, 6, 9, 11).contiguous(memory_format=torch.channels_last)
    ours, true = QuantizedConv(convolution, 1.0), rounded(x, convolution, 1.0, signed=False)
    whole = ours(x, relu=True, scale=0.01)
    assert whole.dtype == torch.uint8
    assert (whole.double() * 0.01 - true.relu().clamp(max=2.55)).abs().max() <= 0.0051
    with_x = ours(x, relu=True, scale=0.02, plus=quantize(x, 0.004), plus_scale=0.004)
    held = torch.floor(x.double() / 0.004 + 0.5).clamp(0, 255) * 0.004
    assert (with_x.double() * 0.02 - (true + held).relu()).abs().max() <= 0.0101
    assert (ours(x, plus=x.clone()) - (true + x)).abs().max() < 1e-5


@needs_int8
@pytest.mark.parametrize("objects", [0, 1, 3])
@torch.no_grad()
def test_a_stem_takes_frame_and_masks_and_pools_what_it_finds(model, objects):
    plain = (fused(model).memory_encoder if objects else fused(model).query_encoder).stem
    frame, masks = (torch.cat([x, x.flip(3)]) for x in inputs(max(objects, 1)))
    planes = (masks, masks.flip(1)) if objects else ()
    true = plain(frame, *planes)
    ours = QuantizedStem(plain, float(true.max()))
    found = ours(frame, *planes)
    assert found.dtype == torch.uint8
    assert found.shape == true.shape
    assert (found * ours.leaves - true).norm() < 0.02 * true.norm()


def test_numbers_are_rounded_to_the_nearest_and_cut():
    numbers = torch.tensor([-3.0, -0.06, 0.0, 0.04, 0.06, 0.1, 25.44, 25.5, 99.0])
    assert quantize(numbers, 0.1).tolist() == [0, 0, 0, 0, 1, 1, 254, 255, 255]
    assert quantize(numbers, 0.1, 128).tolist() == [98, 127, 128, 128, 129, 129, 255, 255, 255]


def test_the_largest_input_of_every_convolution_is_noted(model):
    seen = {}
    hooks = [
        part.register_forward_hook(lambda _, given, __, name=name: seen.setdefault(name, []).append(given[0]))
        for name, part in model.named_modules()
        if isinstance(part, nn.Conv2d)
    ]
    found = ranges_of(model)
    for hook in hooks:
        hook.remove()
    assert found == {name: max(float(x.abs().max()) for x in given) for name, given in seen.items()}
    assert found.keys() == {name for name, part in model.named_modules() if isinstance(part, nn.Conv2d)}


def test_other_networks_are_not_noted(model):
    with largest_inputs(model) as found:
        ranges_of(copy.deepcopy(model))
    assert not found


@needs_int8
@pytest.mark.parametrize("objects", [1, 3])
def test_the_network_in_integers_says_nearly_the_same(model, objects):
    ranges = ranges_of(model)
    plain, ours = fused(model), quantized(fused(model), ranges)
    assert not [x for x in ours.query_encoder.modules() if isinstance(x, nn.Conv2d)]
    frame, masks = inputs(objects)
    pairs = [*zip(plain.memorize(frame, masks), ours.memorize(frame, masks), strict=True)]
    memory = [theirs for theirs, _ in pairs]
    pairs.append((plain.segment(frame, *memory).logits, ours.segment(frame, *memory).logits))
    for theirs, mine in pairs:
        assert mine.dtype == torch.float32
        assert (theirs - mine).norm() < 0.12 * (theirs - theirs.mean()).norm()


@needs_int8
@pytest.mark.skipif(not has_bf16_units(), reason="needs AVX512-BF16")
def test_memory_beside_integers_may_be_in_bf16(model):
    ranges = ranges_of(model)
    full, ours = quantized(fused(model), ranges), quantized(fused(model), ranges, memory=torch.bfloat16)
    frame, masks = inputs(2)
    memory, half = full.memorize(frame, masks), ours.memorize(frame, masks)
    assert all(torch.equal(theirs.bfloat16(), mine) for theirs, mine in zip(memory, half, strict=True))
    theirs, mine = full.segment(frame, *memory), ours.segment(frame, *half)
    assert torch.equal(theirs.query.bfloat16(), mine.query)
    assert (theirs.logits - mine.logits).norm() < 0.03 * (theirs.logits - theirs.logits.mean()).norm()


@needs_int8
def test_objects_together_are_as_each_apart(model):
    ours = quantized(fused(model), ranges_of(model))
    frame, masks = inputs(3)
    keys, values = ours.memorize(frame, masks)
    together = ours.segment(frame, keys, values).logits
    ours.at_once = 1
    assert (ours.segment(frame, keys, values).logits - together).abs().max() < 1e-4
    for apart, both in zip(ours.memorize(frame, masks), (keys, values), strict=True):
        assert (apart - both).abs().max() < 1e-5


@needs_int8
def test_frame_and_masks_stay_as_they_are(model):
    ours = quantized(fused(model), ranges_of(model))
    frame, masks = inputs(1)
    before = frame.clone(), masks.clone()
    ours.segment(frame, *ours.memorize(frame, masks))
    assert torch.equal(frame, before[0])
    assert torch.equal(masks, before[1])


# -- which precision ---------------------------------------------------------------------------------------------------


@pytest.fixture
def known(tmp_path, model):
    """Weights that say how large their numbers become."""
    path = tmp_path / "known.safetensors"
    save(path, model, Card(model.dims, "free", ranges=ranges_of(model)))
    return str(path)


@pytest.fixture(autouse=True)
def without_cuda(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)


@pytest.mark.parametrize(("units", "amx"), [(True, False), (True, True), (False, False)])
def test_auto_takes_integers_where_cpu_and_weights_have_them(known, tiny_weights, monkeypatch, units, amx):
    monkeypatch.setattr(network, "has_int8_units", lambda _: units)
    monkeypatch.setattr(network, "has_amx", lambda: amx)
    monkeypatch.setattr(network, "pick_dtype", lambda *_: torch.bfloat16)
    expected = "int8" if units and not amx else "bf16"
    assert pick_precision(NetworkOptions(known)) == expected
    assert pick_precision(NetworkOptions()) == expected  # of the bundled ones
    assert not units or pick_precision(NetworkOptions(known, precision="int8")) == "int8"
    assert pick_precision(NetworkOptions(str(tiny_weights))) == "bf16"
    assert pick_precision(NetworkOptions(known, adapt=2)) == "bf16"
    assert pick_precision(NetworkOptions(known, compile=True)) == "bf16"
    assert pick_precision(NetworkOptions(known, precision="bf16")) == "bf16"


def test_integers_that_cannot_be_are_refused_with_the_reason(known, tiny_weights, monkeypatch):
    def refused(options, words):
        with pytest.raises(UsageError, match=f"--precision int8: {words}"):
            load_model(options)

    monkeypatch.setattr(network, "has_int8_units", lambda _: True)
    refused(NetworkOptions(str(tiny_weights), precision="int8"), r".*tiny.* does not say how large its numbers become")
    refused(NetworkOptions(known, precision="int8", adapt=2), "--adapt needs other convolutions")
    refused(NetworkOptions(known, precision="int8", compile=True), "--compile needs other convolutions")
    monkeypatch.setattr(network, "has_int8_units", lambda _: False)
    refused(NetworkOptions(known, precision="int8"), "it needs an x86 CPU with AVX512-VNNI")


@needs_int8
def test_the_network_is_loaded_in_integers(known):
    model = load_model(NetworkOptions(known, device="cpu"))
    assert model.integers
    assert not load_model(NetworkOptions(known, device="cpu", precision="fp32")).integers
    assert model.query_encoder.stem.both.weight.dtype == torch.int8


@needs_int8
@pytest.mark.parametrize("spoilt", [None, "much", float("nan"), float("inf")])
def test_damaged_ranges_are_an_error_of_one_line(tmp_path, model, spoilt):
    ranges = ranges_of(model)
    ranges["decoder.refine8.block.conv2"] = spoilt
    ranges = {name: largest for name, largest in ranges.items() if largest is not None}
    save(tmp_path / "x.safetensors", model, Card(model.dims, "free", ranges=ranges))
    with pytest.raises(WeightsError, match=r"x\.safetensors: its ranges are damaged"):
        load_model(NetworkOptions(str(tmp_path / "x.safetensors"), device="cpu"))


@needs_int8
def test_a_clip_is_followed_in_integers_with_nearly_the_same_masks(stm, tmp_path):
    found = {}
    for precision, name in (("auto", "int8"), ("fp32", "fp32")):
        result = tmp_path / precision
        words = ("--precision", precision, "--size", 192, "--augment", "none", "--end", 5, "-e", "none", "-o", result)
        assert stm("segment", SAMPLES / "koi.mp4", "--mask", SAMPLES / "koi.png", *words).exit_code == 0
        assert json.loads((result / "report.json").read_text())["device"] == f"cpu, {name}"
        found[name] = np.stack([read_labels(path) for path in sorted((result / "masks").iterdir())])
    both = (found["int8"] > 0) | (found["fp32"] > 0)
    share = (found["int8"] == found["fp32"])[both].mean()
    assert 0.95 < share < 1
