"""Bytes that rot, what may stand where a cached file was, and a disk that cannot open one."""

import os
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

Damage = Callable[[Path], None]


def flipped(data: bytes, at: int) -> bytes:
    """One bit is another one."""
    wrong = bytearray(data)
    wrong[at] ^= 1
    return bytes(wrong)


def fifo(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def folder(path: Path) -> None:
    """One that somebody has put something into."""
    path.unlink()
    path.mkdir()
    (path / "something").touch()


def empty_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def bound_socket(path: Path) -> None:
    path.unlink()
    at = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        with socket.socket(socket.AF_UNIX) as server:  # by a short name: sun_path has 108 bytes
            server.bind(f"/proc/self/fd/{at}/s")
        os.rename("s", path.name, src_dir_fd=at, dst_dir_fd=at)
    finally:
        os.close(at)


def link_to_itself(path: Path) -> None:
    path.unlink()
    path.symlink_to(path.name)


DAMAGES: dict[str, Damage] = {
    "FIFO": fifo,
    "folder": folder,
    "empty folder": empty_folder,
    "socket": bound_socket,
    "link to itself": link_to_itself,
}


def refusing(monkeypatch: pytest.MonkeyPatch, path: Path, number: int) -> None:
    """Have the disk refuse to open what is now at path, and no other file."""
    real, bad = os.open, os.lstat(path).st_ino

    def opened(name: str | Path, *args: int, **kwargs: int | None) -> int:
        if os.fspath(name) == str(path) and os.path.exists(name) and os.stat(name).st_ino == bad:
            raise OSError(number, "planted", str(name))
        return real(name, *args, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(os, "open", opened)
