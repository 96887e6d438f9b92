"""The loop: a run that was stopped anywhere ends as one that was not, to the bit; and every way it can end early."""

from __future__ import annotations

import json
import os
import shutil
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from progan import config as config_module
from progan.config import Config
from progan.console import Console
from progan.data.loader import Step, Supply, Take
from progan.data.order import batch_indices
from progan.data.pyramid import LABELS, MANIFEST, level_name
from progan.errors import RunFailed, UserError
from progan.training import checkpoint, loop, plan, steps

CPU = torch.device("cpu")
Tiny = Callable[..., Config]


def changed_pyramid(pyramid: Path, folder: Path, **about: Any) -> Path:
    """A copy whose manifest says something else."""
    shutil.copytree(pyramid, folder)
    manifest = json.loads((folder / MANIFEST).read_text()) | about
    (folder / MANIFEST).write_text(json.dumps(manifest))
    return folder


@pytest.fixture
def labelled(tiny_data: Path, tmp_path: Path) -> Path:
    """The tiny data in three classes: 5 round, 15 long, 30 oval."""
    names = ["round", "long", "oval"]
    folder = changed_pyramid(tiny_data, tmp_path / "labelled", labels={"names": names, "size": 3})
    np.save(folder / LABELS, np.repeat(np.arange(3), [5, 15, 30])[np.random.default_rng(0).permutation(50)])
    return folder


def final_state(folder: Path) -> dict[str, Any]:
    return checkpoint.load(checkpoint.listed(folder / "checkpoints")[-1])["state"]


def assert_same(a: Any, b: Any, where: str = "state") -> None:
    """Equal to the bit, through nested containers."""
    assert type(a) is type(b), where
    if isinstance(a, torch.Tensor):
        assert a.dtype == b.dtype, where
        assert torch.equal(a, b), where
    elif isinstance(a, dict):
        assert a.keys() == b.keys(), where
        for key in a:
            assert_same(a[key], b[key], f"{where}.{key}")
    elif isinstance(a, list | tuple):
        assert len(a) == len(b), where
        for i, (x, y) in enumerate(zip(a, b)):
            assert_same(x, y, f"{where}[{i}]")
    else:
        assert a == b, where


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory, tiny_data: Path) -> Path:
    """The tiny training, uninterrupted."""
    from tests.conftest import TINY

    folder = tmp_path_factory.mktemp("reference") / "run"
    config = config_module.load(None, [*TINY, f"data.source={tiny_data}"])
    assert loop.train(config, folder, CPU, None, Console(live_sec=1e9)) == 0
    return folder


@pytest.mark.parametrize("stops", [[0.24], [0.16], [0.32], [0.008, 0.56, 0.6]], ids=str)
def test_a_stopped_run_ends_as_an_unstopped_one(
    stops: list[float], reference: Path, tiny: Tiny, tmp_path: Path, quiet: Console
) -> None:
    """In mid-fade, at the end of a phase, after a single step, several times."""
    run = tmp_path / "run"
    for kimg in [*stops, None]:
        assert loop.train(tiny(), run, CPU, kimg, quiet) == 0
    assert_same(final_state(run), final_state(reference))


def test_the_state_depends_on_the_seed(reference: Path, tiny: Tiny, tmp_path: Path, quiet: Console) -> None:
    loop.train(tiny("training.seed=1"), tmp_path / "run", CPU, None, quiet)
    with pytest.raises(AssertionError):
        assert_same(final_state(tmp_path / "run"), final_state(reference))


def test_work_after_the_last_checkpoint_is_repeated_exactly(
    reference: Path, tiny: Tiny, tmp_path: Path, quiet: Console
) -> None:
    """What kill -9 leaves: a checkpoint, and statistics that go beyond it."""
    run = tmp_path / "run"
    loop.train(tiny(), run, CPU, 0.4, quiet)
    for path in checkpoint.listed(run / "checkpoints")[1:]:
        path.unlink()
    kept = json.loads((run / "stats.jsonl").read_text().splitlines()[-1])["nimg"]
    assert checkpoint.load(checkpoint.listed(run / "checkpoints")[-1])["state"]["cur_nimg"] < kept
    loop.train(tiny(), run, CPU, None, quiet)
    assert_same(final_state(run), final_state(reference))
    numbers = [json.loads(line)["nimg"] for line in (run / "stats.jsonl").read_text().splitlines()]
    assert numbers == sorted(set(numbers))


def test_the_machine_may_change_between_two_runs(reference: Path, tiny: Tiny, tmp_path: Path, quiet: Console) -> None:
    """Micro-batches and tick settings leave the result alone (micro-batches up to rounding)."""
    run = tmp_path / "run"
    loop.train(tiny(), run, CPU, 0.24, quiet)
    changed = tiny("training.micro_batch=4", "logging.tick_kimg=0.05", "logging.keep=1", "logging.checkpoint_ticks=1")
    loop.train(changed, run, CPU, 0.32, quiet)
    there = tmp_path / "there"
    loop.train(tiny(), there, CPU, 0.32, quiet)
    a, b = final_state(run), final_state(there)
    assert a["cur_nimg"] == b["cur_nimg"]
    for key, value in b["D"].items():
        torch.testing.assert_close(a["D"][key], value, rtol=1e-2, atol=1e-2)
    assert len(checkpoint.listed(run / "checkpoints")) == 1


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_finishes_the_step_saves_and_says_how_to_go_on(
    number: signal.Signals, reference: Path, tiny: Tiny, tmp_path: Path, quiet: Console, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, done, original = tmp_path / "run", [], loop.iteration

    def iteration(*arguments: Any) -> Any:
        done.append(1)
        if len(done) == 33:  # in the first fade
            os.kill(os.getpid(), number)
        return original(*arguments)

    monkeypatch.setattr(loop, "iteration", iteration)
    before = signal.getsignal(number)
    assert loop.train(tiny(), run, CPU, None, quiet) == 128 + number
    assert signal.getsignal(number) is before
    assert len(done) == 33
    assert final_state(run)["cur_nimg"] == 33 * 8
    assert "the same command goes on" in quiet.stream.getvalue()  # type: ignore[attr-defined]
    monkeypatch.undo()
    assert loop.train(tiny(), run, CPU, None, quiet) == 0
    assert_same(final_state(run), final_state(reference))


def test_a_loss_that_is_not_finite_stops_the_run_and_keeps_the_checkpoint(
    tiny: Tiny, tmp_path: Path, quiet: Console, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "run"
    loop.train(tiny(), run, CPU, 0.16, quiet)
    good = {p.name: p.read_bytes() for p in checkpoint.listed(run / "checkpoints")}
    monkeypatch.setattr(loop, "to_images", lambda pixels: pixels.float() * float("inf"))
    with pytest.raises(RunFailed, match=r"at 0\.160 kimg: .* is not finite.*checkpoint-000000000160\.pt"):
        loop.train(tiny(), run, CPU, None, quiet)
    assert {p.name: p.read_bytes() for p in checkpoint.listed(run / "checkpoints")} == good


def test_on_an_accelerator_the_tick_finds_what_is_not_finite(
    tiny: Tiny, tmp_path: Path, quiet: Console, monkeypatch: pytest.MonkeyPatch
) -> None:
    """There no step looks at its own numbers; nothing spoilt is saved all the same, not even when stopped."""
    run = tmp_path / "run"
    monkeypatch.setattr(steps, "_checked_norm", lambda *_: torch.tensor(float("nan")))
    with pytest.raises(RunFailed, match=r"norm_D is not finite\. The state was not saved; there is no checkpoint yet"):
        loop.train(tiny(), run, CPU, None, quiet)
    assert not checkpoint.listed(run / "checkpoints")


def test_what_does_not_fit_at_all_is_one_sentence_with_the_knobs(
    tiny: Tiny, tmp_path: Path, quiet: Console, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop, "measure", lambda *_: None)
    with pytest.raises(RunFailed, match=r"4 images of \d+x\d+ do not fit .*--max-res.*networks.fmap_max.*mbstd_group"):
        loop.train(tiny(), tmp_path / "run", CPU, None, quiet)


def test_engines_train_the_same_networks(tiny: Tiny, tmp_path: Path, quiet: Console, reference: Path) -> None:
    """To rounding, which Adam's first steps after each reset enlarge, over a whole run with fades; and one engine may
    go on where another stopped.
    """
    run = tmp_path / "run"
    loop.train(tiny("training.engine=readable"), run, CPU, 0.32, quiet)
    loop.train(tiny("training.engine=eager"), run, CPU, None, quiet)
    mixed, pure = (torch.cat([w.flatten() for w in final_state(f)["G_ema"].values()]) for f in (run, reference))
    assert 0 < (mixed - pure).norm() < 0.01 * pure.norm()


def test_a_run_of_other_settings_is_refused_with_the_fields(reference: Path, tiny: Tiny, quiet: Console) -> None:
    with pytest.raises(UserError, match=r"training\.lr was .* is now 0\.5.*--fresh"):
        loop.train(tiny("training.lr=0.5"), reference, CPU, None, quiet)


def test_a_run_on_other_data_is_refused(
    reference: Path, tiny: Tiny, tiny_data: Path, tmp_path: Path, quiet: Console
) -> None:
    changed_pyramid(tiny_data, tmp_path / "other", fingerprint="another")
    with pytest.raises(UserError, match="other data"):
        loop.train(tiny(f"data.source={tmp_path / 'other'}"), reference, CPU, None, quiet)


def test_the_same_data_may_move(reference: Path, tiny: Tiny, tiny_data: Path, tmp_path: Path, quiet: Console) -> None:
    shutil.copytree(tiny_data, tmp_path / "moved")
    assert loop.train(tiny(f"data.source={tmp_path / 'moved'}"), reference, CPU, None, quiet) == 0
    assert "already" in quiet.stream.getvalue()  # type: ignore[attr-defined]


def test_damaged_checkpoints_are_skipped_by_name(reference: Path, tiny: Tiny, tmp_path: Path, quiet: Console) -> None:
    run = tmp_path / "run"
    loop.train(tiny(), run, CPU, 0.48, quiet)
    newest = checkpoint.listed(run / "checkpoints")[-1]
    newest.write_bytes(newest.read_bytes()[:1000])
    (run / "checkpoints" / "checkpoint-000099999999.pt").write_text("foreign")
    loop.train(tiny(), run, CPU, None, quiet)
    said = quiet.stream.getvalue()  # type: ignore[attr-defined]
    assert newest.name in said
    assert "checkpoint-000099999999.pt" in said
    assert_same(final_state_before_foreign(run), final_state(reference))


def final_state_before_foreign(run: Path) -> dict[str, Any]:
    paths = [p for p in checkpoint.listed(run / "checkpoints") if p.stat().st_size > 100]
    return checkpoint.load(paths[-1])["state"]


def test_the_run_directory_holds_what_people_look_for(reference: Path) -> None:
    present = {p.name for p in reference.iterdir()}
    expected = {"config.toml", "environment.json", "log.txt", "stats.jsonl", "checkpoints", "snapshots", "growth.gif"}
    assert expected | {"reals-0004.png", "reals-0008.png", "reals-0016.png", "fakes-000000.png"} <= present
    assert any(name.startswith("events.out.tfevents") for name in present)
    assert (reference / "snapshots" / "generator-final.safetensors").is_file()
    assert len(checkpoint.listed(reference / "checkpoints")) == 3


def test_kimg_beyond_the_schedule_trains_on_at_full_size(tiny: Tiny, tmp_path: Path, quiet: Console) -> None:
    run = tmp_path / "run"
    loop.train(tiny(), run, CPU, 0.88, quiet)
    assert final_state(run)["cur_nimg"] == 880


def test_d_repeats_shows_new_images_at_every_d_step(tiny: Tiny, tmp_path: Path, quiet: Console) -> None:
    """Two D steps a G step: G's optimizer counts half as many steps."""
    run = tmp_path / "run"
    loop.train(tiny("training.d_repeats=2"), run, CPU, 0.16, quiet)
    state = final_state(run)
    steps = {name: next(iter(state[name]["state"].values()))["step"].item() for name in ("opt_G", "opt_D")}
    assert steps == {"opt_G": 10, "opt_D": 20}


def test_adam_is_reset_at_both_ends_of_a_fade(tiny: Tiny, tmp_path: Path, quiet: Console) -> None:
    run, counts = tmp_path / "run", {}
    for nimg in (160, 168, 176, 320, 328):
        loop.train(tiny(), run, CPU, nimg / 1000, quiet)
        states = final_state(run)["opt_D"]["state"]
        counts[nimg] = max((s["step"].item() for s in states.values()), default=0)
    # At 160 the 4x4 phase still holds (a fade begins after its first image); the step from 160 to 168 is its last.
    assert counts == {160: 20, 168: 0, 176: 1, 320: 0, 328: 1}


def test_a_checkpoint_of_another_run_is_skipped_and_its_difference_named(
    reference: Path, tiny: Tiny, tmp_path: Path, quiet: Console
) -> None:
    run, other = tmp_path / "run", tmp_path / "other"
    loop.train(tiny(), run, CPU, 0.24, quiet)
    loop.train(tiny("training.seed=7"), other, CPU, 0.4, quiet)
    foreign = checkpoint.listed(other / "checkpoints")[-1]
    shutil.copy(foreign, run / "checkpoints" / foreign.name)
    assert loop.train(tiny(), run, CPU, None, quiet) == 0
    assert "other settings: training.seed" in quiet.stream.getvalue()  # type: ignore[attr-defined]
    assert_same(final_state(run), final_state(reference))


def test_the_plan_of_micro_batches_does_not_depend_on_the_memory_of_the_moment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else a run that goes on beside another one would cut its batches otherwise, and round its sums otherwise."""
    import psutil

    from progan.devices import usable_bytes

    before = usable_bytes(CPU)
    memory = psutil.virtual_memory()
    monkeypatch.setattr(psutil, "virtual_memory", lambda: memory._replace(available=0, free=0))
    assert usable_bytes(CPU) == before > 0


def test_the_same_run_is_not_trained_twice_at_once(tiny: Tiny, tmp_path: Path, quiet: Console) -> None:
    from progan.training import rundir

    run = tmp_path / "run"
    with rundir.held(run), pytest.raises(UserError, match="is being trained by another process"):
        loop.train(tiny(), run, CPU, None, quiet)
    assert loop.train(tiny(), run, CPU, 0.08, quiet) == 0


def test_what_a_killed_process_left_half_written_is_removed(tiny: Tiny, tmp_path: Path, quiet: Console) -> None:
    run = tmp_path / "run"
    loop.train(tiny(), run, CPU, 0.08, quiet)
    (run / "checkpoints" / ".checkpoint-000000000160.pt.abcd.tmp").write_text("half")
    loop.train(tiny(), run, CPU, 0.16, quiet)
    assert not list((run / "checkpoints").glob(".*"))


def test_a_strange_picture_in_the_run_directory_stops_nothing(tiny: Tiny, tmp_path: Path, quiet: Console) -> None:
    run = tmp_path / "run"
    loop.train(tiny(), run, CPU, 0.08, quiet)
    (run / "fakes-mine.png").write_text("a note")
    (run / "fakes-000777.png").write_text("damaged")
    assert loop.train(tiny(), run, CPU, 0.16, quiet) == 0
    assert final_state(run)["cur_nimg"] == 160


def test_a_disk_that_refuses_the_log_is_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tiny_data: Path
) -> None:
    from progan.commands import main
    from progan.training.runlog import RunLog
    from tests.conftest import TINY

    def refuse(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(RunLog, "scalars", refuse)
    knobs = [part for knob in (*TINY, f"data.source={tiny_data}") for part in ("--set", knob)]
    assert main(["train", "--out", str(tmp_path / "run"), *knobs]) == 2
    assert "No space left on device" in capsys.readouterr().err


def test_the_penalty_is_that_of_the_final_resolution(tiny: Tiny, quiet: Console) -> None:
    """Also where the schedule spends no image there."""
    config = tiny("growth.final_kimg=0", "growth.fade_kimg.16=0")
    job = loop.open_job(config, CPU, quiet)
    assert loop.critic_loss(job, job.schedule.at(0)).scale == 0.25
    assert loop.critic_loss(job, job.schedule.at(10**9)).scale == 0.5


def test_the_average_takes_g_from_before_its_update(tiny: Tiny, quiet: Console) -> None:
    """With a beta of 0 the average is G itself: after one iteration the G that the D step saw, not the moved one."""
    job = loop.open_job(tiny("training.ema_beta=0"), CPU, quiet)
    state = plan.first_state(job.config, job.device)
    before = {key: value.clone() for key, value in state.G.state_dict().items()}
    loop.iteration(job, state, job.schedule.at(0))
    assert_same(dict(state.G_ema.state_dict()), before)
    assert not torch.equal(state.G.state_dict()["rgb.4x4.weight"], before["rgb.4x4.weight"])


def test_d_is_shown_real_images_that_fade_too(tiny: Tiny, quiet: Console) -> None:
    from progan.images import fade_reals, to_images

    job = loop.open_job(tiny("data.mirror=false"), CPU, quiet)
    point = job.schedule.at(200)
    assert (point.resolution, point.alpha) == (8, 0.25)
    (part,) = loop.d_parts(job, job.supply.now(Step(200, 8, 8)), point, loop.where_of(job, point))
    plain = to_images(job.data.batch(batch_indices(1000, 200, 8, 50), 8))
    torch.testing.assert_close(part.reals, fade_reals(plain, 0.25), rtol=0, atol=0)
    assert (part.reals - plain).abs().max() > 0.01


# --- inputs that are read ahead ---


class NoLoader:
    """In place of the loader: every step reads its own inputs when it needs them."""

    def __init__(self, supply: Supply, _steps: object) -> None:
        self.take: Take = supply.now

    def __enter__(self) -> NoLoader:
        return self

    def __exit__(self, *_: object) -> None:
        return None


KNOBS = {
    "plain": (),
    "d_repeats": ("training.d_repeats=3",),
    "micro-batches": ("training.micro_batch=4", "data.dequantise=true"),
    "balanced": ("data.balance=true", "data.labels=long,round", "data.max_images=14"),
}


@pytest.mark.parametrize(
    "knobs",
    [
        "plain",
        "micro-batches",
        pytest.param("balanced", marks=pytest.mark.slow),
        pytest.param("d_repeats", marks=pytest.mark.slow),
    ],
)
def test_reading_ahead_changes_nothing(
    knobs: str, tiny: Tiny, labelled: Path, tmp_path: Path, quiet: Console, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ahead and stopped in mid-fade and gone on with; ahead and from the disk; and not ahead: one result."""
    config = tiny(f"data.source={labelled}", "growth.stable_kimg=0.08", "growth.fade_kimg=0.08", *KNOBS[knobs])
    folders = [tmp_path / name for name in ("ahead", "disk", "not")]
    for kimg in (0.12, 0.128, 0.36):  # of 0.32 the last fade ends
        assert loop.train(config, folders[0], CPU, kimg, quiet) == 0
    monkeypatch.setattr(loop, "page_cache_room", lambda: 0.0)
    assert loop.train(config, folders[1], CPU, 0.36, quiet) == 0
    monkeypatch.undo()
    monkeypatch.setattr(loop, "Loader", NoLoader)
    assert loop.train(config, folders[2], CPU, 0.36, quiet) == 0
    for folder in folders[1:]:
        assert_same(final_state(folders[0]), final_state(folder))


def test_data_that_vanishes_ends_the_run_with_a_sentence(
    tiny: Tiny, tiny_data: Path, tmp_path: Path, quiet: Console, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(tiny_data, tmp_path / "data")
    config = tiny(f"data.source={tmp_path / 'data'}")
    run, original = tmp_path / "run", loop.iteration

    def iteration(job: Any, state: Any, *more: Any) -> Any:
        (tmp_path / "data" / level_name(8)).unlink(missing_ok=True)
        return original(job, state, *more)

    monkeypatch.setattr(loop, "page_cache_room", lambda: 0.0)
    loop.train(config, run, CPU, 0.08, quiet)
    monkeypatch.setattr(loop, "iteration", iteration)
    threads = threading.active_count()
    with pytest.raises(RunFailed, match=r"at 0\.168 kimg: .*0008x0008\.npy cannot be read any more .*000000160\.pt"):
        loop.train(config, run, CPU, None, quiet)
    assert threading.active_count() == threads


def test_the_wait_for_data_is_measured(tiny: Tiny, quiet: Console, monkeypatch: pytest.MonkeyPatch) -> None:
    """The time until the inputs are there, for every D step of an iteration, and not that of making images of them."""
    job = loop.open_job(tiny("training.d_repeats=3"), CPU, quiet)
    state, original = plan.first_state(job.config, job.device), loop.d_parts

    def after(seconds: float, work: Callable[..., Any]) -> Callable[..., Any]:
        return lambda *arguments: (time.sleep(seconds), work(*arguments))[1]

    monkeypatch.setattr(loop, "d_parts", after(0.2, original))
    start = time.perf_counter()
    _, waited = loop.iteration(job, state, job.schedule.at(0), after(0.1, job.supply.now))
    assert 0.3 <= waited <= time.perf_counter() - start - 0.6


def test_dequantised_pictures_are_what_d_is_shown(tiny: Tiny, quiet: Console) -> None:
    """Noise of one grey level, before the mirror and the fade."""
    from progan.images import dequantise, mirror

    job = loop.open_job(tiny("data.dequantise=true"), CPU, quiet)
    point, inputs = job.schedule.at(0), job.supply.now(Step(0, 8, 4))
    (part,) = loop.d_parts(job, inputs, point, loop.where_of(job, point))
    plain = job.data.batch(batch_indices(1000, 0, 8, 50), 4)
    assert inputs.noise is not None
    assert inputs.flips is not None
    assert torch.equal(part.reals, mirror(dequantise(plain, inputs.noise), inputs.flips))
    grey = mirror((part.reals + 1) * 127.5 - plain, torch.zeros(8, dtype=torch.bool))
    assert grey[~inputs.flips].abs().max() <= 0.5001


def test_micro_batches_show_the_same_pictures(tiny: Tiny, quiet: Console) -> None:
    def samples(micro_batch: int) -> dict[tuple[float, ...], torch.Tensor]:
        job = loop.open_job(tiny(f"training.micro_batch={micro_batch}", "data.dequantise=true"), CPU, quiet)
        point = job.schedule.at(0)
        parts = loop.d_parts(job, job.supply.now(Step(0, 8, 4)), point, loop.where_of(job, point))
        assert len(parts) == 8 // micro_batch
        return {tuple(z.tolist()): x for part in parts for z, x in zip(part.latents, part.reals)}

    whole, cut = samples(8), samples(4)
    assert whole.keys() == cut.keys()
    assert all(torch.equal(whole[z], cut[z]) for z in whole)


def test_a_run_says_which_pictures_it_uses(tiny: Tiny, labelled: Path, tiny_data: Path, quiet: Console) -> None:
    def said(*overrides: str) -> str:
        return loop.pictures_in_use(loop.open_job(tiny(*overrides), CPU, quiet))

    assert said() == f"50 pictures of {tiny_data}"
    assert said("data.max_images=7") == f"7 of the 50 pictures of {tiny_data}"
    there = f"data.source={labelled}"
    assert said(there, "data.labels=round,long") == f"20 of the 50 pictures of {labelled} (only long, round)"
    assert said(there, "data.balance=true") == f"50 pictures of {labelled} (each class equally often)"
    both = said(there, "data.labels=round", "data.balance=true", "data.max_images=3")
    assert both == f"3 of the 50 pictures of {labelled} (only round; each class equally often)"


def test_classes_of_data_without_any_are_refused_before_anything_is_written(
    tiny: Tiny, labelled: Path, tmp_path: Path, quiet: Console
) -> None:
    for config, message in [
        (tiny("data.labels=round"), "data.labels asks for classes, but the data has no labels"),
        (tiny("data.balance=true"), "data.balance asks for classes, but the data has no labels"),
        (tiny(f"data.source={labelled}", "data.labels=ovall"), "no class `ovall`; did you mean `oval`"),
    ]:
        with pytest.raises(UserError, match=message):
            loop.train(config, tmp_path / "run", CPU, None, quiet)
    assert not (tmp_path / "run").exists()


# --- other techniques ---

SHORT = ("growth.max_res=16", "growth.stable_kimg=0.04", "growth.fade_kimg=0.04", "growth.final_kimg=0.04")
FIXED = ("growth.final_kimg=0.12", "loss.penalty=none", "networks.mbstd_group=0", "training.lr=0.0002")
TECHNIQUES = {
    "spectral": (
        *SHORT, "networks.g_weights=spectral", "networks.d_weights=spectral", "networks.attention=8", "loss.kind=hinge",
        "loss.penalty=none", "training.lr=0.0001", "training.d_lr_ratio=4", "training.reset_optimizers=false",
    ),
    "batch norm": (
        *FIXED, "networks.family=dcgan", "networks.g_norm=batch", "networks.d_norm=batch", "networks.g_weights=plain",
        "networks.d_weights=plain", "networks.init=normal", "networks.output=tanh", "loss.kind=bce",
        "training.adam_beta1=0.5",
    ),
    "strict": (
        *FIXED, "networks.family=dcgan", "networks.g_weights=weightnorm-strict", "networks.g_norm=none",
        "networks.d_weights=weightnorm-strict", "networks.g_activation=tprelu", "networks.d_activation=tprelu",
        "networks.init=uniform", "networks.output=sigmoid", "loss.kind=lsgan", "training.optimizer=rmsprop",
        "training.decay=linear", "training.decay_from=0.3",
    ),
    "lazy and clipped": (
        *SHORT, "loss.kind=logistic", "loss.penalty=r1", "loss.r1_interval=3", "loss.clip=0.1", "training.d_repeats=2",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", TECHNIQUES)
def test_a_stopped_run_with_other_techniques_ends_as_an_unstopped_one(
    name: str, tiny: Tiny, tmp_path: Path, quiet: Console
) -> None:
    """In mid-fade too, and with reads ahead: u and v, batch statistics, moments, and the lazy penalty's turn."""
    config = tiny(*TECHNIQUES[name])
    for folder, stops in (("straight", [None]), ("stopped", [0.056, 0.104, None])):
        for kimg in stops:
            assert loop.train(config, tmp_path / folder, CPU, kimg, quiet) == 0
    straight, stopped = (final_state(tmp_path / folder) for folder in ("straight", "stopped"))
    assert straight["cur_nimg"] >= 120
    assert_same(stopped, straight)
    assert "Note: " not in quiet.stream.getvalue()  # type: ignore[attr-defined]


def test_doubts_are_said_once(tiny: Tiny, tmp_path: Path, quiet: Console) -> None:
    config = tiny("loss.penalty=none")
    for kimg in (0.008, 0.016):
        loop.train(config, tmp_path / "run", CPU, kimg, quiet)
    said = quiet.stream.getvalue()  # type: ignore[attr-defined]
    assert said.count("Note: Nothing keeps the scores of loss.kind wgan in bounds") == 1
    assert "Note: Nothing keeps" in (tmp_path / "run" / "log.txt").read_text()


def test_the_lazy_penalty_is_taken_at_every_nth_step_of_d(tiny: Tiny, quiet: Console) -> None:
    """Whatever a step of G lies between, and the same for a run that goes on: the images say which step it is."""
    job = loop.open_job(
        tiny("loss.kind=logistic", "loss.penalty=r1", "loss.r1_gamma=2", "loss.r1_interval=4"), CPU, quiet
    )
    point = job.schedule.at(0)
    assert [loop.critic_loss(job, point, nimg).gamma for nimg in range(0, 80, 8)] == [8, 0, 0, 0, 8, 0, 0, 0, 8, 0]
    other = loop.open_job(tiny("loss.r1_interval=4"), CPU, quiet)  # a loss that changes would be compiled anew
    assert len({loop.critic_loss(other, point, nimg) for nimg in range(0, 80, 8)}) == 1
    state, found = plan.first_state(job.config, job.device), []
    for _ in range(5):
        stats, _ = loop.iteration(job, state, job.schedule.at(state.cur_nimg))
        found.append(stats["r1"].item())
    assert [bool(r1) for r1 in found] == [True, False, False, False, True]


def test_both_networks_minimise_the_loss_that_is_asked_for(tiny: Tiny, quiet: Console) -> None:
    """What they are told of scores of 0: under lsgan 1 each, under logistic 2 log 2 and log 2."""
    for kind, d, g in (("lsgan", 1.0, 1.0), ("logistic", 1.386294, 0.693147), ("hinge", 2.0, 0.0)):
        job = loop.open_job(tiny(f"loss.kind={kind}", "loss.penalty=none", "training.lr=0"), CPU, quiet)
        state = plan.first_state(job.config, job.device)
        torch.nn.init.zeros_(state.D.get_parameter("blocks.4x4.dense1.weight"))
        stats, _ = loop.iteration(job, state, job.schedule.at(0))
        assert (stats["loss_D"].item(), stats["loss_G"].item()) == (pytest.approx(d), pytest.approx(g))


def test_weights_are_clipped_after_every_step_of_d(tiny: Tiny, quiet: Console, monkeypatch: pytest.MonkeyPatch) -> None:
    job = loop.open_job(tiny("loss.penalty=none", "loss.clip=0.01", "training.d_repeats=3"), CPU, quiet)
    state, seen = plan.first_state(job.config, job.device), []
    original = loop.d_step

    def d_step(G: Any, D: Any, *more: Any) -> Any:
        seen.append(max((m.weight * m.scale).abs().max().item() for m in D.modules() if hasattr(m, "scale")))
        return original(G, D, *more)

    monkeypatch.setattr(loop, "d_step", d_step)
    for _ in range(2):
        loop.iteration(job, state, job.schedule.at(state.cur_nimg))
    assert seen == pytest.approx([0.01] * 6)
    assert max((m.weight * m.scale).abs().max().item() for m in state.D.modules() if hasattr(m, "scale")) <= 0.0100001


def test_optimizers_may_keep_their_moments(tiny: Tiny, tmp_path: Path, quiet: Console) -> None:
    run = tmp_path / "run"
    loop.train(tiny("training.reset_optimizers=false"), run, CPU, 0.336, quiet)
    states = final_state(run)["opt_D"]["state"]
    assert max(s["step"].item() for s in states.values()) == 42


def test_the_rates_are_those_of_the_moment(tiny: Tiny, tmp_path: Path, quiet: Console) -> None:
    """In the statistics as in the optimizers; at the end next to nothing is left."""
    run = tmp_path / "run"
    loop.train(
        tiny(*SHORT, "training.lr=0.01", "training.d_lr_ratio=4", "training.decay=linear"), run, CPU, None, quiet
    )
    lines = [json.loads(line) for line in (run / "stats.jsonl").read_text().splitlines()]
    last = [line for line in lines if "Progress/lr_G" in line][-1]
    assert last["Progress/lr_G"] == pytest.approx(0.01 * 8 / 200)
    assert last["Progress/lr_D"] == pytest.approx(0.04 * 8 / 200)
    group = final_state(run)["opt_D"]["param_groups"][0]
    assert group["lr"] == pytest.approx(0.04 * 8 / 200)


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        (["networks.family=dcgan", "growth.max_res=8"], "the resolution 8 of a network that does not grow"),
        (["networks.family=dcgan", "networks.d_pool=after"], "the family `dcgan` has no option `d_pool`"),
        (["networks.d_weights=spectral", "training.engine=eager"], "training.engine eager .* take auto or readable"),
        (["loss.kind=hinge", "training.precision=bfloat16"], "compute in float32; set training.precision"),
        (["networks.g_norm=batch", "training.micro_batch=4"], "would cut a batch of 8 images"),
    ],
)
def test_what_cannot_be_trained_is_refused_before_anything_is_written(
    texts: list[str], message: str, tiny: Tiny, tmp_path: Path, quiet: Console, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop, "open_data", lambda *_: pytest.fail("the data has been prepared"))
    with pytest.raises(UserError, match=message):
        loop.train(tiny(*texts), tmp_path / "run", CPU, None, quiet)
    assert not (tmp_path / "run").exists()


def test_a_batch_that_must_be_whole_and_does_not_fit_is_one_sentence(
    tiny: Tiny, tmp_path: Path, quiet: Console, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> None:
        raise torch.OutOfMemoryError("no")

    monkeypatch.setattr("progan.training.measure.d_step", full)
    with pytest.raises(RunFailed, match=r"8 images of 16x16 do not fit .* or a smaller growth.batch"):
        loop.train(tiny("networks.g_norm=batch"), tmp_path / "run", CPU, None, quiet)
