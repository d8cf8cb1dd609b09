"""The limits on seconds: training, scoring, and calibration, which counts as training.

601 s allow for the granularity of the last step. Sources: README FAQ; #593 #606 #626 #706 #1028.
"""

import ast
import re
from collections.abc import Iterator

from pargolf.audit.code.program import Program
from pargolf.audit.code.search import LOOPS, calibrates, nearby, updates
from pargolf.audit.read.facts import Facts
from pargolf.audit.read.logs import Line, Log, Seen
from pargolf.audit.report import FAIL, HOLD, PASS, SUSPECT, UNVERIFIABLE, RuleFinding
from pargolf.audit.rules.rule import Hit, Missing, Surroundings, quoted

SECONDS = 601.0
CALIBRATION_SLACK = 10.0
_PROSE = re.compile(
    r"(?:train(?:ed|ing)?|(?<!eval )(?<!evaluation )wall[_ ]?clock)"
    r"[\s:=~(*|`\"']{0,6}(?:in|for|time)?[\s:=~(*|`\"']{0,4}"
    r"(\d{3,5}(?:\.\d+)?)\s?s\b",
    re.I,
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


def told_training_seconds(text: str) -> float | None:
    """What prose says about the training time, such as `Trained 600s on 8xH100`."""
    found = _PROSE.search(text)
    return float(found[1]) if found else None


def late_calibration(program: Program) -> Iterator[Hit]:
    """Statistics for quantization from training data, gathered after the loop that trains: whose seconds are they?"""
    for call, loss in updates(program):
        function = program.function_of(call)
        labels = nearby(program, loss, call)
        loops = [a for a in program.ancestors(call) if isinstance(a, LOOPS) and program.function_of(a) is function]
        if not loops or "TRAIN" not in labels or "VAL" in labels:
            continue
        end = getattr(loops[-1], "end_lineno", 0)
        for node in program.own_nodes(function):
            if (
                isinstance(node, ast.Call)
                and node in program.live
                and node.lineno > end
                and calibrates(program, node, "TRAIN")
            ):
                yield Hit(
                    "calibration_budget",
                    HOLD,
                    node,
                    f"`{function.name}` calibrates on training data after the loop that trains (#593, #656); no log "
                    "says whether that was inside the 600 s.",
                    "Probe: wrap the data loader and fail on any training shard opened after the clock stopped.",
                )
                return
