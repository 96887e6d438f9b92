"""Runs side by side, from what training and `progan evaluate` leave in their directories: a table, curves, pictures.

Results are compared where they were measured alike: with equal protocols but for what varies along a run (VARIES).
"""

from __future__ import annotations

import io
import json
import math
import re
import shlex
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image, ImageDraw, ImageFont

from progan import config as config_module
from progan.config import Config
from progan.errors import UserError
from progan.metrics.results import FILE, floor_name, read_results, table
from progan.render.growth import Grid, excerpt, read_grids

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Protocol = tuple[tuple[str, str], ...]
"""How something was measured: (name, value as JSON), sorted by name."""

VARIES = ("alpha", "stage")  # in a protocol: facts of the moment in training, no way of measuring
HIGHER = ("is", "precision", "recall", "coverage", "modes")  # is better
NEARER = (
    "ms_ssim", "spectrum_low", "spectrum_high", "mean", "std", "pair", "pixel_std", "neighbour", "density",
    "confidence", "clarity",
)  # fmt: skip
"""Values, and those whose names go on with _, that are the better the nearer to what real pictures have. Lower is
better for all others.
"""
MOST_METRICS = 4  # shown unless they are asked for by name
_REFERENCE = re.compile(r"_(floor|reals)(_|$)")  # in the name of a value that real pictures have

PACE = "Timing/sec_per_kimg"
SLACK = 1.01  # ticks end with a whole step: sheets of runs with other batches are taken at very nearly the same kimg
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000")  # colour-blind safe
MARKERS = ("o", "s", "^", "D")  # the next whenever the colours are used up
MOST_MARKERS = 60  # on a curve; more would hide it
A_ROW = 4  # blocks of pictures side by side
GAP = 16  # pixels between them


@dataclass(frozen=True)
class Tick:
    """A status interval: where it ended, after how many hours of training, and its resolution (0: not known)."""

    nimg: int
    hours: float
    resolution: int


@dataclass(frozen=True)
class Measurement:
    """One row of metrics.jsonl. values: finite ones only."""

    nimg: int
    metric: str
    values: Mapping[str, float]
    protocol: Protocol


@dataclass(frozen=True)
class Run:
    """What a run directory holds for people. ticks, grids: in the order of training."""

    folder: Path
    name: str
    config: Config
    ticks: tuple[Tick, ...]
    measurements: tuple[Measurement, ...]
    grids: tuple[Grid, ...]

    @property
    def kimg(self) -> float:
        """How far it is, in thousand real images."""
        ticks = [tick.nimg / 1000 for tick in self.ticks]
        return (ticks or [grid.kimg for grid in self.grids] or [m.nimg / 1000 for m in self.measurements] or [0.0])[-1]

    @property
    def resolution(self) -> int:
        """Pixels of its newest tick, or else of its newest sheet; 0: not known."""
        return self.ticks[-1].resolution if self.ticks else self.grids[-1].resolution if self.grids else 0


@dataclass(frozen=True)
class Point:
    """One result. hours: None where the run has no ticks. reference: the value of real pictures, if it is known."""

    kimg: float
    hours: float | None
    resolution: int
    value: float
    reference: float | None


@dataclass(frozen=True)
class Series:
    """The results of a metric along a run, by one protocol but for the resolution, which grows.

    protocol: that of the newest and the best one. why: how it differs from the others' ('': comparable). alike: whether
    it does in nothing but the resolution. left_out: what is not compared though it is newer ('': nothing).
    """

    points: tuple[Point, ...]  # by kimg
    protocol: Protocol
    why: str
    alike: bool
    left_out: str

    @property
    def resolution(self) -> int:
        """Pixels at which it is compared."""
        return _whole(self.protocol, "resolution")

    @property
    def compared(self) -> tuple[Point, ...]:
        """The points at that resolution; at least one."""
        return tuple(point for point in self.points if point.resolution == self.resolution)

    @property
    def newest(self) -> Point:
        """The last one that is compared."""
        return self.compared[-1]


@dataclass(frozen=True)
class Comparison:
    """Runs, and of each metric a series a run (None: it has not been measured)."""

    runs: tuple[Run, ...]
    series: Mapping[str, tuple[Series | None, ...]]


# ---- what a run directory says


def read_runs(folders: Iterable[Path]) -> tuple[Run, ...]:
    """Each folder once, under names that tell them apart. Raises UserError where one is no run directory."""
    unique = list({folder.resolve(): folder for folder in reversed(list(folders))}.items())[::-1]
    names = distinct_names([absolute for absolute, _ in unique])
    return tuple(read_run(folder, name) for (_, folder), name in zip(unique, names))


def distinct_names(folders: Sequence[Path]) -> list[str]:
    """The last part of each path; where several end alike, as many parts as tell them apart."""
    parts = dict.fromkeys(folders, 1)
    while True:
        names = ["/".join(folder.parts[-parts[folder] :]) for folder in folders]
        doubtful = [f for f, name in zip(folders, names) if names.count(name) > 1 and parts[f] < len(f.parts)]
        if not doubtful:
            return names
        parts |= {folder: parts[folder] + 1 for folder in doubtful}


def read_run(folder: Path, name: str) -> Run:
    """A run directory. Raises UserError where it is none, or a sheet in it is damaged."""
    path = folder / "config.toml"
    if not path.is_file():
        what = "is no run directory (config.toml is missing)" if folder.is_dir() else "is no directory"
        raise UserError(f"{folder} {what}; give what `progan train --out` has written.")
    config = config_module.parse(path.read_text(encoding="utf-8", errors="replace"), str(path))
    ticks = tuple(read_ticks(folder / "stats.jsonl"))
    grids = read_grids(folder) if any(folder.glob("fakes-[0-9]*.png")) else []
    return Run(folder, name, config, ticks, read_measurements(folder / FILE), tuple(grids))


def read_rows(path: Path) -> list[dict[str, Any]]:
    """The objects with an nimg, one a line; none where there is no file. Half a line, of a run that was killed or is
    being written, counts for nothing.
    """
    rows = []
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines() if path.is_file() else ():
        try:
            row = json.loads(line)
        except ValueError:
            continue
        if isinstance(row, dict) and isinstance(row.get("nimg"), int):
            rows.append(row)
    return rows


def read_ticks(path: Path) -> Iterator[Tick]:
    """The ticks of stats.jsonl by nimg, the later row of two. Images of a tick that is missing count at the pace of the
    next one.
    """
    rows = {row["nimg"]: row for row in read_rows(path) if _is_number(row.get(PACE))}
    nimg, hours = 0, 0.0
    for at in sorted(rows):
        hours += (at - nimg) / 1000 * rows[at][PACE] / 3600
        nimg = at
        yield Tick(nimg, hours, int(rows[at].get("Progress/resolution") or 0))


def read_measurements(path: Path) -> tuple[Measurement, ...]:
    """The rows of metrics.jsonl by nimg, those of one nimg in the order of the file."""
    found = []
    for result in read_results(path):
        finite = {name: float(value) for name, value in result.values.items() if _is_number(value)}
        found.append(Measurement(result.nimg, result.metric, finite, as_protocol(result.protocol)))
    return tuple(sorted(found, key=lambda m: m.nimg))


def as_protocol(fields: Mapping[str, Any]) -> Protocol:
    """What has to be equal where results are to be compared."""
    return tuple((name, json.dumps(fields[name], sort_keys=True)) for name in sorted(fields) if name not in VARIES)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


# ---- time


def hours_at(ticks: Sequence[Tick], nimg: int) -> float | None:
    """Hours of training until then: linear between the ends of ticks, after the last as fast as in the last. None where
    there are no ticks.
    """
    if not ticks:
        return None
    ends = [Tick(0, 0.0, 0), *(tick for tick in ticks if tick.nimg > 0)]
    last = next((i for i in range(1, len(ends)) if ends[i].nimg >= nimg), len(ends) - 1)
    a, b = ends[max(0, last - 1)], ends[last]
    return b.hours + (b.hours - a.hours) * (nimg - b.nimg) / max(1, b.nimg - a.nimg)


def images_per_sec(ticks: Sequence[Tick]) -> float | None:
    """The mean speed at the last resolution. None where there are no ticks."""
    nimg, sec = 0, 0.0
    for before, tick in zip([Tick(0, 0.0, 0), *ticks], ticks):
        if tick.resolution == ticks[-1].resolution:
            nimg, sec = nimg + tick.nimg - before.nimg, sec + 3600 * (tick.hours - before.hours)
    return nimg / sec if sec else None


# ---- metrics


def compare(runs: Sequence[Run], wanted: Sequence[str] = ()) -> Comparison:
    """The runs with the wanted metrics. Raises UserError for one that no run has."""
    names = choose_metrics(runs, wanted)
    return Comparison(tuple(runs), {name: series_of(runs, name) for name in names})


def choose_metrics(runs: Sequence[Run], wanted: Sequence[str]) -> list[str]:
    """The wanted ones, or those that at least two runs have (any run, where no two share one), MOST_METRICS of them."""
    shared = [name for name, count in headlines(runs).items() if count > 1]
    named = [name for text in wanted for name in meant(text, runs)]
    return list(dict.fromkeys(named)) or (shared or list(headlines(runs)))[:MOST_METRICS]


def meant(text: str, runs: Sequence[Run]) -> list[str]:
    """The value of this name, or the first MOST_METRICS values of the metric of this name. UserError for neither."""
    rows = [m for run in runs for m in run.measurements]
    known = list(dict.fromkeys(name for m in rows for name in value_names(m)))
    found = [text] if text in known else [name for m in rows if m.metric == text for name in value_names(m)]
    if not found:
        there = f"the runs have {', '.join(known)}" if known else "the runs have none; " + _evaluate(runs[0])
        raise UserError(f"--metric {text}: {there}.")
    return list(dict.fromkeys(found))[:MOST_METRICS]


def value_names(measurement: Measurement) -> list[str]:
    """The values of a row that are the generator's, not those of real pictures that come with them."""
    return [name for name in measurement.values if not _REFERENCE.search(name)]


def headlines(runs: Sequence[Run]) -> dict[str, int]:
    """{value: how many runs have it}, the most frequent first: of each row the value that bears the metric's name, or
    its first where none does.
    """
    has = Counter[str]()
    for run in runs:
        rows = [(m.metric, value_names(m)) for m in run.measurements]
        has.update(dict.fromkeys([metric if metric in names else names[0] for metric, names in rows if names]).keys())
    return dict(has.most_common())


def series_of(runs: Sequence[Run], name: str) -> tuple[Series | None, ...]:
    """A metric of each run: by one protocol as far as they have it, else (marked) by a run's own."""
    rows = [[m for m in run.measurements if name in m.values] for run in runs]
    common = best_protocol(rows) if any(rows) else ()
    return tuple(_series(run, name, own, common) if own else None for run, own in zip(runs, rows))


def best_protocol(rows: Sequence[Sequence[Measurement]]) -> Protocol:
    """The protocol to compare by; rows: of each run. Of those that at least two runs have (of all, where there are
    none), the highest resolution; then what most runs have; then the most pictures; then the newest result.
    """
    runs = Counter(protocol for own in rows for protocol in {m.protocol for m in own})
    newest = {m.protocol: m.nimg for own in rows for m in sorted(own, key=lambda m: m.nimg)}

    def rank(p: Protocol) -> tuple[bool, int, int, int, int, Protocol]:
        pictures = _whole(p, "reals") + _whole(p, "fakes")
        return runs[p] > 1, _whole(p, "resolution"), runs[p], pictures, newest[p], p

    return max(runs, key=rank)


def _series(run: Run, name: str, rows: Sequence[Measurement], common: Protocol) -> Series:
    """One run's rows that have the metric, at least one, as a series."""
    protocol = common if common in [m.protocol for m in rows] else best_protocol([rows])
    family = [m for m in rows if _family(m.protocol) == _family(protocol)]
    by_nimg = {m.nimg: m for m in sorted(family, key=lambda m: m.protocol == protocol)}  # last: the one compared
    points = tuple(_point(run, name, by_nimg[nimg]) for nimg in sorted(by_nimg))
    newest = max(m.nimg for m in family if m.protocol == protocol)
    later = [m for m in rows if m.nimg > newest]
    left_out = f"kimg {_kimg(later[-1].nimg / 1000)} ({differences(later[-1].protocol, protocol)})" if later else ""
    same_but_for_size = _family(protocol) == _family(common)
    return Series(points, protocol, differences(protocol, common), same_but_for_size, left_out)


def _point(run: Run, name: str, row: Measurement) -> Point:
    """One row as a point of a curve."""
    hours, resolution = hours_at(run.ticks, row.nimg), _whole(row.protocol, "resolution")
    return Point(row.nimg / 1000, hours, resolution, row.values[name], reference(row, name))


def reference(row: Measurement, name: str) -> float | None:
    """What real pictures have: the value of the reals themselves, or that of other reals in place of the fakes."""
    floor = row.values.get(floor_name(row.metric, name))
    return row.values.get(f"{name}_reals", floor)


def best(name: str, points: Sequence[Point]) -> Point | None:
    """The best of some points, the earlier of equals. None where the goal is what real pictures have, and no point
    says what that is.
    """
    direction = aim(name)
    if direction == "nearer":
        known = [point for point in points if point.reference is not None]
        return min(known, key=lambda p: abs(p.value - (p.reference or 0.0)), default=None)
    return (max if direction == "higher" else min)(points, key=lambda p: p.value)


def aim(name: str) -> str:
    """higher, nearer (to what real pictures have) or lower: what is better."""
    near = any(name == known or name.startswith(f"{known}_") for known in NEARER)
    return "higher" if name in HIGHER else "nearer" if near else "lower"


def differences(ours: Protocol, theirs: Protocol) -> str:
    """`fakes 2048 instead of 8192, resolution 32 instead of 16`; '' where there are none."""
    a, b = dict(ours), dict(theirs)
    differing = [key for key in sorted(a | b) if a.get(key) != b.get(key)]
    return ", ".join(f"{key} {_brief(a.get(key))} instead of {_brief(b.get(key))}" for key in differing)


def _brief(value: str | None) -> str:
    """The JSON of a protocol's value for people: a fingerprint's beginning will do."""
    text = "none" if value is None else value.strip('"')
    return text if len(text) <= 20 else f"{text[:12]}..."


def _family(protocol: Protocol) -> Protocol:
    """A protocol without the resolution, which grows along a run."""
    return tuple((name, value) for name, value in protocol if name != "resolution")


def _whole(protocol: Protocol, key: str) -> int:
    """A whole number of a protocol; 0 where it has none."""
    value = json.loads(dict(protocol).get(key, "0"))
    return value if isinstance(value, int) else 0


# ---- words


def table_lines(comparison: Comparison) -> list[str]:
    """A row a run, aligned, and below it what the columns are."""
    head = ["run", "kimg", "hours", "images/s", "resolution"]
    head += [title for name in comparison.series for title in (name, "best", _reference_name(name))]
    marks = {key: number for number, key in enumerate(footnotes(comparison), 1)}
    rows = [head]
    for index, run in enumerate(comparison.runs):
        cells = [cell for name in comparison.series for cell in _cells(comparison, name, index, marks)]
        size = f"{run.resolution}x{run.resolution}" if run.resolution else "-"
        hours = hours_at(run.ticks, run.ticks[-1].nimg) if run.ticks else None
        rows.append([run.name, _kimg(run.kimg), _number(hours), _number(images_per_sec(run.ticks)), size, *cells])
    return aligned(rows) + [_explained(name, series) for name, series in comparison.series.items()]


def _cells(comparison: Comparison, name: str, index: int, marks: Mapping[tuple[str, int], int]) -> list[str]:
    """Newest, best and reference of one run: `4.1 @68 [1]`, value @ kimg [footnote]."""
    series = comparison.series[name][index]
    if series is None:
        return ["-", "-", "-"]
    mark = f" [{marks[name, index]}]" if (name, index) in marks else ""
    top = best(name, series.compared)
    return [_at(series.newest) + mark, _at(top) if top else "-", _number(series.newest.reference)]


def _at(point: Point) -> str:
    return f"{_number(point.value)} @{_kimg(point.kimg)}"


def compared_resolution(series: Sequence[Series | None]) -> int:
    """Pixels at which the runs are compared (0: the protocol does not say)."""
    return next(s.resolution for s in series if s and not s.why)


def _explained(name: str, series: Sequence[Series | None]) -> str:
    """What the columns of a metric are."""
    resolution = compared_resolution(series)
    better = {"higher": "higher is better", "lower": "lower is better", "nearer": "nearer to the reals' is better"}
    size = f" at {resolution}x{resolution}" if resolution else ""
    return f"{name}{size}: newest and best value @kimg; {better[aim(name)]}"


def _reference_name(name: str) -> str:
    """What the value of real pictures is called."""
    return "reals" if aim(name) == "nearer" else "floor"


def footnotes(comparison: Comparison) -> dict[tuple[str, int], str]:
    """{(metric, number of the run): why a value is not what it seems}, in the order of the table."""
    notes = {}
    for index, run in enumerate(comparison.runs):
        for name, all_series in comparison.series.items():
            series, said = all_series[index], []
            if series and series.why:
                said.append(f"{name} of {run.name} is not comparable: {series.why}.")
            if series and series.left_out:
                said.append(f"{name} of {run.name} is newer at {series.left_out}, which is not compared.")
            if said:
                notes[name, index] = " ".join(said)
    return notes


def setting_lines(runs: Sequence[Run]) -> list[str]:
    """The settings that differ, a line each, under the names of the runs."""
    if len(runs) < 2:
        return []
    settings = differing_settings(runs)
    if not settings:
        return ["The runs have the same settings."]
    rows = [["setting", *(run.name for run in runs)]]
    return aligned(rows + [[key, *map(_setting, values)] for key, values in settings.items()])


def differing_settings(runs: Sequence[Run]) -> dict[str, list[Any]]:
    """{"section.key": the value of each run} of the settings that are not the same in all."""
    flat = [config_module.flatten(run.config) for run in runs]
    values = {key: [knobs[key] for knobs in flat] for key in flat[0]}
    return {key: found for key, found in values.items() if any(value != found[0] for value in found)}


def _setting(value: Any) -> str:
    """A knob as one types it: bare texts, tables as JSON."""
    return value if isinstance(value, str) else json.dumps(value)


def notes(comparison: Comparison) -> list[str]:
    """What is missing, and how to get it."""
    shown = [name for name in headlines(comparison.runs) if name not in comparison.series]
    more = [f"Measured too: {', '.join(shown)} (--metric NAME shows them)."] if shown else []
    empty = [run for run in comparison.runs if not run.measurements]
    timeless = [f"{run.name} has no stats.jsonl: its hours are not known." for run in comparison.runs if not run.ticks]
    return more + [f"{run.name} has no metrics; {_evaluate(run)}." for run in empty] + timeless


def _evaluate(run: Run) -> str:
    return f"`progan evaluate {shlex.quote(str(run.folder))} --all-snapshots` measures it"


def aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """Rows of cells as lines of aligned columns."""
    return table(list(zip(*rows)))


def _number(value: float | None) -> str:
    """Four significant digits, `12346` rather than `1.235e+04`."""
    return "-" if value is None else f"{value:.0f}" if 1e4 <= abs(value) < 1e9 else f"{value:.4g}"


def _kimg(kimg: float) -> str:
    return f"{kimg:.0f}" if kimg >= 100 else f"{kimg:.3g}"


# ---- for programs


def as_json(comparison: Comparison) -> dict[str, Any]:
    """All of it as plain values."""
    rows = [_run_json(comparison, index) for index in range(len(comparison.runs))]
    return {"runs": rows, "settings": differing_settings(comparison.runs), "notes": notes(comparison)}


def _run_json(comparison: Comparison, index: int) -> dict[str, Any]:
    run = comparison.runs[index]
    measured = {name: series[index] for name, series in comparison.series.items()}
    return {
        "name": run.name,
        "folder": str(run.folder),
        "kimg": run.kimg,
        "hours": run.ticks[-1].hours if run.ticks else None,
        "images_per_sec": images_per_sec(run.ticks),
        "resolution": run.resolution or None,
        "metrics": {name: _series_json(name, series) for name, series in measured.items() if series},
    }


def _series_json(name: str, series: Series) -> dict[str, Any]:
    top = best(name, series.compared)
    return {
        "newest": _point_json(series.newest),
        "best": _point_json(top) if top else None,
        "comparable": not series.why,
        "why": series.why,
        "left_out": series.left_out,
        "protocol": {key: json.loads(value) for key, value in series.protocol},
        "points": [_point_json(point) for point in series.points],
    }


def _point_json(point: Point) -> dict[str, Any]:
    """`floor`: what real pictures have."""
    return {
        "kimg": point.kimg,
        "hours": point.hours,
        "resolution": point.resolution or None,
        "value": point.value,
        "floor": point.reference,
    }


# ---- curves


def curves_png(comparison: Comparison) -> bytes:
    """The curves as a PNG: a row a metric, against kimg and against hours. Raises ImportError without matplotlib."""
    import matplotlib.figure

    rows = len(comparison.series)
    figure = matplotlib.figure.Figure(figsize=(11, 0.8 + 3 * rows), layout="constrained", facecolor="white")
    for row, axes in zip(comparison.series, figure.subplots(rows, 2, sharey="row", squeeze=False)):
        for axis, axes_of in zip(("kimg", "hours"), axes):
            _panel(axes_of, comparison, row, axis)
    _legend(figure, comparison.runs)
    file = io.BytesIO()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing", UserWarning)  # a name in a script that the font lacks
        figure.savefig(file, format="png", dpi=110, metadata={"Software": None})
    return file.getvalue()


def _panel(axes: Axes, comparison: Comparison, name: str, axis: str) -> None:
    """One metric against kimg or hours."""
    all_series = comparison.series[name]
    measured = [(index, series) for index, series in enumerate(all_series) if series]
    for index, series in measured:
        _curve(axes, series, index, axis, compared_resolution(all_series))
    if spans_decades([point.value for _, series in measured for point in series.points]):
        axes.set_yscale("log")
    _reference_line(axes, name, [series.newest.reference for _, series in measured if not series.why])
    axes.set_xlabel("kimg" if axis == "kimg" else "hours of training")
    if axis == "kimg":
        axes.set_title(_title(name, all_series), loc="left", fontsize=9, parse_math=False)
    axes.grid(color="#dddddd", linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)


def _title(name: str, all_series: Sequence[Series | None]) -> str:
    """`swd at 32x32 (pale: other resolutions; dotted: not comparable)`"""
    resolution, measured = compared_resolution(all_series), [series for series in all_series if series]
    pale = any(point.resolution != resolution for series in measured for point in series.points)
    dotted = any(not series.alike for series in measured)
    remarks = ["pale: other resolutions"] * pale + ["dotted: not comparable"] * dotted
    size = f" at {resolution}x{resolution}" if resolution else ""
    return f"{name}{size}" + (f" ({'; '.join(remarks)})" if remarks else "")


def spans_decades(values: Sequence[float]) -> bool:
    """Whether a logarithmic axis shows them better: all above 0, the largest over ten times the smallest."""
    return min(values) > 0 and max(values) > 10 * min(values)


def _curve(axes: Axes, series: Series, index: int, axis: str, compared: int) -> None:
    """One run: a line a resolution, pale where another one is compared; dotted where measured otherwise."""
    look = _look(index) | {"linestyle": "-" if series.alike else ":"}
    look |= {"marker": ""} if len(series.points) > MOST_MARKERS else {}
    for resolution, points in groupby(series.points, key=lambda point: point.resolution):
        pairs = [(p.kimg if axis == "kimg" else p.hours, p.value) for p in points]
        known = [(x, y) for x, y in pairs if x is not None]
        alpha = 1.0 if resolution == compared else 0.35
        axes.plot([x for x, _ in known], [y for _, y in known], alpha=alpha, **look)


def _look(index: int) -> dict[str, Any]:
    """How the curve of a run looks."""
    marker = MARKERS[index // len(COLOURS) % len(MARKERS)]
    return {"color": COLOURS[index % len(COLOURS)], "marker": marker, "markersize": 4, "linewidth": 1.6}


def _reference_line(axes: Axes, name: str, references: Sequence[float | None]) -> None:
    """What real pictures have, dashed: of the first run that knows."""
    known = [value for value in references if value is not None]
    if not known:
        return
    axes.axhline(known[0], color="#666666", linestyle="--", linewidth=1)
    axes.annotate(
        f"{_reference_name(name)} {_number(known[0])}", (1, known[0]), (-2, 3), axes.get_yaxis_transform(),
        "offset points", ha="right", va="bottom", fontsize=8, color="#666666",
    )  # fmt: skip


def _legend(figure: Figure, runs: Sequence[Run]) -> None:
    """The names of the runs above all."""
    from matplotlib.lines import Line2D

    lines = [Line2D([], [], **_look(index)) for index in range(len(runs))]
    names = [fitted(run.name, 60, len) for run in runs]
    columns = max(1, min(4, len(runs), 120 // (max(map(len, names)) + 6)))
    legend = figure.legend(lines, [" "] * len(runs), loc="outside upper left", ncols=columns, frameon=False)
    for text, name in zip(legend.get_texts(), names):
        text.set_parse_math(False)  # a $ is a $
        text.set_text(name)  # here, because a label that begins with _ would be left out


# ---- pictures


def common_kimg(runs: Sequence[Run]) -> float:
    """The largest kimg that all runs have reached."""
    return min(run.kimg for run in runs)


def sheet_at(run: Run, kimg: float) -> Grid | None:
    """The last sheet up to a kimg (see SLACK). None where there is none."""
    return next((grid for grid in reversed(run.grids) if grid.kimg <= kimg * SLACK), None)


def pictures_png(runs: Sequence[Run], kimg: float, cells: tuple[int, int] = (4, 4)) -> bytes | None:
    """The runs' sheets at a kimg as one PNG: as many (columns, rows) of each as all have, at most `cells`, in pictures
    of one size, under captions; before them the real pictures of each data set. None where no run has a sheet.
    """
    sheets = [(run, sheet) for run in runs if (sheet := sheet_at(run, kimg))]
    if not sheets:
        return None
    captions = [(run.name, f"{_kimg(g.kimg)} kimg, {g.resolution}x{g.resolution}") for run, g in sheets]
    shown = [*_reals(sheets), *zip(captions, (sheet for _, sheet in sheets))]
    columns = min(cells[0], *(sheet.columns for _, sheet in sheets))
    rows = min(cells[1], *(sheet.rows for _, sheet in sheets))
    size = max(64, *(sheet.resolution for _, sheet in sheets))
    blocks = [_block(caption, Image.fromarray(excerpt(sheet, columns, rows, size))) for caption, sheet in shown]
    file = io.BytesIO()
    _tiled(blocks).save(file, "PNG")
    return file.getvalue()


def _reals(sheets: Sequence[tuple[Run, Grid]]) -> list[tuple[tuple[str, str], Grid]]:
    """The real pictures, as a caption and a sheet: once for runs of the same data, as its sharpest sheet shows them."""
    found = {}
    for run, sheet in sorted(sheets, key=lambda pair: pair[1].resolution):
        path = run.folder / f"reals-{sheet.resolution:04d}.png"
        data = run.config.data
        if path.is_file():
            caption = ("real pictures", f"{Path(data.source).name}, {sheet.resolution}x{sheet.resolution}")
            reals = Grid(path, sheet.resolution, 0.0, sheet.columns, sheet.rows)
            found[data.source, data.labels, data.max_images] = caption, reals
    return list(found.values())


def _block(caption: tuple[str, str], pictures: Image.Image) -> Image.Image:
    """Pictures under two lines of text, on white."""
    font = ImageFont.load_default(size=max(13, pictures.width // 32))
    line = sum(font.getmetrics()) + 2 if isinstance(font, ImageFont.FreeTypeFont) else 14
    block = Image.new("RGB", (pictures.width, pictures.height + 2 * line + 4), "white")
    draw = ImageDraw.Draw(block)
    for number, (text, colour) in enumerate(zip(caption, ("black", "#555555"))):
        draw.text((0, number * line), fitted(text, pictures.width, font.getlength), colour, font)
    block.paste(pictures, (0, 2 * line + 4))
    return block


def fitted(text: str, width: float, measure: Callable[[str], float]) -> str:
    """A text that is too wide without its middle, since names of runs differ at their ends."""
    short = text
    for kept in range(len(text) - 1, 1, -1):
        if measure(short) <= width:
            break
        short = f"{text[: (kept + 1) // 2]}...{text[len(text) - kept // 2 :]}"
    return short


def _tiled(blocks: Sequence[Image.Image]) -> Image.Image:
    """Blocks of one size beside each other, A_ROW in a row, with gaps around."""
    width, height = (size + GAP for size in blocks[0].size)
    columns, rows = min(A_ROW, len(blocks)), math.ceil(len(blocks) / A_ROW)
    whole = Image.new("RGB", (GAP + columns * width, GAP + rows * height), "white")
    for number, block in enumerate(blocks):
        whole.paste(block, (GAP + number % A_ROW * width, GAP + number // A_ROW * height))
    return whole
