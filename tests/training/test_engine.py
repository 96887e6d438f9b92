"""Engines: which one a name means, what they share, what they say when they cannot."""

import shutil

import pytest
import torch
from torch import Tensor

from progan.errors import UserError
from progan.nn.families import make_discriminator, make_generator
from progan.nn.progressive import Discriminator, Generator
from progan.training import engine as engine_module
from progan.training import explicit
from progan.training.engine import (
    KERNELS,
    Clock,
    Compiled,
    Replayed,
    add,
    adding,
    choose,
    is_standard,
    open_engine,
    replace_tensors,
    shape_of,
    tensors_in,
    uncompiled,
)
from progan.training.steps import CriticLoss, Part, Where

CPU, CUDA, MPS = torch.device("cpu"), torch.device("cuda"), torch.device("mps")
NET = {"max_res": 16, "fmap_base": 32, "fmap_max": 8}
LOSS = CriticLoss(scale=0.5)


def _nets(device: torch.device = CPU) -> tuple[Generator, Discriminator]:
    torch.manual_seed(3)
    nets = Generator(**NET, latent_size=6), Discriminator(**NET)
    return tuple(net.to(device).to(memory_format=torch.channels_last) for net in nets)  # as new_state makes them


def _part(count: int, stage: int = 1, device: torch.device = CPU) -> Part:
    reals = torch.randn(count, 3, 4 << stage, 4 << stage, device=device)
    return Part(reals, torch.randn(count, 6, device=device), torch.rand(count, device=device))


def _where(batch: int, alpha: float | Tensor = 1.0, stage: int = 1) -> Where:
    return Where(stage, alpha, batch, 4)


def _gradients(net: torch.nn.Module) -> list[Tensor]:
    return [p.grad.clone() for p in net.parameters() if p.grad is not None]


@pytest.mark.parametrize(
    ("wanted", "device", "name"),
    [
        ("auto", CPU, "eager"),
        ("auto", CUDA, "eager"),
        ("auto", MPS, "readable"),
        ("readable", CUDA, "readable"),
        ("eager", CUDA, "eager"),
        ("compiled", CPU, "compiled"),
        ("graphs", CUDA, "graphs"),
    ],
)
def test_what_a_name_means(wanted, device, name):
    assert choose(wanted, "tf32", device) == name


def test_what_cannot_be_is_refused():
    with pytest.raises(UserError, match=r"training.engine graphs needs CUDA, and this is cpu; auto "):
        choose("graphs", "tf32", CPU)
    for wanted, device in (("readable", CPU), ("auto", MPS)):
        with pytest.raises(UserError, match=r"readable computes in float32; for precision bfloat16 take eager"):
            choose(wanted, "bfloat16", device)


@pytest.mark.parametrize("device", [CPU, CUDA, MPS], ids=str)
def test_other_techniques_have_the_readable_engine(device):
    assert choose("auto", "tf32", device, standard=False) == "readable"
    assert choose("readable", "float32", device, standard=False) == "readable"
    for wanted in ("eager", "compiled", "graphs"):
        with pytest.raises(UserError, match=rf"training.engine {wanted} .*ProGAN's own .*; take auto or readable"):
            choose(wanted, "tf32", device, standard=False)
    with pytest.raises(UserError, match=r"compute in float32; set training.precision tf32 or float32"):
        choose("auto", "bfloat16", device, standard=False)


@pytest.mark.parametrize(
    ("for_G", "for_D", "loss", "standard"),
    [
        ({}, {}, LOSS, True),
        ({"weights": "plain"}, {"weights": "plain", "mbstd_group": 0}, LOSS, True),
        ({"weights": "spectral"}, {}, LOSS, False),
        ({}, {"weights": "spectral"}, LOSS, False),
        ({"attention": 8}, {}, LOSS, False),
        ({}, {"norm": "layer"}, LOSS, False),
        ({"output": "tanh"}, {}, LOSS, False),
        ({"family": "dcgan"}, {"family": "dcgan"}, LOSS, False),
        ({}, {}, CriticLoss(kind="hinge"), False),
        ({}, {}, CriticLoss(penalty="none"), False),
        ({}, {}, CriticLoss(penalty="r1"), False),
        ({}, {}, CriticLoss(epsilon=0.0, target=750.0), True),
    ],
)
def test_derivatives_are_written_out_for_progan_alone(for_G, for_D, loss, standard):
    with torch.device("meta"):
        assert is_standard(make_generator(**NET, **for_G), make_discriminator(**NET, **for_D), loss) == standard


def test_the_knobs_of_the_loss_do_not_reach_a_g_that_has_none(device, tmp_path):
    engine = open_engine("eager", "float32", device, pytest.fail, tmp_path)
    G, D = _nets(device)
    part = _part(4, device=device)
    stats = engine.g_gradients(G, D, part.latents, _where(4), LOSS)
    found = _gradients(G)
    G.zero_grad()
    assert stats["loss_G"].item() == engine.g_gradients(G, D, part.latents, _where(4))["loss_G"].item()
    assert all(torch.equal(a, b) for a, b in zip(found, _gradients(G)))


@pytest.mark.parametrize("name", ["readable", "eager"])
def test_an_engine_adds_to_the_gradients(name, device, tmp_path):
    engine = open_engine(name, "tf32", device, pytest.fail, tmp_path)
    G, D = _nets(device)
    part = _part(4, device=device)
    engine.d_gradients(G, D, part, _where(4), LOSS)
    once = _gradients(D)
    engine.d_gradients(G, D, part, _where(4), LOSS)
    assert len(once) == len(_gradients(D)) > 0
    assert all(torch.allclose(b, 2 * a, rtol=1e-4, atol=1e-6) for a, b in zip(once, _gradients(D)))


@pytest.mark.parametrize(("precision", "low"), [("float32", 0.0), ("tf32", 0.0), ("bfloat16", 1e-3)])
def test_precision_reaches_the_convolutions(precision, low, tmp_path):
    G, D = _nets()
    part = _part(4)
    open_engine("eager", "float32", CPU, pytest.fail, tmp_path).d_gradients(G, D, part, _where(4), LOSS)
    exact = torch.cat([g.flatten() for g in _gradients(D)])
    D.zero_grad()
    open_engine("eager", precision, CPU, pytest.fail, tmp_path).d_gradients(G, D, part, _where(4), LOSS)
    error = (torch.cat([g.flatten() for g in _gradients(D)]) - exact).norm() / exact.norm()
    assert low <= error <= 300 * low


def test_a_gradient_lies_as_its_parameter_does():
    parameter = torch.nn.Parameter(torch.randn(4, 3, 3, 3).to(memory_format=torch.channels_last))
    gradient = torch.randn(4, 3, 3, 3)
    add(parameter, gradient)
    assert parameter.grad.stride() == parameter.stride() != gradient.stride()
    assert torch.equal(parameter.grad, gradient)
    add(parameter, gradient)
    assert torch.equal(parameter.grad, 2 * gradient)


def test_the_first_words_of_the_compiler_are_passed_on(monkeypatch):
    """torch puts the reason on the second line, and advice on debugging it below."""

    def refuse(*_):
        raise torch._dynamo.exc.TorchDynamoException("raised:\nInductorError: no g++\n\nSet VERBOSE=1")

    monkeypatch.setattr(torch, "compile", lambda *_, **__: refuse)
    said: list[str] = []
    _compiled(lambda *_: ({}, []), said)(None, None, _part(4), _where(8), LOSS)
    assert said == ["The step of D cannot be compiled here (raised: InductorError: no g++); it runs uncompiled."]


def test_winograd_is_for_who_does_not_insist_on_float32(tmp_path):
    kernels = {name: open_engine("eager", name, CPU, pytest.fail, tmp_path).kernels for name in KERNELS}
    assert {name: k.winograd for name, k in kernels.items()} == {"float32": False, "tf32": True, "bfloat16": False}
    assert uncompiled(open_engine("compiled", "bfloat16", CPU, pytest.fail, tmp_path)).kernels == kernels["bfloat16"]


def test_a_trial_has_nothing_to_compile(tmp_path):
    assert uncompiled(open_engine("compiled", "tf32", CPU, pytest.fail, tmp_path)).name == "eager"
    assert uncompiled(open_engine("readable", "tf32", CPU, pytest.fail, tmp_path)).name == "readable"


# ---- compiled


def _compiled(terms, said: list[str], clock: Clock | None = None) -> Compiled:
    return Compiled("D", terms, said.append, clock or Clock())


def test_terms_are_one_graph_without_breaks(monkeypatch):
    """fullgraph: Python between two pieces of it would be a defect. All but the code generator."""
    compile_, said, clock = torch.compile, [], Clock()
    monkeypatch.setattr(torch, "compile", lambda f, **k: compile_(f, **k, backend="aot_eager"))
    G, D = _nets()
    for alpha in (1.0, torch.tensor(0.3)):
        part, where = _part(4), _where(4, alpha)
        for terms, arguments in ((explicit.d_terms, (part, where, LOSS)), (explicit.g_terms, (part.latents, where))):
            stats, found = _compiled(terms, said, clock)(G, D, *arguments)
            wanted, exact = terms(G, D, *arguments)
            assert all(torch.allclose(stats[name], wanted[name], atol=1e-6) for name in wanted)
            assert all(p is q and torch.allclose(a, b, atol=1e-5) for (p, a), (q, b) in zip(found, exact))
    assert len(said) == 4
    assert all(line.startswith("Compiled the step of D: ") for line in said)
    assert clock.seconds > 0


def test_each_shape_is_compiled_once_and_counted():
    said: list[str] = []
    compiled = _compiled(lambda *_: ({}, []), said)
    compiled.terms = lambda *_: ({}, [])  # compiled already, as it were
    for count in (4, 4, 8, 4):
        compiled(None, None, _part(count), _where(8), LOSS)
    assert len(said) == 2


def test_what_cannot_be_compiled_runs_uncompiled_and_says_so_once(monkeypatch):
    def refuse(*_):
        raise torch._dynamo.exc.TorchDynamoException("No working C++ compiler")

    monkeypatch.setattr(torch, "compile", lambda *_, **__: refuse)
    said: list[str] = []
    compiled = _compiled(lambda *_: ({"x": 1}, []), said)
    for count in (4, 8):
        assert compiled(None, None, _part(count), _where(8), LOSS) == ({"x": 1}, [])
    assert said == ["The step of D cannot be compiled here (No working C++ compiler); it runs uncompiled."]


def test_an_error_of_the_step_itself_is_not_swallowed(monkeypatch):
    def fail(*_):
        raise RuntimeError("out of memory")

    monkeypatch.setattr(torch, "compile", lambda *_, **__: fail)
    with pytest.raises(RuntimeError, match="out of memory"):
        _compiled(fail, [])(None, None, _part(4), _where(4), LOSS)


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="no C++ compiler")
def test_compiled_code_gives_the_same(tmp_path, device):
    said: list[str] = []
    engine = open_engine("compiled", "float32", device, said.append, tmp_path)
    G, D = _nets(device)
    part, where = _part(4, device=device), _where(4, torch.tensor(0.3, device=device))
    stats = engine.d_gradients(G, D, part, where, LOSS) | engine.g_gradients(G, D, part.latents, where)
    (of_D, d), (of_G, g) = explicit.d_terms(G, D, part, where, LOSS), explicit.g_terms(G, D, part.latents, where)
    assert all(torch.allclose(stats[name], value, atol=1e-4) for name, value in (of_D | of_G).items())
    assert max(((p.grad - x).norm() / x.norm()).item() for p, x in d + g) < 1e-3
    assert [line.startswith("Compiled the step of") for line in said] == [True, True]
    assert any(tmp_path.iterdir()), "the cache is where it was told to be"


# ---- graphs


def test_arguments_are_taken_apart_and_put_together():
    part, where = _part(4), _where(4, torch.tensor(0.3))
    arguments = ("G", part, where, LOSS)
    tensors = tensors_in(arguments)
    assert [t is u for t, u in zip(tensors, (part.reals, part.latents, part.mix, where.alpha))] == [True] * 4
    other = replace_tensors(arguments, iter([t + 1 for t in tensors]))
    assert torch.equal(other[1].mix, part.mix + 1)
    assert other[2].alpha == where.alpha + 1
    assert (other[0], other[2].stage, other[2].batch, other[3]) == ("G", 1, 4, LOSS)


def test_a_shape_is_all_but_the_contents_of_tensors():
    part, where = _part(4), _where(4, torch.tensor(0.3))
    same = shape_of((part, where, LOSS))
    assert same == shape_of((_part(4), _where(4, torch.tensor(0.9)), LOSS))
    for other in ((_part(8), where, LOSS), (part, _where(4), LOSS), (part, _where(8, where.alpha), LOSS)):
        assert shape_of(other) != same
    assert shape_of((part, where, CriticLoss(scale=0.25))) != same


class _Recorded:
    """A capture without CUDA: it computes anew, but into the memory of the first results, as a replay does."""

    made = 0

    def __init__(self, terms, arguments):
        self.terms, self.results = terms, terms(*arguments)
        _Recorded.made += 1

    def __call__(self, arguments):
        stats, found = self.terms(*arguments)
        for name, value in stats.items():
            self.results[0][name].copy_(value)
        for (_, own), (_, new) in zip(self.results[1], found):
            own.copy_(new)
        return self.results


def test_replays_do_not_write_over_what_was_handed_out(monkeypatch):
    monkeypatch.setattr(engine_module, "Capture", _Recorded)
    monkeypatch.setattr(_Recorded, "made", 0)
    gradients = adding(Replayed(explicit.d_terms))
    G, D = _nets()
    parts, where = [_part(4), _part(4)], _where(8, torch.tensor(0.3))
    kept = [gradients(G, D, part, where, LOSS) for part in parts]
    summed = _gradients(D)
    D.zero_grad()
    for stats, part in zip(kept, parts):
        wanted = adding(explicit.d_terms)(G, D, part, where, LOSS)
        assert all(torch.equal(stats[name], wanted[name]) for name in wanted)
    assert all(torch.allclose(a, b, atol=1e-7) for a, b in zip(summed, _gradients(D)))
    assert _Recorded.made == 1


def test_graphs_of_an_earlier_place_are_dropped(monkeypatch):
    monkeypatch.setattr(engine_module, "Capture", _Recorded)
    monkeypatch.setattr(_Recorded, "made", 0)
    replayed = Replayed(explicit.g_terms)
    G, D = _nets()
    z = torch.randn(4, 6)
    for stage, alpha in ((1, 1.0), (1, 1.0), (1, torch.tensor(0.5)), (1, torch.tensor(0.7)), (2, 1.0)):
        replayed(G, D, z, _where(4, alpha, stage))
    assert (_Recorded.made, len(replayed.captured)) == (3, 1)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="CUDA graphs need CUDA")
@pytest.mark.parametrize("batch", [4, 8])
def test_a_captured_step_equals_the_plain_one(batch, tmp_path):
    engine = open_engine("graphs", "float32", CUDA, print, tmp_path)
    G, D = _nets(CUDA)
    for alpha in (0.2, 0.6):
        parts, where = [_part(4, device=CUDA) for _ in range(batch // 4)], _where(batch, torch.full((), alpha).cuda())
        D.zero_grad()
        G.zero_grad()
        for part in parts:
            engine.d_gradients(G, D, part, where, LOSS)
            engine.g_gradients(G, D, part.latents, where)
        found = _gradients(D) + _gradients(G)
        D.zero_grad()
        G.zero_grad()
        for part in parts:
            adding(explicit.d_terms)(G, D, part, where, LOSS)
            adding(explicit.g_terms)(G, D, part.latents, where)
        assert all((a - b).norm() <= 1e-3 * b.norm() for a, b in zip(found, _gradients(D) + _gradients(G)))
