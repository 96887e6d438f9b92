"""How fast pictures become a pyramid: python benchmarks/bench_prepare.py PATH:MAX_RES[:OPTIONS] ... --workers 1,2

Each source is prepared once with each number of workers, into a folder that is then removed. Prints a Markdown table.
OPTIONS are `progan prepare`'s, e.g. "mnist.zip:32:--channels 1 --crop pad:32 --background black".
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from progan.data.inspect import reasons
from progan.data.pyramid import open_pyramid


def measured(source: str, max_res: str, options: list[str], workers: int, folder: Path) -> float:
    """Seconds that a whole `progan prepare` takes, from the command line to the end."""
    command = [sys.executable, "-m", "progan", "prepare", source, str(folder), "--max-res", max_res, *options]
    start = time.perf_counter()
    subprocess.run([*command, "--workers", str(workers)], check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - start


def row(what: str, workers: list[int]) -> str:
    """One source's line of the table."""
    source, max_res, *rest = what.split(":", 2)
    options = " ".join(rest)
    seconds: dict[int, float] = {}
    with tempfile.TemporaryDirectory() as scratch:
        for count in workers:
            folder = Path(scratch) / f"{count}"
            seconds[count] = measured(source, max_res, options.split(), count, folder)
        taken, skipped = open_pyramid(folder).count, reasons(folder)
    given = taken + skipped.total()
    speed = " | ".join(f"{seconds[count]:.1f} s, {given / seconds[count]:,.0f}/s" for count in workers)
    name = f"{Path(source).name} to {max_res}x{max_res}" + (f" `{options}`" if options else "")
    return f"| {name} | {given:,} | {taken:,} | {_told(skipped)} | {speed} |"


def _told(skipped: Counter[str]) -> str:
    return "; ".join(f"{count:,} {reason}" for reason, count in skipped.most_common()) or "0"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sources", nargs="+", metavar="PATH:MAX_RES[:OPTIONS]")
    parser.add_argument("--workers", default="1,2", type=lambda text: [int(part) for part in text.split(",")])
    options = parser.parse_args()
    heads = ["source", "in", "out", "skipped", *(f"{count} worker{'s' * (count != 1)}" for count in options.workers)]
    print(f"| {' | '.join(heads)} |\n|{'---|' * len(heads)}", flush=True)
    for what in options.sources:
        print(row(what, options.workers), flush=True)


if __name__ == "__main__":
    main()
