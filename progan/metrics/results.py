"""What has been measured: one line of JSON a result, kept as metrics.jsonl in the run's directory."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from progan.files import write_text
from progan.version import __version__

FILE = "metrics.jsonl"


@dataclass(frozen=True)
class Result:
    """One metric of one generator, and everything that the numbers depend on."""

    nimg: int  # real images that the generator had seen; 0 where there is no generator
    metric: str
    values: Mapping[str, float]  # `swd`, `swd_32`, ...; names that end in _floor, _floor_32 are those of other reals
    protocol: Mapping[str, Any]  # what was compared, and how: results of different protocols are not comparable
    sec: float
    file: str | None = None  # of the snapshot; None: measured while training
    snapshot: str | None = None  # hash of that file
    progan: str = __version__

    @property
    def key(self) -> str:
        """What a result is known by: the same key would give the same numbers."""
        return json.dumps([self.snapshot, self.metric, self.protocol], sort_keys=True)


def read_results(path: Path) -> list[Result]:
    """All results of a file, in its order; none where there is no such file. Lines that are cut off are passed over."""
    if not path.is_file():
        return []
    return [result for line in path.read_text(encoding="utf-8").splitlines() if (result := _parsed(line))]


def _parsed(line: str) -> Result | None:
    try:
        record = json.loads(line)
        return Result(**{field.name: record[field.name] for field in fields(Result)})
    except (ValueError, KeyError, TypeError):
        return None


def add_result(path: Path, result: Result) -> None:
    """Append a line. After one that a crash cut off, it begins a new line."""
    path.parent.mkdir(parents=True, exist_ok=True)
    whole = not path.exists() or path.read_bytes()[-1:] in (b"\n", b"")
    with path.open("a", encoding="utf-8") as file:
        file.write(("" if whole else "\n") + json.dumps(asdict(result)) + "\n")


def forget_beyond(path: Path, nimg: int) -> None:
    """Drop what training measured beyond nimg, since it will come again. What was measured of files stays."""
    results = read_results(path)
    left = [result for result in results if result.nimg <= nimg or result.file is not None]
    if len(left) < len(results):
        write_text(path, "".join(json.dumps(asdict(result)) + "\n" for result in left))


def board_tag(name: str) -> str:
    """The name that a value has in TensorBoard."""
    return f"Metrics/{name}"


def table(columns: Sequence[Sequence[str]]) -> list[str]:
    """Lines of aligned columns; the first to the left, the others to the right. columns: as many texts each."""
    widths = [max(map(len, column)) for column in columns]
    rows = zip(*columns)
    return [
        "  ".join(
            text.ljust(width) if n == 0 else text.rjust(width) for n, (text, width) in enumerate(zip(row, widths))
        )
        for row in rows
    ]


def lines(result: Result) -> list[str]:
    """A result for people: each number beside its floor."""
    names = [name for name in result.values if "_floor" not in name]
    floors = [result.values.get(floor_name(result.metric, name)) for name in names]
    return table(
        [
            [f"  {name}" for name in names],
            [f"{result.values[name]:.4g}" for name in names],
            ["" if floor is None else f"floor {floor:.4g}" for floor in floors],
        ]
    )


def headline(result: Result) -> str:
    """`swd 4.12 (floor 1.03)`: the number that the metric is named after, or its first."""
    name = result.metric if result.metric in result.values else next(iter(result.values))
    floor = result.values.get(floor_name(result.metric, name))
    return f"{name} {result.values[name]:.4g}" + ("" if floor is None else f" (floor {floor:.4g})")


def floor_name(metric: str, name: str) -> str:
    """`swd_32` -> `swd_floor_32`, `swd` -> `swd_floor`, `contrast` -> `contrast_floor`."""
    base, rest = (metric, name[len(metric) :]) if name.startswith(metric) else (name, "")
    return f"{base}_floor{rest}"
