"""Laws of the preflight: the reckoned memory is that of real tensors; what does not fit is halved in whole groups."""

import itertools

import pytest
import torch

from progan.nn.maps import Kernels
from progan.nn.progressive import Discriminator, Generator
from progan.training.explicit import d_terms
from progan.training.preflight import HEADROOM, Height, fitting, halvings, held_bytes, random_part, saved_bytes
from progan.training.steps import CriticLoss, Part, Where, d_gradients

NET = {"max_res": 32, "fmap_base": 128, "fmap_max": 16}


def _meta(**changes) -> tuple[Generator, Discriminator]:
    with torch.device("meta"):
        return Generator(**{**NET, **changes}, latent_size=8), Discriminator(**{**NET, **changes})


def _really_saved(stage: int, count: int) -> float:
    """The same count on tensors with data: distinct memory, told apart by its address."""
    G, D = Generator(**NET, latent_size=8), Discriminator(**NET)
    kept, sizes = [], {}

    def note(tensor):
        kept.append(tensor)  # no address is used twice
        sizes[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    size = 4 << stage
    part = Part(torch.randn(count, 3, size, size), torch.randn(count, 8), torch.rand(count))
    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        d_gradients(G, D, part, Where(stage, torch.tensor(0.5), count, 4), CriticLoss())
    for net in (G, D):
        for p in net.parameters():
            sizes.pop(p.untyped_storage().data_ptr(), None)
    return sum(sizes.values()) / count


@pytest.mark.parametrize("stage", [1, 2, 3])
def test_reckoned_bytes_are_those_of_real_tensors(stage):
    reckoned, real = saved_bytes(*_meta(), stage), _really_saved(stage, 4)
    assert reckoned > 1000
    assert abs(reckoned / real - 1) < 0.01


def test_held_bytes_are_those_of_real_tensors():
    G, D = Generator(**NET, latent_size=8), Discriminator(**NET)
    heights = []
    for n in (64, 128):
        where = Where(2, torch.tensor(0.0), n, 4)
        with Height() as tensors:
            d_terms(G, D, random_part(G, 2, n, torch.device("cpu")), where, CriticLoss())
        heights.append(tensors.highest)
    reckoned = held_bytes(*_meta(), 2)
    assert reckoned > 1000
    assert abs(reckoned * 64 / (heights[1] - heights[0]) - 1) < 0.01


def test_a_height_counts_memory_once_and_while_it_is_used():
    with Height() as tensors:
        x = torch.zeros(1000)
        view = x[10:].view(2, -1)
        x.add_(1)
        assert tensors.now == 4000
        del x
        assert tensors.now == 4000, "the view still holds it"
        del view
        assert tensors.now == 0
        torch.zeros(100)
    assert (tensors.now, tensors.highest) == (0, 4000)


def test_half_precision_and_written_derivatives_need_less():
    with torch.device("meta"):
        nets = Generator(), Discriminator()
    readable, explicit, half = (
        saved_bytes(*nets, 6),
        held_bytes(*nets, 6),
        held_bytes(*nets, 6, Kernels(torch.bfloat16)),
    )
    assert half < 0.6 * explicit
    assert explicit < 0.85 * readable


def test_the_largest_resolution_fits_common_cards():
    """1024x1024 in float32: one image within 8 GB, the official four within 24 GB, with the weights' own gigabyte."""
    with torch.device("meta"):
        image = HEADROOM * held_bytes(Generator(), Discriminator(), 8)
    assert 1e9 < image < 7e9
    assert 4 * image < 23e9


@pytest.mark.parametrize("reckon", [saved_bytes, held_bytes])
def test_bytes_grow_with_the_resolution(reckon):
    cost = [reckon(*_meta(fmap_base=512), stage) for stage in range(4)]  # equal widths everywhere
    assert all(b > 1.5 * a for a, b in itertools.pairwise(cost))
    assert 2.5 < cost[3] / cost[2] < 4.5  # four times the pixels


def test_nothing_is_computed_for_it():
    """Networks of the paper's size at 1024x1024 are reckoned without their gigabytes."""
    with torch.device("meta"):
        G, D = Generator(), Discriminator()
    for gigabytes in (saved_bytes(G, D, 8) / 1e9, held_bytes(G, D, 8) / 1e9):
        assert 1 < gigabytes < 10
    assert all(p.device.type == "meta" for p in D.parameters())


# --- what fits ---


@pytest.mark.parametrize(
    ("batch", "group", "sizes"),
    [
        (16, 4, [16, 8, 4]),
        (12, 4, [12, 4]),
        (15, 3, [15, 6, 3]),
        (14, 2, [14, 6, 2]),
        (14, 14, [14]),
        (7, 1, [7, 3, 1]),
        (1, 1, [1]),
    ],
)
def test_a_batch_is_halved_in_whole_groups_down_to_one(batch, group, sizes):
    assert list(halvings(batch, group)) == sizes


@pytest.mark.parametrize(
    ("batch", "group", "free", "wanted"),
    [(16, 4, 1e9, 16), (16, 4, 1599, 8), (16, 4, 801, 8), (16, 4, 799, 4), (14, 2, 1399, 6), (3, 3, 0, 3)],
)
def test_the_largest_micro_batch_that_fits_is_taken(batch, group, free, wanted):
    assert fitting(batch, group, 100, free * HEADROOM) == wanted


def test_a_trial_has_the_shapes_of_a_batch(device):
    part = random_part(_meta()[0], 2, 5, device)
    assert (part.reals.shape, part.latents.shape, part.mix.shape) == ((5, 3, 16, 16), (5, 8), (5,))
    assert ((part.mix >= 0) & (part.mix <= 1)).all()
    assert part.reals.device.type == part.latents.device.type == device.type
