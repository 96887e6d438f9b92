"""Laws of the factor probe: its errors are taken out of the counts, and its file is made once."""

import contextlib
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from progan.data.faces import CATEGORIES, face_factors, faces
from progan.errors import UserError
from progan.files import lock
from progan.metrics import probe as probe_module
from progan.metrics.probe import (
    BINS,
    FEWEST,
    HELD_OUT,
    MODE_SHARES,
    MODES,
    SHARES,
    Probe,
    Recipe,
    confusion_of,
    factor_codes,
    factor_floor,
    factor_report,
    held_out_faces,
    modes_covered,
    open_probe,
    total_variation,
    train_probe,
    unfold,
)

TINY = Recipe(faces=1536, calibration=512, steps=300, batch=64, rate=0.006, widths=(16, 32))
MICRO = Recipe(faces=32, calibration=32, steps=2, batch=16, widths=(4, 4))


def _quiet(*_):
    """Neither says nor shows."""


@pytest.fixture(scope="module")
def tiny() -> Probe:
    """A probe for 16x16 of a few seconds."""
    return train_probe(16, _quiet, TINY)


@pytest.fixture(scope="module")
def unseen() -> tuple[torch.Tensor, torch.Tensor]:
    """True faces that nobody was trained or calibrated on: pixels and codes."""
    pixels, factors = faces(torch.arange(512), 16)
    return pixels, factor_codes(factors)


def _neighbourly(categories: int, rightly: float) -> torch.Tensor:
    """A confusion that reads a category rightly, or as the next one; the last categories better than the first."""
    rates = rightly + (1 - rightly) * torch.linspace(-0.5, 0.5, categories, dtype=torch.float64)
    return torch.diag(rates) + torch.diag(1 - rates).roll(1, 0)


def _sample(shares: torch.Tensor, count: int) -> torch.Tensor:
    """Counts of a drawing with replacement."""
    picks = torch.multinomial(shares, count, replacement=True, generator=torch.Generator().manual_seed(0))
    return torch.bincount(picks, minlength=len(shares))


def _half_of_the_hair() -> torch.Tensor:
    """Shares of a generator that makes every other hair style only: 6 of 13, 24 of the 52 modes."""
    shares = MODE_SHARES.reshape(13, 4).clone()
    shares[::2] = 0
    return shares.flatten() / shares.sum()


# --- the world --------------------------------------------------------------------------------------------------------


def test_the_true_shares_are_those_of_the_world():
    codes = factor_codes(face_factors(torch.arange(20_000)))
    for column, shares in zip(codes.T, SHARES.values()):
        assert shares.sum().item() == pytest.approx(1, abs=1e-12)
        assert column.min() == 0
        assert column.max() == len(shares) - 1
        assert total_variation(torch.bincount(column) / 20_000, shares) < 0.015


def test_there_are_52_modes_and_250_pictures_hold_the_rarest_once():
    assert MODES == ("hair", "eyewear")
    assert len(MODE_SHARES) == 13 * 4
    assert FEWEST == 250
    assert MODE_SHARES.sum().item() == pytest.approx(1, abs=1e-12)


def test_a_continuous_factor_is_cut_into_equal_parts():
    factors = face_factors(torch.arange(6)) | {"skin": torch.tensor([0.0, 0.1666, 0.1667, 0.5001, 0.99, 1.0])}
    assert factor_codes(factors)[:, [*SHARES].index("skin")].tolist() == [0, 0, 1, 3, BINS - 1, BINS - 1]


# --- counts -----------------------------------------------------------------------------------------------------------


def test_a_confusion_has_the_true_category_in_its_columns():
    read, true = torch.tensor([0, 0, 1, 1, 1, 1]), torch.tensor([0, 0, 0, 1, 1, 1])
    wanted = torch.tensor([[2.5 / 4, 0.5 / 4], [1.5 / 4, 3.5 / 4]], dtype=torch.float64)
    assert torch.allclose(confusion_of(read, true, 2), wanted, rtol=1e-12, atol=0)


def test_unfolding_finds_the_shares_behind_what_was_read():
    shares = torch.tensor([0.5, 0.3, 0.15, 0.05], dtype=torch.float64)
    confusion = _neighbourly(4, 0.7)
    observed = confusion @ shares * 1000
    assert total_variation(observed / 1000, shares) > 0.05
    assert torch.allclose(unfold(confusion, observed, SHARES["eyewear"]), shares, rtol=0, atol=1e-6)


def test_unfolding_finds_what_is_missing():
    shares = torch.tensor([0.7, 0, 0.3, 0], dtype=torch.float64)
    confusion = _neighbourly(4, 0.7)
    assert torch.allclose(unfold(confusion, confusion @ shares, SHARES["eyewear"]), shares, rtol=0, atol=1e-3)


def test_unfolding_has_nothing_to_do_for_a_reader_without_errors():
    observed = torch.tensor([5, 0, 3, 2])
    got = unfold(torch.eye(4, dtype=torch.float64), observed, SHARES["eyewear"])
    assert torch.allclose(got, torch.tensor([0.5, 0, 0.3, 0.2], dtype=torch.float64), rtol=0, atol=1e-12)


def test_unfolding_says_what_the_world_has_where_nothing_can_be_read():
    blind = torch.full((4, 4), 0.25, dtype=torch.float64)
    assert torch.allclose(unfold(blind, torch.tensor([9, 1, 0, 0]), SHARES["eyewear"]), SHARES["eyewear"])


def test_total_variation_is_the_part_that_would_have_to_move():
    assert total_variation(torch.tensor([0.5, 0.5, 0]), torch.tensor([0.5, 0.2, 0.3])) == pytest.approx(0.3)


@pytest.mark.parametrize(("count", "wanted"), [(100_000, 2), (20, 2), (19, 1), (5, 1), (4, 0)])
def test_a_mode_is_covered_by_a_quarter_of_its_share_and_half_a_picture(count, wanted):
    true = torch.tensor([0.4, 0.1, 0.1, 0.4])
    assert modes_covered(torch.tensor([0.101, 0.0255, 0.0245, 0.0]), true, count) == wanted


def test_errors_of_the_reader_do_not_fake_modes():
    confusion = torch.kron(_neighbourly(13, 0.8), _neighbourly(4, 0.95))
    counts = _sample(confusion @ _half_of_the_hair(), 8192)
    assert modes_covered(counts / 8192, MODE_SHARES, 8192) > 35
    assert 24 <= modes_covered(unfold(confusion, counts, MODE_SHARES), MODE_SHARES, 8192) <= 26


def test_errors_of_the_reader_do_not_hide_modes():
    confusion = torch.kron(_neighbourly(13, 0.8), _neighbourly(4, 0.95))
    assert (
        modes_covered(unfold(confusion, _sample(confusion @ MODE_SHARES, 8192), MODE_SHARES), MODE_SHARES, 8192) == 52
    )


# --- reports of a reader that finds the codes written in the pixels ---------------------------------------------------


@pytest.fixture
def literal(monkeypatch: pytest.MonkeyPatch) -> Probe:
    """Reads the code of factor j from pixel (0, j), without errors, and is sure by a tenth more than the rest."""

    def read(weights, images):
        codes = ((images[:, 0, 0, : len(SHARES)] + 1) * 127.5).round().long()
        columns = zip(SHARES, codes.T, SHARES.values())
        return {name: F.one_hot(column, len(s)) * 0.8 + 0.2 / len(s) for name, column, s in columns}

    monkeypatch.setattr(probe_module, "_read", read)
    return Probe(16, {}, {name: torch.eye(len(s), dtype=torch.float64) for name, s in SHARES.items()}, 0.9)


def _written(codes: torch.Tensor) -> torch.Tensor:
    pixels = torch.zeros(len(codes), 3, 16, 16, dtype=torch.uint8)
    pixels[:, :, 0, : codes.shape[1]] = codes[:, None].byte()
    return pixels


def _codes(count: int) -> torch.Tensor:
    return factor_codes(face_factors(torch.arange(count)))


def test_the_world_itself_has_all_modes_and_no_distance(literal):
    report = factor_report(literal, [_written(_codes(10_000))])
    assert report["modes"] == report["modes_total"] == 52
    assert 0 < report["tv"] < 0.02


def test_the_report_has_the_distance_of_every_factor_and_their_mean(literal):
    codes = _codes(2000)
    codes[:, [*SHARES].index("beard")] = 0
    report = factor_report(literal, [_written(codes)])
    assert [name for name in report if name.startswith("tv_")] == [f"tv_{name}" for name in SHARES]
    assert report["tv_beard"] == pytest.approx(0.32)
    assert report["tv_hair"] < 0.05
    assert report["tv"] == pytest.approx(sum(report[f"tv_{name}"] for name in SHARES) / len(SHARES))


def test_the_errors_of_the_reader_are_taken_out_of_the_report(literal):
    codes = _codes(16_000)
    codes = codes[codes[:, 0] % 2 == 1]  # 6 of the 13 hair styles
    wanted = float(SHARES["hair"][::2].sum())
    erring = replace(literal, confusion=literal.confusion | {"hair": _neighbourly(13, 0.8)})
    right = torch.rand(len(codes), dtype=torch.float64) < erring.confusion["hair"].diagonal()[codes[:, 0]]
    misread = torch.cat([torch.where(right, codes[:, 0], (codes[:, 0] + 1) % 13)[:, None], codes[:, 1:]], dim=1)
    naive, report = (factor_report(probe, [_written(misread)]) for probe in (literal, erring))
    assert naive["modes"] > 35
    assert 24 <= report["modes"] <= 26
    assert naive["tv_hair"] < wanted - 0.05
    assert report["tv_hair"] == pytest.approx(wanted, abs=0.03)


def test_one_picture_again_and_again_is_one_mode(literal):
    report = factor_report(literal, [_written(_codes(1).expand(300, -1))])
    assert report["modes"] == 1
    shares = [float(s[code]) for s, code in zip(SHARES.values(), _codes(1)[0])]
    assert report["tv"] == pytest.approx(sum(1 - share for share in shares) / len(shares))


def test_confidence_is_the_mean_highest_probability_of_the_categorical_factors(literal):
    wanted = sum(0.8 + 0.2 / len(shares) for shares in CATEGORIES.values()) / len(CATEGORIES)
    report = factor_report(literal, [_written(_codes(300))])
    assert report["confidence"] == pytest.approx(wanted, abs=1e-6)
    blind = sum(max(shares.values()) for shares in CATEGORIES.values()) / 100 / len(CATEGORIES)
    assert report["clarity"] == pytest.approx((wanted - blind) / (0.9 - blind), abs=1e-6)


def test_what_cannot_be_read_is_not_reported(literal):
    blind = torch.full((3, 3), 1 / 3, dtype=torch.float64)
    dim = replace(literal, confusion=literal.confusion | {"marks": blind, "eyewear": _neighbourly(4, 0.56)})
    assert dim.readable == tuple(name for name in SHARES if name != "marks")  # mean recall 0.56 is skill 0.413
    assert "tv_marks" not in factor_report(dim, [_written(_codes(300))])
    assert "eyewear" not in replace(dim, confusion={"eyewear": _neighbourly(4, 0.54)}).readable  # skill 0.387


def test_too_few_pictures_are_refused(literal):
    with pytest.raises(ValueError, match="needs 250 pictures or more, not 249"):
        factor_report(literal, [_written(_codes(249))])
    factor_report(literal, [_written(_codes(250))])


@pytest.mark.parametrize(
    "pixels",
    [
        torch.zeros(300, 3, 32, 32, dtype=torch.uint8),
        torch.zeros(300, 1, 16, 16, dtype=torch.uint8),
        torch.zeros(300, 3, 16, 16),
    ],
)
def test_pictures_that_are_not_the_probes_are_refused(literal, pixels):
    with pytest.raises(ValueError, match=r"reads uint8 \[N, 3, 16, 16\], not"):
        factor_report(literal, [pixels])
    with pytest.raises(ValueError, match=r"reads uint8 \[N, 3, 16, 16\], not"):
        literal.read(pixels)


# --- a trained one ----------------------------------------------------------------------------------------------------


def _accuracy(probe: Probe, pixels: torch.Tensor, codes: torch.Tensor) -> dict[str, float]:
    readings = probe.read(pixels).items()
    return {name: float((part.argmax(1) == true).double().mean()) for (name, part), true in zip(readings, codes.T)}


def test_a_reading_holds_probabilities(tiny, unseen):
    for name, part in tiny.read(unseen[0][:50]).items():
        assert part.shape == (50, len(SHARES[name]))
        assert torch.allclose(part.sum(1), torch.ones(50), rtol=0, atol=1e-5)


def test_held_out_faces_are_read_far_better_than_by_chance_and_the_probe_knows_how_well(tiny, unseen):
    accuracy = _accuracy(tiny, *unseen)
    assert accuracy["hair"] > 0.3  # 0.10 by chance
    assert accuracy["clothes"] > 0.6  # 0.24
    assert accuracy["backdrop"] > 0.65  # 0.26
    for name, value in accuracy.items():
        assert tiny.accuracy[name] == pytest.approx(value, abs=0.09)  # 3 sigma


def test_a_mirror_changes_no_reading(tiny, unseen):
    pixels, codes = unseen
    mirrored = _accuracy(tiny, pixels.flip(3), codes)
    for name, value in _accuracy(tiny, pixels, codes).items():
        assert mirrored[name] == pytest.approx(value, abs=0.05)


def test_true_faces_are_near_the_floor_and_a_collapse_is_far_from_it(tiny, unseen):
    floor = factor_floor(tiny, 512)
    real = factor_report(tiny, [unseen[0]])
    collapsed = factor_report(tiny, [unseen[0][:4].repeat(128, 1, 1, 1)])
    assert floor["modes_floor"] > 20
    assert real["modes"] == pytest.approx(floor["modes_floor"], abs=8)
    assert real["tv"] == pytest.approx(floor["tv_floor"], abs=0.06)
    assert collapsed["modes"] <= 4
    assert collapsed["tv"] > floor["tv_floor"] + 0.3


def test_mush_and_noise_are_less_clear_than_faces_and_repeated_faces_are_not(tiny, unseen):
    pixels, _ = unseen
    blurred = F.interpolate(F.avg_pool2d(pixels.float(), 4), 16, mode="bilinear").round().byte()
    blend = ((pixels.float() + pixels.roll(1, 0) + pixels.roll(2, 0) + pixels.roll(3, 0)) / 4).byte()
    noise = torch.randint(0, 256, pixels.shape, dtype=torch.uint8)  # takes a longer training to be told as well
    true, few = factor_report(tiny, [pixels]), factor_report(tiny, [pixels[:8].repeat(40, 1, 1, 1)])
    assert true["clarity"] == pytest.approx(1, abs=0.05)
    for spoilt, most in ((blurred, 0.6), (blend, 0.7), (noise, 0.95)):
        assert factor_report(tiny, [spoilt])["clarity"] < most
    assert few["clarity"] > 0.8
    assert 1 <= few["modes"] <= 8


def test_no_number_depends_on_the_batches(tiny, unseen):
    pixels, _ = unseen
    whole = factor_report(tiny, [pixels])
    assert factor_report(tiny, list(torch.split(pixels, 100))) == whole
    assert factor_report(tiny, [pixels[:1], pixels[1:300], pixels[300:]]) == whole


def test_the_device_of_the_pictures_reads_them(tiny, unseen, device):
    pixels, _ = unseen
    for name, part in tiny.read(pixels[:20].to(device)).items():
        assert part.device.type == device.type
        assert torch.allclose(part.cpu(), tiny.read(pixels[:20])[name], rtol=0, atol=2e-3), name


def test_floors_come_from_the_held_out_faces_every_other_one_mirrored(monkeypatch):
    monkeypatch.setattr(probe_module, "CHUNK", 4)
    first, again = (list(held_out_faces(16, 6)) for _ in range(2))
    assert [len(batch) for batch in first] == [4, 2]
    assert all(map(torch.equal, first, again))
    pixels, _ = faces(torch.arange(HELD_OUT, HELD_OUT + 2), 16)
    assert torch.equal(first[0][0], pixels[0])
    assert torch.equal(first[0][1], pixels[1].flip(2))


def test_a_floor_is_the_report_of_held_out_faces_as_small_as_the_network_sees_them(tiny, unseen, monkeypatch):
    asked = []
    monkeypatch.setattr(probe_module, "held_out_faces", lambda *wanted: asked.append(wanted) or [unseen[0][:260]])
    monkeypatch.setattr(probe_module, "HIGHEST", 16)
    floor, report = factor_floor(replace(tiny, resolution=128), 260), factor_report(tiny, [unseen[0][:260]])
    assert asked == [(16, 260)]
    assert floor["modes_floor"] == report["modes"]
    assert floor["tv_floor_backdrop"] == report["tv_backdrop"]
    assert floor["clarity_floor"] == report["clarity"]
    assert len(floor) == len(report) - 1


# --- the file ---------------------------------------------------------------------------------------------------------


def _same(a: Probe, b: Probe) -> bool:
    tables = [(a.weights, b.weights), (a.confusion, b.confusion)]
    equal = all(x.keys() == y.keys() and all(torch.equal(x[k], y[k]) for k in x) for x, y in tables)
    return equal and (a.resolution, a.confidence) == (b.resolution, b.confidence)


@pytest.fixture
def no_training(monkeypatch: pytest.MonkeyPatch):
    """From where it is called on, a training fails the test."""

    def fail(*_):
        raise AssertionError("trained again")

    return lambda: monkeypatch.setattr(probe_module, "train_probe", fail)


def test_the_same_recipe_gives_the_same_probe_and_draws_no_global_number():
    torch.manual_seed(3)
    state = torch.get_rng_state()
    first = train_probe(16, _quiet, MICRO)
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(4)
    assert _same(train_probe(16, _quiet, MICRO), first)


def test_a_probe_is_trained_once(tmp_path, no_training):
    said, done = [], []
    first = open_probe(16, said.append, lambda *pair: done.append(pair), tmp_path / "new", MICRO)
    assert len(said) == 1
    assert done == sorted(done)
    assert done[-1][0] == done[-1][1]
    assert len({total for _, total in done}) == 1
    no_training()
    assert _same(open_probe(16, said.append, _quiet, tmp_path / "new", MICRO), first)
    assert len(said) == 1


def test_the_cache_is_where_data_is_cached(tmp_path, monkeypatch):
    monkeypatch.setenv("PROGAN_CACHE", str(tmp_path))
    open_probe(16, _quiet, _quiet, recipe=MICRO)
    assert len(list((tmp_path / "probes").glob("faces-16px-*.safetensors"))) == 1


def test_another_recipe_resolution_or_world_is_another_probe(tmp_path, monkeypatch):
    def names():
        return {path.name for path in tmp_path.glob("*.safetensors")}

    open_probe(16, _quiet, _quiet, tmp_path, MICRO)
    open_probe(16, _quiet, _quiet, tmp_path, replace(MICRO, steps=3))
    open_probe(32, _quiet, _quiet, tmp_path, MICRO)
    assert len(names()) == 3
    painter = probe_module.faces
    monkeypatch.setattr(probe_module, "faces", lambda i, r: (255 - painter(i, r)[0], painter(i, r)[1]))
    open_probe(16, _quiet, _quiet, tmp_path, MICRO)
    assert len(names()) == 4


@pytest.mark.parametrize("place", [0, 3, -3])
def test_a_damaged_file_is_made_anew(tmp_path, place, no_training):
    first = open_probe(16, _quiet, _quiet, tmp_path, MICRO)
    (path,) = tmp_path.glob("*.safetensors")
    content = bytearray(path.read_bytes())
    content[place] ^= 64
    path.write_bytes(content)
    said = []
    assert _same(open_probe(16, said.append, _quiet, tmp_path, MICRO), first)
    assert len(said) == 1
    path.write_bytes(path.read_bytes()[: len(content) // 2])
    assert _same(open_probe(16, said.append, _quiet, tmp_path, MICRO), first)
    assert len(said) == 2
    no_training()
    open_probe(16, _quiet, _quiet, tmp_path, MICRO)


def test_the_second_process_waits_for_the_first(tmp_path, monkeypatch, no_training):
    first = open_probe(16, _quiet, _quiet, tmp_path, MICRO)
    (path,) = tmp_path.glob("*.safetensors")
    no_training()
    with contextlib.ExitStack() as held:
        held.enter_context(lock(path.with_suffix(".lock"), "held already"))
        said, waits = [], iter([_quiet, held.close])
        monkeypatch.setattr(probe_module.time, "sleep", lambda _: next(waits)())
        assert _same(open_probe(16, said.append, _quiet, tmp_path, MICRO), first)
    assert said == ["Another process is training this probe; waiting for it."]


def test_large_pictures_are_read_at_64(tmp_path, no_training):
    small = open_probe(64, _quiet, _quiet, tmp_path, MICRO)
    no_training()
    large = open_probe(256, _quiet, _quiet, tmp_path, MICRO)
    pixels = faces(torch.arange(3), 64)[0].clamp(50, 200)
    board = (torch.arange(256)[:, None] + torch.arange(256)) % 2 * 100 - 50  # its mean over 4x4 is 0
    enlarged = (pixels.repeat_interleave(4, 2).repeat_interleave(4, 3) + board).byte()
    for name, part in large.read(enlarged).items():
        assert torch.allclose(part, small.read(pixels)[name], rtol=0, atol=1e-5)
    with pytest.raises(ValueError, match=r"\[N, 3, 256, 256\]"):
        large.read(pixels)


@pytest.mark.parametrize("resolution", [4, 8, 24, 100])
def test_resolutions_that_say_too_little_or_are_no_doubling_are_refused(tmp_path, resolution):
    with pytest.raises(ValueError, match="16x16 and every doubling"):
        open_probe(resolution, _quiet, _quiet, tmp_path, MICRO)


def test_a_folder_that_cannot_be_is_the_users_matter(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="PROGAN_CACHE"):
        open_probe(16, _quiet, _quiet, tmp_path / "file" / "probes", MICRO)
