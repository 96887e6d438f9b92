"""Laws of the built-in data set `faces`: purity, batch independence, frequencies, growth, and one golden number."""

import hashlib
import itertools
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from torch import Tensor

from progan.data import faces_shapes
from progan.data.faces import CATEGORIES, FACTORS, RANGES, RESOLUTIONS, face_factors, faces, render_faces
from progan.data.faces_drawing import blank_canvas, draw

GOLDEN = "8ee00d231706cb8b"


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Draw on one thread and give the others back: on a crowded machine, threads that wait for each other cost 10x."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def sitter(**changes: float) -> dict[str, Tensor]:
    """A sitter on whom every factor shows: bare-eyed and shaven, with hair and a headband. Each factor: [1]."""
    plain = {"hair": 2, "eyewear": 0, "mouth": 0, "beard": 0, "accessory": 4, "marks": 0}
    values = face_factors(torch.tensor([5])) | {name: torch.tensor([code]) for name, code in plain.items()}
    return values | {name: torch.tensor([value], dtype=values[name].dtype) for name, value in changes.items()}


def box_filter(pixels: Tensor, factor: int) -> Tensor:
    """Mean over factor x factor blocks. uint8 [N, 3, R, R] -> float32 [N, 3, R / factor, R / factor]."""
    return torch.nn.functional.avg_pool2d(pixels.float(), factor)


def test_factors_are_named_and_typed() -> None:
    values = face_factors(torch.arange(1000))
    assert list(values) == list(FACTORS) == [*CATEGORIES, *RANGES]
    for name, shares in CATEGORIES.items():
        assert values[name].dtype == torch.int64
        assert values[name].unique().tolist() == list(range(len(shares))), name
        assert FACTORS[name] == tuple(shares)
    for name, (low, high) in RANGES.items():
        assert values[name].dtype == torch.float32
        span = (high - low) * 0.02
        assert low - 1e-6 <= values[name].min() < low + span, name
        assert high - span < values[name].max() <= high + 1e-6, name


def test_factors_depend_on_index_and_seed_only() -> None:
    indices = torch.tensor([3, 2**40, 0, 3, 17])
    values = face_factors(indices, seed=9)
    for position, index in enumerate(indices):
        alone = face_factors(index[None], seed=9)
        assert all(torch.equal(values[name][position], alone[name][0]) for name in FACTORS)


def test_seeds_and_indices_make_different_worlds() -> None:
    many = torch.arange(4000)
    first, second, shifted = face_factors(many), face_factors(many, seed=1), face_factors(many + 1)
    for name in RANGES:
        for other in (second, shifted):
            assert abs(np.corrcoef(first[name], other[name])[0, 1]) < 5 / 4000**0.5, name


def test_categories_have_their_shares() -> None:
    values = face_factors(torch.arange(100_000), seed=3)
    for name, shares in CATEGORIES.items():
        assert sum(shares.values()) == 100, name
        measured = values[name].bincount() / 1000
        expected = torch.tensor(list(shares.values()))
        assert (measured - expected).abs().max() < 0.8, name  # five standard errors of the largest share


def test_factors_are_independent_of_each_other() -> None:
    values = face_factors(torch.arange(20_000), seed=4)
    table = np.stack([values[name].double().numpy() for name in FACTORS])
    correlation = np.corrcoef(table) - np.eye(len(table))
    assert np.abs(correlation).max() < 5.5 / 20_000**0.5


def test_world_is_the_golden_one() -> None:
    values = face_factors(torch.cat([torch.arange(1000), torch.tensor([2**40])]), seed=0)
    table = np.stack([np.rint(values[name].double().numpy() * 1e4) for name in sorted(FACTORS)]).astype("<i8")
    assert hashlib.sha256(table.tobytes()).hexdigest()[:16] == GOLDEN


@pytest.mark.parametrize("indices", [torch.tensor([-1]), torch.tensor([[1]]), torch.tensor([1.0])])
def test_wrong_indices_are_refused(indices: Tensor) -> None:
    with pytest.raises(ValueError, match="indices must"):
        face_factors(indices)


@pytest.mark.parametrize("resolution", [0, 2, 3, 48, 2048])
def test_wrong_resolution_is_refused(resolution: int) -> None:
    with pytest.raises(ValueError, match=rf"power of two in 4\.\.1024, not {resolution}$"):
        render_faces(face_factors(torch.arange(1)), resolution)


def test_missing_factor_is_named() -> None:
    values = face_factors(torch.arange(1))
    del values["jaw"]
    with pytest.raises(ValueError, match="lack jaw"):
        render_faces(values, 8)


@pytest.mark.parametrize("resolution", RESOLUTIONS)
def test_every_resolution_is_painted(resolution: int) -> None:
    pixels, factors = faces(torch.arange(1, 2), resolution)
    assert pixels.dtype == torch.uint8
    assert pixels.shape == (1, 3, resolution, resolution)
    assert list(factors) == list(FACTORS)
    assert pixels.float().std() > 25  # no blank picture
    assert faces(torch.arange(0), resolution)[0].shape == (0, 3, resolution, resolution)


@pytest.mark.parametrize(("resolution", "count"), [(4, 200), (32, 70), (64, 20), (256, 3)])
def test_pictures_do_not_depend_on_their_batch(resolution: int, count: int) -> None:
    indices = torch.arange(count)
    batch, _ = faces(indices, resolution)
    assert torch.equal(batch.flip(0), faces(indices.flip(0), resolution)[0])
    for index in range(0, count, max(1, count // 8)):
        assert torch.equal(batch[index], faces(indices[index : index + 1], resolution)[0][0])


def test_floats_are_bitwise_the_same_alone_and_on_any_number_of_threads() -> None:
    """Stronger than the pixels: not even the last bit before rounding changes."""
    values = face_factors(torch.arange(26))
    batch = draw(values, 50)  # a width that leaves a tail after every vector lane
    for index in range(26):
        assert torch.equal(batch[index], draw({name: v[index : index + 1] for name, v in values.items()}, 50)[0])
    torch.set_num_threads(2)
    assert torch.equal(batch[:6], draw({name: v[:6] for name, v in values.items()}, 50))


@pytest.mark.parametrize(("resolution", "count"), [(4, 24), (8, 24), (16, 24), (32, 16), (64, 6), (128, 2)])
def test_coarse_pictures_are_fine_ones_seen_from_afar(resolution: int, count: int) -> None:
    coarse, values = faces(torch.arange(count), resolution)
    fine = box_filter(render_faces(values, 4 * resolution), 4)
    assert (coarse - fine).abs().mean() < 1.5
    assert (coarse - fine).abs().flatten(1).mean(1).max() < 3
    assert abs(float((coarse - fine).mean())) < 0.25  # no drift of brightness


def test_every_category_gives_another_picture() -> None:
    for name, shares in CATEGORIES.items():
        base = sitter()
        values = {key: value.repeat(len(shares)) for key, value in base.items()} | {name: torch.arange(len(shares))}
        pixels = render_faces(values, 64).float()
        for a, b in itertools.combinations(range(len(shares)), 2):
            assert (pixels[a] - pixels[b]).abs().max() > 12, (name, a, b)


@pytest.mark.parametrize("name", RANGES)
def test_every_range_shows(name: str) -> None:
    low, high = RANGES[name]
    further = low + 0.6 * (high - low)  # not the other end: hues are cyclic
    a, b = render_faces(sitter(**{name: low}), 64), render_faces(sitter(**{name: further}), 64)
    assert (a.float() - b.float()).abs().max() > 12


def test_pictures_are_diverse() -> None:
    pixels = box_filter(faces(torch.arange(64), 16)[0], 2).flatten(1)
    distances = torch.cdist(pixels, pixels) / pixels.shape[1] ** 0.5  # root mean square, in pixel levels
    assert distances[~torch.eye(64, dtype=torch.bool)].min() > 8
    assert pixels.std(0).mean() > 30


def test_windows_cut_nothing_off(monkeypatch: pytest.MonkeyPatch) -> None:
    """Features are drawn in a part of the frame; the extremes of every pose must fit it."""
    values = face_factors(torch.arange(128))
    for k, name in enumerate(("tilt", "turn", "nod", "shift_x", "shift_y", "zoom", "head_width", "eye_spacing")):
        values[name] = torch.tensor(RANGES[name])[torch.arange(128) >> (k % 7) & 1]
    windowed = render_faces(values, 32)
    monkeypatch.setattr(faces_shapes.Canvas, "window", lambda canvas, *rectangle: canvas)
    whole = render_faces(values, 32)
    assert torch.equal(windowed, whole)


def test_a_head_fills_the_frame_and_its_middle() -> None:
    """The head's own outline covers 55 to 75 % of the height of the frame, around its middle."""
    inside = blank_canvas(face_factors(torch.arange(64)), 64).head < 0  # [N, H, W]
    height = inside.any(2).float().mean(1)
    middle = (inside.any(2) * torch.linspace(0, 1, 64)).sum(1) / inside.any(2).sum(1)
    assert height.min() > 0.55
    assert height.max() < 0.75
    assert middle.min() > 0.38
    assert middle.max() < 0.6
