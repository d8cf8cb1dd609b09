"""Rules of bytes and seconds: the cap on code plus model, the time for training, for scoring and for calibration.

Declared, logged and recomputed numbers are held against the same limits, so each may FAIL by itself: a number over a
cap is over it, whoever merged it. Logs of other experiments in the folder, told by a final score that nobody declares,
only raise a HOLD. Sources: README FAQ; #593 #606 #626 #706 #1028.
"""

import re
from collections.abc import Iterator

from pargolf.audit.facts import Facts
from pargolf.audit.ground import (
    CALIBRATION_SLACK,
    CAP,
    MIB,
    SECONDS,
    Missing,
    Surroundings,
    null_leaves,
    quoted,
    told_training_seconds,
)
from pargolf.audit.logs import Line, Log, Seen
from pargolf.audit.verdict import FAIL, HOLD, PASS, SUSPECT, UNVERIFIABLE, RuleFinding

_ALONE = "declared for the model alone"


def size_cap(facts: Facts, context: Surroundings, missing: Missing) -> Iterator[RuleFinding]:
    """Code bytes plus compressed model: declared, in the README's table, logged, recomputed with the code at hand."""
    sizes = _declared_sizes(facts)
    logged = [(log, seen) for log in facts.own_logs if (seen := log.total_bytes) is not None]
    declared_over = [s for s in sizes if s[0] > CAP]
    if declared_over:
        yield _over(facts, declared_over)
        return
    over = [(log, seen) for log, seen in logged if seen.value > CAP]
    if over:
        yield _logged_over(facts, over, logged)
        return
    stray = [s for log in facts.logs if log not in facts.own_logs and (s := log.total_bytes) and s.value > CAP]
    if stray and (sizes or logged):
        yield _others_over(stray)
    yield from _under(facts, sizes, logged)


def _declared_sizes(facts: Facts) -> list[tuple[float, Line, str]]:
    """Bytes that the submission gives for the whole, for the model alone and for each seed."""
    sizes: list[tuple[float, Line, str]] = [(x.number or 0.0, x.line, "declared") for x in facts.totals]
    sizes += [((leaf.number or 0.0), leaf.line, _ALONE) for leaf in facts.models]
    for run in facts.runs.values():
        if run.total is not None and all(run.total.line != line for _, line, _ in sizes):
            sizes.append((run.total.value, run.total.line, f"declared for seed {run.seed}"))
    return sizes


def _logged_over(facts: Facts, over: list[tuple[Log, Seen]], logged: list[tuple[Log, Seen]]) -> RuleFinding:
    """Logs over the cap: recomputed with the committed script, and told from logs of other runs."""
    code = facts.main.size if facts.main is not None else 0
    again = [log.model.value + code for log, _ in over if log.model is not None and code]
    if len(again) == len(over) and max(again) <= CAP:
        return RuleFinding(
            "size_cap",
            PASS,
            f"The log prints {max(s.value for _, s in over):,.0f} bytes with the script it ran; with the committed "
            f"script the artifact is {max(again):,.0f} bytes, under the cap.",
            quoted(s.line for _, s in over[:3]),
            {"cap": CAP, "recomputed": max(again)},
        )
    under = [(log, seen) for log, seen in logged if seen.value <= CAP]
    if under and _are_others(facts, [log for log, _ in over], under):
        return _others_over([seen for _, seen in over])
    return _over(facts, [(s.value, s.line, "logged") for _, s in over])


def _are_others(facts: Facts, over: list[Log], under: list[tuple[Log, Seen]]) -> bool:
    """Whether logs over the cap are of other runs than the submission's.

    They are when nothing says which run is submitted, or when, outside the record track, the declared score and size
    are those of a log under the cap and no score over it is declared.
    """
    claims = [c for c in (facts.bpb.number if facts.bpb else None, *(r.score for r in facts.runs.values())) if c]
    if not claims:
        return True
    totals = {int(x.number or 0) for x in facts.totals}
    submitted = any(int(seen.value) in totals and _scores(log, claims) for log, seen in under)
    return not facts.record_track and submitted and not any(_scores(log, claims) for log in over)


def _scores(log: Log, claims: list[float]) -> bool:
    return log.final is not None and any(abs(log.final.bpb - c) < 6e-5 for c in claims)


def _others_over(seen: list[Seen]) -> RuleFinding:
    return RuleFinding(
        "size_cap",
        HOLD,
        f"{len(seen)} log(s) of other runs in the folder are over the cap; nothing says that they are the submission.",
        quoted(s.line for s in seen[:3]),
        {"cap": CAP, "largest": max(s.value for s in seen)},
    )


def _under(facts: Facts, sizes: list[tuple[float, Line, str]], logged: list[tuple[Log, Seen]]) -> Iterator[RuleFinding]:
    """No size is over the cap: whether there is one at all, and a log that bears it out."""
    code = facts.main.size if facts.main is not None else 0
    totals = [s for s in sizes if s[2] != _ALONE]
    if not totals and not logged and facts.models and code:
        totals = [((leaf.number or 0) + code, leaf.line, "model and code") for leaf in facts.models]
    if not totals and not logged:
        yield RuleFinding(
            "size_cap",
            UNVERIFIABLE,
            "No size of the artifact is declared and no log prints one. Add bytes_total and the training log.",
            null_leaves(facts, r"bytes|size"),
        )
        return
    largest = max([s[0] for s in totals] + [s.value for _, s in logged])
    numbers = {"cap": CAP, "bytes": largest}
    if largest > CAP:
        yield _over(facts, [s for s in totals if s[0] > CAP])
    elif not facts.logs:
        text = f"{largest:,.0f} bytes are declared and no log bears them out. Add the log."
        yield RuleFinding("size_cap", UNVERIFIABLE, text, quoted(line for _, line, _ in totals[:3]), numbers)
    else:
        shown = max(totals, key=lambda s: s[0])[1] if totals else logged[0][1].line
        lines = quoted([shown, *(s.line for _, s in logged[:3])])
        yield RuleFinding("size_cap", PASS, f"{largest:,.0f} bytes of {CAP:,}.", lines, numbers)


def _over(facts: Facts, over: list[tuple[float, Line, str]]) -> RuleFinding:
    code = facts.main.size if facts.main is not None else 0
    values = sorted({int(v) for v, _, _ in over})
    said = " / ".join(f"{v:,}" for v in values[:6])
    worst = values[-1]
    blob = _model_alone(facts, worst)
    extra = f" That is the model alone: with {code:,} bytes of code it is {worst + code:,}." if blob and code else ""
    if CAP < worst <= MIB:
        extra += f" {worst / 2**20:.2f} MiB fits 16 MiB, but the cap is 16,000,000 bytes, decimal."
    return RuleFinding(
        "size_cap",
        FAIL,
        f"{said} bytes {over[0][2]}, over the cap of {CAP:,} by {worst - CAP:,}.{extra}",
        quoted(line for _, line, _ in over[:6]),
        {"cap": CAP, "bytes": values, "over_by": worst - CAP, **({"with_code": worst + code} if blob else {})},
    )


def _model_alone(facts: Facts, value: int) -> bool:
    """Whether a log prints exactly this size for the model, before the code is added."""
    return any(log.model is not None and int(log.model.value) == value for log in facts.logs) or any(
        int(x.number or 0) == value for x in facts.models
    )


def train_time(facts: Facts, context: Surroundings, missing: Missing) -> Iterator[RuleFinding]:
    """Seconds of training, declared and logged; 601 s allows for the last step's granularity."""
    if not facts.record_track:
        if facts.folder.track is None:
            missing.add("train_time: no track is known, so no limit applies; judge the folder at records/track_*/")
        return
    seen = [(x.seconds or 0.0, x.line) for x in facts.train_times]
    seen += [(s.value - _coarseness(s), s.line) for log in _on_the_tracks_machine(facts) if (s := log.train_seconds)]
    seen.sort(key=lambda s: -s[0])
    if not seen:
        text = "No log and no field says how long training took. Add the log with its train_time lines."
        yield RuleFinding("train_time", UNVERIFIABLE, text)
        return
    longest = seen[0][0]
    ranks = {log.world_size for log in facts.own_logs if log.world_size}
    numbers = {"limit": 600, "seconds": longest}
    if longest > SECONDS:
        yield _too_long(facts, [s for s in seen if s[0] > SECONDS])
    elif not facts.logs:
        text = f"{longest:g} s are declared and no log bears them out. Add the log."
        yield RuleFinding("train_time", UNVERIFIABLE, text, quoted(line for _, line in seen[:2]), numbers)
    elif ranks and max(ranks) != 8:
        text = f"{longest:g} s, but on {max(ranks)} process(es): the track's 600 s are those of 8xH100."
        lines = quoted(line for _, line in seen[:3])
        yield RuleFinding("train_time", HOLD, text, lines, {**numbers, "world_size": max(ranks)})
    else:
        yield RuleFinding("train_time", PASS, f"{longest:g} s of 600.", quoted(line for _, line in seen[:3]), numbers)


def _on_the_tracks_machine(facts: Facts) -> list[Log]:
    """The submission's logs; where some ran on eight processes, not those of trials on fewer."""
    eight = any(log.world_size == 8 for log in facts.own_logs)
    return [log for log in facts.own_logs if not eight or log.world_size in (8, None)]


def _coarseness(seconds: Seen) -> float:
    """What printing minutes with one decimal may have added."""
    return 3.0 if re.search(r"train_time:\s*[\d.]+m\b", seconds.line.text) else 0.0


def _too_long(facts: Facts, over: list[tuple[float, Line]]) -> RuleFinding:
    values = list(dict.fromkeys(round(v, 3) for v, _ in over))
    told = _said_seconds(facts)
    told = told if told is not None and told.value not in values else None
    also = f"; elsewhere the submission says {told.value:g} s" if told else ""
    return RuleFinding(
        "train_time",
        FAIL,
        f"Training took {' / '.join(f'{v:g}' for v in values[:5])} s where 600 s are allowed in this track{also}.",
        quoted([*(line for _, line in over[:4]), *([told.line] if told else [])]),
        {"limit": 600, "seconds": [*values, *([told.value] if told else [])]},
    )


def _said_seconds(facts: Facts) -> Seen | None:
    """What prose says about the training time, where it says that it was kept."""
    for line in [*(x.line for x in facts.leaves if isinstance(x.value, str)), *facts.readme]:
        found = told_training_seconds(line.text)
        if found is not None and found <= SECONDS:
            return Seen(found, line)
    return None


def eval_time(facts: Facts, context: Surroundings, missing: Missing) -> Iterator[RuleFinding]:
    """Seconds of scoring, apart from training: one pass, or what the log calls the total.

    A log that names no number of processes may be of any machine, so its seconds alone prove nothing.
    """
    if not facts.record_track:
        return
    seen = [(x.seconds or 0.0, x.line, True) for x in facts.eval_times]
    for log in facts.own_logs:
        if log.world_size in (8, None):
            sure = log.world_size == 8
            same = [x for x in log.scores if log.final and abs(x.bpb - log.final.bpb) < 1e-4 and x.seconds]
            seen += [(x.seconds or 0.0, x.line, sure) for x in same]
            if log.total_eval is not None:
                seen.append((log.total_eval.value, log.total_eval.line, sure))
    if not seen:
        missing.add("eval_time: nothing says how long scoring took")
        return
    proven = [s for s in seen if s[2] and s[0] > SECONDS]
    worst = max(s[0] for s in proven or seen)
    lines = quoted(line for _, line, _ in sorted(proven or seen, key=lambda s: -s[0])[:3])
    numbers = {"limit": 600, "seconds": worst}
    if proven:
        yield RuleFinding("eval_time", FAIL, f"Scoring took {worst:g} s where 600 s are allowed.", lines, numbers)
    elif worst > SECONDS:
        text = f"Scoring took {worst:g} s, and the log does not say on what; 600 s are allowed on 8xH100."
        yield RuleFinding("eval_time", HOLD, text, lines, numbers)
    else:
        yield RuleFinding("eval_time", PASS, f"{worst:g} s of 600.", lines, numbers)


def calibration_budget(facts: Facts, context: Surroundings, missing: Missing) -> Iterator[RuleFinding]:
    """Calibration on training data that begins after the training clock stopped counts as training."""
    if not facts.record_track:
        return
    late = [log for log in facts.own_logs if log.late_calibration and log.stop and log.stop.value >= 590]
    late = [log for log in late if "self_generated_calibration" not in log.settings]
    if not late:
        if any(log.stop for log in facts.own_logs):
            yield RuleFinding("calibration_budget", PASS, "No calibration begins after the training clock stopped.")
        return
    log = max(
        late,
        key=lambda x: (x.stop.value if x.stop else 0) + (x.calibration_seconds.value if x.calibration_seconds else 0),
    )
    assert log.stop is not None and log.late_calibration is not None
    lines = quoted(
        [log.stop.line, log.late_calibration, *([log.calibration_seconds.line] if log.calibration_seconds else [])]
    )
    if log.calibration_seconds is None:
        if log.stop.value < 599.5:
            missing.add("calibration_budget: the log does not say how long the calibration took")
            return
        yield RuleFinding(
            "calibration_budget",
            SUSPECT,
            f"Calibration begins after training stopped at {log.stop.value:g} s; how long it took is not logged. "
            "Probe: wrap the data loader and fail on any training shard opened after the clock stopped.",
            lines,
            {"train_seconds": log.stop.value},
        )
        return
    total = log.stop.value + log.calibration_seconds.value
    numbers = {
        "limit": 600,
        "train_seconds": log.stop.value,
        "calibration_seconds": log.calibration_seconds.value,
        "sum": round(total, 3),
    }
    if total <= SECONDS:
        yield RuleFinding(
            "calibration_budget", PASS, f"Training and calibration together took {total:.1f} s.", lines, numbers
        )
    elif total <= 600 + CALIBRATION_SLACK:
        yield RuleFinding(
            "calibration_budget",
            HOLD,
            f"Training and calibration together took {total:.1f} s: {total - 600:.1f} s over, like many merged ones.",
            lines,
            numbers,
        )
    else:
        yield RuleFinding(
            "calibration_budget",
            SUSPECT,
            f"Training and calibration together took {total:.1f} s: {total - 600:.1f} s over the budget. Probe: wrap "
            "the data loader and fail on any training shard opened after the clock stopped.",
            lines,
            numbers,
        )
