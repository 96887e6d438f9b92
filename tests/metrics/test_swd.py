"""Laws of the sliced Wasserstein distance: the pyramid, what is drawn from it, the distance, and the whole of it."""

import gc
import itertools

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from progan.metrics import swd
from progan.metrics.swd import (
    Draws,
    counted_distance,
    descriptors,
    distance,
    draw_centres,
    draw_directions,
    laplacian_pyramid,
    project,
    pyramid_down,
    pyramid_up,
    sliced_wasserstein,
    sorted_distance,
    swd_levels,
)

LINE = np.array([1, 4, 6, 4, 1]) / 16


def _images(*shape: int) -> torch.Tensor:
    return torch.rand(shape, dtype=torch.float64) * 255


def _pictures(count: int, resolution: int, seed: int, colours: int = 4, channels: int = 3) -> torch.Tensor:
    """Discs of some colours before white, with a shade and a little noise. uint8 [count, channels, R, R]."""
    random = torch.Generator().manual_seed(seed)
    axis = (torch.arange(resolution) + 0.5) / resolution
    middle, radius = 0.3 + 0.4 * torch.rand(2, count, 1, 1, 1, generator=random), torch.rand(count, generator=random)
    far = (axis[:, None] - middle[0]).square() + (axis - middle[1]).square()
    disc = far < (0.15 + 0.2 * radius).square()[:, None, None, None]
    palette = torch.tensor([[200.0, 40, 60], [40, 190, 80], [60, 80, 220], [220, 200, 50]])
    colour = palette[torch.randint(colours, (count,), generator=random)][:, :channels, None, None]
    noise = 6 * torch.randn(count, channels, resolution, resolution, generator=random)
    return torch.where(disc, colour * (0.6 + 0.4 * axis) + noise, 255.0).round().clamp(0, 255).to(torch.uint8)


def _noisy(pixels: torch.Tensor, strength: float) -> torch.Tensor:
    noise = torch.randn(pixels.shape, generator=torch.Generator().manual_seed(9))
    return (pixels + strength * noise).round().clamp(0, 255).to(torch.uint8)


@pytest.fixture
def small_blocks(monkeypatch) -> None:
    """Few pictures at once, so that small sets make several blocks of every kind."""
    monkeypatch.setattr(swd, "BLOCK_PICTURES", 8)
    monkeypatch.setattr(swd, "TALLIED", 2000)


# --- levels and pyramid ---


@pytest.mark.parametrize(
    ("resolution", "smallest", "wanted"),
    [
        (1024, 16, [1024, 512, 256, 128, 64, 32, 16]),
        (128, 16, [128, 64, 32, 16]),
        (16, 16, [16]),
        (8, 16, [8]),
        (4, 16, [4]),
        (16, 4, [16, 8, 4]),
        (32, 8, [32, 16, 8]),
    ],
)
def test_levels(resolution, smallest, wanted):
    assert swd_levels(resolution, smallest) == wanted


def _mirrored(n: int, size: int) -> int:
    """n beyond 0 .. size - 1, mirrored about the first and last pixel."""
    return -n if n < 0 else 2 * (size - 1) - n if n >= size else n


def _blurred(image: np.ndarray, gain: float) -> np.ndarray:
    """Every pixel by its definition. [H, W] -> [H, W]."""
    h, w = image.shape
    out = np.zeros((h, w))
    for y, x, j, i in itertools.product(range(h), range(w), range(5), range(5)):
        out[y, x] += gain * LINE[j] * LINE[i] * image[_mirrored(y + j - 2, h), _mirrored(x + i - 2, w)]
    return out


@pytest.mark.parametrize("side", [4, 8, 16])
def test_down_is_every_second_pixel_of_the_blurred_image(side):
    images = _images(2, 3, side, side)
    wanted = [[_blurred(plane.numpy(), 1)[::2, ::2] for plane in image] for image in images]
    torch.testing.assert_close(pyramid_down(images), torch.tensor(np.array(wanted)), rtol=1e-12, atol=0)


@pytest.mark.parametrize("side", [2, 4, 8])
def test_up_is_the_blur_of_the_image_with_zeros_between(side):
    images = _images(2, 1, side, side)
    spread = np.zeros((2, 1, 2 * side, 2 * side))
    spread[:, :, ::2, ::2] = images
    wanted = [[_blurred(plane, 4) for plane in image] for image in spread]
    torch.testing.assert_close(pyramid_up(images), torch.tensor(np.array(wanted)), rtol=1e-12, atol=0)


def test_the_levels_add_up_to_the_image():
    images = _images(2, 3, 32, 32)
    pyramid = laplacian_pyramid(images, 4)
    assert [level.shape[3] for level in pyramid] == [32, 16, 8, 4]
    whole = pyramid[-1]
    for level in reversed(pyramid[:-1]):
        whole = level + pyramid_up(whole)
    torch.testing.assert_close(whole, images, rtol=1e-12, atol=0)


def test_the_last_level_is_the_low_pass_and_one_level_the_image_itself():
    images = _images(1, 3, 16, 16)
    assert torch.equal(laplacian_pyramid(images, 3)[2], pyramid_down(pyramid_down(images)))
    assert torch.equal(laplacian_pyramid(images, 1)[0], images)


def test_a_constant_image_is_its_low_pass_alone():
    *details, rest = laplacian_pyramid(torch.full((1, 3, 32, 32), 77.0), 3)
    assert all(torch.equal(level, torch.zeros_like(level)) for level in details)
    assert torch.equal(rest, torch.full((1, 3, 8, 8), 77.0))


# --- descriptors ---


@pytest.mark.parametrize(("level", "margin"), [(4, 1), (8, 3), (16, 3), (32, 3)])
def test_every_allowed_position_occurs_and_no_other(level, margin):
    centres = draw_centres(torch.Generator().manual_seed(1), 200, 128, level)
    found = {tuple(pair) for pair in centres.flatten(0, 1).tolist()}
    assert found == set(itertools.product(range(margin, level - margin), repeat=2))


def test_each_patch_has_a_position_of_its_own():
    centres = draw_centres(torch.Generator().manual_seed(1), 50, 128, 64).double() - 31.5
    assert centres.shape == (50, 128, 2)
    by_patch, by_picture = centres.mean(0).std(0), centres.mean(1).std(0)  # as of independent positions
    alone = 58 / 12**0.5
    assert ((by_patch - alone / 50**0.5).abs() < 0.4 * alone / 50**0.5).all()
    assert ((by_picture - alone / 128**0.5).abs() < 0.4 * alone / 128**0.5).all()


@pytest.mark.parametrize(("side", "size", "channels"), [(16, 7, 3), (8, 7, 1), (4, 3, 3)])
def test_a_descriptor_is_the_patch_about_its_centre(side, size, channels):
    images, reach = _images(3, channels, side, side), size // 2
    centres = draw_centres(torch.Generator().manual_seed(2), 3, 5, side)
    found = descriptors(images, centres, size).view(3, 5, channels, size, size)
    for n, p in itertools.product(range(3), range(5)):
        y, x = centres[n, p].tolist()
        assert torch.equal(found[n, p], images[n, :, y - reach : y + reach + 1, x - reach : x + reach + 1])


def test_directions_are_of_length_one_and_of_no_preference():
    directions = draw_directions(Draws(), 16, 3)
    assert directions.shape == (512, 147)
    torch.testing.assert_close(directions.norm(dim=1), torch.ones(512))
    spread = directions.T @ directions * 147 / 512  # the identity, but for chance
    assert 0.9 < spread.diagonal().mean() < 1.1
    assert (spread - torch.eye(147)).abs().max() < 0.35
    assert not torch.equal(directions, draw_directions(Draws(seed=1), 16, 3))
    assert not torch.equal(directions, draw_directions(Draws(), 32, 3))


@pytest.mark.usefixtures("small_blocks")
def test_descriptors_are_normalised_channel_by_channel_over_the_set():
    pictures = [_pictures(20, 16, 1)]
    surveyed = swd.survey(pictures, Draws(patches=50))
    parts = [swd.normalised(part[16], surveyed.moments[16]) for part in swd.described(pictures, Draws(patches=50))]
    assert [len(part) for part in parts] == [400, 400, 200]
    values = torch.cat(parts).view(-1, 3, 49).double()
    torch.testing.assert_close(values.mean((0, 2)), torch.zeros(3, dtype=torch.float64), rtol=0, atol=1e-6)
    torch.testing.assert_close(values.var((0, 2), correction=0), torch.ones(3, dtype=torch.float64), rtol=1e-6, atol=0)


def test_moments_of_two_parts_are_those_of_the_whole():
    values = torch.randn(100, 6) * 3 + torch.tensor([90.0, 90, 90, -4, -4, -4])
    both = swd.merged(swd.moments(values[:30], 2), swd.moments(values[30:], 2))
    whole = values.double().view(100, 2, 3)
    assert both.count == 300
    torch.testing.assert_close(both.mean, whole.mean((0, 2)), rtol=1e-6, atol=0)
    torch.testing.assert_close(both.squares / 300, whole.var((0, 2), correction=0), rtol=1e-5, atol=0)


def test_a_channel_that_does_not_vary_says_nothing():
    reals, fakes = (_pictures(20, 16, seed) for seed in (1, 2))
    flat = [torch.cat([x[:, :2], torch.full_like(x[:, :1], grey)], 1) for x, grey in ((reals, 10), (fakes, 200))]
    same = [torch.cat([x[:, :2], torch.zeros_like(x[:, :1])], 1) for x in (reals, fakes)]
    assert sliced_wasserstein(*([x] for x in flat)) == sliced_wasserstein(*([x] for x in same))
    black, white = (torch.full((4, 3, 16, 16), value, dtype=torch.uint8) for value in (0, 255))
    assert sliced_wasserstein([black], [white])["swd"] == 0


def test_rounding_of_a_channel_that_does_not_vary_is_not_blown_up():
    of = swd.Moments(30, torch.tensor([5.00001, 7], dtype=torch.float64), torch.tensor([1e-8, 30 * 4.0]).double())
    values = torch.tensor([[5.0, 5, 5, 6, 7, 11]]).expand(10, 6)
    assert torch.equal(swd.normalised(values, of), torch.tensor([[0, 0, 0, -0.5, 0, 2]]).expand(10, 6))


# --- distance on a line ---


def test_the_sorted_distance_is_the_cheapest_way_to_pair_the_values():
    a, b = torch.randn(2, 3, 6, dtype=torch.float64)
    cheapest = [min((x - y[list(p)]).abs().mean() for p in itertools.permutations(range(6))) for x, y in zip(a, b)]
    assert sorted_distance(a, b) == pytest.approx(float(sum(cheapest)) / 3, rel=1e-12)


def test_a_shift_is_that_far_away():
    a = torch.randn(4, 1000)
    assert sorted_distance(a, a + 0.25) == pytest.approx(0.25, rel=1e-6)
    assert _counted(a, a + 0.25) == pytest.approx(0.25, rel=1e-4)


def _counts(values: torch.Tensor) -> torch.Tensor:
    counts = torch.zeros(len(values), swd.BINS + 1, dtype=torch.int32)
    return counts.scatter_add_(1, swd.bins_of(values), torch.ones_like(values, dtype=torch.int32))


def _counted(a: torch.Tensor, b: torch.Tensor) -> float:
    return counted_distance(_counts(a), _counts(b))


def _heavy(rows: int) -> torch.Tensor:
    return torch.randn(rows, 8000) * torch.randn(rows, 8000).exp()  # kurtosis about 160, values up to 60


def _steps(rows: int) -> torch.Tensor:
    return torch.where(torch.rand(rows, 8000) < 0.5, 0.7 + 0.03 * torch.randn(rows, 1), torch.randn(rows, 8000))


@pytest.mark.parametrize(
    ("draw", "tolerance"),
    [
        (lambda rows: torch.randn(rows, 8000), 3e-5),
        (lambda rows: torch.randn(rows, 3), 3e-5),
        (lambda rows: 0.1 * torch.randn(rows, 8000), 1e-4),
        (lambda rows: 4 * torch.randn(rows, 8000), 1e-4),
        (_heavy, 1e-4),
        (_steps, 1e-4),  # half of all values are equal, as where much of a picture is plain white
    ],
    ids=["normal", "three", "narrow", "wide", "heavy", "steps"],
)
def test_counting_is_as_good_as_sorting(draw, tolerance):
    a, b = draw(400), draw(400)
    assert _counted(a, b) == pytest.approx(sorted_distance(a.double(), b.double()), rel=tolerance)


def test_bins_are_where_their_edges_say():
    values = torch.cat([torch.randn(10000) * 3, torch.tensor([0.0, -4000, 4000, -1e9, 1e9])])
    bins, edges = swd.bins_of(values[None])[0], swd.bin_edges()
    assert len(edges) == swd.BINS - 1
    found = torch.bucketize(values.double(), edges, right=True)
    assert (bins.clamp_max(swd.BINS - 1) - found).abs().max() <= 1  # float32 may round over an edge
    assert (bins.clamp_max(swd.BINS - 1) == found).double().mean() > 0.998
    assert ((bins >= 0) & (bins <= swd.BINS)).all()


@pytest.mark.parametrize("rows", [1, 8, 21])
def test_tally_counts_every_projection_once(rows, monkeypatch):
    monkeypatch.setattr(swd, "TALLIED", 40)
    values, directions = torch.randn(100, 9), F.normalize(torch.randn(rows, 9))
    counts = torch.zeros(rows, swd.BINS + 1, dtype=torch.int32)
    swd.tally(counts, directions, values)
    assert (counts.sum(1) == 100).all()
    wanted = _counts(directions @ values.T)
    assert (counts - wanted).abs().sum() <= 0.01 * counts.sum()  # sums in another order may cross an edge
    swd.tally(counts, directions, values)
    assert (counts.sum(1) == 200).all()


def test_products(device):
    a, b = torch.randn(20, 147, device=device), torch.randn(33, 147, device=device)
    torch.testing.assert_close(swd.products(a, b).double(), a.double() @ b.double().T, rtol=1e-5, atol=2e-5)


# --- the whole ---


def _down(images: np.ndarray) -> np.ndarray:
    padded = np.pad(images, ((0, 0), (0, 0), (2, 2), (2, 2)), "reflect")
    rows = sum(LINE[k] * padded[:, :, k : k + images.shape[2]] for k in range(5))
    return sum(LINE[k] * rows[..., k : k + images.shape[3]] for k in range(5))[:, :, ::2, ::2]


def _up(images: np.ndarray) -> np.ndarray:
    n, c, h, w = images.shape
    spread = np.zeros((n, c, 2 * h, 2 * w))
    spread[:, :, ::2, ::2] = images
    padded = np.pad(spread, ((0, 0), (0, 0), (2, 2), (2, 2)), "reflect")
    rows = sum(2 * LINE[k] * padded[:, :, k : k + 2 * h] for k in range(5))
    return sum(2 * LINE[k] * rows[..., k : k + 2 * w] for k in range(5))


def _numpy_set(pixels: torch.Tensor, draws: Draws, levels: list[int]) -> dict[int, np.ndarray]:
    """Normalised descriptors of a whole set, in float64, at the positions that the module draws."""
    images, pyramid = pixels.expand(-1, 3, -1, -1).numpy().astype(np.float64), []
    for _ in levels[1:]:
        pyramid.append(images - _up(_down(images)))
        images = _down(images)
    found = {}
    for level, planes in zip(levels, [*pyramid, images]):
        size = 7 if level > 4 else 3
        centres = draw_centres(swd._generator(draws.seed, "positions", level), len(pixels), draws.patches, level)
        corners = centres.numpy() - size // 2
        values = np.stack([planes[n, :, y : y + size, x : x + size] for n, some in enumerate(corners) for y, x in some])
        values = (values - values.mean((0, 2, 3), keepdims=True)) / values.std((0, 2, 3), keepdims=True)
        found[level] = values.reshape(len(values), -1)
    return found


def _numpy_swd(reals: torch.Tensor, fakes: torch.Tensor, draws: Draws) -> dict[str, float]:
    """The facts of the official metric, sorted."""
    levels = swd_levels(reals.shape[3], draws.smallest)
    a, b = (_numpy_set(pixels, draws, levels) for pixels in (reals, fakes))
    found = {}
    for level in levels:
        directions = draw_directions(draws, level, 3).numpy().T
        apart = np.abs(np.sort(a[level] @ directions, 0) - np.sort(b[level] @ directions, 0)).mean(0)
        found[f"swd_{level}"] = 1e3 * apart.reshape(draws.repeats, draws.directions).mean(1).mean()
    return {"swd": np.mean(list(found.values())), **found}


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize(("resolution", "smallest", "channels"), [(32, 16, 3), (16, 4, 3), (8, 16, 1), (4, 16, 3)])
def test_the_whole_against_numpy(resolution, smallest, channels, device):
    reals, fakes = (_pictures(30, resolution, seed, channels=channels) for seed in (1, 2))
    fakes = _noisy(fakes, 10)
    draws = Draws(3, smallest, patches=40, repeats=2, directions=64)
    got = sliced_wasserstein(
        reals.split(7), fakes.split(30), 3, smallest, patches=40, repeats=2, directions=64, device=device
    )
    wanted = _numpy_swd(reals, fakes, draws)
    assert list(got) == list(wanted)
    assert got == pytest.approx(wanted, rel=3e-4)
    assert all(type(value) is float for value in got.values())


def test_the_counted_whole_equals_the_sorted_one():
    sets, draws = [[_pictures(100, 32, seed)] for seed in (1, 2)], Draws()
    projected = [project(pictures, draws) for pictures in sets]
    found = distance(*projected)
    for level in (32, 16):
        directions = draw_directions(draws, level, 3)
        rows = []
        for pictures, done in zip(sets, projected):
            values = torch.cat([part[level] for part in swd.described(pictures, draws)])
            rows.append(directions @ swd.normalised(values, done.survey.moments[level]).T)
        assert found[f"swd_{level}"] == pytest.approx(_sorted_by_numpy(*rows), rel=1e-4)


def _sorted_by_numpy(a: torch.Tensor, b: torch.Tensor) -> float:
    """1000 times `sorted_distance`: torch sorts slowly."""
    return 1e3 * float(np.abs(np.sort(a.numpy(), 1) - np.sort(b.numpy(), 1)).mean(dtype=np.float64))


def test_identical_sets_are_not_apart():
    pictures = _pictures(20, 32, 1)
    assert set(sliced_wasserstein([pictures], pictures.split(3)).values()) == {0.0}


def test_it_is_symmetric():
    a, b = [_pictures(20, 32, 1)], [_noisy(_pictures(20, 32, 2), 10)]
    assert sliced_wasserstein(a, b) == sliced_wasserstein(b, a)


def test_the_mean_is_that_of_the_levels_and_the_seed_decides():
    a, b = [_pictures(20, 16, 1)], [_pictures(20, 16, 2)]
    found = sliced_wasserstein(a, b, smallest=4)
    assert list(found) == ["swd", "swd_16", "swd_8", "swd_4"]
    assert found["swd"] == pytest.approx((found["swd_16"] + found["swd_8"] + found["swd_4"]) / 3, rel=1e-12)
    assert found == sliced_wasserstein(a, b, smallest=4)
    other = sliced_wasserstein(a, b, 1, 4)
    assert found != other
    assert found == pytest.approx(other, rel=0.5)


def _grows(values: list[float], at_least: float = 1.15) -> bool:
    return all(b > at_least * a for a, b in itertools.pairwise(values))


def _swd(reals: torch.Tensor, fakes: torch.Tensor) -> dict[str, float]:
    return sliced_wasserstein([reals], [fakes], patches=64, repeats=1)


def test_more_noise_is_farther():
    reals, fakes = _pictures(60, 32, 1), _pictures(60, 32, 2)
    found = [_swd(reals, _noisy(fakes, strength)) for strength in (0, 10, 20, 40)]
    assert all(_grows([values[key] for values in found], 1.1) for key in ("swd", "swd_32"))


def test_more_blur_is_farther():
    reals, fakes = _pictures(60, 32, 1), _pictures(60, 32, 2)
    found = []
    for size in (1, 3, 5, 9):
        padded = F.pad(fakes.float(), (size // 2,) * 4, "replicate")
        found.append(_swd(reals, F.avg_pool2d(padded, size, 1).round().to(torch.uint8)))
    assert all(_grows([values[key] for values in found], 1.1) for key in ("swd", "swd_32"))


def test_missing_modes_are_farther():
    reals = _pictures(200, 16, 1)
    found = [_swd(reals, _pictures(200, 16, 2, colours=colours))["swd"] for colours in (4, 2, 1)]
    assert _grows(found, 1.25)


@pytest.mark.usefixtures("small_blocks")
def test_batches_do_not_matter():
    a, b = _pictures(37, 16, 1), _pictures(37, 16, 2)
    wanted = sliced_wasserstein([a], [b], patches=64)
    empty = a[:0]
    assert sliced_wasserstein(a.split(5), b.split(8), patches=64) == wanted
    assert sliced_wasserstein([a[:1], empty, a[1:30], a[30:]], [*b.split(1), empty], patches=64) == wanted


def test_grey_is_colour_with_equal_channels():
    a, b = (_pictures(30, 16, seed, channels=1) for seed in (1, 2))
    grey, colour = (sliced_wasserstein([x], [y]) for x, y in ((a, b), (a.expand(-1, 3, -1, -1), b.tile(1, 3, 1, 1))))
    assert grey == pytest.approx(colour, rel=1e-4)


def test_one_set_of_reals_serves_many_sets_of_fakes():
    a, b, c = ([_pictures(20, 16, seed)] for seed in (1, 2, 3))
    reals = project(a, Draws(5, 8))
    for fakes in (b, c):
        assert distance(reals, project(fakes, Draws(5, 8))) == sliced_wasserstein(a, fakes, 5, 8)
    assert reals.counts[16].dtype == torch.int32
    assert {level: int(counts.sum()) for level, counts in reals.counts.items()} == dict.fromkeys(
        (16, 8), 20 * 128 * 512
    )


def _bytes_of_tensors() -> int:
    """Of all that this process holds."""
    storages = [x.untyped_storage() for x in gc.get_objects() if type(x) is torch.Tensor]
    return sum({storage.data_ptr(): storage.nbytes() for storage in storages}.values())


class _Watched:
    """So many pictures in batches of 8, and at every batch how many bytes are held."""

    def __init__(self, count: int) -> None:
        self.count, self.held = count, list[int]()

    def __iter__(self):
        for n in range(0, self.count, 8):
            self.held.append(_bytes_of_tensors())
            yield _pictures(8, 16, n)


@pytest.mark.usefixtures("small_blocks")
def test_memory_does_not_grow_with_the_set():
    peaks = []
    for count in (32, 96):
        gc.collect()
        pictures = _Watched(count)
        project(pictures, Draws(patches=128, repeats=1, directions=16))
        assert len(pictures.held) == 2 * count // 8
        peaks.append(max(pictures.held) - pictures.held[0])
    assert 0 < peaks[1] < 1.05 * peaks[0]


# --- errors ---


def _zeros(*shape: int) -> torch.Tensor:
    return torch.zeros(shape, dtype=torch.uint8)


@pytest.mark.parametrize(
    ("reals", "fakes", "words"),
    [
        ([_zeros(4, 3, 16, 16)], [_zeros(5, 3, 16, 16)], "alike in pictures; these have 4 and 5"),
        ([_zeros(4, 3, 16, 16)], [_zeros(4, 3, 32, 32)], "alike in resolution; these have 16 and 32"),
        ([_zeros(4, 3, 16, 16)], [_zeros(4, 1, 16, 16)], "alike in channels; these have 3 and 1"),
        ([_zeros(1, 3, 16, 16)], [_zeros(1, 3, 16, 16)], "2 pictures or more in a set; this one has 1"),
        ([], [], "2 pictures or more in a set; this one has 0"),
        ([_zeros(2, 2, 16, 16)], [], r"1 or 3 channels, not torch.uint8 \[2, 2, 16, 16\]"),
        ([_zeros(2, 3, 16, 8)], [], r"\[n, C, R, R\] .* \[2, 3, 16, 8\]"),
        ([_zeros(3, 16, 16)], [], r"not torch.uint8 \[3, 16, 16\]"),
        ([torch.zeros(2, 3, 16, 16)], [], "uint8 pictures .* torch.float32"),
        ([_zeros(2, 3, 24, 24)], [], "power of two from 4 on, not 24"),
        ([_zeros(2, 3, 2, 2)], [], "power of two from 4 on, not 2"),
        ([_zeros(2, 3, 16, 16), _zeros(2, 3, 8, 8)], [], r"one size .* \[3, 16, 16\] and \[3, 8, 8\]"),
        ([_zeros(2, 3, 16, 16), _zeros(2, 1, 16, 16)], [], r"one size .* \[3, 16, 16\] and \[1, 16, 16\]"),
    ],
)
def test_wrong_sets_are_refused(reals, fakes, words):
    with pytest.raises(ValueError, match=words):
        sliced_wasserstein(reals, fakes)


def test_levels_without_room_for_a_patch_are_refused():
    with pytest.raises(ValueError, match="4 or more, not 2"):
        sliced_wasserstein([_zeros(2, 3, 16, 16)], [_zeros(2, 3, 16, 16)], smallest=2)


def test_a_set_that_runs_dry_is_refused():
    with pytest.raises(ValueError, match="gave 4 the first time and 0 the second"):
        project(iter([_zeros(4, 3, 16, 16)]))


def test_sets_that_were_drawn_from_differently_are_refused():
    pictures = [_zeros(2, 3, 16, 16)]
    with pytest.raises(ValueError, match=r"alike in draws.*seed=0.*seed=1"):
        distance(project(pictures), project(pictures, Draws(1)))
