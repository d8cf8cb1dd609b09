"""Runs, ablations and audits that never were, for pages to show: five recipes, three seeds, curves and documents."""

import math
import random

from pargolf.core.ablation import Ablation, AblationRow
from pargolf.core.budget import Budget
from pargolf.core.events import Packed, Scored, Step, Validated, Weighed
from pargolf.core.result import (
    Bytes,
    DocumentScore,
    Grids,
    Machine,
    Proof,
    Rests,
    Result,
    ScoreRow,
    TextOverlap,
)
from pargolf.report.entry import Entry

RATIO = 0.51
NAMES = (("house", 1.25, 26_600), ("pr1009 repaired", 1.34, 24_100), ("pr549", 1.41, 22_800), ("pr910", 1.52, 22_000))
ROLES = {"embed.tokens": 0.42, "attn.q": 0.1, "attn.out": 0.1, "mlp.up": 0.17, "mlp.down": 0.14, "(scales)": 0.07}


def entry(name: str = "house", seed: int = 42, **fields) -> Entry:
    """One run; `fields` replace those of its result."""
    rng = random.Random(f"{name} {seed}")
    base, code = next(((bpb, code) for known, bpb, code in NAMES if known == name), (1.65, 21_000))
    bpb, fills = base + rng.gauss(0, 0.006), name == "house"
    model = 1_000_000 - code - rng.randrange(900) if fills else int(860_000 / base + rng.randrange(4000))
    seconds, steps = 120 + 40 * (base > 1.3) + rng.random(), int(1400 / base)
    adapted = {"adapted": _score(bpb)} if name in ("house", "pr549") else {}
    about = {
        "recipe": name,
        "digest": f"{abs(hash_of(name)):016x}"[:16],
        "seed": seed,
        "val_loss": bpb / RATIO,
        "val_bpb": bpb,
        "val_tokens": 234_472,
        "val_bytes": 1_025_229,
        "val_split_tokens": 234_472,
        "complete": True,
        "in_turn": True,
        "probed": True,
        "look": None,
        "grades_per_position": (1, 1),
        "proof": Proof(Rests.DOCUMENTS, {"val_000000.bin": "a" * 64}, "b" * 64),
        "adaptation": None,
        "artifact_sha256": "c" * 64,
        "overlap": TextOverlap(True, 0, 0.0),
        "budget": Budget(bytes=1_000_000),
        "data": "data",
        "command": "",
        "scores": {"pre_quant": _score(bpb + 0.012), "post_quant": _score(bpb + 0.02), **adapted},
        "bytes": Bytes(model, code, model + code, 1_000_000),
        "grids": Grids.SOLVED if fills else Grids.RECIPE,
        "train_seconds": seconds,
        "eval_seconds": 60.0,
        "steps": steps,
        "train_tokens": 2048 * steps,
        "parameters": 1_784_213,
        "interrupted": False,
        "machine": Machine("x86_64", 2, 1, "2.13.0", "3.12.0", "Linux", 1),
    }
    result = Result(**{**about, **fields})
    return Entry(f"runs/{name}/seed-{seed}", result, _events(rng, result), _documents(rng, result), "run.html")


def entries() -> list[Entry]:
    """Five recipes with three seeds."""
    return [entry(name, seed) for name in [*(known for known, _, _ in NAMES), "baseline"] for seed in (42, 314, 999)]


def ablation_row(part: str = "", **fields) -> AblationRow:
    """A row of an ablation; `fields` replace those of the whole recipe's."""
    numbers = {"bpb": 1.3, "before": 1.3, "bytes": 9e5, "weighs": 8e5, "steps": 400.0, "step_ms": 110.0}
    numbers |= dict.fromkeys(("worth", "low", "high", "p"))
    return AblationRow(part=part, **{**numbers, "scores": {"1": 1.3, "2": 1.31, "3": 1.29}, "failed": "", **fields})


def ablation(*rows: AblationRow, **fields) -> Ablation:
    """What `ablation.json` holds; some parts of their own where no `rows` are given."""
    rng = random.Random(1)
    made = [ablation_row(step_ms=100 + 20 * rng.random())]
    parts = [("value embeddings", 0.031), ("hashed bigrams", 0.022), ("smear gate", 0.004), ("U-Net skips", -0.003)]
    for part, worth in [*parts, ("+ XSA", 0.006), ("+ two more blocks, each of them with its own MLP", -0.012)]:
        half, size = 0.003 + 0.004 * rng.random(), 8e5 - rng.randrange(90_000)
        interval = {"low": worth - half, "high": worth + half, "p": 0.01}
        pace = 100 + 20 * rng.random()
        made.append(ablation_row(part, bpb=1.3 + worth, worth=worth, **interval, weighs=size, step_ms=pace))
    made.append(ablation_row("GPTQ", bpb=None, failed="It would not fit."))
    about = {"recipe": "house", "digest": "0" * 16, "steps": 400, "seconds": None, "counts": "all", "cap": 1_000_000}
    return Ablation(**{**about, "windows": "plain:256", "adapted": False, "rows": rows or tuple(made), **fields})


def audits() -> list[dict]:
    """Reports of the auditor."""
    finding = {"rule": "size_cap", "status": "PASS", "summary": "999,625 bytes of 1,000,000.", "evidence": []}
    bad = {"rule": "two_pass", "status": "FAIL", "summary": "Adapts on a token before it is graded.", "evidence": []}
    one = {"target": "records/track/A", "head": None, "track": "10min", "verdict": "PASS", "findings": [finding]}
    two = one | {"target": "records/track/B <b>", "verdict": "FAIL", "findings": [finding, bad]}
    return [one | {"unchecked": []}, two | {"unchecked": ["causality: no script"]}]


def hash_of(name: str) -> int:
    """The same number for a name every time."""
    return random.Random(name).getrandbits(64)


def _score(bpb: float) -> ScoreRow:
    return ScoreRow(bpb / RATIO, bpb, "plain:256", 15.0)


def _events(rng: random.Random, result: Result) -> list:
    steps, seconds, final = result.steps, result.train_seconds, result.val_loss + 0.02
    events: list = []
    for step in range(1, steps + 1):
        loss = final + 3.5 * math.exp(-7 * step / steps) + rng.gauss(0, 0.06)
        events.append(Step(step, loss, 1 - step / steps, 2048 * step, seconds * step / steps))
        if step % (steps // 10) == 0:
            events.append(Validated(step, loss, RATIO * loss, 8192, seconds * step / steps))
            off = 1 + 0.05 * math.exp(-4 * step / steps) + rng.gauss(0, 0.004)
            size = result.bytes
            events.append(Weighed(step, int(size.model * off), size.code, size.cap, False, seconds))
    size = result.bytes
    by_role = {role: int(share * size.model) for role, share in ROLES.items()}
    events.append(Packed(size.model, size.code, size.cap, by_role, seconds))
    numbers = result.val_loss, result.val_bpb, result.val_tokens, result.val_bytes, 15.0
    return [*events, Scored("post_quant", "plain:256", *numbers)]


def _documents(rng: random.Random, result: Result) -> list[DocumentScore]:
    adapted, rows = "adapted" in result.scores, []
    for number in range(26):
        bpb = result.val_bpb + rng.gauss(0, 0.06)
        without = bpb + 0.02 + rng.gauss(0, 0.015) if adapted else None
        size = rng.randrange(8_000, 90_000)
        rows.append(DocumentScore(f"{1800 + 8 * number}", size, size // 4, bpb / RATIO, bpb, without))
    return rows
