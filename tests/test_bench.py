import json
from unittest.mock import Mock

import pytest
import torch
from test_quantized import needs_int8

from stmcli.bench import Bound, Case, Row, Speeds, bench_command, bench_network, command, compare, read_earlier
from stmcli.bench.clock import time_round
from stmcli.bench.network import count_macs, full_follower, moving_frames
from stmcli.bench.row import SETTING
from stmcli.errors import UsageError
from stmcli.job import Job
from stmcli.model import Dims
from stmcli.options import BenchOptions, ExportOptions, Fit, NetworkOptions
from stmcli.weights import load_model


@pytest.fixture
def job(tmp_path, make_clip, make_mask, tiny_weights):
    network = NetworkOptions(str(tiny_weights), "cpu", "fp32")
    return Job(make_clip(frames=6), (make_mask(),), tmp_path / "out", network=network)


def test_every_part_and_the_whole_are_measured_and_nothing_is_left(job):
    rounds = []
    job = Job(job.video, job.masks, job.output, network=job.network, export=ExportOptions(("overlay", "cutout")))
    timing = bench_command(job, frames=4, rounds=2, on_round=rounds.append)
    assert list(timing.parts) == ["decoding", "network", "fitting", "masks", "soft/1", "overlay.mp4", "cutout"]
    assert all(seconds > 0 for seconds in timing.parts.values())
    assert (timing.frames, timing.device, rounds) == (4, "cpu", [0, 1, 2])
    assert timing.against_sum == pytest.approx(timing.whole / sum(timing.parts.values()))
    assert timing.against_longest == pytest.approx(timing.whole / max(timing.parts.values()))
    assert not job.output.exists()


def test_the_command_prints_the_parts_and_the_ratios(job, stm):
    words = ("bench", job.video, "-m", job.masks[0], "-w", job.network.weights, "--device", "cpu", "--frames", 3)
    result = stm(*words, "--rounds", 1, "--json", "-q")
    assert result.exit_code == 0, result.stderr
    facts = json.loads(result.stdout)
    assert (facts["frames"], set(facts["parts"])) == (3, {"decoding", "network", "fitting", "masks", "overlay.mp4"})
    shown = stm(*words, "--rounds", 1)
    assert "the whole command" in shown.stdout
    assert "times the sum of the parts" in shown.stdout


def test_the_network_is_waited_for_on_its_own_gpu(job, monkeypatch):
    waited = []
    monkeypatch.setattr(torch.cuda, "synchronize", lambda device=None: waited.append(device))
    monkeypatch.setattr(command, "make_follower", Mock())
    monkeypatch.setattr(command, "propagate", lambda *_, **__: iter(()))
    command._predict(job, Mock(device=torch.device("cuda", 1)), [Mock()], [])
    assert waited == [torch.device("cuda", 1)]


# -- the network alone -------------------------------------------------------------------------------------------------


FAST = BenchOptions(frame=(64, 48), frames=2, rounds=2)


@pytest.fixture
def quick(monkeypatch):
    """Do without measuring the machine, which takes seconds."""

    def fixed(device, precision):
        return Bound(str(device), precision, 1e9, 2e9)

    monkeypatch.setattr("stmcli.bench.network.measure_bound", fixed)


def tiny(tiny_weights, **settings):
    return NetworkOptions(str(tiny_weights), "cpu", "fp32", **settings)


def trunk_macs(cells):
    """A ResNet-18 without its last stage, by hand; `cells` is the number of pixels of the frame."""
    quarter = cells // 16
    stem = cells // 4 * 64 * 3 * 49
    layer1 = 4 * quarter * 64 * 64 * 9
    layer2 = quarter // 4 * (64 * 128 * 9 + 3 * 128 * 128 * 9 + 64 * 128)
    layer3 = quarter // 16 * (128 * 256 * 9 + 3 * 256 * 256 * 9 + 128 * 256)
    return stem, layer1 + layer2 + layer3


def step_macs(width, height, objects, slots, *, key=8, value=16, decoder=8):
    """Count by hand what a step of the tiny network multiplies: memorize the frame before, read, decode."""
    pixels = width * height
    h16, h8, h4 = pixels // 256, pixels // 64, pixels // 16
    stem, trunk = trunk_macs(pixels)
    planes = objects * 2 * pixels // 4 * 64 * 49
    heads = h16 * 256 * (key + value) * 9
    others = objects * objects * pixels if objects > 1 else 0  # the sum of the other objects' masks
    memorize = stem + planes + objects * (trunk + heads) + others
    read = objects * (slots * h16) * h16 * (key + value)
    block = 2 * decoder * decoder * 9
    skips = h8 * (128 * decoder * 9 + block) + h4 * (64 * decoder * 9 + block)
    decode = objects * (h16 * (2 * value * decoder * 9 + block) + h8 * block + h4 * (block + decoder * 2 * 9))
    looks = objects * h16 * key  # of the confidence: the mean key of each object's cells
    return memorize + stem + trunk + heads + read + skips + decode + looks


@pytest.mark.parametrize(("objects", "slots"), [(1, 5), (3, 4)])
def test_the_count_of_operations_is_that_by_hand(tiny_weights, objects, slots):
    clip = moving_frames(64, 48)
    network = tiny(tiny_weights)
    follower = full_follower(load_model(network), network, clip[0], objects=objects, slots=slots)
    follower.step(clip[1])
    assert count_macs(follower, clip[2]) == step_macs(64, 48, objects, slots)


def test_the_memory_is_full_at_every_step_and_no_frame_is_a_cut(tiny_weights):
    clip = moving_frames(64, 48)
    network = tiny(tiny_weights)
    follower = full_follower(load_model(network), network, clip[0], objects=2, slots=6)
    assert follower.bank.slots == 5
    follower.step(clip[1])  # whose memory is written when the next one comes
    for rgb in (*clip[2:], *clip):
        assert not follower.step(rgb).cut
        assert follower.bank.slots == 6
        assert follower.bank.read()[2] is None


def test_every_view_has_a_full_memory(tiny_weights):
    clip = moving_frames(64, 48)
    network = tiny(tiny_weights, tta=("flip",))
    follower = full_follower(load_model(network), network, clip[0], objects=1, slots=4)
    assert [view.segmenter.bank.slots for view in follower.views] == [3, 3]


def test_warm_up_is_dropped(monkeypatch):
    """By a clock that a step moves on by its own number of seconds."""
    now, steps = [0.0], []
    monkeypatch.setattr("time.perf_counter", lambda: now[0])

    def step():
        steps.append(100.0 if not steps else len(steps))
        now[0] += steps[-1]

    assert time_round(step, count=3, device=torch.device("cpu")) == [1, 2, 3]
    assert time_round(step, count=2, device=torch.device("cpu")) == [5, 6]


def test_a_row_sums_up_its_frames():
    times = tuple(float(x) for x in (40, 10, 20, 30, 50, 60, 70, 80, 90, 100))
    row = Row("compact", "64x48", Fit(48), "", False, 1, 20, "fp32", "cpu", times, 11_000_000, 1, "", None)
    assert (row.p50, row.p90, row.frames_per_second) == (55, 90, pytest.approx(1000 / 55))
    assert row.operations_per_second == pytest.approx(22e6 / 0.055)
    speeds = Speeds({}, (Bound("cpu", "bf16", 1, 1), Bound("cpu", "fp32", 1e9, 8e8)), (row,))
    assert speeds.share(row) == pytest.approx(0.5)


@pytest.mark.usefixtures("quick")
def test_every_case_is_a_row_with_its_setting(tiny_weights):
    heard = []
    cases = [Case(tiny(tiny_weights, size=32, top_k=7, tta=("flip",)), 1, 3), Case(tiny(tiny_weights), 2, 4)]
    speeds = bench_network(cases, FAST, on_case=lambda number, case: heard.append((number, case)))
    assert heard == list(enumerate(cases))
    first, second = speeds.rows
    assert (first.fit, first.tta, first.objects, first.slots) == (Fit(size=32, top_k=7), "flip", 1, 3)
    assert (second.fit, second.tta, second.objects, second.slots) == (Fit(size=48), "", 2, 4)
    for row in speeds.rows:
        assert (row.frame, row.precision, row.device, len(row.milliseconds)) == ("64x48", "fp32", "cpu", 4)
        assert row.peak_host_bytes > 2**20
        assert row.peak_device_bytes is None
    assert first.macs < second.macs
    assert [*speeds.bounds] == [Bound("cpu", "fp32", 1e9, 2e9)]


@pytest.mark.usefixtures("quick")
def test_a_size_without_weights_is_measured_with_the_same_random_numbers(monkeypatch):
    from stmcli.bench import network as measured

    seen = []
    monkeypatch.setitem(measured.SIZES, "small", Dims(trunk="resnet18", key=8, value=16, decoder=8))
    monkeypatch.setattr(measured, "load_model", lambda options: seen.append(load_model(options)) or seen[-1])
    before = torch.random.get_rng_state()
    rows = bench_network([Case(NetworkOptions("small", "cpu", "fp32"), 1, 3)] * 2, FAST).rows
    assert torch.equal(torch.random.get_rng_state(), before)
    assert [row.weights for row in rows] == ["small", "small"]
    weights = [model.decoder.enter.weight for model in seen]
    assert torch.equal(*weights)
    assert weights[0].std() > 0


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("precision", ["auto", "fp32"])
def test_what_is_missing_is_said_before_anything_is_measured(tiny_weights, precision):
    cases = [Case(tiny(tiny_weights), 1, 3), Case(NetworkOptions("nowhere.pth", "cpu", precision), 1, 3)]
    with pytest.raises(UsageError, match=r"nowhere\.pth"):
        bench_network(cases, FAST, on_case=lambda *_: pytest.fail("began to measure"))


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("weights", ["tiny", "resnet50"])
def test_a_precision_that_cannot_be_is_refused_before_anything_is_measured(tiny_weights, weights):
    name = str(tiny_weights) if weights == "tiny" else weights
    cases = [Case(tiny(tiny_weights), 1, 3), Case(NetworkOptions(name, "cpu", "int8", compile=weights != "tiny"), 1, 3)]
    with pytest.raises(UsageError, match="--precision int8"):
        bench_network(cases, FAST, on_case=lambda *_: pytest.fail("began to measure"))


@needs_int8
@pytest.mark.usefixtures("quick")
def test_a_network_that_is_made_up_is_measured_in_integers():
    (row,) = bench_network([Case(NetworkOptions("compact", "cpu", "int8"), 1, 3)], FAST).rows
    (made_up,) = bench_network([Case(NetworkOptions("resnet50", "cpu", "int8", size=48), 1, 3)], FAST).rows
    (usual,) = bench_network([Case(NetworkOptions("compact", "cpu", "fp32"), 1, 3)], FAST).rows
    assert [row.precision, made_up.precision] == ["int8", "int8"]
    assert row.macs == usual.macs
    assert made_up.macs > 5 * row.macs


@pytest.mark.parametrize("precision", ["fp32", "bf16", pytest.param("int8", marks=needs_int8)])
def test_the_bound_counts_what_it_multiplies(monkeypatch, precision):
    """With a clock that gives every call one second, the rates are the operations."""
    from stmcli.bench import bound

    monkeypatch.setattr(bound, "SIDE", {"cpu": 8})
    monkeypatch.setattr(bound, "HEIGHT", 4)
    monkeypatch.setattr(bound, "MAPS", ((4, 6, 5), (2, 3, 3)))
    now = iter(range(1_000_000))
    monkeypatch.setattr("time.perf_counter", lambda: float(next(now)))
    found = bound.measure_bound(torch.device("cpu"), precision)
    assert found == Bound("cpu", precision, 2 * 8 * 8 * 8, 2 * 4 * 4 * 9 * 6 * 5)
    assert found.best(Bound("cpu", precision, 1.0, 1e9)) == Bound("cpu", precision, found.product, 1e9)


# -- against an earlier run --------------------------------------------------------------------------------------------


def row_of(weights, p50, objects=1):
    row = Row(weights, "854x480", Fit(480), "", False, objects, 20, "fp32", "cpu", (float(p50),), 1, 1, "", None)
    return row.facts()


MACHINE = {"processor": "one", "cores": 2, "threads": 2, "cuda": None, "torch": "2.15"}


def test_rows_are_compared_by_their_whole_setting():
    before = {"machine": MACHINE, "rows": [row_of("b", 100), row_of("a", 30), row_of("a", 90, objects=3)]}
    now = {"machine": MACHINE | {"date": "today"}, "rows": [row_of("a", 20), row_of("b", 200), row_of("c", 5)]}
    now["rows"] += [row_of("a", 60)]  # the same setting once more, as of --precision auto,fp32
    comparison = compare(now, before)
    assert comparison.ratios == (1.5, 0.5, None, 0.5)
    assert [note.partition(":")[0] for note in comparison.notes] == ["not measured before", "measured before alone"]
    assert "weights c" in comparison.notes[0]
    assert "weights a" in comparison.notes[1]
    assert "objects 3" in comparison.notes[1]


def test_another_machine_or_torch_is_said():
    before = {"machine": MACHINE, "rows": []}
    now = {"machine": MACHINE | {"processor": "other", "torch": "2.16"}, "rows": []}
    assert compare(now, before).notes == (
        "another processor: one before, other now",
        "another torch: 2.15 before, 2.16 now",
    )


@pytest.mark.parametrize(
    "text",
    ["", "[]", "[" * 10**5, "{}", '{"rows": 3}', '{"rows": [{}], "machine": {}}', '{"rows": []}', "\0"],
    ids=lambda text: text[:40],
)
def test_a_file_that_is_no_measurement_is_refused(tmp_path, text):
    (tmp_path / "before.json").write_text(text)
    with pytest.raises(UsageError, match=r"before\.json: not what"):
        read_earlier(tmp_path / "before.json")


# -- the command -------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("quick")
def test_without_a_clip_every_combination_is_a_row(stm, tiny_weights, tmp_path):
    words = (
        "bench",
        "-w",
        tiny_weights,
        "--device",
        "cpu",
        "--precision",
        "fp32,bf16",
        "--objects",
        "1",
        "--objects",
        2,
    )
    words = (*words, "--size", "32,0", "--frame-size", "64x48", "--frames", 2, "--rounds", 1, "--mem-max", 3)
    result = stm(*words, "--json", "-q")
    assert (result.exit_code, result.stderr) == (0, "")
    facts = json.loads(result.stdout)
    assert {*facts} == {"machine", "bounds", "rows"}
    assert {*facts["machine"]} == {"processor", "cores", "threads", "cuda", "torch", "stm", "date"}
    assert [(b["device"], b["precision"]) for b in facts["bounds"]] == [("cpu", "fp32"), ("cpu", "bf16")]
    keys = [(row["precision"], row["size"], row["objects"]) for row in facts["rows"]]
    assert keys == [(p, s, n) for p in ("fp32", "bf16") for s in (32, 0) for n in (1, 2)]
    for row in facts["rows"]:
        assert {*row} == {*SETTING, *MEASURED}
        assert (row["weights"], row["frame"], row["slots"], row["frames"]) == (str(tiny_weights), "64x48", 3, 2)
        assert 0 < row["p50_ms"] <= row["p90_ms"]
        assert row["operations_per_second"] == pytest.approx(2 * row["macs"] / row["p50_ms"] * 1000)
        assert row["share_of_convolution"] == pytest.approx(row["operations_per_second"] / 2e9)
    (tmp_path / "before.json").write_text(result.stdout)
    again = stm(*words, "--against", "before.json", "--json", "-q")
    assert len(json.loads(again.stdout)["against"]["ratios"]) == 8
    assert json.loads(again.stdout)["against"]["notes"] == []


MEASURED = ("compiled", "frames", "p50_ms", "p90_ms", "frames_per_second", "operations_per_second", "macs")
MEASURED += ("peak_host_bytes", "peak_host", "peak_device_bytes", "share_of_convolution")


@pytest.mark.usefixtures("quick")
def test_compiling_is_measured_against_a_run_without(stm, tiny_weights, tmp_path, monkeypatch):
    """Where it is the only difference; another window is another setting, and so is what no setting knew before."""
    monkeypatch.setattr("stmcli.bench.network.check_compiler", lambda _: None)
    monkeypatch.setattr(torch.nn.Module, "compile", lambda *_, **__: None)
    words = ("bench", "-w", tiny_weights, "--device", "cpu", "--frame-size", "64x48", "--frames", 2, "--rounds", 1)
    before = stm(*words, "--json", "-q").stdout
    (tmp_path / "before.json").write_text(before)
    old = json.loads(before)
    del old["rows"][0]["focus"], old["rows"][0]["anchor"]
    (tmp_path / "old.json").write_text(json.dumps(old))
    found = {
        name: json.loads(stm(*words, *more, "--against", f"{name}.json", "--json", "-q").stdout)
        for name, more in {"before": ("--compile",), "old": ("--focus", 2, "--anchor", 9)}.items()
    }
    row = found["before"]["rows"][0]
    assert (row["compiled"], row["focus"], row["anchor"]) == (True, 0.0, 1.0)
    assert found["before"]["against"]["ratios"][0] > 0
    row = found["old"]["rows"][0]
    assert (row["compiled"], row["focus"], row["anchor"]) == (False, 2.0, 9.0)
    assert found["old"]["against"]["ratios"] == [None]


@pytest.mark.usefixtures("quick")
def test_the_table_tells_the_machine_and_what_has_no_counterpart(stm, tiny_weights, tmp_path):
    words = ("bench", "-w", tiny_weights, "--device", "cpu", "--frame-size", "64x48", "--frames", 2, "--rounds", 1)
    before = json.loads(stm(*words, "--json", "-q").stdout)
    before["machine"]["processor"] = "a faster one"
    (tmp_path / "before.json").write_text(json.dumps(before))
    result = stm(*words, "--objects", "1,2", "--against", "before.json")
    assert result.exit_code == 0, result.stderr
    assert "2 GFLOP/s in a 3x3 convolution, 1 in a matrix product" in result.stdout
    assert "torch " + torch.__version__ in result.stdout
    assert "another processor: a faster one before" in result.stderr
    assert "not measured before" in result.stderr
    assert "row 2 of 2" in result.stderr


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (("clip.mp4",), "--mask is missing"),
        (("--mask", "mask.png"), "--mask: not without VIDEO"),
        (("-e", "overlay"), "--export: not without VIDEO"),
        (("--mem-renew", 3), "--mem-renew: not without VIDEO"),
        (("clip.mp4", "-m", "mask.png", "--objects", "2"), "--objects: not with VIDEO"),
        (("clip.mp4", "-m", "mask.png", "--precision", "fp32,bf16"), "several networks with VIDEO"),
        (("--objects", "0"), "--objects 0"),
        (("--objects", ""), "--objects: a value is empty"),
        (("--weights", ""), "--weights: a value is empty"),
        (("--device", "cpu,"), "--device: a value is empty"),
        (("--objects", "101"), "from 1 to 100"),
        (("--size", "-1"), "from 0 on"),
        (("--size", "1,x"), "--size x"),
        (("--frame-size", "854"), "--frame-size 854"),
        (("--frame-size", "99999x99999"), "--frame-size 99999x99999: absurd dimensions"),
        (("--precision", "fp32,fp8"), "--precision fp8"),
        (("--against", "nowhere.json"), "nowhere.json: cannot be read"),
        (("--anchor", "0"), "--anchor 0"),
    ],
)
def test_wrong_words_are_usage_errors(stm, words, complaint):
    result = stm("bench", *words)
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr.startswith("error: ")
    assert complaint in result.stderr
