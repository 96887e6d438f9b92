"""Laws of showing a search: targets to the left, what was found to the right, a picture a row, from start to end."""

import numpy as np
import pytest
import torch

from progan.images import to_pixels
from progan.render import projection as module
from progan.render.animation import write_animation
from progan.render.projection import Trail, search_frames, shown_steps, side_by_side


def _pixels(count, channels=3, resolution=4, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (count, channels, resolution, resolution), generator=generator).to(torch.uint8)


class Flat:
    """A generator of flat pictures: channel c of a picture is z[c]. Remembers what it was asked."""

    def __init__(self, channels=3):
        self.channels, self.calls = channels, []

    def __call__(self, z):
        self.calls.append((len(z), torch.is_inference_mode_enabled()))
        return z[:, : self.channels, None, None].expand(-1, -1, 4, 4).clamp(-1, 1)


def test_rows_are_a_target_and_what_was_found():
    targets, found = _pixels(3), _pixels(3, seed=1)
    sheet = side_by_side(targets, found)
    assert sheet.shape == (3, 12, 8)
    for n in range(3):
        assert torch.equal(sheet[:, 4 * n : 4 * n + 4, :4], targets[n])
        assert torch.equal(sheet[:, 4 * n : 4 * n + 4, 4:], found[n])


@pytest.mark.parametrize("steps", [1, 2, 50, 99, 100, 500, 1999])
@pytest.mark.parametrize("most", [2, 7, 100])
def test_shown_steps_are_even_and_hold_both_ends(steps, most):
    shown = shown_steps(steps, most)
    assert (shown[0], shown[-1]) == (0, steps)
    assert len(shown) == min(steps + 1, most) == len(set(shown))
    strides = np.diff(shown)
    assert strides.min() >= 1
    assert strides.max() - strides.min() <= 1


def test_no_step_is_one_frame():
    assert shown_steps(0) == [0]


def test_a_trail_keeps_the_shown_steps_of_each_start():
    trail = Trail([0, 2, 5])
    for restart in range(2):
        for step in range(6):
            trail(restart, step, torch.full((1, 4), 10.0 * restart + step), torch.zeros(1))
    assert trail.of(0)[:, 0].tolist() == [0, 2, 5]
    assert trail.of(1)[:, 3].tolist() == [10, 12, 15]
    assert trail.of(1).shape == (3, 4)


@pytest.mark.parametrize("channels", [1, 3])
def test_frames_go_along_the_ways_and_stay_on_what_was_found(channels):
    G, targets, found = Flat(channels), _pixels(2, channels), _pixels(2, channels, seed=1)
    ways = torch.linspace(-1, 1, 5 * 2 * 3).reshape(5, 2, 3)
    frames = list(search_frames(G, targets, ways, found, scale=3, hold=4))
    assert len(frames) == 5 + 4
    assert {frame.shape for frame in frames} == {(24, 24) if channels == 1 else (24, 24, 3)}
    rows = [frame.reshape(24, 24, channels) for frame in frames]
    for n in range(2):
        top = slice(12 * n, 12 * n + 12)
        target = targets[n].permute(1, 2, 0).numpy()
        assert all((row[top, :12][1::3, 2::3] == target).all() for row in rows)
        for z, row in zip(ways, rows):
            assert (row[top, 12:] == to_pixels(z[n, :channels]).numpy()).all()
        for row in rows[5:]:
            assert (row[top, 12:][::3, ::3] == found[n].permute(1, 2, 0).numpy()).all()


def test_passes_are_bounded_and_without_gradients(monkeypatch):
    monkeypatch.setattr(module, "pictures_a_pass", lambda resolution: 12 // resolution)
    G = Flat()
    ways = torch.zeros(2, 7, 3, requires_grad=True)
    assert len(list(search_frames(G, _pixels(7), ways, _pixels(7)))) == 3
    assert G.calls == 2 * [(3, True), (3, True), (1, True)]


def test_frames_become_an_animation(tmp_path):
    frames = search_frames(Flat(), _pixels(2), torch.zeros(3, 2, 3), _pixels(2), scale=2, hold=2)
    assert write_animation(tmp_path / "search.webp", frames, 25) == 5
