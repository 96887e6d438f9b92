"""What a person sees while something runs: lines that stay, and one that is rewritten."""

from __future__ import annotations

import shutil
import sys
import time
from typing import TextIO


class Console:
    """Lines for people. Where the output is no terminal there is no rewriting: the live line is printed once a
    minute.
    """

    def __init__(self, stream: TextIO | None = None, live_sec: float = 60.0) -> None:
        self.stream = stream or sys.stdout
        self.terminal = self.stream.isatty()
        self.live_sec = 0.2 if self.terminal else live_sec
        self._last_live = time.monotonic()
        self._pending = False

    def line(self, text: str) -> None:
        """Print a line that stays."""
        self._clear()
        print(text, file=self.stream, flush=True)
        self._last_live = time.monotonic()

    def live(self, text: str) -> None:
        """Show where things are, if it is time to."""
        if time.monotonic() - self._last_live < self.live_sec:
            return
        if not self.terminal:
            self.line(text)
            return
        self._clear()
        self.stream.write(text[: shutil.get_terminal_size().columns - 1])
        self.stream.flush()
        self._pending, self._last_live = True, time.monotonic()

    def _clear(self) -> None:
        if self._pending:
            self.stream.write("\r\x1b[K")
            self._pending = False


class Meter:
    """A progress bar with its speed and the time left, called with (done, total); it may begin in the middle."""

    def __init__(self, console: Console, what: str = "pictures") -> None:
        self.console, self.what = console, what
        self.began: tuple[float, int] | None = None

    def __call__(self, done: int, total: int) -> None:
        now = time.monotonic()
        self.began = self.began or (now, done)
        seconds, since = now - self.began[0], done - self.began[1]
        pace = ""
        if seconds > 0 and since > 0:
            rate = since / seconds
            pace = f", {rate:,.0f}/s, {duration((total - done) / rate)} left"
        self.console.live(bar(done, total, self.what) + pace)


def bar(done: int, total: int, what: str = "pictures", width: int = 30) -> str:
    """`[==========                    ]  3,333 of 10,000 pictures`"""
    filled = width * done // total
    return f"[{'=' * filled}{' ' * (width - filled)}]  {done:,} of {total:,} {what}"


def duration(seconds: float) -> str:
    """`42s`, `7m 03s`, `3h 20m`, `12d 04h`."""
    seconds = round(seconds)
    minutes, hours, days = seconds / 60, seconds / 3600, seconds / 86400
    if seconds < 60:
        return f"{seconds:.0f}s"
    if hours < 1:
        return f"{int(minutes)}m {int(seconds) % 60:02d}s"
    if days < 1:
        return f"{int(hours)}h {int(minutes) % 60:02d}m"
    return f"{int(days)}d {int(hours) % 24:02d}h"


def size(count: int) -> str:
    """`512 bytes`, `49.3 kB`, `1.2 GB`."""
    if count < 1000:
        return f"{count} bytes"
    amount, unit = count / 1000, "kB"
    for larger in ("MB", "GB", "TB"):
        if amount >= 999.95:
            amount, unit = amount / 1000, larger
    return f"{amount:.1f} {unit}"


def plain(text: str) -> str:
    """Text from data, without what a terminal would obey."""
    return "".join(letter if letter.isprintable() else "?" for letter in text)
