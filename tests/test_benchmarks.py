"""The benchmarks run, and say what they promise."""

import importlib.util
import json
import mmap
import subprocess
import sys
import types
import zipfile
from pathlib import Path

import pytest
import torch
from PIL import Image

from progan.config import load
from progan.schedule import stage_of
from progan.training.plan import on_meta

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


def _run(script: str, *arguments: str) -> str:
    command = [sys.executable, str(BENCHMARKS / script), *arguments]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    return result.stdout


def test_the_loader_is_compared_with_the_step(tmp_path, tiny_data):
    out = tmp_path / "x.json"
    short = ("--max-res", "8", "--rounds", "1", "--seconds", "0.1", "--out", str(out))
    text = _run("bench_data.py", "--data", str(tiny_data), *short)
    rows = json.loads(out.read_text())["rows"]
    assert [row["resolution"] for row in rows] == [4, 8]
    assert all(row[key] > 0 for row in rows for key in ("loader", "step", "training", "jpeg"))
    assert all(0 <= row["data_wait"] < 1 for row in rows)
    assert text.splitlines()[0].startswith("| resolution |")
    assert len(text.splitlines()) == 4


def test_preparing_is_counted_and_timed(tmp_path):
    with zipfile.ZipFile(tmp_path / "p.zip", "w") as archive:
        for n in range(3):
            Image.new("RGB", (9, 9), (n, n, n)).save(tmp_path / f"{n}.png")
            archive.write(tmp_path / f"{n}.png", f"{n}.png")
        archive.writestr("x.png", b"")
    head, _, row = _run("bench_prepare.py", f"{tmp_path / 'p.zip'}:8:--crop pad", "--workers", "0,1").splitlines()
    assert head == "| source | in | out | skipped | 0 workers | 1 worker |"
    assert row.startswith("| p.zip to 8x8 `--crop pad` | 4 | 3 | 1 empty file | ")


def test_the_plain_way_to_the_swd_is_compared(tmp_path):
    pytest.importorskip("scipy")
    out = tmp_path / "swd.json"
    sizes = ["--images", "4", "--method-images", "4", "--res", "16", "--threads", "1"]
    _run("bench_swd.py", *sizes, "--out", str(out))
    assert json.loads(out.read_text())


def test_both_forms_of_the_generator_are_compared(tmp_path):
    out = tmp_path / "x.json"
    small = ("--max-res", "8", "--set", "networks.fmap_max=8", "--batch", "3", "--device", "cpu")
    text = _run("bench_generate.py", *small, "--threads", "1", "--seconds", "0.05", "--out", str(out))
    result = json.loads(out.read_text())
    assert result["threads"] == 1
    assert [(row["resolution"], row["batch"]) for row in result["rows"]] == [(4, 3), (8, 3)]
    assert all(row[key] > 0 for row in result["rows"] for key in ("readable_ms", "compact_ms", "readable", "compact"))
    assert all(row["difference"] < 1e-5 for row in result["rows"])
    assert text.splitlines()[0].startswith("| resolution |")
    assert len(text.splitlines()) == 4


# --- a step ---


@pytest.fixture
def bench_step(monkeypatch):
    """The script as a module, whose peaks are quickly found."""
    spec = importlib.util.spec_from_file_location("bench_step", BENCHMARKS / "bench_step.py")
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "bench_step", module)
    spec.loader.exec_module(module)
    monkeypatch.setitem(module.GEMMS, "cpu", (64,))
    monkeypatch.setitem(module.CONVS, "cpu", ((2, 8, 8),))
    return module


NARROW = ("growth.max_res=16", "networks.fmap_base=64", "networks.fmap_max=8", "networks.latent_size=8")


def _case(module, *knobs: str, stage: int = 2, fading: bool = True, batch: int = 8):
    return module.Case(load(None, [*NARROW, *knobs]), torch.device("cpu"), stage, fading, batch)


@pytest.mark.parametrize(
    ("resolution", "plain", "strided"),
    [
        (4, 1.34, 1.34),
        (8, 12.2, 9.2),
        (16, 55.7, 40.6),
        (32, 230, 166),
        (64, 491, 331),
        (128, 752, 495),
        (256, 1013, 659),
        (1024, 1536, 989),
    ],
)
def test_the_least_work_at_official_widths(bench_step, resolution, plain, strided):
    """GF an image, reckoned by hand from the passes of each layer."""
    G, D = on_meta(load())
    stage = stage_of(resolution)
    found = [bench_step.minimum_flops(G, D, stage, False, s) / 1e9 for s in (False, True)]
    assert found == pytest.approx([plain, strided], rel=0.005)


def test_the_least_work_at_4x4_to_the_last_product(bench_step):
    G, D = on_meta(load())
    rgb, dense, conv = 3 * 512 * 16, 512 * 512 * 16, 512 * 512 * 9 * 16
    g, d = dense + conv + rgb, rgb + conv * 513 // 512 + 8192 * 512 + 512
    assert bench_step.minimum_flops(G, D, 0, False, True) == 2 * (4 * g + 12 * d - dense - rgb)


@pytest.mark.parametrize(
    ("stage", "fading", "knob"),
    [
        (0, False, "networks.d_pool=before"),
        (1, True, "networks.d_pool=before"),
        (2, False, "networks.d_pool=before"),
        (1, False, "networks.d_pool=after"),
        (1, True, "networks.mbstd_group=0"),
    ],
)
def test_the_least_work_is_what_the_written_out_step_does(bench_step, stage, fading, knob):
    wide = ("networks.fmap_base=512", "networks.fmap_max=64", knob)
    case = _case(bench_step, *wide, stage=stage, fading=fading, batch=4)
    least = 4 * bench_step.minimum_flops(*on_meta(case.config), stage, fading, True)
    counted = bench_step.counted_flops(bench_step.start("eager-plain", case))
    assert 1 <= counted / least < 1.05
    assert bench_step.counted_flops(bench_step.start("readable", case)) > 1.05 * counted


def test_flops_are_two_a_product(bench_step):
    a, b = torch.randn(2, 3), torch.randn(3, 5)
    assert bench_step.counted_flops(lambda: a @ b) == 2 * 2 * 3 * 5


def test_products_that_torch_does_not_know_are_counted(bench_step):
    x, kernels, direct = torch.randn(2, 8, 8, 12), torch.randn(36, 4, 8), 2 * 9 * 2 * 4 * 8 * 8 * 12
    ops = torch.ops.progan
    assert bench_step.counted_flops(lambda: ops.winograd(x, kernels, None, False)) == direct / 4
    assert bench_step.counted_flops(lambda: ops.winograd_gradient(torch.randn(2, 4, 8, 12), x)) == direct / 4
    linear = torch.ops.mkldnn._linear_pointwise
    x, weight = torch.randn(5, 3), torch.randn(7, 3)
    assert bench_step.counted_flops(lambda: linear(x, weight, None, "none", [], "")) == 2 * 5 * 3 * 7


def test_a_contestant_can_have_constants_of_its_own(bench_step):
    seen, module = [], types.ModuleType("module")
    module.SIZE = 1

    def gradients(x):
        seen.append((x, module.SIZE))

    way = bench_step.having(bench_step.Steps(gradients, gradients), module, SIZE=5)
    way.d_gradients("D")
    way.g_gradients("G")
    assert (seen, module.SIZE) == ([("D", 5), ("G", 5)], 1)


def test_contestants_take_turns(bench_step, monkeypatch):
    """A B A B ..., as many iterations a turn as the seconds hold, one at least."""
    ran = []
    times = {"a": 1.0, "b": 20.0}

    def elapsed(run, count, device):
        ran.append((run, count))
        return times[run]

    monkeypatch.setattr(bench_step, "elapsed", elapsed)
    found = bench_step.in_turns({"a": "a", "b": "b"}, 2, 10.0, torch.device("cpu"))
    assert ran == [("a", 1), ("b", 1), ("a", 10), ("b", 1), ("a", 10), ("b", 1)]
    assert found == {"a": [1, 1], "b": [20, 20]}


def test_a_row_compares_within_rounds(bench_step):
    row = bench_step.row("b", _case(bench_step), {"a": [4.0, 12.0, 5.0], "b": [2.0, 3.0, 1.0]})
    assert (row["seconds"], row["spread"], row["speedup"], row["images_per_sec"]) == (2, 0.5, 4, 4)
    assert (row["resolution"], row["phase"], row["batch"]) == (16, "fading", 8)
    shares = bench_step.shares(row | {"flops": row["minimum_flops"] * 2}, row["minimum_flops"])
    assert (shares["busy"], shares["useful"]) == (1, 0.5)


def test_who_cannot_run_is_skipped_with_the_reason(bench_step, monkeypatch):
    monkeypatch.setitem(sys.modules, "pro_gan_pytorch", None)
    case = _case(bench_step)
    with pytest.raises(bench_step.Unavailable, match="pip install --no-deps pro-gan-pth"):
        bench_step.start("pro-gan-pth", case)
    with pytest.raises(bench_step.Unavailable, match="needs CUDA"):
        bench_step.start("graphs", case)

    def fails(error):
        def begin(case):
            raise error

        return begin

    monkeypatch.setitem(bench_step.CONTESTANTS, "large", fails(torch.OutOfMemoryError("full")))
    monkeypatch.setitem(bench_step.CONTESTANTS, "wrong", fails(RuntimeError("a defect")))
    monkeypatch.setitem(bench_step.PEERS, "old", fails(TypeError("two arguments")))
    with pytest.raises(bench_step.Unavailable, match="out of memory"):
        bench_step.start("large", case)
    with pytest.raises(bench_step.Unavailable, match="breaks: TypeError: two arguments"):
        bench_step.start("old", case)
    with pytest.raises(RuntimeError, match="a defect"):
        bench_step.start("wrong", case)


@pytest.mark.parametrize("fading", [False, True])
def test_the_peer_trains_networks_of_our_widths(bench_step, fading):
    pytest.importorskip("pro_gan_pytorch", reason="pip install --no-deps pro-gan-pth==3.4")
    for stage in (1, 2):
        case = _case(bench_step, stage=stage, fading=fading)
        counted = bench_step.counted_flops(bench_step.start("pro-gan-pth", case))
        assert 1 < counted / 8 / bench_step.minimum_flops(*on_meta(case.config), stage, fading, False) < 1.4


def test_every_contestant_runs(bench_step):
    for name in bench_step.CONTESTANTS.keys() - {"compiled", "graphs"}:
        bench_step.start(name, _case(bench_step))()


def test_the_step_is_measured(bench_step, monkeypatch, tmp_path, capsys):
    out = tmp_path / "x.json"
    knobs = [part for knob in NARROW for part in ("--set", knob)]
    short = ["--rounds", "2", "--seconds", "0.01", "--no-memory", "--max-batch", "4", "--device", "cpu"]
    who = ["--resolutions", "4,8", "--contestants", "readable,eager,graphs"]
    monkeypatch.setattr(sys, "argv", ["some/where/bench_step.py", *knobs, *short, *who, "--out", str(out)])
    bench_step.main()
    result, lines = json.loads(out.read_text()), capsys.readouterr().out.splitlines()
    found = [(row["resolution"], row["phase"], row["contestant"], row["batch"]) for row in result["rows"]]
    assert found == [
        (r, phase, name, 4)
        for r, phase in ((4, "stable"), (8, "stable"), (8, "fading"))
        for name in ("readable", "eager")
    ]
    assert all(len(row["rounds"]) == 2 and row["seconds"] > 0 for row in result["rows"])
    assert [row["speedup"] for row in result["rows"]][::2] == [1, 1, 1]
    assert {"date", "cpu", "cores", "threads", "torch", "engine", "precision"} < result.keys()
    assert result["command"].startswith("bench_step.py --set")
    assert min(result["peaks"].values()) > 0
    assert len([line for line in lines if line.startswith("| ")]) == 7
    assert lines[-1].startswith("skipped at 4, 8: graphs: training.engine graphs needs CUDA")


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells")
def test_memory_is_measured_by_the_script_itself(bench_step, monkeypatch, capsys):
    """The process that is to be started is played here: it gets the same configuration, and prints bytes last."""
    given = ["--config", "quickstart", "--max-res", "16", "--set", "networks.fmap_max=32", "--device", "cpu"]
    monkeypatch.setattr(sys, "argv", ["bench_step.py", *given])
    options = bench_step.parsed()

    def play(command, **_):
        assert command[:2] == [sys.executable, str(BENCHMARKS / "bench_step.py")]
        monkeypatch.setattr(sys, "argv", command[1:])
        bench_step.main()
        return subprocess.CompletedProcess(command, 0, "something else\n" + capsys.readouterr().out)

    def use_memory():
        with mmap.mmap(-1, 10**8) as memory:
            for page in range(0, len(memory), mmap.PAGESIZE):
                memory[page] = 1

    monkeypatch.setattr(subprocess, "run", play)
    started = []
    monkeypatch.setattr(bench_step, "start", lambda name, case: started.append((name, case)) or use_memory)
    case = bench_step.Case(options.case_config, torch.device("cpu"), 1, True, 8)
    assert 0.9e8 < bench_step.memory("eager", case, options) < 1.5e8
    assert started == [("eager", case)]


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--contestants", "readable,fast"], "there is no fast"),
        (["--phases", "stabel"], "did you mean `stable`?"),
        (["--resolutions", "12"], "12 is not a power of two"),
        (["--resolutions", "64", "--max-res", "32"], "the networks end at 32x32; see --max-res"),
        (["--config", "quikstart"], "did you mean `quickstart`?"),
    ],
)
def test_what_cannot_be_measured_is_said(bench_step, monkeypatch, capsys, arguments, sentence):
    monkeypatch.setattr(sys, "argv", ["bench_step.py", *arguments])
    with pytest.raises(SystemExit):
        bench_step.main()
    assert sentence in capsys.readouterr().err
