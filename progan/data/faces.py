"""The built-in data set `faces`: an unlimited procedural world of portraits, picture i a pure function of (i, seed).

    pixels, factors = faces(torch.arange(16), resolution=64)

Three steps, each usable alone: a counter-based hash gives the factors of every index (`face_factors`), a painter turns
factors into pixels at any resolution (`render_faces`), and `faces` is the two in a row. The factors are the truth about
the picture: how many hair styles a generator still makes is a question that this world can answer exactly.
"""

from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from progan.data.faces_drawing import draw

CATEGORIES: dict[str, dict[str, float]] = {
    "hair": {
        "bald": 5,
        "buzz": 6,
        "short": 10,
        "side parting": 10,
        "fringe": 9,
        "bob": 10,
        "long": 10,
        "bun": 8,
        "pigtails": 7,
        "curly": 8,
        "afro": 7,
        "mohawk": 4,
        "spiky": 6,
    },
    "eyewear": {"none": 64, "round": 14, "square": 12, "sunglasses": 10},
    "mouth": {"smile": 26, "grin": 20, "neutral": 16, "open": 14, "sad": 10, "smirk": 14},
    "beard": {"none": 68, "stubble": 8, "moustache": 8, "goatee": 6, "full": 10},
    "accessory": {
        "none": 50,
        "earrings": 12,
        "beanie": 9,
        "brimmed hat": 7,
        "headband": 7,
        "headphones": 8,
        "flower": 7,
    },
    "clothes": {"crew neck": 24, "v-neck": 18, "shirt": 18, "turtleneck": 14, "hoodie": 12, "stripes": 14},
    "backdrop": {"plain": 26, "disc": 20, "stripes": 12, "dots": 12, "rays": 12, "hills": 18},
    "marks": {"none": 66, "freckles": 22, "beauty mark": 12},
}  # factor -> category -> its share in per cent
"""The categorical factors; a category's code is its position here."""

RANGES: dict[str, tuple[float, float]] = {
    "skin": (0.0, 1.0),  # position on the skin ramp, fair to deep
    "blush": (0.0, 1.0),
    "hair_colour": (0.0, 1.0),  # position on the hair ramp: ink, chestnut, copper, gold, silver, rose, violet, teal
    "hair_volume": (0.0, 1.0),
    "iris_colour": (0.0, 1.0),  # brown, hazel, green, blue, grey
    "lip_colour": (0.0, 1.0),  # bare skin to red
    "backdrop_hue": (0.0, 1.0),  # cyclic
    "backdrop_value": (0.84, 1.1),
    "clothes_hue": (0.0, 1.0),
    "accessory_hue": (0.0, 1.0),
    "head_width": (0.43, 0.52),  # half widths and heights: 1 is half the frame
    "head_height": (0.58, 0.65),
    "jaw": (0.74, 0.98),  # width of the jaw over the width of the cranium
    "eye_spacing": (0.195, 0.235),
    "eye_size": (0.095, 0.13),
    "eye_open": (0.62, 1.0),
    "eye_slant": (-0.16, 0.2),
    "gaze_x": (-1.0, 1.0),
    "gaze_y": (-0.6, 0.8),
    "brow_angle": (-0.3, 0.24),  # slope: positive is stern, negative is worried
    "brow_height": (0.0, 1.0),
    "brow_weight": (0.029, 0.047),
    "nose_width": (0.055, 0.095),
    "nose_length": (0.17, 0.23),
    "mouth_width": (0.15, 0.215),
    "light": (-1.0, 1.0),  # from the left to from the right
    "warmth": (-1.0, 1.0),  # cool to warm light
    "tilt": (-0.16, 0.16),  # radians
    "turn": (-1.0, 1.0),  # of the face, left to right
    "nod": (-1.0, 1.0),  # up to down
    "shift_x": (-0.07, 0.07),
    "shift_y": (-0.04, 0.04),
    "zoom": (0.98, 1.12),
}
"""The continuous factors and their ranges (low, high); uniform in between."""

FACTORS: Mapping[str, tuple[str, ...] | tuple[float, float]] = {
    **{name: tuple(shares) for name, shares in CATEGORIES.items()},
    **RANGES,
}
"""Factor -> its category names (codes are positions), or its range (low, high)."""

RESOLUTIONS = tuple(2**k for k in range(2, 11))
"""What `render_faces` can draw: 4, 8, ..., 1024."""

PIXELS_IN_FLIGHT = 2**16  # drawn at once; keeps a plane in the processor's cache and the memory of a call bounded

_Words = NDArray[np.uint64]


def _mix(word: _Words) -> _Words:
    """Splitmix64's finaliser, a bijection of 64-bit words (Steele, Lea & Flood 2014). word: any shape -> same shape."""
    word = (word ^ (word >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    word = (word ^ (word >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return word ^ (word >> np.uint64(31))


def _uniform(indices: _Words, seed: int, name: str) -> NDArray[np.float64]:
    """Hash (seed, index, factor name) to multiples of 2^-24 in [0, 1). indices: [N] -> [N].

    The factor enters by its name and not by its position: a factor added to the world leaves all others as they were.
    """
    golden = np.uint64(0x9E3779B97F4A7C15)
    label = np.frombuffer(name.encode().ljust(16, b"\0"), dtype="<u8").astype(np.uint64)  # [2]
    key = np.array([seed % 2**64], dtype=np.uint64)
    for word in label:
        key = _mix(key * golden + word + np.uint64(1))
    return (_mix(_mix(indices * golden + key) + key) >> np.uint64(40)).astype(np.float64) * 2.0**-24


def _factor(name: str, u: NDArray[np.float64]) -> Tensor:
    """Uniform numbers to values of factor `name`: int64 codes by share, or float32 in its range. u: [N] -> [N]."""
    if name in RANGES:
        low, high = RANGES[name]
        return torch.from_numpy((low + (high - low) * u).astype(np.float32))
    shares = np.array(list(CATEGORIES[name].values()), dtype=np.float64)
    edges = np.cumsum(shares)[:-1] / shares.sum()
    return torch.from_numpy(np.searchsorted(edges, u, side="right").astype(np.int64))


def face_factors(indices: Tensor, seed: int = 0) -> dict[str, Tensor]:
    """The factors of the faces `indices` in the world `seed`: a pure function of each index, with no end of indices.

    indices: [N] int64, not negative -> every name of FACTORS: [N] int64 codes or [N] float32 values, on the CPU.
    """
    if indices.ndim != 1 or indices.dtype != torch.int64:
        raise ValueError(f"indices must be an int64 tensor [N], not {indices.dtype} {list(indices.shape)}")
    if len(indices) and int(indices.min()) < 0:
        raise ValueError(f"indices must not be negative, but the smallest is {int(indices.min())}")
    words = indices.cpu().numpy().astype(np.uint64)
    return {name: _factor(name, _uniform(words, seed, name)) for name in FACTORS}


def _supersampling(resolution: int) -> int:
    """Samples per pixel and axis: shapes blur their own edges by one sample, so a few are enough."""
    return {4: 16, 8: 8, 16: 4, 32: 2, 64: 2, 128: 2}.get(resolution, 1)  # up to 32 all are drawn at 64


def _halve(rgb: Tensor) -> Tensor:
    """Mean of 2x2 blocks by three additions, whose order no batch size can change. [N, C, 2R, 2R] -> [N, C, R, R]."""
    rows = rgb[:, :, ::2] + rgb[:, :, 1::2]
    return (rows[..., ::2] + rows[..., 1::2]) * 0.25


def _render_chunk(factors: dict[str, Tensor], resolution: int) -> Tensor:
    """Draw a few faces, supersampled, and average the samples of a pixel. [N] factors -> pixels uint8 [N, 3, R, R]."""
    rgb = draw(factors, resolution * _supersampling(resolution))  # [N, 3, R * samples, R * samples] in [0, 1]
    while rgb.shape[-1] > resolution:
        rgb = _halve(rgb)
    return rgb.mul(255).add_(0.5).clamp_(0, 255).to(torch.uint8)


def render_faces(factors: Mapping[str, Tensor], resolution: int, device: torch.device | str = "cpu") -> Tensor:
    """Paint faces from their factors. factors: every name of FACTORS: [N] -> pixels uint8 [N, 3, R, R] on `device`.

    R is a power of two in 4..1024. On the CPU a picture is bitwise the same alone and in any batch. Pictures of
    resolution R are close to the box-filtered pictures of resolution 4R.
    """
    if resolution not in RESOLUTIONS:
        raise ValueError(f"resolution must be a power of two in 4..1024, not {resolution}")
    missing = [name for name in FACTORS if name not in factors]
    if missing:
        raise ValueError(f"factors lack {', '.join(missing)}")
    moved = {name: factors[name].to(device) for name in FACTORS}
    n = len(moved["skin"])
    pixels = torch.empty(n, 3, resolution, resolution, dtype=torch.uint8, device=device)
    chunk = max(1, PIXELS_IN_FLIGHT // (resolution * _supersampling(resolution)) ** 2)
    for start in range(0, n, chunk):
        part = {name: values[start : start + chunk] for name, values in moved.items()}
        pixels[start : start + chunk] = _render_chunk(part, resolution)
    return pixels


def faces(
    indices: Tensor, resolution: int, seed: int = 0, device: torch.device | str = "cpu"
) -> tuple[Tensor, dict[str, Tensor]]:
    """The faces `indices` of the world `seed`: their pictures and the factors that made them.

    indices: [N] int64 -> pixels uint8 [N, 3, R, R] on `device`, and `face_factors(indices, seed)`.
    """
    factors = face_factors(indices, seed)
    return render_faces(factors, resolution, device), factors
