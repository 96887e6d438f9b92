"""What a run shows: TensorBoard read back, pictures read back, nothing missing and nothing still."""

from __future__ import annotations

import io
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from progan import config as config_module
from progan.console import Console
from progan.data.pyramid import LABELS, MANIFEST, open_pyramid
from progan.exchange.snapshots import load_generator, load_snapshot, snapshots
from progan.images import enlarge, grid
from progan.training import checkpoint, loop
from progan.training.ticks import for_board, grid_shape
from tests.conftest import TINY

SCALARS = {
    "Progress": {"kimg", "resolution", "stage", "alpha", "batch", "lr_G", "lr_D"},
    "Loss": {"G", "D", "wasserstein", "gradient_penalty", "drift"},
    "Scores": {"real", "fake"},
    "Gradients": {"norm_G", "norm_D"},
    "Timing": {"sec_per_kimg", "images_per_sec", "compile_sec", "data_wait"},
    "Resources": {"cpu_mem_gb", "device_mem_gb"},
}
"""Names that people build dashboards on."""


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, tiny_data: Path) -> Path:
    """A tiny training with a picture every tick, each with a kimg of its own."""
    knobs = [f"growth.{name}_kimg=2" for name in ("stable", "fade", "final")]
    knobs += ["logging.tick_kimg=1", "logging.snapshot_ticks=1", "logging.checkpoint_ticks=1", "logging.keep=2"]
    config = config_module.load(
        None, [*TINY, f"data.source={tiny_data}", *knobs, "growth.batch=20", "logging.keep_every=3"]
    )
    folder = tmp_path_factory.mktemp("ticks") / "run"
    assert loop.train(config, folder, torch.device("cpu"), None, Console(io.StringIO())) == 0
    return folder


@pytest.fixture(scope="module")
def board(run: Path) -> EventAccumulator:
    accumulator = EventAccumulator(str(run), size_guidance={"images": 0, "scalars": 0, "tensors": 0})
    accumulator.Reload()
    return accumulator


def test_every_scalar_is_there_at_every_tick(board: EventAccumulator) -> None:
    expected = {f"{section}/{name}" for section, names in SCALARS.items() for name in names}
    found = set(board.Tags()["scalars"])
    assert expected <= found
    assert found - expected == {"Final/kimg", "Final/wasserstein"}
    assert [event.value for event in board.Scalars("Final/kimg")] == [10]
    for tag in expected:
        assert [event.step for event in board.Scalars(tag)] == list(range(1000, 10_001, 1000))


def test_progress_follows_the_schedule(board: EventAccumulator) -> None:
    def values(name: str) -> list[float]:
        return [event.value for event in board.Scalars(f"Progress/{name}")]

    assert values("resolution") == [4, 4, 8, 8, 8, 8, 16, 16, 16, 16]
    assert values("alpha")[:2] == [1, 1]
    assert values("alpha")[2:4] == pytest.approx([0.49, 0.99], abs=1e-6)
    assert values("kimg") == list(range(1, 11))


def test_each_resolution_has_a_tag_of_samples_and_reals(board: EventAccumulator) -> None:
    tags = set(board.Tags()["images"])
    sizes = ("0004x0004", "0008x0008", "0016x0016")
    assert {f"{kind}/{size}" for kind in ("samples", "reals") for size in sizes} | {"growth", "walk"} == tags
    assert [event.step for event in board.Images("samples/0008x0008")] == [3000, 4000, 5000, 6000]


def frames(encoded: bytes) -> list[np.ndarray]:
    image = Image.open(io.BytesIO(encoded))
    return [np.asarray((image.seek(i), image.convert("RGB"))[1]) for i in range(image.n_frames)]


def test_growth_and_walk_move(board: EventAccumulator, run: Path) -> None:
    growth = frames(board.Images("growth")[-1].encoded_image_string)
    assert len(growth) == 11  # the first picture and ten ticks
    assert len({frame.shape for frame in growth}) == 1
    assert not np.array_equal(growth[0], growth[-1])
    walk = frames(board.Images("walk")[-1].encoded_image_string)
    assert len(walk) == 32
    assert not np.array_equal(walk[0], walk[16])
    for name in ("growth", "walk"):
        assert (run / f"{name}.gif").read_bytes() == board.Images(name)[-1].encoded_image_string


def test_the_configuration_is_there_as_text_and_as_hyper_parameters(board: EventAccumulator) -> None:
    text = board.Tensors("config/text_summary")[0].tensor_proto.string_val[0].decode()
    assert "fmap_base = 64" in text
    assert "_hparams_/session_start_info" in board.summary_metadata


def test_pictures_say_what_they_are(run: Path) -> None:
    paths = sorted(run.glob("fakes-*.png"))
    assert [p.name for p in paths] == [f"fakes-{k:06d}.png" for k in range(11)]
    with Image.open(paths[3]) as image:
        said, size = image.info, image.size
    assert said == {"resolution": "8", "kimg": "3.0", "alpha": "0.5", "columns": "8", "rows": "8"}
    assert size == (8 * 64, 8 * 64)


def test_the_pictures_are_those_of_the_averaged_generator(run: Path) -> None:
    from progan import seeds
    from progan.images import to_pixels
    from progan.latents import sample_latents

    latents = sample_latents(64, 8, seeds.generator(1000, "fixed"))
    with torch.no_grad():
        pixels = grid(to_pixels(load_generator(run)(latents)), 8)
    with Image.open(run / "fakes-000010.png") as image:
        shown = np.asarray(image).transpose(2, 0, 1)
    difference = enlarge(pixels, 4).numpy().astype(int) - shown
    assert np.abs(difference).max() <= 1


def test_a_snapshot_in_mid_fade_knows_its_alpha(run: Path) -> None:
    by_kimg = {s.cur_nimg: s for s in map(load_snapshot, snapshots(run))}
    assert (by_kimg[3000].resolution, by_kimg[3000].alpha) == (8, 0.5)
    assert (by_kimg[2000].resolution, by_kimg[2000].alpha) == (4, 1.0)
    assert snapshots(run)[-1].name == "generator-final.safetensors"


def test_the_last_checkpoints_and_every_third_tick_stay(run: Path) -> None:
    kept = [int(p.stem.split("-")[1]) for p in checkpoint.listed(run / "checkpoints")]
    assert kept == [3000, 6000, 9000, 10_000]


def test_the_real_pictures_shown_are_those_in_use(tiny_data: Path, tmp_path: Path) -> None:
    """Three of one class, over and over."""
    shutil.copytree(tiny_data, tmp_path / "data")
    manifest = json.loads((tmp_path / "data" / MANIFEST).read_text()) | {"labels": {"names": ["a", "b"], "size": 2}}
    (tmp_path / "data" / MANIFEST).write_text(json.dumps(manifest))
    np.save(tmp_path / "data" / LABELS, np.arange(50, dtype=np.int64) % 2)
    knobs = [*TINY, f"data.source={tmp_path / 'data'}", "data.labels=b", "data.max_images=3"]
    loop.train(config_module.load(None, knobs), tmp_path / "run", torch.device("cpu"), 0.008, Console(io.StringIO()))
    with Image.open(tmp_path / "run" / "reals-0004.png") as image:
        shown = torch.from_numpy(np.array(image).transpose(2, 0, 1))
    pixels = open_pyramid(tmp_path / "data").batch(torch.tensor([1, 3, 5]), 4)
    assert torch.equal(shown, enlarge(grid(pixels[torch.arange(64) % 3], 8), 16))


@pytest.mark.parametrize(
    ("max_res", "shape"), [(4, (8, 8)), (32, (8, 8)), (256, (7, 4)), (512, (3, 2)), (1024, (3, 2))]
)
def test_the_sheet_fits_a_screen(max_res: int, shape: tuple[int, int]) -> None:
    assert grid_shape(max_res) == shape


def test_tensorboard_gets_no_poster() -> None:
    assert for_board(torch.zeros(3, 2048, 3072, dtype=torch.uint8)).shape == (3, 1024, 1536)
    assert for_board(torch.full((3, 8, 8), 7, dtype=torch.uint8)).unique().tolist() == [7]
