"""The rows of the list of faults of what a device cannot do, for `stm segment`."""

import json

import pytest
import torch
from faults import check_fault, check_refusal, forbid_network

from stmcli.matting import matted
from stmcli.model import STM


def out_of_memory(*_, **__):
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB")


def masks(scene):
    return {path.name: path.read_bytes() for path in (scene.output / "masks").iterdir()}


def test_a_clip_that_needs_more_memory_than_there_is_is_refused_before_the_network(scene, segment, monkeypatch):
    forbid_network(monkeypatch)
    monkeypatch.setattr("stmcli.footprint.free_bytes", lambda _: 50_000_000)
    row = (lambda _: None, 2, r"^error: cpu: 1 object at .* need about 0\.1 GB of memory, and 0\.1 are free\. Use")
    check_fault(scene, row, lambda: segment(*scene.job))


def test_memory_that_is_short_on_the_way_costs_time_and_nothing_else(scene, segment, monkeypatch, make_mask):
    scene.mask = make_mask(ids=(1, 2))
    assert segment(*scene.job).exit_code == 0
    whole, decode = masks(scene), STM.segment

    def short(model, *given, **options):
        return decode(model, *given, **options) if model.at_once == 1 else out_of_memory()

    monkeypatch.setattr(STM, "segment", short)
    result = segment(*scene.job, "-y", "--no-resume")
    assert result.exit_code == 0, result.stderr
    assert masks(scene) == whole
    assert "memory was short" in " ".join(json.loads((scene.output / "report.json").read_text())["notes"])


def test_memory_that_never_suffices_is_one_line_with_what_to_do(scene, segment, monkeypatch):
    monkeypatch.setattr(STM, "memorize", out_of_memory)
    check_refusal(
        segment(*scene.job, "-q"), 1, r"^error: cpu: too little memory\. Use a smaller --size or --mem-max\.$"
    )
    assert not list(scene.output.glob("masks/*"))


def test_memory_that_is_short_beside_the_network_costs_time_and_nothing_else(scene, segment, monkeypatch):
    assert segment(*scene.job, "-e", "cutout").exit_code == 0
    whole, calls = masks(scene), []

    def every_other(name):
        work = getattr(matted, name)

        def short(*given, **options):
            calls.append(name)
            return work(*given, **options) if calls.count(name) % 2 == 0 else out_of_memory()

        monkeypatch.setattr(matted, name, short)

    every_other("refine")
    every_other("foreground")
    result = segment(*scene.job, "-e", "cutout", "-y", "--no-resume")
    assert result.exit_code == 0, result.stderr
    assert masks(scene) == whole
    assert {*calls} == {"refine", "foreground"}


def test_memory_that_is_short_anywhere_is_one_line(scene, segment, monkeypatch):
    monkeypatch.setattr("stmcli.segmenter.Segmenter.step", out_of_memory)
    check_refusal(
        segment(*scene.job, "-q"), 1, r"^error: cpu: too little memory\. Use a smaller --size or --mem-max\.$"
    )


def test_a_device_that_fails_is_one_line(scene, segment, monkeypatch):
    def fails(*_, **__):
        raise torch.AcceleratorError("CUDA error: unspecified launch failure\nCompile with `TORCH_USE_CUDA_DSA`")

    monkeypatch.setattr("stmcli.segmenter.Segmenter.step", fails)
    words = r"^error: cpu: the device failed \(CUDA error: unspecified launch failure\)\. Run the same command again\.$"
    check_refusal(segment(*scene.job, "-q"), 1, words)


def test_a_frame_whose_numbers_half_precision_cannot_hold_is_computed_again(scene, stm, tiny_weights, monkeypatch):
    decode = STM.segment

    def overflowing(model, frame, *memory, **options):
        found = decode(model, frame, *memory, **options)
        return found if frame.dtype == torch.float32 else found._replace(logits=found.logits * torch.nan)

    monkeypatch.setattr(STM, "segment", overflowing)
    result = stm("segment", *scene.job, "-w", tiny_weights, "--device", "cpu", "--precision", "bf16")
    assert result.exit_code == 0, result.stderr
    assert "computed again in fp32, 2 times" in result.stderr
    assert len(masks(scene)) == 3


def test_numbers_that_are_not_finite_in_full_precision_are_one_line(scene, segment, monkeypatch):
    decode = STM.segment

    def broken(*given, **options):
        found = decode(*given, **options)
        return found._replace(logits=found.logits * torch.nan)

    monkeypatch.setattr(STM, "segment", broken)
    result = segment(*scene.job, "-q")
    check_refusal(result, 1, r"^error: the network: its numbers are not finite\. Use other weights\.$")


@pytest.mark.cuda
@pytest.mark.usefixtures("cuda")
def test_a_fraction_of_a_gpu_is_survived(scene, segment):
    """On hardware: not the injected error but a real one."""
    torch.cuda.set_per_process_memory_fraction(1e-4)
    try:
        result = segment(*scene.job, "--device", "cuda")
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert result.exit_code in (0, 1, 2), result.stderr
    assert "Traceback" not in result.stderr
