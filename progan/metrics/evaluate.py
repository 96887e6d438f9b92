"""Metrics put together: which pictures are compared, by which metric, beside which noise floor.

The floor of a metric is the metric itself with other real pictures in place of the fakes, as many of them: below it no
generator can be told from a perfect one.
"""

from __future__ import annotations

import contextlib
import functools
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from progan.config import nearest
from progan.console import Console, Meter
from progan.data.archives import digest
from progan.data.cache import cache_folder
from progan.errors import UserError
from progan.files import atomic, write_text
from progan.metrics.cases import Case
from progan.metrics.diversity import diversity
from progan.metrics.features import (
    Extractor,
    Features,
    check_wanted,
    extract,
    feature_metrics,
    open_extractor,
    protocol,
)
from progan.metrics.ms_ssim import ms_ssim_of_pairs
from progan.metrics.neighbours import memorisation
from progan.metrics.probe import FEWEST, LOWEST, factor_report, open_probe
from progan.metrics.reconstruction import Search, reconstruction_error
from progan.metrics.results import Result, floor_name
from progan.metrics.sets import First, Pictures, picked
from progan.metrics.spectrum import spectrum_distance
from progan.metrics.swd import Draws, Projected, distance, project

VERSION = 1  # of what is kept in the cache
NEIGHBOURS = 1024  # fakes whose nearest neighbours are looked for
RECONSTRUCTED = 200  # reals that are looked for in the generator
SEARCH = Search(steps=200, restarts=2, lr=0.1, fall=0.05, start="normal")
"""Not the authors' (50 steps at 0.01 from zeros): from N(0, I), as normalised latents need it, those end far from the
best. The same for all networks."""
SHOWN = 16  # of them: the closest

Values = dict[str, float]


class Tools:
    """How metrics are measured, whatever they are about. What is costly is made when it is first asked for."""

    def __init__(
        self,
        device: torch.device,
        console: Console,
        seed: int = 0,
        repeats: int = 4,
        inception: Path | None = None,
        features: Path | None = None,
    ) -> None:
        self.device, self.console, self.seed, self.repeats = device, console, seed, repeats
        self.inception, self.features = inception, features
        self.sheets: dict[str, Tensor] = {}  # pictures that a metric has made beside its numbers: [n, C, H, W]
        self._projected: tuple[Pictures, tuple[int, Draws], Projected] | None = None
        self._seen: tuple[Pictures, Features] | None = None

    @functools.cached_property
    def extractor(self) -> Extractor:
        """What turns pictures into features. Raises UserError where there is none."""
        return open_extractor(self.inception, self.features, self.device)

    def projected(self, pictures: Pictures, count: int, draws: Draws) -> Projected:
        """The first pictures of a set, made ready for the SWD; the latest is remembered, since a floor needs it too."""
        latest, wanted = self._projected, (count, draws)
        if latest is None or latest[0] is not pictures or latest[1] != wanted:
            latest = self._projected = pictures, wanted, project(First(pictures, count), draws, self.device)
        return latest[2]

    def features_of(self, pictures: Pictures) -> Features:
        """The features of a set; those of the latest are remembered, since metrics share them."""
        if self._seen is None or self._seen[0] is not pictures:
            self._seen = pictures, extract(self.extractor, pictures)
        return self._seen[1]


Measure = Callable[[Case, Tools], Values]


@dataclass(frozen=True)
class Metric:
    """What a name on the command line means."""

    meaning: str
    measure: Measure
    floor: bool = True  # worth measuring with other reals, too
    settings: Callable[[Tools], dict[str, Any]] = lambda tools: {}  # its own part of the protocol


def measure_swd(case: Case, tools: Tools) -> Values:
    """Sliced Wasserstein distance by level. Levels below 16 are compared in smaller pictures alone."""
    count, draws = min(case.counts), Draws(tools.seed, repeats=tools.repeats)
    return distance(tools.projected(case.reals, count, draws), project(First(case.fakes, count), draws, tools.device))


def measure_neighbours(case: Case, tools: Tools) -> Values:
    """Nearest training pictures of the first fakes."""
    values, pairs = memorisation(First(case.fakes, NEIGHBOURS), case.training, mirrored=bool(case.ground["mirror"]))
    fakes, reals = picked(case.fakes, pairs[:SHOWN, 0]), picked(case.training, pairs[:SHOWN, 1])
    tools.sheets["neighbours"] = torch.stack([fakes, reals], 2).flatten(2, 3)  # each fake above its neighbour
    return values


def measure_faces(case: Case, tools: Tools) -> Values:
    """Factors of the built-in portraits, read by a probe."""
    if not case.ground["faces"]:
        raise UserError("faces: the probe knows the built-in portraits alone, and the data is not `faces`.")
    if min(case.counts) < FEWEST:  # said before a probe is trained
        raise UserError(f"faces: it takes {FEWEST} fakes and reals or more, not {min(case.counts)}; raise --images.")
    probe = open_probe(case.resolution, tools.console.line, Meter(tools.console, "units of work"))
    return factor_report(probe, case.fakes)


def measure_reconstruction(case: Case, tools: Tools) -> Values:
    """How near G comes to pictures that it has not learnt, where there are some, else to some that it has."""
    if case.generator is None:
        raise UserError("reconstruction: it takes a generator, not pictures.")
    G = case.generator.eval()
    stage, alpha = case.place
    pictures = First(case.unseen or case.reals, RECONSTRUCTED)
    draw = functools.partial(G, stage=stage, alpha=alpha)
    search = replace(SEARCH, seed=tools.seed)
    return reconstruction_error(draw, pictures, G.latent_size, search, normalised=G.latent_norm, device=tools.device)


def measure_features(name: str, case: Case, tools: Tools) -> Values:
    """A metric on a network's features."""
    reals, fakes = case.counts
    check_wanted(tools.extractor.kind, [name], reals, fakes, tools.extractor.dimension)
    seen = real_features(case, tools)
    return feature_metrics(seen, tools.features_of(case.fakes), [name], tools.seed, device=tools.device)


def real_features(case: Case, tools: Tools) -> Features:
    """The reals' features: from the cache, where content, protocol and network know them."""
    ground = json.dumps(dict(case.ground), sort_keys=True)
    key = digest([VERSION, ground, case.counts[0], tools.seed, tools.extractor.hash])
    path = cache_folder() / "metrics" / f"features-{key}.safetensors"
    with contextlib.suppress(ValueError, OSError):
        return Features.load(path)
    found = tools.features_of(case.reals)
    with contextlib.suppress(UserError), atomic(path) as temporary:  # a full disk costs time and nothing else
        found.save(temporary)
    return found


def network(name: str, meaning: str) -> Metric:
    """A metric on features."""
    return Metric(
        meaning, functools.partial(measure_features, name), True, lambda tools: protocol(tools.extractor, [name])
    )


METRICS = {
    "swd": Metric(
        "sliced Wasserstein distance x 1000 of each level of a Laplacian pyramid, and their mean",
        measure_swd,
        settings=lambda tools: {"directions": 128 * tools.repeats},
    ),
    "ms_ssim": Metric(
        "similarity of pairs of fakes: the higher, the less varied", lambda c, t: ms_ssim_of_pairs(c.fakes)
    ),
    "spectrum": Metric("distance of radial power spectra, in dB", lambda c, t: spectrum_distance(c.reals, c.fakes)),
    "diversity": Metric("colours, and differences between pictures", lambda c, t: diversity(c.reals, c.fakes)),
    "neighbours": Metric("distance to the nearest training picture, and copies of some", measure_neighbours, False),
    "reconstruction": Metric(
        "how near the best latent comes to real pictures: mean squared error, values in 0..1",
        measure_reconstruction,
        False,
        lambda tools: {"pictures": RECONSTRUCTED, "search": asdict(replace(SEARCH, seed=tools.seed))},
    ),
    "faces": Metric("factors of the built-in portraits: modes covered, marginals, confidence", measure_faces),
    "fid": network("fid", "Frechet distance of Inception features"),
    "kid": network("kid", "kernel distance of Inception features"),
    "is": network("is", "Inception score"),
    "fd": network("fd", "Frechet distance of the features of --features"),
    "kd": network("kd", "kernel distance of the features of --features"),
    "prdc": network("prdc", "precision, recall, density, coverage of features"),
}


def wanted(text: str) -> list[str]:
    """The metrics that `swd,ms_ssim` names, each once. Raises UserError for a name that is none."""
    names = [name.strip().lower() for name in text.split(",") if name.strip()]
    for name in names:
        if name not in METRICS:
            raise UserError(f"--metrics {text}: there is no metric `{name}`{nearest(name, METRICS)}.")
    if not names:
        raise UserError(f"--metrics names none of {', '.join(METRICS)}.")
    return list(dict.fromkeys(names))


def check_names(names: Sequence[str], tools: Tools, faces: bool) -> None:
    """Raises UserError for names that are none, and for what they need and is not there."""
    for name in names:
        if name not in METRICS:
            raise UserError(f"metrics.names: there is no metric `{name}`{nearest(name, METRICS)}.")
        if name == "faces" and not faces:
            raise UserError("metrics.names: `faces` measures the built-in portraits alone.")
        METRICS[name].settings(tools)


def usual(case: Case) -> list[str]:
    """The metrics that need no weights, and have pictures enough."""
    probed = bool(case.ground["faces"]) and case.resolution >= LOWEST and min(case.counts) >= FEWEST
    return ["swd", "ms_ssim", "spectrum", "diversity", "neighbours"] + ["faces"] * probed


def measure(name: str, case: Case, tools: Tools) -> Values:
    """A metric's numbers, beside their floors where other reals are at hand. UserError where they cannot be had."""
    metric = METRICS[name]
    try:
        values = metric.measure(case, tools)
        return values | (floors(name, case.floor, tools) if metric.floor and case.floor else {})
    except UserError:
        raise
    except ValueError as error:
        raise UserError(f"{name}: {str(error).removeprefix(name).strip(' .')}.") from None


def floors(name: str, case: Case, tools: Tools) -> Values:
    """The metric with other reals in place of the fakes: `swd_floor`, `swd_floor_32`; from the cache, if known."""
    key = digest([VERSION, name, json.dumps(protocol_of(name, case, tools), sort_keys=True)])
    path = cache_folder() / "metrics" / f"{name}-floor-{key}.json"
    with contextlib.suppress(ValueError, OSError):
        known: Values = json.loads(path.read_text(encoding="utf-8"))
        return known
    found = METRICS[name].measure(case, tools)
    values = {floor_name(name, key): value for key, value in found.items() if not key.endswith(("_reals", "_total"))}
    with contextlib.suppress(UserError):
        write_text(path, json.dumps(values))
    return values


def protocol_of(name: str, case: Case, tools: Tools) -> dict[str, Any]:
    """All that a metric's numbers depend on, apart from the generator itself."""
    counts = {"reals": case.counts[0], "fakes": case.counts[1]}
    own = METRICS[name].settings(tools)
    return {**case.ground, **counts, **case.subject, "seed": tools.seed, **own}


@dataclass(frozen=True)
class About:
    """Where fakes come from: real images that their generator had seen, its file's name and hash."""

    nimg: int = 0
    file: str | None = None
    snapshot: str | None = None


def result_of(name: str, case: Case, tools: Tools, known: Mapping[str, Result], about: About) -> tuple[Result, bool]:
    """A metric's result, and whether it is new: not among those known. Raises UserError as `measure` does."""
    blank = Result(about.nimg, name, {}, protocol_of(name, case, tools), 0.0, about.file, about.snapshot)
    if blank.key in known:
        return known[blank.key], False
    start = time.perf_counter()
    values = measure(name, case, tools)
    return replace(blank, values=values, sec=round(time.perf_counter() - start, 3)), True
