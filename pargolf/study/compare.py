"""Compare runs with runs, or with one published score, from their `result.json`.

A folder of run folders (as `pargolf seeds` makes) means all of them. Runs can be compared if they were scored on the
same bytes; with different tokenizers the gain is in bits per byte, and the bar is that of the new runs' tokenizer.
"""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pargolf.core.errors import UserError
from pargolf.core.result import Result, mixture
from pargolf.core.stats import Comparison, bar_in_bpb, compare_scores
from pargolf.run.folder import RunFolder


@dataclass(frozen=True)
class Finished:
    """A finished run: its folder and its result."""

    path: Path
    result: Result

    @property
    def seed(self) -> int:
        """The run's seed."""
        return self.result.seed

    @property
    def bpb(self) -> float:
        """The run's final bits per byte."""
        return self.result.val_bpb


def finished(paths: Sequence[str | Path]) -> list[Finished]:
    """Read every finished run at the paths, each a run folder or a folder of them.

    Raises `UserError` on a path that is not a run, and on a run that has not ended or did not score everything.
    """
    runs = []
    for path in map(Path, paths):
        inner = sorted(p.parent for p in path.glob("*/recipe.json")) if path.is_dir() else []
        folders = [path] if (path / "recipe.json").is_file() or not inner else inner
        runs += [read_finished(p) for p in folders]
    return runs


def read_finished(path: str | Path) -> Finished:
    """Read one finished run. Raises `UserError` as `finished` does."""
    folder = RunFolder.open(path)
    result = folder.read_result()
    if not result.complete:
        raise UserError(f"{path}: {result.sentence} Score it with more time.")
    return Finished(folder.path, result)


def compare_runs(new: Sequence[str | Path], old: Sequence[str | Path]) -> tuple[Comparison, dict[str, Any]]:
    """Test whether the new runs are better; returns the test, and everything as plain JSON.

    `old` may be one number, a published score. Raises `UserError` on runs that cannot be compared.
    """
    if not new or not old:
        raise UserError("Name runs on both sides: pargolf compare runs/new --against runs/old.")
    new_runs = finished(new)
    published = [float(word) for word in map(str, old) if _is_number(word)]
    old_runs = finished([path for path in old if not _is_number(str(path))])
    if published and (old_runs or len(published) > 1):
        raise UserError("Compare against runs, or against one published number; not both.")
    _check_same_text(new_runs, old_runs)
    tokens, size = new_runs[0].result.val_tokens, new_runs[0].result.val_bytes
    against = published or _by_seed(old_runs)
    test = compare_scores(_by_seed(new_runs), against, bar=bar_in_bpb(tokens, size), nats=math.log(2) * size / tokens)
    rows = {
        "new": [_row(run) for run in new_runs],
        "old": [_row(run) for run in old_runs] or [{"bpb": number} for number in published],
        **asdict(test),
        "bar_nats": test.bar_bpb * math.log(2) * size / tokens,
        "p": test.p,
        "met": test.met,
        "words": test.words,
    }
    return test, rows


def _check_same_text(new_runs: Sequence[Finished], old_runs: Sequence[Finished]) -> None:
    """Raise `UserError` unless all runs were scored on the same bytes; `old_runs` may be empty."""
    for side in (new_runs, old_runs):
        if mixed := mixture([run.result for run in side]):
            raise UserError(f"The runs of one side were scored on {mixed}. Compare one text at a time.")
    if old_runs and (mixed := _difference(new_runs[0].result, old_runs[0].result)):
        raise UserError(f"The runs were scored on {mixed}, so their numbers cannot be compared.")


def _by_seed(runs: Sequence[Finished]) -> dict[int, float] | list[float]:
    """Scores by seed if each seed ran once, else a list of scores."""
    seeds = {run.seed: run.bpb for run in runs}
    return seeds if len(seeds) == len(runs) else [run.bpb for run in runs]


def _difference(first: Result, second: Result) -> str:
    """Why two results cannot be compared, in a few words; with different tokenizers only the bytes must be the same."""
    if first.val_bytes != second.val_bytes:
        return f"different text ({first.val_bytes:,} and {second.val_bytes:,} bytes)"
    proofs = first.proof, second.proof
    known = [proof.tokenizer_sha256 for proof in proofs if proof is not None]
    return mixture([first, second]) if len(known) == 2 and known[0] == known[1] else ""


def _row(run: Finished) -> dict[str, str | int | float]:
    return {"run": str(run.path), "seed": run.seed, "bpb": run.bpb}


def _is_number(word: str) -> bool:
    try:
        return math.isfinite(float(word))
    except ValueError:
        return False
