"""Laws of the networks: growth is seamless to the bit, every layer is in its place, the sizes are the paper's."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from progan.nn.ops import downscale2d, minibatch_stddev, upscale2d
from progan.nn.progressive import Activation, Discriminator, Generator, feature_maps, resolutions

SMALL = {"max_res": 32, "fmap_base": 64, "fmap_max": 16}
KINDS = pytest.mark.parametrize("kind", [float, torch.tensor], ids=["number", "tensor"])


def _generator(device: torch.device, **changes) -> Generator:
    return _stir(Generator(**{**SMALL, "latent_size": 8, **changes})).to(device)


def _discriminator(device: torch.device, **changes) -> Discriminator:
    return _stir(Discriminator(**{**SMALL, **changes})).to(device)


def _stir(net):
    """Biases that are not 0, so that they show."""
    with torch.no_grad():
        for name, parameter in net.named_parameters():
            if name.endswith("bias"):
                parameter.normal_()
    return net


def _z(device: torch.device, count: int = 4, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(count, 8, dtype=dtype).to(device)


def _images(device: torch.device, stage: int, count: int = 4, channels: int = 3, dtype=torch.float32) -> Tensor:
    return torch.randn(count, channels, 4 << stage, 4 << stage, dtype=dtype).to(device)


# --- seamless growth ---


@KINDS
@pytest.mark.parametrize("stage", [1, 2, 3])
def test_a_generator_begins_a_fade_with_the_old_picture_to_the_bit(stage, kind, device):
    G, z = _generator(device), _z(device)
    old = upscale2d(G(z, stage - 1, 1.0))
    assert torch.equal(G(z, stage, kind(0.0)), old)
    assert not torch.allclose(G(z, stage, 1.0), old, atol=1e-3)


@KINDS
@pytest.mark.parametrize("pool", ["before", "after"])
@pytest.mark.parametrize("stage", [1, 2, 3])
def test_a_discriminator_begins_a_fade_with_the_old_scores_to_the_bit(stage, pool, kind, device):
    D, x = _discriminator(device, d_pool=pool), _images(device, stage)
    old = D(downscale2d(x), stage - 1, 1.0)
    assert torch.equal(D(x, stage, kind(0.0)), old)
    assert not torch.allclose(D(x, stage, 1.0), old, atol=1e-3)


@pytest.mark.parametrize("stage", [1, 2, 3])
def test_a_fade_ends_with_the_new_branch_alone_to_the_bit(stage, device):
    G, D, z, x = _generator(device), _discriminator(device), _z(device), _images(device, stage)
    assert torch.equal(G(z, stage, torch.tensor(1.0)), G(z, stage, 1.0))
    assert torch.equal(D(x, stage, torch.tensor(1.0)), D(x, stage, 1.0))


@KINDS
@pytest.mark.parametrize("stage", [1, 2, 3])
def test_a_fading_generator_is_linear_in_alpha(stage, kind, device):
    G, z = _generator(device), _z(device)
    old, new = upscale2d(G(z, stage - 1, 1.0)), G(z, stage, 1.0)
    for alpha in (0.25, 0.5, 0.9):
        wanted = (1 - alpha) * old + alpha * new
        assert torch.allclose(G(z, stage, kind(alpha)), wanted, rtol=1e-5, atol=1e-5)


@KINDS
@pytest.mark.parametrize("stage", [1, 2, 3])
def test_a_fading_discriminator_blends_after_the_new_block(stage, kind, device):
    """At the lower resolution, between fromRGB of the shrunk picture and the new block's output."""
    D, x = _discriminator(device).double(), _images(device, stage, dtype=torch.float64)
    for alpha in (0.25, 0.75):
        new = D.block(stage)(F.leaky_relu(D.rgb_layer(stage)(x), 0.2), 4)
        old = F.leaky_relu(D.rgb_layer(stage - 1)(F.avg_pool2d(x, 2)), 0.2)
        y = (1 - alpha) * old + alpha * new
        for s in reversed(range(stage)):
            y = D.block(s)(y, 4)
        assert torch.allclose(D(x, stage, kind(alpha)), y, rtol=1e-6, atol=1e-8)


def test_the_first_stage_knows_no_alpha(device):
    G, D, z, x = _generator(device), _discriminator(device), _z(device), _images(device, 0)
    assert torch.equal(G(z, 0, 0.3), G(z, 0, 1.0))
    assert torch.equal(D(x, 0, 0.3), D(x, 0, 1.0))


def test_the_top_stage_is_the_default(device):
    G, D, z, x = _generator(device), _discriminator(device), _z(device), _images(device, 3)
    assert G(z).shape == (4, 3, 32, 32)
    assert torch.equal(G(z), G(z, 3, 1.0))
    assert D(x).shape == (4,)
    assert torch.equal(D(x), D(x, 3, 1.0))


@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_a_stable_stage_leaves_the_other_parameters_without_gradient(stage, device):
    """Adam passes over parameters whose gradient is None."""
    G, D = _generator(device), _discriminator(device)
    D(G(_z(device), stage, 1.0), stage, 1.0).sum().backward()
    for net in (G, D):
        moved = {name for name, p in net.named_parameters() if p.grad is not None}
        active = {f"blocks.{4 << s}x{4 << s}." for s in range(stage + 1)} | {f"rgb.{4 << stage}x{4 << stage}."}
        wanted = {name for name, _ in net.named_parameters() if name.startswith(tuple(active))}
        assert moved == wanted


# --- the generator, layer by layer ---


def _lrelu(x: Tensor) -> Tensor:
    return torch.maximum(0.2 * x, x)


def _unit(x: Tensor) -> Tensor:
    return x / (x.square().mean(1, keepdim=True) + 1e-8).sqrt()


def _conv(x: Tensor, layer, gain: float = math.sqrt(2)) -> Tensor:
    w = layer.weight
    y = F.conv2d(x, w * (gain / math.sqrt(w[0].numel())), padding=w.shape[-1] // 2)
    return y + layer.bias.reshape(1, -1, 1, 1)


def _paper_generator(G: Generator, z: Tensor, stage: int) -> Tensor:
    """Reference section 1.3, written out: conv, bias, leaky ReLU, pixel norm."""
    first = G.blocks["4x4"]
    w = first.dense.weight
    y = (_unit(z) @ w.T * (math.sqrt(2) / 4 / math.sqrt(w.shape[1]))).reshape(len(z), -1, 4, 4)
    y = _unit(_lrelu(y + first.dense.bias.reshape(1, -1, 1, 1)))
    y = _unit(_lrelu(_conv(y, first.conv)))
    for s in range(1, stage + 1):
        block = G.blocks[f"{4 << s}x{4 << s}"]
        y = y.repeat_interleave(2, 2).repeat_interleave(2, 3)
        y = _unit(_lrelu(_conv(y, block.conv0)))
        y = _unit(_lrelu(_conv(y, block.conv1)))
    return _conv(y, G.rgb[f"{4 << stage}x{4 << stage}"], gain=1)


@pytest.mark.parametrize("stage", [0, 1, 3])
def test_the_generator_is_the_papers(stage, device):
    G, z = _generator(device).double(), _z(device, dtype=torch.float64)
    assert torch.allclose(G(z, stage), _paper_generator(G, z, stage), rtol=1e-9, atol=1e-10)


def test_pixel_norm_comes_after_the_activation():
    """(3, -4): activation first gives (3, -0.8) over its root mean square; the other order is not of unit norm."""
    x = torch.tensor([3.0, -4.0]).reshape(1, 2, 1, 1)
    got = Activation(0.2, True)(x).flatten()
    rms = math.sqrt((9 + 0.64) / 2)
    assert torch.allclose(got, torch.tensor([3 / rms, -0.8 / rms]), rtol=1e-5)
    assert math.isclose(got.square().mean().item(), 1, rel_tol=1e-5)
    assert torch.allclose(Activation(0.2, False)(x).flatten(), torch.tensor([3.0, -0.8]))


def test_the_bias_comes_before_the_activation(device):
    """A large negative bias is damped by the leaky ReLU: -100 becomes -20 before the norm."""
    G = _generator(device, pixel_norm=False)
    with torch.no_grad():
        for p in G.parameters():
            p.zero_()
        G.blocks["4x4"].conv.bias.fill_(-100.0)
        G.rgb["4x4"].weight.fill_(1 / G.rgb["4x4"].scale)
    maps = G.blocks["4x4"].conv.bias.numel()
    got = G(_z(device), 0)
    assert torch.allclose(got, torch.full_like(got, -20.0 * maps), rtol=1e-5)


def test_latents_are_normalised(device):
    G, z = _generator(device), _z(device)
    assert torch.allclose(G(7 * z), G(z), rtol=1e-4, atol=1e-4)
    plain = _generator(device, pixel_norm=False)
    assert not torch.allclose(plain(7 * z), plain(z), atol=0.1)


def test_psi_scales_the_normalised_latents(device):
    G = _generator(device)
    z, other = _z(device), _z(device)
    assert torch.equal(G(z, psi=0.0), G(other, psi=0.0))
    assert torch.equal(G(z, psi=1.0), G(z))
    x = 0.5 * _unit(z)
    for s in range(4):
        x = G.block(s)(x)
    assert torch.allclose(G(z, psi=0.5), G.rgb_layer(3)(x), atol=1e-5)


def test_the_generators_output_is_linear_not_bounded(device):
    G, z = _generator(device), _z(device)
    before = G(z)
    with torch.no_grad():
        G.rgb["32x32"].weight *= 100
        G.rgb["32x32"].bias *= 100
    assert torch.allclose(G(z), 100 * before, rtol=1e-4, atol=1e-3)
    assert G(z).abs().max() > 10


# --- the discriminator, layer by layer ---


def _paper_discriminator(D: Discriminator, x: Tensor, stage: int, pool: str) -> Tensor:
    """Reference section 1.4, written out, for a batch of four: one group."""
    y = _lrelu(_conv(x, D.rgb[f"{4 << stage}x{4 << stage}"]))
    for s in range(stage, 0, -1):
        block = D.blocks[f"{4 << s}x{4 << s}"]
        y = _conv(_lrelu(_conv(y, block.conv0)), block.conv1)
        y = _lrelu(F.avg_pool2d(y, 2)) if pool == "before" else F.avg_pool2d(_lrelu(y), 2)
    last = D.blocks["4x4"]
    spread = (y.var(0, unbiased=False) + 1e-8).sqrt().mean()
    y = torch.cat([y, spread.expand(len(y), 1, 4, 4)], 1)
    y = _lrelu(_conv(y, last.conv)).flatten(1)
    y = _lrelu(y @ last.dense0.weight.T * math.sqrt(2 / y.shape[1]) + last.dense0.bias)
    return (y @ last.dense1.weight.T / math.sqrt(y.shape[1]) + last.dense1.bias)[:, 0]


@pytest.mark.parametrize("pool", ["before", "after"])
@pytest.mark.parametrize("stage", [0, 1, 3])
def test_the_discriminator_is_the_papers(stage, pool, device):
    D = _discriminator(device, d_pool=pool).double()
    x = _images(device, stage, dtype=torch.float64)
    got, wanted = D(x, stage), _paper_discriminator(D, x, stage, pool)
    assert torch.allclose(got, wanted, rtol=1e-6, atol=1e-7)  # the spread is reckoned in single precision at least
    other = _paper_discriminator(D, x, stage, "after" if pool == "before" else "before")
    assert torch.allclose(got, other, rtol=1e-3) == (stage == 0)


@pytest.mark.parametrize(("pool", "wanted"), [("before", 0.5), ("after", 2.5)])
def test_the_mean_before_or_after_the_activation_by_hand(pool, wanted, device):
    """4, 4, 4, -10 reach the pooling: their mean is 0.5; activated they are 4, 4, 4, -2, mean 2.5."""
    block = Discriminator(max_res=8, fmap_base=8, fmap_max=1, d_pool=pool).to(device).blocks["8x8"]
    with torch.no_grad():
        for conv in (block.conv0, block.conv1):
            conv.weight.zero_()
            conv.weight[0, 0, 1, 1] = 1 / conv.scale
        block.conv1.bias.fill_(-10.0)
    x = torch.full((1, 1, 8, 8), 14.0, device=device)
    x[:, :, 1::2, 1::2] = 0.0
    got = block(x, 1)
    assert torch.allclose(got, torch.full((1, 1, 4, 4), wanted, device=device), rtol=1e-5)


def test_minibatch_stddev_stands_before_the_last_4x4_convolution(device):
    D = _discriminator(device)
    last = D.blocks["4x4"]
    assert last.conv.weight.shape[1] == D.rgb["4x4"].weight.shape[0] + 1
    assert last.dense0.weight.shape[1] == 16 * D.rgb["4x4"].weight.shape[0]
    x, seen = torch.randn(8, 16, 4, 4, device=device), []
    handle = last.conv.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    last(x, 4)
    handle.remove()
    assert torch.equal(seen[0], minibatch_stddev(x, 4))  # the extra map is the last channel


@pytest.mark.parametrize(("batch", "wanted", "group"), [(8, 4, 4), (6, 4, 3), (14, 16, 14), (8, 2, 2), (5, 4, 1)])
def test_the_group_is_the_largest_divisor_unless_it_is_said(batch, wanted, group, device):
    D, x = _discriminator(device, mbstd_group=wanted), _images(device, 0, batch)
    assert torch.equal(D(x, 0), D(x, 0, 1.0, group))
    if batch == 8:
        assert not torch.equal(D(x, 0), D(x, 0, 1.0, 8))


def test_a_sample_is_judged_by_its_own_group_only(device):
    D, x = _discriminator(device), _images(device, 1, 8)
    changed = x.clone()
    changed[1::2] = torch.randn_like(changed[1::2])
    a, b = D(x, 1), D(changed, 1)
    assert torch.allclose(a[0::2], b[0::2], rtol=1e-5, atol=1e-6)
    assert not torch.allclose(a[1::2], b[1::2], rtol=1e-3)


@pytest.mark.parametrize("group", [0, 1])
def test_without_minibatch_stddev_samples_do_not_see_each_other(group, device):
    D, x = _discriminator(device, mbstd_group=group), _images(device, 1, 4)
    assert D.blocks["4x4"].conv.weight.shape[1] == 16
    assert torch.allclose(D(x, 1), torch.cat([D(one[None], 1) for one in x]), rtol=1e-4, atol=1e-5)


def test_the_dense_layer_sees_maps_first(device):
    """NCHW order: unit c*16 + 4h + w."""
    D = _discriminator(device)
    last = D.blocks["4x4"]
    seen = []
    handles = [
        last.conv.register_forward_hook(lambda _, i, output: seen.append(output)),
        last.dense0.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0])),
    ]
    D(_images(device, 0), 0)
    for handle in handles:
        handle.remove()
    maps, flat = seen
    for c, h, w in ((0, 0, 0), (3, 1, 2), (15, 3, 3)):
        assert torch.equal(flat[:, c * 16 + 4 * h + w], F.leaky_relu(maps[:, c, h, w], 0.2))


# --- gains ---


def _scales(net) -> dict[str, float]:
    return {n: m.scale * math.sqrt(m.weight[0].numel()) for n, m in net.named_modules() if hasattr(m, "scale")}


def test_gains():
    """First dense sqrt(2)/4, to RGB 1, the last dense 1, everything else sqrt(2)."""
    with torch.device("meta"):
        G, D = Generator(max_res=32), Discriminator(max_res=32)
    gains = {f"G.{k}": v for k, v in _scales(G).items()} | {f"D.{k}": v for k, v in _scales(D).items()}
    assert len(gains) == (2 + 3 * 2 + 4) + (3 + 3 * 2 + 4)
    special = {"G.blocks.4x4.dense": math.sqrt(2) / 4, "D.blocks.4x4.dense1": 1.0}
    special |= {f"G.rgb.{r}x{r}": 1.0 for r in (4, 8, 16, 32)}
    assert set(special) <= set(gains)
    for name, gain in gains.items():
        assert math.isclose(gain, special.get(name, math.sqrt(2)), rel_tol=1e-12), name
    assert math.isclose(G.blocks["4x4"].dense.scale, 1 / 64, rel_tol=1e-12)


@pytest.mark.parametrize("net", [Generator, Discriminator])
def test_equalized_false_draws_weights_at_their_working_size(net):
    arguments = SMALL | ({"latent_size": 8} if net is Generator else {})
    equal, plain = net(**arguments, equalized=True), net(**arguments, equalized=False)
    for name, module in plain.named_modules():
        if hasattr(module, "scale"):
            assert module.scale == 1
            assert math.isclose(module.init_std, equal.get_submodule(name).scale, rel_tol=1e-12)


def test_the_slope_is_a_knob(device):
    x, z = _images(device, 1), _z(device)
    D, G = _discriminator(device), _generator(device)
    other_D, other_G = _discriminator(device, leaky_slope=0.5), _generator(device, leaky_slope=0.5)
    other_D.load_state_dict(D.state_dict())
    other_G.load_state_dict(G.state_dict())
    assert not torch.allclose(D(x, 1), other_D(x, 1), rtol=1e-3)
    assert not torch.allclose(G(z, 1), other_G(z, 1), rtol=1e-3)
    assert other_D.blocks["4x4"].slope == other_D.blocks["8x8"].slope == other_D.slope == 0.5


# --- sizes ---


@pytest.mark.parametrize(
    ("base", "maximum", "maps"),
    [
        (8192, 512, [512, 512, 512, 512, 512, 256, 128, 64, 32, 16]),
        (2048, 512, [512, 512, 512, 256, 128, 64, 32]),
        (4096, 128, [128, 128, 128, 128, 128]),
    ],
)
def test_feature_maps(base, maximum, maps):
    assert [feature_maps(i, base, maximum) for i in range(len(maps))] == maps


def test_the_decay_of_feature_maps():
    assert [feature_maps(i, 64, 1000, 0.5) for i in (0, 2, 4)] == [64, 32, 16]
    assert feature_maps(1, 64, 1000, 0.5) == int(64 / 2**0.5)


CIFAR = {"fmap_base": 4096, "fmap_max": 128, "latent_size": 128}


@pytest.mark.parametrize(
    ("max_res", "changes", "wanted_G", "wanted_D"),
    [
        (32, {}, 20_719_628, 20_726_785),
        (128, {}, 22_933_394, 22_941_313),
        (256, {}, 23_044_309, 23_052_353),
        (512, {}, 23_072_120, 23_080_225),
        (1024, {}, 23_079_115, 23_087_249),
        (32, CIFAR, 1_296_908, 1_298_689),
        (128, {"fmap_base": 2048}, 13_629_810, 13_636_897),
    ],
    ids=["32", "128", "256", "512", "1024", "cifar", "table1"],
)
def test_parameter_counts(max_res, changes, wanted_G, wanted_D):
    with torch.device("meta"):
        G = Generator(max_res, **changes)
        D = Discriminator(max_res, **{k: v for k, v in changes.items() if k != "latent_size"})
    assert sum(p.numel() for p in G.parameters()) == wanted_G
    assert sum(p.numel() for p in D.parameters()) == wanted_D
    for net, total in ((G, wanted_G), (D, wanted_D)):
        assert sum(p.numel() for p in net.stage_parameters(len(net.resolutions) - 1)) == total


def test_parameters_of_a_stage_are_its_layers_and_all_below(device):
    for net in (_generator(device), _discriminator(device)):
        names = {id(p): name for name, p in net.named_parameters()}
        for stage in range(4):
            got = [names[id(p)] for p in net.stage_parameters(stage)]
            below = tuple(f"{kind}.{4 << s}x{4 << s}." for s in range(stage + 1) for kind in ("blocks", "rgb"))
            assert sorted(got) == sorted(n for n in names.values() if n.startswith(below))
            assert len(got) == len(set(got)) > 0


@pytest.mark.parametrize("net", [Generator, Discriminator])
def test_keys_do_not_depend_on_how_far_the_networks_may_grow(net):
    with torch.device("meta"):
        small, large = net(16).state_dict(), net(64).state_dict()
    assert set(small) < set(large)
    assert all(small[key].shape == large[key].shape for key in small)


@pytest.mark.parametrize("stage", [0, 1, 3])
def test_multiply_accumulates_are_those_of_every_layer_that_ran(stage, device):
    G, D = _generator(device), _discriminator(device)
    for net, arguments in ((G, (_z(device, 1),)), (D, (_images(device, stage, 1),))):
        counted = []

        def count(layer, inputs, output, counted=counted):
            pixels = output.shape[-1] ** 2 if layer.weight.ndim == 4 else 1
            counted.append(layer.weight.numel() * pixels)

        handles = [m.register_forward_hook(count) for m in net.modules() if hasattr(m, "scale")]
        net(*arguments, stage, 1.0)
        for handle in handles:
            handle.remove()
        assert net.macs(stage) == sum(counted) > 0


@pytest.mark.parametrize("net", [Generator, Discriminator])
def test_a_reset_is_a_function_of_the_generator(net):
    a, b = net(**SMALL), net(**SMALL)
    for x in (a, b):
        x.reset_parameters(torch.Generator().manual_seed(3))
    drawn = [m.weight for m in a.modules() if hasattr(m, "scale")]
    assert all(torch.equal(p, q) for p, q in zip(a.parameters(), b.parameters()))
    assert len({round(w.flatten()[0].item(), 6) for w in drawn}) == len(drawn)  # each layer its own numbers
    b.reset_parameters(torch.Generator().manual_seed(4))
    assert not any(torch.equal(p, q) for p, q in zip(a.parameters(), b.parameters()) if p.ndim > 1)


@pytest.mark.parametrize("channels", [1, 3])
def test_channels(channels, device):
    G, D = _generator(device, channels=channels), _discriminator(device, channels=channels)
    images = G(_z(device), 1)
    assert images.shape == (4, channels, 8, 8)
    assert D(images, 1).shape == (4,)


# --- what is refused ---


@pytest.mark.parametrize(
    ("net", "arguments", "message"),
    [
        (Generator, {"max_res": 48}, "48 is not a power of two between 4 and 1024"),
        (Discriminator, {"max_res": 2048}, "2048 is not a power of two between 4 and 1024"),
        (Generator, {"channels": 2}, "1 or 3 channels, not 2"),
        (Discriminator, {"channels": 4}, "1 or 3 channels, not 4"),
        (Generator, {"latent_size": 0}, "latent size 0 is below 1"),
        (Discriminator, {"d_pool": "middle"}, "`before` or `after`.*not `middle`"),
    ],
)
def test_what_cannot_be_built_is_refused(net, arguments, message):
    with torch.device("meta"), pytest.raises(ValueError, match=message):
        net(**arguments)


def test_resolutions():
    assert resolutions(4) == [4]
    assert resolutions(64) == [4, 8, 16, 32, 64]
