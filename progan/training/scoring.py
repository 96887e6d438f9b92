"""Metrics while training: the averaged generator as it is at the end of a phase, and every so many ticks."""

from __future__ import annotations

import time

import torch

from progan.config import Config
from progan.console import Console
from progan.data.order import Order
from progan.data.pyramid import Pyramid
from progan.data.sources import is_faces
from progan.errors import UserError
from progan.metrics.cases import case_of, ground
from progan.metrics.evaluate import About, Tools, check_names, result_of
from progan.metrics.results import headline
from progan.nn.families import Generator
from progan.schedule import SchedulePoint
from progan.training.runlog import RunLog

REPEATS = 1  # times 128 directions of the SWD: a quarter of the official ones, and of the time


class Scoring:
    """The metrics of one run. Raises UserError at once for what could not be measured later."""

    def __init__(self, config: Config, data: Pyramid, order: Order, device: torch.device, console: Console) -> None:
        self.knobs, self.images = config.metrics, min(config.metrics.images, max(2, order.count // 2))
        faces = is_faces(str(data.about.get("source", config.data.source)))
        self.ground = ground(data, order, config.data.mirror, faces)
        self.tools = Tools(device, console, repeats=REPEATS)
        self.total_sec = 0.0
        check_names(self.knobs.names, self.tools, faces)

    def measure(self, G: Generator, point: SchedulePoint, nimg: int, log: RunLog) -> None:
        """Measure G, show the numbers and keep them. What fails is said, and ends nothing."""
        start, tools = time.perf_counter(), self.tools
        case = case_of(G, point.stage, point.alpha, 1.0, self.ground, self.images, tools.seed, tools.console)
        for name in self.knobs.names:
            try:
                result, _ = result_of(name, case, tools, {}, About(nimg))
            except UserError as error:
                log.line(f"Not measured: {error}")
                continue
            log.result(result)
            log.line(f"kimg {nimg / 1000:.1f}  {headline(result)}  {result.sec:.1f} s")
        self.total_sec += time.perf_counter() - start
