"""Sets of pictures: the same each time they are looked at, whatever their batches, and of bounded memory."""

import numpy as np
import pytest
import torch
from PIL import Image

from progan.data.pyramid import open_pyramid
from progan.data.sources import open_source
from progan.errors import UserError
from progan.images import mirror
from progan.metrics import sets
from progan.metrics.sets import Fakes, First, Kept, Reals, Watched, content_of, files_of, picked, real_sets
from progan.nn.inference import Compact
from progan.nn.progressive import Generator


def whole(pictures):
    return torch.cat(list(pictures))


def nothing(done, total):
    pass


@pytest.fixture
def data(tiny_data):
    return open_pyramid(tiny_data)


@pytest.fixture
def G():
    G = Generator(max_res=8, latent_size=4, fmap_base=32, fmap_max=8)
    for parameter in G.parameters():  # biases too: without them the latents' length would not matter
        torch.nn.init.normal_(parameter, generator=torch.Generator().manual_seed(3))
    return Compact(G, 1)


def test_fakes_are_the_same_each_time_and_in_a_larger_set(G):
    small, large = Fakes(G, 70, seed=5), Fakes(G, 100, seed=5)
    assert whole(small).shape == (70, 3, 8, 8)
    assert whole(small).dtype == torch.uint8
    assert torch.equal(whole(small), whole(small))
    assert (whole(large)[:70].int() - whole(small).int()).abs().max() <= 1, "but for rounding"
    assert not torch.equal(whole(Fakes(G, 70, seed=6)), whole(small))


def test_psi_and_alpha_reach_the_generator(G):
    plain = whole(Fakes(G, 4))
    assert not torch.equal(whole(Fakes(G, 4, psi=0.3)), plain)
    assert not torch.equal(whole(Fakes(G, 4, alpha=0.2)), plain)


def test_reals_are_drawn_once_each_and_the_others_are_others(data):
    chosen, others = real_sets(data, torch.arange(data.count), 20, 8, False, 0)
    assert len(set(chosen.chosen.tolist()) | set(others.chosen.tolist())) == 40
    assert whole(chosen).shape == (20, 3, 8, 8)
    assert torch.equal(whole(chosen), data.batch(chosen.chosen, 8))
    assert real_sets(data, torch.arange(data.count), 26, 8, False, 0)[1] is None, "50 pictures are no two sets of 26"
    assert real_sets(data, torch.arange(data.count), 25, 8, False, 0)[1] is not None


def test_reals_come_from_those_in_use_alone(data):
    chosen, others = real_sets(data, torch.tensor([3, 5, 7, 9]), 2, 8, False, 0)
    assert sorted(chosen.chosen.tolist() + others.chosen.tolist()) == [3, 5, 7, 9]


def test_about_half_of_mirrored_reals_are_turned(data):
    plain, _ = real_sets(data, torch.arange(data.count), 50, 8, False, 0)
    turned, _ = real_sets(data, torch.arange(data.count), 50, 8, True, 0)
    assert torch.equal(plain.chosen, turned.chosen)
    flips = turned.flips
    assert 15 <= int(flips.sum()) <= 35
    assert torch.equal(whole(turned), mirror(whole(plain), flips))


@pytest.mark.parametrize("in_memory", [1 << 20, 0], ids=["memory", "file"])
def test_a_kept_set_is_drawn_once_and_may_be_looked_at_twice_at_once(monkeypatch, in_memory):
    monkeypatch.setattr(sets, "IN_MEMORY", in_memory)
    pixels = torch.randint(0, 256, (150, 3, 4, 4), dtype=torch.uint8)
    drawn = []

    class Source:
        def __iter__(self):
            drawn.append(1)
            return iter(pixels.split(40))

    kept = Kept(Source(), 150, (3, 4, 4), nothing)
    assert drawn == [], "not before it is looked at"
    for a, b in zip(kept, kept):
        assert torch.equal(a, b)
    assert torch.equal(whole(kept), pixels)
    assert drawn == [1]


def test_without_room_on_the_disk_a_set_is_drawn_anew(monkeypatch):
    monkeypatch.setattr(sets, "IN_MEMORY", 0)
    monkeypatch.setattr(sets.shutil, "disk_usage", lambda _: type("usage", (), {"free": 100}))
    pixels = torch.randint(0, 256, (9, 3, 4, 4), dtype=torch.uint8)
    kept = Kept([pixels], 9, (3, 4, 4), nothing)
    assert torch.equal(whole(kept), pixels)
    assert torch.equal(whole(kept), pixels)


def test_watching_changes_nothing_and_counts_anew_each_time():
    pixels, seen = torch.randint(0, 256, (10, 1, 4, 4), dtype=torch.uint8), []
    watched = Watched(pixels.split(4), 10, lambda: lambda done, total: seen.append((done, total)))
    for _ in range(2):
        assert torch.equal(whole(watched), pixels)
    assert seen == [(4, 10), (8, 10), (10, 10)] * 2


@pytest.mark.parametrize("count", [1, 4, 5, 10, 12])
def test_the_first_of_a_set(count):
    pixels = torch.arange(10, dtype=torch.uint8)[:, None, None, None].expand(10, 1, 4, 4)
    assert whole(First(pixels.split(4), count))[:, 0, 0, 0].tolist() == list(range(min(count, 10)))


def test_pictures_are_picked_by_their_places():
    pixels = torch.arange(10, dtype=torch.uint8)[:, None, None, None].expand(10, 1, 4, 4)
    assert picked(pixels.split(3), torch.tensor([7, 0, 7]))[:, 0, 0, 0].tolist() == [7, 0, 7]


def test_a_hash_of_content_tells_sets_apart_and_not_their_batches():
    pixels = torch.randint(0, 256, (10, 1, 4, 4), dtype=torch.uint8)
    assert content_of(pixels.split(4)) == content_of(pixels.split(3))
    assert content_of([pixels]) != content_of([pixels.flip(0)])


# --- files ---


def folder(path, *sizes, mode="RGB"):
    path.mkdir()
    for n, size in enumerate(sizes):
        values = np.random.default_rng(n).integers(0, 256, (size[1], size[0], 3), np.uint8)
        Image.fromarray(values).convert(mode).save(path / f"{n}.png")
    return path


def files(path, resolution=0):
    return files_of(open_source(str(path), 0, path, False, path / "scratch"), str(path), resolution)


def test_files_are_read_as_they_are(tmp_path):
    found = files(folder(tmp_path / "a", (12, 12), (12, 12)))
    assert found.extent == (3, 12, 12)
    assert whole(found).shape == (2, 3, 12, 12)
    with Image.open(tmp_path / "a" / "1.png") as image:
        assert torch.equal(whole(found)[1], torch.from_numpy(np.array(image)).permute(2, 0, 1))


def test_grey_files_have_one_channel(tmp_path):
    assert files(folder(tmp_path / "a", (12, 12), mode="L")).extent == (1, 12, 12)


def test_a_pyramid_gives_the_level_asked_for(tiny_data):
    assert files(tiny_data).extent == (3, 16, 16)
    eight = files(tiny_data, 8)
    assert eight.extent == (3, 8, 8)
    assert torch.equal(whole(eight.part(0, 5)), open_pyramid(tiny_data).batch(torch.arange(5), 8))


def test_pictures_of_several_sizes_are_refused_by_name(tmp_path):
    found = files(folder(tmp_path / "a", (12, 12), (16, 16)))
    with pytest.raises(UserError, match=r"1\.png is 16x16 pixels, the first picture 12x12"):
        whole(found)


def test_oblong_pictures_are_refused(tmp_path):
    with pytest.raises(UserError, match="16x12; metrics take square ones"):
        files(folder(tmp_path / "a", (16, 12)))


def test_colour_after_grey_is_refused_and_grey_after_colour_is_not(tmp_path):
    grey = folder(tmp_path / "grey", (8, 8), mode="L")
    Image.new("RGB", (8, 8), (255, 0, 0)).save(grey / "9.png")
    with pytest.raises(UserError, match=r"9\.png is in colour"):
        whole(files(grey))
    colour = folder(tmp_path / "colour", (8, 8))
    Image.new("L", (8, 8), 7).save(colour / "9.png")
    assert (whole(files(colour))[1] == 7).all()


def test_a_damaged_file_is_named(tmp_path):
    path = folder(tmp_path / "a", (8, 8))
    (path / "9.png").write_bytes(b"\x89PNG nonsense")
    with pytest.raises(UserError, match=r"9\.png cannot be read"):
        whole(files(path))


def test_files_are_shuffled_by_the_generator_alone(tmp_path):
    found = files(folder(tmp_path / "a", *[(4, 4)] * 9))
    orders = [found.shuffled(torch.Generator().manual_seed(seed)).names for seed in (1, 1, 2)]
    assert orders[0] == orders[1] != orders[2]
    assert sorted(orders[2]) == sorted(found.names)


def test_reals_without_flips_are_the_pictures(data):
    numbers = torch.tensor([4, 2])
    assert torch.equal(whole(Reals(data, numbers, None, 16)), data.batch(numbers, 16))
