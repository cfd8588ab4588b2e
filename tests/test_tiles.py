import pytest
import torch
import torch.nn.functional as F

from stmcli.matting import tiles


@pytest.mark.parametrize("size", [(1, 1), (7, 5), (12, 8), (13, 30)])
@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
def test_tiles_have_the_pixels_around_them_and_join_to_the_picture(size, dtype):
    picture = torch.randint(0, 255, (*size, 3)).to(dtype)
    cut = tiles.cut(picture, 4)
    assert cut.shape == (-(-size[0] // 4), -(-size[1] // 4), 6, 6, 3)
    rows, columns = (torch.arange(-1, 5)[None] + 4 * torch.arange(number)[:, None] for number in cut.shape[:2])
    wanted = picture[rows.clamp(0, size[0] - 1)][:, :, columns.clamp(0, size[1] - 1)]  # (rows, 6, columns, 6, 3)
    assert torch.equal(cut, wanted.transpose(1, 2))
    assert torch.equal(tiles.join(cut[:, :, 1:-1, 1:-1, 0], size), picture[..., 0])


@pytest.mark.parametrize("step", [1, 2, 5])
def test_enlarged_tiles_are_those_of_the_enlarged_whole(step):
    cells = torch.rand(9, 12, 2)
    whole = F.interpolate(cells.permute(2, 0, 1)[None], scale_factor=step, mode="bilinear", align_corners=False)
    wanted = tiles.cut(whole[0].permute(1, 2, 0), 3 * step)
    found = tiles.enlarge(tiles.cut(cells, 3).flatten(0, 1).permute(0, 3, 1, 2), step)
    found = found.permute(0, 2, 3, 1).reshape(wanted.shape)
    inner = slice(1, -1)
    assert torch.allclose(found[:, :, inner, inner], wanted[:, :, inner, inner], atol=1e-6)
    assert torch.allclose(found[1, 1], wanted[1, 1], atol=1e-6)
