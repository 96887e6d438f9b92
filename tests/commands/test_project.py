"""`progan project` on a real snapshot of a tiny generator that was never trained."""

import dataclasses
import io
import re
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file

from progan import commands, load_generator
from progan.commands import main
from progan.commands import project as module
from progan.config import Config, generator_arguments
from progan.exchange.snapshots import load_snapshot, save_snapshot
from progan.images import to_images, to_pixels
from progan.metrics.reconstruction import Search, reconstruct
from progan.nn.families import make_generator


@pytest.fixture(autouse=True)
def _verb(monkeypatch):
    monkeypatch.setitem(commands.VERBS, "project", "Find the latent of a picture.")


def _run(folder, stage=1, alpha=0.5, **knobs):
    """A run whose newest snapshot is at 8 pixels, half faded in."""
    config = Config()
    networks = dataclasses.replace(config.networks, **{"latent_size": 8, "fmap_max": 4, **knobs})
    config = dataclasses.replace(config, networks=networks, growth=dataclasses.replace(config.growth, max_res=16))
    G = make_generator(**generator_arguments(config))
    G.reset_parameters(torch.Generator().manual_seed(1))
    with torch.no_grad():
        for layer in G.rgb.values():
            layer.weight *= 0.2  # so that pictures hold what images do: nothing saturates
    path = folder / "snapshots" / "generator-000012.safetensors"
    path.parent.mkdir(parents=True)
    save_snapshot(path, G, config, stage, alpha, 12_000)
    return folder


@pytest.fixture
def run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return _run(tmp_path / "runs" / "00001")


@pytest.fixture
def pictures(tmp_path):
    """A wide JPEG, a small PNG with transparency, and a grey picture, each where a user may have it."""
    noise = np.random.default_rng(0)
    Image.fromarray(noise.integers(0, 256, (20, 31, 3), np.uint8)).save(tmp_path / "wide.jpg")
    Image.fromarray(noise.integers(0, 256, (5, 5, 4), np.uint8)).save(tmp_path / "small.png")
    Image.fromarray(noise.integers(0, 256, (16, 16), np.uint8)).save(tmp_path / "grey.bmp")
    return [tmp_path / name for name in ("wide.jpg", "small.png", "grey.bmp")]


QUICK = ("--steps", "12", "--restarts", "2", "--device", "cpu")


def _project(*arguments):
    return main(["project", *QUICK, *map(str, arguments)])


def _array(path):
    with Image.open(path) as image:
        return np.asarray(image)


# --- what is written ---


def test_project_writes_pictures_latents_a_sheet_and_a_film(run, pictures, tmp_path, capsys):
    assert _project(run, *pictures) == 0
    out = tmp_path / "projected"
    names = {f"{stem}-projected.{kind}" for stem in ("wide", "small", "grey") for kind in ("png", "safetensors")}
    assert {path.name for path in out.iterdir()} == names | {"comparison.png", "search.webp"}
    said = capsys.readouterr().out
    assert len(re.findall(r"^(wide.jpg|small.png|grey.bmp): error 0\.\d+$", said, re.MULTILINE)) == 3
    assert "projected: 3 pictures, 8x8 pixels" in said

    sheet = _array(out / "comparison.png")
    assert sheet.shape == (24, 16, 3)
    for n, picture in enumerate(pictures):
        row = sheet[8 * n : 8 * n + 8]
        assert (row[:, :8] == module.target(picture, 8, 3).permute(1, 2, 0).numpy()).all()
        assert (row[:, 8:] == _array(out / f"{picture.stem}-projected.png")).all()
    with Image.open(out / "search.webp") as film:
        assert film.size == (256, 3 * 128)
        assert film.n_frames == 13 + 25  # the start and every step, then a second of the result


def test_a_latent_file_makes_the_picture_again(run, pictures, tmp_path):
    assert _project(run, pictures[0], "--seed", "5") == 0
    path = tmp_path / "projected" / "wide-projected.safetensors"
    found = load_file(path)
    made = load_generator(run)(found["z"], int(found["stage"]), float(found["alpha"]))  # as --help says
    assert (to_pixels(made)[0].permute(1, 2, 0).numpy() == _array(path.with_suffix(".png"))).all()
    target = to_images(module.target(pictures[0], 8, 3)[None])
    assert float(found["error"]) == pytest.approx(float((made - target).square().mean()) / 4, rel=1e-5)
    assert found["z"].shape == (1, 8)
    assert float(found["z"].norm()) == pytest.approx(8**0.5, rel=1e-5)
    assert (int(found["seed"]), int(found["stage"]), float(found["alpha"])) == (5, 1, 0.5)
    with safe_open(path, "pt") as file:
        assert file.metadata() == {
            "format": "progan-latent", "picture": "wide.jpg", "generator": "generator-000012.safetensors",
            "steps": "12", "restarts": "2",
        }  # fmt: skip
    with Image.open(path.with_suffix(".png")) as image:
        assert float(image.info["error"]) == pytest.approx(float(found["error"]), rel=1e-4)
        assert image.info["seed"] == "5"


def test_it_is_the_search_of_the_metric(run, pictures, tmp_path):
    assert _project(run, pictures[0]) == 0
    snapshot = load_snapshot(run / "snapshots" / "generator-000012.safetensors")
    images = to_images(module.target(pictures[0], 8, 3)[None])
    search = Search(12, 2, module.RATE, fall=module.FALL)
    found = reconstruct(lambda z: snapshot.G(z, 1, 0.5), images, 8, search, normalised=True)
    kept = load_file(tmp_path / "projected" / "wide-projected.safetensors")
    assert torch.equal(kept["z"], found.z)
    assert found.error < 0.9 * found.history[0]


def test_a_picture_of_the_generator_is_found(run, tmp_path):
    assert main(["generate", "--seeds", "3", "--device", "cpu"]) == 0
    own = tmp_path / "generated" / "seed0003.png"
    assert main(["project", str(own), "--steps", "150", "--restarts", "6", "--device", "cpu", "--no-webp"]) == 0
    found = _array(tmp_path / "projected" / "seed0003-projected.png").astype(int)
    assert np.abs(found - _array(own)).mean() < 3
    assert load_file(tmp_path / "projected" / "seed0003-projected.safetensors")["error"] < 1e-3


def test_the_film_begins_at_the_start_and_ends_on_the_result(run, pictures, tmp_path, monkeypatch):
    frames = []
    monkeypatch.setattr("progan.render.animation.write_animation", lambda path, all_, fps: frames.extend(all_))
    assert _project(run, pictures[0]) == 0
    result = _array(tmp_path / "projected" / "wide-projected.png")
    assert (frames[-1][::16, 128::16] == result).all()
    trail = []
    images, search = to_images(module.target(pictures[0], 8, 3)[None]), Search(12, 2, module.RATE, fall=module.FALL)
    G = load_snapshot(run / "snapshots" / "generator-000012.safetensors").G
    found = reconstruct(
        lambda z: G(z, 1, 0.5), images, 8, search, True, on_step=lambda r, s, z, e: trail.append((r, z))
    )
    way = torch.cat([z for r, z in trail if r == int(found.restart[0])])
    assert len(way) == 13
    made = to_pixels(G(way, 1, 0.5)).permute(0, 2, 3, 1).numpy().astype(int)
    shown = np.stack([frame[::16, 128::16] for frame in frames[:13]])
    assert np.abs(shown - made).max() <= 1  # drawn one by one here
    assert not (shown[0] == shown[-1]).all()


def test_films_show_the_first_eight_pictures(run, tmp_path):
    files = [tmp_path / f"{n}.png" for n in range(10)]
    for n, file in enumerate(files):
        Image.new("RGB", (8, 8), (20 * n, 0, 0)).save(file)
    assert _project(*files, "--res", "4", "--steps", "1") == 0
    assert _array(tmp_path / "projected" / "comparison.png").shape == (40, 8, 3)
    with Image.open(tmp_path / "projected" / "search.webp") as film:
        assert film.size == (256, 8 * 128)


# --- what it depends on ---


def test_a_picture_is_projected_alike_among_others(run, pictures, tmp_path):
    for name, chosen in (("a", pictures[:1]), ("b", pictures[::-1])):
        assert _project(*chosen, "--out", name) == 0
    a, b = (tmp_path / name / "wide-projected" for name in ("a", "b"))
    assert a.with_suffix(".png").read_bytes() == b.with_suffix(".png").read_bytes()
    alone, among = load_file(a.with_suffix(".safetensors")), load_file(b.with_suffix(".safetensors"))
    assert all(torch.equal(alone[key], among[key]) for key in alone)


def test_seeds_steps_and_restarts_matter(run, pictures, tmp_path):
    found = {}
    for name, arguments in {
        "same": [], "seed": ["--seed", "1"], "steps": ["--steps", "30"], "restarts": ["--restarts", "5"],
    }.items():  # fmt: skip
        assert _project(pictures[0], "--out", name, "--no-webp", *arguments) == 0
        found[name] = load_file(tmp_path / name / "wide-projected.safetensors")
        assert not (tmp_path / name / "search.webp").exists()
    assert not torch.equal(found["seed"]["z"], found["same"]["z"])
    assert found["steps"]["error"] < found["same"]["error"]
    assert found["restarts"]["error"] <= found["same"]["error"]


def test_an_earlier_resolution_is_the_stable_one(run, pictures, tmp_path):
    assert _project(run, pictures[0], "--res", "4") == 0
    found = load_file(tmp_path / "projected" / "wide-projected.safetensors")
    assert (int(found["stage"]), float(found["alpha"])) == (0, 1.0)
    assert _array(tmp_path / "projected" / "wide-projected.png").shape == (4, 4, 3)


def test_grey_generators_take_pictures_in_colour(tmp_path, pictures, monkeypatch):
    monkeypatch.chdir(tmp_path)
    _run(tmp_path / "grey", channels=1)
    assert _project("grey", pictures[0]) == 0
    assert _array(tmp_path / "projected" / "comparison.png").shape == (8, 16)
    with Image.open(tmp_path / "projected" / "search.webp") as film:
        assert film.size == (256, 128)


def test_pictures_are_taken_as_prepare_takes_them(tmp_path):
    left, right = Image.new("RGB", (20, 30), "red"), Image.new("RGB", (20, 30), "lime")
    whole = Image.new("RGB", (40, 30))
    whole.paste(left, (0, 0))
    whole.paste(right, (20, 0))
    exif = Image.Exif()
    exif[0x0112] = 3  # upside down
    whole.save(tmp_path / "a.png", exif=exif)
    pixels = module.target(tmp_path / "a.png", 4, 3)
    assert (pixels.dtype, pixels.shape) == (torch.uint8, (3, 4, 4))
    assert pixels[:, 0, 0].tolist() == [0, 255, 0]
    assert pixels[:, 0, 3].tolist() == [255, 0, 0]
    Image.new("RGBA", (2, 2), (0, 0, 0, 0)).save(tmp_path / "b.png")
    assert (module.target(tmp_path / "b.png", 8, 3) == 255).all()  # smaller than wanted, and white behind
    assert module.target(tmp_path / "a.png", 4, 1).shape == (1, 4, 4)


def test_a_generator_of_plain_latents_is_searched_from_zero(tmp_path, pictures, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run = _run(tmp_path / "plain", latent_norm=False, g_norm="none")
    assert _project(run, pictures[0], "--restarts", "1", "--seed", "1", "--out", "a") == 0
    assert _project(run, pictures[0], "--restarts", "1", "--seed", "2", "--out", "b") == 0
    a, b = (load_file(tmp_path / name / "wide-projected.safetensors") for name in "ab")
    assert torch.equal(a["z"], b["z"])
    assert abs(float(a["z"].norm()) / 8**0.5 - 1) > 0.01  # nor is it brought to a sphere


# --- grammar and mistakes ---


def test_the_generator_is_a_directory_or_a_safetensors_file_or_the_newest(run, pictures, tmp_path):
    file = run / "snapshots" / "generator-000012.safetensors"
    for name, first in (("a", [run]), ("b", [file]), ("c", [])):
        assert _project(*first, pictures[1], "--out", name, "--no-webp") == 0
    sheets = [(tmp_path / name / "comparison.png").read_bytes() for name in "abc"]
    assert sheets[0] == sheets[1] == sheets[2]


def test_nothing_is_replaced_and_that_is_said_first(run, pictures, tmp_path, capsys, monkeypatch):
    def searched(*_, **__):
        raise AssertionError("it searched")

    out = tmp_path / "projected"
    out.mkdir()
    monkeypatch.setattr("progan.metrics.reconstruction.reconstruct", searched)
    for name in ("wide-projected.png", "wide-projected.safetensors", "comparison.png", "search.webp"):
        (out / name).write_bytes(b"mine")
        assert _project(pictures[0]) == 2
        assert f"{name} exists already" in capsys.readouterr().err
        assert [(path.name, path.read_bytes()) for path in out.iterdir()] == [(name, b"mine")]
        (out / name).unlink()


def test_a_film_that_is_not_wanted_is_not_in_the_way(run, pictures, tmp_path):
    film = tmp_path / "projected" / "search.webp"
    film.parent.mkdir()
    film.write_bytes(b"mine")
    assert _project(pictures[0], "--no-webp") == 0
    assert film.read_bytes() == b"mine"


def test_what_appears_meanwhile_is_not_replaced(run, pictures, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(module, "check_free", lambda *_: None)
    out = tmp_path / "projected"
    out.mkdir()
    for name in ("wide-projected.png", "wide-projected.safetensors", "comparison.png", "search.webp"):
        (out / name).write_bytes(b"mine")
        assert _project(pictures[0]) == 2
        assert name in capsys.readouterr().err
        assert (out / name).read_bytes() == b"mine"
        for path in out.iterdir():
            path.unlink()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["{run}"], "name pictures to project after it"),
        ([], "IMAGE"),
        (["nowhere.png"], "nowhere.png cannot be read: No such file"),
        (["nowhere.safetensors", "wide.jpg"], "nowhere.safetensors does not exist"),
        (["wide.jpg", "{run}"], "cannot be read: Is a directory"),
        (["text.png"], "text.png is no picture to project (unreadable: not an image that is understood)"),
        (["empty.png"], "empty.png is no picture to project (empty file)"),
        (["cut.png"], "cut.png is no picture to project"),
        (["runs", "wide.jpg"], "runs holds no snapshots"),
        (["wide.jpg", "other/wide.png"], "would both become"),
        (["wide.jpg", "wide.jpg"], "would both become"),
        (["wide.jpg", "--res", "16"], "can show 4, 8 pixels"),
        (["wide.jpg", "--steps", "0"], "--steps"),
        (["wide.jpg", "--restarts", "0"], "--restarts"),
        (["wide.jpg", "--seed", "-1"], "--seed"),
    ],
)
def test_project_says_what_is_wrong(run, pictures, tmp_path, capsys, arguments, words):
    (tmp_path / "text.png").write_text("no picture")
    (tmp_path / "empty.png").write_bytes(b"")
    whole = io.BytesIO()
    Image.new("RGB", (64, 64), "red").save(whole, "PNG")
    (tmp_path / "cut.png").write_bytes(whole.getvalue()[:60])
    (tmp_path / "other").mkdir()
    Image.new("RGB", (8, 8)).save(tmp_path / "other" / "wide.png")
    assert main(["project", *(text.format(run=run) for text in arguments)]) == 2
    said = capsys.readouterr().err
    assert words in said
    assert said.count("\n") == 1
    assert not (tmp_path / "projected").exists()


def test_help_imports_no_torch():
    code = (
        "import sys, progan.commands.project as p\n"
        "from click.testing import CliRunner\n"
        "result = CliRunner().invoke(p.command, ['--help'])\n"
        "assert result.exit_code == 0 and 'load_file' in result.output\n"
        "sys.exit(bool({'torch', 'numpy', 'PIL', 'av'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
