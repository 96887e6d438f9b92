"""Every random number of a run: a function of (seed, stream, position), so that no generator state is ever saved."""

from __future__ import annotations

import hashlib

import torch


def generator(seed: int, stream: str, position: int = 0) -> torch.Generator:
    """A CPU generator for one use: the run's `seed`, what the numbers are for, and where (cur_nimg, an epoch, ...).

    The numbers are drawn on the CPU and then moved, so that every device sees the same ones.
    """
    digest = hashlib.blake2b(f"{seed}/{stream}/{position}".encode(), digest_size=8).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest, "little") >> 1)
