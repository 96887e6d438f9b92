"""Laws of MS-SSIM: it is what its definition says; of equal, flat and opposite pictures; over a set of any batching."""

import itertools
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from progan.metrics import ms_ssim as module
from progan.metrics.ms_ssim import WEIGHTS, blocks, blur, gaussian, halve, ms_ssim, ms_ssim_of_pairs, similarity


def _pictures(count: int, resolution: int, channels: int = 3, seed: int = 0) -> torch.Tensor:
    """Pictures with coarse and fine structure. uint8 [N, C, R, R]."""
    noise = torch.Generator().manual_seed(seed)
    coarse = torch.randn(count, channels, 4, 4, generator=noise)
    smooth = F.interpolate(coarse, size=(resolution, resolution), mode="bilinear")
    fine = torch.randn(count, channels, resolution, resolution, generator=noise)
    return (128 + 50 * smooth + 10 * fine).round().clamp(0, 255).to(torch.uint8)


def _noisy(pixels: torch.Tensor, sigma: float, seed: int = 1) -> torch.Tensor:
    noise = torch.randn(pixels.shape, generator=torch.Generator().manual_seed(seed))
    return (pixels + sigma * noise).round().clamp(0, 255).to(torch.uint8)


# --- the definition, written out for one pair in float64 ---


def _one_scale(a: np.ndarray, b: np.ndarray) -> tuple[float, float]:
    """(ssim, cs) of [C, H, W], window by window."""
    size = min(11, *a.shape[1:])
    at = np.arange(size) - (size - 1) / 2
    sigma = 1.5 * size / 11
    w = np.exp(-(at[:, None] ** 2 + at**2) / (2 * sigma**2))
    w /= w.sum()
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    ssim, cs = [], []
    for c, y, x in np.ndindex(a.shape[0], a.shape[1] - size + 1, a.shape[2] - size + 1):
        p, q = a[c, y : y + size, x : x + size], b[c, y : y + size, x : x + size]
        mp, mq = (w * p).sum(), (w * q).sum()
        vp, vq, v = (w * (p - mp) ** 2).sum(), (w * (q - mq) ** 2).sum(), (w * (p - mp) * (q - mq)).sum()
        cs.append((2 * v + c2) / (vp + vq + c2))
        ssim.append(cs[-1] * (2 * mp * mq + c1) / (mp**2 + mq**2 + c1))
    return float(np.mean(ssim)), float(np.mean(cs))


def _half(a: np.ndarray) -> np.ndarray:
    """Box of 2x2 with the edge repeated, every second pixel."""
    a = np.pad(a, ((0, 0), (0, 1), (0, 1)), "edge")
    return ((a[:, :-1, :-1] + a[:, 1:, :-1] + a[:, :-1, 1:] + a[:, 1:, 1:]) / 4)[:, ::2, ::2]


def _definition(a: torch.Tensor, b: torch.Tensor) -> float:
    p, q, result = a.double().numpy(), b.double().numpy(), 1.0
    for scale, weight in enumerate((0.0448, 0.2856, 0.3001, 0.2363, 0.1333)):
        ssim, cs = _one_scale(p, q)
        result *= max(0.0, ssim if scale == 4 else cs) ** weight
        p, q = _half(p), _half(q)
    return result


@pytest.mark.parametrize(("resolution", "channels"), [(4, 3), (8, 1), (16, 3), (20, 1), (32, 1), (64, 1)])
def test_it_is_what_the_definition_says(resolution, channels, device):
    a, b = _pictures(3, resolution, channels), _pictures(3, resolution, channels, seed=5)
    b[0], b[1] = _noisy(a[0], 20), (a[1] * 0.5 + b[1] * 0.5).to(torch.uint8)
    wanted = torch.tensor([_definition(p, q) for p, q in zip(a, b)])
    assert 0.3 < wanted[0] < 0.999
    assert torch.allclose(ms_ssim(a.to(device), b.to(device)).cpu(), wanted, rtol=0, atol=2e-5)


def test_one_window_of_one_scale(device):
    a, b = _pictures(2, 11), _pictures(2, 11, seed=3)
    ssim, cs = similarity(a.to(device).float(), b.to(device).float())
    for got, n in ((ssim, 0), (cs, 1)):
        wanted = [_one_scale(p.double().numpy(), q.double().numpy())[n] for p, q in zip(a, b)]
        assert got.tolist() == pytest.approx(wanted, abs=1e-5)


def test_it_agrees_with_torchmetrics():
    """torchmetrics 1.9 takes the coarsest scale's full similarity over padded edges too; inside them it is ours."""
    image = pytest.importorskip("torchmetrics.functional.image")
    a = _pictures(2, 256)
    a, b = a.float(), _noisy(a, 30).float()
    settings = {"data_range": 255.0, "sigma": 1.5, "kernel_size": 11, "k1": 0.01, "k2": 0.03}
    finer = image.multiscale_structural_similarity_index_measure(
        a, b, betas=(*WEIGHTS[:4], 0.0), normalize="relu", reduction="none", **settings
    )
    _, coarsest = image.structural_similarity_index_measure(
        F.avg_pool2d(a, 16), F.avg_pool2d(b, 16), return_full_image=True, reduction="none", **settings
    )
    wanted = finer * coarsest[..., 5:-5, 5:-5].mean((1, 2, 3)) ** WEIGHTS[4]
    assert ((wanted > 0.5) & (wanted < 0.95)).all()
    assert torch.allclose(ms_ssim(a, b), wanted, rtol=0, atol=2e-5)


# --- numbers ---


@pytest.mark.parametrize("resolution", [4, 8, 16, 32, 64, 128])
def test_equal_pictures_have_exactly_one(resolution, device):
    a = torch.cat([_pictures(2, resolution), torch.zeros(1, 3, resolution, resolution, dtype=torch.uint8)]).to(device)
    assert ms_ssim(a, a).tolist() == [1, 1, 1]


@pytest.mark.parametrize(("p", "q"), [(0, 255), (100, 200), (90, 100)])
def test_flat_pictures_differ_by_the_luminance_of_the_coarsest_scale(p, q):
    a, b = (torch.full((1, 3, 32, 32), level, dtype=torch.uint8) for level in (p, q))
    wanted = ((2 * p * q + 2.55**2) / (p**2 + q**2 + 2.55**2)) ** 0.1333
    assert ms_ssim(a, b).item() == pytest.approx(wanted, abs=2e-4)  # variances of mean squares, in float32


def test_opposite_pictures_have_none():
    """Negative similarities count as 0; to a broken power they were not a number."""
    a = _pictures(4, 32)
    assert (similarity(a.float(), 255 - a.float())[1] < 0).all()
    assert ms_ssim(a, 255 - a).tolist() == [0] * 4


def test_one_opposite_scale_is_enough_to_have_none():
    """Equal shapes, opposite grain: only the finest scale is negative."""
    shapes, grain = _pictures(1, 64).float() / 2 + 60, torch.tensor([[40.0, -40.0], [-40.0, 40.0]]).repeat(32, 32)
    a, b = shapes + grain, shapes - grain
    assert similarity(a, b)[1] < 0 < similarity(halve(a), halve(b))[1]
    assert ms_ssim(a, b).tolist() == [0]


@pytest.mark.parametrize("size", [1, 2, 4, 8, 11])
def test_the_window(size):
    window = gaussian(size)
    assert len(window) == size
    assert sum(window) == pytest.approx(1, abs=1e-12)
    assert window == pytest.approx(window[::-1], abs=1e-12)
    if size > 1:
        i = (size - 1) / 2
        wanted = math.exp((i**2 - (i - 1) ** 2) / 2 / (1.5 * size / 11) ** 2)
        assert window[1] / window[0] == pytest.approx(wanted, rel=1e-12)


def test_the_window_lies_wholly_inside():
    x = torch.zeros(1, 1, 13, 12)
    x[0, 0, 0, 11] = 1
    seen = blur(x, gaussian(11))
    assert seen.shape == (1, 1, 3, 2)
    assert seen[0, 0, 0, 1].item() == pytest.approx(gaussian(11)[0] ** 2, rel=1e-6)
    assert seen.count_nonzero() == 1


def test_halving_an_odd_side_takes_what_there_is():
    x = torch.arange(9.0).reshape(1, 1, 3, 3)
    assert halve(x).tolist() == [[[[2, 3.5], [6.5, 8]]]]
    assert torch.equal(halve(x[..., :1, :1]), x[..., :1, :1])


# --- order ---


def test_it_is_symmetric():
    a, b = _pictures(4, 32), _pictures(4, 32, seed=2)
    b[:2] = _noisy(a[:2], 15)
    assert 0 < ms_ssim(a, b)[2] < 0.5 < ms_ssim(a, b)[0] < 0.99
    assert torch.equal(ms_ssim(a, b), ms_ssim(b, a))


@pytest.mark.parametrize("resolution", [8, 32, 64])
def test_more_noise_is_less_alike(resolution):
    a = _pictures(8, resolution)
    means = [ms_ssim(a, _noisy(a, sigma)).mean().item() for sigma in (0, 10, 25, 60, 120)]
    assert means[0] == 1
    assert all(more > less + 0.005 for more, less in itertools.pairwise(means))


@pytest.mark.parametrize("resolution", [4, 8, 16, 32, 64])
def test_anything_has_a_finite_value_between_0_and_1(resolution):
    a = torch.randint(0, 256, (16, 1, resolution, resolution), dtype=torch.uint8)
    a[:2] = torch.tensor([0, 255], dtype=torch.uint8)[:, None, None, None]
    values = ms_ssim(a, a.roll(1, 0))
    assert values.isfinite().all()
    assert ((values >= 0) & (values <= 1)).all()
    assert values.max() > values.min()


# --- sets ---


def _batches(pixels: torch.Tensor, *sizes: int) -> list[torch.Tensor]:
    return list(pixels.split([*sizes, len(pixels) - sum(sizes)]))


def test_the_value_of_a_set_is_the_mean_over_pairs_with_its_standard_error(device):
    pixels = _pictures(10, 16).to(device)
    each = ms_ssim(pixels[::2], pixels[1::2]).double()
    got = ms_ssim_of_pairs([pixels])
    assert got.keys() == {"ms_ssim", "ms_ssim_error"}
    assert got["ms_ssim"] == pytest.approx(each.mean().item(), rel=1e-6)
    assert got["ms_ssim_error"] == pytest.approx(((each - each.mean()).square().sum() / 4 / 5).sqrt().item(), rel=1e-6)
    assert got["ms_ssim_error"] > 0.001


@pytest.mark.parametrize("block", [1, 3 * 16 * 16 * 6, 1 << 22])
def test_batching_does_not_matter(block, monkeypatch):
    pixels = _pictures(23, 16)
    whole = ms_ssim_of_pairs([pixels])
    monkeypatch.setattr(module, "BLOCK", block)
    for sizes in [(1,) * 22, (3, 5, 1), (0, 7, 0, 7, 8), (22,)]:
        got = ms_ssim_of_pairs(_batches(pixels, *sizes))
        assert got == ms_ssim_of_pairs([pixels])
        assert got == pytest.approx(whole, rel=1e-5)


def test_a_last_picture_without_partner_is_left_out():
    pixels = _pictures(7, 8)
    assert ms_ssim_of_pairs(_batches(pixels, 3)) == ms_ssim_of_pairs([pixels[:6]])


def test_grey_is_grey_in_three_channels():
    pixels = _pictures(6, 16, channels=1)
    assert ms_ssim_of_pairs([pixels]) == pytest.approx(ms_ssim_of_pairs([pixels.expand(-1, 3, -1, -1)]), rel=1e-6)


@pytest.mark.parametrize("batch", [1, 3, 64])
def test_a_set_is_never_held_whole(batch):
    """2000 pictures of 64x64: blocks of 256 pictures, of which little more has been drawn than was used."""
    drawn = used = 0

    def draw():
        nonlocal drawn
        while drawn < 2000:
            drawn += (now := min(batch, 2000 - drawn))
            yield torch.zeros(now, 3, 64, 64, dtype=torch.uint8)

    for block in blocks(draw()):
        assert len(block) <= 256
        assert len(block) % 2 == 0
        used += len(block)
        assert drawn - used <= 256 + batch
    assert used == drawn == 2000
    assert [len(b) for b in blocks([torch.zeros(5, 3, 1024, 1024, dtype=torch.uint8)])] == [2, 2, 1]


@pytest.mark.parametrize("count", [0, 1, 3])
def test_too_few_pictures(count):
    with pytest.raises(ValueError, match=f"at least four pictures.*here are {count // 2} pairs"):
        ms_ssim_of_pairs([_pictures(count, 8)] if count else [])


@pytest.mark.parametrize(
    ("second", "message"),
    [
        (torch.zeros(2, 3, 16, 16, dtype=torch.uint8), r"\[3, 8, 8\] and of \[3, 16, 16\]"),
        (torch.zeros(2, 1, 8, 8, dtype=torch.uint8), r"\[3, 8, 8\] and of \[1, 8, 8\]"),
        (torch.zeros(2, 3, 8, 8), "not float32"),
        (torch.zeros(2, 2, 8, 8, dtype=torch.uint8), r"not uint8 \[2, 2, 8, 8\]"),
        (torch.zeros(2, 3, 8, 4, dtype=torch.uint8), r"not uint8 \[2, 3, 8, 4\]"),
        (torch.zeros(8, 3, 8, dtype=torch.uint8), r"not uint8 \[8, 3, 8\]"),
    ],
)
def test_what_is_no_set_of_pictures(second, message):
    with pytest.raises(ValueError, match=message):
        ms_ssim_of_pairs([_pictures(2, 8), second])
