"""Laws of the snapshot: the averaged generator as it was, as far as it had grown, and nothing else taken for one."""

import os
import re
from pathlib import Path

import pytest
import safetensors
import safetensors.torch
import torch

from progan import load_generator
from progan.config import Config, generator_arguments, load
from progan.errors import UserError
from progan.exchange.snapshots import Plain, find_snapshot, load_snapshot, painter, save_snapshot, snapshots
from progan.nn.families import make_generator
from progan.nn.inference import Compact
from progan.nn.progressive import Generator

CONFIG = load(None, ["growth.max_res=32", "networks.latent_size=6", "networks.fmap_base=64", "networks.fmap_max=16"])


def _generator(config: Config = CONFIG) -> Generator:
    G = make_generator(**generator_arguments(config))
    with torch.no_grad():
        for p in G.parameters():
            p.normal_()
    return G


def _save(path: Path, stage: int = 2, alpha: float = 0.3, G: Generator | None = None) -> Generator:
    G = G or _generator()
    save_snapshot(path, G, CONFIG, stage, alpha, 123_456)
    return G


def _touch(run: Path, *names: str) -> list[Path]:
    (run / "snapshots").mkdir(parents=True, exist_ok=True)
    paths = [run / "snapshots" / name for name in names]
    for path in paths:
        path.write_bytes(b"")
    return paths


# --- there and back ---


@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_a_snapshot_comes_back_to_the_bit(tmp_path, stage):
    G = _save(tmp_path / "g.safetensors", stage, 0.1 + 0.2)
    got = load_snapshot(tmp_path / "g.safetensors")
    assert (got.stage, got.alpha, got.cur_nimg, got.config) == (stage, 0.1 + 0.2, 123_456, CONFIG)
    assert (got.resolution, got.path) == (4 << stage, tmp_path / "g.safetensors")
    weights = got.G.state_dict()
    assert weights
    assert all(torch.equal(weights[key], G.state_dict()[key]) for key in weights)
    z = torch.randn(2, 6)
    assert torch.equal(got.G(z), G(z, stage, 1.0))
    assert torch.equal(got.G(z, stage, 0.3), G(z, stage, 0.3))


@pytest.mark.parametrize("stage", [0, 2, 3])
def test_a_snapshot_holds_only_the_layers_up_to_its_stage(tmp_path, stage):
    G = _save(tmp_path / "g.safetensors", stage)
    with safetensors.safe_open(tmp_path / "g.safetensors", "pt") as file:
        keys = set(file.keys())
    above = tuple(f"{kind}.{4 << s}x{4 << s}." for s in range(stage + 1, 4) for kind in ("blocks", "rgb"))
    assert keys == {key for key in G.state_dict() if not key.startswith(above)}
    assert keys
    assert load_snapshot(tmp_path / "g.safetensors").G.max_res == 4 << stage


def test_a_loaded_generator_is_ready_to_draw(tmp_path, device):
    _save(tmp_path / "g.safetensors")
    G = load_generator(tmp_path / "g.safetensors", device)
    assert not G.training
    assert not any(p.requires_grad for p in G.parameters())
    assert {p.device.type for p in G.parameters()} == {device.type}
    images = G(torch.randn(2, 6, device=device))
    assert (images.shape, images.requires_grad) == ((2, 3, 16, 16), False)


def test_saving_leaves_the_generator_alone(tmp_path):
    G = _generator()
    before = {k: v.clone() for k, v in G.state_dict().items()}
    _save(tmp_path / "g.safetensors", G=G)
    assert all(torch.equal(v, before[k]) for k, v in G.state_dict().items())
    assert G.training
    assert [p.name for p in tmp_path.iterdir()] == ["g.safetensors"]


# --- what is none ---


def test_a_missing_a_truncated_and_a_foreign_file_are_refused(tmp_path):
    path = tmp_path / "g.safetensors"
    with pytest.raises(UserError, match=r"g.safetensors is no readable snapshot"):
        load_snapshot(path)
    _save(path)
    whole = path.read_bytes()
    for size in (0, 4, 100, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:size])
        with pytest.raises(UserError, match=rf"^{re.escape(str(path))} is no readable snapshot"):
            load_snapshot(path)
    path.write_text("hello, this is no snapshot at all")
    with pytest.raises(UserError, match="is no readable snapshot"):
        load_snapshot(path)


@pytest.mark.parametrize("metadata", [None, {}, {"format": "pt"}])
def test_other_safetensors_are_refused(tmp_path, metadata):
    safetensors.torch.save_file({"w": torch.zeros(2)}, tmp_path / "x.safetensors", metadata)
    with pytest.raises(UserError, match=r"x.safetensors is a safetensors file, but no generator of progan"):
        load_snapshot(tmp_path / "x.safetensors")


def _rewritten(path: Path, change_tensors, **metadata: str) -> None:
    _save(path)
    with safetensors.safe_open(path, "pt") as file:
        tensors, old = {k: file.get_tensor(k) for k in file.keys()}, file.metadata()  # noqa: SIM118
    safetensors.torch.save_file(change_tensors(tensors), path, old | metadata)


def test_weights_that_do_not_fit_are_named(tmp_path):
    path = tmp_path / "g.safetensors"
    _rewritten(path, lambda t: {k: v for k, v in t.items() if k != "rgb.4x4.bias"})
    with pytest.raises(UserError, match=r"the generator in .*g.safetensors do not fit \(1 differ\): rgb.4x4.bias"):
        load_snapshot(path)
    _rewritten(path, lambda t: t, stage="1")
    with pytest.raises(UserError, match=r"do not fit .*blocks.16x16"):
        load_snapshot(path)


def test_a_configuration_of_the_future_is_named(tmp_path):
    path = tmp_path / "g.safetensors"
    _rewritten(path, lambda t: t, config="[networks]\nwarp_drive = true\n")
    with pytest.raises(UserError, match=r"g.safetensors: there is no key `networks.warp_drive`"):
        load_snapshot(path)


# --- which one ---


def test_snapshots_are_listed_by_images_shown(tmp_path):
    names = ["generator-000010.safetensors", "generator-999999.safetensors", "generator-1000000.safetensors"]
    paths = _touch(tmp_path, *reversed(names))
    _touch(tmp_path, "generator-5.safetensors", "generator-000020.safetensors.tmp", "fakes-000030.png", "x.safetensors")
    assert snapshots(tmp_path) == paths[::-1]  # by number, not by text
    assert find_snapshot(tmp_path) == paths[0]


@pytest.mark.parametrize(("final_kimg", "place"), [(5, 0), (10, 1), (15, 1), (20, 2)])
def test_the_final_snapshot_of_a_run_that_went_on_is_not_the_newest(tmp_path, final_kimg, place):
    paths = _touch(tmp_path, "generator-000010.safetensors", "generator-000020.safetensors")
    final = tmp_path / "snapshots" / "generator-final.safetensors"
    tensors, metadata = {"w": torch.zeros(1)}, {"format": "progan-generator", "cur_nimg": str(final_kimg * 1000)}
    safetensors.torch.save_file(tensors, final, metadata)
    expected = [*paths]
    expected.insert(place, final)
    assert snapshots(tmp_path) == expected
    assert find_snapshot(tmp_path) == expected[-1]


def test_a_file_is_itself(tmp_path):
    path = tmp_path / "any-name.safetensors"
    path.write_bytes(b"")
    assert find_snapshot(path) == path


def test_nothing_means_the_newest_run(tmp_path):
    runs = tmp_path / "runs"
    (a,), (b,) = (_touch(runs / name, "generator-000010.safetensors") for name in "ab")
    (runs / "empty").mkdir()
    (runs / "note.txt").write_text("x")
    os.utime(a, (2000, 2000))
    os.utime(b, (1000, 1000))
    assert find_snapshot(None, runs) == a
    os.utime(b, (3000, 3000))
    assert find_snapshot(None, runs) == b


def test_where_there_is_none_it_is_said(tmp_path):
    (tmp_path / "run").mkdir()
    with pytest.raises(UserError, match=r"run holds no snapshots/generator-"):
        find_snapshot(tmp_path / "run")
    with pytest.raises(UserError, match=r"gone does not exist; give a run directory or a .safetensors file"):
        find_snapshot(tmp_path / "gone")
    for runs in (tmp_path, tmp_path / "gone"):
        with pytest.raises(UserError, match=r"there is no run with a snapshot below"):
            find_snapshot(None, runs)


def test_a_run_directory_loads_its_newest_generator(tmp_path):
    (tmp_path / "snapshots").mkdir()
    _save(tmp_path / "snapshots" / "generator-000010.safetensors", 1)
    newest = _save(tmp_path / "snapshots" / "generator-000020.safetensors", 2)
    z = torch.randn(1, 6)
    assert torch.equal(load_generator(tmp_path)(z), newest(z, 2, 1.0))
    assert torch.equal(load_generator(str(tmp_path))(z), newest(z, 2, 1.0))


# --- other networks ---

OTHERS = {
    "dcgan": ("growth.max_res=32", "networks.family=dcgan", "networks.g_norm=batch", "networks.g_weights=plain"),
    "resnet": ("growth.max_res=32", "networks.family=resnet", "networks.g_norm=batch", "networks.attention=16"),
    "spectral": ("growth.max_res=32", "networks.g_weights=spectral", "networks.attention=32"),
    "strict": ("growth.max_res=32", "networks.g_weights=weightnorm-strict", "networks.g_activation=tprelu"),
}


@pytest.mark.parametrize("name", OTHERS)
def test_a_snapshot_of_other_networks_comes_back_to_the_bit(name, tmp_path):
    """Buffers too; and what draws it draws as the network does."""
    config = load(None, ["networks.fmap_max=8", "networks.latent_size=6", *OTHERS[name]])
    G = _generator(config)
    for _ in range(3):
        G(torch.randn(8, 6))  # moves what is no parameter
    save_snapshot(tmp_path / "one.safetensors", G.eval(), config, 3, 1.0, 1000)
    other, z = load_snapshot(tmp_path / "one.safetensors").G, torch.randn(4, 6)
    assert other.state_dict().keys() == G.state_dict().keys()
    assert torch.equal(other(z), G(z))
    assert torch.equal(painter(other, 3)(z, psi=0.5), G(z, psi=0.5))


@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_attention_beyond_the_stage_is_left_out(stage, tmp_path):
    config = load(None, ["networks.fmap_max=8", "networks.latent_size=6", *OTHERS["spectral"]])
    G, z = _generator(config), torch.randn(4, 6)
    save_snapshot(tmp_path / "one.safetensors", G.eval(), config, stage, 1.0, 1000)
    other = load_snapshot(tmp_path / "one.safetensors").G
    assert any("attention" in key for key in other.state_dict()) == (stage == 3)
    assert torch.equal(other(z), G(z, stage))


def test_the_fast_form_draws_what_it_knows():
    config = load(None, ["growth.max_res=16", "networks.fmap_max=8", "networks.latent_size=6"])
    assert isinstance(painter(_generator(config), 1), Compact)
    other = painter(_generator(load(None, ["growth.max_res=16", "networks.fmap_max=8", "networks.output=tanh"])), 1)
    assert isinstance(other, Plain)
    assert (other.latent_size, other.device, other(torch.randn(2, 512)).shape) == (
        512,
        torch.device("cpu"),
        (2, 3, 8, 8),
    )


def test_the_configuration_of_an_earlier_program_is_named(tmp_path):
    path = tmp_path / "generator-000001.safetensors"
    metadata = {"format": "progan-generator", "config": "[networks]\npixel_norm = true\n", "stage": "0"}
    path.write_bytes(safetensors.torch.save({"x": torch.zeros(1)}, metadata | {"alpha": "1.0", "cur_nimg": "0"}))
    with pytest.raises(UserError, match=r"generator-000001.safetensors: there is no key `networks.pixel_norm`"):
        load_snapshot(path)
