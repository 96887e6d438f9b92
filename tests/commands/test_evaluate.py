"""`progan evaluate` as a user meets it: a table, lines to keep, and one sentence where it cannot be."""

import json
import warnings

import pytest
import torch

from progan import config as config_module
from progan.commands import main
from progan.exchange.snapshots import save_snapshot
from progan.metrics import runs
from progan.metrics.results import read_results
from progan.nn.families import make_generator
from tests.conftest import TINY
from tests.metrics.test_sets import folder


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("PROGAN_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def run(tmp_path, tiny_data):
    """A run with snapshots at 8x8 and, twice, at 16x16."""
    config = config_module.load(None, [*TINY, f"data.source={tiny_data}"])
    G = make_generator(**config_module.generator_arguments(config))
    path = tmp_path / "runs" / "one"
    for seed, (name, stage) in enumerate([("000001", 1), ("000002", 2), ("final", 2)]):
        G.reset_parameters(torch.Generator().manual_seed(min(seed, 1)))
        save_snapshot(
            path / "snapshots" / f"generator-{name}.safetensors", G, config, stage, 1.0, 1000 * (1 + min(seed, 1))
        )
    (path / "config.toml").write_text(config_module.dump(config))
    return path


def test_the_newest_snapshot_is_measured_and_kept(run, capsys):
    assert main(["evaluate", str(run), "--metrics", "swd,ms_ssim", "--images", "12"]) == 0
    shown = capsys.readouterr().out
    assert "2 kimg, 16x16, 12 fakes, 12 reals, floor from 12 others" in shown
    kept = read_results(run / "metrics.jsonl")
    assert [result.metric for result in kept] == ["swd", "ms_ssim"]
    assert {"swd", "swd_16", "swd_floor", "swd_floor_16"} == kept[0].values.keys()
    assert f"{kept[0].values['swd']:.4g}" in shown
    assert list(run.glob("events.*")), "and TensorBoard has them"


def test_the_newest_run_is_found(run):
    assert main(["evaluate", "--metrics", "ms_ssim", "--images", "4"]) == 0
    assert len(read_results(run / "metrics.jsonl")) == 1


def test_every_snapshot_once_and_an_interrupted_command_goes_on(run, capsys, monkeypatch):
    command = ["evaluate", str(run), "--metrics", "ms_ssim,spectrum", "--images", "8", "--all-snapshots"]
    add, added = runs.Board.add, []

    def interrupted(self, result, sheet):
        added.append(result)
        if len(added) == 3:
            raise KeyboardInterrupt
        add(self, result, sheet)

    monkeypatch.setattr(runs.Board, "add", interrupted)
    assert main(command) == 130
    assert len(read_results(run / "metrics.jsonl")) == 2
    monkeypatch.setattr(runs.Board, "add", add)
    assert main(command) == 0
    assert "measured before" in capsys.readouterr().out
    found = [(result.nimg, result.metric) for result in read_results(run / "metrics.jsonl")]
    assert found == [(1000, "ms_ssim"), (1000, "spectrum"), (2000, "ms_ssim"), (2000, "spectrum")]
    assert main(command) == 0
    assert len(read_results(run / "metrics.jsonl")) == 4


def test_what_cannot_be_measured_of_one_snapshot_does_not_keep_the_others_from_it(run, capsys):
    command = ["evaluate", str(run), "--metrics", "faces,ms_ssim", "--images", "4"]
    assert main([*command, "--all-snapshots"]) == 0
    assert capsys.readouterr().out.count("Not measured: faces: it takes 250") == 2
    assert len(read_results(run / "metrics.jsonl")) == 2
    assert main(command) == 2


def test_neighbours_are_shown_as_a_picture(run):
    assert main(["evaluate", str(run), "--metrics", "neighbours", "--images", "16"]) == 0
    assert (run / "neighbours-000002.png").read_bytes().startswith(b"\x89PNG")


def test_other_data_and_psi_are_other_results(run, capsys):
    for extra in ([], ["--data", "faces:40"], ["--psi", "0.5"], ["--seed", "1"]):
        assert main(["evaluate", str(run), "--metrics", "swd", "--images", "8", *extra]) == 0
        assert "measured before" not in capsys.readouterr().out
    assert len({result.key for result in read_results(run / "metrics.jsonl")}) == 4


def test_a_file_outside_a_run_is_measured_and_nothing_is_written_beside_it(run, tmp_path, capsys):
    lone = tmp_path / "lone" / "g.safetensors"
    lone.parent.mkdir()
    lone.write_bytes((run / "snapshots" / "generator-000001.safetensors").read_bytes())
    assert main(["evaluate", str(lone), "--metrics", "ms_ssim", "--images", "4"]) == 0
    assert "ms_ssim" in capsys.readouterr().out
    assert [path.name for path in lone.parent.iterdir()] == ["g.safetensors"]
    assert main(["evaluate", str(lone), "--all-snapshots"]) == 2


def test_two_folders(tmp_path, capsys):
    fakes, reals = folder(tmp_path / "fakes", *[(16, 16)] * 4), folder(tmp_path / "reals", *[(16, 16)] * 8)
    assert main(["evaluate", "--fakes", str(fakes), "--reals", str(reals), "--metrics", "swd,diversity"]) == 0
    assert "floor" in capsys.readouterr().out


def test_lines_for_programs(run, capsys):
    assert main(["evaluate", str(run), "--metrics", "ms_ssim,spectrum", "--images", "4", "--json"]) == 0
    records = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [record["metric"] for record in records] == ["ms_ssim", "spectrum"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--metrics", "swdd"], "did you mean `swd`"),
        (["--metrics", "fid"], "--inception"),
        (["--metrics", "fd", "--features", "missing.pt"], "does not exist"),
        (["--metrics", "faces", "--data", "PICTURES"], "portraits"),
        (["--images", "1"], "--images"),
        (["--fakes", "PICTURES"], "go together"),
        (["--fakes", "EMPTY", "--reals", "PICTURES"], "holds no pictures"),
        (["--fakes", "missing", "--reals", "PICTURES"], "does not exist"),
        (["--data", "SMALL"], "smaller than 16x16"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_mistake_is_one_sentence(run, tmp_path, capsys, arguments, words):
    places = {
        "PICTURES": folder(tmp_path / "pictures", *[(16, 16)] * 9),
        "SMALL": folder(tmp_path / "small", *[(8, 8)] * 9),
        "EMPTY": tmp_path / "empty",
    }
    places["EMPTY"].mkdir()
    found = [str(places.get(argument, argument)) for argument in arguments]
    own = [] if "--fakes" in found else [str(run)]
    assert main(["evaluate", *own, *found]) == 2
    error = capsys.readouterr().err
    assert words in error
    assert error.count("\n") == 1


def test_a_frechet_distance_of_few_pictures_is_refused(run, tmp_path, capsys):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch 2.15 deprecates TorchScript
        torch.jit.script(torch.nn.Sequential(Scaling(), torch.nn.Flatten(1))).save(str(tmp_path / "net.pt"))
    command = ["evaluate", str(run), "--features", str(tmp_path / "net.pt"), "--metrics"]
    assert main([*command, "fd", "--images", "4"]) == 2
    assert "fd" in (error := capsys.readouterr().err)
    assert "--images" in error
    assert main([*command, "prdc", "--images", "20"]) == 0
    assert {"precision", "recall_floor"} <= read_results(run / "metrics.jsonl")[0].values.keys()


class Scaling(torch.nn.Module):
    """Pixels to numbers, four a channel."""

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.adaptive_avg_pool2d(pixels.float() / 255, 2)
