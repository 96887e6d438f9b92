"""Laws of the operations: unit feature vectors, strided groups with the biased variance, means and copies of pixels."""

import pytest
import torch

from progan.nn.ops import blend, downscale2d, largest_group, minibatch_stddev, pixel_norm, upscale2d


def _naive_stddev(x: torch.Tensor, group: int) -> torch.Tensor:
    """Member k of group m is sample m + k * N/group; biased variance, + 1e-8, root, mean over C, H, W."""
    n = len(x)
    out = torch.empty(n, dtype=torch.float64)
    for m in range(n // group):
        members = [m + k * (n // group) for k in range(group)]
        total = 0.0
        for feature in range(x[0].numel()):
            values = [x[i].flatten()[feature].item() for i in members]
            mean = sum(values) / group
            total += (sum((v - mean) ** 2 for v in values) / group + 1e-8) ** 0.5
        for i in members:
            out[i] = total / x[0].numel()
    return out


# --- pixel norm ---


@pytest.mark.parametrize("shape", [(5, 7), (5, 7, 4, 4)])
def test_pixel_norm_makes_the_mean_square_over_features_one(shape, device):
    x = 3 * torch.randn(shape, device=device) + 2
    y = pixel_norm(x)
    assert torch.allclose(y.square().mean(1), torch.ones_like(y[:, 0]), atol=1e-5, rtol=0)
    assert torch.allclose(y / y[:, :1], x / x[:, :1], rtol=1e-4)  # the direction stays


def test_pixel_norm_uses_epsilon_below_the_root():
    assert pixel_norm(torch.zeros(1, 4)).tolist() == [[0.0] * 4]
    got = pixel_norm(torch.full((1, 4), 1e-4, dtype=torch.float64))  # mean square 1e-8 = eps
    assert torch.allclose(got, torch.full_like(got, 0.5**0.5), rtol=1e-12)


def test_pixel_norm_by_hand():
    assert torch.allclose(pixel_norm(torch.tensor([[3.0, 4.0]])), torch.tensor([[3.0, 4.0]]) / 12.5**0.5, rtol=1e-6)


# --- minibatch standard deviation ---


@pytest.mark.parametrize(
    ("count", "wanted", "group"),
    [
        (16, 4, 4), (14, 4, 2), (6, 4, 3), (3, 4, 3), (15, 4, 3), (8, 4, 4), (2, 4, 2), (1, 4, 1), (7, 4, 1), (5, 4, 1),
        (16, 16, 16), (14, 16, 14), (6, 16, 6), (3, 16, 3), (128, 16, 16), (9, 0, 1), (9, 1, 1), (12, 5, 4),
    ],
)  # fmt: skip
def test_the_largest_group_divides_the_batch(count, wanted, group):
    assert largest_group(count, wanted) == group


@pytest.mark.parametrize(
    ("count", "group"), [(8, 4), (8, 2), (4, 4), (6, 3), (14, 2), (3, 3), (12, 4), (16, 16), (4, 1)]
)
def test_the_extra_map_is_that_of_a_naive_loop_over_strided_groups(count, group, device):
    x = torch.randn(count, 2, 3, 2, device=device) * torch.arange(1, count + 1, device=device)[:, None, None, None]
    y = minibatch_stddev(x, group)
    assert y.shape == (count, 3, 3, 2)
    assert torch.equal(y[:, :2], x)
    assert torch.equal(y[:, 2], y[:, 2, :1, :1].expand(count, 3, 2))
    assert torch.allclose(y[:, 2, 0, 0].double().cpu(), _naive_stddev(x, group), rtol=1e-5, atol=1e-7)


def test_groups_are_strided_not_contiguous():
    x = torch.tensor([0.0, 100.0, 2.0, 100.0]).reshape(4, 1, 1, 1)  # groups {0, 2} and {1, 3}
    assert torch.allclose(minibatch_stddev(x, 2)[:, 1].flatten(), torch.tensor([1.0, 1e-4, 1.0, 1e-4]), rtol=1e-4)


def test_the_variance_is_the_biased_one():
    x = torch.tensor([1.0, 3.0]).reshape(2, 1, 1, 1)
    spread = minibatch_stddev(x, 2)[:, 1].flatten()
    assert torch.allclose(spread, torch.tensor([1.0, 1.0]), rtol=1e-6)  # the unbiased one would give sqrt 2


@pytest.mark.parametrize("group", [1, 2, 4])
def test_identical_samples_vary_by_the_root_of_epsilon(group, device):
    x = torch.randn(1, 3, 4, 4, device=device).expand(4, 3, 4, 4)
    y = minibatch_stddev(x, group)[:, 3]
    assert torch.allclose(y, torch.full_like(y, 1e-4), rtol=1e-3, atol=0)


def test_the_standard_deviation_is_a_mean_of_roots_not_a_root_of_means():
    x = torch.tensor([[0.0, 0.0], [2.0, 6.0]]).reshape(2, 2, 1, 1)  # deviations 1 and 3
    assert torch.allclose(minibatch_stddev(x, 2)[:, 2].flatten(), torch.tensor([2.0, 2.0]), rtol=1e-6)


def test_a_group_does_not_see_the_other_groups():
    x = torch.randn(8, 2, 4, 4)
    changed = x.clone()
    changed[1::2] += torch.randn(4, 2, 4, 4)
    a, b = minibatch_stddev(x, 4)[:, 2], minibatch_stddev(changed, 4)[:, 2]
    assert torch.equal(a[0::2], b[0::2])
    assert not torch.equal(a[1::2], b[1::2])


def test_half_precision_is_reckoned_in_single():
    x = 300 * torch.randn(4, 2, 4, 4)  # squares beyond the range of float16
    y = minibatch_stddev(x.half(), 4)
    assert y.dtype == torch.float16
    wanted = minibatch_stddev(x.half().float(), 4)[:, 2]
    assert torch.allclose(y[:, 2].float(), wanted, rtol=1e-3)


def test_double_precision_stays_double():
    x = torch.randn(4, 2, 4, 4, dtype=torch.float64)
    assert torch.allclose(minibatch_stddev(x, 4)[:, 2, 0, 0], _naive_stddev(x, 4), rtol=1e-12, atol=0)


def test_a_batch_of_broken_groups_is_an_error():
    with pytest.raises(RuntimeError):
        minibatch_stddev(torch.zeros(6, 1, 2, 2), 4)


# --- resolutions ---


def test_upscaling_repeats_and_downscaling_averages():
    x = torch.tensor([[[[1.0, 2.0], [3.0, 6.0]]]])
    assert upscale2d(x)[0, 0].tolist() == [[1, 1, 2, 2], [1, 1, 2, 2], [3, 3, 6, 6], [3, 3, 6, 6]]
    assert downscale2d(x).item() == 3
    assert torch.equal(downscale2d(upscale2d(x)), x)


@pytest.mark.parametrize("kind", [float, torch.tensor])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_a_blend_is_exact_at_both_ends_and_linear_between(kind, dtype, device):
    old, new = torch.randn(2, 3, 4, 4, 4, device=device).to(dtype).unbind()
    assert torch.equal(blend(old, new, kind(0.0)), old)
    assert torch.equal(blend(old, new, kind(1.0)), new)
    assert torch.allclose(blend(old, new, kind(0.25)).float(), (0.75 * old + 0.25 * new).float(), atol=3e-2, rtol=0)
    assert blend(old, new, kind(0.3)).dtype == dtype


def test_a_blend_weighs_the_new_by_alpha():
    old, new = torch.zeros(1), torch.full((1,), 8.0)
    assert [blend(old, new, a).item() for a in (0.125, 0.25, 0.75)] == [1, 2, 6]
