"""`progan compare`: what it prints and writes, what it never replaces, and how it answers mistakes."""

from __future__ import annotations

import json
import sys

import click
import pytest
from PIL import Image

from progan.commands import VERBS, main
from tests.metrics.test_compare import make_run, row, row_of, write_rows


@pytest.fixture(autouse=True)
def _verb(monkeypatch):
    monkeypatch.setitem(VERBS, "compare", "Set runs side by side: numbers, curves, pictures.")


@pytest.fixture
def pair(tmp_path, monkeypatch):
    """Two runs a and b in the current directory, measured twice each."""
    monkeypatch.chdir(tmp_path)
    for name, factor in (("a", 1.0), ("b", 2.0)):
        folder = make_run(tmp_path / name, f"training.lr={0.001 * factor}")
        write_rows(folder / "metrics.jsonl", [row_of(n, v, **p) for n, v, p in (row(1000, 9 * factor), row(3000, 4.0))])
    return tmp_path


def test_it_prints_a_table_the_settings_and_where_the_pictures_are(pair, capsys):
    pytest.importorskip("matplotlib")
    assert main(["compare", "a", "b"]) == 0
    captured = capsys.readouterr()
    assert captured.err == ""
    parts = [part.splitlines() for part in captured.out.split("\n\n")]
    assert [line.split()[0] for line in parts[0]] == ["run", "a", "b", "swd"]
    assert parts[1][1].split() == ["training.lr", "0.001", "0.002"]
    assert parts[2] == ["compare/a-b: curves.png and pictures.png"]
    assert sorted(path.name for path in (pair / "compare/a-b").iterdir()) == ["curves.png", "pictures.png"]
    for path in (pair / "compare/a-b").iterdir():
        with Image.open(path) as image:
            assert image.format == "PNG"


def test_programs_get_json_and_nothing_else(pair, capsys):
    pytest.importorskip("matplotlib")
    assert main(["compare", "a", "b", "--json", "--out", "x", "--at", "1", "--metric", "swd"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert [run["name"] for run in said["runs"]] == ["a", "b"]
    assert said["settings"] == {"training.lr": [0.001, 0.002]}
    assert said["files"] == {"curves": "x/curves.png", "pictures": "x/pictures.png"}
    assert (said["at_kimg"], said["notes"]) == (1.0, [])
    assert (pair / "x/curves.png").is_file()


def test_the_pictures_are_those_of_at(pair):
    for at, red in (("1", 0), ("3", 30)):
        assert main(["compare", "a", "b", "--at", at, "--out", at]) == 0
        with Image.open(pair / at / "pictures.png") as image:
            assert image.getpixel((20, image.height - 20))[0] == red
    assert main(["compare", "a", "b", "--out", "default"]) == 0
    assert (pair / "default/pictures.png").read_bytes() == (pair / "3/pictures.png").read_bytes()


def test_without_matplotlib_all_but_the_curves_is_there(pair, capsys, monkeypatch):
    for name in [name for name in sys.modules if name.partition(".")[0] == "matplotlib"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert main(["compare", "a", "b"]) == 0
    out = capsys.readouterr().out
    assert "No curves: they need matplotlib; `pip install 'progan[plots]'` installs it.\n" in out
    assert out.endswith("compare/a-b: pictures.png\n")
    assert out.startswith("run ")
    assert [path.name for path in (pair / "compare/a-b").iterdir()] == ["pictures.png"]
    assert main(["compare", "a", "b", "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert [note.partition(":")[0] for note in said["notes"]] == ["No curves"]
    assert list(said["files"]) == ["pictures"]


def test_nothing_is_replaced(pair, capsys):
    pytest.importorskip("matplotlib")
    assert main(["compare", "a", "b"]) == 0
    assert main(["compare", "a", "b"]) == 0, "the same pictures again"
    (pair / "compare/a-b/curves.png").write_bytes(b"mine")
    capsys.readouterr()
    assert main(["compare", "a", "b"]) == 2
    captured = capsys.readouterr()
    assert captured.out.startswith("run "), "the table is printed all the same"
    assert "curves.png: another picture has this name; give --out another directory." in captured.err
    assert (pair / "compare/a-b/curves.png").read_bytes() == b"mine"


def test_a_single_run_and_a_run_twice(pair, capsys):
    assert main(["compare", "a", "./a"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[1].split()[:2] == ["a", "3"]
    assert lines[-1].startswith("compare/a: ")
    assert not any("settings" in line for line in lines)


def test_runs_of_one_name_have_two(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for name in ("x/run", "y/run"):
        make_run(tmp_path / name)
    assert main(["compare", "x/run", "y/run"]) == 0
    out = capsys.readouterr().out
    assert [line.split()[0] for line in out.splitlines()[:3]] == ["run", "x/run", "y/run"]
    assert out.splitlines()[-1] == "compare/x-run-y-run: pictures.png"
    assert "x/run has no metrics; `progan evaluate x/run --all-snapshots` measures it." in out


def test_a_run_without_pictures_is_named(pair, capsys):
    for path in (pair / "b").glob("fakes-*"):
        path.unlink()
    assert main(["compare", "a", "b"]) == 0
    out = capsys.readouterr().out
    assert "No pictures of b: there is no fakes-*.png up to 3 kimg.\n" in out
    assert "pictures.png" in out


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ([], "RUN..."),
        (["nowhere"], "nowhere is no directory"),
        (["."], ". is no run directory (config.toml is missing)"),
        (["a", "--metric", "fid"], "--metric fid: the runs have swd."),
        (["a", "--at", "-1"], "-1"),
        (["a", "--at", "nan"], "nan is no number"),
    ],
)
def test_a_mistake_is_answered_in_one_sentence(arguments, sentence, pair, capsys):
    assert main(["compare", *arguments]) == 2
    captured = capsys.readouterr()
    assert sentence in captured.err
    assert captured.err.strip().count("\n") == 0
    assert captured.out == ""
    assert not (pair / "compare").exists()


def test_the_verb_is_named_as_the_command_is():
    from progan.commands.compare import command

    assert isinstance(command, click.Command)
    assert command.name == "compare"
