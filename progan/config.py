"""The page of knobs. A TOML file, a preset of configs/ or `--set section.key=value` is a small diff of these defaults,
which are the official v2 preset for one GPU (Karras et al.). An unknown key is refused with the nearest name."""

from __future__ import annotations

import dataclasses
import difflib
import importlib.resources
import math
import tomllib
import typing
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any, Literal

import tomli_w

from progan.errors import UserError
from progan.schedule import OFFICIAL_BATCH, OFFICIAL_LR, OFFICIAL_TICK_KIMG, Schedule, Table

Weights = Literal["equalized", "plain", "spectral", "weightnorm-strict", "weightnorm"]
Activation = Literal["lrelu", "relu", "tprelu"]


@dataclass(frozen=True)
class Data:
    """What is learnt."""

    source: str = "faces"  # what `progan prepare` takes, `faces`, or `faces:COUNT`
    labels: tuple[str, ...] = ()  # use only the pictures of these classes; empty = all
    max_images: int = 0  # use the first N of them only; 0 = all
    balance: bool = False  # show each class equally often
    mirror: bool = True  # turn every other real picture left to right
    dequantise: bool = False  # spread each of a pixel's 256 values evenly over its grey level


@dataclass(frozen=True)
class Growth:
    """When the networks grow. Every kimg and the batch: a number, or a table by resolution."""

    max_res: int = 1024
    start_res: int = 4  # of networks that grow; the others are trained at max_res from the start
    stable_kimg: Table = 600.0  # thousand real images at a resolution, alone
    fade_kimg: Table = 600.0  # thousand real images while it fades in
    final_kimg: float = 2400.0  # in place of stable_kimg at max_res
    batch: Table = field(default_factory=lambda: OFFICIAL_BATCH)  # images a step, over all devices


@dataclass(frozen=True)
class Networks:
    """How G and D are built."""

    family: Literal["progressive", "dcgan", "resnet"] = "progressive"  # only the first one grows
    channels: int = 3  # 1 or 3
    latent_size: int = 512
    fmap_base: int = 8192  # feature maps of a layer = min(fmap_base / 2^(index * fmap_decay), fmap_max)
    fmap_max: int = 512
    d_fmap_max: int = 0  # the same of D alone; 0 = fmap_max
    fmap_decay: float = 1.0
    mbstd_group: int = 4  # wanted group of the minibatch standard deviation; 0 = no such layer
    minibatch_discrimination: int = 0  # kernels of Salimans et al.'s layer in D; 0 = no such layer
    d_pool: Literal["before", "after"] = "before"  # D's 2x2 mean, before or after the activation
    layout: Literal["dcgan", "sndcgan"] = "dcgan"  # of the family dcgan: where its convolutions are
    global_pool: Literal["sum", "mean"] = "sum"  # of the family resnet: D's features before its dense layer
    d_wide: bool = False  # of the family resnet: blocks of D have all of their maps between their convolutions
    leaky_slope: float = 0.2
    g_weights: Weights = "equalized"  # what is stored, and how it becomes the weight
    d_weights: Weights = "equalized"
    g_norm: Literal["pixel", "batch", "layer", "none"] = "pixel"
    d_norm: Literal["none", "batch", "layer"] = "none"
    g_activation: Activation = "lrelu"
    d_activation: Activation = "lrelu"
    output: Literal["linear", "tanh", "sigmoid"] = "linear"  # of G; sigmoid is stretched to -1..1
    latent_norm: bool = True  # bring latents to unit mean square, inside G
    init: Literal["he", "normal", "xavier", "uniform"] = "he"  # of all weights but equalized ones, which are N(0, 1)
    spectral_gain: float = 1.0  # factor on every spectral weight
    spectral_learned: bool = False  # make it a parameter of each layer, which starts there
    spectral_iterate: Literal["real", "always"] = "real"  # D's power iteration: in its pass over reals, or in every one
    attention: int = 0  # resolution of the maps that attend to themselves; 0 = none
    attention_form: Literal["B", "A"] = "B"  # B: SAGAN's own code; A: the paper's first version


@dataclass(frozen=True)
class Loss:
    """What G and D minimise, and what keeps D in bounds."""

    kind: Literal["wgan", "hinge", "logistic", "lsgan", "bce"] = "wgan"  # bce is logistic by another name
    penalty: Literal["wgan-gp", "r1", "none"] = "wgan-gp"
    wgan_lambda: float = 10.0  # weight of the penalty wgan-gp
    wgan_target: float = 1.0  # wanted norm of the gradient
    wgan_epsilon: float = 0.001  # weight of the drift term, of the kind wgan only
    gp_norm: Literal["full", "native"] = "full"  # norm of the gradient at the final or at the present resolution
    r1_gamma: float = 10.0  # the penalty r1 is half of it times the squared norm
    r1_interval: int = 1  # take that at every Nth D step, N times as heavy
    clip: float = 0.0  # bound on every weight of D as it is used, and on its biases; 0 = none


@dataclass(frozen=True)
class Training:
    """How a step is taken."""

    seed: int = 1000
    lr: Table = field(default_factory=lambda: OFFICIAL_LR)  # the optimizer's rate, a number or a table by resolution
    d_lr_ratio: float = 1.0  # D's rate over G's
    decay: Literal["none", "linear"] = "none"  # linear: rates fall to 0 at the end of the schedule
    decay_from: float = 0.0  # from this share of it on
    d_repeats: int = 1  # D steps a G step
    optimizer: Literal["adam", "rmsprop"] = "adam"
    adam_beta1: float = 0.0
    adam_beta2: float = 0.99
    adam_epsilon: float = 1e-8
    rmsprop_alpha: float = 0.99
    rmsprop_epsilon: float = 1e-8
    reset_optimizers: bool = True  # forget moments at both ends of a fade
    ema_beta: float = 0.999  # share that the averaged G keeps at each D step
    ema_kimg: float = 0.0  # half-life of the average in thousand images; 0 = ema_beta decides
    micro_batch: int | Literal["auto"] = "auto"  # images a forward pass; auto = all, or as many as memory holds
    engine: Literal["auto", "readable", "eager", "compiled", "graphs"] = "auto"  # how gradients are found
    precision: Literal["float32", "tf32", "bfloat16"] = "tf32"  # of convolutions


@dataclass(frozen=True)
class Logging:
    """What is written when. A tick is a status interval."""

    tick_kimg: Table = field(default_factory=lambda: OFFICIAL_TICK_KIMG)
    snapshot_ticks: int = 5  # pictures and a generator for people; also at the end of each phase; 0 = only there
    checkpoint_ticks: int = 5  # the whole state, to go on from; also at the end of each phase; 0 = only there
    keep: int = 3  # checkpoints that stay
    keep_every: int = 0  # and every Nth tick's checkpoint for good; 0 = none


@dataclass(frozen=True)
class Metrics:
    """What is measured while training; `progan evaluate` measures more, and more exactly."""

    names: tuple[str, ...] = ("swd",)  # see `progan evaluate --help`; empty = nothing
    every_ticks: int = 0  # beside the end of each phase; 0 = only there
    images: int = 1024  # fakes, and as many reals: at most half of those in use, so that there is a floor


@dataclass(frozen=True)
class Config:
    """All knobs of a run."""

    data: Data = field(default_factory=Data)
    growth: Growth = field(default_factory=Growth)
    networks: Networks = field(default_factory=Networks)
    loss: Loss = field(default_factory=Loss)
    training: Training = field(default_factory=Training)
    logging: Logging = field(default_factory=Logging)
    metrics: Metrics = field(default_factory=Metrics)


SECTIONS: dict[str, type] = {f.name: typing.get_type_hints(Config)[f.name] for f in fields(Config)}
FREE_ON_RESUME = ("data.source", "training.micro_batch", "training.engine", "logging.", "metrics.")
"""Keys that a continued run may change: they touch the result by rounding at most. (Data is known by its content.)"""


def preset_folder() -> Traversable:
    """Where the presets are: configs/ beside the package in a checkout, else progan.configs inside the wheel."""
    checkout = Path(__file__).parents[1] / "configs"
    return checkout if (checkout / "default.toml").is_file() else importlib.resources.files("progan") / "configs"


def preset_names() -> list[str]:
    """All presets by name, sorted."""
    return sorted(p.name.removesuffix(".toml") for p in preset_folder().iterdir() if p.name.endswith(".toml"))


def load(source: str | None = None, overrides: Sequence[str] = (), values: Mapping[str, Any] | None = None) -> Config:
    """Defaults, changed by a preset's name or a TOML file, by `{"section.key": value}`, by `section.key=value` texts.

    Raises UserError for a file that is missing or no TOML, an unknown key, a value of the wrong type, a forbidden
    value.
    """
    tables = {} if source is None else _read(source)
    for name, value in (values or {}).items():
        section, key = name.split(".")
        tables[section] = tables.get(section, {}) | {key: value}
    for text in overrides:
        _override(tables, text)
    return from_tables(tables, source or "the defaults")


def parse(text: str, origin: str = "the configuration") -> Config:
    """The configuration that a TOML text describes. Errors as in `load`."""
    try:
        return from_tables(tomllib.loads(text), origin)
    except tomllib.TOMLDecodeError as error:
        raise UserError(f"{origin} is not valid TOML: {error}.") from None


def dump(config: Config) -> str:
    """All knobs as TOML; `parse(dump(config)) == config`."""
    return tomli_w.dumps(dataclasses.asdict(config))


def flatten(config: Config) -> dict[str, Any]:
    """`{"section.key": value}` of every knob."""
    return {f"{s}.{k}": v for s, table in dataclasses.asdict(config).items() for k, v in table.items()}


def diff(old: Config, new: Config) -> dict[str, tuple[Any, Any]]:
    """`{"section.key": (old, new)}` of the knobs that differ."""
    a, b = flatten(old), flatten(new)
    return {key: (a[key], b[key]) for key in a if a[key] != b[key]}


def binding_diff(old: Config, new: Config) -> dict[str, tuple[Any, Any]]:
    """`diff` without the keys that a continued run may change."""
    return {key: pair for key, pair in diff(old, new).items() if not key.startswith(FREE_ON_RESUME)}


def schedule_of(config: Config) -> Schedule:
    """The growth plan that a configuration describes. Raises ValueError for an impossible one."""
    growth, training = config.growth, config.training
    knobs = {f.name: getattr(growth, f.name) for f in fields(Growth)}
    return Schedule(
        **knobs | ({} if grows(config) else {"start_res": growth.max_res}),
        lr_G=training.lr,
        lr_D=_scaled(training.lr, training.d_lr_ratio),
        tick_kimg=config.logging.tick_kimg,
        decay_from=training.decay_from if training.decay == "linear" else None,
    )


def _scaled(table: Table, factor: float) -> Table:
    if isinstance(table, Mapping):
        return {key: value * factor for key, value in table.items()}
    return table * factor


def grows(config: Config) -> bool:
    """Whether the networks begin small."""
    return config.networks.family == "progressive"


def couples_images(config: Config) -> bool:
    """Whether D's score or G's picture depends on the whole batch, which then cannot go through in parts."""
    n = config.networks
    return "batch" in (n.g_norm, n.d_norm) or n.minibatch_discrimination > 0


OF_G = ("latent_size", "latent_norm", "output")
OF_D = ("mbstd_group", "minibatch_discrimination", "d_pool", "d_wide", "global_pool")
EACH = ("weights", "norm", "activation")  # g_weights, d_weights ...
NO_ARGUMENTS = ("spectral_iterate", "d_fmap_max")  # one is for the steps, one goes by another name


def generator_arguments(config: Config) -> dict[str, Any]:
    """Keyword arguments of `nn.families.make_generator`."""
    return _network_arguments(config, "g_", without=(*OF_D, *NO_ARGUMENTS))


def discriminator_arguments(config: Config) -> dict[str, Any]:
    """Keyword arguments of `nn.families.make_discriminator`."""
    widest = config.networks.d_fmap_max or config.networks.fmap_max
    return _network_arguments(config, "d_", without=(*OF_G, *NO_ARGUMENTS)) | {"fmap_max": widest}


def _network_arguments(config: Config, own: str, without: Iterable[str]) -> dict[str, Any]:
    """The knobs of networks but some; of those that each net has for itself, its `own`, without that prefix."""
    knobs = dataclasses.asdict(config.networks) | {"max_res": config.growth.max_res}
    without = {*without, *(net + name for net in ("g_", "d_") for name in EACH)}
    shared = {key: value for key, value in knobs.items() if key not in without}
    return shared | {name: knobs[own + name] for name in EACH}


def _read(source: str) -> dict[str, Any]:
    """The tables of a preset's name or of a file's path."""
    is_path = source.endswith(".toml") or "/" in source or "\\" in source
    if not is_path and source not in preset_names():
        raise UserError(
            f"--config {source}: no such preset{nearest(source, preset_names())}; a file's name ends in .toml."
        )
    path = Path(source) if is_path else preset_folder() / f"{source}.toml"
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"--config {source}: the file cannot be read ({error.strerror}).") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"--config {source} is not valid TOML: {error}.") from None


def _override(tables: dict[str, Any], text: str) -> None:
    """Apply `section.key=value`, or `section.key.256=value` for one entry of a table by resolution."""
    name, equals, value = text.partition("=")
    path = name.strip().split(".")
    if not equals or len(path) not in (2, 3):
        raise UserError(f"--set {text}: write it as section.key=value, for example growth.fade_kimg=30.")
    section = tables.setdefault(path[0], {})
    if not isinstance(section, dict):
        return  # `from_tables` says what is wrong with it
    if len(path) == 2:
        section[path[1]] = _value(value.strip())
        return
    default = getattr(SECTIONS.get(path[0], lambda: None)(), path[1], None)
    table = section.get(path[1], default)
    section[path[1]] = (dict(table) if isinstance(table, dict) else {"base": table}) | {path[2]: _value(value.strip())}


def _value(text: str) -> Any:
    """A TOML value; what is none is a string."""
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text


def from_tables(tables: dict[str, Any], origin: str) -> Config:
    """Check nested tables and turn them into a Config."""
    for name in tables:
        if name not in SECTIONS:
            raise UserError(f"{origin}: there is no section `{name}`{nearest(name, SECTIONS)}.")
    config = Config(**{name: _section(name, table, origin) for name, table in tables.items()})
    _validate(config, origin)
    return config


def _section(name: str, table: Any, origin: str) -> Any:
    hints = typing.get_type_hints(SECTIONS[name])
    if not isinstance(table, dict):
        raise UserError(f"{origin}: `{name}` is a section, write {name}.key = value.")
    for key in table:
        if key not in hints:
            raise UserError(f"{origin}: there is no key `{name}.{key}`{nearest(key, hints, name + '.')}.")
    return SECTIONS[name](**{key: _typed(value, hints[key], f"{origin}: {name}.{key}") for key, value in table.items()})


def _typed(value: Any, hint: Any, where: str) -> Any:
    """The value as the annotation wants it. Raises UserError where it does not fit."""
    if hint is Table:
        return _table(value, where)
    if typing.get_origin(hint) is Literal:
        if value in typing.get_args(hint):
            return value
        raise UserError(f"{where} is one of {', '.join(map(repr, typing.get_args(hint)))}, not {value!r}.")
    if typing.get_origin(hint) is tuple:
        return _texts(value, where)
    if typing.get_args(hint):  # int | Literal["auto"]
        return value if value == "auto" else _typed(value, int, where)
    if hint is float and type(value) is int:
        return float(value)
    if type(value) is not hint or (hint is float and not math.isfinite(value)):
        raise UserError(f"{where} is {_kind(hint)}, not {value!r}.")
    return value


def _table(value: Any, where: str) -> Table:
    """A number, or a table of numbers by resolution, its keys ordered and written as text."""
    if not isinstance(value, dict):
        _typed(value, float, where)
        return value  # type: ignore[no-any-return]
    allowed = ["base", *(str(4 << s) for s in range(9))]
    for key in value:
        if key not in allowed:
            raise UserError(f"{where} has an entry for `{key}`; entries are {', '.join(allowed)}.")
    for key in value:
        _typed(value[key], float, f"{where}.{key}")
    return {key: value[key] for key in allowed if key in value}


def _texts(value: Any, where: str) -> tuple[str, ...]:
    """A set of texts, in alphabetical order: a list, or one text with commas. A whole number counts as a text."""
    parts = value if isinstance(value, list | tuple) else [value]
    if not all(type(part) in (str, int) for part in parts):
        raise UserError(f"{where} is a list of texts, not {value!r}.")
    if parts is not value:
        parts = [part.strip() for part in str(value).split(",") if part.strip()]
    return tuple(sorted({str(part) for part in parts}))


def _kind(hint: type) -> str:
    return {int: "a whole number", float: "a number", bool: "true or false", str: "a text"}[hint]


def nearest(name: str, names: Iterable[str], prefix: str = "") -> str:
    """`, did you mean ...?` or the whole list: the end of a sentence about a name that does not exist."""
    names = list(names)
    close = difflib.get_close_matches(name, names, 1)
    return f"; did you mean `{prefix}{close[0]}`?" if close else f"; there are {', '.join(names)}"


def _validate(config: Config, origin: str) -> None:
    """Refuse what no run could use. Each message names the key."""
    try:
        schedule_of(config)
    except ValueError as error:
        raise UserError(f"{origin}: growth: {error}.") from None
    n, t = config.networks, config.training
    if not 0 <= n.fmap_decay <= 10:
        raise UserError(f"{origin}: networks.fmap_decay is in 0..10.")
    rules = {
        "networks.channels is 1 or 3": n.channels in (1, 3),
        "networks.latent_size is at least 1": n.latent_size >= 1,
        "networks.fmap_max and fmap_base leave at least one feature map": min(n.fmap_max, smallest_maps(config)) >= 1,
        "networks.mbstd_group is at least 0": n.mbstd_group >= 0,
        "training.d_repeats is at least 1": t.d_repeats >= 1,
        "training.ema_beta is in 0..1 (below 1)": 0 <= t.ema_beta < 1,
        "training.ema_kimg is at least 0": t.ema_kimg >= 0,
        "training.micro_batch is at least 1, or auto": t.micro_batch == "auto" or t.micro_batch >= 1,
        "training.seed is at least 0": t.seed >= 0,
        "data.source names something": bool(config.data.source.strip()),
        "data.labels names classes, and no name is empty": all(config.data.labels),
        "data.max_images is at least 0": config.data.max_images >= 0,
        "logging.keep is at least 1": config.logging.keep >= 1,
        "metrics.images is at least 2": config.metrics.images >= 2,
        "metrics.every_ticks is at least 0": config.metrics.every_ticks >= 0,
        "logging ticks are at least 0": min(dataclasses.astuple(config.logging)[1:]) >= 0,
    }
    for rule, holds in (rules | _technique_rules(config)).items():
        if not holds:
            raise UserError(f"{origin}: {rule}.")
    for sentence, found in _forbidden(config).items():
        if found:
            raise UserError(f"{origin}: {sentence}.")


def _technique_rules(config: Config) -> dict[str, bool]:
    """What a single knob of a technique may be."""
    n, loss, t = config.networks, config.loss, config.training
    sides = [8 << s for s in range(8) if 8 << s <= config.growth.max_res]
    return {
        "networks.d_fmap_max is at least 0": n.d_fmap_max >= 0,
        "networks.minibatch_discrimination is at least 0": n.minibatch_discrimination >= 0,
        "networks.spectral_gain is above 0": n.spectral_gain > 0,
        f"networks.attention is 0 or a resolution that the networks have, {_listed(sides)}": n.attention in (0, *sides),
        "loss.wgan_target is above 0": loss.wgan_target > 0,
        "loss.wgan_lambda and wgan_epsilon are at least 0": min(loss.wgan_lambda, loss.wgan_epsilon) >= 0,
        "loss.r1_gamma is at least 0": loss.r1_gamma >= 0,
        "loss.r1_interval is at least 1": loss.r1_interval >= 1,
        "loss.clip is at least 0": loss.clip >= 0,
        "training.d_lr_ratio is above 0": t.d_lr_ratio > 0,
        "training.decay_from is in 0..1 (below 1)": 0 <= t.decay_from < 1,
        "training.adam_beta1 and adam_beta2 are in 0..1 (below 1)": all(
            0 <= b < 1 for b in (t.adam_beta1, t.adam_beta2)
        ),
        "training.rmsprop_alpha is in 0..1 (below 1)": 0 <= t.rmsprop_alpha < 1,
        "training.adam_epsilon and rmsprop_epsilon are above 0": min(t.adam_epsilon, t.rmsprop_epsilon) > 0,
    }


def _forbidden(config: Config) -> dict[str, bool]:
    """Pairs that cannot work, each with the knob to change, and whether they are there."""
    n, loss, g = config.networks, config.loss, config.growth
    bounded = n.d_weights in ("spectral", "weightnorm", "weightnorm-strict")
    return {
        f"networks.d_norm batch mixes the images of a batch, and the penalty {loss.penalty} is about single ones: set "
        "networks.d_norm layer or none, or loss.penalty none": n.d_norm == "batch" and loss.penalty != "none",
        "networks.d_norm batch divides by a deviation, which undoes the bound of networks.d_weights spectral: set "
        "networks.d_norm none": n.d_norm == "batch" and n.d_weights == "spectral",
        f"loss.clip bounds stored weights, and networks.d_weights {n.d_weights} divides their size away: set loss.clip "
        "0, or networks.d_weights plain or equalized": loss.clip > 0 and bounded,
        f"growth.start_res is about networks that grow: leave it out for networks.family {n.family}": (
            not grows(config) and g.start_res not in (Growth.start_res, g.max_res)
        ),
    }


HIGH_RATE = 5e-4


def doubts(config: Config) -> list[str]:
    """Sentences about what may be meant so, and yet is known to train badly."""
    found = _doubts_of_nets(config) | _doubts_of_the_loss(config)
    return [sentence for sentence, there in found.items() if there]


def _doubts_of_nets(config: Config) -> dict[str, bool]:
    n, phases = config.networks, schedule_of(config).phases
    nets = [("g", n.g_weights, n.g_activation, max(phase.lr_G for phase in phases))]
    nets.append(("d", n.d_weights, n.d_activation, max(phase.lr_D for phase in phases)))
    found = {
        "Without networks.g_norm the pictures of these weights begin almost grey; set networks.g_norm, or "
        f"networks.{'spectral_gain 2' if n.g_weights == 'spectral' else 'init he'}.": n.g_norm == "none" and _fading(n),
        "networks.d_norm batch undoes part of what networks.d_weights weightnorm-strict is for.": (
            n.d_norm == "batch" and n.d_weights == "weightnorm-strict"
        ),
    }
    for name, weights, activation, rate in nets:
        found |= {
            f"networks.{name}_weights weightnorm-strict has no biases; it was made for networks.{name}_activation "
            "tprelu, whose thresholds take their place.": weights == "weightnorm-strict" and activation != "tprelu",
            f"A rate of {rate:g} suits equalized weights; with networks.{name}_weights {weights} the usual ones are "
            "0.0001 to 0.0004 (training.lr, training.d_lr_ratio).": weights != "equalized" and rate > HIGH_RATE,
        }
    return found


def _doubts_of_the_loss(config: Config) -> dict[str, bool]:
    n, loss = config.networks, config.loss
    if loss.kind != "wgan":
        return {}
    spectral = n.d_weights == "spectral"
    return {
        "A spectral D can hardly have slopes of loss.wgan_target; let it learn gains (networks.spectral_learned=true), "
        "or take loss.kind hinge.": spectral and loss.penalty == "wgan-gp" and not n.spectral_learned,
        "A spectral D with loss.kind wgan and no penalty is known to fail; take loss.kind hinge.": (
            spectral and loss.penalty == "none"
        ),
        "Nothing keeps the scores of loss.kind wgan in bounds; set loss.penalty wgan-gp, or loss.clip 0.01.": (
            not spectral and loss.penalty == "none" and not loss.clip
        ),
        "loss.penalty r1 was made for loss.kind logistic; wgan wants slopes of 1, and r1 none.": loss.penalty == "r1",
    }


def _fading(n: Networks) -> bool:
    """Whether G's layers pass on less than they get: no gain makes up for what activations take."""
    if n.g_weights == "spectral":
        return n.spectral_gain <= 1 and not n.spectral_learned
    return n.g_weights == "plain" and n.init != "he"


def _listed(values: Iterable[object]) -> str:
    return ", ".join(map(str, values))


def smallest_maps(config: Config) -> int:
    """Feature maps of the layer at max_res, the narrowest one."""
    n = config.networks
    return int(n.fmap_base / 2.0 ** ((config.growth.max_res.bit_length() - 2) * n.fmap_decay))
