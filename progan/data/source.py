"""What every source of pictures looks like to the one who prepares them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from PIL import Image

Array = np.ndarray[Any, Any]

Levels = tuple[Array, ...]
"""One picture at R, R/2, ... 4: uint8 [C, R, R], [C, R/2, R/2], ..."""

Raw = bytes | Image.Image | Array | Levels
"""One picture as a source gives it: an image file's bytes, an opened image, pixels uint8 [C, H, W], or ready levels."""


Progress = Callable[[int, int], None]
"""Called with (done, total), in pictures."""


class Unreadable(Exception):
    """One picture cannot be had; the message is the reason, for people."""


@dataclass(frozen=True)
class Labels:
    """One label a picture: classes int64 [N], counted from 0, with their names; or vectors float32 [N, L]."""

    values: Array
    names: tuple[str, ...] = ()  # of the classes; empty for vectors

    def __getitem__(self, chosen: Array) -> Labels:
        """The labels of some pictures. chosen: numbers [M] or bool [N]."""
        return Labels(self.values[chosen], self.names)


@dataclass(frozen=True)
class Source:
    """Pictures by name. `read` can be sent to another process and may be called there in any order; where a picture
    cannot be had it raises Unreadable, OSError or ValueError.
    """

    names: list[str]  # each once, in a fixed order
    read: Callable[[str], Raw]
    state: str  # changes whenever the pictures may have
    labels: Labels | None = None  # in the order of the names
    refused: Mapping[str, str] = field(default_factory=dict)  # {name: reason} of what is not even tried
    passed_over: int = 0  # hidden files and files of other kinds
    shuffled: bool = False  # the order is random already, and stays
    parallel: bool = True  # reading is worth a process of its own
    top: int | None = None  # the resolution of all pictures, where it is known to be one power of two
    channels: int | None = None  # 1 or 3, where it is known of all pictures
