"""Laws of the console: lines stay, the live line is rewritten on a terminal and rare elsewhere, durations are short."""

import io
import shutil

import pytest

from progan import console
from progan.console import Console, Meter, duration


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


class Clock:
    """A clock that stands still until it is moved."""

    now = 1000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(console, "time", clock)
    return clock


def test_a_line_stays():
    stream = io.StringIO()
    Console(stream).line("one")
    Console(stream).line("two")
    assert stream.getvalue() == "one\ntwo\n"


def test_without_a_terminal_the_live_line_is_printed_once_a_minute(clock):
    stream = io.StringIO()
    out = Console(stream)
    for second in range(125):
        clock.now = 1000 + second
        out.live(f"at {second}")
    assert stream.getvalue() == "at 60\nat 120\n"


def test_a_line_puts_the_next_live_line_off(clock):
    stream = io.StringIO()
    out = Console(stream)
    clock.now += 59
    out.line("status")
    clock.now += 59
    out.live("too early")
    clock.now += 1
    out.live("now")
    assert stream.getvalue() == "status\nnow\n"


def test_on_a_terminal_the_live_line_is_rewritten_and_then_cleared(clock):
    stream = Terminal()
    out = Console(stream)
    for text in ("one", "two"):
        clock.now += 0.25
        out.live(text)
    out.live("at once: not shown")
    out.line("done")
    assert stream.getvalue() == "one\r\x1b[Ktwo\r\x1b[Kdone\n"


def test_a_live_line_is_cut_to_the_terminals_width(clock, monkeypatch):
    monkeypatch.setattr(shutil, "get_terminal_size", lambda: shutil.os.terminal_size((10, 5)))
    stream = Terminal()
    clock.now = 0
    out = Console(stream)
    clock.now = 1
    out.live("x" * 50)
    assert stream.getvalue() == "x" * 9


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0s"),
        (42.4, "42s"),
        (60, "1m 00s"),
        (423, "7m 03s"),
        (3599, "59m 59s"),
        (3600, "1h 00m"),
        (12_000, "3h 20m"),
        (86_399, "23h 59m"),
        (86_400, "1d 00h"),
        (12 * 86_400 + 4 * 3600 + 59 * 60, "12d 04h"),
    ],
)
def test_durations(seconds, text):
    assert duration(seconds) == text


@pytest.mark.parametrize("seconds", [59.5, 59.9, 59.99])
def test_a_minute_has_sixty_seconds(seconds):
    assert duration(seconds) in ("59s", "1m 00s")


def test_a_meter_tells_speed_and_time_left_from_where_it_began(monkeypatch):
    now = iter([10.0, 12.0])
    shown = []
    meter = Meter(type("C", (), {"live": lambda self, text: shown.append(text)})(), "files")
    monkeypatch.setattr("progan.console.time.monotonic", lambda: next(now))
    meter(100, 300)  # an earlier run has done these
    meter(140, 300)
    assert shown[0].endswith("100 of 300 files")
    assert shown[1].endswith("140 of 300 files, 20/s, 8s left")
