"""One clean submission, and edits of it that break a rule or break none: what an auditor has to tell apart.

`clean()` gives the files of a small submission in the published form: script, three logs, submission.json, README. Each
mutation is a function that edits these files in place. `breaks` and `innocent` register it under its kind, and
`load()` gives all of them. Nothing here is anybody's submission, and nothing is run.
"""

import json
import math
import random
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

Files = dict[str, str | bytes]
Edit = Callable[[Files], None]
RATIO = 1.6885
SEEDS = (1337, 42, 2024)
FOLDER = "records/track_10min_16mb/2026-04-01_PlainBaseline"
NON_RECORD = "records/track_non_record_16mb/2026-04-01_PlainBaseline"
BASE_SCRIPT = (Path(__file__).parent / "base_script.txt").read_text(encoding="utf-8")
MODEL_BYTES = 15_820_000
_EDITS = (
    "scoring",
    "data",
    "code_beside",
    "numbers",
    "model",
    "innocents",
    "variants",
    "idioms",
    "legal",
    "second",
    "third",
    "third_legal",
    "fourth",
    "fifth",
)


@dataclass(frozen=True)
class Mutation:
    """One edit: its name, the kind it is of, whether it breaks a rule, and the folder it is put into."""

    name: str
    kind: str
    breaks: bool
    edit: Edit
    folder: str = FOLDER

    def files(self) -> Files:
        """The files of the edited submission."""
        made = clean()
        self.edit(made)
        return made


MUTATIONS: list[Mutation] = []


def breaks(kind: str) -> Callable[[Edit], Edit]:
    """Register an edit that breaks a rule."""

    def register(edit: Edit) -> Edit:
        MUTATIONS.append(Mutation(edit.__name__, kind, True, edit))
        return edit

    return register


def innocent(kind: str, folder: str = FOLDER) -> Callable[[Edit], Edit]:
    """Register an edit that breaks none."""

    def register(edit: Edit) -> Edit:
        MUTATIONS.append(Mutation(edit.__name__, kind, False, edit, folder))
        return edit

    return register


def load() -> list[Mutation]:
    """Every mutation, in the order of its file."""
    for name in _EDITS:
        import_module(f"{__name__}.{name}")
    return MUTATIONS


def write(files: Files, root: Path, folder: str = FOLDER) -> Path:
    """Write files below `root`; the submission's folder."""
    for name, data in files.items():
        path = root / folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data if isinstance(data, bytes) else data.encode("utf-8"))
    return root / folder


# ---- what edits are made with


def text(files: Files, name: str = "train_gpt.py") -> str:
    """The text of a file."""
    held = files[name]
    assert isinstance(held, str), name
    return held


def swap(files: Files, *pairs: tuple[str, str], name: str = "train_gpt.py") -> None:
    """Replace pieces of a file; each must be there."""
    held = text(files, name)
    for old, new in pairs:
        assert old in held, f"{name} does not hold {old!r}"
        held = held.replace(old, new)
    files[name] = held


def moved(files: Files, start: str, end: str, module: str, header: str = "") -> str:
    """Cut the script from `start` to before `end` and put it into a module beside it; what was cut."""
    held = text(files)
    first = held.index(start)
    last = held.index(end, first)
    files[module] = f"{header}{held[first:last]}"
    files["train_gpt.py"] = held[:first] + held[last:]
    return held[first:last]


def logs(files: Files) -> list[str]:
    """Names of the logs."""
    return [name for name in files if name.endswith(".log")]


def relog(files: Files) -> None:
    """Write the logs anew for the script as it is now, so that its bytes agree."""
    size = len(text(files).encode("utf-8"))
    for seed in SEEDS:
        files[f"train_seed{seed}.log"] = log_text(seed, code_bytes=size)
    files["submission.json"] = json.dumps(declared(size), indent=1)


# ---- the clean submission


def clean() -> Files:
    """A submission that keeps every rule: script, three logs, submission.json, README."""
    files: Files = {"train_gpt.py": BASE_SCRIPT}
    relog(files)
    files["README.md"] = readme()
    return files


def losses(seed: int) -> tuple[dict[int, float], float]:
    """Validation losses by step, nats per token, and the one after packing."""
    noise = random.Random(seed)
    shift = noise.gauss(0.0, 0.0008)
    rows = {0: 6.9357 + noise.gauss(0, 0.0004)}
    for step in range(1000, 14000, 1000):
        rows[step] = 2.045 + 1.9 * (step / 400) ** -0.75 + shift + noise.gauss(0, 0.0012)
    return rows, rows[13000] + 0.0068 + noise.gauss(0, 0.0003)


def score(seed: int) -> float:
    """Bits per byte after packing, as submission.json gives them."""
    return round(losses(seed)[1] / RATIO, 8)


def log_text(seed: int, *, code_bytes: int) -> str:
    """The log of one run, with its own noise."""
    noise = random.Random(seed * 7919)
    rows, final = losses(seed)
    model_bytes = MODEL_BYTES + noise.randrange(9000)
    step_ms = 45.9 + noise.gauss(0, 0.05)
    lines = [
        "train_loader:dataset:fineweb10B_sp1024",
        "val_loader:shards pattern=./data/datasets/fineweb10B_sp1024/fineweb_val_*.bin tokens:62021632",
        "model_params:17039360",
        "world_size:8 grad_accum_steps:1",
        "train_batch_tokens:524288 train_seq_len:1024 iterations:20000 max_wallclock_seconds:600.000",
        "ttt_enabled:0 ttt_lr:0.01",
        f"seed:{seed}",
    ]
    clock = 0.0
    for step in range(0, 13_001):
        clock += (step_ms + noise.gauss(0, 0.3)) if step else 0.0
        if step and (step <= 10 or step % 200 == 0):
            near = 2.045 + 1.9 * ((step + 12) / 400) ** -0.75 if step > 10 else 6.94 - 0.06 * step
            lines.append(
                f"step:{step}/20000 train_loss:{near + noise.gauss(0, 0.03):.4f} "
                f"train_time:{clock:.0f}ms step_avg:{clock / step:.2f}ms"
            )
        if step % 1000 == 0:
            loss = rows[step]
            lines.append(
                f"step:{step}/20000 val_loss:{loss:.4f} val_bpb:{loss / RATIO:.4f} "
                f"train_time:{clock:.0f}ms step_avg:{clock / max(step, 1):.2f}ms"
            )
    lines += [
        f"stopping_early: wallclock_cap train_time:{clock:.0f}ms step:13000/20000",
        f"Serialized model int8+zlib: {model_bytes} bytes",
        f"Code size: {code_bytes} bytes",
        f"Total submission size int8+zlib: {model_bytes + code_bytes} bytes",
        f"final_int8_zlib_roundtrip val_loss:{final:.4f} val_bpb:{final / RATIO:.4f} "
        f"eval_time:{noise.randrange(1400, 1500)}ms",
        f"final_int8_zlib_roundtrip_exact val_loss:{final:.8f} val_bpb:{final / RATIO:.8f}",
    ]
    return "\n".join(lines) + "\n"


def declared(code_bytes: int) -> dict[str, object]:
    """submission.json as a value."""
    mean = sum(map(score, SEEDS)) / len(SEEDS)
    return {
        "author": "A. Nobody",
        "name": "Plain baseline",
        "val_loss": round(mean * RATIO, 6),
        "val_bpb": round(mean, 6),
        "bytes_total": MODEL_BYTES + 9000 + code_bytes,
        "seed_results": {str(seed): {"val_bpb": score(seed)} for seed in SEEDS},
    }


def readme() -> str:
    """README.md, with a row for each seed."""
    rows = "".join(f"| {seed} | {score(seed):.4f} |\n" for seed in SEEDS)
    mean = sum(map(score, SEEDS)) / len(SEEDS)
    assert math.isfinite(mean)
    return (
        "# Plain baseline\n\nNine layers of width 512, int8 and zlib. "
        f"Mean of three seeds: {mean:.4f} bits per byte.\n\n| seed | val_bpb |\n|---|---|\n{rows}\n"
        "```\ntorchrun --standalone --nproc_per_node=8 train_gpt.py\n```\n"
    )
