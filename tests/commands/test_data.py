"""`progan data info` and `progan data check` on pyramids written by hand, whole and damaged."""

import json

import click.testing
import numpy as np
import pytest
from PIL import Image

from progan.commands import VERBS, main
from progan.commands import data as data_module
from progan.commands.data import class_lines, command, names, plain
from progan.console import Console, size
from progan.data import inspect
from progan.data.pyramid import level_name
from progan.errors import UserError
from tests.data.test_inspect import means, noise, write_pyramid


@pytest.fixture
def clothes(tmp_path, monkeypatch):
    """Thirty coloured pictures of 32x32 of three classes, one twice and two of one colour, in the current directory."""
    monkeypatch.chdir(tmp_path)
    pictures = noise(30, 3, 32)
    pictures[20] = pictures[4]
    pictures[[7, 9]] = np.array([10, 200, 30], np.uint8)[:, None, None]
    pictures[9, 0] = 11
    skipped = [("a", "small"), ("b", "cut off"), ("c", "small"), ("d", "small")]
    labels = np.arange(30) % 3 * (np.arange(30) % 5 > 0)
    return write_pyramid(tmp_path / "clothes", pictures, labels, ("hat", "dress", "shoes"), skipped, passed_over=12)


def run(*arguments):
    """Output and exception of the group itself."""
    result = click.testing.CliRunner().invoke(command, [str(argument) for argument in arguments])
    return result.output, result.exception


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


# --- info ---


def test_info_says_what_there_is(clothes):
    before = contents(clothes)
    output, error = run("info", "clothes")
    assert error is None
    pixels = np.load(clothes / level_name(32)).astype(float)
    lines = [
        "clothes: 30 pictures, colour, 4x4 to 32x32",
        "  source        photos.zip",
        "  made          crop centre, filter lanczos, background white, upscale no, by progan 0.1.0",
        "  skipped       4: 3 x small; 1 x cut off",
        "  passed over   12: hidden files, and files of other kinds",
        f"  fingerprint   {json.loads((clothes / 'pyramid.json').read_text())['fingerprint']}",
        "  4x4           1.6 kB",
        "  8x8           5.9 kB",
        "  16x16         23.2 kB",
        "  32x32         92.3 kB",
        f"  on disk       {sum(map(len, before.values())) / 1000:.1f} kB",
        *[
            f"  {name:<13} mean {pixels[:, c].mean():.2f}, standard deviation {pixels[:, c].std():.2f} of 0..255"
            for c, name in enumerate(("red", "green", "blue"))
        ],
        "  duplicates    2 pictures in 1 group: 4 = 20",
        "  one colour    2 pictures: 7, 9",
        "  labels        3 classes",
        "       0  hat           14  ==============================",
        "       1  dress          8  ==================",
        "       2  shoes          8  ==================",
        "clothes-info.png: the mean picture and samples",
    ]
    assert output.splitlines() == lines
    assert contents(clothes) == before


def test_info_draws_a_row_a_class(clothes):
    run("info", "clothes")
    with Image.open("clothes-info.png") as picture:
        assert picture.size == (2 * 128 + 8 + 8 * 128, 3 * 128)
        assert picture.text == {"fingerprint": json.loads((clothes / "pyramid.json").read_text())["fingerprint"]}


def test_info_of_grey_pictures_without_labels(tmp_path):
    write_pyramid(tmp_path / "p", noise(3, 1, 8), recipe=None)
    output, error = run("info", tmp_path / "p", "--out", tmp_path / "new" / "x.PNG")
    assert error is None
    assert "p: 3 pictures, grey, 4x4 to 8x8\n" in output
    assert "  made          by progan 0.1.0\n" in output
    assert "  grey          mean " in output
    assert "  duplicates    none\n  one colour    none\n  labels        none\n" in output
    assert "skipped" not in output
    assert "passed over" not in output
    with Image.open(tmp_path / "new" / "x.PNG") as picture:
        assert (picture.mode, picture.size) == ("L", (2 * 128 + 8 + 8 * 128, 256))


def test_what_the_recipe_leaves_open_is_not_told(tmp_path):
    write_pyramid(tmp_path / "p", noise(2, 1, 4), recipe={"crop": None, "filter": "box", "upscale": True})
    output, _ = run("info", tmp_path / "p", "--out", tmp_path / "x.png")
    assert "  made          filter box, upscale yes, by progan 0.1.0\n" in output


def test_of_many_duplicates_the_first_are_named(tmp_path):
    pictures = noise(20, 1, 8)
    pictures[[3, 5, 6, 19]], pictures[18] = pictures[1], pictures[0]
    write_pyramid(tmp_path / "p", pictures)
    output, _ = run("info", tmp_path / "p", "--out", tmp_path / "x.png")
    assert "  duplicates    7 pictures in 2 groups: 0 = 18, 1 = 3 = 5 = ...\n" in output


def test_info_of_vectors(tmp_path):
    vectors = np.array([[0, -1.5, 2], [0.25, 1, 0]], np.float32)
    write_pyramid(tmp_path / "p", noise(2, 1, 4), vectors)
    output, _ = run("info", tmp_path / "p", "--out", tmp_path / "x.png")
    assert "  labels        vectors of 3, from -1.5 to 2\n" in output


def test_info_needs_no_more_of_the_manifest_than_training(clothes):
    path = clothes / "pyramid.json"
    needed = {"version", "count", "channels", "resolutions", "labels", "fingerprint", "hashes"}
    path.write_text(json.dumps({key: value for key, value in json.loads(path.read_text()).items() if key in needed}))
    output, error = run("info", "clothes")
    assert error is None
    assert "  made          by progan of unknown version\n" in output


def test_info_goes_on_where_the_list_of_the_skipped_is_damaged(clothes):
    (clothes / "skipped.csv").unlink()
    output, error = run("info", "clothes")
    assert error is None
    assert "  skipped       4: clothes/skipped.csv cannot be read (No such file or directory).\n" in output


def test_info_says_of_how_many_pictures_its_colours_are(clothes, monkeypatch):
    monkeypatch.setattr(inspect, "SAMPLE_BYTES", 10 * 3 * 32**2)
    output, _ = run("info", "clothes")
    pixels = np.load(clothes / level_name(32))[:10]
    wanted = f"mean {pixels[:, 2].mean():.2f}, standard deviation {pixels[:, 2].std():.2f} of 0..255 (of 10 pictures)"
    assert f"  blue          {wanted}\n" in output


def test_info_twice_is_fine_but_no_other_picture_is_replaced(clothes):
    assert run("info", "clothes")[1] is None
    assert run("info", "clothes")[1] is None
    with open("clothes-info.png", "ab") as file:
        file.write(b"mine")
    mine = (clothes.parent / "clothes-info.png").read_bytes()
    output, error = run("info", "clothes")
    assert isinstance(error, UserError)
    assert str(error) == "clothes-info.png: another picture has this name; give --out another name."
    assert "  labels        3 classes" in output
    assert (clothes.parent / "clothes-info.png").read_bytes() == mine


@pytest.mark.parametrize("path", [".", "../clothes", "../clothes/"])
def test_the_picture_has_the_folders_name(clothes, monkeypatch, path):
    monkeypatch.chdir(clothes)
    output, error = run("info", path)
    assert error is None
    assert output.endswith("clothes-info.png: the mean picture and samples\n")


def test_the_picture_is_a_png(clothes):
    output, error = run("info", "clothes", "--out", "x.jpg")
    assert isinstance(error, SystemExit)
    assert error.code == 2
    assert "--out x.jpg: the picture is a PNG" in output


def test_info_of_labels_of_no_class_names_the_file(tmp_path):
    write_pyramid(tmp_path / "p", noise(3, 1, 4), np.array([0, 1, 2]), ("a", "b"))
    _, error = run("info", tmp_path / "p", "--out", tmp_path / "x.png")
    assert isinstance(error, UserError)
    assert "labels.npy" in str(error)


# --- check ---


def test_a_whole_pyramid_is_whole(clothes):
    before = contents(clothes)
    output, error = run("check", "clothes")
    assert error is None
    assert output == "clothes: whole, 30 pictures in 5 files\n"
    assert contents(clothes) == before
    assert [path.name for path in clothes.parent.iterdir()] == ["clothes"]


def test_all_damaged_files_are_named(clothes):
    (clothes / level_name(4)).unlink()
    (clothes / level_name(8)).write_bytes(b"")
    content = bytearray((clothes / "labels.npy").read_bytes())
    content[-3] ^= 64
    (clothes / "labels.npy").write_bytes(content)
    output, error = run("check", "clothes")
    assert isinstance(error, UserError)
    assert str(error) == (
        "clothes is damaged: 0004x0004.npy is missing, 0008x0008.npy is cut off, labels.npy does not hold what was "
        "written; copy these files anew from where they are whole, or prepare the data again."
    )
    assert "whole" not in output


def test_strange_files_are_told_and_no_damage(clothes):
    for name in ("z\x1b[31m.txt", "a.png", "b.png", "c.png"):
        (clothes / name).touch()
    output, error = run("check", "clothes")
    assert error is None
    assert output.splitlines()[0] == "  no part of it a.png, b.png, c.png, ..."
    for name in ("a.png", "b.png", "c.png"):
        (clothes / name).unlink()
    assert run("check", "clothes")[0].splitlines()[0] == "  no part of it z?[31m.txt"


def test_levels_of_another_rounding_are_told_and_no_damage(tmp_path):
    pictures = noise(50, 1, 32)
    chained = means(means(pictures, 2), 2)
    off = (chained != means(pictures, 4)).any((1, 2, 3)).sum()
    write_pyramid(tmp_path / "p", pictures, levels={8: chained})
    output, error = run("check", tmp_path / "p")
    assert error is None
    note, whole = output.splitlines()
    assert note == (
        f"  8x8           {off} pictures that are not the means of the level above; off by 1 of 255 at most"
    )
    assert whole.endswith("p: whole, 50 pictures in 4 files")


def test_levels_of_other_pictures_are_damage(tmp_path):
    pictures = noise(20, 1, 16)
    write_pyramid(tmp_path / "p", pictures, levels={8: np.roll(means(pictures, 2), 1, 0)})
    _, error = run("check", tmp_path / "p")
    assert isinstance(error, UserError)
    assert "p is damaged: picture 0 of 0008x0008.npy is not the one of the top level; copy" in str(error)


def test_labels_of_no_class_are_damage(tmp_path):
    write_pyramid(tmp_path / "p", noise(3, 1, 4), np.array([0, 1, 2]), ("a", "b"))
    _, error = run("check", tmp_path / "p")
    assert "p is damaged: labels.npy has 1 labels of no class or not finite; copy" in str(error)


@pytest.mark.parametrize("verb", ["info", "check"])
def test_what_is_no_pyramid_is_a_users_mistake(tmp_path, verb):
    for path in (tmp_path, tmp_path / "missing"):
        assert "is no pyramid" in str(run(verb, path)[1])
    (tmp_path / "pyramid.json").write_text('{"version": 1}')
    assert "format 1" in str(run(verb, tmp_path)[1])


# --- the command line ---


def test_what_takes_long_shows_how_far_it_is(clothes, monkeypatch):
    shown = []
    monkeypatch.setattr(Console, "live", lambda self, text: shown.append(text))
    monkeypatch.setattr(inspect, "CHUNK_BYTES", 10 * 3 * 32**2)
    run("info", "clothes")
    assert shown[0] == "colours [==========                    ]  10 of 30 pictures"
    shown.clear()
    run("check", "clothes")
    assert shown[0] == "reading 0004x0004.npy: 0 bytes of 123.3 kB are read"
    assert shown[1] == "reading 0008x0008.npy: 1.6 kB of 123.3 kB are read"
    assert [text.split()[0] for text in shown] == ["reading"] * 5 + ["levels"] * 3
    assert shown[-1] == "levels [==============================]  30 of 30 pictures"


def test_exit_codes(clothes, monkeypatch, capsys):
    monkeypatch.setitem(VERBS, "data", "Look at a pyramid.")
    assert main(["data", "info", "clothes"]) == 0
    assert main(["data", "check", "clothes"]) == 0
    (clothes / level_name(16)).unlink()
    capsys.readouterr()
    assert main(["data", "check", "clothes"]) == 2
    assert capsys.readouterr().err.startswith("progan: clothes is damaged: 0016x0016.npy is missing; ")
    assert main(["data", "info", "clothes"]) == 2
    assert main(["data"]) == 2
    assert main(["data", "look", "clothes"]) == 2


# --- lines ---


def test_twenty_classes_are_listed_and_more_are_summed_up():
    counts = np.arange(20) * 10
    lines = list(class_lines([f"c{k}" for k in range(20)], counts))
    assert [line.split()[:3] for line in lines] == [[str(k), f"c{k}", str(10 * k)] for k in range(20)]
    counts = np.array([5] * 19 + [7, 1, 3])
    lines = list(class_lines([f"c{k}" for k in range(22)], counts))
    assert [line.split()[0] for line in lines[:-1]] == ["19", *map(str, range(18))]
    assert lines[-1] == "  and 3 classes more, of 9 pictures"


def test_bars_are_as_long_as_the_counts():
    lines = list(class_lines(["a", "b", "c", "d"], np.array([3_000, 1_000, 1, 0])))
    assert [line.count("=") for line in lines] == [30, 10, 1, 0]
    assert list(class_lines(["a"], np.array([0]))) == ["       0  a          0"]


def test_sizes_have_units():
    amounts = {0: "0 bytes", 999: "999 bytes", 1000: "1.0 kB", 999_949: "999.9 kB", 999_950: "1.0 MB"}
    amounts |= {123_456_789_012: "123.5 GB", 2 * 10**15: "2000.0 TB"}
    assert {amount: size(amount) for amount in amounts} == amounts


def test_of_many_things_three_are_named():
    assert [names(range(n)) for n in (1, 3, 4)] == ["0", "0, 1, 2", "0, 1, 2, ..."]


def test_text_of_data_cannot_command_the_terminal():
    assert plain("Zürich 東京 \x1b[2J\n\udcff") == "Zürich 東京 ?[2J??"


def test_the_help_is_short(clothes):
    output, _ = run("--help")
    assert "Print what is in a pyramid, and draw samples." in output
    assert "Read every byte of a pyramid: is it whole?" in output
    assert data_module.command.name == "data"
