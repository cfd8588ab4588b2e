from functools import cache

import numpy as np
import pytest
import torch
from alphas import alpha_errors
from scenes import SCENES, scene
from scipy.ndimage import convolve1d

from stmcli.matting import Matted
from stmcli.matting import matted as matted_module
from stmcli.matting.alpha import AT_ONCE, _mixed, refine
from stmcli.matting.cells import find_window, grow, grown_at, moments, shrink, shrink_moments, shrink_pixels, spread
from stmcli.matting.colours import _corrected, foreground
from stmcli.matting.lines import colour_lines, mix, solve
from stmcli.matting.painted import fit_labels
from stmcli.options import MattingOptions
from stmcli.outputs import AlphaWriter
from stmcli.segmenter.prediction import Prediction
from stmcli.video import open_source

FRAMES = (0, 2)
scene = cache(scene)


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=pytest.mark.cuda)])
def device(request):
    return request.getfixturevalue("cuda") if request.param == "cuda" else torch.device("cpu")


def squares(*, height=90, width=120, noise=0.0):
    """Return a frame with two touching squares, red and blue on green, and blurry probabilities of them."""
    y, x = np.mgrid[:height, :width]
    inside = [np.maximum(abs(x - middle), abs(y - height / 2)) < 20 for middle in (40, 79)]
    rgb = np.select([m[..., None] for m in inside], [(200, 30, 20), (30, 40, 210)], (40, 160, 60))
    rgb = np.clip(rgb + np.random.default_rng(0).normal(0, noise, rgb.shape), 0, 255).astype(np.uint8)
    soft = spread(torch.tensor(np.stack(inside), dtype=torch.float32), 6)
    return rgb, torch.cat([1 - soft.sum(0, keepdim=True), soft])


# -- alpha -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "most"),
    [("blob", (0.4, 0.3, 0.3, 0.3)), ("strands", (0.75, 0.75, 0.75, 0.75)), ("moving", (0.75, 0.6, 0.6, 0.6))],
)
def test_refined_alpha_is_nearer_to_the_truth_in_every_measure(name, most, device):
    for frame in FRAMES:
        rgb, truth, _, prob = scene(name, frame)
        refined = refine(rgb, prob.to(device)).cpu().numpy()[0]
        raw, fine = (np.array(alpha_errors(truth[0], a)) for a in (prob[1].numpy(), refined))
        assert (fine < most * raw).all(), f"frame {frame}: {fine / raw} of the raw errors are left"


def enlarged(name, factor):
    """Return a frame and its probabilities (2, H, W), larger: with cells of several pixels, not all of them whole."""
    rgb, _, _, prob = scene(name, 0)
    rgb, prob = rgb.repeat(factor, 0).repeat(factor, 1), prob.repeat_interleave(factor, 1).repeat_interleave(factor, 2)
    return rgb[:-1, :-3], prob[:, :-1, :-3]


@pytest.mark.parametrize(
    ("factor", "pixels", "tile"),
    [
        (1, 1, 24),
        (1, 7001, 24),
        (1, 1 << 17, 1),
        (1, 1 << 17, 50),
        (1, 1 << 17, 1_000),
        (2, 7001, 24),
        (3, 1 << 17, 50),
    ],
)
def test_alpha_does_not_depend_on_how_it_is_cut_up(factor, pixels, tile, monkeypatch):
    rgb, prob = enlarged("strands", factor)
    whole = refine(rgb, prob)
    monkeypatch.setitem(AT_ONCE, "cpu", pixels)
    monkeypatch.setattr("stmcli.matting.alpha.TILE", tile)
    assert (refine(rgb, prob) - whole).abs().max() < 1e-4


@pytest.mark.parametrize("inverted", [False, True])
def test_tiles_that_are_sure_are_not_looked_at(inverted, monkeypatch):
    rgb, _, _, prob = scene("blob", 0)
    seen = []

    def count(colours, *others):
        seen.append(len(colours) * colours.shape[2] * colours.shape[3])
        return _mixed(colours, *others)

    monkeypatch.setattr("stmcli.matting.alpha._mixed", count)
    alpha = refine(rgb, prob.flip(0) if inverted else prob)[0]
    assert ((alpha > 0) & (alpha < 1)).sum() < sum(seen) < 0.4 * alpha.numel()


def test_alpha_is_in_range_and_the_alphas_of_objects_sum_to_at_most_one(device):
    for rgb, prob in (squares(noise=4.0), (scene("strands", 0).rgb, scene("strands", 0).prob)):
        alpha = refine(rgb, prob.to(device))
        assert alpha.dtype == torch.float32
        assert alpha.shape == prob[1:].shape
        assert alpha.device.type == device.type
        assert alpha.min() >= 0
        assert alpha.max() <= 1
        assert alpha.sum(0).max() <= 1 + 1e-6


def test_no_seam_opens_where_objects_touch(device):
    rgb, prob = squares()
    alpha = refine(rgb, prob.to(device)).cpu().numpy()
    both = alpha.sum(0)[45, 25:95]
    assert both.min() > 0.99
    assert alpha[0, 45, 25:56].min() > 0.95
    assert alpha[1, 45, 64:95].min() > 0.95


def test_alpha_is_exact_where_the_probabilities_are_sure_all_around(device):
    rgb, truth, _, prob = scene("blob", 0)
    alpha = refine(rgb, prob.to(device)).cpu().numpy()[0]
    inside, outside = (spread(torch.tensor(t), 16)[0].numpy() > 1 - 1e-6 for t in (truth, 1 - truth))
    assert inside.sum() > 5000
    assert (alpha[inside] == 1).all()
    assert (alpha[outside] == 0).all()


def test_a_flat_frame_leaves_the_probabilities_as_they_are(device):
    rgb = np.full((90, 120, 3), 128, np.uint8)
    _, prob = squares()
    alpha = refine(rgb, prob.to(device)).sum(0).cpu()
    neighbours = torch.nn.functional.avg_pool2d(1 - prob[:1], 3, 1, 1)[0]
    assert (alpha - neighbours)[1:-1, 1:-1].abs().max() < 0.08  # probabilities near 0 and 1 are taken as sure


def test_a_hard_mask_gets_the_soft_edge_of_the_frame():
    rgb, truth, _, _ = scene("moving", 0)
    hard = torch.tensor(np.stack([truth[0] <= 0.5, truth[0] > 0.5]), dtype=torch.float32)
    raw, fine = (alpha_errors(truth[0], a.numpy()) for a in (hard[1], refine(rgb, hard)[0]))
    assert fine.mse_band < 0.7 * raw.mse_band
    assert fine.gradient < 0.7 * raw.gradient


def painted():
    """Return a frame with two touching objects, their ids, and what a person made of them, some pixels off."""
    rgb, truth, _, _ = scene("blob", 0)
    y, x = np.mgrid[: truth.shape[1], : truth.shape[2]]
    right = x > truth.shape[2] / 2
    ids = np.where(truth[0] > 0.5, np.where(right, 300, 2), 0).astype(np.uint16)
    tinted = np.where((ids == 300)[..., None], rgb[..., ::-1], rgb)
    off = [np.clip(side + 3 * np.sin(side / 9 + 1), 0, size - 1) for side, size in zip((y, x), ids.shape, strict=True)]
    labels = ids[tuple(side.astype(int) for side in off)]
    labels[:5, :5] = 255
    return tinted, ids, labels


def test_a_mask_that_was_painted_roughly_comes_nearer_to_the_objects():
    rgb, truth, labels = painted()
    fitted = fit_labels(rgb, labels)
    assert (fitted.shape, fitted.dtype, {*np.unique(fitted)}) == (labels.shape, labels.dtype, {0, 2, 255, 300})
    before, after = ((found != truth).mean() for found in (labels, fitted))
    assert after < before / 2, f"{after / before} of the error are left"


def test_void_and_an_empty_mask_stay_as_they_were_painted():
    rgb, _, labels = painted()
    assert ((fit_labels(rgb, labels) == 255) == (labels == 255)).all()
    nothing = 255 * (labels == 255)
    assert np.array_equal(fit_labels(rgb, nothing), nothing)


def test_small_and_thin_objects_are_not_fitted_away():
    rgb = np.random.default_rng(0).integers(100, 130, (540, 960, 3)).astype(np.uint8)
    labels = np.zeros((540, 960), np.uint16)
    labels[100:300, 100:300] = 1
    labels[350:352, 50:900] = 2
    labels[200:203, 600:603] = 300
    fitted = fit_labels(rgb, labels)
    for number in (2, 300):
        assert ((fitted == number) == (labels == number)).all()


def test_an_object_that_is_not_there_has_no_alpha_and_no_colours(device):
    rgb, prob = squares()
    gone = torch.stack([torch.ones(90, 120), torch.zeros(90, 120)]).to(device)
    assert not refine(rgb, gone).any()
    assert not foreground(rgb, gone[1]).any()
    prob = torch.stack([prob[0] + prob[2], prob[1], torch.zeros(90, 120)]).to(device)
    alpha = refine(rgb, prob)
    assert not alpha[1].any()
    assert alpha[0].max() == 1


def test_a_frame_of_nothing_but_object_is_opaque(device):
    rgb, _ = squares()
    alpha = refine(rgb, torch.stack([torch.zeros(90, 120), torch.ones(90, 120)]).to(device))
    assert (alpha == 1).all()
    assert np.array_equal(foreground(rgb, alpha[0]), rgb)


@pytest.mark.parametrize("size", [(1, 1), (2, 7), (5, 3)])
def test_tiny_frames_are_taken(size):
    rgb = np.random.default_rng(0).integers(0, 255, (*size, 3), dtype=np.uint8)
    p = torch.linspace(0, 1, size[0] * size[1]).reshape(size)
    alpha = refine(rgb, torch.stack([1 - p, p]))
    assert alpha.shape == (1, *size)
    assert 0 <= alpha.min() <= alpha.max() <= 1
    assert foreground(rgb, alpha[0]).shape == rgb.shape


# -- colours ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SCENES)
def test_cut_out_colours_have_less_fringe_than_the_source_on_a_new_background(name, device):
    rgb, truth, colours, prob = scene(name, 0)
    refined = refine(rgb, prob.to(device))[0]
    for alpha, most in ((torch.tensor(truth[0], device=device), 0.7), (refined, 0.95)):
        estimate, part = foreground(rgb, alpha), alpha.cpu().numpy()[..., None]
        mixed = (truth[0] > 0.02) & (truth[0] < 0.98)
        for backdrop in ((0, 255, 0), (255, 255, 255), (0, 0, 0)):
            wanted = truth[0][..., None] * colours + (1 - truth[0][..., None]) * backdrop
            fringe, clean = (
                np.abs(part * colour + (1 - part) * backdrop - wanted)[mixed].mean() for colour in (rgb, estimate)
            )
            assert clean < most * fringe


def test_colours_are_the_sources_where_alpha_is_one(device):
    rgb, _, _, prob = scene("strands", 0)
    alpha = refine(rgb, prob.to(device))[0]
    colours, whole = foreground(rgb, alpha), (alpha == 1).cpu().numpy()
    assert colours.shape == rgb.shape
    assert colours.dtype == np.uint8
    assert whole.sum() > 5000
    assert np.array_equal(colours[whole], rgb[whole])


def test_colours_go_on_beyond_the_edge_of_the_object(device):
    y, x = np.mgrid[:270, :360]
    alpha = np.clip(70 - np.hypot(x - 180, y - 135), 0, 6).astype(np.float32)[..., None] / 6
    rgb = np.round(alpha * (200, 30, 20) + (1 - alpha) * (40, 160, 60)).astype(np.uint8)
    colours = foreground(rgb, torch.tensor(alpha[..., 0], device=device)).astype(int)
    off = np.abs(colours - (200, 30, 20)).max(-1)  # up to 160 in the source
    assert off.max() <= 20
    assert off[alpha[..., 0] == 0].max() <= 10


# -- the parts -------------------------------------------------------------------------------------------------------


def test_colour_lines_equal_a_discriminant_fitted_window_by_window():
    generator, options, radius = np.random.default_rng(5), MattingOptions(noise=0.05, prior=1.5), 4
    pixels, p = generator.random((3, 9, 12)), generator.random((9, 12))
    lines = colour_lines(torch.tensor(pixels), torch.tensor(p), radius, options)
    for row, column in np.ndindex(9, 12):
        rows, columns = (np.arange(-3, 4) + middle for middle in (row, column))
        window = np.ix_(np.clip(rows, 0, 8), np.clip(columns, 0, 11))
        tent = np.outer(4 - abs(np.arange(-3, 4)), 4 - abs(np.arange(-3, 4))).ravel() / 16**2
        colours, share = np.stack([c[window].ravel() for c in pixels], 1), p[window].ravel()
        means, scatter, counts = [], np.zeros((3, 3)), []
        for weight in (tent * share**2, tent * (1 - share) ** 2):
            counts.append(weight.sum())
            means.append(weight @ colours / weight.sum())
            scatter += (weight[:, None] * (colours - means[-1])).T @ (colours - means[-1])
        way = means[0] - means[1]
        slope = np.linalg.solve(scatter / sum(counts) + 0.05**2 * np.eye(3), way) * min(counts) / (min(counts) + 0.02)
        norm = slope @ way + 1.5
        assert np.allclose(lines.slope[:, row, column], slope / norm, rtol=1e-3, atol=1e-4)
        assert float(lines.offset[row, column]) == pytest.approx(-slope @ means[1] / norm, rel=1e-3, abs=1e-4)
        assert float(lines.weight[row, column]) == pytest.approx(slope @ way / norm, rel=1e-3, abs=1e-4)


def test_a_colour_on_a_certain_line_tells_alpha_and_a_worthless_line_leaves_the_prior():
    pixels = torch.zeros(3, 8, 10)
    pixels[0, :, 5:] = 1
    p = pixels[0].clone()
    pixels[0, 4, 4] = 0.25  # a quarter of the object
    lines = colour_lines(pixels, p, 4, MattingOptions(noise=0.001, prior=2.0))
    prior = torch.full((8, 10), 0.6)
    alpha = mix(lines.table[None], pixels[None], prior[None], torch.ones(1, 8, 10))[0]
    assert float(alpha[4, 4]) == pytest.approx(0.25, abs=0.03)
    grey = colour_lines(torch.full((3, 8, 10), 0.5), p, 4, MattingOptions())
    mixed = mix(grey.table[None], pixels[None], prior[None], torch.ones(1, 8, 10))
    assert torch.allclose(mixed[0], prior, atol=1e-4)


def test_solve_equals_numpy_with_a_ridge():
    generator = np.random.default_rng(3)
    roots, vectors = generator.normal(size=(20, 3, 3)), generator.normal(size=(20, 3))
    matrices = roots @ roots.transpose(0, 2, 1)
    upper = torch.tensor(matrices[:, *np.triu_indices(3)].T.reshape(6, 4, 5))
    solved = solve(upper, torch.tensor(vectors.T.reshape(3, 4, 5)), 0.1).reshape(3, 20).T
    assert np.allclose(solved, np.linalg.solve(matrices + 0.1 * np.eye(3), vectors[..., None])[..., 0])


@pytest.mark.parametrize("radius", [1.0, 2.5, 4.0])
def test_spread_equals_a_tent_filter(radius, device):
    values = np.random.default_rng(1).random((2, 13, 17)).astype(np.float32)
    tent = np.clip(radius - abs(np.arange(-5, 6)), 0, None)
    tent /= tent.sum()
    wanted = convolve1d(convolve1d(values, tent, axis=1, mode="nearest"), tent, axis=2, mode="nearest")
    assert np.allclose(spread(torch.tensor(values, device=device), radius).cpu(), wanted, atol=1e-6)


@pytest.mark.parametrize("step", [1, 2, 3])
def test_shrink_averages_cells_and_grow_puts_a_slope_back_where_it_was(step):
    y, x = torch.meshgrid(torch.arange(13.0), torch.arange(17.0), indexing="ij")
    slope = torch.stack([2 * x - y, x + 3 * y])
    small = shrink(slope, step)
    assert torch.allclose(small[:, 1, 2], slope[:, step : 2 * step, 2 * step : 3 * step].mean((1, 2)))
    large = grow(small, step, slope.shape[1:])
    assert large.shape == slope.shape
    assert torch.allclose(large[:, step:9, step:12], slope[:, step:9, step:12], atol=1e-5)


@pytest.mark.parametrize("size", [(12, 15), (13, 17), (2, 3)])
@pytest.mark.parametrize("step", [1, 3, 16])
def test_a_frame_is_shrunk_as_its_planes_are(size, step, device):
    rgb = torch.randint(0, 256, (*size, 3), dtype=torch.uint8)
    rgb[0] = 255
    planes = shrink(rgb.movedim(2, 0) / 255, step)
    found = shrink_pixels(rgb.to(device), step).cpu()
    assert found.shape == planes.shape
    assert torch.allclose(found, planes, atol=1e-6)


@pytest.mark.parametrize("size", [(12, 15), (13, 17), (2, 3)])
@pytest.mark.parametrize("step", [1, 3, 16])
def test_moments_are_shrunk_and_single_pixels_grown_as_the_whole_is(size, step, device):
    pixels, weight = torch.rand(3, *size), torch.rand(size)
    cells = shrink(moments(pixels, weight), step)
    found = shrink_moments(pixels.to(device), weight.to(device), step)
    assert torch.allclose(found.cpu(), cells, atol=1e-6)
    rows, columns = torch.randint(0, size[0], (40,)), torch.randint(0, size[1], (40,))
    picked = grown_at(cells.to(device), step, rows.to(device), columns.to(device))
    assert torch.allclose(picked.cpu(), grow(cells, step, torch.Size(size))[:, rows, columns], atol=1e-6)


def test_a_window_surrounds_what_is_above_the_limit_and_stays_in_the_frame():
    values = torch.zeros(20, 30)
    values[4, 10] = values[8, 27] = 0.5
    assert find_window(values, above=0.4, margin=3) == (slice(1, 12), slice(7, 30))
    assert find_window(values, above=0.5, margin=3) is None


# -- what writers see ------------------------------------------------------------------------------------------------


class Saved:
    """No more than a saved result offers."""

    def __init__(self, prob, ids):
        self.prob, self.object_ids, self.asked = prob, ids, 0

    def labels(self):
        self.asked += 1
        return np.array((0, *self.object_ids))[self.prob.argmax(0).numpy()]


def test_alpha_and_colours_are_computed_once_and_only_when_asked_for(monkeypatch):
    calls = []
    for name in ("refine", "foreground"):
        real = getattr(matted_module, name)
        monkeypatch.setattr(
            matted_module, name, lambda *a, name=name, real=real, **k: calls.append(name) or real(*a, **k)
        )
    rgb, prob = squares()
    matted = Matted(rgb, Saved(prob, (3, 300)))
    assert matted.labels().max() == 300
    assert calls == []
    together, single = matted.alpha(), matted.alpha(300)
    assert matted.foreground(3) is matted.foreground(3)
    assert matted.foreground() is matted.foreground()
    assert calls == ["refine", "foreground", "foreground"]
    assert together.dtype == single.dtype == np.float32
    assert np.allclose(together, matted.alpha(3) + single, atol=1e-6)
    assert tuple(np.abs(matted.foreground(300)[45, 79].astype(int) - (30, 40, 210))) == (0, 0, 0)
    with pytest.raises(ValueError, match="not in tuple"):
        matted.alpha(1)


def test_without_refinement_alpha_is_the_networks_and_the_colours_are_the_sources():
    rgb, prob = squares()
    matted = Matted(rgb, Saved(prob, (1, 2)), options=MattingOptions(refine=False))
    assert np.array_equal(matted.alpha(2), prob[2].numpy())
    assert np.allclose(matted.alpha(), 1 - prob[0].numpy(), atol=1e-6)
    assert np.array_equal(matted.foreground(), rgb)
    assert np.array_equal(matted.foreground(2), rgb)


@pytest.mark.parametrize("name", SCENES)
def test_refined_labels_are_nearer_to_the_truth(name):
    for frame in FRAMES:
        rgb, truth, _, prob = scene(name, frame)
        prediction = Prediction(prob, (1,))
        raw, fine = ((x.labels() != (truth[0] > 0.5)).sum() for x in (prediction, Matted(rgb, prediction)))
        assert fine < 0.8 * raw, f"frame {frame}: {fine} of {raw} wrong pixels are left"


def test_refined_labels_are_those_of_the_largest_alpha():
    rgb, prob = squares(noise=8.0)
    matted = Matted(rgb, Prediction(prob, (3, 300)))
    alpha = np.stack([1 - matted.alpha(), matted.alpha(3), matted.alpha(300)])
    assert np.array_equal(matted.labels(), np.array((0, 3, 300))[alpha.argmax(0)])
    assert matted.labels() is matted.labels()
    assert matted.labels().dtype == np.uint16


@pytest.mark.parametrize("how", ["given", "stored", "unrefined"])
def test_labels_that_are_to_stay_are_those_of_the_prediction(how):
    rgb, prob = squares(noise=8.0)
    prediction = (
        Saved(prob, (1, 2)) if how == "stored" else Prediction(prob, (1, 2), given=(1, 2) if how == "given" else ())
    )
    matted = Matted(rgb, prediction, options=MattingOptions(refine=how != "unrefined"))
    assert np.array_equal(matted.labels(), prediction.labels())
    assert not np.array_equal(matted.labels(), Matted(rgb, Prediction(prob, (1, 2))).labels())


@pytest.mark.parametrize("off", [0, 3])
def test_a_given_object_keeps_its_mask_beside_one_that_is_fitted(off):
    rgb, prob = squares(noise=8.0)
    rgb = np.roll(rgb, off, axis=1)  # then the fitted mask lacks pixels that were given
    known, fitted, mixed = (Matted(rgb, Prediction(prob, (1, 2), given=given)).labels() for given in ((1, 2), (), (1,)))
    assert ((known == 1) & (fitted != 1)).any() == (off > 0)
    assert np.array_equal(mixed == 1, known == 1)
    away = (known != 1) & (fitted != 1)
    assert np.array_equal(mixed[away], fitted[away])
    assert not np.array_equal(mixed == 2, known == 2)


def test_confidence_is_that_of_the_prediction():
    rgb, prob = squares()
    prediction = Prediction(prob, (1, 2))
    assert Matted(rgb, prediction).confidence() == prediction.confidence()
    assert Matted(rgb, Saved(prob, (1, 2))).confidence() == prediction.confidence()


@pytest.mark.parametrize("kind", [torch.bfloat16, torch.float32])
def test_predictions_made_in_inference_mode_and_half_precision_and_frozen_frames_are_taken(kind):
    rgb, prob = squares()
    rgb.flags.writeable = False
    with torch.inference_mode():
        prob = prob.to(kind) * 1
    matted = Matted(rgb, Prediction(prob, (1, 2)))
    assert matted.alpha().dtype == np.float32
    assert matted.foreground().dtype == np.uint8


def test_a_writer_takes_a_matted_frame(make_clip, tmp_path):
    with open_source(make_clip()) as source:
        writer = AlphaWriter(tmp_path / "alpha.mov", source.info)
        for frame in source:
            inside = torch.zeros(48, 64)
            inside[:12, :16] = 1
            writer.write(frame, Matted(frame.rgb, Prediction(torch.stack([1 - inside, inside]), (1,))))
        writer.close()
    assert (tmp_path / "alpha.mov").stat().st_size > 0


def test_both_layers_of_a_mixed_pixel_move_so_that_together_they_are_what_is_seen():
    generator = torch.Generator().manual_seed(0)
    pixels, part, layers = (torch.rand(*shape, generator=generator) for shape in ((3, 50), (50,), (6, 50)))
    front, back = _corrected(pixels, part, layers), _corrected(pixels, 1 - part, layers.roll(3, 0))
    assert torch.allclose(part * front + (1 - part) * back, pixels, atol=1e-6)
