"""Small submissions for the auditor's tests: scripts, logs and folders written for them, none of anybody's."""

import json
from pathlib import Path

from pargolf.audit.judge import audit
from pargolf.audit.read import validation_sets as known
from pargolf.audit.report import Report

RATIO = known.GOOD[0].ratio
TRACK = "records/track_10min_16mb"

LEGAL = """
import math, os, torch, numpy as np; from glob import glob
import torch.nn.functional as F
class Args:
    val_files = os.path.join("data", "fineweb_val_*.bin")
    train_files = os.path.join("data", "fineweb_train_*.bin")
    ttt_enabled = bool(int(os.environ.get("TTT_ENABLED", "1")))
    prequant = bool(int(os.environ.get("PREQUANT", "0")))
    epochs = int(os.environ.get("TTT_EPOCHS", 3))
def load(pattern):
    return torch.cat([torch.from_numpy(np.fromfile(p, "<u2").astype(int)) for p in sorted(glob(pattern))])
def score_first(args, model, tokens):
    total = torch.zeros(())
    opt = torch.optim.SGD(model.parameters(), lr=0.1)
    for start in range(0, tokens.numel(), 1024):
        chunk = tokens[start:start + 1025]
        with torch.inference_mode():
            nll = F.cross_entropy(model(chunk[:-1]), chunk[1:], reduction="none")
        total += nll.sum()
        for epoch in range(args.epochs):
            loss = F.cross_entropy(model(chunk[:-1]), chunk[1:])
            loss.backward()
            opt.step()
    return total / tokens.numel()
def adapt(args, model, tokens):
    opt = torch.optim.AdamW(model.parameters(), lr=0.1)
    for epoch in range(args.epochs):
        epoch_sum = torch.zeros(())
        for start in range(0, tokens.numel(), 1024):
            x = tokens[start:start + 1025]
            loss = model(x[:-1], x[1:])
            loss.backward()
            opt.step()
            epoch_sum += loss.detach()
        print(f"prequant_ttt:epoch {epoch} loss:{epoch_sum}")
def main():
    args = Args()
    model = make_model()
    train = load(args.train_files)
    for step in range(100):
        loss = model(train[step:step + 64], train[step + 1:step + 65])
        loss.backward()
    held_out = load(args.val_files)
    if args.prequant:
        adapt(args, model, held_out)
    if args.ttt_enabled:
        loss = score_first(args, model, held_out)
        print(f"legal_ttt_exact val_loss:{loss} val_bpb:{loss / math.log(2) / bytes_lut[held_out].float().mean()}")
    print("step: val_loss: val_bpb: train_time: stopping_early: wallclock_cap")
    print("Total submission size int8+zlib: Serialized model Code size")
    print("final_int8_zlib_roundtrip_exact val_loss: val_bpb:")
if __name__ == "__main__":
    main()
"""

CACHE = """
import os
import numpy as np
import torch, math
class Cache:
    def __init__(self, orders, buckets):
        self.ctx = [np.zeros(buckets, np.uint32) for _ in range(orders)]
        self.full = [np.zeros(buckets, np.uint32) for _ in range(orders)]
    def keys(self, t, at):
        h = np.zeros(len(at), np.uint64)
        for k in range(3):
            h ^= t[at - k] * np.uint64(36313)
        return h & 1023, (h ^ (t[at + 1] * np.uint64(27191))) & 1023
    def look(self, t, at, i):
        c, f = self.keys(t, at)
        a = self.ctx[i][c].astype(float)
        b = self.full[i][f].astype(float)
        return np.minimum(a, b) / np.maximum(a, 1.0)
    def add(self, t, at, i):
        c, f = self.keys(t, at)
        np.add.at(self.ctx[i], c, 1)
        np.add.at(self.full[i], f, 1)
def evaluate(model, val_tokens):
    t = val_tokens.numpy().astype(np.uint64)
    cache = Cache(2, 1024)
    total = 0.0
    for start in range(0, len(t), 512):
        at = np.arange(start, start + 512)
        nll = model(val_tokens[start:start + 512], val_tokens[start + 1:start + 513])
        p = cache.look(t, at, 0)
        total += -np.log(0.5 * np.exp(-nll) + 0.5 * p).sum()
        cache.add(t, at, 0)
    return total
def main():
    val_tokens = load(os.path.join("x", "fineweb_val_*.bin"))
    if int(os.environ.get("CACHE_ORDER", "DEFAULT")) > 0:
        print("val_bpb", evaluate(make(), val_tokens))
main()
"""


def log_text(*, seconds=599.9, bpb=1.2, total=15_900_000, code=50_000, ratio=RATIO, seed=1, ranks=8) -> str:
    rows = [
        f"world_size:{ranks} grad_accum_steps:1",
        f"seed:{seed}",
        "val_tokens:62021632",
        *(
            f"step:{s}/2000 val_loss:{ratio * b:.4f} val_bpb:{b:.4f} train_time:{s * 300}ms step_avg:300.00ms"
            for s, b in ((500, 1.5), (1000, 1.4), (1500, 1.3))
        ),
        f"stopping_early: wallclock_cap train_time:{seconds * 1000:.0f}ms step:2000/20000",
        f"Serialized model int8+zlib: {total - code} bytes",
        f"Code size: {code} bytes",
        f"Total submission size int8+zlib: {total} bytes",
        f"final_int8_zlib_roundtrip val_loss:{ratio * bpb:.4f} val_bpb:{bpb:.4f} eval_time:90000ms",
        f"final_int8_zlib_roundtrip_exact val_loss:{ratio * bpb:.8f} val_bpb:{bpb:.8f}",
    ]
    return "\n".join(rows) + "\n"


def write(folder: Path, **files: object) -> Path:
    """A complete submission with three seeds that passes, with some of its files replaced (None leaves one out)."""
    scores = {1: 1.2001, 2: 1.2003, 3: 1.2002}
    made: dict[str, object] = {
        "README.md": "# A plain model\n\nThree seeds.\n",
        "submission.json": {
            "name": "plain",
            "val_bpb": 1.2002,
            "val_loss": round(1.2002 * RATIO, 6),
            "bytes_total": 15_900_000,
            "seed_results": {str(s): {"val_bpb": b} for s, b in scores.items()},
        },
        "train_gpt.py": LEGAL,
        **{f"train_seed{s}.log": log_text(bpb=b, seed=s) for s, b in scores.items()},
    }
    for name, held in files.items():
        made[{"json": "submission.json", "script": "train_gpt.py", "readme": "README.md"}.get(name, name)] = held
    folder.mkdir(parents=True, exist_ok=True)
    for name, held in made.items():
        if held is None:
            continue
        data = held if isinstance(held, bytes) else (json.dumps(held) if isinstance(held, dict) else str(held)).encode()
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    return folder


def record(tmp_path: Path, **files: object) -> Path:
    return write(tmp_path / TRACK / "2026-01-01_x", **files)


def status(report: Report, rule: str) -> set[str]:
    return {f.status for f in report.findings if f.rule == rule}


def only_log(tmp_path: Path, text: str, **fields: object) -> Report:
    """A submission of one log and a submission.json with these fields."""
    logs = {f"train_seed{s}.log": None for s in (1, 2, 3)}
    return audit(record(tmp_path, **{**logs, "train.log": text, "json": {"val_bpb": 1.2, **fields}}))
