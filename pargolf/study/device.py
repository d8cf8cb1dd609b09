"""Measure an artifact and its ONNX export in use: cold start, tokens per second on one thread, peak memory.

Each engine runs in its own process with one thread, so that its start is cold and its memory is measured alone:

    pargolf   read and decode the artifact, then generate tokens with the key-value cache
    onnx      load the exported graph in ONNX Runtime, then generate tokens, with the whole window as input for each

Seconds are processor time, so that other work on the machine does not count. The start has three parts: loading
libraries, reading the model, the first token. Peak memory is that of the whole process, including libraries. `scored`
is tokens per second when whole windows are scored.
"""

import json
import os
import re
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from pargolf.core.errors import UserError
from pargolf.core.events import Progress
from pargolf.core.work import Events

_BATCH = 8


@dataclass(frozen=True)
class DeviceRow:
    """One engine's costs: seconds of its cold start in three parts, tokens per second, megabytes, bytes of the file."""

    engine: str
    libraries: float
    reading: float
    first_token: float
    written: float
    scored: float
    megabytes: float
    file_bytes: int

    @property
    def cold_start(self) -> float:
        """Seconds from the start of the interpreter's work to the first token."""
        return self.libraries + self.reading + self.first_token


def bench_device(
    artifact: Path, onnx: Callable[[Path], Path] | None, *, tokens: int, own: list[str]
) -> Events[list[DeviceRow]]:
    """Measure an artifact, and the graph that `onnx` exports into a folder (None: none), each in its own process."""
    rows = []
    yield Progress("bench", 0, 2, "the artifact")
    rows.append(measured("pargolf", artifact, tokens, own))
    if onnx is not None:
        with tempfile.TemporaryDirectory() as folder:
            yield Progress("bench", 1, 2, "export to ONNX, and ONNX Runtime")
            graph = onnx(Path(folder))
            rows.append(measured("onnx", graph, tokens, own))
    return rows


def measured(engine: str, path: Path, tokens: int, own: list[str]) -> DeviceRow:
    """Measure one engine, `pargolf` or `onnx`, on its file in a new process. Raises `UserError` if that fails."""
    code = f"from pargolf.study.device import measure_{engine}; measure_{engine}()"
    environment = os.environ | {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    command = [sys.executable, "-c", code, str(path), str(tokens), *own]
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    if done.returncode:
        raise UserError(f"{path} could not be measured: {done.stderr.strip().splitlines()[-1]}")
    return DeviceRow(engine, **json.loads(done.stdout.splitlines()[-1]), file_bytes=path.stat().st_size)


def measure_pargolf() -> None:
    """Measure the artifact named on the command line and print a row; this runs in the child process."""
    clock = time.process_time
    began = clock()
    torch = import_module("torch")
    torch.set_num_threads(1)
    pack, own = import_module("pargolf.run.pack"), import_module("pargolf.core.own")
    sampling = import_module("pargolf.evaluate.generate")
    libraries = clock() - began
    began = clock()
    own.use(sys.argv[3:])
    unpacked = pack.read_artifact(sys.argv[1])
    reading, length, vocab = clock() - began, unpacked.plain.length, unpacked.model.spec.vocab
    tokens = int(sys.argv[2])
    drawn = sampling.generate(unpacked.model, [min(1, vocab - 1)], tokens=tokens, length=length, seed=1)
    first, written = _timed(drawn)
    ids = torch.randint(0, vocab, (_BATCH, length))

    def score() -> None:
        with torch.no_grad():
            unpacked.model(ids)

    _print_row(libraries, reading, first, written, ids.numel() / _best(score))


def measure_onnx() -> None:
    """Measure the graph named on the command line and print a row; this runs in the child process."""
    clock = time.process_time
    began = clock()
    runtime = import_module("onnxruntime")
    libraries = clock() - began
    began = clock()
    options = runtime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = runtime.InferenceSession(sys.argv[1], options, providers=["CPUExecutionProvider"])
    reading = clock() - began
    facts = session.get_modelmeta().custom_metadata_map
    length, vocab = int(facts["length"]), int(facts["vocab"])
    rng = np.random.default_rng(1)

    def draw() -> Any:
        ids = [min(1, vocab - 1)]
        for _ in range(int(sys.argv[2])):
            shown = np.array([[ids[0], *ids]] if len(ids) == 1 else [ids], dtype=np.int64)
            logits_V = session.run(None, {"input_ids": shown})[0][0, -1].astype(np.float64)
            p_V = np.exp(logits_V - logits_V.max())
            ids.append(int(rng.choice(vocab, p=p_V / p_V.sum())))
            yield ids[-1]
            if len(ids) > length:
                del ids[: len(ids) - (length - length // 4)]

    first, written = _timed(draw())
    batch = rng.integers(0, vocab, (_BATCH, length))
    _print_row(libraries, reading, first, written, batch.size / _best(lambda: session.run(None, {"input_ids": batch})))


def _timed(drawn: Any) -> tuple[float, float]:
    """Seconds for the first token, and tokens per second for the others."""
    began = time.process_time()
    next(drawn)
    first = time.process_time() - began
    began = time.process_time()
    count = sum(1 for _ in drawn)
    return first, count / max(time.process_time() - began, 1e-9)


def _best(work: Callable[[], object]) -> float:
    """Seconds of the fastest of three calls."""
    times = []
    for _ in range(3):
        began = time.process_time()
        work()
        times.append(time.process_time() - began)
    return min(times)


def _print_row(libraries: float, reading: float, first: float, written: float, scored: float) -> None:
    names = ("libraries", "reading", "first_token", "written", "scored", "megabytes")
    print(json.dumps(dict(zip(names, (libraries, reading, first, written, scored, _peak_megabytes())))))


def _peak_megabytes() -> float:
    """The peak memory of this process; on Linux without the parent's memory at the time of the fork."""
    status = Path("/proc/self/status")
    match = re.search(r"VmHWM:\s+(\d+) kB", status.read_text()) if status.is_file() else None
    if match:
        return int(match[1]) / 1024
    unit = 1 << 20 if sys.platform == "darwin" else 1 << 10
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit
