"""Laws of the growth pictures: order of kimg, one size, nothing lost at the ends, every resolution shown."""

import numpy as np
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from progan.errors import UserError
from progan.render.growth import growth_frames, growth_strip, read_grids, thin


def _save(folder, name, resolution, kimg, alpha=1.0, columns=4, rows=4, grey=False):
    """A grid whose cell (row, column) has the flat colour (kimg, 10 * row, 10 * column). Returns it as an array."""
    cells = np.zeros((rows, resolution, columns, resolution, 3), np.uint8)
    cells[..., 0] = round(kimg)
    cells[..., 1] = 10 * np.arange(rows)[:, None, None, None]
    cells[..., 2] = 10 * np.arange(columns)[None, None, :, None]
    array = cells.reshape(rows * resolution, columns * resolution, 3)
    text = PngInfo()
    values = {"resolution": resolution, "kimg": kimg, "alpha": alpha, "columns": columns, "rows": rows}
    for key, value in values.items():
        text.add_text(key, str(value))
    Image.fromarray(array[..., 0] if grey else array).save(folder / name, pnginfo=text)
    return array


def _run(folder):
    """4 px at 0 and 10 kimg, 8 px fading at 20, stable at 30, 16 px fading at 40; names in another order than kimg."""
    for name, resolution, kimg, alpha in [
        ("fakes-000009.png", 4, 0.0, 1.0),
        ("fakes-000008.png", 4, 10.4, 1.0),
        ("fakes-000007.png", 8, 20.5, 0.5),
        ("fakes-000006.png", 8, 30.0, 1.0),
        ("fakes-000005.png", 16, 40.0, 0.3),
    ]:
        _save(folder, name, resolution, kimg, alpha)
    return folder


def test_frames_come_in_order_of_kimg_and_of_one_size(tmp_path):
    frames = list(growth_frames(_run(tmp_path), size=32))
    assert [frame.shape for frame in frames] == [(32, 32, 3)] * 5
    assert all(frame.dtype == np.uint8 for frame in frames)
    assert [int(frame[0, 0, 0]) for frame in frames] == [0, 10, 20, 30, 40]


@pytest.mark.parametrize("size", [8, 24, 32, 100])
def test_cells_are_the_top_left_ones_each_of_one_size(tmp_path, size):
    """Enlarged or reduced, no cell bleeds into its neighbour."""
    cell = size // 2
    for frame in growth_frames(_run(tmp_path), size=size, cells=(3, 2)):
        assert frame.shape == (2 * cell, 3 * cell, 3)
        for row in range(2):
            for column in range(3):
                block = frame[row * cell : (row + 1) * cell, column * cell : (column + 1) * cell]
                assert (block[..., 1:] == [10 * row, 10 * column]).all()


def test_enlarging_repeats_and_reducing_averages(tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    text = PngInfo()
    for key, value in {"resolution": 8, "kimg": 1.0, "alpha": 1.0, "columns": 1, "rows": 1}.items():
        text.add_text(key, str(value))
    Image.fromarray(noise).save(tmp_path / "fakes-000001.png", pnginfo=text)
    large, small = (next(growth_frames(tmp_path, size=size, cells=(1, 1))) for size in (24, 4))
    assert np.array_equal(large, noise.repeat(3, 0).repeat(3, 1))
    means = noise.reshape(4, 2, 4, 2, 3).mean((1, 3))
    assert np.abs(small - means).max() <= 1  # Pillow rounds after each axis
    assert not np.array_equal(small, noise[::2, ::2])


def test_stored_cells_may_be_enlarged_already(tmp_path):
    array = _save(tmp_path, "fakes-000001.png", 4, 1.0)
    plain = next(growth_frames(tmp_path, size=64))
    with Image.open(tmp_path / "fakes-000001.png") as image:
        text = PngInfo()
        for key, value in image.info.items():
            text.add_text(key, value)
    Image.fromarray(array.repeat(8, 0).repeat(8, 1)).save(tmp_path / "fakes-000001.png", pnginfo=text)
    assert np.array_equal(next(growth_frames(tmp_path, size=64)), plain)


def test_grids_with_fewer_cells_set_the_size_for_all(tmp_path):
    _save(tmp_path, "fakes-000001.png", 4, 1.0)
    _save(tmp_path, "fakes-000002.png", 8, 2.0, columns=2, rows=1)
    assert [frame.shape for frame in growth_frames(tmp_path, size=16)] == [(16, 32, 3)] * 2


def test_until_kimg_and_grey(tmp_path):
    for k in range(4):
        _save(tmp_path, f"fakes-{k:06}.png", 4, 10.0 * k, grey=True)
    frames = list(growth_frames(tmp_path, size=16, until_kimg=20.0))
    assert [frame.shape for frame in frames] == [(16, 16)] * 3
    assert int(frames[-1][0, 0]) == 20
    with pytest.raises(UserError, match="up to -1 kimg"):
        growth_frames(tmp_path, until_kimg=-1)


def test_thinning_keeps_the_ends_and_every_resolution(tmp_path):
    resolutions = [4] * 3 + [8] * 200 + [16] + [32] * 96
    for most in (4, 5, 10, 60):
        picks = thin(resolutions, most)
        assert len(picks) == most
        assert picks == sorted(set(picks))
        assert (picks[0], picks[-1]) == (0, 299)
        assert {resolutions[i] for i in picks} == {4, 8, 16, 32}
        gaps = np.diff(picks)
        assert most < 10 or gaps.max() <= 2 * 299 / (most - 1) + 1
    with pytest.raises(ValueError, match="at least 4 frames"):
        thin(resolutions, 3)


def test_thinning_of_few_takes_all():
    assert thin([4, 4, 8], 60) == [0, 1, 2]
    assert thin([4], 1) == [0]
    assert thin([4] * 11, 3) == [0, 5, 10]


def test_growth_frames_are_thinned(tmp_path):
    for k in range(12):
        _save(tmp_path, f"fakes-{k:06}.png", 4, 10.0 * k)
    assert [int(f[0, 0, 0]) for f in growth_frames(tmp_path, most=3)] in ([0, 50, 110], [0, 60, 110])


def test_strip_shows_the_last_grid_of_each_resolution(tmp_path):
    growth_strip(_run(tmp_path), tmp_path / "strip.png", cells=(2, 4), height=64)
    strip = np.asarray(Image.open(tmp_path / "strip.png"))
    block, gap = 32, 1
    assert strip.shape == (64, 3 * block + 2 * gap, 3)
    assert [int(strip[0, k * (block + gap), 0]) for k in range(3)] == [10, 30, 40]
    assert (strip[:, block] == 255).all()
    assert (strip[48:, 16:32, 1:] == [30, 10]).all()
    before = (tmp_path / "strip.png").read_bytes()
    growth_strip(tmp_path, tmp_path / "strip.png", cells=(2, 4), height=64)
    assert (tmp_path / "strip.png").read_bytes() == before


def test_what_is_no_run_says_so(tmp_path):
    with pytest.raises(UserError, match=r"no fakes-\*\.png here"):
        growth_frames(tmp_path)
    Image.new("RGB", (16, 16)).save(tmp_path / "fakes-000001.png")
    with pytest.raises(UserError, match=r"fakes-000001\.png: not a grid"):
        read_grids(tmp_path)
    (tmp_path / "fakes-000001.png").write_bytes(b"not a PNG")
    with pytest.raises(UserError, match="not a grid"):
        growth_strip(tmp_path, tmp_path / "strip.png")


def test_a_truncated_grid_is_named(tmp_path):
    _save(tmp_path, "fakes-000001.png", 64, 1.0)
    data = (tmp_path / "fakes-000001.png").read_bytes()
    (tmp_path / "fakes-000001.png").write_bytes(data[: len(data) // 2])
    with pytest.raises(UserError, match=r"fakes-000001\.png"):
        next(growth_frames(tmp_path))
