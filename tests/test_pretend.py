"""A GPU that is not there: tensors know shape, type and device, and hold no numbers.

Operations on tensors of two devices fail, and so does what needs a number: on a GPU the host would wait for it. What
has a number on the host in the end, or had it there, is seen as a crossing.
"""

from contextlib import ExitStack, contextmanager
from dataclasses import replace
from unittest import mock

import numpy as np
import pytest
import torch
from conftest import picture
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from stmcli.model import fused
from stmcli.model.layers import LANES
from stmcli.options import Fit, MemoryOptions
from stmcli.segmenter import Segmenter
from stmcli.segmenter.ensemble import ZOOMS, Ensemble, View
from stmcli.segmenter.geometry import list_views
from stmcli.segmenter.recorder import unrecorded
from stmcli.weights import read

GPU = torch.device("cuda:0")
FIT = Fit(size=48, focus=2.0, anchor=100.0, top_k=30, augment=("flip", "scale"), gate=0.5, renew=3)
MEMORY = MemoryOptions(every=2, max_slots=24)


class Crossings(TorchDispatchMode):
    """Note every operation between the host and the GPU."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        tensors = [x for x in tree_leaves((args, kwargs, result)) if isinstance(x, torch.Tensor)]
        if {x.device.type for x in tensors} == {"cpu", "cuda"}:
            self.seen.append(str(function))
        return result


class Coming:
    """A download whose numbers are made up."""

    def __init__(self, x):
        assert x.device == GPU
        self.shape = x.shape

    def array(self):
        return np.arange(self.shape[0]) % 24 < 12


@contextmanager
def pretended():
    """Yield the crossings in a block in which there is a GPU."""
    with ExitStack() as stack:
        for name in ("segmenter.segmenter", "memory"):
            stack.enter_context(mock.patch(f"stmcli.{name}.upload", gone_up))
        stack.enter_context(mock.patch("stmcli.segmenter.focus.Download", Coming))
        stack.enter_context(mock.patch("torch.version.cuda", None))  # without kernels that only know real tensors
        stack.enter_context(mock.patch("torch.cuda.graph_pool_handle", return_value=0))
        stack.enter_context(unrecorded())
        stack.enter_context(FakeTensorMode(allow_non_fake_inputs=True))
        yield stack.enter_context(Crossings())


def gone_up(array, device):
    """Return what `upload` would, which no host waits for."""
    known = array if isinstance(array, torch.Tensor) else torch.from_numpy(array[:0].copy())
    return torch.empty(array.shape, dtype=known.dtype, device=device)


@pytest.fixture
def network(tiny_weights):
    """Return the network in the form in which it runs on a GPU."""
    return fused(read(tiny_weights)[0], lanes=LANES["cuda"])


def moved(model, dtype=torch.float32):
    """Return a model with tensors on the GPU."""
    empty = {name: torch.empty_like(x, device=GPU, dtype=dtype) for name, x in model.state_dict().items()}
    model.load_state_dict(empty, assign=True)
    return model.requires_grad_(False)


def labels(number):
    found = np.zeros((48, 64), np.uint8)
    found[8 : 8 + 12 * number, 20:40] = number
    return found


def steps(follower, crossings, *, enters=9, frames=20):
    """Follow a clip in which a second object enters; return the predictions and how often each frame crossed."""
    given, follower.expected = {0: labels(1), enters: labels(2)}, (1, 2)
    predictions, counts = [], []
    for t in range(frames):
        crossings.seen.clear()
        predictions.append(follower.step(picture(t), given.get(t)))
        counts.append(len(crossings.seen))
    return predictions, counts


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("policy", ["first+previous+every", "first+previous", "first", "previous"])
@pytest.mark.parametrize("keep", ["recent", "useful"])
def test_frames_without_given_masks_wait_for_nothing(network, policy, keep, dtype):
    with pretended() as crossings:
        memory = replace(MEMORY, policy=policy, keep=keep, half=dtype == torch.float32)
        segmenter = Segmenter(moved(network, dtype), memory=memory, fit=FIT)
        predictions, counts = steps(segmenter, crossings)
    assert {t for t, count in enumerate(counts) if count} == {0, 9}
    assert all(found.prob.device == GPU and found.prob.shape == (3, 48, 64) for found in predictions)
    assert all(found.measured.device == GPU for t, found in enumerate(predictions) if t not in (0, 9))


def test_views_wait_for_nothing(network):
    with pretended() as crossings:
        model = moved(network)
        views = [
            View(Segmenter(model, memory=MEMORY, fit=FIT, zoom=zoom), mirrored)
            for zoom, mirrored in list_views(("flip", "scale"), ZOOMS)
        ]
        predictions, counts = steps(Ensemble(views), crossings)
    assert {t for t, count in enumerate(counts) if count} == {0, 9}
    assert all(found.prob.device == GPU for found in predictions)


def test_a_follower_goes_on_there_from_what_was_stored(network):
    with pretended() as crossings:
        model = moved(network)
        segmenter = Segmenter(model, memory=MEMORY, fit=FIT)
        steps(segmenter, crossings)
        stored = segmenter.state()
        stored = stored._replace(tensors={name: x.cpu() for name, x in stored.tensors.items()})
        other = Segmenter(model, memory=MEMORY, fit=FIT)
        other.restore(stored)
        crossings.seen.clear()
        found = [other.step(picture(t)) for t in range(20, 26)]
    assert not crossings.seen
    assert all(one.prob.device == GPU for one in found)
