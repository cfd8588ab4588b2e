import copy
import warnings
from contextlib import nullcontext
from functools import partial
from itertools import pairwise
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from conftest import picture

from stmcli.model import fused
from stmcli.options import Fit, MemoryOptions
from stmcli.segmenter import Segmenter
from stmcli.segmenter.focus import Box, Focus
from stmcli.segmenter.recorder import TRIALS, Recorder, unrecorded
from stmcli.transfer import Download, upload
from stmcli.weights import read

FIT = Fit(size=48, top_k=30, anchor=100.0, augment=("flip",))
SLOTS = MemoryOptions(every=2, max_slots=6)


@pytest.fixture(scope="module")
def model(tiny_weights):
    return read(tiny_weights)[0].eval().requires_grad_(False)


def square(number, place):
    labels = np.zeros((48, 64), np.uint8)
    labels[4:16, place : place + 12] = number
    return labels


def predictions(segmenter, frames=20, enters=9):
    """Follow one object, and from some frame on two: prob (N+1, H, W) of every frame, on the CPU."""
    given = {0: square(1, 4), enters: square(2, 40)}
    clip = (np.roll(picture(t), t, axis=1) for t in range(frames))
    return [segmenter.step(rgb, given.get(t)).prob.float().cpu() for t, rgb in enumerate(clip)]


def same(found, expected, *, atol):
    return all(torch.allclose(a, b, atol=atol) for a, b in zip(found, expected, strict=True))


# -- anywhere ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("policy", ["first+previous+every", "first+previous", "first", "previous"])
@pytest.mark.parametrize("top_k", [0, 30])
def test_reading_the_whole_buffer_of_memory_changes_nothing(model, policy, top_k):
    fit = Fit(size=48, top_k=top_k, anchor=100.0)
    memory = MemoryOptions(every=2, max_slots=6, policy=policy)
    plain, whole = (Segmenter(model, memory=memory, fit=fit) for _ in range(2))
    read = whole.bank.read
    expected = predictions(plain)
    whole.guard.recorder.active = True  # so that the whole buffer is read; on a CPU nothing can be recorded
    whole.guard.recorder.call = lambda function, *inputs, **_: function(*inputs)
    whole.guard.recorder.forget = lambda: None
    seen = []
    whole.bank.read = lambda **options: seen.append(read(**options)) or seen[-1]
    assert same(predictions(whole), expected, atol=1e-5)
    assert all(a[0].shape[2:] == b[0].shape[2:] for a, b in pairwise(seen))


def test_without_cuda_every_call_is_made():
    recorder, calls = Recorder(torch.device("cpu")), []
    for number in range(2 * TRIALS):
        assert recorder.call(lambda x: calls.append(0) or (x + 1,), torch.tensor(number)) == (number + 1,)
    assert len(calls) == 2 * TRIALS


def test_all_recordings_are_made_on_one_stream(monkeypatch):
    streams, taken = [], []
    monkeypatch.setattr(torch.cuda, "Stream", lambda *_: streams.append(0) or object())
    monkeypatch.setattr(torch.cuda, "stream", lambda stream: taken.append(stream) or nullcontext())
    monkeypatch.setattr(torch.cuda, "device", lambda _: nullcontext())
    monkeypatch.setattr(torch.cuda, "synchronize", lambda *_: None)
    monkeypatch.setattr(torch.cuda, "CUDAGraph", Mock)
    monkeypatch.setattr(torch.cuda, "graph_pool_handle", lambda: 0)
    device = torch.device("cuda", 77)
    for recorder in (Recorder(device), Recorder(device)):
        for size in (1, 2):
            for _ in range(2 * TRIALS):
                recorder.call(lambda x: (x + 1,), torch.zeros(size))
    assert len(taken) == 4
    assert len(set(taken)) == len(streams) == 1


def test_what_goes_to_a_device_and_comes_back_is_the_same():
    there = upload(picture(3)[::-1], torch.device("cpu"))
    assert (Download(there).array() == picture(3)[::-1]).all()


@pytest.mark.parametrize("shape", [(5, 1, 3), (1, 5, 3), (1, 1, 3)])
def test_what_is_one_pixel_wide_and_mirrored_goes_to_a_device_too(shape):
    pixels = np.arange(np.prod(shape), dtype=np.uint8).reshape(shape)[::-1, ::-1]
    assert np.array_equal(upload(pixels, torch.device("cpu")), pixels)


def test_the_window_follows_what_was_seen():
    focus = Focus((48, 64), times=2.0, size=24)
    prob = torch.zeros(2, 48, 64)
    prob[1, 10:20, 30:42] = 1
    prob[0] = 1 - prob[1]
    focus.saw(prob)
    assert focus.state()["seen"] == Box(10, 30, 10, 12)
    assert focus.aim(None, cut=False).holds(Box(10, 30, 10, 12), margin=0.1)


# -- on CUDA -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def on_cuda(model, cuda):
    """Return a function that makes a Segmenter on CUDA in some precision."""

    def make(dtype=torch.float32, *, fit=FIT, memory=SLOTS):
        return Segmenter(copy.deepcopy(model).to(cuda, dtype), fit=fit, memory=memory)

    return make


@pytest.mark.cuda
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("focus", [0.0, 2.0])
def test_what_is_replayed_is_what_would_be_computed(on_cuda, dtype, focus):
    fit = Fit(size=48, top_k=30, anchor=100.0, augment=("flip",), focus=focus)
    with unrecorded():
        expected = predictions(on_cuda(dtype, fit=fit))
    segmenter = on_cuda(dtype, fit=fit)
    for _ in range(2):
        assert same(predictions(segmenter), expected, atol=1e-5 if dtype == torch.float32 else 0.02)
        assert segmenter.guard.recorder.active
        assert 2 <= len(segmenter.guard.recorder._recordings) <= 3  # memorize, segment while memory fills and then
        segmenter.reset()


@pytest.mark.cuda
def test_cuda_and_cpu_see_the_same(on_cuda, model):
    torch.backends.cudnn.allow_tf32 = False
    assert same(predictions(on_cuda()), predictions(Segmenter(model, fit=FIT, memory=SLOTS)), atol=1e-4)


@pytest.mark.cuda
def test_a_step_waits_for_nothing_and_takes_no_more_memory(on_cuda):
    segmenter = on_cuda(torch.bfloat16)
    predictions(segmenter)
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Synchronization debug mode")  # of torch: not everything is found
        torch.cuda.set_sync_debug_mode("error")
        try:
            for t in range(30):
                segmenter.step(picture(t))
        finally:
            torch.cuda.set_sync_debug_mode("default")
    assert torch.cuda.memory_allocated() <= before + 4 * picture(0).nbytes  # frames that are on their way


@pytest.mark.cuda
@pytest.mark.parametrize("made", [partial(fused, lanes=8), copy.deepcopy])
@pytest.mark.parametrize(("dtype", "most"), [(torch.float32, 1e-5), (torch.bfloat16, 0.03), (torch.float16, 0.01)])
def test_convolutions_filled_up_or_fused_with_what_follows_compute_the_same(model, cuda, made, dtype, most):
    torch.backends.cudnn.allow_tf32 = False
    torch.manual_seed(0)
    frame, masks = torch.rand(1, 3, 48, 64), torch.rand(1, 3, 48, 64)
    expected = fused(model).memorize(frame, masks)
    on_cuda = made(model).to(cuda, dtype).to(memory_format=torch.channels_last)
    for ours, theirs in zip(on_cuda.memorize(frame.to(cuda, dtype), masks.to(cuda, dtype)), expected, strict=True):
        assert (ours.float().cpu() - theirs).norm() <= most * theirs.norm()


@pytest.mark.cuda
def test_what_cannot_be_recorded_is_computed(cuda):
    recorder = Recorder(cuda)
    for number in range(2 * TRIALS):
        x = torch.tensor([float(number)], device=cuda)
        assert recorder.call(lambda x: (x + x.item(),), x)[0].item() == 2 * number  # a number that the host needs
    assert not recorder.active
