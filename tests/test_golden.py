"""The network against what the published one computed (tests/golden/README.md)."""

import zlib
from pathlib import Path

import numpy as np
import pytest
import torch

from stmcli.options import MemoryOptions
from stmcli.segmenter import Segmenter
from stmcli.weights import read

GOLDEN = Path(__file__).parent / "golden"


def published_state() -> dict[str, torch.Tensor]:
    """The deterministic state dict of tests/golden/README.md, with the names of the published file."""
    state = {}
    for line in (GOLDEN / "keys.txt").read_text().splitlines():
        name, _, dims = line.partition("\t")
        shape = tuple(int(n) for n in dims.split("x") if n)
        state["module." + name] = torch.from_numpy(golden_tensor(name, shape))
    return state


def golden_tensor(name: str, shape: tuple[int, ...]) -> np.ndarray:
    if name.endswith("num_batches_tracked"):
        return np.array(0)
    if name.endswith((".mean", ".std")):
        values = (0.485, 0.456, 0.406) if name.endswith(".mean") else (0.229, 0.224, 0.225)
        return np.array(values, dtype=np.float32).reshape(shape)
    seed = np.random.RandomState(zlib.crc32(("golden-a:" + name).encode()))
    x = seed.standard_normal(shape).astype(np.float32)
    if name.endswith("running_var"):
        x = 0.5 + np.abs(x)
    elif name.endswith("running_mean"):
        x = 0.1 * x
    elif x.ndim == 4:
        x = x * np.sqrt(2.0 / (shape[1] * shape[2] * shape[3])).astype(np.float32)
    elif name.endswith(".bias"):
        x = 0.05 * x
    else:
        x = 1 + 0.1 * x
    return (0.3 * x if ".bn3.weight" in name else x).astype(np.float32)


@pytest.fixture(scope="module")
def published_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("published") / "STM_weights.pth"
    torch.save(published_state(), path)
    return path


def run_golden(path: Path) -> float:
    """The largest difference to the reference's probabilities, over all frames, objects and pixels."""
    golden = np.load(GOLDEN / "golden_a.npz")
    model, _ = read(path)
    memory = MemoryOptions(every=int(golden["memorize_every"]))
    segmenter = Segmenter(model.eval(), memory=memory)
    worst = 0.0
    for index, rgb in enumerate(golden["frames"]):
        prediction = segmenter.step(rgb, golden["first_mask"] if index == 0 else None)
        worst = max(worst, float(np.abs(prediction.prob.numpy() - golden["probabilities"][index]).max()))
    return worst


def test_probabilities_equal_the_published_networks(published_file: Path) -> None:
    assert run_golden(published_file) <= 1e-4


def test_legacy_file_loads_to_the_same_network(published_file: Path, tmp_path: Path) -> None:
    legacy = tmp_path / "legacy.pth"
    torch.save(torch.load(published_file, weights_only=True), legacy, _use_new_zipfile_serialization=False)
    assert not legacy.read_bytes().startswith(b"PK")
    ours, theirs = read(published_file)[0].state_dict(), read(legacy)[0].state_dict()
    assert all(torch.equal(x, theirs[name]) for name, x in ours.items())


def test_published_file_has_558_tensors_and_all_are_used(published_file: Path) -> None:
    state = torch.load(published_file, weights_only=True)
    model, _ = read(published_file)
    assert len(state) == len(model.state_dict()) == 558
    first = state["module.Decoder.RF2.ResMM.conv2.weight"]
    assert torch.equal(model.decoder.refine4.block.conv2.weight, first)
