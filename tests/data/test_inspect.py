"""Laws of looking at a pyramid: numbers are those of the pixels, duplicates are found, and no damage goes unnoticed."""

import hashlib
import json

import numpy as np
import pytest
import torch

from progan.data import inspect
from progan.data.inspect import (
    Deviation,
    alike,
    blanks,
    class_counts,
    contradictions,
    damaged,
    deviations,
    duplicates,
    manifest,
    outside,
    parts,
    reasons,
    sample_size,
    samples,
    sheet,
    statistics,
    strangers,
)
from progan.data.pyramid import hash_file, open_pyramid
from progan.data.source import Labels
from progan.errors import UserError


def _hash(content):
    return hashlib.blake2b(content, digest_size=16).hexdigest()


def means(pictures, factor):
    """Rounded means of factor x factor pixels: the official levels, by brute force."""
    n, c, h, w = pictures.shape
    exact = pictures.astype(np.float64).reshape(n, c, h // factor, factor, w // factor, factor).mean((3, 5))
    return np.rint(exact).astype(np.uint8)


def write_pyramid(folder, pictures, labels=None, names=(), skipped=(), levels=None, **changes):
    """A pyramid of pictures uint8 [N, C, R, R]. levels: {resolution: other pixels}; changes: of the manifest."""
    folder.mkdir(parents=True)
    count, channels, top, _ = pictures.shape
    resolutions = [r for r in (4, 8, 16, 32, 64, 128, 256, 512, 1024) if r <= top]
    files = {f"{r:04d}x{r:04d}.npy": means(pictures, top // r) for r in resolutions}
    files |= {f"{r:04d}x{r:04d}.npy": pixels for r, pixels in (levels or {}).items()}
    files |= {} if labels is None else {"labels.npy": labels}
    for name, values in files.items():
        np.save(folder / name, values)
    hashes = {name: _hash((folder / name).read_bytes()) for name in files}
    text = hashes[f"{top:04d}x{top:04d}.npy"] + hashes.get("labels.npy", "")
    about = {
        "version": 2,
        "progan": "0.1.0",
        "source": "photos.zip",
        "recipe": {"crop": "centre", "filter": "lanczos", "background": "white", "upscale": False},
        "count": count,
        "channels": channels,
        "resolutions": resolutions,
        "labels": None if labels is None else {"names": list(names), "size": len(names) or labels.shape[1]},
        "skipped": len(skipped),
        "passed_over": 0,
        "fingerprint": _hash(text.encode()),
        "hashes": hashes,
    }
    (folder / "pyramid.json").write_text(json.dumps(about | changes))
    (folder / "skipped.csv").write_text("".join(f"{a},{b}\r\n" for a, b in [("picture", "reason"), *skipped]))
    return folder


def noise(count, channels, size, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (count, channels, size, size), dtype=np.uint8)


def quiet(*_):
    pass


@pytest.fixture
def folder(tmp_path):
    """Forty grey pictures of three classes, whole."""
    return write_pyramid(tmp_path / "p", noise(40, 1, 16), np.arange(40) % 3, ("a", "b", "c"), [("x", "small")])


@pytest.fixture
def small_chunks(monkeypatch):
    """So that few pictures make many chunks, the last of them not full."""
    monkeypatch.setattr(inspect, "CHUNK_BYTES", 3 * 32**2 * 3 + 1)


# --- statistics ---


@pytest.mark.parametrize("channels", [1, 3])
def test_statistics_are_those_of_the_pixels(channels, small_chunks):
    pictures = noise(20, channels, 32) // np.array([1, 2, 3][:channels], np.uint8)[:, None, None]
    for n in (20, 7):
        shown = pictures[:n].astype(np.float64)
        got = statistics(pictures, n, quiet)
        assert got.pictures == n
        assert got.picture == pytest.approx(shown.mean(0), rel=1e-13)
        assert got.mean == pytest.approx(shown.mean((0, 2, 3)), rel=1e-12)
        assert got.deviation == pytest.approx(shown.std((0, 2, 3)), rel=1e-12)


def test_statistics_of_pictures_that_are_known():
    pictures = np.zeros((2, 1, 4, 4), np.uint8)
    pictures[1] = 255
    got = statistics(pictures, 2, quiet)
    assert (np.unique(got.picture), got.mean, got.deviation) == ([127.5], [127.5], [127.5])
    assert statistics(pictures[:1], 1, quiet).deviation.tolist() == [0]


def test_the_sample_is_all_pictures_or_what_fits(folder, monkeypatch):
    pyramid = open_pyramid(folder)
    assert sample_size(pyramid) == 40
    monkeypatch.setattr(inspect, "SAMPLE_BYTES", 10 * 16**2 + 255)
    assert sample_size(pyramid) == 10
    monkeypatch.setattr(inspect, "SAMPLE_BYTES", 1)
    assert sample_size(pyramid) == 1


def test_progress_ends_at_all_pictures(folder, small_chunks, monkeypatch):
    pyramid, told = open_pyramid(folder), []
    monkeypatch.setattr(inspect, "CHUNK_BYTES", 16 * 16 * 7)
    statistics(pyramid.levels[16], 40, lambda done, total: told.append((done, total)))
    assert told == [(n, 40) for n in (7, 14, 21, 28, 35, 40)]
    told.clear()
    deviations(pyramid, lambda done, total: told.append((done, total)))
    assert told[-1] == (40, 40)
    told.clear()
    alike(np.zeros((600, 1, 4, 4), np.uint8), range(600), lambda done, total: told.append((done, total)))
    assert told == [(256, 600), (512, 600)]


# --- labels ---


def test_class_counts_count_classes_without_pictures_too():
    labels = Labels(np.array([2, 0, 2, 2]), ("a", "b", "c", "d"))
    assert class_counts(labels).tolist() == [1, 0, 3, 0]


@pytest.mark.parametrize("wrong", [-1, 3, 2**40])
def test_labels_of_no_class_are_refused(wrong):
    labels = Labels(np.array([2, 0, wrong, 1]), ("a", "b", "c"))
    assert outside(labels) == 1
    with pytest.raises(UserError, match=r"none of the 3 classes"):
        class_counts(labels)


@pytest.mark.parametrize(("wrong", "count"), [(0.5, 0), (-1e30, 0), (np.nan, 1), (np.inf, 1)])
def test_vectors_are_finite(wrong, count):
    assert outside(Labels(np.array([[1, 2], [wrong, wrong], [3, 4]], np.float32))) == count


# --- duplicates and blanks ---


@pytest.mark.parametrize("size", [4, 16, 32])
def test_duplicates_are_the_groups_of_equal_pictures(tmp_path, size):
    pictures = noise(30, 3, size)
    for first, others in {2: [29], 5: [3, 17], 11: [12, 13, 0]}.items():
        pictures[others] = pictures[first]
    pyramid = open_pyramid(write_pyramid(tmp_path / "p", pictures))
    assert duplicates(pyramid, quiet) == [[0, 11, 12, 13], [2, 29], [3, 5, 17]]


def test_none_of_different_pictures_is_a_duplicate(folder):
    assert duplicates(open_pyramid(folder), quiet) == []


def test_pictures_that_differ_at_the_top_only_are_no_duplicates(tmp_path):
    """Swapping two pixels of a 2x2 square moves no mean, so that all lower levels are equal."""
    pictures = noise(6, 3, 64)
    pictures[4] = pictures[2] = pictures[1]
    pictures[4, 1, 10, 10:12] = (7, 9)
    pictures[[1, 2], 1, 10, 10:12] = (9, 7)
    pyramid = open_pyramid(write_pyramid(tmp_path / "p", pictures))
    assert (pyramid.levels[16][1] == pyramid.levels[16][4]).all()
    assert duplicates(pyramid, quiet) == [[1, 2]]


def test_only_suspicious_pictures_are_read_at_the_top(tmp_path, monkeypatch):
    pictures = noise(30, 1, 64)
    pictures[20], pictures[9] = pictures[3], pictures[5]
    pyramid = open_pyramid(write_pyramid(tmp_path / "p", pictures))
    read = {}

    def watch(level, numbers, progress):
        read[level.shape[-1]] = list(numbers)
        return alike(level, numbers, progress)

    monkeypatch.setattr(inspect, "alike", watch)
    assert inspect.duplicates(pyramid, quiet) == [[3, 20], [5, 9]]
    assert read == {16: list(range(30)), 64: [3, 5, 9, 20]}  # in the order of the file


def test_blank_pictures_have_one_colour(tmp_path, monkeypatch):
    monkeypatch.setattr(inspect, "CHUNK_BYTES", 3 * 4 * 4 * 9)  # nine pictures
    pictures = noise(40, 3, 32)
    pictures[[7, 31]] = np.array([10, 200, 30], np.uint8)[:, None, None]  # grey it need not be
    pictures[[8, 32]] = 255
    pictures[8, 2, 31, 31] = 254  # one pixel that no lower level shows
    pyramid = open_pyramid(write_pyramid(tmp_path / "p", pictures))
    assert (pyramid.levels[16][8] == 255).all()
    assert blanks(pyramid) == [7, 31, 32]


# --- the sheet ---


def _cell(pixels, row, column):
    left = 2 * inspect.CELL + inspect.GAP + column * inspect.CELL
    return pixels[:, row * inspect.CELL : (row + 1) * inspect.CELL, left : left + inspect.CELL]


def test_the_sheet_shows_the_first_pictures_in_order_and_the_mean(tmp_path):
    pictures = noise(21, 3, 32)
    pyramid = open_pyramid(write_pyramid(tmp_path / "p", pictures))
    mean = pictures.astype(np.float64).mean(0)
    pixels = sheet(pyramid, mean)
    assert (pixels.dtype, tuple(pixels.shape)) == (torch.uint8, (3, 3 * 128, 2 * 128 + 8 + 8 * 128))
    for n in range(24):
        cell = _cell(pixels, n // 8, n % 8)
        wanted = pictures[n].repeat(4, 1).repeat(4, 2) if n < 21 else np.full((3, 128, 128), 255)
        assert np.array_equal(cell.numpy(), wanted), n
    assert np.array_equal(pixels[:, :256, :256].numpy(), np.rint(mean).astype(np.uint8).repeat(8, 1).repeat(8, 2))
    assert pixels[:, 256:, :264].unique().tolist() == [255]
    assert pixels[:, :, 256:264].unique().tolist() == [255]


def test_large_pictures_are_shown_by_their_lower_levels(tmp_path):
    pictures = noise(2, 1, 512)
    pyramid = open_pyramid(write_pyramid(tmp_path / "p", pictures))
    pixels = sheet(pyramid, pictures[1].astype(np.float64))
    assert tuple(pixels.shape) == (1, 256, 264 + 8 * 128)
    assert np.array_equal(_cell(pixels, 0, 1).numpy(), pyramid.levels[128][1])
    assert np.array_equal(pixels[:, :256, :256].numpy(), pyramid.levels[256][1])
    assert _cell(pixels, 1, 0).unique().tolist() == [255]


def test_samples_of_few_classes_are_a_row_a_class():
    labels = Labels(np.array([1, 3, 1, 0, 3] + [3] * 9), ("a", "b", "c", "d"))
    assert samples(labels, 14) == [[3], [0, 2], [], [1, 4, 5, 6, 7, 8, 9, 10]]


@pytest.mark.parametrize(
    "labels",
    [None, Labels(np.zeros((50, 4), np.float32)), Labels(np.arange(50) % 11, tuple("abcdefghijk"))],
    ids=["none", "vectors", "many classes"],
)
def test_samples_of_all_others_are_the_first(labels):
    assert samples(labels, 50) == [list(range(8)), list(range(8, 16)), list(range(16, 24))]
    assert samples(labels, 9) == [list(range(8)), [8]]
    assert samples(labels, 1) == [[0]]


def test_a_class_without_pictures_has_a_white_row(tmp_path):
    pictures = noise(4, 1, 8)
    pyramid = open_pyramid(write_pyramid(tmp_path / "p", pictures, np.array([2, 0, 0, 2]), ("a", "b", "c")))
    pixels = sheet(pyramid, pictures.mean(0))
    assert np.array_equal(_cell(pixels, 2, 1)[0, ::16, ::16].numpy(), pictures[3, 0])
    assert all(_cell(pixels, 1, column).unique().tolist() == [255] for column in range(8))


# --- the list of the skipped ---


def test_reasons_are_counted(tmp_path):
    rows = [("a", "small"), ("b", '"cut, off"'), ("c", "small"), ("d", "small")]
    folder = write_pyramid(tmp_path / "p", noise(1, 1, 4), skipped=rows)
    assert reasons(folder).most_common() == [("small", 3), ("cut, off", 1)]


def test_names_that_are_no_text_are_read(folder):
    (folder / "skipped.csv").write_bytes(b"picture,reason\r\n\xff\xfe.png,small\r\n")
    assert reasons(folder) == {"small": 1}


DAMAGED_LISTS = {
    "empty": (b"", "does not begin with"),
    "headless": (b"x,small\r\n", "does not begin with"),
    "one field": (b"picture,reason\r\nx\r\n", "has a line that is no picture and reason"),
    "three fields": (b"picture,reason\r\nx,y,z\r\n", "has a line that is no picture and reason"),
    "cut off": (b'picture,reason\r\nx,"' + b"y" * 200_000, "has a line that is no picture and reason"),
    "too few": (b"picture,reason\r\n", "lists 0 pictures where pyramid.json counts 1"),
}


@pytest.mark.parametrize(("content", "message"), DAMAGED_LISTS.values(), ids=DAMAGED_LISTS)
def test_a_damaged_list_is_named(folder, content, message):
    (folder / "skipped.csv").write_bytes(content)
    (fault,) = damaged(folder, quiet)
    assert "skipped.csv" in fault
    assert message in fault


def test_a_missing_list_is_named(folder):
    (folder / "skipped.csv").unlink()
    (fault,) = damaged(folder, quiet)
    assert "skipped.csv cannot be read (No such file" in fault


# --- damage ---


def test_nothing_is_wrong_with_a_whole_pyramid(folder, tmp_path):
    vectors = noise(5, 1, 1)[:, 0, 0].astype(np.float32)
    others = [write_pyramid(tmp_path / "q", noise(5, 3, 4)), write_pyramid(tmp_path / "r", noise(5, 3, 64), vectors)]
    for path in [folder, *others]:
        pyramid = open_pyramid(path)
        assert damaged(path, quiet) == []
        assert deviations(pyramid, quiet) == []
        assert contradictions(pyramid.labels, []) == []
        assert strangers(path, pyramid.about) == []


def _flip(path, place):
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(content)


FILES = ["0004x0004.npy", "0008x0008.npy", "0016x0016.npy", "labels.npy"]


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("place", [0, 60, 200, -1])
def test_a_flipped_bit_is_found_wherever_it_is(folder, name, place):
    _flip(folder / name, place)
    assert damaged(folder, quiet) == [f"{name} does not hold what was written"]


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize(("share", "levels_fault"), [(0, "is cut off"), (0.5, "is cut off"), (1.01, "does not hold")])
def test_a_file_of_another_length_is_found(folder, name, share, levels_fault):
    whole = (folder / name).read_bytes()
    (folder / name).write_bytes((whole * 2)[: int(share * len(whole))])
    (fault,) = damaged(folder, quiet)
    assert fault.startswith(f"{name} {'does not hold' if name == 'labels.npy' else levels_fault}")


@pytest.mark.parametrize("name", FILES)
def test_a_missing_file_is_found(folder, name):
    (folder / name).unlink()
    assert damaged(folder, quiet) == [f"{name} is missing"]


def test_all_damage_is_named_not_only_the_first(folder):
    (folder / "0004x0004.npy").unlink()
    (folder / "0008x0008.npy").write_bytes(b"")
    _flip(folder / "0016x0016.npy", -1)
    (folder / "labels.npy").unlink()
    (folder / "labels.npy").mkdir()
    (folder / "skipped.csv").unlink()
    with pytest.raises(UserError):
        open_pyramid(folder)
    faults = damaged(folder, quiet)
    assert faults[:4] == [
        "0004x0004.npy is missing",
        "0008x0008.npy is cut off",
        "0016x0016.npy does not hold what was written",
        "labels.npy is missing",
    ]
    assert "skipped.csv" in faults[4]
    assert len(faults) == 5


def test_what_the_disk_refuses_is_named(folder, monkeypatch):
    def refuse(path):
        if path.name == "0008x0008.npy":
            raise OSError(5, "Input/output error")
        return hash_file(path)

    monkeypatch.setattr(inspect, "hash_file", refuse)
    assert damaged(folder, quiet) == ["0008x0008.npy cannot be read (Input/output error)"]


def _change(folder, **changes):
    path = folder / "pyramid.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_a_file_without_a_hash_and_a_hash_without_a_file_are_named(folder):
    hashes = manifest(folder)["hashes"]
    _change(folder, hashes={name: value for name, value in hashes.items() if name != "0008x0008.npy"})
    assert damaged(folder, quiet) == ["0008x0008.npy has no hash in pyramid.json"]
    _change(folder, hashes=hashes | {"masks.npy": "0" * 32})
    assert damaged(folder, quiet) == ["masks.npy is missing"]
    _change(folder, hashes={})
    assert [fault.split()[0] for fault in damaged(folder, quiet)] == FILES


def test_a_manifest_that_contradicts_itself_is_named(folder):
    hashes = manifest(folder)["hashes"]
    _change(folder, fingerprint="0" * 32)
    assert damaged(folder, quiet) == ["the fingerprint in pyramid.json is not that of the hashes there"]
    _change(folder, fingerprint=_hash(b""), hashes=hashes | {"labels.npy": "0" * 32})
    assert len(damaged(folder, quiet)) == 2


UNSOUND = {
    "count as text": {"count": "40"},
    "no picture": {"count": 0},
    "half a channel": {"channels": 0.5},
    "no list": {"resolutions": 16},
    "no level": {"resolutions": []},
    "a gap": {"resolutions": [4, 16]},
    "labels without names": {"labels": {}},
    "hashes as list": {"hashes": ["0004x0004.npy"]},
    "a number as hash": {"hashes": {"0004x0004.npy": 3}},
    "a file elsewhere": {"hashes": {"../p/0004x0004.npy": "0"}},
}


@pytest.mark.parametrize("changes", UNSOUND.values(), ids=UNSOUND)
def test_an_unsound_manifest_is_a_users_mistake(folder, changes):
    _change(folder, **changes)
    with pytest.raises(UserError, match=r"pyramid.json is damaged"):
        damaged(folder, quiet)


@pytest.mark.parametrize("text", ["", "[]", '{"version": 1}', '{"version": 2, "count": 5}'])
def test_a_manifest_that_is_none_is_a_users_mistake(folder, text):
    (folder / "pyramid.json").write_text(text)
    with pytest.raises(UserError):
        damaged(folder, quiet)


def test_progress_tells_each_file_and_the_bytes_before_it(folder):
    told = []
    damaged(folder, lambda *now: told.append(now))
    lengths = [(folder / name).stat().st_size for name in FILES]
    assert told == [(name, sum(lengths[:place]), sum(lengths)) for place, name in enumerate(FILES)]


def test_what_is_no_part_is_a_stranger(folder):
    (folder / "info.png").touch()
    (folder / "0032x0032.npy").touch()
    (folder / "old").mkdir()
    assert strangers(folder, manifest(folder)) == ["0032x0032.npy", "info.png", "old"]
    assert damaged(folder, quiet) == []
    assert parts(manifest(folder)) == FILES


# --- levels ---


@pytest.mark.parametrize("channels", [1, 3])
def test_official_levels_deviate_nowhere_in_any_chunk(tmp_path, small_chunks, channels):
    pyramid = open_pyramid(write_pyramid(tmp_path / "p", noise(10, channels, 64)))
    assert deviations(pyramid, quiet) == []


def test_float32_holds_the_means_of_256x256_pixels(tmp_path):
    """254.5 is rounded to 254, 254.5 + 1/65536 to 255: the last of the 24 bits decides."""
    pictures = (254 + np.indices((1024, 1024)).sum(0) % 2).astype(np.uint8)[None, None]
    pictures[0, 0, 0, 0] = 255
    pyramid = open_pyramid(write_pyramid(tmp_path / "p", pictures))
    assert pyramid.levels[4][0, 0, :2].tolist() == [[255, 254, 254, 254], [254, 254, 254, 254]]
    assert deviations(pyramid, quiet) == []


def test_levels_rounded_in_between_deviate(tmp_path, small_chunks):
    pictures = noise(50, 1, 32)
    chained = means(means(pictures, 2), 2)
    pyramid = open_pyramid(write_pyramid(tmp_path / "p", pictures, levels={8: chained}))
    off = (chained != means(pictures, 4)).any((1, 2, 3)).sum()
    assert off > 0
    assert deviations(pyramid, quiet) == [Deviation(8, int(off), 1, None)]


def test_another_picture_is_a_stranger_and_named(tmp_path, small_chunks):
    pictures = noise(50, 3, 32)
    swapped = means(pictures, 2)
    swapped[[44, 46]] = swapped[[46, 44]]
    folder = write_pyramid(tmp_path / "p", pictures, levels={16: swapped})
    assert damaged(folder, quiet) == []
    (off,) = deviations(open_pyramid(folder), quiet)
    assert (off.resolution, off.pictures, off.stranger) == (16, 2, 44)
    assert off.most == abs(swapped.astype(int) - means(pictures, 2)).max()
    assert contradictions(None, [off]) == ["picture 44 of 0016x0016.npy is not the one of the top level"]


def test_wrong_labels_are_named():
    labels = Labels(np.array([0, 2, -1, 5]), ("a", "b"))
    assert contradictions(labels, []) == ["labels.npy has 3 labels of no class or not finite"]
