"""What a step costs, without a clock: multiply-adds and kernel launches, counted on networks of the paper's size
without data. A change that makes either larger is a slow-down on every machine.
"""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from progan.nn.progressive import Discriminator, Generator
from progan.training import steps
from progan.training.explicit import d_terms, g_terms
from progan.training.preflight import random_part
from progan.training.steps import CriticLoss, Part, Where, frozen

META, BATCH = torch.device("meta"), 16
COSTS = {
    0: (1.34, 254),
    1: (8.14, 426),
    2: (35.3, 545),
    3: (144, 664),
    4: (275, 783),
    5: (405, 902),
    6: (570, 1041),
    8: (899, 1319),
}
"""Stage -> GFLOP of an iteration per image: 12 passes through D and 1 through G in the D step, 2 and 3 in the G step,
resampling folded into the convolutions (9 products instead of 36 where layers are wide, 16 elsewhere), the fade's own
layers aside; and kernels that a fading iteration of explicit.py launches today.
"""
NO_KERNEL = {"empty", "empty_like", "empty_strided", "new_empty", "detach", "promote_types", "scalar_tensor"}


class Count(TorchDispatchMode):
    """Floating-point operations of convolutions and matrix products, and operations that launch a kernel."""

    def __init__(self):
        super().__init__()
        self.flops = self.launches = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out, packet = func(*args, **(kwargs or {})), func._overloadpacket
        if packet in flop_registry:
            self.flops += flop_registry[packet](*args, **(kwargs or {}), out_val=out)
        is_view = any(r.alias_info is not None and not r.alias_info.is_write for r in func._schema.returns)
        self.launches += not is_view and packet.__name__ not in NO_KERNEL
        return out


@pytest.fixture(scope="module")
def nets() -> tuple[Generator, Discriminator]:
    with META:
        return tuple(net.to(memory_format=torch.channels_last) for net in (Generator(), Discriminator()))


def _place(G: Generator, stage: int, fading: bool) -> tuple[Part, Where]:
    alpha = torch.zeros((), device=META) if fading else 1.0
    return random_part(G, stage, BATCH, META), Where(stage, alpha, BATCH, 4)


def _explicit(nets, stage: int, fading: bool) -> Count:
    part, where = _place(nets[0], stage, fading)
    with Count() as count:
        d_terms(*nets, part, where, CriticLoss())
        g_terms(*nets, part.latents, where)
    return count


def _readable(nets, stage: int, fading: bool) -> Count:
    (G, D), (part, where) = nets, _place(nets[0], stage, fading)
    with Count() as count:
        steps.d_gradients(G, D, part, where, CriticLoss())
        with frozen(D):
            steps.g_gradients(G, D, part.latents, where)
    for net in nets:
        net.zero_grad()
    return count


@pytest.mark.parametrize("stage", COSTS)
@pytest.mark.parametrize("fading", [False, True], ids=["stable", "fade"])
def test_no_multiplication_is_done_in_vain(nets, stage, fading):
    gflop, _ = COSTS[stage]
    assert _explicit(nets, stage, fading).flops / BATCH / 1e9 == pytest.approx(gflop, rel=5e-3)


@pytest.mark.parametrize("stage", COSTS)
def test_launches_do_not_creep_up(nets, stage):
    _, launches = COSTS[stage]
    assert _explicit(nets, stage, fading=True).launches == pytest.approx(launches, rel=0.05)


@pytest.mark.parametrize("stage", [1, 3, 6])
def test_the_readable_step_does_more_of_both(nets, stage):
    """What simplicity costs: resampling apart from convolutions, a pass each for reals, fakes and mixed images."""
    fast, plain = _explicit(nets, stage, fading=True), _readable(nets, stage, fading=True)
    assert 1.45 < plain.flops / fast.flops < 1.9
    assert 1.1 < plain.launches / fast.launches < 2.5


def test_a_stable_step_has_no_old_branch(nets):
    assert _explicit(nets, 3, fading=False).launches < _explicit(nets, 3, fading=True).launches - 20
