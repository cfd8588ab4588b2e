import sys
from dataclasses import replace

import pytest
import torch

from stmcli import footprint as module
from stmcli.errors import UsageError
from stmcli.footprint import check_room, footprint, needs, slot_bytes
from stmcli.memory import MemoryBank
from stmcli.model import SIZES, STM
from stmcli.options import MemoryOptions, NetworkOptions
from stmcli.segmenter.geometry import Geometry

COMPACT = NetworkOptions("compact", "cpu", "bf16", size=480, top_k=30, reach=0)


def estimate(objects=1, slots=20, size=480, **how):
    return footprint(
        SIZES["compact"], Geometry.fit(1080, 1920, size), objects, slots, **({"width": 2, "kept": 2} | how)
    )


def test_a_slot_takes_what_its_tensors_take():
    network = STM(SIZES["compact"]).eval()
    bank = MemoryBank(MemoryOptions(max_slots=3))
    with torch.inference_mode():
        bank.pin(*network.memorize(torch.rand(1, 3, 48, 64), torch.rand(1, 2, 48, 64)))
    held = sum(x.nbytes for x in bank.read()[:2])
    assert held == 2 * slot_bytes(SIZES["compact"], 3 * 4, width=4)


def test_memory_grows_with_objects_and_slots_and_nothing_with_the_clip():
    assert estimate(objects=4).memory == 4 * estimate().memory
    assert estimate(slots=40).memory == 2 * estimate().memory
    assert estimate(width=4).memory == estimate().memory == estimate(kept=4).memory // 2
    assert estimate(objects=8).network > estimate().network


def test_what_does_not_fit_is_refused_before_the_run_and_the_proposals_fit(monkeypatch):
    frame, objects = (4320, 7680), 9
    whole = NetworkOptions("compact", "cpu", "bf16", size=0, top_k=30, reach=0)
    monkeypatch.setattr(module, "free_bytes", lambda _: 20_000_000_000)
    with pytest.raises(UsageError, match=r"9 objects at 7680x4320 need about .* GB .* 20\.0 are free") as caught:
        check_room(frame, objects, whole, MemoryOptions(max_slots=200))
    words = caught.value.hint.strip(".").split()
    size = int(words[words.index("--size") + 1])
    check_room(frame, objects, NetworkOptions("compact", "cpu", "bf16", size=size), MemoryOptions(max_slots=200))
    if "--mem-max" in words:
        check_room(frame, objects, whole, MemoryOptions(max_slots=int(words[words.index("--mem-max") + 1])))


@pytest.mark.parametrize(("device", "together", "apart"), [("cpu", 4, 1), ("cuda", 2 * 4, 1 + 4)])
def test_objects_apart_are_computed_one_by_one_but_each_has_graphs_of_its_own(device, together, apart, monkeypatch):
    monkeypatch.setattr(module, "pick_device", lambda _: torch.device(device))
    monkeypatch.setattr(module, "pick_precision", lambda _: "bf16")
    network = replace(COMPACT, focus=2)
    one, four = estimate(), estimate(objects=4)
    maps = (four.network - one.network) // 3  # of one object
    found = [
        needs((1080, 1920), 4, replace(network, together=joined), MemoryOptions())(480, 20) for joined in (True, False)
    ]
    graphs = device == "cuda"
    assert found[0] - found[1] == (together - apart) * maps - graphs * 3 * module.BASE


@pytest.mark.parametrize("tta", [(), ("flip",)])
def test_there_is_room_for_a_copy_of_the_memory_too(tta):
    network, frame = replace(COMPACT, tta=tta), (1080, 1920)
    needed = needs(frame, 2, network, MemoryOptions())
    assert needed(480, 40) - needed(480, 20) == 2 * (1 + len(tta)) * estimate(objects=2).memory


def test_what_fits_and_an_unknown_room_pass(monkeypatch):
    check_room((480, 854), 1, COMPACT, MemoryOptions())
    monkeypatch.setattr(module, "free_bytes", lambda _: None)
    check_room((4320, 7680), 99, NetworkOptions("compact", "cpu", "bf16", size=0), MemoryOptions(max_slots=999))


def test_nothing_is_proposed_that_would_not_help(monkeypatch):
    monkeypatch.setattr(module, "free_bytes", lambda _: 1)
    with pytest.raises(UsageError) as caught:
        check_room((480, 854), 1, COMPACT, MemoryOptions())
    assert caught.value.hint == "Use a smaller --size and --mem-max."


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells")
def test_the_free_memory_of_this_machine_is_known():
    free = module.free_bytes(torch.device("cpu"))
    assert free is not None
    assert free > 10**7
