"""Laws of the schedule: the official table, exactly; nothing runs backwards; knobs change with the fade."""

import itertools
import math
import random

import pytest

from progan.schedule import Phase, Schedule, SchedulePoint, by_resolution, stage_of

OFFICIAL = Schedule()
SWEEP = sorted({0, *range(0, 12_600_000, 12_500), *(k * 600_000 + d for k in range(1, 21) for d in (-1, 1, 4))})


def _official(nimg: int) -> tuple[int, float]:
    """(resolution, weight of the new resolution) by the official count-down, reference section 1.10."""
    kimg = nimg / 1000
    index = math.floor(kimg / 1200)
    lod = max(8 - index - max(kimg - index * 1200 - 600, 0) / 600, 0.0)
    return 2 ** (10 - math.floor(lod)), 1 - (lod - math.floor(lod))


# --- the official table ---


@pytest.mark.parametrize(
    ("kimg", "resolution", "alpha", "fading"),
    [
        (0, 4, 1.0, False),
        (599.999, 4, 1.0, False),
        (600, 4, 1.0, False),
        (600.001, 8, 1 / 600_000, True),
        (600.004, 8, 4 / 600_000, True),
        (900, 8, 0.5, True),
        (1199.999, 8, 599_999 / 600_000, True),
        (1200, 8, 1.0, False),
        (1800, 8, 1.0, False),
        (2100, 16, 0.5, True),
        (9000, 512, 1.0, False),
        (9300, 1024, 0.5, True),
        (9600, 1024, 1.0, False),
        (12_000, 1024, 1.0, False),
        (99_999, 1024, 1.0, False),
    ],
)
def test_the_official_table_holds_exactly(kimg, resolution, alpha, fading):
    point = OFFICIAL.at(round(1000 * kimg))
    assert (point.resolution, point.alpha, point.fading) == (resolution, alpha, fading)
    assert point.stage == math.log2(resolution) - 2


def test_the_whole_course_is_that_of_the_official_countdown():
    for nimg in SWEEP:
        point = OFFICIAL.at(nimg)
        resolution, alpha = _official(nimg)
        assert point.resolution == resolution, nimg
        assert abs(point.alpha - alpha) < 1e-8, nimg


def test_the_default_is_twelve_million_images_in_seventeen_phases():
    assert OFFICIAL.total_nimg == 12_000_000
    assert [(p.resolution, p.fading) for p in OFFICIAL.phases] == [(4, False)] + [
        (8 << s, fading) for s in range(8) for fading in (True, False)
    ]
    assert [p.nimg for p in OFFICIAL.phases] == [600_000] * 16 + [2_400_000]


@pytest.mark.parametrize(
    ("resolution", "batch", "lr", "tick_kimg"),
    [
        (4, 128, 0.001, 160),
        (8, 128, 0.001, 140),
        (16, 128, 0.001, 120),
        (32, 64, 0.001, 100),
        (64, 32, 0.001, 80),
        (128, 16, 0.001, 60),
        (256, 8, 0.001, 40),
        (512, 4, 0.001, 20),
        (1024, 4, 0.0015, 10),
    ],
)
def test_official_batches_rates_and_ticks(resolution, batch, lr, tick_kimg):
    phases = [p for p in OFFICIAL.phases if p.resolution == resolution]
    assert len(phases) == (1 if resolution == 4 else 2)
    for phase in phases:
        assert (phase.batch, phase.lr_G, phase.lr_D, phase.tick_nimg) == (batch, lr, lr, tick_kimg * 1000)
        point = OFFICIAL.at(phase.start_nimg + 1)
        assert (point.batch, point.lr_G, point.lr_D, point.tick_kimg) == (batch, lr, lr, tick_kimg)


# --- time runs one way ---


def test_nothing_runs_backwards():
    points = [OFFICIAL.at(nimg) for nimg in SWEEP]
    for a, b in itertools.pairwise(points):
        assert a.phase <= b.phase
        assert a.tick <= b.tick
        assert a.resolution <= b.resolution
        if a.phase == b.phase:
            assert a.alpha < b.alpha if a.fading else a.alpha == b.alpha == 1
    assert {p.phase for p in points} == set(range(17))
    assert {p.fading for p in points} == {True, False}


def test_phases_follow_one_another_without_a_gap():
    for index, phase in enumerate(OFFICIAL.phases):
        assert phase.index == index
        assert phase.start_nimg == (OFFICIAL.phases[index - 1].end_nimg if index else 0)


def test_a_point_needs_no_history():
    order = SWEEP.copy()
    random.Random(0).shuffle(order)
    forward = {nimg: OFFICIAL.at(nimg) for nimg in SWEEP}
    assert {nimg: Schedule().at(nimg) for nimg in order[:50]} == {nimg: forward[nimg] for nimg in order[:50]}
    assert all(OFFICIAL.at(nimg) == forward[nimg] for nimg in order)


def test_resolution_batch_and_rates_switch_at_the_first_image_of_a_fade():
    schedule = Schedule(
        16, stable_kimg=10, fade_kimg=10, final_kimg=10,
        batch={"4": 8, "8": 4, "16": 2}, lr_G={"4": 1, "8": 2, "16": 3}, lr_D={"4": 4, "8": 5, "16": 6},
    )  # fmt: skip

    def knobs(p: SchedulePoint) -> tuple[float, ...]:
        return p.resolution, p.batch, p.lr_G, p.lr_D

    assert knobs(schedule.at(10_000)) == (4, 8, 1, 4)
    assert knobs(schedule.at(10_001)) == (8, 4, 2, 5)
    assert knobs(schedule.at(20_000)) == knobs(schedule.at(30_000)) == (8, 4, 2, 5)
    assert knobs(schedule.at(30_001)) == knobs(schedule.at(50_000)) == (16, 2, 3, 6)


def test_ticks_are_counted_within_each_phase_and_its_end_is_one():
    schedule = Schedule(8, stable_kimg=10, fade_kimg=9, final_kimg=8, tick_kimg={"base": 4})
    assert [p.ticks for p in schedule.phases] == [3, 3, 2]
    ticks = {0: 0, 3999: 0, 4000: 1, 8000: 2, 10_001: 3, 14_000: 4, 18_000: 5, 18_999: 5, 19_000: 6, 23_000: 7}
    assert {nimg: schedule.at(nimg).tick for nimg in ticks} == ticks


# --- other plans ---


def test_past_the_end_the_last_state_stays():
    schedule = Schedule(8, stable_kimg=1, fade_kimg=1, final_kimg=1)
    end, later = schedule.at(3000), schedule.at(10**9)
    assert (later.phase, later.resolution, later.alpha, later.batch) == (end.phase, 8, 1.0, end.batch)


def test_a_single_resolution_has_one_phase_of_the_final_length():
    schedule = Schedule(32, start_res=32, final_kimg=7)
    assert [(p.resolution, p.fading, p.nimg) for p in schedule.phases] == [(32, False, 7000)]
    assert schedule.at(0).alpha == 1


def test_a_later_start_omits_the_fade_into_the_start():
    schedule = Schedule(32, start_res=16, stable_kimg=1, fade_kimg=2, final_kimg=3)
    assert [(p.resolution, p.fading, p.nimg) for p in schedule.phases] == [
        (16, False, 1000),
        (32, True, 2000),
        (32, False, 3000),
    ]


def test_without_fades_the_resolution_jumps():
    schedule = Schedule(8, stable_kimg=1, fade_kimg=0, final_kimg=1)
    assert [(p.resolution, p.fading) for p in schedule.phases] == [(4, False), (8, False)]
    assert [schedule.at(n).resolution for n in (0, 999, 1000, 2000)] == [4, 4, 8, 8]
    assert all(schedule.at(n).alpha == 1 for n in range(0, 2001, 100))


def test_an_empty_first_phase_is_left_at_once():
    schedule = Schedule(8, stable_kimg=0, fade_kimg=1, final_kimg=1)
    assert (schedule.phases[0].nimg, schedule.at(0).resolution) == (0, 4)
    assert (schedule.at(1).resolution, schedule.at(1).alpha) == (8, 0.001)


def test_phase_lengths_may_depend_on_the_resolution():
    schedule = Schedule(16, stable_kimg={"4": 1, "base": 2}, fade_kimg={"8": 3, "16": 4}, final_kimg=5)
    assert [p.nimg for p in schedule.phases] == [1000, 3000, 2000, 4000, 5000]


@pytest.mark.parametrize(
    ("table", "value"), [(7, 7), ({"8": 1, "base": 2}, 1), ({8: 1, "base": 2}, 1), ({"base": 2}, 2)]
)
def test_a_knob_is_a_number_or_a_table(table, value):
    assert by_resolution(table, 8) == value


def test_a_table_without_the_entry_says_so():
    with pytest.raises(ValueError, match="no entry for 16 and no `base`"):
        by_resolution({"8": 1}, 16)


@pytest.mark.parametrize("resolution", [4, 8, 16, 32, 64, 128, 256, 512, 1024])
def test_stages_count_from_four(resolution):
    assert 4 << stage_of(resolution) == resolution


@pytest.mark.parametrize("resolution", [0, 1, 2, 3, 6, 48, 2048, -4])
def test_other_resolutions_are_refused(resolution):
    with pytest.raises(ValueError, match=f"{resolution} is not a power of two between 4 and 1024"):
        stage_of(resolution)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"max_res": 48}, "48 is not a power of two"),
        ({"start_res": 5}, "5 is not a power of two"),
        ({"max_res": 8, "start_res": 16}, "start resolution 16 is above the final one, 8"),
        ({"batch": 0}, "batch of 0 images at 4x4"),
        ({"batch": {"base": 4, "64": -1}}, "batch of -1 images at 64x64"),
        ({"batch": 2.5}, "batch of 2.5 images at 4x4 is not a whole number"),
        ({"batch": {"4": 8}}, "no entry for 8"),
        ({"stable_kimg": -1}, "negative length"),
        ({"fade_kimg": {"base": 1, "32": -1}}, "a phase at 32x32 has a negative length"),
        ({"final_kimg": -1}, "a phase at 1024x1024 has a negative length"),
        ({"tick_kimg": 0}, "tick at 4x4"),
        ({"lr_G": -0.1}, "learning rate at 4x4 is negative"),
        ({"lr_D": {"base": 0.1, "8": math.nan}}, "learning rate at 8x8"),
    ],
)
def test_what_cannot_be_a_schedule_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        Schedule(**arguments)


@pytest.mark.parametrize("knob", ["stable_kimg", "fade_kimg", "final_kimg", "batch", "tick_kimg"])
@pytest.mark.parametrize("value", [math.inf, math.nan])
def test_what_is_not_finite_is_refused(knob, value):
    with pytest.raises(ValueError):
        Schedule(**{knob: value})


def test_a_phase_knows_its_length_and_weight():
    phase = Phase(1, 1, 8, True, 1000, 3000, 4, 0.1, 0.1, 700)
    assert (phase.nimg, phase.ticks) == (2000, 3)
    assert [phase.alpha(n) for n in (1000, 1500, 3000, 4000)] == [0.0, 0.25, 1.0, 1.0]


# --- rates that fall ---

LENGTHS = {"max_res": 8, "stable_kimg": 1, "fade_kimg": 2, "final_kimg": 7}
FALLING = LENGTHS | {"lr_G": {"base": 0.2, "8": 0.4}, "lr_D": 0.8}


@pytest.mark.parametrize(
    ("start", "nimg", "share"),
    [
        (None, 0, 1), (None, 9_999, 1), (0.0, 0, 1), (0.0, 2_500, 0.75), (0.0, 9_000, 0.1), (0.0, 10_000, 0),
        (0.0, 12_000, 0), (0.5, 0, 1), (0.5, 5_000, 1), (0.5, 7_500, 0.5), (0.5, 9_500, 0.1), (0.5, 99_999, 0),
    ],
)  # fmt: skip
def test_both_rates_fall_in_a_straight_line_to_nothing(start, nimg, share):
    schedule = Schedule(**FALLING, decay_from=start)
    point, level = schedule.at(nimg), Schedule(**FALLING).at(nimg)
    assert schedule.total_nimg == 10_000
    assert math.isclose(schedule.decay(nimg), share, abs_tol=1e-12)
    assert math.isclose(point.lr_G, level.lr_G * share, abs_tol=1e-12)
    assert math.isclose(point.lr_D, level.lr_D * share, abs_tol=1e-12)
    assert level.lr_G == (0.2 if nimg <= 1_000 else 0.4)


@pytest.mark.parametrize("start", [-0.1, 1.0, 2.0, math.nan])
def test_rates_cannot_fall_from_outside_the_schedule(start):
    with pytest.raises(ValueError, match="rates cannot fall from"):
        Schedule(decay_from=start)
