"""Metrics on the features of a network: Frechet and kernel distance, Inception score, precision, recall, density and
coverage.

The network is the Inception of 2015 in torch-fidelity's port, whose numbers are those of the published tables, or any
TorchScript file. Weights are read from files that are there; nothing here ever downloads any. Only distances on
Inception features are called FID and KID; on others they are fd and kd.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import io
import warnings
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from progan.errors import UserError
from progan.metrics.frechet import Moments, frechet_distance

Pictures = Iterable[Tensor]
"""Batches of pixels, uint8 [n, C, R, R] with C 1 or 3; may be iterated several times, each time the same."""

WEIGHTS_URL = (
    "https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/weights-inception-2015-12-05-6726825d.pth"
)
WEIGHTS_SHA256 = "6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2"
GROUP = 32
"""Pictures in one call of the network, whatever their batches: its rounding depends on that number."""
BLOCK = 1000
"""Rows of a matrix of distances that are in memory at a time."""


# --- networks ---


@dataclass(frozen=True, eq=False)
class Extractor:
    """A network that tells pictures apart by features."""

    kind: str
    """A key of METRICS."""
    name: str
    """Goes into the protocol: numbers of different networks do not compare."""
    hash: str
    """blake2b of the file of weights."""
    resize: str
    """How pictures come to the size that the network sees."""
    dimension: int | None
    """D, the features of a picture; None where only a run can tell."""
    device: torch.device
    run: Callable[[Tensor], tuple[Tensor, Tensor | None]]
    """pixels uint8 [n, 3, R, R] on the device -> features float32 [n, D], and scores of classes [n, K] or None."""


def open_extractor(inception: Path | None, features: Path | None, device: torch.device | str) -> Extractor:
    """The network of a TorchScript file `features`, else the Inception with the weights of a file, else the Inception
    with the weights in torch's cache. Raises UserError where both are given and where the file is missing or another.
    """
    if inception is not None and features is not None:
        raise UserError(f"--inception {inception} and --features {features} are two networks; give one of them.")
    if features is not None:
        return _open_torchscript(features, torch.device(device))
    return _open_inception(inception, torch.device(device))


def _open_inception(path: Path | None, device: torch.device) -> Extractor:
    """torch-fidelity's Inception; scores are its logits without bias, as the official Inception score has them."""
    network_of = _fidelity("feature_extractor_inceptionv3").FeatureExtractorInceptionV3
    file = path or _cached_weights()
    content = _weights(file)
    try:
        torch.load(io.BytesIO(content), weights_only=True)  # torch-fidelity itself would run any code in the file
        with torch.random.fork_rng(devices=[]):  # layers draw weights as they are made
            network = network_of("inception-v3-compat", ["2048", "logits_unbiased"], io.BytesIO(content))
    except Exception:  # a file of anything fails in any way
        raise UserError(
            f"{file} does not hold the Inception network's weights as {WEIGHTS_URL} does; another network, saved as "
            "TorchScript, can be given by --features."
        ) from None
    published = hashlib.sha256(content).hexdigest() == WEIGHTS_SHA256
    name = "inception-v3-2015-12-05" if published else "inception-v3 of other weights"
    return Extractor("inception", name, _hash(file), "tf1-bilinear 299", 2048, device, network.to(device))


def _cached_weights() -> Path:
    """Where torch-fidelity keeps the file that it downloads."""
    return Path(torch.hub.get_dir()) / "checkpoints" / WEIGHTS_URL.rpartition("/")[2]


def _weights(file: Path) -> bytes:
    """The bytes of the file of weights; UserError, with what to do, where there is none."""
    try:
        return file.read_bytes()
    except OSError:
        raise UserError(
            f"The Inception network's weights are not at {file}, and progan downloads nothing: fetch {WEIGHTS_URL} and "
            f"give the file by --inception FILE, or put it at {_cached_weights()}."
        ) from None


def _fidelity(module: str) -> Any:
    """A module of torch-fidelity; UserError where the package is not installed."""
    try:
        return importlib.import_module(f"torch_fidelity.{module}")
    except ImportError:
        raise UserError(
            "This metric needs the package torch-fidelity, which is not installed: pip install 'progan[metrics]'."
        ) from None


def _open_torchscript(path: Path, device: torch.device) -> Extractor:
    """A TorchScript module that takes pixels uint8 [n, 3, R, R], scales them itself, and returns features [n, D]."""
    if not path.is_file():
        raise UserError(f"--features {path} is not a file; it has to be a network saved as TorchScript.")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch 2.15 deprecates the format; nothing else runs without its source
            network = torch.jit.load(str(path), map_location=device).eval()  # type: ignore[no-untyped-call]
    except RuntimeError:
        raise UserError(f"--features {path} cannot be read as TorchScript.") from None

    def run(pixels: Tensor) -> tuple[Tensor, None]:
        return _features_of(network, pixels, path), None

    return Extractor("torchscript", path.name, _hash(path), "the network's own", None, device, run)


def _features_of(network: Callable[[Tensor], object], pixels: Tensor, path: Path) -> Tensor:
    """Run a network of which nothing is known. -> float32 [n, D]; UserError where it does not keep to the form."""
    form = "it has to take uint8 pixels [N, 3, R, R] and return features [N, D] of a float type"
    try:
        # Compiled, as it would be for its third run, it would round in another way than before.
        with torch.jit.optimized_execution(False):  # type: ignore[attr-defined]
            features = network(pixels)
    except torch.OutOfMemoryError:
        raise
    except RuntimeError as error:
        reason = str(error).strip().splitlines()[-1]
        raise UserError(f"--features {path} fails on pixels {list(pixels.shape)} ({reason}); {form}.") from None
    if not isinstance(features, Tensor) or features.ndim != 2 or len(features) != len(pixels):
        returned = list(features.shape) if isinstance(features, Tensor) else f"a {type(features).__name__}"
        raise UserError(f"--features {path} returns {returned} for {len(pixels)} pictures; {form}.")
    if not features.is_floating_point():
        raise UserError(f"--features {path} returns {features.dtype}; {form}.")
    return features.float()


def _hash(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).hexdigest()


# --- features ---


@dataclass(frozen=True, eq=False)
class Features:
    """What a network sees in a set of pictures; all that the metrics need, so that it can be kept in a file."""

    values: Tensor  # float32 [N, D] on the CPU
    scores: Tensor | None  # float32 [N, K] on the CPU
    kind: str
    extractor: str
    hash: str
    picture: str
    """Shape of a picture: 3x32x32."""

    def save(self, path: Path) -> None:
        """Write a safetensors file."""
        tensors = {"values": self.values} | ({} if self.scores is None else {"scores": self.scores})
        texts = {name: getattr(self, name) for name in ("kind", "extractor", "hash", "picture")}
        safetensors.torch.save_file(tensors, path, metadata=texts)

    @classmethod
    def load(cls, path: Path) -> Features:
        """What `save` wrote, to the bit. Raises ValueError where the file is another or broken."""
        try:
            with safetensors.safe_open(path, "pt") as file:
                scores = file.get_tensor("scores") if "scores" in file.keys() else None  # noqa: SIM118
                return cls(file.get_tensor("values"), scores, **(file.metadata() or {}))
        except (safetensors.SafetensorError, TypeError) as error:
            raise ValueError(f"{path} does not hold features: {error}") from None


def extract(extractor: Extractor, pictures: Pictures, scores: bool = True) -> Features:
    """The features of all pictures, in their order, whatever their batches; grey is repeated to three channels.

    scores: keep the classes' scores too, where the network has some (4 KB a picture; the Inception score needs those of
    the fakes). Raises ValueError where there are no pictures or they are not all of one form.
    """
    rows, score_rows, picture = [], [], ""
    with torch.no_grad(), full_precision():
        for pixels in _groups(_checked(pictures)):
            picture = "x".join(map(str, pixels.shape[1:]))
            features, classes = extractor.run(pixels.to(extractor.device).expand(-1, 3, -1, -1).contiguous())
            rows.append(_finite(features.float().cpu(), extractor))
            if scores and classes is not None:
                score_rows.append(_finite(classes.float().cpu(), extractor))
    if not rows:
        raise ValueError("there are no pictures to look at")
    kept = torch.cat(score_rows) if score_rows else None
    return Features(torch.cat(rows), kept, extractor.kind, extractor.name, extractor.hash, picture)


def _checked(pictures: Pictures) -> Iterator[Tensor]:
    """The batches themselves; ValueError at the first that does not hold pixels, or others than those before."""
    shape: torch.Size | None = None
    for batch in pictures:
        if batch.dtype != torch.uint8 or batch.ndim != 4 or batch.shape[1] not in (1, 3):
            raise ValueError(f"pixels are uint8 [n, 1 or 3, R, R], and these are {batch.dtype} {list(batch.shape)}")
        shape = shape or batch.shape[1:]
        if batch.shape[1:] != shape:
            raise ValueError(f"pictures {list(batch.shape[1:])} follow pictures {list(shape)}; all have to be alike")
        yield batch


def _groups(batches: Iterable[Tensor]) -> Iterator[Tensor]:
    """The same pictures in the same order, GROUP at a time, the last group smaller. [n, C, R, R] each."""
    rest: Tensor | None = None
    for batch in batches:
        *groups, rest = torch.split(batch if rest is None else torch.cat([rest, batch]), GROUP)
        yield from groups
    if rest is not None and len(rest):
        yield rest


def _finite(features: Tensor, extractor: Extractor) -> Tensor:
    if not features.isfinite().all():
        raise UserError(f"The network {extractor.name} returns values that are not finite.")
    return features


@contextlib.contextmanager
def full_precision() -> Iterator[None]:
    """float32 products in float32: a training may have set them to fewer bits, which moves the metrics."""
    products, convolutions = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    torch.set_float32_matmul_precision("highest")
    torch.backends.cudnn.allow_tf32 = False
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(products)
        torch.backends.cudnn.allow_tf32 = convolutions


# --- metrics ---


@dataclass(frozen=True)
class Settings:
    """The numbers that the metrics depend on, as published."""

    kid_subsets: int = 100
    kid_subset_size: int = 1000
    is_splits: int = 10
    pr_neighbours: int = 3
    dc_neighbours: int = 5


PUBLISHED = Settings()


@dataclass(frozen=True, eq=False)
class _Question:
    """What a metric is asked."""

    name: str
    reals: Features
    fakes: Features
    seed: int
    settings: Settings
    device: torch.device


def protocol(extractor: Extractor, wanted: Iterable[str], settings: Settings = PUBLISHED) -> dict[str, str | int]:
    """What has to agree, besides the pictures and their numbers, before two results compare."""
    prefixes = tuple(prefix for name in wanted for prefix in PREFIXES.get(name, ()))
    chosen = {key: value for key, value in asdict(settings).items() if key.startswith(prefixes)} if prefixes else {}
    return {"extractor": extractor.name, "extractor_hash": extractor.hash, "resize": extractor.resize, **chosen}


PREFIXES = MappingProxyType({"kid": ("kid_",), "kd": ("kid_",), "is": ("is_",), "prdc": ("pr_", "dc_")})
"""The settings that a metric depends on."""


def feature_metrics(
    reals: Features,
    fakes: Features,
    wanted: Iterable[str],
    seed: int,
    settings: Settings = PUBLISHED,
    device: torch.device | str = "cpu",
) -> dict[str, float]:
    """The metrics named in `wanted` (see METRICS), each with all its numbers: kid and kid_std, is and is_std,
    precision, recall, density and coverage. The device is where distances between pictures are taken.

    Raises ValueError where the sets do not compare, a name is unknown or there are too few pictures.
    """
    wanted = tuple(wanted)
    for this, that in ((reals.hash, fakes.hash), (reals.kind, fakes.kind), (reals.picture, fakes.picture)):
        if this != that:
            raise ValueError(f"features of reals ({this}) and of fakes ({that}) do not compare")
    check_wanted(reals.kind, wanted, len(reals.values), len(fakes.values), reals.values.shape[1], settings)
    values: dict[str, float] = {}
    with full_precision():
        for name in wanted:
            values |= METRICS[reals.kind][name](_Question(name, reals, fakes, seed, settings, torch.device(device)))
    return values


def check_wanted(
    kind: str, wanted: Iterable[str], reals: int, fakes: int, dimension: int | None, settings: Settings = PUBLISHED
) -> None:
    """Raises ValueError where a network of this kind has no such metric, or so many reals and fakes are too few for it;
    can be asked before a picture is drawn. dimension: `Extractor.dimension`.
    """
    for name in wanted:
        if name not in METRICS[kind]:
            raise ValueError(f"{name} is no metric of a network of kind {kind}, which has {', '.join(METRICS[kind])}")
        for least, why in _needs(name, dimension or 0, settings):
            for count, what in ((reals, "reals"), (fakes, "fakes")):
                if count < least and not (name == "is" and what == "reals"):  # the score of fakes alone
                    raise ValueError(f"{name} {why}, and there are {count} {what}; raise --images or leave {name} out")


def _needs(name: str, dimension: int, settings: Settings) -> list[tuple[int, str]]:
    """(least number of pictures, why) of a metric."""
    rank = f"needs at least as many pictures as features, {dimension}, for a covariance of full rank"
    subset = f"draws subsets of {settings.kid_subset_size} pictures"
    near = max(settings.pr_neighbours, settings.dc_neighbours)
    return {
        "fid": [(max(2, dimension), rank)],
        "fd": [(max(2, dimension), rank)],
        "kid": [(settings.kid_subset_size, subset)],
        "kd": [(settings.kid_subset_size, subset)],
        "is": [(settings.is_splits, f"is a mean over {settings.is_splits} splits")],
        "prdc": [(near + 1, f"looks at the {near} nearest neighbours of a picture")],
    }[name]


def _frechet(question: _Question) -> dict[str, float]:
    """Heusel et al. 2017. Falls with the number of pictures: compare at equal numbers only."""
    a, b = Moments.of(question.reals.values), Moments.of(question.fakes.values)
    return {question.name: frechet_distance(a.mean, a.covariance, b.mean, b.covariance)}


def _kernel(question: _Question) -> dict[str, float]:
    """Binkowski et al. 2018: mean and deviation over random subsets of the unbiased squared MMD with the kernel
    (<x, y> / D + 1)^3. May be below 0.
    """
    result = _fidelity("metric_kid").kid_features_to_metric(
        question.fakes.values,
        question.reals.values,
        kid_subsets=question.settings.kid_subsets,
        kid_subset_size=question.settings.kid_subset_size,
        rng_seed=question.seed % 2**32,
        verbose=False,
    )
    mean, deviation = result["kernel_inception_distance_mean"], result["kernel_inception_distance_std"]
    return {question.name: mean, f"{question.name}_std": deviation}


def _inception_score(question: _Question) -> dict[str, float]:
    """Salimans et al. 2016, of the fakes: mean and deviation over splits of the shuffled set."""
    if question.fakes.scores is None:
        raise ValueError("is needs the scores of classes; extract the fakes with scores=True")
    score_of = _fidelity("metric_isc").isc_features_to_metric
    result = score_of(question.fakes.scores, question.settings.is_splits, True, question.seed % 2**32)
    return {"is": result["inception_score_mean"], "is_std": result["inception_score_std"]}


def _prdc(question: _Question) -> dict[str, float]:
    """Precision and recall of Kynkaanniemi et al. 2019, density and coverage of Naeem et al. 2020."""
    reals, fakes = question.reals.values.to(question.device), question.fakes.values.to(question.device)
    result = _fidelity("metric_prc").prc_features_to_metric(
        fakes,
        reals,
        prc_neighborhood=question.settings.pr_neighbours,
        prc_batch_size=BLOCK,
        save_cpu_ram=True,  # else all N^2 distances at once: 10 GB for 50000 pictures
        verbose=False,
    )
    density, coverage = density_coverage(reals, fakes, question.settings.dc_neighbours)
    return {"precision": result["precision"], "recall": result["recall"], "density": density, "coverage": coverage}


def density_coverage(reals: Tensor, fakes: Tensor, neighbours: int) -> tuple[float, float]:
    """Naeem et al. 2020, eq. 3 and 4. [N, D], [M, D] -> (density, coverage).

    Each real has a ball that reaches to its k-th nearest other real. Density: the mean number of balls that a fake
    lies in, divided by k; 1 on average where the sets are alike, and above where fakes crowd. Coverage: the share of
    balls with a fake inside, 0..1. The ball is open, as in the authors' code: so a set against itself has density 1.
    """
    centre = reals.mean(0)  # distances of features far from 0 would lose digits
    reals, fakes = reals - centre, fakes - centre
    inside = covered = 0
    for block in torch.split(reals, BLOCK):  # [n, D]
        near = torch.cdist(block, reals).topk(neighbours + 1, largest=False).values  # [n, k+1] itself is the first
        within = torch.cdist(block, fakes) < near.amax(1, keepdim=True)  # [n, M]
        inside += int(within.sum().item())
        covered += int(within.any(1).sum().item())
    return inside / (neighbours * len(fakes)), covered / len(reals)


METRICS: MappingProxyType[str, MappingProxyType[str, Callable[[_Question], dict[str, float]]]] = MappingProxyType(
    {
        "inception": MappingProxyType({"fid": _frechet, "kid": _kernel, "is": _inception_score, "prdc": _prdc}),
        "torchscript": MappingProxyType({"fd": _frechet, "kd": _kernel, "prdc": _prdc}),
    }
)
"""Kind of network -> name of a metric -> what computes it."""
