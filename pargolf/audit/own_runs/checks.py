"""Judge a run of this package by what it recorded, and by what was recomputed from its files.

A run folder is no submission yet, so it needs no README and no three seeds. The checks ask whether it kept its budgets,
scored every token once, divided by bytes that were proved, and whether its numbers, its log and its artifact agree.
What was taken on trust, and what one folder cannot show, is listed.
"""

import hashlib
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass

from pargolf.audit.own_runs.recorded import ARTIFACT, LOG, RESULT, Recorded, read_run
from pargolf.audit.read.logs import Log
from pargolf.audit.read.submission import Folder
from pargolf.audit.report import FAIL, HOLD, PASS, SUSPECT, UNVERIFIABLE, Evidence, RuleFinding
from pargolf.audit.rules.rule import Missing
from pargolf.core.result import Result, scored_sentence

Wrong = tuple[str, str, tuple[Evidence, ...]]
_SLACK_SECONDS = 1.0
_AGREES = "hash and size of the artifact, its recipe, model, windows and tokenizer; steps, scores and log by the events"
_TRUSTED = "the seconds, the steps between, the score before packing and the machine: another training would show them"


@dataclass(frozen=True)
class Recomputed:
    """What was recomputed from a run's files; differences and contradictions are sentences.

    `bpb` is the artifact's new score; None if it was not scored again. `code_bytes` is the size of the recipe's script
    now. `problem` says why something could not be recomputed.
    """

    contradictions: tuple[str, ...] = ()
    differences: tuple[str, ...] = ()
    bpb: float | None = None
    code_bytes: int | None = None
    problem: str = ""


def judge_run(folder: Folder, missing: Missing, recomputed: Recomputed | None = None) -> list[RuleFinding]:
    """Findings on a run folder. Without `recomputed`, only what needs no model is recomputed."""
    run = read_run(folder)
    if run.result is None:
        evidence = (Evidence(RESULT if RESULT in run.files else folder.path, 0, ""),)
        return [RuleFinding("package", UNVERIFIABLE, f"{run.error.rstrip('.')}. Run it again, or resume it.", evidence)]
    result = run.result
    findings = [*_package(run, result), *_size(run, result, recomputed), *_seconds(run, result)]
    findings += [*_bytes(run, result), *_positions(run, result, missing), *_overlap(run, result, missing)]
    findings += _agreement(run, result, recomputed, missing)
    missing.add(f"taken on trust: {_TRUSTED}")
    missing.add("seeds: one run is no record; `pargolf seeds` makes three, `pargolf submit` a submission of them")
    missing.add(f"causality and normalization: `pargolf probe RUN/{ARTIFACT}` asks the artifact itself")
    return findings


def _package(run: Recorded, result: Result) -> Iterator[RuleFinding]:
    lacking = [name for name in (ARTIFACT, LOG, "tokenizer.model") if name not in run.files]
    if result.interrupted:
        text = "Training was interrupted; the numbers are of a part of it."
        yield RuleFinding("package", HOLD, text, run.at("interrupted"))
    if result.steps < 1:
        text = "No step was trained: there is nothing to judge but the weights it began with."
        yield RuleFinding("package", FAIL, text, run.at("steps"), {"steps": result.steps})
    if lacking:
        text = f"The run folder lacks {' and '.join(lacking)}: what they would show is not checked."
        yield RuleFinding("package", UNVERIFIABLE, text, (Evidence(RESULT, 0, ""),))
    elif not result.interrupted and result.steps > 0:
        yield RuleFinding("package", PASS, "Result, recipe, log, artifact and tokenizer are there.")


def _size(run: Recorded, result: Result, recomputed: Recomputed | None) -> Iterator[RuleFinding]:
    artifact, cap = run.files.get(ARTIFACT), result.bytes.cap
    model = max(result.bytes.model, artifact.size if artifact is not None else 0)
    code_bytes = recomputed.code_bytes if recomputed is not None else None
    total = model + max(result.bytes.code, code_bytes or 0)
    numbers: dict[str, float] = {"cap": cap, "bytes": total}
    differs = ""
    if code_bytes is not None and code_bytes != result.bytes.code:
        numbers |= {"code": result.bytes.code, "code_recomputed": code_bytes}
        differs = f" {RESULT} counts {result.bytes.code:,} bytes of code; this version's script takes {code_bytes:,}."
    if total > cap:
        text = f"{total:,} bytes of {cap:,}, over the cap by {total - cap:,}.{differs}"
        yield RuleFinding("size_cap", FAIL, text, run.at("total", "cap"), numbers)
    else:
        text = f"{total:,} bytes of {cap:,}.{differs}"
        yield RuleFinding("size_cap", HOLD if differs else PASS, text, run.at("total", "cap"), numbers)


def _seconds(run: Recorded, result: Result) -> Iterator[RuleFinding]:
    budget = result.budget
    for rule, key, doing, seconds, limit in (
        ("train_time", "train_seconds", "Training", result.train_seconds, budget.train_seconds),
        ("eval_time", "eval_seconds", "Scoring", result.eval_seconds, budget.eval_seconds),
    ):
        is_late = seconds > limit + _SLACK_SECONDS
        text = f"{doing} took {seconds:.1f} s of {limit:g}" + (", which is too long." if is_late else ".")
        yield RuleFinding(rule, FAIL if is_late else PASS, text, run.at(key), {"limit": limit, "seconds": seconds})


def _bytes(run: Recorded, result: Result) -> Iterator[RuleFinding]:
    """Whether the score is over the counted bytes, and something besides the tokenizer counted them."""
    ratio = result.val_loss / result.val_bpb if result.val_bpb else 0.0
    counted = math.log(2) * result.val_bytes / result.val_tokens
    numbers = {"loss": result.val_loss, "bpb": result.val_bpb, "ratio": round(ratio, 6), "own_ratio": round(counted, 6)}
    of = f"{result.val_tokens:,} tokens of {result.val_bytes:,} bytes"
    if abs(ratio / counted - 1) >= 1e-6:
        text = f"Loss / bpb is {ratio:.4f}; {of} give {counted:.4f}."
        numbers["corrected_bpb"] = round(result.val_loss / counted, 6)
        yield RuleFinding("byte_denominator", FAIL, text, run.at("val_bpb", "val_bytes"), numbers)
    elif result.proof is None:
        text = f"Loss / bpb is {ratio:.4f}, as {of} give; what proved the bytes was not recorded. Run it again."
        yield RuleFinding("byte_denominator", UNVERIFIABLE, text, run.at("val_bytes"), numbers)
    elif not result.proof.rests.proved:
        text = f"The {result.val_bytes:,} bytes are {result.proof.rests.words}. `pargolf data check` says why."
        yield RuleFinding("byte_denominator", UNVERIFIABLE, text, run.at("rests", "val_bytes"), numbers)
    else:
        text = f"Loss / bpb is {ratio:.4f}, as {of} give, {result.proof.rests.words}."
        yield RuleFinding("byte_denominator", PASS, text, run.at("val_bytes"), numbers)


def _positions(run: Recorded, result: Result, missing: Missing) -> Iterator[RuleFinding]:
    """Whether every position was scored once, in turn, without anything to its right."""
    smallest, largest = result.grades_per_position
    evidence = run.at("grades_per_position", "complete")
    if not result.complete or smallest == 0:
        text = scored_sentence(result.val_tokens, result.val_split_tokens)
        yield RuleFinding("two_pass", FAIL, text, evidence, {"scored": result.val_tokens})
    elif (smallest, largest) != (1, 1):
        text = f"Positions were scored {smallest} to {largest} times; a score counts each once (#1017 C4)."
        yield RuleFinding("two_pass", SUSPECT, text, evidence)
    else:
        yield RuleFinding("two_pass", PASS, "Every position was scored exactly once.")
    if not result.in_turn:
        text = "The run itself says that positions were not scored in turn: its windows or its adapter break the rules."
        yield RuleFinding("ttt_order", SUSPECT, text, run.at("in_turn", "legal"))
    if result.probed is None:
        missing.add("causality: the run did not flip tokens to see whether a score before them changes")
    elif result.probed:
        yield RuleFinding("causality", PASS, "Flipped tokens changed no score before them.", run.at("probed"))
    else:
        yield RuleFinding("causality", FAIL, "Scores changed when later tokens were flipped.", run.at("probed"))


def _overlap(run: Recorded, result: Result, missing: Missing) -> Iterator[RuleFinding]:
    copied, evidence = result.overlap.copied_documents, run.at("copied_documents")
    if not result.overlap.checked or copied is None:
        missing.add("split_overlap: the run did not compare validation documents with the training text")
    elif copied:
        text = f"{copied:,} validation document(s) are in the training text, too."
        yield RuleFinding("split_overlap", FAIL, text, evidence, {"copied": copied})
    else:
        yield RuleFinding("split_overlap", PASS, "No validation document is in the training text.", evidence)


# ---- result, log, events and artifact


def _agreement(run: Recorded, result: Result, recomputed: Recomputed | None, missing: Missing) -> Iterator[RuleFinding]:
    """Whether result, log and artifact are of one run; the finding names what was recomputed."""
    wrong = [*_forged(run), *_artifact(run, result, missing)]
    wrong += _log_against(run.log, run, result) if run.log is not None else []
    if recomputed is not None:
        wrong += list(_recomputed(recomputed, " ".join(text for _, text, _ in wrong)))
    for status, text, evidence in wrong:
        yield RuleFinding("consistency", status, text, evidence or (Evidence(RESULT, 0, ""),))
    scored = recomputed.bpb if recomputed is not None else None
    if not wrong:
        subjects = "hash of the artifact, scores and seed by the log" if recomputed is None else _AGREES
        new_score = "" if scored is None else f", and the score, {scored:.6f} again"
        yield RuleFinding("consistency", PASS, f"Recomputed, and the same: {subjects}{new_score}.")
    if recomputed is None:
        missing.add("consistency: the events were not compared with the result, and the code was not counted again")
    if scored is None:
        missing.add("consistency: the artifact was not scored again; name the data, `pargolf audit RUN --data DIR`")


def _recomputed(recomputed: Recomputed, messages: str) -> Iterator[Wrong]:
    """Findings of recomputing that no other finding has named."""
    for text in recomputed.contradictions:
        if not _is_named(text, messages):
            yield SUSPECT, text, ()
    for text in recomputed.differences:
        yield FAIL, text, ()
    if recomputed.problem:
        yield UNVERIFIABLE, recomputed.problem, ()


def _is_named(text: str, messages: str) -> bool:
    """Whether a contradiction about the artifact or the log was named already."""
    return ("SHA-256" in text and "SHA-256" in messages) or (text.startswith(LOG) and LOG in messages)


def _forged(run: Recorded) -> Iterator[Wrong]:
    if run.forged:
        yield FAIL, run.forged, run.at("legal")


def _artifact(run: Recorded, result: Result, missing: Missing) -> Iterator[Wrong]:
    file = run.files.get(ARTIFACT)
    data = file.read() if file is not None else None
    if data is None:
        missing.add(f"consistency: {ARTIFACT} could not be compared with the hash of what was scored")
    elif hashlib.sha256(data).hexdigest() != result.artifact_sha256:
        text = f"{ARTIFACT} is not the artifact that was scored: its SHA-256 differs."
        yield FAIL, text, run.at("artifact_sha256")


def _log_against(log: Log, run: Recorded, result: Result) -> Iterator[Wrong]:
    final = log.final
    if final is None:
        yield UNVERIFIABLE, f"{LOG} prints no final score.", (Evidence(LOG, 0, ""),)
    elif abs(final.bpb - result.val_bpb) > 0.6 * 10.0**-final.digits:
        shown = Evidence(LOG, final.line.number, final.line.text)
        text = f"{RESULT} says {result.val_bpb:.6f} bits per byte, {LOG} {final.bpb:g}."
        yield SUSPECT, text, (*run.at("val_bpb"), shown)
    if log.total is not None and log.total.value != result.bytes.total:
        shown = Evidence(LOG, log.total.line.number, log.total.line.text)
        text = f"{RESULT} says {result.bytes.total:,} bytes, {LOG} {log.total.value:,.0f}."
        yield SUSPECT, text, (*run.at("total"), shown)
    digest = re.search(r"digest:(\w+)", "\n".join(line.text for line in log.lines[:40]))
    if digest and digest[1] != result.digest:
        yield SUSPECT, f"{LOG} is of recipe {digest[1]}, {RESULT} of {result.digest}.", run.at("digest")
    if log.seeds and str(result.seed) not in log.seeds:
        yield SUSPECT, f"{LOG} is of seed {log.seeds[0]}, {RESULT} of {result.seed}.", run.at("seed")
