"""What does a training step cost? python benchmarks/bench_step.py --config default --max-res 64 --max-batch 16

One full iteration (D with its penalty, the average, G, both Adams) at each resolution, stable and fading. Contestants
run in turns, A B A B ..., and medians count; the first one is what the others are compared with. A row says:

ms         median of the rounds, and half the distance between the slowest and the fastest
× NAME     how many times faster than the first contestant, the median over rounds
GF         FLOPs of an iteration, 2 a multiply-accumulate, as torch counts them; replayed graphs are not counted
× minimum  that, by the least that plain convolutions need, up- and downscaling being part of them: Winograd's and box
           filters go below 1
busy       counted FLOPs a second, of the device's own peak (the best product of matrices or convolution of this run)
useful     the same of the minimum: waste is not work, and the filters above can pass 100 %
MB         memory of the networks, the optimizers and an iteration, in a process of its own

pro-gan-pth is the package of that name, made to train networks of the same widths. Its pins are of 2021, so pip must
not follow them: pip install --no-deps pro-gan-pth==3.4
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import io
import json
import math
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import Any
from unittest import mock

import psutil
import torch
import torch.nn.functional as F
from torch.utils.flop_counter import FlopCounterMode

from progan import config as config_module
from progan.config import Config
from progan.data.cache import cache_folder
from progan.devices import describe, keep_freed_memory, pick_device
from progan.errors import UserError
from progan.nn import maps
from progan.nn.ops import largest_group
from progan.nn.progressive import Discriminator, Generator, feature_maps
from progan.schedule import by_resolution, stage_of
from progan.training import plan, steps
from progan.training.engine import Engine, choose, open_engine
from progan.training.measure import Trial, noise, peak_bytes, reset_peak, synchronize
from progan.training.preflight import is_out_of_memory
from progan.training.state import TrainState, new_state
from progan.training.steps import CriticLoss, Where

Row = dict[str, Any]
Run = Callable[[], object]  # takes one iteration
Shape = list[int]
PHASES = ("stable", "fading")
GEMMS = {"cpu": (512, 1024, 2048), "accelerator": (4096, 8192)}  # n of [n, n] @ [n, n]
CONVS = {  # images, feature maps, resolution
    "cpu": ((8, 512, 16), (8, 256, 32), (8, 64, 64)),
    "accelerator": ((64, 512, 32), (32, 512, 64), (16, 256, 128)),
}


class Unavailable(Exception):
    """A contestant that cannot run here, and why."""


@dataclass(frozen=True)
class Case:
    """What every contestant does: an iteration of so many images at a stage of the networks of a configuration."""

    config: Config
    device: torch.device
    stage: int
    fading: bool
    batch: int

    @property
    def trial(self) -> Trial:
        """The whole batch in one part."""
        return Trial(
            self.stage, self.fading, self.batch, largest_group(self.batch, self.config.networks.mbstd_group), self.batch
        )


# ---- contestants


def untouched(state: TrainState) -> None:
    """Networks as `new_state` makes them."""


@dataclass(frozen=True)
class Steps:
    """How an iteration is taken on our networks. What is not named is the readable form."""

    d_gradients: Callable[..., steps.Stats] = steps.d_gradients
    g_gradients: Callable[..., steps.Stats] = steps.g_gradients
    update_average: Callable[..., None] = steps.update_average
    prepare: Callable[[TrainState], None] = untouched


def engine(name: str, case: Case) -> Engine:
    """An engine of `progan.training.engine`, with the precision of the configuration."""
    return open_engine(name, case.config.training.precision, case.device, tell, cache_folder() / "compiled")


def whole(name: str, case: Case) -> Steps:
    """Both of an engine's functions."""
    found = engine(name, case)
    return Steps(found.d_gradients, found.g_gradients)


def contiguous(state: TrainState) -> None:
    """Weights map by map, not pixel by pixel."""
    for net in (state.G, state.D, state.G_ema):
        net.to(memory_format=torch.contiguous_format)


def having(way: Steps, module: ModuleType, **constants: float) -> Steps:
    """A contestant while constants of a module have other values."""

    def changed(function: Callable[..., steps.Stats]) -> Callable[..., steps.Stats]:
        def call(*arguments: Any) -> steps.Stats:
            with mock.patch.multiple(module, **constants):
                return function(*arguments)

        return call

    return replace(way, d_gradients=changed(way.d_gradients), g_gradients=changed(way.g_gradients))


NO_BOX, NO_WINOGRAD = {"BOX_MAPS": math.inf, "BOX_PIXELS": 0}, {"WINOGRAD_MAPS": math.inf}
CONTESTANTS: dict[str, Callable[[Case], Steps]] = {
    "readable": lambda case: whole("readable", case),
    "readable-contiguous": lambda case: Steps(prepare=contiguous),
    "explicit-D": lambda case: Steps(d_gradients=engine("eager", case).d_gradients),
    "explicit-G": lambda case: Steps(g_gradients=engine("eager", case).g_gradients),
    "eager-plain": lambda case: having(whole("eager", case), maps, **NO_BOX, **NO_WINOGRAD),
    "eager-box": lambda case: having(whole("eager", case), maps, **NO_WINOGRAD),
    "eager-winograd": lambda case: having(whole("eager", case), maps, **NO_BOX),
    "eager": lambda case: whole("eager", case),
    "compiled": lambda case: whole("compiled", case),
    "graphs": lambda case: whole("graphs", case),
}
"""By name; the first is the yardstick. One raises UserError or Unavailable where the device has no such thing."""


def ours(way: Steps, case: Case) -> Run:
    """An iteration on networks of our own. Adam's rates are 0: hours on one batch end in numbers that are none."""
    arguments = config_module.generator_arguments(case.config), config_module.discriminator_arguments(case.config)
    state = new_state(*arguments, case.config.training.seed, case.device)
    way.prepare(state)
    alpha = torch.tensor(0.5, device=case.device) if case.fading else 1.0
    where, parts = Where(case.stage, alpha, case.batch, case.trial.group), noise(state.G, case.trial, case.device)

    def run() -> None:
        steps.d_step(state.G, state.D, state.opt_D, parts, where, CriticLoss(), way.d_gradients)
        way.update_average(state.G_ema, state.G, 0.999, case.stage)
        steps.g_step(state.G, state.D, state.opt_G, [part.latents for part in parts], where, way.g_gradients)

    return run


def pro_gan_pth(case: Case) -> Run:
    """An iteration of pro_gan_pytorch 3.4's own training, on networks as deep as the resolution wants."""
    try:
        from pro_gan_pytorch import custom_layers, gan, losses, networks
    except ImportError as error:
        raise Unavailable(f"{error}; pip install --no-deps pro-gan-pth==3.4") from None
    n = case.config.networks

    def widths(index: int) -> int:
        return feature_maps(index, n.fmap_base, n.fmap_max, n.fmap_decay)

    # Two patches: its networks have one width only, and today's torch hands this method two arguments more.
    networks.nf = widths
    custom_layers.EqualizedConvTranspose2d._output_padding = lambda self, *_: (0, 0)
    G = networks.Generator(case.stage + 2, n.channels, n.latent_size)
    D = networks.Discriminator(case.stage + 2, n.channels, widths(0))
    device = torch.device("cuda", torch.cuda.current_device()) if case.device.type == "cuda" else case.device
    with contextlib.redirect_stdout(io.StringIO()):  # it prints them
        model = gan.ProGAN(G, D, device)  # a device with an index, or it wraps them in DataParallel
    adams = [torch.optim.Adam(net.parameters(), lr=0.0, betas=(0.0, 0.99), eps=1e-8) for net in (D, G)]
    (part,) = noise_like(case)
    loss, depth, alpha = losses.WganGP(), case.stage + 2, 0.5 if case.fading else 1

    def run() -> None:
        model.optimize_discriminator(loss, adams[0], part.latents, part.reals, depth, alpha)
        custom_layers.update_average(model.gen_shadow, model.gen, beta=model.ema_beta)
        model.optimize_generator(loss, adams[1], part.latents, part.reals, depth, alpha)

    return run


PEERS: dict[str, Callable[[Case], Run]] = {"pro-gan-pth": pro_gan_pth}
"""Contestants with networks of their own. Whatever they raise is a reason to skip them."""


def noise_like(case: Case) -> list[steps.Part]:
    """The inputs that our networks get."""
    return noise(plan.on_meta(case.config)[0], case.trial, case.device)


def start(name: str, case: Case) -> Run:
    """A contestant's iteration, taken twice. Raises Unavailable where that is impossible."""
    torch.manual_seed(case.config.training.seed)  # peers draw as they like
    try:
        run = PEERS[name](case) if name in PEERS else ours(CONTESTANTS[name](case), case)
        for _ in range(2):
            run()
    except (Unavailable, UserError) as error:
        raise Unavailable(str(error)) from None
    except Exception as error:
        if isinstance(error, RuntimeError) and is_out_of_memory(error):
            raise Unavailable("out of memory") from None
        if name not in PEERS:
            raise
        raise Unavailable(f"breaks: {type(error).__name__}: {error}") from error
    return run


# ---- what is measured


def in_turns(runs: dict[str, Run], rounds: int, seconds: float, device: torch.device) -> dict[str, list[float]]:
    """Seconds of an iteration, by contestant and round. A turn is as many iterations as `seconds` hold, or one."""
    counts = {name: max(1, int(seconds / elapsed(run, 1, device))) for name, run in runs.items()}
    found: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(rounds):
        for name, run in runs.items():
            found[name].append(elapsed(run, counts[name], device))
    return found


def elapsed(run: Run, count: int, device: torch.device) -> float:
    """Seconds of each of `count` runs."""
    synchronize(device)
    begin = time.perf_counter()
    for _ in range(count):
        run()
    synchronize(device)
    return (time.perf_counter() - begin) / count


class Untracked:
    """Stands in for the counter's tracker of modules, whose hooks a gradient of a gradient does not get through."""

    parents = ("Global",)

    def __enter__(self) -> None: ...
    def __exit__(self, *_: object) -> None: ...


def winograd_flops(x: Shape, kernels: Shape, *_: object, **__: object) -> int:
    """36 products of matrices: for each tile of 4x4 pixels, [in] by [in, out]."""
    return 2 * 36 * (x[0] * x[2] * x[3] // 16) * kernels[1] * kernels[2]


def winograd_gradient_flops(g: Shape, x: Shape, **_: object) -> int:
    """The same number, the other way round."""
    return 2 * 36 * (x[0] * x[2] * x[3] // 16) * g[1] * x[1]


def linear_flops(x: Shape, weight: Shape, *_: object, **__: object) -> int:
    """x @ weight.T"""
    return 2 * math.prod(x) * weight[0]


FORMULAS = {
    torch.ops.progan.winograd: winograd_flops,
    torch.ops.progan.winograd_gradient: winograd_gradient_flops,
    torch.ops.mkldnn._linear_pointwise: linear_flops,
}
"""Of operations that torch has none for."""


def counted_flops(run: Run) -> int:
    """FLOPs of a run as torch counts them: convolutions and products of matrices, 2 a multiply-accumulate. What is
    compiled is counted uncompiled; a replayed graph is seen by nobody and gives 0.
    """
    counter = FlopCounterMode(display=False, custom_mapping=FORMULAS)
    counter.mod_tracker = Untracked()
    with counter, torch.compiler.set_stance("force_eager"):
        run()
    return counter.get_total_flops()


def minimum_flops(G: Generator, D: Discriminator, stage: int, fading: bool, strided: bool) -> float:
    """FLOPs that an iteration by plain convolutions cannot do without, per image: no gradient that nobody wants.

    G: forward in the D step; forward, data and weight gradients in the G step (no data gradient of the latents).
    D: forward and weight gradients of reals and fakes, and data gradients but at the pictures; forward, data
    gradient, tangent and weight gradient of mixed images, and below minibatch stddev, which is curved, a second data
    and weight gradient; forward and data gradient in the G step.
    strided: with up- and downscaling as part of a 4x4 convolution of stride 2, 16 products in place of 36.
    """
    rgb_stages = [stage, stage - 1] if fading else [stage]
    g, d = (sum(macs_of(net, s, strided) for s in range(1, stage + 1)) for net in (G, D))
    g_rgb, d_rgb = (sum(net.rgb_layer(s).macs(4 << s) for s in rgb_stages) for net in (G, D))
    first, last, curved = G.block(0), D.block(0), D.block(0).stddev
    total = 4 * (first.macs(4) + g + g_rgb) - first.dense.macs()
    total += 6 * (last.macs(4) + d) + 4 * d_rgb  # reals and fakes
    total += 4 * (last.macs(4) + d + d_rgb) + curved * (2 * d + d_rgb)  # mixed
    total += 2 * (last.macs(4) + d + d_rgb)  # the G step
    return 2 * total


def macs_of(net: Generator | Discriminator, stage: int, strided: bool) -> float:
    """Multiply-accumulates of the block of a stage above 4x4."""
    block, resolution = net.block(stage), 4 << stage
    if not strided:
        return block.macs(resolution)
    resampled = {Generator: block.conv0, Discriminator: block.conv1}[type(net)]
    saved = 0 if isinstance(net, Discriminator) and block.pool == "after" else 5 / 9
    return block.macs(resolution) - saved * resampled.macs(resolution)


def peaks(device: torch.device, precision: str) -> dict[str, float]:
    """FLOPs a second of the best product of matrices and of the best 3x3 convolution, of a few shapes."""
    open_engine("eager", precision, device, tell, cache_folder())  # which tells torch how to round
    kind = "cpu" if device.type == "cpu" else "accelerator"
    dtype = torch.bfloat16 if precision == "bfloat16" else torch.float32
    best = {"gemm": 0.0, "conv": 0.0}
    for n in GEMMS[kind]:
        a = torch.randn(n, n, device=device, dtype=dtype)
        best["gemm"] = max(best["gemm"], 2 * n**3 / fastest(lambda a=a: a @ a, device))
    for images, c, r in CONVS[kind]:
        for memory in (torch.contiguous_format, torch.channels_last):
            x = torch.randn(images, c, r, r, device=device, dtype=dtype).to(memory_format=memory)
            w = torch.randn(c, c, 3, 3, device=device, dtype=dtype).to(memory_format=memory)
            seconds = fastest(lambda x=x, w=w: F.conv2d(x, w, padding=1), device)
            best["conv"] = max(best["conv"], 2 * 9 * images * (c * r) ** 2 / seconds)
    return best


@torch.no_grad()
def fastest(run: Run, device: torch.device) -> float:
    return min(elapsed(run, 1, device) for _ in range(5))


def memory(name: str, case: Case, options: argparse.Namespace) -> int | None:
    """Bytes of a contestant, from a process of its own; None where the system cannot tell."""
    inside = f"{name}:{case.stage}:{int(case.fading)}:{case.batch}"
    command = [sys.executable, __file__, *options.arguments, "--inside", inside]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    return json.loads(result.stdout.splitlines()[-1])  # type: ignore[no-any-return]


def inside(options: argparse.Namespace, config: Config, device: torch.device) -> int | None:
    """The most bytes in use during an iteration, less those of the program."""
    name, stage, fading, batch = options.inside.rsplit(":", 3)
    tiny = config_module.load(None, ["growth.max_res=4", "networks.fmap_max=4"])
    ours(Steps(), Case(tiny, device, 0, False, 4))()  # loads what every step needs
    before = psutil.Process().memory_info().rss if device.type == "cpu" else 0
    run = start(name, Case(config, device, int(stage), bool(int(fading)), int(batch)))
    tells = reset_peak(device)
    run()
    return peak_bytes(device) - before if tells else None


# ---- one case after the other


def measured(case: Case, options: argparse.Namespace) -> tuple[list[Row], dict[str, str]]:
    """(a row a contestant, {contestant: why it was skipped}) of one case."""
    runs, skipped = dict[str, Run](), dict[str, str]()
    for name in options.contestants:
        try:
            runs[name] = start(name, case)
        except Unavailable as error:
            skipped[name] = str(error)
    times = in_turns(runs, options.rounds, options.seconds, case.device)
    flops = {name: counted_flops(run) or None for name, run in runs.items()}
    runs.clear()  # others need the memory
    used = {name: memory(name, case, options) if options.memory else None for name in times}
    return [row(name, case, times) | {"flops": flops[name], "memory": used[name]} for name in times], skipped


def row(name: str, case: Case, times: dict[str, list[float]]) -> Row:
    """What a contestant took."""
    G, D = plan.on_meta(case.config)
    first, own = next(iter(times.values())), times[name]
    seconds = statistics.median(own)
    least = [case.batch * minimum_flops(G, D, case.stage, case.fading, strided) for strided in (False, True)]
    return {
        "resolution": 4 << case.stage, "phase": PHASES[case.fading], "batch": case.batch, "contestant": name,
        "seconds": seconds, "spread": (max(own) - min(own)) / 2 / seconds, "rounds": own,
        "speedup": statistics.median(a / b for a, b in zip(first, own)), "images_per_sec": case.batch / seconds,
        "minimum_flops_3x3": least[0], "minimum_flops": least[1],
    }  # fmt: skip


def shares(found: Row, peak: float) -> Row:
    """A row with its shares of a peak of so many FLOPs a second."""
    per_sec = {"busy": found["flops"], "useful": found["minimum_flops"]}
    return found | {key: None if flops is None else flops / found["seconds"] / peak for key, flops in per_sec.items()}


def cases(options: argparse.Namespace, config: Config, device: torch.device) -> Iterator[Case]:
    """What is asked for. Nothing fades in at the lowest resolution."""
    for resolution in options.resolutions or [4 << s for s in range(stage_of(config.growth.max_res) + 1)]:
        batch = options.batch or int(by_resolution(config.growth.batch, resolution))
        for phase in options.phases:
            if phase == "stable" or resolution > 4:
                yield Case(config, device, stage_of(resolution), phase == "fading", min(batch, options.max_batch))


# ---- what is said


HEADS = (
    "resolution", "phase", "batch", "contestant", "ms", "img/s", "× ", "GF", "× minimum", "busy", "useful", "MB",
)  # fmt: skip


def heading(first: str) -> str:
    """The first two lines of the table."""
    heads = [head + first if head == "× " else head for head in HEADS]
    return f"| {' | '.join(heads)} |\n|---:|---|---:|---|{'---:|' * (len(HEADS) - 4)}"


def line(found: Row) -> str:
    """A row of the table."""
    flops, mb = found["flops"], found["memory"]
    cells = [
        f"{found['resolution']}", found["phase"], f"{found['batch']}", found["contestant"],
        f"{1000 * found['seconds']:,.3g} ± {found['spread']:.0%}", f"{found['images_per_sec']:,.4g}",
        f"{found['speedup']:.2f}", f"{flops / 1e9:,.4g}" if flops else "",
        f"{flops / found['minimum_flops']:.2f}" if flops else "",
        f"{found['busy']:.0%}" if flops else "", f"{found['useful']:.0%}", f"{mb / 1e6:,.0f}" if mb is not None else "",
    ]  # fmt: skip
    return f"| {' | '.join(cells)} |"


def processor() -> str:
    """The CPU's name."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def machine(device: torch.device) -> Row:
    return {
        "device": describe(device), "cpu": processor(), "cores": os.cpu_count(), "threads": torch.get_num_threads(),
        "python": platform.python_version(), "torch": torch.__version__,
    }  # fmt: skip


def tell(text: str) -> None:
    """Words of an engine."""
    print(text, file=sys.stderr)


def command_line() -> str:
    """What was called, without where things lie."""
    return " ".join(Path(part).name if "/" in part else part for part in sys.argv)


def listed(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    everyone = [*CONTESTANTS, *PEERS]
    parser.add_argument("--config", default="default", help="whose widths and batches: a preset or a .toml file")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--max-res", type=int, help="of the networks  [default: the configuration's]")
    parser.add_argument("--resolutions", type=listed, metavar="R,R", help="[default: all up to --max-res]")
    parser.add_argument("--phases", type=listed, default=list(PHASES), metavar=",".join(PHASES))
    parser.add_argument("--batch", type=int, help="images, at every resolution  [default: the configuration's]")
    parser.add_argument("--max-batch", type=int, default=sys.maxsize, help="for small machines")
    parser.add_argument("--contestants", type=listed, default=everyone, metavar=",".join(everyone))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=0.5, help="of one turn; an iteration at least")
    parser.add_argument("--memory", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--out", type=Path, metavar="FILE.json")
    parser.add_argument("--inside", help=argparse.SUPPRESS)
    options = parser.parse_args()
    options.arguments = sys.argv[1:]
    try:
        options.case_config = checked(options)
        options.where = pick_device(options.device)
    except (UserError, ValueError) as error:
        parser.error(str(error))
    return options


def checked(options: argparse.Namespace) -> Config:
    """The configuration that is asked for. Raises UserError or ValueError for what cannot be measured."""
    growth = {} if options.max_res is None else {"growth.max_res": options.max_res}
    config = config_module.load(options.config, options.set, growth)
    options.resolutions = [4 << stage_of(int(r)) for r in options.resolutions or []]
    for known, asked in (([*CONTESTANTS, *PEERS], options.contestants), (PHASES, options.phases)):
        if unknown := [name for name in asked if name not in known]:
            raise UserError(f"there is no {unknown[0]}{config_module.nearest(unknown[0], known)}.")
    if max(options.resolutions, default=4) > config.growth.max_res:
        raise UserError(f"the networks end at {config.growth.max_res}x{config.growth.max_res}; see --max-res.")
    return config


def main() -> None:
    options = parsed()
    config, device = options.case_config, options.where
    if device.type == "cpu":
        keep_freed_memory()  # as training does
    if options.inside:
        print(json.dumps(inside(options, config, device)))
        return
    result = results(options, config, device)
    if options.out:
        options.out.write_text(json.dumps(result, indent=2) + "\n")


def results(options: argparse.Namespace, config: Config, device: torch.device) -> Row:
    """All that was measured, shown as it comes."""
    knobs, rows, skipped = config.training, list[Row](), dict[str, list[int]]()
    peak = peaks(device, knobs.precision)
    print(
        f"{describe(device)}, {knobs.precision}; progan train takes {choose(knobs.engine, knobs.precision, device)}; "
        f"peaks: {', '.join(f'{name} {value / 1e9:,.0f} GF/s' for name, value in peak.items())}\n"
    )
    print(heading(options.contestants[0]), flush=True)
    for case in cases(options, config, device):
        found, reasons = measured(case, options)
        for one in found:
            rows.append(shares(one, max(peak.values())))
            print(line(rows[-1]), flush=True)
        for name, reason in reasons.items():
            skipped.setdefault(f"{name}: {reason}", []).append(4 << case.stage)
    for reason, where in skipped.items():
        print(f"skipped at {', '.join(map(str, dict.fromkeys(where)))}: {reason}")
    return {
        "date": datetime.date.today().isoformat(), "command": command_line(), **machine(device),
        "precision": knobs.precision, "engine": choose(knobs.engine, knobs.precision, device), "peaks": peak,
        "rows": rows, "skipped": skipped,
    }  # fmt: skip


if __name__ == "__main__":
    main()
