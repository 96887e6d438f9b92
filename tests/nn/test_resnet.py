"""Residual networks are those of the papers' tables: block by block, number by number."""

from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from progan.nn.layers import Scaled
from progan.nn.norms import BatchNorm
from progan.nn.resnet import DownBlock, FirstBlock, ResnetDiscriminator, ResnetGenerator

G_MAPS = {32: [256] * 4, 64: [1024, 512, 256, 128, 64], 128: [1024, 1024, 512, 256, 128, 64]}
"""G's maps, 4x4 first: after the dense layer, then after each block."""
D_MAPS = {32: [128] * 4, 64: [64, 128, 256, 512, 1024], 128: [64, 128, 256, 512, 1024, 1024]}
D_SIDES = {32: [16, 8, 8, 8], 64: [32, 16, 8, 4, 2], 128: [64, 32, 16, 8, 4, 4]}
"""After each of D's blocks."""
TABLES = pytest.mark.parametrize("max_res", G_MAPS)


def _tables(max_res: int, **changes):
    base = {"max_res": max_res, "fmap_base": 8192 if max_res == 32 else 64 * max_res}
    G = ResnetGenerator(**base, fmap_max=256 if max_res == 32 else 1024)
    return G, ResnetDiscriminator(**base, fmap_max=128 if max_res == 32 else 1024, weights="plain", **changes)


def _count(net) -> int:
    return sum(p.numel() for p in net.parameters())


def _shapes(net, x: Tensor) -> list[tuple[int, ...]]:
    """[maps, side] after each block."""
    shapes: list[tuple[int, ...]] = []
    for block in net.blocks.values():
        block.register_forward_hook(lambda module, inputs, output: shapes.append(tuple(output.shape[1:3])))
    with torch.no_grad():
        net(x)
    return shapes


def _small(build, **options):
    return build(**{"max_res": 32, "fmap_base": 256, "fmap_max": 16, "weights": "plain"} | options)


def _stirred(net):
    with torch.no_grad():
        for key, parameter in net.named_parameters():
            if key.endswith(("bias", "norm.weight")):
                parameter.add_(torch.randn_like(parameter), alpha=0.5)
    return net.double().train()


# --- the tables ---


@TABLES
def test_the_networks_have_the_tables_maps(max_res):
    with torch.no_grad():
        G, D = _tables(max_res)
        assert _shapes(G, torch.randn(1, 128).repeat(2, 1)) == [(m, 4 << i) for i, m in enumerate(G_MAPS[max_res])]
        assert _shapes(D, torch.randn(1, 3, max_res, max_res)) == list(zip(D_MAPS[max_res], D_SIDES[max_res]))


def _conv(c_in: int, c_out: int, kernel: int = 3, bias: bool = True) -> int:
    return c_in * c_out * kernel**2 + c_out * bias


@TABLES
def test_the_counts_of_parameters_are_the_tables(max_res):
    """Of G's layers before a batch norm only the dense one has biases, which are a unit's and not a map's."""
    G, D = _tables(max_res)
    maps = G_MAPS[max_res]
    blocks = sum(
        _conv(a, b, bias=False) + _conv(b, b, bias=False) + _conv(a, b, 1, bias=False) + 2 * a + 2 * b
        for a, b in pairwise(maps)
    )
    assert _count(G) == 129 * 16 * maps[0] + blocks + 2 * maps[-1] + _conv(maps[-1], 3)
    maps, sides = D_MAPS[max_res], [max_res, *D_SIDES[max_res]]
    first = _conv(3, maps[0]) + _conv(maps[0], maps[0]) + _conv(3, maps[0], 1)
    blocks = 0
    for i, (a, b) in enumerate(pairwise(maps), 1):
        blocks += _conv(a, a) + _conv(a, b) + (_conv(a, b, 1) if a != b or sides[i] != sides[i + 1] else 0)
    assert _count(D) == first + blocks + maps[-1] + 1
    if max_res == 32:
        swallowed = 3 * 3 * 256  # biases that the authors' G has: 4,276,739 with them
        assert (_count(G), _count(D)) == (4_276_739 - swallowed, 1_053_825)


def test_wide_blocks_have_their_outputs_maps_inside():
    """SAGAN's D, where SN-GAN's has those of the input."""
    for wide in (False, True):
        D = _small(ResnetDiscriminator, max_res=64, d_wide=wide, fmap_max=64)
        hidden = [block.conv0.weight.shape[0] for block in D.blocks.values()]
        assert hidden == ([4, 8, 16, 32, 64] if wide else [4, 4, 8, 16, 32])
        assert [block.conv1.weight.shape[0] for block in D.blocks.values()] == [4, 8, 16, 32, 64]
        D(torch.randn(1, 3, 64, 64))


def test_attention_is_where_sagan_has_it():
    """At 128: over 256 maps of 32x32 in G, over 128 in D."""
    with torch.device("meta"):
        G = ResnetGenerator(128, fmap_base=8192, attention=32)
        D = ResnetDiscriminator(128, fmap_base=8192, attention=32, d_wide=True, weights="plain")
    assert G.blocks["32x32"].attention.queries.weight.shape == (32, 256, 1, 1)
    assert D.blocks["32x32"].attention.queries.weight.shape == (16, 128, 1, 1)


def test_attention_ends_the_generators_block_and_begins_the_discriminators():
    G, D = _stirred(_small(ResnetGenerator, attention=16)), _stirred(_small(ResnetDiscriminator, attention=16))
    for net, before in ((G, False), (D, True)):
        block = net.blocks["16x16"]
        nn.init.ones_(block.attention.gamma)
        attention, block.attention = block.attention, None
        x = torch.randn(2, *(_shape_in(block)), dtype=torch.float64)
        wanted = block(attention(x)) if before else attention(block(x))
        block.attention = attention
        torch.testing.assert_close(block(x), wanted)


def _shape_in(block) -> tuple[int, int, int]:
    side = block.side if isinstance(block, DownBlock) else block.side // 2
    return block.conv0.weight.shape[1], side, side


# --- the same, written out ---


def _batch_norm(x: Tensor, norm: nn.Module) -> Tensor:
    mean, variance = x.mean((0, 2, 3), keepdim=True), x.var((0, 2, 3), unbiased=False, keepdim=True)
    return (x - mean) / (variance + 1e-5).sqrt() * norm.weight[:, None, None] + norm.bias[:, None, None]


def _same(x: Tensor, layer) -> Tensor:
    return F.conv2d(x, layer.weight, layer.bias, padding=layer.weight.shape[-1] // 2)


def _twice(x: Tensor) -> Tensor:
    return x.repeat_interleave(2, 2).repeat_interleave(2, 3)


def test_the_generator_written_out():
    """The shortcut's 1x1 convolution after the upscaling, as in the paper."""
    G = _stirred(_small(ResnetGenerator, latent_size=5))
    z = torch.randn(6, 5, dtype=torch.float64)
    dense, *blocks = G.blocks.values()
    x = (z @ dense.dense.weight.T + dense.dense.bias).view(6, -1, 4, 4)
    for block in blocks:
        y = _same(_twice(F.relu(_batch_norm(x, block.activation0.norm))), block.conv0)
        y = _same(F.relu(_batch_norm(y, block.activation1.norm)), block.conv1)
        x = y + _same(_twice(x), block.shortcut)
    wanted = torch.tanh(_same(F.relu(_batch_norm(x, G.activation.norm)), G.rgb))
    torch.testing.assert_close(G(z), wanted, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("max_res", [16, 32, 64])
def test_the_discriminator_written_out(max_res):
    """The shortcut's mean after its 1x1 convolution, but in the first block; the sum over pixels."""
    D = _stirred(_small(ResnetDiscriminator, max_res=max_res, fmap_base=512))
    images = torch.randn(2, 3, max_res, max_res, dtype=torch.float64)
    first, *blocks = D.blocks.values()
    y = F.avg_pool2d(_same(F.relu(_same(images, first.conv0)), first.conv1), 2)
    x = y + _same(F.avg_pool2d(images, 2), first.shortcut)
    last = {16: 4, 32: 8, 64: 2}[max_res]
    for block in blocks:
        y, halve = _same(F.relu(_same(F.relu(x), block.conv0)), block.conv1), x.shape[2] > last
        shortcut = x if block.shortcut is None else _same(x, block.shortcut)
        x = F.avg_pool2d(y + shortcut, 2) if halve else y + shortcut
    assert x.shape[2] == last
    wanted = F.relu(x).sum((2, 3)) @ D.head.dense.weight[0] + D.head.dense.bias
    torch.testing.assert_close(D(images), wanted, rtol=1e-10, atol=1e-12)


def test_no_activation_alters_its_input():
    """An in-place one before a shortcut would take the shortcut's negative half away."""
    G, D = _small(ResnetGenerator).double(), _small(ResnetDiscriminator).double()
    for block in [*G.blocks.values(), *D.blocks.values()][1:]:
        x = torch.randn(2, block.conv0.weight.shape[1], 8, 8, dtype=torch.float64)
        before = x.clone()
        block(x)
        assert torch.equal(x, before)
        assert (x < 0).any()


# --- pools ---


@pytest.mark.parametrize(("max_res", "pixels"), [(16, 16), (32, 64), (64, 4)])
def test_the_sum_is_the_mean_times_the_pixels(max_res, pixels):
    total, mean = (_small(ResnetDiscriminator, max_res=max_res, global_pool=p).double() for p in ("sum", "mean"))
    mean.load_state_dict(total.state_dict())
    for D in (total, mean):
        nn.init.constant_(D.head.dense.bias, 0.5)
    x = torch.randn(3, 3, max_res, max_res, dtype=torch.float64)
    torch.testing.assert_close(total(x) - 0.5, pixels * (mean(x) - 0.5))
    assert total(x).std() > 1e-6


# --- norms and beginnings ---


def test_where_batch_norms_are():
    """In G before both convolutions of each block and before the picture; in D not around its ends."""
    G, D = _small(ResnetGenerator), _small(ResnetDiscriminator, norm="batch")
    names = [name for name, module in G.named_modules() if isinstance(module, BatchNorm)]
    halves = [f"blocks.{s}x{s}.activation{i}.norm" for s in (8, 16, 32) for i in (0, 1)]
    assert names == [*halves, "activation.norm"]
    names = [name for name, module in D.named_modules() if isinstance(module, BatchNorm)]
    assert names == [f"blocks.{s}x{s}.activation{i}.norm" for s in (16, 8, 4) for i in (0, 1)]


def test_which_layers_have_biases():
    G, D = _small(ResnetGenerator), _small(ResnetDiscriminator, norm="batch")
    with_bias = {
        name for net in (G, D) for name, m in net.named_modules() if isinstance(m, Scaled) and m.bias is not None
    }
    first = {f"blocks.32x32.{layer}" for layer in ("conv0", "conv1", "shortcut")}
    others = {f"blocks.{s}x{s}.conv1" for s in (16, 8, 4)} | {"blocks.16x16.shortcut"}
    assert with_bias == {"blocks.4x4.dense", "rgb", "head.dense"} | first | others
    layers = [m for m in _small(ResnetGenerator, norm="none").modules() if isinstance(m, Scaled)]
    assert all(layer.bias is not None for layer in layers)


@pytest.mark.parametrize("init", ["xavier", "he"])
def test_residual_convolutions_begin_sqrt_2_larger(init):
    """Glorot's variance is 2 / (inputs' + outputs' weights), He's 1 / inputs, times the gain's square."""
    for net in (_small(ResnetGenerator, fmap_max=64, init=init), _small(ResnetDiscriminator, fmap_max=64, init=init)):
        for name, layer in [(name, m) for name, m in net.named_modules() if isinstance(m, Scaled)]:
            out = layer.count // layer.taps * layer.stored[0, 0].numel()
            variance = (2 / (layer.taps + out) if init == "xavier" else 1 / layer.taps) * (2 if "conv" in name else 1)
            std = layer.stored.std().item()
            assert std == pytest.approx(variance**0.5, rel=max(0.02, 4 / layer.count**0.5)), name


def test_the_first_block_takes_pictures_as_they_are():
    """It begins with a convolution: an activation would take what is darker than grey away."""
    D = _small(ResnetDiscriminator).double()
    block = D.blocks["32x32"]
    assert isinstance(block, FirstBlock)
    x = torch.rand(2, 3, 32, 32, dtype=torch.float64)
    assert not torch.allclose(block(-x), block(torch.zeros_like(x)))
