"""What of a SQLite file survives a power cut: its content at the last sync, kept beside it.

SQLite's own file methods are replaced in this process, so that each sync copies what it has made
durable to another folder. Nothing else reaches that folder.
"""

from __future__ import annotations

import ctypes
import subprocess
from pathlib import Path
from typing import Any, Final

_MAPS: Final = Path("/proc/self/maps")

_METHODS: Final = 18  # of version 3: the pointers behind the version's number
_SYNC: Final = 4

_DISKS: Final[list[Disk]] = []
_SyncMethod = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_int)
_OpenMethod = ctypes.CFUNCTYPE(
    ctypes.c_int,
    ctypes.c_void_p,
    ctypes.c_void_p,  # a name that SQLite keeps: a copy of it would not stay
    ctypes.c_void_p,
    ctypes.c_int,
    ctypes.c_void_p,
)


class _Methods(ctypes.Structure):
    _fields_ = [("version", ctypes.c_int), ("methods", ctypes.c_void_p * _METHODS)]


class _File(ctypes.Structure):
    _fields_ = [("methods", ctypes.POINTER(_Methods))]


class _VFS(ctypes.Structure):
    _fields_ = [
        ("version", ctypes.c_int),
        ("file_size", ctypes.c_int),
        ("longest_path", ctypes.c_int),
        ("next", ctypes.c_void_p),
        ("name", ctypes.c_char_p),
        ("data", ctypes.c_void_p),
        ("open", ctypes.c_void_p),
    ]


def library() -> ctypes.CDLL | None:
    """Return the SQLite that this Python uses, if it is a shared library."""
    import _sqlite3  # noqa: PLC0415  # brings the library into the process

    mapped = _MAPS.read_text().splitlines() if _MAPS.exists() else []
    found = {line.split()[-1] for line in mapped if "libsqlite3" in line}
    del _sqlite3
    return ctypes.CDLL(found.pop()) if len(found) == 1 else None


class Disk:
    """Copies a file to a folder whenever SQLite has synced it, from now on in this process."""

    def __init__(self, folder: Path) -> None:
        sqlite = library()
        assert sqlite is not None
        self._folder = folder
        self._names: dict[int, str] = {}
        self._kept: list[Any] = []
        self._tables: dict[int, _Methods] = {}
        sqlite.sqlite3_vfs_find.restype = ctypes.POINTER(_VFS)
        vfs = sqlite.sqlite3_vfs_find(None).contents
        self._open = _OpenMethod(vfs.open)
        opens = _OpenMethod(self._opened)
        self._kept.append(opens)
        _DISKS.append(self)  # SQLite calls it as long as this process lives
        vfs.open = ctypes.cast(opens, ctypes.c_void_p).value

    def _opened(self, vfs: int, name: int | None, file: int, flags: int, out: int | None) -> int:
        done: int = self._open(vfs, name, file, flags, out)
        opened = _File.from_address(file)
        path = ctypes.string_at(name).decode() if name else ""
        # A journal is there only while the file is made.
        if done == 0 and opened.methods and path and not path.endswith("-journal"):
            self._names[file] = path
            opened.methods = ctypes.pointer(self._watched(opened.methods))
        return done

    def _watched(self, methods: Any) -> _Methods:
        address = ctypes.addressof(methods.contents)
        if address not in self._tables:
            table = _Methods.from_buffer_copy(methods.contents)
            real = _SyncMethod(table.methods[_SYNC])

            def sync(file: int, flags: int) -> int:
                done: int = real(file, flags)
                # By another process: to close the file in this one would end its locks.
                subprocess.run(["cp", self._names[file], self._folder], check=True)
                return done

            method = _SyncMethod(sync)
            self._kept.append(method)
            table.methods[_SYNC] = ctypes.cast(method, ctypes.c_void_p).value
            self._tables[address] = table
        return self._tables[address]
