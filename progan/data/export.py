"""Pyramids written as what other codebases read: StyleGAN zips and official TFRecords."""

from __future__ import annotations

from pathlib import Path

from progan.data.pyramid import Pyramid
from progan.data.source import Progress
from progan.data.stylegan import write_zip
from progan.data.tfrecords import write_tfrecords
from progan.files import atomic, atomic_folder, check_new


def export_zip(pyramid: Pyramid, path: Path, max_res: int, progress: Progress) -> None:
    """A StyleGAN2/3 zip of one level, with labels. Raises UserError where the path exists or the disk refuses."""
    check_new(path)
    with atomic(path) as temporary:
        write_zip(temporary, pyramid.levels[max_res], pyramid.labels, progress)


def export_tfrecords(pyramid: Pyramid, folder: Path, max_res: int, progress: Progress) -> None:
    """A folder of official TFRecords, FOLDER/FOLDER-rNN.tfrecords for each level up to max_res, with labels.

    Raises UserError where the folder exists or the disk refuses.
    """
    check_new(folder)
    levels = {r: level for r, level in pyramid.levels.items() if r <= max_res}
    with atomic_folder(folder) as temporary:
        write_tfrecords(temporary, folder.name, levels, pyramid.labels, progress)


EXPORTS = {"zip": export_zip, "tfrecords": export_tfrecords}
