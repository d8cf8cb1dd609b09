"""Ways out of a sandbox, tried from inside; a copy of this file runs there as the script, and imports nothing of ours.

Every function `try_*` is one way; it gives back what it got, and False or an exception when it was refused. `CALLS` are
system calls with arguments that do no harm: one counts as refused only when the kernel did not look at the arguments,
so EPERM, EACCES or ENOSYS, never EINVAL or EFAULT. `request` holds what lies outside: a secret that everybody may read,
a folder that everybody may write, a process to kill. The answer is JSON: name -> what was got, or null.
"""

import ctypes
import errno
import json
import mmap
import os
import platform
import resource
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import time
from pathlib import Path

libc = ctypes.CDLL(None, use_errno=True)
libc.syscall.restype = ctypes.c_long
COLUMN = {"x86_64": 0, "aarch64": 1}[platform.machine()]
REFUSALS = {errno.EPERM, errno.EACCES, errno.ENOSYS, errno.ENOTSUP}
NOWHERE = 1  # no address that could be read

# name, number on x86_64, on aarch64 (- where there is none), arguments; `victim` is a process outside
CALLS = """
socketpair 53 199 1 1 0 NOWHERE
tkill 200 130 victim 0
rt_sigqueueinfo 129 138 victim 0 NOWHERE
rt_tgsigqueueinfo 297 240 victim victim 0 NOWHERE
pidfd_open 434 434 victim 0
pidfd_send_signal 424 424 -1 0 0 0
pidfd_getfd 438 438 -1 0 0
ptrace 101 117 16 victim 0 0
process_vm_readv 310 270 victim 0 0 0 0 0
process_vm_writev 311 271 victim 0 0 0 0 0
process_madvise 440 440 -1 0 0 0 0
kcmp 312 272 victim victim 0 0 0
move_pages 279 239 victim 0 0 0 0 0
migrate_pages 256 238 victim 0 0 0
sched_setaffinity 203 122 victim 8 NOWHERE
sched_setscheduler 144 119 victim 0 NOWHERE
setpriority 141 140 0 victim 19
ioprio_set 251 30 1 victim 0
setpgid 109 154 victim 0
setsid 112 157
clone3 435 435 NOWHERE 88
execveat 322 281 -1 NOWHERE 0 0 0
unshare 272 97 0
setns 308 268 -1 0
mount 165 40 NOWHERE NOWHERE NOWHERE 0 0
umount2 166 39 NOWHERE 0
pivot_root 155 41 NOWHERE NOWHERE
chroot 161 51 NOWHERE
fsopen 430 430 NOWHERE 0
fspick 433 433 -1 NOWHERE 0
fsmount 432 432 -1 0 0
open_tree 428 428 -1 NOWHERE 0
move_mount 429 429 -1 NOWHERE -1 NOWHERE 0
mount_setattr 442 442 -1 NOWHERE 0 0 0
bpf 321 280 -1 0 0
perf_event_open 298 241 NOWHERE 0 -1 -1 0
add_key 248 217 NOWHERE NOWHERE 0 0 0
request_key 249 218 NOWHERE NOWHERE 0 0
keyctl 250 219 -1 0 0 0 0
userfaultfd 323 282 -1
io_uring_setup 425 425 0 NOWHERE
kexec_load 246 104 0 0 0 -1
init_module 175 105 0 0 0
finit_module 313 273 -1 0 -1
delete_module 176 106 NOWHERE 0
reboot 169 142 0 0 0 0
settimeofday 164 170 NOWHERE 0
clock_settime 227 112 -1 0
adjtimex 159 171 NOWHERE
sethostname 170 161 0 -1
quotactl 179 60 -1 0 0 0
swapon 167 224 NOWHERE 0
acct 163 89 NOWHERE
syslog 103 116 10 0 0
iopl 172 - 0
modify_ldt 154 - 0 0 0
fanotify_init 300 262 -1 0
inotify_init1 294 26 -1
timer_create 222 107 0 NOWHERE NOWHERE
signalfd4 289 74 -1 NOWHERE 8 0
shmget 29 194 0 4096 896
msgget 68 186 0 896
semget 64 190 0 1 896
mq_open 240 180 NOWHERE 0 0 0
setresuid 117 147 0 0 0
setgroups 116 159 0 0
capset 126 91 NOWHERE NOWHERE
personality 135 92 4294967295
seccomp 317 277 -1 0 0
landlock_create_ruleset 444 444 0 0 0
name_to_handle_at 303 264 -1 NOWHERE NOWHERE NOWHERE 0
open_by_handle_at 304 265 -1 NOWHERE 0
fchownat 260 54 -1 NOWHERE 0 0 0
setxattrat 463 463 -1 NOWHERE 0 NOWHERE NOWHERE 0
fchmodat2 452 452 -1 NOWHERE 0 0
mlock 149 228 0 0
openat2 437 437 -1 NOWHERE NOWHERE 0
statmount 457 457 NOWHERE NOWHERE 0 0
"""


def call(number: int, *arguments: object) -> object:
    """A system call; None when it was refused before its arguments were looked at."""
    ctypes.set_errno(0)
    got = libc.syscall(ctypes.c_long(number), *(ctypes.c_void_p(a) if isinstance(a, int) else a for a in arguments))
    code = ctypes.get_errno()
    return None if got == -1 and code in REFUSALS else errno.errorcode.get(code, "no error") if got == -1 else got + 1


def calls(victim: int) -> dict[str, object]:
    got = {}
    for line in CALLS.strip().splitlines():
        name, *words = line.split()
        if words[COLUMN] != "-":
            known = {"victim": victim, "NOWHERE": NOWHERE}
            got[name] = call(int(words[COLUMN]), *(known.get(word) or int(word) for word in words[2:]))
    return got


# ---- reading


def try_passwords(outside):
    return Path("/etc/shadow").read_text()


def try_users(outside):
    return Path("/etc/passwd").read_text()


def try_secret(outside):
    return Path(outside["secret"]).read_text()


def try_secret_by_climbing(outside):
    return Path("../" * 40 + outside["secret"]).read_text()


def try_secret_by_own_root(outside):
    return Path("/proc/self/root" + outside["secret"]).read_text()


def try_secret_by_the_parents_root(outside):
    return Path(f"/proc/{outside['parent']}/root{outside['secret']}").read_text()


def try_secret_by_a_link(outside):
    os.symlink(outside["secret"], "soft")
    return Path("soft").read_text()


def try_secret_by_a_hard_link(outside):
    os.link(outside["secret"], "hard")
    return Path("hard").read_text()


def try_secret_by_mapping(outside):
    opened = os.open(outside["secret"], os.O_RDONLY)
    return mmap.mmap(opened, 0, prot=mmap.PROT_READ)[:]


def try_secret_by_its_descriptor(outside):
    source = os.open(outside["secret"], os.O_PATH)
    try:
        return os.read(os.open(f"/proc/self/fd/{source}", os.O_RDONLY), 9)
    finally:
        os.close(source)


def try_environment_of_the_parent(outside):
    return Path(f"/proc/{outside['parent']}/environ").read_bytes()


def try_environments_of_all(outside):
    for entry in os.listdir("/proc"):
        try:
            if entry.isdigit() and outside["marker"].encode() in Path(f"/proc/{entry}/environ").read_bytes():
                return entry
        except OSError:
            continue
    return False


def try_own_environment(outside):
    return (
        outside["marker"] in str(dict(os.environ))
        or outside["marker"].encode() in Path("/proc/self/environ").read_bytes()
    )


def try_memory_of_the_parent(outside):
    return os.open(f"/proc/{outside['parent']}/mem", os.O_RDONLY) + 1


def try_names_in_a_folder(outside):
    return os.listdir(os.path.dirname(outside["secret"]))


def try_names_beside_the_package(outside):
    return "tests" in os.listdir(outside["repository"])


def try_kernel_memory(outside):
    return any(
        _opens(f"/dev/{name}") for name in ("mem", "kmsg", "kmem", "port", "vda", "sda", "nvme0n1", "tty", "fuse")
    )


def _opens(path):
    try:
        return os.open(path, os.O_RDONLY) + 1
    except OSError:
        return 0


def try_handed_down_files(outside):
    """Anything open but pipes, its own output, and null."""
    found = []
    for number in range(256):
        try:
            target = os.readlink(f"/proc/self/fd/{number}")
        except OSError:
            continue
        if not target.startswith(("pipe:", "/dev/null", os.getcwd())) and "/fd" not in target:
            found.append(target)
    return found


# ---- writing


def try_place(outside):
    return Path(outside["place"], "new").write_text("x")


def try_place_by_a_folder(outside):
    os.mkdir(outside["place"] + "/folder")
    return True


def try_overwrite(outside):
    return Path(outside["target"]).write_text("x")


def try_truncate(outside):
    os.truncate(outside["target"], 0)
    return True


def try_truncate_while_opening(outside):
    return os.open(outside["target"], os.O_RDONLY | os.O_TRUNC) + 1


def try_move_out(outside):
    Path("mine").write_text("x")
    os.rename("mine", outside["place"] + "/mine")
    return True


def try_move_in(outside):
    os.rename(outside["target"], "theirs")
    return True


def try_delete(outside):
    os.unlink(outside["target"])
    return True


def _touched(outside, act):
    """Whether an act changed the target; some are answered with success and not done."""
    before = os.stat(outside["target"])
    act(outside["target"])
    after = os.stat(outside["target"])
    return (before.st_mode, before.st_mtime, before.st_uid) != (after.st_mode, after.st_mtime, after.st_uid)


def try_change_of_mode(outside):
    return _touched(outside, lambda path: os.chmod(path, 0o777))


def try_change_of_times(outside):
    return _touched(outside, lambda path: os.utime(path, (1, 1)))


def try_change_of_owner(outside):
    return _touched(outside, lambda path: os.chown(path, os.getuid(), os.getgid()))


def try_attribute(outside):
    os.setxattr(outside["target"], "user.mine", b"x")
    return True


def try_removal_of_an_attribute(outside):
    os.removexattr(outside["target"], "user.theirs")
    return True


def try_temporary_folder(outside):
    return Path(f"/tmp/{outside['marker']}").write_text("x")


def try_shared_memory_folder(outside):
    return Path(f"/dev/shm/{outside['marker']}").write_text("x")


def try_site_packages(outside):
    folders = [path for path in sys.path if path.endswith("site-packages")]
    return [Path(path, outside["marker"]).write_text("x") for path in folders]


def try_standard_library(outside):
    return os.open(os.__file__, os.O_WRONLY) + 1


def try_program(outside):
    return os.open(sys.executable, os.O_WRONLY) + 1


def try_device(outside):
    os.mknod("device", 0o600 | 0o020000, os.makedev(1, 1))
    return True


def try_fifo(outside):
    os.mkfifo(outside["place"] + "/fifo")
    return True


def try_host_name(outside):
    return os.open("/proc/sys/kernel/hostname", os.O_WRONLY) + 1


def try_core_pattern(outside):
    return os.open("/proc/sys/kernel/core_pattern", os.O_WRONLY) + 1


def try_sysrq(outside):
    return os.open("/proc/sysrq-trigger", os.O_WRONLY) + 1


def try_cgroup(outside):
    os.mkdir("/sys/fs/cgroup/mine")
    return True


def try_score_of_the_memory_killer(outside):
    return Path("/proc/self/oom_score_adj").write_text("-1000")


def try_user_map(outside):
    return Path("/proc/self/uid_map").write_text("0 0 1")


# ---- other processes


def try_kill(outside):
    return call((62, 129)[COLUMN], outside["victim"], signal.SIGKILL) is not None


def try_kill_the_parent(outside):
    return call((62, 129)[COLUMN], os.getppid(), 0) is not None


def try_kill_everybody(outside):
    return call((62, 129)[COLUMN], ctypes.c_long(-1), 0) is not None


def try_thread_kill(outside):
    return call((234, 131)[COLUMN], outside["victim"], outside["victim"], 0) is not None


def try_signal_by_a_pipe(outside):
    """A pipe that is read sends its owner a signal, and any process may be named as owner."""
    reading, writing = os.pipe()
    fcntl = (72, 25)[COLUMN]
    if call(fcntl, reading, 8, outside["victim"]) is None:  # F_SETOWN
        return False
    call(fcntl, reading, 10, int(signal.SIGKILL))  # F_SETSIG
    call(fcntl, reading, 4, os.O_NONBLOCK | 0o20000)  # F_SETFL, O_ASYNC
    return os.write(writing, b"x")


def try_signal_by_a_pipes_group(outside):
    owner = ctypes.create_string_buffer(struct.pack("ii", 1, outside["victim"]))
    return call((72, 25)[COLUMN], os.pipe()[0], 15, ctypes.addressof(owner)) is not None  # F_SETOWN_EX


def try_limits_of_others(outside):
    bounds = ctypes.create_string_buffer(struct.pack("QQ", 1, 1))
    return call((302, 261)[COLUMN], outside["victim"], resource.RLIMIT_CPU, ctypes.addressof(bounds), 0) is not None


def try_higher_limits(outside):
    """Only upwards: an own limit may be lowered."""
    limit, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (hard + 1, hard + 1))
    return limit >= 0


def try_fork(outside):
    flags = (57, 220)[COLUMN]
    got = call(flags, *(() if COLUMN == 0 else (17, 0, 0, 0, 0)))
    if got == 1:
        os._exit(0)
    return got


def try_clone(outside):
    got = call((56, 220)[COLUMN], int(signal.SIGCHLD), 0, 0, 0, 0)
    if got == 1:
        os._exit(0)
    return got


def try_clone_with_a_user_namespace(outside):
    got = call((56, 220)[COLUMN], 0x10000000 | int(signal.SIGCHLD), 0, 0, 0, 0)
    if got == 1:
        os._exit(0)
    return got


def try_thread_with_a_mount_namespace(outside):
    return call((56, 220)[COLUMN], 0x00010000 | 0x00000800 | 0x00000100 | 0x00020000, 0, 0, 0, 0)


def try_program_outside(outside):
    return subprocess.run(["/bin/true"], check=False).returncode == 0


def try_shell(outside):
    return libc.system(b"exit 0") == 0


def try_spawn(outside):
    process = ctypes.c_int()
    words = (ctypes.c_char_p * 2)(b"/bin/sleep", None)
    return libc.posix_spawn(ctypes.byref(process), b"/bin/sleep", None, None, words, None) == 0


# ---- sockets


def _socket(family, kind=socket.SOCK_STREAM, protocol=0):
    return call((41, 198)[COLUMN], family, int(kind), protocol) is not None


def try_internet(outside):
    return _socket(2)


def try_internet_6(outside):
    return _socket(10, socket.SOCK_DGRAM)


def try_unix_socket(outside):
    return _socket(1)


def try_netlink(outside):
    return _socket(16, socket.SOCK_RAW)


def try_vsock(outside):
    return _socket(40)


def try_raw_packets(outside):
    return _socket(17, socket.SOCK_RAW)


def try_kernel_crypto(outside):
    return _socket(38, socket.SOCK_SEQPACKET)


# ---- memory, terminals, identity


def try_memory(outside):
    return len(bytearray(outside["memory"] + (1 << 20)))


def try_shared_memory(outside):
    return len(mmap.mmap(-1, outside["memory"] + (1 << 20)))


def try_memory_file(outside):
    return os.memfd_create("mine") + 1


def try_secret_memory(outside):
    return call(447, 0) is not None


def try_large_file(outside):
    with open("large", "wb") as file:
        file.truncate(outside["file_bytes"] + 1)
    return True


def try_many_files(outside):
    opened = []
    try:
        opened += (os.open("/dev/null", os.O_RDONLY) for _ in range(outside["files"] + 1))
        return len(opened)
    finally:
        for number in range(3, outside["files"]):
            if number in opened:
                os.close(number)


def try_typing_into_the_terminal(outside):
    """TIOCSTI puts bytes into the input of whoever has the terminal; refused before it is one or not."""
    byte = ctypes.create_string_buffer(b"x")
    return call((16, 29)[COLUMN], 0, 0x5412, ctypes.addressof(byte)) is not None


def try_root(outside):
    os.setuid(0)
    return True


def try_being_root(outside):
    return 0 in (*os.getresuid(), *os.getresgid(), *os.getgroups())


def try_capabilities(outside):
    """Any capability but that of reading where Landlock lets it, which Python in a folder of root's needs."""
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(status["CapEff"], 16) & ~(1 << 2) | int(status["CapPrm"], 16) & ~(1 << 2)


def try_no_new_privileges(outside):
    return "NoNewPrivs:\t1" not in Path("/proc/self/status").read_text()


def try_second_table_of_calls(outside):
    return call(0x40000000 + 41, 2, 1, 0) is not None if COLUMN == 0 else False


def try_temporary_folder_of_python(outside):
    return not tempfile.mkdtemp().startswith(outside["scratch"])


def try_clock(outside):
    time.clock_settime(time.CLOCK_REALTIME, time.time())
    return True


def attempt(outside):
    got = calls(outside["victim"])
    for name, function in list(globals().items()):
        if name.startswith("try_") and name[4:] not in outside["without"]:
            try:
                got[name[4:]] = function(outside) or None
            except (OSError, MemoryError, OverflowError, RuntimeError, ValueError):
                got[name[4:]] = None
    return {name: None if value is None else str(value)[:60] for name, value in got.items()}


if "request" in globals():
    answer.write(json.dumps(attempt(json.load(request))).encode())  # noqa: F821
