"""One batch, any number of processes: each takes whole groups, and their gradients sum up to those of one process."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, distributed, multiprocessing

from progan.nn.progressive import Discriminator, Generator
from progan.training.steps import CriticLoss, Part, Where, d_gradients, frozen, g_gradients, split

BATCH, GROUP, STAGE = 16, 4, 1
NETS = {"max_res": 16, "fmap_base": 64, "fmap_max": 16}


def gradients(parts: list[Tensor]) -> list[Tensor]:
    """Gradients of D's and of G's loss in float64, summed over parts of one fixed batch."""
    generator = torch.Generator().manual_seed(5)
    G, D = Generator(latent_size=8, **NETS), Discriminator(**NETS)
    for net in (G, D):
        net.reset_parameters(generator)
        net.double()
    reals = torch.randn(BATCH, 3, 8, 8, generator=generator, dtype=torch.float64)
    latents = torch.randn(BATCH, 8, generator=generator, dtype=torch.float64)
    mix = torch.rand(BATCH, generator=generator, dtype=torch.float64)
    where = Where(STAGE, torch.tensor(0.3, dtype=torch.float64), BATCH, GROUP)
    for part in parts:
        d_gradients(G, D, Part(reals[part], latents[part], mix[part]), where, CriticLoss(scale=0.5))
        with frozen(D):
            g_gradients(G, D, latents[part], where)
    return [p.grad for net in (D, G) for p in net.parameters() if p.grad is not None]


def work(rank: int, world: int, folder: Path) -> None:
    """One process: its share of the groups, then one sum over all processes."""
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", f"file://{folder / 'meet'}", rank=rank, world_size=world)
    shares = split(BATCH, GROUP, BATCH // world)
    mine = gradients([shares[rank]])
    for gradient in mine:
        distributed.all_reduce(gradient)
    if rank == 0:
        torch.save(mine, folder / "sum.pt")
    distributed.destroy_process_group()


@pytest.mark.skipif(not distributed.is_available(), reason="this torch has no distributed package")
def test_two_processes_have_the_gradients_of_one(tmp_path: Path) -> None:
    multiprocessing.spawn(work, (2, tmp_path), nprocs=2)
    together = torch.load(tmp_path / "sum.pt")
    alone = gradients(split(BATCH, GROUP, BATCH))
    assert len(together) == len(alone) > 20
    for a, b in zip(together, alone):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-10)
    assert max(float(gradient.abs().max()) for gradient in alone) > 1e-3
