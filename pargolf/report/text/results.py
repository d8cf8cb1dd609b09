"""A finished run as tables for the terminal, drawn with rich.

Bits per weight = 8 x bytes / weights. All text goes in as `Text`, never as markup: a recipe may be called `[red]`.
"""

from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from pargolf.core.result import Result, ScoreRow

if TYPE_CHECKING:
    from pargolf.packing.artifact import RoleRow

_SCORE_NAMES = {"pre_quant": "before packing", "post_quant": "unpacked", "adapted": "unpacked, adapted"}
_EIGHTHS = " ▏▎▍▌▋▊▉█"


def result_table(result: Result) -> RenderableType:
    """Return the final table of a run: the number, what it was scored on, the scores, the bytes and the times.

    If the number does not count, the first line says so.
    """
    heading = Text.assemble(
        (f"{result.val_bpb:.4f}", "bold cyan"),
        (" bits per byte", "bold"),
        (f"   {result.val_loss:.4f} nats per token", "dim"),
    )
    sentence = Text(result.sentence, style="" if result.legal else "bold red")
    top = (heading, sentence) if result.legal else (sentence, heading)
    return Group("", *top, "", _scores_table(result), "", _facts_table(result), "")


def score_label(name: str) -> str:
    """Return which weights a scoring of this name used, in words."""
    for known, label in _SCORE_NAMES.items():
        if name == known or name.startswith(known + "_"):
            return label
    return name.replace("_", " ")


def is_headline(result: Result, score: ScoreRow) -> bool:
    """Return whether the result's number comes from this scoring."""
    return score.loss == result.val_loss and score.bpb == result.val_bpb


def result_facts(result: Result) -> list[tuple[str, str]]:
    """Return `(name, text)` rows: bytes, training, scoring, the recipe and the machine."""
    size, train = result.bytes, result.train_seconds
    share = size.total / size.cap if size.cap else 0.0
    over = "" if size.total <= size.cap else "  OVER THE CAP"
    ended = "  (interrupted)" if result.interrupted else ""
    return [
        (
            "bytes",
            f"{size.model:,} model + {size.code:,} code = {size.total:,} of {size.cap:,} ({share:.1%}){over}",
        ),
        (
            "training",
            f"{train:,.1f} s, {result.steps:,} steps, {result.train_tokens:,} tokens"
            f" ({result.train_tokens / max(train, 1e-9):,.0f}/s), {result.parameters:,} parameters{ended}",
        ),
        *started_rows(result),
        ("scoring", f"{result.eval_seconds:,.1f} s"),
        ("recipe", f"{result.recipe}  digest {result.digest[:16]}  seed {result.seed}"),
        ("machine", ", ".join(f"{key} {value}" for key, value in machine_rows(result))),
    ]


def started_rows(result: Result) -> list[tuple[str, str]]:
    """Return a `(name, text)` row with the weights that the run started from, if there are any."""
    origin, total = result.origin, result.all_train_seconds
    if origin is None:
        return []
    before = "training time unknown" if total is None else f"{total:,.1f} s in all"
    return [("started from", f"{origin.path}  (recipe {origin.recipe}, digest {origin.digest[:16]}; {before})")]


def machine_rows(result: Result) -> list[tuple[str, str]]:
    """Return the machine that the run was measured on as `(name, text)` rows."""
    rows = [(key.replace("_", " "), value) for key, value in asdict(result.machine).items()]
    return [(key, str(value)) for key, value in rows if value not in (None, "")]


def proof_rows(result: Result) -> list[tuple[str, str]]:
    """Return what the byte count is based on, and the hashes of the scored text, as `(name, text)` rows."""
    if result.proof is None:
        return []
    shards = [(name, digest) for name, digest in result.proof.shards_sha256.items()]
    return [("bytes rest on", result.proof.rests), ("tokenizer SHA-256", result.proof.tokenizer_sha256), *shards]


def roles_table(by_role: "Sequence[RoleRow]") -> Table:
    """Return a table of bytes by role, largest first; rows have role, tensors, weights, bytes and bits_per_weight."""
    rows = sorted(by_role, key=lambda row: -row["bytes"])
    largest = max((row["bytes"] for row in rows), default=0)
    total = sum(row["bytes"] for row in rows)
    weights = sum(row["weights"] for row in rows)
    table = _table("role", "tensors", "weights", "bytes", "bits/weight", "share")
    table.add_column("", justify="left", no_wrap=True)
    for row in rows:
        table.add_row(
            Text(str(row["role"])),
            f"{row['tensors']:,}",
            f"{row['weights']:,}",
            f"{row['bytes']:,}",
            bits_text(row),
            f"{row['bytes'] / max(total, 1):.1%}",
            Text(_bar(row["bytes"] / max(largest, 1), 20), style="cyan"),
        )
    table.add_section()
    tensors = sum(row["tensors"] for row in rows)
    table.add_row(
        "all", f"{tensors:,}", f"{weights:,}", f"{total:,}", f"{8 * total / max(weights, 1):.3f}", "", style="bold"
    )
    return table


def bits_text(row: "RoleRow") -> str:
    """Return a row's bits per weight; empty for rows without weights, such as the header."""
    bits = row["bits_per_weight"]
    return "" if bits is None else f"{bits:.3f}"


def _scores_table(result: Result) -> Table:
    table = _table("weights", "windows", "nats/token", "bits/byte", "seconds")
    for name, score in result.scores.items():
        table.add_row(
            Text(score_label(name)),
            Text(score.windows),
            f"{score.loss:.4f}",
            f"{score.bpb:.4f}",
            f"{score.seconds:.1f}",
            style="bold" if is_headline(result, score) else "",
        )
    return table


def _facts_table(result: Result) -> Table:
    table = Table.grid(padding=(0, 2))
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    for name, text in result_facts(result):
        table.add_row(name, Text(text, style="bold red" if "OVER THE CAP" in text else ""))
    return table


def _table(*names: str) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    for number, name in enumerate(names):
        words = name in ("windows",) or number == 0
        table.add_column(name, justify="left" if words else "right", no_wrap=True)
    return table


def _bar(share: float, width: int) -> str:
    """A bar of at most `width` cells, exact to an eighth of one."""
    eighths = round(8 * width * min(max(share, 0.0), 1.0))
    return ("█" * (eighths // 8) + _EIGHTHS[eighths % 8]).rstrip()
