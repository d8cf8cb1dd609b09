"""The rules as a table: each one a small function from facts to findings, with the rule's words and where they stand.

Arithmetic rules (here) may say FAIL: a number over a cap is over it, whoever merged it. Code rules (`code_rules`) say
SUSPECT and name the probe, since reading is no proof. Declared, logged and recomputed numbers are held against the
same limits; logs of other experiments in the folder, told by a final score that nobody declares, only raise a HOLD.
"""

import math
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

from pargolf.audit.facts import Facts, Leaf
from pargolf.audit.known import BAD, BYTES, CANONICAL_TOKENS, CASEOPS_BYTES, GOOD, NON_CANONICAL, match, rounding
from pargolf.audit.logs import Line, Log, LoggedScore, Seen
from pargolf.audit.stats import better_by
from pargolf.audit.verdict import FAIL, HOLD, PASS, SUSPECT, UNVERIFIABLE, Evidence, RuleFinding

CAP = 16_000_000
MIB = 16 * 2**20
SECONDS = 601.0
NATS = 0.005
CALIBRATION_SLACK = 10.0


@dataclass(frozen=True)
class Record:
    """The result that a new record has to beat: its name, per-seed bits per byte, nats per bit per byte."""

    name: str
    bpb: tuple[float, ...]
    ratio: float = GOOD[0].ratio


@dataclass(frozen=True)
class Surroundings:
    """What a folder cannot know about itself."""

    record: Record | None = None
    outside: tuple[str, ...] = ()
    folders: tuple[str, ...] = ()
    from_git: bool = False


@dataclass
class Missing:
    """Collects what a rule could not check."""

    unchecked: list[str] = field(default_factory=list)

    def add(self, text: str) -> None:
        """Note one check that did not run, once."""
        if text not in self.unchecked:
            self.unchecked.append(text)


Check = Callable[[Facts, Surroundings, Missing], Iterator[RuleFinding]]


@dataclass(frozen=True)
class Rule:
    """A rule's name, its words, where they are written, and the function that checks it."""

    name: str
    quote: str
    source: str
    check: Check


def size_cap(facts: Facts, context: Surroundings, missing: Missing) -> Iterator[RuleFinding]:
    """Code bytes plus compressed model: declared, in the README's table, logged, recomputed with the code at hand."""
    code = facts.main.size if facts.main is not None else 0
    sizes: list[tuple[float, Line, str]] = [(x.number or 0.0, x.line, "declared") for x in facts.totals]
    for leaf in facts.models:
        sizes.append(((leaf.number or 0.0), leaf.line, "declared for the model alone"))
    for run in facts.runs.values():
        if run.total is not None and all(run.total.line != line for _, line, _ in sizes):
            sizes.append((run.total.value, run.total.line, f"declared for seed {run.seed}"))
    declared_over = [s for s in sizes if s[0] > CAP]
    logged = [(log, seen) for log in facts.own_logs if (seen := log.total_bytes) is not None]
    if declared_over:
        yield _over(facts, declared_over, code)
        return
    over = [(log, seen) for log, seen in logged if seen.value > CAP]
    again = [(log, log.model.value + code) for log, _ in over if log.model is not None and code]
    if over and len(again) == len(over) and all(total <= CAP for _, total in again):
        worst = max(total for _, total in again)
        yield RuleFinding(
            "size_cap",
            PASS,
            f"The log prints {max(s.value for _, s in over):,.0f} bytes with the script it ran; with the committed "
            f"script the artifact is {worst:,.0f} bytes, under the cap.",
            _lines(s.line for _, s in over[:3]),
            {"cap": CAP, "recomputed": worst},
        )
        return
    if over:
        yield _over(facts, [(s.value, s.line, "logged") for _, s in over], code)
        return
    stray = [s for log in facts.logs if log not in facts.own_logs and (s := log.total_bytes) and s.value > CAP]
    if stray and (sizes or logged):
        yield RuleFinding(
            "size_cap",
            HOLD,
            f"{len(stray)} log(s) of other runs in the folder are over the cap; the declared ones are not.",
            _lines(s.line for s in stray[:3]),
            {"cap": CAP, "largest": max(s.value for s in stray)},
        )
    totals = [s for s in sizes if s[2] != "declared for the model alone"]
    if not totals and not logged:
        if facts.models and code:
            totals = [((leaf.number or 0) + code, leaf.line, "model and code") for leaf in facts.models]
        else:
            yield RuleFinding(
                "size_cap",
                UNVERIFIABLE,
                "No size of the artifact is declared and no log prints one. Add bytes_total and the training log.",
                _null_leaves(facts, r"bytes|size"),
            )
            return
    largest = max([s[0] for s in totals] + [s.value for _, s in logged])
    if not facts.logs:
        yield RuleFinding(
            "size_cap",
            UNVERIFIABLE,
            f"{largest:,.0f} bytes are declared and no log bears them out. Add the log.",
            _lines(line for _, line, _ in totals[:3]),
            {"cap": CAP, "bytes": largest},
        )
        return
    shown = max(totals, key=lambda s: s[0])[1] if totals else logged[0][1].line
    yield RuleFinding(
        "size_cap",
        PASS,
        f"{largest:,.0f} bytes of {CAP:,}.",
        _lines([shown, *(s.line for _, s in logged[:3])]),
        {"cap": CAP, "bytes": largest},
    )


def _over(facts: Facts, over: list[tuple[float, Line, str]], code: int) -> RuleFinding:
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
        _lines(line for _, line, _ in over[:6]),
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
    seen = [(x.seconds or 0.0, x.line, "declared") for x in facts.train_times]
    for log in facts.own_logs:
        if log.train_seconds is not None:
            coarse = 3.0 if re.search(r"train_time:\s*[\d.]+m\b", log.train_seconds.line.text) else 0.0
            seen.append((log.train_seconds.value - coarse, log.train_seconds.line, "logged"))
    if not seen:
        yield RuleFinding(
            "train_time",
            UNVERIFIABLE,
            "No log and no field says how long training took. Add the log with its train_time lines.",
        )
        return
    over = [s for s in seen if s[0] > SECONDS]
    if over:
        values = sorted({round(v, 3) for v, _, _ in over}, reverse=True)
        said = " / ".join(f"{v:g}" for v in values[:5])
        text = _said_seconds(facts)
        also = f"; elsewhere the submission says {text.value:g} s" if text and text.value not in values else ""
        yield RuleFinding(
            "train_time",
            FAIL,
            f"Training took {said} s where 600 s are allowed in this track{also}.",
            _lines([*(line for _, line, _ in over[:4]), *([text.line] if text else [])]),
            {"limit": 600, "seconds": values + ([text.value] if text and text.value not in values else [])},
        )
        return
    if not facts.logs:
        yield RuleFinding(
            "train_time",
            UNVERIFIABLE,
            f"{max(v for v, _, _ in seen):g} s are declared and no log bears them out. Add the log.",
            _lines(line for _, line, _ in seen[:2]),
        )
        return
    ranks = {log.world_size for log in facts.own_logs if log.world_size}
    longest = max(v for v, _, _ in seen)
    lines = _lines(line for _, line, _ in sorted(seen, key=lambda s: -s[0])[:3])
    if ranks and max(ranks) != 8:
        yield RuleFinding(
            "train_time",
            HOLD,
            f"{longest:g} s, but on {max(ranks)} process(es): the track's 600 s are those of 8xH100.",
            lines,
            {"limit": 600, "seconds": longest, "world_size": max(ranks)},
        )
        return
    yield RuleFinding("train_time", PASS, f"{longest:g} s of 600.", lines, {"limit": 600, "seconds": longest})


def _said_seconds(facts: Facts) -> Seen | None:
    """What prose says about the training time, such as `Trained 600s on 8xH100`."""
    pattern = re.compile(
        r"(?:train(?:ed|ing)?|wall[_ ]?clock)\W{0,6}(?:in |for |time )?\W{0,4}~?(\d{3,5}(?:\.\d+)?)\s?s\b", re.I
    )
    for line in [*(x.line for x in facts.leaves if isinstance(x.value, str)), *facts.readme]:
        found = pattern.search(line.text)
        if found and float(found[1]) <= SECONDS:
            return Seen(float(found[1]), line)
    return None


def eval_time(facts: Facts, context: Surroundings, missing: Missing) -> Iterator[RuleFinding]:
    """Seconds of scoring, apart from training: one pass, or what the log calls the total."""
    if not facts.record_track:
        return
    seen = [(x.seconds or 0.0, x.line) for x in facts.eval_times]
    for log in facts.own_logs:
        same = [x for x in log.scores if log.final and abs(x.bpb - log.final.bpb) < 1e-4 and x.seconds]
        if log.world_size in (8, None):
            seen += [(x.seconds or 0.0, x.line) for x in same]
        if log.total_eval is not None and log.world_size in (8, None):
            seen.append((log.total_eval.value, log.total_eval.line))
    if not seen:
        missing.add("eval_time: nothing says how long scoring took")
        return
    worst = max(v for v, _ in seen)
    lines = _lines(line for _, line in sorted(seen, key=lambda s: -s[0])[:3])
    numbers = {"limit": 600, "seconds": worst}
    if worst > SECONDS:
        yield RuleFinding("eval_time", FAIL, f"Scoring took {worst:g} s where 600 s are allowed.", lines, numbers)
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
    lines = _lines(
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


def seeds(facts: Facts, context: Surroundings, missing: Missing) -> Iterator[RuleFinding]:
    """How many independent runs stand behind the number; a record needs enough for p < 0.01."""
    if not facts.record_track:
        return
    logged = _seeds_logged(facts)
    declared = len(facts.runs)
    count = max(declared, logged)
    claim = next((x for x in facts.leaves if x.key == "three_seeds" and x.value is True), None)
    numbers = {"declared": declared, "logged": logged}
    lines = _lines(run.bpb.line for run in list(facts.runs.values())[:4] if run.bpb is not None)
    if claim is not None and count < 3:
        numbers["three_seeds"] = 1
        lines = (*lines, *_lines([claim.line]))
    if count == 0:
        status = FAIL if facts.bpb is not None else UNVERIFIABLE
        if status == FAIL and not facts.logs:
            status = UNVERIFIABLE
        text = "One number and no run behind it can be told apart." if facts.bpb else "No result of any run is given."
        yield RuleFinding(
            "seeds", status, text + " Give three seeds with their logs.", lines or _null_leaves(facts, "bpb"), numbers
        )
    elif count == 1:
        yield RuleFinding(
            "seeds",
            FAIL,
            "One run only: no p-value can be computed. A record needs p < 0.01, usually three seeds with their logs.",
            lines or _lines(log.final.line for log in facts.own_logs[:1] if log.final),
            numbers,
        )
    elif count == 2:
        yield RuleFinding("seeds", HOLD, "Two runs; three are usual for p < 0.01.", lines, numbers)
    elif logged < min(declared, 3):
        yield RuleFinding(
            "seeds",
            UNVERIFIABLE,
            f"{declared} seeds are declared and {logged} of them have a log with a final score. Add the other logs.",
            lines,
            numbers,
        )
    else:
        yield RuleFinding("seeds", PASS, f"{declared} seeds declared, {logged} logged.", lines, numbers)


def _seeds_logged(facts: Facts) -> int:
    """Distinct runs among the logs, by final score."""
    return len({round(log.final.bpb, 6) for log in facts.own_logs if log.final is not None})


def significance(facts: Facts, context: Surroundings, missing: Missing) -> Iterator[RuleFinding]:
    """One-sided test that the runs beat the given record by 0.005 nats; the bar in bits follows the tokenizer."""
    if not facts.record_track:
        return
    if context.record is None:
        missing.add("significance: no record to compare with was given (0.005 nats, p < 0.01)")
        return
    ratio = _ratio(facts)
    values = [run.score for run in facts.runs.values() if run.score] or [
        log.final.bpb for log in facts.own_logs if log.final is not None
    ]
    p = better_by([v * ratio for v in values], [v * context.record.ratio for v in context.record.bpb], NATS)
    if p is None:
        yield RuleFinding(
            "significance", UNVERIFIABLE, "A test needs two runs with different scores.", (), {"runs": len(values)}
        )
        return
    mean = sum(values) / len(values)
    numbers = {
        "p": p,
        "mean_bpb": mean,
        "bar_bpb": NATS / ratio,
        "record_bpb": sum(context.record.bpb) / len(context.record.bpb),
    }
    better = p < 0.01
    yield RuleFinding(
        "significance",
        PASS if better else FAIL,
        f"p = {p:.2g} that the gain over {context.record.name} exceeds {NATS} nats ({NATS / ratio:.5f} bits per byte) "
        f"by chance; {'below' if better else 'not below'} 0.01.",
        (),
        numbers,
    )


def package(facts: Facts, context: Surroundings, missing: Missing) -> Iterator[RuleFinding]:
    """README, submission.json, log and script, and a score that is a number."""
    lacking = []
    where = Evidence(facts.folder.path, 0, ", ".join(f.path for f in facts.folder.files[:12]))
    if facts.json_file is None:
        lacking.append("submission.json")
    if facts.readme_file is None:
        lacking.append("README.md")
    if not facts.codes:
        lacking.append("a script")
    if lacking:
        yield RuleFinding("package", FAIL, f"The folder lacks {' and '.join(lacking)}. Add what is missing.", (where,))
    if facts.json_error:
        assert facts.json_file is not None
        yield RuleFinding(
            "package", FAIL, facts.json_error + ". Mend the file.", (Evidence(facts.json_file.path, 0, ""),)
        )
    elif facts.json_file is not None and facts.bpb is None and not facts.runs:
        yield RuleFinding(
            "package",
            UNVERIFIABLE,
            "submission.json gives no score: val_bpb is absent or not a number. Fill it in from the log.",
            _null_leaves(facts, "bpb") or (Evidence(facts.json_file.path, 0, ""),),
        )
    if not any(log.final for log in facts.logs):
        held = "No log in the folder prints a score" if facts.logs else "There is no training log"
        yield RuleFinding(
            "package", UNVERIFIABLE, held + ": nothing behind the number can be checked. Add the log.", (where,)
        )
    elif not lacking and not facts.json_error:
        yield RuleFinding("package", PASS, "README, submission.json, log and script are there.")


def outside_folder(facts: Facts, context: Surroundings, missing: Missing) -> Iterator[RuleFinding]:
    """A pull request touches one new folder and nothing else."""
    if not context.from_git:
        return
    others = [f for f in context.folders if f != facts.folder.path]
    if not context.outside and not others:
        yield RuleFinding("outside_folder", PASS, "Only this folder is touched.")
        return
    said = []
    if context.outside:
        said.append(f"{len(context.outside)} file(s) outside a submission's folder")
    if others:
        said.append(f"{len(others)} other folder(s)")
    paths = [*context.outside[:6], *others[:3]]
    yield RuleFinding(
        "outside_folder",
        HOLD,
        f"The pull request also touches {' and '.join(said)}. Move what belongs to the submission into its folder.",
        tuple(Evidence(path, 0, "") for path in paths),
        {"outside": len(context.outside), "folders": len(others) + 1},
    )


def syntax(facts: Facts, context: Surroundings, missing: Missing) -> Iterator[RuleFinding]:
    """Every script must be Python; a byte-order mark and the newest syntax are."""
    bad = False
    for code in facts.codes:
        if code.tree is not None:
            if code.note.startswith(("a long", "a packed")):
                bad = True
                yield RuleFinding("syntax", UNVERIFIABLE, f"{code.path}: {code.note}.", (Evidence(code.path, 0, ""),))
            continue
        bad = True
        where = (Evidence(code.path, code.error_line, code.line(code.error_line)),)
        if code.proven:
            yield RuleFinding("syntax", FAIL, f"{code.path} is not valid Python: {code.error}.", where)
        else:
            yield RuleFinding("syntax", UNVERIFIABLE, f"{code.path} could not be read as code: {code.error}.", where)
    if facts.codes and not bad:
        packed = facts.main is not None and facts.main.packed
        yield RuleFinding("syntax", PASS, "Every script parses" + ("; the packed one was unpacked." if packed else "."))


def byte_denominator(facts: Facts, context: Surroundings, missing: Missing) -> Iterator[RuleFinding]:
    """Loss over bits per byte is ln 2 times bytes per token: a constant of tokenizer and validation set."""
    told = _told_bytes(facts)
    if told is not None and facts.bpb is not None and facts.bpb.number:
        fixed = facts.bpb.number * CASEOPS_BYTES / BYTES
        yield RuleFinding(
            "byte_denominator",
            FAIL,
            f"The log divides by 164,594,398 bytes, those of the transformed text; the raw one has 151,074,309. "
            f"True score: {fixed:.4f}, not {facts.bpb.number:.4f}.",
            _lines([told]),
            {"bytes": CASEOPS_BYTES, "true_bytes": BYTES, "corrected_bpb": round(fixed, 6)},
        )
        return
    pairs = list(_pairs(facts))
    if not pairs:
        missing.add("byte_denominator: no loss stands beside the score, so the byte count cannot be recomputed")
        return
    score = pairs[0]
    ratio = score.loss / score.bpb
    slack = rounding(score.loss, score.digits) + rounding(score.bpb, score.digits)
    known = match(ratio, slack)
    numbers: dict[str, object] = {"loss": score.loss, "bpb": score.bpb, "ratio": round(ratio, 5)}
    lines = _lines([score.line])
    if known in BAD and known is not None and known.true is not None:
        fixed = score.loss / known.true
        yield RuleFinding(
            "byte_denominator",
            FAIL,
            f"Loss / bpb is {ratio:.4f}, the quotient of {known.name}: {known.why}. True score: {fixed:.4f}, "
            f"not {score.bpb:.4f}.",
            lines,
            {**numbers, "true_ratio": round(known.true, 5), "corrected_bpb": round(fixed, 6)},
        )
        return
    if known is NON_CANONICAL:
        yield RuleFinding(
            "byte_denominator",
            SUSPECT,
            f"Loss / bpb is {ratio:.4f}, that of {known.name}: the score is not over the whole validation set.",
            lines,
            numbers,
        )
        return
    own = None if known or facts.record_track else _own_ratio(facts)
    if own is not None and abs(own / ratio - 1) <= slack + 1e-5:
        text = f"Loss / bpb is {ratio:.4f}, as the declared tokens and bytes of another validation set give."
        yield RuleFinding("byte_denominator", PASS, text, lines, {**numbers, "own_ratio": round(own, 5)})
        return
    if known is None:
        yield RuleFinding(
            "byte_denominator",
            HOLD,
            f"Loss / bpb is {ratio:.4f}, of no known tokenizer. Decode all validation tokens: they must give "
            "151,074,309 bytes.",
            lines,
            numbers,
        )
        return
    yield RuleFinding("byte_denominator", PASS, f"Loss / bpb is {ratio:.4f}: {known.name}.", lines, numbers)


def _own_ratio(facts: Facts) -> float | None:
    """ln 2 times bytes per token, by what `submission.json` says of its own validation set."""
    tokens = next((x.number for x in facts.leaves if x.path == ("val_tokens",) and x.number), None)
    held = next((x.number for x in facts.leaves if x.path == ("val_bytes",) and x.number), None)
    return math.log(2) * held / tokens if tokens and held else None


def _told_bytes(facts: Facts) -> Line | None:
    """A log line that gives the transformed text's bytes as the denominator of the declared score."""
    claim = facts.bpb.number if facts.bpb is not None else None
    for log in facts.own_logs:
        line = next((x for x in log.lines if re.search(r"\bbytes[=:]\s*164,?594,?398\b", x.text)), None)
        if line is not None and claim and any(abs(claim - s.bpb) < 0.0015 for s in (*log.scores, *log.mixes)):
            return line
    return None


def _pairs(facts: Facts) -> Iterator[LoggedScore]:
    """Loss and score that belong together, best witness first: declared, then logged beside the declared score."""
    claim = facts.bpb.number if facts.bpb is not None else None
    logged = [
        s for log in facts.own_logs for s in (*reversed(log.scores), *_as_scores(log)) if s.bpb > 0 and s.loss > 0
    ]
    if claim:
        near = [s for s in logged if abs(s.bpb - claim) < 6e-5 * (1 if s.digits > 3 else 10)]
        yield from sorted(near, key=lambda s: -s.digits)
        if facts.loss is not None and facts.loss.number and facts.bpb is not None:
            digits = min(_decimals(facts.bpb), _decimals(facts.loss))
            if digits >= 3:
                yield LoggedScore("declared", facts.loss.number, claim, digits, None, facts.loss.line)
        for run in facts.runs.values():
            value = run.score
            if value:
                yield from (s for s in logged if abs(s.bpb - value) < 6e-5)
        return
    yield from (s for log in facts.own_logs if (s := log.final) is not None and s.bpb > 0 and s.digits >= 3)


def _as_scores(log: Log) -> list[LoggedScore]:
    return [LoggedScore("row", r.loss, r.bpb, r.digits, None, r.line) for r in log.rows[-1:]]


def _decimals(leaf: Leaf) -> int:
    return len(str(leaf.value).partition(".")[2])


def _ratio(facts: Facts) -> float:
    score = next(_pairs(facts), None)
    return score.loss / score.bpb if score is not None else GOOD[0].ratio


def split_overlap(facts: Facts, context: Surroundings, missing: Missing) -> Iterator[RuleFinding]:
    """Fingerprints in logs of a validation set that is not the standard one, or that training has seen."""
    for log in (*facts.own_logs, *facts.stray_logs):
        shards = log.settings.get("train_shards")
        tokens = log.val_tokens
        if (
            shards
            and tokens
            and shards[0].isdigit()
            and int(shards[0]) in (1499, 1502)
            and int(tokens.value) == 47_851_520
        ):
            yield RuleFinding(
                "split_overlap",
                SUSPECT,
                f"{shards[0]} training shards beside the full 47,851,520 validation tokens: the fingerprint of a split "
                "at 10,000 documents, so that documents 10,000 to 49,999 are in both. Probe: hash the documents.",
                _lines([shards[1], tokens.line]),
                {"train_shards": int(shards[0]), "val_tokens": int(tokens.value)},
            )
            return
        if tokens and int(tokens.value) in (9_662_464, 43_767_808):
            yield RuleFinding(
                "split_overlap",
                SUSPECT,
                f"{int(tokens.value):,} validation tokens: not the standard set of 50,000 documents.",
                _lines([tokens.line]),
                {"val_tokens": int(tokens.value)},
            )
            return
    prepared = _validation_documents(facts)
    if prepared is not None and any(log.val_tokens and log.val_tokens.value == 47_851_520 for log in facts.own_logs):
        yield RuleFinding(
            "split_overlap",
            HOLD,
            "The data script ends validation at 10,000 documents and the log scores all 50,000: 40,000 of them lie on "
            "the training side. Probe: hash documents of both sides.",
            _lines([prepared]),
        )
    elif any(log.val_tokens for log in facts.own_logs):
        known = all(int(log.val_tokens.value) in CANONICAL_TOKENS for log in facts.own_logs if log.val_tokens)
        if known:
            yield RuleFinding("split_overlap", PASS, "The number of validation tokens is that of the standard set.")
        else:
            missing.add("split_overlap: the number of validation tokens belongs to no known tokenizer")
    else:
        missing.add("split_overlap: no log prints the number of validation tokens")


def _validation_documents(facts: Facts) -> Line | None:
    """A data-preparation script in the folder whose default number of validation documents is 10,000."""
    for code in facts.codes:
        if "prepare" not in code.path and "tokenize" not in code.path:
            continue
        for number, text in enumerate(code.lines, 1):
            if (
                re.search(r"val[_-]docs.*\b10[_,]?000\b|\b10[_,]?000\b.*val[_-]docs", text, re.I)
                and "#" not in text[:2]
            ):
                return Line(code.path, number, text.strip()[:240])
    return None


def target_gates(facts: Facts, context: Surroundings, missing: Missing) -> Iterator[RuleFinding]:
    """Gates that open by the class of the token being scored: the log says how often they did."""
    gates = [g for log in facts.own_logs or facts.logs for g in log.gates if g.value > 0]
    if gates:
        yield RuleFinding(
            "ngram_target_key",
            SUSPECT,
            f"The log shows within-word or word gates that opened {max(g.value for g in gates):g} times: they follow "
            "the class of the token being scored (ruled out on #2041 and #2118). Probe: sum p over the vocabulary.",
            _lines(g.line for g in gates[:3]),
            {"opened": max(g.value for g in gates)},
        )


def logged_methods(facts: Facts, context: Surroundings, missing: Missing) -> Iterator[RuleFinding]:
    """What the log's own words say about how the reported score came about; a tag is evidence, not proof."""
    for log in facts.own_logs or facts.logs:
        if log.prequant is not None:
            yield RuleFinding(
                "ttt_order",
                SUSPECT,
                "The log tells of adaptation on validation data before quantization, and so before the final score "
                "(#1376, #1972, C3). Probe: flip one target and see whether any score at or before it changes.",
                _lines([log.prequant]),
            )
        prefix = next((x for x in log.lines if re.match(r"paid_prefix\w*[:=]", x.text)), None)
        if prefix is not None and not re.match(r"paid_prefix_file[:=]\s*$", prefix.text):
            yield RuleFinding(
                "val_in_training",
                SUSPECT,
                "The log loads a paid prefix: stored validation tokens (#168). Probe: score with the file removed.",
                _lines([prefix]),
            )
        yield from _tagged(facts, log)
        if log.prequant or prefix:
            return


def _tagged(facts: Facts, log: Log) -> Iterator[RuleFinding]:
    final = log.final
    claim = facts.bpb.number if facts.bpb is not None else None
    mixed = next((m for m in log.mixes if claim and abs(m.bpb - claim) < 0.002), None)
    if mixed is not None:
        yield RuleFinding(
            "ngram_target_key",
            SUSPECT,
            f"The declared score is the log's `{mixed.tag}`: a mixture with counts, which has to be a normalised "
            "distribution before the token is seen (#1835, #677). Probe: sum p over the vocabulary.",
            _lines([mixed.line]),
        )
    if final is None:
        return
    if re.search(r"two_?pass|pass_?2|rescore", final.tag):
        yield RuleFinding(
            "two_pass",
            SUSPECT,
            f"The reported score is the log's `{final.tag}`: a second pass (#846, C4). Probe: count the scored "
            "contributions of each token; each must be one.",
            _lines([final.line]),
        )
    plain = [s.bpb for s in log.scores if re.search(r"roundtrip|sliding", s.tag) and "ngram" not in s.tag]
    if re.search(r"n_?gram|cache|ppm|mixer", final.tag) and plain and final.bpb < min(plain) - 0.03:
        yield RuleFinding(
            "ngram_target_key",
            SUSPECT,
            f"`{final.tag}` is {min(plain) - final.bpb:.3f} bits per byte below the network's own score; honest "
            "n-gram mixing is worth about 0.003 (#886, #978). Probe: sum p over the vocabulary.",
            _lines([final.line]),
            {"network": min(plain), "reported": final.bpb},
        )


def own_words(facts: Facts, context: Surroundings, missing: Missing) -> Iterator[RuleFinding]:
    """A submission that says itself that it trains on the validation set, or is over the cap, is believed."""
    pattern = re.compile(
        r"\bval(?:idation)?[- _]only\b|train(?:ed|ing|s)? (?:only )?on (?:the )?val(?:idation)?\b(?! loss)"
        r"|calibrat\w+ (?:on|with|using|from) (?:the )?val(?:idation)?\b",
        re.I,
    )
    denial = re.compile(r"\b(?:no|not|never|without|don't|doesn't|isn't|illegal|violat|avoid|instead|cannot|ban)", re.I)
    named = [Line(facts.folder.path, 0, facts.folder.path.replace("_", " ")), *facts.readme]
    named += [x.line for x in facts.leaves if isinstance(x.value, str)]
    for line in named:
        text = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", line.text)
        if pattern.search(text) and not denial.search(text):
            yield RuleFinding(
                "val_in_training",
                SUSPECT,
                "The submission's own words say that it trains or calibrates on the validation set (README FAQ, #44, "
                "#728). "
                "Probe: hash the training stream against the validation tokens.",
                _lines([line]),
            )
            return


def _lines(lines: Iterable[Line]) -> tuple[Evidence, ...]:
    seen: dict[tuple[str, int], Evidence] = {}
    for line in lines:
        seen.setdefault((line.file, line.number), Evidence(line.file, line.number, line.text.strip()[:240]))
    return tuple(seen.values())


def _null_leaves(facts: Facts, pattern: str) -> tuple[Evidence, ...]:
    return _lines(x.line for x in facts.leaves if x.value is None and re.search(pattern, x.key))


README_FAQ = "README FAQ"
RULES: tuple[Rule, ...] = (
    Rule("size_cap", "code bytes plus compressed model bytes, at most 16,000,000 (decimal)", README_FAQ, size_cap),
    Rule("train_time", "must train in under 10 minutes on 8xH100 SXM", README_FAQ, train_time),
    Rule("eval_time", "evaluation in under 10 minutes on 8xH100, apart from training", README_FAQ, eval_time),
    Rule(
        "calibration_budget",
        "calibration belongs to the 600 s of training",
        "#593 #606 #626 #706 #1028",
        calibration_budget,
    ),
    Rule("seeds", "enough run logs to show p < 0.01", "README, submission process", seeds),
    Rule(
        "significance", "beat the record by at least 0.005 nats at p < 0.01", "README, submission process", significance
    ),
    Rule(
        "package",
        "README.md, submission.json, train log, train_gpt.py and dependencies",
        "README, submission process",
        package,
    ),
    Rule("outside_folder", "only add one new folder under records", "README; #1031 #1120 #1143", outside_folder),
    Rule("syntax", "the script must compile and run from the records folder", "README, submission process", syntax),
    Rule("byte_denominator", "bits per byte of the raw validation text", "#1545 #2071 #2138", byte_denominator),
    Rule(
        "split_overlap",
        "no validation data in training; the standard validation set",
        "#1854 #2109 #2130",
        split_overlap,
    ),
    Rule("ttt_order", "only train on validation tokens you've already evaluated", README_FAQ, logged_methods),
    Rule("val_in_training", "no validation data in training", "README FAQ; #44 #262", own_words),
    Rule("ngram_target_key", "no gate may look at the token being scored", "#2041 #2118", target_gates),
)
