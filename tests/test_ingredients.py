"""Check what can be put into synthetic clips and left out of them, by name."""

import io
from dataclasses import asdict, replace

import numpy as np
import pytest
import torch
from PIL import Image
from test_clips import mixed, red, still, write_stills  # noqa: F401

from stmcli.cli.train import Training
from stmcli.clips import Chance, StillClips, load_stills
from stmcli.clips.camera import _lines, as_jpeg, degrade
from stmcli.clips.cutouts import cutout, region
from stmcli.clips.motion import JUMP, draw_jumps
from stmcli.errors import UsageError
from stmcli.options import INGREDIENTS, PRESETS, ClipOptions, TrainOptions

BARE = ClipOptions(crop=64, light=0, flicker=0, blur=0, noise=0, warp=0, union=0)
CPU = torch.device("cpu")


def options(preset="scratch", given=None, *, without=(), with_=()):
    return Training(preset, without, with_, **given or {}).options()


# -- names and presets -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", INGREDIENTS)
def test_every_ingredient_goes_by_a_name_that_changes_one_option(name):
    field, (off, on) = name.replace("-", "_"), INGREDIENTS[name]
    default = asdict(TrainOptions()) | asdict(ClipOptions())
    assert default[field] in (off, on)
    for found, value in ((options(without=[name]), off), (options(with_=[name]), on)):
        now = asdict(found[0]) | asdict(found[1])
        assert now == default | {field: value}


def test_every_change_to_made_clips_is_an_ingredient():
    fields = [*asdict(ClipOptions())]
    looks = {name.replace("_", "-") for name in fields[fields.index("pasted") : fields.index("skip")]}
    assert looks - {"area"} <= {*INGREDIENTS}


def test_what_is_given_overrides_ingredients_and_they_override_the_preset():
    paper = options("paper", {"lr": 3e-5, "crop": None}, with_=["light", "dice-loss"])
    assert (paper[0].lr, paper[0].dice_loss, paper[0].size) == (3e-5, 0.5, "resnet50")
    assert (paper[1].light, paper[1].crop, paper[1].pasted) == (0.25, 384, 0)
    assert options() == (TrainOptions(), ClipOptions())
    with pytest.raises(UsageError, match="--without moon: unknown"):
        options(without=["moon"])
    with pytest.raises(UsageError, match="--preset moon"):
        options("moon")


def test_the_preset_of_the_paper_moves_whole_stills_and_does_nothing_else(mixed):  # noqa: F811
    clips = replace(PRESETS["paper"][1], crop=64)
    source = StillClips(mixed, clips, seed=0)
    frames, visible = source._paint(8, 1, 3)
    assert not visible[:, 1:].any()
    assert torch.equal(degrade(source.chance, frames.clone(), clips), frames)
    colours = frames.permute(0, 1, 3, 4, 2)[visible[:, 0] > 0.999]
    pure = (colours - colours.new_tensor([[1, 0, 0], [0, 0, 1]])[:, None]).abs().amax(2).amin(0) < 0.05
    assert pure.float().mean() > 0.85  # red or blue, as in the still, but for its edges


# -- JPEG, motion blur, jumps ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("quality", [20, 50, 80])
def test_jpeg_looks_as_pillow_makes_it(quality):
    rng = np.random.default_rng(0)
    smooth = Image.fromarray(rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)).resize((64, 64), Image.Resampling.BICUBIC)
    content = io.BytesIO()
    smooth.save(content, "JPEG", quality=quality, subsampling=0)
    expected = np.asarray(Image.open(content)).astype(float)
    frames = torch.from_numpy(np.array(smooth)).permute(2, 0, 1)[None, None].float() / 255
    found = as_jpeg(frames, torch.tensor([float(quality)]))[0, 0].permute(1, 2, 0).numpy() * 255
    assert np.abs(found - expected).mean() < 1.3  # Pillow rounds colours to whole numbers in between
    assert np.abs(found - np.asarray(smooth)).mean() > 2 * np.abs(found - expected).mean()


def test_motion_blur_spreads_along_a_line():
    kernels = _lines(torch.tensor([0.0, torch.pi / 2]), torch.tensor([3.0, 3.0]))
    assert torch.allclose(kernels.sum((1, 2)), torch.ones(2))
    across, along = kernels[0].sum(1), kernels[0].sum(0)  # a level line
    assert across[4] > 0.99
    assert torch.allclose(along[2:7], torch.full((5,), float(along[4])), atol=1e-5)
    assert torch.allclose(kernels[1], kernels[0].T, atol=1e-5)
    frames = torch.rand(6, 2, 3, 32, 32)
    sharp = degrade(Chance(CPU, 0), frames.clone(), replace(BARE, motion_blur=0.5))
    changed = (sharp != frames).flatten(1).any(1)
    assert 0 < int(changed.sum()) < 6


def test_jpeg_is_for_a_share_of_clips():
    frames = torch.rand(8, 2, 3, 32, 32)
    found = degrade(Chance(CPU, 0), frames.clone(), replace(BARE, jpeg=0.5))
    assert 0 < int((found != frames).flatten(1).any(1).sum()) < 8


def test_a_jump_is_between_two_frames_and_then_stays():
    jumps = draw_jumps(Chance(CPU, 0), 200, 4, 0.5)
    steps = jumps.diff(dim=1)
    assert not jumps[:, 0].any()
    count = (steps != 0).sum(1)
    assert set(count.tolist()) == {0, 1}
    assert 0.4 < count.float().mean() < 0.6
    height = steps[steps != 0].abs()
    assert height.min() >= JUMP[0]
    assert height.max() <= JUMP[1]


def test_a_jump_changes_the_size_of_the_object(red):  # noqa: F811
    still_camera = replace(BARE, whole_image=1.0, translate=0, rotate=0, zoom=0, shear=0)
    calm = StillClips(red, still_camera, seed=0)._paint(16, 1, 3)[1][:, 0].mean((2, 3))
    assert torch.allclose(calm[:, 0], calm[:, 2])
    areas = StillClips(red, replace(still_camera, jump=1.0), seed=0)._paint(16, 1, 3)[1][:, 0].mean((2, 3))
    assert ((areas[:, 0] / areas[:, 2]).log().abs() > 0.1).float().mean() > 0.7


# -- layers ------------------------------------------------------------------------------------------------------------


def test_an_occluder_hides_the_object_in_between_and_lets_it_come_back(red):  # noqa: F811
    plain = replace(BARE, whole_image=1.0, translate=0, rotate=0, zoom=0, shear=0)
    without, hidden = (
        StillClips(red, replace(plain, occluder=share), seed=0).batch(24).masks[:, :, 0].mean((2, 3))
        for share in (0.0, 1.0)
    )
    left = hidden / without  # (B, T): the share that is still seen
    assert left[:, 1].mean() < 0.6
    assert left[:, 1].min() < 0.1  # some are gone for a frame
    assert left[:, [0, 2]].mean() > left[:, 1].mean() + 0.2


def test_an_occluder_is_over_its_object_in_its_frame_and_moves(red):  # noqa: F811
    source = StillClips(red, BARE, seed=0)
    layers = torch.stack([cutout(red[0], 1)] * 2)
    target = torch.zeros(2, 64, 64)
    target[0, 8:20, 36:60], target[1, 30:50, 4:16] = 1, 1
    cover = source._pass_over(layers, target, torch.tensor([1, 2]), 4)[:, :, 3]  # (n, T, S, S)
    assert not torch.equal(cover[0, 1], cover[0, 2])
    for one, there in zip((cover[0, 1], cover[1, 2]), target, strict=True):
        middles = [torch.stack([(x.sum(d) * torch.arange(64)).sum() / x.sum() for d in (1, 0)]) for x in (one, there)]
        assert torch.allclose(*middles, atol=2)


def test_what_is_pasted_is_of_the_same_collection_when_asked(mixed):  # noqa: F811
    source = StillClips(mixed, replace(BARE, kin=1.0), seed=0)
    assert {source._relative(still).group for still in mixed[:3] for _ in range(4)} == {mixed[0].group}


def test_clips_with_many_pasted_objects_come_first_and_none_goes_without_its_objects(tmp_path):
    rgb, labels = still()
    two = np.where(np.arange(80) > 60, 2, labels).astype(np.uint8)
    pairs = {"one-0": (rgb, labels), "two-0": (rgb, two)}
    stills = load_stills([write_stills(tmp_path / "both", pairs)])
    assert [len(one.boxes) for one in stills] == [1, 2]
    backs, pasted = StillClips(stills, replace(BARE, whole_image=0.5), seed=0)._plan(60, 2)
    assert pasted.tolist() == sorted(pasted, reverse=True)
    assert {*pasted.tolist()} == {0, 1, 2, 3}
    assert {len(one.boxes) for one, count in zip(backs, pasted, strict=True) if not count} == {2}


def test_a_picture_goes_on_beyond_its_edge_and_what_is_pasted_does_not(red):  # noqa: F811
    source = StillClips(red, replace(BARE, area=(0.1, 0.1), translate=1.0), seed=0)
    layers, jump = torch.ones(8, 4, 256, 256), torch.zeros(8, 3)
    assert source._shoot(layers, jump, back=True).min() > 0.99
    pasted = source._shoot(layers, jump, back=False)
    assert 0 < pasted[:, 0].mean() <= pasted[:, 0].mean((1, 2, 3)).max() < 0.2
    assert torch.equal(source._zoom(torch.zeros(1, 256, 256), back=False), torch.tensor([0.25 * 64 / 256]))


def test_a_twin_is_a_copy_of_what_is_there_already(mixed):  # noqa: F811
    source = StillClips(mixed, replace(BARE, twin=1.0, whole_image=0.0, kin=0.0), seed=0)
    seen = [(mixed[0], 1)]
    assert torch.equal(source._cut(seen), source._cut([(mixed[0], 1)]))
    assert len(seen) == 1
    other = StillClips(mixed, replace(BARE, whole_image=0.0), seed=0)
    other._cut(seen)
    assert len(seen) == 2


def test_a_region_is_one_shape_of_real_pixels(mixed):  # noqa: F811
    chance, shares = Chance(CPU, 1), []
    for _ in range(10):
        layer = region(chance, mixed[0])
        assert layer.shape == (4, 256, 256)
        mask = layer[3] > 0
        assert set(layer[3].unique().tolist()) == {0.0, 1.0}
        shares.append(float(mask.float().mean()))
        colours = set(map(tuple, (layer[:3, mask] * 255).round().int().T.tolist()))
        assert all(colour[2] >= 127 for colour in colours)  # grey, blue, or between
    assert min(shares) > 0.01
    assert max(shares) - min(shares) > 0.05


# -- several objects ---------------------------------------------------------------------------------------------------


def test_tracked_is_what_is_there_in_the_first_frame(red):  # noqa: F811
    visible = torch.zeros(8, 2, 3, 8, 8)
    visible[:, 0, -1], visible[:, 1, 0] = 1, 1
    assert StillClips(red, BARE, seed=0)._choose(visible, 1).tolist() == [[1]] * 8


@pytest.mark.parametrize(("objects", "together"), [(1, True), (2, False)])
def test_all_objects_of_a_whole_still_are_one_only_where_one_is_tracked(tmp_path, objects, together):
    rgb, labels = still()
    labels[20:40, 56:76] = 2
    rgb[labels == 2] = (0, 255, 0)
    stills = load_stills([write_stills(tmp_path / "two", {"two-0": (rgb, labels)})])
    clips = StillClips(stills, replace(BARE, whole_image=1.0, union=1.0), seed=0)
    frames, visible = clips._paint(6, objects, 3)
    coloured = torch.maximum(frames[:, :, 0], frames[:, :, 1]) - frames[:, :, 2] > 0.95
    assert (visible[:, 0][coloured].mean() > 0.95) == together
    assert visible[:, :objects][:, -1].any()


def test_most_clips_with_two_objects_show_both(tmp_path):
    rgb, labels = still()
    labels[20:40, 56:76] = 2
    rgb[labels == 2] = (0, 255, 0)
    stills = load_stills([write_stills(tmp_path / "two", {f"two-{i}": (rgb, labels) for i in range(2)})])
    source = StillClips(stills, replace(BARE, whole_image=0.5), seed=0)
    there = [source.batch(16, 2).masks[:, 0].amax((2, 3)) for _ in range(4)]
    assert torch.cat(there)[:, 0].all()
    assert torch.cat(there)[:, 1].mean() > 0.85


def test_the_objects_of_a_whole_still_move_with_it(tmp_path):
    rgb, labels = still()
    labels[20:40, 56:76] = 2
    rgb[labels == 2] = (0, 255, 0)
    stills = load_stills([write_stills(tmp_path / "two", {"two-0": (rgb, labels)})])
    frames, visible = StillClips(stills, replace(BARE, whole_image=1.0), seed=0)._paint(6, 2, 3)
    green = (frames[:, :, 1] - frames[:, :, 0]) > 0.5
    second = visible[:, :2].amax(1)[green]
    assert second.mean() > 0.95
    assert (visible[:, :2].sum(1) <= 1 + 1e-5).all()


def test_clips_that_show_less_are_replaced_by_those_that_show_all(red):  # noqa: F811
    source = StillClips(red, BARE, seed=0)
    masks = torch.zeros(4, 2, 3, 8, 8)
    masks[1, 0, 0], masks[3, :, 0] = 1, 1
    masks[0, :, 1:] = 1  # too late
    assert source._keep(masks).tolist() == [3, 1, 3, 3]
    assert source._keep(torch.zeros(4, 2, 3, 8, 8)) is None
