"""Laws of the checkpoint: whole or not there, plain values only, and nothing that cannot be read is taken for one."""

import errno
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from progan.errors import UserError
from progan.training import checkpoint

STATE = {"cur_nimg": 128, "G": {"w": torch.arange(6.0)}, "opt_G": {"lr": 0.1, "betas": (0.0, 0.99), "state": {}}}


def _state(cur_nimg: int = 128) -> dict:
    return STATE | {"cur_nimg": cur_nimg}


def _save(folder: Path, cur_nimg: int = 128) -> Path:
    return checkpoint.save(folder, _state(cur_nimg), "x = 1\n", "fingerprint")


def _forget(text: str) -> None:
    pass


# --- there and back ---


def test_a_checkpoint_comes_back_as_it_was(tmp_path):
    path = _save(tmp_path)
    assert path == tmp_path / "checkpoint-000000000128.pt"
    content = checkpoint.load(path)
    assert (content["config"], content["data"], content["format"]) == ("x = 1\n", "fingerprint", "progan-checkpoint")
    assert torch.equal(content["state"]["G"]["w"], STATE["G"]["w"])
    assert content["state"]["opt_G"] == STATE["opt_G"]
    assert content["state"]["cur_nimg"] == 128
    assert [p.name for p in tmp_path.iterdir()] == [path.name]  # nothing temporary


def test_a_checkpoint_runs_no_code(tmp_path):
    torch.load(_save(tmp_path), weights_only=True)


def test_checkpoints_are_listed_by_age(tmp_path):
    for cur_nimg in (20_000, 3, 1_000_000):
        _save(tmp_path, cur_nimg)
    for name in ("checkpoint-1.pt", "checkpoint-000000000007.pt.tmp", ".checkpoint-000000000007.pt", "other.pt"):
        (tmp_path / name).write_bytes(b"")
    assert checkpoint.listed(tmp_path) == [checkpoint.path_of(tmp_path, n) for n in (3, 20_000, 1_000_000)]


def test_a_second_save_at_the_same_image_replaces_the_first(tmp_path):
    _save(tmp_path)
    path = checkpoint.save(tmp_path, _state(), "x = 2\n", "fingerprint")
    assert checkpoint.load(path)["config"] == "x = 2\n"
    assert checkpoint.listed(tmp_path) == [path]


# --- what is none ---


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.99])
def test_a_truncated_file_is_a_users_mistake(tmp_path, share):
    path = _save(tmp_path)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(UserError, match=rf"^{re.escape(str(path))} is truncated or no checkpoint"):
        checkpoint.load(path)


@pytest.mark.parametrize(
    "content",
    [{"format": "other"}, {"state": 1}, {}, [1, 2], torch.zeros(2)],
    ids=["other", "none", "{}", "list", "tensor"],
)
def test_a_foreign_file_is_a_users_mistake(tmp_path, content):
    path = tmp_path / "x.pt"
    torch.save(content, path)
    with pytest.raises(UserError, match=r"x.pt is no checkpoint of progan"):
        checkpoint.load(path)


def test_a_text_and_a_pickled_object_are_a_users_mistake(tmp_path):
    (tmp_path / "text.pt").write_text("hello")
    torch.save(Path("code"), tmp_path / "object.pt")
    for name in ("text.pt", "object.pt", "missing.pt"):
        with pytest.raises(UserError, match=f"{name} is truncated or no checkpoint"):
            checkpoint.load(tmp_path / name)


def test_a_newer_version_is_named(tmp_path):
    path = _save(tmp_path)
    content = torch.load(path, weights_only=True) | {"version": 2, "progan": "9.9.9"}
    torch.save(content, path)
    with pytest.raises(UserError, match=r"written by progan 9\.9\.9, which is newer than this one, \d"):
        checkpoint.load(path)


# --- the newest ---


def test_the_newest_that_can_be_read_is_taken_and_the_others_are_said(tmp_path):
    for cur_nimg in (1, 2, 3):
        _save(tmp_path, cur_nimg)
    said = []
    assert checkpoint.newest(tmp_path, said.append)["state"]["cur_nimg"] == 3
    assert said == []
    for cur_nimg in (2, 3):
        checkpoint.path_of(tmp_path, cur_nimg).write_bytes(b"PK broken")
    assert checkpoint.newest(tmp_path, said.append)["state"]["cur_nimg"] == 1
    assert len(said) == 2
    assert "checkpoint-000000000003.pt" in said[0]
    assert "checkpoint-000000000002.pt" in said[1]


def test_without_checkpoints_there_is_none(tmp_path):
    assert checkpoint.newest(tmp_path, _forget) is None
    assert checkpoint.newest(tmp_path / "missing", _forget) is None


def test_where_none_can_be_read_training_does_not_start_over_in_silence(tmp_path):
    for cur_nimg in (1, 2):
        checkpoint.path_of(tmp_path, cur_nimg).write_bytes(b"")
    with pytest.raises(
        UserError, match=r"none of the 2 checkpoints in .* can be used \(.*truncated or no checkpoint.*--fresh starts"
    ):
        checkpoint.newest(tmp_path, _forget)


# --- pruning ---


@pytest.mark.parametrize(
    ("keep", "every", "left"),
    [(1, 0, [6]), (3, 0, [4, 5, 6]), (9, 0, [1, 2, 3, 4, 5, 6]), (2, 2, [2, 4, 5, 6]), (1, 3, [3, 6])],
)
def test_pruning_keeps_the_last_and_the_permanent(tmp_path, keep, every, left):
    for n in range(1, 7):
        _save(tmp_path, 1000 * n)
    (tmp_path / "other.pt").write_bytes(b"")
    checkpoint.prune(
        tmp_path, checkpoint.path_of(tmp_path, 6000), keep, lambda nimg: every > 0 and nimg % (1000 * every) == 0
    )
    assert checkpoint.listed(tmp_path) == [checkpoint.path_of(tmp_path, 1000 * n) for n in left]
    assert (tmp_path / "other.pt").exists()


def test_a_file_beyond_the_run_never_pushes_a_good_checkpoint_out(tmp_path):
    """A truncated file with a high number counted as the newest, and every good one was removed."""
    for n in range(1, 4):
        _save(tmp_path, 1000 * n)
    damaged = checkpoint.path_of(tmp_path, 900_000)
    damaged.write_bytes(b"truncated")
    checkpoint.prune(tmp_path, checkpoint.path_of(tmp_path, 3000), 1, lambda nimg: False)
    assert checkpoint.listed(tmp_path) == [checkpoint.path_of(tmp_path, 3000), damaged]


# --- the disk refuses ---


def test_a_full_disk_leaves_the_previous_checkpoint_as_it_was(tmp_path, monkeypatch):
    path = _save(tmp_path)
    before = path.read_bytes()

    def full(self, data):
        with self.open("wb") as file:
            file.write(bytes(data)[:100])
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    for cur_nimg in (128, 256):
        with pytest.raises(UserError, match=r"cannot be written: No space left on device"):
            _save(tmp_path, cur_nimg)
    assert [p.name for p in tmp_path.iterdir()] == [path.name]
    assert path.read_bytes() == before
    assert checkpoint.load(path)["state"]["cur_nimg"] == 128


SMALL_DISK = """
import resource, sys, torch
from pathlib import Path
from progan.errors import UserError
from progan.training import checkpoint
folder = Path(sys.argv[1])
resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
try:
    checkpoint.save(folder, {"cur_nimg": 2, "G": {"w": torch.zeros(100_000)}}, "", "")
except UserError as error:
    print(f"UserError: {error}")
"""


@pytest.mark.skipif(sys.platform == "win32", reason="no resource limits")
def test_a_file_that_the_system_cuts_off_is_not_left_behind(tmp_path):
    path = checkpoint.save(tmp_path, {"cur_nimg": 1, "G": {"w": torch.ones(1000)}}, "", "")
    before = path.read_bytes()
    command = [sys.executable, "-c", SMALL_DISK, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert re.match(r"UserError: .*checkpoint-000000000002\.pt cannot be written: File too large", done.stdout)
    assert [p.name for p in tmp_path.iterdir()] == [path.name]
    assert path.read_bytes() == before
