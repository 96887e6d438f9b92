"""The fast form of G is G: the same numbers, however the picture is cut; and the same bytes every time."""

import pytest
import torch

from progan.latents import WalkPlan, make_walk
from progan.nn import inference
from progan.nn.inference import Compact
from progan.nn.progressive import Generator
from progan.render.walk import walk_frames

CACHES = (1, 5000, 70_000, 8 << 20)  # bytes: strips of two rows, of four; few pictures at a time; all at once


@pytest.fixture(autouse=True, params=[256, 8], ids=["narrow", "wide"])
def _box_maps(request, monkeypatch):
    """From how many maps on upscaling goes by box filters: here never, and always."""
    monkeypatch.setattr(inference, "BOX_MAPS", request.param)


def _generator(dtype, device, **options):
    """Up to 32x32, biases that are not zero."""
    G = Generator(32, latent_size=16, fmap_base=128, fmap_max=12, **options)
    for parameter in G.parameters():
        parameter.data = torch.randn(parameter.shape, dtype=dtype, device=device)
    return G.eval().requires_grad_(False)


def _latents(count, dtype, device):
    return torch.randn(count, 16, dtype=dtype, device=device)


def _error(a, b):
    return ((a - b).norm() / b.norm()).item()


@pytest.mark.parametrize("cache", CACHES)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 3e-6)])
def test_equals_the_readable_form(monkeypatch, device, cache, dtype, tolerance):
    monkeypatch.setattr(inference, "CACHE", cache)
    G = _generator(dtype, device)
    fast, z = Compact(G), _latents(5, dtype, device)
    for stage in range(4):
        for alpha in (1.0, 0.3, torch.tensor(0.6)):
            images, expected = fast(z, stage, alpha, 0.7), G(z, stage, alpha, 0.7)
            assert images.shape == expected.shape
            assert images.dtype == dtype
            assert _error(images, expected) < tolerance


@pytest.mark.parametrize(
    "options",
    [
        {"norm": "none", "latent_norm": False},
        {"weights": "plain"},
        {"leaky_slope": 0.01},
        {"channels": 1},
        {"fmap_decay": 1.5},
    ],
)
def test_equals_the_readable_form_of_every_generator(device, options):
    for dtype, tolerance in ((torch.float64, 1e-12), (torch.float32, 1e-5)):
        G, z = _generator(dtype, device, **options), _latents(2, dtype, device)
        assert _error(Compact(G)(z), G(z)) < tolerance


def test_equals_the_readable_form_without_packed_weights(monkeypatch, device):
    G, z = _generator(torch.float32, device), _latents(3, torch.float32, device)
    packed = Compact(G)(z)
    monkeypatch.setattr(inference, "packable", lambda weight: False)
    plain = Compact(G)(z)
    assert _error(plain, G(z)) < 3e-6
    assert _error(packed, plain) < 3e-6


def test_this_torch_packs_its_weights():
    """Otherwise pictures on a CPU take longer than they need to: look what became of the operators in `packed`."""
    assert inference.packable(torch.zeros(1)) == torch.backends.mkldnn.is_available()
    assert not inference.packable(torch.zeros(1, dtype=torch.float64))


def test_small_caches_cut_batches_and_pictures(monkeypatch):
    """8 maps of 32x32 pixels: 1024 bytes a row, 32,768 a picture."""
    sizes = []
    monkeypatch.setattr(Compact, "pictures", lambda self, z, stage, alpha: sizes.append(len(z)) or z)
    G, z = _generator(torch.float32, "cpu"), _latents(5, torch.float32, "cpu")
    assert Compact(G).sizes == [12 * 16 * 4, 12 * 64 * 4, 12 * 256 * 4, 8 * 1024 * 4]
    monkeypatch.setattr(inference, "CACHE", 70_000)
    Compact(G)(z)
    monkeypatch.setattr(inference, "CACHE", 5000)
    assert Compact(G).strips(3) == [(a, a + 4) for a in range(0, 32, 4)]
    assert Compact(G).strips(1) == [(0, 8)]
    assert sizes == [2, 2, 1]


def test_only_the_stages_that_are_asked_for_are_prepared(device):
    G, z = _generator(torch.float64, device), _latents(2, torch.float64, device)
    fast = Compact(G, 1)
    assert _error(fast(z), G(z, 1)) < 1e-12
    assert _error(fast(z, 0), G(z, 0)) < 1e-12
    with pytest.raises(IndexError):
        fast(z, 2)


def test_is_g_as_it_was(device):
    G, z = _generator(torch.float32, device), _latents(2, torch.float32, device)
    fast = Compact(G)
    before = fast(z)
    for parameter in G.parameters():
        parameter.data.zero_()
    assert torch.equal(fast(z), before)
    assert not fast(z.requires_grad_()).requires_grad


@pytest.mark.parametrize("cache", CACHES)
def test_same_latents_same_bytes(monkeypatch, device, cache):
    monkeypatch.setattr(inference, "CACHE", cache)
    G, z = _generator(torch.float32, device), _latents(6, torch.float32, device)
    first = Compact(G)(z, alpha=0.4)
    assert torch.equal(Compact(G)(z.clone(), alpha=0.4), first)
    other = torch.cat([z[:2], _latents(4, torch.float32, device)])  # other neighbours, not another number of them
    assert torch.equal(Compact(G)(other, alpha=0.4)[:2], first[:2])
    assert _error(Compact(G)(z[:1], alpha=0.4), first[:1]) < 3e-6


def test_walks_like_g(device):
    G = _generator(torch.float32, device)
    walk = make_walk("slerp", WalkPlan(range(6), 16, 8, 2))
    fast, slow = (
        [f.astype(int) for f in walk_frames(g, walk, stage=2, alpha=0.5, device=device)] for g in (Compact(G), G)
    )
    assert max(abs(a - b).max() for a, b in zip(fast, slow)) <= 1
