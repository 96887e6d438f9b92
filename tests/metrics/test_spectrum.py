"""Laws of the radial spectrum: where a wave lands, how high noise lies, what two sets differ by."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from progan.metrics import spectrum as module
from progan.metrics.spectrum import hann, power_plane, radial_power, spectrum_distance


def _noise(count: int, resolution: int, sigma: float = 20.0, channels: int = 3, seed: int = 0) -> torch.Tensor:
    """White noise about level 128. uint8 [N, C, R, R]."""
    noise = torch.randn(count, channels, resolution, resolution, generator=torch.Generator().manual_seed(seed))
    return (128 + sigma * noise).round().clamp(0, 255).to(torch.uint8)


def _wave(u: int, v: int, resolution: int, amplitude: float = 100.0) -> torch.Tensor:
    """One picture of a cosine with u periods down and v across. uint8 [1, 1, R, R]."""
    at = torch.arange(resolution, dtype=torch.float64)
    angle = 2 * math.pi * (u * at[:, None] + v * at + 0.1 * resolution) / resolution
    return (128 + amplitude * angle.cos()).round().to(torch.uint8)[None, None]


def _blurred(pixels: torch.Tensor) -> torch.Tensor:
    padded = F.pad(pixels.float(), (1, 1, 1, 1), mode="circular")
    return F.avg_pool2d(padded, 3, stride=1).round().to(torch.uint8)


def _ring_sizes(resolution: int) -> list[int]:
    """How many of the R x R frequencies are in each ring 0..R/2."""
    side = [k if k <= resolution // 2 else k - resolution for k in range(resolution)]
    radii = [round(math.hypot(u, v)) for u in side for v in side]
    return [radii.count(k) for k in range(resolution // 2 + 1)]


# --- numbers ---


@pytest.mark.parametrize(("resolution", "channels"), [(4, 1), (8, 3), (16, 3)])
@pytest.mark.parametrize("windowed", [True, False])
def test_it_is_what_the_definition_says(resolution, channels, windowed, device):
    """All R x R frequencies in float64, one after the other."""
    pixels = _noise(3, resolution, channels=channels)
    window = np.ones((resolution, resolution))
    if windowed:
        side = np.sin(np.pi * np.arange(resolution) / resolution) ** 2
        window = side[:, None] * side
    total = np.zeros(resolution // 2 + 1)
    for picture in pixels.double().numpy().reshape(-1, resolution, resolution):
        power = np.abs(np.fft.fft2((picture - picture.mean()) * window)) ** 2 / (window**2).sum()
        for u, v in np.ndindex(power.shape):
            radius = round(math.hypot(min(u, resolution - u), min(v, resolution - v)))
            if radius <= resolution // 2:
                total[radius] += power[u, v]
    wanted = torch.from_numpy(total / (3 * channels) / _ring_sizes(resolution))
    got = radial_power([pixels.to(device)], windowed)
    assert got.dtype == torch.float64
    assert torch.allclose(got, wanted, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("windowed", [True, False])
@pytest.mark.parametrize("sigma", [5.0, 20.0])
def test_white_noise_is_flat_at_its_variance(windowed, sigma, device):
    power = radial_power([_noise(256, 32, sigma).to(device)], windowed)
    wanted = sigma**2 + 1 / 12  # and that of rounding
    assert power.shape == (17,)
    assert torch.allclose(power[2:] / wanted, torch.ones(15, dtype=torch.float64), rtol=0, atol=0.04)
    assert power[6:].mean().item() == pytest.approx(wanted, rel=0.01)


@pytest.mark.parametrize(("u", "v", "ring"), [(0, 1, 1), (3, 0, 3), (0, 16, 16), (3, 4, 5), (-6, 8, 10), (5, 5, 7)])
def test_a_wave_lands_in_its_ring(u, v, ring):
    amplitude, size = 100, 32
    power = radial_power([_wave(u, v, size, amplitude)], windowed=False)
    frequencies = 1 if v == 16 else 2  # at R/2 a wave is its own conjugate
    height = amplitude**2 / 4 * size**2 * (2 / frequencies) ** 2 * (math.cos(0.2 * math.pi) ** 2 if v == 16 else 1)
    assert power[ring].item() == pytest.approx(height * frequencies / _ring_sizes(size)[ring], rel=0.02)
    others = power[torch.arange(17) != ring]
    assert others.max() < 1e-4 * power[ring]  # harmonics from rounding


@pytest.mark.parametrize(("u", "v", "ring"), [(0, 8, 8), (3, 4, 5), (-6, 8, 10)])
def test_the_window_spreads_a_wave_over_the_next_rings_only(u, v, ring):
    power = radial_power([_wave(u, v, 32)])
    assert power.argmax() == ring
    assert power[ring - 2 : ring + 3].sum() > 1000 * (power[: ring - 2].sum() + power[ring + 3 :].sum())


def test_the_window_keeps_the_picture_from_wrapping_around():
    """A ramp from left to right jumps at the edge: without a window its spectrum is that of the jump."""
    ramp = torch.linspace(0, 255, 64).round().to(torch.uint8).expand(1, 1, 64, 64)
    jump, seen = radial_power([ramp], windowed=False), radial_power([ramp])
    assert jump[10:].mean() > 50 * seen[10:].mean()
    assert seen[10:].max() < 1
    window = hann(64)
    assert window[0].eq(0).all()
    assert window[32, 32] == 1
    assert torch.allclose(window, window.T, rtol=1e-12, atol=0)
    assert window[1:, 1:].gt(0).all()
    assert torch.allclose(window[1:, 1:], window[1:, 1:].flip(0, 1), rtol=1e-9, atol=1e-15)


@pytest.mark.parametrize("resolution", [4, 16, 64])
def test_parseval(resolution):
    """The mean over all frequencies is the variance; columns 1..R/2-1 stand for two."""
    pixels = _noise(5, resolution, sigma=40)
    plane = power_plane([pixels], windowed=False)
    assert plane.shape == (3, resolution, resolution // 2 + 1)
    energy = 2 * plane.sum(2) - plane[..., 0] - plane[..., -1]  # [3, R]
    variance = pixels.double().var((2, 3), correction=0).mean(0)  # [3]
    assert torch.allclose(energy.sum(1) / resolution**2, variance, rtol=1e-5, atol=0)


def test_brightness_does_not_matter():
    pixels = _noise(8, 16)
    assert torch.equal(radial_power([pixels + 40]), radial_power([pixels]))
    shifted = pixels + torch.arange(8, dtype=torch.uint8)[:, None, None, None]  # each by its own
    assert torch.allclose(radial_power([shifted]), radial_power([pixels]), rtol=1e-5, atol=0)


def test_direction_does_not_matter():
    pixels = _blurred(_noise(8, 32, 40))
    for turned in (pixels.mT, pixels.flip(3).roll(1, 3), pixels.flip(2).roll(1, 2)):  # about the window's middle
        assert torch.allclose(radial_power([turned]), radial_power([pixels]), rtol=1e-5, atol=0)


# --- distances ---


def test_equal_sets_have_no_distance(device):
    pixels = _noise(20, 16).to(device)
    assert spectrum_distance([pixels], [pixels[:7], pixels[7:]]) == {
        "spectrum": 0,
        "spectrum_low": 0,
        "spectrum_high": 0,
    }


@pytest.mark.parametrize("resolution", [4, 8, 32])
@pytest.mark.parametrize("factor", [2, 3])
def test_contrast_is_a_distance_of_20_log10(factor, resolution, device):
    steps = torch.randint(-40, 41, (50, 3, resolution, resolution), generator=torch.Generator().manual_seed(0))
    weak, strong = ((128 + k * steps).to(torch.uint8).to(device) for k in (1, factor))
    decibels = 20 * math.log10(factor)
    for reals, fakes, sign in ((weak, strong, 1), (strong, weak, -1)):
        got = spectrum_distance([reals], [fakes])
        assert got["spectrum"] == pytest.approx(decibels, abs=1e-4)
        assert got["spectrum_low"] == pytest.approx(sign * decibels, abs=1e-4)
        assert got["spectrum_high"] == pytest.approx(sign * decibels, abs=1e-4)


def test_blur_is_a_lack_of_fine_detail():
    pixels = _noise(30, 32, 40)
    once, twice = _blurred(pixels), _blurred(_blurred(pixels))
    one, two = spectrum_distance([pixels], [once]), spectrum_distance([pixels], [twice])
    assert one["spectrum_high"] < -8 < one["spectrum_low"] < -1
    assert one["spectrum"] == pytest.approx(-(one["spectrum_low"] + one["spectrum_high"]) / 2, rel=1e-9)
    assert two["spectrum"] > 1.5 * one["spectrum"]
    assert spectrum_distance([once], [pixels])["spectrum_high"] == pytest.approx(-one["spectrum_high"], rel=1e-9)


def test_differences_of_both_signs_do_not_cancel():
    """A coarse wave in one set, a fine one in the other: the mean difference is small, the distance is not."""
    base = _noise(30, 32, 5, channels=1)
    coarse, fine = (base + _wave(0, k, 32, 60) - 128 for k in (3, 13))
    got = spectrum_distance([coarse], [fine])
    assert got["spectrum_low"] < -2
    assert got["spectrum_high"] > 2
    assert got["spectrum"] > 4


def test_what_rounding_hides_is_no_difference():
    """Flat pictures have no power at all; it counts as 1/12, the error of rounding to whole levels."""
    flat, faint = torch.full((4, 3, 16, 16), 90, dtype=torch.uint8), _noise(200, 16, 1.0)
    assert spectrum_distance([flat], [flat + 9])["spectrum"] == 0
    got = spectrum_distance([flat], [faint])
    assert got["spectrum_high"] == pytest.approx(10 * math.log10(12 * (1 + 1 / 12)), abs=0.1)


def test_the_halves_of_the_smallest_picture():
    """4x4 has two rings: one is coarse, one is fine."""
    base = torch.randint(100, 140, (400, 1, 4, 4), generator=torch.Generator().manual_seed(0))
    striped = (base + torch.tensor([40, -40, 40, -40])).to(torch.uint8)
    got = spectrum_distance([base.to(torch.uint8)], [striped])
    assert got["spectrum_high"] > got["spectrum_low"] + 3


# --- sets ---


@pytest.mark.parametrize("block", [1, 1 << 13, 1 << 22])
def test_batching_does_not_matter(block, monkeypatch):
    pixels = _noise(23, 16)
    whole = radial_power([pixels])
    monkeypatch.setattr(module, "BLOCK", block)
    for sizes in [(1,) * 22 + (1,), (3, 5, 15), (0, 7, 0, 16)]:
        got = radial_power(list(pixels.split(sizes)))
        assert torch.equal(got, radial_power([pixels]))
        assert torch.allclose(got, whole, rtol=1e-6, atol=0)


def test_each_picture_counts_the_same():
    weak, strong = _noise(6, 16, 5), _noise(2, 16, 60)
    both = radial_power([weak, strong])
    assert torch.allclose(both, 0.75 * radial_power([weak]) + 0.25 * radial_power([strong]), rtol=1e-5, atol=0)


def test_each_channel_counts_the_same():
    pixels = _noise(6, 16)
    apart = sum(radial_power([pixels[:, c : c + 1]]) for c in range(3)) / 3
    assert torch.allclose(radial_power([pixels]), apart, rtol=1e-5, atol=0)


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
    pixels = _noise(2, 8)
    with pytest.raises(ValueError, match="without pictures"):
        radial_power([])
    with pytest.raises(ValueError, match="without pictures"):
        radial_power([pixels[:0]])
    with pytest.raises(ValueError, match=r"reals are \[3, 8, 8\], fakes \[3, 16, 16\]"):
        spectrum_distance([pixels], [_noise(2, 16)])
    with pytest.raises(ValueError, match=r"reals are \[3, 8, 8\], fakes \[1, 8, 8\]"):
        spectrum_distance([pixels], [pixels[:, :1]])
    with pytest.raises(ValueError, match="at least 4x4, not 2x2"):
        spectrum_distance([_noise(2, 2)], [_noise(2, 2)])
    with pytest.raises(ValueError, match=r"\[3, 8, 8\] and of \[3, 16, 16\] in one set"):
        radial_power([pixels, _noise(2, 16)])
    with pytest.raises(ValueError, match=r"not float32 \[2, 3, 8, 8\]"):
        radial_power([pixels.float()])
