"""A battery of ways out of the sandbox, and what they reached: `attempt(level)` tries all, and looks from outside too.

`inside` holds the ways that one process can try one after the other. `ALONE` are those that end their process or wait
to be ended: each has a child of its own with small bounds, and succeeds when what it answers is not what it should be,
or when it is not stopped. Last, what lies outside is compared with what it was: files, a process, leftovers.
"""

import contextlib
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

from pargolf.audit.sandbox.child import Child, confined
from pargolf.audit.sandbox.jail import Level, Limits

ENTRY = "pargolf.audit.sandbox.jail:execute"
INSIDE = (Path(__file__).parent / "inside.py").read_text()
LIMITS = Limits(seconds=30, memory=256 << 20, disk=32 << 20, file_bytes=16 << 20, files=64, threads=24)
SHORT = replace(LIMITS, seconds=0.7)


@dataclass(frozen=True)
class Alone:
    """A way that needs a child of its own: its script, and what must come of it: an answer, or words of the reason."""

    script: str
    answer: str = ""
    stopped: str = ""
    limits: Limits = LIMITS


ALONE = {
    "sleeping past the clock": Alone("import time; time.sleep(60)", stopped="after 0.7 s", limits=SHORT),
    "ignoring every signal, with closed pipes and busy threads": Alone(
        "import signal, threading\n"
        "for one in set(signal.Signals) - {signal.SIGKILL, signal.SIGSTOP}: signal.signal(one, signal.SIG_IGN)\n"
        "request.close(); answer.close()\n"
        "def spin():\n"
        "    while True: pass\n"
        "threading.Thread(target=spin).start(); spin()",
        stopped="after 0.7 s",
        limits=SHORT,
    ),
    "an answer without end": Alone("while True: answer.write(bytes(65536))", stopped="longer than"),
    "memory just below the bound of addresses": Alone(
        f"import time; held = bytearray({LIMITS.memory - (1 << 20)}); time.sleep(60)", stopped="MiB of memory"
    ),
    "a full disk": Alone(
        "for i in range(60): open(str(i), 'wb').write(bytes(1 << 20))\nimport time; time.sleep(60)", stopped="MiB, or"
    ),
    "a folder of ten thousand files": Alone(
        "for i in range(10_500): open(str(i), 'wb').close()\nimport time; time.sleep(60)", stopped="files"
    ),
    "folders too deep to remove": Alone(
        "import os\nfor _ in range(1100): os.mkdir('d'); os.chdir('d')\nanswer.write(b'done')", answer="done"
    ),
    "a thread bomb": Alone(
        "import threading, time\n"
        "threading.stack_size(65536)\n"
        "try:\n"
        "    for i in range(200): threading.Thread(target=time.sleep, args=(2,), daemon=True).start()\n"
        "    time.sleep(1)\n"
        "    answer.write(b'200 threads')\n"
        "except RuntimeError: answer.write(b'refused')",
        answer="refused",
        stopped="threads",
    ),
    "another program in its place": Alone(
        "import ctypes\n"
        "words = (ctypes.c_char_p * 3)(b'/bin/echo', b'out', None)\n"
        "ctypes.CDLL(None).execve(b'/bin/echo', words, None)\n"
        "answer.write(b'refused')",
        answer="refused",
    ),
    "the calls of 32-bit programs": Alone(  # eax = 20 (getpid), int 0x80, ret
        "import ctypes, mmap, platform\n"
        "assert platform.machine() == 'x86_64'\n"
        "code = mmap.mmap(-1, 4096, prot=7)\n"
        "code.write(bytes([0xB8, 20, 0, 0, 0, 0xCD, 0x80, 0xC3]))\n"
        "address = ctypes.addressof(ctypes.c_char.from_buffer(code))\n"
        "answer.write(str(ctypes.CFUNCTYPE(ctypes.c_int)(address)() > 0).encode())",
    ),
    "modules of its own before the locks hold": Alone(
        "import os\nanswer.write(b'refused' if not os.path.exists('early') else b'imported')", answer="refused"
    ),
}
TRAINING = """
import torch
torch.set_num_threads(2)
torch.manual_seed(0)
model = torch.nn.Linear(256, 256)
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
x, losses = torch.randn(512, 256), []
for _ in range(2):
    losses.append(torch.nn.functional.mse_loss(model(x), x))
    losses[-1].backward()
    optimizer.step()
    optimizer.zero_grad()
torch.save(model.state_dict(), "model.pt")
torch.load("model.pt")
assert torch.get_num_threads() == 2
answer.write(b"the loss fell" if losses[1] < losses[0] else b"the loss rose")
"""
# Not tried unguarded: they would leave something behind, or share a stack with a thread.
LASTING = (
    "site_packages",
    "cgroup",
    "clock",
    "temporary_folder",
    "shared_memory_folder",
    "thread_with_a_mount_namespace",
)
SHADOWS = ("json", "ctypes", "socket", "torch", "pargolf", "sitecustomize", "usercustomize")


def attempt(level: Level) -> dict[str, str | None]:
    """Try every way out at one level: its name -> what it reached, None when it was refused."""
    with _surroundings() as outside:
        child, reached = _inside(level, outside)
        with ThreadPoolExecutor(4) as pool:
            reached |= dict(zip(ALONE, pool.map(lambda way: _alone(way, level), ALONE.values())))
        return reached | {"leftovers": _leftovers(child, outside)}


def train(level: Level, script: str = TRAINING) -> str:
    """Import torch in the sandbox and take two steps on two threads: the answer that says the loss fell."""
    with confined(ENTRY, files={"main.py": script}, limits=Limits(seconds=60), level=level, unsafe=True) as child:
        return child.ask(b"", most=1 << 20).decode() or f"nothing: {child.stopped}"


def attempt_unguarded() -> dict[str, str | None]:
    """The ways of one process at the level that guards nothing, but for those that would leave something behind."""
    with _surroundings() as outside:
        return _inside(Level.NONE, {**outside, "without": LASTING})[1]


def _inside(level: Level, outside: dict[str, object]) -> tuple[Child, dict[str, str | None]]:
    with confined(ENTRY, files={"main.py": INSIDE}, limits=LIMITS, level=level, unsafe=True) as child:
        told = {"without": (), **vars(LIMITS), **outside, "scratch": str(child.scratch)}
        answer = child.ask(json.dumps(told).encode(), most=1 << 20)
        assert answer, child.stopped or (child.scratch / "output.txt").read_text()[-2000:]
    return child, json.loads(answer)


def _alone(way: Alone, level: Level) -> str | None:
    shadows = {f"{name}.py": "open('early', 'w').close()" for name in SHADOWS}
    began = time.monotonic()
    with confined(ENTRY, files={"main.py": way.script, **shadows}, limits=way.limits, level=level) as child:
        answer = child.ask(b"", most=1 << 20).decode()
        child.end()
    if child.scratch.exists():
        return "its folder stays"
    if time.monotonic() - began > 15:
        return "it ran on"
    if way.stopped and child.stopped is not None and way.stopped in child.stopped:
        return None
    return None if answer == way.answer and (way.answer or not way.stopped) else f"{answer} ({child.stopped})"


@contextlib.contextmanager
def _surroundings() -> Iterator[dict[str, object]]:
    """What lies outside, with no guard of its own: files that anybody may read and write, and a process to kill."""
    folder = Path(tempfile.mkdtemp(prefix="outside-"))
    marker = f"marker-{folder.name}"
    place, secret, target = folder / "place", folder / "secret", folder / "target"
    place.mkdir()
    secret.write_text("a secret")
    target.write_text("as it was")
    for path, mode in ((folder, 0o777), (place, 0o777), (secret, 0o644), (target, 0o666)):
        path.chmod(mode)
    victim = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(300)"], env={"MARKER": marker})
    try:
        yield {
            **{"secret": str(secret), "place": str(place), "target": str(target), "marker": marker},
            **{"victim": victim.pid, "parent": os.getpid(), "repository": str(Path(__file__).parents[2])},
        }
    finally:
        victim.kill()
        victim.wait()
        shutil.rmtree(folder)


def _leftovers(child: Child, outside: dict[str, object]) -> str | None:
    """What is not as it was."""
    target, victim, marker = Path(str(outside["target"])), int(str(outside["victim"])), str(outside["marker"])
    bounds = resource.prlimit(victim, resource.RLIMIT_CPU)
    facts = {
        "the file changed": target.read_text() != "as it was" or target.stat().st_mode & 0o777 != 0o666,
        "its times changed": abs(target.stat().st_mtime - time.time()) > 300,
        "files were made": any(Path(str(outside["place"])).iterdir()),
        "temporary files stay": any(Path(folder, marker).exists() for folder in ("/tmp", "/dev/shm")),
        "its folder stays": child.scratch.exists() or bool(list(child.scratch.parent.glob(f"{child.scratch.name}.*"))),
        "the process was ended": not Path(f"/proc/{victim}/exe").exists(),
        "the process was limited": bounds[0] != resource.RLIM_INFINITY,
        "processes stay": any(_runs_in(child.process.pid, entry) for entry in Path("/proc").glob("[0-9]*")),
    }
    return ", ".join(name for name, changed in facts.items() if changed) or None


def _runs_in(session: int, process: Path) -> bool:
    """Whether a process runs in a session; a dead one that nobody has asked after yet (Z) does not."""
    with contextlib.suppress(OSError):
        state, _, _, its_session = (process / "stat").read_text().rpartition(")")[2].split()[:4]
        return int(its_session) == session and state not in "ZX"
    return False
