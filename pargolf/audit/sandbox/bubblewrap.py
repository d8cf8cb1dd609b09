"""The files that a confined child can see, and bubblewrap's command line that shows only these.

`view` lists Python, its packages and the system's libraries, for both levels. bubblewrap shows them in an empty root of
its own, with namespaces for mounts, processes, network, users and shared memory. Without bubblewrap, Landlock gets the
same list. Root runs bubblewrap without a user namespace: the child becomes a user id that nobody has, which needs the
real user namespace. Source: bwrap(1).
"""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterable, Sequence
from functools import cache
from pathlib import Path

PACKAGE = Path(__file__).resolve().parents[2]
_PREFIX_PARTS = "bin", "lib", "lib64", "pyvenv.cfg"
_LIBRARIES = "/usr/lib", "/usr/lib64", "/usr/local/lib", "/lib", "/lib64", "/etc/ld.so.cache", "/etc/localtime"
_SYSTEM = "/sys/devices/system/cpu", "/sys/devices/system/node"
_OWN_PROCESS = "/proc/self", "/proc/cpuinfo", "/proc/meminfo", "/proc/stat", "/proc/filesystems"
_KERNELS = "/proc", "/dev"  # bubblewrap makes new ones
# Root needs these to become another user, and to read Python if it is in a folder of root's.
_ROOTS = "CAP_SETUID", "CAP_SETGID", "CAP_SETPCAP", "CAP_DAC_READ_SEARCH"
_NOBODY = "65534"


@cache
def view() -> tuple[Path, ...]:
    """Files and folders that every child can read; some may be missing here."""
    command = [sys.executable, "-I", "-c", "import sys; print(*sys.path, sep='\\n')"]
    entries = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    packages = [PACKAGE if Path(entry) == PACKAGE.parent else Path(entry) for entry in entries]
    prefixes = dict.fromkeys((sys.prefix, sys.base_prefix))
    python = [Path(prefix) / part for prefix in prefixes for part in _PREFIX_PARTS]
    return (*python, *packages, PACKAGE, *(Path(path) for path in (*_LIBRARIES, *_SYSTEM, *_OWN_PROCESS)))


@cache
def works() -> bool:
    """Whether bubblewrap is installed and may make its namespaces; found by running it."""
    if sys.platform != "linux" or shutil.which("bwrap") is None:
        return False
    try:
        trial = wrapped([sys.executable, "-I", "-S", "-c", ""], Path("/tmp"), view())
        return subprocess.run(trial, capture_output=True, timeout=20, env={}).returncode == 0
    except (OSError, subprocess.TimeoutExpired):
        return False


def wrapped(command: Sequence[str], scratch: Path, readable: Iterable[Path]) -> list[str]:
    """A command that bubblewrap runs in an empty root, where `readable` can be read and `scratch` written."""
    program = shutil.which("bwrap")
    assert program is not None
    line = [program, "--unshare-pid", "--unshare-net", "--unshare-ipc", "--unshare-uts", "--unshare-cgroup-try"]
    line += ["--die-with-parent", "--cap-drop", "ALL"]
    if os.getuid() == 0:
        line += [word for name in _ROOTS for word in ("--cap-add", name)]
    else:
        line += ["--unshare-user", "--uid", _NOBODY, "--gid", _NOBODY]
    line += ["--proc", "/proc", "--dev", "/dev", "--remount-ro", "/dev"]
    shown = _outermost(readable)
    for parent in sorted({parent for path in shown for parent in path.parents if parent.name}):
        line += ["--perms", "0755", "--dir", str(parent)]
    for path in shown:
        line += ["--ro-bind-try", str(path), str(path)]
    return [*line, "--bind", str(scratch), str(scratch), "--remount-ro", "/", "--chdir", str(scratch), *command]


def _outermost(paths: Iterable[Path]) -> list[Path]:
    """The paths that are inside none of the others, and not where bubblewrap makes its own."""
    chosen = {Path(folder) for folder in _KERNELS}
    for path in sorted(set(paths), key=lambda path: len(path.parts)):
        if not chosen & {path, *path.parents}:
            chosen.add(path)
    return sorted(chosen - {Path(folder) for folder in _KERNELS})
