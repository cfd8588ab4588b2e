import copy

import pytest
import torch
from torch import nn

from stmcli.model import STM, Dims, fused

WIDTHS = {"key": 8, "value": 16, "decoder": 12}


@pytest.fixture(scope="module", params=["resnet18", "resnet50"])
def model(request):
    """A network whose batch norms do something."""
    torch.manual_seed(0)
    network = STM(Dims(trunk=request.param, **WIDTHS)).eval().requires_grad_(False)
    for norm in (x for x in network.modules() if isinstance(x, nn.BatchNorm2d)):
        for tensor, low, high in ((norm.running_mean, -0.1, 0.1), (norm.running_var, 0.5, 1.5), (norm.bias, -0.1, 0.1)):
            tensor.uniform_(low, high)
    return network


def inputs(objects):
    torch.manual_seed(1)
    return torch.rand(2, 3, 48, 64), torch.rand(2, objects, 48, 64)


@pytest.mark.parametrize("objects", [1, 3])
def test_the_fused_network_computes_the_same(model, objects):
    plain = copy.deepcopy(model).double()  # in which rounding does not hide a difference
    frame, masks = (x.double() for x in inputs(objects))
    memory = plain.memorize(frame, masks)
    for ours, theirs in zip(fused(plain).memorize(frame, masks), memory, strict=True):
        assert torch.allclose(ours, theirs, rtol=1e-9, atol=1e-9 * float(theirs.abs().max()))
    for ours, theirs in zip(fused(plain, lanes=8).memorize(frame, masks), memory, strict=True):
        assert torch.allclose(ours, theirs, rtol=1e-9, atol=1e-9 * float(theirs.abs().max()))
    prob = plain.segment(frame, *memory).logits.softmax(1)
    assert (fused(plain).segment(frame, *memory).logits.softmax(1) - prob).abs().max() <= 1e-5


def test_fusing_leaves_no_batch_norm_and_the_network_as_it_was(model):
    before = copy.deepcopy(model.state_dict())
    assert not [x for x in fused(model).modules() if isinstance(x, nn.BatchNorm2d)]
    assert all(torch.equal(x, before[name]) for name, x in model.state_dict().items())
    assert model.published


def test_the_mask_planes_cost_one_convolution_and_one_object_costs_none(model):
    def convolutions(network, objects):
        seen = []
        hooks = [
            x.register_forward_hook(lambda conv, *_: seen.append(conv))
            for x in network.memory_encoder.modules()
            if isinstance(x, nn.Conv2d) and x.kernel_size == (7, 7)
        ]
        network.memorize(*inputs(objects))
        for hook in hooks:
            hook.remove()
        return len(seen)

    assert [convolutions(model, n) for n in (1, 2)] == [3, 3]
    assert [convolutions(fused(model), n) for n in (1, 2)] == [1, 2]
