"""Check the training step, and that a run can stop anywhere and go on as if it had not."""

import csv
import math
import os
import re
import shutil
import signal
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open
from test_clips import pack, still, write_stills
from test_faults_room import no_file_larger_than

from stmcli.clips import ClipMaker, Clips, StillClips, load_stills
from stmcli.errors import Interrupted, LockedError, NoRoomError, TrainingError, UsageError, WeightsError
from stmcli.evaluate import list_sequences
from stmcli.masks import read_values, write_labels
from stmcli.model import SIZES, Dims
from stmcli.options import ClipOptions, TrainOptions
from stmcli.results import lock
from stmcli.segmenter import propagate
from stmcli.train import losses, train, trainer
from stmcli.train.curve import CURVE, draw_curve
from stmcli.train.losses import clip_loss, unroll
from stmcli.train.runfiles import RunFiles
from stmcli.train.trainer import Trainer, new_model
from stmcli.train.validation import validate, validation_clips
from stmcli.weights import Card, read, save

TINY = Dims(trunk="resnet18", key=8, value=16, decoder=8)
OPTIONS = TrainOptions(size="tiny", batch=2, steps=4, warmup=2, validate_size=32)
CLIPS = ClipOptions(crop=32)


@pytest.fixture(autouse=True)
def tiny(monkeypatch):
    """Make the runs as small as they get."""
    monkeypatch.setitem(SIZES, "tiny", TINY)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def stills(tmp_path):
    folder = write_stills(tmp_path / "folder", {f"red-{i}": still() for i in range(2)})
    other = write_stills(tmp_path / "blue", {"blue-1": still((0, 0, 255))})
    return [folder, pack(other, tmp_path / "blue.tar")]


@pytest.fixture
def dataset(tmp_path):
    """Write a DAVIS root with one clip of a red square that moves."""
    frames, truth = (tmp_path / "davis" / kind / "480p" / "car" for kind in ("JPEGImages", "Annotations"))
    for folder in (frames, truth):
        folder.mkdir(parents=True)
    for t in range(4):
        rgb, labels = still(box=(16, 16 + 2 * t, 48, 48 + 2 * t))
        labels[:4] = 255  # void
        Image.fromarray(rgb).save(frames / f"{t:05d}.jpg", quality=95)
        Image.fromarray(labels).save(truth / f"{t:05d}.png")
    return tmp_path / "davis"


def make_trainer(paths, options=OPTIONS, clips=CLIPS, **changes):
    options = replace(options, **changes)
    return Trainer(new_model("tiny"), ClipMaker(load_stills(paths), (), clips, seed=options.seed), options)


def load(folder):
    return torch.load(folder / "last.pt", weights_only=True)


def same(one, other):
    """Return whether two states hold the same numbers, bit for bit."""
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, torch.Tensor):
        return torch.equal(one, other)
    return one == other


def numbers(state):
    """Return of a state what must not depend on time, nor on what may change when a run goes on."""
    step, _, *_, loss, iou = state["progress"]
    return {**{key: state[key] for key in ("model", "ema")}, "rest": (step, loss, iou), **moments(state)}


def moments(state):
    return {"optimizer": state["optimizer"]["state"]}


# -- the loss ----------------------------------------------------------------------------------------------------------


def test_the_pixel_loss_is_the_cross_entropy():
    logits, masks = torch.randn(2, 3, 4, 4), torch.zeros(2, 2, 4, 4)
    masks[0, 0, 0], masks[1, 1, 2, 1:] = 1, 1
    log_prob = logits.log_softmax(1)
    expected = []
    for b, y, x in np.ndindex(2, 4, 4):
        label = 1 if masks[b, 0, y, x] else 2 if masks[b, 1, y, x] else 0
        scores = [math.exp(v) for v in logits[b, :, y, x].tolist()]
        expected.append(-math.log(scores[label] / sum(scores)))
    assert losses._pixel_loss(log_prob, masks, hard=1).item() == pytest.approx(np.mean(expected), rel=1e-5)
    hardest = np.sort(np.reshape(expected, (2, 16)), axis=1)[:, -4:]
    assert losses._pixel_loss(log_prob, masks, hard=0.25).item() == pytest.approx(hardest.mean(), rel=1e-5)


def test_void_pixels_add_nothing_to_the_loss():
    logits, masks, void = torch.randn(1, 2, 4, 4), torch.zeros(1, 1, 4, 4), torch.zeros(1, 4, 4)
    void[0, :2] = 1
    found = losses._pixel_loss(logits.log_softmax(1), masks, void, hard=1)
    expected = -logits.log_softmax(1)[0, 0, 2:].sum() / 16
    assert found.item() == pytest.approx(expected.item(), rel=1e-5)


def test_the_read_share_is_the_attention_that_falls_on_the_object():
    query, keys, cells = torch.randn(1, 4, 1, 3), torch.randn(1, 2, 5, 4), torch.rand(1, 2, 5)
    found = losses._read_share(query, keys, cells)
    for n, q in np.ndindex(2, 3):
        scores = [math.exp(float(query[0, :, 0, q] @ keys[0, n, cell]) / 2) for cell in range(5)]
        share = sum(s * float(c) for s, c in zip(scores, cells[0, n], strict=True)) / sum(scores)
        assert found[0, n, q].item() == pytest.approx(share, rel=1e-5)


def test_the_dice_loss_is_zero_for_the_truth_and_nearly_one_for_its_opposite():
    masks = torch.zeros(1, 1, 32, 32)
    masks[..., :16, :] = 1
    assert losses._dice_loss(masks, masks).item() == pytest.approx(0)
    assert losses._dice_loss(1 - masks, masks).item() > 0.99


def test_the_iou_leaves_out_objects_that_are_neither_there_nor_found():
    masks = torch.zeros(1, 2, 4, 4)
    masks[0, 0, :2] = 1
    logits = torch.zeros(1, 3, 4, 4)
    logits[0, 1, 1:3] = 1  # half of the first object, and as much beside it
    assert losses._iou(logits, masks).item() == pytest.approx(4 / 12)


def test_the_iou_counts_no_void_pixels():
    logits, masks, void = torch.zeros(1, 2, 4, 4), torch.zeros(1, 1, 4, 4), torch.zeros(1, 4, 4)
    logits[0, 1, :3] = 1  # found in three rows: one is there, one is void, one is wrong
    masks[0, 0, 0], void[0, 1] = 1, 1
    assert losses._iou(logits, masks).item() == pytest.approx(4 / 12)
    assert losses._iou(logits, masks, void).item() == pytest.approx(4 / 8)


def test_gradients_reach_the_memory_encoder_through_a_predicted_frame():
    model = new_model("tiny").train()
    clips = Clips(torch.rand(1, 3, 3, 32, 32), torch.zeros(1, 3, 1, 32, 32))
    clips.masks[:, :, :, 8:24, 8:24] = 1
    seen = []
    model.memory_encoder.register_forward_hook(lambda _, __, features: seen.append(features.f16))
    *_, (_, logits, _) = unroll(model, clips)
    assert len(seen) == 2  # the given mask and the prediction
    first, predicted = torch.autograd.grad(logits[:, 1].sum(), seen, retain_graph=True)
    assert first.abs().sum() > 0
    assert predicted.abs().sum() > 0
    logits[:, 1].sum().backward()
    assert model.memory_encoder.planes[0].weight.grad.abs().sum() > 0


def test_no_gradient_flows_through_a_predicted_mask_that_is_detached():
    model = new_model("tiny").train()
    clips = Clips(torch.rand(1, 3, 3, 32, 32), torch.zeros(1, 3, 1, 32, 32))
    clips.masks[:, :, :, 8:24, 8:24] = 1
    for detach in (False, True):
        predictions = [logits for _, logits, _ in unroll(model, clips, detach=detach)]
        (reached,) = torch.autograd.grad(predictions[1].sum(), [predictions[0]], allow_unused=True)
        assert (reached is None) == detach


def test_both_encoders_and_key_heads_start_from_the_same_numbers():
    before = torch.get_rng_state()
    model = new_model("tiny", seed=5)
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(model.query_encoder.conv1.weight, model.memory_encoder.conv1.weight)
    assert torch.equal(model.query_head.key.weight, model.memory_head.key.weight)


# -- the step ----------------------------------------------------------------------------------------------------------


def test_the_loss_falls_on_a_clip_seen_again_and_again(stills):
    trainer = make_trainer(stills, steps=30, lr=5e-3)
    clips = StillClips(load_stills(stills), CLIPS, seed=1).batch(2)
    trainer._clips = lambda: clips
    trainer.advance()
    first = trainer.loss
    for _ in range(19):
        trainer.advance()
    loss, _ = clip_loss(trainer.model, clips, trainer.options, hard=1)
    assert loss.item() < 0.75 * first


def test_batch_norm_stays_as_it_is_when_it_is_not_trained(stills):
    trainer = make_trainer(stills, train_norm=False, cosine=False, warmup=1)
    before = {name: x.clone() for name, x in trainer.model.state_dict().items()}
    rates = []
    for _ in range(2):
        rates.append(trainer.rate())
        trainer.advance()
    after = trainer.model.state_dict()
    frozen = [name for name in before if ".bn" in name or "downsample.1" in name]
    assert frozen
    assert all(torch.equal(before[name], after[name]) for name in frozen)
    assert not torch.equal(before["decoder.predict.weight"], after["decoder.predict.weight"])
    assert rates == [trainer.options.lr] * 2


def test_batch_norm_is_trained_unless_it_is_not_to_be(stills):
    trainer = make_trainer(stills)
    before = {name: x.clone() for name, x in trainer.model.state_dict().items() if ".bn" in name}
    trainer.advance()
    after = trainer.model.state_dict()
    assert {name.rpartition(".")[2] for name in before if not torch.equal(before[name], after[name])} == {
        *("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
    }


def test_the_rate_rises_and_then_falls_to_zero_by_steps_or_by_time(stills):
    trainer = make_trainer(stills, steps=8, warmup=2, lr=1e-3)
    rates = []
    for trainer.step in (0, 1, 4, 6, 8):
        rates.append(trainer.rate() / 1e-3)
    by_steps = [0.5 * (1 + math.cos(math.pi * step / 8)) for step in (0, 1, 4, 6, 8)]
    assert rates == pytest.approx([by_steps[0] / 2, *by_steps[1:]])
    timed = make_trainer(stills, steps=8, warmup=1, lr=1e-3, time_budget=40.0)
    for timed.step, timed.seconds, done in ((1, 30.0, 0.75), (6, 0.0, 0.75), (1, 60.0, 1.0)):
        assert timed.done == done
        assert timed.rate() == pytest.approx(0.5e-3 * (1 + math.cos(math.pi * done)))


def test_no_weight_changes_by_more_than_the_rate_in_the_first_step(stills):
    trainer = make_trainer(stills, warmup=4, lr=1e-2, weight_decay=0.0)
    before = [p.clone() for p in trainer.model.parameters()]
    rate = trainer.rate()
    trainer.advance()
    changed = [float((p - old).detach().abs().max()) for p, old in zip(trainer.model.parameters(), before, strict=True)]
    assert max(changed) == pytest.approx(rate, rel=1e-2)


def test_gradients_are_cut_to_their_longest_and_more_easy_pixels_are_left_out_later(stills):
    trainer, hard = make_trainer(stills, steps=20, hard=0.25, clip_norm=1e-3), []
    loss_of = trainer.loss_of
    trainer.loss_of = lambda clips, **how: hard.append(how["hard"]) or loss_of(clips, **how)
    clips = StillClips(load_stills(stills), CLIPS, seed=1).batch(2)
    for trainer.step in (2, 7, 20):
        *_, norm = trainer.gradients(clips)
        grads = [p.grad for p in trainer.model.parameters() if p.grad is not None]
        assert torch.linalg.vector_norm(torch.cat([x.flatten() for x in grads])) == pytest.approx(1e-3, rel=1e-2)
        assert norm > 1e-3
    assert hard == pytest.approx([1, 0.625, 0.25])


@pytest.mark.parametrize(("loss", "norm"), [(math.nan, 1.0), (1.0, math.nan), (1.0, math.inf)])
def test_a_step_by_a_gradient_that_is_no_number_is_not_made(stills, loss, norm):
    trainer = make_trainer(stills)
    before = numbers(trainer.state())
    trainer.gradients = lambda _: (loss, 0.5, norm)
    with pytest.raises(TrainingError, match=f"the loss is {loss} and its gradient {norm} at step 0"):
        trainer.advance()
    assert same(numbers(trainer.state())["model"], before["model"])
    assert (trainer.step, trainer.whole) == (0, True)


def test_a_run_goes_on_in_the_precision_and_from_the_weights_it_began_with(stills):
    one, other = make_trainer(stills), make_trainer(stills)
    one.bf16, one.init = not one.bf16, "some.safetensors"
    other.restore(one.state())
    assert (other.bf16, other.init) == (one.bf16, one.init)


def test_clips_made_ahead_are_those_made_on_demand(stills, monkeypatch):
    trainers = []
    for spare in (True, False):
        monkeypatch.setattr(trainer, "has_core_to_spare", lambda *_, spare=spare: spare)
        trainers.append(make_trainer(stills, clips=replace(CLIPS, frames=2, frames_end=4)))
        for _ in range(3):
            trainers[-1].advance()
        trainers[-1].close()
    assert (trainers[0].ahead is None, trainers[1].ahead is None) == (False, True)
    assert same(numbers(trainers[0].state()), numbers(trainers[1].state()))


def test_the_average_follows_the_weights(stills):
    trainer = make_trainer(stills)
    before = {name: x.clone() for name, x in trainer.ema.state_dict().items()}
    trainer.advance()
    for name, mean in trainer.ema.state_dict().items():
        now = trainer.model.state_dict()[name]
        expected = before[name].lerp(now, 0.9) if mean.is_floating_point() else now
        assert torch.allclose(mean, expected, rtol=1e-5, atol=1e-7), name


def test_an_interrupted_step_has_not_happened(stills, monkeypatch):
    trainer, straight = make_trainer(stills), make_trainer(stills)
    for one in (trainer, straight):
        one.advance()
    monkeypatch.setattr(torch.nn.utils, "clip_grad_norm_", interrupt)
    with pytest.raises(KeyboardInterrupt):
        trainer.advance()
    monkeypatch.undo()
    assert trainer.whole
    assert same(numbers(trainer.state()), numbers(straight.state()))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_run_that_is_stopped_while_weights_are_updated_keeps_that_step(stills, tmp_path, monkeypatch, number):
    def stop(*_):
        raise KeyboardInterrupt

    before = {each: signal.signal(each, stop) for each in (signal.SIGINT, signal.SIGTERM)}
    step = torch.optim.AdamW.step

    def signalled(optimizer, *words):
        step(optimizer, *words)
        signal.raise_signal(number)

    monkeypatch.setattr(torch.optim.AdamW, "step", signalled)
    try:
        with pytest.raises(Interrupted, match=r"stopped after 1 steps\. Go on by --resume"):
            train(stills, tmp_path / "a", options=OPTIONS, clips=CLIPS, device="cpu")
        assert {signal.getsignal(each) for each in before} == {stop}
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)
    monkeypatch.undo()
    monkeypatch.setitem(SIZES, "tiny", TINY)
    straight = make_trainer(stills)
    straight.advance()
    assert same(numbers(load(tmp_path / "a")), numbers(straight.state()))


def interrupt(*_, **__):
    raise KeyboardInterrupt


# -- the run -----------------------------------------------------------------------------------------------------------


def test_a_run_that_went_on_equals_one_that_never_stopped(stills, tmp_path):
    straight = train(stills, tmp_path / "a", options=replace(OPTIONS, steps=4), clips=CLIPS, device="cpu")

    def stop(now):
        if now.step == 2:
            raise KeyboardInterrupt

    with pytest.raises(Interrupted, match=r"b: stopped after 2 steps\. Go on by --resume"):
        train(stills, tmp_path / "b", options=OPTIONS, clips=CLIPS, device="cpu", on_step=stop)
    assert load(tmp_path / "b")["progress"][0] == 2
    resumed = train(stills, tmp_path / "b", options=OPTIONS, clips=CLIPS, device="cpu", resume=True)
    assert same(numbers(load(tmp_path / "a")), numbers(load(tmp_path / "b")))
    assert (resumed.step, resumed.loss, resumed.iou) == (straight.step, straight.loss, straight.iou)
    assert straight.weights.read_bytes() == resumed.weights.read_bytes()
    assert not list((tmp_path / "b").glob(".*"))


def test_a_finished_run_goes_on_to_more_steps_and_with_nothing_to_do_does_nothing(stills, tmp_path):
    settings = {"clips": CLIPS, "device": "cpu"}
    train(stills, tmp_path / "a", options=replace(OPTIONS, steps=2), **settings)
    before = load(tmp_path / "a")
    train(stills, tmp_path / "a", options=replace(OPTIONS, steps=2), resume=True, **settings)
    assert same(load(tmp_path / "a"), before)
    more = replace(OPTIONS, steps=3, time_budget=900.0, validate_every=7.0)
    assert train(stills, tmp_path / "a", options=more, resume=True, **settings).step == 3


def test_another_run_is_not_gone_on_with(stills, tmp_path):
    train(stills, tmp_path / "a", options=replace(OPTIONS, steps=1), clips=CLIPS, device="cpu")
    for options, clips, paths, text in (
        (replace(OPTIONS, size="compact"), CLIPS, stills, "size was tiny and is compact"),
        (replace(OPTIONS, batch=3, lr=1.0), CLIPS, stills, "last.pt: batch was 2 and is 3, lr was 0.0005 and is 1.0"),
        (OPTIONS, replace(CLIPS, crop=48), stills, "crop was 32 and is 48"),
        (OPTIONS, CLIPS, stills[:1], "the stills are others"),
    ):
        with pytest.raises(TrainingError, match=text):
            train(paths, tmp_path / "a", options=options, clips=clips, device="cpu", resume=True)
    state = load(tmp_path / "a")
    torch.save({**state, "device": "cuda"}, tmp_path / "a" / "last.pt")
    with pytest.raises(TrainingError, match="device was cuda and is cpu"):
        train(stills, tmp_path / "a", options=OPTIONS, clips=CLIPS, device="cpu", resume=True)
    torch.save({**state, "format": 0}, tmp_path / "a" / "last.pt")
    with pytest.raises(TrainingError, match="not the state of a run of this version"):
        train(stills, tmp_path / "a", options=OPTIONS, clips=CLIPS, device="cpu", resume=True)
    (tmp_path / "a" / "last.pt").write_bytes(b"PK damaged")
    with pytest.raises(WeightsError, match=r"last\.pt: refused"):
        train(stills, tmp_path / "a", options=OPTIONS, clips=CLIPS, device="cpu", resume=True)


def test_a_run_whose_state_was_cut_short_is_begun_anew_from_its_weights(stills, tmp_path):
    settings = {"options": replace(OPTIONS, steps=1), "clips": CLIPS, "device": "cpu"}
    train(stills, tmp_path / "a", **settings)
    last, weights = tmp_path / "a" / "last.pt", tmp_path / "a" / "best.safetensors"
    whole = last.read_bytes()
    advice = f"{last}: damaged or cut short. Start a new run in another --output"
    for hint, size in ((f"{advice} with --init {weights}", len(whole) - 100), *((advice, size) for size in range(4))):
        last.write_bytes(whole[:size])
        with pytest.raises(WeightsError, match=f"^{re.escape(hint)}$"):
            train(stills, tmp_path / "a", resume=True, **settings)
        if weights.exists():
            train(stills, tmp_path / "b", init=str(weights), **settings)
            weights.unlink()


def test_a_run_is_never_overwritten(stills, tmp_path):
    train(stills, tmp_path / "a", options=replace(OPTIONS, steps=1), clips=CLIPS, device="cpu")
    before = (tmp_path / "a" / "last.pt").read_bytes()
    with pytest.raises(UsageError, match=r"holds a run already.*--resume"):
        train(stills, tmp_path / "a", options=OPTIONS, clips=CLIPS, device="cpu")
    assert (tmp_path / "a" / "last.pt").read_bytes() == before
    with pytest.raises(UsageError, match="no run to go on with"):
        train(stills, tmp_path / "b", options=OPTIONS, clips=CLIPS, device="cpu", resume=True)


def test_two_runs_do_not_mix(stills, tmp_path):
    with lock(tmp_path / "a"):
        with pytest.raises(LockedError, match=f"a: in use by process {os.getpid()}"):
            train(stills, tmp_path / "a", options=OPTIONS, clips=CLIPS, device="cpu")
        assert [path.name for path in (tmp_path / "a").iterdir()] == [".lock"]


def test_videos_are_not_trained_on_and_validated_on(dataset, tmp_path):
    with pytest.raises(UsageError, match="car: is trained on and validated on"):
        train([], tmp_path / "a", videos=[(dataset, 1.0)], options=OPTIONS, clips=CLIPS, validation=dataset)
    assert not (tmp_path / "a").exists()


@pytest.mark.parametrize(
    ("options", "clips", "text"),
    [
        (replace(OPTIONS, size="huge"), CLIPS, "no network size 'huge'"),
        (OPTIONS, replace(CLIPS, crop=40), "multiple of 16"),
        (replace(OPTIONS, objects=9), CLIPS, "9 objects.*Use a smaller --objects"),
        (OPTIONS, replace(CLIPS, frames_end=1), "at least 2 frames"),
        (OPTIONS, replace(CLIPS, frames_end=0), "at least 2 frames"),
        (OPTIONS, replace(CLIPS, crop=0), "a crop of 0 px"),
        (replace(OPTIONS, objects=0), CLIPS, "0 objects"),
        (replace(OPTIONS, batch=0), CLIPS, "batch, steps and warm-up must be at least 1"),
        (replace(OPTIONS, warmup=0), CLIPS, "batch, steps and warm-up must be at least 1"),
        (OPTIONS, replace(CLIPS, stills_share=1.1), "a share of 1.1 stills is not between 0 and 1"),
    ],
)
def test_options_that_cannot_work_are_refused_at_once(tmp_path, options, clips, text):
    with pytest.raises(UsageError, match=text):
        train([tmp_path], tmp_path / "a", options=options, clips=clips, device="cpu")


def test_weights_that_are_none_are_refused_before_stills_are_read(tmp_path, monkeypatch):
    monkeypatch.setattr("stmcli.train.loop.load_stills", lambda *_, **__: pytest.fail("read stills"))
    with pytest.raises(UsageError, match="nothere: no such weights"):
        train([tmp_path], tmp_path / "a", options=OPTIONS, clips=CLIPS, device="cpu", init="nothere")


def test_a_loss_that_is_no_number_stops_the_run_and_keeps_the_last_good_state(stills, tmp_path, monkeypatch):
    real, calls = trainer.clip_loss, []

    def broken(model, clips, options, *, hard):
        calls.append(hard)
        loss, iou = real(model, clips, options, hard=hard)
        return (loss * math.nan if len(calls) == 3 else loss), iou

    monkeypatch.setattr(trainer, "clip_loss", broken)
    with pytest.raises(TrainingError, match=r"nan .*at step 2"):
        train(stills, tmp_path / "a", options=OPTIONS, clips=CLIPS, device="cpu")
    monkeypatch.setattr(trainer, "clip_loss", real)
    straight = make_trainer(stills)
    for _ in range(2):
        straight.advance()
    assert same(numbers(load(tmp_path / "a")), numbers(straight.state()))


def test_weights_that_were_updated_in_part_are_not_saved(stills, tmp_path, monkeypatch):
    step, made = torch.optim.AdamW.step, []

    def broken(optimizer, *words):
        step(optimizer, *words)
        made.append(0)
        if len(made) == 2:
            raise RuntimeError("the device is gone")

    monkeypatch.setattr(torch.optim.AdamW, "step", broken)
    with pytest.raises(RuntimeError, match="the device is gone"):
        train(stills, tmp_path / "a", options=OPTIONS, clips=CLIPS, device="cpu")
    assert not (tmp_path / "a/last.pt").exists()
    assert not (tmp_path / "a/best.safetensors").exists()


def test_a_network_that_blows_up_is_a_loss_that_is_no_number(stills, tmp_path):
    with pytest.raises(TrainingError, match=r"the loss is nan .*at step \d"):
        train(stills, tmp_path / "a", options=replace(OPTIONS, lr=1e9, steps=20), clips=CLIPS, device="cpu")


def test_a_run_starts_from_weights_of_its_size_only(stills, tmp_path):
    model = new_model("tiny", seed=7)
    save(tmp_path / "w.safetensors", model, Card(TINY, "none"))
    settings = {"clips": CLIPS, "device": "cpu", "init": str(tmp_path / "w.safetensors")}
    done = train(stills, tmp_path / "a", options=replace(OPTIONS, steps=1, lr=0.0, weight_decay=0.0), **settings)
    found, card = read(done.weights)
    assert torch.allclose(found.decoder.predict.weight, model.decoder.predict.weight, atol=1e-3)
    assert "w.safetensors" in card.origin
    with pytest.raises(UsageError, match=r"these weights are tiny, not compact"):
        train(stills, tmp_path / "b", options=replace(OPTIONS, size="compact"), **settings)
    with pytest.raises(UsageError, match="Use one of them"):
        train(stills, tmp_path / "a", options=OPTIONS, resume=True, **settings)


def test_a_run_leaves_weights_a_curve_and_its_picture(stills, dataset, tmp_path, monkeypatch):
    monkeypatch.setattr("stmcli.train.loop.LOG_EVERY", 1)
    seen = []
    options = replace(OPTIONS, validate_every=1e9)
    done = train(
        stills, tmp_path / "a", options=options, clips=CLIPS, device="cpu", validation=dataset, on_step=seen.append
    )
    with (tmp_path / "a" / "curve.csv").open() as file:
        header, *rows = csv.reader(file)
    assert header == list(CURVE)
    assert [int(row[0]) for row in rows] == [1, 2, 3, 4]
    assert [bool(row[5]) for row in rows] == [False, False, False, True]  # validated at the end
    assert float(rows[-1][5]) == pytest.approx(done.score, abs=1e-4)
    with Image.open(tmp_path / "a" / "curve.png") as picture:
        assert min(picture.size) > 300
    assert [(now.step, now.saved) for now in seen] == [(1, False), (2, False), (3, False), (4, True)]
    assert seen[-1].done == 1
    model, card = read(done.weights)
    assert (card.dims, card.fit.size) == (TINY, 32)
    average = load(tmp_path / "a")["ema"]["decoder.predict.weight"]
    assert torch.equal(model.decoder.predict.weight, average.half().float())
    with safe_open(done.weights, framework="pt") as file:
        assert file.get_tensor("decoder.predict.weight").dtype == torch.float16
    assert validate(model, list_sequences(dataset, "davis2016"), size=32) == pytest.approx(done.score, abs=0.1)


@pytest.mark.parametrize(
    ("seconds", "text"), [(20, "5.0 s"), (120, "0.5 min"), (7100, "29.6 min"), (7200, "0.5 h"), (100 * 3600, "25.0 h")]
)
def test_the_times_below_a_curve_tell_the_steps_of_short_runs_apart_too(tmp_path, monkeypatch, seconds, text):
    labels = []
    monkeypatch.setattr("stmcli.train.curve.draw_axes", lambda _, __, label: labels.extend(map(label, (0, 25))))
    (tmp_path / "curve.csv").write_text(
        "".join(
            f"{','.join(row)}\n"
            for row in (CURVE, ("50", f"{seconds / 2}", *"111", ""), ("100", f"{seconds}", *"1111"))
        )
    )
    draw_curve(tmp_path / "curve.csv", tmp_path / "curve.png")
    assert labels == 2 * [f"step 0\n0 {text.split()[1]}", f"25\n{text}"]


@pytest.mark.parametrize(("scores", "best", "step"), [([0.2, 0.6, 0.4], 0.6, 2), ([0.0, 0.0, 0.0], 0.0, 1)])
def test_the_weights_kept_are_those_that_validated_best(stills, dataset, tmp_path, monkeypatch, scores, best, step):
    left = iter(scores)
    monkeypatch.setattr("stmcli.train.loop.validate", lambda *_, **__: next(left))
    options = replace(OPTIONS, steps=3, validate_every=0.0)
    done = train(stills, tmp_path / "a", options=options, clips=CLIPS, device="cpu", validation=dataset)
    assert done.score == best
    assert f"{step} steps" in read(done.weights)[1].origin
    assert load(tmp_path / "a")["progress"][2:4] == (best, scores[-1])


def test_the_best_weights_do_not_count_before_they_are_kept(stills, dataset, tmp_path, monkeypatch):
    scores = iter([0.2, 0.6, 0.6, 0.5])
    monkeypatch.setattr("stmcli.train.loop.validate", lambda *_, **__: next(scores))
    settings = {"options": replace(OPTIONS, steps=3, validate_every=0.0), "clips": CLIPS, "device": "cpu"}
    kept = []

    def keep(files, trainer):
        kept.append(trainer.step)
        if len(kept) == 2:
            raise KeyboardInterrupt
        save_weights(files, trainer)

    save_weights = RunFiles.keep_weights
    monkeypatch.setattr(RunFiles, "keep_weights", keep)
    with pytest.raises(Interrupted):
        train(stills, tmp_path / "a", validation=dataset, **settings)
    assert "1 steps" in read(tmp_path / "a/best.safetensors")[1].origin
    done = train(stills, tmp_path / "a", resume=True, validation=dataset, **settings)
    assert (kept, done.score) == ([1, 2, 2], 0.6)
    assert "2 steps" in read(done.weights)[1].origin


def test_scores_of_other_clips_do_not_count_beside_the_best(stills, dataset, tmp_path, monkeypatch):
    monkeypatch.setattr("stmcli.train.loop.validate", lambda *_, **__: 0.9)
    settings = {"clips": CLIPS, "device": "cpu", "resume": True}
    start = {**settings, "resume": False, "options": replace(OPTIONS, steps=1)}
    train(stills, tmp_path / "unscored", **start)
    train(stills, tmp_path / "scored", validation=dataset, **start)
    other = shutil.copytree(dataset, tmp_path / "other")
    for kind in ("JPEGImages", "Annotations"):
        (other / kind / "480p" / "car").rename(other / kind / "480p" / "bus")
    more = replace(OPTIONS, steps=2)
    assert train(stills, tmp_path / "unscored", validation=other, options=more, **settings).score == 0.9
    assert train(stills, tmp_path / "scored", options=more, **settings).score == 0.9
    for name, others in (("scored", other), ("unscored", dataset)):
        with pytest.raises(TrainingError, match="the validation clips are others"):
            train(stills, tmp_path / name, validation=others, options=replace(OPTIONS, steps=3), **settings)


def curve_of(folder):
    """Return step and J of each line of the curve."""
    with (folder / "curve.csv").open() as file:
        return [(row["step"], row["J"]) for row in csv.DictReader(file)]


def test_the_last_step_is_in_the_curve_once(stills, dataset, tmp_path, monkeypatch):
    train(stills, tmp_path / "a", options=replace(OPTIONS, steps=1), clips=CLIPS, device="cpu")
    assert curve_of(tmp_path / "a") == [("1", "")]
    assert (tmp_path / "a" / "curve.png").is_file()
    monkeypatch.setattr("stmcli.train.loop.LOG_EVERY", 2)
    for steps, resume in ((3, False), (3, True), (4, True)):
        options = replace(OPTIONS, steps=steps)
        train(stills, tmp_path / "b", options=options, clips=CLIPS, device="cpu", resume=resume)
    assert [step for step, _ in curve_of(tmp_path / "b")] == ["2", "3", "4"]
    monkeypatch.setattr("stmcli.train.loop.validate", lambda *_, **__: 0.5)
    train(stills, tmp_path / "b", options=options, clips=CLIPS, device="cpu", resume=True, validation=dataset)
    assert curve_of(tmp_path / "b") == [("2", ""), ("3", ""), ("4", "0.5000")]


def test_a_validation_that_was_cut_short_is_made_up_for_and_kept(stills, dataset, tmp_path, monkeypatch):
    settings = {"options": replace(OPTIONS, steps=2), "clips": CLIPS, "device": "cpu", "validation": dataset}
    monkeypatch.setattr("stmcli.train.loop.validate", interrupt)
    with pytest.raises(Interrupted):
        train(stills, tmp_path / "a", **settings)
    assert load(tmp_path / "a")["progress"][:1] == (2,)
    scores = iter([0.5])
    monkeypatch.setattr("stmcli.train.loop.validate", lambda *_, **__: next(scores))
    for _ in range(2):  # not again
        done = train(stills, tmp_path / "a", resume=True, **settings)
        assert (done.step, done.score) == (2, 0.5)
        assert curve_of(tmp_path / "a") == [("2", "0.5000")]
    assert load(tmp_path / "a")["progress"][2:4] == (0.5, 0.5)


def test_a_curve_that_ran_ahead_of_the_saved_state_is_cut(stills, tmp_path, monkeypatch):
    monkeypatch.setattr("stmcli.train.loop.LOG_EVERY", 1)
    train(stills, tmp_path / "a", options=replace(OPTIONS, steps=2), clips=CLIPS, device="cpu")
    with (tmp_path / "a" / "curve.csv").open("a") as file:
        file.write("3,1.0,1.0,0.1,1e-4,\n4,1.0")
    train(stills, tmp_path / "a", options=replace(OPTIONS, steps=3), clips=CLIPS, device="cpu", resume=True)
    with (tmp_path / "a" / "curve.csv").open() as file:
        assert [row[0] for row in csv.reader(file)] == ["step", "1", "2", "3"]


def test_a_full_disk_costs_a_run_nothing_that_was_kept(stills, tmp_path):
    train(stills, tmp_path / "a", options=replace(OPTIONS, steps=1), clips=CLIPS, device="cpu")
    files, trainer = RunFiles(tmp_path / "a"), make_trainer(stills)
    trainer.restore(files.load(trainer))
    before = {path: path.read_bytes() for path in files.path.iterdir()}
    for write in (files.begin, files.save):
        with no_file_larger_than(20), pytest.raises(NoRoomError, match="no file may be so large") as error:
            write(trainer)
        assert "\n" not in str(error.value)
        assert {path: path.read_bytes() for path in files.path.iterdir()} == before


def test_a_full_disk_says_how_a_run_goes_on(stills, tmp_path):
    with no_file_larger_than(20_000), pytest.raises(NoRoomError, match=r"last\.pt") as error:
        train(stills, tmp_path / "a", options=OPTIONS, clips=CLIPS, device="cpu")
    assert "--resume" not in str(error.value)  # nothing was saved
    train(stills, tmp_path / "a", options=replace(OPTIONS, steps=1), clips=CLIPS, device="cpu")
    with no_file_larger_than(20_000), pytest.raises(NoRoomError, match="--resume"):
        train(stills, tmp_path / "a", options=OPTIONS, clips=CLIPS, device="cpu", resume=True)
    (tmp_path / "a" / "last.pt").unlink()
    with pytest.raises(UsageError, match=r"another --output with --init"):
        train(stills, tmp_path / "a", options=OPTIONS, clips=CLIPS, device="cpu")


def test_a_run_that_went_on_and_was_stopped_still_says_how_large_its_numbers_become(stills, tmp_path):
    weights = train(stills, tmp_path / "a", options=replace(OPTIONS, steps=1), clips=CLIPS, device="cpu").weights
    before = read(weights)[1].ranges
    assert before
    for known in (before, {}):
        with pytest.raises(Interrupted):
            train(stills, tmp_path / "a", options=OPTIONS, clips=CLIPS, device="cpu", resume=True, on_step=interrupt)
        assert read(weights)[1].ranges == known
        state = load(tmp_path / "a")
        del state["ranges"]  # as runs of before left it
        torch.save(state, tmp_path / "a" / "last.pt")


# -- validation --------------------------------------------------------------------------------------------------------


@pytest.fixture
def stay(monkeypatch):
    """Have a network that never moves its mask."""

    def propagate(_segmenter, frames, labels):
        for frame in frames:
            yield frame, type("P", (), {"labels": lambda _: labels})()

    monkeypatch.setattr("stmcli.train.validation.propagate", propagate)


def overlap(steps):
    """Return J of two squares of 32 px, one of them `steps` frames further."""
    return (32 - 2 * steps) / (32 + 2 * steps)


def masks_of(dataset, name="car"):
    return dataset / "Annotations" / "480p" / name


@pytest.mark.usefixtures("stay")
def test_validation_scores_the_merged_objects_between_the_ends(dataset):
    """A network that never moves its mask scores what plain numpy says."""
    found = validate(new_model("tiny"), list_sequences(dataset, "davis2016"), size=32)
    assert found == pytest.approx(np.mean([overlap(1), overlap(2)]))


@pytest.mark.usefixtures("stay")
def test_what_is_void_is_neither_followed_nor_scored(dataset):
    first = read_values(masks_of(dataset) / "00000.png")
    for path in masks_of(dataset).glob("*.png"):
        labels = read_values(path)
        labels[(first == 1) & (labels != 1)] = 255
        labels[32:][labels[32:] == 1] = 2
        labels[4:8] = 255 if path.stem == "00000" else 0
        write_labels(path, labels)
    found = validate(new_model("tiny"), list_sequences(dataset, "davis2016"), size=32)
    assert found == pytest.approx(np.mean([30 / 32, 28 / 32]))


def test_validation_looks_at_its_size_and_leaves_the_network_as_it_is(dataset, monkeypatch):
    seen = []

    def watched(segmenter, frames, labels):
        seen.append((segmenter.fit.size, segmenter.model.training))
        return propagate(segmenter, frames, labels)

    monkeypatch.setattr("stmcli.train.validation.propagate", watched)
    model = new_model("tiny").train()
    validate(model, list_sequences(dataset, "davis2016"), size=32)
    assert seen == [(32, False)]
    assert model.training
    assert all(weight.requires_grad for weight in model.parameters())


@pytest.mark.usefixtures("stay")
def test_void_alone_in_the_first_mask_is_no_object(dataset):
    for path in masks_of(dataset).glob("*.png"):
        labels = read_values(path)
        labels[-2:] = 255
        write_labels(path, labels * (labels == 255) if path.stem == "00000" else labels)
    found = validate(new_model("tiny"), validation_clips(dataset), size=32)
    assert found == pytest.approx(np.mean([overlap(1)]))


@pytest.mark.usefixtures("stay")
def test_masks_are_found_by_their_frames_whatever_else_is_there(dataset):
    for t in range(4):
        (masks_of(dataset) / f"{t:05d}.png").rename(masks_of(dataset) / f"{t}.png")
    (masks_of(dataset) / "._00000.png").write_bytes(b"of macOS")
    found = validate(new_model("tiny"), validation_clips(dataset), size=32)
    assert found == pytest.approx(np.mean([overlap(1), overlap(2)]))


@pytest.mark.usefixtures("stay")
def test_a_clip_whose_object_enters_late_is_scored_from_there(dataset):
    Image.new("L", (80, 64)).save(masks_of(dataset) / "00000.png")
    found = validate(new_model("tiny"), validation_clips(dataset), size=32)
    assert found == pytest.approx(overlap(1))
    (masks_of(dataset) / "00000.png").unlink()  # nobody need say that there is nothing
    assert validate(new_model("tiny"), validation_clips(dataset), size=32) == found


@pytest.mark.parametrize(
    ("damage", "text"),
    [
        (lambda masks: (masks / "00002.png").unlink(), "car: no mask for frame 00002"),
        (lambda masks: Image.new("L", (64, 48)).save(masks / "00002.png"), "00002.png: the mask is 64x48 but the clip"),
        (lambda masks: (masks / "00003.png").write_bytes(b"no"), "00003.png: not an image that can be read"),
        (lambda masks: [Image.new("L", (80, 64)).save(file) for file in masks.iterdir()], "car: no object in the gr"),
        (lambda masks: [(masks / f"0000{t}.png").unlink() for t in (0, 1)], "car: fewer than 3 frames from the first"),
        (lambda masks: next(masks.parents[2].glob("J*/*/*/00000.jpg")).unlink(), "00000.png: no frame for this mask"),
    ],
)
def test_a_clip_that_cannot_be_scored_is_named_before_training(dataset, tmp_path, stills, damage, text):
    damage(masks_of(dataset))
    with pytest.raises(UsageError, match=text):
        train(stills, tmp_path / "a", options=OPTIONS, clips=CLIPS, device="cpu", validation=dataset)
    assert not (tmp_path / "a").exists()


def test_the_first_list_for_validation_says_what_is_validated_on(dataset):
    for name in ("bus", "van", "cat"):
        shutil.copytree(masks_of(dataset), masks_of(dataset, name))
        shutil.copytree(dataset / "JPEGImages/480p/car", dataset / "JPEGImages/480p" / name)
    lists = {"2017": "van\n", "480p": "/JPEGImages/480p/bus/00000.jpg /Annotations/480p/bus/00000.png\n", "2016": "cat"}
    found = [[clip.name for clip in validation_clips(dataset)]]
    for folder, text in lists.items():
        (dataset / "ImageSets" / folder).mkdir(parents=True)
        (dataset / "ImageSets" / folder / "val.txt").write_text(text)
        found.append([clip.name for clip in validation_clips(dataset)])
    assert found == [["bus", "car", "cat", "van"], ["van"], ["bus"], ["cat"]]
    shutil.rmtree(masks_of(dataset, "bus"))
    for folder in ("2016", "2017"):
        (dataset / "ImageSets" / folder / "val.txt").unlink()
    with pytest.raises(UsageError, match="no ground truth for clip bus"):
        validation_clips(dataset)


def test_what_is_trained_on_and_what_is_validated_on_are_parts_of_one_root(dataset, tmp_path):
    shutil.copytree(masks_of(dataset), masks_of(dataset, "bus"))
    shutil.copytree(dataset / "JPEGImages/480p/car", dataset / "JPEGImages/480p/bus")
    (dataset / "ImageSets" / "2017").mkdir(parents=True)
    (dataset / "ImageSets" / "2017" / "val.txt").write_text("car\n")
    options = replace(OPTIONS, steps=1)
    done = train([], tmp_path / "a", videos=[(dataset, 1.0)], options=options, clips=CLIPS, validation=dataset)
    assert done.score is not None
    assert "1 videos of davis" in read(done.weights)[1].origin
