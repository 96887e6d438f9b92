"""Laws of rendering a walk: one frame an index, cells in reading order, bounded passes, lazily."""

import numpy as np
import pytest
import torch

from progan.images import to_pixels
from progan.latents import WalkPlan, make_walk
from progan.nn.progressive import Generator
from progan.render import walk as walk_module
from progan.render.walk import pictures_a_pass, walk_frames


def _walk(frames=7, cells=1, latent_size=8):
    return make_walk("slerp", WalkPlan(range(6), latent_size, frames, cells))


class Flat:
    """A generator of flat pictures: channel c of a picture is z[c]. Remembers what it was asked."""

    def __init__(self, channels=3):
        self.channels, self.calls = channels, []

    def __call__(self, z, stage, alpha, psi):
        self.calls.append((len(z), stage, alpha, psi, torch.is_inference_mode_enabled()))
        return z[:, : self.channels, None, None].expand(-1, -1, 4 << stage, 4 << stage).clamp(-1, 1)


def test_frames_are_the_walk_cell_by_cell():
    walk = _walk(frames=7, cells=6)
    frames = list(walk_frames(Flat(), walk, stage=0, columns=3))
    assert len(frames) == 7
    expected = to_pixels(walk.at(range(7))[..., :3].clamp(-1, 1)).numpy()  # [7, 6, 3]
    for k, frame in enumerate(frames):
        assert frame.shape == (8, 12, 3)
        assert frame.dtype == np.uint8
        for cell in range(6):
            row, column = divmod(cell, 3)
            block = frame[4 * row : 4 * row + 4, 4 * column : 4 * column + 4]
            assert (block == expected[k, cell]).all()
    assert not (frames[0] == frames[3]).all()


@pytest.mark.parametrize(("channels", "shape"), [(1, (24, 36)), (3, (24, 36, 3))])
def test_scale_repeats_pixels_and_grey_is_flat(channels, shape):
    plain, large = (
        list(walk_frames(Flat(channels), _walk(cells=6), stage=0, columns=3, scale=scale)) for scale in (1, 3)
    )
    assert large[2].shape == shape
    assert np.array_equal(large[2][::3, ::3], plain[2])
    assert np.array_equal(large[2][1::3, 2::3], plain[2])


def test_arguments_reach_the_generator_in_inference_mode():
    G = Flat()
    frames = walk_frames(G, _walk(), stage=1, alpha=0.25, psi=0.7)
    next(frames)
    assert not torch.is_inference_mode_enabled()  # it does not leak out between two frames
    list(frames)
    assert {call[1:] for call in G.calls} == {(1, 0.25, 0.7, True)}


@pytest.mark.parametrize(("cells", "batch", "sizes"), [(1, 3, [3, 3, 1]), (2, 5, [4, 4, 4, 2]), (6, 4, [4, 2] * 7)])
def test_no_pass_is_larger_than_the_batch(cells, batch, sizes):
    G = Flat()
    frames = list(walk_frames(G, _walk(cells=cells), stage=0, batch=batch))
    assert [call[0] for call in G.calls] == sizes
    assert all(np.array_equal(a, b) for a, b in zip(frames, walk_frames(Flat(), _walk(cells=cells), stage=0)))


def test_passes_are_bounded_in_pictures_and_pixels():
    assert [pictures_a_pass(r) for r in (4, 128, 256, 512, 1024)] == [64, 64, 16, 4, 1]
    G = Flat()
    list(walk_frames(G, _walk(frames=150), stage=0))
    assert [call[0] for call in G.calls] == [64, 64, 22]


def test_frames_are_made_when_they_are_asked_for():
    G = Flat()
    frames = walk_frames(G, _walk(frames=1_000_000), stage=0)
    for _ in range(65):
        next(frames)
    assert len(G.calls) == 2


def test_a_progressive_generator_walks_at_every_stage_and_alpha():
    G = Generator(max_res=16, latent_size=8, fmap_max=4).eval()
    G.reset_parameters(torch.Generator().manual_seed(0))
    walk = _walk(frames=6)
    for stage in range(3):
        frames = list(walk_frames(G, walk, stage=stage))
        direct = to_pixels(G(walk.at([4])[0], stage)[0]).permute(1, 2, 0).numpy()
        assert frames[4].shape == (4 << stage, 4 << stage, 3)
        assert np.abs(frames[4].astype(int) - direct).max() <= 1  # another batch may round otherwise
    faded = next(walk_frames(G, walk, stage=2, alpha=0.0))
    assert np.array_equal(faded[::2, ::2], next(walk_frames(G, walk, stage=1)))
    average = list(walk_frames(G, walk, stage=2, psi=0.0))
    assert all(np.array_equal(average[0], frame) for frame in average)
    assert walk_module.MAX_PIXELS == 1024**2
