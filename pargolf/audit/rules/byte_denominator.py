"""Which bytes a score divides by: loss over bits per byte is ln 2 times bytes per token, for every model.

This quotient is a constant of tokenizer and validation set (`validation_sets`), so a wrong byte count shows without a
GPU, and the right score follows from it. It is computed from the pair of loss and score that is nearest to the declared
score. Sources: #1545 #1687 (a leading space counted twice), #2071 #2138 (transformed bytes), #2076 (tokens called
bytes).
"""

import ast
import math
import re
from collections.abc import Callable, Iterator

from pargolf.audit.code.program import Program
from pargolf.audit.code.tree import walk
from pargolf.audit.read.facts import Facts
from pargolf.audit.read.fields import Leaf
from pargolf.audit.read.logs import Log, LoggedScore
from pargolf.audit.read.validation_sets import (
    BYTES,
    CANONICAL_TOKENS,
    CASEOPS_BYTES,
    GOOD,
    NON_CANONICAL,
    OTHER_TEXTS,
    match,
    rounding,
)
from pargolf.audit.report import FAIL, HOLD, PASS, SUSPECT, Evidence, RuleFinding
from pargolf.audit.rules.rule import Hit, Missing, Surroundings, quoted
from pargolf.audit.rules.script.byte_tables import byte_tables

_CASEOPS = re.compile(rf"\bbytes[=:]\s*{f'{CASEOPS_BYTES:,}'.replace(',', ',?')}\b")
# The official table takes the mark off a piece's front and encodes the rest; a right one turns every mark into a space.
_SPACE_STRIPPED = re.compile(r"startswith\(\s*[\"'](?:\u2581|\\u2581)[\"']")
_SPACE_REPLACED = re.compile(r"replace\(\s*(?:[\"'](?:\u2581|\\u2581)[\"']|[\w.]+)\s*,\s*[\"'] [\"']")


def byte_denominator(facts: Facts, context: Surroundings, missing: Missing) -> Iterator[RuleFinding]:
    """Whether loss over bits per byte is the constant of a known tokenizer and the standard validation set."""
    if facts.folder.script_only:
        missing.add("byte_denominator: a script alone has no logs or declared numbers")
    else:
        finding = _told_bytes(facts) or _other_bytes(facts) or _quotient(facts)
        if finding is not None:
            yield finding
        else:
            missing.add("byte_denominator: no loss is given with the score, so the byte count cannot be recomputed")
    yield from _pieces(facts)


def _quotient(facts: Facts) -> RuleFinding | None:
    """The finding on loss over bits per byte, for the pair nearest to the declared score; None without a pair."""
    score = next(_pairs(facts), None)
    if score is None:
        return None
    ratio = score.loss / score.bpb
    slack = rounding(score.loss, score.digits) + rounding(score.bpb, score.digits)
    denominator = match(ratio, slack)
    numbers: dict[str, object] = {"loss": score.loss, "bpb": score.bpb, "ratio": round(ratio, 5)}
    lines = quoted([score.line])
    if denominator is None:
        return _unknown_quotient(facts, score, slack)
    if denominator is NON_CANONICAL:
        text = f"Loss / bpb is {ratio:.4f}, that of {denominator.name}: the score is not over the whole validation set."
        return RuleFinding("byte_denominator", SUSPECT, text, lines, numbers)
    if denominator.true is None:
        return RuleFinding("byte_denominator", PASS, f"Loss / bpb is {ratio:.4f}: {denominator.name}.", lines, numbers)
    fixed = score.loss / denominator.true
    return RuleFinding(
        "byte_denominator",
        FAIL,
        f"Loss / bpb is {ratio:.4f}, the quotient of {denominator.name}: {denominator.why}. True score: {fixed:.4f}, "
        f"not {score.bpb:.4f}.",
        lines,
        {**numbers, "true_ratio": round(denominator.true, 5), "corrected_bpb": round(fixed, 6)},
    )


def _unknown_quotient(facts: Facts, score: LoggedScore, slack: float) -> RuleFinding:
    """The finding on a quotient of no known tokenizer.

    It is compared with the declared bytes and tokens, and with the log's own rows.
    """
    ratio = score.loss / score.bpb
    numbers: dict[str, object] = {"loss": score.loss, "bpb": score.bpb, "ratio": round(ratio, 5)}
    lines = quoted([score.line])
    own_ratio = None if facts.record_track else _own_ratio(facts)
    if own_ratio is not None and abs(own_ratio / ratio - 1) <= slack + 1e-5:
        text = f"Loss / bpb is {ratio:.4f}, as the declared tokens and bytes of another validation set give."
        return RuleFinding("byte_denominator", PASS, text, lines, {**numbers, "own_ratio": round(own_ratio, 5)})
    rows = _ratio_of_rows(facts)
    if rows is not None and abs(rows / ratio - 1) > slack + 0.003:
        return RuleFinding(
            "byte_denominator",
            SUSPECT,
            f"Loss / bpb is {ratio:.4f} for the reported score and {rows:.4f} for the validation rows of the same log: "
            f"one validation set has one quotient. By the rows' own, the loss is worth {score.loss / rows:.4f}, not "
            f"{score.bpb:.4f}. Probe: decode all validation tokens and count their bytes.",
            lines,
            {**numbers, "row_ratio": round(rows, 5), "corrected_bpb": round(score.loss / rows, 6)},
        )
    text = (
        f"Loss / bpb is {ratio:.4f}, of no known tokenizer. Decode all validation tokens: they must give "
        f"{BYTES:,} bytes."
    )
    return RuleFinding("byte_denominator", HOLD, text, lines, numbers)


def _pieces(facts: Facts) -> Iterator[RuleFinding]:
    """Pieces of the tokenizer that the official byte table counts wrong: spaces inside, and no piece for a space."""
    code = facts.main
    if code is None or code.tree is None or _SPACE_REPLACED.search(code.text):
        return
    table = next((i for i, line in enumerate(code.lines, 1) if _SPACE_STRIPPED.search(line)), 0)
    status = SUSPECT if table else HOLD
    counts = "the script's byte table counts" if table else "the official byte table counts"
    for tokenizer in facts.tokenizers:
        evidence = (Evidence(tokenizer.path, 0, ""), *([Evidence(code.path, table, code.line(table))] if table else []))
        inner = tokenizer.inner_spaces
        if inner:
            yield RuleFinding(
                "byte_denominator",
                status,
                f"{len(inner):,} pieces of {tokenizer.path} hold a space inside, such as `{inner[0][:40]}`: {counts} "
                "3 bytes for it, those of U+2581, where the text has 1. The score comes out too low. "
                "Probe: decode all validation tokens and count their bytes.",
                evidence,
                {"pieces": len(inner)},
            )
        if not tokenizer.has_space:
            yield RuleFinding(
                "byte_denominator",
                status,
                f"{tokenizer.path} has no piece for a space alone: where the text needs one, {counts} the 3 bytes of "
                "U+2581 for 1 (#897, #755). Probe: decode all validation tokens and count their bytes.",
                evidence,
            )


def _own_ratio(facts: Facts) -> float | None:
    """ln 2 times bytes per token, from the numbers in `submission.json` about its own validation set."""
    tokens = next((x.number for x in facts.leaves if x.path == ("val_tokens",) and x.number), None)
    byte_count = next((x.number for x in facts.leaves if x.path == ("val_bytes",) and x.number), None)
    return math.log(2) * byte_count / tokens if tokens and byte_count else None


def _told_bytes(facts: Facts) -> RuleFinding | None:
    """A log line with the transformed text's bytes as the denominator of the declared score."""
    claim = facts.bpb.number if facts.bpb is not None else None
    for log in facts.own_logs if claim else ():
        line = next((x for x in log.lines if _CASEOPS.search(x.text)), None)
        if line is not None and claim and any(abs(claim - s.bpb) < 0.0015 for s in (*log.scores, *log.mixes)):
            fixed = claim * CASEOPS_BYTES / BYTES
            return RuleFinding(
                "byte_denominator",
                FAIL,
                f"The log divides by {CASEOPS_BYTES:,} bytes, those of the transformed text; the raw one has {BYTES:,}."
                f" True score: {fixed:.4f}, not {claim:.4f}.",
                quoted([line]),
                {"bytes": CASEOPS_BYTES, "true_bytes": BYTES, "corrected_bpb": round(fixed, 6)},
            )
    return None


def _other_bytes(facts: Facts) -> RuleFinding | None:
    """The declared score's own log line gives the bytes it divides by, and they are not those of the standard set."""
    claims = [c for c in (facts.bpb.number if facts.bpb else None, *(run.score for run in facts.runs.values())) if c]
    for log in facts.own_logs:
        tokens = int(log.val_tokens.value) if log.val_tokens else 0
        if tokens not in CANONICAL_TOKENS or tokens in OTHER_TEXTS:
            continue
        for score in (*log.scores, *log.mixes):
            printed = re.search(r"\b(?:n_?)?bytes[=:]\s*([\d,]{7,})\b", score.line.text, re.I)
            if printed is None or not any(abs(c - score.bpb) < 0.0015 for c in claims):
                continue
            size = int(printed[1].replace(",", ""))
            if abs(size / BYTES - 1) > 0.005:
                same = ", the number of its tokens" if size == tokens else ""
                return RuleFinding(
                    "byte_denominator",
                    SUSPECT,
                    f"The line of the declared score counts {size:,} bytes{same}; the standard validation set has "
                    f"{BYTES:,}. Probe: decode all validation tokens and count their bytes.",
                    quoted([score.line]),
                    {"bytes": size, "true_bytes": BYTES},
                )
    return None


def _ratio_of_rows(facts: Facts) -> float | None:
    """The quotient of the validation rows during training, if they agree on one.

    A row that gives its number of positions is over a sample, which has another quotient.
    """
    for log in facts.own_logs:
        whole = [r for r in log.rows if "positions:" not in r.line.text]
        ratios = [r.loss / r.bpb for r in whole if r.bpb > 0 and r.digits >= 4]
        if len(ratios) >= 2 and max(ratios) < min(ratios) * 1.001:
            return sum(ratios) / len(ratios)
    return None


def _pairs(facts: Facts) -> Iterator[LoggedScore]:
    """Pairs of loss and score, the best source first: declared, then logged beside the declared score."""
    claim = facts.bpb.number if facts.bpb is not None else None
    if not claim:
        finals = [log.final for log in facts.own_logs if log.final is not None]
        yield from (s for s in finals if _is_pair(s) and s.digits >= 3)
        return
    pairs = [s for log in facts.own_logs for s in (*reversed(log.scores), *_as_scores(log))]
    logged = list(filter(_is_pair, pairs))
    near = [s for s in logged if abs(s.bpb - claim) < 6e-5 * (1 if s.digits > 3 else 10)]
    yield from sorted(near, key=lambda s: -s.digits)
    yield from _declared(facts, claim)
    for value in filter(None, (run.score for run in facts.runs.values())):
        yield from (s for s in logged if abs(s.bpb - value) < 6e-5)


def _is_pair(score: LoggedScore) -> bool:
    return score.bpb > 0 and score.loss > 0


def _declared(facts: Facts, claim: float) -> Iterator[LoggedScore]:
    """The declared loss with the declared score, if both have enough digits."""
    loss, bpb = facts.loss, facts.bpb
    if loss is not None and loss.number and bpb is not None:
        digits = min(_decimals(bpb), _decimals(loss))
        if digits >= 3:
            yield LoggedScore("declared", loss.number, claim, digits, None, loss.line)


def _as_scores(log: Log) -> list[LoggedScore]:
    return [LoggedScore("row", r.loss, r.bpb, r.digits, None, r.line) for r in log.rows[-1:]]


def _decimals(leaf: Leaf) -> int:
    return len(str(leaf.value).partition(".")[2])


def ratio_of(facts: Facts) -> float:
    """Nats per bit per byte of a submission: its own quotient, or that of sp1024 if it gives none."""
    score = next(_pairs(facts), None)
    return score.loss / score.bpb if score is not None else GOOD[0].ratio


def byte_table(program: Program) -> Iterator[Hit]:
    """Whether the byte tables that the script builds are right, and what scoring does with them."""
    counted_twice = [*_space_twice(program)]
    yield from counted_twice or byte_tables(program)


def _space_twice(program: Program) -> Iterator[Hit]:
    """The table of token bytes contains the leading space's byte, and scoring adds it once more."""
    additions = [node for node in program.live_of(ast.AugAssign) if any(map(_and_not, program.below(node.value)))]
    for node in program.live_of(ast.If) if additions else ():
        if "startswith" not in ast.unparse(node.test) or "\u2581" not in _strings(node.test):
            continue
        marks = any(_sets(n, lambda v: isinstance(v, ast.Constant) and v.value is True) for n in node.body)
        counted = next((n for n in node.body if _sets(n, _one_more_than_encoded)), None)
        if marks and counted is not None:
            yield Hit(
                "byte_denominator",
                SUSPECT,
                counted,
                f"The byte of a leading space is counted here and again on line {additions[0].lineno}: the "
                "score comes out some 15 % too low (#1545, #1687).",
                f"Probe: decode all validation tokens; they must give {BYTES:,} bytes.",
            )
            return


def _and_not(node: ast.AST) -> bool:
    """`a & ~b`."""
    if not isinstance(node, ast.BinOp) or not isinstance(node.op, ast.BitAnd):
        return False
    return isinstance(node.right, ast.UnaryOp) and isinstance(node.right.op, ast.Invert)


def _sets(node: ast.stmt, fits: Callable[[ast.expr], bool]) -> bool:
    return isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Subscript) and fits(node.value)


def _one_more_than_encoded(value: ast.expr) -> bool:
    plus = isinstance(value, ast.BinOp) and isinstance(value.op, ast.Add)
    return plus and "encode" in ast.unparse(value) and ast.unparse(value).endswith("+ 1")


def _strings(node: ast.AST) -> str:
    return "".join(n.value for n in walk(node) if isinstance(n, ast.Constant) and isinstance(n.value, str))
