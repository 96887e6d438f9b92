"""Laws of the networks: growth is seamless to the bit, every layer is in its place, the sizes are the paper's."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd import gradcheck, gradgradcheck

from progan.nn.attention import SelfAttention
from progan.nn.layers import Scaled, Spectral, still
from progan.nn.norms import Activation, BatchNorm, LayerNorm, TPReLU, closeness
from progan.nn.ops import downscale2d, minibatch_stddev, upscale2d
from progan.nn.progressive import Discriminator, Generator, feature_maps, resolutions

VARIANTS = {
    "plain": {"weights": "plain", "init": "normal"},
    "spectral": {"weights": "spectral", "init": "xavier", "spectral_gain": 1.7},
    "spectral learned": {"weights": "spectral", "spectral_gain": 2.0, "spectral_learned": True, "norm": "none"},
    "strict": {"weights": "weightnorm-strict", "norm": "none", "activation": "tprelu", "init": "uniform"},
    "weight norm": {"weights": "weightnorm", "activation": "relu"},
    "batch": {"norm": "batch", "init": "normal", "weights": "plain", "activation": "relu"},
    "layer": {"norm": "layer", "activation": "tprelu"},
    "attention": {"attention": 16},
    "attention A": {"attention": 8, "attention_form": "A", "norm": "none"},
    "attention at the top": {"attention": 32},
    "spectral attention": {"attention": 16, "weights": "spectral"},
}
"""Arguments of both networks; those without a norm leave each its own."""
OF_G = {"tanh": {"output": "tanh"}, "sigmoid": {"output": "sigmoid"}, "latents as they are": {"latent_norm": False}}
OF_D = {"compare": {"minibatch_discrimination": 7}, "compare only": {"minibatch_discrimination": 7, "mbstd_group": 0}}
GENERATORS = pytest.mark.parametrize("variant", {**VARIANTS, **OF_G})
DISCRIMINATORS = pytest.mark.parametrize("variant", {**VARIANTS, **OF_D})
SMALL = {"max_res": 32, "fmap_base": 64, "fmap_max": 16}
KINDS = pytest.mark.parametrize("kind", [float, torch.tensor], ids=["number", "tensor"])


def _generator(device: torch.device, **changes) -> Generator:
    return _stir(Generator(**{**SMALL, "latent_size": 8, **changes})).to(device)


def _discriminator(device: torch.device, **changes) -> Discriminator:
    return _stir(Discriminator(**{**SMALL, **changes})).to(device)


def _stir(net):
    """Values that are not what they begin as, so that they show."""
    with torch.no_grad():
        for name, parameter in net.named_parameters():
            if name.endswith(("bias", "threshold")):
                parameter.normal_()
            if name.endswith("gamma"):
                parameter.fill_(0.8)
    return net


def _varied(net: str, variant: str, device: torch.device, **changes):
    """A network of a variant, in double precision."""
    make, own = (_generator, OF_G) if net == "G" else (_discriminator, OF_D)
    return make(device, **{**VARIANTS, **own}[variant], **changes).double()


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


@pytest.mark.parametrize("mode", ["eval", "still"])
@GENERATORS
def test_every_generator_begins_a_fade_with_the_old_picture_to_the_bit(variant, mode, device):
    G, z = _varied("G", variant, device), _z(device, dtype=torch.float64)
    G.train(mode == "still")
    with still(G), torch.set_grad_enabled(mode == "still"):
        for stage in (1, 2, 3):
            old, new = upscale2d(G(z, stage - 1, 1.0)), G(z, stage, 1.0)
            assert torch.equal(G(z, stage, torch.tensor(0.0)), old)
            assert torch.equal(G(z, stage, torch.tensor(1.0)), new)
            assert not torch.allclose(new, old, atol=1e-3)


@pytest.mark.parametrize("mode", ["eval", "still"])
@DISCRIMINATORS
def test_every_discriminator_begins_a_fade_with_the_old_scores_to_the_bit(variant, mode, device):
    D = _varied("D", variant, device).train(mode == "still")
    with still(D), torch.set_grad_enabled(mode == "still"):
        for stage in (1, 2, 3):
            x = _images(device, stage, dtype=torch.float64)
            old, new = D(downscale2d(x), stage - 1, 1.0), D(x, stage, 1.0)
            assert torch.equal(D(x, stage, torch.tensor(0.0)), old)
            assert torch.equal(D(x, stage, torch.tensor(1.0)), new)
            assert not torch.equal(new, old)


def test_attention_arrives_as_an_identity(device):
    """Gamma begins at 0: with it or without, the networks are at first the same to the bit."""
    z, x = _z(device), _images(device, 3)
    for form in "AB":
        with_it = {"attention": 16, "attention_form": form}
        for net, other, value in (
            (Generator(**SMALL, latent_size=8), Generator(**SMALL, latent_size=8, **with_it), z),
            (Discriminator(**SMALL), Discriminator(**SMALL, **with_it), x),
        ):
            extra = other.load_state_dict(net.state_dict(), strict=False)
            assert extra.unexpected_keys == []
            assert {key.rsplit(".", 2)[0] for key in extra.missing_keys} <= {
                "blocks.16x16.attention", "blocks.16x16"
            }  # fmt: skip
            assert torch.equal(other.to(device)(value), net.to(device)(value))


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
    got = Activation("pixel", "lrelu", 2)(x).flatten()
    rms = math.sqrt((9 + 0.64) / 2)
    assert torch.allclose(got, torch.tensor([3 / rms, -0.8 / rms]), rtol=1e-5)
    assert math.isclose(got.square().mean().item(), 1, rel_tol=1e-5)
    assert torch.allclose(Activation("none", "lrelu", 2)(x).flatten(), torch.tensor([3.0, -0.8]))


def test_the_bias_comes_before_the_activation(device):
    """A large negative bias is damped by the leaky ReLU: -100 becomes -20 before the norm."""
    G = _generator(device, norm="none", latent_norm=False)
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
    plain = _generator(device, norm="none", latent_norm=False)
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


# --- what may be chosen ---


def test_what_stands_where_in_a_generator_with_statistics_norms(device):
    """Conv, norm, activation; none after the RGB layer."""
    G = _varied("G", "layer", device)
    z = _z(device, dtype=torch.float64)
    seen = []
    for name, module in G.named_modules():
        if name.endswith((".dense", ".conv", "0", "1", "16x16")) or isinstance(module, (LayerNorm, TPReLU)):
            module.register_forward_hook(lambda _, i, o, name=name: seen.append(name))
    G(z, 1)
    order = [
        "dense",
        "after0.norm",
        "after0.activation",
        "after0",
        "conv",
        "after1.norm",
        "after1.activation",
        "after1",
    ]
    first = [f"blocks.4x4.{name}" for name in order]
    assert seen[: len(first)] == first
    assert [name.split(".")[2] for name in seen[len(first) :] if name.count(".") == 2] == [
        "conv0", "after0", "conv1", "after1"
    ]  # fmt: skip


@pytest.mark.parametrize("stage", [2, 3])
@pytest.mark.parametrize("form", ["A", "B"])
def test_attention_stands_after_gs_block_and_before_ds(form, stage, device):
    """16x16: before the RGB layer and the next upscaling in G; after the RGB layer or the previous block in D."""
    G, z = _generator(device, attention=16, attention_form=form).double(), _z(device, dtype=torch.float64)
    D, x = (
        _discriminator(device, attention=16, attention_form=form).double(),
        _images(device, stage, dtype=torch.float64),
    )
    gather_G, gather_D = G.blocks["16x16"].attention, D.blocks["16x16"].attention
    y = _unit(z)
    for s in range(stage + 1):
        block = G.block(s)
        if s == 0:
            y = _unit(_lrelu(block.dense(y)))
            y = _unit(_lrelu(block.conv(y)))
            continue
        y = _unit(_lrelu(block.conv0(upscale2d(y))))
        y = _unit(_lrelu(block.conv1(y)))
        y = gather_G(y) if s == 2 else y
    assert torch.allclose(G(z, stage), G.rgb_layer(stage)(y), rtol=1e-9, atol=1e-11)
    y = _lrelu(D.rgb_layer(stage)(x))
    for s in range(stage, 0, -1):
        y = gather_D(y) if s == 2 else y
        y = _lrelu(D.block(s).conv0(y))
        y = _lrelu(downscale2d(D.block(s).conv1(y)))
    assert torch.allclose(D(x, stage), D.block(0)(y, 4), rtol=1e-9, atol=1e-11)
    below = _generator(device, attention=16).double()
    for net, block in ((G, gather_G), (D, gather_D), (below, below.blocks["16x16"].attention)):
        assert [n for n, m in net.named_modules() if isinstance(m, SelfAttention)] == ["blocks.16x16.attention"]
        assert block is not None


def test_norms_in_d_stand_after_its_convolutions_but_not_after_the_pictures(device):
    for norm, kind in (("batch", BatchNorm), ("layer", LayerNorm)):
        D = _discriminator(device, norm=norm)
        found = {name for name, module in D.named_modules() if isinstance(module, kind)}
        assert found == {f"blocks.{4 << s}x{4 << s}.after{i}.norm" for s in range(4) for i in (0, 1)}
        G = _generator(device, norm=norm)
        assert {name for name, module in G.named_modules() if isinstance(module, kind)} == found


@pytest.mark.parametrize("init", ["he", "normal"])
@pytest.mark.parametrize("net", [Generator, Discriminator])
def test_init_reaches_weights_and_norms(net, init):
    made = net(max_res=16, fmap_base=256, fmap_max=64, weights="plain", norm="batch", init=init)
    gains = torch.cat([m.weight.detach() for m in made.modules() if isinstance(m, BatchNorm)])
    assert math.isclose(gains.std().item(), 0.02 if init == "normal" else 0.0, rel_tol=0.2)
    wanted = 0.02 if init == "normal" else math.sqrt(2 / (64 * 9))
    assert math.isclose(made.block(1).conv0.weight.std().item(), wanted, rel_tol=0.05)


@pytest.mark.parametrize(("pool", "wanted"), [("before", [0, 1, 2, 3]), ("after", [0, 2, 3, 1])])
def test_a_norm_in_d_stays_next_to_its_activation(pool, wanted, device):
    """Conv, mean, norm, activation; or conv, norm, activation, mean."""
    block = _discriminator(device, norm="layer", d_pool=pool).double().blocks["8x8"]
    steps = [block.conv1, downscale2d, block.after1.norm, block.after1.activation]
    x = torch.randn(2, 16, 8, 8, dtype=torch.float64)
    y = block.after0.activation(block.after0.norm(block.conv0(x)))
    for i in wanted:
        y = steps[i](y)
    assert torch.allclose(block(x, 1), y, rtol=1e-10)


def test_batch_norm_leaves_no_biases_before_it_and_strict_weights_only_those_of_the_last_layer(device):
    batch_G, batch_D = _varied("G", "batch", device), _varied("D", "batch", device)
    strict_G, strict_D = _varied("G", "strict", device), _varied("D", "strict", device)

    def biased(net) -> set[str]:
        return {n for n, m in net.named_modules() if isinstance(m, Scaled) and m.bias is not None}

    rgb = {f"rgb.{4 << s}x{4 << s}" for s in range(4)}
    assert biased(batch_G) == biased(strict_G) == rgb
    assert biased(batch_D) == rgb | {"blocks.4x4.dense1"}
    assert biased(strict_D) == {"blocks.4x4.dense1"}
    assert {n for n, m in strict_G.named_modules() if isinstance(m, Scaled) and m.learned_gain is not None} == rgb


@pytest.mark.parametrize("stage", [0, 2])
def test_outputs(stage, device):
    """tanh, and Xiang & Li's picture from 0 to 1 in our units."""
    linear, z = _generator(device).double(), _z(device, dtype=torch.float64)
    for output, function in (("tanh", torch.tanh), ("sigmoid", lambda x: 2 / (1 + torch.exp(-x)) - 1)):
        G = _generator(device, output=output).double()
        G.load_state_dict(linear.state_dict())
        assert torch.allclose(G(z, stage), function(linear(z, stage)), rtol=1e-10, atol=1e-12)
        assert G(100 * z, stage).abs().max() <= 1
        if stage:  # what is faded are pictures, as it is for reals
            old, new = upscale2d(G(z, stage - 1)), G(z, stage)
            assert torch.allclose(G(z, stage, 0.3), 0.7 * old + 0.3 * new, rtol=1e-10, atol=1e-12)


def test_latents_are_normalised_whatever_the_norm(device):
    z = _z(device, dtype=torch.float64)
    for norm in ("pixel", "batch", "layer", "none"):
        G = _generator(device, norm=norm).double()
        assert torch.allclose(G(7 * z), G(z), rtol=1e-5, atol=1e-6), norm
    G, plain = _generator(device).double(), _generator(device, latent_norm=False).double()
    plain.load_state_dict(G.state_dict())
    assert torch.allclose(plain(_unit(z)), G(z), rtol=1e-10)
    assert not torch.allclose(plain(z), G(z), rtol=1e-3)


def test_minibatch_discrimination_stands_before_the_dense_layers(device):
    D = _varied("D", "compare", device)
    last, x = D.blocks["4x4"], torch.randn(6, 16, 4, 4, dtype=torch.float64)
    y = F.leaky_relu(last.conv(minibatch_stddev(x, 3)), 0.2).flatten(1)
    near = closeness((y @ last.compare.projection.effective().T).view(6, 7, 5))
    y = F.leaky_relu(last.dense0(torch.cat([y, near], 1)), 0.2)
    assert torch.allclose(last(x, 3), last.dense1(y)[:, 0], rtol=1e-10)
    assert last.dense0.weight.shape == (16, 16 * 16 + 7)
    images = _images(device, 1, 6, dtype=torch.float64)
    changed = images.clone()
    changed[5] = 0
    assert not torch.isclose(D(images, 1)[0], D(changed, 1)[0], rtol=1e-6)


@DISCRIMINATORS
def test_penalties_can_be_taken_through_every_discriminator(variant, device):
    """A second derivative of the score, against differences."""
    D = _varied("D", variant, device).eval()
    x = _images(device, 3, 2, dtype=torch.float64).requires_grad_()
    assert gradcheck(lambda x: D(x, 3, 0.4), (x,), fast_mode=True)
    assert gradgradcheck(lambda x: D(x, 3, 0.4), (x,), fast_mode=True)
    D.train()
    slope = torch.autograd.grad(D(x).sum(), x, create_graph=True)[0]
    loss = (slope.flatten(1).norm(dim=1) - 1).square().sum() + D(x.detach()).sum()  # two passes, one backward
    loss.backward()
    assert all(torch.isfinite(p.grad).all() for p in D.parameters() if p.grad is not None)
    assert D.rgb_layer(3).stored.grad.abs().max() > 0


@pytest.mark.parametrize("stage", [0, 1, 3])
@pytest.mark.parametrize("net", ["G", "D"])
def test_a_pass_reads_every_spectral_weight_it_needs_once(net, stage, device):
    """In mid-fade too: a read is a step of the power method."""
    made = _varied(net, "spectral attention", device)
    reads: dict[str, int] = {}
    for name, module in made.named_modules():
        if isinstance(module, Spectral):
            module.register_forward_hook(lambda *_, name=name: reads.update({name: reads.get(name, 0) + 1}))
    for ask in (lambda: made.macs(stage), lambda: made.stage_parameters(stage), made.state_dict):
        ask()
    assert reads == {}
    made(
        *([_z(device, dtype=torch.float64)] if net == "G" else [_images(device, stage, dtype=torch.float64)]),
        stage,
        0.3,
    )
    assert set(reads.values()) == {1}
    blocks = 2 * (stage + 1) + (net == "D") + 4 * (stage >= 2)
    assert len(reads) == blocks + (2 if stage else 1)


STANDARD = [
    (Generator, {}),
    (Generator, {"weights": "plain", "init": "normal", "leaky_slope": 0.1, "channels": 1}),
    (Generator, {"norm": "none", "latent_norm": False}),
    (Discriminator, {"weights": "plain", "d_pool": "after", "mbstd_group": 0}),
    (Discriminator, {"norm": "none", "init": "xavier"}),
]
OTHER = [
    (Generator, {"norm": "none"}),
    (Generator, {"latent_norm": False}),
    (Generator, {"norm": "batch", "latent_norm": False}),
    (Generator, {"output": "tanh"}),
    (Discriminator, {"norm": "layer"}),
    (Discriminator, {"norm": "pixel"}),
    (Discriminator, {"minibatch_discrimination": 5}),
] + [
    (net, changes)
    for net in (Generator, Discriminator)
    for changes in (
        {"weights": "spectral"}, {"weights": "weightnorm"}, {"weights": "weightnorm-strict"}, {"activation": "relu"},
        {"activation": "tprelu"}, {"attention": 8},
    )
]  # fmt: skip


@pytest.mark.parametrize(("net", "changes"), STANDARD + OTHER, ids=str)
def test_networks_that_the_fast_paths_know_say_so(net, changes):
    with torch.device("meta"):
        assert net(max_res=8, fmap_max=8, **changes).standard == ((net, changes) in STANDARD)


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
def test_plain_weights_are_drawn_at_their_working_size(net):
    arguments = SMALL | ({"latent_size": 8} if net is Generator else {})
    equal, plain = net(**arguments), net(**arguments, weights="plain")
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


@pytest.mark.parametrize("variant", VARIANTS)
def test_parameters_of_a_stage_are_its_layers_and_all_below(variant, device):
    for net in (_varied("G", variant, device), _varied("D", variant, device)):
        names = {id(p): name for name, p in net.named_parameters()}
        for stage in range(4):
            got = [names[id(p)] for p in net.stage_parameters(stage)]
            below = tuple(
                f"{kind}.{4 << s}x{4 << s}." for s in range(stage + 1) for kind in ("blocks", "rgb", "after_rgb")
            )
            assert sorted(got) == sorted(n for n in names.values() if n.startswith(below))
            assert len(got) == len(set(got)) > 0
        assert len(got) == len(names)


@pytest.mark.parametrize("net", [Generator, Discriminator])
def test_keys_do_not_depend_on_how_far_the_networks_may_grow(net):
    with torch.device("meta"):
        small, large = net(16).state_dict(), net(64).state_dict()
    assert set(small) < set(large)
    assert all(small[key].shape == large[key].shape for key in small)


@pytest.mark.parametrize("changes", [{}, {"weights": "spectral"}, {"weights": "weightnorm-strict"}], ids=str)
@pytest.mark.parametrize("stage", [0, 1, 3])
def test_multiply_accumulates_are_those_of_every_layer_that_ran(stage, changes, device):
    G, D = _generator(device, **changes), _discriminator(device, minibatch_discrimination=3, **changes)
    for net, arguments in ((G, (_z(device, 1),)), (D, (_images(device, stage, 1),))):
        counted = []

        def count(layer, inputs, output, counted=counted):
            pixels = output.shape[-1] ** 2 if layer.weight.ndim == 4 else 1
            counted.append(layer.stored.numel() * pixels)

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


@pytest.mark.parametrize(("net", "variant"), [(net, v) for net in "GD" for v in VARIANTS])
def test_a_reset_sets_all_state_from_the_generator_alone(net, variant, device):
    a, b = _varied(net, variant, device), _varied(net, variant, device)
    with torch.no_grad():
        for tensor in b.state_dict().values():
            tensor.fill_(5)
    state = torch.get_rng_state()
    for made in (a, b):
        made.reset_parameters(torch.Generator(device).manual_seed(3))
    assert torch.equal(state, torch.get_rng_state())
    assert list(a.state_dict()) == list(b.state_dict())
    assert all(torch.equal(p, q) for p, q in zip(a.state_dict().values(), b.state_dict().values()))


def test_keys_of_the_official_networks(device):
    """They are what checkpoints of earlier versions hold."""
    G, D = _generator(device, max_res=8), _discriminator(device, max_res=8)
    of_G = ["blocks.4x4.dense", "blocks.4x4.conv", "blocks.8x8.conv0", "blocks.8x8.conv1", "rgb.4x4", "rgb.8x8"]
    of_D = ["blocks.4x4.conv", "blocks.4x4.dense0", "blocks.4x4.dense1", *of_G[2:]]
    for net, layers in ((G, of_G), (D, of_D)):
        assert list(net.state_dict()) == [f"{layer}.{kind}" for layer in layers for kind in ("weight", "bias")]


def test_what_a_seed_draws_is_as_ever(device):
    """Numbers of the networks before layers had a choice of weights."""
    G, D = Generator(8, latent_size=4, fmap_base=8, fmap_max=4), Discriminator(8, fmap_base=8, fmap_max=4)
    for net in (G, D):
        net.reset_parameters(torch.Generator().manual_seed(5))
    assert [round(w.double().sum().item(), 4) for w in (G.rgb["8x8"].weight, D.rgb["8x8"].weight)] == [0.7225, -3.9141]
    plain = Generator(8, latent_size=4, fmap_base=8, fmap_max=4, weights="plain")
    plain.reset_parameters(torch.Generator().manual_seed(5))
    for one, other in zip(G.modules(), plain.modules()):
        if isinstance(one, Scaled):
            assert torch.allclose(one.weight * one.scale, other.weight, rtol=1e-5, atol=1e-7)


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
        (Generator, {"output": "relu"}, "output is `linear`, `tanh`, `sigmoid`, not `relu`"),
        (Generator, {"norm": "group"}, "norm is `pixel`, `batch`, `layer`, `none`, not `group`"),
        (Discriminator, {"activation": "elu"}, "activation is `lrelu`, `relu`, `tprelu`, not `elu`"),
        (Discriminator, {"weights": "unit"}, "weights is .*, not `unit`"),
        (Generator, {"max_res": 32, "attention": 64}, "between 8 and 32, or 0 for none, not 64"),
        (Discriminator, {"max_res": 32, "attention": 4}, "between 8 and 32, or 0 for none, not 4"),
        (Discriminator, {"max_res": 32, "attention": 12}, "between 8 and 32, or 0 for none, not 12"),
        (Generator, {"max_res": 32, "attention": 16, "attention_form": "C"}, "form of attention is `A`, `B`, not `C`"),
        (Generator, {"max_res": 32, "attention_form": "C"}, "form of attention is `A`, `B`, not `C`"),
    ],
)
def test_what_cannot_be_built_is_refused(net, arguments, message):
    with torch.device("meta"), pytest.raises(ValueError, match=message):
        net(**arguments)


def test_resolutions():
    assert resolutions(4) == [4]
    assert resolutions(64) == [4, 8, 16, 32, 64]
