"""Laws of the bench: what is measured is an iteration of training; its time is believed, the rest follows the pace; and
the budget is kept.
"""

import math
import mmap
import sys
from pathlib import Path

import pytest
import torch

from progan import config as config_module
from progan.config import Config, load
from progan.errors import RunFailed
from progan.schedule import Schedule
from progan.training import bench as bench_module
from progan.training import measure as measure_module
from progan.training import plan
from progan.training.bench import Ground, Row, bench, bench_json, bench_lines
from progan.training.engine import Engine, open_engine
from progan.training.measure import (
    ENOUGH_SEC,
    Measured,
    Trial,
    iteration,
    measure,
    noise,
    peak_bytes,
    reset_peak,
    timed,
)
from progan.training.pace import Pace
from progan.training.preflight import HEADROOM
from progan.training.state import TrainState, new_state
from progan.training.steps import CriticLoss, Where
from tests.conftest import TINY

CPU = torch.device("cpu")
NET = {"max_res": 16, "fmap_base": 64, "fmap_max": 8}
READABLE = Engine("readable")


def _state() -> TrainState:
    return new_state(NET | {"latent_size": 8}, NET, 0, CPU)


# --- one iteration ---


class Spy:
    """An engine that notes how it is called, and computes nothing."""

    def __init__(self, room: float = math.inf, error: type[RuntimeError] = torch.OutOfMemoryError) -> None:
        self.room, self.error, self.calls, self.losses = room, error, [], set()
        self.engine = Engine("spy", self.d_gradients, self.g_gradients)

    def d_gradients(self, G, D, part, where, loss):
        self.losses.add(loss)
        return self._note("D", len(part.mix), where)

    def g_gradients(self, G, D, latents, where, loss):
        self.losses.add(loss)
        return self._note("G", len(latents), where)

    def _note(self, name, count, where):
        if count > self.room:
            raise self.error("no")
        self.calls.append((name, count, where))
        return {"loss": torch.zeros(())}


@pytest.fixture(autouse=True)
def _real_trials(_short_trials, monkeypatch) -> None:
    """What is measured here is measured as users see it."""
    monkeypatch.setattr("progan.training.measure.ENOUGH_SEC", 1.0)


@pytest.fixture
def spy() -> Spy:
    return Spy()


def test_an_iteration_is_d_steps_and_then_g(spy):
    iteration(_state(), Trial(1, False, 16, 4, 8), spy.engine, 3)()
    assert [call[:2] for call in spy.calls] == [("D", 8), ("D", 8)] * 3 + [("G", 8), ("G", 8)]
    assert {call[2] for call in spy.calls} == {Where(1, 1.0, 16, 4)}


def test_alpha_is_a_tensor_while_fading(spy):
    iteration(_state(), Trial(1, True, 8, 4, 8), spy.engine, 1)()
    alpha = spy.calls[0][2].alpha
    assert isinstance(alpha, torch.Tensor)
    assert 0 < alpha < 1


def test_the_average_is_taken_and_nothing_is_learnt():
    state = _state()
    for p in state.G_ema.parameters():
        p.add_(1)
    before = [p.clone() for net in (state.G, state.D) for p in net.parameters()]
    seconds = iteration(state, Trial(1, False, 4, 4, 4), READABLE, 1)()
    assert 0 < seconds < 60
    after = [p for net in (state.G, state.D) for p in net.parameters()]
    assert all(torch.equal(a, b) for a, b in zip(before, after))
    gap = state.G_ema.rgb["8x8"].bias - state.G.rgb["8x8"].bias
    torch.testing.assert_close(gap, torch.full_like(gap, 0.999))
    assert state.opt_D.state_dict()["state"], "Adam has worked"


def test_the_inputs_are_the_same_noise_each_time():
    G = _state().G
    parts, again = (noise(G, Trial(2, False, 8, 4, 4), CPU) for _ in range(2))
    assert [part.reals.shape for part in parts] == [(4, 3, 16, 16)] * 2
    assert torch.equal(parts[1].reals, again[1].reals)
    assert not torch.equal(parts[0].reals, parts[1].reals)
    assert 0.9 < parts[0].reals.std() < 1.1
    assert all(part.latents.std() > 0.5 and part.mix.min() >= 0 and part.mix.max() <= 1 for part in parts)


@pytest.mark.parametrize(("room", "fits"), [(16, 16), (9, 8), (4, 4)])
def test_what_does_not_fit_is_halved(spy, room, fits):
    spy.room = room
    found = measure(_state(), Trial(0, False, 16, 4, 16), spy.engine, 1, 0.0, 0.0)
    assert found.trial == Trial(0, False, 16, 4, fits)
    assert {call[1] for call in spy.calls} == {fits}


def test_where_nothing_fits_there_is_no_measurement(spy):
    spy.room = 3
    assert measure(_state(), Trial(0, False, 16, 4, 16), spy.engine, 1, 0.0, 0.0) is None
    spy.error = RuntimeError
    with pytest.raises(RuntimeError, match="no"):
        measure(_state(), Trial(0, False, 16, 4, 16), spy.engine, 1, 0.0, 0.0)


def test_a_system_that_does_not_tell_is_no_obstacle(monkeypatch):
    monkeypatch.setattr(measure_module, "Path", lambda name: Path("nowhere") / name.lstrip("/"))
    assert measure(_state(), Trial(0, False, 4, 4, 4), READABLE, 1, 0.0, 0.0).peak is None


@pytest.mark.parametrize(
    ("takes", "share", "expected", "found", "calls"),
    [
        ([5.0, 1.0], 100, 0, (1.0, 4.0), 2),  # the first is warm-up
        ([5.0, 1.0], 1, 1.0, (1.0, 4.0), 2),  # far longer than expected: it was, though time is short
        ([5.0], 6, 4.0, (5.0, 0.0), 1),  # as expected, and no time for another
        ([5.0, 60.0], 12, 4.0, (5.0, 0.0), 2),  # something else was in the way of the second
        ([0.9, 0.4, 0.1, 0.6], 100, 0, (0.4, 0.5), 4),  # a median, of enough
        ([0.5, 0.3, 0.3, 0.3], 1.0, 0, (0.3, 0.2), 2),  # the share is kept
    ],
)
def test_time_is_the_usual_one_without_the_warm_up(takes, share, expected, found, calls):
    rest = iter(takes)
    assert timed(lambda: next(rest), share, expected) == pytest.approx(found)
    assert len(list(rest)) == len(takes) - calls
    assert ENOUGH_SEC == 1


def used_pages(size: int) -> mmap.mmap:
    """Memory that no allocator keeps."""
    memory = mmap.mmap(-1, size)
    for page in range(0, size, mmap.PAGESIZE):
        memory[page] = 1
    return memory


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells")
def test_the_peak_counts_from_its_reset():
    held = used_pages(80_000_000)
    reset_peak(CPU)
    low = peak_bytes(CPU)
    used_pages(80_000_000).close()
    high = peak_bytes(CPU)
    assert 70e6 < high - low < 120e6
    held.close()
    reset_peak(CPU)
    assert peak_bytes(CPU) < high - 120e6


# --- a schedule, on a machine that is known ---

COST = [1.0, 4.0, 16.0, 64.0, 256.0]  # seconds a real image, by stage
KNOBS = (
    "growth.max_res=64", "growth.stable_kimg=1", "growth.fade_kimg=3", "growth.final_kimg=2", "growth.batch=32",
    "networks.fmap_base=64", "networks.fmap_max=4", "networks.latent_size=4", "training.micro_batch=32",
)  # fmt: skip


class Machine:
    """A machine with its own time: an iteration takes fixed + images * COST[stage] seconds, fading ones more."""

    def __init__(self, fixed: float = 0.0, fade: float = 1.0, warm_up: float = 0.0, peak: int | None = None) -> None:
        self.fixed, self.fade, self.warm_up, self.peak = fixed, fade, warm_up, peak
        self.now, self.trials = 0.0, []

    def perf_counter(self) -> float:
        return self.now

    def measure(self, state, trial, engine, d_repeats, share_sec, expected_sec):
        self.trials.append(trial)
        sec = d_repeats * (self.fixed + trial.images * COST[trial.stage]) * (self.fade if trial.fading else 1)
        started = []

        def run() -> float:
            took = sec + (0 if started else self.warm_up)
            started.append(took)
            self.now += took
            return took

        return Measured(trial, *timed(run, share_sec, expected_sec), self.peak and self.peak + trial.micro_batch)


@pytest.fixture
def on(monkeypatch):
    """on(machine, budget, *knobs): the rows of the bench on it."""

    def rows(
        machine: Machine, budget_sec: float, *knobs: str, engine: Engine = READABLE, image_bytes=None
    ) -> list[Row]:
        monkeypatch.setattr(bench_module, "time", machine)
        monkeypatch.setattr(bench_module, "measure", machine.measure)
        monkeypatch.setattr("progan.training.pace.work_per_image", lambda G, D, repeats: COST)
        monkeypatch.setattr(
            bench_module.plan, "image_bytes", lambda config, G, D, stage: (image_bytes or {}).get(stage, 0)
        )
        monkeypatch.setattr(bench_module, "program_bytes", lambda device: 0)
        return bench(config_module.load(None, [*KNOBS, *knobs]), CPU, engine, budget_sec)

    return rows


def test_with_time_everything_is_measured(on):
    machine = Machine(peak=10**6)
    rows = on(machine, 1e6)
    assert [row.resolution for row in rows] == [4, 8, 16, 32, 64]
    assert [row.sec_per_img for row in rows] == pytest.approx(COST)
    assert [row.nimg for row in rows] == [1000, 4000, 4000, 4000, 5000]
    assert rows[1].hours == pytest.approx(4000 * 4 / 3600)
    assert {(row.batch, row.images, row.micro_batch, row.how) for row in rows} == {(32, 32, 32, "measured")}
    assert {(row.memory, row.memory_measured) for row in rows} == {(10**6 + 32, True)}
    assert [(t.stage, t.fading) for t in machine.trials if t.images == 32] == [
        (0, False), (1, False), (1, True), (2, False), (2, True), (3, False), (3, True), (4, False), (4, True),
    ]  # fmt: skip


def test_the_hours_are_those_of_the_pace(on):
    rows = on(Machine(fade=1.5), 1e6)
    pace = Pace(COST)
    for stage, row in enumerate(rows):
        pace.measured(stage, row.sec_per_img)
    knobs = config_module.load(None, KNOBS)
    schedule: Schedule = config_module.schedule_of(knobs)
    left = pace.remaining(schedule, 0, schedule.total_nimg)
    assert list(left) == [row.resolution for row in rows]
    assert [row.hours * 3600 for row in rows] == pytest.approx(list(left.values()))


def test_a_stage_is_the_mean_of_its_images(on):
    rows = on(Machine(fade=2.0), 1e6)
    assert rows[0].sec_per_img == pytest.approx(1)
    assert rows[1].sec_per_img == pytest.approx(4 * (3 * 2 + 1) / 4)  # three images fade for one that does not
    assert rows[4].sec_per_img == pytest.approx(256 * (3 * 2 + 2) / 5)


@pytest.mark.parametrize("fixed", [0.0, 5.0, 300.0])
def test_of_a_large_batch_some_groups_are_measured(on, fixed):
    """16x16 in part: what an image costs and what is fixed are told apart, and the whole batch is reckoned exactly."""
    rows = on(Machine(fixed), 6000, "growth.max_res=16", "growth.batch=128", "training.micro_batch=128")
    assert 4 < rows[2].images < 128
    assert rows[2].how == f"measured on {rows[2].images} images"
    assert rows[2].sec_per_img == pytest.approx(16 + fixed / 128)


def test_one_group_is_taken_in_proportion(on):
    rows = on(Machine(), 1000)
    assert rows[2].images in (4, 8)
    assert rows[2].sec_per_img == pytest.approx(16)


@pytest.mark.parametrize("budget", [1, 30, 100, 300, 1000, 3000, 10_000, 30_000])
@pytest.mark.parametrize("warm_up", [0.0, 20.0])
def test_the_budget_is_kept_and_the_cheapest_come_first(on, budget, warm_up):
    machine = Machine(warm_up=warm_up)
    rows = on(machine, budget, engine=Engine("eager"))
    probe = 2 * 16 + 2 * 4 + 2 * warm_up
    assert machine.now <= max(probe, budget) * 1.01
    measured = [bool(row.images) for row in rows]
    assert measured == sorted(measured, reverse=True)
    assert [row.how for row in rows if not row.images] == ["predicted"] * measured.count(False)
    assert [row.sec_per_img for row in rows] == pytest.approx(COST, rel=0.4 if warm_up else 1e-6), "the work tells"
    assert measured[0] == (budget > 100 or (budget == 100 and not warm_up))


@pytest.fixture
def ground(on, monkeypatch) -> Ground:
    """The ground of a known machine, after its probe."""
    grounds, build = [], Ground.__init__

    def init(self, *arguments):
        build(self, *arguments)
        grounds.append(self)

    monkeypatch.setattr(Ground, "__init__", init)
    on(Machine(), 1, "training.micro_batch=16", "training.d_repeats=2")
    return grounds[0]


@pytest.mark.parametrize(
    ("share_sec", "left_sec", "warm_up_sec", "images"),
    [
        (2 * 2 * 32 * 4, 1e9, 0, 32),  # two iterations of two D steps, 4 seconds an image
        (2 * 2 * 32 * 4 - 1, 1e9, 0, 16),
        (2 * 2 * 32 * 4 + 9, 1e9, 10, 16),
        (2 * 2 * 4 * 4, 1e9, 0, 4),
        (1, 1.5 * 2 * 4 * 4, 0, 4),  # one iteration of one group, with a margin
        (1, 1.5 * 2 * 4 * 4 - 1, 0, 0),
        (1, 1.5 * 2 * 4 * 4 + 9, 10, 0),
    ],
)
def test_as_much_is_tried_as_there_is_time_for(ground, share_sec, left_sec, warm_up_sec, images):
    ground.warm_up_sec = warm_up_sec
    found = ground.measure_stage(ground.stages()[1], share_sec, left_sec)
    trial = Trial(1, False, images, 4, min(images, 16), plan.critic_loss(ground.config, 1))
    assert found == (Measured(trial, 8 * images, 0.0, None) if images else None)


def test_more_time_is_not_wasted(on):
    counts = [sum(row.images for row in on(Machine(), budget)) for budget in (100, 300, 1000, 3000, 10_000, 1e6)]
    assert counts == sorted(set(counts))


def test_the_fade_is_like_the_rest_where_there_is_no_time_for_it(on):
    machine = Machine(fade=1.5)
    rows = on(machine, 3000)
    assert (1, True) in {(t.stage, t.fading) for t in machine.trials}
    assert (2, True) not in {(t.stage, t.fading) for t in machine.trials}
    assert rows[2].sec_per_img == pytest.approx(16)


def test_d_steps_share_the_iteration(on):
    rows = on(Machine(), 1e6, "training.d_repeats=4")
    assert [row.sec_per_img for row in rows] == pytest.approx(COST)  # each of 4 D steps shows a batch


def test_a_schedule_may_start_high_and_with_nothing(on):
    machine = Machine()
    rows = on(machine, 1e6, "growth.start_res=16", "growth.stable_kimg=0")
    assert [row.resolution for row in rows] == [16, 32, 64]
    assert [row.nimg for row in rows] == [0, 3000, 5000]
    assert machine.trials[0].stage == 0, "the probe"
    assert [row.sec_per_img for row in rows] == pytest.approx(COST[2:])


@pytest.mark.parametrize(("budget", "name"), [(90, "eager"), (599, "eager"), (600, "graphs")])
def test_short_budgets_compile_nothing(on, monkeypatch, budget, name):
    used, machine = set(), Machine()

    def spying(state, trial, engine, *rest):
        used.add(engine.name)
        return Machine.measure(machine, state, trial, engine, *rest)

    monkeypatch.setattr(machine, "measure", spying)
    on(machine, budget, engine=Engine("graphs"))
    assert used == {name}


# --- memory ---


def test_what_memory_cannot_hold_is_not_tried(on, monkeypatch):
    machine = Machine()
    monkeypatch.setattr(bench_module, "room", lambda device: 0)
    monkeypatch.setattr(bench_module, "usable_bytes", lambda device: 1)
    rows = on(machine, 1e6)
    assert {trial.stage for trial in machine.trials} == {0}, "but for the probe"
    assert {row.how for row in rows} == {"predicted; may not fit into memory"}
    assert not any(row.memory_measured or row.fits for row in rows)


def test_a_peak_is_believed_and_a_part_is_made_whole(on, monkeypatch):
    monkeypatch.setattr(Ground, "reckoned_bytes", lambda self, stage, micro: 1000.0 + 50 * micro)
    image = {0: 5.0, 1: 10.0, 2: 20.0, 3: 40.0, 4: 80.0}
    rows = on(Machine(peak=2000), 1000, image_bytes=image)
    assert (rows[0].images, rows[0].memory, rows[0].memory_measured) == (32, 2032, True)
    assert 0 < rows[2].images < 32
    part = rows[2].images
    assert rows[2].memory == pytest.approx(2000 + part + (32 - part) * 20 * HEADROOM)
    assert not rows[2].memory_measured
    assert (rows[4].images, rows[4].memory, rows[4].memory_measured) == (0, 1000 + 50 * 32, False)


def test_without_a_peak_memory_is_reckoned(on, monkeypatch):
    monkeypatch.setattr(Ground, "reckoned_bytes", lambda self, stage, micro: 1000.0 + 50 * micro)
    assert {(row.memory, row.memory_measured) for row in on(Machine(), 1e6)} == {(1000 + 50 * 32, False)}


def test_a_micro_batch_that_was_halved_is_shown(on, monkeypatch):
    class Small(Machine):
        def measure(self, state, trial, *rest):
            return super().measure(state, Trial(trial.stage, trial.fading, trial.images, trial.group, 4), *rest)

    assert {row.micro_batch for row in on(Small(), 1e6)} == {4}


def test_networks_that_do_not_fit_are_one_sentence(monkeypatch, on):
    def full(*_):
        raise torch.OutOfMemoryError("full")

    with monkeypatch.context() as patch:
        patch.setattr(Machine, "measure", lambda *_: None)
        with pytest.raises(RunFailed, match="fmap_base"):
            on(Machine(), 1)
    monkeypatch.setattr("progan.training.plan.new_state", full)
    with pytest.raises(RunFailed, match="fmap_base"):
        on(Machine(), 1)


def test_reckoned_memory_is_weights_and_images(monkeypatch):
    config = config_module.load(None, [*KNOBS, "growth.max_res=16"])
    monkeypatch.setattr(bench_module, "program_bytes", lambda device: 5000)
    monkeypatch.setattr(bench_module.plan, "image_bytes", lambda config, G, D, stage: 100 * (stage + 1))
    ground = Ground(config, CPU, READABLE)
    G, D = ([p.nbytes for p in net.parameters()] for net in ground.meta)
    assert ground.reckoned_bytes(2, 0) == 5000 + 6 * sum(G) + 5 * sum(
        D
    )  # weight, gradient, two moments, scaled; average
    assert ground.reckoned_bytes(2, 8) - ground.reckoned_bytes(2, 0) == pytest.approx(8 * 300 * HEADROOM)
    assert 5000 + 2 * sum(G) + sum(D) < ground.reckoned_bytes(0, 0) < ground.reckoned_bytes(1, 0)


# --- for people, and in truth ---

ROWS = [
    Row(4, 128, 128, 600_000, 0.0005, 128, 1.5e9, True, True),
    Row(8, 64, 32, 1_200_000, 0.2, 16, 2.25e9, False, True),
    Row(16, 64, 32, 1_200_000, 2.0, 0, 30e9, False, False),
]


def test_the_table_is_aligned_and_says_what_is_known():
    head, *lines, total, note = bench_lines(ROWS, CPU)
    assert len(lines) == 3
    assert {len(line.split("  measured")[0].split("  predicted")[0]) for line in lines} == {len(head)}
    assert lines[0].split() == ["4x4", "128", "128", "2,000", "1.50", "0.08", "measured"]
    assert lines[1].endswith("measured on 16 images")
    assert lines[1].split()[3:6] == ["5", "~2.25", "66.67"]
    assert lines[2].split()[3:6] == ["0.5", "~30.00", "666.67"]
    assert lines[2].endswith("predicted; may not fit into memory")
    assert total.startswith("The whole schedule takes about 30d 13h on CPU (")
    assert total.endswith("; 9% of that is measured.")
    assert "of the whole process" in note
    assert "on the device" in bench_lines(ROWS, torch.device("mps"))[-1]


def test_programs_get_the_same():
    said = bench_json(ROWS, CPU)
    assert said["hours"] == pytest.approx(sum(row.hours for row in ROWS))
    assert [stage["resolution"] for stage in said["stages"]] == [4, 8, 16]
    assert said["stages"][0]["images_per_sec"] == pytest.approx(2000)
    assert said["stages"][1]["hours"] == pytest.approx(66.667, abs=0.01)
    assert said["stages"][2]["how"].startswith("predicted")


@pytest.mark.parametrize("engine", ["readable", "eager"])
def test_a_real_machine(engine, monkeypatch):
    monkeypatch.setattr(measure_module, "ENOUGH_SEC", 0.01)
    told: list[str] = []
    config: Config = config_module.load(None, [*TINY, "data.source=nothing at all"])
    rows = bench(config, CPU, open_engine(engine, "float32", CPU, print, None), 5.0, told.append)
    assert [(row.resolution, row.images, row.batch) for row in rows] == [(4, 8, 8), (8, 8, 8), (16, 8, 8)]
    assert all(1e-6 < row.sec_per_img < 1 and 1e7 < row.memory < 1e11 for row in rows)
    assert [text.split(",")[0] for text in told] == [f"measuring {r}x{r}" for r in (4, 8, 16)]


# --- other techniques ---


@pytest.mark.parametrize(
    ("texts", "stages"),
    [
        (["family=dcgan", "g_norm=batch", "d_norm=batch"], [16]),
        (["family=resnet", "d_weights=spectral"], [16]),
        (["d_weights=spectral", "attention=16"], [4, 8, 16]),
    ],
)
def test_other_networks_are_measured_at_the_resolutions_that_they_have(texts, stages):
    knobs = ["loss.kind=hinge", "loss.penalty=none", "growth.batch=8", "networks.fmap_base=64", "networks.fmap_max=8"]
    config = load(None, [*knobs, *(f"networks.{text}" for text in texts)], {"growth.max_res": 16})
    rows = bench(config, CPU, READABLE, 1.0)
    assert [row.resolution for row in rows] == stages
    assert all(row.sec_per_img > 0 and row.memory > 0 for row in rows)
    assert rows[-1].micro_batch == 8


def test_an_iteration_is_measured_with_its_loss(spy):
    loss = CriticLoss(kind="hinge", penalty="none")
    iteration(_state(), Trial(1, False, 8, 4, 8, loss), spy.engine, 2)()
    assert spy.losses == {loss}


def test_what_must_be_whole_is_not_halved(spy):
    spy.room = 7
    assert measure(_state(), Trial(1, False, 16, 4, 8, whole=True), spy.engine, 1, 0.0, 1e9) is None
    found = measure(_state(), Trial(1, False, 16, 4, 8), spy.engine, 1, 0.0, 1e9)
    assert found is not None
    assert found.trial.micro_batch == 4
