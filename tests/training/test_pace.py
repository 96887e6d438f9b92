"""Laws of the pace: a measurement is believed; between two the time per operation goes log-log, beyond it stays."""

import math

import pytest

from progan.nn.progressive import Discriminator, Generator
from progan.schedule import Schedule
from progan.training.pace import Pace, pace_of, work_per_image

WORK = [1.0, 10.0, 100.0, 1000.0]


def _pace(**seconds: float) -> Pace:
    pace = Pace(WORK)
    for stage, value in seconds.items():
        pace.measured(int(stage[1:]), value)
    return pace


def test_a_measurement_is_believed_and_the_newest_counts():
    pace = _pace(s1=3.0)
    assert pace.sec_per_img(1) == 3.0
    pace.measured(1, 5.0)
    assert pace.sec_per_img(1) == 5.0


def test_beyond_the_measurements_time_goes_with_the_work():
    pace = _pace(s1=3.0, s2=12.0)
    assert math.isclose(pace.sec_per_img(0), 0.3)
    assert math.isclose(pace.sec_per_img(3), 120.0)


@pytest.mark.parametrize(
    ("ends", "stage", "wanted"),
    [
        ((0, 1.0, 2, 1.0), 1, 1.0),  # per operation 1 and 0.01, half way 0.1
        ((0, 2.0, 2, 200.0), 1, 20.0),
        ((0, 1.0, 3, 1.0), 1, 1.0),
        ((0, 8.0, 3, 1.0), 1, 4.0),  # a third of the way in the logarithm
        ((0, 8.0, 3, 1.0), 2, 2.0),
    ],
)
def test_between_measurements_time_is_a_power_law(ends, stage, wanted):
    low, a, high, b = ends
    pace = _pace(**{f"s{low}": a, f"s{high}": b})
    assert math.isclose(pace.sec_per_img(stage), wanted, rel_tol=1e-9)


def test_the_nearest_measurements_decide():
    pace = _pace(s0=100.0, s1=10.0, s3=1000.0)
    assert math.isclose(pace.sec_per_img(2), 100.0)


def test_without_a_measurement_there_is_no_pace():
    with pytest.raises(AssertionError, match="nothing has been measured"):
        Pace(WORK).sec_per_img(0)


SCHEDULE = Schedule(16, stable_kimg=1, fade_kimg=2, final_kimg=3, batch=4, tick_kimg=1)


@pytest.mark.parametrize(
    ("cur", "end", "left"),
    [
        (0, 9000, {4: 1000, 8: 3000 * 2, 16: 5000 * 3}),
        (500, 9000, {4: 500, 8: 6000, 16: 15_000}),
        (2000, 9000, {8: 2000 * 2, 16: 15_000}),
        (8999, 9000, {16: 3}),
        (9000, 9000, {}),
        (0, 2000, {4: 1000, 8: 1000 * 2}),
        (500, 700, {4: 200}),
        (9000, 9500, {16: 1500}),  # --kimg beyond the schedule's end
        (0, 10_000, {4: 1000, 8: 6000, 16: 6000 * 3}),
    ],
)
def test_what_remains_is_counted_image_by_image(cur, end, left):
    pace = _pace(s0=1.0, s1=2.0, s2=3.0)
    got = pace.remaining(SCHEDULE, cur, end)
    assert list(got) == list(left)
    for resolution, seconds in left.items():
        assert math.isclose(got[resolution], seconds)


def test_work_counts_both_steps():
    assert work_per_image([1, 10], [2, 30], 1) == [12 * 2 + 1 + 3 + 4, 12 * 30 + 10 + 30 + 60]
    assert work_per_image([4], [6], 2) == [12 * 6 + 4 + (12 + 12) / 2]


def test_the_model_of_two_networks_counts_their_multiplications():
    G, D = Generator(16, fmap_max=8), Discriminator(16, fmap_max=8)
    pace = pace_of(G, D, 2)
    assert list(pace.work.values()) == work_per_image([G.macs(s) for s in range(3)], [D.macs(s) for s in range(3)], 2)
    assert pace.work[0] < pace.work[1] < pace.work[2]
