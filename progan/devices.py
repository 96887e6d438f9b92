"""Where tensors live, and how much room there is."""

from __future__ import annotations

import contextlib
import ctypes

import psutil
import torch

from progan.errors import UserError


def pick_device(name: str) -> torch.device:
    """`auto` (CUDA, else MPS, else CPU), `cpu`, `cuda`, `cuda:1`, `mps`. Raises UserError for what is not here."""
    available = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if name == "auto":
        return torch.device(next(kind for kind in ("cuda", "mps", "cpu") if available[kind]))
    kind, _, index = name.partition(":")
    if kind not in available or (index and not (index.isascii() and index.isdigit())):
        raise UserError(f"--device {name}: unknown; use auto, cpu, cuda, cuda:N or mps.")
    if not available[kind]:
        raise UserError(f"--device {name}: this machine has no such device; --device auto takes what there is.")
    if kind == "cuda" and index and int(index) >= torch.cuda.device_count():
        raise UserError(
            f"--device {name}: this machine has {torch.cuda.device_count()} CUDA device(s), counted from 0."
        )
    return torch.device(name)


def describe(device: torch.device) -> str:
    """One line for people: `NVIDIA H100 (80 GB)`, `CPU (2 threads)`."""
    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        return f"{properties.name} ({properties.total_memory / 1e9:.0f} GB)"
    return f"CPU ({torch.get_num_threads()} threads)" if device.type == "cpu" else device.type.upper()


def layout(device: torch.device) -> torch.memory_format:
    """How convolutions want their weights and maps in memory: pixel by pixel (channels last) where that is faster."""
    return torch.channels_last if device.type in ("cpu", "cuda") else torch.contiguous_format


def keep_freed_memory() -> None:
    """Let this process keep what it frees for its next tensors, where the C library is glibc. Given back and fetched
    anew, every page of a large tensor is cleared by the system again: a tenth of a training step on a CPU.
    """
    with contextlib.suppress(OSError, AttributeError):
        mallopt = ctypes.CDLL("libc.so.6").mallopt
        mallopt(_M_MMAP_THRESHOLD, 1 << 30)
        mallopt(_M_TRIM_THRESHOLD, (1 << 31) - 1)


_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # of glibc's malloc.h


def memory_gb(device: torch.device) -> tuple[float, float]:
    """(resident memory of this process, peak memory of the accelerator), in 10^9 bytes; the second is 0 without one."""
    peak = torch.cuda.max_memory_allocated(device) if device.type == "cuda" else 0
    return psutil.Process().memory_info().rss / 1e9, peak / 1e9


def usable_bytes(device: torch.device) -> int:
    """Memory that a run may plan with: four fifths of all that the device has.

    Not what is free at the moment: a run that goes on must cut its batches as before, or its sums round differently.
    """
    if device.type == "cuda":
        return int(0.8 * torch.cuda.get_device_properties(device).total_memory)
    return int(0.8 * psutil.virtual_memory().total)
