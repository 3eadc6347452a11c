"""Lineage in a process whose fsync fails from SIGUSR1 on: `python -m tests.integration.lineage.failing_fsync`.

The kernel itself refuses: a seccomp filter over all threads answers fsync and fdatasync with EIO, which needs no
privilege. Linux on x86-64 and ARM64. What is written still reaches the page cache, unlike on a disk that drops it.
"""

import ctypes
import os
import platform
import runpy
import signal

# fsync, fdatasync, seccomp
NUMBERS = {"x86_64": (74, 75, 317), "aarch64": (82, 83, 277)}
_PR_SET_NO_NEW_PRIVS = 38
_SECCOMP_SET_MODE_FILTER, _SECCOMP_FILTER_FLAG_TSYNC = 1, 1
_LOAD, _JUMP_EQUAL, _RETURN = 0x20, 0x15, 0x06
_ALLOW, _ANSWER_EIO = 0x7FFF0000, 0x00050005


class _Instruction(ctypes.Structure):
    _fields_ = (("code", ctypes.c_uint16), ("jt", ctypes.c_uint8), ("jf", ctypes.c_uint8), ("k", ctypes.c_uint32))


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("filter", ctypes.POINTER(_Instruction)))


def refuse_fsync(*_: object) -> None:
    """Let fsync and fdatasync of this process fail from now on."""
    fsync, fdatasync, seccomp = NUMBERS[platform.machine()]
    filter_ = (_Instruction * 5)(
        _Instruction(_LOAD, 0, 0, 0),  # the number of the system call
        _Instruction(_JUMP_EQUAL, 2, 0, fsync),
        _Instruction(_JUMP_EQUAL, 1, 0, fdatasync),
        _Instruction(_RETURN, 0, 0, _ALLOW),
        _Instruction(_RETURN, 0, 0, _ANSWER_EIO),
    )
    program = _Program(len(filter_), filter_)
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) or libc.syscall(
        ctypes.c_long(seccomp), _SECCOMP_SET_MODE_FILTER, _SECCOMP_FILTER_FLAG_TSYNC, ctypes.byref(program)
    ):
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


if __name__ == "__main__":
    signal.signal(signal.SIGUSR1, refuse_fsync)
    runpy.run_module("services.lineage", run_name="__main__")
