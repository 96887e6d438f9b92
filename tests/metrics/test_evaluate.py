"""Metrics put together: each beside its floor, known by all that it depends on, measured once."""

import io
from dataclasses import replace

import pytest
import torch

from progan.console import Console
from progan.data.order import order_of
from progan.data.pyramid import open_pyramid
from progan.errors import UserError
from progan.metrics import evaluate
from progan.metrics.cases import case_of, folders_case, ground
from progan.metrics.evaluate import METRICS, About, Metric, Tools, check_names, measure, result_of, usual, wanted
from progan.metrics.sets import content_of
from progan.nn.progressive import Generator
from tests.metrics.test_sets import folder

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("PROGAN_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def tools():
    return Tools(CPU, Console(io.StringIO()), repeats=1)


def a_case(tiny_data, images=20, mirrored=False, **changes):
    data = open_pyramid(tiny_data)
    G = Generator(max_res=16, latent_size=4, fmap_base=32, fmap_max=8)
    G.reset_parameters(torch.Generator().manual_seed(3))
    place = {"stage": 2, "alpha": 1.0, "psi": 1.0} | changes
    reals = ground(data, order_of(data.count), mirrored, True)
    return case_of(G, **place, ground=reals, images=images, seed=0, console=Console(io.StringIO()))


@pytest.fixture
def case(tiny_data):
    return a_case(tiny_data)


def counting(monkeypatch, name="counted", **changes):
    """A metric that says how often it was measured: the mean level of the fakes."""
    calls = []

    def mean(case, tools):
        calls.append(case)
        return {name: torch.cat(list(case.fakes)).float().mean().item()}

    monkeypatch.setitem(METRICS, name, replace(Metric("", mean), **changes))
    return calls


def test_a_floor_is_the_metric_of_other_reals(case, tools, monkeypatch):
    counting(monkeypatch)
    values = measure("counted", case, tools)
    fakes, others = (torch.cat(list(pictures)).float().mean().item() for pictures in (case.fakes, case.others))
    assert values == {"counted": fakes, "counted_floor": others}


def test_too_few_reals_for_others_leave_the_floor_out(tiny_data, tools, monkeypatch):
    counting(monkeypatch)
    assert list(measure("counted", a_case(tiny_data, 26), tools)) == ["counted"]


def test_a_floor_is_measured_once_for_all_generators(tiny_data, tools, monkeypatch):
    calls = counting(monkeypatch)
    first = measure("counted", a_case(tiny_data), tools)
    second = measure("counted", a_case(tiny_data, psi=0.5), tools)
    assert first["counted_floor"] == second["counted_floor"]
    assert len(calls) == 3


@pytest.mark.parametrize(
    "changes", [{"images": 22}, {"mirrored": True}, {"stage": 1}, {"seed": 1}, {"settings": 1}], ids=str
)
def test_a_floor_of_another_protocol_is_another(tiny_data, tools, monkeypatch, changes):
    calls = counting(monkeypatch)
    measure("counted", a_case(tiny_data), tools)
    if "settings" in changes:
        changes = {}
        monkeypatch.setitem(METRICS, "counted", replace(METRICS["counted"], settings=lambda tools: {"knob": 2}))
    tools.seed = changes.pop("seed", 0)
    measure("counted", a_case(tiny_data, **changes), tools)
    assert len(calls) == 4


def test_a_damaged_cache_is_measured_again(case, tools, monkeypatch, tmp_path):
    calls = counting(monkeypatch)
    measure("counted", case, tools)
    (path,) = (tmp_path / "cache" / "metrics").iterdir()
    path.write_text("{")
    measure("counted", case, tools)
    assert len(calls) == 4


def test_a_result_says_what_it_depends_on(case, tools, monkeypatch):
    counting(monkeypatch, settings=lambda tools: {"knob": 2})
    result, new = result_of("counted", case, tools, {}, About(8000, "generator.safetensors", "ab"))
    assert new
    assert (result.nimg, result.file, result.snapshot, result.metric) == (
        8000,
        "generator.safetensors",
        "ab",
        "counted",
    )
    assert result.protocol["data"] == open_pyramid(case.training.data.path).fingerprint
    known = {key: result.protocol[key] for key in ("resolution", "reals", "fakes", "mirror", "psi", "alpha", "weights")}
    assert known == {
        "resolution": 16, "reals": 20, "fakes": 20, "mirror": False, "psi": 1.0, "alpha": 1.0, "weights": "ema",
    }  # fmt: skip
    assert (result.protocol["knob"], result.protocol["seed"]) == (2, 0)


def test_what_is_known_is_not_measured_again(case, tools, monkeypatch):
    calls, about = counting(monkeypatch, floor=False), About(8000, "g", "ab")
    result, _ = result_of("counted", case, tools, {}, about)
    assert result_of("counted", case, tools, {result.key: result}, about) == (result, False)
    assert len(calls) == 1
    _, new = result_of("counted", case, tools, {result.key: result}, replace(about, snapshot="cd"))
    assert new, "another generator"


def test_a_metric_that_cannot_be_measured_says_which_and_why(case, tools, monkeypatch):
    def refuse(case, tools):
        raise ValueError("two pictures are too few")

    monkeypatch.setitem(METRICS, "strict", Metric("", refuse))
    with pytest.raises(UserError, match="strict: two pictures are too few"):
        measure("strict", case, tools)


def test_fewer_reals_than_fakes_are_compared_with_as_many_fakes(tiny_data, tools):
    case = a_case(tiny_data, 70)
    assert case.counts == (50, 70)
    assert measure("swd", case, tools)["swd"] > 0


@pytest.mark.parametrize("name", ["swd", "ms_ssim", "spectrum", "diversity", "neighbours"])
def test_every_usual_metric_is_finite_and_the_same_again(tiny_data, tools, name):
    values = measure(name, a_case(tiny_data), tools)
    assert name == "diversity" or name in values or name == "neighbours"
    assert torch.tensor(list(values.values())).isfinite().all()
    assert measure(name, a_case(tiny_data), tools) == values


def test_an_untrained_generator_is_far_from_the_floor(case, tools):
    values = measure("swd", case, tools)
    assert values["swd"] > 2 * values["swd_floor"]
    assert values["swd"] == pytest.approx(values["swd_16"])


def test_neighbours_leave_a_sheet_of_pairs(tiny_data, tools):
    case = a_case(tiny_data)
    measure("neighbours", case, tools)
    sheet = tools.sheets["neighbours"]
    assert sheet.shape == (16, 3, 32, 16)
    reals = torch.cat(list(case.training))
    for pair in sheet:
        assert (reals == pair[:, 16:]).flatten(1).all(1).any(), "the lower half is a training picture"


def test_the_names_of_metrics():
    assert wanted(" swd, MS_SSIM,swd") == ["swd", "ms_ssim"]
    with pytest.raises(UserError, match="did you mean `swd`"):
        wanted("swdd")
    with pytest.raises(UserError, match="names none of swd"):
        wanted(" , ")


def test_the_usual_metrics_need_no_weights(case, tiny_data):
    assert usual(case)[:2] == ["swd", "ms_ssim"]
    many = replace(case, counts=(300, 300))
    assert "faces" in usual(many)
    assert "faces" not in usual(case), "20 pictures are too few"
    assert "faces" not in usual(replace(many, ground={**case.ground, "faces": False}))
    assert "faces" not in usual(replace(many, ground={**case.ground, "resolution": 4}))


def test_names_of_a_configuration_are_checked_at_once(tools, tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    check_names(["swd", "ms_ssim"], tools, False)
    with pytest.raises(UserError, match="no metric `fud`"):
        check_names(["fud"], tools, False)
    with pytest.raises(UserError, match="portraits"):
        check_names(["faces"], tools, False)
    with pytest.raises(UserError, match="--inception"):
        check_names(["fid"], tools, False)


def test_projections_of_other_reals_are_never_taken_for_these(tools):
    """Not even where they lie at the same place in memory, the former ones having been dropped."""
    draws = evaluate.Draws(0, repeats=1)
    for _ in range(4):
        pictures = [torch.randint(0, 256, (4, 3, 16, 16), dtype=torch.uint8)]
        found = tools.projected(pictures, 4, draws)
        assert evaluate.distance(found, evaluate.project(pictures, draws))["swd"] == 0
        assert tools.projected(pictures, 4, draws) is found
        del pictures


# --- folders ---


def test_two_folders_are_compared(tmp_path, tools):
    sizes = [(16, 16)] * 12
    fakes, reals = folder(tmp_path / "fakes", *sizes[:5]), folder(tmp_path / "reals", *sizes)
    case = folders_case(str(fakes), str(reals), None, 0, tmp_path / "scratch", tools.console)
    assert case.counts == (5, 5)
    assert case.others is not None
    assert case.ground["data"] == content_of(case.reals)
    assert measure("swd", case, tools)["swd"] > 0


def test_a_folder_against_itself_is_zero(tmp_path, tools):
    path = str(folder(tmp_path / "fakes", *[(16, 16)] * 5))
    case = folders_case(path, path, None, 0, tmp_path / "scratch", tools.console)
    assert case.others is None
    whole = [sorted(batch.flatten(1).float().mean(1).tolist()) for batch in (*case.reals, *case.fakes)]
    assert whole[0] == whole[1]


def test_folders_that_do_not_compare_are_refused(tmp_path, tools):
    small, large = folder(tmp_path / "small", (8, 8)), folder(tmp_path / "large", (16, 16))
    grey = folder(tmp_path / "grey", (8, 8), mode="L")
    for pair, words in [((small, large), "8x8 pixels in colour.*16x16"), ((small, grey), "in grey")]:
        with pytest.raises(UserError, match=words):
            folders_case(*map(str, pair), None, 0, tmp_path / "scratch", tools.console)
    with pytest.raises(UserError, match=r"--images 3: .*small holds 1 picture"):
        folders_case(str(small), str(small), 3, 0, tmp_path / "scratch", tools.console)


def test_the_cache_is_of_this_version(case, tools, monkeypatch):
    calls = counting(monkeypatch)
    measure("counted", case, tools)
    monkeypatch.setattr(evaluate, "VERSION", evaluate.VERSION + 1)
    measure("counted", case, tools)
    assert len(calls) == 4


def test_what_is_about_the_reals_has_no_floor(case, tools, monkeypatch):
    monkeypatch.setitem(METRICS, "both", Metric("", lambda case, tools: {"both": 1.0, "both_reals": 2.0}))
    assert measure("both", case, tools).keys() == {"both", "both_reals", "both_floor"}


def test_reconstruction_takes_pictures_that_were_not_learnt(tiny_data, tools, monkeypatch):
    seen = []

    def error(draw, pictures, *arguments, **options):
        seen.append(torch.cat(list(pictures)))
        return {"reconstruction": draw(torch.zeros(1, 4)).mean().item()}

    monkeypatch.setattr(evaluate, "reconstruction_error", error)
    data = open_pyramid(tiny_data)
    G = Generator(max_res=16, latent_size=4, fmap_base=32, fmap_max=8)
    for used in (50, 30):
        reals = ground(data, order_of(data.count, max_images=used), False, True)
        measure("reconstruction", case_of(G, 2, 1.0, 1.0, reals, 8, 0, tools.console), tools)
    learnt = data.batch(torch.arange(30), 16)
    assert len(seen[0]) == 8, "all are learnt: reals"
    assert torch.equal(seen[1], data.batch(torch.arange(30, 50), 16))
    assert not (seen[1][:, None] == learnt[None]).flatten(2).all(2).any()
