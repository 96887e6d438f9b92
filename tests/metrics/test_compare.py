"""Laws of the comparison: hours add up, only what was measured alike is compared, and everything shown is said."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from progan import config as config_module
from progan.errors import UserError
from progan.metrics import compare
from progan.metrics.compare import Point, Tick, images_per_sec, read_runs
from progan.training.runlog import save_png

PROTOCOL = {"resolution": 16, "reals": 8192, "fakes": 8192, "data": "abc", "mirror": True, "alpha": 1.0}


def make_run(folder: Path, *overrides: str, ticks=((1000, 4, 3.6), (3000, 16, 7.2)), rows=(), sheets=(0, 3)) -> Path:
    """A run directory. ticks: (nimg, resolution, sec_per_kimg); rows: (nimg, values, protocol); sheets: kimg, or (kimg,
    resolution). A sheet of 6 x 5 cells at k kimg has in each pixel (10 k, 20 row, 20 column)."""
    folder.mkdir(parents=True)
    config = config_module.load(None, ["growth.max_res=16", *overrides])
    (folder / "config.toml").write_text(config_module.dump(config))
    stats = [{"nimg": n, "Progress/resolution": float(r), "Timing/sec_per_kimg": s} for n, r, s in ticks]
    write_rows(folder / "stats.jsonl", stats)
    write_rows(folder / "metrics.jsonl", [row_of(*row) for row in rows])
    for sheet in sheets:
        kimg, resolution = sheet if isinstance(sheet, tuple) else (sheet, 16)
        make_sheet(folder / f"fakes-{round(kimg):06d}.png", kimg, resolution)
    return folder


def row_of(nimg, values, **protocol):
    metric = next(iter(values)).removesuffix("_16")
    about = {"file": None, "snapshot": None, "sec": 1.0, "progan": "0.1.0"}
    return {"nimg": nimg, "metric": metric, "values": values, "protocol": PROTOCOL | protocol, **about}


def row(nimg, value, metric="swd", **protocol):
    """A row for `make_run`, with a floor."""
    return nimg, {metric: value, f"{metric}_floor": 1.5}, protocol


def write_rows(path, rows):
    path.write_text("".join(json.dumps(r) + "\n" for r in rows))


def make_sheet(path, kimg, resolution, scale=4):
    pixels = torch.zeros(3, 5, resolution * scale, 6, resolution * scale, dtype=torch.uint8)
    pixels[0] = round(10 * kimg)
    pixels[1] = 20 * torch.arange(5)[:, None, None, None]
    pixels[2] = 20 * torch.arange(6)[:, None]
    texts = {"resolution": resolution, "kimg": float(kimg), "alpha": 1.0, "columns": 6, "rows": 5}
    flat = pixels.reshape(3, 5 * resolution * scale, 6 * resolution * scale)
    save_png(path, flat, {name: str(value) for name, value in texts.items()})


@pytest.fixture
def runs(tmp_path):
    """runs(("name", [rows]), ...) -> the runs, read."""

    def make(*named):
        folders = []
        for name, rows in named:
            folder = make_run(tmp_path / name)
            write_rows(folder / "metrics.jsonl", [row_of(n, v, **p) for n, v, p in rows])
            folders.append(folder)
        return read_runs(folders)

    return make


# --- hours


def test_hours_are_the_sum_of_images_times_pace(tmp_path):
    (run,) = read_runs([make_run(tmp_path / "a")])
    assert [tick.nimg for tick in run.ticks] == [1000, 3000]
    assert [tick.hours for tick in run.ticks] == pytest.approx([0.001, 0.001 + 2 * 7.2 / 3600])
    assert (run.kimg, run.resolution) == (3.0, 16)


def test_images_of_a_missing_tick_count_at_the_pace_of_the_next(tmp_path):
    whole = ((1000, 4, 3.6), (2000, 4, 3.6), (3000, 4, 3.6))
    (a,) = read_runs([make_run(tmp_path / "a", ticks=whole)])
    (b,) = read_runs([make_run(tmp_path / "b", ticks=whole[::2])])
    (c,) = read_runs([make_run(tmp_path / "c", ticks=(whole[0], (2000, 4, None), whole[2]))])
    assert a.ticks[-1].hours == pytest.approx(0.003)
    assert b.ticks[-1].hours == c.ticks[-1].hours == pytest.approx(0.003)


def test_order_repetition_and_broken_lines_do_not_matter(tmp_path):
    folder = make_run(tmp_path / "a", ticks=((3000, 16, 7.2), (1000, 4, 99.0), (1000, 4, 3.6)))
    with (folder / "stats.jsonl").open("a") as file:
        file.write('[1]\n{"Timing/sec_per_kimg": 1}\n\n{"nimg": 5000, "Timing/sec_per_k')
    (run,) = read_runs([folder])
    assert [(tick.nimg, tick.hours) for tick in run.ticks] == [
        (1000, pytest.approx(0.001)),
        (3000, pytest.approx(0.005)),
    ]


def test_hours_lie_between_those_of_ticks_and_go_on_behind_the_last():
    ticks = [Tick(1000, 0.5, 4), Tick(3000, 2.5, 8)]
    at = [compare.hours_at(ticks, nimg) for nimg in (0, 500, 1000, 2000, 3000, 4000)]
    assert at == pytest.approx([0, 0.25, 0.5, 1.5, 2.5, 3.5])
    assert compare.hours_at([], 1000) is None
    assert compare.hours_at([Tick(1000, 0.5, 4)], 2000) == pytest.approx(1.0)


def test_speed_is_that_of_the_last_resolution():
    ticks = [Tick(1000, 1, 4), Tick(2000, 2, 8), Tick(5000, 4, 8)]
    assert images_per_sec(ticks) == pytest.approx(4000 / (3 * 3600))
    assert images_per_sec(ticks[:1]) == pytest.approx(1000 / 3600)
    assert images_per_sec([]) is None


# --- names


def test_names_tell_runs_apart(tmp_path):
    def named(*paths):
        return compare.distinct_names([Path(path) for path in paths])

    assert named("/x/a", "/x/b") == ["a", "b"]
    assert named("/x/a", "/y/a", "/y/b") == ["x/a", "y/a", "b"]
    assert named("/x/c/a", "/y/c/a") == ["x/c/a", "y/c/a"]
    assert named("/a", "/x/a") == ["//a", "x/a"]  # nothing stands before the first
    assert len(set(named("/p/a", "/q/a", "/q/r/a"))) == 3


def test_a_folder_counts_once_in_the_order_given(tmp_path, monkeypatch):
    for name in "ab":
        make_run(tmp_path / name)
    monkeypatch.chdir(tmp_path)
    runs = read_runs([Path("b"), Path("a"), Path("b/."), tmp_path / "a"])
    assert [run.name for run in runs] == ["b", "a"]
    assert [run.folder for run in runs] == [Path("b"), Path("a")]


def test_what_is_no_run_is_refused_in_a_sentence(tmp_path):
    with pytest.raises(UserError, match="nowhere is no directory"):
        read_runs([tmp_path / "nowhere"])
    with pytest.raises(UserError, match=r"is no run directory \(config.toml is missing\)"):
        read_runs([tmp_path])
    folder = make_run(tmp_path / "a")
    (folder / "config.toml").write_text("[growth]\nmax_rez = 3")
    with pytest.raises(UserError, match=r"did you mean `growth\.max_res`"):
        read_runs([folder])


# --- which metrics


def test_the_metrics_that_two_runs_have_are_shown_four_at_most(runs):
    def values(*names):
        return [row(1000, 3.0, name) for name in names]

    a, b = runs(("a", values("fid", "swd", "kid")), ("b", values("kid", "swd")))
    assert compare.choose_metrics([a, b], []) == ["swd", "kid"]
    assert compare.choose_metrics([a], []) == ["fid", "swd", "kid"]
    assert compare.choose_metrics([a, b], ["fid", "fid"]) == ["fid"]
    many = runs(("c", values(*"vwxyz")), ("d", values(*"vwxyz")))
    assert compare.choose_metrics(many, []) == ["v", "w", "x", "y"]
    apart = runs(("e", values("fid")), ("f", values("kid")))
    assert compare.choose_metrics(apart, []) == ["fid", "kid"]


@pytest.fixture
def rich(tmp_path):
    """A run with metrics of several values."""
    swd = {"swd": 4.0, "swd_32": 3.0, "swd_floor": 1.0, "swd_floor_32": 0.5}
    prdc = {"precision": 0.5, "recall": 0.4, "density": 0.9, "coverage": 0.3, "more": 1.0, "precision_floor": 0.9}
    diversity = {"colour": 2.0, "pair": 9.0, "pair_reals": 8.0, "pair_floor": 8.5, "bad": float("nan")}
    folder = make_run(tmp_path / "rich")
    named = {"swd": swd, "prdc": prdc, "diversity": diversity}
    write_rows(folder / "metrics.jsonl", [row_of(1000, v) | {"metric": metric} for metric, v in named.items()])
    return read_runs([folder])


def test_a_row_is_headed_by_the_value_of_its_name_or_its_first(rich):
    assert list(compare.headlines(rich)) == ["swd", "precision", "colour"]
    assert compare.choose_metrics(rich, ["prdc", "recall", "swd_32"]) == [
        "precision", "recall", "density", "coverage", "swd_32",
    ]  # fmt: skip
    with pytest.raises(UserError, match=r"the runs have swd, swd_32, precision, recall, .*, colour, pair\.$"):
        compare.choose_metrics(rich, ["bad"])


def test_a_value_is_shown_with_that_of_real_pictures(rich):
    found = {name: compare.series_of(rich, name)[0].newest for name in ("swd", "swd_32", "precision", "recall", "pair")}
    assert {name: (point.value, point.reference) for name, point in found.items()} == {
        "swd": (4.0, 1.0), "swd_32": (3.0, 0.5), "precision": (0.5, 0.9), "recall": (0.4, None), "pair": (9.0, 8.0),
    }  # fmt: skip


def test_an_unknown_metric_is_answered_with_those_there_are(runs):
    a, b = runs(("a", [row(1000, 3.0)]), ("b", [(1000, {"kid": 1.0, "kid_floor": 0.1}, {})]))
    with pytest.raises(UserError, match=r"--metric fid: the runs have swd, kid\.$"):
        compare.compare([a, b], ["fid"])
    (c,) = runs(("c d", []))
    with pytest.raises(
        UserError, match=r"the runs have none; `progan evaluate '.*c d' --all-snapshots` measures it\.$"
    ):
        compare.compare([c], ["fid"])


# --- what is comparable


def test_newest_and_best_are_by_nimg_and_of_equal_rows_the_later_counts(runs):
    rows = [row(3000, 4.0), row(1000, 9.0), row(2000, 3.0), row(1000, 8.0, alpha=0.5)]
    (series,) = compare.series_of(runs(("a", rows)), "swd")
    assert [(p.kimg, p.value) for p in series.points] == [(1, 8), (2, 3), (3, 4)]
    assert (series.newest.value, compare.best("swd", series.compared).value) == (4, 3)
    assert [p.hours for p in series.points] == pytest.approx([0.001, 0.003, 0.005])


def test_what_is_best_depends_on_the_metric():
    points = [Point(k, None, 16, value, 0.3) for k, value in enumerate([0.1, 0.35, 0.5, 0.5])]
    chosen = {name: compare.best(name, points).kimg for name in ("swd", "fid", "is", "recall", "ms_ssim", "ms_ssim_64")}
    assert chosen == {"swd": 0, "fid": 0, "is": 2, "recall": 2, "ms_ssim": 1, "ms_ssim_64": 1}
    aims = {
        name: compare.aim(name) for name in ("is_std", "meander", "mean_red", "coverage", "spectrum", "spectrum_low")
    }
    assert list(aims.values()) == ["lower", "lower", "nearer", "higher", "lower", "nearer"]
    assert compare.best("ms_ssim", [Point(0, None, 16, 0.2, None)]) is None


@pytest.mark.parametrize("change", [{"reals": 100}, {"fakes": 100}, {"data": "xyz"}, {"mirror": False}, {"seed": 1}])
def test_another_protocol_is_not_comparable_and_says_why(change, runs):
    a, b, c = runs(("a", [row(1000, 3.0)]), ("b", [row(1000, 1.0, **change)]), ("c", [row(1000, 4.0)]))
    comparison = compare.compare([a, b, c])
    first, second, third = comparison.series["swd"]
    assert (first.why, third.why) == ("", "")
    (key, value) = next(iter(change.items()))
    was = {"mirror": "true", "seed": "none", "data": "abc"}.get(key, "8192")
    assert second.why == f"{key} {json.dumps(value).strip(chr(34))} instead of {was}"
    assert not second.alike
    assert compare.footnotes(comparison) == {("swd", 1): f"swd of b is not comparable: {second.why}."}


def test_alpha_is_no_way_of_measuring(runs):
    rows = [row(1000, 3.0, alpha=0.2), row(2000, 2.0, alpha=0.7)]
    comparison = compare.compare(runs(("a", rows), ("b", [row(1000, 2.0)])))
    assert len(comparison.series["swd"][0].points) == 2
    assert compare.footnotes(comparison) == {}


def test_what_both_runs_have_is_compared_before_what_is_more_exact(runs):
    few, many = {"reals": 512}, {"reals": 9000}
    a, b = runs(("a", [row(3000, 3.0, **few), row(3000, 2.5, **many)]), ("b", [row(3000, 4.0, **few)]))
    series = compare.series_of([a, b], "swd")
    assert [s.newest.value for s in series] == [3.0, 4.0]
    assert compare.series_of([a], "swd")[0].newest.value == 2.5
    assert compare.series_of([b, a], "swd")[0].newest.value == 4.0


def test_the_highest_resolution_that_two_runs_share_is_compared(runs):
    grown = [row(1000, 9.0, resolution=4), row(2000, 5.0, resolution=8), row(3000, 7.0)]
    a, b, c = runs(("a", grown), ("b", grown[:2]), ("c", grown[:1]))
    both = compare.compare([a, b])
    assert [s.newest.value for s in both.series["swd"]] == [5.0, 5.0]
    assert [len(s.points) for s in both.series["swd"]] == [3, 2], "the curve has them all"
    assert compare.footnotes(both) == {
        ("swd", 0): "swd of a is newer at kimg 3 (resolution 16 instead of 8), which is not compared."
    }
    three = compare.compare([a, b, c]).series["swd"]
    assert [s.why for s in three] == ["", "", "resolution 4 instead of 8"]
    assert three[2].alike
    alone = compare.compare([a]).series["swd"][0]
    assert (alone.newest.value, alone.left_out) == (7.0, "")
    assert compare.best("swd", alone.compared).value == 7.0, "5 was another resolution"


def test_of_a_snapshot_measured_at_two_resolutions_the_one_compared_counts(runs):
    (series,) = compare.series_of(runs(("a", [row(3000, 4.0), row(3000, 9.0, resolution=8)])), "swd")
    assert [(point.resolution, point.value) for point in series.points] == [(16, 4.0)]


# --- words


def test_the_table_has_a_row_a_run_aligned(runs):
    named = ("a", [row(1000, 4.0), row(3000, 4.25)]), ("long name", [row(3000, 3.0, reals=99)]), ("c", [])
    lines = compare.table_lines(compare.compare(runs(*named)))
    assert lines == [
        "run        kimg  hours  images/s  resolution       swd  best  floor",
        "a             3  0.005     138.9       16x16   4.25 @3  4 @1    1.5",
        "long name     3  0.005     138.9       16x16  3 @3 [1]  3 @3    1.5",
        "c             3  0.005     138.9       16x16         -     -      -",
        "swd at 16x16: newest and best value @kimg; lower is better",
    ]


def test_settings_that_differ_are_listed_and_no_others(tmp_path):
    a = make_run(tmp_path / "a", "training.lr=0.002")
    b = make_run(tmp_path / "b", "networks.mbstd_group=0", "data.labels=x,y")
    runs = read_runs([a, b])
    assert compare.differing_settings(runs) == {
        "data.labels": [(), ("x", "y")],
        "networks.mbstd_group": [4, 0],
        "training.lr": [0.002, config_module.Config().training.lr],
    }
    lines = compare.setting_lines(runs)
    assert [line.split()[0] for line in lines] == ["setting", "data.labels", "networks.mbstd_group", "training.lr"]
    assert lines[2].split() == ["networks.mbstd_group", "4", "0"]
    assert compare.setting_lines(runs[:1]) == []
    assert compare.setting_lines([runs[0], runs[0]]) == ["The runs have the same settings."]


def test_missing_things_are_said(tmp_path):
    a = make_run(tmp_path / "a", ticks=(), rows=())
    (a / "stats.jsonl").unlink()
    (a / "metrics.jsonl").unlink()
    (run,) = read_runs([a])
    assert (run.kimg, run.resolution) == (3, 16), "the newest sheet tells"
    assert compare.notes(compare.compare([run])) == [
        f"a has no metrics; `progan evaluate {a} --all-snapshots` measures it.",
        "a has no stats.jsonl: its hours are not known.",
    ]
    assert compare.table_lines(compare.compare([run]))[1].split() == ["a", "3", "-", "-", "16x16"]


def test_metrics_that_are_not_shown_are_named(runs):
    comparison = compare.compare(runs(("a", [row(1000, 3.0), row(1000, 3.0, "kid")])), ["kid"])
    assert compare.notes(comparison) == ["Measured too: swd (--metric NAME shows them)."]


def test_programs_get_plain_values(runs):
    found = json.loads(json.dumps(compare.as_json(compare.compare(runs(("a", [row(1000, 3.0), row(3000, 4.0)]))))))
    (run,) = found["runs"]
    assert (run["name"], run["kimg"], run["resolution"]) == ("a", 3.0, 16)
    assert run["hours"] == pytest.approx(0.005)
    assert run["images_per_sec"] == pytest.approx(1000 / 7.2)
    swd = run["metrics"]["swd"]
    assert swd["best"] == {"kimg": 1.0, "hours": 0.001, "resolution": 16, "value": 3.0, "floor": 1.5}
    assert (swd["newest"]["value"], swd["comparable"], swd["protocol"]["reals"]) == (4.0, True, 8192)
    assert [point["kimg"] for point in swd["points"]] == [1.0, 3.0]
    assert "alpha" not in swd["protocol"]


def test_programs_learn_what_is_not_comparable(runs):
    found = compare.as_json(compare.compare(runs(("a", [row(1000, 3.0)]), ("b", [row(1000, 3.0, reals=9)]))))
    told = [(run["metrics"]["swd"]["comparable"], run["metrics"]["swd"]["why"]) for run in found["runs"]]
    assert told == [(True, ""), (False, "reals 9 instead of 8192")]


# --- curves


def pixels_of(png: bytes) -> np.ndarray:
    assert png.startswith(b"\x89PNG\r\n\x1a\n")
    with Image.open(io.BytesIO(png)) as image:
        return np.asarray(image.convert("RGB"))


def count(pixels: np.ndarray, colour: str) -> int:
    """Pixels of exactly this colour."""
    return int((pixels == [int(colour[i : i + 2], 16) for i in (1, 3, 5)]).all(-1).sum())


def test_curves_have_the_colours_of_the_runs_and_equal_bytes(runs):
    pytest.importorskip("matplotlib")
    rows = [row(1000, 30.0), row(2000, 5.0), row(3000, 2.0)]
    named = runs(("a", rows), ("$b_$", [(n, {k: 2 * v for k, v in values.items()}, p) for n, values, p in rows]))
    comparison = compare.compare(named)
    png = compare.curves_png(comparison)
    pixels = pixels_of(png)
    assert all(count(pixels, colour) > 200 for colour in compare.COLOURS[:2])
    assert not any(count(pixels, colour) for colour in compare.COLOURS[2:6])
    assert (pixels[0] == 255).all()
    assert (pixels[:, 0] == 255).all()
    assert png == compare.curves_png(comparison)
    assert b"Software" not in png
    half = pixels.shape[1] // 2
    for side in (pixels[:, :half], pixels[:, half:]):  # against kimg and against hours
        below = side[side.shape[0] // 4 :]
        assert all(count(below, colour) > 50 for colour in compare.COLOURS[:2])


def test_each_metric_has_a_row_of_panels(runs):
    pytest.importorskip("matplotlib")
    comparison = compare.compare(runs(("a", [row(1000, 3.0), row(2000, 3.0, "kid")])))
    one = pixels_of(compare.curves_png(compare.compare(comparison.runs, ["swd"])))
    two = pixels_of(compare.curves_png(comparison))
    assert one.shape[1] == two.shape[1]
    assert two.shape[0] > 1.7 * one.shape[0]


def panel_axes(comparison, axis="kimg"):
    from matplotlib.figure import Figure

    axes = Figure().subplots()
    compare._panel(axes, comparison, "swd", axis)
    return axes


def test_a_panel_draws_a_line_a_resolution_pale_or_dotted_as_it_compares(runs):
    pytest.importorskip("matplotlib")
    grown = [row(1000, 9.0, resolution=8), row(2000, 5.0), row(3000, 4.0)]
    a, b = runs(("a", grown), ("b", [row(2000, 5.0), row(3000, 4.0)])), runs(("c", [row(3000, 4.0, data="x")]))
    axes = panel_axes(compare.compare([*a, *b]))
    lines = [(tuple(x.get_xdata()), x.get_alpha(), x.get_linestyle(), x.get_color()) for x in axes.lines]
    assert lines == [
        ((1.0,), 0.35, "-", compare.COLOURS[0]),
        ((2.0, 3.0), 1.0, "-", compare.COLOURS[0]),
        ((2.0, 3.0), 1.0, "-", compare.COLOURS[1]),
        ((3.0,), 1.0, ":", compare.COLOURS[2]),
        ((0, 1), None, "--", "#666666"),
    ]
    assert list(axes.lines[-1].get_ydata()) == [1.5, 1.5]
    assert axes.get_title(loc="left") == "swd at 16x16 (pale: other resolutions; dotted: not comparable)"
    hours = panel_axes(compare.compare(a), "hours")
    assert list(hours.lines[1].get_xdata()) == pytest.approx([0.003, 0.005])


def test_the_axis_is_logarithmic_beyond_a_decade(runs):
    pytest.importorskip("matplotlib")
    near, far = runs(("a", [row(1000, 3.0), row(2000, 29.0)]), ("b", [row(1000, 3.0), row(2000, 31.0)]))
    assert panel_axes(compare.compare([near])).get_yscale() == "linear"
    assert panel_axes(compare.compare([far])).get_yscale() == "log"
    assert not compare.spans_decades([-1.0, 5.0, 500.0])
    assert not compare.spans_decades([0.0, 5.0])


def test_a_curve_of_many_points_has_no_markers(runs):
    pytest.importorskip("matplotlib")
    few, many = runs(*((str(n), [row(1000 + k, 3.0) for k in range(n)]) for n in (60, 61)))
    assert panel_axes(compare.compare([few])).lines[0].get_marker() == "o"
    assert panel_axes(compare.compare([many])).lines[0].get_marker() == ""


def test_names_are_shown_as_they_are(runs):
    """A $ is no formula, and an underscore at the beginning hides nobody."""
    pytest.importorskip("matplotlib")
    from matplotlib.figure import Figure

    figure = Figure()
    compare._legend(figure, runs(("_a", []), ("$b$", []), ("c" * 80, [])))
    texts = figure.legends[0].get_texts()
    assert [t.get_text() for t in texts] == ["_a", "$b$", "c" * 29 + "..." + "c" * 28]
    assert not any(t.get_parse_math() for t in texts)


# --- pictures


def test_pictures_are_of_the_last_sheet_up_to_a_kimg(tmp_path):
    (run,) = read_runs([make_run(tmp_path / "a", sheets=(0, 2, 3.02, 5))])
    assert [compare.sheet_at(run, kimg).kimg for kimg in (0, 1.9, 2, 2.5, 3, 4.9, 99)] == [0, 0, 2, 2, 3.02, 3.02, 5]
    (late,) = read_runs([make_run(tmp_path / "b", sheets=(2,))])
    assert compare.sheet_at(late, 1) is None


def test_runs_are_shown_as_far_as_all_are(tmp_path):
    runs = read_runs([make_run(tmp_path / "a"), make_run(tmp_path / "b", ticks=((2000, 8, 1.0),))])
    assert compare.common_kimg(runs) == 2.0


def test_blocks_have_one_size_whatever_the_resolution(tmp_path):
    """Each shows the 4 x 4 cells at the top left of its sheet, 64 pixels a cell, below its caption."""
    folders = [make_run(tmp_path / "a", sheets=((1, 4), (2, 16))), make_run(tmp_path / "b", sheets=((1, 8),))]
    pixels = pixels_of(compare.pictures_png(read_runs(folders), 1.5))
    block, gap = 4 * 64, compare.GAP
    assert pixels.shape[1] == 2 * block + 3 * gap
    top = pixels.shape[0] - gap - block
    for number in range(2):
        left = gap + number * (block + gap)
        cells = pixels[top:-gap, left : left + block].reshape(4, 64, 4, 64, 3)
        for row_, column in np.ndindex(4, 4):
            assert (cells[row_, :, column] == [10, 20 * row_, 20 * column]).all()
        caption = pixels[gap : top - 1, left : left + block]
        assert (caption < 128).any(), "a caption"
        assert (pixels[:, left - gap : left] == 255).all()


def test_the_common_size_is_that_of_the_largest(tmp_path):
    folders = [make_run(tmp_path / "a", sheets=((1, 128),)), make_run(tmp_path / "b", sheets=((1, 8),))]
    assert pixels_of(compare.pictures_png(read_runs(folders), 1, (2, 1))).shape[1] == 2 * 2 * 128 + 3 * compare.GAP


def test_real_pictures_come_first_once_for_each_data_set(tmp_path):
    folders = [make_run(tmp_path / name, f"data.source={data}", sheets=(1,)) for name, data in ("ax", "bx", "cy")]
    for folder in folders:
        make_sheet(folder / "reals-0016.png", 20, 16)
    pixels = pixels_of(compare.pictures_png(read_runs(folders), 1))
    width = 4 * 64 + compare.GAP
    first_row = pixels[pixels.shape[0] // 2 - 2 * compare.GAP, compare.GAP :: width, 0]
    assert first_row.tolist()[:4] == [200, 200, 10, 10]
    assert pixels.shape[1] == 4 * width + compare.GAP
    assert pixels[-2 * compare.GAP, compare.GAP, 0] == 10, "the fifth block stands below the first"


def test_real_pictures_are_as_sharp_as_the_sharpest_sheet(tmp_path):
    folders = [make_run(tmp_path / name, sheets=((1, size),)) for name, size in (("a", 16), ("b", 8))]
    for folder, size in zip(folders, (16, 8)):
        make_sheet(folder / f"reals-{size:04d}.png", size, size)
    pixels = pixels_of(compare.pictures_png(read_runs(folders), 1))
    assert pixels.shape[1] == 3 * (4 * 64 + compare.GAP) + compare.GAP
    assert pixels[-2 * compare.GAP, 2 * compare.GAP, 0] == 160


def test_runs_without_sheets_have_no_pictures(tmp_path):
    a, b = read_runs([make_run(tmp_path / "a", sheets=()), make_run(tmp_path / "b", sheets=(1,))])
    assert compare.pictures_png([a], 3) is None
    assert pixels_of(compare.pictures_png([a, b], 3)).shape[1] == 4 * 64 + 2 * compare.GAP


def test_long_names_lose_their_middle():
    assert compare.fitted("abcdefghij", 10, len) == "abcdefghij"
    assert compare.fitted("abcdefghij", 7, len) == "ab...ij"
    assert compare.fitted("abcdefghij", 8, len) == "abc...ij"
    assert len(compare.fitted("x" * 500, 60, len)) == 60
