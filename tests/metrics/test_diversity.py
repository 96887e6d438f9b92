"""Laws of colour and variety: exact counts, levels as the unit, nothing where a generator has collapsed."""

import math

import pytest
import torch

from progan.metrics import diversity as module
from progan.metrics.diversity import diversity, histogram_distance, histograms, pair_differences, statistics


def _random(count: int, resolution: int = 8, channels: int = 3, seed: int = 0, top: int = 256) -> torch.Tensor:
    noise = torch.Generator().manual_seed(seed)
    return torch.randint(0, top, (count, channels, resolution, resolution), generator=noise).to(torch.uint8)


def _flat(*levels: int, resolution: int = 4) -> torch.Tensor:
    """Pictures of one level each. uint8 [N, 3, R, R]."""
    return torch.tensor(levels, dtype=torch.uint8)[:, None, None, None].expand(-1, 3, resolution, resolution)


# --- numbers ---


def test_the_values_are_those_of_the_definitions(device):
    reals, fakes = _random(10), _random(11, seed=1, top=200)
    got = diversity([reals.to(device)], [fakes.to(device)])
    for ending, pixels in (("", fakes), ("_reals", reals)):
        x = pixels.double()
        for c, name in enumerate(("red", "green", "blue")):
            assert got[f"mean_{name}{ending}"] == pytest.approx(x[:, c].mean().item(), rel=1e-12)
            assert got[f"std_{name}{ending}"] == pytest.approx(x[:, c].std(correction=0).item(), rel=1e-12)
        pairs = (x[0:10:2] - x[1:10:2]).square().mean((1, 2, 3)).sqrt().mean().item()
        assert got[f"pair{ending}"] == pytest.approx(pairs, rel=1e-12)
        assert got[f"pixel_std{ending}"] == pytest.approx(x.std(0, correction=0).mean().item(), rel=1e-12)
    assert got["pair_ratio"] == pytest.approx(got["pair"] / got["pair_reals"], rel=1e-12)
    assert got["pixel_std_ratio"] == pytest.approx(got["pixel_std"] / got["pixel_std_reals"], rel=1e-12)
    assert all(type(value) is float for value in got.values())


def test_the_distance_of_colours_is_that_between_sorted_values(device):
    """Wasserstein-1 of equally many values is the mean difference of the sorted ones."""
    reals, fakes = _random(10), _random(10, seed=1, top=200)
    got = diversity([reals.to(device)], [fakes.to(device)])
    a, b = (x.double().transpose(0, 1).flatten(1).sort(1).values for x in (reals, fakes))  # [3, n]
    wanted = (a - b).abs().mean(1).tolist()
    assert [got["colour_red"], got["colour_green"], got["colour_blue"]] == pytest.approx(wanted, rel=1e-12)
    assert got["colour"] == pytest.approx(sum(wanted) / 3, rel=1e-12)


def test_a_shift_of_one_channel_is_its_distance_in_levels():
    reals = _random(6, top=200)
    fakes = reals.clone()
    fakes[:, 1] += 30
    got = diversity([reals], [fakes])
    assert got["colour_green"] == pytest.approx(30, rel=1e-12)
    assert (got["colour_red"], got["colour_blue"]) == (0, 0)
    assert got["colour"] == pytest.approx(10, rel=1e-12)
    assert got["mean_green"] - got["mean_green_reals"] == pytest.approx(30, rel=1e-12)
    assert got["std_green"] == pytest.approx(got["std_green_reals"], rel=1e-12)


def test_the_farthest_colours():
    got = diversity([torch.cat([_flat(0, 0, 0), _flat(1)])], [_flat(255, 255)])
    assert got["colour"] == pytest.approx(254.75, rel=1e-12)


def test_histograms_of_unequal_counts_compare_by_shares():
    a, b = torch.zeros(1, 256), torch.zeros(1, 256)
    a[0, 10], a[0, 20] = 1, 1
    b[0, 10], b[0, 20] = 300, 100
    assert histogram_distance(a, b).item() == pytest.approx(2.5, rel=1e-12)
    assert histogram_distance(b, a).item() == pytest.approx(2.5, rel=1e-12)
    assert histogram_distance(b, 5 * b).item() == 0


def test_the_histogram_counts_each_channels_levels(device):
    pixels = _random(4)
    got = histograms(pixels.to(device))
    assert got.shape == (3, 256)
    assert got.dtype == torch.int64
    for c in range(3):
        assert got[c].tolist() == [int((pixels[:, c] == level).sum()) for level in range(256)]


def test_a_difference_of_flat_pictures_is_that_of_their_levels():
    assert pair_differences(_flat(10, 250, 7, 4, 99)).tolist() == [240, 3]
    got = statistics([_flat(10, 250, 7, 4, 99)])
    assert got.pair == pytest.approx(121.5, rel=1e-12)


def test_equal_sets_have_no_distance():
    pixels = _random(8)
    got = diversity([pixels], [pixels[:3], pixels[3:]])
    assert {name: got[name] for name in got if name.startswith("colour")} == {
        "colour": 0,
        "colour_red": 0,
        "colour_green": 0,
        "colour_blue": 0,
    }
    assert (got["pair_ratio"], got["pixel_std_ratio"]) == (1, 1)


# --- variety ---


def test_a_generator_that_makes_one_picture_has_no_variety(device):
    reals, fakes = _random(8).to(device), _random(1, seed=3).to(device).expand(1000, -1, -1, -1)
    got = diversity([reals], [fakes])
    assert [got[name] for name in ("pair", "pair_ratio", "pixel_std", "pixel_std_ratio")] == [0, 0, 0, 0]
    assert got["std_red"] > 50  # within the one picture


def test_two_pictures_in_turn_are_no_variety_over_the_set():
    """A generator of two pictures: pairs differ as much as the two do, or not at all; half of that is the std."""
    fakes = _flat(100, 140).repeat(10, 1, 1, 1)
    got = diversity([_random(8, 4)], [fakes])
    assert (got["pair"], got["pixel_std"]) == (40, 20)


def test_independent_noise_has_the_pair_difference_of_its_variance():
    """Mean square of a difference of two is twice the variance of one: 256 levels have (256^2 - 1) / 12."""
    got = statistics([_random(400, 16)])
    assert got.pixel_std == pytest.approx(math.sqrt((256**2 - 1) / 12), rel=0.005)
    assert got.pair == pytest.approx(math.sqrt((256**2 - 1) / 6), rel=0.005)


def test_weaker_contrast_is_less_variety():
    reals = _random(50)
    got = diversity([reals], [reals // 2 + 60])
    assert got["pair_ratio"] == pytest.approx(0.5, abs=0.01)
    assert got["pixel_std_ratio"] == pytest.approx(0.5, abs=0.01)


def test_the_pixel_std_is_over_the_set_not_over_the_picture():
    """One pixel in four varies, between 0 and 200."""
    pixels = torch.zeros(6, 1, 2, 2, dtype=torch.uint8)
    pixels[::2, 0, 0, 0] = 200
    assert statistics([pixels]).pixel_std == pytest.approx(25, rel=1e-12)


# --- sets ---


@pytest.mark.parametrize("block", [1, 192 * 6, 1 << 22])
def test_batching_does_not_matter(block, monkeypatch):
    reals, fakes = _random(23), _random(31, seed=1)
    whole = diversity([reals], [fakes])
    monkeypatch.setattr(module, "BLOCK", block)
    for size in (1, 3, 8, 22):
        assert diversity(list(reals.split(size)), [fakes[:0], *fakes.split(size)]) == pytest.approx(whole, rel=1e-12)


def test_many_pictures_lose_no_digit():
    """20000 white pictures and one of level 254: sums of squares far past float32's whole numbers."""
    batch = torch.full((1000, 1, 2, 2), 255, dtype=torch.uint8)
    odd = torch.full((1, 1, 2, 2), 254, dtype=torch.uint8)
    got = statistics([*[batch] * 20, odd])
    assert got.pixel_std == pytest.approx(math.sqrt(20000) / 20001, rel=1e-12)
    assert got.histogram[0, 253:].tolist() == [0, 4, 80000]
    assert statistics([batch] * 20).pixel_std == 0


def test_grey_pictures_have_one_channel():
    got = diversity([_random(6, channels=1)], [_random(6, channels=1, seed=1)])
    assert {"colour", "colour_grey", "mean_grey", "std_grey", "mean_grey_reals", "std_grey_reals"} < got.keys()
    assert not any(name.endswith("red") for name in got)
    assert got["colour"] == got["colour_grey"]


def test_a_set_is_never_held_whole():
    drawn = used = 0

    def draw():
        nonlocal drawn
        while drawn < 2000:
            drawn += 50
            yield torch.zeros(50, 1, 32, 32, dtype=torch.uint8)

    for block in module.blocks(draw()):
        assert len(block) <= 256
        used += len(block)
        assert drawn - used <= 306
    assert used == 2000


def test_wrong_input():
    pixels = _random(4)
    with pytest.raises(ValueError, match="at least two pictures; the set holds 0"):
        statistics([])
    with pytest.raises(ValueError, match="at least two pictures; the set holds 1"):
        diversity([pixels], [pixels[:1]])
    with pytest.raises(ValueError, match=r"reals are \[3, 8, 8\], fakes \[3, 4, 4\]"):
        diversity([pixels], [_random(4, 4)])
    with pytest.raises(ValueError, match=r"reals are \[3, 8, 8\], fakes \[1, 8, 8\]"):
        diversity([pixels], [pixels[:, :1]])
    with pytest.raises(ValueError, match="alike in every pair"):
        diversity([pixels[:1].expand(4, -1, -1, -1)], [pixels])
    with pytest.raises(ValueError, match=r"\[3, 8, 8\] and of \[3, 4, 4\] in one set"):
        statistics([pixels, _random(4, 4)])
    with pytest.raises(ValueError, match=r"not float32 \[4, 3, 8, 8\]"):
        statistics([pixels.float()])
