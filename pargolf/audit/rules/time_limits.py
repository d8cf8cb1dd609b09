"""The time limits: training, scoring, and calibration, which counts as training.

The check uses 601 s, because training can only stop after a whole step. Sources: README FAQ; #593 #606 #626 #706 #1028.
"""

import ast
import re
from collections.abc import Iterator

from pargolf.audit.code.program import Program
from pargolf.audit.code.search import LOOPS, calibrates, nearby, updates
from pargolf.audit.read.facts import Facts
from pargolf.audit.read.logs import Line, Log, LoggedNumber
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
    """Seconds of training, declared and logged; 601 s allow for the last step."""
    if not facts.record_track:
        if facts.folder.track is None:
            missing.add("train_time: no track is known, so no limit applies; judge the folder at records/track_*/")
        return
    seconds = [(x.seconds or 0.0, x.line) for x in facts.train_times]
    seconds += [(s.value - _coarseness(s), s.line) for log in _on_the_tracks_machine(facts) if (s := log.train_seconds)]
    seconds.sort(key=lambda s: -s[0])
    if not seconds:
        text = "No log and no field says how long training took. Add the log with its train_time lines."
        yield RuleFinding("train_time", UNVERIFIABLE, text)
    elif seconds[0][0] > SECONDS:
        yield _too_long(facts, [s for s in seconds if s[0] > SECONDS])
    else:
        yield _in_time(facts, seconds)


def _in_time(facts: Facts, seconds: list[tuple[float, Line]]) -> RuleFinding:
    """The finding if the seconds are within the limit: whether a log confirms them, on the track's machine."""
    longest = seconds[0][0]
    ranks = max((log.world_size for log in facts.own_logs if log.world_size), default=8)
    numbers: dict[str, float] = {"limit": 600, "seconds": longest}
    if not facts.logs:
        text = f"{longest:g} s are declared and no log confirms them. Add the log."
        return RuleFinding("train_time", UNVERIFIABLE, text, quoted(line for _, line in seconds[:2]), numbers)
    lines = quoted(line for _, line in seconds[:3])
    if ranks != 8:
        text = f"{longest:g} s, but on {ranks} process(es): the track's 600 s are those of 8xH100."
        return RuleFinding("train_time", HOLD, text, lines, {**numbers, "world_size": ranks})
    return RuleFinding("train_time", PASS, f"{longest:g} s of 600.", lines, numbers)


def _on_the_tracks_machine(facts: Facts) -> list[Log]:
    """The submission's logs; if some ran on eight processes, only those."""
    eight = any(log.world_size == 8 for log in facts.own_logs)
    return [log for log in facts.own_logs if not eight or log.world_size in (8, None)]


def _coarseness(seconds: LoggedNumber) -> float:
    """The rounding error of minutes printed with one decimal."""
    return 3.0 if re.search(r"train_time:\s*[\d.]+m\b", seconds.line.text) else 0.0


def _too_long(facts: Facts, over: list[tuple[float, Line]]) -> RuleFinding:
    values = list(dict.fromkeys(round(v, 3) for v, _ in over))
    claim = _said_seconds(facts)
    claim = claim if claim is not None and claim.value not in values else None
    also = f"; elsewhere the submission says {claim.value:g} s" if claim else ""
    return RuleFinding(
        "train_time",
        FAIL,
        f"Training took {' / '.join(f'{v:g}' for v in values[:5])} s where 600 s are allowed in this track{also}.",
        quoted([*(line for _, line in over[:4]), *([claim.line] if claim else [])]),
        {"limit": 600, "seconds": [*values, *([claim.value] if claim else [])]},
    )


def _said_seconds(facts: Facts) -> LoggedNumber | None:
    """Training seconds from prose that says the limit was kept."""
    for line in [*(x.line for x in facts.leaves if isinstance(x.value, str)), *facts.readme]:
        seconds = told_training_seconds(line.text)
        if seconds is not None and seconds <= SECONDS:
            return LoggedNumber(seconds, line)
    return None


def eval_time(facts: Facts, context: Surroundings, missing: Missing) -> Iterator[RuleFinding]:
    """Seconds of scoring, apart from training: one pass, or the total that the log prints.

    A log without the number of processes may be from any machine, so its seconds alone prove nothing.
    """
    if not facts.record_track:
        return
    seconds = [(x.seconds or 0.0, x.line, True) for x in facts.eval_times]
    for log in facts.own_logs:
        if log.world_size in (8, None):
            seconds += [(s.value, s.line, log.world_size == 8) for s in _scoring_times(log)]
    if not seconds:
        missing.add("eval_time: nothing says how long scoring took")
        return
    proven = [s for s in seconds if s[2] and s[0] > SECONDS]
    worst = max(s[0] for s in proven or seconds)
    lines = quoted(line for _, line, _ in sorted(proven or seconds, key=lambda s: -s[0])[:3])
    numbers = {"limit": 600, "seconds": worst}
    if proven:
        yield RuleFinding("eval_time", FAIL, f"Scoring took {worst:g} s where 600 s are allowed.", lines, numbers)
    elif worst > SECONDS:
        text = f"Scoring took {worst:g} s, and the log does not say on what; 600 s are allowed on 8xH100."
        yield RuleFinding("eval_time", HOLD, text, lines, numbers)
    else:
        yield RuleFinding("eval_time", PASS, f"{worst:g} s of 600.", lines, numbers)


def _scoring_times(log: Log) -> Iterator[LoggedNumber]:
    """Seconds of the scorings that give the final score, and of all scoring together."""
    for score in log.scores:
        if log.final and score.seconds and abs(score.bpb - log.final.bpb) < 1e-4:
            yield LoggedNumber(score.seconds, score.line)
    if log.total_eval is not None:
        yield log.total_eval


def calibration_budget(facts: Facts, context: Surroundings, missing: Missing) -> Iterator[RuleFinding]:
    """Whether calibration on training data begins after the training clock stopped; it counts as training."""
    if not facts.record_track:
        return
    stopped = [(log, log.stop, log.late_calibration) for log in facts.own_logs if log.stop is not None]
    late = [
        (log, stop, begins)
        for log, stop, begins in stopped
        if begins is not None and stop.value >= 590 and "self_generated_calibration" not in log.settings
    ]
    if late:
        finding = _late(*max(late, key=lambda pair: pair[1].value + _seconds_of(pair[0])))
        if finding is not None:
            yield finding
        else:
            missing.add("calibration_budget: the log does not say how long the calibration took")
    elif stopped:
        yield RuleFinding("calibration_budget", PASS, "No calibration begins after the training clock stopped.")


def _seconds_of(log: Log) -> float:
    return log.calibration_seconds.value if log.calibration_seconds else 0.0


def _late(log: Log, stop: LoggedNumber, begins: Line) -> RuleFinding | None:
    """The seconds that a calibration after the clock adds to training; None if they are not printed and may fit."""
    probe = "Probe: wrap the data loader and fail on any training shard opened after the clock stopped."
    seconds = log.calibration_seconds
    lines = quoted([stop.line, begins, *([seconds.line] if seconds else [])])
    if seconds is None:
        text = f"Calibration begins after training stopped at {stop.value:g} s; how long it took is not logged. {probe}"
        silent = RuleFinding("calibration_budget", SUSPECT, text, lines, {"train_seconds": stop.value})
        return silent if stop.value >= 599.5 else None
    total = stop.value + seconds.value
    numbers = {"limit": 600, "train_seconds": stop.value, "calibration_seconds": seconds.value, "sum": round(total, 3)}
    text = f"Training and calibration together took {total:.1f} s"
    if total <= SECONDS:
        return RuleFinding("calibration_budget", PASS, f"{text}.", lines, numbers)
    if total <= 600 + CALIBRATION_SLACK:
        text += f": {total - 600:.1f} s over, like many merged ones."
        return RuleFinding("calibration_budget", HOLD, text, lines, numbers)
    text += f": {total - 600:.1f} s over the budget. {probe}"
    return RuleFinding("calibration_budget", SUSPECT, text, lines, numbers)


def told_training_seconds(text: str) -> float | None:
    """The training time in prose, such as `Trained 600s on 8xH100`."""
    match = _PROSE.search(text)
    return float(match[1]) if match else None


def late_calibration(program: Program) -> Iterator[Hit]:
    """Statistics for quantization from training data, gathered after the training loop."""
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
