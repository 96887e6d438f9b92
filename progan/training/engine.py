"""How the gradients of a step are found: by one of four engines, which differ in speed and in rounding only.

readable   autograd, by the code in `steps`
eager      derivatives written out, by the code in `explicit`
compiled   the same, compiled whole by torch.compile
graphs     the same, compiled where that is possible, and replayed as CUDA graphs

`auto` is eager on a CPU and on CUDA, readable elsewhere. (On CUDA it will be graphs once that has been run: see
docs/gpu-todo.md.) Derivatives are written out for ProGAN's own networks and loss (`is_standard`); any others have the
readable engine alone.
"""

from __future__ import annotations

import dataclasses
import os
import time
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from progan.errors import UserError
from progan.nn.families import Discriminator, Generator
from progan.nn.maps import Kernels
from progan.training import explicit, steps
from progan.training.explicit import Gradients
from progan.training.steps import CriticLoss, DGradients, GGradients, Part, Stats, Where

KERNELS = {
    "float32": Kernels(),
    "tf32": Kernels(winograd=True),
    "bfloat16": Kernels(dtype=torch.bfloat16),
}
"""training.precision -> how convolutions are computed. float32: as exactly as that allows. tf32: faster ways that round
more coarsely, TF32 on CUDA and Winograd on a CPU. bfloat16: on every device.
"""
Say = Callable[[str], None]
Terms = Callable[..., tuple[Stats, Gradients]]
"""`explicit.d_terms` or `g_terms`, or what does the same."""


@dataclass
class Clock:
    """What compiling has cost so far."""

    seconds: float = 0.0


@dataclass(frozen=True)
class Engine:
    """The two functions of a training that cost time. They add to `.grad`, as those of `steps` do."""

    name: str
    d_gradients: DGradients = steps.d_gradients
    g_gradients: GGradients = steps.g_gradients
    clock: Clock = field(default_factory=Clock)
    kernels: Kernels = explicit.PLAIN


def is_standard(G: Generator, D: Discriminator, loss: CriticLoss) -> bool:
    """Whether `explicit` has the derivatives of these networks and of this loss."""
    return G.standard and D.standard and loss.kind == "wgan" and loss.penalty == "wgan-gp"


def open_engine(
    wanted: str, precision: str, device: torch.device, say: Say, cache: Path, standard: bool = True
) -> Engine:
    """The engine of a name for a device. cache: folder where compiled code is kept from run to run. standard: of the
    networks and the loss, `is_standard`.

    Raises UserError where the device or the engine has no such thing. What cannot be compiled is said once and done
    eagerly.
    """
    name = choose(wanted, precision, device, standard)
    if device.type == "cuda":
        torch.set_float32_matmul_precision("highest" if precision == "float32" else "high")
        torch.backends.cudnn.allow_tf32 = precision != "float32"
    if name == "readable":
        return Engine(name)
    clock, kernels = Clock(), KERNELS[precision]
    d_terms, g_terms = written_out(kernels)
    if name != "eager":
        os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(cache))
        d_terms, g_terms = Compiled("D", d_terms, say, clock), Compiled("G", g_terms, say, clock)
    if name == "graphs":
        d_terms, g_terms = Replayed(d_terms), Replayed(g_terms)
    return Engine(name, adding(d_terms), adding(without_loss(g_terms)), clock, kernels)


def choose(wanted: str, precision: str, device: torch.device, standard: bool = True) -> str:
    """The engine that a name means on a device. Raises UserError for what cannot be."""
    if not standard and wanted not in ("auto", "readable"):
        raise UserError(
            f"training.engine {wanted} has the derivatives of ProGAN's own networks with the penalty wgan-gp only, and "
            "other techniques are asked for; take auto or readable."
        )
    if wanted == "graphs" and device.type != "cuda":
        raise UserError(f"training.engine graphs needs CUDA, and this is {device.type}; auto takes the best there is.")
    best = "eager" if standard and device.type in ("cpu", "cuda") else "readable"
    name = best if wanted == "auto" else wanted
    if name == "readable" and precision == "bfloat16":
        raise UserError(WIDE if standard else WIDE_ONLY)
    return name


WIDE = "training.engine readable computes in float32; for precision bfloat16 take eager or compiled."
WIDE_ONLY = "Other techniques than ProGAN's own compute in float32; set training.precision tf32 or float32."


def uncompiled(engine: Engine) -> Engine:
    """What computes the same at once, with nothing to compile or capture first: for a trial."""
    if engine.name == "readable":
        return engine
    d_terms, g_terms = written_out(engine.kernels)
    return Engine("eager", adding(d_terms), adding(without_loss(g_terms)), kernels=engine.kernels)


def written_out(kernels: Kernels) -> tuple[Terms, Terms]:
    """The terms of D and of G by `explicit`."""
    return partial(explicit.d_terms, kernels=kernels), partial(explicit.g_terms, kernels=kernels)


def without_loss(terms: Terms) -> Terms:
    """G's terms, called as those of a loss with knobs: the only one that is written out has none for G."""

    def of_scores(G: Generator, D: Discriminator, latents: Tensor, where: Where, _: CriticLoss | None = None) -> Any:
        return terms(G, D, latents, where)

    return of_scores


def adding(terms: Terms) -> Callable[..., Stats]:
    """The function that adds to `.grad` what `terms` returns."""

    def gradients(*arguments: Any) -> Stats:
        stats, found = terms(*arguments)
        for parameter, gradient in found:
            add(parameter, gradient)
        return stats

    return gradients


def add(parameter: Tensor, gradient: Tensor) -> None:
    """parameter.grad += gradient, laid out in memory as the parameter is: Adam walks through both side by side."""
    if parameter.grad is not None:
        parameter.grad.add_(gradient)
    elif gradient.stride() == parameter.stride():
        parameter.grad = gradient
    else:
        parameter.grad = torch.empty_like(parameter).copy_(gradient)


class Compiled:
    """Terms compiled whole, once for each shape of its arguments; eager for good where that fails."""

    def __init__(self, name: str, terms: Terms, say: Say, clock: Clock) -> None:
        torch._dynamo.config.recompile_limit = max(64, torch._dynamo.config.recompile_limit)  # two a phase, and parts
        self.name, self.eager, self.say, self.clock = name, terms, say, clock
        self.terms: Terms = torch.compile(terms, fullgraph=True, dynamic=False)
        self.known: set[Hashable] = set()

    def __call__(self, *arguments: Any) -> tuple[Stats, Gradients]:
        key = shape_of(arguments)
        if self.terms is self.eager or key in self.known:
            return self.terms(*arguments)
        start = time.perf_counter()
        result = self.first(arguments)
        self.known.add(key)
        seconds = time.perf_counter() - start
        self.clock.seconds += seconds
        if self.terms is not self.eager:
            self.say(f"Compiled the step of {self.name}: {seconds:.0f} s ({self.clock.seconds:.0f} s in all).")
        return result

    def first(self, arguments: tuple[Any, ...]) -> tuple[Stats, Gradients]:
        """The call that compiles."""
        try:
            return self.terms(*arguments)
        except torch._dynamo.exc.TorchDynamoException as error:  # what the compiler raises is among them
            reason = " ".join(str(error).split("\n\n")[0].split())  # what follows is advice on debugging torch
            self.say(f"The step of {self.name} cannot be compiled here ({reason}); it runs uncompiled.")
            self.terms = self.eager
            return self.terms(*arguments)


class Replayed:
    """Terms captured as a CUDA graph, once for each shape of its arguments. Graphs of an earlier place are dropped."""

    def __init__(self, terms: Terms) -> None:
        self.terms = terms
        self.place: Hashable = None
        self.captured: dict[Hashable, Capture] = {}

    def __call__(self, G: Generator, D: Discriminator, inputs: Part | Tensor, where: Where, *rest: Any) -> Any:
        place = (id(G), id(D), where.stage, isinstance(where.alpha, Tensor))
        if place != self.place:
            self.place, self.captured = place, {}
        arguments = (G, D, inputs, where, *rest)
        key = shape_of(arguments)
        if key not in self.captured:
            self.captured[key] = Capture(self.terms, arguments)
        stats, gradients = self.captured[key](arguments)
        whole = len(inputs if isinstance(inputs, Tensor) else inputs.mix) == where.batch
        values = torch.stack(list(stats.values())).unbind()  # copies: the next replay writes over the graph's own
        return dict(zip(stats, values)), gradients if whole else [(p, g.clone()) for p, g in gradients]


class Capture:
    """One CUDA graph: arguments are copied in, results stay where they are until the next call."""

    def __init__(self, terms: Terms, arguments: tuple[Any, ...]) -> None:
        self.inputs = [tensor.clone() for tensor in tensors_in(arguments)]
        own = replace_tensors(arguments, iter(self.inputs))
        stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(3):  # compiles, chooses kernels, allocates workspaces: none of it may happen in a capture
                terms(*own)
        torch.cuda.current_stream().wait_stream(stream)
        self.graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self.graph):
            self.results = terms(*own)

    def __call__(self, arguments: tuple[Any, ...]) -> tuple[Stats, Gradients]:
        for own, given in zip(self.inputs, tensors_in(arguments)):
            own.copy_(given, non_blocking=True)
        self.graph.replay()
        return self.results


def tensors_in(arguments: tuple[Any, ...]) -> list[Tensor]:
    """The tensors among arguments and in their dataclasses, in order. (Not those of networks.)"""
    found: list[Tensor] = []
    for argument in arguments:
        if isinstance(argument, Tensor):
            found.append(argument)
        elif dataclasses.is_dataclass(argument):
            found += tensors_in(tuple(vars(argument).values()))
    return found


def replace_tensors(arguments: tuple[Any, ...], tensors: Any) -> tuple[Any, ...]:
    """The arguments with other tensors in the places of theirs."""

    def other(argument: Any) -> Any:
        if isinstance(argument, Tensor):
            return next(tensors)
        if dataclasses.is_dataclass(argument) and not isinstance(argument, type):
            return dataclasses.replace(argument, **{k: other(v) for k, v in vars(argument).items()})
        return argument

    return tuple(other(argument) for argument in arguments)


def shape_of(arguments: tuple[Any, ...]) -> Hashable:
    """All that compiled or captured code depends on: shapes of tensors, values of everything else."""

    def shape(argument: Any) -> Hashable:
        if isinstance(argument, Tensor):
            return argument.shape, argument.dtype
        if dataclasses.is_dataclass(argument):
            return tuple(shape(value) for value in vars(argument).values())
        return id(argument) if isinstance(argument, torch.nn.Module) else argument

    return tuple(shape(argument) for argument in arguments)
