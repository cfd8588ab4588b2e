import copy
from functools import partial

import pytest
import torch

from stmcli.errors import StmError
from stmcli.model import Anchor
from stmcli.segmenter.guard import Guard, _are_finite
from stmcli.weights import read


@pytest.fixture
def model(tiny_weights):
    return read(tiny_weights)[0].eval().requires_grad_(False)


def clip(objects=3):
    torch.manual_seed(0)
    return torch.rand(1, 3, 48, 64), torch.rand(1, objects, 48, 64)


class Short:
    """A network for which a device has too little memory as long as more than so many objects are computed at once."""

    def __init__(self, model, *, objects, chunk=10**9):
        self.model, self.objects, self.most = model, objects, chunk
        self.at_once = self.chunk = 0

    def parameters(self):
        return self.model.parameters()

    def _check(self, count):
        if (self.at_once or count) > self.objects or self.most < (self.chunk or 256):
            raise torch.OutOfMemoryError("CUDA out of memory")
        self.model.at_once, self.model.chunk = self.at_once, self.chunk

    def memorize(self, frame, masks):
        self._check(masks.shape[1])
        return self.model.memorize(frame, masks)

    def segment(self, frame, keys, values, valid=None, **options):
        self._check(keys.shape[1])
        return self.model.segment(frame, keys, values, valid, **options)


@pytest.mark.parametrize("valid", [None, torch.tensor([[True] * 12, [True] * 12, [False] * 3 + [True] * 9])])
def test_where_memory_is_short_pieces_give_the_same_result(model, valid):
    frame, masks = clip()
    whole = copy.deepcopy(model)
    key, value = whole.memorize(frame, masks)
    logits = whole.segment(frame, key, value, valid).logits
    guard = Guard(Short(model, objects=1, chunk=64))
    memory = guard.memorize(frame, masks)
    assert torch.allclose(memory[0], key, atol=1e-5)
    assert torch.allclose(memory[1], value, atol=1e-5)
    found = guard.segment(frame, (key, value, valid), top_k=0, reach=0.0)
    assert torch.allclose(found.logits.softmax(1), logits.softmax(1), atol=1e-5)
    assert guard.model.at_once == 1
    assert guard.model.chunk == 64
    assert guard.notes() == ["the device's memory was short: it computed in smaller pieces"]


@pytest.mark.parametrize("verb", ["memorize", "segment"])
def test_pieces_are_no_smaller_than_they_have_to_be_and_nothing_of_them_is_recorded(model, verb):
    frame, masks = clip(objects=4)
    guard = Guard(Short(model, objects=2))
    guard.recorder.active = True
    if verb == "memorize":
        guard.memorize(frame, masks)
    else:
        guard.segment(frame, (*model.memorize(frame, masks), None), top_k=0, reach=0.0)
    assert (guard.model.at_once, guard.model.chunk) == (2, 256)
    assert not guard.recorder.active


def test_the_next_clip_begins_in_whole_pieces_again(model):
    frame, masks = clip()
    short = Short(model, objects=1, chunk=64)
    guard = Guard(short)
    guard.segment(frame, (*guard.memorize(frame, masks), None), top_k=0, reach=0.0)
    assert (short.at_once, short.chunk) == (1, 64)
    guard = Guard(short)
    assert (short.at_once, short.chunk, guard.notes()) == (0, 0, [])


def test_memory_that_never_suffices_is_an_error_with_a_hint(model):
    frame, masks = clip()
    with pytest.raises(StmError, match=r"too little memory\. Use a smaller --size or --mem-max"):
        Guard(Short(model, objects=0)).memorize(frame, masks)


def overflowing(model, part):
    """Return the network in half precision, with a part whose sums overflow it."""
    half = copy.deepcopy(model).half()
    weight = half.get_submodule(part).weight
    weight.mul_(1e7 / weight.abs().max()).clamp_(-6e4, 6e4)
    return half


@pytest.mark.parametrize("part", ["memory_head.key", "memory_head.value"])
def test_a_memory_that_half_precision_cannot_hold_is_computed_again_in_full(model, part):
    frame, masks = (x.half() for x in clip(objects=1))
    half = overflowing(model, part)
    plain, most = copy.deepcopy(half).float(), torch.finfo(torch.half).max
    guard = Guard(half)
    for found, wanted in zip(guard.memorize(frame, masks), plain.memorize(frame.float(), masks.float()), strict=True):
        assert found.dtype == torch.half
        assert torch.equal(found, wanted.clamp(-most, most).half())
    assert guard.again == 1
    assert "computed again in fp32, 1 times" in guard.notes()[0]


def test_masks_that_half_precision_cannot_hold_are_computed_again_in_full(model):
    frame, masks = clip(objects=2)
    memory = [x.half().repeat(1, 1, 2, 1) for x in model.memorize(frame, masks)]  # two slots
    valid = torch.tensor([[True] * 24, [False] * 12 + [True] * 12])
    how = {"top_k": 5, "reach": 2.0, "anchors": [Anchor(1, torch.rand(3, 3), torch.rand(4, 4))]}
    half, looks = overflowing(model, "decoder.enter"), torch.rand(2)
    plain = copy.deepcopy(half).float()
    guard = Guard(half)
    found = guard.segment(frame.half(), (*memory, valid), looks, **how, then=lambda one, given: (*one, given))
    wanted = plain.segment(frame.half().float(), *(x.float() for x in memory), valid, **how)
    assert torch.equal(found[0], wanted.logits)
    assert torch.equal(found[1], wanted.query.half())
    assert found[1].dtype == torch.half, "as what is kept of other frames"
    assert found[2] is looks
    assert guard.again == 1
    assert "computed again in fp32, 1 times" in guard.notes()[0]


@pytest.mark.parametrize("counts", [(3,), (1, 3)])
def test_what_is_computed_again_in_full_needs_twice_the_memory_and_may_take_smaller_pieces(model, counts):
    short = Short(overflowing(model, "decoder.enter"), objects=3)
    short.float = lambda: Short(copy.deepcopy(short.model).float(), objects=1)
    guard = Guard(short)
    for objects in counts:
        frame, masks = clip(objects)
        memory = [x.half() for x in model.memorize(frame, masks)]
        found = guard.segment(frame.half(), (*memory, None), top_k=0, reach=0.0)
        assert found.logits.shape == (1, objects + 1, 48, 64)
    assert guard.again == len(counts)
    assert len(guard.notes()) == 2


@pytest.mark.parametrize("verb", ["memorize", "segment"])
@pytest.mark.parametrize("half", [False, True])
def test_a_network_that_is_broken_in_full_precision_is_an_error(model, half, verb):
    frame, masks = clip(objects=1)
    memory = model.memorize(frame, masks)
    for broken in (model.memory_head.value, model.decoder.enter):
        broken.bias.fill_(torch.nan)
    model = model.bfloat16() if half else model
    frame, masks, *memory = (x.to(next(model.parameters()).dtype) for x in (frame, masks, *memory))
    guard = Guard(model)
    verbs = {
        "memorize": partial(guard.memorize, frame, masks),
        "segment": partial(guard.segment, frame, (*memory, None), top_k=0, reach=0.0),
    }
    with pytest.raises(StmError, match="not finite"):
        verbs[verb]()


def test_numbers_are_finite_however_large_their_sum_in_half_precision():
    large = torch.full((100,), 6e4, dtype=torch.float16)
    assert _are_finite([large, torch.zeros(3)])
    for other in (torch.nan, torch.inf, -torch.inf):
        assert not _are_finite([large, torch.tensor([1.0, other, -1.0])])
    assert not _are_finite([torch.tensor([torch.inf, -torch.inf])])


def test_nothing_is_said_where_nothing_happened(model):
    frame, masks = clip()
    guard = Guard(model)
    memory = guard.memorize(frame, masks)
    guard.segment(frame, (*memory, None), top_k=0, reach=0.0)
    assert guard.notes() == []
