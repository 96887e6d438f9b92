"""Strided networks are those of the papers' tables: layer by layer, number by number."""

from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from progan.nn.dcgan import DcganDiscriminator, DcganGenerator
from progan.nn.layers import Conv2d, ConvTranspose2d, LatentTo4x4, Linear, Scaled
from progan.nn.norms import Activation, BatchNorm, TPReLU

WIDTHS = {32: [64, 128, 256], 64: [64, 128, 256, 512], 128: [64, 128, 256, 512, 1024]}
"""Maps of the strided convolutions by resolution, D's from picture to score, G's in reverse (DCGAN)."""
TABLES = pytest.mark.parametrize("max_res", WIDTHS)
SN = {"layout": "sndcgan", "fmap_max": 512, "init": "normal"}


def _count(net) -> int:
    return sum(p.numel() for p in net.parameters())


def _shapes(net, x: Tensor) -> list[tuple[int, ...]]:
    """[maps, side] after each norm and activation."""
    shapes: list[tuple[int, ...]] = []
    for module in net.modules():
        if isinstance(module, Activation):
            module.register_forward_hook(lambda module, inputs, output: shapes.append(tuple(output.shape[1:3])))
    with torch.no_grad():
        net(x)
    return shapes


def _stirred(net):
    with torch.no_grad():
        for key, parameter in net.named_parameters():
            if key.endswith(("bias", "norm.weight")):
                parameter.add_(torch.randn_like(parameter), alpha=0.5)
    return net.double().train()


# --- DCGAN, table by table ---


@TABLES
def test_the_generator_has_the_tables_maps(max_res):
    shapes = _shapes(DcganGenerator(max_res, fmap_base=32 * max_res), torch.randn(2, 100))
    assert shapes == [(maps, 4 << i) for i, maps in enumerate(WIDTHS[max_res][::-1])]


@TABLES
def test_the_discriminator_mirrors_it(max_res):
    shapes = _shapes(DcganDiscriminator(max_res, fmap_base=32 * max_res), torch.randn(2, 3, max_res, max_res))
    assert shapes == [(maps, max_res // 2 >> i) for i, maps in enumerate(WIDTHS[max_res])]


@TABLES
def test_the_counts_of_parameters_are_the_tables(max_res):
    """4x4 kernels without any bias, and two numbers a map for each batch norm: not in D's first layer."""
    widths = WIDTHS[max_res]
    between = sum(16 * a * b for a, b in pairwise(widths))
    G, D = DcganGenerator(max_res, fmap_base=32 * max_res), DcganDiscriminator(max_res, fmap_base=32 * max_res)
    assert _count(G) == 100 * 16 * widths[-1] + between + 16 * 64 * 3 + 2 * sum(widths)
    assert _count(D) == 16 * 3 * 64 + between + 16 * widths[-1] + 2 * sum(widths[1:])
    if max_res == 64:
        assert (_count(G), _count(D)) == (3_576_704, 2_765_568)


def test_the_defaults_are_the_dcgan_of_64():
    G, D = DcganGenerator(), DcganDiscriminator()
    assert _count(G) == 3_576_704
    assert _count(D) == 2_765_568
    weights = torch.cat([m.weight.flatten() for m in [*G.modules(), *D.modules()] if isinstance(m, Scaled)])
    assert weights.std().item() == pytest.approx(0.02, rel=1e-2)
    gains = torch.cat([m.weight for m in [*G.modules(), *D.modules()] if isinstance(m, BatchNorm)])
    assert gains.mean().item() == pytest.approx(1, abs=3e-3)
    assert gains.std().item() == pytest.approx(0.02, rel=0.1)


def _small(build, **options):
    return build(16, fmap_base=128, fmap_max=16, **options)


def test_the_generator_is_torchs_transposed_convolutions():
    G = _stirred(_small(DcganGenerator, latent_size=5))
    first, second = (G.blocks[side].layers[0] for side in ("4x4", "8x8"))
    z = torch.randn(6, 5, dtype=torch.float64)
    kernel = first.conv.weight.view(16, 4, 4, 5).permute(3, 0, 1, 2)  # the dense layer, as a 4x4 one on 1x1 pixels
    x = F.conv_transpose2d(z[:, :, None, None], kernel)
    x = F.relu(_batch_norm(x, first.activation.norm))
    x = F.conv_transpose2d(x, second.conv.weight, stride=2, padding=1)
    x = F.relu(_batch_norm(x, second.activation.norm))
    wanted = torch.tanh(F.conv_transpose2d(x, G.rgb.weight, stride=2, padding=1))
    torch.testing.assert_close(G(z), wanted, rtol=1e-12, atol=1e-14)


def test_the_discriminator_is_torchs_convolutions():
    D = _stirred(_small(DcganDiscriminator))
    first, second = (D.blocks[side].layers[0] for side in ("8x8", "4x4"))
    images = torch.randn(6, 3, 16, 16, dtype=torch.float64)
    x = F.leaky_relu(F.conv2d(images, first.conv.weight, stride=2, padding=1), 0.2)
    x = F.conv2d(x, second.conv.weight, stride=2, padding=1)
    x = F.leaky_relu(_batch_norm(x, second.activation.norm), 0.2)
    wanted = F.conv2d(x, D.head.dense.weight.view(1, -1, 4, 4))  # to one pixel
    torch.testing.assert_close(D(images), wanted[:, 0, 0, 0], rtol=1e-12, atol=1e-14)


def _batch_norm(x: Tensor, norm: nn.Module) -> Tensor:
    mean, variance = x.mean((0, 2, 3), keepdim=True), x.var((0, 2, 3), unbiased=False, keepdim=True)
    return (x - mean) / (variance + 1e-5).sqrt() * norm.weight[:, None, None] + norm.bias[:, None, None]


# --- where norms and biases are ---


def _layers(net) -> dict[str, Scaled]:
    return {name: module for name, module in net.named_modules() if isinstance(module, Scaled)}


@pytest.mark.parametrize("layout", ["dcgan", "sndcgan"])
def test_batch_norm_is_after_every_layer_but_the_outermost(layout):
    G, D = (_small(build, layout=layout, norm="batch") for build in (DcganGenerator, DcganDiscriminator))
    normed = {name.removesuffix(".activation.norm") for name, m in G.named_modules() if isinstance(m, BatchNorm)}
    assert normed == {name.removesuffix(".conv").removesuffix(".conv.dense") for name in _layers(G)} - {"rgb"}
    normed = {name.removesuffix(".activation.norm") for name, m in D.named_modules() if isinstance(m, BatchNorm)}
    first = f"blocks.{'8x8' if layout == 'dcgan' else '16x16'}.layers.0"
    assert normed == {name.removesuffix(".conv") for name in _layers(D)} - {"head.dense", first}
    for name, layer in {**_layers(G), **_layers(D)}.items():
        assert (layer.bias is not None) == (layout == "sndcgan" and name in ("rgb", "head.dense", f"{first}.conv"))


@pytest.mark.parametrize("norm", ["none", "layer"])
@pytest.mark.parametrize("layout", ["dcgan", "sndcgan"])
def test_without_batch_norm_every_layer_has_a_bias(layout, norm):
    for build in (DcganGenerator, DcganDiscriminator):
        assert all(layer.bias is not None for layer in _layers(_small(build, layout=layout, norm=norm)).values())


def test_pixel_norm_comes_after_the_activation():
    G = _small(DcganGenerator, norm="pixel", activation="lrelu", output="linear", latent_size=5, weights="equalized")
    seen = []
    G.rgb.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    G(torch.randn(3, 5))
    torch.testing.assert_close(seen[0].square().mean(1), torch.ones(3, 8, 8), rtol=1e-4, atol=0)


# --- SN-DCGAN, table 3 ---


def test_the_generator_of_sndcgan_has_table_3s_counts():
    G = DcganGenerator(32, latent_size=128, fmap_base=2048, norm="batch", **SN)
    assert _shapes(G, torch.randn(2, 128)) == [(512, 4), (256, 8), (128, 16), (64, 32)]
    convs = 16 * (512 * 256 + 256 * 128 + 128 * 64)
    assert _count(G) == 128 * 8192 + convs + 9 * 64 * 3 + 3 + 2 * (512 + 256 + 128 + 64) == 3_804_739


def test_the_discriminator_of_sndcgan_has_table_3s_counts():
    D = DcganDiscriminator(32, fmap_base=2048, norm="none", weights="spectral", **SN)
    shapes = _shapes(D, torch.randn(2, 3, 32, 32))
    assert shapes == [(64, 32), (64, 16), (128, 16), (128, 8), (256, 8), (256, 4), (512, 4)]
    same = 9 * (3 * 64 + 64 * 128 + 128 * 256 + 256 * 512) + 64 + 128 + 256 + 512
    strided = 16 * (64**2 + 128**2 + 256**2) + 64 + 128 + 256
    assert _count(D) == same + strided + 4 * 4 * 512 + 1 == 2_935_873


@pytest.mark.parametrize(("max_res", "first"), [(16, 2), (32, 4), (64, 8), (128, 16)])
def test_sndcgan_begins_at_an_eighth_of_its_resolution(max_res, first):
    """As in the papers that use it at 32 (4x4) and 128 (16x16)."""
    options = {"layout": "sndcgan", "fmap_base": 2 * max_res}
    G, D = DcganGenerator(max_res, latent_size=4, **options), DcganDiscriminator(max_res, **options)
    sides = [f"{first << i}x{first << i}" for i in range(4)]
    assert list(G.blocks) == sides
    assert list(D.blocks) == sides[::-1]
    assert G(torch.randn(2, 4)).shape == (2, 3, max_res, max_res)
    assert D(torch.randn(2, 3, max_res, max_res)).shape == (2,)


def test_the_discriminator_of_sndcgan_is_torchs_convolutions():
    D = _stirred(_small(DcganDiscriminator, layout="sndcgan", norm="none", init="he", leaky_slope=0.1))
    x = images = torch.randn(3, 3, 16, 16, dtype=torch.float64)
    for name, strides in {"16x16": [1], "8x8": [2, 1], "4x4": [2, 1], "2x2": [2, 1]}.items():
        for layer, stride in zip(D.blocks[name].layers, strides):
            assert layer.conv.weight.shape[2:] == ((4, 4) if stride == 2 else (3, 3))
            x = F.leaky_relu(F.conv2d(x, layer.conv.weight, layer.conv.bias, stride, padding=1), 0.1)
    torch.testing.assert_close(D(images), (x.flatten(1) @ D.head.dense.weight.T + D.head.dense.bias)[:, 0])


def test_the_generator_of_sndcgan_is_torchs_convolutions():
    G = _stirred(_small(DcganGenerator, layout="sndcgan", latent_size=5, init="he"))
    z = torch.randn(6, 5, dtype=torch.float64)
    for i, block in enumerate(G.blocks.values()):
        layer = block.layers[0]
        if i == 0:
            x = (z @ layer.conv.dense.weight.T).view(6, -1, 2, 2)
        else:
            x = F.conv_transpose2d(x, layer.conv.weight, stride=2, padding=1)
        x = F.relu(_batch_norm(x, layer.activation.norm))
    wanted = torch.tanh(F.conv2d(x, G.rgb.weight, G.rgb.bias, padding=1))
    torch.testing.assert_close(G(z), wanted, rtol=1e-12, atol=1e-14)


# --- WN-GAN ---


def test_wn_gan_is_the_papers_layout():
    """A dense layer, transposed convolutions; only the last layers affine; thresholds instead of biases."""
    options = {"weights": "weightnorm-strict", "init": "uniform", "norm": "none", "activation": "tprelu"}
    G, D = (
        DcganGenerator(32, fmap_base=1024, output="sigmoid", **options),
        DcganDiscriminator(32, fmap_base=1024, **options),
    )
    assert [type(m).__name__.removeprefix("Parametrized") for m in _layers(G).values()] == (
        [LatentTo4x4.__name__] + [ConvTranspose2d.__name__] * 3
    )
    assert [type(m).__name__.removeprefix("Parametrized") for m in _layers(D).values()] == (
        [Conv2d.__name__] * 3 + [Linear.__name__]
    )
    between = 16 * (64 * 128 + 128 * 256)
    thresholds = 2 * (64 + 128 + 256)
    assert _count(G) == 100 * 16 * 256 + between + 16 * 64 * 3 + thresholds + 2 * 3
    assert _count(D) == 16 * 3 * 64 + between + 16 * 256 + thresholds + 2
    assert sum(isinstance(m, TPReLU) for m in [*G.modules(), *D.modules()]) == 6


def test_strict_layers_hold_the_size_of_signals():
    """Unit inputs give unit outputs in every layer, whatever the weights' own size."""
    options = {"weights": "weightnorm-strict", "init": "uniform", "norm": "none"}
    G, D = DcganGenerator(64, fmap_base=2048, fmap_max=64, **options), DcganDiscriminator(64, fmap_max=64, **options)
    for layer in [*_layers(G).values(), *_layers(D).values()]:
        shape = (512, layer.taps) if layer.stored.ndim == 2 else (16, layer.stored.shape[1 - layer.dim], 16, 16)
        with torch.no_grad():
            y = layer(torch.randn(shape))
        y = y if y.ndim == 2 or y.shape[-1] == 4 else y[..., 1:-1, 1:-1]  # borders meet zeros
        assert y.std().item() == pytest.approx(1, abs=0.05)


@pytest.mark.parametrize(("output", "expected"), [("tanh", 1.0), ("sigmoid", 1.0), ("linear", None)])
def test_outputs_are_bounded_by_minus_1_and_1_unless_linear(output, expected):
    G = _small(DcganGenerator, output=output, latent_size=5)
    with torch.no_grad():
        G.rgb.weight.mul_(1e4)
        images = G(torch.randn(64, 5))
    if expected is None:
        assert images.abs().max() > 10
    else:
        assert images.min() == -expected
        assert images.max() == expected


def test_a_sigmoid_picture_of_0_to_1_is_stretched():
    G, plain = (_small(DcganGenerator, output=output, latent_size=5).eval() for output in ("sigmoid", "linear"))
    plain.load_state_dict(G.state_dict())
    z = torch.randn(4, 5)
    torch.testing.assert_close(G(z), 2 / (1 + torch.exp(-plain(z))) - 1)


# --- widths ---


def test_widths_follow_base_and_maximum():
    """SAGAN's strided variant at 128: 512 maps at 4x4 to 32 at 64x64."""
    G = DcganGenerator(128, fmap_base=2048, fmap_max=512, attention=32)
    assert [block.layers[0].activation.norm.num_features for block in G.blocks.values()] == [512, 256, 128, 64, 32]
    assert G.blocks["32x32"].attention.keys.weight.shape == (8, 64, 1, 1)
    D = DcganDiscriminator(128, fmap_base=2048, fmap_max=100, norm="none")
    assert [block.layers[0].conv.weight.shape[0] for block in D.blocks.values()] == [32, 64, 100, 100, 100]
