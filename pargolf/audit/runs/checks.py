"""A run of our own, judged by what it recorded: `result.json`, its log and the artifact beside them.

A run folder is no submission yet, so it is not asked for a README or three seeds; it is asked whether it kept its own
budgets, graded every token once, divided by the bytes it proved, and whether its numbers, its log and its artifact
belong together. What one folder cannot show is listed with the command that shows it.
"""

import hashlib
import json
import math
import re
from collections.abc import Iterator
from typing import Any

from pargolf.audit.rules.rule import Missing
from pargolf.audit.read.logs import Log, read_log
from pargolf.audit.read.submission import File, Folder
from pargolf.audit.code.script import text_of
from pargolf.audit.report import FAIL, HOLD, PASS, SUSPECT, UNVERIFIABLE, Evidence, RuleFinding

RESULT, LOG, ARTIFACT = "result.json", "train.log", "model.pargolf"
_SLACK_SECONDS = 1.0


def is_run(folder: Folder) -> bool:
    """Whether a folder is one of our runs: it holds a recipe and no submission."""
    names = {f.path for f in folder.files}
    return "recipe.json" in names and bool(names & {RESULT, "events.jsonl"}) and "submission.json" not in names


class ResultFile:
    """`result.json` with the lines its fields stand on; a field that is absent or of another kind is None."""

    def __init__(self, file: File | None) -> None:
        self.error = "there is no result.json: the run did not end" if file is None else ""
        self.held: dict[str, Any] = {}
        self.lines: list[str] = []
        data = file.read() if file is not None else None
        if file is not None and data is None:
            self.error = f"{RESULT} ({file.size:,} bytes) could not be read"
        if data is not None:
            self._read(text_of(data))

    def _read(self, text: str) -> None:
        self.lines = text.splitlines()
        try:
            held = json.loads(text)
        except (ValueError, RecursionError) as error:
            self.error = f"{RESULT} does not parse: {error}"
            return
        if isinstance(held, dict):
            self.held = held
        else:
            self.error = f"{RESULT} holds no object"

    def number(self, *path: str) -> float | None:
        """A finite number at a path of keys."""
        at: Any = self.held
        for key in path:
            at = at.get(key) if isinstance(at, dict) else None
        real = isinstance(at, (int, float)) and not isinstance(at, bool) and math.isfinite(at)
        return float(at) if real else None

    def at(self, *keys: str) -> tuple[Evidence, ...]:
        """The lines that name keys."""
        found = []
        for key in keys:
            for i, line in enumerate(self.lines, 1):
                if f'"{key}"' in line:
                    found.append(Evidence(RESULT, i, line.strip()[:240]))
                    break
        return tuple(found)


def judge_run(folder: Folder, missing: Missing) -> list[RuleFinding]:
    """Findings on a run folder."""
    files = {f.path: f for f in folder.files}
    result = ResultFile(files.get(RESULT))
    if result.error:
        where = (Evidence(RESULT if RESULT in files else folder.path, 0, ""),)
        text = result.error[:1].upper() + result.error[1:]
        return [RuleFinding("package", UNVERIFIABLE, f"{text}. Run it again, or resume it.", where)]
    text_log = files[LOG].read() if LOG in files else None
    log = read_log(LOG, text_of(text_log)) if text_log is not None else None
    found = [*_package(files, result), *_budgets(result, files.get(ARTIFACT)), *_score(result)]
    found += [*_agreement(result, log, files.get(ARTIFACT), missing), *_leak(result, missing)]
    missing.add("seeds: one run is no record; `pargolf seeds` makes three, `pargolf submit` a submission of them")
    missing.add(f"causality and normalization: `pargolf probe RUN/{ARTIFACT}` asks the artifact itself")
    return found


def _package(files: dict[str, File], result: ResultFile) -> Iterator[RuleFinding]:
    lacking = [name for name in (ARTIFACT, LOG, "tokenizer.model") if name not in files]
    if result.held.get("interrupted"):
        yield RuleFinding(
            "package", HOLD, "Training was interrupted; the numbers are of a part of it.", result.at("interrupted")
        )
    if lacking:
        text = f"The run folder lacks {' and '.join(lacking)}: what they would show is not checked."
        yield RuleFinding("package", UNVERIFIABLE, text, (Evidence(RESULT, 0, ""),))
    elif not result.held.get("interrupted"):
        yield RuleFinding("package", PASS, "Result, recipe, log, artifact and tokenizer are there.")


def _budgets(result: ResultFile, artifact: File | None) -> Iterator[RuleFinding]:
    cap, total = result.number("budget", "bytes"), result.number("bytes", "total")
    code = result.number("bytes", "code")
    if cap is None or total is None or code is None:
        yield RuleFinding("size_cap", UNVERIFIABLE, f"{RESULT} gives no bytes or no cap.", result.at("bytes"))
    else:
        weighed = max(total, artifact.size + code) if artifact is not None else total
        over = weighed > cap
        text = f"{weighed:,.0f} bytes of {cap:,.0f}" + (f", over the cap by {weighed - cap:,.0f}." if over else ".")
        numbers = {"cap": cap, "bytes": weighed}
        yield RuleFinding("size_cap", FAIL if over else PASS, text, result.at("total", "cap"), numbers)
    for rule, key, doing in (("train_time", "train_seconds", "Training"), ("eval_time", "eval_seconds", "Scoring")):
        limit, took = result.number("budget", key), result.number(key)
        if took is None:
            yield RuleFinding(rule, UNVERIFIABLE, f"{RESULT} does not say how long it took.", result.at("budget"))
        elif limit is not None:
            late = took > limit + _SLACK_SECONDS
            text = f"{doing} took {took:.1f} s of {limit:g}" + (", which is too long." if late else ".")
            yield RuleFinding(rule, FAIL if late else PASS, text, result.at(key), {"limit": limit, "seconds": took})


def _score(result: ResultFile) -> Iterator[RuleFinding]:
    """The score over every token once, and over the bytes that were proved."""
    loss, bpb = result.number("val_loss"), result.number("val_bpb")
    tokens, size = result.number("val_tokens"), result.number("val_bytes")
    if not bpb or not loss or not tokens or not size:
        yield RuleFinding(
            "byte_denominator", UNVERIFIABLE, f"{RESULT} gives no score with its bytes.", result.at("val_bpb")
        )
    else:
        ratio, proved = loss / bpb, math.log(2) * size / tokens
        numbers = {"loss": loss, "bpb": bpb, "ratio": round(ratio, 6), "own_ratio": round(proved, 6)}
        if abs(ratio / proved - 1) < 1e-6:
            text = f"Loss / bpb is {ratio:.4f}, as {tokens:,.0f} tokens of {size:,.0f} bytes give."
            yield RuleFinding("byte_denominator", PASS, text, result.at("val_bytes"), numbers)
        else:
            text = f"Loss / bpb is {ratio:.4f}; {tokens:,.0f} tokens of {size:,.0f} bytes give {proved:.4f}."
            numbers["corrected_bpb"] = round(loss / proved, 6)
            yield RuleFinding("byte_denominator", FAIL, text, result.at("val_bpb", "val_bytes"), numbers)
    grades, where = result.held.get("grades_per_position"), result.at("grades_per_position", "complete")
    if grades == [1, 1]:
        yield RuleFinding("two_pass", PASS, "Every position was graded exactly once.")
    elif isinstance(grades, list) and len(grades) == 2 and grades[1] == 1:
        text = "Some positions were not graded in time: the score is over the others."
        yield RuleFinding("two_pass", UNVERIFIABLE, text, where)
    else:
        text = f"Positions were graded {grades} times at least and at most; a score counts each once (#1017 C4)."
        yield RuleFinding("two_pass", SUSPECT, text, where)
    if result.held.get("legal") is False:
        yield RuleFinding(
            "ttt_order",
            SUSPECT,
            "The run itself says that its windows or its adapter break the rules.",
            result.at("legal"),
        )


def _agreement(result: ResultFile, log: Log | None, artifact: File | None, missing: Missing) -> Iterator[RuleFinding]:
    """Result, log and artifact speak of one run."""
    wrong = [*_log_against(result, log)] if log is not None else []
    data = artifact.read() if artifact is not None else None
    stated = result.held.get("artifact_sha256")
    if data is None or not isinstance(stated, str):
        missing.add(f"consistency: {ARTIFACT} could not be held against the hash of what was scored")
    elif hashlib.sha256(data).hexdigest() != stated:
        wrong.append(
            (
                FAIL,
                f"{ARTIFACT} is not the artifact that was scored: its SHA-256 differs.",
                result.at("artifact_sha256"),
            )
        )
    for status, text, where in wrong:
        yield RuleFinding("consistency", status, text, where)
    if not wrong:
        yield RuleFinding("consistency", PASS, "Result, log and artifact agree.")


def _log_against(result: ResultFile, log: Log) -> Iterator[tuple[str, str, tuple[Evidence, ...]]]:
    bpb, total, final = result.number("val_bpb"), result.number("bytes", "total"), log.final
    if final is None:
        yield UNVERIFIABLE, f"{LOG} prints no final score.", (Evidence(LOG, 0, ""),)
    elif bpb is not None and abs(final.bpb - bpb) > 0.6 * 10.0**-final.digits:
        shown = Evidence(LOG, final.line.number, final.line.text)
        yield SUSPECT, f"{RESULT} says {bpb:.6f} bits per byte, the log {final.bpb:g}.", (*result.at("val_bpb"), shown)
    if total is not None and log.total is not None and log.total.value != total:
        shown = Evidence(LOG, log.total.line.number, log.total.line.text)
        yield (
            SUSPECT,
            f"{RESULT} says {total:,.0f} bytes, the log {log.total.value:,.0f}.",
            (*result.at("total"), shown),
        )
    said = re.search(r"digest:(\w+)", "\n".join(line.text for line in log.lines[:40]))
    digest = result.held.get("digest")
    if said and isinstance(digest, str) and said[1] != digest:
        yield SUSPECT, f"The log is of recipe {said[1]}, {RESULT} of {digest}.", result.at("digest")
    if log.seeds and result.number("seed") is not None and str(result.held["seed"]) not in log.seeds:
        yield SUSPECT, f"The log is of seed {log.seeds[0]}, {RESULT} of {result.held['seed']}.", result.at("seed")


def _leak(result: ResultFile, missing: Missing) -> Iterator[RuleFinding]:
    overlap = result.held.get("overlap")
    copied = result.number("overlap", "copied_documents")
    if not isinstance(overlap, dict) or not overlap.get("checked") or copied is None:
        missing.add("split_overlap: the run did not compare validation documents with the training text")
    elif copied:
        text = f"{copied:,.0f} validation document(s) stand in the training text as well."
        yield RuleFinding("split_overlap", FAIL, text, result.at("copied_documents"), {"copied": copied})
    else:
        yield RuleFinding(
            "split_overlap", PASS, "No validation document stands in the training text.", result.at("copied_documents")
        )
