"""Pictures as numbers: pixels (uint8) and images (float in [-1, 1]), both NCHW, and what happens between them."""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from torch import Tensor

from progan.nn.ops import blend, downscale2d, upscale2d


def to_images(pixels: Tensor) -> Tensor:
    """uint8 0..255 -> float32 -1..1, same shape."""
    return pixels.to(torch.float32) / 127.5 - 1


def dequantise(pixels: Tensor, noise: Tensor) -> Tensor:
    """`to_images` of pixels that are spread evenly over their grey level. noise: uniform in [0, 1), same shape.

    Data that takes 256 values only can be told from a generator's by that; the mean of a level stays where it is.
    """
    return (pixels + noise - 0.5) / 127.5 - 1


def to_pixels(images: Tensor) -> Tensor:
    """float -1..1 -> uint8 0..255, rounded to the nearest and saturated, same shape."""
    return (images.float() * 127.5 + 127.5).round().clamp(0, 255).to(torch.uint8)


def mirror(images: Tensor, flips: Tensor) -> Tensor:
    """Turn left and right round where flips [N] (bool) says so. images: [N, C, H, W] -> same shape."""
    return torch.where(flips[:, None, None, None], images.flip(3), images)


def fade_reals(images: Tensor, alpha: float | Tensor) -> Tensor:
    """Show D real images of the sharpness that G can have by now: lerp(up(down(x)), x, alpha). [N, C, R, R] -> same.

    The official code fades its real images the same way; without it D tells real from fake by sharpness alone.
    """
    if isinstance(alpha, float | int) and alpha == 1:
        return images
    return blend(upscale2d(downscale2d(images)), images, alpha)


def grid(pixels: Tensor, columns: int) -> Tensor:
    """Lay pictures out row by row without gaps. [N, C, H, W], N a multiple of columns -> [C, rows*H, columns*W]."""
    count, channels, height, width = pixels.shape
    if count % columns:
        raise ValueError(f"{count} pictures do not fill rows of {columns}")
    cells = pixels.reshape(count // columns, columns, channels, height, width)
    return cells.permute(2, 0, 3, 1, 4).reshape(channels, -1, columns * width)  # [C, rows, H, columns, W] before


def enlarge(pixels: Tensor, factor: int) -> Tensor:
    """Repeat every pixel factor x factor times. [..., H, W] -> [..., H*factor, W*factor]."""
    return pixels.repeat_interleave(factor, -2).repeat_interleave(factor, -1)


def to_frame(pixels: Tensor) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """uint8 [C, H, W] -> array [H, W, 3], or [H, W] where C is 1: the form that Pillow and video writers take."""
    frame: np.ndarray[Any, np.dtype[np.uint8]]
    frame = (pixels[0] if len(pixels) == 1 else pixels.permute(1, 2, 0)).contiguous().cpu().numpy()
    return frame


def png(pixels: Tensor, texts: Mapping[str, str]) -> bytes:
    """A PNG file of uint8 pixels [C, H, W] (C 1 or 3) with text chunks; equal pixels and texts give equal bytes."""
    chunks, file = PngInfo(), io.BytesIO()
    for name, text in texts.items():
        chunks.add_text(name, text)
    Image.fromarray(to_frame(pixels)).save(file, "PNG", pnginfo=chunks)
    return file.getvalue()
