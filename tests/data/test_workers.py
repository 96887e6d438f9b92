"""Laws of workers: the same outcome as without them, in order, and a picture that kills its decoder costs itself."""

import signal
import sys

import numpy as np
import pytest

from progan.data import workers
from progan.data.pictures import Recipe
from progan.data.workers import CRASHED, Chunk, chunks, usable_cores
from progan.errors import UserError

READER = """
import os, time
import numpy as np

def read(name):
    kind, number = name.split("-")
    if kind == "crash":
        os.abort()
    if kind == "hang":
        time.sleep(1000)
    if kind == "bad":
        raise OSError("no such luck")
    if kind == "noise":
        os.write(2, b"libtiff: this is odd")
    return np.full((3, 8, 8), int(number), np.uint8)
"""


@pytest.fixture
def read(tmp_path, monkeypatch):
    """A reader that another process can import."""
    (tmp_path / "odd_reader.py").write_text(READER)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "odd_reader", raising=False)
    import odd_reader

    return odd_reader.read


def _gathered(parts: list[Chunk]) -> tuple[list[int], dict[str, str]]:
    values = [int(v) for part in parts if part.stacked for v in part.stacked[0][:, 0, 0, 0]]
    return values, {name: reason for part in parts for name, reason in part.skipped.items()}


@pytest.mark.parametrize("count", [0, 1, 2])
def test_every_name_is_dealt_with_in_order_and_in_bounded_pieces(read, monkeypatch, count):
    monkeypatch.setattr(workers, "CHUNK_BYTES", 5 * 4 * 8 * 8)
    names = [f"{'bad' if n % 4 == 1 else 'good'}-{n}" for n in range(30)]
    parts = list(chunks(read, names, Recipe(8), count))
    values, skipped = _gathered(parts)
    assert values == [n for n in range(30) if n % 4 != 1]
    assert list(skipped) == [name for name in names if name.startswith("bad")]
    assert max(len(part.stacked[0]) + len(part.skipped) for part in parts) == 5
    assert [level.shape[1:] for level in parts[0].stacked] == [(3, 8, 8), (3, 4, 4)]
    assert all(level.dtype == np.uint8 for level in parts[0].stacked)


@pytest.mark.parametrize("count", [0, 1])
def test_a_piece_without_any_picture_has_only_reasons(read, count):
    (part,) = chunks(read, ["bad-1", "bad-2"], Recipe(8), count)
    assert part.stacked == ()
    assert set(part.skipped) == {"bad-1", "bad-2"}


def test_a_crash_costs_only_its_picture(read, monkeypatch):
    monkeypatch.setattr(workers, "CHUNK_BYTES", 4 * 4 * 8 * 8)
    names = [f"{'crash' if n in (3, 17) else 'good'}-{n}" for n in range(24)]
    values, skipped = _gathered(list(chunks(read, names, Recipe(8), 2)))
    assert values == [n for n in range(24) if n not in (3, 17)]
    assert skipped == {"crash-3": CRASHED, "crash-17": CRASHED}


def test_a_picture_that_never_ends_is_given_up(read, monkeypatch):
    monkeypatch.setattr(workers, "PICTURE_SEC", 0.5)
    values, skipped = _gathered(list(chunks(read, ["good-1", "hang-2", "good-3"], Recipe(8), 1)))
    assert (values, skipped) == ([1, 3], {"hang-2": CRASHED})


def test_what_a_decoder_grumbles_is_not_shown(read, capfd):
    assert _gathered(list(chunks(read, ["noise-1"], Recipe(8), 1)))[0] == [1]
    assert capfd.readouterr().err == ""


def test_breaking_off_leaves_no_process(read):
    import multiprocessing

    parts = chunks(read, [f"good-{n}" for n in range(1000)], Recipe(8), 2)
    next(parts)
    parts.close()
    assert multiprocessing.active_children() == []


def test_there_is_at_least_one_core():
    assert usable_cores() >= 1


def test_where_processes_do_not_start_no_picture_is_blamed(read, tmp_path):
    (tmp_path / "odd_reader.py").unlink()  # now a worker cannot import it
    with pytest.raises(UserError, match=r"worker processes do not start here; .*--workers 0"):
        list(chunks(read, ["good-1", "good-2"], Recipe(8), 2))


def test_children_are_no_part_of_the_script_and_hear_no_interrupt():
    def blocked():
        return signal.SIGINT in signal.pthread_sigmask(signal.SIG_BLOCK, [])

    main = sys.modules["__main__"]
    with workers._unrelated_children():
        assert blocked()
        assert sys.modules["__main__"] is not main
    assert not blocked()
    assert sys.modules["__main__"] is main
