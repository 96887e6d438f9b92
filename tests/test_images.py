"""Laws of pictures as numbers: pixels survive the trip, the rest saturates, real images lose what G cannot show yet."""

import pytest
import torch

from progan.images import dequantise, enlarge, fade_reals, grid, mirror, to_images, to_pixels

ALL = torch.arange(256, dtype=torch.uint8).reshape(1, 1, 16, 16)


def test_every_pixel_survives_the_trip_to_an_image_and_back():
    assert torch.equal(to_pixels(to_images(ALL)), ALL)
    assert to_pixels(to_images(ALL)).dtype == torch.uint8


def test_images_span_minus_one_to_one():
    images = to_images(ALL)
    assert images.dtype == torch.float32
    assert images.min() == -1
    assert images.max() == 1
    assert torch.allclose(images.flatten().diff(), torch.full((255,), 2 / 255), atol=1e-6, rtol=0)


@pytest.mark.parametrize(
    ("value", "pixel"), [(-1, 0), (1, 255), (0.003, 128), (-0.003, 127), (-7, 0), (7, 255), (1.003, 255), (-1.003, 0)]
)
def test_pixels_are_rounded_and_saturate(value, pixel):
    assert to_pixels(torch.tensor([value], dtype=torch.float64)).tolist() == [pixel]
    assert to_pixels(torch.tensor([value], dtype=torch.float32)).tolist() == [pixel]


def test_dequantised_pixels_lie_within_half_a_grey_level_of_their_image():
    for noise, shift in [(0.0, -0.5), (0.5, 0.0), (1 - 2**-24, 0.5)]:
        image = dequantise(ALL, torch.full(ALL.shape, noise))
        assert image.dtype == torch.float32
        torch.testing.assert_close(image, to_images(ALL) + shift / 127.5, rtol=0, atol=1e-6)


def test_dequantised_pixels_keep_their_mean_and_fill_their_grey_level():
    pixels = torch.full((1, 1, 400, 400), 77, dtype=torch.uint8)
    image = dequantise(pixels, torch.rand(pixels.shape))
    assert abs((image + 1).mean() * 127.5 - 77) < 0.005  # standard error 0.0007
    counts = torch.histc((image + 1) * 127.5, 10, 76.5, 77.5)
    assert counts.sum() == pixels.numel()
    assert counts.min() > 15_000
    assert counts.max() < 17_000


def test_dequantised_pixels_are_rounded_to_themselves():
    assert torch.equal(to_pixels(dequantise(ALL, torch.rand(ALL.shape) * 0.998 + 0.001)), ALL)


def test_a_mirror_turns_left_and_right_of_the_chosen_pictures_only():
    images = torch.arange(2 * 3 * 2 * 4.0).reshape(2, 3, 2, 4)
    turned = mirror(images, torch.tensor([False, True]))
    assert torch.equal(turned[0], images[0])
    assert turned[1, 0].tolist() == [[27, 26, 25, 24], [31, 30, 29, 28]]
    assert torch.equal(mirror(turned, torch.tensor([False, True])), images)


@pytest.mark.parametrize("kind", [float, torch.tensor])
def test_real_images_fade_from_the_old_sharpness_to_the_new(kind, device):
    images = torch.tensor([[[[1.0, 3.0], [5.0, 7.0]]]], device=device)
    assert fade_reals(images, kind(0.0)).flatten().tolist() == [4, 4, 4, 4]
    assert fade_reals(images, kind(0.5)).flatten().tolist() == [2.5, 3.5, 4.5, 5.5]
    assert fade_reals(images, kind(0.25)).flatten().tolist() == [3.25, 3.75, 4.25, 4.75]
    assert fade_reals(images, kind(1.0)).flatten().tolist() == [1, 3, 5, 7]


def test_stable_real_images_are_left_alone():
    images = torch.randn(2, 3, 8, 8)
    assert fade_reals(images, 1.0) is images
    assert fade_reals(images, 1) is images


def test_a_grid_is_filled_row_by_row():
    pixels = torch.arange(6, dtype=torch.uint8)[:, None, None, None].expand(6, 3, 2, 1).clone()
    pixels[:, 1] += 10
    got = grid(pixels, 3)
    assert got.shape == (3, 4, 3)
    assert got[0].tolist() == [[0, 1, 2], [0, 1, 2], [3, 4, 5], [3, 4, 5]]
    assert got[1].tolist() == [[10, 11, 12], [10, 11, 12], [13, 14, 15], [13, 14, 15]]


def test_a_grid_keeps_each_picture_upright():
    pixels = torch.randint(0, 256, (4, 3, 5, 7), dtype=torch.uint8)
    got = grid(pixels, 2)
    for n in range(4):
        row, column = divmod(n, 2)
        assert torch.equal(got[:, row * 5 : row * 5 + 5, column * 7 : column * 7 + 7], pixels[n])


def test_a_grid_that_does_not_come_out_even_is_refused():
    with pytest.raises(ValueError, match="5 pictures do not fill rows of 3"):
        grid(torch.zeros(5, 1, 2, 2, dtype=torch.uint8), 3)


def test_enlarging_repeats_every_pixel():
    assert enlarge(torch.tensor([[[1, 2]]]), 2).tolist() == [[[1, 1, 2, 2], [1, 1, 2, 2]]]
    assert enlarge(torch.tensor([[[1], [2]]]), 3)[0, :, 0].tolist() == [1, 1, 1, 2, 2, 2]
