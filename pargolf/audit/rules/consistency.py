"""Whether every number that appears twice agrees: title, README, submission.json, log, and plain arithmetic.

A contradiction does not show which side is wrong, so it is SUSPECT at most; small ones are HOLD. Checked are: the
declared score and the logs, model plus code and the total, training times with each other, claims of compliance and the
numbers, validation rows and the tokenizer's constant, timers that enclose one another, the vocabulary and the quotient
of loss and bits per byte, and log lines that the committed script cannot print.
"""

import re
from collections.abc import Iterable, Iterator

from pargolf.audit.read.facts import Facts
from pargolf.audit.read.fields import Leaf
from pargolf.audit.read.logs import Line, Log, LoggedRow
from pargolf.audit.read.validation_sets import GOOD, match, rounding
from pargolf.audit.report import HOLD, PASS, SUSPECT, Evidence, RuleFinding
from pargolf.audit.rules.rule import Missing, Surroundings
from pargolf.audit.rules.time_limits import SECONDS, told_training_seconds
from pargolf.audit.rules.trails import impossible_scores, odd_trails
from pargolf.core.units import CAP

_OURS = re.compile(
    r"^(quant|final|legal_ttt|ttt|gptq|ema|swa|serialized|total submission|stopping_early|step)\b|^\w+_exact"
)


def consistency(facts: Facts, context: Surroundings, missing: Missing) -> Iterator[RuleFinding]:
    """All contradictions inside one folder; PASS if something could contradict and nothing does."""
    contradictions = list(_contradictions(facts))
    yield from contradictions
    if not contradictions and (facts.bpb is not None or facts.logs):
        yield RuleFinding("consistency", PASS, "Every number that appears twice agrees.")


def _contradictions(facts: Facts) -> Iterator[RuleFinding]:
    for check in (_score, _sum, _times, _claims, _loss_is_bpb, _vocabulary, _title, impossible_scores):
        yield from check(facts)
    for log in facts.own_logs[:6]:
        for look in (_rows, _timers, _worse, odd_trails):
            yield from look(log)
        yield from _foreign_lines(facts, log)


def _finding(status: str, summary: str, lines: Iterable[Line], **numbers: object) -> RuleFinding:
    evidence = tuple(Evidence(x.file, x.number, x.text.strip()[:240]) for x in lines)
    return RuleFinding("consistency", status, summary, evidence, numbers)


def _score(facts: Facts) -> Iterator[RuleFinding]:
    claim = facts.bpb
    finals = [log.final.bpb for log in facts.logs if log.final is not None]
    if claim is None or not claim.number or not finals:
        return
    scored = [log for log in facts.logs if log.final is not None]
    printed = [s.bpb for log in scored for s in (*log.scores, *log.mixes)] + [r.bpb for x in scored for r in x.rows]
    if any(abs(claim.number - value) < 6e-4 for value in (*printed, _mean(finals))):
        return
    own_scores = [log.final.bpb for log in facts.own_logs if log.final is not None]
    if own_scores and abs(_mean(own_scores) - claim.number) < 1.2e-3:
        return
    nearest = sorted(printed, key=lambda value: abs(value - (claim.number or 0.0)))[0]
    yield _finding(
        SUSPECT if abs(nearest - claim.number) > 0.02 else HOLD,
        f"The declared score {claim.number:g} is in no log; the nearest logged one is {nearest:g}.",
        [claim.line],
        declared=claim.number,
        nearest=nearest,
    )


def _mean(values: list[float]) -> float:
    return sum(values) / len(values)


def _sum(facts: Facts) -> Iterator[RuleFinding]:
    by_place: dict[tuple[str, ...], dict[str, Leaf]] = {}
    codes = [x for x in facts.leaves if re.match(r"^(bytes_code|code_bytes)$", x.key)]
    for kind, leaves in (("total", facts.totals), ("model", facts.models), ("code", codes)):
        for leaf in leaves:
            if leaf.number:
                by_place.setdefault(leaf.path[:-1], {}).setdefault(kind, leaf)
    for sizes in by_place.values():
        if len(sizes) < 3:
            continue
        total, model, code = (sizes[k].number or 0.0 for k in ("total", "model", "code"))
        if abs(total - model - code) > 64 and model < total:
            yield _finding(
                HOLD,
                f"Model {model:,.0f} plus code {code:,.0f} is {model + code:,.0f}, not the declared {total:,.0f}.",
                [x.line for x in sizes.values()],
                sum=model + code,
                total=total,
            )
            return


def _times(facts: Facts) -> Iterator[RuleFinding]:
    """Training seconds as declared, logged and described: each source must agree with a value of another source.

    Logs are not compared with each other: a folder may keep runs of several lengths.
    """
    declared = [(x.seconds or 0.0, x.line) for x in facts.train_times]
    logged = [(log.train_seconds.value, log.train_seconds.line) for log in facts.own_logs if log.train_seconds]
    lines = [*facts.readme, *(x.line for x in facts.leaves if isinstance(x.value, str))]
    prose = [(seconds, line) for line in lines if (seconds := told_training_seconds(line.text)) is not None]
    for mine, other_values in ((declared, logged), (prose, declared + logged), (declared, prose)):
        mine, other_values = ([s for s in group if s[0] > 30] for group in (mine, other_values))
        off = _off(mine, other_values)
        if off and max(s[0] for s in off + other_values) > SECONDS:
            values = sorted({round(s[0], 1) for s in (*declared, *logged, *off, *other_values)}, reverse=True)
            nearest = min(other_values, key=lambda s: abs(s[0] - off[0][0]))
            yield _finding(
                SUSPECT,
                f"Training time is given as {' / '.join(f'{v:g}' for v in values[:5])} s.",
                [off[0][1], nearest[1]],
                seconds=values[:8],
            )
            return


def _off(mine: list[tuple[float, Line]], other_times: list[tuple[float, Line]]) -> list[tuple[float, Line]]:
    """Times that agree with none of the others; none if there are no others."""
    return [s for s in mine if other_times and all(_far(s[0], time[0]) for time in other_times)]


def _far(first: float, second: float) -> bool:
    low, high = sorted((first, second))
    return high > 1.15 * low + 5


def _claims(facts: Facts) -> Iterator[RuleFinding]:
    total = max((x.number or 0.0 for x in facts.totals), default=0.0)
    seconds = max((x.seconds or 0.0 for x in facts.train_times), default=0.0)
    false = {
        "artifact_under_16mb": total > CAP and f"the artifact is declared at {total:,.0f} bytes",
        "train_under_600s": seconds > SECONDS and f"training is declared at {seconds:g} s",
        "three_seeds": 0 < len(facts.runs) < 3 and f"{len(facts.runs)} run(s) are given",
    }
    for leaf in facts.leaves:
        contradiction = false.get(leaf.key)
        if contradiction and leaf.value is True:
            yield _finding(SUSPECT, f"{leaf.key} is said to be true, but {contradiction}.", [leaf.line])


def _loss_is_bpb(facts: Facts) -> Iterator[RuleFinding]:
    if facts.bpb is not None and facts.loss is not None and facts.loss.number == facts.bpb.number:
        yield _finding(HOLD, "val_loss and val_bpb hold the same number; one is in the wrong field.", [facts.loss.line])


def _vocabulary(facts: Facts) -> Iterator[RuleFinding]:
    leaf = next((x for x in facts.leaves if x.key == "vocab_size" and x.number), None)
    pair = _loss_and_bpb(facts)
    if leaf is None or leaf.number is None or pair is None:
        return
    vocab = int(leaf.number)
    expected = next((g for g in GOOD if g.vocab == vocab), None)
    loss, bpb, digits, line = pair
    denominator = match(loss / bpb, rounding(loss, digits) + rounding(bpb, digits))
    if expected is not None and denominator is not None and denominator.vocab != vocab:
        yield _finding(
            SUSPECT,
            f"A vocabulary of {vocab} is declared, whose loss / bpb is {expected.ratio:.4f}, but the results give "
            f"{loss / bpb:.4f}, that of {denominator.name}.",
            [leaf.line, line],
            vocab_size=vocab,
            ratio=round(loss / bpb, 5),
        )


def _loss_and_bpb(facts: Facts) -> tuple[float, float, int, Line] | None:
    """Loss and score with their decimals: from the first log with both, or as declared."""
    for log in facts.own_logs:
        score = log.final
        if score is not None and score.bpb and score.loss and score.digits > 2:
            return score.loss, score.bpb, score.digits, score.line
    bpb, loss = facts.bpb, facts.loss
    pair = bpb is not None and loss is not None and bpb.number and loss.number
    return (loss.number, bpb.number, 4, bpb.line) if pair and bpb and loss and bpb.number and loss.number else None


def _title(facts: Facts) -> Iterator[RuleFinding]:
    heading = next((x for x in facts.readme if x.text.startswith("#")), None)
    if heading is None or facts.bpb is None or not facts.bpb.number:
        return
    scores = [float(x) for x in re.findall(r"(?<![\d.])[01]\.\d{3,6}(?![\d.])", heading.text)]
    scores = [x for x in scores if 0.3 < x < 3.0]
    if "bpb" in heading.text.lower() and scores and min(abs(x - facts.bpb.number) for x in scores) > 2e-3:
        yield _finding(
            HOLD,
            f"The README's heading says {scores[0]:g}, submission.json {facts.bpb.number:g}.",
            [heading, facts.bpb.line],
        )


def _rows(log: Log) -> Iterator[RuleFinding]:
    """Whether all validation rows of a run share one quotient of loss and bits per byte, except for rounding."""
    rows = [r for r in log.rows if r.bpb > 0 and r.digits >= 4]
    if len(log.rows) < 4 or len(rows) < 2:
        return
    spans = [_quotients(r) for r in rows]
    if max(low for low, _ in spans) <= min(high for _, high in spans):
        return
    ratio = _quotient_of(log, rows)
    off = [r for r, (low, high) in zip(rows, spans) if not low <= ratio <= high]
    if len(off) > len(rows) // 4:
        yield _finding(
            SUSPECT,
            f"{len(off)} of {len(rows)} validation rows break loss / bpb = {ratio:.4f}, and no quotient fits them all, "
            "which one run on one validation set cannot do.",
            [row.line for row in off[:3]],
            rows=len(off),
            of=len(rows),
        )


def _quotient_of(log: Log, rows: list[LoggedRow]) -> float:
    """The quotient of a log's final score if a tokenizer is known for it, otherwise that of its middle row."""
    final = log.final
    if final is not None and final.bpb > 0 and final.digits >= 3 and match(final.loss / final.bpb, 1e-4) is not None:
        return final.loss / final.bpb
    return sorted(r.loss / r.bpb for r in rows)[len(rows) // 2]


def _quotients(row: LoggedRow) -> tuple[float, float]:
    """The smallest and the largest quotient that would be printed like this, with a margin for single precision."""
    half = 0.5 * 10.0**-row.digits
    low, high = (row.loss - half) / (row.bpb + half), (row.loss + half) / max(row.bpb - half, 1e-9)
    return low * (1 - 3e-5), high * (1 + 3e-5)


def _timers(log: Log) -> Iterator[RuleFinding]:
    for a, b in zip(log.scores, log.scores[1:]):
        if "done" not in a.tag or "done" in b.tag or not a.seconds or not b.seconds or abs(a.bpb - b.bpb) >= 1e-3:
            continue
        printed = re.search(r"elapsed[:=]\s*\d+(?:\.(\d+))?\s*s", a.line.text)
        rounded = 0.5 * 10.0 ** -len(printed[1] or "") if printed else 0.0
        if b.seconds < a.seconds - 0.06 - rounded:
            yield _finding(
                SUSPECT,
                f"The outer timer ({b.seconds:g} s) is shorter than the one it encloses ({a.seconds:g} s).",
                [a.line, b.line],
            )
            return


def _worse(log: Log) -> Iterator[RuleFinding]:
    final = log.final
    if final is None or not log.rows or "ttt" not in final.tag:
        return
    before = log.rows[-1]
    if "positions:" in before.line.text:  # a score of a sample, beside a score of the whole
        return
    if final.bpb > before.bpb + 1e-3 and before.step > 0:
        yield _finding(
            HOLD,
            f"The score after adaptation, {final.bpb:.4f}, is worse than the last one in training, {before.bpb:.4f}.",
            [before.line, final.line],
        )


def _foreign_lines(facts: Facts, log: Log) -> Iterator[RuleFinding]:
    """Lines of the script's own families with words that are in none of the script's strings."""
    code = facts.main
    if code is None or code.tree is None or not log.rows or "val_bpb" not in code.strings:
        return
    source = code.strings + "\n".join(c.text for c in facts.codes if c is not code)
    strange: dict[str, Line] = {}
    for words, line in _first_words(log).items():
        # This package logs several scores; its script prints only the last of them.
        if "final_pargolf_" in words and ".pargolf" in source:
            continue
        pieces = [p for p in re.split(r"[ :]", words) if p]
        if not all(piece in source or _suffixed(piece, source) for piece in pieces):
            strange[words] = line
    if strange:
        yield _finding(
            HOLD,
            f"{len(strange)} kind(s) of log line cannot come from the committed script: "
            f"{', '.join(repr(s) for s in list(strange)[:3])}. The log is from another version, or was edited.",
            list(strange.values())[:4],
        )


def _first_words(log: Log) -> dict[str, Line]:
    """The first words of lines of the script's own families, each with the first such line."""
    lines: dict[str, Line] = {}
    for line in log.lines:
        words = re.match(r"[A-Za-z_]+(?:[ :][A-Za-z_]{3,})?", line.text)
        if words is not None and _OURS.match(line.text.lower()) and len(line.text) <= 200:
            lines.setdefault(words[0], line)
    return lines


def _suffixed(piece: str, source: str) -> bool:
    """Whether a tag is built from parts, such as `final_` + codec + `_roundtrip_exact`."""
    parts = [p for p in piece.split("_") if len(p) > 2]
    return len(parts) > 1 and all(p in source for p in parts)
