import pytest
import torch

from stmcli.device import has_slow_products
from stmcli.model import CONVOLVED, USUAL, fused
from stmcli.model.layers import memory_read
from stmcli.model.products import LINEAR, can_convolve
from stmcli.model.winograd import Winograd
from stmcli.options import NetworkOptions
from stmcli.weights import load_model, read

needs_library = pytest.mark.skipif(not can_convolve(), reason="torch has no such library here")


@pytest.fixture
def calls(monkeypatch):
    """Note what the library that convolves multiplies."""
    seen = []
    monkeypatch.setattr("stmcli.model.products.LINEAR", lambda *given: seen.append(given[:2]) or LINEAR(*given))
    return seen


@needs_library
@pytest.mark.parametrize(
    ("left", "right"),
    [((3, 5), (5, 7)), ((1, 1, 3, 5), (1, 1, 5, 7)), ((2, 1, 3, 5), (1, 4, 5, 7)), ((6, 3, 5), (6, 5, 7))],
)
@torch.inference_mode()
def test_products_are_the_same(calls, left, right):
    x, y = torch.randn(left), torch.randn(right)
    assert torch.allclose(CONVOLVED.both(x, y), x @ y, atol=1e-5)
    turned = y.transpose(-1, -2).contiguous().transpose(-1, -2)  # as keys are
    assert torch.allclose(CONVOLVED.both(x, turned), x @ y, atol=1e-5)
    assert calls


@needs_library
@torch.inference_mode()
def test_each_of_several_products_is_the_same(calls):
    x, y = torch.randn(16, 9, 5), torch.randn(16, 5, 7)
    found = CONVOLVED.each(x, y)
    assert len(found) == len(calls) == 16
    assert torch.allclose(torch.stack([*found]), USUAL.each(x, y), atol=1e-5)


@torch.inference_mode()
def test_other_precisions_are_left_to_torch(calls):
    x, y = torch.randn(2, 9, 5).bfloat16(), torch.randn(2, 5, 7).bfloat16()
    assert torch.equal(CONVOLVED.both(x, y), x @ y)
    assert torch.equal(CONVOLVED.each(x, y), torch.bmm(x, y))
    assert not calls


@pytest.mark.parametrize("products", [USUAL, CONVOLVED])
@torch.inference_mode()
def test_keys_of_one_object_are_not_copied(products, monkeypatch):
    monkeypatch.setattr(torch.Tensor, "__matmul__", lambda *_: pytest.fail("copies them"))
    q, keys = torch.randn(1, 1, 6, 8).bfloat16(), torch.randn(1, 1, 40, 8).bfloat16()
    assert torch.allclose(products.both(q, keys.mT), torch.matmul(q, keys.mT), atol=0.05)


@torch.inference_mode()
def test_without_the_library_torch_multiplies(monkeypatch):
    monkeypatch.setattr("stmcli.model.products.LINEAR", None)
    x, y = torch.randn(2, 9, 5), torch.randn(2, 5, 7)
    assert torch.equal(CONVOLVED.both(x, y), x @ y)
    assert torch.equal(CONVOLVED.each(x, y), torch.bmm(x, y))
    assert not can_convolve()


@needs_library
@pytest.mark.parametrize(("top_k", "reach"), [(0, 0.0), (4, 0.0), (0, 2.0)])
@torch.inference_mode()
def test_memory_is_read_by_it_with_the_same_result(calls, top_k, reach):
    query, keys, values = torch.randn(1, 8, 3, 4), torch.randn(1, 2, 36, 8), torch.randn(1, 2, 36, 16)
    usual, other = (
        memory_read(query, keys, values, top_k=top_k, reach=reach, products=products) for products in (USUAL, CONVOLVED)
    )
    assert torch.allclose(other, usual, atol=1e-5)
    assert calls


@needs_library
@torch.inference_mode()
def test_wide_convolutions_are_made_by_it_with_the_same_result(calls):
    plain = torch.nn.Conv2d(256, 256, 3, padding=1)
    x = torch.randn(1, 256, 11, 14).contiguous(memory_format=torch.channels_last)
    assert torch.allclose(Winograd(plain, CONVOLVED)(x), plain(x), atol=1e-4)
    assert len(calls) == 16


@pytest.mark.parametrize(
    ("device", "mkl", "avx512", "intel", "slow"),
    [
        ("cpu", True, True, False, True),
        ("cpu", True, True, True, False),
        ("cpu", True, False, False, False),
        ("cpu", False, True, False, False),
        ("cuda", True, True, False, False),
    ],
)
def test_it_is_for_cpus_on_which_torchs_own_products_hold_back(device, mkl, avx512, intel, slow, monkeypatch):
    monkeypatch.setattr("torch.backends.mkl.is_available", lambda: mkl)
    monkeypatch.setattr("torch.cpu._is_avx512_supported", lambda: avx512)
    monkeypatch.setattr("stmcli.device.is_intel", lambda: intel)
    assert has_slow_products(torch.device(device)) == (slow and can_convolve())


@pytest.mark.parametrize("options", [{}, {"adapt": 1}])
@pytest.mark.parametrize("slow", [True, False])
def test_a_network_has_it_there_unless_its_decoder_is_trained(options, slow, monkeypatch, tiny_weights):
    monkeypatch.setattr("stmcli.weights.network.has_slow_products", lambda _: slow)
    model = load_model(NetworkOptions(str(tiny_weights), device="cpu", precision="fp32", **options))
    assert model.products is (CONVOLVED if slow and not options else USUAL)
    assert fused(read(tiny_weights)[0]).products is USUAL
