"""Which faces does a generator make? A small network that reads the factors of the built-in `faces`, and their counts.

    probe = open_probe(32, print, progress)
    factor_report(probe, fakes)  # {"modes": 49.0, "modes_total": 52.0, "tv": 0.06, "tv_hair": 0.09, ...}
    factor_floor(probe, 8192)  # the same of as many true faces that nobody was trained on

Of `faces` every factor and its share are known, so that mode collapse has a truth to be measured against. The probe
errs, and what it errs is known too: its confusion, measured on held-out faces, is taken out of all counts (`unfold`).
This assumes that a fake of a category is misread as a true one is; how far the fakes are from that shows in `clarity`.

Index ranges of the world keep apart what must be: a GAN is trained on the first faces, the probe on others, its
confusion comes from a third lot and floors from a fourth.
"""

from __future__ import annotations

import contextlib
import hashlib
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import safetensors
import safetensors.torch
import torch
import torch.nn.functional as F
from torch import Tensor

from progan.data.cache import cache_folder
from progan.data.faces import CATEGORIES, RANGES, faces
from progan.errors import UserError
from progan.files import atomic, lock
from progan.seeds import generator

Pictures = Iterable[Tensor]
Progress = Callable[[int, int], None]
Weights = dict[str, Tensor]

VERSION = 1
"""Of the probe: its network, its training and its file. The recipe and the world are told apart without it."""

BINS = 6
BINNED = ("skin", "hair_colour", "backdrop_hue", "clothes_hue")
"""Continuous factors that are read too, as categories: their range in BINS equal parts. None changes in a mirror."""

SHARES: dict[str, Tensor] = {
    **{name: torch.tensor([*shares.values()], dtype=torch.float64) / 100 for name, shares in CATEGORIES.items()},
    **{name: torch.full((BINS,), 1 / BINS, dtype=torch.float64) for name in BINNED},
}
"""Factor that is read -> the true shares of its K categories, [K], which sum to 1."""

MODES = ("hair", "eyewear")
"""A mode is a hair style with a kind of eyewear: 52 of them, shares 0.4 to 6.4 per cent. Both are readable from LOWEST
on, so that a mode means the same at every resolution."""

MODE_SHARES = torch.kron(SHARES[MODES[0]], SHARES[MODES[1]])

LOWEST, HIGHEST = 16, 64
"""Pictures below LOWEST show too little of the modes; those above HIGHEST are box-filtered down to it, as is enough."""

FEWEST = round(1 / float(MODE_SHARES.min()))
"""So few pictures hold the rarest mode once, in the mean."""

COVERED = 0.25
"""A mode is covered by this part of the pictures that its share lets expect."""

READABLE = 0.4
"""A factor is readable where its mean recall is this part of the way from guessing to certainty."""

TRAINING, CALIBRATION, HELD_OUT = 1_000_000, 2_000_000, 3_000_000
"""The first indices of the faces that the probe learns from, is calibrated on, and that floors are taken from."""

CHUNK = 256  # pictures read at once, however they come: so no number depends on the batches of a set


@dataclass(frozen=True)
class Recipe:
    """How the probe is made: faces drawn, faces of the calibration, and the training."""

    faces: int = 16384
    calibration: int = 8192
    steps: int = 1500
    batch: int = 128
    rate: float = 0.004  # the highest of the one cycle
    widths: tuple[int, ...] = (32, 64, 96, 128)  # channels of the convolutions


RECIPES = {16: Recipe(), 32: Recipe(), 64: Recipe(faces=12288, calibration=6144, steps=1000)}
"""Side -> recipe: one to three minutes on two cores, half for drawing. At 64 a face costs most and is read easiest."""


# --- reading ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Probe:
    """A trained reader of pictures of one resolution, and what is known of its errors."""

    resolution: int  # of the pictures that it takes
    weights: Weights
    confusion: dict[str, Tensor]  # factor -> [K, K] float64: of the held-out faces of (column), the part read as (row)
    confidence: float  # `confidence` of the held-out faces

    @property
    def side(self) -> int:
        """The resolution that the network sees."""
        return min(self.resolution, HIGHEST)

    @property
    def accuracy(self) -> dict[str, float]:
        """Factor -> the part of held-out faces whose category is read rightly."""
        return {name: float(table.diagonal() @ SHARES[name]) for name, table in self.confusion.items()}

    @property
    def readable(self) -> tuple[str, ...]:
        """The factors that can be told at this resolution, by READABLE; no other one is reported."""
        return tuple(name for name, table in self.confusion.items() if _skill(table) >= READABLE)

    @torch.no_grad()
    def read(self, pixels: Tensor) -> dict[str, Tensor]:
        """Pixels uint8 [N, 3, R, R] -> factor -> probabilities of its categories [N, K], on the device of the pixels.

        Raises ValueError where the pixels have another shape or type.
        """
        return _read(self.weights, self._seen(pixels))

    def _seen(self, pixels: Tensor) -> Tensor:
        """What the network sees. [N, 3, R, R] uint8 -> [N, 3, side, side] in -1..1."""
        side = self.resolution
        if pixels.dtype != torch.uint8 or pixels.shape[1:] != (3, side, side):
            raise ValueError(f"the probe reads uint8 [N, 3, {side}, {side}], not {pixels.dtype} {list(pixels.shape)}")
        factor = self.resolution // self.side
        return torch.cat([_images(F.avg_pool2d(part.float(), factor)) for part in torch.split(pixels, 16)])


def _skill(confusion: Tensor) -> float:
    """Mean recall, from 0 for guessing to 1 for certainty. confusion: [K, K]."""
    guessing = 1 / len(confusion)
    return (float(confusion.diagonal().mean()) - guessing) / (1 - guessing)


def _images(pixels: Tensor) -> Tensor:
    """Grey levels 0..255 -> -1..1."""
    return (pixels.float() / 127.5 - 1).contiguous(memory_format=torch.channels_last)


def _read(weights: Weights, images: Tensor) -> dict[str, Tensor]:
    """[N, 3, side, side] -> factor -> probabilities [N, K]."""
    weights = {name: weight.to(images.device) for name, weight in weights.items()}
    return {name: part.softmax(1) for name, part in zip(SHARES, _split(_logits(weights, images)))}


def _split(rows: Tensor) -> tuple[Tensor, ...]:
    """[N, sum of all K] -> one [N, K] for each factor of SHARES."""
    return torch.split_with_sizes(rows, [len(shares) for shares in SHARES.values()], dim=1)


def _logits(weights: Weights, images: Tensor, training: bool = False) -> Tensor:
    """Convolutions that halve the sides until they are 4, batch norm, ReLU; one linear head. -> [N, sum of all K]."""
    x = images
    for layer in range(sum(name.startswith("kernel") for name in weights)):
        kernel, gain, bias, mean, variance = (weights[f"{part}{layer}"] for part in _PARTS)
        x = F.conv2d(x, kernel, stride=2 if x.shape[-1] > 4 else 1, padding=1)
        x = F.batch_norm(x, mean, variance, gain, bias, training, momentum=0.05).relu()
    return F.linear(x.flatten(1), weights["head"], weights["offset"])


_PARTS = ("kernel", "gain", "bias", "mean", "variance")  # of a layer


# --- training ---------------------------------------------------------------------------------------------------------


def train_probe(resolution: int, progress: Progress, recipe: Recipe) -> Probe:
    """A new probe: a function of its arguments (on one machine), no global random number is drawn or changed."""
    work = _Work(progress, recipe.faces + recipe.calibration + recipe.steps * _STEP_WORK)
    probe = Probe(resolution, {}, {}, 0.0)
    probe = replace(probe, weights=_fit(probe.side, recipe, work))
    confusion, confidence = _calibration(probe, recipe.calibration, work)
    return replace(probe, confusion=confusion, confidence=confidence)


_STEP_WORK = 16  # a step of the training takes about as long as the drawing of so many faces


class _Work:
    """Adds up what is done, for the caller's progress(done, total)."""

    def __init__(self, progress: Progress, total: int) -> None:
        self.progress, self.total, self.done = progress, total, 0

    def add(self, amount: int) -> None:
        self.done += amount
        self.progress(self.done, self.total)


def factor_codes(factors: dict[str, Tensor]) -> Tensor:
    """The category codes of faces: [N, factors of SHARES] int64. factors: as `face_factors` gives them."""
    return torch.stack([_binned(name, factors[name]) if name in RANGES else factors[name] for name in SHARES], dim=1)


def _binned(name: str, values: Tensor) -> Tensor:
    """Values of a range -> the part, 0..BINS-1, of the range in which they are. [N] -> [N] int64."""
    low, high = RANGES[name]
    return ((values - low) * (BINS / (high - low))).long().clamp(0, BINS - 1)


def _drawn(first: int, count: int, side: int, work: _Work) -> tuple[Tensor, Tensor]:
    """`count` faces from an index on: pixels uint8 [N, 3, side, side] and codes [N, factors of SHARES]."""
    pixels, codes = [], []
    for indices in torch.split(torch.arange(first, first + count), CHUNK):
        drawn, factors = faces(indices, side)
        pixels.append(drawn)
        codes.append(factor_codes(factors))
        work.add(len(indices))
    return torch.cat(pixels), torch.cat(codes)


def _fit(side: int, recipe: Recipe, work: _Work) -> Weights:
    """Train the network: Adam with decay, one cycle, the mean over factors of their cross entropies."""
    pixels, codes = _drawn(TRAINING, recipe.faces, side, work)
    weights = _initial(recipe.widths, side)
    learnt = [weight.requires_grad_() for name, weight in weights.items() if not name.startswith(("mean", "variance"))]
    optimiser = torch.optim.AdamW(learnt, recipe.rate, weight_decay=0.02)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, recipe.rate, total_steps=recipe.steps)
    for step in range(recipe.steps):
        images, targets = _lesson(pixels, codes, recipe.batch, step)
        optimiser.zero_grad()
        _loss(_logits(weights, images, training=True), targets).backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        schedule.step()
        work.add(_STEP_WORK)
    return {name: weight.detach() for name, weight in weights.items()}


def _initial(widths: tuple[int, ...], side: int) -> Weights:
    """Weights to begin with: He's normal ones in the convolutions, a head that says little."""
    weights: Weights = {}
    channels = 3
    for layer, width in enumerate(widths):
        kernel = torch.randn(width, channels, 3, 3, generator=generator(0, "probe/kernel", layer))
        one, zero = torch.ones(width), torch.zeros(width)
        values = (kernel * (2 / (9 * channels)) ** 0.5, one, zero, zero.clone(), one.clone())
        weights |= {f"{part}{layer}": value for part, value in zip(_PARTS, values)}
        channels = width
    outputs = sum(len(shares) for shares in SHARES.values())
    features = channels * max(4, side >> len(widths)) ** 2
    head = torch.randn(outputs, features, generator=generator(0, "probe/head"))
    return weights | {"head": head * 0.1 / features**0.5, "offset": torch.zeros(outputs)}


def _loss(logits: Tensor, targets: Tensor) -> Tensor:
    """Cross entropy of each factor, meant over pictures and factors. [N, sum of all K] twice; targets: shares."""
    parts = zip(_split(logits), _split(targets))
    return -torch.stack([(rows.log_softmax(1) * wanted).sum(1).mean() for rows, wanted in parts]).mean()


def _lesson(pixels: Tensor, codes: Tensor, batch: int, step: int) -> tuple[Tensor, Tensor]:
    """The pictures of a step: any faces, every other one mirrored, a few of them spoilt.

    -> images [batch, 3, side, side] and targets [batch, sum of all K].
    """
    random = generator(0, "probe/step", step)
    pick = torch.randint(len(pixels), (batch,), generator=random)
    flips = torch.rand(batch, generator=random) < 0.5
    images = pixels[pick]
    images = _images(torch.where(flips[:, None, None, None], images.flip(3), images))
    wanted = [F.one_hot(column, len(shares)) for column, shares in zip(codes[pick].T, SHARES.values())]
    return _spoilt(images, torch.cat(wanted, dim=1).float(), random, blur=2 << step % 3)


def _spoilt(images: Tensor, targets: Tensor, random: torch.Generator, blur: int) -> tuple[Tensor, Tensor]:
    """Put noise into one picture of sixteen, blur another, blend a third with a fourth; targets blend along.

    So the probe learns how little such pictures say: without them it is sure of itself on any mush.
    """
    n = len(images) // 16
    part = torch.rand(2, n, 1, 1, 1, generator=random)
    noise = torch.rand(images[:n].shape, generator=random) * 2 - 1
    blurred = F.interpolate(F.avg_pool2d(images[n : 2 * n], blur), images.shape[-1], mode="bilinear")
    blended = torch.lerp(images[2 * n : 3 * n], images[3 * n : 4 * n], part[1] / 2)
    shares = torch.lerp(targets[2 * n : 3 * n], targets[3 * n : 4 * n], part[1, :, :, 0, 0] / 2)
    spoilt = torch.cat([torch.lerp(images[:n], noise, part[0].sqrt()), blurred, blended, images[3 * n :]])
    return spoilt, torch.cat([targets[: 2 * n], shares, targets[3 * n :]])


def _calibration(probe: Probe, count: int, work: _Work) -> tuple[dict[str, Tensor], float]:
    """The confusion of each factor and the mean confidence, on faces that the training has not seen."""
    pixels, codes = _drawn(CALIBRATION, count, probe.side, work)
    readings = _readings(replace(probe, resolution=probe.side), torch.split(_every_other_mirrored(pixels), CHUNK))
    columns = zip(SHARES.items(), readings.codes.T, codes.T)
    return {name: confusion_of(read, true, len(shares)) for (name, shares), read, true in columns}, readings.confidence


def _every_other_mirrored(pixels: Tensor) -> Tensor:
    """Faces as a training shows them. [N, 3, R, R] -> same shape."""
    odd = torch.arange(len(pixels)) % 2 == 1
    return torch.where(odd[:, None, None, None], pixels.flip(3), pixels)


# --- the cache --------------------------------------------------------------------------------------------------------


def open_probe(
    resolution: int,
    say: Callable[[str], None],
    progress: Progress,
    folder: Path | None = None,
    recipe: Recipe | None = None,
) -> Probe:
    """The probe for pictures of a resolution: out of the folder (cache/probes), else trained now and kept there.

    One process at a time trains, the others wait for it; a damaged file is replaced. Raises ValueError where the
    resolution is no power of two from LOWEST on, UserError where the folder cannot be written.
    """
    if resolution < LOWEST or resolution & (resolution - 1):
        raise ValueError(
            f"the probe reads faces of {LOWEST}x{LOWEST} and every doubling, not {resolution}x{resolution}"
        )
    folder = cache_folder() / "probes" if folder is None else folder
    side = min(resolution, HIGHEST)
    recipe = recipe or RECIPES[side]
    path = folder / f"faces-{side}px-{_fingerprint(side, recipe)}.safetensors"
    _make(folder)
    with lock(path.with_suffix(".lock"), "", _waiting(say)):
        probe = _load(path, resolution)
        if probe is None:
            say(f"Training a probe that reads faces of {side}x{side}, once, into {path}")
            probe = train_probe(resolution, progress, recipe)
            _save(path, probe)
    return probe


def _fingerprint(side: int, recipe: Recipe) -> str:
    """Changes with the recipe, with what is read, and with the painter of the faces: some of its work is in it."""
    pixels, _ = faces(torch.arange(TRAINING, TRAINING + 32), 32)
    text = repr((VERSION, side, recipe, BINS, BINNED, CATEGORIES, RANGES))
    return hashlib.blake2b(text.encode() + pixels.numpy().tobytes(), digest_size=5).hexdigest()


def _make(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(
            f"the cache {folder} cannot be made: {error.strerror}; PROGAN_CACHE names another place."
        ) from None


def _waiting(say: Callable[[str], None]) -> Callable[[], None]:
    """Say once that another process is at it, and wait a little."""
    said: list[bool] = []

    def wait() -> None:
        if not said:
            said.append(True)
            say("Another process is training this probe; waiting for it.")
        time.sleep(0.5)

    return wait


def _save(path: Path, probe: Probe) -> None:
    """Write a probe, with a checksum. Raises UserError where the disk refuses."""
    confidence = torch.tensor(probe.confidence, dtype=torch.float64)
    tensors = {f"confusion/{name}": table for name, table in probe.confusion.items()}
    tensors |= {f"weights/{name}": weight for name, weight in probe.weights.items()} | {"confidence": confidence}
    with atomic(path) as temporary:
        temporary.write_bytes(safetensors.torch.save(tensors | {"checksum": _checksum(tensors)}))


def _load(path: Path, resolution: int) -> Probe | None:
    """The probe of a file; None where there is none, or a damaged one."""
    with contextlib.suppress(OSError, KeyError, safetensors.SafetensorError):
        tensors = safetensors.torch.load(path.read_bytes())
        if torch.equal(tensors.pop("checksum"), _checksum(tensors)):
            weights, confusion = _below("weights/", tensors), _below("confusion/", tensors)
            return Probe(resolution, weights, {name: confusion[name] for name in SHARES}, float(tensors["confidence"]))
    return None


def _below(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def _checksum(tensors: dict[str, Tensor]) -> Tensor:
    """A hash of names and numbers: uint8 [16]."""
    digest = hashlib.blake2b(digest_size=16)
    for name in sorted(tensors):
        digest.update(name.encode() + tensors[name].contiguous().numpy().tobytes())
    return torch.tensor([*digest.digest()], dtype=torch.uint8)


# --- counts -----------------------------------------------------------------------------------------------------------


def confusion_of(read: Tensor, true: Tensor, categories: int) -> Tensor:
    """Of the pictures of category (column), the part that was read as (row): [K, K] float64, columns sum to 1.

    One picture a column is added, spread evenly: no misreading is held impossible. read, true: codes [N].
    """
    counts = torch.bincount(read * categories + true, minlength=categories**2).reshape(categories, categories)
    counts = counts.double() + 1 / categories
    return counts / counts.sum(0)


def unfold(confusion: Tensor, observed: Tensor, start: Tensor, steps: int = 2000) -> Tensor:
    """The shares under which the confusion explains the observed counts best: p of the greatest likelihood of counts
    drawn from (confusion @ p). Expectation maximisation, from `start` (positive, sums to 1): Saerens, Latinne &
    Decaestecker 2002 with readings for posteriors.

    confusion: [K, K], columns sum to 1; observed: counts [K]; start: [K] -> [K] float64, sums to 1.
    """
    parts = observed.double() / observed.sum()
    shares = start.double()
    for _ in range(steps):
        shares = shares * (confusion.T @ (parts / (confusion @ shares).clamp_min(1e-30)))
    return shares


def total_variation(p: Tensor, q: Tensor) -> float:
    """Half the sum of |p - q|: the part of the pictures that would have to change category. Shares [K] -> 0..1."""
    return float((p - q).abs().sum() / 2)


def modes_covered(shares: Tensor, true: Tensor, count: int) -> int:
    """How many modes have, of `count` pictures, COVERED of what their true share lets expect, and one at least
    (half a one, since corrected counts are no whole numbers). shares, true: [modes].
    """
    return int((shares >= torch.clamp(COVERED * true, min=0.5 / count)).sum())


# --- reports ----------------------------------------------------------------------------------------------------------


def factor_report(probe: Probe, pictures: Pictures) -> dict[str, float]:
    """What the probe finds in a set of FEWEST pictures or more.

    - modes, modes_total: how many of the combinations of MODES are covered (`modes_covered`), and of how many
    - tv_FACTOR, tv: distance (`total_variation`) of each readable factor's shares from the true ones, and their mean
    - confidence: the highest probability of a categorical factor, meant over factors and pictures
    - clarity: the same, from 0 where nothing can be read to 1 for true faces

    All counts are corrected for the probe's errors (`unfold`). Raises ValueError where pictures are too few or not
    uint8 [N, 3, R, R] of the probe's resolution R.
    """
    readings = _readings(probe, pictures)
    count = len(readings.codes)
    if count < FEWEST:
        raise ValueError(f"the factor report needs {FEWEST} pictures or more, not {count}")
    distances = {f"tv_{name}": _distance(probe, readings, name) for name in probe.readable}
    modes = modes_covered(_mode_shares(probe, readings), MODE_SHARES, count)
    return {
        "modes": float(modes),
        "modes_total": float(len(MODE_SHARES)),
        "tv": sum(distances.values()) / max(1, len(distances)),
        **distances,
        "confidence": readings.confidence,
        "clarity": (readings.confidence - _BLIND) / (probe.confidence - _BLIND),
    }


def factor_floor(probe: Probe, count: int) -> dict[str, float]:
    """`factor_report` of `count` true faces that no one was trained on: what a perfect generator would get.

    The keys are `factor_report`'s with "_floor" after the first word (modes_floor, tv_floor, tv_floor_hair, ...).
    """
    report = factor_report(replace(probe, resolution=probe.side), held_out_faces(probe.side, count))
    return {_floor_key(name): value for name, value in report.items() if name != "modes_total"}


def _floor_key(name: str) -> str:
    first, *rest = name.split("_", 1)
    return "_".join([first, "floor", *rest])


def held_out_faces(resolution: int, count: int) -> Pictures:
    """`count` true faces, every other one mirrored, that neither a GAN's data set nor the probe has seen; drawn anew
    at each iteration.
    """
    return _HeldOut(resolution, count)


@dataclass(frozen=True)
class _HeldOut:
    resolution: int
    count: int

    def __iter__(self) -> Iterator[Tensor]:
        for indices in torch.split(torch.arange(HELD_OUT, HELD_OUT + self.count), CHUNK):
            yield _every_other_mirrored(faces(indices, self.resolution)[0])


@dataclass(frozen=True)
class _Readings:
    """What was read in a set."""

    codes: Tensor  # [N, factors of SHARES] int64, on the CPU
    confidence: float


_BLIND = sum(float(SHARES[name].max()) for name in CATEGORIES) / len(CATEGORIES)  # confidence of who sees nothing


def _readings(probe: Probe, pictures: Pictures) -> _Readings:
    """Read a whole set in chunks of CHUNK, however its batches come."""
    codes, confidence = [torch.empty(0, len(SHARES), dtype=torch.int64)], 0.0
    for images in _regrouped(probe._seen(pixels) for pixels in pictures):
        sure = [part.max(1) for part in _read(probe.weights, images).values()]
        codes.append(torch.stack([part.indices for part in sure], dim=1).cpu())
        confidence += float(torch.stack([part.values for part in sure[: len(CATEGORIES)]]).mean(0).cpu().double().sum())
    table = torch.cat(codes)
    return _Readings(table, confidence / max(1, len(table)))


def _regrouped(batches: Iterable[Tensor]) -> Iterator[Tensor]:
    """The same pictures in batches of CHUNK, the last one smaller."""
    waiting: list[Tensor] = []
    for batch in batches:
        *whole, rest = torch.split(torch.cat([*waiting, batch]), CHUNK)
        yield from whole
        waiting = [rest]
    yield from (rest for rest in waiting if len(rest))


def _distance(probe: Probe, readings: _Readings, name: str) -> float:
    """Total variation between a factor's corrected shares and the true ones."""
    observed = torch.bincount(readings.codes[:, _column(name)], minlength=len(SHARES[name]))
    return total_variation(unfold(probe.confusion[name], observed, SHARES[name]), SHARES[name])


def _mode_shares(probe: Probe, readings: _Readings) -> Tensor:
    """Corrected shares of the modes, [modes]: the two factors of a mode are misread each on its own account."""
    first, second = (readings.codes[:, _column(name)] for name in MODES)
    observed = torch.bincount(first * len(SHARES[MODES[1]]) + second, minlength=len(MODE_SHARES))
    confusion = torch.kron(probe.confusion[MODES[0]], probe.confusion[MODES[1]])
    return unfold(confusion, observed, MODE_SHARES)


def _column(name: str) -> int:
    return [*SHARES].index(name)
