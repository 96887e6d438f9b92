"""A few rounds of tests/fuzz_data.py on small pictures of every kind; hours of it are run by hand."""

import io

import numpy as np
import pytest
from PIL import Image

from tests.fuzz_data import CONTAINERS, play

KINDS = {
    "PNG": "RGB",
    "JPEG": "RGB",
    "GIF": "P",
    "TIFF": "I;16",
    "BMP": "RGB",
    "WEBP": "RGBA",
    "TGA": "L",
    "PPM": "RGB",
}


def _seeds() -> dict[str, bytes]:
    noise = np.random.default_rng(0).integers(0, 256, (40, 36, 4), dtype=np.uint8)
    seeds = {}
    for number, (kind, mode) in enumerate(KINDS.items()):
        image = Image.fromarray(noise[..., 0].astype(np.uint16) * 257) if mode == "I;16" else Image.fromarray(noise)
        file = io.BytesIO()
        (image if mode == "I;16" else image.convert(mode)).save(file, kind)
        seeds[f"{'ab'[number % 2]}/{number}.{kind.lower().replace('jpeg', 'jpg')}"] = file.getvalue()
    return seeds


@pytest.mark.parametrize("first", range(0, 40, 10))
def test_damage_never_costs_more_than_what_is_damaged(first):
    endings = {play(number, _seeds(), workers=0) for number in range(first, first + 10)}
    assert endings


def test_the_rounds_see_every_container_and_both_endings():
    endings = [play(number, _seeds(), workers=0) for number in range(100, 140)]
    assert {ending.split(":")[0] for ending in endings} == {container.__name__ for container in CONTAINERS}
    assert {ending.split()[1] for ending in endings} == {"prepared", "refused"}
