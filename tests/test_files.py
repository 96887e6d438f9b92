"""Laws of written files: whole or not there, and what was there before is untouched by a failure."""

import errno
import os

import pytest

from progan import files
from progan.errors import UserError
from progan.files import atomic, atomic_folder, write_text


def _names(folder) -> list[str]:
    return sorted(p.name for p in folder.iterdir())


# --- a file ---


def test_a_file_appears_whole_with_its_folders(tmp_path):
    path = tmp_path / "a" / "b" / "x.txt"
    with atomic(path) as temporary:
        temporary.write_text("new")
        assert temporary.parent == path.parent  # a rename must not cross file systems
        assert not path.exists()
    assert path.read_text() == "new"
    assert _names(path.parent) == ["x.txt"]


def test_text_is_written_as_utf8(tmp_path):
    write_text(tmp_path / "x.txt", "größer → 4×4\n")
    assert (tmp_path / "x.txt").read_bytes() == "größer → 4×4\n".encode()


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_an_error_leaves_the_previous_file_and_nothing_else(tmp_path, error):
    path = tmp_path / "x.txt"
    path.write_text("old")

    def interrupted():
        with atomic(path) as temporary:
            temporary.write_text("half")
            raise error

    with pytest.raises(error):
        interrupted()
    assert path.read_text() == "old"
    assert _names(tmp_path) == ["x.txt"]


def test_a_disk_that_refuses_is_a_users_mistake_that_names_the_file(tmp_path):
    path = tmp_path / "x.txt"
    path.write_text("old")

    def full():
        with atomic(path) as temporary:
            temporary.write_text("half")
            raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(UserError, match=r"x.txt cannot be written: No space left on device; nothing .* has changed"):
        full()
    assert path.read_text() == "old"
    assert _names(tmp_path) == ["x.txt"]


def test_a_rename_that_fails_leaves_the_previous_file(tmp_path, monkeypatch):
    path = tmp_path / "x.txt"
    path.write_text("old")

    def refuse(*_):
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(os, "replace", refuse)
    with pytest.raises(UserError, match="Permission denied"):
        write_text(path, "new")
    assert path.read_text() == "old"
    assert _names(tmp_path) == ["x.txt"]


def test_a_file_in_place_of_the_folder_is_a_users_mistake(tmp_path):
    (tmp_path / "file").write_text("old")
    with pytest.raises(UserError, match="cannot be written"):
        write_text(tmp_path / "file" / "x.txt", "new")
    assert (tmp_path / "file").read_text() == "old"


def test_a_file_is_on_the_disk_before_it_has_its_name(tmp_path, monkeypatch):
    path, order = tmp_path / "x.txt", []
    flush, replace = files.flush, os.replace
    monkeypatch.setattr(files, "flush", lambda p: (order.append(("flush", p.name)), flush(p)))
    monkeypatch.setattr(os, "replace", lambda a, b: (order.append(("rename", b.name)), replace(a, b)))
    write_text(path, "new")
    assert [what for what, _ in order] == ["flush", "rename", "flush"]
    assert order[2][1] == tmp_path.name  # the folder's list of names


# --- a folder ---


def test_a_folder_appears_whole(tmp_path):
    path = tmp_path / "a" / "data"
    with atomic_folder(path) as temporary:
        (temporary / "x").write_text("1")
        assert not path.exists()
    assert _names(path) == ["x"]
    assert _names(path.parent) == ["data"]


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_an_interrupted_folder_is_not_left_behind(tmp_path, error):
    def interrupted():
        with atomic_folder(tmp_path / "data") as temporary:
            (temporary / "x").write_text("1")
            raise error

    with pytest.raises(error):
        interrupted()
    assert _names(tmp_path) == []


def test_a_folder_that_the_disk_refuses_is_a_users_mistake(tmp_path):
    def full():
        with atomic_folder(tmp_path / "data") as temporary:
            (temporary / "x").write_text("1")
            raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(UserError, match="data cannot be written: No space left on device"):
        full()
    assert _names(tmp_path) == []


def test_an_existing_folder_is_not_replaced(tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "mine").write_text("1")

    def write():
        with atomic_folder(tmp_path / "data") as temporary:
            (temporary / "x").write_text("1")

    with pytest.raises(UserError, match="data cannot be written"):
        write()
    assert _names(tmp_path / "data") == ["mine"]
    assert _names(tmp_path) == ["data"]
