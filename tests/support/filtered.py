"""Run a command whose writing system calls are first shown to whoever started us.

    python filtered.py SOCKET_FD COMMAND...

A seccomp filter sends them to a listener, which goes through the socket; the command and all
its descendants have the filter. Run as a file, so that it imports nothing of the tests.

Not here: what becomes of the calls (`tests.support.write_points`).
Source: seccomp(2), seccomp_unotify(2), Linux include/uapi/linux/{filter,seccomp}.h; x86-64.
"""

import ctypes
import os
import socket
import sys

CALLS = {
    "write": 1, "pwrite64": 18, "sendfile": 40, "fsync": 74, "fdatasync": 75, "truncate": 76,
    "ftruncate": 77, "rename": 82, "mkdir": 83, "link": 86, "symlink": 88, "chmod": 90,
    "fchmod": 91, "openat": 257, "mkdirat": 258, "linkat": 265, "fchmodat": 268,
    "utimensat": 280, "fallocate": 285, "pwritev": 296, "renameat2": 316,
    "copy_file_range": 326,
}  # fmt: skip # a name and its number stay together
"""Calls that change a file system; of openat those that may make a file."""

_SECCOMP, _SET_MODE_FILTER, _NEW_LISTENER = 317, 1, 8
_LOAD, _JUMP_IF_EQUAL, _JUMP_IF_SET, _RETURN = 0x20, 0x15, 0x45, 0x06
_ALLOW, _TO_LISTENER = 0x7FFF0000, 0x7FC00000
_NUMBER_AT, _FLAGS_OF_OPENAT_AT = 0, 32  # in struct seccomp_data
_MAY_MAKE = os.O_CREAT | 0o20000000  # __O_TMPFILE


class _Instruction(ctypes.Structure):
    _fields_ = (
        ("code", ctypes.c_uint16),
        ("if_true", ctypes.c_uint8),
        ("if_false", ctypes.c_uint8),
        ("k", ctypes.c_uint32),
    )


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_uint16), ("code", ctypes.POINTER(_Instruction)))


def _program() -> list[_Instruction]:
    plain = [number for name, number in CALLS.items() if name != "openat"]
    code = [_Instruction(_LOAD, 0, 0, _NUMBER_AT)]
    code.append(_Instruction(_JUMP_IF_EQUAL, len(plain) + 1, 0, CALLS["openat"]))
    for place, number in enumerate(plain):
        code.append(_Instruction(_JUMP_IF_EQUAL, len(plain) - place + 2, 0, number))
    code.append(_Instruction(_RETURN, 0, 0, _ALLOW))
    code.append(_Instruction(_LOAD, 0, 0, _FLAGS_OF_OPENAT_AT))
    code.append(_Instruction(_JUMP_IF_SET, 0, 1, _MAY_MAKE))
    code.append(_Instruction(_RETURN, 0, 0, _TO_LISTENER))
    code.append(_Instruction(_RETURN, 0, 0, _ALLOW))
    return code


def main() -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    code = _program()
    program = _Program(len(code), (_Instruction * len(code))(*code))
    with socket.socket(fileno=int(sys.argv[1])) as to_starter:
        listener = libc.syscall(_SECCOMP, _SET_MODE_FILTER, _NEW_LISTENER, ctypes.byref(program))
        if listener < 0:
            raise OSError(ctypes.get_errno(), "seccomp refuses the filter")
        socket.send_fds(to_starter, [b"listener"], [listener])
        os.close(listener)
    os.execv(sys.argv[2], sys.argv[2:])


if __name__ == "__main__":
    main()
