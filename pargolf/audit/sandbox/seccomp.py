"""A seccomp filter with a list of allowed system calls: every other call is refused.

The kernel runs a small program (classic BPF) before each call. The program sees the call's number and its arguments as
numbers, but not the memory that a pointer leads to. So the list below contains calls on memory, threads, time, files
and the process itself. Which files these may touch is decided by Landlock and the mount namespace. Some calls are
allowed only with certain arguments: threads but no processes, signals to this process only. The filter also applies to
root, until the process ends. Sources: seccomp(2); numbers from Linux's `unistd_64.h` (x86_64) and
`asm-generic/unistd.h` (aarch64).
"""

import ctypes
import errno
import os
import platform
import struct
from collections.abc import Iterable

from pargolf.audit.sandbox import libc

Instruction = tuple[int, int, int, int]  # operation, jump when true, jump when false, operand

_ALLOW, _KILL, _ERRNO = 0x7FFF0000, 0x80000000, 0x00050000
_LOAD, _JUMP_EQUAL, _JUMP_ANY_BIT, _JUMP_AT_LEAST, _RETURN = 0x20, 0x15, 0x45, 0x35, 0x06
_MACHINES = {"x86_64": (0, 0xC000003E, 317), "aarch64": (1, 0xC00000B7, 277)}  # column, architecture, seccomp's number
_SECOND_TABLE = 0x40000000  # x86_64 has a second set of its calls above this number
_NEWER = 424  # from this number on all architectures agree; the C library expects ENOSYS from unknown calls
_CALL, _FIRST, _SECOND = 0, 16, 24  # where the kernel puts the call number, and the lower half of two arguments

# name, number on x86_64, number on aarch64 (- where there is none)
_ALLOWED = """
read 0 63, write 1 64, readv 19 65, writev 20 66, pread64 17 67, pwrite64 18 68, preadv 295 69, pwritev 296 70,
preadv2 327 286, pwritev2 328 287, lseek 8 62, open 2 -, openat 257 56, creat 85 -, close 3 57, close_range 436 436,
dup 32 23, dup2 33 -, dup3 292 24, pipe 22 -, pipe2 293 59, sendfile 40 71, copy_file_range 326 285,
stat 4 -, fstat 5 80, lstat 6 -, newfstatat 262 79, statx 332 291, statfs 137 43, fstatfs 138 44, access 21 -,
faccessat 269 48, faccessat2 439 439, readlink 89 -, readlinkat 267 78, getdents 78 -, getdents64 217 61,
getcwd 79 17, chdir 80 49, fchdir 81 50, mkdir 83 -, mkdirat 258 34, rmdir 84 -, unlink 87 -, unlinkat 263 35,
rename 82 -, renameat 264 38, renameat2 316 276, truncate 76 45, ftruncate 77 46, fallocate 285 47, fsync 74 82,
fdatasync 75 83, sync_file_range 277 84, flock 73 32, fadvise64 221 223, readahead 187 213, umask 95 166,
mmap 9 222, munmap 11 215, mprotect 10 226, mremap 25 216, madvise 28 233, brk 12 214, msync 26 227, mincore 27 232,
membarrier 324 283, poll 7 -, ppoll 271 73, select 23 -, pselect6 270 72, epoll_create 213 -, epoll_create1 291 20,
epoll_ctl 233 21, epoll_wait 232 -, epoll_pwait 281 22, epoll_pwait2 441 441, eventfd 284 -, eventfd2 290 19,
futex 202 98, set_robust_list 273 99, get_robust_list 274 100, rseq 334 293, set_tid_address 218 96,
sched_yield 24 124, sched_getaffinity 204 123, sched_getparam 143 121, sched_getscheduler 145 120,
sched_get_priority_max 146 125, sched_get_priority_min 147 126, getcpu 309 168, getpriority 140 141,
rt_sigaction 13 134, rt_sigprocmask 14 135, rt_sigreturn 15 139, rt_sigpending 127 136, rt_sigtimedwait 128 137,
rt_sigsuspend 130 133, sigaltstack 131 132, pause 34 -, restart_syscall 219 128, alarm 37 -, setitimer 38 103,
getitimer 36 102, exit 60 93, exit_group 231 94, wait4 61 260, waitid 247 95, getpid 39 172, gettid 186 178,
getppid 110 173, getpgrp 111 -, getpgid 121 155, getsid 124 156, getuid 102 174, geteuid 107 175, getgid 104 176,
getegid 108 177, getresuid 118 148, getresgid 120 150, getgroups 115 158, getrlimit 97 163, setrlimit 160 164,
getrusage 98 165, times 100 153, sysinfo 99 179, uname 63 160, time 201 -, gettimeofday 96 169, clock_gettime 228 113,
clock_getres 229 114, clock_nanosleep 230 115, nanosleep 35 101, getrandom 318 278, arch_prctl 158 -
"""
# Not done, but answered with success: `shutil.copy` changes modes and times, which do not matter here.
_PRETENDED = "chmod 90 -, fchmod 91 52, fchmodat 268 53, utime 132 -, utimes 235 -, futimesat 261 -, utimensat 280 88"
# Answered as by a file system without extended attributes, as `shutil.copy2` expects.
_UNSUPPORTED = """
setxattr 188 5, lsetxattr 189 6, fsetxattr 190 7, getxattr 191 8, lgetxattr 192 9, fgetxattr 193 10, listxattr 194 11,
llistxattr 195 12, flistxattr 196 13, removexattr 197 14, lremovexattr 198 15, fremovexattr 199 16
"""
# Decided by an argument: the call, the argument, and the allowed values; `_ON_ITSELF` also allows this process's id.
_COMMANDS = {
    "fcntl 72 25": (_SECOND, (0, 1, 2, 3, 4, 5, 6, 7, 36, 37, 38, 1030, 1032, 1034)),  # no owners, signals, leases
    "ioctl 16 29": (_SECOND, (0x5401, 0x5413, 0x541B, 0x5421, 0x5450, 0x5451)),  # is it a terminal, bytes waiting
    "prctl 157 167": (_FIRST, (3, 15, 16, 23, 0x53564D41)),  # names of threads and memory
}
_ON_ITSELF = {"kill 62 129": (), "tgkill 234 131": (), "prlimit64 302 261": (0,)}
_CLONE = "clone 56 220"
_THREAD, _NAMESPACES = 0x00010000, 0x7E020080


def supported() -> bool:
    """Whether this machine has seccomp filters, and the call numbers above fit it."""
    if platform.system() != "Linux" or platform.machine() not in _MACHINES:
        return False
    answer = ctypes.c_uint32(_ERRNO)  # SECCOMP_GET_ACTION_AVAIL
    return libc.call(_MACHINES[platform.machine()][2], 2, 0, ctypes.addressof(answer)) == 0


def count() -> int:
    """The number of calls in the list, with those that an argument decides."""
    return len(_ALLOWED.split(",")) + len(_COMMANDS) + len(_ON_ITSELF) + 1


def install() -> None:
    """Put the filter on every thread of this process, for good. Raises `OSError` if the kernel refuses it."""
    column, architecture, seccomp = _MACHINES[platform.machine()]
    code = program(column, architecture, os.getpid())
    lines = b"".join(struct.pack("HBBI", *line) for line in code)
    memory = ctypes.create_string_buffer(lines, len(lines))
    head = ctypes.create_string_buffer(struct.pack("HxxxxxxP", len(code), ctypes.addressof(memory)))
    if libc.call(seccomp, 1, 1, ctypes.addressof(head)) != 0:  # SECCOMP_SET_MODE_FILTER on all threads
        raise OSError(ctypes.get_errno(), "the kernel takes no seccomp filter")


def program(column: int, architecture: int, process: int) -> list[Instruction]:
    """The filter: allowed calls, pretended calls, calls that an argument decides; all others are refused."""
    code: list[Instruction] = [
        *[(_LOAD, 0, 0, 4), (_JUMP_EQUAL, 1, 0, architecture), (_RETURN, 0, 0, _KILL), (_LOAD, 0, 0, _CALL)],
        *[(_JUMP_AT_LEAST, 0, 1, _SECOND_TABLE), _refuse(errno.EPERM)],
    ]
    for number in _numbers(_ALLOWED, column):
        code += [(_JUMP_EQUAL, 0, 1, number), (_RETURN, 0, 0, _ALLOW)]
    for calls, answer in ((_PRETENDED, 0), (_UNSUPPORTED, errno.ENOTSUP)):
        for number in _numbers(calls, column):
            code += [(_JUMP_EQUAL, 0, 1, number), _refuse(answer)]
    decided = dict(_COMMANDS) | {call: (_FIRST, (process, *values)) for call, values in _ON_ITSELF.items()}
    for call, (argument, values) in decided.items():
        (number,) = _numbers(call, column)
        code += [(_JUMP_EQUAL, 0, 2 + 2 * len(values), number), (_LOAD, 0, 0, argument)]
        for value in values:
            code += [(_JUMP_EQUAL, 0, 1, value), (_RETURN, 0, 0, _ALLOW)]
        code += [_refuse(errno.EPERM)]
    (clone,) = _numbers(_CLONE, column)
    code += [(_JUMP_EQUAL, 0, 5, clone), (_LOAD, 0, 0, _FIRST), (_JUMP_ANY_BIT, 2, 0, _NAMESPACES)]
    code += [(_JUMP_ANY_BIT, 0, 1, _THREAD), (_RETURN, 0, 0, _ALLOW), _refuse(errno.EPERM)]
    return [*code, (_JUMP_AT_LEAST, 0, 1, _NEWER), _refuse(errno.ENOSYS), _refuse(errno.EPERM)]


def _refuse(error: int) -> Instruction:
    return _RETURN, 0, 0, _ERRNO | error


def _numbers(calls: str, column: int) -> Iterable[int]:
    """The numbers of calls on one architecture."""
    rows = (call.split() for call in calls.split(","))
    return [int(row[1 + column]) for row in rows if row[1 + column] != "-"]
