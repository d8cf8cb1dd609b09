"""Run a fixed sample of heads in the black box, and count those that reach their own printed score.

Heads are taken in the order of the SHA-256 of "blackbox N", where N is the pull request's number, so the sample is the
same for everybody. A head is in the sample if its model builds in the sandbox. Seconds are processor seconds, because
on a busy machine wall time would also count other processes. Results are stored in a file, line by line, and not
computed again.
"""

import hashlib
import json
import re
import statistics
from collections import Counter
from pathlib import Path

from pargolf.audit.blackbox.findings import Runs
from pargolf.audit.blackbox.laws import laws, reported
from pargolf.audit.blackbox.passes import Reading
from pargolf.audit.blackbox.texts import corpus
from pargolf.audit.blackbox.trial import SECONDS, Trial
from pargolf.audit.read.facts import Facts, read_facts
from pargolf.audit.read.repository import Repository
from pargolf.audit.sandbox.run import try_script

WALL = 1800.0  # wall seconds; the limit that matters here is in processor seconds


def in_order(numbers: list[int]) -> list[int]:
    return sorted(numbers, key=lambda number: hashlib.sha256(f"blackbox {number}".encode()).hexdigest())


def print_sample(repo: str, size: int, path: Path, *, every_text: bool) -> None:
    """Try heads until `size` of them build, or read earlier results from `path`; then print the table."""
    earlier = {row["pr"]: row for row in map(json.loads, path.read_text().splitlines())} if path.exists() else {}
    rows = []
    with Repository(repo) as repository:
        for number in in_order(list(repository.pulls())):
            row = earlier.get(number) or tried(repository, number, every_text=every_text)
            if number not in earlier:
                with path.open("a") as file:
                    file.write(json.dumps(row) + "\n")
            rows += [row] if row["builds"] else []
            if len(rows) == size:
                break
    print_rows(rows)


def tried(repository: Repository, number: int, *, every_text: bool) -> dict:
    folders = repository.submission(f"refs/pull/{number}/head", target=str(number)).folders
    facts = read_facts(folders[0]) if folders else None
    code = facts.main if facts is not None else None
    row: dict = {"pr": number, "builds": False}
    if facts is None or code is None or code.tree is None or "torch" not in code.text:
        return row
    siblings = {c.path: c.text for c in facts.codes if c is not code and c.tree is not None}
    row |= reached(facts, siblings, every_text=every_text)
    builds = row["reached"] or "model" in try_script(code, siblings=siblings, env=facts.environment, seconds=int(WALL))
    return row | {"builds": builds}


def reached(facts: Facts, siblings: dict[str, str], *, every_text: bool) -> dict:
    assert facts.main is not None
    trial = Trial(facts.main, siblings, facts.environment, wall=WALL)
    traces = []
    for text in corpus().texts if every_text else corpus().texts[:1]:
        traces.append(trial.run(text))
        if not Reading(traces[0]).scores:
            break
    readings = [Reading(trace) for trace in traces]
    end = traces[0].end
    row = {"reached": bool(readings[0].scores) and not traces[0].error, "error": traces[0].error}
    row |= {"seconds": end.seconds if end is not None else float(SECONDS), "scores": len(readings[0].scores)}
    runs = Runs(tuple(traces), tuple(r for r in map(reported, readings) if r is not None))
    if len(runs.reports) == len(corpus().texts):
        row["laws"] = {law.law: law.holds for law in laws(runs.reports)}
    return row


def print_rows(rows: list[dict]) -> None:
    done = [row for row in rows if row["reached"]]
    seconds = [row["seconds"] for row in done] or [0.0]
    print(
        f"of {len(rows)} heads whose model builds, {len(done)} reach their printed score ({len(done) / len(rows):.0%})"
    )
    print(f"processor seconds of a run: median {statistics.median(seconds):.1f}, most {max(seconds):.1f}")
    reasons = Counter(_short(row["error"]) for row in rows if not row["reached"])
    for reason, count in reasons.most_common():
        numbers = [row["pr"] for row in rows if not row["reached"] and _short(row["error"]) == reason]
        print(f"{count:>4}  {reason or 'it printed no score'}  {' '.join(f'#{n}' for n in numbers[:8])}")
    rulings = [row["laws"] for row in done if "laws" in row]
    for law in rulings[0] if rulings else ():
        counts = Counter(str(ruling[law]) for ruling in rulings)
        words = {"True": "kept", "False": "broken", "None": "not asked"}
        print(f"{law:14}" + ", ".join(f"{words[outcome]} {count}" for outcome, count in sorted(counts.items())))
    print("sample:", " ".join(f"#{row['pr']}" for row in rows))


def _short(error: str) -> str:
    return re.sub(r"\(line \d+\)|'[^']*'|\d+", "", error)[:90]
