"""Laws of the nearest neighbour: it is the brute-force one, a copy is found, nobody is his own."""

import pytest
import torch

from progan.metrics import neighbours as module
from progan.metrics.neighbours import memorisation, nearest, nearest_others, reduced


def _random(count: int, resolution: int, channels: int = 3, seed: int = 0) -> torch.Tensor:
    noise = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (count, channels, resolution, resolution), generator=noise).to(torch.uint8)


def _small(pixels: torch.Tensor) -> torch.Tensor:
    """Boxes down to 32x32, in float64. [N, C, R, R] -> [N, C, r, r]."""
    n, c, size, _ = pixels.shape
    box = max(1, size // 32)
    return pixels.double().reshape(n, c, size // box, box, size // box, box).mean((3, 5))


def _distances(fakes: torch.Tensor, reals: torch.Tensor, mirrored: bool) -> torch.Tensor:
    """All root mean square differences, in float64. -> [N, M]."""
    a, b = _small(fakes), _small(reals)
    straight = (a[:, None] - b[None]).square().mean((2, 3, 4)).sqrt()
    turned = (a[:, None] - b[None].flip(4)).square().mean((2, 3, 4)).sqrt()
    return torch.minimum(straight, turned) if mirrored else straight


def _apart(fakes: int, reals: int, resolution: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Fakes of more contrast than the reals: none is as near to one as they are to each other."""
    return _random(fakes, resolution), 64 + _random(reals, resolution, seed=1) // 2


def _batches(pixels: torch.Tensor, size: int) -> list[torch.Tensor]:
    return list(pixels.split(size))


# --- distances ---


@pytest.mark.parametrize("mirrored", [False, True])
@pytest.mark.parametrize(("resolution", "channels"), [(4, 3), (16, 1), (32, 3), (64, 3), (128, 1)])
def test_the_nearest_is_the_brute_force_one(resolution, channels, mirrored, device):
    fakes, reals = _random(9, resolution, channels), _random(20, resolution, channels, seed=1)
    fakes[:3] = (fakes[:3] * 0.2 + reals[4:7] * 0.8).to(torch.uint8)
    wanted, which = _distances(fakes, reals, mirrored).min(1)
    got, index = nearest(_batches(fakes.to(device), 4), _batches(reals.to(device), 7), mirrored)
    assert got.dtype == torch.float32
    assert torch.allclose(got.double(), wanted, rtol=0, atol=1e-4)
    assert torch.equal(index, which)


@pytest.mark.parametrize("level", [0, 128, 255])
def test_small_distances_are_as_exact(level):
    """Pictures that differ by a level here and there: a difference of squares alone would lose that in float32."""
    base = torch.full((1, 3, 32, 32), level, dtype=torch.uint8)
    reals = torch.cat([_random(30, 32), base])
    fakes = base.repeat(5, 1, 1, 1)
    for n in range(5):
        fakes[n].flatten()[: 50 * n] = abs(level - 1)
    got, index = nearest([fakes], [reals])
    assert index.tolist() == [30] * 5
    wanted = [(50 * n / 3072) ** 0.5 for n in range(5)]
    assert got.tolist() == pytest.approx(wanted, abs=1e-4)
    assert got[0] == 0


def test_the_unit_is_a_pixel_level():
    reals = _random(5, 8) // 2
    assert nearest([reals + 7], [reals])[0].tolist() == pytest.approx([7] * 5, abs=1e-4)


def test_large_pictures_are_compared_by_the_mean_of_boxes():
    reals = _random(3, 64)
    (small,) = reduced([reals])
    assert torch.allclose(small.double(), _small(reals), rtol=1e-6, atol=0)
    assert small.shape == (3, 3, 32, 32)
    shuffled = reals.reshape(3, 3, 32, 2, 32, 2).flip(3, 5).reshape(reals.shape)  # within each box
    assert not torch.equal(shuffled, reals)
    assert nearest([shuffled], [reals])[0].tolist() == [0] * 3


@pytest.mark.parametrize("resolution", [4, 16, 32])
def test_small_pictures_stay_as_they_are(resolution):
    pixels = _random(3, resolution)
    assert torch.equal(next(reduced([pixels])), pixels.float())


# --- copies ---


def test_planted_copies_are_found(device):
    fakes, reals = _apart(40, 60, 64)
    fakes[[3, 17, 39]] = reals[[50, 0, 22]]
    values, pairs = memorisation([fakes.to(device)], [reals.to(device)])
    assert values["copies"] == pytest.approx(3 / 40)
    assert {tuple(pair) for pair in pairs[:3].tolist()} == {(3, 50), (17, 0), (39, 22)}
    assert pairs.shape == (40, 2)
    assert pairs[:, 0].sort().values.tolist() == list(range(40))
    distances, indices = nearest([fakes], [reals])
    assert torch.equal(distances[pairs[:, 0]], distances.sort().values)
    assert torch.equal(indices[pairs[:, 0]], pairs[:, 1])


def test_mirrored_copies_are_found_where_training_mirrors(device):
    fakes, reals = (pixels.to(device) for pixels in _apart(40, 60, 16))
    fakes[5], fakes[6] = reals[9].flip(2), reals[8]
    assert memorisation([fakes], [reals])[0]["copies"] == pytest.approx(1 / 40)
    values, pairs = memorisation([fakes], [reals], mirrored=True)
    assert values["copies"] == pytest.approx(2 / 40)
    assert pairs[:2].tolist() == [[5, 9], [6, 8]]


def test_noisy_copies_are_found():
    fakes, reals = _apart(40, 60, 32)
    fakes[:10] = (reals[:10].float() + 5 * torch.randn(10, 3, 32, 32)).clamp(0, 255).to(torch.uint8)
    assert memorisation([fakes], [reals])[0]["copies"] == pytest.approx(0.25)


@pytest.mark.parametrize("held_out", [False, True])
def test_pictures_of_the_same_kind_are_as_near_as_reals_are(held_out):
    fakes, reals = _random(2000, 4, 1), _random(2000, 4, 1, seed=1)
    values, _ = memorisation([fakes], [reals], [_random(2000, 4, 1, seed=2)] if held_out else None)
    assert values["neighbour_ratio"] == pytest.approx(1, abs=0.02)
    assert 0.003 < values["copies"] < 0.02


def test_the_values():
    """Reals 10 levels apart: the floor is 10; fakes 3 and 4 from the nearest."""
    reals = torch.arange(0, 100, 10, dtype=torch.uint8)[:, None, None, None].expand(-1, 3, 4, 4)
    fakes = torch.tensor([13, 46], dtype=torch.uint8)[:, None, None, None].expand(-1, 3, 4, 4)
    values, pairs = memorisation([fakes], [reals])
    assert values == pytest.approx({"neighbour": 3.5, "neighbour_floor": 10, "neighbour_ratio": 0.35, "copies": 1})
    assert pairs.tolist() == [[0, 1], [1, 5]]
    values, _ = memorisation([fakes], [reals], [fakes + 1])  # 4 and 3 away
    assert values == pytest.approx({"neighbour": 3.5, "neighbour_floor": 3.5, "neighbour_ratio": 1, "copies": 0.5})
    values, _ = memorisation([fakes + 30], [reals], [fakes - 2])  # 3 and 4 against 1 and 4
    assert values == pytest.approx({"neighbour": 3.5, "neighbour_floor": 2.5, "neighbour_ratio": 1.4, "copies": 0})


def test_a_copy_is_as_near_as_the_nearest_hundredth():
    """201 held-out pictures at 1, 2, ..., 201 levels: the third nearest is the hundredth's last."""
    reals = torch.zeros(2, 1, 4, 4, dtype=torch.uint8)
    held_out = torch.arange(1, 202, dtype=torch.uint8)[:, None, None, None].expand(-1, 1, 4, 4)
    fakes = torch.arange(0, 8, dtype=torch.uint8)[:, None, None, None].expand(-1, 1, 4, 4)
    assert memorisation([fakes], [reals], [held_out])[0]["copies"] == pytest.approx(4 / 8)  # 0, 1, 2 and 3


def test_the_floor_is_taken_from_as_many_reals_as_there_are_fakes():
    """The first three reals lie 1 apart, the others far off; they are near to nobody else."""
    levels = torch.tensor([100, 101, 102, 0, 40, 200, 250], dtype=torch.uint8)
    reals = levels[:, None, None, None].expand(-1, 1, 4, 4)
    assert memorisation([reals[3:6]], [reals])[0]["neighbour_floor"] == pytest.approx(1)
    assert memorisation([reals[3:]], _batches(reals, 2))[0]["neighbour_floor"] == pytest.approx((3 + 40) / 4)
    assert memorisation([reals, reals], [reals])[0]["neighbour_floor"] == pytest.approx((3 + 40 + 40 + 50 + 50) / 7)


# --- others ---


@pytest.mark.parametrize("mirrored", [False, True])
@pytest.mark.parametrize(("queries", "pool"), [(16384, 1024), (7, 3), (4, 9), (1, 1)])
def test_nobody_is_his_own_neighbour(queries, pool, mirrored, monkeypatch, device):
    monkeypatch.setattr(module, "QUERIES", queries)
    monkeypatch.setattr(module, "POOL", pool)
    reals = _random(20, 8)
    reals[4] = (reals[4] // 2 + reals[4].flip(2) // 2).to(torch.uint8)  # its own mirror image
    brute = _distances(reals, reals, mirrored)
    wanted, which = brute.fill_diagonal_(torch.inf).min(1)
    got, index = nearest_others(_batches(reals.to(device), 6), mirrored)
    assert torch.allclose(got.double(), wanted, rtol=0, atol=1e-4)
    assert torch.equal(index, which)
    few, _ = nearest_others(_batches(reals.to(device), 6), mirrored, limit=9)
    assert torch.equal(few, got[:9])


def test_doubles_are_neighbours_at_no_distance():
    reals = _random(6, 8)
    reals[4] = reals[1]
    got, index = nearest_others([reals])
    assert got[[1, 4]].tolist() == [0, 0]
    assert index[[1, 4]].tolist() == [4, 1]
    assert got[[0, 2, 3, 5]].min() > 10
    distances, which = nearest([reals[1:2]], [reals])
    assert distances.tolist() == [0]
    assert which.item() in (1, 4)


def test_a_copy_is_not_lost_to_a_near_copy_in_a_later_block(monkeypatch):
    """One level in one of 3072 values apart: less than products in float32 can tell."""
    monkeypatch.setattr(module, "POOL", 60)
    fakes = _random(60, 32)
    near = fakes.clone()
    near[:, 0, 0, 0] ^= 1
    distances, index = nearest([fakes], [fakes, near])
    assert distances.tolist() == [0] * 60
    assert index.tolist() == list(range(60))


# --- sets ---


@pytest.mark.parametrize("mirrored", [False, True])
def test_blocks_do_not_matter(mirrored, monkeypatch):
    fakes, reals = _random(23, 16), _random(31, 16, seed=1)
    distances, index = nearest([fakes], [reals], mirrored)
    for queries, pool, block in [(1, 1, 1), (5, 4, 768 * 3), (23, 31, 768), (100, 2, 1 << 22)]:
        for name, value in (("QUERIES", queries), ("POOL", pool), ("BLOCK", block)):
            monkeypatch.setattr(module, name, value)
        got, which = nearest(_batches(fakes, 4), [reals[:0], *_batches(reals, 3), reals[:0]], mirrored)
        assert torch.equal(which, index)
        assert torch.allclose(got, distances, rtol=1e-5, atol=0)
        again = nearest(_batches(fakes, 1), _batches(reals, 30), mirrored)  # same blocks, other batches
        assert torch.equal(again[0], got)


def test_only_blocks_are_held(monkeypatch):
    """Neither set is in memory whole: no product is larger than a block of fakes against one of reals."""
    seen, passes = [], 0
    product = module._mean_squares

    def watch(a, b):
        seen.append((len(a), len(b)))
        return product(a, b)

    class Reals:
        def __iter__(self):
            nonlocal passes
            passes += 1
            for seed in range(10):
                yield _random(10, 4, seed=seed)

    monkeypatch.setattr(module, "_mean_squares", watch)
    monkeypatch.setattr(module, "QUERIES", 40)
    monkeypatch.setattr(module, "POOL", 16)
    nearest([_random(90, 4, seed=99)], Reals())
    assert passes == 3  # one for each block of fakes
    assert set(seen) == {(40, 16), (40, 4), (10, 16), (10, 4)}
    assert len(seen) == 3 * 7


def test_large_pictures_are_reduced_a_few_at_a_time(monkeypatch):
    sizes = []
    pool = module.F.adaptive_avg_pool2d

    def watch(x, size):
        sizes.append(len(x))
        return pool(x, size)

    monkeypatch.setattr(module.F, "adaptive_avg_pool2d", watch)
    parts = list(reduced([torch.zeros(9, 1, 1024, 1024, dtype=torch.uint8)]))
    assert sizes == [4, 4, 1]
    assert torch.cat(parts).shape == (9, 1, 32, 32)


def test_products_are_in_true_float32_and_the_setting_comes_back(monkeypatch):
    during = []
    product = torch.Tensor.__matmul__

    def watch(a, b):
        during.append(torch.get_float32_matmul_precision())
        return product(a, b)

    monkeypatch.setattr(torch.Tensor, "__matmul__", watch)
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high")
    try:
        nearest([_random(2, 4)], [_random(2, 4)])
        assert torch.get_float32_matmul_precision() == "high"
    finally:
        torch.set_float32_matmul_precision(before)
    assert during == ["highest"]


def test_wrong_input():
    pixels = _random(3, 8)
    with pytest.raises(ValueError, match="without pictures"):
        nearest([], [pixels])
    with pytest.raises(ValueError, match="no real pictures"):
        nearest([pixels], [pixels[:0]])
    with pytest.raises(ValueError, match=r"\[3, 8, 8\] and of \[3, 16, 16\] have no distance"):
        nearest([pixels], [_random(3, 16)])
    with pytest.raises(ValueError, match=r"\[3, 8, 8\] and of \[1, 8, 8\] have no distance"):
        nearest([pixels], [pixels[:, :1]])
    with pytest.raises(ValueError, match=r"\[3, 8, 8\] and of \[3, 16, 16\] in one set"):
        nearest([pixels, _random(3, 16)], [pixels])
    with pytest.raises(ValueError, match=r"not float32 \[3, 3, 8, 8\]"):
        nearest([pixels], [pixels.float()])
    with pytest.raises(ValueError, match="single real picture"):
        memorisation([pixels], [pixels[:1]])
    with pytest.raises(ValueError, match="each of 3 real pictures has an exact double"):
        memorisation([pixels], [pixels, pixels])
