"""`progan generate` and `progan interpolate` on a real snapshot of a tiny generator that was never trained."""

import dataclasses
import subprocess
import sys

import click
import numpy as np
import pytest
import torch
from PIL import Image

from progan import latents
from progan.commands import interpolate as interpolate_module
from progan.commands import main
from progan.commands.generate import parse_grid, parse_seeds
from progan.config import Config, generator_arguments
from progan.exchange.snapshots import load_snapshot, save_snapshot
from progan.images import to_pixels
from progan.nn.families import make_generator
from progan.nn.progressive import Generator


def _config(channels: int) -> Config:
    config = Config()
    networks = dataclasses.replace(config.networks, latent_size=8, fmap_max=4, channels=channels)
    return dataclasses.replace(config, networks=networks, growth=dataclasses.replace(config.growth, max_res=32))


def _run(folder, channels=3, stage=2, alpha=0.5):
    """A run whose newest snapshot is at 16 pixels, half faded in."""
    config = _config(channels)
    G = make_generator(**generator_arguments(config))
    G.reset_parameters(torch.Generator().manual_seed(1))
    path = folder / "snapshots" / "generator-000012.safetensors"
    path.parent.mkdir(parents=True)
    save_snapshot(path, G, config, stage, alpha, 12_000)
    return folder


@pytest.fixture
def run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return _run(tmp_path / "runs" / "00001")


def _size(path):
    with Image.open(path) as image:
        return image.size, getattr(image, "n_frames", 1)


def _apart(a, b):
    """The largest difference of two pictures, in levels of 256."""
    return np.abs(a.astype(int) - b.astype(int)).max()


# --- grammar ---


def test_seeds_grammar():
    assert parse_seeds("0,3,5-9") == [0, 3, 5, 6, 7, 8, 9]
    assert parse_seeds(" 7 , 2 - 4,7") == [7, 2, 3, 4, 7]
    assert parse_seeds("12") == [12]


@pytest.mark.parametrize(
    "text", ["", "a", "1,,2", "-3", "3-", "5-2", "1.5", "0-1000000", "1;2", "99999999999999999999"]
)
def test_seeds_that_are_none_are_quoted_back(text):
    with pytest.raises(click.BadParameter) as caught:
        parse_seeds(text)
    assert repr(text) in caught.value.message or "''" in caught.value.message


def test_grid_grammar():
    assert parse_grid("4x2") == (4, 2)
    for text in ("4", "0x2", "4x", "4*2", "2x2x2", "1000x1"):
        with pytest.raises(click.BadParameter, match="4x2"):
            parse_grid(text)


def test_walks_of_the_command_are_the_walks_there_are():
    assert tuple(latents.WALKS) == interpolate_module.WALKS


def test_help_imports_no_torch():
    code = (
        "import sys, progan.commands.generate, progan.commands.interpolate as i\n"
        "from click.testing import CliRunner\n"
        "assert CliRunner().invoke(i.command, ['--help']).exit_code == 0\n"
        "sys.exit(bool({'torch', 'numpy', 'PIL', 'av'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


# --- generate ---


def test_generate_writes_one_picture_a_seed(run, tmp_path, capsys):
    assert main(["generate", str(run), "--seeds", "3,5-6", "--device", "cpu", "--out", "out"]) == 0
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["seed0003.png", "seed0005.png", "seed0006.png"]
    assert "3 pictures" in capsys.readouterr().out
    with Image.open(tmp_path / "out" / "seed0005.png") as image:
        assert image.info["seed"] == "5"
        got = np.asarray(image)
    G = load_snapshot(run / "snapshots" / "generator-000012.safetensors").G
    expected = to_pixels(G(latents.latents_from_seeds([5], 8), 2, 0.5))[0].permute(1, 2, 0).numpy()
    assert _apart(got, expected) <= 1  # the fast form of G may round otherwise


def test_generate_takes_the_newest_run_and_writes_a_sheet(run, tmp_path):
    assert main(["generate", "--seeds", "0-5", "--grid", "3x2", "--device", "cpu"]) == 0
    out = tmp_path / "generated"
    sheet = np.asarray(Image.open(out / "sheet0000-0005.png"))
    assert sheet.shape == (32, 48, 3)
    assert np.array_equal(sheet[16:, 16:32], np.asarray(Image.open(out / "seed0004.png")))


def test_generate_draws_a_seed_the_same_among_others(run, tmp_path):
    for seeds in ("7", "5-9", "9,7"):
        assert main(["generate", "--seeds", seeds, "--device", "cpu", "--out", seeds]) == 0
    alone, *others = ((tmp_path / seeds / "seed0007.png").read_bytes() for seeds in ("7", "5-9", "9,7"))
    assert others == [alone, alone]


def test_pictures_come_from_the_fast_form(run, monkeypatch):
    def forward(*_):
        raise AssertionError("this is the form to train")

    monkeypatch.setattr(Generator, "forward", forward)
    assert main(["generate", "--seeds", "0", "--device", "cpu"]) == 0
    assert main(["interpolate", "--frames", "6", "--device", "cpu"]) == 0


def test_generate_never_replaces_another_picture(run, tmp_path, capsys):
    arguments = ["generate", "--seeds", "0-2", "--device", "cpu", "--out", "out"]
    assert main(arguments) == 0
    before = (tmp_path / "out" / "seed0001.png").read_bytes()
    assert main(arguments) == 0  # the same again
    assert main(["generate", "--seeds", "1-4", "--device", "cpu", "--out", "out"]) == 0  # some of them, and others
    assert main([*arguments, "--psi", "0.5"]) == 2
    assert "another picture has this name" in capsys.readouterr().err
    assert (tmp_path / "out" / "seed0001.png").read_bytes() == before
    assert len(list((tmp_path / "out").iterdir())) == 5


def test_generate_at_an_earlier_resolution_is_the_stable_one(run, tmp_path):
    assert main(["generate", "--seeds", "4", "--res", "8", "--device", "cpu", "--out", "o"]) == 0
    G = load_snapshot(run / "snapshots" / "generator-000012.safetensors").G
    expected = to_pixels(G(latents.latents_from_seeds([4], 8), 1, 1.0))[0].permute(1, 2, 0).numpy()
    assert _apart(np.asarray(Image.open(tmp_path / "o" / "seed0004.png")), expected) <= 1


def test_generate_at_an_earlier_resolution_and_psi_zero(run, tmp_path):
    assert main(["generate", "--seeds", "0-1", "--res", "8", "--psi", "0", "--device", "cpu", "--out", "o"]) == 0
    first, second = (np.asarray(Image.open(tmp_path / "o" / f"seed000{k}.png")) for k in (0, 1))
    assert first.shape == (8, 8, 3)
    assert np.array_equal(first, second)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--res", "32"], "can show 4, 8, 16 pixels"),
        (["--res", "10"], "--res 10"),
        (["--grid", "2x2"], "has 4 cells, but there are 16 seeds"),
        (["--seeds", "1-"], "'1-' is neither a seed nor a range"),
        (["--psi", "3"], "--psi"),
        (["nowhere"], "nowhere does not exist"),
    ],
)
def test_generate_says_what_is_wrong(run, capsys, arguments, words):
    assert main(["generate", "--device", "cpu", *arguments]) == 2
    assert words in capsys.readouterr().err


# --- interpolate ---


@pytest.mark.parametrize("walk", interpolate_module.WALKS)
@pytest.mark.parametrize("grid", ["1x1", "3x2"])
def test_interpolate_renders_every_walk(run, tmp_path, capsys, walk, grid):
    arguments = ["interpolate", "--walk", walk, "--grid", grid, "--frames", "8", "--device", "cpu", "--scale", "2"]
    assert main(arguments) == 0
    columns, rows = parse_grid(grid)
    assert _size(tmp_path / "walk.webp") == ((32 * columns, 32 * rows), 8)
    assert f"walk.webp: {32 * columns}x{32 * rows} pixels, 8 frames, 0.3 s" in capsys.readouterr().out


def test_interpolate_lasts_and_enlarges_by_default(run, tmp_path):
    assert main(["interpolate", "--fps", "5", "--out", "a.gif", "--device", "cpu"]) == 0
    assert _size(tmp_path / "a.gif") == ((128, 128), 30)
    assert main(["interpolate", "--fps", "4", "--seeds", "0-6", "--out", "b.gif", "--device", "cpu"]) == 0
    assert _size(tmp_path / "b.gif") == ((128, 128), 28)
    assert (
        main(["interpolate", "--seconds", "2.5", "--fps", "4", "--res", "4", "--out", "c.png", "--device", "cpu"]) == 0
    )
    assert _size(tmp_path / "c.png") == ((128, 128), 10)


def test_interpolate_without_loop_ends_on_the_last_seed(run, tmp_path):
    assert main(["generate", "--seeds", "2", "--device", "cpu", "--out", "g"]) == 0
    walk = ["interpolate", "--seeds", "0,1,2", "--frames", "5", "--scale", "1", "--device", "cpu", "--no-loop"]
    assert main([*walk, "--out", "frames"]) == 0
    last = np.asarray(Image.open(tmp_path / "frames" / "frame-000004.png")).astype(int)
    assert np.abs(last - np.asarray(Image.open(tmp_path / "g" / "seed0002.png"))).max() <= 1
    assert main([*walk, "--out", "walk.webp"]) == 0
    with Image.open(tmp_path / "walk.webp") as image:
        assert image.info["loop"] == 1


def test_interpolate_grey_and_same_bytes(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    _run(tmp_path / "grey", channels=1)
    for name in ("a.webp", "b.webp"):
        assert main(["interpolate", "grey", "--frames", "6", "--device", "cpu", "--out", name]) == 0
    assert (tmp_path / "a.webp").read_bytes() == (tmp_path / "b.webp").read_bytes()


def test_interpolate_writes_mp4(run, tmp_path, capsys):
    pytest.importorskip("av", reason="PyAV is not installed (extra: video)")
    assert main(["interpolate", "--frames", "6", "--device", "cpu", "--out", "walk.mp4"]) == 0
    assert "walk.mp4: 128x128 pixels, 6 frames" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--seconds", "2", "--frames", "9"], "give one of them"),
        (["--smoothing", "2"], "--smoothing belongs to --walk smooth"),
        (["--walk", "circle", "--no-loop"], "a circle has no end"),
        (["--walk", "smooth", "--grid", "2x2", "--seeds", "0-2"], "4 cells, but 3 seeds"),
        (["--grid", "2x2", "--seeds", "0-2"], "4 cells"),
        (["--seeds", "5"], "at least 2 seeds, not 1"),
        (["--frames", "3", "--seeds", "0-5"], "at least 6 frames"),
        (["--walk", "spiral"], "spiral"),
        (["--out", "walk.avi"], "unknown suffix"),
        (["--fps", "60", "--out", "walk.gif"], "0.1 to 50"),
        (["--res", "64"], "can show 4, 8, 16 pixels"),
    ],
)
def test_interpolate_says_what_is_wrong(run, tmp_path, capsys, arguments, words):
    assert main(["interpolate", "--device", "cpu", *arguments]) == 2
    assert words in capsys.readouterr().err
    assert [p.name for p in tmp_path.iterdir()] == ["runs"]


def test_interpolate_without_encoder_names_the_extra(run, tmp_path, monkeypatch, capsys):
    from progan.render import animation

    monkeypatch.setattr(animation, "_has_av", lambda: False)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert main(["interpolate", "--out", "walk.mp4", "--device", "cpu"]) == 2
    assert "pip install 'progan[video]'" in capsys.readouterr().err
