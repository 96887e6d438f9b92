"""The averaged generator as a safetensors file, for people: no code inside, its configuration in the metadata.

The file holds the layers up to the resolution that the run had reached, so a generator loaded from it draws exactly
that.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from progan import config as config_module
from progan.config import Config
from progan.errors import UserError
from progan.files import atomic
from progan.nn import progressive
from progan.nn.families import Generator, make_generator
from progan.nn.inference import Compact
from progan.training.state import load_strictly
from progan.version import __version__

FORMAT = "progan-generator"
_NAME = re.compile(r"generator-(\d{6,}|final)\.safetensors")


@dataclass(frozen=True)
class Snapshot:
    """A generator with averaged weights, in eval mode, and where in its growth it was taken."""

    G: Generator
    stage: int
    alpha: float
    cur_nimg: int
    config: Config
    path: Path

    @property
    def resolution(self) -> int:
        """Pixels of the stage that the run was in."""
        return 4 << self.stage


def save_snapshot(path: Path, G_ema: Generator, config: Config, stage: int, alpha: float, cur_nimg: int) -> None:
    """Write the layers of G_ema up to a stage. Raises UserError where the disk refuses."""
    above = tuple(f"{kind}.{r}x{r}." for r in G_ema.resolutions[stage + 1 :] for kind in ("blocks", "rgb"))
    tensors = {k: v.detach().cpu().contiguous() for k, v in G_ema.state_dict().items() if not k.startswith(above)}
    metadata = {
        "format": FORMAT,
        "progan": __version__,
        "config": config_module.dump(config),
        "stage": str(stage),
        "alpha": repr(alpha),
        "cur_nimg": str(cur_nimg),
    }
    with atomic(path) as temporary:
        temporary.write_bytes(safetensors.torch.save(tensors, metadata))


def load_snapshot(path: Path, device: torch.device | str = "cpu") -> Snapshot:
    """Read a snapshot's file. Raises UserError where it is missing, truncated or something else."""
    try:
        with safetensors.safe_open(path, "pt", device="cpu") as file:
            metadata = file.metadata() or {}
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (no mapping)
    except (OSError, safetensors.SafetensorError) as error:
        raise UserError(f"{path} is no readable snapshot ({error}).") from None
    if metadata.get("format") != FORMAT:
        raise UserError(f"{path} is a safetensors file, but no generator of progan.")
    config, stage = config_module.parse(metadata["config"], str(path)), int(metadata["stage"])
    G = make_generator(**_arguments(config, stage))
    load_strictly(G, tensors, f"the generator in {path}")
    G = G.to(device).eval().requires_grad_(False)
    return Snapshot(G, stage, float(metadata["alpha"]), int(metadata["cur_nimg"]), config, path)


def _arguments(config: Config, stage: int) -> dict[str, Any]:
    """What makes a generator that ends at a stage: attention beyond it is not there."""
    arguments = config_module.generator_arguments(config) | {"max_res": 4 << stage}
    return arguments | {"attention": arguments["attention"] if arguments["attention"] <= 4 << stage else 0}


class Plain:
    """A generator up to a stage, called as `Compact` is."""

    def __init__(self, G: Generator, stage: int) -> None:
        self.G, self.stage, self.latent_size = G, stage, G.latent_size
        self.device = next(G.parameters()).device

    @torch.inference_mode()
    def __call__(self, z: Tensor, stage: int | None = None, alpha: float | Tensor = 1.0, psi: float = 1.0) -> Tensor:
        """z: [N, latent_size] -> images [N, channels, R, R]."""
        return self.G(z, self.stage if stage is None else stage, alpha, psi)  # type: ignore[no-any-return]


def painter(G: Generator, stage: int) -> Compact | Plain:
    """What draws a generator's pictures up to a stage: `Compact` where that knows the network, else itself."""
    return Compact(G, stage) if isinstance(G, progressive.Generator) and G.standard else Plain(G, stage)


def load_generator(run_or_file: str | Path, device: torch.device | str = "cpu") -> Generator:
    """The newest generator of a run directory, or the one in a .safetensors file: averaged weights, eval mode.

    `G(z)` draws pictures at the resolution that the run had reached. Raises UserError where there is none.
    """
    return load_snapshot(find_snapshot(Path(run_or_file)), device).G


def find_snapshot(run_or_file: Path | None, runs: Path = Path("runs")) -> Path:
    """The snapshot's file meant by a file, by a run directory (its newest one), or by nothing (the newest run in
    `runs`).
    """
    if run_or_file is None:
        return _newest_of_all(runs)
    if run_or_file.is_file():
        return run_or_file
    if not run_or_file.exists():
        raise UserError(f"{run_or_file} does not exist; give a run directory or a .safetensors file.")
    paths = snapshots(run_or_file)
    if not paths:
        raise UserError(
            f"{run_or_file} holds no snapshots/generator-*.safetensors: no run, or one that has not come so far."
        )
    return paths[-1]


def snapshots(run: Path) -> list[Path]:
    """A run's snapshots, oldest first: by the images shown, `final` after its twin with a number."""
    found = [p for p in (run / "snapshots").glob("generator-*.safetensors") if _NAME.fullmatch(p.name)]
    return sorted(found, key=lambda path: (_kimg(path), path.name))


def _kimg(path: Path) -> int:
    """Thousand images from the name; for `final`, which a run that goes on leaves behind, from inside."""
    match = _NAME.fullmatch(path.name)
    if match and match[1] != "final":
        return int(match[1])
    try:
        with safetensors.safe_open(path, "pt", device="cpu") as file:
            return round(int((file.metadata() or {})["cur_nimg"]) / 1000)
    except (OSError, safetensors.SafetensorError, KeyError, ValueError):
        return -1


def _newest_of_all(runs: Path) -> Path:
    latest = [paths[-1] for run in (runs.iterdir() if runs.is_dir() else ()) if (paths := snapshots(run))]
    if not latest:
        raise UserError(f"there is no run with a snapshot below {runs}/; name a run directory or a .safetensors file.")
    return max(latest, key=lambda path: path.stat().st_mtime)
