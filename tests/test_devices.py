"""Devices: what the C library is asked for, where it is the one that understands it."""

import ctypes

from progan.devices import keep_freed_memory


def test_freed_memory_is_kept_where_the_c_library_can(monkeypatch):
    asked = []

    class Glibc:
        def __init__(self, name):
            self.mallopt = lambda *pair: asked.append((name, *pair))

    monkeypatch.setattr(ctypes, "CDLL", Glibc)
    keep_freed_memory()
    assert asked == [("libc.so.6", -3, 1 << 30), ("libc.so.6", -1, (1 << 31) - 1)]


def test_other_c_libraries_are_left_alone(monkeypatch):
    def missing(name):
        raise OSError(name)

    for library in (missing, lambda name: object()):
        monkeypatch.setattr(ctypes, "CDLL", library)
        keep_freed_memory()
