"""What a run leaves for people: log.txt, stats.jsonl, PNG files, TensorBoard. Nothing here is read by the training."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from tensorboard.compat.proto.summary_pb2 import Summary
from torch import Tensor
from torch.utils.tensorboard import SummaryWriter
from torch.utils.tensorboard.summary import hparams

from progan.console import Console
from progan.files import atomic, write_text
from progan.images import png
from progan.metrics.results import FILE, Result, add_result, board_tag, forget_beyond


class RunLog:
    """The log of one run directory. TensorBoard's step is cur_nimg, real images shown.

    cur_nimg: where the run goes on; what an interrupted run had logged beyond it is dropped, since it will come again.
    """

    def __init__(self, folder: Path, console: Console, cur_nimg: int) -> None:
        self.folder, self.console = folder, console
        self.text_file = (folder / "log.txt").open("a", encoding="utf-8")
        self.stats_path = folder / "stats.jsonl"
        self._keep_stats_until(cur_nimg)
        forget_beyond(folder / FILE, cur_nimg)
        self.writer = SummaryWriter(str(folder), purge_step=cur_nimg + 1 if cur_nimg else 0)

    def _keep_stats_until(self, cur_nimg: int) -> None:
        if not self.stats_path.exists():
            return
        records = [line for line in self.stats_path.read_text(encoding="utf-8").splitlines() if line.endswith("}")]
        kept = [line for line in records if json.loads(line)["nimg"] <= cur_nimg]
        write_text(self.stats_path, "".join(f"{line}\n" for line in kept))

    def line(self, text: str) -> None:
        """A line for the screen and log.txt."""
        self.console.line(text)
        print(text, file=self.text_file, flush=True)

    def note(self, text: str) -> None:
        """A line for log.txt alone."""
        print(text, file=self.text_file, flush=True)

    def live(self, text: str) -> None:
        """A passing remark for the screen."""
        self.console.live(text)

    def scalars(self, values: Mapping[str, float], nimg: int) -> None:
        """`{"Section/name": number}` for TensorBoard and as one line of stats.jsonl (a number that is not finite:
        null).
        """
        for tag, value in values.items():
            self.writer.add_scalar(tag, value, nimg)
        finite = {tag: value if math.isfinite(value) else None for tag, value in values.items()}
        with self.stats_path.open("a", encoding="utf-8") as file:
            print(json.dumps({"nimg": nimg, **finite}), file=file)

    def result(self, result: Result) -> None:
        """What a metric has found, for metrics.jsonl and TensorBoard."""
        add_result(self.folder / FILE, result)
        for name, value in result.values.items():
            self.writer.add_scalar(board_tag(name), value, result.nimg)

    def picture(self, tag: str, pixels: Tensor, nimg: int) -> None:
        """A picture for TensorBoard. pixels: uint8 [C, H, W]."""
        self.writer.add_image(tag, pixels, nimg)

    def gif(self, tag: str, gif: bytes, size: tuple[int, int], nimg: int) -> None:
        """An animated GIF for TensorBoard, which plays it where it shows pictures. size: (height, width)."""
        image = Summary.Image(encoded_image_string=gif, height=size[0], width=size[1], colorspace=3)
        self._add(Summary(value=[Summary.Value(tag=tag, image=image)]), nimg)

    def text(self, tag: str, text: str) -> None:
        """A text for TensorBoard, shown as it is."""
        self.writer.add_text(tag, "\n".join(f"    {line}" for line in text.splitlines()), 0)

    def hyper_parameters(self, values: Mapping[str, Any], metrics: Mapping[str, float], nimg: int) -> None:
        """TensorBoard's table that compares runs: knobs against results."""
        plain = {k: v if isinstance(v, int | float | str | bool) else json.dumps(v) for k, v in values.items()}
        for summary in hparams(plain, dict(metrics)):  # type: ignore[no-untyped-call]
            self._add(summary, None)
        for tag, value in metrics.items():
            self.writer.add_scalar(tag, value, nimg)

    def _add(self, summary: Summary, nimg: int | None) -> None:
        """What SummaryWriter has no method for."""
        self.writer._get_file_writer().add_summary(summary, nimg)  # type: ignore[no-untyped-call]

    def flush(self) -> None:
        """Hand everything to the disk."""
        self.writer.flush()

    def close(self) -> None:
        """Write what is pending and let go of the files."""
        self.writer.close()
        self.text_file.close()


def save_png(path: Path, pixels: Tensor, texts: Mapping[str, str]) -> None:
    """Write uint8 pixels [C, H, W] as a PNG with text chunks, atomically."""
    with atomic(path) as temporary:
        temporary.write_bytes(png(pixels, texts))


def as_floats(stats: Mapping[str, Tensor], weight: float) -> dict[str, float]:
    """Sums on the device -> means on the host, in one transfer."""
    if not stats:
        return {}
    values = torch.stack([stats[name].float() for name in stats]).cpu() / weight
    return dict(zip(stats, values.tolist()))
