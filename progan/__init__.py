"""Progressive growing of GANs (Karras et al. 2018).

    from progan import Generator, Discriminator, Schedule, load_generator

The names load on first use: `import progan` alone imports no torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from progan.version import __version__

if TYPE_CHECKING:
    from progan.exchange.snapshots import load_generator
    from progan.nn.progressive import Discriminator, Generator
    from progan.schedule import Schedule

__all__ = ["Generator", "Discriminator", "Schedule", "load_generator", "__version__"]

_HOMES = {
    "Generator": "progan.nn.progressive",
    "Discriminator": "progan.nn.progressive",
    "Schedule": "progan.schedule",
    "load_generator": "progan.exchange.snapshots",
}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'progan' has no attribute {name!r}")
