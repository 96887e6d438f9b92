"""Laws of preparing: the same order every time, every name accounted for, labels paired, and whole or not there."""

import csv
import io
import json
import os
import random
import signal
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from progan.data import prepare as prepare_module
from progan.data.pictures import Recipe
from progan.data.prepare import Wish, prepare
from progan.data.pyramid import hash_file, open_pyramid
from progan.data.writer import Draft
from progan.errors import UserError

R = 16
HERE = Wish(workers=0)  # in this process: starting others takes a third of a second


def _encoded(image: Image.Image, kind: str = "PNG", **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def _grey(value: int, size: int = R) -> bytes:
    return _encoded(Image.new("RGB", (size, size), (value,) * 3))


def _fill(folder: Path, count: int = 6) -> Path:
    """Grey pictures in two class folders, told apart by their value 10 * n; the odd ones are in part1."""
    for n in range(count):
        path = folder / f"part{n % 2}" / f"{n:02d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(_grey(10 * n))
    return folder


@pytest.fixture
def pictures(tmp_path) -> Path:
    return _fill(tmp_path / "pictures")


def _make(source: Path, folder: Path, max_res: int = R, wish: Wish = HERE, progress=lambda d, t: None, **recipe):
    return prepare(str(source), folder, Recipe(max_res, **recipe), wish, progress=progress)


def _values(pyramid) -> list[int]:
    return pyramid.batch(torch.arange(pyramid.count), pyramid.top)[:, 0, 0, 0].tolist()


def _files(folder: Path) -> dict[str, str]:
    return {path.name: hash_file(path) for path in folder.iterdir()}


def _skipped(folder: Path) -> dict[str, str]:
    with (folder / "skipped.csv").open(newline="") as file:
        rows = list(csv.reader(file))
    assert rows[0] == ["picture", "reason"]
    return dict(rows[1:])


def _names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def _zipped(folder: Path, path: Path) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for file in sorted(folder.rglob("*"), reverse=True):
            archive.write(file, file.relative_to(folder).as_posix())
    return path


# --- a folder and a zip ---


def test_a_folder_becomes_a_pyramid(pictures, tmp_path):
    pyramid = _make(pictures, tmp_path / "out")
    assert (pyramid.count, pyramid.channels, pyramid.resolutions) == (6, 3, (4, 8, 16))
    assert sorted(_values(pyramid)) == [0, 10, 20, 30, 40, 50]
    for r in (4, 8, 16):  # flat pictures stay flat, and picture n is picture n at every level
        assert pyramid.batch(torch.arange(6), r).amax((1, 2, 3)).tolist() == _values(pyramid)
        assert pyramid.batch(torch.arange(6), r).amin((1, 2, 3)).tolist() == _values(pyramid)


def test_class_folders_become_labels_that_stay_with_their_pictures(tmp_path):
    (tmp_path / "pictures" / "part0").mkdir(parents=True)
    (tmp_path / "pictures" / "part0" / "broken.png").write_bytes(b"not at all")
    pyramid = _make(_fill(tmp_path / "pictures", 20), tmp_path / "out")
    assert pyramid.labels.names == ("part0", "part1")
    assert pyramid.labels.values.dtype == np.int64
    assert pyramid.labels.values.tolist() == [value // 10 % 2 for value in _values(pyramid)]
    assert len(set(pyramid.labels.values[:8].tolist())) == 2


def test_the_manifest_tells_how_it_was_made(pictures, tmp_path):
    (pictures / "note.txt").write_text("hello")
    (pictures / "part0" / "small.png").write_bytes(_grey(3, R - 1))
    out = tmp_path / "out"
    _make(pictures, out, crop="pad", background="black", filter="box")
    about = json.loads((out / "pyramid.json").read_text())
    assert about["recipe"] == {"crop": "pad", "filter": "box", "background": "black", "upscale": False}
    assert {key: about[key] for key in ("version", "source", "count", "channels", "resolutions")} == {
        "version": 2, "source": "pictures", "count": 6, "channels": 3, "resolutions": [4, 8, 16],
    }  # fmt: skip
    assert (about["skipped"], about["passed_over"]) == (1, 1)
    assert about["labels"] == {"names": ["part0", "part1"], "size": 2}
    assert about["hashes"] == {n: hash_file(out / n) for n in _names(out) if n.endswith(".npy")}
    assert "labels.npy" in about["hashes"]
    assert str(tmp_path) not in (out / "pyramid.json").read_text()


def test_a_zip_gives_the_pyramid_of_the_folder_in_it(pictures, tmp_path):
    a = _make(pictures, tmp_path / "a")
    b = _make(_zipped(pictures, tmp_path / "pictures.zip"), tmp_path / "b")
    assert a.fingerprint == b.fingerprint
    differing = {n for n, h in _files(a.path).items() if _files(b.path)[n] != h}
    assert differing == {"pyramid.json"}  # it names the source


def test_the_order_is_shuffled_and_the_same_every_time(tmp_path):
    source = _fill(tmp_path / "pictures", 20)
    a, b = _make(source, tmp_path / "a"), _make(source, tmp_path / "b")
    assert _files(a.path) == _files(b.path)
    by_name = [10 * n for n in (*range(0, 20, 2), *range(1, 20, 2))]
    assert sorted(_values(a)) == sorted(by_name)
    assert _values(a) != by_name
    random.Random(123).shuffle(by_name)
    assert _values(a) == by_name


def test_other_pictures_have_another_fingerprint(pictures, tmp_path):
    first = _make(pictures, tmp_path / "a").fingerprint
    (pictures / "part0" / "00.png").write_bytes(_encoded(Image.new("RGB", (R, R), (1, 0, 0))))
    assert _make(pictures, tmp_path / "b").fingerprint != first


@pytest.mark.parametrize("channels", [1, 3])
def test_pyramids_have_the_wanted_channels(pictures, tmp_path, channels):
    assert _make(pictures, tmp_path / "out", channels=channels).levels[4].shape == (6, channels, 4, 4)
    faces = prepare("faces:3", tmp_path / "faces", Recipe(8, channels), HERE)
    assert faces.levels[8].shape == (3, channels, 8, 8)


def test_progress_counts_every_picture(pictures, tmp_path):
    seen = []
    (pictures / "part0" / "small.png").write_bytes(_grey(1, 2))
    _make(pictures, tmp_path / "out", progress=lambda done, total: seen.append((done, total)))
    assert seen[-1] == (7, 7)
    assert sorted(seen) == seen


def test_max_images_takes_so_many_of_the_shuffled_order(tmp_path):
    source = _fill(tmp_path / "pictures", 20)
    whole = _make(source, tmp_path / "a")
    part = _make(source, tmp_path / "b", wish=Wish(workers=0, max_images=7))
    assert _values(part) == _values(whole)[:7]
    assert part.labels.values.tolist() == whole.labels.values[:7].tolist()


def test_workers_make_the_same_pyramid(tmp_path):
    source = _fill(tmp_path / "pictures", 150)
    (source / "part0" / "broken.png").write_bytes(b"\x89PNG and then nothing")
    for workers in (0, 1, 2):
        _make(source, tmp_path / f"{workers}", wish=Wish(workers=workers))
    assert _files(tmp_path / "0") == _files(tmp_path / "1") == _files(tmp_path / "2")
    assert _skipped(tmp_path / "0").keys() == {"part0/broken.png"}


# --- a pyramid as a source ---


def test_a_pyramid_is_a_source_with_its_order_and_labels(pictures, tmp_path):
    a = _make(pictures, tmp_path / "a")
    b = _make(tmp_path / "a", tmp_path / "b", max_res=0)
    assert b.fingerprint == a.fingerprint
    c = _make(tmp_path / "a", tmp_path / "c", max_res=8)
    assert c.resolutions == (4, 8)
    assert all(np.array_equal(c.levels[r], a.levels[r]) for r in (4, 8))
    assert c.labels.values.tolist() == a.labels.values.tolist()
    d = _make(tmp_path / "a", tmp_path / "d", max_res=8, channels=1)
    assert d.levels[8].shape == (6, 1, 8, 8)
    assert _values(d) == _values(a)


# --- what is left out ---


def _spoil(pictures: Path) -> None:
    (pictures / "broken, really.png").write_bytes(b"no picture")
    (pictures / "small.png").write_bytes(_grey(0, R - 1))
    (pictures / "note.txt").write_text("not even tried")


@pytest.mark.parametrize("kind", ["folder", "zip"])
def test_what_is_left_out_is_listed_with_its_reason(pictures, tmp_path, kind):
    _spoil(pictures)
    source = pictures if kind == "folder" else _zipped(pictures, tmp_path / "p.zip")
    pyramid = _make(source, tmp_path / "out")
    skipped = _skipped(tmp_path / "out")
    assert set(skipped) == {"broken, really.png", "small.png"}
    assert skipped["small.png"] == f"smaller than {R}x{R}"
    assert skipped["broken, really.png"].startswith("unreadable: ")
    assert (pyramid.count, pyramid.about["skipped"], len(set(_values(pyramid)))) == (6, 2, 6)


def test_what_the_source_refuses_is_listed_too(pictures, tmp_path):
    path = _zipped(pictures, tmp_path / "p.zip")
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("../../evil.png", _grey(7))
    assert _make(path, tmp_path / "out").count == 6
    assert set(_skipped(tmp_path / "out")) == {"../../evil.png"}
    assert not (tmp_path.parent / "evil.png").exists()


def test_a_damaged_entry_of_a_zip_is_left_out(tmp_path):
    path = tmp_path / "p.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        for n in range(3):
            archive.writestr(f"{n}.png", _encoded(Image.new("RGB", (R, R), (100 + n, 0, 0))))
    data = bytearray(path.read_bytes())
    data[data.index(b"IDAT") + 6] ^= 0xFF  # the first picture's checksum fails
    path.write_bytes(data)
    pyramid = _make(path, tmp_path / "out")
    assert list(_skipped(tmp_path / "out")) == ["0.png"]
    assert sorted(_values(pyramid)) == [101, 102]


def test_where_nothing_is_left_the_commonest_reasons_are_said(tmp_path):
    source = tmp_path / "pictures"
    source.mkdir()
    for n in range(3):
        (source / f"{n}.png").write_bytes(_grey(0, 2))
    (source / "x.png").write_bytes(b"no picture")
    with pytest.raises(UserError, match=rf"no picture is left: 4 of 4 .*: 3 x smaller than {R}x{R}; 1 x unreadable"):
        _make(source, tmp_path / "out")
    assert _names(tmp_path) == ["pictures"]


def test_more_than_half_skipped_is_an_error_unless_allowed(pictures, tmp_path):
    for n in range(7):
        (pictures / "part0" / f"x{n}.png").write_bytes(_grey(0, 4))
    with pytest.raises(UserError, match=r"more than half .*: 7 of 13 .*: 7 x smaller .*upscale or .*--allow-skips"):
        _make(pictures, tmp_path / "out")
    seen = []
    wish = Wish(workers=0, allow_skips=True)
    assert _make(pictures, tmp_path / "out", wish=wish, progress=lambda done, total: seen.append(done)).count == 6
    assert seen == []  # what the first attempt had done was kept
    assert _names(tmp_path) == ["out", "pictures"]
    (pictures / "part0" / "x0.png").unlink()  # exactly half
    assert _make(pictures, tmp_path / "half").count == 6


def test_strict_ends_at_the_first_bad_picture(pictures, tmp_path):
    (pictures / "part0" / "small.png").write_bytes(_grey(0, 4))
    with pytest.raises(UserError, match=rf"part0/small.png: smaller than {R}x{R}; without --strict"):
        _make(pictures, tmp_path / "out", wish=Wish(workers=0, strict=True))
    assert not (tmp_path / "out").exists()
    (pictures / "part0" / "small.png").unlink()
    assert _make(pictures, tmp_path / "out", wish=Wish(workers=0, strict=True)).count == 6


def test_strict_minds_what_the_source_refuses(pictures, tmp_path):
    path = _zipped(pictures, tmp_path / "p.zip")
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("../evil.png", _grey(7))
    with pytest.raises(UserError, match=r"evil.png: .*--strict"):
        _make(path, tmp_path / "out", wish=Wish(workers=0, strict=True))


# --- whole or not there ---


def test_an_existing_destination_is_refused(pictures, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    with pytest.raises(UserError, match=r"out exists already; choose another destination"):
        _make(pictures, out)
    assert list(out.iterdir()) == []
    assert _names(tmp_path) == ["out", "pictures"]


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_an_interrupted_preparation_goes_on_where_it_stopped(tmp_path, error, monkeypatch):
    source = _fill(tmp_path / "pictures", 100)
    (source / "part1" / "broken.png").write_bytes(b"no picture")
    _make(source, tmp_path / "whole")
    monkeypatch.setattr("progan.data.workers.CHUNK_BYTES", 8 * 3 * R * R)  # 6 pictures at a time

    def interrupt(done, total):
        if done > 40:
            raise error

    with pytest.raises(error):
        _make(source, tmp_path / "out", progress=interrupt)
    assert _names(tmp_path) == [".out.part", "pictures", "whole"]
    seen = []
    _make(source, tmp_path / "out", progress=lambda done, total: seen.append(done))
    assert seen[0] > 40
    assert _files(tmp_path / "out") == _files(tmp_path / "whole")
    assert _names(tmp_path) == ["out", "pictures", "whole"]


@pytest.mark.parametrize("change", ["recipe", "source", "draft"])
def test_what_has_changed_meanwhile_is_started_afresh(tmp_path, change):
    source = _fill(tmp_path / "pictures", 20)

    def interrupt(done, total):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        _make(source, tmp_path / "out", max_res=32, upscale=True, progress=interrupt)
    if change == "source":
        (source / "part0" / "00.png").write_bytes(_grey(255))
    if change == "draft":
        next((tmp_path / ".out.part").glob("*/0016x0016.npy")).write_bytes(b"short")
    size = R if change == "recipe" else 32
    seen = []
    _make(source, tmp_path / "out", size, progress=lambda done, total: seen.append(done), upscale=True)
    _make(source, tmp_path / "whole", size, upscale=True)
    assert seen == [20]
    assert _files(tmp_path / "out") == _files(tmp_path / "whole")


SCRIPT = """
import sys
from pathlib import Path
from progan.data import workers, writer
from progan.data.pictures import Recipe
from progan.data.prepare import Wish, prepare

def said(done, total):
    print(done, flush=True)

workers.CHUNK_BYTES, writer.SAVE_SEC = 40_000, 0.0
prepare(sys.argv[1], Path(sys.argv[2]), Recipe(64), Wish(workers=int(sys.argv[3])), progress=said)
"""


@pytest.mark.parametrize("workers", [0, pytest.param(2, marks=pytest.mark.slow)])
def test_killed_again_and_again_it_ends_as_if_nothing_had_happened(tmp_path, workers):
    source = tmp_path / "pictures"
    source.mkdir()
    noise = np.random.default_rng(0)
    for n in range(60):
        pixels = noise.integers(0, 256, (70, 90, 3), dtype=np.uint8)
        (source / f"{n}.png").write_bytes(_encoded(Image.fromarray(pixels)) if n % 7 else b"broken")
    _make(source, tmp_path / "whole", 64)
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    kills = 0
    for patience in (1, 5, 9, 2, 200):
        command = [sys.executable, str(script), str(source), str(tmp_path / "out"), str(workers)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            for _ in range(patience):
                if not process.stdout.readline():
                    break
            else:
                process.send_signal(signal.SIGKILL)
                kills += 1
        assert (tmp_path / "out").exists() == (process.returncode == 0)
    assert kills >= 3
    assert _files(tmp_path / "out") == _files(tmp_path / "whole")
    assert _names(tmp_path) == ["out", "pictures", "script.py", "whole"]


@pytest.mark.parametrize("way", ["file", "stdin"])
def test_workers_need_no_guard_in_the_script(pictures, tmp_path, way):
    (tmp_path / "script.py").write_text(SCRIPT)
    for path in pictures.rglob("*.png"):
        path.write_bytes(_grey(1, 64))
    arguments = [str(pictures), str(tmp_path / "out"), "2"]
    command = [sys.executable, "-" if way == "stdin" else str(tmp_path / "script.py"), *arguments]
    subprocess.run(command, input=SCRIPT, text=True, check=True, capture_output=True, timeout=60)
    assert open_pyramid(tmp_path / "out").count == 6


def test_another_wish_leaves_an_interrupted_draft_alone(tmp_path):
    source = _fill(tmp_path / "pictures", 20)

    def interrupt(done, total):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        _make(source, tmp_path / "out", progress=interrupt)
    with pytest.raises(UserError, match="no picture is left"):
        _make(source, tmp_path / "out", 64)
    with pytest.raises(UserError, match="not a power of two"):
        _make(source, tmp_path / "out", 63)
    with pytest.raises(UserError, match="does not exist"):
        _make(tmp_path / "nowhere", tmp_path / "out")
    seen = []
    _make(source, tmp_path / "out", progress=lambda done, total: seen.append(done))
    assert seen == []  # all of it had been recorded
    assert _names(tmp_path) == ["out", "pictures"]


def test_wherever_add_is_interrupted_the_record_is_sound(tmp_path, monkeypatch):
    """A Ctrl-C may come between any two lines."""
    _make(_fill(tmp_path / "pictures", 30), tmp_path / "whole")
    (tmp_path / "pictures" / "part0" / "x.png").write_bytes(b"broken")
    _make(tmp_path / "pictures", tmp_path / "whole2")
    monkeypatch.setattr("progan.data.workers.CHUNK_BYTES", 8 * 3 * R * R)
    code = Draft.add.__code__
    for line in sorted({n for _, _, n in code.co_lines() if n}):
        calls = []

        def trace(frame, event, arg, line=line, calls=calls):
            if frame.f_code is not code:
                return trace if event == "call" else None
            if event == "line" and frame.f_lineno == line:
                calls.append(line)
                if len(calls) == 3:
                    raise KeyboardInterrupt
            return trace

        before = sys.gettrace()
        sys.settrace(trace)
        try:
            _make(tmp_path / "pictures", tmp_path / f"{line}")
        except KeyboardInterrupt:
            pass
        finally:
            sys.settrace(before)
        if not (tmp_path / f"{line}").exists():
            _make(tmp_path / "pictures", tmp_path / f"{line}")
        assert _files(tmp_path / f"{line}") == _files(tmp_path / "whole2")


def test_max_images_does_not_count_what_the_source_refused(pictures, tmp_path):
    path = _zipped(pictures, tmp_path / "p.zip")
    with zipfile.ZipFile(path, "a") as archive:
        for n in range(4):
            archive.writestr(f"../{n}.png", _grey(n))
    assert _make(path, tmp_path / "out", wish=Wish(workers=0, max_images=3)).count == 3


def test_a_destination_without_a_name_is_refused(pictures, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    for destination in (".", "/", "pictures/.."):
        with pytest.raises(UserError, match="is no name for something new"):
            _make(pictures, Path(destination))


def test_a_source_is_titled_by_its_name(pictures, monkeypatch, tmp_path):
    monkeypatch.chdir(pictures)
    assert _make(Path("."), tmp_path / "out").about["source"] == "pictures"


def test_what_is_too_low_is_said_at_once(pictures, tmp_path):
    _make(pictures, tmp_path / "a")
    with pytest.raises(UserError, match=r"a reaches 16x16 only: take --max-res 16, or --upscale with 32"):
        _make(tmp_path / "a", tmp_path / "b", 32)
    assert _make(tmp_path / "a", tmp_path / "b", 32, upscale=True).top == 32


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="looks for processes in /proc")
def test_workers_end_with_a_killed_parent(tmp_path):
    source = _fill(tmp_path / "pictures", 400)
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    command = [sys.executable, str(script), str(source), str(tmp_path / "out"), "2"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, start_new_session=True) as process:
        process.stdout.readline()
        assert len(_session(process.pid)) > 1
        process.kill()
    deadline = time.monotonic() + 20
    while _session(process.pid) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert _session(process.pid) == []


def _session(session: int) -> list[int]:
    """Living processes of a session."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _, _, of = path.read_text().rpartition(")")[2].split()[:4]
        except OSError:
            continue
        if int(of) == session and state != "Z":
            found.append(int(path.parent.name))
    return found


def test_a_second_process_is_told(pictures, tmp_path):
    from progan.data.writer import workshop

    with workshop(tmp_path / "out"):
        code = f"import sys; sys.argv = ['', {str(pictures)!r}, {str(tmp_path / 'out')!r}, '0']\n{SCRIPT}"
        result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "out is being prepared by another process" in result.stderr
    assert _make(pictures, tmp_path / "out").count == 6


# --- the disk ---


def test_a_disk_that_is_too_small_is_noticed_before_anything_is_written(pictures, tmp_path, monkeypatch):
    usage = type("Usage", (), {"free": 6 * 3 * (16 + 64 + 256) - 1})
    monkeypatch.setattr(prepare_module.shutil, "disk_usage", lambda path: usage)
    with pytest.raises(UserError, match=r"out needs up to 6\.0 kB more, and its disk has 6\.0 kB free"):
        _make(pictures, tmp_path / "out")
    assert _names(tmp_path) == ["pictures"]
    usage.free += 1
    assert _make(pictures, tmp_path / "out").count == 6


FULL = """
import resource, signal, sys
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # then a file that grows beyond the limit gives an OSError
resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))
from progan.commands import main
sys.exit(main(["prepare", sys.argv[1], sys.argv[2], "--max-res", "32", "--upscale", "--workers", "0"]))
"""


def test_a_disk_that_refuses_gives_one_sentence_and_loses_nothing(tmp_path):
    source = _fill(tmp_path / "pictures", 130)
    _make(source, tmp_path / "whole", 32, upscale=True)
    command = [sys.executable, "-c", FULL, str(source), str(tmp_path / "out")]
    for _ in range(2):
        result = subprocess.run(command, capture_output=True, text=True, check=False)
        assert result.returncode == 2, result.stderr
        assert result.stderr.startswith(f"progan: {tmp_path / 'out'} cannot be written (File too large)")
        assert len(result.stderr.splitlines()) == 1
        assert not (tmp_path / "out").exists()
    assert len(list(source.rglob("*.png"))) == 130
    assert _make(source, tmp_path / "out", 32, upscale=True).count == 130
    assert _files(tmp_path / "out") == _files(tmp_path / "whole")


# --- what is asked for ---


@pytest.mark.parametrize(
    ("max_res", "channels", "message"), [(48, 3, "max-res 48"), (2, 3, "max-res 2"), (8, 2, "channels 2")]
)
def test_an_impossible_pyramid_is_refused(pictures, tmp_path, max_res, channels, message):
    with pytest.raises(UserError, match=message):
        _make(pictures, tmp_path / "out", max_res, channels=channels)
    assert _names(tmp_path) == ["pictures"]


def test_pictures_of_any_size_need_a_resolution(pictures, tmp_path):
    with pytest.raises(UserError, match="pictures has pictures of any size: say --max-res R"):
        _make(pictures, tmp_path / "out", 0)


def test_the_source_is_never_written_to(pictures, tmp_path):
    before = {p: (p.stat().st_mtime_ns, p.stat().st_size) for p in pictures.rglob("*")}
    _spoil(pictures)
    before |= {p: (p.stat().st_mtime_ns, p.stat().st_size) for p in pictures.rglob("*")}
    os.chmod(pictures, 0o555)
    _make(pictures, tmp_path / "out")
    os.chmod(pictures, 0o755)
    after = {p: (p.stat().st_mtime_ns, p.stat().st_size) for p in pictures.rglob("*")}
    assert after == {p: before[p] for p in after}
    assert after.keys() == before.keys()
